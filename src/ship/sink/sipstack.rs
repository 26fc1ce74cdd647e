//! Posts calls in the format of the SIPSTACK connector for Asterisk, one call a request, so that its API takes them as
//! before. The body is made in [`format`]; here is only the way there.

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use crate::config::{ConfigError, SipstackConfig};
use crate::finding::Finding;
use crate::ship::http::{Endpoint, Target, key_header};
use crate::ship::{Answer, Batch, Frozen, Limits, RenderError, Sink};

pub mod format;

pub struct Sipstack {
    endpoint: Endpoint,
    identity: format::Identity,
    concurrency: usize,
}

impl Sipstack {
    pub fn new(config: &SipstackConfig) -> Result<Self, ConfigError> {
        let endpoint = Endpoint::new(&Target {
            url_variable: "API_ENDPOINT",
            url: config.url.as_str(),
            token_variable: "API_KEY",
            token: Some(&config.api_key),
            timeout: config.timeout,
            allow_http: config.allow_http,
            tls: &config.tls,
            concurrency: config.concurrency,
        })?;
        let identity = format::Identity {
            customer_id: config.customer_id,
            tenant: config.tenant.clone().unwrap_or_default(),
            hostname: config.hostname.clone(),
            raw_data: config.include_raw_data,
        };
        Ok(Self { endpoint, identity, concurrency: config.concurrency })
    }
}

impl Sink for Sipstack {
    fn name(&self) -> &'static str {
        "sipstack"
    }

    fn limits(&self) -> Limits {
        Limits { batch: 1, batch_bytes: usize::MAX, keyed_batches: false, concurrency: self.concurrency, rows: true }
    }

    fn render(&self, document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        format::render(document, &self.identity).map(Some)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let [item] = batch.items.as_slice() else {
                return Answer::Broken("this format carries one call a request".to_owned());
            };
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.insert(HeaderName::from_static("idempotency-key"), key_header(&batch.key));
            self.endpoint.post(headers, item.body.clone()).await
        })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(self.endpoint.check("sipstack", "API_ENDPOINT (or REGION)", "API_KEY"))
    }
}
