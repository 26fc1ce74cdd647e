//! Calls that are shipped while they are up: from the rows of a real database, over a SIGKILL, to a real receiver.

use std::time::Duration;

use callferry::config::DatabaseKind;
use serde_json::{Value, json};

use super::agent::Agent;
use super::calls::{CDR_COLUMNS, CEL_COLUMNS, MadeCall, MadeRow, insert};
use super::crashes::README_TABLES;
use super::receiver::{Received, Receiver};
use crate::support::database::TestDatabase;

const SECOND: i64 = 1_000_000;
const LIMIT: Duration = Duration::from_secs(20);

fn id(call: &MadeCall) -> String {
    format!("pbx:{}", call.linkedid())
}

fn documents(received: &Received, id: &str) -> Vec<Value> {
    received.all().into_iter().map(|a| a.call).filter(|c| c["id"] == id).collect()
}

/// Waits for a document of this call that `is` so.
async fn wait(receiver: &Receiver, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    receiver.received.wait(LIMIT, what, |r| documents(r, id).iter().any(&is)).await;
    documents(&receiver.received, id).into_iter().find(is).expect("waited for")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_told_as_they_go_over_a_kill_and_a_merge() {
    let Some(mut database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    database.run(README_TABLES).await;
    let receiver = Receiver::start().await;
    let mut agent = Agent::new(&super::settings(&database), &receiver.url());
    agent.set("DB_TIMEZONE", "UTC").set("WEBHOOK_BATCH_SIZE", "1").set("CALL_SHIPPING_MODE", "progressive");
    agent.set("LONG_CALL_UPDATE_INTERVAL", "3");

    let now = chrono::Utc::now().timestamp_micros();
    let made = |start: i64, counter| MadeCall { start, ring: 2 * SECOND, talk: 30 * SECOND, counter };
    let over = made(now - 300 * SECOND, 100);
    let (one, two) = (made(now - 10 * SECOND, 200), made(now - 8 * SECOND, 210));
    let mut cel = over.cel();
    let (rows_one, rows_two) = (one.cel(), two.cel());
    cel.extend_from_slice(&rows_one[..3]);
    let put = |rows: &[MadeRow]| insert("cel", CEL_COLUMNS, rows).expect("rows");
    database.run(&put(&cel)).await;
    database.run(&insert("cdr", CDR_COLUMNS, &[over.cdr()]).expect("rows")).await;
    agent.start();

    let first = wait(&receiver, &id(&one), "a call that rings", |d| d["state"] == "in_progress").await;
    assert_eq!(
        (&first["outcome"], &first["ended_at"], &first["duration_s"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    assert_eq!((&first["attempts"][0]["result"], &first["incomplete"]), (&json!("ringing"), &json!([])));
    // nothing happens, and it is told again all the same
    let revision = |d: &Value| d["revision"].as_i64().expect("revision");
    let known = revision(&first);
    wait(&receiver, &id(&one), "the update of a long call", |d| revision(d) > known && d["outcome"].is_null()).await;

    database.run(&put(&rows_one[3..7])).await;
    let answered = wait(&receiver, &id(&one), "the answer", |d| d["outcome"] == "answered").await;
    assert_eq!((&answered["state"], &answered["answered_by"]["number"]), (&json!("in_progress"), &json!("1001")));

    agent.kill();
    database.run(&put(&rows_two[..7])).await;
    agent.start();
    wait(&receiver, &id(&two), "the second call, told after the kill", |d| d["outcome"] == "answered").await;

    // a row that ties them: one survives, the other leaves a tombstone
    let mut tie = rows_two[6].clone();
    tie.values[15] = one.linkedid();
    database.run(&put(&[tie])).await;
    let tombstone = wait(&receiver, &id(&two), "the tombstone", |d| d["state"] == "merged").await;
    assert_eq!(tombstone["merged_into"], id(&one).as_str());
    let survivor = wait(&receiver, &id(&one), "the survivor", |d| d["supersedes"] == json!([id(&two)])).await;
    assert_eq!(survivor["state"], "in_progress");
    agent.kill();
    agent.start();

    let rest: Vec<MadeRow> = rows_one[7..].iter().chain(&rows_two[7..]).cloned().collect();
    database.run(&put(&rest)).await;
    database.run(&insert("cdr", CDR_COLUMNS, &[one.cdr(), two.cdr()]).expect("rows")).await;
    let last = wait(&receiver, &id(&one), "the end", |d| d["state"] == "completed").await;
    assert_eq!(last["rows"], json!({"cel": 29, "cdr": 2}));
    assert!(last["duration_s"].as_f64().is_some_and(|s| s > 30.0), "{last}");
    let status = agent.terminate(Duration::from_secs(15));
    assert!(status.success(), "the agent ends with {status}");

    // what was over before is told once; the revisions of the others only grow, and nothing comes after the end
    let states = |id: &str| documents(&receiver.received, id).iter().map(|d| d["state"].clone()).collect::<Vec<_>>();
    assert_eq!(states(&id(&over)), ["completed"]);
    let kept = receiver.received.upserted();
    assert_eq!((&kept[&id(&one)]["state"], &kept[&id(&two)]["state"]), (&json!("completed"), &json!("merged")));
    for call in [&one, &two] {
        let revisions: Vec<i64> = documents(&receiver.received, &id(call)).iter().map(revision).collect();
        assert!(revisions.is_sorted(), "{revisions:?}");
        let ends = states(&id(call)).iter().filter(|s| *s != "in_progress").count();
        assert!(ends >= 1 && states(&id(call)).iter().rev().take(ends).all(|s| s != "in_progress"));
    }
}
