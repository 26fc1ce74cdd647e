//! The running agent: reads, settles, ships, until it is told to stop.
//!
//! `source → intake (journal) → settling thread (ledger, outbox) → dispatchers`. Between intake and settling stands a
//! channel of one batch, so that the next batch is read while the last one is settled; between settling and dispatchers
//! stands the outbox alone, with a bell.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::call::{SourceInfo, SourceKind, Timestamp};
use crate::config::{CelMode, Config, ConfigError, ShippingConfig};
use crate::correlate::completion::Grace;
use crate::observe::{self, Health, ObserveError};
use crate::ship::recordings::Uploader;
use crate::ship::{self, Clock, Ended, Ship};
use crate::source::supervisor::{Pace, supervise};
use crate::source::{self, SourceError, Wishes};
use crate::store::{Store, StoreError, calls, dead, meta, outbox, uploads};

pub mod compose; // rows of a call to what is written
pub mod forget; // a number, removed from the state
pub mod history; // calls of the past, read again
mod intake; // batches into the journal
pub mod judge; // whether a group is to be settled
mod lanes; // how far history has been read
mod maintain; // retention, budget, figures
pub mod marks; // what was decided once about calls
pub mod picture; // open groups in memory
mod progress; // what is said of a call that is up
pub mod recordings; // recording files found and kept
pub mod requests; // what commands ask for
pub mod settle; // journal to outbox
mod thread; // the thread that settles

use compose::Frame;
use judge::{Policy, Updates};
use settle::{Settler, Setup};

/// Channels that end by neither CHAN_END nor a CDR count as ended when they are quiet for this long.
const QUIET: Duration = Duration::from_secs(10);
/// With records alone a call has ended when its newest record is this old.
const CDR_ONLY: Duration = Duration::from_secs(60);
/// Between two documents of a call that is up, however much happens.
const UPDATE_PAUSE: Duration = Duration::from_secs(1);
/// Rows of one call at most.
const ROWS_MAX: usize = 5_000;
/// Rows of open calls kept in memory at most, about 15 MB; the others are read from the journal when they are needed.
const CACHED_ROWS_MAX: usize = 20_000;
/// What there is to finish what is in flight, once reading has stopped.
const FINISH: Duration = Duration::from_secs(10);
/// The part of it that settling may take: what it leaves is settled after the next start.
const FINISH_SETTLING: Duration = Duration::from_secs(5);
/// What a command asked for may take to end.
const FINISH_REQUESTS: Duration = Duration::from_secs(2);
/// What looking for recordings and sending them may take to end.
const FINISH_RECORDINGS: Duration = Duration::from_secs(2);
/// `--once` gives up when nothing was delivered for this long.
const ONCE_PATIENCE: Duration = Duration::from_secs(60);

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Read what is there, settle it, deliver it, end.
    pub once: bool,
    /// Carry out what commands ask for, deliver, end: nothing new is read.
    pub requests_only: bool,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Rows read and stored.
    pub rows: u64,
    /// Calls queued for the first time.
    pub calls: u64,
    /// Further revisions queued.
    pub revisions: u64,
    /// Deliveries that wait, over all sinks, at the end.
    pub pending: u64,
    /// Deliveries that were given up meanwhile: new dead letters.
    pub dead: u64,
}

/// Why a run ended that was not asked to.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the state in {dir} belongs to SOURCE_ID={kept}, not {given}. Call ids would change: set SOURCE_ID={kept} again, \
         or give the other PBX its own STATE_DIR"
    )]
    OtherSource { dir: String, kept: String, given: String },
    #[error("{0}")]
    Source(#[from] SourceError),
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(
        "settling calls failed, as told above; what was read is kept and settled after the next start. Please report this"
    )]
    Settling,
    #[error("sink {sink} is over: {why}")]
    SinkGone { sink: &'static str, why: String },
    #[error("{pending} deliveries still wait; the last error: {error}. They are kept and tried at the next run")]
    Undelivered { pending: u64, error: String },
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

impl AgentError {
    /// Whether a setting is at fault rather than what happens around the agent.
    pub const fn is_config(&self) -> bool {
        matches!(self, Self::Config(_) | Self::OtherSource { .. })
    }
}

/// What intake, settling and maintenance tell each other.
#[derive(Debug, Default)]
struct Shared {
    wishes: Mutex<Wishes>,
    /// Why nothing may be read now: over the budget, or too little room on the disk.
    closed: Mutex<Option<String>>,
    rows: AtomicU64,
    calls: AtomicU64,
    revisions: AtomicU64,
}

impl Shared {
    fn wishes(&self) -> Wishes {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_wishes(&self, wishes: Wishes) {
        *self.wishes.lock().unwrap_or_else(PoisonError::into_inner) = wishes;
    }

    fn closed(&self) -> Option<String> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_closed(&self, why: Option<String>) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

/// Opens the state and makes it that of this source.
pub async fn open_state(config: &Config, now: Timestamp) -> Result<Store, AgentError> {
    let dir = config.state.dir.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&dir)).await.map_err(std::io::Error::other)??;
    let given = config.source.id.clone();
    let kept = store
        .write({
            let given = given.clone();
            move |conn| {
                meta::begin(conn, &given, now)?;
                meta::source_id(conn)
            }
        })
        .await?;
    match kept {
        Some(kept) if kept != given => Err(AgentError::OtherSource { dir: shown(&config.state.dir), kept, given }),
        _ => Ok(store),
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What settling needs to know of the configuration.
pub fn setup(config: &Config, sinks: &[Arc<dyn ship::Sink>]) -> Setup {
    let micros = |d: Duration| i64::try_from(d.as_micros()).unwrap_or(i64::MAX);
    let has_cel = config.source.cel == CelMode::Db;
    Setup {
        frame: Frame {
            source: SourceInfo {
                id: config.source.id.clone(),
                kind: SourceKind::Asterisk,
                host: Some(config.hostname.clone()),
            },
            rules: config.rules.clone(),
            created_at: Timestamp::default(),
            start_at: None,
            freeze_rows: if ship::needs_rows(sinks) { Some(ship::freeze_rows) } else { None },
        },
        policy: Policy {
            grace: Grace {
                cdr: micros(config.cdr_grace),
                quiet: micros(QUIET),
                cdr_only: micros(CDR_ONLY),
                has_cel,
                has_cdr: config.source.cdr,
            },
            max_age: micros(config.call_max_age),
            rows_max: ROWS_MAX,
            cached_rows_max: CACHED_ROWS_MAX,
            updates: match config.shipping {
                ShippingConfig { progressive: false, long_call_update: None } => None,
                ShippingConfig { progressive, long_call_update } => Some(Updates {
                    changes: progressive,
                    pause: micros(UPDATE_PAUSE),
                    every: long_call_update.map(micros),
                }),
            },
        },
        sinks: sinks.iter().map(|s| s.name()).collect(),
    }
}

/// Runs until `stop`, or until it cannot go on. Whatever way it ends, everything is on disk.
pub async fn run(config: &Config, options: &Options, stop: CancellationToken) -> Result<Summary, AgentError> {
    let clock = Clock::system();
    let store = open_state(config, clock.now()).await?;
    let ended = run_on(&store, config, options, clock, stop).await;
    // the write-ahead log goes into the database, the role is given back
    let closing = store.clone();
    tokio::task::spawn_blocking(move || closing.close()).await.map_err(std::io::Error::other)?;
    ended
}

async fn run_on(
    store: &Store,
    config: &Config,
    options: &Options,
    clock: Clock,
    stop: CancellationToken,
) -> Result<Summary, AgentError> {
    let began = clock.now();
    let sinks = ship::sinks(&config.sinks)?;
    let health = Health::new();
    for sink in &sinks {
        health.sink_ok(sink.name());
    }
    // what serves and maintains goes on until all else has ended
    let end = CancellationToken::new();
    let _end_with_us = end.clone().drop_guard();
    let server = match &config.monitoring {
        Some(monitoring) => Some(observe::serve(monitoring, health.clone(), end.clone()).await?),
        None => None,
    };

    let shared = Arc::new(Shared::default());
    let setup = setup(config, &sinks);
    let names = setup.sinks.clone();
    let settler = {
        let store = store.clone();
        let setup = setup.clone();
        tokio::task::spawn_blocking(move || Settler::new(store, setup)).await.map_err(std::io::Error::other)??
    };
    shared.set_wishes(settler.wishes());
    health.state_ok();
    let delivery = ship::Options { delivery: config.delivery.clone(), clock: clock.clone(), seed: fastrand::u64(..) };
    let mut ship = Ship::start(sinks, store, &delivery).await?;

    let (batches, arrivals) = mpsc::channel(1);
    let (idle, mut is_idle) = watch::channel(false);
    let settling = thread::Settling {
        settler,
        shared: Arc::clone(&shared),
        health: health.clone(),
        wake: ship.wake(),
        clock: clock.clone(),
        idle,
        stop: end.clone(),
        before_start_told: false,
        failing: false,
    };
    let mut settled = Some(settling.start(arrivals)?);
    let maintaining = tokio::spawn(maintain::maintain(maintain::Maintenance {
        store: store.clone(),
        config: config.state.clone(),
        shared: Arc::clone(&shared),
        health: health.clone(),
        sinks: names
            .iter()
            .copied()
            .chain(config.recordings.upload.as_ref().map(|_| crate::ship::recordings::NAME))
            .collect(),
        outage_max_age: config.delivery.outage_max_age,
        clock: clock.clone(),
        stop: end.clone(),
        file: std::sync::OnceLock::new(),
    }));

    let finding = config.recordings.files.as_ref().map(|files| {
        let finder = recordings::Finder::new(store.clone(), files.clone());
        tokio::spawn(recordings::find(finder, clock.clone(), end.clone()))
    });

    let uploading = match (&config.recordings.files, &config.recordings.upload) {
        (Some(files), Some(upload)) => {
            let uploader = Uploader::new(
                store.clone(),
                upload,
                &config.delivery,
                &config.source.id,
                files.max_age,
                recordings::opener(files.roots.clone()),
                clock.clone(),
            )?;
            Some(tokio::spawn(uploader.run(end.clone())))
        }
        _ => {
            store.write(uploads::stop).await?;
            None
        }
    };

    let read_stop = stop.child_token();
    let job = history::backfill::Job {
        store: store.clone(),
        source: config.source.clone(),
        setup,
        shared: Arc::clone(&shared),
        settling: batches.downgrade(),
        wake: ship.wake(),
        clock: clock.clone(),
        stop: read_stop.clone(),
    };
    let mut serving = tokio::spawn(requests::Desk::new(job, end.clone()).serve());
    let positions = store.read(meta::positions).await?.into_iter().collect();
    let mut source = source::open(&config.source, positions, Arc::new(store.clone()));
    let mut intake = intake::JournalIntake {
        store: store.clone(),
        shared: Arc::clone(&shared),
        health: health.clone(),
        clock: clock.clone(),
        batches,
        stop: read_stop.clone(),
        failing: false,
    };
    let pace = Pace::new(config.source.poll_busy, config.source.poll_idle);
    let why = {
        let reading = async {
            if options.requests_only {
                requests::all_done(store, &read_stop).await;
                return Ok(());
            }
            supervise(source.as_mut(), &mut intake, &pace, &read_stop).await
        };
        tokio::pin!(reading);
        tokio::select! {
            ended = &mut reading => ended.map_err(AgentError::from),
            why = watch_over(&mut ship, &mut settled, &mut is_idle, options) => {
                read_stop.cancel();
                // a commit that has begun is waited for
                reading.await.map_err(AgentError::from).and(why)
            }
        }
    };
    // nothing more is read; what is committed is settled
    drop(intake);
    drop(source);
    let stopping = tokio::time::Instant::now();
    let why = match (why, tokio::time::timeout(FINISH_SETTLING, settling_ended(&mut settled)).await) {
        (Ok(()), Ok(Err(e))) => Err(e),
        (why, Ok(_)) => why,
        (why, Err(_)) => {
            tracing::warn!("gave up waiting for calls to be settled; they are kept and settled after the next start");
            why
        }
    };
    let finish = FINISH.saturating_sub(stopping.elapsed());
    let why = match why {
        Ok(()) if options.once && !stop.is_cancelled() => drain(store, &names, &stop).await,
        why => why,
    };
    if !stop.is_cancelled() && why.is_err() {
        tracing::debug!("ending because of an error");
    }
    for (sink, ended) in ship.stop(finish).await {
        tracing::debug!(sink, ?ended, "dispatcher ended");
    }
    end.cancel();
    let _ = maintaining.await;
    // what a command asked for may be much: it goes on with the next start
    if tokio::time::timeout(FINISH_REQUESTS, &mut serving).await.is_err() {
        serving.abort();
        tracing::info!("what a command asked for is not done yet: it goes on when the agent is started again");
    }
    // a folder on a file system that hangs holds nobody up
    for task in [uploading, finding].into_iter().flatten() {
        let _ = tokio::time::timeout(FINISH_RECORDINGS, task).await;
    }
    if let Some(server) = server {
        server.stopped().await;
    }
    why?;
    let pending = pending(store, &names).await?;
    let dead = store.read(move |conn| dead::since(conn, began)).await?;
    Ok(Summary {
        rows: shared.rows.load(Ordering::Relaxed),
        calls: shared.calls.load(Ordering::Relaxed),
        revisions: shared.revisions.load(Ordering::Relaxed),
        pending,
        dead,
    })
}

/// What the settling thread tells at its end.
type Settled = oneshot::Receiver<Result<(), StoreError>>;

/// Waits for the end of the settling thread, and tells it once.
async fn settling_ended(settled: &mut Option<Settled>) -> Result<(), AgentError> {
    let Some(ended) = settled else { return Ok(()) };
    let ended = ended.await;
    *settled = None;
    match ended {
        Ok(ended) => ended.map_err(AgentError::from),
        // it panicked, and has printed where
        Err(_) => Err(AgentError::Settling),
    }
}

/// Ends when a part that has to run ends by itself, or when `--once` has nothing more to wait for.
async fn watch_over(
    ship: &mut Ship,
    settled: &mut Option<Settled>,
    idle: &mut watch::Receiver<bool>,
    options: &Options,
) -> Result<(), AgentError> {
    let all_read = async {
        if !options.once || idle.wait_for(|idle| *idle).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        (sink, ended) = ship.ended() => match ended {
            Ended::SinkGone(why) => Err(AgentError::SinkGone { sink, why }),
            _ => Err(AgentError::Store(StoreError::Closed)),
        },
        ended = settling_ended(settled) => Err(ended.err().unwrap_or(AgentError::Settling)),
        () = all_read => Ok(()),
    }
}

async fn pending(store: &Store, sinks: &[&'static str]) -> Result<u64, StoreError> {
    let sinks = sinks.to_vec();
    store
        .read(move |conn| {
            let mut pending = 0;
            for sink in sinks {
                pending += outbox::counts(conn, sink)?.pending;
            }
            Ok(pending.unsigned_abs())
        })
        .await
}

/// Waits until everything is delivered, or nothing gets through any more.
async fn drain(store: &Store, sinks: &[&'static str], stop: &CancellationToken) -> Result<(), AgentError> {
    let mut least = u64::MAX;
    let mut since = tokio::time::Instant::now();
    loop {
        let waiting = pending(store, sinks).await?;
        if waiting == 0 || stop.is_cancelled() {
            return Ok(());
        }
        if waiting < least {
            (least, since) = (waiting, tokio::time::Instant::now());
        }
        if since.elapsed() > ONCE_PATIENCE {
            let error = store.read(calls::last_error).await?;
            let error = error.as_deref().map_or("no answer yet", ship::policy::without_excerpt).to_owned();
            return Err(AgentError::Undelivered { pending: waiting, error });
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
    }
}
