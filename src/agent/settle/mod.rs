//! From the journal to the outbox: takes new rows into the picture of open groups, and writes each call that is over
//! into ledger and outbox while its rows leave the journal, in one transaction.
//!
//! A plain struct with blocking methods; time is handed in. Nothing in memory changes before the transaction that it
//! follows from is durable, and all of it is made anew from the state by [`Settler::new`].

use std::collections::{BTreeSet, HashSet};

use compact_str::CompactString;

use super::compose::Frame;
use super::judge::Policy;
use super::lanes::Lanes;
use super::marks::{MarkBook, Restarts};
use super::picture::{Attached, Picture};
use crate::call::{Row, Timestamp};
use crate::correlate::completion::RestartSign;
use crate::correlate::group::GroupId;
use crate::correlate::{Rules, Zone};
use crate::metrics;
use crate::source::{self, Batch, Wishes};
use crate::store::ledger::{self, Entry, Key, MARK_RESTART, State};
use crate::store::recordings::Used;
use crate::store::{Result, Store, StoreError, forgotten, journal, meta, recordings};

mod arrived;
mod guard; // one call's panic
mod past;
mod plan;
mod update;
mod write; // one step's transaction

pub use arrived::Arrived;
pub use past::{Past, Wanted};
use plan::Plan;

/// Calls written in one transaction.
const CALLS_PER_TRANSACTION: usize = 500;
/// Rows of the journal read at once.
const PAGE: usize = 1_000;
/// Calls whose missing record, or whose rows, are asked for at once.
const WISHES_MAX: usize = 200;
/// Waiting recordings looked at after each batch.
const RECORDINGS: usize = 200;
/// Remembered of them at most.
const RECORDINGS_TRIED_MAX: usize = 10_000;
/// Where the watch for restarts is kept.
const META_RESTARTS: &str = "restarts";

/// What one step of settling did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Calls that are over and enter the outbox for the first time as such.
    pub shipped: usize,
    /// Further revisions of calls.
    pub revised: usize,
    /// Documents of calls that are up.
    pub told: usize,
    /// Calls that turned out to be part of another.
    pub merged: usize,
    /// Rebuilt without a change that receivers would see.
    pub unchanged: usize,
    /// Ended before `START_FROM`.
    pub before_start: usize,
    /// Kept back by a filter.
    pub suppressed: usize,
    /// Rows given up: late for a frozen call, or a part of a call whose other rows are gone everywhere.
    pub dropped_rows: usize,
    /// More is ready: go on at once.
    pub more: bool,
}

impl Outcome {
    fn add(&mut self, other: Self) {
        self.shipped += other.shipped;
        self.revised += other.revised;
        self.told += other.told;
        self.merged += other.merged;
        self.unchanged += other.unchanged;
        self.before_start += other.before_start;
        self.suppressed += other.suppressed;
        self.dropped_rows += other.dropped_rows;
        self.more = other.more;
    }

    /// Something was written.
    pub const fn did_something(self) -> bool {
        self.shipped + self.revised + self.merged + self.unchanged + self.before_start + self.dropped_rows > 0
    }
}

/// Everything settling needs to know besides rows.
#[derive(Clone, Debug)]
pub struct Setup {
    pub frame: Frame,
    pub policy: Policy,
    /// Names of the sinks that get a delivery of each document.
    pub sinks: Vec<&'static str>,
}

pub struct Settler {
    store: Store,
    setup: Setup,
    picture: Picture,
    book: MarkBook,
    /// Every zone that was in force; the last one is now. Empty: not known yet, and nothing is built.
    zones: Vec<Zone>,
    /// Every set of rules that was in force; the last one is now.
    rules: Vec<Option<Rules>>,
    /// Everything visible at this moment of the database has been read.
    horizon: Timestamp,
    /// The database's clock as of the last read.
    db_now: Option<Timestamp>,
    lanes: Lanes,
    /// When the state was created was compared with the database's clock.
    created_known: bool,
    /// Rows of the journal up to this one are in the picture since it was made.
    loaded_to: i64,
    /// Groups with rows in the last portion read, when more were waiting behind it: the rest of their rows may be in the
    /// next one, so they are judged after it.
    cut: BTreeSet<GroupId>,
    /// Everything that was visible at the last read has been taken in.
    current: bool,
    /// There are recordings that were found beside rows.
    has_recordings: bool,
    /// Waiting recordings up to this one were looked at.
    recordings_to: i64,
    /// Those a call was opened again for.
    recordings_tried: HashSet<Used>,
    /// Memory does not follow from the state any more: it has to be made anew.
    stale: bool,
    /// What was forgotten on request when memory was made: what is forgotten after that may be in memory still.
    forgotten: i64,
}

impl Settler {
    /// Rebuilds the picture of open groups from the state.
    pub fn new(store: Store, mut setup: Setup) -> Result<Self> {
        let (zones, marks, restarts, positions, created_at) = store.read_blocking(|conn| {
            let restarts = meta::get(conn, META_RESTARTS)?;
            Ok((meta::zones(conn)?, ledger::marks(conn)?, restarts, meta::positions(conn)?, meta::created_at(conn)?))
        })?;
        let restarts: Restarts = restarts.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        setup.frame.created_at = created_at;
        let start = positions.iter().find(|(name, _)| name == source::START_POSITION);
        setup.frame.start_at = start.and_then(|(_, value)| source::start_of(value));
        let in_force = setup.frame.rules.clone();
        let rules = store.write_blocking(move |conn| meta::put_rules(conn, &in_force))?;
        let picture = Picture::new(setup.frame.rules.has_cel);
        let mut settler = Self {
            store,
            picture,
            book: MarkBook::new(marks, restarts),
            zones,
            rules,
            horizon: Timestamp::default(),
            db_now: None,
            lanes: Lanes::new(setup.frame.rules.has_cel, setup.frame.rules.has_cdr),
            created_known: false,
            loaded_to: 0,
            cut: BTreeSet::new(),
            current: false,
            has_recordings: false,
            recordings_to: 0,
            recordings_tried: HashSet::new(),
            stale: true,
            forgotten: 0,
            setup,
        };
        settler.load()?;
        Ok(settler)
    }

    /// Stores a batch and takes it in. (The agent does the first half beside reading the next one.)
    pub fn ingest(&mut self, batch: Batch, now: Timestamp) -> Result<usize> {
        let reread: HashSet<CompactString> = self.picture.wanting_reread(WISHES_MAX).into_iter().collect();
        let (batch, seqs) = self.store.write_blocking(move |conn| {
            let seqs = journal::append(conn, &batch, &reread, now)?;
            Ok((batch, seqs))
        })?;
        let arrived = Arrived::of(batch, &seqs);
        let new = arrived.rows.len();
        self.take(arrived)?;
        Ok(new)
    }

    /// Takes in what was stored.
    pub fn take(&mut self, arrived: Arrived) -> Result<()> {
        let done = self.try_take(arrived);
        if done.is_err() {
            // half of it may be in the picture
            self.stale = true;
        }
        done
    }

    fn try_take(&mut self, arrived: Arrived) -> Result<()> {
        let waited = self.picture.next_batch();
        if let Some(start) = arrived.start {
            self.setup.frame.start_at = start;
        }
        if let Some(db_now) = arrived.db_now {
            self.learn_created_at(db_now)?;
            if self.db_now.replace(db_now).is_some_and(|before| db_now < before) {
                self.picture.clock_was_set_back();
            }
        }
        if let (Some(db_now), 1..) = (arrived.db_now, arrived.gaps_given_up) {
            self.note_gap(db_now)?;
        }
        if let Some(zone) = arrived.zone {
            self.learn_zone(zone)?;
        }
        if self.stale {
            // the rows are in the journal already
            self.load()?;
        } else if let Some(zone) = self.zones.last().cloned() {
            let mut signs = Vec::new();
            for (seq, held) in arrived.rows {
                if seq <= self.loaded_to {
                    continue;
                }
                self.lanes.observe(&held.row, &zone, arrived.db_now);
                signs.extend(self.watch(&held.row, &zone));
                self.picture.take(seq, held, &zone, arrived.db_now, &self.setup.policy);
            }
            self.look_up(&zone)?;
            for sign in signs {
                self.heed(sign, &zone)?;
            }
        }
        if arrived.caught_up
            && let Some(zone) = self.zones.last().cloned()
        {
            self.open_recorded(&zone)?;
        }
        match arrived.db_now.filter(|_| arrived.caught_up) {
            // also backwards, where the database's clock was set back: nothing may count as past that is to come
            Some(now) => {
                self.see_to(now);
                self.lanes.forget();
            }
            // what was seen before does not help: rows of then may have become visible only now (a replica that lagged,
            // an import), the records of a call pages before its events
            None => self.see_to(self.lanes.horizon(&arrived.read_out, arrived.db_now).unwrap_or_default()),
        }
        self.picture.answered(&arrived.reread);
        self.picture.asked(arrived.cdr_of.as_deref().filter(|_| arrived.caught_up));
        self.current = arrived.caught_up;
        let touched = self.picture.touched();
        self.news(&touched);
        let cut = if arrived.caught_up { BTreeSet::new() } else { touched.iter().copied().collect() };
        self.cut.extend(waited);
        for group in std::mem::replace(&mut self.cut, cut) {
            if !self.cut.contains(&group) {
                self.judge(group);
            }
        }
        if arrived.caught_up {
            touched.into_iter().for_each(|group| self.judge(group));
        }
        Ok(())
    }

    fn judge(&mut self, group: GroupId) {
        self.picture.judge(group, &self.setup.policy, &self.book, self.horizon);
    }

    /// Settles up to a transaction's worth of calls that are over. `now` is the agent's clock.
    pub fn settle(&mut self, now: Timestamp) -> Result<Outcome> {
        let done = self.try_settle(now);
        if done.is_err() {
            // marks may be in memory that are not in the state
            self.stale = true;
        }
        done
    }

    fn try_settle(&mut self, now: Timestamp) -> Result<Outcome> {
        let forgotten = self.store.read_blocking(forgotten::generation)?;
        if self.stale || forgotten != self.forgotten {
            self.load()?;
        }
        for group in self.picture.due(self.horizon) {
            self.judge(group);
        }
        self.has_recordings = self.store.read_blocking(recordings::any)?;
        let ready = self.picture.ready(CALLS_PER_TRANSACTION);
        let mut plan =
            Plan { refused: self.picture.refused.clone(), gone: self.picture.ignored.clone(), ..Plan::default() };
        for fetched in self.fetch(&ready)? {
            self.plan(fetched, &mut plan)?;
        }
        let writes = self.decide(&mut plan)?;
        if !plan.is_empty() {
            self.write(&mut plan, writes, now)?;
        }
        let mut outcome = plan.outcome;
        outcome.more = !self.picture.ready(1).is_empty() || !self.picture.due(self.horizon).is_empty();
        if !outcome.more {
            self.update(now, &mut outcome)?;
        }
        count(outcome);
        metrics::CALLS_OPEN.set(i64::try_from(self.picture.len()).unwrap_or(i64::MAX));
        Ok(outcome)
    }

    /// Settles everything that is over.
    pub fn settle_all(&mut self, now: Timestamp) -> Result<Outcome> {
        let mut all = Outcome::default();
        loop {
            all.add(self.settle(now)?);
            if !all.more {
                return Ok(all);
            }
        }
    }

    /// What the source should look for.
    pub fn wishes(&self) -> Wishes {
        Wishes {
            cdr_of: self.picture.wanting_cdr(WISHES_MAX),
            reread: self.picture.wanting_reread(WISHES_MAX).into_iter().map(String::from).collect(),
        }
    }

    /// How many groups are open, and how many of their rows are in memory.
    pub fn size(&self) -> (usize, usize) {
        (self.picture.len(), self.picture.cached())
    }

    /// Whether a group is over and only waits for its record to be asked for, or for its grace, which ends within
    /// `micros` of what has been read.
    pub fn waits(&self, micros: i64) -> bool {
        self.picture.holds()
            || self.picture.waits_for_time(self.horizon.max(self.db_now.unwrap_or_default()).plus_micros(micros))
    }

    /// The zone in force, once it is known.
    pub fn zone(&self) -> Option<&Zone> {
        self.zones.last()
    }

    /// PBXs that share the table without a systemname: their restarts are not told.
    pub fn restarts_switched_off(&self) -> Vec<String> {
        self.book.restarts.switched_off()
    }

    // ------------------------------------------------------------------------------------------ making the picture

    fn load(&mut self) -> Result<()> {
        self.picture = Picture::new(self.setup.frame.rules.has_cel);
        self.stale = true;
        self.forgotten = self.store.read_blocking(forgotten::generation)?;
        self.current = false;
        self.recordings_tried.clear();
        let Some(zone) = self.zones.last().cloned() else { return Ok(()) };
        let marks = self.store.read_blocking(ledger::marks)?;
        self.book = MarkBook::new(marks, std::mem::take(&mut self.book.restarts));
        let (mut after, mut signs) = (0, Vec::new());
        loop {
            let page = match self.store.read_blocking(move |conn| journal::page(conn, after, PAGE)) {
                Err(StoreError::Content(why)) => {
                    let aside = self.store.write_blocking(journal::set_unreadable_aside)?;
                    if aside == 0 {
                        return Err(StoreError::Content(why));
                    }
                    tracing::error!(
                        rows = aside,
                        "rows of the journal cannot be read and are set aside: {}",
                        crate::log::text(&why)
                    );
                    continue;
                }
                page => page?,
            };
            let Some(last) = page.last() else { break };
            after = last.seq;
            for row in page {
                signs.extend(self.watch(&row.held.row, &zone));
                self.picture.take(row.seq, row.held, &zone, None, &self.setup.policy);
            }
            self.look_up(&zone)?;
        }
        for sign in signs {
            self.heed(sign, &zone)?;
        }
        self.open_timed_out(&zone)?;
        self.loaded_to = after;
        self.stale = false;
        self.picture.touch_all();
        // where reading stopped, a call may have been cut
        let all = self.picture.touched();
        self.news(&all);
        self.cut = all.into_iter().collect();
        Ok(())
    }

    /// Something came for these groups that may be worth telling.
    fn news(&mut self, groups: &[GroupId]) {
        if let Some(updates) = self.setup.policy.updates {
            groups.iter().for_each(|group| self.picture.news(*group, updates.pause));
        }
    }

    /// Everything visible at this moment has been read.
    fn see_to(&mut self, moment: Timestamp) {
        let before = std::mem::replace(&mut self.horizon, moment);
        let quiet = -self.setup.policy.grace.quiet;
        if self.book.restart_between(before.plus_micros(quiet), self.horizon.plus_micros(quiet)) {
            // what has had no row since is closed now
            self.picture.touch_all();
        }
    }

    /// Looks the new keys of the touched groups up in the ledger, and opens the calls they lead to again.
    fn look_up(&mut self, zone: &Zone) -> Result<()> {
        loop {
            let unknown = self.picture.unknown_keys(&self.book);
            if unknown.is_empty() {
                return Ok(());
            }
            let found = self.store.read_blocking(move |conn| {
                let mut found: Vec<(GroupId, Entry)> = Vec::new();
                for (group, keys) in &unknown {
                    found.extend(ledger::find(conn, keys.iter())?.into_iter().map(|entry| (*group, entry)));
                }
                Ok(found)
            })?;
            for (group, entry) in found {
                if self.picture.get(group).is_some_and(|o| o.calls.contains(&entry.call)) {
                    continue;
                }
                let attached = self.attached(&entry)?;
                self.picture.attach(group, attached, zone);
            }
        }
    }

    fn attached(&self, entry: &Entry) -> Result<Attached> {
        let call = entry.call;
        let frozen = entry.frozen;
        let (keys, rows) = self.store.read_blocking(move |conn| {
            let rows = if frozen { None } else { ledger::folded(conn, call)? };
            Ok((ledger::keys(conn, call)?, rows))
        })?;
        let told_at = (entry.state == State::InProgress).then_some(entry.updated_at);
        let whole = entry.state.is_settled();
        Ok(Attached { call, keys, frozen, whole, rows, told_at })
    }

    /// Opens calls again whose recording was found after they were built.
    fn open_recorded(&mut self, zone: &Zone) -> Result<()> {
        let after = self.recordings_to;
        let (found, next) = self.store.read_blocking(move |conn| recordings::waiting(conn, after, RECORDINGS))?;
        self.recordings_to = next;
        if self.recordings_tried.len() > RECORDINGS_TRIED_MAX {
            self.recordings_tried.clear();
        }
        for (recording, call) in found {
            // once is enough: a call of which a nailed-up channel's id is no key is never built with that id's recordings
            if !self.recordings_tried.insert(recording) || self.picture.group_of_call(call).is_some() {
                continue;
            }
            if let Some(entry) = self.store.read_blocking(move |conn| ledger::entry(conn, call))? {
                let attached = self.attached(&entry)?;
                self.picture.reopen(attached, zone);
            }
        }
        self.look_up(zone)
    }

    /// Looks whether a row tells of a restart, and says so.
    fn watch(&mut self, row: &Row, zone: &Zone) -> Option<RestartSign> {
        let sign = self.book.watch(row, zone)?;
        match &sign {
            RestartSign::Restarted { systemname, at } => {
                tracing::warn!(systemname, %at, "the PBX restarted; calls that were up are closed as incomplete");
            }
            RestartSign::Withdrawn { systemname, .. } => tracing::warn!(
                systemname,
                "two PBXs write to this table under one systemname: set systemname in each asterisk.conf. Restarts \
                 are not recognised any more"
            ),
        }
        Some(sign)
    }

    /// A restart makes every open group of that PBX a candidate, and every call that was shipped as one that does not end.
    /// One that was none gives back what it closed.
    fn heed(&mut self, sign: RestartSign, zone: &Zone) -> Result<()> {
        match sign {
            RestartSign::Restarted { .. } => self.open_timed_out(zone)?,
            RestartSign::Withdrawn { at, .. } => {
                for linkedid in self.book.closed_by(at) {
                    self.book.clear(&linkedid, MARK_RESTART);
                    let name = linkedid.clone();
                    self.store.write_blocking(move |conn| ledger::unmark(conn, &name, MARK_RESTART))?;
                    self.open_again(linkedid, zone)?;
                }
            }
        }
        self.picture.touch_all();
        Ok(())
    }

    /// Calls that were shipped as they were may have ended with a restart.
    fn open_timed_out(&mut self, zone: &Zone) -> Result<()> {
        let linkedids = self.book.timed_out_over_restart();
        linkedids.into_iter().try_for_each(|linkedid| self.open_again(linkedid, zone))
    }

    /// Opens the calls of a linkedid again, though no row came.
    fn open_again(&mut self, linkedid: CompactString, zone: &Zone) -> Result<()> {
        let key = Key { text: linkedid, linkedid: true };
        for entry in self.store.read_blocking(move |conn| ledger::find(conn, std::iter::once(&key)))? {
            if self.picture.group_of_call(entry.call).is_none() {
                let attached = self.attached(&entry)?;
                self.picture.reopen(attached, zone);
            }
        }
        Ok(())
    }

    /// Rows are missing that were written before this moment. Of which calls nobody knows: it is said of those that never
    /// end.
    fn note_gap(&mut self, at: Timestamp) -> Result<()> {
        self.book.gave_up(at);
        let restarts = serde_json::to_string(&self.book.restarts).unwrap_or_default();
        self.store.write_blocking(move |conn| meta::put(conn, META_RESTARTS, &restarts))
    }

    fn learn_zone(&mut self, zone: Zone) -> Result<()> {
        if self.zones.last() == Some(&zone) {
            return Ok(());
        }
        match self.zones.last() {
            None => tracing::info!(%zone, "times in the tables are read in this zone"),
            Some(before) => tracing::warn!(%before, %zone, "the zone of the times in the tables changed"),
        }
        let mut zones = self.zones.clone();
        zones.push(zone);
        let kept = zones.clone();
        self.store.write_blocking(move |conn| meta::put_zones(conn, &kept))?;
        self.zones = zones;
        // what was read with the old zone, or could not be read without one
        self.stale = true;
        Ok(())
    }

    /// The moment this state was created is compared with calls' times: the later of both clocks counts.
    fn learn_created_at(&mut self, db_now: Timestamp) -> Result<()> {
        const COMPARED: &str = "created_at_compared";
        if self.created_known {
            return Ok(());
        }
        let created_at = self.setup.frame.created_at;
        self.setup.frame.created_at = self.store.write_blocking(move |conn| {
            if meta::get(conn, COMPARED)?.is_some() {
                return Ok(created_at);
            }
            let later = created_at.max(db_now);
            meta::put_created_at(conn, later)?;
            meta::put(conn, COMPARED, "1")?;
            Ok(later)
        })?;
        self.created_known = true;
        Ok(())
    }
}

fn count(outcome: Outcome) {
    metrics::REVISIONS.inc_by(outcome.revised as u64);
    metrics::UPDATES.inc_by(outcome.told as u64);
    metrics::MERGED.inc_by(outcome.merged as u64);
    metrics::ROWS_DROPPED.inc_by(outcome.dropped_rows as u64);
}
