-- The agent's state. Times are microseconds since 1970 UTC unless a name says otherwise.

-- Single values: source_id, created_at, the moment START_FROM was resolved to, zone offset in force …
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A place in a source, as JSON only that source reads. Written in the transaction that stores the rows it covers.
CREATE TABLE position (
    name       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Rows waiting for their call to end. (tbl, generation, place) is a row's identity; the journal refuses what it holds.
-- tbl: 0 CEL, 1 CDR. place: the row's id as 8 bytes big endian with the sign bit flipped, or a 16-byte content hash.
CREATE TABLE journal (
    -- never used twice, though the newest rows may have left
    seq        INTEGER PRIMARY KEY AUTOINCREMENT,
    tbl        INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    place      BLOB NOT NULL,
    body       TEXT NOT NULL,
    arrived_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX journal_place ON journal (tbl, generation, place);

-- Identity of rows that have no trustworthy id, kept after their call was shipped, so that reading a window again
-- finds them known; counted by minute of the row's time for the audit.
CREATE TABLE seen (
    place  BLOB PRIMARY KEY,
    tbl    INTEGER NOT NULL,
    minute INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_minute ON seen (tbl, minute);

-- How many rows of each block of 1,000 ids were read, for the audit of tables with an id.
CREATE TABLE id_block (
    tbl        INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    block      INTEGER NOT NULL,
    rows       INTEGER NOT NULL,
    PRIMARY KEY (tbl, generation, block)
) STRICT, WITHOUT ROWID;

-- Rows that could not be read, with the reason; capped in number by the store.
CREATE TABLE quarantine (
    seq        INTEGER PRIMARY KEY,
    tbl        INTEGER NOT NULL,
    reason     TEXT NOT NULL,
    body       TEXT NOT NULL,
    arrived_at INTEGER NOT NULL
) STRICT;

-- What is decided once about the calls of one linkedid (pbx_restart, timeout, source_gap, before_start), as JSON.
CREATE TABLE mark (
    linkedid   TEXT NOT NULL,
    kind       TEXT NOT NULL,
    value      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (linkedid, kind)
) STRICT, WITHOUT ROWID;

-- One row a call that was built at least once; kept long after its rows.
-- state: in_progress (told as one that is up, its rows are in the journal), shipped, before_start, merged (into merged_into),
-- suppressed. ended_at of one that is up is its newest event.
CREATE TABLE ledger (
    call         INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    revision     INTEGER NOT NULL,
    state        TEXT NOT NULL,
    content_hash BLOB NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER,
    merged_into  TEXT,
    supersedes   TEXT NOT NULL DEFAULT '[]',
    -- the row cap was reached: later rows are counted and dropped
    frozen       INTEGER NOT NULL DEFAULT 0,
    -- how many rows the last revision was built from: a call read again with fewer is a fragment
    rows         INTEGER NOT NULL DEFAULT 0,
    -- the zone in force when it was built first, as an index into meta's `zones`
    zone         INTEGER NOT NULL DEFAULT 0,
    updated_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX ledger_ended ON ledger (ended_at);

-- Every linkedid and uniqueid of a call in the ledger, so that a late row finds its call.
CREATE TABLE ledger_key (
    key      TEXT NOT NULL,
    -- 1: a linkedid, which the whole call can be read again by; 0: a uniqueid. Equal texts are not the same key
    linkedid INTEGER NOT NULL,
    call     INTEGER NOT NULL REFERENCES ledger (call) ON DELETE CASCADE,
    PRIMARY KEY (key, linkedid)
) STRICT, WITHOUT ROWID;
CREATE INDEX ledger_key_call ON ledger_key (call);

-- The rows of a built call, folded into one compressed blob (deflate of NDJSON), so that a late row can rebuild it.
CREATE TABLE folded (
    call      INTEGER PRIMARY KEY REFERENCES ledger (call) ON DELETE CASCADE,
    rows      INTEGER NOT NULL,
    body      BLOB NOT NULL,
    folded_at INTEGER NOT NULL
) STRICT;

-- The frozen document of one revision. rows: the rows it was built from, frozen with it for sinks that send them along
-- (deflate of JSON, `ship::rows`); NULL when no configured sink does, and again once they all have it.
CREATE TABLE document (
    doc        INTEGER PRIMARY KEY,
    call       INTEGER NOT NULL REFERENCES ledger (call) ON DELETE CASCADE,
    revision   INTEGER NOT NULL,
    body       TEXT NOT NULL,
    rows       BLOB,
    created_at INTEGER NOT NULL,
    UNIQUE (call, revision)
) STRICT;

-- One call to one sink in one revision. state: 0 pending, 1 delivered, 2 dead, 3 superseded before it was sent.
CREATE TABLE delivery (
    delivery      INTEGER PRIMARY KEY,
    sink          TEXT NOT NULL,
    call          INTEGER NOT NULL REFERENCES ledger (call) ON DELETE CASCADE,
    call_id       TEXT NOT NULL,
    revision      INTEGER NOT NULL,
    -- document.doc; not a foreign key, which would cost an index a delivery: both go with their ledger row
    doc           INTEGER NOT NULL,
    state         INTEGER NOT NULL DEFAULT 0,
    -- 1 from before the first byte is sent until the answer is recorded; set back when the agent starts
    flight        INTEGER NOT NULL DEFAULT 0,
    due_at        INTEGER NOT NULL,
    attempts      INTEGER NOT NULL DEFAULT 0,
    -- how often the sink refused this very document
    refused       INTEGER NOT NULL DEFAULT 0,
    -- how long this delivery was tried while its sink was neither paused nor behind an open breaker, microseconds
    age           INTEGER NOT NULL DEFAULT 0,
    -- the sink's up-clock (sink_state) at the last attempt, microseconds
    tried_up      INTEGER,
    queued_at     INTEGER NOT NULL,
    finished_at   INTEGER,
    -- the delivery that has to succeed first (a tombstone waits for its survivor)
    after         INTEGER,
    last_error    TEXT,
    -- the bytes as first rendered for this sink; NULL where they are the document's own
    body          BLOB,
    -- key of the batch this delivery was first sent in; membership is kept until answered
    batch         TEXT,
    UNIQUE (call, sink, revision)
) STRICT;
CREATE INDEX delivery_due ON delivery (sink, due_at, delivery) WHERE state = 0 AND flight = 0;
CREATE INDEX delivery_pending ON delivery (sink, delivery) WHERE state = 0;
CREATE INDEX delivery_batch ON delivery (sink, batch) WHERE state = 0 AND batch IS NOT NULL;
CREATE INDEX delivery_after ON delivery (after) WHERE state = 0 AND after IS NOT NULL;
CREATE INDEX delivery_dead ON delivery (sink, delivery) WHERE state = 2;

-- What is known of a sink: paused or open breaker, since when, why; as JSON the dispatcher reads.
CREATE TABLE sink_state (
    sink       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Wishes of commands, carried out by the agent that owns the state.
CREATE TABLE request (
    request    INTEGER PRIMARY KEY,
    kind       TEXT NOT NULL,
    argument   TEXT NOT NULL,
    state      TEXT NOT NULL DEFAULT 'new',
    answer     TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
