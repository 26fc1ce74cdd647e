//! Which rows belong together: union-find over linkedids, uniqueids and the uniqueids inside `extra`, fed a row at a
//! time. The partition that comes out does not depend on the order or repetition of rows.
//!
//! Sets are kept as labels on ids with the smaller set relabelled on a union, so that looking an id up is one hash and a
//! group can be forgotten whole.

use std::collections::{BTreeMap, HashMap};

use compact_str::CompactString;
use foldhash::fast::RandomState;
use thiserror::Error;

use super::extra;
use super::ids::{Id, bare_name, is_service_channel};
use crate::call::{CdrRow, CelEvent, CelRow, Row, RowTime, WallTime};

pub use super::nailed::{partition, partition_with, shared_ids};

/// A group of rows that may be one call (or several, see [`partition`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// Something of each group.
pub type GroupMap<V> = HashMap<GroupId, V, RandomState>;

/// Something of each id or name. Every row looks its ids up, so hashing them has to be quick.
type NameMap<V> = HashMap<CompactString, V, RandomState>;

/// Where a row went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    pub group: GroupId,
    /// Groups that this row turned out to tie to `group`; they are gone now.
    pub absorbed: Vec<GroupId>,
}

/// Why a row takes part in no group: it goes to quarantine.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Unusable(pub String);

/// Uniqueids and linkedids look alike and are kept apart: a channel's uniqueid says nothing of the linkedid of the same
/// text until a row carries both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Unique(CompactString),
    Linked(CompactString),
}

#[derive(Debug, Default)]
struct Members {
    keys: Vec<Key>,
    /// CDR only: channel names with an interval of this group.
    names: Vec<CompactString>,
}

/// The group of every key.
#[derive(Debug, Default)]
struct Labels {
    unique: NameMap<u64>,
    linked: NameMap<u64>,
}

impl Labels {
    fn get(&self, key: &Key) -> Option<u64> {
        match key {
            Key::Unique(id) => self.unique.get(id.as_str()).copied(),
            Key::Linked(id) => self.linked.get(id.as_str()).copied(),
        }
    }

    fn insert(&mut self, key: Key, group: u64) {
        match key {
            Key::Unique(id) => self.unique.insert(id, group),
            Key::Linked(id) => self.linked.insert(id, group),
        };
    }

    fn remove(&mut self, key: &Key) {
        match key {
            Key::Unique(id) => self.unique.remove(id),
            Key::Linked(id) => self.linked.remove(id),
        };
    }

    /// Gives back what a burst took; most of it has to be free, so that it is not done again and again.
    fn shrink(&mut self) {
        for map in [&mut self.unique, &mut self.linked] {
            if map.capacity() > SHRINK_ABOVE && map.len() * 8 < map.capacity() {
                map.shrink_to(map.len() * 2 + SHRINK_ABOVE / 2);
            }
        }
    }
}

/// Maps below this stay as they are.
const SHRINK_ABOVE: usize = 16_384;

/// An interval of records of one channel name: start to (end, group). Disjoint, since what overlaps is one.
type Intervals = BTreeMap<i64, (i64, u64)>;

/// The groups of all rows that are held.
#[derive(Debug, Default)]
pub struct Grouper {
    label: Labels,
    groups: HashMap<u64, Members, RandomState>,
    names: NameMap<Intervals>,
    next: u64,
    /// There is no CEL: channel names tie records together.
    by_name: bool,
}

/// Records are in whole seconds, their end at times computed from a floored duration: this far apart they still touch.
const TOUCH_US: i64 = 1_000_000;

impl Grouper {
    /// For a source that has CDR only: records that share a full channel name while their times overlap are of one call.
    /// (Beside CEL this must not be: conference records pair participants arbitrarily.)
    pub fn cdr_only() -> Self {
        Self { by_name: true, ..Self::default() }
    }

    /// Puts a row into its group. `Ok(None)`: a row of a channel that never founds nor joins a call (`Message/` …).
    pub fn add(&mut self, row: &Row) -> Result<Option<Joined>, Unusable> {
        let channel = match row {
            Row::Cel(r) => &r.channel,
            Row::Cdr(r) => &r.channel,
        };
        if is_service_channel(channel) {
            return Ok(None);
        }
        if let Some(group) = self.settled(row) {
            return Ok(Some(Joined { group, absorbed: Vec::new() }));
        }
        let unique = usable("uniqueid", row.uniqueid())?;
        let linked = usable("linkedid", row.linkedid())?;
        let own = [unique.map(|u| Key::Unique(u.into())), linked.map(|l| Key::Linked(l.into()))];
        let mut keys: Vec<Key> = own.into_iter().flatten().collect();
        if keys.is_empty() {
            return Err(Unusable("neither uniqueid nor linkedid".to_owned()));
        }
        if let Row::Cel(r) = row {
            for_tied_uniqueids(r, |id| keys.push(Key::Unique(id.into())));
        }
        let first_new = self.next;
        let known = keys.iter().find_map(|k| self.label.get(k));
        let group = known.unwrap_or_else(|| self.found());
        let mut joined = Joined { group: GroupId(group), absorbed: Vec::new() };
        for key in keys {
            self.take_in(&mut joined, key);
        }
        if let (true, Row::Cdr(r)) = (self.by_name, row) {
            self.tie_by_names(&mut joined, r);
        }
        // groups that this call made for new ids were never known to anybody
        joined.absorbed.retain(|g| g.0 < first_new);
        Ok(Some(joined))
    }

    /// Drops a group and all its ids: its rows are no longer held.
    pub fn forget(&mut self, group: GroupId) {
        let Some(members) = self.groups.remove(&group.0) else { return };
        for key in &members.keys {
            self.label.remove(key);
        }
        for name in members.names {
            if let Some(intervals) = self.names.get_mut(&name) {
                intervals.retain(|_, (_, g)| *g != group.0);
                if intervals.is_empty() {
                    self.names.remove(&name);
                }
            }
        }
        // a burst must not hold its memory for good
        self.label.shrink();
        if self.groups.capacity() > SHRINK_ABOVE && self.groups.len() * 8 < self.groups.capacity() {
            self.groups.shrink_to(self.groups.len() * 2 + SHRINK_ABOVE / 2);
            self.names.shrink_to(self.names.len() * 2);
        }
    }

    /// The group that holds this uniqueid or linkedid.
    pub fn find(&self, id: &str) -> Option<GroupId> {
        let group = self.label.unique.get(id).or_else(|| self.label.linked.get(id));
        group.copied().map(GroupId)
    }

    /// Every uniqueid and linkedid of a group.
    pub fn ids(&self, group: GroupId) -> Vec<CompactString> {
        let Some(members) = self.groups.get(&group.0) else { return Vec::new() };
        let text = |key: &Key| match key {
            Key::Unique(id) | Key::Linked(id) => id.clone(),
        };
        let mut ids: Vec<CompactString> = members.keys.iter().map(text).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// The keys of a group from the `from`th on, in the order they came: (id, it is a linkedid). A group that takes
    /// another in keeps the place of those it had.
    pub fn keys(&self, group: GroupId, from: usize) -> Vec<(CompactString, bool)> {
        let keys = self.groups.get(&group.0).and_then(|m| m.keys.get(from..)).unwrap_or_default();
        keys.iter()
            .map(|key| match key {
                Key::Unique(id) => (id.clone(), false),
                Key::Linked(id) => (id.clone(), true),
            })
            .collect()
    }

    /// Ties further keys to a group, known of its call from elsewhere.
    pub fn tie(&mut self, group: GroupId, keys: &[(CompactString, bool)]) -> Joined {
        let first_new = self.next;
        let mut joined = Joined { group, absorbed: Vec::new() };
        if !self.groups.contains_key(&group.0) {
            return joined;
        }
        for (id, linkedid) in keys {
            let key = if *linkedid { Key::Linked(id.clone()) } else { Key::Unique(id.clone()) };
            self.take_in(&mut joined, key);
        }
        joined.absorbed.retain(|g| g.0 < first_new);
        joined
    }

    /// How many groups are held.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The group of a row whose ids are known and together already: most rows tell nothing new.
    fn settled(&self, row: &Row) -> Option<GroupId> {
        let unique = *self.label.unique.get(row.uniqueid())?;
        let linked = *self.label.linked.get(row.linkedid())?;
        let ties = match row {
            Row::Cel(r) => ties_channels(&r.event),
            Row::Cdr(_) => self.by_name,
        };
        (unique == linked && !ties).then_some(GroupId(unique))
    }

    /// A new group without keys.
    fn found(&mut self) -> u64 {
        let group = self.next;
        self.next += 1;
        self.groups.insert(group, Members::default());
        group
    }

    /// Puts a key into the group, and with it the group that has it.
    fn take_in(&mut self, joined: &mut Joined, key: Key) {
        match self.label.get(&key) {
            Some(other) => self.unite(joined, other),
            None => {
                self.groups.entry(joined.group.0).or_default().keys.push(key.clone());
                self.label.insert(key, joined.group.0);
            }
        }
    }

    /// Makes `other` and the group of `joined` one; the larger set keeps its label.
    fn unite(&mut self, joined: &mut Joined, other: u64) {
        let own = joined.group.0;
        if own == other {
            return;
        }
        let size = |g: u64| self.groups.get(&g).map_or(0, |m| m.keys.len() + m.names.len());
        // of two equal sets the older stays
        let (keep, gone) = if (size(own), other) > (size(other), own) { (own, other) } else { (other, own) };
        let Some(mut members) = self.groups.remove(&gone) else { return };
        for key in &members.keys {
            self.label.insert(key.clone(), keep);
        }
        for name in &members.names {
            for (_, g) in self.names.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
                if *g == gone {
                    *g = keep;
                }
            }
        }
        let kept = self.groups.entry(keep).or_default();
        kept.keys.append(&mut members.keys);
        kept.names.append(&mut members.names);
        joined.group = GroupId(keep);
        joined.absorbed.retain(|g| g.0 != keep);
        joined.absorbed.push(GroupId(gone));
    }

    fn tie_by_names(&mut self, joined: &mut Joined, row: &CdrRow) {
        // in a conference every participant is paired with every other, and each is a call of their own
        let conference = ["ConfBridge", "MeetMe", "Conference"].iter().any(|a| row.lastapp.eq_ignore_ascii_case(a));
        let Some((start, end)) = interval(row) else { return };
        for name in [&row.channel, if conference { &row.channel } else { &row.dstchannel }] {
            let name = bare_name(name);
            if !name.is_empty() {
                self.tie_by_name(joined, name, start, end);
            }
        }
    }

    fn tie_by_name(&mut self, joined: &mut Joined, name: &str, start: i64, end: i64) {
        let intervals = self.names.entry(name.into()).or_default();
        // disjoint and sorted by start, so sorted by end too: walk back from the last that starts early enough
        let reach = end.saturating_add(TOUCH_US);
        let touching: Vec<(i64, i64, u64)> = intervals
            .range(..=reach)
            .rev()
            .take_while(|(_, (e, _))| e.saturating_add(TOUCH_US) >= start)
            .map(|(s, (e, g))| (*s, *e, *g))
            .collect();
        let (mut from, mut to) = (start, end);
        for (s, e, _) in &touching {
            intervals.remove(s);
            (from, to) = (from.min(*s), to.max(*e));
        }
        intervals.insert(from, (to, joined.group.0));
        for (_, _, group) in touching {
            // earlier unions of this loop may have renamed it
            if self.groups.contains_key(&group) {
                self.unite(joined, group);
            }
        }
        if let Some(value) = self.names.get_mut(name).and_then(|i| i.get_mut(&from)) {
            value.1 = joined.group.0;
        }
        if let Some(members) = self.groups.get_mut(&joined.group.0)
            && !members.names.iter().any(|n| n == name)
        {
            members.names.push(name.into());
        }
    }
}

/// `Ok(None)`: the row has no such column.
fn usable<'a>(what: &str, id: &'a str) -> Result<Option<&'a str>, Unusable> {
    if id.is_empty() {
        return Ok(None);
    }
    match Id::parse(id) {
        Some(_) => Ok(Some(id)),
        None => Err(Unusable(format!("{what} {:?} does not read [systemname-]epoch.counter", clip(id)))),
    }
}

fn clip(text: &str) -> &str {
    text.char_indices().nth(160).map_or(text, |(i, _)| &text[..i])
}

/// The uniqueids that an event ties to its own channel.
pub(super) fn for_tied_uniqueids(row: &CelRow, mut f: impl FnMut(&str)) {
    if !ties_channels(&row.event) {
        return;
    }
    for pair in extra::pairs(&row.extra) {
        if pair.key.ends_with("_uniqueid") {
            let id = pair.text();
            if Id::parse(&id).is_some() {
                f(&id);
            }
        }
    }
}

/// Events whose details name further channels of the call.
fn ties_channels(event: &CelEvent) -> bool {
    matches!(
        event,
        CelEvent::Pickup
            | CelEvent::AttendedTransfer
            | CelEvent::BlindTransfer
            | CelEvent::LocalOptimize
            | CelEvent::LocalOptimizeBegin
    )
}

/// Start and end of a record, in microseconds of whatever clock it was written by.
fn interval(row: &CdrRow) -> Option<(i64, i64)> {
    let raw = |time: RowTime| match time {
        RowTime::Utc(micros) | RowTime::Wall(WallTime(micros)) => micros,
    };
    let start = raw(row.start?);
    let by_duration = || Some(start.saturating_add(row.duration_ms?.saturating_mul(1_000)));
    let end = row.end.map(raw).or_else(by_duration).unwrap_or(start);
    // at the end of daylight saving a record ends before it starts
    Some((start.min(end), start.max(end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cel(uniqueid: &str, linkedid: &str) -> Row {
        Row::Cel(CelRow { uniqueid: uniqueid.into(), linkedid: linkedid.into(), ..CelRow::default() }.into())
    }

    fn cdr(uniqueid: &str, channel: &str, dstchannel: &str, start: i64, end: i64) -> Row {
        let time = |s: i64| Some(RowTime::Wall(WallTime(s * 1_000_000)));
        Row::Cdr(
            CdrRow {
                uniqueid: uniqueid.into(),
                linkedid: uniqueid.into(),
                channel: channel.into(),
                dstchannel: dstchannel.into(),
                start: time(start),
                end: time(end),
                ..CdrRow::default()
            }
            .into(),
        )
    }

    #[test]
    fn a_late_row_unites_two_groups() {
        let mut g = Grouper::default();
        let a = g.add(&cel("1795214890.1", "1795214890.1")).expect("usable").expect("joins").group;
        let b = g.add(&cel("1795214890.2", "1795214890.2")).expect("usable").expect("joins").group;
        assert_ne!(a, b);
        let joined = g.add(&cel("1795214890.2", "1795214890.1")).expect("usable").expect("joins");
        assert_eq!(joined.absorbed.len(), 1);
        assert_eq!(g.find("1795214890.1"), Some(joined.group));
        assert_eq!(g.find("1795214890.2"), Some(joined.group));
        assert_eq!(g.ids(joined.group), ["1795214890.1", "1795214890.2"]);
        g.forget(joined.group);
        assert!(
            g.is_empty() && g.label.unique.is_empty() && g.label.linked.is_empty() && g.find("1795214890.1").is_none()
        );
    }

    #[test]
    fn keys_known_from_elsewhere_tie_groups() {
        let mut g = Grouper::default();
        let a = g.add(&cel("1795214890.1", "1795214890.1")).expect("usable").expect("joins").group;
        let b = g.add(&cel("1795214890.2", "1795214890.2")).expect("usable").expect("joins").group;
        assert_eq!(g.keys(a, 0), [("1795214890.1".into(), false), ("1795214890.1".into(), true)]);
        let joined = g.tie(a, &[("1795214890.2".into(), true), ("1795214890.9".into(), false)]);
        assert_eq!((joined.group, joined.absorbed), (a, vec![b]));
        assert_eq!(g.keys(a, 2).len(), 3);
        assert_eq!(g.find("1795214890.9"), Some(a));
        assert_eq!(g.tie(GroupId(99), &[]).group, GroupId(99));
    }

    #[test]
    fn a_uniqueid_is_not_the_linkedid_of_the_same_text() {
        let mut g = Grouper::default();
        let a = g.add(&cel("1795214890.5", "1795214890.1")).expect("usable").expect("joins").group;
        let b = g.add(&cel("1795214890.6", "1795214890.5")).expect("usable").expect("joins").group;
        assert_ne!(a, b);
    }

    #[test]
    fn extra_ties_channels_together() {
        let mut g = Grouper::default();
        g.add(&cel("1795214890.2", "1795214890.2")).expect("usable");
        let pickup = CelRow {
            event: CelEvent::Pickup,
            uniqueid: "1795214890.1".into(),
            linkedid: "1795214890.1".into(),
            extra: r#"{"pickup_channel":"PJSIP/1-1","pickup_channel_uniqueid":"1795214890.2"}"#.into(),
            ..CelRow::default()
        };
        g.add(&Row::Cel(pickup.into())).expect("usable");
        assert_eq!(g.find("1795214890.1"), g.find("1795214890.2"));
    }

    #[test]
    fn ids_that_are_none_go_to_quarantine() {
        let mut g = Grouper::default();
        for (u, l) in [("", ""), ("x", "1795214890.1"), ("1795214890.1", "truncat"), ("'; DROP TABLE cel", "")] {
            assert!(g.add(&cel(u, l)).is_err(), "{u} {l}");
        }
        assert!(g.is_empty());
        let message =
            CelRow { channel: "Message/ast_msg_queue".into(), uniqueid: "1795214890.1".into(), ..CelRow::default() };
        assert_eq!(g.add(&Row::Cel(message.into())), Ok(None));
    }

    #[test]
    fn records_without_cel_are_tied_by_overlapping_channel_names() {
        let rows = [
            cdr("1795214890.1", "PJSIP/trunk-00000001", "PJSIP/1001-00000002", 100, 110),
            cdr("1795214895.3", "PJSIP/1001-00000003", "PJSIP/1002-00000004", 105, 110),
            cdr("1795214890.1", "PJSIP/trunk-00000001", "PJSIP/1002-00000004", 110, 120),
            // the same name after a restart
            cdr("1795219999.1", "PJSIP/trunk-00000001", "PJSIP/1009-00000002", 5000, 5010),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [1, 0, 3, 2]] {
            let mut g = Grouper::cdr_only();
            for i in order {
                g.add(&rows[i]).expect("usable");
            }
            assert_eq!(g.len(), 2, "{order:?}");
            assert_eq!(g.find("1795214890.1"), g.find("1795214895.3"));
            let first = g.find("1795214890.1").expect("held");
            g.forget(first);
            g.forget(g.find("1795219999.1").expect("held"));
            assert!(
                g.label.unique.is_empty() && g.label.linked.is_empty() && g.names.is_empty() && g.groups.is_empty()
            );
        }
    }

    #[test]
    fn absorbed_groups_are_reported_once_and_are_gone() {
        let mut g = Grouper::cdr_only();
        let mut held = std::collections::HashSet::new();
        for i in 0..200_i64 {
            let (a, b) = (i % 17, i % 13);
            let row = cdr(
                &format!("1795214890.{i}"),
                &format!("PJSIP/a-0000{a:04}"),
                &format!("PJSIP/b-0000{b:04}"),
                i * 3,
                i * 3 + 40,
            );
            let joined = g.add(&row).expect("usable").expect("joins");
            for gone in &joined.absorbed {
                assert!(!g.groups.contains_key(&gone.0));
                held.remove(gone);
            }
            held.insert(joined.group);
            assert_eq!(held.len(), g.len());
        }
    }
}
