//! Which calls a deployment does not want shipped. Nothing is filtered unless a setting says so; a call that is kept
//! back is known to the ledger all the same.

use serde::{Deserialize, Serialize};

use super::shape::glob;
use super::{CallRows, Rules};
use crate::call::{CelEvent, Content, Direction, LegRole};

/// What to keep back. Empty by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filters {
    /// Calls that never left or entered the PBX.
    pub internal: bool,
    /// Calls that lasted less, milliseconds; one whose length is not known is kept.
    pub min_duration_ms: Option<i64>,
    /// Globs on the dialled number and the DID.
    pub destinations: Vec<String>,
    /// Globs on the context the caller began in.
    pub contexts: Vec<String>,
}

/// The filter that keeps a call back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suppressed {
    Internal,
    TooShort,
    Destination,
    Context,
}

impl Suppressed {
    /// As a metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::TooShort => "min_duration",
            Self::Destination => "destination",
            Self::Context => "context",
        }
    }

    /// The setting behind it.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Internal => "FILTER_INTERNAL",
            Self::TooShort => "FILTER_MIN_DURATION",
            Self::Destination => "FILTER_EXCLUDE_DST",
            Self::Context => "FILTER_EXCLUDE_CONTEXTS",
        }
    }
}

/// Whether the filters keep this call back: the first that does.
pub fn suppressed(rows: &CallRows, rules: &Rules, content: &Content) -> Option<Suppressed> {
    let filters = &rules.filters;
    if filters.internal && content.direction == Direction::Internal {
        return Some(Suppressed::Internal);
    }
    if let (Some(min), Some(duration)) = (filters.min_duration_ms, content.duration_s)
        && duration.millis() < min
    {
        return Some(Suppressed::TooShort);
    }
    let numbers = || [&content.to.number, &content.did].into_iter().flatten();
    if filters.destinations.iter().any(|p| numbers().any(|n| glob(p, n))) {
        return Some(Suppressed::Destination);
    }
    if filters.contexts.is_empty() {
        return None;
    }
    let excluded = |context: &str| !context.is_empty() && filters.contexts.iter().any(|p| glob(p, context));
    begun_in(rows, content).is_some_and(excluded).then_some(Suppressed::Context)
}

/// The context the caller's channel began in; of a call without events, that of its record.
fn begun_in<'r>(rows: &'r CallRows, content: &Content) -> Option<&'r str> {
    let caller = content.legs.iter().find(|l| l.role == LegRole::Caller)?.uniqueid.as_deref()?;
    let own = rows.cel.iter().filter(|r| r.uniqueid == caller);
    let start = own.clone().filter(|r| r.event == CelEvent::ChanStart).min();
    let start = start.or_else(|| own.min_by(|a, b| a.time.cmp(&b.time).then_with(|| a.cmp(b))));
    let records = || rows.cdr.iter().filter(|r| r.uniqueid == caller);
    let record = || records().min_by(|a, b| (a.start, a.sequence).cmp(&(b.start, b.sequence)).then_with(|| a.cmp(b)));
    start.map(|r| r.context.as_str()).or_else(|| record().map(|r| r.dcontext.as_str()))
}
