//! The whole way, measured: a private MariaDB with the rows of finished calls, the release binary with default settings, a
//! receiver on the loopback address, all on two cores. Prints the table of docs/performance.md and ends by itself.
//!
//! `BENCH_CALLS` (20,000) and `BENCH_HISTORY` (1,000,000) set how many calls, 0 leaves a part out; `BENCH_LIVE` (60) how many
//! seconds calls come live; `BENCH_ONLY` names the parts to run (floor, webhook, sipstack, live, fsync, history,
//! history-fsync, kit), commas between them; `BENCH_KIT` is a Python program that writes calls, see [`kit`].

mod agent;
mod calls;
mod database;
mod floor;
mod kit;
mod live;
mod process;
mod receiver;
mod report;
mod run;
#[path = "../../tests/support"]
#[allow(dead_code, reason = "a part of what integration tests stand on")]
mod support {
    pub mod database;
    pub mod mariadb;
    pub mod postgres;
    pub mod server;
}

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::SinkKind;
use calls::History;
use database::Database;
use report::Report;
use run::Backlog;

/// Calls in a batch of the batching webhook.
const BATCH: usize = 100;

struct Parts(Option<Vec<String>>);

impl Parts {
    fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|only| only.iter().any(|o| o == name))
    }
}

fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).ok().map_or(otherwise, |text| {
        text.replace('_', "").parse().unwrap_or_else(|_| panic!("{variable}={text} is no number"))
    })
}

fn main() {
    process::use_two_cores();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if !runtime.block_on(measure()) {
        std::process::exit(1);
    }
}

/// `false`: a call was lost or doubled.
async fn measure() -> bool {
    let (calls, history, live) =
        (number("BENCH_CALLS", 20_000), number("BENCH_HISTORY", 1_000_000), number("BENCH_LIVE", 60));
    let parts = Parts(std::env::var("BENCH_ONLY").ok().map(|o| o.split(',').map(|p| p.trim().to_owned()).collect()));
    let Some(mut database) = Database::start().await else {
        eprintln!("!!! nothing is measured: MariaDB is not installed (package mariadb-server)");
        return false;
    };
    let mut report = Report::new(&database.describe().await);
    let webhook = SinkKind::Webhook(BATCH);
    let slow = slow_fsync();

    if calls > 0 && ["floor", "webhook", "sipstack", "fsync"].iter().any(|p| parts.has(p)) {
        // over a day that ended yesterday
        let filled = database.fill("bench", History::new(calls, ago(2 * 86_400), 86_400)).await;
        eprintln!("{calls} calls written in {:.1} s", filled.as_secs_f64());
        if parts.has("floor") {
            report.floor(floor::read(&database, calls));
        }
        let backlog = |name, sink, preload| Backlog { name, calls, sink, preload };
        if parts.has("webhook") {
            report.backlog(run::backlog(&mut database, &backlog("webhook", webhook, None)).await);
        }
        if parts.has("sipstack") {
            report.backlog(run::backlog(&mut database, &backlog("sipstack", SinkKind::Sipstack, None)).await);
        }
        if parts.has("fsync")
            && let Some((_, library)) = &slow
        {
            report.backlog(run::backlog(&mut database, &backlog("webhook, 10 ms fsync", webhook, Some(library))).await);
            let sipstack = backlog("sipstack, 10 ms fsync", SinkKind::Sipstack, Some(library));
            report.backlog(run::backlog(&mut database, &sipstack).await);
        }
    }
    if live > 0 && parts.has("live") {
        report.live(live::run(&mut database, webhook, Duration::from_secs(live as u64)).await);
    }
    if calls > 0 && parts.has("kit") {
        kit::run(&mut database, webhook, calls, &mut report).await;
    }
    if history > 0 && (parts.has("history") || parts.has("history-fsync")) {
        let filled = database.fill("history", History::new(history, ago(60 * 86_400), 50 * 86_400)).await;
        eprintln!("{history} calls written in {:.1} s", filled.as_secs_f64());
        let backlog = |name, preload| Backlog { name, calls: history, sink: webhook, preload };
        if parts.has("history") {
            report.backlog(run::backlog(&mut database, &backlog("webhook, history", None)).await);
        }
        if parts.has("history-fsync")
            && let Some((_, library)) = &slow
        {
            let slowed = backlog("webhook, history, 10 ms fsync", Some(library));
            report.backlog(run::backlog(&mut database, &slowed).await);
        }
    }
    report.print();
    report.is_sound()
}

/// Seconds since 1970 so long ago.
fn ago(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_secs() as i64 - seconds
}

/// Builds the library that makes flushes slow.
fn slow_fsync() -> Option<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let library = dir.path().join("slow_fsync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/e2e/slow_fsync.c");
    let built =
        std::process::Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).status();
    if built.is_ok_and(|s| s.success()) {
        return Some((dir, library));
    }
    eprintln!("!!! no C compiler: the runs with a slow fsync are left out");
    None
}
