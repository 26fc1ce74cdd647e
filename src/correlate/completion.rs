//! When a call is complete, read from its rows alone.
//!
//! A channel has ended at CHAN_END, or at HANGUP once its linkedid has LINKEDID_END, or once a finalised CDR of it is
//! present. A call is complete when every channel of its group has ended and the grace is over, in database time. What is
//! remembered are sets and extremes, so neither the order nor the repetition of rows matters.

use std::hash::BuildHasher;

use compact_str::CompactString;
use foldhash::fast::FixedState;

use super::extra;
use super::ids::{self, Id};
use super::nailed::is_basic_bridge;
use super::zone::ClockMemory;
use crate::call::{CdrRow, CelEvent, CelRow, Row, Timestamp};
use crate::correlate::Zone;

pub use super::restart::{RestartSign, RestartWatch};

/// How long to wait after the end, in microseconds of database time.
#[derive(Clone, Debug)]
pub struct Grace {
    /// CEL is complete, the caller's CDR has not come.
    pub cdr: i64,
    /// Channels that end by neither CHAN_END nor a CDR: quiet for this long.
    pub quiet: i64,
    /// No CEL is configured: age of the newest CDR.
    pub cdr_only: i64,
    pub has_cel: bool,
    pub has_cdr: bool,
}

/// What is known so far of whether a group has ended. Small; kept for each open group.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Sorted by the hash of the uniqueid.
    channels: Vec<Channel>,
    /// Linkedids (hashed) that have a LINKEDID_END, sorted.
    linkedids_ended: Vec<u64>,
    newest: Option<Timestamp>,
    oldest: Option<Timestamp>,
    agent_login: bool,
    any_cel: bool,
    clock: ClockMemory,
    /// Place of the channel seen last.
    recent: usize,
}

/// CHAN_END and LINKEDID_END are written within milliseconds of the HANGUP, but after the record.
const LAST_EVENTS: i64 = 1_000_000;
/// Bridges remembered of a channel: one more than a channel that is not nailed up may plausibly have.
const BRIDGES_KEPT: usize = 4;

#[derive(Clone, Debug, Default)]
struct Channel {
    uniqueid: CompactString,
    /// Of the uniqueid.
    hash: u64,
    life: Life,
    /// Hashes of the first basic bridges it entered, in the order of their hashes.
    bridges: Vec<u64>,
}

/// What is known of a channel's end.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    seen: Seen,
    /// Hash of the linkedid its HANGUP carries; 0: none seen.
    hangup_linkedid: u64,
    /// Newest entry into or exit from a bridge, exits after entries of the same time.
    last_bridge: Option<(Timestamp, bool)>,
}

/// What was seen of a channel.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cel: bool,
    start: bool,
    /// Any event besides bridge entries and exits.
    own_event: bool,
    hangup: bool,
    end: bool,
    cdr: bool,
    local: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A channel is up.
    Open,
    /// Every channel has ended: complete as soon as database time reaches `at`; at once when it lies in the past.
    EndsAt(Timestamp),
}

/// The same for the same text, always: which bridges are kept must not depend on the run.
fn hashed(text: &str) -> u64 {
    FixedState::default().hash_one(text).max(1)
}

fn insert_sorted(set: &mut Vec<u64>, value: u64) {
    if let Err(at) = set.binary_search(&value) {
        set.insert(at, value);
    }
}

impl Progress {
    /// Takes a row in. Order and repetition do not matter.
    pub fn observe(&mut self, row: &Row, zone: &Zone) {
        match row {
            Row::Cel(r) => {
                if ids::is_service_channel(&r.channel) {
                    return;
                }
                let time = r.time.map(|t| self.clock.moment(zone, t, &r.uniqueid));
                self.observe_event(r, time);
                self.remember_bridge(r);
            }
            Row::Cdr(r) => {
                let start = r.start.map(|t| self.clock.moment(zone, t, &r.uniqueid));
                let by_duration = || Some(start?.plus_micros(r.duration_ms?.saturating_mul(1_000)));
                let end = r.end.map(|t| self.clock.moment(zone, t, &r.uniqueid)).or_else(by_duration);
                self.observe_record(r, start, end);
            }
        }
    }

    /// An event whose moment is known already.
    pub(super) fn observe_event(&mut self, row: &CelRow, time: Option<Timestamp>) {
        self.any_cel = true;
        if let Some(t) = time {
            self.spans(t);
        }
        if row.event == CelEvent::LinkedidEnd {
            insert_sorted(&mut self.linkedids_ended, hashed(&row.linkedid));
            // its row is a copy of whichever channel was last, and says nothing of that channel
            return;
        }
        self.agent_login |= row.event == CelEvent::AppStart && row.appname.eq_ignore_ascii_case("AgentLogin");
        self.channel(&row.uniqueid).life.observe(row, time);
    }

    /// Of a call whose events were read already: what became of its channels, and the linkedids that have ended.
    pub(super) fn of_lives<'a>(
        lives: impl Iterator<Item = (&'a str, &'a Life)>,
        linkedids_ended: impl Iterator<Item = &'a str>,
    ) -> Self {
        let mut progress = Self::default();
        for (uniqueid, life) in lives {
            progress.any_cel = true;
            progress.channel(uniqueid).life.absorb(life);
        }
        for linkedid in linkedids_ended {
            progress.any_cel = true;
            insert_sorted(&mut progress.linkedids_ended, hashed(linkedid));
        }
        progress
    }

    /// A channel of many bridges may be nailed up.
    fn remember_bridge(&mut self, row: &CelRow) {
        if row.event != CelEvent::BridgeEnter {
            return;
        }
        let [id, technology] = extra::get_all(&row.extra, ["bridge_id", "bridge_technology"]);
        if technology.is_none_or(|t| is_basic_bridge(&t))
            && let Some(id) = id
        {
            self.channel(&row.uniqueid).add_bridge(hashed(&id));
        }
    }

    /// A record whose moments are known already.
    pub(super) fn observe_record(&mut self, row: &CdrRow, start: Option<Timestamp>, end: Option<Timestamp>) {
        for t in [start, end].into_iter().flatten() {
            self.spans(t);
        }
        let seen = &mut self.channel(&row.uniqueid).life.seen;
        seen.cdr = true;
        seen.local |= ids::is_local(&row.channel);
    }

    fn spans(&mut self, t: Timestamp) {
        self.newest = self.newest.max(Some(t));
        self.oldest = Some(self.oldest.map_or(t, |o| o.min(t)));
    }

    fn channel(&mut self, uniqueid: &str) -> &mut Channel {
        // rows of one channel come in runs
        if self.channels.get(self.recent).is_some_and(|c| c.uniqueid == uniqueid) {
            return &mut self.channels[self.recent];
        }
        let hash = hashed(uniqueid);
        let order = |c: &Channel| c.hash.cmp(&hash).then_with(|| c.uniqueid.as_str().cmp(uniqueid));
        let at = match self.channels.binary_search_by(order) {
            Ok(at) => at,
            Err(at) => {
                self.channels.insert(at, Channel { uniqueid: uniqueid.into(), hash, ..Channel::default() });
                at
            }
        };
        self.recent = at;
        &mut self.channels[at]
    }

    /// Takes in what was known of a group that turned out to be this one.
    pub fn absorb(&mut self, other: Self) {
        for theirs in other.channels {
            let uniqueid = theirs.uniqueid.clone();
            self.channel(&uniqueid).absorb(theirs);
        }
        for linkedid in other.linkedids_ended {
            insert_sorted(&mut self.linkedids_ended, linkedid);
        }
        for t in [other.newest, other.oldest].into_iter().flatten() {
            self.spans(t);
        }
        self.agent_login |= other.agent_login;
        self.any_cel |= other.any_cel;
    }

    pub fn verdict(&self, grace: &Grace) -> Verdict {
        // without a single readable time nothing can be waited for
        let newest = self.newest.unwrap_or_default();
        let after = |wait: i64| Verdict::EndsAt(newest.plus_micros(wait));
        if !self.any_cel {
            return after(grace.cdr_only);
        }
        let mut left = self.channels.iter().filter(|c| c.life.seen.cel && !self.has_ended(c)).peekable();
        if left.peek().is_none() {
            let mut by_record =
                self.channels.iter().filter(|c| c.life.seen.cel && !self.has_ended_by_event(c)).peekable();
            return if by_record.peek().is_some() {
                // hung up and recorded: if more events of it are logged they are being written
                after(if by_record.all(|c| c.life.seen.hangup) { LAST_EVENTS } else { grace.quiet })
            } else if !grace.has_cdr || self.callers_cdr_is_here() {
                after(0)
            } else {
                after(grace.cdr)
            };
        }
        // an event list without CHAN_END ends channels at HANGUP; one without either leaves only the CDR to go by, and
        // other channels of a finished caller then count as gone when they are quiet
        let ends_by_event = self.channels.iter().any(|c| c.life.seen.hangup || c.life.seen.end);
        let quiet = if ends_by_event {
            left.all(|c| c.life.seen.hangup)
        } else {
            self.channels.iter().any(|c| c.life.seen.cdr)
        };
        if quiet { after(grace.quiet.max(if grace.has_cdr { grace.cdr } else { 0 })) } else { Verdict::Open }
    }

    /// Records, not events, say that it is over.
    pub fn ends_by_record(&self) -> bool {
        !self.any_cel || self.channels.iter().any(|c| c.life.seen.cel && !self.has_ended_by_event(c))
    }

    fn has_ended(&self, channel: &Channel) -> bool {
        channel.life.seen.cdr || self.has_ended_by_event(channel)
    }

    fn has_ended_by_event(&self, channel: &Channel) -> bool {
        let seen = &channel.life.seen;
        if seen.end {
            return true;
        }
        if seen.hangup && self.linkedids_ended.binary_search(&channel.life.hangup_linkedid).is_ok() {
            return true;
        }
        // a nailed-up channel is in this call only through its bridges, and gone with the last of them
        !seen.own_event && !seen.start && channel.life.last_bridge.is_some_and(|(_, exit)| exit)
    }

    /// The founding channel's record: of a call that began with a pair of Local channels any record will do, since
    /// which of its channels gets one depends on how the pair was optimised away.
    fn callers_cdr_is_here(&self) -> bool {
        let founder = self.channels.iter().filter(|c| c.life.seen.cel).min_by_key(|c| ids::rank(&c.uniqueid));
        match founder {
            Some(c) if c.life.seen.local => self.channels.iter().any(|c| c.life.seen.cdr),
            Some(c) => c.life.seen.cdr,
            None => false,
        }
    }

    /// Newest and oldest event seen.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.newest?, self.oldest?))
    }

    /// CEL says that all is over and the caller channel's CDR is not here: the targeted lane should look.
    pub fn wants_cdr(&self) -> bool {
        self.any_cel
            && !self.callers_cdr_is_here()
            && self.channels.iter().filter(|c| c.life.seen.cel).all(|c| self.has_ended(c) || c.life.seen.hangup)
    }

    /// A channel that many callers were bridged to one after another, or AgentLogin: the group has to be split by
    /// [`super::group::partition`] before it is judged. (That may find that one call it is.)
    pub fn has_nailed_up(&self) -> bool {
        self.agent_login || self.channels.iter().any(|c| c.bridges.len() >= BRIDGES_KEPT)
    }

    /// The restart closed this group: every channel of it is of that PBX and began before, and no row came after.
    pub fn closed_by_restart(&self, systemname: &str, at: Timestamp) -> bool {
        let of_pbx = |c: &Channel| Id::parse(&c.uniqueid).is_some_and(|i| i.systemname == systemname);
        self.newest.is_some_and(|t| t < at) && !self.channels.is_empty() && self.channels.iter().all(of_pbx)
    }
}

impl Channel {
    fn add_bridge(&mut self, bridge: u64) {
        insert_sorted(&mut self.bridges, bridge);
        // which ones are kept must not depend on order: the least
        self.bridges.truncate(BRIDGES_KEPT);
    }

    fn absorb(&mut self, other: Self) {
        self.life.absorb(&other.life);
        for bridge in other.bridges {
            self.add_bridge(bridge);
        }
    }
}

impl Life {
    /// Takes in an event of the channel that is no LINKEDID_END.
    pub(super) fn observe(&mut self, row: &CelRow, time: Option<Timestamp>) {
        let bridge = matches!(row.event, CelEvent::BridgeEnter | CelEvent::BridgeExit);
        self.seen.cel = true;
        self.seen.local |= ids::is_local(&row.channel);
        self.seen.own_event |= !bridge;
        match row.event {
            CelEvent::ChanStart => self.seen.start = true,
            CelEvent::ChanEnd => self.seen.end = true,
            CelEvent::Hangup => {
                self.seen.hangup = true;
                self.hangup_linkedid = self.hangup_linkedid.max(hashed(&row.linkedid));
            }
            _ => {}
        }
        if bridge {
            let exit = row.event == CelEvent::BridgeExit;
            self.last_bridge = self.last_bridge.max(time.map(|t| (t, exit)));
        }
    }

    fn absorb(&mut self, other: &Self) {
        let (a, b) = (&mut self.seen, other.seen);
        a.cel |= b.cel;
        a.start |= b.start;
        a.own_event |= b.own_event;
        a.hangup |= b.hangup;
        a.end |= b.end;
        a.cdr |= b.cdr;
        a.local |= b.local;
        self.hangup_linkedid = self.hangup_linkedid.max(other.hangup_linkedid);
        self.last_bridge = self.last_bridge.max(other.last_bridge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::RowTime;

    const A: &str = "1795214890.54";
    const B: &str = "1795214890.55";
    const ZONE: Zone = Zone::Fixed(0);

    fn grace(has_cdr: bool) -> Grace {
        Grace { cdr: 5_000_000, quiet: 10_000_000, cdr_only: 60_000_000, has_cel: true, has_cdr }
    }

    fn cel(event: CelEvent, uniqueid: &str, second: i64) -> Row {
        let time = Some(RowTime::Utc((1_795_214_890 + second) * 1_000_000));
        Row::Cel(CelRow { event, uniqueid: uniqueid.into(), linkedid: A.into(), time, ..CelRow::default() }.into())
    }

    fn cdr(uniqueid: &str, second: i64) -> Row {
        let time = |s: i64| Some(RowTime::Utc((1_795_214_890 + s) * 1_000_000));
        Row::Cdr(
            CdrRow {
                uniqueid: uniqueid.into(),
                linkedid: A.into(),
                start: time(0),
                end: time(second),
                ..CdrRow::default()
            }
            .into(),
        )
    }

    fn at(second: i64) -> Verdict {
        Verdict::EndsAt(Timestamp::from_secs(1_795_214_890 + second))
    }

    fn of(rows: &[Row], grace: &Grace) -> Verdict {
        let mut forward = Progress::default();
        rows.iter().for_each(|r| forward.observe(r, &ZONE));
        // backwards, twice, and in two halves: the same
        let mut other = Progress::default();
        rows.iter().rev().chain(rows).for_each(|r| other.observe(r, &ZONE));
        assert_eq!(forward.verdict(grace), other.verdict(grace));
        let (mut left, mut right) = (Progress::default(), Progress::default());
        for (i, r) in rows.iter().enumerate() {
            if i % 2 == 0 { left.observe(r, &ZONE) } else { right.observe(r, &ZONE) }
        }
        right.absorb(left);
        assert_eq!(forward.verdict(grace), right.verdict(grace));
        assert_eq!((forward.span(), forward.wants_cdr()), (right.span(), right.wants_cdr()));
        forward.verdict(grace)
    }

    #[test]
    fn a_call_is_open_until_every_channel_has_ended() {
        let mut rows = vec![
            cel(CelEvent::ChanStart, A, 0),
            cel(CelEvent::ChanStart, B, 1),
            cel(CelEvent::LinkedidEnd, B, 2),
            cel(CelEvent::Hangup, B, 5),
            cel(CelEvent::ChanEnd, B, 5),
        ];
        assert_eq!(of(&rows, &grace(true)), Verdict::Open);
        rows.extend([cel(CelEvent::Hangup, A, 6), cel(CelEvent::ChanEnd, A, 6)]);
        assert_eq!(of(&rows, &grace(true)), at(11));
        assert_eq!(of(&rows, &grace(false)), at(6));
        rows.push(cdr(A, 6));
        assert_eq!(of(&rows, &grace(true)), at(6));
    }

    #[test]
    fn reduced_event_lists_end_by_what_they_have() {
        let base = vec![cel(CelEvent::ChanStart, A, 0), cel(CelEvent::Hangup, A, 6)];
        assert_eq!(of(&base, &grace(false)), at(16));
        let mut with_end = base.clone();
        with_end.push(cel(CelEvent::LinkedidEnd, A, 6));
        assert_eq!(of(&with_end, &grace(false)), at(6));
        let mut with_cdr = base;
        with_cdr.push(cdr(A, 6));
        assert_eq!(of(&with_cdr, &grace(true)), at(7));
        // neither HANGUP nor CHAN_END enabled: the record ends the caller, quiet ends the rest
        let bridges = [cel(CelEvent::Answer, A, 1), cel(CelEvent::Answer, B, 1), cdr(A, 6)];
        assert_eq!(of(&bridges, &grace(true)), at(16));
        assert_eq!(of(&bridges[..2], &grace(true)), Verdict::Open);
    }

    #[test]
    fn records_alone_wait_for_more_records() {
        assert_eq!(of(&[cdr(A, 6)], &grace(true)), at(66));
    }

    #[test]
    fn a_missing_record_is_asked_for() {
        let mut p = Progress::default();
        p.observe(&cel(CelEvent::ChanStart, A, 0), &ZONE);
        assert!(!p.wants_cdr());
        p.observe(&cel(CelEvent::ChanEnd, A, 3), &ZONE);
        assert!(p.wants_cdr());
        p.observe(&cdr(A, 3), &ZONE);
        assert!(!p.wants_cdr());
    }
}
