//! Sends recording files as the SIPSTACK API takes them: a multipart `POST` with `recording_id`, `src_number`,
//! `dst_number`, `call_id`, `linkedid`, then the file as `audio`; only 202 means that it is there. A file goes through in
//! pieces and is never whole in memory. What to send stands in the state; nothing is ever deleted.
//!
//! The policy is that of the sinks ([`Health`]): pauses, breaker, ages on the API's up-clock. What is wrong with a file
//! itself (gone, unreadable, written on) says nothing of the API.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName};
use reqwest::multipart::{Form, Part};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::health::{Change, Health, Member, Mode, Moment, Permit, Sent};
use super::http::{Endpoint, Target, key_header};
use super::privacy::Privacy;
use super::{Answer, Clock, RenderError, policy};
use crate::call::{Call, Timestamp};
use crate::config::{ConfigError, DeliveryConfig, UploadConfig};
use crate::finding::Finding;
use crate::metrics;
use crate::store::outbox::{self, Outcome};
use crate::store::uploads::{self, Upload};
use crate::store::{Result, Store};

/// Under which the API's health is kept and shown, beside those of the sinks.
pub const NAME: &str = "recordings";
/// Between looks for files to send.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds between looking for what an outage made too old.
const SLOW_ROUNDS: u32 = 15;
/// Read of a file at once.
const PIECE: usize = 64 << 10;
const FAR: Timestamp = Timestamp::from_micros(i64::MAX);

/// Opens a recording file; whoever made it says which may be opened. `None`: it is none of ours.
pub type OpenFile = Arc<dyn Fn(&str) -> Option<io::Result<File>> + Send + Sync>;

pub struct Uploader {
    store: Store,
    endpoint: Endpoint,
    open: OpenFile,
    delivery: DeliveryConfig,
    concurrency: usize,
    source_id: String,
    privacy: Option<Privacy>,
    clock: Clock,
    max_age: Duration,
}

/// A file that can be sent.
struct Opened {
    file: File,
    meta: Metadata,
}

/// Why a file cannot be sent.
enum Unfit {
    /// For good.
    Gone(&'static str),
    /// As it is now.
    NotNow(String),
}

/// What ended.
struct Done {
    upload: Upload,
    sent: Sent,
    answer: Answer,
    /// The file as it was sent is not the one that is there now.
    changed: bool,
}

/// (recording, when what was sent was queued, what became of it).
type Answered = (i64, Option<Timestamp>, Outcome);

/// What one run holds: what is being sent, and answers that are not written down yet. Both are bounded by the number of
/// files sent at a time.
struct Work {
    health: Health,
    rng: fastrand::Rng,
    origin: Instant,
    tasks: JoinSet<Done>,
    flying: HashMap<i64, Timestamp>,
    results: Vec<Answered>,
    /// The API has just come back.
    resumed: bool,
    /// A task ended without saying for what: when the others have ended, all begins anew.
    lost: bool,
    /// Files found before this moment are not sent.
    since: Timestamp,
    rounds: u32,
}

impl Uploader {
    /// `max_age`: files found longer before the first start that sends them are not sent.
    pub fn new(
        store: Store,
        config: &UploadConfig,
        delivery: &DeliveryConfig,
        source_id: &str,
        max_age: Duration,
        open: OpenFile,
        clock: Clock,
    ) -> std::result::Result<Self, ConfigError> {
        let endpoint = endpoint(config)?;
        Ok(Self {
            store,
            endpoint,
            open,
            delivery: delivery.clone(),
            concurrency: config.concurrency,
            source_id: source_id.to_owned(),
            privacy: Privacy::new(&config.privacy),
            clock,
            max_age,
        })
    }

    /// Runs until `stop`; what is being sent then is given up and sent again after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut failed = false;
        let mut work = None;
        loop {
            if work.as_ref().is_some_and(|w: &Work| w.lost && w.tasks.is_empty() && w.results.is_empty()) {
                work = None;
            }
            let done = match &mut work {
                None => self.begin().await.map(|begun| work = Some(begun)),
                Some(work) => self.round(work).await,
            };
            match done {
                Ok(()) => failed = false,
                Err(e) => {
                    if !std::mem::replace(&mut failed, true) {
                        tracing::error!("recordings cannot be sent: {e}");
                    }
                }
            }
            let idle = async {
                match &mut work {
                    // after an error the state is given time
                    Some(work) if !failed && !work.tasks.is_empty() => {
                        tokio::select! {
                            Some(done) = work.tasks.join_next() => Some(done),
                            () = tokio::time::sleep(ROUND) => None,
                        }
                    }
                    _ => {
                        tokio::time::sleep(ROUND).await;
                        None
                    }
                }
            };
            let ended = tokio::select! {
                () = stop.cancelled() => break,
                ended = idle => ended,
            };
            if let (Some(work), Some(ended)) = (&mut work, ended) {
                self.take(work, ended);
            }
        }
        if let Some(mut work) = work {
            while let Some(ended) = work.tasks.try_join_next() {
                self.take(&mut work, ended);
            }
            if let Err(e) = self.write_down(&mut work).await {
                tracing::warn!(
                    "answers to recordings could not be kept, they are sent again after the next start: {e}"
                );
            }
        }
    }

    async fn begin(&self) -> Result<Work> {
        let begin = self.clock.now().plus_micros(-micros(self.max_age));
        let (since, kept) =
            self.store.write(move |conn| Ok((uploads::since(conn, begin)?, outbox::load_sink(conn, NAME)?))).await?;
        let work = Work {
            health: Health::new(self.delivery.clone(), kept, Duration::ZERO),
            rng: fastrand::Rng::new(),
            origin: Instant::now(),
            tasks: JoinSet::new(),
            flying: HashMap::new(),
            results: Vec::new(),
            resumed: false,
            lost: false,
            since,
            rounds: 0,
        };
        show(&work.health);
        Ok(work)
    }

    /// Writes down what was answered, and sends what is due as far as there is room.
    async fn round(&self, work: &mut Work) -> Result<()> {
        while let Some(ended) = work.tasks.try_join_next() {
            self.take(work, ended);
        }
        self.write_down(work).await?;
        if work.rounds.is_multiple_of(SLOW_ROUNDS) {
            self.mend(work).await?;
        }
        work.rounds = work.rounds.wrapping_add(1);
        let (now, since) = (self.clock.now(), work.since);
        let permit = work.health.permit(work.origin.elapsed());
        let (room, until) = match permit {
            Permit::Go => (self.concurrency.saturating_sub(work.tasks.len()), now),
            Permit::Probe if work.tasks.is_empty() => (1, FAR),
            _ => (0, now),
        };
        // what is in flight is due, too
        let limit = room + work.flying.len();
        let (due, pending) = self
            .store
            .write(move |conn| {
                uploads::queue(conn, since, now)?;
                let due = if room == 0 { Vec::new() } else { uploads::due(conn, until, limit)? };
                Ok((due, uploads::pending(conn)?))
            })
            .await?;
        metrics::RECORDING_UPLOADS_PENDING.set(pending);
        let new = due.into_iter().filter(|upload| !work.flying.contains_key(&upload.recording)).take(room);
        for upload in new.collect::<Vec<_>>() {
            match self.opened(&upload).await {
                Ok(opened) => self.launch(work, upload, opened, permit == Permit::Probe),
                Err(unfit) => self.unfit(work, &upload, unfit),
            }
        }
        self.write_down(work).await
    }

    /// What an outage made too old is given up; what was planned while the API was away is due now that it is back.
    async fn mend(&self, work: &Work) -> Result<()> {
        let now = self.clock.now();
        let latest = now.plus_micros(micros(self.delivery.retry_cap + policy::RETRY_AFTER_MAX).saturating_mul(2));
        let outage = work.health.outage_limit(now).map(|limit| (limit, work.health.outage_text()));
        let (expired, dead) = self
            .store
            .write(move |conn| {
                uploads::hasten(conn, latest, now)?;
                let expired = outage.map_or(Ok(0), |(limit, text)| uploads::expire(conn, limit, now, &text))?;
                Ok((expired, uploads::dead(conn)?))
            })
            .await?;
        metrics::RECORDING_UPLOADS_DEAD.set(dead);
        if expired > 0 {
            tracing::warn!(recordings = expired, "recordings are given up: the API was down too long");
        }
        Ok(())
    }

    /// The upload as the API gets to see it. What is heard in the file is not changed by anything.
    fn shown(&self, upload: &Upload) -> std::result::Result<Upload, RenderError> {
        let Some(privacy) = &self.privacy else { return Ok(upload.clone()) };
        let document = upload.document.as_deref();
        Ok(Upload {
            path: privacy.path(document, &upload.path),
            file: privacy.path(document, &upload.file),
            call_id: privacy.id(&upload.call_id).into_owned(),
            document: document.map(|d| privacy.document(d)).transpose()?,
            ..upload.clone()
        })
    }

    fn launch(&self, work: &mut Work, upload: Upload, opened: Opened, probe: bool) {
        let shown = match self.shown(&upload) {
            Ok(shown) => shown,
            Err(e) => return self.unfit(work, &upload, Unfit::NotNow(e.to_string())),
        };
        if probe {
            work.health.probe_sent();
        }
        work.flying.insert(upload.recording, upload.queued_at);
        let id = recording_id(&self.source_id, &shown, &opened.meta);
        let member = Member {
            delivery: upload.recording,
            call: upload.call,
            key: id.clone(),
            attempts: upload.attempts,
            refused: upload.refused,
            age: upload.age,
            tried_up: upload.tried_up,
            queued_at: upload.queued_at,
        };
        let sent = Sent { members: vec![member], probe };
        let endpoint = self.endpoint.clone();
        work.tasks.spawn(async move {
            let (answer, changed) = send(&endpoint, &shown, &id, opened).await;
            Done { upload, sent, answer, changed }
        });
    }

    fn take(&self, work: &mut Work, ended: std::result::Result<Done, tokio::task::JoinError>) {
        let done = match ended {
            Ok(done) => done,
            Err(e) => {
                tracing::error!("sending a recording ended unexpectedly: {e}");
                work.lost = true;
                return;
            }
        };
        let Done { upload, sent, answer, changed } = done;
        let at = Moment { now: self.clock.now(), mono: work.origin.elapsed() };
        let judged = work.health.judge(&sent, &answer, at, &mut work.rng);
        for (recording, outcome) in judged.outcomes {
            if recording != upload.recording {
                work.results.push((recording, None, outcome));
            } else if changed && outcome == Outcome::Delivered {
                self.unfit(work, &upload, Unfit::NotNow("the file was written while it was sent".to_owned()));
            } else {
                if matches!(outcome, Outcome::Dead { .. }) {
                    let why = policy::describe_briefly(&answer);
                    let call = crate::log::text(&upload.call_id);
                    tracing::warn!(%call, "a recording is given up: {why}. See docs/recordings.md");
                }
                note(work, &upload, outcome);
            }
        }
        if let Some(change) = judged.change {
            let url = self.endpoint.shown();
            match (change, work.health.mode()) {
                (Change::Resumed, _) => {
                    work.resumed = true;
                    tracing::info!("recordings can be sent again");
                }
                (_, Mode::Open { why, .. } | Mode::Paused { why, .. }) => {
                    tracing::error!(url, "sending recordings pauses, and is tried again each minute: {why}");
                }
                _ => {}
            }
            show(&work.health);
        }
    }

    /// What is answered is sent no more: it stays in memory until it is written down.
    async fn write_down(&self, work: &mut Work) -> Result<()> {
        if work.results.is_empty() && !work.resumed {
            return Ok(());
        }
        let (results, resumed) = (Arc::new(std::mem::take(&mut work.results)), std::mem::take(&mut work.resumed));
        let (now, snapshot, written) = (self.clock.now(), work.health.snapshot(), Arc::clone(&results));
        let done = self
            .store
            .write(move |conn| {
                for (recording, queued_at, outcome) in written.iter() {
                    uploads::record(conn, *recording, *queued_at, outcome, now)?;
                }
                if resumed {
                    uploads::hasten(conn, now, now)?;
                }
                outbox::save_sink(conn, NAME, &snapshot, now)
            })
            .await;
        match done {
            Ok(()) => {
                for (recording, ..) in results.iter() {
                    work.flying.remove(recording);
                }
                Ok(())
            }
            Err(e) => {
                work.results = Arc::unwrap_or_clone(results);
                work.resumed = resumed;
                Err(e)
            }
        }
    }

    /// Something is wrong with the file itself. It is looked at again, the longer it waits the more rarely.
    fn unfit(&self, work: &mut Work, upload: &Upload, why: Unfit) {
        let now = self.clock.now();
        let waited =
            Duration::from_micros(now.micros().saturating_sub(upload.queued_at.micros()).max(0).unsigned_abs());
        let error = match why {
            Unfit::NotNow(why) if waited <= self.delivery.retry_max_age => {
                let wait =
                    (waited / 4).clamp(self.delivery.retry_base.min(self.delivery.retry_cap), self.delivery.retry_cap);
                let due_at = now.plus_micros(micros(wait));
                return note(work, upload, Outcome::Release { due_at, error: Some(why), refused: false });
            }
            Unfit::NotNow(why) => why,
            Unfit::Gone(why) => why.to_owned(),
        };
        tracing::warn!(call = upload.call_id, "a recording is given up: {error}. See docs/recordings.md");
        note(work, upload, Outcome::Dead { error, refused: false });
    }

    async fn opened(&self, upload: &Upload) -> std::result::Result<Opened, Unfit> {
        let (open, path) = (Arc::clone(&self.open), upload.path.clone());
        let opened = tokio::task::spawn_blocking(move || match open(&path) {
            Some(Ok(file)) => file.metadata().map(|meta| Some(Opened { file, meta })),
            Some(Err(e)) => Err(e),
            None => Ok(None),
        });
        match opened.await {
            Ok(Ok(Some(opened))) if opened.meta.len() == upload.size => Ok(opened),
            Ok(Ok(Some(_))) => Err(Unfit::NotNow("the file has changed since it was complete".to_owned())),
            Ok(Ok(None)) => Err(Unfit::Gone("the file is not below RECORDING_PATHS")),
            Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => Err(Unfit::Gone("the file is gone")),
            Ok(Err(e)) => Err(Unfit::NotNow(format!("the file cannot be read: {e}"))),
            Err(e) => Err(Unfit::NotNow(format!("the file cannot be opened: {e}"))),
        }
    }
}

fn endpoint(config: &UploadConfig) -> std::result::Result<Endpoint, ConfigError> {
    Endpoint::new(&Target {
        url_variable: "RECORDING_UPLOAD_URL",
        url: config.url.as_str(),
        token_variable: "API_KEY",
        token: Some(&config.api_key),
        timeout: config.timeout,
        allow_http: config.allow_http,
        tls: &config.tls,
        concurrency: config.concurrency,
    })
}

/// Whether the API can be reached, without sending anything.
pub async fn check(config: &UploadConfig) -> Vec<Finding> {
    match endpoint(config) {
        Ok(endpoint) => endpoint.check(NAME, "RECORDING_UPLOAD_URL", "API_KEY").await,
        Err(e) => vec![Finding::problem(NAME, e.to_string(), format!("change {}", e.variable))],
    }
}

/// Sends the file; says also whether it was written meanwhile.
async fn send(endpoint: &Endpoint, upload: &Upload, id: &str, opened: Opened) -> (Answer, bool) {
    let Opened { file, meta } = opened;
    let Ok(watched) = file.try_clone() else {
        return (Answer::Unanswered("too many files are open".to_owned()), false);
    };
    // as long as it was when it was complete: what is written from now on is sent when it is complete again
    let pieces = ReaderStream::with_capacity(tokio::fs::File::from_std(file).take(upload.size), PIECE);
    let audio = Part::stream_with_length(reqwest::Body::wrap_stream(pieces), upload.size)
        .file_name(upload.file.clone())
        .mime_str(mime(&upload.file));
    let audio = match audio {
        Ok(part) => part,
        Err(e) => return (Answer::Unanswered(format!("the form cannot be made: {e}")), false),
    };
    let mut form = Form::new().text("recording_id", id.to_owned());
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
    headers.insert(HeaderName::from_static("idempotency-key"), key_header(id));
    let answer = endpoint.post_form(headers, form.part("audio", audio)).await;
    let now = tokio::task::spawn_blocking(move || watched.metadata()).await;
    let same = |now: Metadata| now.len() == meta.len() && modified(&now) == modified(&meta);
    (answer, !now.is_ok_and(|now| now.is_ok_and(same)))
}

/// Adds what became of a file to what is to be written down.
fn note(work: &mut Work, upload: &Upload, outcome: Outcome) {
    let label = match &outcome {
        Outcome::Delivered => "delivered",
        Outcome::Dead { .. } => "dead",
        Outcome::Release { .. } | Outcome::Revive => "released",
        Outcome::Retry { .. } | Outcome::Split { .. } => "retry",
    };
    metrics::RECORDING_UPLOADS.with_label_values(&[label]).inc();
    work.flying.entry(upload.recording).or_insert(upload.queued_at);
    work.results.push((upload.recording, Some(upload.queued_at), outcome));
}

fn show(health: &Health) {
    let paused = matches!(health.mode(), Mode::Paused { .. });
    metrics::SINK_UP.with_label_values(&[NAME]).set(i64::from(health.is_up()));
    metrics::SINK_PAUSED.with_label_values(&[NAME]).set(i64::from(paused));
}

/// Equal at every attempt and after the loss of the state; another for a file that changed.
fn recording_id(source_id: &str, upload: &Upload, meta: &Metadata) -> String {
    let mut hash = Sha256::new();
    let (size, modified) = (upload.size.to_string(), modified(meta).to_string());
    for part in [source_id, &upload.call_id, &upload.path, &size, &modified] {
        hash.update(part.as_bytes());
        hash.update(b"\n");
    }
    hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
}

/// Nanoseconds since 1970.
fn modified(meta: &Metadata) -> i128 {
    i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
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
