//! One suite, run against every sink: what `Sink` promises.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use callferry::config::{FileSinkConfig, NumberPrivacy, SipstackConfig, TlsConfig, WebhookConfig};
use callferry::ship::sink::file::File;
use callferry::ship::sink::sipstack::Sipstack;
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Answer, Batch, Frozen, Item, Sink};
use secrecy::SecretString;

use super::support::*;

/// A sink and a way to see what arrived.
struct Rig {
    sink: Arc<dyn Sink>,
    arrived: Arrived,
}

enum Arrived {
    Http(Receiver),
    File(PathBuf, #[allow(dead_code, reason = "lives as long as the file")] tempfile::TempDir),
}

async fn rigs() -> Vec<Rig> {
    let mut rigs = Vec::new();
    let variants: [fn(WebhookConfig) -> WebhookConfig; 4] = [
        |c| c,
        |c| WebhookConfig { batch_size: 7, ..c },
        |c| WebhookConfig { gzip: true, batch_size: 3, ..c },
        |c| WebhookConfig { signing_secret: Some(SecretString::from(SECRET.to_owned())), ..c },
    ];
    for variant in variants {
        let receiver = Receiver::accepting().await;
        let sink = Webhook::new(&variant(webhook_config(&receiver.url()))).expect("webhook");
        rigs.push(Rig { sink: Arc::new(sink), arrived: Arrived::Http(receiver) });
    }
    let receiver = Receiver::accepting().await;
    rigs.push(Rig { sink: sipstack(&receiver.url()), arrived: Arrived::Http(receiver) });
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("calls.ndjson");
    let sink = Arc::new(File::new(&FileSinkConfig { path: Some(path.clone()), privacy: NumberPrivacy::default() }));
    rigs.push(Rig { sink, arrived: Arrived::File(path, dir) });
    rigs
}

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub fn sipstack(url: &str) -> Arc<dyn Sink> {
    let config = SipstackConfig {
        url: url.to_owned().into(),
        api_key: SecretString::from("sk_t0p-secret".to_owned()),
        customer_id: 1,
        tenant: None,
        hostname: "pbx".to_owned(),
        include_raw_data: false,
        concurrency: 10,
        timeout: Duration::from_secs(10),
        allow_http: false,
        tls: TlsConfig::default(),
        privacy: NumberPrivacy::default(),
    };
    Arc::new(Sipstack::new(&config).expect("sipstack"))
}

impl Rig {
    /// The linkedid or id of each call that arrived, with its revision where the format has one.
    fn arrived(&self) -> Vec<String> {
        match &self.arrived {
            Arrived::Http(receiver) if self.sink.name() == "sipstack" => {
                let linkedid = |r: &Request| r.json()["linkedid"].as_str().map(str::to_owned).unwrap_or_default();
                receiver.seen().iter().filter(|r| r.method == "POST").map(linkedid).collect()
            }
            Arrived::Http(receiver) => {
                receiver.seen().iter().filter(|r| r.method == "POST").flat_map(Request::calls).collect()
            }
            Arrived::File(path, _) => std::fs::read_to_string(path)
                .unwrap_or_default()
                .lines()
                .map(|line| {
                    let v: serde_json::Value = serde_json::from_str(line).expect("a whole line");
                    format!("{}/{}", v["id"].as_str().unwrap_or_default(), v["revision"])
                })
                .collect(),
        }
    }
}

/// Every sink can read a tombstone; SIPSTACK's format needs a document it knows.
fn tombstone(call: i64, revision: i64) -> String {
    format!(
        r#"{{"schema":"callferry.call/1","id":"{}","revision":{revision},"state":"merged","merged_into":"pbx:1.1"}}"#,
        id(call)
    )
}

async fn put_tombstones(state: &State, sink: &'static str, calls: std::ops::Range<i64>) {
    state
        .store
        .write(move |conn| {
            for call in calls {
                let (id, body) = (id(call), tombstone(call, 1));
                conn.execute(
                    "INSERT INTO ledger (call, id, revision, state, content_hash, updated_at)
                     VALUES (?1, ?2, 1, 'shipped', x'', 0)",
                    rusqlite::params![call, id],
                )?;
                let new = callferry::store::outbox::NewRevision {
                    call,
                    id: &id,
                    revision: 1,
                    body: &body,
                    rows: None,
                    after: None,
                };
                callferry::store::outbox::enqueue(conn, &new, &[sink], now())?;
            }
            Ok(())
        })
        .await
        .expect("enqueue");
}

#[tokio::test]
async fn every_call_arrives_once_and_is_marked() {
    for rig in rigs().await {
        let state = State::new();
        let name = rig.sink.name();
        put_tombstones(&state, name, 1..51).await;
        let ship = state.ship(vec![rig.sink.clone()]).await;
        state.settled(name).await;
        // and some more while it runs
        put_tombstones(&state, name, 51..61).await;
        ship.wake().ring();
        state.settled(name).await;
        let mut arrived = rig.arrived();
        arrived.sort();
        arrived.dedup();
        assert_eq!((arrived.len(), rig.arrived().len()), (60, 60), "{name}");
        assert_eq!(state.count(name, 1).await, 60, "{name}");
        let ends = ship.stop(Duration::from_secs(5)).await;
        assert_eq!(ends, [(name, callferry::ship::Ended::Stopped)]);
    }
}

#[tokio::test]
async fn rendering_is_pure_and_an_item_may_be_sent_again() {
    for rig in rigs().await {
        let text = tombstone(1, 3);
        let frozen = Frozen { call_id: "pbx:1.1", revision: 3, document: &text, rows: None, now: now() };
        let first = rig.sink.render(&frozen).expect("render");
        assert_eq!(first, rig.sink.render(&frozen).expect("render"));
        let body = first.unwrap_or_else(|| text.clone().into_bytes());
        assert!(!body.contains(&b'\n') && serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        let batch = Batch { key: key(1, 3), items: vec![Item { key: key(1, 3), body }] };
        assert_eq!(rig.sink.send(&batch).await, Answer::Accepted);
        assert_eq!(rig.sink.send(&batch).await, Answer::Accepted);
        assert_eq!(rig.arrived().len(), 2);
    }
}

#[tokio::test]
async fn a_check_hands_over_nothing_and_finds_nothing_wrong() {
    for rig in rigs().await {
        let findings = rig.sink.check().await;
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].level, callferry::finding::Level::Ok, "{findings:?}");
        assert_eq!(rig.arrived().len(), 0);
    }
}

#[tokio::test]
async fn http_requests_say_who_and_what() {
    let receiver = Receiver::accepting().await;
    let state = State::new();
    let ship = state.ship(vec![webhook(&receiver.url()), sipstack(&receiver.url())]).await;
    put_tombstones(&state, "webhook", 1..2).await;
    put_tombstones(&state, "sipstack", 2..3).await;
    ship.wake().ring();
    state.settled("webhook").await;
    state.settled("sipstack").await;
    for request in receiver.seen() {
        let sipstack = request.json().get("linkedid").is_some();
        let token = if sipstack { "Bearer sk_t0p-secret" } else { "Bearer t0p-secret" };
        assert_eq!(request.header("authorization"), token);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("user-agent"), format!("callferry/{}", env!("CARGO_PKG_VERSION")));
        assert_eq!(request.key(), if sipstack { key(2, 1) } else { key(1, 1) });
    }
}

#[tokio::test]
async fn batches_are_arrays_of_at_most_their_size_under_the_hash_of_their_members() {
    let receiver = Receiver::accepting().await;
    let state = State::new();
    let calls: Vec<_> = (1..=25).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let config = WebhookConfig { batch_size: 10, concurrency: 1, ..webhook_config(&receiver.url()) };
    let _ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
    state.settled("webhook").await;
    let seen = receiver.seen();
    assert_eq!(seen.iter().map(|r| r.calls().len()).collect::<Vec<_>>(), [10, 10, 5]);
    for request in &seen {
        assert!(request.json().is_array());
        assert_eq!(request.key(), Batch::key_of(request.calls().iter().map(String::as_str)));
    }
    // even of one
    state.put(&["webhook"], 99, 1).await;
    _ship.wake().ring();
    state.settled("webhook").await;
    let last = receiver.seen().pop().expect("request");
    assert_eq!(last.json().as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn large_documents_make_smaller_batches() {
    let receiver = Receiver::accepting().await;
    let state = State::new();
    let calls: Vec<_> = (1..=9).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 300_000).await;
    let config = WebhookConfig { batch_size: 100, ..webhook_config(&receiver.url()) };
    receiver.answer_with(|r, _| reply(if r.body.len() > 1_048_576 { 413 } else { 200 }));
    let _ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
    state.settled("webhook").await;
    assert_eq!(receiver.seen().iter().map(|r| r.calls().len()).sum::<usize>(), 9, "no 413 was provoked");
    assert_eq!(state.count("webhook", 1).await, 9);
}

#[tokio::test]
async fn gzip_falls_back_to_plain_and_remembers() {
    let receiver = Receiver::start(|r, _| reply(if r.header("content-encoding") == "gzip" { 415 } else { 200 })).await;
    let state = State::new();
    let config = WebhookConfig { gzip: true, concurrency: 1, ..webhook_config(&receiver.url()) };
    let _ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
    state.put_all(&["webhook"], &[(1, 1, None), (2, 1, None)], 100).await;
    _ship.wake().ring();
    state.settled("webhook").await;
    let encodings: Vec<String> = receiver.seen().iter().map(|r| r.header("content-encoding").to_owned()).collect();
    assert_eq!(encodings, ["gzip", "", ""]);
    assert_eq!(state.count("webhook", 1).await, 2, "415 to gzip is no refusal of the document");
}

#[tokio::test]
async fn a_file_is_continued_after_a_torn_line_and_followed_when_rotated() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("calls.ndjson");
    std::fs::write(&path, "{\"id\":\"whole\"}\n{\"id\":\"to").expect("write");
    let sink = File::new(&FileSinkConfig { path: Some(path.clone()), privacy: NumberPrivacy::default() });
    let send = async |n: i64| {
        let item = Item { key: key(n, 1), body: document(n, 1, 0).into_bytes() };
        sink.send(&Batch { key: key(n, 1), items: vec![item] }).await
    };
    assert_eq!(send(1).await, Answer::Accepted);
    let text = std::fs::read_to_string(&path).expect("read");
    assert_eq!(text, format!("{{\"id\":\"whole\"}}\n{{\"id\":\"to\n{}\n", document(1, 1, 0)));
    std::fs::rename(&path, dir.path().join("calls.1")).expect("rotate");
    assert_eq!(send(2).await, Answer::Accepted);
    assert_eq!(std::fs::read_to_string(&path).expect("read"), format!("{}\n", document(2, 1, 0)));
    // and where it cannot write it says so, without losing its thread
    std::fs::remove_dir_all(dir.path()).expect("remove");
    let answer = send(3).await;
    assert!(matches!(&answer, Answer::Broken(text) if text.contains("calls.ndjson")), "{answer:?}");
    std::fs::create_dir(dir.path()).expect("create");
    assert_eq!(send(3).await, Answer::Accepted);
}

#[tokio::test]
async fn settings_that_would_leak_or_cannot_work_stop_the_start() {
    let config = webhook_config("http://calls.example.com/in");
    let error = Webhook::new(&config).err().expect("refused").to_string();
    assert!(error.contains("WEBHOOK_URL") && error.contains("ALLOW_HTTP"), "{error}");
    let config = WebhookConfig {
        signing_secret: Some(SecretString::from("not-a-secret".to_owned())),
        ..webhook_config("https://calls.example.com/in")
    };
    let error = Webhook::new(&config).err().expect("refused").to_string();
    assert!(error.contains("WEBHOOK_SECRET") && !error.contains("not-a-secret"), "{error}");
}
