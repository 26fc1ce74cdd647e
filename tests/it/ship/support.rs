//! A state to deliver from, a web server to deliver to, and the patience to wait for both.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use callferry::call::Timestamp;
use callferry::config::{DeliveryConfig, NumberPrivacy, TlsConfig, WebhookConfig};
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Clock, Options, Ship, Sink};
use callferry::store::Store;
use callferry::store::outbox::{self, NewRevision};
use rusqlite::params;
use secrecy::SecretString;
use tempfile::TempDir;

/// Call, revision, and the call and revision that has to be delivered first.
pub type Queued = (i64, i64, Option<(i64, i64)>);

/// An agent's state in a directory of its own.
pub struct State {
    pub dir: TempDir,
    pub store: Store,
}

impl State {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let store = Store::open(dir.path()).expect("state");
        Self { dir, store }
    }

    /// As after the end of the process.
    pub async fn reopen(self) -> Self {
        let Self { dir, store } = self;
        drop(store);
        for _ in 0..500 {
            match Store::open(dir.path()) {
                Ok(store) => return Self { dir, store },
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        panic!("the state stays locked");
    }

    /// Queues `<call>.1` in this revision; its document is `{id, revision, pad}`.
    pub async fn put(&self, sinks: &[&'static str], call: i64, revision: i64) {
        self.put_all(sinks, &[(call, revision, None)], 0).await;
    }

    pub async fn put_all(&self, sinks: &[&'static str], calls: &[Queued], pad: usize) {
        let (sinks, calls) = (sinks.to_vec(), calls.to_vec());
        self.store
            .write(move |conn| {
                for (call, revision, after) in calls {
                    let id = id(call);
                    conn.prepare_cached(
                        "INSERT OR IGNORE INTO ledger (call, id, revision, state, content_hash, updated_at)
                         VALUES (?1, ?2, ?3, 'shipped', x'', 0)",
                    )?
                    .execute(params![call, id, revision])?;
                    let body = document(call, revision, pad);
                    let new = NewRevision { call, id: &id, revision, body: &body, rows: None, after };
                    outbox::enqueue(conn, &new, &sinks, Clock::system().now())?;
                }
                Ok(())
            })
            .await
            .expect("enqueue");
    }

    /// `(state, attempts, refused, last_error)` of a delivery.
    pub async fn delivery(&self, sink: &'static str, call: i64, revision: i64) -> (i64, i64, i64, String) {
        self.store
            .read(move |conn| {
                Ok(conn.query_row(
                    "SELECT state, attempts, refused, coalesce(last_error, '') FROM delivery
                      WHERE sink = ?1 AND call = ?2 AND revision = ?3",
                    params![sink, call, revision],
                    |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?)),
                )?)
            })
            .await
            .expect("delivery")
    }

    /// How many deliveries of a sink are in this state.
    pub async fn count(&self, sink: &'static str, state: i64) -> i64 {
        self.store
            .read(move |conn| {
                let sql = "SELECT count(*) FROM delivery WHERE sink = ?1 AND state = ?2";
                Ok(conn.query_row(sql, params![sink, state], |r| r.get(0))?)
            })
            .await
            .expect("count")
    }

    /// Waits until nothing is pending.
    pub async fn settled(&self, sink: &'static str) {
        for _ in 0..3_000 {
            if self.count(sink, 0).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} deliveries to {sink} are still pending", self.count(sink, 0).await);
    }

    pub async fn ship(&self, sinks: Vec<Arc<dyn Sink>>) -> Ship {
        Ship::start(sinks, &self.store, &options()).await.expect("start")
    }
}

pub fn id(call: i64) -> String {
    format!("pbx:{call}.1")
}

pub fn key(call: i64, revision: i64) -> String {
    format!("{}/{revision}", id(call))
}

pub fn document(call: i64, revision: i64, pad: usize) -> String {
    format!(
        "{{\"id\":\"{}\",\"revision\":{revision},\"state\":\"completed\",\"pad\":\"{}\"}}",
        id(call),
        "x".repeat(pad)
    )
}

/// Retries that do not keep a test waiting.
pub fn options() -> Options {
    Options {
        delivery: DeliveryConfig {
            retry_base: Duration::from_millis(5),
            retry_cap: Duration::from_millis(40),
            retry_max_age: Duration::from_secs(3_600),
            outage_max_age: Duration::from_secs(86_400),
        },
        clock: Clock::system(),
        seed: 1,
    }
}

pub fn webhook_config(url: &str) -> WebhookConfig {
    WebhookConfig {
        url: url.to_owned().into(),
        token: Some(SecretString::from("t0p-secret".to_owned())),
        signing_secret: None,
        batch_size: 1,
        gzip: false,
        concurrency: 4,
        timeout: Duration::from_secs(10),
        allow_http: false,
        tls: TlsConfig::default(),
        privacy: NumberPrivacy::default(),
    }
}

pub fn webhook(url: &str) -> Arc<dyn Sink> {
    Arc::new(Webhook::new(&webhook_config(url)).expect("webhook"))
}

/// A request as the receiver saw it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn key(&self) -> String {
        self.header("idempotency-key").to_owned()
    }

    /// The body unpacked, as JSON.
    pub fn json(&self) -> serde_json::Value {
        if self.header("content-encoding") == "gzip" {
            let unpacked = flate2::read::GzDecoder::new(&self.body[..]);
            return serde_json::from_reader(unpacked).expect("gzip of JSON");
        }
        serde_json::from_slice(&self.body).expect("JSON body")
    }

    /// `<id>/<revision>` of what it carries.
    pub fn calls(&self) -> Vec<String> {
        let one = |v: &serde_json::Value| format!("{}/{}", v["id"].as_str().unwrap_or_default(), v["revision"]);
        match self.json() {
            serde_json::Value::Array(items) => items.iter().map(one).collect(),
            value => vec![one(&value)],
        }
    }
}

/// What the receiver does with the n-th request (from 0).
type Script = dyn Fn(&Request, usize) -> Reply + Send + Sync;

#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    pub delay: Duration,
}

pub fn reply(status: u16) -> Reply {
    Reply { status, headers: Vec::new(), body: String::new(), delay: Duration::ZERO }
}

impl Reply {
    pub fn body(mut self, text: impl Into<String>) -> Self {
        self.body = text.into();
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// A real web server that keeps what it got and answers as a script says.
#[derive(Clone)]
pub struct Receiver {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Receiver {
    pub async fn start(script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let script: Arc<Script> = Arc::new(script);
        let receiver = Self {
            address: listener.local_addr().expect("address"),
            seen: Arc::default(),
            script: Arc::new(Mutex::new(script)),
        };
        let app = axum::Router::new().fallback(answer).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    pub async fn accepting() -> Self {
        Self::start(|_, _| reply(200)).await
    }

    pub fn answer_with(&self, script: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) {
        *self.script.lock().expect("script") = Arc::new(script);
    }

    pub fn url(&self) -> String {
        format!("http://{}/calls", self.address)
    }

    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("requests").clone()
    }

    pub async fn wait_for(&self, requests: usize) {
        for _ in 0..2_000 {
            if self.seen.lock().expect("requests").len() >= requests {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} requests, not {requests}", self.seen().len());
    }
}

async fn answer(Extract(receiver): Extract<Receiver>, method: Method, headers: HeaderMap, body: Bytes) -> Response {
    let request = Request { method, headers, body };
    let n = {
        let mut seen = receiver.seen.lock().expect("requests");
        seen.push(request.clone());
        seen.len() - 1
    };
    let script = receiver.script.lock().expect("script").clone();
    let reply = script(&request, n);
    tokio::time::sleep(reply.delay).await;
    let mut response = reply.body.into_response();
    *response.status_mut() = StatusCode::from_u16(reply.status).expect("status");
    for (name, value) in reply.headers {
        response.headers_mut().insert(name, value.parse().expect("header"));
    }
    response
}

pub fn now() -> Timestamp {
    Clock::system().now()
}
