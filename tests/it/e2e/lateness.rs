//! Rows that come when it suits them: the cases in which a cursor on time or a plain `id > last` loses calls.

use std::time::Duration;

use callferry::config::DatabaseKind;
use serde_json::Value;

use super::agent::Agent;
use super::calls::{CDR_COLUMNS, CEL_COLUMNS, MadeCall, MadeRow, insert};
use super::crashes::README_TABLES;
use super::receiver::Receiver;
use crate::support::database::TestDatabase;

const SECOND: i64 = 1_000_000;

/// Tables where the cdr has no id, as Asterisk's own scripts and FreePBX make it.
const WITHOUT_CDR_ID: &str = "ALTER TABLE cdr DROP COLUMN id;";

struct Scene {
    database: TestDatabase,
    receiver: Receiver,
    agent: Agent,
}

impl Scene {
    async fn new(cdr_id: bool) -> Option<Self> {
        let mut database = TestDatabase::new(DatabaseKind::MySql).await?;
        database.run(README_TABLES).await;
        if !cdr_id {
            database.run(WITHOUT_CDR_ID).await;
        }
        let receiver = Receiver::start().await;
        let mut agent = Agent::new(&super::settings(&database), &receiver.url());
        agent.set("DB_TIMEZONE", "UTC");
        Some(Self { database, receiver, agent })
    }

    async fn cel(&mut self, rows: &[MadeRow]) {
        self.database.run(&insert("cel", CEL_COLUMNS, rows).expect("rows")).await;
    }

    async fn cdr(&mut self, rows: &[MadeRow]) {
        self.database.run(&insert("cdr", CDR_COLUMNS, rows).expect("rows")).await;
    }

    async fn wait_for(&self, limit: u64, what: &str, calls: &[MadeCall]) {
        self.receiver
            .received
            .wait(Duration::from_secs(limit), what, |r| {
                let arrived = r.upserted();
                calls.iter().all(|c| arrived.contains_key(&id(c)))
            })
            .await;
    }

    fn call(&self, call: &MadeCall) -> Value {
        self.receiver.received.upserted().remove(&id(call)).expect("waited for")
    }
}

fn id(call: &MadeCall) -> String {
    format!("pbx:{}", call.linkedid())
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

fn made(start: i64, talk_s: i64, counter: u32) -> MadeCall {
    MadeCall { start, ring: 2 * SECOND, talk: talk_s * SECOND, counter }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ten_minute_call_that_contains_a_one_minute_call() {
    for cdr_id in [true, false] {
        let Some(mut scene) = Scene::new(cdr_id).await else { return };
        let long = made(now() - 602 * SECOND, 600, 100);
        let short = made(now() - 300 * SECOND, 60, 110);
        scene.agent.start();
        // what was written while both were up, and the end of the short one
        let (mut before, after): (Vec<_>, Vec<_>) = long.cel().into_iter().partition(|r| r.at < short.end());
        before.extend(short.cel());
        before.sort_by_key(|r| r.at);
        scene.cel(&before).await;
        scene.cdr(&[short.cdr()]).await;
        scene.wait_for(20, "the short call", &[short]).await;
        assert!(!scene.receiver.received.upserted().contains_key(&id(&long)), "the long one is still up");
        scene.cel(&after).await;
        scene.cdr(&[long.cdr()]).await;
        scene.wait_for(20, "the long call", &[long]).await;
        for (call, talk) in [(long, 600.0), (short, 60.0)] {
            let document = scene.call(&call);
            assert_eq!(document["rows"], serde_json::json!({"cel": 14, "cdr": 1}), "cdr with id: {cdr_id}");
            assert!((document["talk_s"].as_f64().expect("talk_s") - talk).abs() < 0.1, "{document}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_and_fifty_calls_become_visible_at_once() {
    for cdr_id in [true, false] {
        let Some(mut scene) = Scene::new(cdr_id).await else { return };
        scene.agent.start();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let calls: Vec<MadeCall> = (0..250).map(|n| made(now() - 60 * SECOND, 50, 100 + 2 * n)).collect();
        let cel: Vec<MadeRow> = calls.iter().flat_map(MadeCall::cel).collect();
        let cdr: Vec<MadeRow> = calls.iter().map(MadeCall::cdr).collect();
        scene.database.run("SET autocommit = 0").await;
        scene.cel(&cel).await;
        scene.cdr(&cdr).await;
        scene.database.run("COMMIT; SET autocommit = 1").await;
        scene.wait_for(30, "250 calls", &calls).await;
        for call in &calls {
            assert_eq!(scene.call(call)["rows"], serde_json::json!({"cel": 14, "cdr": 1}), "cdr with id: {cdr_id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_committed_out_of_id_order() {
    let Some(mut scene) = Scene::new(true).await else { return };
    let (before, first, second) =
        (made(now() - 50 * SECOND, 20, 90), made(now() - 40 * SECOND, 20, 100), made(now() - 30 * SECOND, 20, 110));
    scene.agent.start();
    scene.cel(&before.cel()).await;
    scene.cdr(&[before.cdr()]).await;
    scene.wait_for(20, "a call of before", &[before]).await;
    // ids are handed out before commit: the later ids become visible while the earlier are not yet
    let (numbered, columns) = with_ids(&first.cel(), 15);
    let (later, _) = with_ids(&second.cel(), 29);
    scene.database.run(&insert("cel", &columns, &later).expect("rows")).await;
    scene.cdr(&[second.cdr()]).await;
    scene.wait_for(20, "the call with the later ids", &[second]).await;
    scene.database.run(&insert("cel", &columns, &numbered).expect("rows")).await;
    scene.cdr(&[first.cdr()]).await;
    scene.wait_for(30, "the call with the earlier ids", &[first]).await;
    assert_eq!(scene.call(&first)["rows"], serde_json::json!({"cel": 14, "cdr": 1}));
}

fn with_ids(rows: &[MadeRow], from: usize) -> (Vec<MadeRow>, String) {
    let numbered = rows.iter().enumerate().map(|(n, row)| {
        let mut values = vec![(from + n).to_string()];
        values.extend(row.values.clone());
        MadeRow { at: row.at, values }
    });
    (numbered.collect(), format!("id, {CEL_COLUMNS}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cdr_that_comes_thirty_seconds_after_its_cel() {
    let mut scenes = Vec::new();
    for cdr_id in [true, false] {
        let Some(mut scene) = Scene::new(cdr_id).await else { return };
        let call = made(now() - 12 * SECOND, 10, 100);
        scene.agent.start();
        scene.cel(&call.cel()).await;
        scenes.push((scene, call));
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mut revisions = Vec::new();
    for (scene, call) in &mut scenes {
        // it was not held back for the record …
        let first = scene.call(call);
        assert_eq!(first["incomplete"], serde_json::json!(["cdr_missing"]));
        revisions.push(first["revision"].as_i64().expect("revision"));
        let cdr = call.cdr();
        scene.cdr(&[cdr]).await;
    }
    for ((scene, call), revision) in scenes.iter().zip(revisions) {
        // … and told again when it came
        scene
            .receiver
            .received
            .wait(Duration::from_secs(45), "the revision with its CDR", |r| {
                r.upserted().get(&id(call)).is_some_and(|c| c["rows"]["cdr"] == 1)
            })
            .await;
        let second = scene.call(call);
        assert_eq!(second["revision"], revision + 1);
        assert_eq!(second["incomplete"], serde_json::json!([]));
    }
}
