//! The restart of a PBX, read from the counters inside uniqueids: Asterisk starts them at 0.

use std::collections::BTreeMap;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::Zone;
use super::ids::Id;
use crate::call::{CelEvent, Row, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestartSign {
    /// The PBX came up again no later than `at` (the first channel of the new series).
    Restarted { systemname: String, at: Timestamp },
    /// The old series goes on: two PBXs share the table. Marks set by the restart at `at` are to be withdrawn and
    /// detection is off from now on.
    Withdrawn { systemname: String, at: Timestamp },
}

/// Watches the counters inside uniqueids for a restart of the PBX: per systemname, from CHAN_START only, the counter
/// falls below 1,000 and below half of the last. Rows may come a little out of order; they are best given in order of
/// time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartWatch {
    series: BTreeMap<CompactString, Series>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Series {
    /// Newest channel: (epoch, counter).
    last: (i64, u64),
    /// The newest channel before the restart, and the restart.
    before: Option<((i64, u64), Timestamp)>,
    /// Two PBXs share the table.
    off: bool,
}

/// A restarted counter is below this …
const COUNTER_MAX: u64 = 1_000;
/// … and the old series is recognised only this far above the new one: small counters cannot be told apart.
const APART_MIN: u64 = 50;
/// Names of PBXs watched at most: a table with more of them than this holds rubbish.
const NAMES_MAX: usize = 1_000;

impl RestartWatch {
    /// PBXs whose restarts are not told apart, because two of them share a table without systemname.
    pub fn switched_off(&self) -> impl Iterator<Item = &str> {
        self.series.iter().filter(|(_, s)| s.off).map(|(name, _)| name.as_str())
    }

    pub fn observe(&mut self, row: &Row, zone: &Zone) -> Option<RestartSign> {
        let Row::Cel(r) = row else { return None };
        if r.event != CelEvent::ChanStart {
            return None;
        }
        let id = Id::parse(&r.uniqueid)?;
        let here = (id.epoch, id.counter);
        let Some(series) = self.series.get_mut(id.systemname) else {
            if self.series.len() < NAMES_MAX {
                self.series.insert(id.systemname.into(), Series { last: here, before: None, off: false });
            }
            return None;
        };
        if series.off || here.0 <= series.last.0 {
            // an older channel's row that comes late, or one of the same second
            if !series.off && here.0 == series.last.0 && here.1 > series.last.1 && here.1 - series.last.1 < COUNTER_MAX
            {
                series.last = here;
            }
            return None;
        }
        if let Some((old, at)) = series.before
            && here.1 > old.1
            && here.1 - old.1 < COUNTER_MAX
            && here.1 > series.last.1.saturating_mul(2)
            && here.1 - series.last.1 >= APART_MIN
        {
            series.off = true;
            return Some(RestartSign::Withdrawn { systemname: id.systemname.to_owned(), at });
        }
        if here.1 < COUNTER_MAX && here.1.saturating_mul(2) < series.last.1 {
            let epoch = Timestamp::from_secs(here.0);
            let at = r.time.map_or(epoch, |t| zone.row_moment(t, Some(epoch)));
            series.before = Some((series.last, at));
            series.last = here;
            return Some(RestartSign::Restarted { systemname: id.systemname.to_owned(), at });
        }
        series.last = here;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::CelRow;

    fn signs(ids: &[&str]) -> Vec<RestartSign> {
        let mut watch = RestartWatch::default();
        let row = |id: &&str| {
            Row::Cel(CelRow { event: CelEvent::ChanStart, uniqueid: (*id).into(), ..CelRow::default() }.into())
        };
        ids.iter().filter_map(|id| watch.observe(&row(id), &Zone::Fixed(0))).collect()
    }

    fn restarted(systemname: &str, at: i64) -> RestartSign {
        RestartSign::Restarted { systemname: systemname.to_owned(), at: Timestamp::from_secs(at) }
    }

    #[test]
    fn a_falling_counter_is_a_restart() {
        assert_eq!(
            signs(&["1795214890.900", "1795214900.902", "1795214990.0", "1795214995.2"]),
            [restarted("", 1_795_214_990)]
        );
        // each PBX has counters of its own
        assert_eq!(signs(&["1795214890.900", "pbx1-1795214900.3", "1795214990.902"]), []);
        assert_eq!(signs(&["p-1795214890.900", "1795214890.5000", "p-1795214990.1"]), [restarted("p", 1_795_214_990)]);
    }

    #[test]
    fn late_rows_are_no_restart() {
        assert_eq!(signs(&["1795214890.900", "1795214900.5", "1795214890.3", "1795214900.6"]).len(), 1);
        assert_eq!(signs(&["1795214890.3", "1795214890.1", "1795214889.0"]), []);
    }

    #[test]
    fn the_old_series_going_on_withdraws_it() {
        let found = signs(&["1795214890.900", "1795214900.5", "1795214910.901", "1795214920.6", "1795214930.902"]);
        assert_eq!(
            found,
            [
                restarted("", 1_795_214_900),
                RestartSign::Withdrawn { systemname: String::new(), at: Timestamp::from_secs(1_795_214_900) }
            ]
        );
    }
}
