-- Wazo: no cdr; cel with text columns, moments, and a column that is updated long after the row was written.
CREATE TABLE cel (
  id serial PRIMARY KEY, eventtype text NOT NULL, eventtime timestamptz NOT NULL, userdeftype text NOT NULL DEFAULT '',
  cid_name text NOT NULL DEFAULT '', cid_num text NOT NULL DEFAULT '', cid_ani text NOT NULL DEFAULT '',
  cid_rdnis text NOT NULL DEFAULT '', cid_dnid text NOT NULL DEFAULT '', exten text NOT NULL DEFAULT '',
  context text NOT NULL DEFAULT '', channame text NOT NULL DEFAULT '', appname text NOT NULL DEFAULT '',
  appdata text NOT NULL DEFAULT '', amaflags int NOT NULL DEFAULT 3, accountcode text NOT NULL DEFAULT '',
  peeraccount text NOT NULL DEFAULT '', uniqueid text NOT NULL, linkedid text NOT NULL, userfield text NOT NULL DEFAULT '',
  peer text NOT NULL DEFAULT '', extra text NOT NULL DEFAULT '', call_log_id int
);
CREATE INDEX cel_eventtime ON cel (eventtime);
CREATE INDEX cel_linkedid ON cel (linkedid);
CREATE INDEX cel_uniqueid ON cel (uniqueid);
