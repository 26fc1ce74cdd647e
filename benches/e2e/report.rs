//! The table: each figure beside its goal.

use std::time::Duration;

use crate::floor::Floor;
use crate::{live, run};

pub struct Report {
    database: String,
    floor: Option<Floor>,
    backlogs: Vec<run::Outcome>,
    live: Option<live::Outcome>,
}

const MB: f64 = 1_048_576.0;
const MEMORY_MAX: f64 = 64.0;
const CPU_MS_MAX: f64 = 0.2;

impl Report {
    pub fn new(database: &str) -> Self {
        Self { database: database.to_owned(), floor: None, backlogs: Vec::new(), live: None }
    }

    pub fn floor(&mut self, floor: Option<Floor>) {
        self.floor = floor;
    }

    pub fn backlog(&mut self, outcome: run::Outcome) {
        eprintln!("{}", line(&outcome));
        self.backlogs.push(outcome);
    }

    pub fn live(&mut self, outcome: live::Outcome) {
        self.live = Some(outcome);
    }

    /// Every call came, and none twice.
    pub fn is_sound(&self) -> bool {
        let backlogs = self.backlogs.iter().all(|b| b.received == b.calls && b.doubled == 0);
        backlogs && self.live.as_ref().is_none_or(|l| l.received == l.calls && l.doubled == 0)
    }

    pub fn print(&self) {
        println!("\nDatabase: MariaDB, {}. {}\n", self.database, machine());
        if !self.backlogs.is_empty() {
            println!(
                "| backlog | calls | lost | doubled | calls/s | receiver alone | CPU ms/call | peak RSS | state | state B/call | \
                 requests | sent B/call | queries/1,000 calls | database CPU ms/call |"
            );
            println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
            self.backlogs.iter().for_each(|b| println!("{}", line(b)));
            println!();
        }
        if let Some(floor) = &self.floor {
            let per_call = |d: Duration| d.as_secs_f64() * 1e3 / floor.calls as f64;
            println!(
                "Floor: the plain client reads the rows of {} calls to /dev/null at {:.0} calls/s, with {:.3} ms CPU a call; the \
                 database uses {:.3} ms.\n",
                floor.calls,
                floor.calls as f64 / floor.took.as_secs_f64(),
                per_call(floor.client_cpu),
                per_call(floor.database_cpu)
            );
        }
        if let Some(live) = &self.live {
            print_live(live);
        }
        self.print_goals();
    }

    fn print_goals(&self) {
        println!("| goal | measured | |");
        println!("|---|---|---|");
        let goal = |what: &str, measured: String, met: bool| {
            println!("| {what} | {measured} | {} |", if met { "met" } else { "MISSED" })
        };
        let named = |name: &str| self.backlogs.iter().find(|b| b.name == name);
        let webhook = named("webhook");
        for (name, rate) in [("webhook", 5_000.0), ("sipstack", 1_500.0)] {
            let Some(b) = named(name) else { continue };
            goal(&format!("{name}: ≥ {rate} calls/s"), format!("{:.0}", b.rate()), b.rate() >= rate);
        }
        for b in self.backlogs.iter().filter(|b| b.flushes.is_none()) {
            let (memory, cpu) = (b.usage.memory_peak as f64 / MB, b.cpu_ms());
            goal(&format!("{}: peak RSS ≤ 64 MB", b.name), format!("{memory:.0} MB"), memory <= MEMORY_MAX);
            goal(&format!("{}: CPU ≤ 0.2 ms a call", b.name), format!("{cpu:.3} ms"), cpu <= CPU_MS_MAX);
        }
        for name in ["webhook, history", "webhook, history, 10 ms fsync"] {
            let (Some(webhook), Some(history)) = (webhook, named(name)) else { continue };
            let ratio = webhook.rate() / history.rate();
            goal(&format!("{name}: rate within 1.5× of the short run"), format!("{ratio:.2}×"), ratio <= 1.5);
        }
        if let Some(live) = &self.live {
            let (p50, p99) = (percentile(&live.delays, 50), percentile(&live.delays, 99));
            goal("live: ≤ 5 % of one core", format!("{:.1} %", live.cpu_share * 100.0), live.cpu_share <= 0.05);
            goal("live: delay p50 ≤ 1.2 s", format!("{p50:.2} s"), p50 <= 1.2);
            goal("live: delay p99 ≤ 3 s", format!("{p99:.2} s"), p99 <= 3.0);
            let most = live.polls.iter().max().copied().unwrap_or(usize::MAX);
            goal("live: ≤ 3 queries a poll", format!("at most {most} in {} polls", live.polls.len()), most <= 3);
        }
        let sound = self.is_sound();
        goal("nothing lost, nothing doubled", if sound { "0, 0".to_owned() } else { "see above".to_owned() }, sound);
    }
}

impl run::Outcome {
    fn rate(&self) -> f64 {
        self.received as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn cpu_ms(&self) -> f64 {
        self.usage.cpu.as_secs_f64() * 1e3 / self.received.max(1) as f64
    }
}

fn line(b: &run::Outcome) -> String {
    let received = b.received.max(1) as f64;
    let flushes = b.flushes.map_or_else(String::new, |n| format!(" ({n} flushes)"));
    format!(
        "| {}{flushes} | {} | {} | {} | {:.0} | {} | {:.3} | {:.0} MB | {:.0} MB | {:.0} | {} | {:.0} | {:.1} | {:.3} |",
        b.name,
        b.calls,
        b.calls.saturating_sub(b.received),
        b.doubled,
        b.rate(),
        b.ceiling.map_or_else(|| "-".to_owned(), |c| format!("{c:.0}")),
        b.cpu_ms(),
        b.usage.memory_peak as f64 / MB,
        b.state as f64 / MB,
        b.state as f64 / received,
        b.requests,
        b.bytes as f64 / received,
        b.selects as f64 * 1e3 / received,
        b.database_cpu.as_secs_f64() * 1e3 / received,
    )
}

fn print_live(live: &live::Outcome) {
    let quantiles = |d: &[Duration]| {
        format!(
            "{:.2} | {:.2} | {:.2}",
            percentile(d, 50),
            percentile(d, 99),
            d.last().map_or(0.0, Duration::as_secs_f64)
        )
    };
    println!("| live, {} calls/s | calls | p50 s | p99 s | max s |", live::CALLS_PER_SECOND);
    println!("|---|--:|--:|--:|--:|");
    println!("| last row's commit to arrival | {} | {} |", live.delays.len(), quantiles(&live.delays));
    println!(
        "| the same without a record: CDR_GRACE (5 s) | {} | {} |",
        live.grace_delays.len(),
        quantiles(&live.grace_delays)
    );
    println!(
        "\nLive: {:.1} % of one core, {:.2} ms CPU a call, peak RSS {:.0} MB, the database {:.1} % of one core (rows written \
         included), {} of {} calls lost, {} doubled.\n",
        live.cpu_share * 100.0,
        live.cpu_per_call.as_secs_f64() * 1e3,
        live.memory_peak as f64 / MB,
        live.database_share * 100.0,
        live.calls.saturating_sub(live.received),
        live.calls,
        live.doubled
    );
}

/// Seconds; NaN where nothing was measured, which meets no goal.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(f64::NAN, Duration::as_secs_f64)
}

/// The machine, and how busy it was otherwise.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, m)| m.trim().to_owned()));
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_whitespace().next().unwrap_or("?").to_owned();
    format!(
        "Two cores of: {}. Load average at the end: {load}.",
        model.unwrap_or_else(|| "an unnamed processor".to_owned())
    )
}
