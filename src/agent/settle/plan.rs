//! One step of settling: what is ready is read, built and decided on, then written in one transaction; then, and only
//! then, memory follows.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use compact_str::CompactString;

use super::guard::{guarded, tell_unbuilt};
use super::{Outcome, Settler, Wanted};
use crate::agent::compose::{self, Built, Frame, Stage};
use crate::agent::judge::{End, end_of};
use crate::agent::marks::Marked;
use crate::agent::picture::Reread;
use crate::call::{CallState, Row, Timestamp};
use crate::correlate::completion::Progress;
use crate::correlate::group::{GroupId, partition_with, shared_ids};
use crate::correlate::{Zone, ids};
use crate::metrics;
use crate::source::Quarantined;
use crate::store::fold::{self, HeldRow};
use crate::store::forgotten::Gate;
use crate::store::ledger::{
    self, Entry, Key, MARK_GAP, MARK_NAILED, MARK_NAILED_FOR_GOOD, MARK_RESTART, MARK_TIMEOUT, MARK_UNBUILT, Settled,
    State,
};
use crate::store::{Result, journal, recordings};

/// What is ready, with its rows.
pub(super) struct Fetched {
    pub(super) group: GroupId,
    /// `None`: it is up.
    end: Option<End>,
    pub(super) rows: Vec<HeldRow>,
    pub(super) entries: Vec<Entry>,
}

pub(super) struct Planned {
    pub(super) group: GroupId,
    pub(super) built: Built,
    pub(super) entries: Vec<Entry>,
    pub(super) stage: Stage,
    /// One of several calls of a nailed-up channel's group.
    pub(super) part: bool,
    pub(super) wanted: Wanted,
}

pub(super) type MarkChange = (CompactString, &'static str, Option<Timestamp>);

/// What one transaction is to do.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) calls: Vec<Planned>,
    /// Groups that are over: their rows leave the journal.
    pub(super) done: Vec<GroupId>,
    /// Groups that stay, and when to look again.
    pub(super) later: Vec<(GroupId, Option<Timestamp>)>,
    /// (group, rows) of each call written, in the order of the writes.
    pub(super) parts: Vec<(GroupId, usize)>,
    pub(super) marks: Vec<MarkChange>,
    pub(super) refused: Vec<(i64, Quarantined)>,
    pub(super) gone: Vec<i64>,
    /// Rows that turned out to be held already.
    pub(super) again: Vec<HeldRow>,
    /// Groups whose call cannot be built: their rows stay.
    pub(super) aside: Vec<GroupId>,
    pub(super) outcome: Outcome,
}

impl Plan {
    fn give_up(&mut self, group: GroupId, rows: usize) {
        self.outcome.dropped_rows += rows;
        self.done.push(group);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
            && self.later.is_empty()
            && self.parts.is_empty()
            && self.refused.is_empty()
            && self.gone.is_empty()
            && self.aside.is_empty()
    }
}

impl Settler {
    /// Reads what memory does not hold of these groups.
    pub(super) fn fetch(&mut self, groups: &[GroupId]) -> Result<Vec<Fetched>> {
        let mut fetched = Vec::with_capacity(groups.len());
        let mut missing: Vec<(usize, Vec<i64>, Vec<i64>)> = Vec::new();
        for group in groups {
            let Some(open) = self.picture.get(*group) else { continue };
            let rows = Vec::with_capacity(open.rows.len());
            let mut one = Fetched { group: *group, end: open.end, rows, entries: Vec::new() };
            let mut seqs = Vec::new();
            for held in &open.rows {
                match &held.row {
                    Some(row) => one.rows.push(row.clone()),
                    None => seqs.push(held.seq),
                }
            }
            if !seqs.is_empty() || !open.calls.is_empty() {
                missing.push((fetched.len(), seqs, open.calls.iter().copied().collect()));
            }
            fetched.push(one);
        }
        if missing.is_empty() {
            return Ok(fetched);
        }
        let found = self.store.read_blocking(move |conn| {
            let mut found = Vec::with_capacity(missing.len());
            for (at, seqs, calls) in missing {
                let rows: Vec<HeldRow> = journal::rows(conn, &seqs)?.into_iter().map(|r| r.held).collect();
                let (mut folded, mut entries, mut let_go) = (Vec::new(), Vec::new(), Vec::new());
                for call in calls {
                    let entry = ledger::entry(conn, call)?;
                    match ledger::folded(conn, call)? {
                        Some(own) => folded.extend(own),
                        None if entry.as_ref().is_some_and(|e| e.state.is_settled() && !e.frozen) => {
                            let keys = ledger::keys(conn, call)?.into_iter();
                            let_go.extend(keys.filter(|k| k.linkedid).map(|k| k.text));
                        }
                        None => {}
                    }
                    entries.extend(entry);
                }
                found.push((at, rows, folded, entries, let_go));
            }
            Ok(found)
        })?;
        let mut read_again = BTreeSet::new();
        for (at, mut rows, folded, entries, let_go) in found {
            let Some(one) = fetched.get_mut(at) else { continue };
            one.rows.append(&mut rows);
            let Some(open) = self.picture.get(one.group) else { continue };
            // one that was asked for was read whole: what the PBX says of it now counts, unless it has let rows go
            let wanted = open.wanted != Wanted::No;
            if !let_go.is_empty() && !wanted && open.reread == Reread::No && !open.has_nailed_up() {
                // its rows were there when this group was opened, and were let go since: of a part nothing is built.
                // (Those of a nailed-up line are in the journal as well.)
                self.picture.read_again(one.group, let_go);
                read_again.insert(one.group);
            }
            if !wanted || one.rows.len() < folded.len() {
                one.rows.extend(folded);
            }
            one.entries = entries;
        }
        fetched.retain(|one| !read_again.contains(&one.group));
        Ok(fetched)
    }

    /// Adds what is to become of a group to the plan.
    pub(super) fn plan(&mut self, fetched: Fetched, plan: &mut Plan) -> Result<()> {
        let Fetched { group, end, rows, mut entries } = fetched;
        let wanted = self.picture.get(group).map(|o| o.wanted).unwrap_or_default();
        self.as_wanted(wanted, &mut entries);
        let Some(end) = end else { return Ok(()) };
        let nailed = self.picture.get(group).is_some_and(|open| open.has_nailed_up());
        match end {
            End::Frozen => {
                plan.give_up(group, self.picture.get(group).map_or(0, |o| o.rows.len()));
                return Ok(());
            }
            End::Reread if nailed => return self.plan_parts(group, rows, false, plan),
            End::Reread => {
                // several calls that a late row ties need the rows of all of them
                let known: i64 = entries.iter().filter(|e| e.state != State::Merged).map(|e| e.rows).sum();
                let (rows, _) = fold::distinct(rows.clone());
                if i64::try_from(rows.len()).unwrap_or(i64::MAX) < known {
                    let id = entries.first().map_or("", |e| e.id.as_str());
                    tracing::warn!(
                        call = %crate::log::text(id),
                        rows = rows.len(),
                        known,
                        "a late row came for a call whose rows are gone here and at the PBX; the call stays as it was shipped"
                    );
                    plan.give_up(group, rows.len());
                    return Ok(());
                }
            }
            End::Nailed => return self.plan_parts(group, rows, false, plan),
            _ => {}
        }
        if end == End::TooLarge && nailed {
            return self.plan_parts(group, rows, true, plan);
        }
        let Some(open) = self.picture.get(group) else { return Ok(()) };
        let newest = open.progress.span().map(|(newest, _)| newest);
        let keys = self.keys(group, &rows);
        self.remark(&keys, end, newest, plan);
        if self.is_forgotten(&keys)? {
            plan.give_up(group, rows.len());
            return Ok(());
        }
        let (rows, again) = once_each(rows, &entries);
        plan.again.extend(again);
        let stage = Stage::Over { frozen: end == End::TooLarge };
        let Some(built) = self.build(rows, keys.clone(), &entries, newest, stage)? else {
            self.set_aside(group, &keys, plan);
            return Ok(());
        };
        if end == End::Reread && built.content.state == CallState::InProgress {
            // it has not ended: it waits for its end as any other, or for its time
            self.picture.goes_on(group);
            self.picture.judge(group, &self.setup.policy, &self.book, self.horizon);
            return Ok(());
        }
        plan.calls.push(Planned { group, built, entries, stage, part: false, wanted });
        plan.done.push(group);
        Ok(())
    }

    /// The keys of a group that is one call.
    pub(super) fn keys(&self, group: GroupId, rows: &[HeldRow]) -> Vec<Key> {
        let mut keys = self.picture.keys(group);
        if !self.book.is_empty() {
            let own = compose::own_keys(rows, &self.book);
            keys.retain(|k| !self.book.is_nailed(&k.text) || own.contains(k));
        }
        keys
    }

    /// A group that a nailed-up channel ties together: each of its calls is judged by itself. Its rows stay in the
    /// journal until the last of them is over, since only together they tell who is nailed up.
    /// `all`: it has grown too large and is closed as it is.
    fn plan_parts(&mut self, group: GroupId, rows: Vec<HeldRow>, all: bool, plan: &mut Plan) -> Result<()> {
        let Some(zone) = self.zones.last().cloned() else { return Ok(()) };
        // its rows are in the journal and, of the parts that were shipped, folded as well
        let (rows, _) = fold::distinct(rows);
        let plain: Vec<Row> = rows.iter().map(|r| r.row.clone()).collect();
        let parts: Vec<Vec<HeldRow>> = partition_with(&plain, |id| self.book.is_nailed_for_good(id))
            .into_iter()
            .map(|part| part.into_iter().filter_map(|i| rows.get(i).cloned()).collect())
            .collect();
        let several = parts.len() > 1;
        if several {
            self.mark_nailed(&parts, plan);
        }
        let mut next: Option<Timestamp> = None;
        let mut all_over = true;
        let mut calls = Vec::new();
        for part in parts {
            let mut progress = Progress::default();
            part.iter().for_each(|held| progress.observe(&held.row, &zone));
            let keys = compose::own_keys(&part, &self.book);
            if keys.is_empty() {
                // what the line says of a caller who was forgotten meanwhile: nobody's call
                continue;
            }
            let marked = self.book.of(keys.iter().map(|k| &k.text));
            let (end, due) = end_of(&progress, None, marked, &self.setup.policy, &self.book, self.horizon);
            let Some(end) = end.or(all.then_some(End::TooLarge)) else {
                all_over = false;
                next = match (next, due) {
                    (Some(a), Some(b)) => Some(a.min(b)),
                    (a, b) => a.or(b),
                };
                continue;
            };
            calls.push((part, keys, end, progress.span().map(|(newest, _)| newest)));
        }
        let wanted = self.picture.get(group).map(|o| o.wanted).unwrap_or_default();
        let mut unbuilt = false;
        let known_parts = self.picture.get(group).map(|o| o.shipped_parts.clone()).unwrap_or_default();
        for (part, keys, end, newest) in calls {
            let mut own = self.entries_of(&keys)?;
            self.as_wanted(wanted, &mut own);
            // told as one call while it was not known who is nailed up: that id is the founding channel's
            own.retain(|e| e.state != State::InProgress || is_founded_by(e, &part));
            if !all_over && own.iter().any(|e| known_parts.get(&e.call) == Some(&part.len())) {
                continue;
            }
            if self.is_forgotten(&keys)? {
                continue;
            }
            // of a part that was settled long ago the line's late rows bring only some: it stays as it is
            let known: i64 = own.iter().filter(|e| e.state.is_settled()).map(|e| e.rows).sum();
            if i64::try_from(part.len()).unwrap_or(i64::MAX) < known {
                continue;
            }
            self.remark(&keys, end, newest, plan);
            let stage = Stage::Over { frozen: false };
            let Some(built) = self.build(part, keys.clone(), &own, newest, stage)? else {
                // the other calls of the line go their way
                self.mark_unbuilt(&keys, plan);
                (all_over, unbuilt) = (false, true);
                continue;
            };
            plan.calls.push(Planned { group, built, entries: own, stage, part: true, wanted });
        }
        if all_over {
            if several {
                self.mark_nailed_for_good(&plain, plan);
            }
            plan.done.push(group);
        } else if unbuilt && next.is_none() {
            plan.aside.push(group);
        } else {
            plan.later.push((group, next));
        }
        Ok(())
    }

    /// Takes a call out of the way that cannot be built: its rows are kept, and it is tried again when more come or at the
    /// next start, which may be that of a version without the fault.
    pub(super) fn set_aside(&mut self, group: GroupId, keys: &[Key], plan: &mut Plan) {
        self.mark_unbuilt(keys, plan);
        plan.aside.push(group);
    }

    fn mark_unbuilt(&mut self, keys: &[Key], plan: &mut Plan) {
        let Some(least) = least_linkedid(keys) else { return };
        tell_unbuilt(&least);
        let at = self.horizon;
        self.mark(least, MARK_UNBUILT, Some(at), plan);
    }

    /// The call of these keys was forgotten on request: rows of it came before the one that told so.
    fn is_forgotten(&self, keys: &[Key]) -> Result<bool> {
        if self.forgotten == 0 {
            return Ok(false);
        }
        let keys = keys.to_vec();
        self.store.read_blocking(move |conn| match Gate::load(conn)? {
            Some(gate) => gate.knows(conn, keys.iter().map(|k| k.text.as_str())),
            None => Ok(false),
        })
    }

    /// The ledger's calls that these keys lead to.
    fn entries_of(&self, keys: &[Key]) -> Result<Vec<Entry>> {
        let keys = keys.to_vec();
        self.store.read_blocking(move |conn| ledger::find(conn, keys.iter()))
    }

    /// A linkedid that several calls of a group carry is that of the nailed-up channel.
    fn mark_nailed(&mut self, parts: &[Vec<HeldRow>], plan: &mut Plan) {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for part in parts {
            let own: BTreeSet<&str> = part.iter().map(|r| r.row.linkedid()).filter(|l| !l.is_empty()).collect();
            for linkedid in own {
                *seen.entry(linkedid).or_default() += 1;
            }
        }
        let new: Vec<&str> =
            seen.into_iter().filter(|(l, n)| *n > 1 && !self.book.is_nailed(l)).map(|(l, _)| l).collect();
        for linkedid in new {
            let at = ids::Id::parse(linkedid).map_or(Timestamp::default(), |id| Timestamp::from_secs(id.epoch));
            self.mark(linkedid.into(), MARK_NAILED, Some(at), plan);
        }
    }

    /// The rows that tell who is nailed up are let go some time after the last of these calls, and a line that is held open
    /// has more callers after that.
    fn mark_nailed_for_good(&mut self, rows: &[Row], plan: &mut Plan) {
        let new: Vec<&str> = shared_ids(rows).into_iter().filter(|id| !self.book.is_nailed_for_good(id)).collect();
        for id in new {
            let at = ids::Id::parse(id).map_or(Timestamp::default(), |id| Timestamp::from_secs(id.epoch));
            self.mark(id.into(), MARK_NAILED_FOR_GOOD, Some(at), plan);
        }
    }

    /// Writes down why a call is closed that never ended, and takes back what no longer holds.
    fn remark(&mut self, keys: &[Key], end: End, newest: Option<Timestamp>, plan: &mut Plan) {
        let marked = if self.book.is_empty() { Marked::default() } else { self.book.of(keys.iter().map(|k| &k.text)) };
        let least = || least_linkedid(keys);
        if marked.unbuilt {
            // it is tried again now
            keys.iter().for_each(|k| self.mark(k.text.clone(), MARK_UNBUILT, None, plan));
        }
        if let End::Restart(at) = end {
            if marked.restart != Some(at) {
                least().into_iter().for_each(|id| self.mark(id, MARK_RESTART, Some(at), plan));
            }
        } else if marked.restart.is_some() {
            // rows came after the restart that was to have closed it
            keys.iter().for_each(|k| self.mark(k.text.clone(), MARK_RESTART, None, plan));
        }
        if matches!(end, End::Timeout | End::TooLarge) {
            let at = self.horizon.max(newest.unwrap_or_default());
            least().into_iter().for_each(|id| self.mark(id, MARK_TIMEOUT, Some(at), plan));
        } else if marked.timeout.is_some() {
            keys.iter().for_each(|k| self.mark(k.text.clone(), MARK_TIMEOUT, None, plan));
        }
        // of a call that never ended while rows were missing, its end may be among them
        let gap = end == End::Timeout && newest.is_some_and(|newest| self.book.gap_since(newest));
        if gap && !marked.gap {
            least().into_iter().for_each(|id| self.mark(id, MARK_GAP, Some(self.horizon), plan));
        } else if !gap && marked.gap {
            keys.iter().for_each(|k| self.mark(k.text.clone(), MARK_GAP, None, plan));
        }
    }

    /// In memory at once, since calls of this step are built by it; should writing fail, memory is made anew.
    fn mark(&mut self, linkedid: CompactString, kind: &'static str, at: Option<Timestamp>, plan: &mut Plan) {
        match at {
            Some(at) => self.book.set(&linkedid, kind, at),
            None => self.book.clear(&linkedid, kind),
        }
        plan.marks.push((linkedid, kind, at));
    }

    /// `None`: it cannot be built.
    pub(super) fn build(
        &self,
        rows: Vec<HeldRow>,
        keys: Vec<Key>,
        entries: &[Entry],
        newest: Option<Timestamp>,
        stage: Stage,
    ) -> Result<Option<Built>> {
        let now_in_force = self.zones.len().saturating_sub(1);
        // a call is rebuilt in the zone it was first built in
        let index =
            entries.iter().map(|e| usize::try_from(e.zone).unwrap_or(now_in_force)).min().unwrap_or(now_in_force);
        let zone = self.zones.get(index).or(self.zones.last()).unwrap_or(&Zone::Fixed(0));
        let index = i64::try_from(index).unwrap_or_default();
        let recordings = if self.has_recordings {
            let keys = keys.clone();
            self.store.read_blocking(move |conn| recordings::of_keys(conn, &keys))?
        } else {
            Vec::new()
        };
        // and by the rules of then: a changed setting revises nothing
        let in_force = self.rules.len().saturating_sub(1);
        let of = |e: &Entry| usize::try_from(e.rules).unwrap_or(in_force);
        let by = entries.iter().map(of).min().unwrap_or(in_force);
        let kept = self.rules.iter().enumerate().skip(by).find_map(|(n, r)| Some((n, r.as_ref()?)));
        let (by, rules) = kept.unwrap_or((in_force, &self.setup.frame.rules));
        let rules = (rules, i64::try_from(by).unwrap_or_default());
        guarded(|| compose::build((rows, recordings), keys, rules, (zone, index), &self.book, newest, stage))
    }

    /// From built calls to what is to be written. A call that gets an id the ledger knows under other keys is that call.
    pub(super) fn decide(&mut self, plan: &mut Plan) -> Result<Vec<Settled>> {
        let frame = self.setup.frame.clone();
        let frame = &frame;
        // what was asked for is shipped however old it is
        let of_any_age = Frame { start_at: None, ..frame.clone() };
        let new: Vec<(usize, bool, String)> = plan
            .calls
            .iter()
            .enumerate()
            .filter(|(_, c)| !c.entries.iter().any(|e| e.state != State::Merged))
            .map(|(at, c)| (at, c.part, compose::id_of(frame, &c.built.content)))
            .collect();
        if !new.is_empty() {
            let known = self.store.read_blocking(move |conn| {
                let mut known = Vec::new();
                for (at, part, id) in new {
                    let mut id = id;
                    while let Some(mut entry) = ledger::by_id(conn, &id)? {
                        match &entry.merged_into {
                            // told as part of another while it was not known who is nailed up: it is a call after all
                            Some(_) if part => {
                                entry.state = State::InProgress;
                                known.push((at, entry));
                                break;
                            }
                            Some(into) if *into != id => id.clone_from(into),
                            _ => {
                                known.push((at, entry));
                                break;
                            }
                        }
                    }
                }
                Ok(known)
            })?;
            for (at, entry) in known {
                if let Some(call) = plan.calls.get_mut(at) {
                    call.entries.push(entry);
                }
            }
        }
        self.keep_merged(&mut plan.calls)?;
        let mut ids = HashSet::new();
        let mut writes = Vec::with_capacity(plan.calls.len());
        for call in std::mem::take(&mut plan.calls) {
            let is_up = matches!(call.stage, Stage::Up { .. });
            if is_up && call.entries.iter().any(|e| !matches!(e.state, State::InProgress | State::Merged)) {
                // told as one that is over, kept back, or older than the start: what it is now is told when it has ended
                continue;
            }
            let zone = usize::try_from(call.built.zone).ok().and_then(|z| self.zones.get(z)).cloned();
            let zone = zone.unwrap_or(Zone::Fixed(0));
            let keys = call.built.keys.clone();
            let rows = call.built.row_count;
            let direction = call.built.content.direction;
            let outcome = call.built.content.outcome.map_or("unknown", |o| o.as_str());
            let filter = call.built.suppressed;
            let frame = if call.wanted == Wanted::No { frame } else { &of_any_age };
            let Some(settled) = guarded(|| compose::settle(call.built, &call.entries, frame, &zone, call.stage))?
            else {
                plan.done.retain(|g| *g != call.group);
                self.set_aside(call.group, &keys, plan);
                continue;
            };
            if is_up && settled.document.is_none() {
                continue;
            }
            let known = settled.call.is_some();
            let was_shipped = call.entries.iter().any(|e| Some(e.call) == settled.call && e.state == State::Shipped);
            if !ids.insert(settled.id.clone()) {
                if plan.parts.iter().any(|(g, _)| *g == call.group) {
                    tracing::warn!(
                        id = %crate::log::text(&settled.id),
                        "two calls of one nailed-up channel have the same id; one is left out"
                    );
                } else {
                    // two groups of one id in one transaction: the second sees the first in the ledger next time
                    plan.done.retain(|g| *g != call.group);
                }
                continue;
            }
            let was_suppressed =
                call.entries.iter().any(|e| Some(e.call) == settled.call && e.state == State::Suppressed);
            if let (State::Suppressed, false, Some(filter)) = (settled.state, was_suppressed, filter) {
                metrics::CALLS_SUPPRESSED.with_label_values(&[filter.as_str()]).inc();
            }
            if settled.document.is_some() && !was_shipped && !is_up && settled.state != State::Suppressed {
                metrics::CALLS.with_label_values(&[direction.as_str(), outcome]).inc();
            }
            match &settled.document {
                _ if is_up => plan.outcome.told += 1,
                _ if settled.state == State::Suppressed => plan.outcome.suppressed += usize::from(!was_suppressed),
                Some(_) if was_shipped => plan.outcome.revised += 1,
                Some(_) => plan.outcome.shipped += 1,
                None if settled.state == State::BeforeStart => plan.outcome.before_start += usize::from(!known),
                None => plan.outcome.unchanged += 1,
            }
            plan.outcome.merged += settled.absorbed.len();
            plan.parts.push((call.group, usize::try_from(rows).unwrap_or(usize::MAX)));
            writes.push(settled);
        }
        Ok(writes)
    }

    /// Of what was told as superseded by a call of a nailed-up channel's group, only what is merged stays so.
    fn keep_merged(&self, calls: &mut [Planned]) -> Result<()> {
        let named = |c: &Planned| c.part && c.entries.iter().any(|e| !e.supersedes.is_empty());
        if !calls.iter().any(named) {
            return Ok(());
        }
        let again: BTreeSet<String> =
            calls.iter().flat_map(|c| c.entries.iter().filter(|e| e.state.is_told()).map(|e| e.id.clone())).collect();
        for call in calls.iter_mut().filter(|c| named(c)) {
            for entry in &mut call.entries {
                let ids = std::mem::take(&mut entry.supersedes);
                let merged = self.store.read_blocking(move |conn| {
                    let mut merged = Vec::with_capacity(ids.len());
                    for id in ids {
                        if ledger::by_id(conn, &id)?.is_none_or(|e| e.state == State::Merged) {
                            merged.push(id);
                        }
                    }
                    Ok(merged)
                })?;
                entry.supersedes = merged.into_iter().filter(|id| !again.contains(id)).collect();
            }
        }
        Ok(())
    }
}

/// The least linkedid of a call, by which it is marked.
pub(super) fn least_linkedid(keys: &[Key]) -> Option<CompactString> {
    let linkedids = keys.iter().filter(|k| k.linkedid);
    let least = linkedids.min_by(|a, b| ids::compare(&a.text, &b.text));
    least.or(keys.first()).map(|k| k.text.clone())
}

/// Rows that are held twice, in the journal and folded, count once. Returns also those that were dropped.
pub(super) fn once_each(rows: Vec<HeldRow>, entries: &[Entry]) -> (Vec<HeldRow>, Vec<HeldRow>) {
    if entries.is_empty() && one_generation(&rows) { (rows, Vec::new()) } else { fold::distinct(rows) }
}

/// Whether the channel that gave a call its id is among these rows.
fn is_founded_by(entry: &Entry, rows: &[HeldRow]) -> bool {
    entry.id.split_once(':').is_some_and(|(_, founder)| compose::is_of(rows, founder))
}

fn one_generation(rows: &[HeldRow]) -> bool {
    rows.windows(2).all(|pair| matches!(pair, [a, b] if a.generation == b.generation))
}
