//! The model endpoints: what arrived, in order, and every way to answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callferry::finding::Finding;
use callferry::ship::{Answer, Batch, Frozen, Limits, RenderError, Sink};
use fastrand::Rng;
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::pbx::SECOND;

/// What an endpoint does in a time, besides what it does to single calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500, 502, 503 without a word.
    Server,
    /// 429 and 503 with `Retry-After`.
    Busy,
    /// Nobody listens.
    Refused,
    /// The connection breaks: half of the time after the calls were taken.
    Reset,
    /// The answer comes too late: the calls were taken.
    Late,
    /// 404: a wrong URL.
    NotFound,
    /// 401: a wrong token.
    Unauthorized,
    /// 400 for every batch of more than one.
    Batches,
    /// 413 for every batch of more than three.
    TooLarge,
    /// Any of the passing ones.
    Mixed,
}

pub const FAULTS: [Fault; 10] = [
    Fault::Server,
    Fault::Busy,
    Fault::Refused,
    Fault::Reset,
    Fault::Late,
    Fault::NotFound,
    Fault::Unauthorized,
    Fault::Batches,
    Fault::TooLarge,
    Fault::Mixed,
];

/// One endpoint.
pub struct Endpoint {
    pub name: &'static str,
    /// (from, to, what, percent of the requests).
    pub faults: Vec<(i64, i64, Fault, u64)>,
    /// Of so many calls one is refused by itself, with this status, until the storm is over; 0: none.
    pub poison: (u64, u16),
    pub calm_from: i64,
    pub now: Arc<AtomicI64>,
    pub kept: Mutex<Kept>,
    /// Requests that wait for their answer.
    pub busy: AtomicUsize,
}

/// What an endpoint has.
pub struct Kept {
    rng: Rng,
    /// Newest revision by id, with its document.
    pub newest: BTreeMap<String, (i64, Value)>,
    /// The bytes first taken under each key.
    keys: BTreeMap<String, Vec<u8>>,
    pub requests: u64,
    pub taken: u64,
    pub repeated: u64,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

impl Endpoint {
    pub fn new(name: &'static str, now: Arc<AtomicI64>, seed: u64) -> Self {
        let kept = Kept {
            rng: Rng::with_seed(seed),
            newest: BTreeMap::new(),
            keys: BTreeMap::new(),
            requests: 0,
            taken: 0,
            repeated: 0,
            broken: Vec::new(),
        };
        Self {
            name,
            faults: Vec::new(),
            poison: (0, 403),
            calm_from: i64::MAX,
            now,
            kept: Mutex::new(kept),
            busy: AtomicUsize::new(0),
        }
    }

    pub fn kept<T>(&self, f: impl FnOnce(&mut Kept) -> T) -> T {
        f(&mut self.kept.lock().expect("no one died with it"))
    }

    fn is_poison(&self, key: &str) -> bool {
        let id = key.split('/').next().unwrap_or_default();
        let sum: u64 = id.bytes().map(u64::from).sum();
        self.poison.0 > 0 && self.now.load(Ordering::Relaxed) < self.calm_from && sum.is_multiple_of(self.poison.0)
    }

    /// Whether the calls are taken, when the answer comes, and what it is.
    fn decide(&self, batch: &Batch) -> (bool, Duration, Answer) {
        let now = self.now.load(Ordering::Relaxed);
        let http = |status, wait: Option<u64>| Answer::Http {
            status,
            retry_after: wait.map(Duration::from_secs),
            excerpt: String::new(),
        };
        let poisoned = batch.items.iter().any(|i| self.is_poison(&i.key));
        let n = batch.items.len();
        self.kept(|kept| {
            kept.requests += 1;
            let rng = &mut kept.rng;
            let quick = Duration::from_millis(rng.u64(1..400));
            let active = self.faults.iter().find(|f| f.0 <= now && now < f.1 && now < self.calm_from);
            let hit = active.filter(|f| rng.u64(..100) < f.3).map(|f| f.2);
            let hit = match hit {
                Some(Fault::Mixed) => Some(FAULTS[rng.usize(..5)]),
                other => other,
            };
            match hit {
                Some(Fault::Server) => (false, quick, http([500, 502, 503, 504, 408, 425][rng.usize(..6)], None)),
                Some(Fault::Busy) => (false, quick, http([429, 503][rng.usize(..2)], Some(rng.u64(1..90)))),
                Some(Fault::Refused) => (false, quick, Answer::Unreachable("connection refused".to_owned())),
                Some(Fault::Reset) => (rng.bool(), quick, Answer::Unanswered("connection reset".to_owned())),
                Some(Fault::Late) => (true, Duration::from_secs(30), Answer::Unanswered("timed out".to_owned())),
                Some(Fault::NotFound) => (false, quick, http(404, None)),
                Some(Fault::Unauthorized) => (false, quick, http(401, None)),
                Some(Fault::Batches) if n > 1 => (false, quick, http(400, None)),
                Some(Fault::TooLarge) if n > 3 => (false, quick, http(413, None)),
                _ if poisoned => (false, quick, http(self.poison.1, None)),
                _ => (true, quick, Answer::Accepted),
            }
        })
    }

    fn take(&self, batch: &Batch) {
        self.kept(|kept| {
            let mut ids = std::collections::BTreeSet::new();
            for item in &batch.items {
                let document: Value = serde_json::from_slice(&item.body).expect("a document");
                let id = document["id"].as_str().expect("an id").to_owned();
                let revision = document["revision"].as_i64().expect("a revision");
                let name = self.name;
                if item.key != format!("{id}/{revision}") {
                    kept.broken.push(format!("{name}: {id}/{revision} came under the key {}", item.key));
                }
                if !ids.insert(id.clone()) {
                    kept.broken.push(format!("{name}: two revisions of {id} in one batch"));
                }
                kept.taken += 1;
                match kept.keys.get(&item.key) {
                    Some(first) if *first != item.body => {
                        kept.broken.push(format!("{name}: two documents under the key {}", item.key));
                    }
                    Some(_) => kept.repeated += 1,
                    None => {
                        kept.keys.insert(item.key.clone(), item.body.clone());
                    }
                }
                match kept.newest.get(&id) {
                    Some((newest, _)) if *newest > revision => {
                        kept.broken.push(format!("{name}: revision {revision} of {id} after {newest}"));
                    }
                    _ => {
                        kept.newest.insert(id, (revision, document));
                    }
                }
            }
        });
    }
}

/// An agent's way to an endpoint.
pub struct ModelSink {
    pub endpoint: Arc<Endpoint>,
    pub limits: Limits,
}

impl Sink for ModelSink {
    fn name(&self) -> &'static str {
        self.endpoint.name
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn render(&self, _document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        Ok(None)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let (taken, after, answer) = self.endpoint.decide(batch);
            // whoever takes them has them before the answer is on its way
            if taken {
                self.endpoint.take(batch);
            }
            self.endpoint.busy.fetch_add(1, Ordering::Relaxed);
            let _busy = Busy(&self.endpoint.busy);
            tokio::time::sleep(after).await;
            answer
        })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
}

/// Takes itself back, also where the request is given up.
struct Busy<'a>(&'a AtomicUsize);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A storm for an endpoint: faults between `from` and `to`.
pub fn storm(rng: &mut Rng, from: i64, to: i64) -> Vec<(i64, i64, Fault, u64)> {
    let mut faults = Vec::new();
    let mut at = from + rng.i64(0..120) * SECOND;
    while at < to {
        let length = rng.i64(10..900) * SECOND;
        let share = [20, 60, 100][rng.usize(..3)];
        faults.push((at, at + length, FAULTS[rng.usize(..FAULTS.len())], share));
        at += length + rng.i64(0..300) * SECOND;
    }
    faults
}
