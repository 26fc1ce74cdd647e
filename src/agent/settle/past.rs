//! Calls of the past, read again whole: they take the same way through journal, ledger and outbox as live ones, but nothing
//! of what is known of the present (the horizon, the watch for restarts) follows from them.

use std::collections::HashSet;

use compact_str::CompactString;

use super::{Outcome, Settler};
use crate::call::Timestamp;
use crate::correlate::Zone;
use crate::source::Batch;
use crate::store::fold::HeldRow;
use crate::store::ledger::Entry;
use crate::store::{Result, journal};

/// Whole calls that are to be shipped.
#[derive(Clone, Debug)]
pub struct Past {
    /// Their rows; positions and the like are not looked at.
    pub batch: Batch,
    /// Though they were shipped, and did not change.
    pub resend: bool,
    /// The database's clock when they were read.
    pub db_now: Timestamp,
    /// The zone of their readings, for a state that knows none yet.
    pub zone: Zone,
}

/// Why a group is shipped that would not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    #[default]
    No,
    /// It was asked for: however old it is.
    Missing,
    /// And again, by the rules of now.
    Again,
}

impl Settler {
    /// Stores whole calls of the past and settles them.
    pub fn take_past(&mut self, past: Past, now: Timestamp) -> Result<Outcome> {
        let done = self.try_past(past, now);
        if done.is_err() {
            self.stale = true;
        }
        done
    }

    fn try_past(&mut self, past: Past, now: Timestamp) -> Result<Outcome> {
        let Past { batch, resend, db_now, zone } = past;
        if self.zones.is_empty() {
            self.learn_zone(zone)?;
        }
        let Some(zone) = self.zones.last().cloned() else { return Ok(Outcome::default()) };
        let linkedids: HashSet<CompactString> =
            batch.rows.iter().map(|r| CompactString::new(r.row.linkedid())).collect();
        let known = linkedids.clone();
        let (batch, seqs) = self.store.write_blocking(move |conn| {
            let seqs = journal::append(conn, &batch, &known, now)?;
            Ok((batch, seqs))
        })?;
        if self.stale {
            // the rows are in the journal
            self.load()?;
        } else {
            for (placed, seq) in batch.rows.into_iter().zip(seqs) {
                let Some(seq) = seq else { continue };
                let held = HeldRow { generation: placed.generation, row: placed.row };
                self.picture.take(seq, held, &zone, None, &self.setup.policy);
            }
            self.look_up(&zone)?;
        }
        let wanted = if resend { Wanted::Again } else { Wanted::Missing };
        let horizon = self.horizon.max(db_now);
        for group in self.picture.want(&linkedids, wanted) {
            self.picture.judge(group, &self.setup.policy, &self.book, horizon);
        }
        self.settle_all(now)
    }

    /// What the ledger knows of a call, as it counts for one that was asked for: one that was never told is built as it
    /// would be now, and so is one that is told again, which then differs from what was told.
    pub(super) fn as_wanted(&self, wanted: Wanted, entries: &mut [Entry]) {
        if wanted == Wanted::No {
            return;
        }
        let last = |len: usize| i64::try_from(len.saturating_sub(1)).unwrap_or_default();
        for entry in entries {
            let told = entry.state.is_told();
            if wanted == Wanted::Again || !told {
                (entry.zone, entry.rules) = (last(self.zones.len()), last(self.rules.len()));
            }
            if wanted == Wanted::Again && told {
                entry.hash = [0; 16];
            }
        }
    }
}
