//! The agent as its users run it, with default settings: only where to read, where to deliver and where to begin is said.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::database::{Database, PASSWORD, USER};
use crate::process;
use crate::receiver::Receiver;
use crate::support::server;

/// Where calls go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Batches of this many calls.
    Webhook(usize),
    Sipstack,
}

pub struct Agent {
    dir: TempDir,
    child: Child,
    pub began: Instant,
}

/// What it used, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub memory_peak: u64,
}

impl Agent {
    /// Starts it with an empty state. `preload`: a library to load first.
    pub fn start(database: &Database, receiver: &Receiver, sink: SinkKind, preload: Option<&Path>) -> Self {
        let dir = tempfile::Builder::new().prefix("callferry-bench-").tempdir().expect("a temporary directory");
        let log = File::create(dir.path().join("log")).expect("the agent's log");
        let mut command =
            Command::new(std::env::var_os("BENCH_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_callferry").into()));
        command
            .arg("run")
            .env_clear()
            .current_dir(dir.path())
            .env("DB_HOST", "127.0.0.1")
            .env("DB_PORT", database.port.to_string())
            .env("DB_NAME", &database.name)
            .env("DB_USER", USER)
            .env("DB_PASSWORD", PASSWORD)
            .env("KNOWN_TRUNKS", "PJSIP/trunk-*")
            .env("START_FROM", "all")
            .env("STATE_DIR", dir.path().join("state"))
            // another agent may run on this machine
            .env("MONITORING_PORT", server::free_port().to_string());
        match sink {
            SinkKind::Webhook(batch) => command
                .env("SINKS", "webhook")
                .env("WEBHOOK_URL", receiver.url())
                .env("WEBHOOK_BATCH_SIZE", batch.to_string()),
            SinkKind::Sipstack => {
                command.env("SINKS", "sipstack").env("API_ENDPOINT", receiver.url()).env("API_KEY", "bench")
            }
        };
        if let Some(library) = preload {
            command.env("LD_PRELOAD", library);
        }
        let began = Instant::now();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log twice"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        Self { dir, child, began }
    }

    pub fn usage(&self) -> Usage {
        let pid = self.child.id();
        Usage { cpu: process::cpu(pid).unwrap_or_default(), memory_peak: process::peak_memory(pid).unwrap_or_default() }
    }

    pub fn runs(&self) -> bool {
        !process::has_ended(self.child.id())
    }

    /// Bytes of its state.
    pub fn state_size(&self) -> u64 {
        let entries = std::fs::read_dir(self.dir.path().join("state")).into_iter().flatten().flatten();
        let files = entries.filter(|e| e.file_name().to_string_lossy().starts_with("callferry.db"));
        files.filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
    }

    pub fn state_file(&self) -> PathBuf {
        self.dir.path().join("state/callferry.db")
    }

    /// Asks it to end, and waits.
    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").args(["-TERM", &pid]).status();
        let began = Instant::now();
        while !process::has_ended(self.child.id()) && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
