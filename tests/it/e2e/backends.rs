//! Every capture, loaded as its backend wrote it, through the running agent to the receiver.

use std::time::Duration;

use serde_json::{Map, Value};

use super::agent::Agent;
use super::receiver::Receiver;
use crate::support::deployments::{Deployment, FREEPBX, Loaded, MARIADB, POSTGRESQL, SQLITE};
use crate::support::expected::{looser, misses};

/// One way a deployment keeps its rows, and what of a call it can still tell.
struct Backend {
    deployment: Deployment,
    /// Tables of whole seconds: how much looser moments and durations are.
    slack: Option<(f64, f64)>,
    /// All of the captures' rows are in these tables, so that they can be counted.
    counts: bool,
}

/// One call of the captures, and in which run it was.
struct Expected {
    run: String,
    fields: Map<String, Value>,
}

async fn every_capture_arrives(backend: &Backend) {
    let Some((database, loaded)) = backend.deployment.filled().await else { return };
    let expected = expected(backend, loaded);
    assert!(expected.len() > 80, "the captures hold more than 80 calls");

    let receiver = Receiver::start().await;
    let mut agent = Agent::new(&super::settings(&database), &receiver.url());
    let Deployment { cel_table, cdr_table, .. } = backend.deployment;
    agent.set("DB_TABLE_CEL", cel_table).set("DB_TABLE_CDR", cdr_table).set("DB_TIMEZONE", "Europe/Prague");
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

/// The calls of the captures as this backend can tell them.
fn expected(backend: &Backend, loaded: Vec<Loaded>) -> Vec<Expected> {
    let mut calls = Vec::new();
    for Loaded { capture, .. } in loaded {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mariadb() {
    every_capture_arrives(&Backend { deployment: MARIADB, slack: None, counts: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_mariadb_as_freepbx_keeps_it() {
    every_capture_arrives(&Backend { deployment: FREEPBX, slack: Some((1.0, 1.05)), counts: true }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_postgresql() {
    every_capture_arrives(&Backend { deployment: POSTGRESQL, slack: None, counts: false }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_sqlite() {
    every_capture_arrives(&Backend { deployment: SQLITE, slack: None, counts: false }).await;
}
