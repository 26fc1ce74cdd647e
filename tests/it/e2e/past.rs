//! History read again beside the live agent, over kills; and every call of the PBX accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use callferry::config::DatabaseKind;
use serde_json::Value;

use super::agent::Agent;
use super::calls::{CDR_COLUMNS, CEL_COLUMNS, MadeCall, insert};
use super::crashes::README_TABLES;
use super::receiver::{Received, Receiver, own_key};
use crate::support::database::TestDatabase;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
const OLD: u32 = 400;

/// Without an index on times, as many sites have it: the walk goes by id.
const WITHOUT_TIME_INDEX: &str = "
CREATE TABLE cdr (id BIGSERIAL PRIMARY KEY, calldate TIMESTAMP NOT NULL, clid VARCHAR(80), src VARCHAR(80),
 dst VARCHAR(80), dcontext VARCHAR(80), channel VARCHAR(80), dstchannel VARCHAR(80), lastapp VARCHAR(80),
 lastdata VARCHAR(80), duration INT, billsec INT, disposition VARCHAR(45), amaflags INT, accountcode VARCHAR(20),
 uniqueid VARCHAR(150), userfield VARCHAR(255), linkedid VARCHAR(150), sequence INT);
CREATE INDEX ON cdr (uniqueid);
CREATE TABLE cel (id BIGSERIAL PRIMARY KEY, eventtype VARCHAR(30), eventtime TIMESTAMP(6), cid_name VARCHAR(80),
 cid_num VARCHAR(80), cid_ani VARCHAR(80), cid_rdnis VARCHAR(80), cid_dnid VARCHAR(80), exten VARCHAR(80),
 context VARCHAR(80), channame VARCHAR(80), appname VARCHAR(80), appdata VARCHAR(512), amaflags INT,
 accountcode VARCHAR(20), uniqueid VARCHAR(150), linkedid VARCHAR(150), peer VARCHAR(80), userdeftype VARCHAR(255),
 extra VARCHAR(512));
CREATE INDEX ON cel (linkedid);
CREATE INDEX ON cel (uniqueid);";

struct Site {
    database: TestDatabase,
    receiver: Receiver,
    agent: Agent,
    now: i64,
}

impl Site {
    async fn new(kind: DatabaseKind) -> Option<Self> {
        let mut database = TestDatabase::new(kind).await?;
        database.run(if kind == DatabaseKind::MySql { README_TABLES } else { WITHOUT_TIME_INDEX }).await;
        let receiver = Receiver::start().await;
        let mut agent = Agent::new(&super::settings(&database), &receiver.url());
        agent.set("DB_TIMEZONE", "UTC").set("WEBHOOK_BATCH_SIZE", "20").set("START_FROM", "now");
        Some(Self { database, receiver, agent, now: chrono::Utc::now().timestamp_micros() })
    }

    /// `calls` of two days ago, one every ten seconds.
    async fn write_old(&mut self, calls: u32) -> Vec<MadeCall> {
        let old: Vec<MadeCall> = (0..calls)
            .map(|n| {
                let start = self.now - 2 * DAY + i64::from(n) * 10 * SECOND;
                MadeCall { start, ring: 2 * SECOND, talk: 30 * SECOND, counter: 1_000 + 2 * n }
            })
            .collect();
        self.write(&old).await;
        old
    }

    async fn write(&mut self, calls: &[MadeCall]) {
        let mut cel: Vec<_> = calls.iter().flat_map(MadeCall::cel).collect();
        cel.sort_by_key(|r| r.at);
        for part in cel.chunks(500) {
            self.database.run(&insert("cel", CEL_COLUMNS, part).expect("rows")).await;
        }
        let cdr: Vec<_> = calls.iter().map(MadeCall::cdr).collect();
        for part in cdr.chunks(500) {
            self.database.run(&insert("cdr", CDR_COLUMNS, part).expect("rows")).await;
        }
    }

    async fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = self.agent.command(args);
        let output: Output =
            tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output().expect("the program"))
                .await
                .expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
    }

    /// The totals of `reconcile --json`, and the differences by kind; the exit code.
    async fn reconcile(&self, from: &str, to: &str) -> (i32, Value, BTreeMap<String, u64>) {
        let (code, out, err) = self.run(&["reconcile", "--from", from, "--to", to, "--json"]).await;
        let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
        let totals = lines.last().unwrap_or_else(|| panic!("{code} {err}"))["totals"].clone();
        let mut kinds = BTreeMap::new();
        for line in &lines[..lines.len() - 1] {
            *kinds.entry(line["difference"].as_str().expect("difference").to_owned()).or_default() += 1;
        }
        let part = |name: &str| match &totals[name] {
            Value::Object(by) => by.values().filter_map(Value::as_u64).sum(),
            n => n.as_u64().expect(name),
        };
        let parts = ["shipped", "missing", "before_start", "filtered", "forgotten", "in_progress", "waiting"].map(part);
        assert_eq!(parts.iter().sum::<u64>(), part("calls"), "the totals add up: {totals}");
        (code, totals, kinds)
    }

    async fn wait_for_calls(&self, n: usize) {
        self.receiver.received.wait(Duration::from_secs(40), "calls", |r| r.upserted().len() >= n).await;
    }

    /// Revisions of each call as they arrived, by key.
    fn keys(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for arrival in self.receiver.received.all() {
            let id = arrival.call["id"].as_str().unwrap_or_default().to_owned();
            keys.entry(id).or_default().insert(own_key(&arrival.call));
        }
        keys
    }
}

fn ids(calls: &[MadeCall]) -> BTreeSet<String> {
    calls.iter().map(|c| format!("pbx:{}", c.linkedid())).collect()
}

async fn history_is_shipped_beside_live_calls(kind: DatabaseKind) {
    let Some(mut site) = Site::new(kind).await else { return };
    let old = site.write_old(OLD).await;
    site.agent.start();
    let state = site.agent.dir.path().join("state/callferry.db");
    let began = Instant::now();
    while !state.exists() || !site.agent.log().contains("zone") && began.elapsed() < Duration::from_secs(3) {
        assert!(began.elapsed() < Duration::from_secs(20), "{}", site.agent.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (code, totals, kinds) = site.reconcile("3d", "1d").await;
    assert_eq!((code, &totals["calls"], kinds["before_start"]), (0, &OLD.into(), u64::from(OLD)), "{totals}");

    let (code, out, err) = site.run(&["backfill", "--from", "3d", "--to", "1d", "--dry-run"]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("dry run: 400 calls would be shipped to webhook") && out.contains("and 380 more"), "{out}");
    assert!(site.receiver.received.all().is_empty());

    // live calls end while the backfill runs, and arrive as fast as ever
    let mut command = site.agent.command(&["backfill", "--from", "3d", "--to", "1d", "--rate", "120"]);
    let mut job = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("backfill");
    site.wait_for_calls(40).await;
    let mut delays = Vec::new();
    let mut live = Vec::new();
    for n in 0..5 {
        let now = chrono::Utc::now().timestamp_micros();
        let call = MadeCall { start: now - 40 * SECOND, ring: SECOND, talk: 38 * SECOND, counter: 50_000 + 2 * n };
        site.write(&[call]).await;
        let (written, id) = (Instant::now(), format!("pbx:{}", call.linkedid()));
        site.receiver.received.wait(Duration::from_secs(10), "a live call", |r| r.upserted().contains_key(&id)).await;
        delays.push(written.elapsed());
        live.push(call);
    }
    let arrived = site.receiver.received.upserted().len();
    assert!(arrived < OLD as usize, "the backfill was to be under way still: {arrived}");
    delays.sort_unstable();
    eprintln!("live calls beside a backfill arrived after {delays:?}");
    assert!(delays[2] < Duration::from_secs(3), "{delays:?}");

    // both are killed half way; the agent goes on by itself from where the job was
    site.agent.kill();
    let _ = job.kill();
    let _ = job.wait();
    site.agent.start();
    let (code, out, err) = site.run(&["backfill", "--from", "3d", "--to", "1d", "--rate", "5000"]).await;
    assert_eq!(code, 0, "{out}{err}");
    site.wait_for_calls((OLD + 5) as usize).await;
    let keys = site.keys();
    let expected: BTreeSet<String> = ids(&old).into_iter().chain(ids(&live)).collect();
    assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), expected);
    assert!(keys.values().all(|k| k.len() == 1), "one revision each");
    for (id, call) in site.receiver.received.upserted() {
        assert_eq!(call["rows"], serde_json::json!({"cel": 14, "cdr": 1}), "{id} is whole");
    }

    // all is accounted for now, and nothing is sent twice
    let before = site.receiver.received.all().len();
    let (code, out, _) = site.run(&["backfill", "--from", "3d", "--to", "1d", "--rate", "5000"]).await;
    assert!(code == 0 && out.contains("400 as they were shipped"), "{out}");
    assert_eq!(site.receiver.received.all().len(), before);
    let (code, totals, kinds) = site.reconcile("3d", "1d").await;
    assert_eq!((code, &totals["shipped"], kinds.len()), (0, &OLD.into(), 0), "{totals} {kinds:?}");
    assert_eq!(totals["sinks"]["webhook"]["acknowledged"], OLD);

    // a row that changed makes a revision, and --resend sends all of a span again
    let changed = format!("UPDATE cdr SET userfield = 'vip' WHERE linkedid = '{}'", old[7].linkedid());
    site.database.run(&changed).await;
    let (code, totals, _) = site.reconcile("3d", "1d").await;
    assert_eq!((code, &totals["changed"]), (0, &1.into()));
    let (_, out, _) = site.run(&["backfill", "--from", "3d", "--to", "1d", "--rate", "5000"]).await;
    assert!(out.contains("1 shipped again, 399 as they were shipped"), "{out}");
    let id = format!("pbx:{}", old[7].linkedid());
    site.receiver
        .received
        .wait(Duration::from_secs(10), "the revision", |r| r.upserted()[&id]["userfield"] == "vip")
        .await;
    let at = |micros: i64| {
        chrono::DateTime::from_timestamp_micros(micros)
            .expect("a time")
            .to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    };
    // the third call began before this span and goes on in it, the thirteenth begins in it and goes on after
    let (from, to) = (at(old[2].start + 5 * SECOND), at(old[12].start + 5 * SECOND));
    let (_, out, _) = site.run(&["backfill", "--from", &from, "--to", &to, "--resend"]).await;
    assert!(out.contains("10 calls compared: 10 shipped again"), "{out}");
    let sent = |r: &Received, call: &MadeCall| {
        let id = format!("pbx:{}", call.linkedid());
        let keys: BTreeSet<String> =
            r.all().iter().filter(|a| a.call["id"] == id.as_str()).map(|a| own_key(&a.call)).collect();
        keys.len()
    };
    let resent =
        |r: &Received| old[3..13].iter().all(|c| sent(r, c) == if c.counter == old[7].counter { 3 } else { 2 });
    site.receiver.received.wait(Duration::from_secs(10), "ten calls again", resent).await;
    assert!(site.receiver.received.upserted().values().all(|c| c["rows"]["cel"] == 14), "whole calls only");
    assert_eq!(site.keys()[&format!("pbx:{}", old[2].linkedid())].len(), 1);
    assert_eq!(site.keys()[&format!("pbx:{}", old[13].linkedid())].len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_shipped_beside_live_calls_from_mariadb() {
    history_is_shipped_beside_live_calls(DatabaseKind::MySql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_shipped_beside_live_calls_from_postgresql() {
    history_is_shipped_beside_live_calls(DatabaseKind::PostgreSql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_agent_the_backfill_is_its_own_and_can_be_stopped() {
    let Some(mut site) = Site::new(DatabaseKind::MySql).await else { return };
    let old = site.write_old(300).await;
    let (code, _, err) = site.run(&["backfill", "--from", "3d"]).await;
    assert!(code == 1 && err.contains("there is no state"), "{err}");
    assert_eq!(site.run(&["run", "--once"]).await.0, 0);

    // killed half way, and begun again by the same command
    let mut command = site.agent.command(&["backfill", "--from", "3d", "--to", "1d", "--rate", "60"]);
    let mut job = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("backfill");
    site.wait_for_calls(150).await;
    let _ = job.kill();
    let _ = job.wait();
    assert!(site.receiver.received.upserted().len() < 300);
    let (_, totals, _) = site.reconcile("3d", "1d").await;
    assert!(totals["before_start"].as_u64() > Some(0), "{totals}");
    let (code, out, err) = site.run(&["backfill", "--stop"]).await;
    assert!(code == 0 && out.contains("1 backfill stopped"), "{out}{err}");
    let (code, out, err) = site.run(&["backfill", "--from", "3d", "--to", "1d", "--rate", "5000"]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("300 calls compared"), "{out}");
    // the command ends when all of it is delivered
    let keys = site.keys();
    assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), ids(&old));
    assert!(keys.values().all(|k| k.len() == 1));
    assert!(site.run(&["backfill", "--stop"]).await.1.contains("no backfill is under way"));

    for (args, words) in [
        (&["backfill"][..], "--from"),
        (&["backfill", "--from", "yesterday"], "neither a time"),
        (&["backfill", "--from", "2026-01-02", "--to", "2026-01-01"], "not before"),
        (&["reconcile", "--from", "1d", "--db-name", "no_such_database"], "no_such_database"),
    ] {
        let (code, _, err) = site.run(args).await;
        assert!(code != 0 && err.contains(words), "{args:?}: {err}");
    }
}
