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
/// Gaps asked for in one statement.
pub const RANGES: usize = 256;

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

/// The gaps to ask for now, in order of id: all of them, or where they are many, those that follow `after`, in turn. Only
/// what is missing is asked for, so that no answer is filled with rows that are known.
pub fn in_turn(gaps: &[Gap], after: i64) -> Vec<(i64, i64)> {
    let mut ranges: Vec<(i64, i64)> = gaps.iter().map(|g| (g.first, g.last)).collect();
    ranges.sort_unstable();
    if ranges.len() > RANGES {
        let next = ranges.partition_point(|(first, _)| *first <= after) % ranges.len();
        ranges.rotate_left(next);
        ranges.truncate(RANGES);
    }
    ranges
}

/// Takes one id out of the gaps. `false`: it lies in none.
pub fn fill(gaps: &mut Vec<Gap>, id: i64) -> bool {
    let Some(at) = gaps.iter().position(|g| (g.first..=g.last).contains(&id)) else { return false };
    let gap = gaps.swap_remove(at);
    if gap.first < id {
        gaps.push(Gap { last: id - 1, ..gap });
    }
    if id < gap.last {
        gaps.push(Gap { first: id + 1, ..gap });
    }
    true
}

/// Whether a gap lies within what was asked for.
pub fn was_asked(asked: &[(i64, i64)], gap: &Gap) -> bool {
    asked.iter().any(|(first, last)| *first <= gap.first && gap.last <= *last)
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
    fn many_gaps_are_asked_for_in_turn_and_none_is_left_out() {
        let gaps: Vec<Gap> =
            (0..1_000).map(|i| Gap { first: i * 3, last: i * 3 + 1, since: 0, quiet: false }).collect();
        let (mut after, mut asked) = (i64::MIN, std::collections::BTreeSet::new());
        for _ in 0..1_000_usize.div_ceil(RANGES) {
            let now = in_turn(&gaps, after);
            assert!(now.len() == RANGES && gaps.iter().filter(|g| was_asked(&now, g)).count() == RANGES);
            after = now[RANGES - 1].0;
            asked.extend(now);
        }
        assert_eq!(asked.len(), gaps.len());
        assert_eq!(in_turn(&gaps[..2], 100), [(0, 1), (3, 4)]);
    }
}
