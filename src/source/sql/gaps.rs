//! What is missing between the ids that were read: the gaps, and the step by which ids are handed out.

use serde::{Deserialize, Serialize};

/// Ids that were skipped: `first..=last`, noticed at `since` (database time, microseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub first: i64,
    pub last: i64,
    pub since: i64,
    /// Before the first row that was read: watched, but not counted when nothing comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quiet: bool,
}

/// The step between ids: Galera hands out every third id to each of three nodes, and the two between are no gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stride {
    /// Greatest common divisor of the differences of this run.
    pub(super) divisor: i64,
    pub(super) run: u32,
}

/// Differences in a row that have to agree before a step of more than one is believed.
const STRIDE_TRUST: u32 = 256;
/// A run is judged anew after this many, so that a step that begins later is learned too.
const STRIDE_MEMORY: u32 = 8_192;
/// Ranges in one statement.
const RANGES: usize = 64;

impl Stride {
    /// The step to expect.
    pub const fn step(self) -> i64 {
        if self.run >= STRIDE_TRUST && self.divisor > 1 { self.divisor } else { 1 }
    }

    /// Takes in a difference. `true`: a step that was believed is disproved.
    pub fn learn(&mut self, difference: i64) -> bool {
        let before = self.step();
        if self.run >= STRIDE_MEMORY && self.divisor == 1 {
            *self = Self::default();
        }
        let divisor = gcd(self.divisor, difference);
        if divisor == self.divisor {
            self.run = self.run.saturating_add(1);
        } else {
            *self = Self { divisor, run: 1 };
        }
        before > 1 && self.step() < before
    }
}

const fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a as i64
}

/// A jump of the counter (a restart, a bulk insert) is not a thousand lost rows.
const COUNTED_MAX: i64 = 1_000;

pub fn ids_in(gap: &Gap, stride: Stride) -> u64 {
    if gap.quiet {
        return 0;
    }
    let ids = (gap.last - gap.first + 1) / stride.step();
    u64::try_from(ids.clamp(1, COUNTED_MAX)).unwrap_or(1)
}

/// The gaps as few ranges: neighbours are joined until they fit into one statement, which then reads some known rows too.
pub fn ranges(gaps: &[Gap]) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = gaps.iter().map(|g| (g.first, g.last)).collect();
    ranges.sort_unstable();
    let mut reach = 1;
    while ranges.len() > RANGES {
        reach *= 2;
        let mut joined: Vec<(i64, i64)> = Vec::with_capacity(RANGES);
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first - before.1 <= reach => before.1 = before.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        ranges = joined;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_believed_late_and_disproved_at_once() {
        let mut stride = Stride::default();
        (0..STRIDE_TRUST).for_each(|_| assert!(!stride.learn(3)));
        assert_eq!(stride.step(), 3);
        assert!(!stride.learn(6), "a gap of one is a multiple of the step");
        assert_eq!(stride.step(), 3);
        assert!(stride.learn(1));
        assert_eq!(stride.step(), 1);
    }

    #[test]
    fn many_gaps_are_asked_for_as_few_ranges() {
        let gaps: Vec<Gap> =
            (0..1_000).map(|i| Gap { first: i * 3, last: i * 3 + 1, since: 0, quiet: false }).collect();
        let joined = ranges(&gaps);
        assert!(joined.len() <= RANGES);
        assert!(gaps.iter().all(|g| joined.iter().any(|&(first, last)| first <= g.first && g.last <= last)));
    }
}
