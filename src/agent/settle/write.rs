//! The end of one step of settling: everything it decided, in one transaction.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::Connection;

use super::arrived::tell_quarantined;
use super::guard::tell_unbuilt;
use super::plan::{MarkChange, Plan, least_linkedid};
use super::{META_RESTARTS, Settler};
use crate::call::Timestamp;
use crate::correlate::group::GroupId;
use crate::source::Quarantined;
use crate::store::fold::HeldRow;
use crate::store::ledger::{self, MARK_UNBUILT, Settled};
use crate::store::{self, Result, forgotten, journal, meta};

impl Settler {
    /// Everything of one step in one transaction; then, and only then, the picture follows.
    pub(super) fn write(&mut self, plan: &mut Plan, writes: Vec<Settled>, now: Timestamp) -> Result<()> {
        let rows_of = |group: &GroupId| self.picture.get(*group).map(|o| o.rows.iter().map(|r| r.seq).collect());
        let work = Work {
            writes,
            groups: plan.parts.iter().map(|(group, _)| *group).collect(),
            done: plan.done.iter().map(|group| (*group, rows_of(group).unwrap_or_default())).collect(),
            gone: std::mem::take(&mut plan.gone),
            marks: std::mem::take(&mut plan.marks),
            refused: std::mem::take(&mut plan.refused),
            again: std::mem::take(&mut plan.again),
            sinks: self.setup.sinks.clone(),
            restarts: serde_json::to_string(&self.book.restarts).unwrap_or_default(),
            forgotten: self.forgotten,
            now,
        };
        let work = Arc::new(work);
        let all = Arc::clone(&work);
        let calls = match self.store.write_blocking(move |conn| all.write(conn, false)) {
            // one of the calls goes against what the state knows: the others must not wait for it
            Err(e) if e.is_constraint() => {
                let each = Arc::clone(&work);
                self.store.write_blocking(move |conn| each.write(conn, true))?
            }
            done => done?,
        };
        for (n, call) in calls.iter().enumerate() {
            if let (None, Some(group), Some(settled)) = (call, work.groups.get(n), work.writes.get(n)) {
                tell_unbuilt(&settled.id);
                plan.done.retain(|g| g != group);
                plan.later.retain(|(g, _)| g != group);
                plan.aside.push(*group);
            }
        }

        tell_quarantined(self.picture.refused.iter().map(|(_, row)| row));
        self.picture.refused.clear();
        self.picture.ignored.clear();
        for ((group, rows), call) in plan.parts.iter().zip(calls) {
            if let (Some(call), Some(open)) = (call, self.picture.get_mut(*group)) {
                open.calls.insert(call);
                open.shipped_parts.insert(call, *rows);
            }
        }
        for (group, at) in &plan.later {
            self.picture.postpone(*group, *at, self.horizon);
        }
        for group in &plan.done {
            self.picture.forget(*group);
        }
        for group in &plan.aside {
            self.picture.set_aside(*group);
        }
        Ok(())
    }
}

/// What one transaction writes.
struct Work {
    writes: Vec<Settled>,
    /// The group of each write.
    groups: Vec<GroupId>,
    /// Groups that are over, with their rows' numbers.
    done: Vec<(GroupId, Vec<i64>)>,
    gone: Vec<i64>,
    marks: Vec<MarkChange>,
    refused: Vec<(i64, Quarantined)>,
    again: Vec<HeldRow>,
    sinks: Vec<&'static str>,
    restarts: String,
    /// How often callers had been forgotten when this was planned.
    forgotten: i64,
    now: Timestamp,
}

impl Work {
    /// The number of each call. `each`: one that cannot be recorded is left out with its rows, and has none.
    fn write(&self, conn: &Connection, each: bool) -> Result<Vec<Option<i64>>> {
        forgotten::unchanged(conn, self.forgotten)?;
        let mut calls = Vec::with_capacity(self.writes.len());
        let mut left_out = HashSet::new();
        for (settled, group) in self.writes.iter().zip(&self.groups) {
            let record = |conn: &Connection| ledger::record(conn, settled, &self.sinks, self.now);
            let call = if each { store::apart(conn, record)? } else { Some(record(conn)?) };
            if call.is_none() {
                left_out.insert(*group);
            }
            calls.push(call);
        }
        for (linkedid, kind, at) in &self.marks {
            match at {
                Some(at) => ledger::mark(conn, linkedid, kind, *at, self.now)?,
                None => ledger::unmark(conn, linkedid, kind)?,
            }
        }
        for (settled, group) in self.writes.iter().zip(&self.groups) {
            if left_out.contains(group)
                && let Some(least) = least_linkedid(&settled.keys)
            {
                ledger::mark(conn, &least, MARK_UNBUILT, settled.ended_at, self.now)?;
            }
        }
        for (_, row) in &self.refused {
            journal::quarantine(conn, row, self.now)?;
        }
        let mut gone = self.gone.clone();
        gone.extend(self.refused.iter().map(|(seq, _)| *seq));
        gone.extend(self.done.iter().filter(|(group, _)| !left_out.contains(group)).flat_map(|(_, rows)| rows));
        journal::remove(conn, &mut gone)?;
        journal::uncount(conn, &self.again)?;
        meta::put(conn, META_RESTARTS, &self.restarts)?;
        Ok(calls)
    }
}
