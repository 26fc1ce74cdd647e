-- Recordings are sent under the same policy as calls: age on the API's up-clock, refusals, as in `delivery`.
ALTER TABLE upload ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE upload ADD COLUMN age INTEGER NOT NULL DEFAULT 0;
ALTER TABLE upload ADD COLUMN tried_up INTEGER;
CREATE INDEX upload_dead ON upload (recording) WHERE state = 2;
