//! A real HTTP receiver: keeps every call posted to it, by arrival, with the key it came under.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::Value;

/// One call document as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// `Idempotency-Key` of the request it came in.
    pub key: String,
    pub call: Value,
}

#[derive(Clone, Default)]
pub struct Received {
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    refusing: Arc<Mutex<Option<Refusing>>>,
    delay: Arc<Mutex<Duration>>,
}

/// While this is true every request is answered with 503, and counted.
type Refusing = (Arc<AtomicBool>, Arc<AtomicUsize>);

pub struct Receiver {
    pub address: SocketAddr,
    pub received: Received,
}

impl Receiver {
    /// Lives as long as the test's runtime.
    pub async fn start() -> Self {
        let received = Received::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port for the receiver");
        let address = listener.local_addr().expect("the receiver's address");
        let app = Router::new().route("/calls", post(take)).with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, received }
    }

    /// Takes nothing while `down`; counts in `refused`.
    pub fn refuse_while(&self, down: Arc<AtomicBool>, refused: Arc<AtomicUsize>) {
        *self.received.refusing.lock().expect("refusing") = Some((down, refused));
    }

    /// Takes its time over every answer.
    pub fn answer_after(&self, delay: Duration) {
        *self.received.delay.lock().expect("delay") = delay;
    }

    pub fn url(&self) -> String {
        format!("http://{}/calls", self.address)
    }
}

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if let Some((down, refused)) = received.refusing.lock().expect("refusing").as_ref()
        && down.load(Ordering::SeqCst)
    {
        refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST;
    };
    {
        let mut arrivals = received.arrivals.lock().expect("arrivals");
        match body {
            Value::Array(calls) => {
                arrivals.extend(calls.into_iter().map(|call| Arrival { key: key.clone(), call }));
            }
            call => arrivals.push(Arrival { key, call }),
        }
    }
    let delay = *received.delay.lock().expect("delay");
    tokio::time::sleep(delay).await;
    StatusCode::OK
}

pub fn own_key(call: &Value) -> String {
    format!("{}/{}", call["id"].as_str().unwrap_or_default(), call["revision"])
}

impl Received {
    pub fn all(&self) -> Vec<Arrival> {
        self.arrivals.lock().expect("arrivals").clone()
    }

    /// What a receiver that upserts by `id` and keeps the highest revision would hold.
    pub fn upserted(&self) -> BTreeMap<String, Value> {
        let mut calls: BTreeMap<String, Value> = BTreeMap::new();
        for arrival in self.all() {
            let id = arrival.call["id"].as_str().unwrap_or_default().to_owned();
            let newer = calls.get(&id).is_none_or(|c| c["revision"].as_i64() < arrival.call["revision"].as_i64());
            if newer {
                calls.insert(id, arrival.call);
            }
        }
        calls
    }

    /// Waits until `enough` says so; panics with what was there when `limit` has passed.
    pub async fn wait(&self, limit: Duration, what: &str, enough: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !enough(self) {
            assert!(begin.elapsed() < limit, "waited {limit:?} for {what}; {} calls arrived", self.upserted().len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
