//! Carries deliveries from the outbox to the sinks: one [`dispatcher`] a sink, what answers mean in [`policy`], how a sink
//! stands in [`health`]. It knows documents and bytes, never where a call came from.
//!
//! A new sink is one file in `sink/`, one line in [`sinks`], one section in docs/sinks.md.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use sha2::{Digest, Sha256};

use crate::config::{ConfigError, SinkConfig};
use crate::finding::Finding;

mod clock;
mod dispatcher;
pub mod health;
pub mod http;
mod page;
pub mod policy;
pub mod privacy;
pub mod recordings;
mod refusals;
mod rows;
pub mod sign;
pub mod sink;
mod start;

pub use clock::Clock;
pub use rows::{FrozenRows, freeze_rows};
pub use start::{Ended, Options, Ship, Wake};

/// Sends the request `User-Agent`, and the version SIPSTACK's format carries.
pub const USER_AGENT: &str = concat!("callferry/", env!("CARGO_PKG_VERSION"));

/// Where calls go.
///
/// The contract, which `tests/it/sinks.rs` holds every sink against:
/// - `render` is a pure function of its arguments. Its bytes are stored before the first attempt and every later attempt
///   carries exactly them.
/// - `send` delivers all items of a batch or none, as far as the other side allows, and says what it saw in an
///   [`Answer`]; it never retries, never sleeps, never decides. It ends within the sink's own timeout. Dropping its future
///   gives the attempt up.
/// - [`Answer::Accepted`] is returned only after the other side has the calls for good.
/// - `send` may be called again with items that arrived before: whoever receives tells by the key.
/// - No error text holds a secret or a URL with credentials.
pub trait Sink: Send + Sync + 'static {
    /// The name deliveries are kept under; also the label of metrics and the word in `SINKS`.
    fn name(&self) -> &'static str;

    fn limits(&self) -> Limits;

    /// The bytes of one item; `None`: those of the document itself.
    fn render(&self, document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError>;

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer>;

    /// For `callferry check`: tries what can be tried without handing a call over.
    fn check(&self) -> BoxFuture<'_, Vec<Finding>>;
}

/// What a sink can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Items in one `send`.
    pub batch: usize,
    /// Bytes of the items in one `send`; one larger item still goes alone.
    pub batch_bytes: usize,
    /// The other side knows batches by their key: a batch keeps its members until it is answered.
    pub keyed_batches: bool,
    /// Calls of `send` at the same time.
    pub concurrency: usize,
    /// Documents have to be frozen with their rows.
    pub rows: bool,
}

/// A document as it froze when it entered the outbox.
#[derive(Clone, Copy, Debug)]
pub struct Frozen<'a> {
    pub call_id: &'a str,
    pub revision: i64,
    /// The JSON document.
    pub document: &'a str,
    /// As [`freeze_rows`] made them.
    pub rows: Option<&'a [u8]>,
    /// The moment of the first attempt.
    pub now: crate::call::Timestamp,
}

/// The document cannot be written in the sink's format: a fault of ours, told to the dead letters.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the document in this sink's format: {0}")]
pub struct RenderError(pub String);

/// What one `send` carries. Never empty.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The idempotency key: the item's own, or the hash of its members' where batches are keyed.
    pub key: String,
    pub items: Vec<Item>,
}

impl Batch {
    /// The key of a batch with these members, in this order.
    pub fn key_of<'a>(keys: impl Iterator<Item = &'a str>) -> String {
        let mut hash = Sha256::new();
        for key in keys {
            hash.update(key.as_bytes());
            hash.update(b"\n");
        }
        let hex: String = hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect();
        format!("batch-{hex}")
    }
}

#[derive(Clone, Debug)]
pub struct Item {
    /// `<id>/<revision>`.
    pub key: String,
    /// UTF-8 JSON without a line break.
    pub body: Vec<u8>,
}

/// What a sink saw. [`policy::sort`] says what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All items are there for good.
    Accepted,
    /// An HTTP answer that is not 2xx.
    Http { status: u16, retry_after: Option<Duration>, excerpt: String },
    /// No answer: connection refused, reset, timed out.
    Unreachable(String),
    /// The connection stood and the answer did not come, or came broken.
    Unanswered(String),
    /// The sink itself cannot work until somebody mends it (a directory without permission, a full disk).
    Broken(String),
    /// The sink is over and never comes back (standard output closed): its dispatcher ends.
    Gone(String),
}

/// Makes the sinks that the configuration names, in its order. The registry: one line a sink.
pub fn sinks(configs: &[SinkConfig]) -> Result<Vec<Arc<dyn Sink>>, ConfigError> {
    configs
        .iter()
        .map(|config| -> Result<Arc<dyn Sink>, ConfigError> {
            let sink: Arc<dyn Sink> = match config {
                SinkConfig::Webhook(c) => Arc::new(sink::webhook::Webhook::new(c)?),
                SinkConfig::File(c) => Arc::new(sink::file::File::new(c)),
                SinkConfig::Sipstack(c) => Arc::new(sink::sipstack::Sipstack::new(c)?),
            };
            Ok(privacy::Private::wrap(sink, config.privacy()))
        })
        .collect()
}

/// Whether any of these sinks sends rows along: then `enqueue` is to be given [`freeze_rows`].
pub fn needs_rows(sinks: &[Arc<dyn Sink>]) -> bool {
    sinks.iter().any(|s| s.limits().rows)
}
