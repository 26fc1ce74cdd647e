//! Posts calls as JSON to any HTTP endpoint: one object, or an array when `WEBHOOK_BATCH_SIZE` is more than 1.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;

use crate::config::{ConfigError, WebhookConfig};
use crate::finding::Finding;
use crate::ship::http::{Endpoint, Target, key_header};
use crate::ship::sign::Signer;
use crate::ship::{Answer, Batch, Clock, Frozen, Limits, RenderError, Sink};

/// Below what web servers take without being asked (nginx: 1 MiB).
const BATCH_BYTES_MAX: usize = 1_000_000;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

pub struct Webhook {
    endpoint: Endpoint,
    signer: Option<Signer>,
    batch_size: usize,
    concurrency: usize,
    /// Turned off for good once the receiver answered 415 to it.
    gzip: AtomicBool,
    clock: Clock,
}

impl Webhook {
    pub fn new(config: &WebhookConfig) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::new(&Target {
            url_variable: "WEBHOOK_URL",
            url: config.url.as_str(),
            token_variable: "WEBHOOK_TOKEN",
            token: config.token.as_ref(),
            timeout: config.timeout,
            allow_http: config.allow_http,
            tls: &config.tls,
            concurrency: config.concurrency,
        })?;
        let secret = config.signing_secret.as_ref();
        Ok(Self {
            endpoint,
            signer: secret.map(|s| Signer::new("WEBHOOK_SECRET", s.expose_secret())).transpose()?,
            batch_size: config.batch_size.max(1),
            concurrency: config.concurrency,
            gzip: AtomicBool::new(config.gzip),
            clock: Clock::system(),
        })
    }

    /// One object, or always an array where batches are configured.
    fn body(&self, batch: &Batch) -> Vec<u8> {
        if self.batch_size == 1
            && let [item] = batch.items.as_slice()
        {
            return item.body.clone();
        }
        let mut body = Vec::with_capacity(batch.items.iter().map(|i| i.body.len() + 1).sum::<usize>() + 1);
        for (n, item) in batch.items.iter().enumerate() {
            body.push(if n == 0 { b'[' } else { b',' });
            body.extend_from_slice(&item.body);
        }
        body.push(b']');
        body
    }

    /// A new timestamp on every try; the signature covers the body as it is before compression.
    fn headers(&self, key: &str, body: &[u8]) -> HeaderMap {
        let key = key_header(key);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(signer) = &self.signer {
            let (timestamp, signature) = signer.sign(key.to_str().unwrap_or_default(), self.clock.now(), body);
            for (name, value) in [(WEBHOOK_TIMESTAMP, timestamp), (WEBHOOK_SIGNATURE, signature)] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(name, value);
                }
            }
            headers.insert(WEBHOOK_ID, key.clone());
        }
        headers.insert(IDEMPOTENCY_KEY, key);
        headers
    }
}

impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    fn limits(&self) -> Limits {
        Limits {
            batch: self.batch_size,
            batch_bytes: BATCH_BYTES_MAX,
            keyed_batches: self.batch_size > 1,
            concurrency: self.concurrency,
            rows: false,
        }
    }

    fn render(&self, _document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        Ok(None)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let body = self.body(batch);
            let headers = self.headers(&batch.key, &body);
            if self.gzip.load(Ordering::Relaxed) {
                let mut packed_headers = headers.clone();
                packed_headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                let answer = self.endpoint.post(packed_headers, gzip(&body)).await;
                if !matches!(answer, Answer::Http { status: 415, .. }) {
                    return answer;
                }
                if self.gzip.swap(false, Ordering::Relaxed) {
                    tracing::warn!(
                        sink = "webhook",
                        "the receiver answers 415 to gzip: sending uncompressed from now on"
                    );
                }
            }
            self.endpoint.post(headers, body).await
        })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(self.endpoint.check("webhook", "WEBHOOK_URL", "WEBHOOK_TOKEN"))
    }
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // writing into memory does not fail
    let _ = encoder.write_all(body);
    encoder.finish().unwrap_or_default()
}
