//! The backfill: a job of the agent beside its live work. It walks through the past on a connection of its own, compares,
//! and hands what is missing to the settling thread, a few calls at a time and only while few deliveries wait, so that live
//! calls do not queue up behind it. It never touches the positions of the live source.
//!
//! How far it is stands in its request, written page by page after the page's calls are in the outbox: whoever goes on
//! reads the last page again, and finds those calls as they are. A state that fails makes it wait, and do the same.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Span;
use super::compare::{Compared, Standing, compare};
use super::walk::{Chunk, Walk};
use crate::agent::Shared;
use crate::agent::settle::{Past, Setup};
use crate::agent::thread::Work;
use crate::call::Timestamp;
use crate::config::SourceConfig;
use crate::metrics;
use crate::ship::Clock;
use crate::source::Batch;
use crate::source::sql::history::{History, Place};
use crate::store::requests::{self, State};
use crate::store::{Result, Store, StoreError, meta, outbox, reached};

/// With more deliveries waiting at a sink, the backfill waits.
const WAITING_MAX: i64 = 100;
/// Between two looks whether it may go on.
const LOOK: Duration = Duration::from_millis(200);
/// Between two tries to read the PBX's database, or to use the state.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Names of tenants told to whoever asked for one that is not there.
const TENANTS_MAX: usize = 20;
/// The answer of a backfill that was ended by hand.
pub const STOPPED: &str = "stopped by `callferry backfill --stop`";

/// What is to be read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub span: Span,
    /// Calls of these tenants only; empty: all.
    pub tenants: Vec<String>,
    /// Also what was shipped and is the same.
    pub resend: bool,
    /// Calls a second at most.
    pub rate: u32,
}

/// What is to be done about a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shipping {
    No,
    /// A first or a further revision, to every sink.
    Revision,
    /// The revision it has, to the sinks that lack it.
    Lacking,
}

impl Order {
    /// Whether it is about this call.
    pub fn wants(&self, call: &Compared) -> bool {
        self.tenants.is_empty() || call.tenant.as_ref().is_some_and(|t| self.tenants.contains(t))
    }

    /// `began`: when the order came. What was written since then was sent by this very job, or by the live agent, just now.
    pub fn shipping(&self, call: &Compared, began: Timestamp) -> Shipping {
        let again =
            self.resend && !call.is_fragment && call.entry.as_ref().is_none_or(|entry| entry.updated_at < began);
        match call.standing {
            Standing::Missing | Standing::BeforeStart | Standing::Changed => Shipping::Revision,
            Standing::Same if again => Shipping::Revision,
            Standing::Same if call.lacking.is_some() => Shipping::Lacking,
            _ => Shipping::No,
        }
    }
}

/// How far it is, as kept in the answer of its request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub place: Place,
    /// Of the span, 0 to 1,000.
    pub permille: u32,
    /// Calls that belong to the order.
    pub compared: u64,
    /// Of these: shipped for the first time, shipped again since their rows say something else now (or on purpose), the
    /// same as shipped before, kept back by a filter, not over yet.
    pub shipped: u64,
    pub revised: u64,
    pub same: u64,
    pub filtered: u64,
    /// Shipped again to sinks that did not have them, and only there.
    #[serde(default)]
    pub lacking: u64,
    /// Not shipped, since a number of them was forgotten.
    #[serde(default)]
    pub forgotten: u64,
    pub unfinished: u64,
    /// What it waits for.
    pub waiting: Option<String>,
    /// Of an order for some tenants: which were seen, the first of them.
    #[serde(default)]
    pub tenants: BTreeSet<String>,
}

impl Progress {
    pub fn count(&mut self, call: &Compared, shipping: Shipping) {
        self.compared += 1;
        match (call.standing, shipping) {
            (Standing::Missing | Standing::BeforeStart, _) => self.shipped += 1,
            (Standing::Changed, _) | (Standing::Same, Shipping::Revision) => self.revised += 1,
            (Standing::Same, Shipping::Lacking) => self.lacking += 1,
            (Standing::Same, Shipping::No) => self.same += 1,
            (Standing::Filtered(_), _) => self.filtered += 1,
            (Standing::Forgotten, _) => self.forgotten += 1,
            (Standing::InProgress | Standing::Waiting, _) => self.unfinished += 1,
        }
    }

    /// Remembers whose calls there are, for somebody who may have mistyped a name.
    pub fn see(&mut self, order: &Order, tenant: Option<&String>) {
        let Some(tenant) = tenant.filter(|_| !order.tenants.is_empty()) else { return };
        if (self.tenants.len() < TENANTS_MAX || order.tenants.contains(tenant)) && !self.tenants.contains(tenant) {
            self.tenants.insert(tenant.clone());
        }
    }

    /// Calls that were shipped in any way.
    pub const fn sent(&self) -> u64 {
        self.shipped + self.revised + self.lacking
    }
}

/// What the job works with.
#[derive(Clone)]
pub(in crate::agent) struct Job {
    pub store: Store,
    pub source: SourceConfig,
    pub setup: Setup,
    pub shared: std::sync::Arc<Shared>,
    /// To the settling thread; gone when the agent ends.
    pub settling: mpsc::WeakSender<Work>,
    pub wake: crate::ship::Wake,
    pub clock: Clock,
    pub stop: CancellationToken,
}

enum Stopped {
    /// The agent ends, or somebody said so.
    Asked,
    State(StoreError),
}

impl From<StoreError> for Stopped {
    fn from(e: StoreError) -> Self {
        Self::State(e)
    }
}

impl Job {
    /// Works on a request until it is done, or told to stop: then it goes on after the next start. As long as the state
    /// fails it tries again, more and more rarely.
    pub(in crate::agent) async fn run(self, request: i64, order: Order, began: Timestamp, mut progress: Progress) {
        tracing::info!(from = %order.span.from, to = %order.span.to, permille = progress.permille, "backfill");
        let mut kept = progress.clone();
        let (mut pause, mut told) = (RETRY.0, false);
        loop {
            let place = kept.place.clone();
            match self.work(request, &order, began, &mut progress, &mut kept).await {
                Ok(()) => {
                    tracing::info!(compared = progress.compared, shipped = progress.sent(), "backfill done");
                    return;
                }
                Err(Stopped::Asked) => return,
                Err(Stopped::State(e)) => {
                    if kept.place != place {
                        (pause, told) = (RETRY.0, false);
                    }
                    if !std::mem::replace(&mut told, true) {
                        tracing::error!("the backfill waits, since the state cannot be used: {e}. It is tried again");
                    }
                    // what was counted behind the place that is kept is counted again
                    progress = kept.clone();
                    progress.waiting = Some(format!("the state: {e}"));
                    let _ = self.keep(request, State::Running, &progress).await;
                    if self.sleep(pause).await.is_err() {
                        return;
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// `kept`: how far it is as the state knows it.
    async fn work(
        &self,
        request: i64,
        order: &Order,
        began: Timestamp,
        progress: &mut Progress,
        kept: &mut Progress,
    ) -> std::result::Result<(), Stopped> {
        let positions = self.store.read(meta::positions).await?.into_iter().collect();
        let tables = crate::source::sql::tables(&self.source).len().max(1);
        let mut walk = Walk::new(History::new(&self.source, positions), order.span, progress.place.clone());
        loop {
            self.may_go_on(request, progress).await?;
            let chunk_began = Instant::now();
            let Some(chunk) = self.next(&mut walk, request, progress).await? else {
                progress.permille = 1_000;
                progress.waiting = None;
                self.keep(request, State::Done, progress).await?;
                return Ok(());
            };
            let place = chunk.place.clone();
            let calls = self.ship(chunk, order, began, progress).await?;
            if let Some(place) = place.filter(|place| *place != progress.place) {
                let done = place.table as u64 * 1_000 + u64::from(place.permille);
                progress.permille = u32::try_from(done / tables as u64).unwrap_or(1_000);
                progress.place = place;
                self.keep(request, State::Running, progress).await?;
                kept.clone_from(progress);
            }
            let least = Duration::from_secs_f64(calls as f64 / f64::from(order.rate.max(1)));
            self.sleep(least.saturating_sub(chunk_began.elapsed())).await?;
        }
    }

    /// Compares a few calls, and ships what is to be shipped of them. Returns how many were compared.
    async fn ship(
        &self,
        chunk: Chunk,
        order: &Order,
        began: Timestamp,
        progress: &mut Progress,
    ) -> std::result::Result<usize, Stopped> {
        let Chunk { rows, db_now, zone, .. } = chunk;
        let (setup, span, compared_in) = (self.setup.clone(), order.span, zone.clone());
        let resend = order.resend;
        let page = self.store.read(move |conn| compare(conn, &setup, &compared_in, db_now, rows, span, resend)).await?;
        let calls = page.calls.len();
        let mut batch = Batch::default();
        let mut lacking = Vec::new();
        let mut shipped = 0;
        for mut call in page.calls {
            progress.see(order, call.tenant.as_ref());
            if !order.wants(&call) {
                continue;
            }
            let shipping = order.shipping(&call, began);
            progress.count(&call, shipping);
            match shipping {
                Shipping::Revision => {
                    shipped += 1;
                    batch.rows.extend(call.rows);
                }
                Shipping::Lacking => lacking.extend(call.lacking.take()),
                Shipping::No => {}
            }
        }
        if !lacking.is_empty() {
            let now = self.clock.now();
            let queued = self.store.write(move |conn| {
                let mut queued = 0;
                for call in &lacking {
                    queued += u64::from(reached::queue(conn, call, now)?);
                }
                Ok(queued)
            });
            metrics::BACKFILLED.inc_by(queued.await?);
            self.wake.ring();
        }
        if !batch.rows.is_empty() {
            let past = Past { batch, resend: order.resend, db_now, zone };
            let (done, settled) = oneshot::channel();
            let Some(settling) = self.settling.upgrade() else { return Err(Stopped::Asked) };
            settling.send(Work::Past(past, done)).await.map_err(|_| Stopped::Asked)?;
            drop(settling);
            settled.await.map_err(|_| Stopped::Asked)?;
            metrics::BACKFILLED.inc_by(shipped);
            self.wake.ring();
        }
        Ok(calls)
    }

    /// The next calls, however long the database cannot be read.
    async fn next(
        &self,
        walk: &mut Walk,
        request: i64,
        progress: &mut Progress,
    ) -> std::result::Result<Option<Chunk>, Stopped> {
        let mut pause = RETRY.0;
        loop {
            let read = tokio::select! {
                read = walk.next() => read,
                () = self.stop.cancelled() => return Err(Stopped::Asked),
            };
            match read {
                Ok(chunk) => return Ok(chunk),
                Err(e) => {
                    self.waits(request, progress, Some(format!("the PBX's database: {e}"))).await?;
                    self.sleep(pause).await?;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    /// Waits while the sinks are busy with what they have, or the state has no room.
    async fn may_go_on(&self, request: i64, progress: &mut Progress) -> std::result::Result<(), Stopped> {
        let mut looks = 0_u32;
        loop {
            if self.stop.is_cancelled() {
                return Err(Stopped::Asked);
            }
            let why = match self.shared.closed() {
                Some(why) => Some(why),
                None => self.busy_sink().await?,
            };
            // a sink is busy now and then: worth a word when it stays so
            looks += 1;
            if why.is_none() || looks > 10 {
                self.waits(request, progress, why.clone()).await?;
            }
            if why.is_none() {
                return Ok(());
            }
            self.sleep(LOOK).await?;
        }
    }

    async fn busy_sink(&self) -> Result<Option<String>> {
        let sinks = self.setup.sinks.clone();
        let busy = self.store.read(move |conn| {
            for sink in sinks {
                let pending = outbox::counts(conn, sink)?.pending;
                if pending > WAITING_MAX {
                    return Ok(Some((sink, pending)));
                }
            }
            Ok(None)
        });
        Ok(busy.await?.map(|(sink, pending)| format!("{pending} calls wait for the sink {sink}")))
    }

    /// Says what it waits for, once.
    async fn waits(&self, request: i64, progress: &mut Progress, why: Option<String>) -> Result<()> {
        if progress.waiting != why {
            progress.waiting = why;
            self.keep(request, State::Running, progress).await?;
        }
        Ok(())
    }

    async fn keep(&self, request: i64, state: State, progress: &Progress) -> Result<()> {
        let text = serde_json::to_string(progress).map_err(|e| StoreError::Content(e.to_string()))?;
        let now = self.clock.now();
        self.store.write(move |conn| requests::answer(conn, request, state, &text, now)).await
    }

    async fn sleep(&self, time: Duration) -> std::result::Result<(), Stopped> {
        tokio::select! {
            () = tokio::time::sleep(time) => Ok(()),
            () = self.stop.cancelled() => Err(Stopped::Asked),
        }
    }
}
