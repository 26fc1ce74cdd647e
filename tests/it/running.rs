//! The running agent as an admin meets it: health, a second agent, a port in use, the end on SIGTERM.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, params_from_iter};

use crate::program::Program;

const LIMIT: Duration = Duration::from_secs(20);

/// The demo's rows in a SQLite database, as a PBX has them.
pub fn database(path: &Path) {
    let conn = Connection::open(path).unwrap();
    for table in ["cel", "cdr"] {
        let csv = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo").join(table).with_extension("csv");
        let mut reader = csv::Reader::from_path(csv).unwrap();
        let columns = reader.headers().unwrap().iter().map(|c| format!("\"{c}\"")).collect::<Vec<_>>();
        let marks = vec!["?"; columns.len()].join(",");
        let columns = columns.join(",");
        conn.execute_batch(&format!("CREATE TABLE {table} (AcctId INTEGER PRIMARY KEY, {columns}); BEGIN")).unwrap();
        for row in reader.records() {
            let sql = format!("INSERT INTO {table} ({columns}) VALUES ({marks})");
            conn.execute(&sql, params_from_iter(row.unwrap().iter())).unwrap();
        }
        conn.execute_batch(&format!("CREATE INDEX {table}_linkedid ON {table} (linkedid); COMMIT")).unwrap();
    }
}

fn program(port: u16) -> Program {
    let program = Program::new().env_file(&format!(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nKNOWN_TRUNKS=PJSIP/trunk-*\nSTART_FROM=all\n\
         SINKS=file\nFILE_PATH=calls.ndjson\nMONITORING_PORT={port}\n"
    ));
    database(&program.dir().join("pbx.db"));
    program
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what} did not come about within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends with the test, whatever becomes of that.
struct Agent(Child);

impl Agent {
    fn start(program: &Program) -> Self {
        let mut command = program.command(&["run"]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn terminate(&mut self) -> i32 {
        let killed = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let began = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(began.elapsed() < Duration::from_secs(12), "SIGTERM did not end it");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_agent_is_healthy_alone_on_its_state_and_ends_on_sigterm() {
    let program = program(free_port());
    let mut agent = Agent::start(&program);
    wait_for("readiness", || program.run(&["healthcheck", "--ready"]).code == 0);
    let calls = program.dir().join("calls.ndjson");
    wait_for("21 calls", || std::fs::read_to_string(&calls).is_ok_and(|t| t.lines().count() == 21));

    // check sees the running agent and finds nothing wrong with it
    let check = program.run(&["check"]);
    assert_eq!(check.code, 0, "{}{}", check.out, check.err);
    assert!(check.out.contains("an agent is running on it"), "{}", check.out);
    assert!(check.out.contains("as it should be while the agent runs"), "{}", check.out);

    // a second one is refused, in one line that names the setting
    let second = program.run(&["run"]);
    assert_eq!(second.code, 1, "{}", second.err);
    assert!(second.err.contains("another callferry agent") && second.err.contains("STATE_DIR"), "{}", second.err);

    assert_eq!(agent.terminate(), 0);
    assert_eq!(program.run(&["healthcheck"]).code, 1);
    // started again it ships nothing twice
    let again = program.run(&["run", "--once"]);
    assert_eq!(again.code, 0, "{}", again.err);
    assert_eq!(std::fs::read_to_string(&calls).unwrap().lines().count(), 21);
}

#[test]
fn a_port_in_use_ends_the_start_and_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ended = program(taken.local_addr().unwrap().port()).run(&["run"]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("MONITORING_PORT"), "{}", ended.err);
}

#[test]
fn another_source_id_on_a_state_is_refused_by_run_and_check() {
    let program = program(0);
    assert_eq!(program.run(&["run", "--once"]).code, 0);
    let run = program.run(&["run", "--once", "--source-id", "other"]);
    assert_eq!(run.code, 2, "{}", run.err);
    assert!(run.err.contains("SOURCE_ID=pbx"), "{}", run.err);
    let check = program.run(&["check", "--source-id", "other"]);
    assert_eq!(check.code, 3, "{}", check.out);
    assert!(check.out.contains("set SOURCE_ID=pbx"), "{}", check.out);
}

#[test]
fn a_log_in_json_is_json() {
    let program = program(0).env("LOG_FORMAT", "json");
    let ended = program.run(&["run", "--once"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.lines().count() >= 2);
    for line in ended.err.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(event["level"].is_string() && event["message"].is_string(), "{line}");
    }
}

#[test]
fn a_state_that_is_a_file_or_damaged_is_told() {
    let program = program(0);
    std::fs::create_dir(program.dir().join("data")).unwrap();
    std::fs::write(program.dir().join("data/callferry.db"), "this is no database, and long enough to be one").unwrap();
    let ended = program.run(&["run", "--once"]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("callferry.db") && ended.err.contains("damaged"), "{}", ended.err);
    let check = program.run(&["check"]);
    assert_eq!(check.code, 3, "{}", check.out);
    assert!(check.out.contains("damaged"), "{}", check.out);
}
