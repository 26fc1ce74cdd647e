//! Faults of ours that concern one call: they must not end the agent, nor keep the other calls waiting.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::metrics;
use crate::store::Result;

/// Runs what is done for one call. `None`: it panicked (and that was printed where panics are).
///
/// Nothing it works on is used again: it takes its rows by value, and what it borrows it only reads.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    catch_unwind(AssertUnwindSafe(work)).ok().transpose()
}

/// Counts a call that was set aside and says what to do about it.
pub(super) fn tell_unbuilt(call: &str) {
    metrics::CALLS_UNBUILT.inc();
    tracing::error!(
        call = %crate::log::text(call),
        "this call cannot be built or recorded, by a fault of callferry's. It is set aside with its rows, the others go \
         on; it is tried again when more of its rows come and at each start. Please report it with what `callferry \
         explain` says of it"
    );
}
