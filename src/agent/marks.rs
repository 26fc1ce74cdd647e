//! What was decided once about calls and not by their rows: closed by a restart of the PBX, shipped before they ended,
//! rows known to be missing. Kept in the state; all of it is small and stays in memory.

use std::collections::HashMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use crate::call::{Row, Timestamp};
use crate::correlate::completion::{Progress, RestartSign, RestartWatch};
use crate::correlate::ids::Id;
use crate::correlate::{Marks, Zone};
use crate::store::ledger::{MARK_GAP, MARK_NAILED, MARK_NAILED_FOR_GOOD, MARK_RESTART, MARK_TIMEOUT, MARK_UNBUILT};

/// The marks of one linkedid, or of all linkedids of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// The restart that closed it.
    pub restart: Option<Timestamp>,
    /// When it was shipped as it is, in database time.
    pub timeout: Option<Timestamp>,
    pub gap: bool,
    /// The linkedid of a nailed-up channel: it unites nothing.
    pub nailed: bool,
    /// The same, though rows that told so were forgotten.
    pub nailed_for_good: bool,
    /// It could not be built.
    pub unbuilt: bool,
}

impl Marked {
    fn with(self, other: Self) -> Self {
        Self {
            restart: self.restart.max(other.restart),
            timeout: self.timeout.max(other.timeout),
            gap: self.gap || other.gap,
            nailed: self.nailed || other.nailed,
            nailed_for_good: self.nailed_for_good || other.nailed_for_good,
            unbuilt: self.unbuilt || other.unbuilt,
        }
    }

    /// As the correlator takes them.
    pub const fn marks(self) -> Marks {
        Marks { pbx_restart: self.restart.is_some(), timeout: self.timeout.is_some(), source_gap: self.gap }
    }
}

/// How many restarts are remembered for groups that come late.
const RESTARTS_MAX: usize = 32;
/// How many moments at which ids were given up.
const GAPS_MAX: usize = 32;

/// The watch for restarts with what it has found, and when rows were found missing, as kept in the state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    watch: RestartWatch,
    /// (systemname, moment), the newest last.
    found: Vec<(String, Timestamp)>,
    /// When ids were given up, in database time, the newest last.
    #[serde(default)]
    gaps: Vec<Timestamp>,
}

impl Restarts {
    /// PBXs that share a table without systemname.
    pub fn switched_off(&self) -> Vec<String> {
        self.watch.switched_off().map(str::to_owned).collect()
    }
}

/// All marks.
#[derive(Debug, Default)]
pub struct MarkBook {
    marks: HashMap<CompactString, Marked>,
    /// Some of them are nailed up for good.
    any_for_good: bool,
    pub restarts: Restarts,
}

impl MarkBook {
    pub fn new(marks: Vec<(CompactString, String, Timestamp)>, restarts: Restarts) -> Self {
        let mut book = Self { restarts, ..Self::default() };
        for (linkedid, kind, at) in marks {
            book.set(&linkedid, &kind, at);
        }
        book
    }

    pub fn set(&mut self, linkedid: &str, kind: &str, at: Timestamp) {
        let marked = self.marks.entry(linkedid.into()).or_default();
        match kind {
            MARK_RESTART => marked.restart = Some(at),
            MARK_TIMEOUT => marked.timeout = Some(at),
            MARK_GAP => marked.gap = true,
            MARK_NAILED => marked.nailed = true,
            MARK_NAILED_FOR_GOOD => {
                (marked.nailed, marked.nailed_for_good) = (true, true);
                self.any_for_good = true;
            }
            MARK_UNBUILT => marked.unbuilt = true,
            _ => {}
        }
    }

    pub fn clear(&mut self, linkedid: &str, kind: &str) {
        let Some(marked) = self.marks.get_mut(linkedid) else { return };
        match kind {
            MARK_RESTART => marked.restart = None,
            MARK_TIMEOUT => marked.timeout = None,
            MARK_GAP => marked.gap = false,
            MARK_UNBUILT => marked.unbuilt = false,
            _ => {}
        }
        if *marked == Marked::default() {
            self.marks.remove(linkedid);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// What is marked about a call with these linkedids. (Uniqueids that are given too do no harm.)
    pub fn of<'a>(&self, linkedids: impl Iterator<Item = &'a CompactString>) -> Marked {
        linkedids.filter_map(|id| self.marks.get(id)).fold(Marked::default(), |a, b| a.with(*b))
    }

    pub fn is_nailed(&self, linkedid: &str) -> bool {
        self.marks.get(linkedid).is_some_and(|m| m.nailed)
    }

    /// Whether a channel of this id is nailed up, whatever its rows tell.
    pub fn is_nailed_for_good(&self, id: &str) -> bool {
        self.any_for_good && self.marks.get(id).is_some_and(|m| m.nailed_for_good)
    }

    /// Whether there is any such.
    pub fn any_nailed_for_good(&self) -> bool {
        self.any_for_good
    }

    /// Watches a row for the restart of its PBX.
    pub fn watch(&mut self, row: &Row, zone: &Zone) -> Option<RestartSign> {
        let sign = self.restarts.watch.observe(row, zone)?;
        match &sign {
            RestartSign::Restarted { systemname, at } => {
                self.restarts.found.push((systemname.clone(), *at));
                if self.restarts.found.len() > RESTARTS_MAX {
                    self.restarts.found.remove(0);
                }
            }
            RestartSign::Withdrawn { systemname, .. } => self.restarts.found.retain(|(name, _)| name != systemname),
        }
        Some(sign)
    }

    /// Rows are known to be missing: their ids were given up at this moment.
    pub fn gave_up(&mut self, at: Timestamp) {
        if self.restarts.gaps.len() >= GAPS_MAX {
            self.restarts.gaps.remove(0);
        }
        self.restarts.gaps.push(at);
    }

    /// Whether rows are known to be missing that were written at or after `from`.
    pub fn gap_since(&self, from: Timestamp) -> bool {
        self.restarts.gaps.last().is_some_and(|at| *at >= from)
    }

    /// The first restart, no later than `until`, that closed an open group.
    pub fn restart_closing(&self, progress: &Progress, until: Timestamp) -> Option<Timestamp> {
        let found =
            self.restarts.found.iter().filter(|(name, at)| *at <= until && progress.closed_by_restart(name, *at));
        found.map(|(_, at)| *at).min()
    }

    /// Whether a restart lies after `from` and no later than `to`.
    pub fn restart_between(&self, from: Timestamp, to: Timestamp) -> bool {
        self.restarts.found.iter().any(|(_, at)| from < *at && *at <= to)
    }

    /// Linkedids whose calls were shipped before they had ended, and whose PBX has restarted since they began.
    pub fn timed_out_over_restart(&self) -> Vec<CompactString> {
        let restarted = |id: &Id| {
            let since = Timestamp::from_secs(id.epoch);
            self.restarts.found.iter().any(|(name, at)| id.systemname == name && since < *at)
        };
        let timed_out = self.marks.iter().filter(|(_, m)| m.timeout.is_some()).map(|(id, _)| id);
        let mut all: Vec<_> = timed_out.filter(|id| Id::parse(id).is_some_and(|id| restarted(&id))).cloned().collect();
        all.sort_unstable();
        all
    }

    /// Linkedids that the restart at this moment closed.
    pub fn closed_by(&self, at: Timestamp) -> Vec<CompactString> {
        self.marks.iter().filter(|(_, m)| m.restart == Some(at)).map(|(id, _)| id.clone()).collect()
    }
}
