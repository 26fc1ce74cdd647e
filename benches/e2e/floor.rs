//! The floor: the database's own client reading the same rows to /dev/null.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::database::Database;
use crate::process;

#[derive(Clone, Copy)]
pub struct Floor {
    pub calls: usize,
    pub took: Duration,
    pub client_cpu: Duration,
    pub database_cpu: Duration,
}

pub fn read(database: &Database, calls: usize) -> Option<Floor> {
    let server_before = database.cpu();
    let began = Instant::now();
    let mut child = Command::new("mariadb")
        .args(["--no-defaults", "--quick", "--batch", "--user=root"])
        .arg(format!("--socket={}", database.socket().display()))
        .args(["-e", "SELECT * FROM cel ORDER BY id; SELECT * FROM cdr ORDER BY id"])
        .arg(&database.name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| eprintln!("!!! the mariadb client does not start ({e}): no floor"))
        .ok()?;
    while !process::has_ended(child.id()) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = began.elapsed();
    let client_cpu = process::cpu(child.id()).unwrap_or_default();
    child.wait().ok().filter(std::process::ExitStatus::success)?;
    Some(Floor { calls, took, client_cpu, database_cpu: database.cpu().saturating_sub(server_before) })
}
