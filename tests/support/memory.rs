//! A stand-in for the agent and its store: keeps what a source reads, by place, with the positions that cover it; refuses
//! what it holds; counts for the audit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use callferry::call::Row;
use callferry::config::SourceConfig;
use callferry::correlate::Zone;
use callferry::source::sql::{SqlSource, Timing};
use callferry::source::{
    Batch, ID_BLOCK, LocalCounts, Place, PlacedRow, Quarantined, Source, SourceError, Table, Wishes, audit_minute,
};
use futures_util::future::BoxFuture;

#[derive(Default)]
struct Held {
    rows: BTreeMap<(Table, i64, Place), PlacedRow>,
}

#[derive(Clone, Default)]
struct Counts(Arc<Mutex<Held>>);

impl Counts {
    fn held<T>(&self, f: impl FnOnce(&mut Held) -> T) -> T {
        f(&mut self.0.lock().expect("no test thread died with it"))
    }
}

impl LocalCounts for Counts {
    fn seen_per_minute(&self, table: Table, from: i64, to: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        let counts = self.held(|held| {
            let mut counts = BTreeMap::new();
            for ((t, _, place), placed) in &held.rows {
                let minute = audit_minute(&placed.row).unwrap_or(0);
                if *t == table && matches!(place, Place::Hash(_)) && (from..to).contains(&minute) {
                    *counts.entry(minute).or_default() += 1;
                }
            }
            counts
        });
        Box::pin(async move { Ok(counts) })
    }

    fn rows_per_block(
        &self,
        table: Table,
        generation: i64,
        from: i64,
        to: i64,
    ) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        let counts = self.held(|held| {
            let mut counts = BTreeMap::new();
            for (t, g, place) in held.rows.keys() {
                let Place::Id(id) = place else { continue };
                let block = id.div_euclid(ID_BLOCK);
                if *t == table && *g == generation && (from..to).contains(&block) {
                    *counts.entry(block).or_default() += 1;
                }
            }
            counts
        });
        Box::pin(async move { Ok(counts) })
    }
}

/// A source with what was read of it.
pub struct Reading {
    pub source: SqlSource,
    pub positions: BTreeMap<String, String>,
    pub quarantined: Vec<Quarantined>,
    pub zone: Option<Zone>,
    pub gaps_given_up: u64,
    /// Rows that came again although they had been stored.
    pub repeated: usize,
    counts: Counts,
    config: SourceConfig,
    timing: Timing,
}

impl Reading {
    pub fn new(config: &SourceConfig) -> Self {
        Self::timed(config, Timing::default())
    }

    pub fn timed(config: &SourceConfig, timing: Timing) -> Self {
        let counts = Counts::default();
        let source = SqlSource::new(config, BTreeMap::new(), Arc::new(counts.clone()), timing.clone());
        Self {
            source,
            positions: BTreeMap::new(),
            quarantined: Vec::new(),
            zone: None,
            gaps_given_up: 0,
            repeated: 0,
            counts,
            config: config.clone(),
            timing,
        }
    }

    /// As after a crash: a new source from what was stored.
    pub fn restart(&mut self) {
        let counts = Arc::new(self.counts.clone());
        self.source = SqlSource::new(&self.config, self.positions.clone(), counts, self.timing.clone());
    }

    /// One poll, stored. Returns the rows that were new.
    pub async fn poll(&mut self) -> Result<(Vec<PlacedRow>, Batch), SourceError> {
        self.poll_for(&Wishes::default()).await
    }

    pub async fn poll_for(&mut self, wishes: &Wishes) -> Result<(Vec<PlacedRow>, Batch), SourceError> {
        let batch = self.source.poll(wishes).await?;
        let new = self.store(&batch);
        self.source.committed();
        Ok((new, batch))
    }

    fn store(&mut self, batch: &Batch) -> Vec<PlacedRow> {
        let mut new = Vec::new();
        for placed in &batch.rows {
            let table = table(&placed.row);
            let key = (table, placed.generation, placed.place);
            let known = self.counts.held(|held| {
                let known = held.rows.contains_key(&key);
                held.rows.entry(key).or_insert_with(|| placed.clone());
                known
            });
            if known {
                self.repeated += 1;
            } else {
                new.push(placed.clone());
            }
        }
        self.positions.extend(batch.positions.iter().cloned());
        self.quarantined.extend(batch.quarantined.iter().cloned());
        self.gaps_given_up += batch.gaps_given_up;
        if batch.zone.is_some() {
            self.zone.clone_from(&batch.zone);
        }
        new
    }

    /// Polls until nothing is waiting.
    pub async fn drain(&mut self) -> Result<usize, SourceError> {
        let mut count = 0;
        loop {
            let (new, batch) = self.poll().await?;
            count += new.len();
            if !batch.more {
                return Ok(count);
            }
        }
    }

    /// All rows of a table, in order of place.
    pub fn rows(&self, wanted: Table) -> Vec<Row> {
        self.counts.held(|held| {
            held.rows.iter().filter(|((t, ..), _)| *t == wanted).map(|(_, placed)| placed.row.clone()).collect()
        })
    }

    pub fn by_audit(&self) -> usize {
        self.counts.held(|held| held.rows.values().filter(|p| p.by_audit).count())
    }

    pub fn generations(&self, wanted: Table) -> Vec<i64> {
        self.counts.held(|held| {
            let mut all: Vec<i64> = held.rows.keys().filter(|(t, ..)| *t == wanted).map(|(_, g, _)| *g).collect();
            all.dedup();
            all
        })
    }
}

pub fn table(row: &Row) -> Table {
    match row {
        Row::Cel(_) => Table::Cel,
        Row::Cdr(_) => Table::Cdr,
    }
}
