//! Wall clock readings to moments, and the offset of a PBX's clock read off its uniqueids.

use std::collections::BTreeMap;

use chrono::{LocalResult, TimeZone};

use super::ids::Id;
use super::scene::Event;
use super::{CallRows, Zone};
use crate::call::{CelEvent, RowTime, Timestamp, WallTime};

/// An event may be stamped a little before the second its channel's uniqueid names (rounding, clock steps).
const BEFORE_HINT_US: i64 = 2_000_000;

impl Zone {
    /// The moment a clock in this zone shows `wall`. `hint` is a moment known to lie shortly before (the uniqueid's
    /// epoch): of an hour that occurs twice the first reading not before it is taken. A reading that never occurs
    /// (the hour that the start of daylight saving skips) is taken with the offset before the change.
    pub fn moment(&self, wall: WallTime, hint: Option<Timestamp>) -> Timestamp {
        match self {
            Self::Fixed(east_s) => Timestamp::from_micros(wall.0.saturating_sub(i64::from(*east_s) * 1_000_000)),
            Self::Named(tz) => {
                let Some(naive) = wall.to_naive() else { return Timestamp::from_micros(wall.0) };
                match tz.from_local_datetime(&naive) {
                    LocalResult::Single(t) => Timestamp::from_micros(t.timestamp_micros()),
                    LocalResult::Ambiguous(a, b) => {
                        let (a, b) = (a.timestamp_micros(), b.timestamp_micros());
                        let (first, second) = (a.min(b), a.max(b));
                        let later = hint.is_some_and(|h| first < h.micros().saturating_sub(BEFORE_HINT_US));
                        Timestamp::from_micros(if later { second } else { first })
                    }
                    LocalResult::None => {
                        let before = naive - chrono::TimeDelta::hours(3);
                        let offset = match tz.offset_from_local_datetime(&before) {
                            LocalResult::Single(o) | LocalResult::Ambiguous(o, _) => {
                                chrono::Offset::fix(&o).local_minus_utc()
                            }
                            LocalResult::None => 0,
                        };
                        Timestamp::from_micros(wall.0.saturating_sub(i64::from(offset) * 1_000_000))
                    }
                }
            }
        }
    }

    /// The other moment at which a clock in this zone shows what it shows at `t`, when that is later.
    pub fn second_reading(&self, wall: WallTime, t: Timestamp) -> Option<Timestamp> {
        let Self::Named(tz) = self else { return None };
        match tz.from_local_datetime(&wall.to_naive()?) {
            LocalResult::Ambiguous(a, b) => {
                let second = a.timestamp_micros().max(b.timestamp_micros());
                (second > t.micros()).then(|| Timestamp::from_micros(second))
            }
            _ => None,
        }
    }

    /// A row's time as a moment.
    pub fn row_moment(&self, time: RowTime, hint: Option<Timestamp>) -> Timestamp {
        match time {
            RowTime::Utc(micros) => Timestamp::from_micros(micros),
            RowTime::Wall(wall) => self.moment(wall, hint),
        }
    }
}

/// The moment a uniqueid was made.
pub(super) fn epoch_of(id: &str) -> Option<Timestamp> {
    Id::parse(id).map(|i| Timestamp::from_secs(i.epoch))
}

impl Zone {
    /// How far its clock is ahead of UTC at that moment, in microseconds.
    pub(super) fn offset_at(&self, t: Timestamp) -> i64 {
        match self {
            Self::Fixed(east_s) => i64::from(*east_s) * 1_000_000,
            Self::Named(tz) => t.to_chrono().map_or(0, |t| {
                i64::from(chrono::Offset::fix(&tz.offset_from_utc_datetime(&t.naive_utc())).local_minus_utc())
                    * 1_000_000
            }),
        }
    }
}

/// A CHAN_START may lie this far from the second its uniqueid names, besides the offset.
const BIRTH_US: i64 = 2_500_000;
const LARGEST_US: i64 = 14 * 3_600 * 1_000_000;

impl Zone {
    /// The offset that a call's own channels speak for with one voice, where it is another than this one: after a change of
    /// daylight saving it takes some calls until an offset read off uniqueids follows, and those are right all the same.
    pub(super) fn own_of(&self, rows: &CallRows) -> Option<Self> {
        let Self::Fixed(known) = self else { return None };
        let mut own = None;
        for row in rows.cel.iter().filter(|r| r.event == CelEvent::ChanStart) {
            let (Some(RowTime::Wall(wall)), Some(id)) = (row.time, Id::parse(&row.uniqueid)) else { continue };
            let apart = wall.0.saturating_sub(id.epoch.saturating_mul(1_000_000));
            let step = QUARTER_S * 1_000_000;
            let offset = apart.saturating_add(step / 2).div_euclid(step).saturating_mul(step);
            if apart.abs_diff(offset) > BIRTH_US as u64 || offset.abs() > LARGEST_US {
                continue;
            }
            if own.replace(offset).is_some_and(|other| other != offset) {
                return None;
            }
        }
        let own = i32::try_from(own? / 1_000_000).ok()?;
        (own != *known).then_some(Self::Fixed(own))
    }
}

/// Remembers the offset of the last reading: a call needs it once, not for every row.
#[derive(Clone, Debug, Default)]
pub(super) struct ClockMemory {
    /// From and to these readings of this zone the offset is known and the same.
    known: Option<(Zone, i64, i64, i64)>,
    /// A reading occurred that a clock shows twice.
    pub saw_ambiguous: bool,
}

/// Clocks differ from UTC by less than this.
const FARTHEST_US: i64 = 18 * 3_600_000_000;
/// How far around a reading the offset is looked up at once.
const REACH_US: i64 = 6 * 3_600_000_000;

impl ClockMemory {
    /// `id`: the uniqueid whose epoch hints at the moment.
    pub fn moment(&mut self, zone: &Zone, time: RowTime, id: &str) -> Timestamp {
        let wall = match time {
            RowTime::Utc(micros) => return Timestamp::from_micros(micros),
            RowTime::Wall(wall) => wall,
        };
        if let Some((of, from, to, east)) = &self.known
            && (*from..=*to).contains(&wall.0)
            && of == zone
        {
            return Timestamp::from_micros(wall.0.saturating_sub(*east));
        }
        // no zone changes twice within two days: where both ends have one offset, so has every reading between them, and
        // none of these readings comes twice
        let (from, to) = (wall.0.saturating_sub(REACH_US), wall.0.saturating_add(REACH_US));
        let end = |micros: i64| zone.offset_at(Timestamp::from_micros(micros));
        let east = end(from.saturating_sub(FARTHEST_US));
        if east == end(to.saturating_add(FARTHEST_US)) {
            self.known = Some((zone.clone(), from, to, east));
            return Timestamp::from_micros(wall.0.saturating_sub(east));
        }
        self.saw_ambiguous |= zone.second_reading(wall, Timestamp::from_micros(i64::MIN)).is_some();
        zone.moment(wall, epoch_of(id))
    }
}

/// Turns the readings of one call into moments.
pub(super) struct Clock<'z> {
    zone: &'z Zone,
    pub memory: ClockMemory,
}

impl<'z> Clock<'z> {
    pub fn new(zone: &'z Zone) -> Self {
        Self { zone, memory: ClockMemory::default() }
    }

    pub fn moment(&mut self, time: RowTime, id: &str) -> Timestamp {
        self.memory.moment(self.zone, time, id)
    }

    /// In the repeated hour the hint only says that a call had begun. The table's own order tells more: what follows a
    /// later moment of the call is its second reading.
    pub fn settle_fold(&self, events: &mut [Event<'_>]) {
        if events.iter().any(|e| e.row.id.is_none()) {
            return;
        }
        let mut order: Vec<usize> = (0..events.len()).collect();
        // by id; rows of one id by what they say, not by how they came
        order.sort_by(|&a, &b| events[a].row.cmp(events[b].row));
        let mut newest = Timestamp::from_micros(i64::MIN);
        for i in order {
            let t = events[i].t;
            // rows step back by less than a second, a repeated hour by most of an hour
            if t.plus_micros(60_000_000) < newest
                && let Some(RowTime::Wall(wall)) = events[i].row.time
                && let Some(second) = self.zone.second_reading(wall, t)
            {
                events[i].t = second;
            }
            newest = newest.max(events[i].t);
        }
    }
}

/// Zones differ from UTC by quarters of an hour, from -12 to +14 hours.
const QUARTER_S: i64 = 900;
/// How far a CHAN_START may lie from the quarter: the epoch is whole seconds, the row may be rounded.
const TOLERANCE_S: i64 = 5;
/// Samples below this decide nothing.
const SAMPLES_MIN: usize = 3;

/// Votes on the offset of the PBX's clock, in seconds east of UTC: each sample is the wall time of a CHAN_START and the
/// epoch in its uniqueid. `None` while it is not clear: fewer than three usable samples, or less than nine in ten agree.
pub fn vote_offset(samples: &[(WallTime, i64)]) -> Option<i32> {
    let mut votes: BTreeMap<i64, usize> = BTreeMap::new();
    let mut usable = 0;
    for &(wall, epoch) in samples {
        let apart = wall.0.div_euclid(1_000_000).saturating_sub(epoch);
        let quarter = (apart + QUARTER_S / 2).div_euclid(QUARTER_S) * QUARTER_S;
        if (-12 * 3600..=14 * 3600).contains(&quarter) && (apart - quarter).abs() <= TOLERANCE_S {
            *votes.entry(quarter).or_default() += 1;
            usable += 1;
        }
    }
    let (&offset, &count) = votes.iter().max_by_key(|(_, n)| **n)?;
    (usable >= SAMPLES_MIN && count * 10 >= usable * 9 && count * 2 > samples.len()).then_some(offset as i32)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::call::CelRow;
    use crate::correlate::{Marks, Rules, build};

    fn wall(text: &str) -> WallTime {
        WallTime::from_naive(text.parse().expect("a naive time"))
    }

    fn utc(text: &str) -> Timestamp {
        Timestamp::parse_rfc3339(text).expect("a time")
    }

    #[test]
    fn the_repeated_hour_goes_by_the_hint() {
        let zone = Zone::Named(chrono_tz::Europe::Prague);
        let reading = wall("2026-10-25T02:30:00");
        assert_eq!(zone.moment(reading, Some(utc("2026-10-25T00:29:00Z"))), utc("2026-10-25T00:30:00Z"));
        assert_eq!(zone.moment(reading, Some(utc("2026-10-25T01:29:00Z"))), utc("2026-10-25T01:30:00Z"));
        // began before the change, shown after it
        assert_eq!(
            zone.moment(wall("2026-10-25T02:01:00"), Some(utc("2026-10-25T00:58:00Z"))),
            utc("2026-10-25T01:01:00Z")
        );
        assert_eq!(zone.moment(reading, None), utc("2026-10-25T00:30:00Z"));
    }

    #[test]
    fn the_skipped_hour_has_a_moment() {
        let zone = Zone::Named(chrono_tz::Europe::Prague);
        assert_eq!(zone.moment(wall("2026-03-29T02:30:00"), None), utc("2026-03-29T01:30:00Z"));
    }

    #[test]
    fn absurd_readings_do_not_overflow() {
        for zone in [Zone::Named(chrono_tz::Asia::Kathmandu), Zone::Fixed(-43_200), Zone::Fixed(50_400)] {
            for w in [i64::MIN, i64::MIN / 2, 0, i64::MAX / 2, i64::MAX] {
                let _ = zone.moment(WallTime(w), Some(Timestamp::from_micros(w)));
            }
        }
    }

    #[test]
    fn a_call_after_the_change_is_read_by_its_own_channels() {
        let summer = Zone::Fixed(7_200);
        let start = |epoch: i64, east: i64, late_us: i64| {
            let row = CelRow {
                event: CelEvent::ChanStart,
                uniqueid: format!("{epoch}.7").into(),
                time: Some(RowTime::Wall(WallTime((epoch + east) * 1_000_000 + late_us))),
                ..CelRow::default()
            };
            Arc::new(row)
        };
        let call = |cel| CallRows { cel, ..CallRows::default() };
        let winter = call(vec![start(1_795_214_890, 3_600, 0), start(1_795_214_893, 3_600, 400_000)]);
        assert_eq!(summer.own_of(&winter), Some(Zone::Fixed(3_600)));
        assert_eq!(Zone::Fixed(3_600).own_of(&winter), None);
        assert_eq!(Zone::Named(chrono_tz::Europe::Prague).own_of(&winter), None);
        // over the change itself, or with clocks that tell nothing
        assert_eq!(summer.own_of(&call(vec![start(1_000_000_000, 7_200, 0), start(1_000_000_900, 3_600, 0)])), None);
        assert_eq!(summer.own_of(&call(vec![start(1_000_000_000, 3_600, 60_000_000)])), None);
        let content = build(&winter, &Rules { zone_read_off: true, ..Rules::default() }, &summer, &Marks::default());
        assert_eq!(content.started_at, Some(Timestamp::from_secs(1_795_214_890)));
    }

    #[test]
    fn the_vote_needs_a_majority() {
        let sample = |epoch: i64, east: i64| (WallTime((epoch + east) * 1_000_000), epoch);
        let agreeing: Vec<_> = (0..10).map(|i| sample(1_795_214_890 + i, 3600)).collect();
        assert_eq!(vote_offset(&agreeing), Some(3600));
        assert_eq!(vote_offset(&agreeing[..2]), None);
        let mut split = agreeing.clone();
        split.extend((0..5).map(|i| sample(1_795_214_890 + i, 7200)));
        assert_eq!(vote_offset(&split), None);
        let nepal: Vec<_> = (0..5).map(|i| sample(1_795_214_890 + i, 20_700)).collect();
        assert_eq!(vote_offset(&nepal), Some(20_700));
    }
}
