//! The groups that are open, in memory: what the journal says, arranged for deciding. It can be made anew from the
//! journal at any moment. No I/O and no clock: rows, ledger entries and moments of database time come in as data.
//!
//! Rows themselves are kept only as far as a total cap allows; what was let go is read from the journal again when its
//! call is built.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use compact_str::CompactString;

use super::judge::{End, Policy};
use super::marks::MarkBook;
use super::settle::Wanted;
use crate::call::{Row, Timestamp};
use crate::correlate::completion::Progress;
use crate::correlate::group::{GroupId, GroupMap, Grouper, Joined};
use crate::correlate::{Zone, ids};
use crate::source::Quarantined;
use crate::store::fold::HeldRow;
use crate::store::journal::table_of;
use crate::store::ledger::Key;

/// A call whose record has not come waits no longer than this to be asked for, microseconds of database time: where the
/// table has no index, questions are far between.
const HOLD_MAX_MICROS: i64 = 300 * 1_000_000;

/// A row of the journal, with or without its content.
#[derive(Clone, Debug)]
pub struct Held {
    pub seq: i64,
    pub row: Option<HeldRow>,
}

/// Whether the rows of a call have to be read from the PBX again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reread {
    #[default]
    No,
    /// These linkedids are asked for and not answered yet.
    Waits(BTreeSet<CompactString>),
    Done,
    /// They were, and it is not over: it goes the way of any other that is up.
    Whole,
}

/// One open group.
#[derive(Debug, Default)]
pub struct Open {
    pub rows: Vec<Held>,
    /// Calls of the ledger that it belongs to: their folded rows are part of it.
    pub calls: BTreeSet<i64>,
    pub progress: Progress,
    /// The database's clock when its newest row was read; `None` after a start.
    pub(super) arrived: Option<Timestamp>,
    due: Option<Timestamp>,
    pub end: Option<End>,
    pub reread: Reread,
    /// Its record was asked for since its newest event came.
    cdr_asked: bool,
    /// Since when it is over and waits for its record to be asked for, in database time.
    held_since: Option<Timestamp>,
    /// One of its calls is frozen.
    pub frozen: bool,
    /// It could not be built: not tried again before something comes, or the next start.
    pub aside: bool,
    /// It was asked for, by `backfill`.
    pub wanted: Wanted,
    /// How many keys of the group were looked up in the ledger.
    keys_known: usize,
    /// A channel of it is marked as nailed up for good.
    pub(super) nailed_for_good: bool,
    /// A group of a nailed-up channel: when it was split last, in database time.
    pub(super) split_at: Option<Timestamp>,
    /// A group of a nailed-up channel: how many rows each of its parts had when it was shipped, by call.
    pub shipped_parts: BTreeMap<i64, usize>,
    /// When its call was told last as one that is up, by the agent's clock.
    pub told_at: Option<Timestamp>,
    /// When to look whether there is something to tell, by the agent's clock.
    look_at: Option<Timestamp>,
}

/// All open groups.
#[derive(Debug, Default)]
pub struct Picture {
    grouper: Grouper,
    groups: GroupMap<Open>,
    /// Calls of the ledger that are open again.
    calls: HashMap<i64, GroupId>,
    due: BTreeSet<(Timestamp, GroupId)>,
    ready: BTreeSet<GroupId>,
    wanting_cdr: BTreeSet<GroupId>,
    /// Over, but their record was not asked for yet: it may be there, however long ago they ended.
    held: BTreeSet<GroupId>,
    /// Records come only when they are asked for, and they can be asked for now.
    asks: bool,
    rereading: BTreeSet<GroupId>,
    touched: BTreeSet<GroupId>,
    /// A record came for them in the batch taken in last. Events are read before records: what was committed between the
    /// two, together with that record, is seen with the next batch.
    recorded: BTreeSet<GroupId>,
    /// By the agent's clock, unlike what is due.
    looks: BTreeSet<(Timestamp, GroupId)>,
    cached: usize,
    /// Rows that can be part of no call, to be moved to quarantine.
    pub refused: Vec<(i64, Quarantined)>,
    /// Rows of channels that take part in no call, to be dropped.
    pub ignored: Vec<i64>,
}

impl Picture {
    /// `has_cel`: with records alone, channel names tie them together.
    pub fn new(has_cel: bool) -> Self {
        Self { grouper: if has_cel { Grouper::default() } else { Grouper::cdr_only() }, ..Self::default() }
    }

    /// Takes in a row of the journal.
    pub fn take(&mut self, seq: i64, held: HeldRow, zone: &Zone, arrived: Option<Timestamp>, policy: &Policy) {
        match self.grouper.add(&held.row) {
            Err(unusable) => {
                let body = match &held.row {
                    Row::Cel(row) => serde_json::to_string(&**row),
                    Row::Cdr(row) => serde_json::to_string(&**row),
                };
                let row =
                    Quarantined { table: table_of(&held.row), reason: unusable.0, body: body.unwrap_or_default() };
                self.refused.push((seq, row));
            }
            Ok(None) => self.ignored.push(seq),
            Ok(Some(joined)) => {
                let group = joined.group;
                let open = self.joined(joined);
                open.progress.observe(&held.row, zone);
                open.cdr_asked &= matches!(held.row, Row::Cdr(_));
                open.held_since = None;
                open.aside = false;
                open.arrived = open.arrived.max(arrived);
                let is_record = matches!(held.row, Row::Cdr(_));
                open.rows.push(Held { seq, row: Some(held) });
                self.cached += 1;
                self.touched.insert(group);
                if is_record {
                    self.recorded.insert(group);
                }
                if self.cached > policy.cached_rows_max {
                    self.trim(policy.cached_rows_max / 2);
                }
            }
        }
    }

    /// The group of `joined`, with everything of those it took in.
    fn joined(&mut self, joined: Joined) -> &mut Open {
        let group = joined.group;
        for gone in joined.absorbed {
            let Some(other) = self.groups.remove(&gone) else { continue };
            self.unschedule(gone, other.due);
            if self.recorded.remove(&gone) {
                self.recorded.insert(group);
            }
            if let Some(at) = other.look_at {
                self.looks.remove(&(at, gone));
            }
            for call in &other.calls {
                self.calls.insert(*call, group);
            }
            let open = self.groups.entry(group).or_default();
            open.rows.extend(other.rows);
            open.calls.extend(other.calls);
            open.progress.absorb(other.progress);
            open.arrived = open.arrived.max(other.arrived);
            (open.cdr_asked, open.held_since, open.aside) = (false, None, false);
            open.frozen |= other.frozen;
            if open.wanted == Wanted::No {
                open.wanted = other.wanted;
            }
            open.told_at = open.told_at.max(other.told_at);
            open.shipped_parts.extend(other.shipped_parts);
            open.reread = match (std::mem::take(&mut open.reread), other.reread) {
                (Reread::Waits(mut a), Reread::Waits(b)) => {
                    a.extend(b);
                    Reread::Waits(a)
                }
                (Reread::Waits(a), _) | (_, Reread::Waits(a)) => Reread::Waits(a),
                (Reread::Done, _) | (_, Reread::Done) => Reread::Done,
                (Reread::Whole, Reread::Whole) => Reread::Whole,
                _ => Reread::No,
            };
            if matches!(open.reread, Reread::Waits(_)) {
                self.rereading.insert(group);
            }
        }
        self.groups.entry(group).or_default()
    }

    /// Lets go the content of rows of groups that are not about to be settled, oldest first.
    fn trim(&mut self, keep: usize) {
        let mut order: Vec<GroupId> = self.groups.keys().copied().filter(|g| !self.ready.contains(g)).collect();
        order.sort_unstable();
        for group in order {
            if self.cached <= keep {
                break;
            }
            let Some(open) = self.groups.get_mut(&group) else { continue };
            for held in &mut open.rows {
                if held.row.take().is_some() {
                    self.cached -= 1;
                }
            }
        }
    }

    /// Groups that changed since they were judged last.
    pub fn touched(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.touched).into_iter().filter(|g| self.groups.contains_key(g)).collect()
    }

    /// Another batch is taken in. Returns the groups that may have waited for it.
    pub fn next_batch(&mut self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.recorded)
    }

    /// Moments that were noted are to come now: nothing may wait for them.
    pub fn clock_was_set_back(&mut self) {
        for open in self.groups.values_mut() {
            (open.split_at, open.held_since) = (None, None);
        }
        self.touch_all();
    }

    /// Looks at a group again at the next occasion.
    pub fn touch(&mut self, group: GroupId) {
        self.touched.insert(group);
    }

    pub fn touch_all(&mut self) {
        self.touched.extend(self.groups.keys().copied());
    }

    /// The keys of the touched groups that were not looked up in the ledger yet.
    /// Linkedids of nailed-up channels lead to every call they took part in, and are left out.
    pub fn unknown_keys(&mut self, marks: &MarkBook) -> Vec<(GroupId, Vec<Key>)> {
        let mut unknown = Vec::new();
        self.touched.retain(|g| self.groups.contains_key(g));
        for group in &self.touched {
            let Some(open) = self.groups.get_mut(group) else { continue };
            let keys = self.grouper.keys(*group, open.keys_known);
            if keys.is_empty() {
                continue;
            }
            open.keys_known += keys.len();
            let keys = keys.into_iter().filter(|(text, linkedid)| !(*linkedid && marks.is_nailed(text)));
            unknown.push((*group, keys.map(|(text, linkedid)| Key { text, linkedid }).collect()));
        }
        unknown
    }

    /// Every key of a group.
    pub fn keys(&self, group: GroupId) -> Vec<Key> {
        let keys = self.grouper.keys(group, 0).into_iter();
        keys.map(|(text, linkedid)| Key { text, linkedid }).collect()
    }

    /// Whether this call is open already.
    pub fn group_of_call(&self, call: i64) -> Option<GroupId> {
        self.calls.get(&call).copied()
    }

    /// A call of the ledger belongs to this group. `rows` are its folded ones, `None` when they are gone.
    pub fn attach(&mut self, group: GroupId, call: Attached, zone: &Zone) {
        if !self.groups.contains_key(&group) {
            return;
        }
        let tied: Vec<(CompactString, bool)> = call.keys.iter().map(|k| (k.text.clone(), k.linkedid)).collect();
        let joined = self.grouper.tie(group, &tied);
        let group = joined.group;
        let open = self.joined(joined);
        open.calls.insert(call.call);
        open.frozen |= call.frozen;
        open.told_at = open.told_at.max(call.told_at);
        match call.rows {
            Some(rows) => rows.iter().for_each(|held| open.progress.observe(&held.row, zone)),
            None if call.frozen || !call.whole => {}
            None => {
                // several calls that a late row turns out to tie are all read again
                let linkedids = call.keys.iter().filter(|k| k.linkedid).map(|k| k.text.clone());
                match &mut open.reread {
                    Reread::Waits(waits) => waits.extend(linkedids),
                    _ => open.reread = Reread::Waits(linkedids.collect()),
                }
                self.rereading.insert(group);
            }
        }
        self.calls.insert(call.call, group);
        self.touched.insert(group);
    }

    /// Opens a call of the ledger again by its folded rows, though no new row came.
    pub fn reopen(&mut self, call: Attached, zone: &Zone) {
        let Some(rows) = &call.rows else { return };
        for held in rows {
            if let Ok(Some(joined)) = self.grouper.add(&held.row) {
                let group = joined.group;
                self.joined(joined);
                self.attach(group, call, zone);
                return;
            }
        }
    }

    /// The PBX was asked for these linkedids whole.
    pub fn answered(&mut self, linkedids: &[String]) {
        let mut done = Vec::new();
        for group in &self.rereading {
            let Some(open) = self.groups.get_mut(group) else {
                done.push(*group);
                continue;
            };
            if let Reread::Waits(waits) = &mut open.reread {
                for linkedid in linkedids {
                    waits.remove(linkedid.as_str());
                }
                if waits.is_empty() {
                    open.reread = Reread::Done;
                }
            }
            if !matches!(open.reread, Reread::Waits(_)) {
                done.push(*group);
                self.touched.insert(*group);
            }
        }
        for group in done {
            self.rereading.remove(&group);
        }
    }

    /// The calls of these linkedids were read whole, records too, and are to be shipped. Returns their groups.
    pub fn want(&mut self, linkedids: &HashSet<CompactString>, wanted: Wanted) -> BTreeSet<GroupId> {
        let groups: BTreeSet<GroupId> = linkedids.iter().filter_map(|id| self.grouper.find(id)).collect();
        for group in &groups {
            let Some(open) = self.groups.get_mut(group) else { continue };
            open.wanted = wanted;
            open.cdr_asked = true;
            self.recorded.remove(group);
            if matches!(open.reread, Reread::Waits(_)) {
                open.reread = Reread::Done;
                self.rereading.remove(group);
            }
        }
        groups
    }

    /// The PBX was asked for the records of these linkedids, and has told what it has. `None`: it cannot be asked (now).
    pub fn asked(&mut self, linkedids: Option<&[String]>) {
        self.asks = linkedids.is_some();
        for linkedid in linkedids.unwrap_or_default() {
            if let Some(group) = self.grouper.find(linkedid)
                && let Some(open) = self.groups.get_mut(&group)
            {
                open.cdr_asked = true;
                self.touched.insert(group);
            }
        }
        if !self.asks {
            self.touched.extend(std::mem::take(&mut self.held));
        }
    }

    /// Whether anything waits for its record to be asked for, or for the batch after it.
    pub fn holds(&self) -> bool {
        !self.held.is_empty() || !self.recorded.is_empty()
    }

    /// Decides whether a group is to be settled, or when to look again. `horizon`: everything that was visible at this
    /// moment of the database has been read.
    pub fn judge(&mut self, group: GroupId, policy: &Policy, marks: &MarkBook, horizon: Timestamp) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.nailed_for_good = marks.any_nailed_for_good()
            && self.grouper.keys(group, 0).iter().any(|(id, _)| marks.is_nailed_for_good(id));
        let Some(open) = self.groups.get(&group) else { return };
        let (mut end, mut due) = open.judge(policy, marks, horizon, || self.grouper.keys(group, 0));
        let lacks_cdr = policy.grace.has_cdr && open.progress.wants_cdr();
        let held_since = open.held_since.unwrap_or(horizon);
        let hold_until = held_since.plus_micros(HOLD_MAX_MICROS);
        let hold = self.asks && lacks_cdr && !open.cdr_asked && end == Some(End::Complete) && horizon < hold_until;
        if hold {
            (end, due) = (None, Some(hold_until));
        }
        let by_record = policy.grace.has_cel && end == Some(End::Complete) && open.progress.ends_by_record();
        if by_record && self.recorded.contains(&group) {
            (end, due) = (None, None);
        }
        let wants_cdr = lacks_cdr && end.is_none();
        let old = open.due;
        self.unschedule(group, old);
        if hold {
            self.held.insert(group);
        }
        if wants_cdr {
            self.wanting_cdr.insert(group);
        }
        if end.is_some() {
            self.ready.insert(group);
        } else if let Some(at) = due {
            self.due.insert((at, group));
        }
        if matches!(self.groups.get(&group).map(|o| &o.reread), Some(Reread::Waits(_))) {
            self.rereading.insert(group);
        }
        if let Some(open) = self.groups.get_mut(&group) {
            open.end = end;
            open.due = due;
            if hold {
                open.held_since = Some(held_since);
            }
        }
    }

    fn unschedule(&mut self, group: GroupId, due: Option<Timestamp>) {
        if let Some(at) = due {
            self.due.remove(&(at, group));
        }
        self.ready.remove(&group);
        self.wanting_cdr.remove(&group);
        self.held.remove(&group);
        self.rereading.remove(&group);
    }

    /// A group of a nailed-up channel was split; one of its calls is over at this moment of the database.
    pub fn postpone(&mut self, group: GroupId, at: Option<Timestamp>, horizon: Timestamp) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.end = None;
        open.split_at = Some(horizon);
        let old = std::mem::replace(&mut open.due, at);
        self.unschedule(group, old);
        if let Some(at) = at {
            self.due.insert((at, group));
        }
    }

    /// The call of a group cannot be built: its rows stay, and nothing is done with them until more come.
    pub fn set_aside(&mut self, group: GroupId) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.end = None;
        open.aside = true;
        let old = open.due.take();
        self.unschedule(group, old);
        self.looked_at(group, None);
    }

    /// A call of this group has to be read from the PBX again whole before anything is made of it.
    pub fn read_again(&mut self, group: GroupId, linkedids: Vec<CompactString>) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.end = None;
        open.reread = Reread::Waits(linkedids.into_iter().collect());
        let old = open.due.take();
        self.unschedule(group, old);
        self.rereading.insert(group);
    }

    /// A call that was read again whole is not over.
    pub fn goes_on(&mut self, group: GroupId) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.end = None;
        open.reread = Reread::Whole;
        self.ready.remove(&group);
    }

    /// Something came for this group: it is looked at, but not sooner than `pause` after it was told last.
    pub fn news(&mut self, group: GroupId, pause: i64) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        let at = open.told_at.map_or(Timestamp::default(), |told| told.plus_micros(pause));
        let old = open.look_at;
        let at = old.map_or(at, |old| old.min(at));
        open.look_at = Some(at);
        self.look_again(group, old, Some(at));
    }

    /// Up to `limit` groups to look at for something to tell.
    pub fn to_look_at(&self, now: Timestamp, limit: usize) -> Vec<GroupId> {
        self.looks.iter().take_while(|(at, _)| *at <= now).take(limit).map(|(_, g)| *g).collect()
    }

    /// A group was looked at; `next`: when to look again though nothing comes.
    pub fn looked_at(&mut self, group: GroupId, next: Option<Timestamp>) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        let old = std::mem::replace(&mut open.look_at, next);
        self.look_again(group, old, next);
    }

    fn look_again(&mut self, group: GroupId, old: Option<Timestamp>, next: Option<Timestamp>) {
        if let Some(at) = old {
            self.looks.remove(&(at, group));
        }
        if let Some(at) = next {
            self.looks.insert((at, group));
        }
    }

    /// The call of a group was told as one that is up.
    pub fn told(&mut self, group: GroupId, call: i64, now: Timestamp) {
        let Some(open) = self.groups.get_mut(&group) else { return };
        open.calls.insert(call);
        open.told_at = Some(now);
        self.calls.insert(call, group);
    }

    /// Those whose moment has come.
    pub fn due(&self, horizon: Timestamp) -> Vec<GroupId> {
        self.due.iter().take_while(|(at, _)| *at <= horizon).map(|(_, g)| *g).collect()
    }

    /// Up to `limit` groups that are to be settled.
    pub fn ready(&self, limit: usize) -> Vec<GroupId> {
        self.ready.iter().copied().take(limit).collect()
    }

    pub fn get(&self, group: GroupId) -> Option<&Open> {
        self.groups.get(&group)
    }

    pub fn get_mut(&mut self, group: GroupId) -> Option<&mut Open> {
        self.groups.get_mut(&group)
    }

    /// A group was settled: nothing of it is held any more.
    pub fn forget(&mut self, group: GroupId) {
        self.grouper.forget(group);
        let Some(open) = self.groups.remove(&group) else { return };
        self.unschedule(group, open.due);
        self.look_again(group, open.look_at, None);
        self.touched.remove(&group);
        self.cached -= open.rows.iter().filter(|h| h.row.is_some()).count();
        for call in open.calls {
            if self.calls.get(&call) == Some(&group) {
                self.calls.remove(&call);
            }
        }
        if self.groups.capacity() > 4_096 && self.groups.len() * 4 < self.groups.capacity() {
            self.groups.shrink_to(self.groups.len() * 2);
        }
    }

    /// How many groups are open.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// How many rows are kept in memory.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Whether anything waits for a moment of the database rather than for rows.
    pub fn waits_for_time(&self, until: Timestamp) -> bool {
        !self.ready.is_empty() || self.due.first().is_some_and(|(at, _)| *at <= until)
    }

    /// Linkedids of ended calls whose record has not come, at most `limit` calls.
    pub fn wanting_cdr(&self, limit: usize) -> Vec<String> {
        let groups = self.wanting_cdr.iter().take(limit);
        let keys = groups.flat_map(|g| self.grouper.keys(*g, 0));
        let linkedids: HashSet<_> = keys.filter(|(_, linkedid)| *linkedid).map(|(id, _)| id.to_string()).collect();
        let mut linkedids: Vec<_> = linkedids.into_iter().collect();
        linkedids.sort_by(|a, b| ids::compare(a, b));
        linkedids
    }

    /// Linkedids of calls that have to be read again whole, at most `limit`.
    pub fn wanting_reread(&self, limit: usize) -> Vec<CompactString> {
        let mut wanted = BTreeSet::new();
        for group in &self.rereading {
            if let Some(Open { reread: Reread::Waits(waits), .. }) = self.groups.get(group) {
                wanted.extend(waits.iter().cloned());
            }
            if wanted.len() >= limit {
                break;
            }
        }
        wanted.into_iter().collect()
    }
}

/// A call of the ledger on its way into the picture.
#[derive(Clone, Debug)]
pub struct Attached {
    pub call: i64,
    pub keys: Vec<Key>,
    pub frozen: bool,
    /// It was settled from all of its rows, and may not be rebuilt from a part of them: neither what receivers know, nor
    /// what was kept from them.
    pub whole: bool,
    pub rows: Option<Vec<HeldRow>>,
    /// When it was told last as one that is up.
    pub told_at: Option<Timestamp>,
}
