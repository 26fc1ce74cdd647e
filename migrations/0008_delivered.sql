-- Sinks that got a call's newest revision, as JSON: written when its deliveries are let go, so that it is known later who
-- has it. NULL: none of its deliveries were let go, or an older version did.
ALTER TABLE ledger ADD COLUMN delivered TEXT;
