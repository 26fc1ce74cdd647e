//! Which files are complete: those found unchanged often enough. The index is bounded: what it forgets is found again by
//! a later scan, and reported a second time at worst.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Component, Path};

use chrono::NaiveDate;

use super::{Place, Stat};

/// Files watched until they are complete; more are taken up by later scans.
const PENDING_MAX: usize = 20_000;
/// Files known to be complete: some 25 MB, when there are so many in folders that are young enough.
const DONE_MAX: usize = 400_000;
/// A dated folder holds files written so long after its day at most.
const FOLDER_SLACK_DAYS: i64 = 2;

const DAY_NANOS: i128 = 86_400_000_000_000;

/// Which files are looked at.
#[derive(Clone, Debug)]
pub struct Limits {
    /// In lower case, without dot.
    pub extensions: Vec<String>,
    pub min_size: u64,
    /// Nanoseconds since a file was written.
    pub max_age: i128,
    /// How often in a row it has to be found unchanged.
    pub checks: u32,
}

impl Limits {
    fn wants(&self, place: &Place, stat: Stat, now: i128) -> bool {
        let ending = place.below.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        ending.is_some_and(|e| self.extensions.contains(&e))
            && place.file_name().is_some()
            && stat.size >= self.min_size.max(1)
            && now.saturating_sub(stat.modified) <= self.max_age
    }

    /// Whether a folder can hold files that are young enough: `2026/11/20` and `2026-11-20` tell their day.
    pub fn enters(&self, below: &Path, now: i128) -> bool {
        let Some(end) = last_day(below) else { return true };
        let midnight = end.and_hms_opt(0, 0, 0).map(|t| t.and_utc().timestamp()).unwrap_or(i64::MAX);
        let last = i128::from(midnight) * 1_000_000_000 + i128::from(1 + FOLDER_SLACK_DAYS) * DAY_NANOS;
        last >= now.saturating_sub(self.max_age)
    }
}

/// The last day of the year, month or day that a folder's path ends with.
fn last_day(below: &Path) -> Option<NaiveDate> {
    let names: Vec<&str> =
        below.components().filter_map(|c| if let Component::Normal(name) = c { name.to_str() } else { None }).collect();
    let last = names.last()?;
    if let Ok(day) = NaiveDate::parse_from_str(last, "%Y-%m-%d").or_else(|_| NaiveDate::parse_from_str(last, "%Y%m%d"))
    {
        return Some(day);
    }
    let number = |from_end: usize, len: usize| -> Option<u32> {
        let name = names.get(names.len().checked_sub(from_end)?)?;
        (name.len() == len && name.bytes().all(|b| b.is_ascii_digit())).then(|| name.parse().ok()).flatten()
    };
    let year = |from_end| number(from_end, 4).and_then(|y| i32::try_from(y).ok()).filter(|y| (1990..2200).contains(y));
    if let (Some(y), Some(m), Some(d)) = (year(3), number(2, 2), number(1, 2)) {
        return NaiveDate::from_ymd_opt(y, m, d);
    }
    if let (Some(y), Some(m)) = (year(2), number(1, 2)) {
        let next = if m == 12 { (y + 1, 1) } else { (y, m + 1) };
        return NaiveDate::from_ymd_opt(next.0, next.1, 1)?.pred_opt();
    }
    NaiveDate::from_ymd_opt(year(1)?, 12, 31)
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    stat: Stat,
    unchanged: u32,
}

/// What is known of the files.
#[derive(Debug)]
pub struct Index {
    limits: Limits,
    pending: HashMap<Place, Pending>,
    /// By the hash of its path: its size.
    done: HashMap<u64, u64>,
    order: VecDeque<u64>,
    /// There was no room for a file.
    left_out: bool,
}

impl Index {
    pub fn new(limits: Limits) -> Self {
        Self { limits, pending: HashMap::new(), done: HashMap::new(), order: VecDeque::new(), left_out: false }
    }

    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Files that are not complete yet.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Whether files were left out for want of room, and there is room again: a scan finds them. To be asked before each
    /// scan; true once.
    pub fn wants_scan(&mut self) -> bool {
        self.pending.is_empty() && std::mem::take(&mut self.left_out)
    }

    /// A file was seen by a scan, or something was told of it. `now`: nanoseconds since 1970.
    pub fn saw(&mut self, place: Place, stat: Stat, now: i128) {
        if !self.limits.wants(&place, stat, now)
            || self.done.get(&hash(&place)) == Some(&stat.size)
            || self.pending.contains_key(&place)
        {
            return;
        }
        if self.pending.len() >= PENDING_MAX {
            self.left_out = true;
            return;
        }
        self.pending.insert(place, Pending { stat, unchanged: 0 });
    }

    /// Looks at every file that is not complete yet, once; returns those that are now. To be called once an interval.
    pub fn check(&mut self, stat: impl Fn(&Place) -> Option<Stat>) -> Vec<(Place, Stat)> {
        let mut complete = Vec::new();
        self.pending.retain(|place, pending| {
            let Some(now) = stat(place) else { return false };
            if now != pending.stat {
                *pending = Pending { stat: now, unchanged: 0 };
                return true;
            }
            pending.unchanged += 1;
            if pending.unchanged >= self.limits.checks {
                complete.push((place.clone(), now));
                return false;
            }
            true
        });
        complete.sort_by(|a, b| a.0.cmp(&b.0));
        complete
    }

    /// A complete file was taken note of for good: it is reported again only when its size changes.
    pub fn noted(&mut self, place: &Place, size: u64) {
        let hash = hash(place);
        if self.done.insert(hash, size).is_none() {
            self.order.push_back(hash);
            if self.order.len() > DONE_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.done.remove(&oldest);
            }
        }
    }
}

fn hash(place: &Place) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i128 = 1_795_300_000_000_000_000;

    fn limits() -> Limits {
        let extensions = ["wav", "gsm"].map(str::to_owned).to_vec();
        Limits { extensions, min_size: 1_000, max_age: DAY_NANOS, checks: 2 }
    }

    fn place(name: &str) -> Place {
        Place { root: "/s".into(), below: name.into() }
    }

    const fn stat(size: u64) -> Stat {
        Stat { size, modified: NOW }
    }

    #[test]
    fn a_file_counts_when_it_was_unchanged_often_enough() {
        let mut index = Index::new(limits());
        index.saw(place("a.WAV"), stat(1_000), NOW);
        assert!(index.check(|_| Some(stat(2_000))).is_empty(), "it grew");
        assert!(index.check(|_| Some(stat(2_000))).is_empty());
        index.saw(place("a.WAV"), stat(2_000), NOW);
        let complete = index.check(|_| Some(stat(2_000)));
        assert_eq!(complete, [(place("a.WAV"), stat(2_000))]);
        // until it is noted it may be seen again; then only another size makes it new
        index.noted(&complete[0].0, 2_000);
        index.saw(place("a.WAV"), stat(2_000), NOW);
        assert_eq!(index.pending(), 0);
        index.saw(place("a.WAV"), stat(3_000), NOW);
        assert_eq!(index.pending(), 1);
        assert!(index.check(|_| None).is_empty());
        assert_eq!(index.pending(), 0, "it is gone");
    }

    #[test]
    fn small_old_and_other_files_are_left_alone() {
        let mut index = Index::new(limits());
        index.saw(place("a.wav"), stat(999), NOW);
        index.saw(place("a.txt"), stat(9_999), NOW);
        index.saw(place("wav"), stat(9_999), NOW);
        index.saw(place("a\n.wav"), stat(9_999), NOW);
        index.saw(place("a.wav"), stat(9_999), NOW + DAY_NANOS + 1);
        assert_eq!(index.pending(), 0);
    }

    #[test]
    fn the_index_is_bounded() {
        let mut index = Index::new(limits());
        for n in 0..PENDING_MAX + 500 {
            index.saw(place(&format!("{n}.wav")), stat(1_000), NOW);
        }
        assert_eq!(index.pending(), PENDING_MAX);
        // those that had no room are asked for when there is some
        assert!(!index.wants_scan());
        assert!(index.check(|_| Some(stat(1_000))).is_empty() && !index.wants_scan());
        assert_eq!(index.check(|_| Some(stat(1_000))).len(), PENDING_MAX);
        assert!(index.wants_scan() && !index.wants_scan());
        for n in 0..DONE_MAX + 500 {
            index.noted(&place(&format!("{n}.wav")), 1);
        }
        assert_eq!((index.done.len(), index.order.len()), (DONE_MAX, DONE_MAX));
    }

    #[test]
    fn old_dated_folders_are_not_entered() {
        let limits = limits();
        // NOW is 2026-11-21
        for young in
            ["2026", "2026/11", "2026/11/21", "2026/11/18", "queue/2026/11/20", "archive", "1001", "2026/11/20/x"]
        {
            assert!(limits.enters(Path::new(young), NOW), "{young}");
        }
        for old in ["2025", "2026/10", "2026/11/17", "2026-11-01", "20261101", "x/2024/01/31"] {
            assert!(!limits.enters(Path::new(old), NOW), "{old}");
        }
    }
}
