//! What a process used, as the kernel counts it. Linux only.

use std::time::Duration;

/// Clock ticks a second in /proc: 100 on every Linux.
const TICKS: f64 = 100.0;

/// User and system time of a process so far; also of one that has ended and was not waited for.
pub fn cpu(pid: u32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name, in brackets, may hold anything
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_secs_f64(ticks as f64 / TICKS))
}

/// Whether it has ended and waits to be waited for.
pub fn has_ended(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// The most memory it ever had in RAM, bytes.
pub fn peak_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kb| kb * 1_024)
}

/// Everything started from now on runs on the first two cores, which is what the figures are about.
pub fn use_two_cores() {
    let pid = std::process::id().to_string();
    let set = std::process::Command::new("taskset").args(["-cp", "0,1", &pid]).output();
    if !set.is_ok_and(|o| o.status.success()) {
        eprintln!("!!! taskset (util-linux) could not bind the benchmark to two cores: all cores are used");
    }
}
