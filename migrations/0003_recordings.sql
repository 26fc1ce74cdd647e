-- Recordings that were found beside the rows of a call: in the PBX's recordings table, or as files. Data like rows:
-- written once each, read when their call is built.
CREATE TABLE recording (
    recording  INTEGER PRIMARY KEY,
    -- the id inside `owner` without systemname: epoch.counter
    key        TEXT NOT NULL,
    -- a linkedid or uniqueid, or the file name it stands in
    owner      TEXT NOT NULL,
    file       TEXT NOT NULL,
    path       TEXT,
    size       INTEGER,
    started_at INTEGER,
    -- db, name
    matched_by TEXT NOT NULL,
    -- the call whose last build knew it as it is; NULL: none yet
    call       INTEGER REFERENCES ledger (call) ON DELETE CASCADE,
    found_at   INTEGER NOT NULL,
    -- 1: was looked at for sending
    queued     INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX recording_place ON recording (key, matched_by, coalesce(path, file));
CREATE INDEX recording_waiting ON recording (recording) WHERE call IS NULL;
CREATE INDEX recording_call ON recording (call) WHERE call IS NOT NULL;
CREATE INDEX recording_unqueued ON recording (recording) WHERE call IS NOT NULL AND matched_by = 'name' AND queued = 0;
CREATE INDEX recording_named ON recording (file) WHERE matched_by = 'db';

-- Recording files on their way to the API. state: 0 pending, 1 delivered, 2 dead. One a file, whatever its call's revision.
CREATE TABLE upload (
    recording   INTEGER PRIMARY KEY REFERENCES recording (recording) ON DELETE CASCADE,
    state       INTEGER NOT NULL DEFAULT 0,
    due_at      INTEGER NOT NULL,
    attempts    INTEGER NOT NULL DEFAULT 0,
    queued_at   INTEGER NOT NULL,
    finished_at INTEGER,
    last_error  TEXT
) STRICT;
CREATE INDEX upload_due ON upload (due_at) WHERE state = 0;
