//! Every capture, loaded as its backend wrote it, through the running agent to the receiver.

use std::time::Duration;

use callferry::config::DatabaseKind;
use serde_json::{Map, Value};

use super::agent::Agent;
use super::receiver::Receiver;
use crate::support::captures::{self, Sheet};
use crate::support::database::{TestDatabase, Values};
use crate::support::expected::{self, looser, misses};

const CEL_CUSTOM: &[&str] = &[
    "eventtype",
    "eventtime",
    "cidname",
    "cidnum",
    "cidani",
    "cidrdnis",
    "ciddnid",
    "exten",
    "context",
    "channame",
    "appname",
    "appdata",
    "amaflags",
    "accountcode",
    "uniqueid",
    "linkedid",
    "peer",
    "userfield",
    "userdeftype",
    "eventextra",
];
const CDR_CUSTOM: &[&str] = &[
    "clid",
    "src",
    "dst",
    "dcontext",
    "channel",
    "dstchannel",
    "lastapp",
    "lastdata",
    "calldate",
    "answer",
    "end",
    "duration",
    "billsec",
    "disposition",
    "amaflags",
    "accountcode",
    "uniqueid",
    "linkedid",
    "userfield",
    "sequence",
];

/// One way a deployment keeps its rows: files of a capture, and the tables they go to.
struct Backend {
    kind: DatabaseKind,
    ddl: &'static [&'static str],
    cel: (&'static str, &'static str),
    cdr: (&'static str, &'static str),
    headerless: bool,
    /// Columns of the CEL file that the table lacks or fills itself.
    left_out: &'static [&'static str],
    /// Tables of whole seconds: how much looser moments and durations are.
    slack: Option<(f64, f64)>,
    /// All of the captures' rows are in these tables, so that they can be counted.
    counts: bool,
}

const MARIADB: Backend = Backend {
    kind: DatabaseKind::MySql,
    ddl: &["mariadb_cdr_canonical.sql", "mariadb_extra.sql"],
    cel: ("cel.csv", "cel"),
    cdr: ("cdr.csv", "cdr"),
    headerless: false,
    left_out: &["id"],
    slack: None,
    counts: true,
};

/// One call of the captures, and in which run it was.
struct Expected {
    run: String,
    fields: Map<String, Value>,
}

async fn every_capture_arrives(backend: &Backend) {
    let Some(mut database) = TestDatabase::new(backend.kind).await else { return };
    for file in backend.ddl {
        database.ddl(file).await;
    }
    let expected = load(&mut database, backend).await;
    assert!(expected.len() > 80, "the captures hold more than 80 calls");

    let receiver = Receiver::start().await;
    let mut agent = Agent::new(&super::settings(&database), &receiver.url());
    agent.set("DB_TABLE_CEL", backend.cel.1).set("DB_TABLE_CDR", backend.cdr.1).set("DB_TIMEZONE", "Europe/Prague");
    agent.start();
    receiver
        .received
        .wait(Duration::from_secs(90), "every captured call", |r| r.upserted().len() >= expected.len())
        .await;
    let status = agent.terminate(Duration::from_secs(15));
    assert!(status.success(), "the agent ends with {status}");

    let calls = receiver.received.upserted();
    let mut failures = Vec::new();
    for Expected { run, fields } in &expected {
        let id = format!("pbx:{}", fields["linkedid"].as_str().unwrap_or_default());
        let lines = calls.get(&id).map_or_else(|| vec!["did not arrive".to_owned()], |call| misses(fields, call));
        failures.extend(lines.into_iter().map(|line| format!("{run} [{id}] {line}")));
    }
    assert!(failures.is_empty(), "{} fields differ:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(calls.len(), expected.len(), "no call but the captured ones");
}

/// Fills the tables with every capture in the order of time; returns the calls that are in there.
async fn load(database: &mut TestDatabase, backend: &Backend) -> Vec<Expected> {
    let mut runs: Vec<(String, captures::Capture, Sheet)> = Vec::new();
    for capture in captures::all() {
        let sheet = |file: &str, columns: &[&str]| {
            if backend.headerless { capture.headerless(file, columns) } else { capture.sheet(file) }
        };
        let (Some(cel), Some(_)) = (sheet(backend.cel.0, CEL_CUSTOM), sheet(backend.cdr.0, CDR_CUSTOM)) else {
            continue;
        };
        let time = cel.header.iter().position(|h| h == "eventtime").expect("eventtime");
        let first = cel.rows.iter().map(|r| r[time].clone()).min().unwrap_or_default();
        runs.push((first, capture, cel));
    }
    runs.sort_by(|a, b| a.0.cmp(&b.0));
    for (_, capture, cel) in &runs {
        insert(database, backend.left_out, cel, backend.cel.1).await;
        let cdr = if backend.headerless {
            capture.headerless(backend.cdr.0, CDR_CUSTOM)
        } else {
            capture.sheet(backend.cdr.0)
        };
        insert(database, &[], &cdr.expect("looked at above"), backend.cdr.1).await;
    }
    let mut calls = Vec::new();
    for capture in expected::captures() {
        if !runs.iter().any(|(_, c, _)| c.name == capture.name) {
            continue;
        }
        for mut fields in capture.calls {
            fields.remove("tenant");
            // between captures the PBX went on, so that a restart shows
            if fields.remove("open_or_incomplete").is_some() {
                fields.insert("incomplete".to_owned(), serde_json::json!(["pbx_restart"]));
            }
            if !backend.counts {
                fields.remove("rows.cel");
                fields.remove("rows.cdr");
            }
            if let Some((time, duration)) = backend.slack {
                fields = fields.into_iter().map(|(k, v)| (k, looser(&v, time, duration))).collect();
            }
            calls.push(Expected { run: capture.name.clone(), fields });
        }
    }
    calls
}

async fn insert(database: &mut TestDatabase, left_out: &[&str], sheet: &Sheet, table: &str) {
    let rows: Vec<Values<'_>> = sheet
        .rows
        .iter()
        .map(|row| {
            let cells = sheet.header.iter().zip(row);
            let kept = cells.filter(|(name, _)| !left_out.contains(&name.as_str()));
            // what an empty value of a number or a time is written as
            let numbers = ["sequence", "start", "answer", "end", "calldate", "duration", "billsec"];
            kept.map(|(name, value)| {
                let null = value.is_empty() && numbers.contains(&name.as_str());
                (name.as_str(), (!null).then(|| value.clone()))
            })
            .collect()
        })
        .collect();
    database.insert(table, &rows).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mariadb() {
    every_capture_arrives(&MARIADB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mariadb_as_freepbx_keeps_it() {
    every_capture_arrives(&Backend {
        ddl: &["mariadb_extra.sql"],
        cel: ("cel.csv", "cel_fpbx"),
        cdr: ("cdr_freepbx.csv", "cdr_fpbx"),
        left_out: &["id", "peeraccount", "userfield", "tenantid"],
        slack: Some((1.0, 1.05)),
        ..MARIADB
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgresql() {
    every_capture_arrives(&Backend {
        kind: DatabaseKind::PostgreSql,
        ddl: &["postgresql_cdr_canonical.sql", "postgresql_extra.sql"],
        cel: ("cel_pg.csv", "cel"),
        cdr: ("cdr_pg.csv", "cdr"),
        left_out: &["id", "inserted_at"],
        counts: false,
        ..MARIADB
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite() {
    every_capture_arrives(&Backend {
        kind: DatabaseKind::Sqlite,
        ddl: &["sqlite3_custom.sql"],
        cel: ("cel_custom-Master.csv", "cel"),
        cdr: ("cdr_custom-Master.csv", "cdr"),
        headerless: true,
        left_out: &[],
        counts: false,
        ..MARIADB
    })
    .await;
}
