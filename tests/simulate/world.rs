//! Everything outside the agent, and what is true: the PBXs and their table, the endpoints, the clock, and which rows the
//! agent made durable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use callferry::call::Row;
use callferry::source::Batch;
use fastrand::Rng;

use crate::pbx::{self, Lateness, Pbx, SECOND, Table, Written};
use crate::sinks::{Endpoint, storm};
use crate::table::{Change, Moods, Tables};

/// 2026-12-01 10:00 UTC.
pub const BEGIN: i64 = 1_796_119_200 * SECOND;

/// A row that this state has, as the source read it.
#[derive(Clone, Debug)]
pub struct HeldRow {
    pub call: usize,
    pub batch: u64,
    pub row: Row,
}

/// What the PBX's database does at a moment.
enum Event {
    Reserve(usize),
    Commit(usize, Option<i64>),
    /// An id is taken and its transaction rolled back.
    Hole(Table),
}

/// What is drawn once.
#[derive(Clone, Debug)]
pub struct Plan {
    pub calls: usize,
    pub storm: i64,
    pub cdr_ids: bool,
    /// Percent of the agent's steps after which it is killed.
    pub kills: u64,
    pub purges: bool,
    pub truncates: bool,
    pub lags: bool,
    pub loses_state: bool,
    pub progressive: bool,
    pub start_now: bool,
    pub page: u32,
    /// Rows of settled calls are kept this long, microseconds.
    pub retention: i64,
    /// A call that never ends is told as it is after this long, microseconds.
    pub max_age: i64,
    pub database_faults: bool,
    /// How much the database's clock, and the agent's, are ahead.
    pub database_ahead: i64,
    pub agent_ahead: i64,
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub plan: Plan,
    pub dir: PathBuf,
    /// The true time, microseconds.
    pub now: Arc<AtomicI64>,
    pub moods: Arc<Moods>,
    pub tables: Tables,
    pub rows: Vec<Written>,
    pub shapes: Vec<String>,
    /// Calls of lines that are never hung up.
    pub nailed: BTreeSet<usize>,
    events: BTreeMap<(i64, usize), Event>,
    next_event: usize,
    next_id: BTreeMap<Table, i64>,
    pub endpoints: Vec<Arc<Endpoint>>,
    /// When the replica shows a change at the earliest; a stop is a long one.
    lag: i64,
    lag_until: i64,
    logged_at: Vec<i64>,
    /// Signs of the rows this state has, and the rows.
    pub signs: BTreeSet<String>,
    pub held: Vec<HeldRow>,
    pub batches: u64,
    call_of: BTreeMap<String, usize>,
    /// Rows nobody could read: they went before.
    pub unreadable: BTreeSet<String>,
    /// Rows that are gone from the PBX, also where a replica does not show it yet.
    gone: BTreeSet<String>,
    /// Calls of which rows are gone from the PBX.
    pub purged: BTreeSet<usize>,
    /// Calls of which an earlier state knew rows that are gone.
    pub half_known: BTreeSet<usize>,
    /// Signs of the rows that an earlier state had.
    known_once: BTreeSet<String>,
    /// When a poll last saw everything that was shown.
    pub seen_to: i64,
    /// Rows that were committed to the table after the gap list gave them up.
    pub t0: Option<i64>,
    pub trace: Vec<String>,
    pub problems: Vec<String>,
}

impl World {
    pub fn new(seed: u64, dir: PathBuf) -> Self {
        let mut rng = Rng::with_seed(seed);
        let one_in = |rng: &mut Rng, n: u64| rng.u64(..n) == 0;
        let plan = Plan {
            calls: rng.usize(8..26),
            storm: rng.i64(8..22) * 60 * SECOND,
            cdr_ids: rng.bool(),
            kills: [0, 2, 6, 12][rng.usize(..4)],
            purges: rng.bool(),
            truncates: one_in(&mut rng, 3),
            lags: one_in(&mut rng, 3),
            loses_state: one_in(&mut rng, 6),
            progressive: one_in(&mut rng, 3),
            start_now: one_in(&mut rng, 5),
            page: [7, 40, 300, 2_000][rng.usize(..4)],
            retention: [86_400, 86_400, 300, 30][rng.usize(..4)] * SECOND,
            max_age: [86_400, 86_400, 240][rng.usize(..3)] * SECOND,
            database_faults: rng.bool(),
            database_ahead: rng.i64(-2..3) * SECOND,
            agent_ahead: rng.i64(-30..30) * SECOND,
        };
        let late = Lateness {
            late: [0, 5, 30][rng.usize(..3)],
            late_max: [2, 20, 50][rng.usize(..3)] * SECOND,
            late_records: [0, 0, 10, 40][rng.usize(..4)],
            burst: [0, 0, 5, 60][rng.usize(..4)] * SECOND,
            twice: [0, 0, 5][rng.usize(..3)],
        };
        let now = Arc::new(AtomicI64::new(BEGIN));
        let tables = Tables::new(dir.join("pbx.db"), plan.cdr_ids);
        let mut world = Self {
            seed,
            dir,
            moods: Arc::new(Moods::default()),
            tables,
            rows: Vec::new(),
            shapes: Vec::new(),
            nailed: BTreeSet::new(),
            events: BTreeMap::new(),
            next_event: 0,
            next_id: BTreeMap::from([(Table::Cel, 1), (Table::Cdr, 1)]),
            endpoints: Vec::new(),
            lag: 0,
            lag_until: 0,
            logged_at: Vec::new(),
            signs: BTreeSet::new(),
            held: Vec::new(),
            batches: 0,
            call_of: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            gone: BTreeSet::new(),
            purged: BTreeSet::new(),
            half_known: BTreeSet::new(),
            known_once: BTreeSet::new(),
            seen_to: 0,
            t0: None,
            trace: Vec::new(),
            problems: Vec::new(),
            now,
            plan,
            rng,
        };
        world.write_calls(&late);
        world.open_endpoints();
        let (plan, late) = (world.plan.clone(), late);
        world.tell(format!("{plan:?} {late:?}"));
        world.moods.now.store(BEGIN + world.plan.database_ahead, Ordering::Relaxed);
        world
    }

    fn write_calls(&mut self, late: &Lateness) {
        let (begin, end) = (self.time(), self.time() + self.plan.storm);
        let two = self.rng.bool();
        let names: &[&'static str] = if two { &["pbxa-", "pbxb-"] } else { &[""] };
        let mut pbxs: Vec<Pbx> = names
            .iter()
            .map(|name| {
                let restart = (self.rng.u64(..4) == 0).then(|| begin + self.rng.i64(60..600) * SECOND);
                Pbx { systemname: name, counter: self.rng.u64(4_000..9_000), restart }
            })
            .collect();
        let mut starts: Vec<i64> = (0..self.plan.calls)
            .map(|_| begin + self.rng.i64(0..(self.plan.storm / SECOND - 90).max(1)) * SECOND)
            .collect();
        starts.sort_unstable();
        // the PBX goes on: by what it writes at last an emptied table is known
        starts.extend([end + 60 * SECOND, end + 90 * SECOND]);
        let mut restarted = vec![false; pbxs.len()];
        for (number, start) in starts.into_iter().enumerate() {
            let n = self.rng.usize(..pbxs.len());
            let pbx = &mut pbxs[n];
            if pbx.restart.is_some_and(|at| start >= at) && !std::mem::replace(&mut restarted[n], true) {
                pbx.counter = 0;
            }
            let is_nailed = pbx.restart.is_none() && start < end - 600 * SECOND && self.rng.u64(..20) == 0;
            let (shape, written) = if is_nailed {
                self.nailed.insert(number);
                ("nailed line".to_owned(), pbx::nailed_line(&mut self.rng, pbx, start, number, late))
            } else {
                pbx::call(&mut self.rng, pbx, start, number, late)
            };
            let id = written.first().map_or("", |w| w.sign.as_str()).to_owned();
            self.tell(format!("call {number} is {shape}, {} rows, from {id}", written.len()));
            self.shapes.push(shape);
            for row in written {
                self.call_of.insert(row.sign.clone(), row.call);
                let (at, table) = (row.reserved, row.table);
                self.rows.push(row);
                self.put(at, Event::Reserve(self.rows.len() - 1));
                if self.rng.u64(..60) == 0 {
                    self.put(at, Event::Hole(table));
                }
            }
        }
        for pbx in pbxs.iter().filter(|p| p.restart.is_some()) {
            self.tell(format!("PBX {:?} restarts at {}", pbx.systemname, pbx.restart.unwrap_or_default() - BEGIN));
        }
    }

    fn open_endpoints(&mut self) {
        let (from, to) = (self.time(), self.time() + self.plan.storm);
        for name in ["webhook", "file", "sipstack"] {
            let mut endpoint = Endpoint::new(name, Arc::clone(&self.now), self.rng.u64(..));
            if self.rng.u64(..4) > 0 {
                endpoint.faults = storm(&mut self.rng, from, to);
            }
            if self.rng.u64(..3) == 0 {
                endpoint.poison = (self.rng.u64(5..30), [403, 400, 422][self.rng.usize(..3)]);
            }
            endpoint.calm_from = to;
            let faults: Vec<_> =
                endpoint.faults.iter().map(|f| ((f.0 - BEGIN) / SECOND, (f.1 - BEGIN) / SECOND, f.2, f.3)).collect();
            self.tell(format!("{name}: {faults:?}, poison {:?}", endpoint.poison));
            self.endpoints.push(Arc::new(endpoint));
        }
    }

    fn put(&mut self, at: i64, event: Event) {
        self.next_event += 1;
        self.events.insert((at, self.next_event), event);
    }

    pub fn time(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn end_of_storm(&self) -> i64 {
        BEGIN + self.plan.storm
    }

    pub fn tell(&mut self, what: String) {
        let at = (self.time() - BEGIN) as f64 / 1e6;
        self.trace.push(format!("{at:>11.3}  {what}"));
    }

    pub fn problem(&mut self, what: String) {
        self.tell(format!("PROBLEM: {what}"));
        self.problems.push(what);
    }

    /// Nothing more will be written.
    pub fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.tables.shown == self.tables.log.len()
    }

    /// The next moment something happens at the PBX.
    pub fn next_moment(&self) -> Option<i64> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    /// Time passes for everybody but the agent.
    pub fn pass(&mut self, micros: i64) {
        let to = self.time() + micros;
        while let Some((&(at, n), _)) = self.events.first_key_value() {
            if at > to {
                break;
            }
            let Some(event) = self.events.remove(&(at, n)) else { break };
            self.happen(at, event);
        }
        self.now.store(to, Ordering::Relaxed);
        self.moods.now.store(to + self.plan.database_ahead, Ordering::Relaxed);
        let shown = if to < self.lag_until {
            self.logged_at.iter().take_while(|at| **at + self.lag <= to).count().max(self.tables.shown)
        } else {
            self.tables.log.len()
        };
        self.tables.show(shown, &self.rows, to);
    }

    fn log(&mut self, at: i64, change: Change) {
        self.tables.log.push(change);
        self.logged_at.push(at);
    }

    fn happen(&mut self, at: i64, event: Event) {
        let mut next = |table: Table| {
            let id = self.next_id.entry(table).or_insert(1);
            *id += 1;
            *id - 1
        };
        match event {
            Event::Hole(table) => {
                next(table);
            }
            Event::Reserve(row) => {
                let (table, committed) = (self.rows[row].table, self.rows[row].committed);
                let id = next(table);
                if committed > at {
                    self.put(committed, Event::Commit(row, Some(id)));
                } else {
                    self.log(at, Change::Insert { table, id, row });
                }
            }
            Event::Commit(row, id) => {
                let table = self.rows[row].table;
                let id = id.unwrap_or_else(|| next(table));
                let (call, late) = (self.rows[row].call, (at - self.rows[row].reserved) / 1_000);
                self.trace.push(format!(
                    "{:>11.3}  {table:?} {id} of call {call} is committed {late} ms late: {}",
                    (at - BEGIN) as f64 / 1e6,
                    self.rows[row].sign
                ));
                self.log(at, Change::Insert { table, id, row });
            }
        }
    }

    /// Whether the PBX may take a row away: this state has it, or nobody had a chance to read it.
    fn may_go(&self, row: usize, since: i64) -> bool {
        self.signs.contains(&self.rows[row].sign) || since > self.seen_to
    }

    fn goes(&mut self, row: usize) {
        let (sign, call) = (self.rows[row].sign.clone(), self.rows[row].call);
        self.purged.insert(call);
        if !self.signs.contains(&sign) {
            self.unreadable.insert(sign.clone());
            if self.known_once.contains(&sign) {
                self.half_known.insert(call);
            }
        }
        self.gone.insert(sign);
    }

    /// Something that befalls the PBX's database.
    pub fn trouble(&mut self) {
        let now = self.time();
        let all_shown = self.tables.shown == self.tables.log.len();
        match self.rng.u64(..40) {
            0..=3 if self.plan.purges && all_shown => {
                let older = now - self.rng.i64(60..900) * SECOND;
                for table in [Table::Cel, Table::Cdr] {
                    let old: Vec<(i64, usize)> = self
                        .tables
                        .present
                        .iter()
                        .filter(|((t, _), (row, since))| {
                            *t == table && self.rows[*row].happened < older && self.may_go(*row, *since)
                        })
                        .map(|((_, id), (row, _))| (*id, *row))
                        .collect();
                    if old.is_empty() {
                        continue;
                    }
                    self.tell(format!("{} rows of {table:?} purged", old.len()));
                    old.iter().for_each(|(_, row)| self.goes(*row));
                    self.log(now, Change::Purge { table, ids: old.into_iter().map(|(id, _)| id).collect() });
                }
            }
            4..=5 if self.plan.truncates && all_shown => {
                let table = if self.rng.u64(..3) > 0 { Table::Cel } else { Table::Cdr };
                let all: Vec<(usize, i64)> =
                    self.tables.present.iter().filter(|((t, _), _)| *t == table).map(|(_, r)| *r).collect();
                if all.is_empty() || !all.iter().all(|(row, since)| self.may_go(*row, *since)) {
                    return;
                }
                self.tell(format!("{table:?} emptied, its ids begin anew"));
                all.iter().for_each(|(row, _)| self.goes(*row));
                self.log(now, Change::Truncate { table });
                self.next_id.insert(table, 1);
                for event in self.events.values_mut() {
                    if let Event::Commit(row, id) = event
                        && self.rows[*row].table == table
                    {
                        *id = None;
                    }
                }
            }
            6..=8 if self.plan.lags && now >= self.lag_until => {
                self.lag = self.rng.i64(1..60) * SECOND;
                self.lag_until = now + self.rng.i64(10..300) * SECOND;
                self.tell(format!("the replica lags by {} s", self.lag / SECOND));
            }
            9 if self.plan.lags && now >= self.lag_until => {
                self.lag = self.rng.i64(1..40) * SECOND;
                self.lag_until = now + self.rng.i64(10..200) * SECOND;
                let to = self.logged_at.iter().take_while(|at| **at + self.lag <= now).count();
                self.tell(format!("another replica, {} s behind", self.lag / SECOND));
                self.tables.fall_back(to, &self.rows, now);
            }
            10..=13 if self.plan.database_faults => {
                self.moods.lost_at.store(self.rng.u64(1..9), Ordering::Relaxed);
            }
            14 if self.plan.database_faults => {
                let down = self.moods.down.load(Ordering::Relaxed);
                self.moods.down.store(1 - down, Ordering::Relaxed);
                self.tell(format!("the database is {}", if down == 0 { "down" } else { "up" }));
            }
            15..=20 => self.moods.down.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// From now on everything works.
    pub fn calm(&mut self) {
        self.moods.down.store(0, Ordering::Relaxed);
        self.moods.lost_at.store(0, Ordering::Relaxed);
        self.lag_until = 0;
    }

    /// The number of the call a row is of.
    pub fn call_of(&self, row: &Row) -> usize {
        self.call_of.get(&pbx::sign(row)).copied().unwrap_or(usize::MAX)
    }

    /// A batch is durable.
    pub fn committed(&mut self, batch: &Batch) {
        self.batches += 1;
        for placed in &batch.rows {
            let sign = pbx::sign(&placed.row);
            let Some(&call) = self.call_of.get(&sign) else {
                self.problem(format!("a row that nobody wrote: {sign}"));
                continue;
            };
            if self.signs.insert(sign.clone()) {
                self.held.push(HeldRow { call, batch: self.batches, row: placed.row.clone() });
                if placed.by_audit && !self.may_be_missed(&sign) {
                    self.problem(format!("only the audit found {sign}"));
                }
            }
        }
    }

    /// What only the audit can find: rows that are seen long after their neighbours, and records without a number that come
    /// later than the near past is looked at.
    fn may_be_missed(&self, sign: &str) -> bool {
        self.rows.iter().enumerate().filter(|(_, row)| row.sign == sign).any(|(n, row)| {
            let Some(shown) = self.tables.first_shown.get(&n) else { return false };
            let by_time = row.table == Table::Cdr && !self.plan.cdr_ids;
            if by_time { shown - row.happened > 800 * SECOND } else { shown - row.reserved > 55 * SECOND }
        })
    }

    /// The state is lost: what it knew, nobody knows.
    pub fn lose_state(&mut self) {
        let gone: Vec<String> = self.signs.intersection(&self.gone).cloned().collect();
        for sign in gone {
            self.half_known.insert(self.call_of[&sign]);
            self.unreadable.insert(sign);
        }
        self.known_once.append(&mut self.signs);
        self.held.clear();
        self.seen_to = 0;
        self.tell("the state is lost".to_owned());
    }
}
