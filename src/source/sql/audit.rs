//! The lane of last resort: count rows at the PBX, compare with what is known here, and read again only what differs.
//! Whatever only this finds was missed by every faster lane, and is marked so.
//!
//! A difference is looked at twice before it is believed: a row may have been written a moment ago. What stays different
//! after it was read again (rows that cannot be read, identical rows) is remembered and left alone until it changes.

use std::collections::{BTreeMap, HashMap, VecDeque};
use tokio::time::Instant;

use super::backend::Param;
use super::cursor::IdPosition;
use super::engine::Statement;
use super::probe::Shape;
use super::{Visit, read};
use crate::source::{ID_BLOCK, Place, PlacedRow, SourceError};

/// Blocks of ids behind the cursor that are counted.
const BLOCKS: i64 = 100;
/// Blocks or minutes read again in one poll.
const AT_ONCE: usize = 4;

/// (there, here): rows the PBX has, rows known here.
type Counts = (i64, i64);

/// What is common to the audits: keys are blocks of ids, or minutes.
#[derive(Debug, Default)]
pub struct Compare {
    next: Option<i64>,
    /// Differences seen once, and when they may be looked at again.
    suspects: Option<(i64, BTreeMap<i64, Counts>)>,
    /// Keys that were read again and still differed.
    settled: HashMap<i64, Counts>,
    queue: VecDeque<(i64, Counts)>,
    taken: usize,
    /// That counting takes too long was logged.
    told: bool,
}

impl Compare {
    /// Counting is due: the regular time has come, or a difference is to be confirmed.
    pub fn due(&self, now: i64) -> bool {
        self.queue.is_empty()
            && match &self.suspects {
                Some((at, _)) => now >= *at,
                None => self.next.is_none_or(|next| now >= next),
            }
    }

    /// A difference is to be confirmed now: what can be found in another way has to be looked for before.
    pub fn confirms(&self, now: i64) -> bool {
        self.suspects.is_some() && self.due(now)
    }

    /// Moments to come are moments of a clock that was set back since.
    pub fn clock_was_set_back(&mut self) {
        self.next = None;
        self.suspects = None;
    }

    /// Counting or reading again took too long: not before `at`, and from the beginning.
    fn put_off(&mut self, at: i64) {
        let settled = std::mem::take(&mut self.settled);
        *self = Self { next: Some(at), settled, told: self.told, ..Self::default() };
    }

    /// Makes of what takes longer than `DB_TIMEOUT` a long pause: nothing else may wait for an audit, or fail by it.
    pub fn tolerate<T>(
        &mut self,
        visit: &Visit<'_>,
        shape: &Shape,
        began: Instant,
        done: Result<T, SourceError>,
    ) -> Result<Option<T>, SourceError> {
        match done {
            Ok(done) => {
                self.told = false;
                Ok(Some(done))
            }
            Err(SourceError::Slow(why)) => {
                let pause = visit.pause(began).max(visit.timing.audit_every);
                self.put_off(visit.now.saturating_add(pause));
                if !std::mem::replace(&mut self.told, true) {
                    let table = &shape.name;
                    tracing::warn!(%table, "rows cannot be counted, and are counted more rarely: {why}");
                }
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// First count not before `at`.
    pub fn postpone(&mut self, at: i64) {
        self.next.get_or_insert(at);
    }

    /// Takes in the counts of both sides. `pause`: until the next regular count. `true`: the audit is complete, what
    /// differs for good stands in the queue.
    pub fn weigh(
        &mut self,
        now: i64,
        confirm: i64,
        pause: i64,
        there: &BTreeMap<i64, i64>,
        here: &BTreeMap<i64, i64>,
    ) -> bool {
        let mut differ = BTreeMap::new();
        for (&key, &count) in there {
            let known = here.get(&key).copied().unwrap_or(0);
            if count > known && self.settled.get(&key) != Some(&(count, known)) {
                differ.insert(key, (count, known));
            }
        }
        self.settled.retain(|key, _| there.contains_key(key));
        match self.suspects.take() {
            None if !differ.is_empty() => {
                self.suspects = Some((now.saturating_add(confirm), differ));
                false
            }
            before => {
                if let Some((_, before)) = before {
                    self.queue = differ.into_iter().filter(|(key, _)| before.contains_key(key)).collect();
                }
                self.next = Some(now.saturating_add(pause));
                true
            }
        }
    }

    /// The next keys to read again.
    pub fn take(&mut self) -> Vec<i64> {
        self.taken = self.queue.len().min(AT_ONCE);
        self.queue.iter().take(self.taken).map(|(key, _)| *key).collect()
    }

    /// What was taken was read and stored.
    pub fn committed(&mut self) {
        for (key, counts) in self.queue.drain(..self.taken) {
            self.settled.insert(key, counts);
        }
        self.taken = 0;
    }

    /// What was taken was not stored: it is taken again.
    pub fn forget(&mut self) {
        self.taken = 0;
    }

    /// An audit was completed and nothing of it is left to do.
    pub fn idle(&self) -> bool {
        self.next.is_some() && self.suspects.is_none() && self.queue.is_empty()
    }
}

/// The audit of a table with id: rows per block of ids.
#[derive(Debug, Default)]
pub struct IdAudit {
    compare: Compare,
}

impl IdAudit {
    pub fn clock_was_set_back(&mut self) {
        self.compare.clock_was_set_back();
    }

    pub fn committed(&mut self) {
        self.compare.committed();
    }

    pub fn forget(&mut self) {
        self.compare.forget();
    }

    /// Counts when it is due; returns rows read again.
    pub async fn run(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        position: &IdPosition,
    ) -> Result<Vec<PlacedRow>, SourceError> {
        let began = Instant::now();
        let done = self.count(visit, shape, position).await;
        Ok(self.compare.tolerate(visit, shape, began, done)?.unwrap_or_default())
    }

    async fn count(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        position: &IdPosition,
    ) -> Result<Vec<PlacedRow>, SourceError> {
        let Some(id) = &shape.id else { return Ok(Vec::new()) };
        self.compare.postpone(visit.now.saturating_add(visit.timing.audit_every));
        if self.compare.due(visit.now) {
            let lowest = position.id.div_euclid(ID_BLOCK).saturating_sub(BLOCKS).saturating_mul(ID_BLOCK);
            let (low, high) = (lowest.max(position.floor), position.id);
            let block = shape.engine.block_of(id, ID_BLOCK);
            let mut statement = Statement::new(shape.engine);
            statement.push(&format!("SELECT {block}, COUNT(*) FROM {} WHERE {id} BETWEEN ", shape.from));
            statement.bind(Param::Int(low)).push(" AND ").bind(Param::Int(high)).push(" GROUP BY 1");
            let there = counted(visit, &statement).await?;
            let blocks = (low.div_euclid(ID_BLOCK), high.div_euclid(ID_BLOCK) + 1);
            match visit.counts.rows_per_block(shape.table, position.generation, blocks.0, blocks.1).await {
                Ok(here) => {
                    let timing = visit.timing;
                    self.compare.weigh(visit.now, timing.audit_confirm, timing.audit_every, &there, &here);
                }
                Err(e) => tracing::debug!(table = %shape.name, "audit: local counts cannot be had: {e}"),
            }
        }
        let mut rows = Vec::new();
        for block in self.compare.take() {
            let low = block.saturating_mul(ID_BLOCK).max(position.floor);
            let high = block.saturating_mul(ID_BLOCK).saturating_add(ID_BLOCK - 1).min(position.id);
            let mut statement = Statement::new(shape.engine);
            statement.push(&shape.select(0)).push(&format!(" WHERE {id} BETWEEN "));
            statement.bind(Param::Int(low)).push(" AND ").bind(Param::Int(high));
            for cells in visit.select(&statement).await?.iter() {
                if let (Some(id), Ok(row)) = (read::id(shape, cells), read::row(shape, cells)) {
                    let generation = position.generation;
                    rows.push(PlacedRow { generation, place: Place::Id(id), row, by_audit: true });
                }
            }
        }
        Ok(rows)
    }
}

/// The answer of `SELECT key, COUNT(*) …`.
pub async fn counted(visit: &mut Visit<'_>, statement: &Statement) -> Result<BTreeMap<i64, i64>, SourceError> {
    let rows = match visit.select(statement).await {
        // the server answers, and not this: a value it cannot count by stands in the column. Nothing may wait for that
        Err(SourceError::Transient(why)) if super::now(visit.backend).await.is_ok() => {
            return Err(SourceError::Slow(why));
        }
        rows => rows?,
    };
    Ok(rows.iter().filter_map(|row| Some((row[0].int()?, row[1].int()?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(i64, i64)]) -> BTreeMap<i64, i64> {
        pairs.iter().copied().collect()
    }

    #[test]
    fn a_difference_is_believed_the_second_time() {
        let mut c = Compare::default();
        assert!(!c.weigh(0, 15, 300, &map(&[(1, 5), (2, 7)]), &map(&[(1, 5), (2, 6)])));
        assert!(!c.due(14) && !c.confirms(14) && c.due(15) && c.confirms(15));
        assert!(c.weigh(15, 15, 300, &map(&[(1, 5), (2, 7)]), &map(&[(1, 5), (2, 6)])));
        assert_eq!(c.take(), [2]);
        c.committed();
        assert!(c.idle() && !c.due(314) && c.due(315));
    }

    #[test]
    fn a_row_on_its_way_is_no_difference() {
        let mut c = Compare::default();
        c.weigh(0, 15, 300, &map(&[(2, 7)]), &map(&[(2, 6)]));
        assert!(c.weigh(15, 15, 300, &map(&[(2, 7)]), &map(&[(2, 7)])));
        assert!(c.idle());
    }

    #[test]
    fn what_stays_different_is_left_alone_until_it_changes() {
        let mut c = Compare::default();
        let (there, here) = (map(&[(2, 7)]), map(&[(2, 6)]));
        c.weigh(0, 15, 300, &there, &here);
        c.weigh(15, 15, 300, &there, &here);
        c.take();
        c.committed();
        assert!(c.weigh(315, 15, 300, &there, &here), "no suspects: nothing new");
        assert!(!c.weigh(615, 15, 300, &map(&[(2, 8)]), &here));
    }

    #[test]
    fn what_was_not_stored_is_read_again() {
        let mut c = Compare::default();
        c.weigh(0, 15, 300, &map(&[(2, 7)]), &map(&[]));
        c.weigh(15, 15, 300, &map(&[(2, 7)]), &map(&[]));
        assert_eq!(c.take(), [2]);
        assert_eq!(c.take(), [2]);
    }
}
