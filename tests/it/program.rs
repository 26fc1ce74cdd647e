//! Running the real program as a user would: an environment and a directory of its own.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A directory to run `callferry` in, with nothing from the outside but `PATH`.
pub struct Program {
    dir: TempDir,
    environment: Vec<(String, String)>,
}

pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Program {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory"), environment: Vec::new() }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes the `.env` of the working directory.
    pub fn env_file(self, text: &str) -> Self {
        std::fs::write(self.dir().join(".env"), text).expect("writing .env");
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callferry"));
        command.args(args).current_dir(self.dir()).env_clear();
        command.envs(std::env::var_os("PATH").map(|p| ("PATH", p)));
        command.envs(self.environment.iter().map(|(k, v)| (k, v)));
        command
    }

    pub fn run(&self, args: &[&str]) -> Ended {
        let Output { status, stdout, stderr } = self.command(args).output().expect("the program starts");
        Ended {
            code: status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Ended {
    /// Ended with this code and told these words on standard error, in one line.
    #[track_caller]
    pub fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        let told: Vec<&str> = self.err.lines().filter(|l| l.starts_with("callferry: ")).collect();
        assert_eq!(told.len(), 1, "one line, not: {}", self.err);
    }
}
