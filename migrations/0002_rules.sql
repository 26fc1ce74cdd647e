-- The rules in force when a call was built first, as an index into meta's `rules`: a changed setting revises no call.
ALTER TABLE ledger ADD COLUMN rules INTEGER NOT NULL DEFAULT 0;
