//! A caller who chooses their name well: nothing of it steers a terminal or forges a line, wherever it is shown.

use callferry::printable::steers;
use rusqlite::Connection;

use crate::program::Program;

const NAME: &str =
    "Eve\u{1b}[2J\u{1b}]0;pwned\u{7}\r\nERROR forged line\u{202e}txt.exe\u{2066}\u{9b}31m\u{200b}\u{feff}\u{e0041}";

/// The demo's PBX, where every caller is called [`NAME`].
fn program() -> Program {
    let program = Program::new().env_file(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nKNOWN_TRUNKS=PJSIP/trunk-*\nSTART_FROM=all\nSINKS=file\n\
         FILE_PATH=calls.ndjson\nMONITORING_PORT=0\nLOG_LEVEL=trace\nLOG_NUMBERS=plain\n",
    );
    let path = program.dir().join("pbx.db");
    crate::running::database(&path);
    let conn = Connection::open(path).unwrap();
    let changed = conn.execute("UPDATE cel SET cidname = ?1, appdata = appdata || ?1, context = ?1", [NAME]).unwrap();
    assert!(changed > 100);
    conn.execute("UPDATE cdr SET clid = ?1, userfield = ?1, channel = channel || ?1", [NAME]).unwrap();
    program
}

#[track_caller]
fn harmless(what: &str, text: &str) {
    let bad = text.chars().find(|&c| steers(c) && c != '\n');
    assert!(bad.is_none(), "{what} shows {bad:?} as it came");
    assert!(!text.lines().any(|l| l.starts_with("ERROR forged")), "{what}: a forged line");
}

#[test]
fn a_name_steers_nothing_wherever_it_is_shown() {
    let program = program();
    let run = program.run(&["run", "--once"]);
    assert_eq!(run.code, 0, "{}", run.err);
    harmless("the log", &run.err);
    let json = program.run(&["run", "--once", "--log-format", "json"]);
    harmless("the log as JSON", &json.err);
    for line in json.err.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    let list = program.run(&["calls", "list"]);
    assert!(list.out.contains("Eve"), "{}", list.out);
    harmless("calls list", &list.out);
    let calls = std::fs::read_to_string(program.dir().join("calls.ndjson")).unwrap();
    let first: serde_json::Value = serde_json::from_str(calls.lines().next().unwrap()).unwrap();
    // documents keep what the PBX wrote, one a line
    assert!(calls.lines().all(|l| serde_json::from_str::<serde_json::Value>(l).is_ok()));
    let id = first["id"].as_str().unwrap();
    let show = program.run(&["calls", "show", id]);
    assert_eq!(show.code, 0, "{}", show.err);
    harmless("calls show", &show.out);
    harmless("check", &program.run(&["check"]).out);
    for (what, csv) in [("cel", "cel.csv"), ("cdr", "cdr.csv")] {
        let conn = Connection::open(program.dir().join("pbx.db")).unwrap();
        let mut statement = conn.prepare(&format!("SELECT * FROM {what}")).unwrap();
        let names: Vec<String> = statement.column_names().iter().map(|n| (*n).to_owned()).collect();
        let mut writer = csv::Writer::from_path(program.dir().join(csv)).unwrap();
        writer.write_record(&names[1..]).unwrap();
        let mut rows = statement.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let cells: Vec<String> =
                (1..names.len()).map(|i| row.get::<_, Option<String>>(i).unwrap().unwrap_or_default()).collect();
            writer.write_record(&cells).unwrap();
        }
    }
    let linkedid = first["linkedid"].as_str().unwrap();
    let explain = program.run(&["explain", linkedid, "--cel", "cel.csv", "--cdr", "cdr.csv", "--timezone", "UTC"]);
    assert_eq!(explain.code, 0, "{}", explain.err);
    assert!(explain.out.contains("Eve"), "{}", explain.out);
    harmless("explain and its ladder", &explain.out);
    harmless("explain's errors", &explain.err);
}
