//! The agent as its users run it: the binary, a state directory, an environment.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub struct Agent {
    pub dir: TempDir,
    env: BTreeMap<String, String>,
    child: Option<Child>,
}

impl Agent {
    /// An agent that reads as `database` says and posts to `url`. Polls faster than the defaults, to keep tests short.
    pub fn new(database: &[(&str, String)], url: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut env = BTreeMap::new();
        for (name, value) in database {
            env.insert((*name).to_owned(), value.clone());
        }
        for (name, value) in [
            ("STATE_DIR", dir.path().join("state").display().to_string().as_str()),
            ("SINKS", "webhook"),
            ("WEBHOOK_URL", url),
            ("WEBHOOK_BATCH_SIZE", "50"),
            ("KNOWN_TRUNKS", "PJSIP/trunk-*"),
            ("BUSY_POLL_INTERVAL", "0.1"),
            ("CDR_POLL_INTERVAL", "0.3"),
            ("MONITORING_ENABLED", "false"),
            ("START_FROM", "all"),
        ] {
            env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
        Self { dir, env, child: None }
    }

    pub fn set(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The program with this environment and nothing else of the test's.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callferry"));
        command.args(args).env_clear().envs(&self.env).current_dir(self.dir.path());
        command
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the agent runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the agent's log file");
        let child = self
            .command(&["run"])
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().expect("the log file twice"))
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        self.child = Some(child);
    }

    /// SIGKILL: no goodbye.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, then waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("a running agent");
        let pid = child.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill(1)");
        assert!(sent.success(), "SIGTERM could not be sent");
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("the agent's status") {
                return status;
            }
            assert!(begin.elapsed() < limit, "still running {limit:?} after SIGTERM\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("agent.log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the agent's last lines");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
