//! Calls of the past: read again from the PBX, compared with what the state knows, shipped where they are missing.
//!
//! [`compare`] decides how a call stands and changes nothing; `backfill` is the job the agent runs beside its live work.
//! A call belongs to a span of time when it began in it: its rows before and after are read too.

pub mod backfill;
pub mod compare;
pub mod walk;

use serde::{Deserialize, Serialize};

use crate::call::Timestamp;

/// Calls that began at or after `from` and before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
}

impl Span {
    pub fn holds(&self, moment: Timestamp) -> bool {
        (self.from..self.to).contains(&moment)
    }
}
