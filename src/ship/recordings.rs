//! Sends recording files as the SIPSTACK API takes them: a multipart `POST` with `recording_id`, `src_number`,
//! `dst_number`, `call_id`, `linkedid`, then the file as `audio`; only 202 means that it is there. A file goes through in
//! pieces and is never whole in memory. What to send stands in the state; nothing is ever deleted.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::header::{HeaderMap, HeaderName};
use reqwest::multipart::{Form, Part};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::http::{Endpoint, Target, key_header};
use super::policy::{self, Verdict};
use super::{Answer, Clock};
use crate::call::{Call, Timestamp};
use crate::config::{ConfigError, DeliveryConfig, UploadConfig};
use crate::metrics;
use crate::store::uploads::{self, Outcome, Upload};
use crate::store::{Result, Store};

/// Between looks for files to send.
const ROUND: Duration = Duration::from_secs(1);
/// How long an API that turns everything away is left alone.
const PAUSE: Duration = Duration::from_secs(60);

/// Opens a recording file; whoever made it says which may be opened. `None`: it is none of ours.
pub type OpenFile = Arc<dyn Fn(&str) -> Option<io::Result<File>> + Send + Sync>;

pub struct Uploader {
    store: Store,
    endpoint: Endpoint,
    open: OpenFile,
    delivery: DeliveryConfig,
    concurrency: usize,
    source_id: String,
    clock: Clock,
    /// Files found before this moment are not sent.
    since: Timestamp,
}

impl Uploader {
    /// `max_age`: files found longer ago than this are not sent.
    pub fn new(
        store: Store,
        config: &UploadConfig,
        delivery: &DeliveryConfig,
        source_id: &str,
        max_age: Duration,
        open: OpenFile,
        clock: Clock,
    ) -> std::result::Result<Self, ConfigError> {
        let endpoint = Endpoint::new(&Target {
            url_variable: "RECORDING_UPLOAD_URL",
            url: &config.url,
            token_variable: "API_KEY",
            token: Some(&config.api_key),
            timeout: config.timeout,
            allow_http: config.allow_http,
            concurrency: config.concurrency,
        })?;
        let since = clock.now().plus_micros(-micros(max_age));
        Ok(Self {
            store,
            endpoint,
            open,
            delivery: delivery.clone(),
            concurrency: config.concurrency,
            source_id: source_id.to_owned(),
            clock,
            since,
        })
    }

    /// Runs until `stop`; what is being sent then is given up and sent again after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut failed = false;
        let mut paused = false;
        loop {
            let wait = tokio::select! {
                () = stop.cancelled() => return,
                round = self.round(&mut paused) => match round {
                    Ok(wait) => {
                        failed = false;
                        wait
                    }
                    Err(e) => {
                        if !failed {
                            tracing::error!("recordings cannot be sent: {e}");
                        }
                        failed = true;
                        ROUND
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Sends what is due, once. How long to wait for the next time.
    async fn round(&self, paused: &mut bool) -> Result<Duration> {
        let (now, since, limit) = (self.clock.now(), self.since, self.concurrency);
        let (due, pending) = self
            .store
            .write(move |conn| {
                uploads::queue(conn, since, now)?;
                Ok((uploads::due(conn, now, limit)?, uploads::pending(conn)?))
            })
            .await?;
        metrics::RECORDING_UPLOADS_PENDING.set(pending);
        if due.is_empty() {
            return Ok(ROUND);
        }
        let more = due.len() == limit;
        let answers = join_all(due.iter().map(|upload| self.send(upload))).await;
        let mut down = None;
        for (upload, answer) in due.into_iter().zip(answers) {
            let now = self.clock.now();
            let outcome = self.outcome(&upload, &answer, now);
            let label = match &outcome {
                Outcome::Delivered => "delivered",
                Outcome::Retry { .. } => "retry",
                Outcome::Release { error, .. } => {
                    down = Some(error.clone());
                    "released"
                }
                Outcome::Dead { .. } => {
                    let why = policy::describe_briefly(&answer);
                    tracing::warn!(call = upload.call_id, "a recording is given up: {why}. See docs/recordings.md");
                    "dead"
                }
            };
            metrics::RECORDING_UPLOADS.with_label_values(&[label]).inc();
            self.store.write(move |conn| uploads::record(conn, upload.recording, &outcome, now)).await?;
        }
        if let Some(why) = down {
            if !std::mem::replace(paused, true) {
                tracing::error!(
                    url = self.endpoint.shown(),
                    "sending recordings pauses, and is tried each minute: {why}"
                );
            }
            return Ok(PAUSE);
        }
        if std::mem::replace(paused, false) {
            tracing::info!("recordings can be sent again");
        }
        Ok(if more { Duration::ZERO } else { ROUND })
    }

    fn outcome(&self, upload: &Upload, answer: &Answer, now: Timestamp) -> Outcome {
        let error = policy::describe(answer);
        let age = now.micros().saturating_sub(upload.queued_at.micros());
        match policy::sort(answer) {
            Verdict::Delivered => Outcome::Delivered,
            Verdict::Document | Verdict::Gone => Outcome::Dead { error },
            // what turns one away turns all away, as far as this can tell
            Verdict::Sink | Verdict::Forbidden if age <= micros(self.delivery.outage_max_age) => {
                Outcome::Release { due_at: now.plus_micros(micros(PAUSE)), error }
            }
            verdict => {
                let down = matches!(answer, Answer::Unreachable(_)) || verdict != Verdict::Transient;
                let limit = if down { self.delivery.outage_max_age } else { self.delivery.retry_max_age };
                if age > micros(limit) {
                    return Outcome::Dead { error };
                }
                let (base, cap) = (self.delivery.retry_base, self.delivery.retry_cap);
                let backoff = policy::backoff(base, cap, upload.attempts, &mut fastrand::Rng::new());
                let wait = policy::asked_to_wait(answer).unwrap_or_default().max(backoff);
                Outcome::Retry { due_at: now.plus_micros(micros(wait)), error }
            }
        }
    }

    async fn send(&self, upload: &Upload) -> Answer {
        let (open, path) = (Arc::clone(&self.open), upload.path.clone());
        let opened = tokio::task::spawn_blocking(move || open(&path)).await;
        let file = match opened {
            Ok(Some(Ok(file))) => tokio::fs::File::from_std(file),
            Ok(Some(Err(e))) if e.kind() == io::ErrorKind::NotFound => return gone("the file is gone"),
            Ok(Some(Err(e))) => return Answer::Unanswered(format!("the file cannot be read: {e}")),
            Ok(None) => return gone("the file is not below RECORDING_PATHS"),
            Err(e) => return Answer::Unanswered(format!("the file cannot be opened: {e}")),
        };
        match file.metadata().await {
            Ok(meta) if meta.len() == upload.size => {}
            Ok(_) => return Answer::Unanswered("the file has changed since it was complete".to_owned()),
            Err(e) => return Answer::Unanswered(format!("the file cannot be read: {e}")),
        }
        // as long as it was when it was complete: what is written from now on is sent when it is complete again
        let body = reqwest::Body::wrap_stream(ReaderStream::new(file.take(upload.size)));
        let audio = match Part::stream_with_length(body, upload.size)
            .file_name(upload.file.clone())
            .mime_str(mime(&upload.file))
        {
            Ok(part) => part,
            Err(e) => return Answer::Unanswered(format!("the form cannot be made: {e}")),
        };
        let id = recording_id(&self.source_id, upload);
        let mut form = Form::new().text("recording_id", id.clone());
        let call = upload.document.as_deref().and_then(|d| serde_json::from_str::<Call>(d).ok());
        if let Some(call) = call {
            for (name, value) in [("src_number", call.content.from.number), ("dst_number", call.content.to.number)] {
                if let Some(value) = value {
                    form = form.text(name, value);
                }
            }
            form = form.text("call_id", upload.call_id.clone()).text("linkedid", call.content.linkedid);
        } else {
            let linkedid = upload.call_id.split_once(':').map_or("", |(_, l)| l).to_owned();
            form = form.text("call_id", upload.call_id.clone()).text("linkedid", linkedid);
        }
        let mut headers = HeaderMap::new();
        headers.insert(HeaderName::from_static("idempotency-key"), key_header(&id));
        self.endpoint.post_form(headers, form.part("audio", audio)).await
    }
}

/// The document's fault, in the words of the policy: given up.
fn gone(why: &str) -> Answer {
    Answer::Gone(why.to_owned())
}

/// Equal at every attempt and after the loss of the state; another for a file that changed.
fn recording_id(source_id: &str, upload: &Upload) -> String {
    let mut hash = Sha256::new();
    for part in [source_id, &upload.call_id, &upload.path, &upload.size.to_string()] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

fn mime(file: &str) -> &'static str {
    let ending = file.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    match ending.as_str() {
        "wav" | "wav49" => "audio/wav",
        "mp3" => "audio/mpeg",
        "gsm" => "audio/x-gsm",
        "ogg" => "audio/ogg",
        _ => "application/octet-stream",
    }
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}
