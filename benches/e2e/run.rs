//! One backlog from start to end: an agent with an empty state, rows that are all there, until the last call has arrived.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::agent::{Agent, SinkKind, Usage};
use crate::database::Database;
use crate::receiver::Receiver;

/// Without a new call for so long it is over.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the receiver's own ceiling is measured.
const CEILING: Duration = Duration::from_secs(2);
/// Requests at the same time, by default: WEBHOOK_CONCURRENCY.
const CONNECTIONS: usize = 4;

pub struct Backlog<'a> {
    pub name: &'a str,
    pub calls: usize,
    pub sink: SinkKind,
    pub preload: Option<&'a Path>,
}

/// What a run came to.
pub struct Outcome {
    pub name: String,
    pub calls: usize,
    pub received: usize,
    pub doubled: usize,
    /// From the agent's start to the last call's arrival.
    pub took: Duration,
    pub usage: Usage,
    pub database_cpu: Duration,
    /// SELECTs the database ran for it.
    pub selects: u64,
    pub requests: u64,
    pub bytes: u64,
    pub state: u64,
    /// Calls a second the receiver alone takes.
    pub ceiling: Option<f64>,
    /// Flushes to the disk, where they were counted.
    pub flushes: Option<u64>,
}

pub async fn backlog(database: &mut Database, backlog: &Backlog<'_>) -> Outcome {
    eprintln!("{}: {} calls …", backlog.name, backlog.calls);
    let receiver = Receiver::start();
    let (selects, database_cpu) = (database.status("Com_select").await, database.cpu());
    let mut agent = Agent::start(database, &receiver, backlog.sink, backlog.preload);
    let (mut last, mut since) = (0, Instant::now());
    let mut told = Instant::now();
    loop {
        let count = receiver.count();
        if count > last {
            (last, since) = (count, Instant::now());
        }
        if count >= backlog.calls || since.elapsed() > PATIENCE || !agent.runs() {
            break;
        }
        if told.elapsed() > Duration::from_secs(10) {
            eprintln!("  {count} after {:.0} s", agent.began.elapsed().as_secs_f64());
            told = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // what is left to do then (answers on their way into the state) belongs to the cost; so would a call that comes twice
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let usage = agent.usage();
    let database_cpu = database.cpu().saturating_sub(database_cpu);
    let selects = database.status("Com_select").await.saturating_sub(selects);
    let began = agent.began;
    agent.stop();
    let received = receiver.received();
    let log = agent.log();
    let outcome = Outcome {
        name: backlog.name.to_owned(),
        calls: backlog.calls,
        received: received.calls,
        doubled: received.doubled,
        took: received.last.map_or(Duration::ZERO, |l| l.duration_since(began)),
        usage,
        database_cpu,
        selects,
        requests: receiver.requests(),
        bytes: receiver.bytes(),
        state: agent.state_size(),
        ceiling: receiver.ceiling(CONNECTIONS, CEILING),
        flushes: log.lines().find_map(|l| l.strip_prefix("flushes: ")?.parse().ok()),
    };
    if received.calls != backlog.calls || log.contains(" WARN ") || log.contains(" ERROR ") {
        log.lines().rev().take(20).collect::<Vec<_>>().iter().rev().for_each(|line| eprintln!("  | {line}"));
    }
    if let Ok(keep) = std::env::var("BENCH_KEEP_STATE") {
        let _ = std::fs::copy(agent.state_file(), keep);
    }
    outcome
}
