//! The contract: what a call is, and what a row of a PBX is. No I/O, no clock, no rules.
//!
//! Everything else speaks in these types: sources make rows, `correlate` makes a [`Call`] of them, sinks render it.

mod document;
mod recording;
mod row;
mod text;
mod time;

pub use document::*;
pub use recording::*;
pub use row::*;
pub use text::RareText;
pub use time::*;
