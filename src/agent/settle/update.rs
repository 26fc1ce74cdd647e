//! What is told of calls that are up: documents of the same id and growing revisions, long before the call is settled. Its
//! rows stay in the journal; only ledger, keys and outbox learn of it, in one transaction.
//!
//! Nothing is told of a call that is in doubt: while history is read, while a nailed-up channel ties calls together, after
//! it was told as one that is over. Such a call is told when it has ended.

use std::collections::BTreeMap;

use super::plan::{Fetched, Plan, Planned, once_each};
use super::{CALLS_PER_TRANSACTION, Outcome, Settler, Wanted};
use crate::agent::compose::Stage;
use crate::agent::judge::Updates;
use crate::call::{CallState, Timestamp};
use crate::correlate::group::GroupId;
use crate::store::{Result, forgotten, ledger};

/// Whether a call is to be told now.
enum Look {
    /// Not before something comes.
    Wait,
    /// Not before this moment of the agent's clock.
    At(Timestamp),
    /// If it changed; `again`: also if not.
    Tell { again: bool },
}

impl Settler {
    /// Tells up to a transaction's worth of calls that are up. `now` is the agent's clock.
    pub(super) fn update(&mut self, now: Timestamp, outcome: &mut Outcome) -> Result<()> {
        let Some(updates) = self.setup.policy.updates.filter(|_| self.current) else { return Ok(()) };
        let looked_at = self.picture.to_look_at(now, CALLS_PER_TRANSACTION);
        outcome.more = looked_at.len() >= CALLS_PER_TRANSACTION;
        let mut tell: BTreeMap<GroupId, bool> = BTreeMap::new();
        for group in looked_at {
            match self.look(group, updates, now) {
                Look::Wait => self.picture.looked_at(group, None),
                Look::At(at) => self.picture.looked_at(group, Some(at)),
                Look::Tell { again } => {
                    tell.insert(group, again);
                }
            }
        }
        if tell.is_empty() {
            return Ok(());
        }
        let groups: Vec<GroupId> = tell.keys().copied().collect();
        let mut plan = Plan::default();
        for fetched in self.fetch(&groups)? {
            let again = tell.get(&fetched.group).copied().unwrap_or_default();
            self.plan_update(fetched, again, &mut plan)?;
        }
        let writes = self.decide(&mut plan)?;
        if !plan.aside.is_empty() {
            // one that is up and cannot be built is not over: its mark is enough, and its end is tried again
            let marks = std::mem::take(&mut plan.marks);
            self.store.write_blocking(move |conn| {
                marks.iter().try_for_each(|(linkedid, kind, at)| match at {
                    Some(at) => ledger::mark(conn, linkedid, kind, *at, now),
                    None => ledger::unmark(conn, linkedid, kind),
                })
            })?;
            plan.aside.iter().for_each(|group| self.picture.set_aside(*group));
        }
        if !writes.is_empty() {
            let sinks = self.setup.sinks.clone();
            let known = self.forgotten;
            let calls = self.store.write_blocking(move |conn| {
                forgotten::unchanged(conn, known)?;
                writes.iter().map(|settled| ledger::record(conn, settled, &sinks, now)).collect::<Result<Vec<_>>>()
            })?;
            for ((group, _), call) in plan.parts.iter().zip(calls) {
                self.picture.told(*group, call, now);
            }
        }
        for group in groups {
            let told_at = self.picture.get(group).and_then(|open| open.told_at);
            let next = told_at.zip(updates.every).map(|(told, every)| told.plus_micros(every));
            // what is due and could not be told waits for a change
            self.picture.looked_at(group, next.filter(|at| *at > now));
        }
        outcome.told += plan.outcome.told;
        outcome.merged += plan.outcome.merged;
        Ok(())
    }

    fn look(&self, group: GroupId, updates: Updates, now: Timestamp) -> Look {
        let policy = &self.setup.policy;
        let Some(open) = self.picture.get(group).filter(|open| open.is_up(policy)) else { return Look::Wait };
        let Some((newest, oldest)) = open.progress.span() else { return Look::Wait };
        if self.setup.frame.start_at.is_some_and(|t0| newest < t0) {
            // perhaps over for long, its end never logged
            return Look::Wait;
        }
        // how long it has been up is a matter of the database's clock
        let up = self.horizon.micros().saturating_sub(oldest.micros());
        let short_of = self.setup.frame.rules.filters.min_duration_ms.map_or(0, |min| min.saturating_mul(1_000) - up);
        if open.told_at.is_none() && short_of > 0 {
            // so far FILTER_MIN_DURATION would keep it back
            return Look::At(now.plus_micros(short_of.max(updates.pause)));
        }
        let next = updates.every.map(|every| match open.told_at {
            Some(told) => told.plus_micros(every),
            None => now.plus_micros(every.saturating_sub(up)),
        });
        let again = next.is_some_and(|at| at <= now);
        match next {
            _ if again || updates.changes => Look::Tell { again },
            Some(at) => Look::At(at),
            None => Look::Wait,
        }
    }

    fn plan_update(&mut self, fetched: Fetched, again: bool, plan: &mut Plan) -> Result<()> {
        let Fetched { group, rows, entries, .. } = fetched;
        let Some(open) = self.picture.get(group) else { return Ok(()) };
        let newest = open.progress.span().map(|(newest, _)| newest);
        let keys = self.keys(group, &rows);
        let (rows, _) = once_each(rows, &entries);
        let stage = Stage::Up { again };
        let Some(built) = self.build(rows, keys.clone(), &entries, newest, stage)? else {
            self.set_aside(group, &keys, plan);
            return Ok(());
        };
        if built.content.state == CallState::InProgress {
            plan.calls.push(Planned { group, built, entries, stage, part: false, wanted: Wanted::No });
        }
        Ok(())
    }
}
