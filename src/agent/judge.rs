//! Whether a group is to be settled now, and why, or when to look again. Pure: what is known of the group, the marks and
//! the database's moment come in as data.

use compact_str::CompactString;

use super::marks::{MarkBook, Marked};
use super::picture::{Open, Reread};
use crate::call::Timestamp;
use crate::correlate::completion::{Grace, Progress, Verdict};

/// When a group is to be settled.
#[derive(Clone, Debug)]
pub struct Policy {
    pub grace: Grace,
    /// A call that never ended is shipped as it is after this long, microseconds of database time.
    pub max_age: i64,
    /// A group with more rows than this is shipped as it is and frozen.
    pub rows_max: usize,
    /// Rows kept in memory, over all groups.
    pub cached_rows_max: usize,
    /// What is told of calls that are up; `None`: nothing.
    pub updates: Option<Updates>,
}

/// When a call that is up is told. Microseconds; between documents, of the agent's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Updates {
    /// Whenever something worth telling changed.
    pub changes: bool,
    /// Between two documents of one call.
    pub pause: i64,
    /// A call that is up this long is told whether something changed or not, and again each time it has passed.
    pub every: Option<i64>,
}

/// Why a group is settled now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Every channel has ended, and the grace is over.
    Complete,
    /// The PBX restarted at this moment, while the call was up.
    Restart(Timestamp),
    /// It never ended within the absolute cap.
    Timeout,
    /// It has more rows than a call can have.
    TooLarge,
    /// Its call was frozen before: the rows are counted and dropped.
    Frozen,
    /// Its call was read again whole.
    Reread,
    /// A nailed-up channel holds it together: it has to be split before it can be judged.
    Nailed,
}

/// A group of a nailed-up channel holds many calls: it may be this much larger than one.
const NAILED_CALLS: usize = 8;
/// Between two splits of such a group, in database time.
const NAILED_SPLIT_MICROS: i64 = 5_000_000;

impl Open {
    /// A channel of it may be nailed up: it has to be split before it is judged.
    pub fn has_nailed_up(&self) -> bool {
        self.nailed_for_good || self.progress.has_nailed_up()
    }

    /// Whether this is one call, known to be up, of which all rows are here.
    pub fn is_up(&self, policy: &Policy) -> bool {
        self.end.is_none()
            && !self.frozen
            && !self.aside
            && self.reread == Reread::No
            && !self.has_nailed_up()
            && self.progress.verdict(&policy.grace) == Verdict::Open
    }

    /// Why it is to be settled now, or when to look again.
    pub(super) fn judge(
        &self,
        policy: &Policy,
        marks: &MarkBook,
        horizon: Timestamp,
        keys: impl FnOnce() -> Vec<(CompactString, bool)>,
    ) -> (Option<End>, Option<Timestamp>) {
        if self.frozen {
            return (Some(End::Frozen), None);
        }
        if self.aside {
            return (None, None);
        }
        match self.reread {
            Reread::Waits(_) => return (None, None),
            Reread::Done => return (Some(End::Reread), None),
            Reread::No | Reread::Whole => {}
        }
        let nailed = self.has_nailed_up();
        if self.rows.len() > policy.rows_max.saturating_mul(if nailed { NAILED_CALLS } else { 1 }) {
            return (Some(End::TooLarge), None);
        }
        if nailed {
            // splitting is work for all of its rows: once in a while is enough
            let at = self.split_at.map_or(Timestamp::default(), |t| t.plus_micros(NAILED_SPLIT_MICROS));
            return if horizon >= at { (Some(End::Nailed), None) } else { (None, Some(at)) };
        }
        let marked = if marks.is_empty() { Marked::default() } else { marks.of(keys().iter().map(|(id, _)| id)) };
        end_of(&self.progress, self.arrived, marked, policy, marks, horizon)
    }
}

/// The same for rows that are known to be of one call.
pub fn end_of(
    progress: &Progress,
    arrived: Option<Timestamp>,
    marked: Marked,
    policy: &Policy,
    marks: &MarkBook,
    horizon: Timestamp,
) -> (Option<End>, Option<Timestamp>) {
    let (newest, oldest) = progress.span().unwrap_or_default();
    match progress.verdict(&policy.grace) {
        Verdict::EndsAt(at) => {
            let wait = at.micros().saturating_sub(newest.micros());
            if wait <= 0 {
                return (Some(End::Complete), None);
            }
            // a PBX whose clock is ahead of its database's must not hold its calls back
            let ended = arrived.map_or(newest, |a| newest.min(a));
            let at = ended.plus_micros(wait);
            if at <= horizon { (Some(End::Complete), None) } else { (None, Some(at)) }
        }
        Verdict::Open => {
            if let Some(at) = marked.restart.filter(|at| newest < *at) {
                return (Some(End::Restart(at)), None);
            }
            if let Some(at) = marks.restart_closing(progress, horizon.plus_micros(-policy.grace.quiet)) {
                return (Some(End::Restart(at)), None);
            }
            // a call that was shipped as it is stays open; it is shipped again at most once in that time
            let since = marked.timeout.map_or(oldest, |t| t.max(oldest));
            let at = since.plus_micros(policy.max_age);
            if at <= horizon { (Some(End::Timeout), None) } else { (None, Some(at)) }
        }
    }
}
