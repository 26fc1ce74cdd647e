//! Memory, CPU time and open files of this process, read from `/proc` when somebody asks. The names are those every
//! Prometheus client library uses.

use std::fs;
use std::sync::Once;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use crate::metrics::REGISTRY;

/// Clock ticks a second in `/proc/<pid>/stat`: fixed in Linux's interface to programs.
const TICKS_PER_S: f64 = 100.0;

/// Adds the process to the registry; once is enough, more does nothing.
pub fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(process) = Process::new() {
            // a second collector of these names would be an error of ours; metrics are no reason to stop
            let _ = REGISTRY.register(Box::new(process));
        }
    });
}

struct Process {
    resident_bytes: Gauge,
    cpu_s: Counter,
    open_files: Gauge,
    start_time_s: Gauge,
}

impl Process {
    /// `None` where there is no `/proc`.
    fn new() -> Option<Self> {
        resident_bytes()?;
        let process = Self {
            resident_bytes: Gauge::new("process_resident_memory_bytes", "Resident memory").ok()?,
            cpu_s: Counter::new("process_cpu_seconds_total", "User and system CPU time").ok()?,
            open_files: Gauge::new("process_open_fds", "Open file descriptors").ok()?,
            start_time_s: Gauge::new("process_start_time_seconds", "Start of the process, seconds since 1970").ok()?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        process.start_time_s.set(now - age_s().unwrap_or(0.0));
        Some(process)
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let mut desc = self.resident_bytes.desc();
        desc.extend(self.cpu_s.desc());
        desc.extend(self.open_files.desc());
        desc.extend(self.start_time_s.desc());
        desc
    }

    fn collect(&self) -> Vec<MetricFamily> {
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
        if let Some(s) = cpu_s() {
            // two requests at once may read the same figure: never add less than nothing
            self.cpu_s.inc_by((s - self.cpu_s.get()).max(0.0));
        }
        if let Ok(files) = fs::read_dir("/proc/self/fd") {
            // the directory read here is one of them
            self.open_files.set((files.count() as f64 - 1.0).max(0.0));
        }
        let mut all = self.resident_bytes.collect();
        all.extend(self.cpu_s.collect());
        all.extend(self.open_files.collect());
        all.extend(self.start_time_s.collect());
        all
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let kilobytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn cpu_s() -> Option<f64> {
    let user: f64 = stat_field(14)?;
    let system: f64 = stat_field(15)?;
    Some((user + system) / TICKS_PER_S)
}

fn age_s() -> Option<f64> {
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Some(uptime - stat_field(22)? / TICKS_PER_S)
}

/// A field of `/proc/self/stat`, counted from 1 as in proc(5). The second one is the name and may hold anything.
fn stat_field(number: usize) -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let after_name = stat.get(stat.rfind(')')? + 1..)?;
    after_name.split_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_this_process() {
        assert!(resident_bytes().unwrap() > 1e6);
        let before = cpu_s().unwrap();
        let mut x = 1u64;
        while cpu_s().unwrap() < before + 0.02 {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!((0.0..86_400.0).contains(&age_s().unwrap()));
    }
}
