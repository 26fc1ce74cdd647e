//! Which zone a table's readings are in: the number inside a uniqueid is the moment its channel was made, in UTC, and a
//! row that begins a channel carries the reading of the same moment. Their difference is the offset; rows vote.

use std::collections::{BTreeMap, VecDeque};

use crate::call::{CelEvent, Row, RowTime, WallTime};
use crate::correlate::Zone;

/// Offsets are multiples of a quarter of an hour everywhere.
const STEP_S: i64 = 900;
/// How far reading and epoch may lie apart besides the offset: whole seconds, rounding, a slow start.
const SLACK_MICROS: i64 = 2_500_000;
/// Kiribati is 14 hours ahead, Baker Island 12 behind.
const LARGEST_S: i64 = 14 * 3_600;
/// Readings that agree with no offset at all before it is given up and UTC assumed.
const HOPELESS: usize = 100;

/// Seconds since 1970 inside a uniqueid such as `pbx1-1795214890.54`.
pub fn epoch_of(uniqueid: &str) -> Option<i64> {
    let (rest, counter) = uniqueid.rsplit_once('.')?;
    let epoch = rest.rsplit_once('-').map_or(rest, |(_, epoch)| epoch);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    ((9..=10).contains(&epoch.len()) && digits(epoch) && digits(counter)).then(|| epoch.parse().ok()).flatten()
}

/// The offset one row speaks for, in seconds east of UTC.
pub fn offset_of(raw_micros: i64, uniqueid: &str) -> Option<i32> {
    let difference = raw_micros.checked_sub(epoch_of(uniqueid)?.checked_mul(1_000_000)?)?;
    let step = STEP_S * 1_000_000;
    let steps = (difference + step / 2).div_euclid(step);
    let offset_s = steps * STEP_S;
    let near = (difference - steps * step).abs() <= SLACK_MICROS;
    (near && offset_s.abs() <= LARGEST_S).then_some(offset_s as i32)
}

#[derive(Clone, Debug, Default)]
pub struct Vote {
    counts: BTreeMap<i32, usize>,
    pub asked: usize,
}

impl Vote {
    pub fn add(&mut self, raw_micros: i64, uniqueid: &str) {
        self.asked += 1;
        if let Some(offset_s) = offset_of(raw_micros, uniqueid) {
            *self.counts.entry(offset_s).or_default() += 1;
        }
    }

    /// No row spoke for any offset.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether the readings are a local clock's rather than UTC's: what four of five votes say, whichever offset they are
    /// for. Around a change of daylight saving there are two, and no winner.
    pub fn local(&self) -> Option<bool> {
        let total: usize = self.counts.values().sum();
        let utc = self.counts.get(&0).copied().unwrap_or(0);
        let local = total - utc;
        match total {
            0 => None,
            _ if local * 5 >= total * 4 => Some(true),
            _ if utc * 5 >= total * 4 => Some(false),
            _ => None,
        }
    }

    /// The offset four of five votes are for.
    pub fn winner(&self) -> Option<i32> {
        let total: usize = self.counts.values().sum();
        let (&offset_s, &count) = self.counts.iter().max_by_key(|&(_, &count)| count)?;
        (count * 5 >= total * 4).then_some(offset_s)
    }
}

/// Follows the zone while rows come in.
#[derive(Debug)]
pub struct ZoneWatch {
    configured: Option<Zone>,
    /// Votes of the newest rows: a change of daylight saving shows within a few calls.
    recent: VecDeque<i32>,
    unread: usize,
    current: Option<Zone>,
    told: bool,
    /// The uniqueids say something else than the configured zone, and that was logged.
    doubted: bool,
}

/// Votes kept, and how many of them have to agree to change what was decided before.
const RECENT: usize = 10;
const AGREE: usize = 8;

impl ZoneWatch {
    pub fn new(configured: Option<Zone>) -> Self {
        Self {
            current: configured.clone(),
            configured,
            recent: VecDeque::new(),
            unread: 0,
            told: false,
            doubted: false,
        }
    }

    pub const fn current(&self) -> Option<&Zone> {
        self.current.as_ref()
    }

    /// Takes in what a sample of recent rows said; also that no table has readings that would need a zone.
    pub fn decide(&mut self, offset_s: i32) {
        if self.configured.is_none() && self.current.is_none() {
            self.set(Zone::Fixed(offset_s));
        }
    }

    fn set(&mut self, zone: Zone) {
        if self.current.as_ref() != Some(&zone) {
            tracing::info!(%zone, "the zone of the PBX's times, read off the uniqueids");
            self.current = Some(zone);
            self.told = false;
        }
    }

    pub fn observe(&mut self, row: &Row) {
        let Some(RowTime::Wall(WallTime(raw))) = row.time() else { return };
        let begins = match row {
            Row::Cel(cel) => cel.event == CelEvent::ChanStart,
            // the first record of a channel begins with it, later ones speak for no offset
            Row::Cdr(_) => true,
        };
        if !begins {
            return;
        }
        if let Some(configured) = self.configured.clone() {
            self.compare(&configured, raw, row.uniqueid());
            return;
        }
        let Some(offset_s) = offset_of(raw, row.uniqueid()) else {
            self.unread += 1;
            if self.current.is_none() && self.unread >= HOPELESS {
                tracing::warn!(
                    "the uniqueids do not tell the zone of the PBX's times; UTC is assumed. Set DB_TIMEZONE"
                );
                self.set(Zone::Fixed(0));
            }
            return;
        };
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(offset_s);
        let agree = self.recent.iter().filter(|&&o| o == offset_s).count();
        if self.current.is_none() || agree >= AGREE {
            self.set(Zone::Fixed(offset_s));
        }
    }

    /// A wrong setting shifts every call: it is said once, and once more when the rows agree again.
    fn compare(&mut self, configured: &Zone, raw: i64, uniqueid: &str) {
        let (Some(said), Some(epoch)) = (offset_of(raw, uniqueid), epoch_of(uniqueid)) else { return };
        let at = epoch.saturating_mul(1_000_000);
        let expected = (reading_at(configured, at) - at) / 1_000_000;
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(said.saturating_sub(expected as i32));
        let off = |o: i32| self.recent.iter().filter(|&&r| r == o).count();
        let apart = self.recent.back().copied().unwrap_or(0);
        if self.doubted && off(0) >= AGREE {
            self.doubted = false;
            tracing::info!(zone = %configured, "DB_TIMEZONE and the uniqueids agree again");
        } else if !self.doubted && apart != 0 && (off(apart) >= AGREE || self.recent.len() < AGREE && off(0) == 0) {
            self.doubted = true;
            tracing::warn!(
                "DB_TIMEZONE says {configured}, the uniqueids say {}: every call is {} off. Set DB_TIMEZONE to the zone of \
                 the PBX's /etc/localtime, or leave it out",
                Zone::Fixed(said),
                Zone::Fixed(-apart)
            );
        }
    }

    /// Whether the configured zone was found to be wrong.
    #[cfg(test)]
    const fn doubted(&self) -> bool {
        self.doubted
    }

    /// The zone, if it is to be told: once, and after each change.
    pub fn tell(&self) -> Option<Zone> {
        if self.told { None } else { self.current.clone() }
    }

    /// The batch that told it was stored.
    pub fn told(&mut self) {
        self.told = self.current.is_some();
    }
}

/// The reading a clock in `zone` shows at a moment, in microseconds as though it were UTC.
pub fn reading_at(zone: &Zone, moment_micros: i64) -> i64 {
    use chrono::{DateTime, Offset, TimeZone};
    let offset_s = match zone {
        Zone::Fixed(offset_s) => i64::from(*offset_s),
        Zone::Named(tz) => DateTime::from_timestamp_micros(moment_micros)
            .map_or(0, |t| i64::from(tz.offset_from_utc_datetime(&t.naive_utc()).fix().local_minus_utc())),
    };
    moment_micros.saturating_add(offset_s * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_214_890;

    #[test]
    fn epochs_with_and_without_systemname() {
        assert_eq!(epoch_of("1795214890.54"), Some(NOON));
        assert_eq!(epoch_of("pbx-east-1795214890.54"), Some(NOON));
        assert_eq!(epoch_of("1795214890"), None);
        assert_eq!(epoch_of("x.54"), None);
        assert_eq!(epoch_of("999999999999.1"), None);
    }

    #[test]
    fn a_row_speaks_for_a_quarter_of_an_hour() {
        let at = |offset_s: i64, micros: i64| offset_of((NOON + offset_s) * 1_000_000 + micros, "1795214890.1");
        assert_eq!(at(3_600, 593_251), Some(3_600));
        assert_eq!(at(-12_600, 999_999), Some(-12_600));
        assert_eq!(at(20_700, 0), Some(20_700));
        assert_eq!(at(3_600, 60_000_000), None, "a minute after the channel began");
        assert_eq!(at(15 * 3_600, 0), None, "no zone is that far");
    }

    #[test]
    fn the_change_of_summer_time_shows_in_the_newest_rows() {
        let row = |i: i64, offset_s: i64| {
            Row::Cdr(std::sync::Arc::new(crate::call::CdrRow {
                start: Some(RowTime::Wall(WallTime((NOON + i + offset_s) * 1_000_000))),
                uniqueid: compact_str::format_compact!("{}.{i}", NOON + i),
                ..Default::default()
            }))
        };
        let mut watch = ZoneWatch::new(None);
        watch.observe(&row(0, 7_200));
        assert_eq!(watch.tell(), Some(Zone::Fixed(7_200)));
        watch.told();
        (1..20).for_each(|i| watch.observe(&row(i, 7_200)));
        assert_eq!(watch.tell(), None);
        (20..27).for_each(|i| watch.observe(&row(i, 3_600)));
        assert_eq!(watch.tell(), None, "a few strays change nothing");
        watch.observe(&row(28, 3_600));
        assert_eq!(watch.tell(), Some(Zone::Fixed(3_600)));
    }

    #[test]
    fn a_configured_zone_is_held_against_the_uniqueids() {
        let row = |i: i64, offset_s: i64| {
            Row::Cdr(std::sync::Arc::new(crate::call::CdrRow {
                start: Some(RowTime::Wall(WallTime((NOON + i + offset_s) * 1_000_000))),
                uniqueid: compact_str::format_compact!("{}.{i}", NOON + i),
                ..Default::default()
            }))
        };
        let prague = Zone::Named(chrono_tz::Europe::Prague);
        let mut watch = ZoneWatch::new(Some(prague.clone()));
        (0..20).for_each(|i| watch.observe(&row(i, 3_600)));
        assert!(!watch.doubted());
        watch.observe(&row(20, 19_800));
        assert!(!watch.doubted(), "one stray row proves nothing");
        (21..30).for_each(|i| watch.observe(&row(i, 19_800)));
        assert!(watch.doubted());
        assert_eq!(watch.current(), Some(&prague), "the setting is followed all the same");
        (30..40).for_each(|i| watch.observe(&row(i, 3_600)));
        assert!(!watch.doubted());
        // wrong from the first row on
        let mut watch = ZoneWatch::new(Some(prague));
        watch.observe(&row(0, 19_800));
        assert!(watch.doubted());
    }

    #[test]
    fn a_named_zone_reads_by_its_season() {
        let prague = Zone::Named(chrono_tz::Europe::Prague);
        assert_eq!(reading_at(&prague, 1_792_886_400_000_000), (1_792_886_400 + 7_200) * 1_000_000);
        assert_eq!(reading_at(&prague, NOON * 1_000_000), (NOON + 3_600) * 1_000_000);
    }
}
