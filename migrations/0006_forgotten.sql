-- What was forgotten on request, as keyed hashes (16 bytes of HMAC-SHA256; the key is in meta): so that it is known when it
-- is read again. kind 0: a linkedid or uniqueid, whose rows are dropped. 1: a number, which is dropped in rows older than
-- forgotten_at.
CREATE TABLE forgotten (
    hash         BLOB NOT NULL,
    kind         INTEGER NOT NULL,
    forgotten_at INTEGER NOT NULL,
    PRIMARY KEY (hash, kind)
) STRICT, WITHOUT ROWID;
