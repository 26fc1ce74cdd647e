-- The journal's numbers are handed out once a batch, from meta's `journal_next`: AUTOINCREMENT writes a table of its own
-- at every row. They are still never used twice, though the newest rows may have left.
INSERT INTO meta (key, value)
    SELECT 'journal_next', CAST(seq + 1 AS TEXT) FROM sqlite_sequence WHERE name = 'journal'
    ON CONFLICT DO NOTHING;

CREATE TABLE journal_rows (
    seq        INTEGER PRIMARY KEY,
    tbl        INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    place      BLOB NOT NULL,
    body       TEXT NOT NULL,
    arrived_at INTEGER NOT NULL
) STRICT;
INSERT INTO journal_rows SELECT seq, tbl, generation, place, body, arrived_at FROM journal ORDER BY seq;
DROP TABLE journal;
ALTER TABLE journal_rows RENAME TO journal;
-- CEL rows, the most, at its end: there a row goes in without pages being divided.
CREATE UNIQUE INDEX journal_place ON journal (tbl DESC, generation, place);
