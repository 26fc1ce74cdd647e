//! Calls as they happen: rows are written at the moment Asterisk would, and each call's delay is the time from the commit of
//! its last row to its arrival.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use crate::agent::{Agent, SinkKind};
use crate::calls::{self, Course, History, Row, Table};
use crate::database::{self, Database};
use crate::receiver::Receiver;

pub const CALLS_PER_SECOND: usize = 50;
/// One call in so many has no record: it waits for its grace.
const WITHOUT_RECORD: usize = 50;
const TICK: Duration = Duration::from_millis(10);
/// Time for the agent to settle down before it is measured.
const WARM_UP: Duration = Duration::from_secs(8);
/// How long statements are written down.
const LOGGED: Duration = Duration::from_secs(10);

pub struct Outcome {
    pub calls: usize,
    pub received: usize,
    pub doubled: usize,
    /// Of one core.
    pub cpu_share: f64,
    pub cpu_per_call: Duration,
    pub memory_peak: u64,
    /// Sorted; calls whose record came.
    pub delays: Vec<Duration>,
    /// Sorted; calls without record, CDR_GRACE included.
    pub grace_delays: Vec<Duration>,
    /// Statements of each poll while they were written down.
    pub polls: Vec<usize>,
    pub database_share: f64,
}

struct Due(Row);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.0.at == other.0.at
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.at.cmp(&other.0.at)
    }
}

fn now_micros() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
}

pub async fn run(database: &mut Database, sink: SinkKind, length: Duration) -> Outcome {
    eprintln!("live: {CALLS_PER_SECOND} calls/s for {} s …", length.as_secs());
    let known = 1_000;
    database.fill("live", History::new(known, now_micros() / 1_000_000 - 86_400, 3_600)).await;
    let receiver = Receiver::start();
    let mut agent = Agent::start(database, &receiver, sink, None);
    while receiver.count() < known && agent.began.elapsed() < Duration::from_secs(30) && agent.runs() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut writer = Writer::new(database.connect().await, known);
    let began = Instant::now();
    writer.write_until(began + WARM_UP).await;
    let (cpu, database_cpu, measured) = (agent.usage().cpu, database.cpu(), Instant::now());
    let calls_before = writer.next;
    writer.write_until(began + WARM_UP + length).await;
    let took = measured.elapsed().as_secs_f64();
    let used = agent.usage().cpu.saturating_sub(cpu);
    let database_share = database.cpu().saturating_sub(database_cpu).as_secs_f64() / took;
    let measured_calls = writer.next - calls_before;
    // not while it is measured: every row written is written down too
    let log = database.log_statements().await;
    let connection = database.agents_connection().await;
    writer.write_until(Instant::now() + LOGGED).await;
    database.end_log().await;
    writer.finish().await;
    let calls = writer.next;
    let end = Instant::now();
    while receiver.count() < calls && end.elapsed() < Duration::from_secs(30) && agent.runs() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let memory_peak = agent.usage().memory_peak;
    agent.stop();
    let received = receiver.received();
    if received.calls != calls {
        agent.log().lines().for_each(|line| eprintln!("  | {line}"));
    }
    let (delays, grace_delays) = writer.delays(&receiver);
    Outcome {
        calls,
        received: received.calls,
        doubled: received.doubled,
        cpu_share: used.as_secs_f64() / took,
        cpu_per_call: used / u32::try_from(measured_calls.max(1)).unwrap_or(1),
        memory_peak,
        delays,
        grace_delays,
        polls: connection.map(|c| database::statements_per_poll(&log, c)).unwrap_or_default(),
        database_share,
    }
}

struct Writer {
    connection: sqlx::MySqlConnection,
    waiting: BinaryHeap<Reverse<Due>>,
    next: usize,
    next_at: i64,
    /// When the last row of each call was committed, and whether that was its record.
    committed: HashMap<String, (Instant, bool)>,
    starts: HashMap<usize, i64>,
}

impl Writer {
    fn new(connection: sqlx::MySqlConnection, first: usize) -> Self {
        let (waiting, next_at) = (BinaryHeap::new(), now_micros());
        Self { connection, waiting, next: first, next_at, committed: HashMap::new(), starts: HashMap::new() }
    }

    async fn write_until(&mut self, until: Instant) {
        while Instant::now() < until {
            let now = now_micros();
            while self.next_at <= now {
                self.call();
                self.next_at += 1_000_000 / CALLS_PER_SECOND as i64;
            }
            self.write(now).await;
            tokio::time::sleep(TICK).await;
        }
    }

    /// No more calls; those that are up end.
    async fn finish(&mut self) {
        while !self.waiting.is_empty() {
            self.write(now_micros()).await;
            tokio::time::sleep(TICK).await;
        }
    }

    fn call(&mut self) {
        let mut random = fastrand::Rng::with_seed(self.next as u64);
        let course = Course {
            start: self.next_at,
            ring: random.i64(500_000..4_000_000),
            talk: random.i64(1_000_000..15_000_000),
            record: !self.next.is_multiple_of(WITHOUT_RECORD),
        };
        self.starts.insert(self.next, course.start);
        self.waiting.extend(calls::rows(self.next, course).into_iter().map(|r| Reverse(Due(r))));
        self.next += 1;
    }

    /// What is due, in one transaction.
    async fn write(&mut self, now: i64) {
        let mut rows = Vec::new();
        while self.waiting.peek().is_some_and(|Reverse(Due(r))| r.at <= now) {
            rows.extend(self.waiting.pop().map(|Reverse(Due(r))| r));
        }
        if rows.is_empty() {
            return;
        }
        let mut transaction = self.connection.begin().await.expect("MariaDB answers");
        for table in [Table::Cel, Table::Cdr] {
            if let Some(sql) = database::insert(&rows, table) {
                transaction.execute(AssertSqlSafe(sql)).await.expect("rows are written");
            }
        }
        transaction.commit().await.expect("MariaDB answers");
        let committed = Instant::now();
        for row in rows.iter().filter(|r| r.last) {
            if let Some(start) = self.starts.remove(&row.call) {
                self.committed.insert(calls::linkedid(row.call, start), (committed, row.table == Table::Cdr));
            }
        }
    }

    /// Of calls with and without record.
    fn delays(&self, receiver: &Receiver) -> (Vec<Duration>, Vec<Duration>) {
        let (mut with, mut without) = (Vec::new(), Vec::new());
        let arrivals = receiver.arrivals();
        for (linkedid, (committed, record)) in &self.committed {
            let Some(arrived) = arrivals.get(linkedid) else { continue };
            let delay = arrived.saturating_duration_since(*committed);
            if *record { with.push(delay) } else { without.push(delay) }
        }
        with.sort_unstable();
        without.sort_unstable();
        (with, without)
    }
}
