-- Sinks that never got a call's newest revision, as JSON: written when its deliveries are let go. NULL: all of them did.
ALTER TABLE ledger ADD COLUMN undelivered TEXT;
