//! One dispatcher a sink: takes what is due from the outbox, sends it, records what became of it.
//!
//! A dispatcher is one loop that owns all of its state; sends, claims and recordings run beside it as tasks that report
//! back. What it holds in memory is bounded: one page of the outbox (by number and bytes) and what is in flight. When the
//! state cannot be written it stops sending, keeps the answers it has, and goes on by itself once it can.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::{Change, Health, Mode, Moment, Permit, Sent, Snapshot};
use super::page::{Claimed, Ready, claim_page};
use super::refusals::Refusals;
use super::start::{Ended, Options};
use super::{Answer, Batch, Clock, Limits, Sink, policy};
use crate::call::Timestamp;
use crate::config::DeliveryConfig;
use crate::metrics;
use crate::store::outbox::{self, Outcome, Page};
use crate::store::{Store, StoreError, retention};

/// Bytes of documents loaded at once.
const PAGE_BYTES: usize = 4 << 20;
const PAGE_MIN: usize = 64;
const PAGE_MAX: usize = 2_000;
/// Nothing more is sent while so many results wait to be recorded, or two rounds of batches: what a crash now would send again.
const UNRECORDED: usize = 64;
/// Counting what waits, expiring what is too old.
const TICK: Duration = Duration::from_secs(15);
/// A clock that goes back by less is being adjusted.
const SET_BACK: i64 = 1_000_000;
/// Between tries to use a state that cannot be used.
const STATE_RETRY: Duration = Duration::from_secs(2);
const FAR: Timestamp = Timestamp::from_micros(i64::MAX);

enum Event {
    Answered { sent: Sent, batch: Arc<Batch>, answer: Answer, took: Duration },
    Claimed(Result<Claimed, StoreError>),
    Recorded { outcomes: Vec<(i64, Outcome)>, hasten: bool, result: Result<(), StoreError> },
    Ticked(Result<outbox::Counts, StoreError>),
}

pub(super) struct Dispatcher {
    name: &'static str,
    sink: Arc<dyn Sink>,
    limits: Limits,
    store: Store,
    clock: Clock,
    config: DeliveryConfig,
    rng: fastrand::Rng,
    bell: Arc<Notify>,
    stop: CancellationToken,
    origin: Instant,

    health: Health,
    tasks: JoinSet<Event>,
    queue: VecDeque<Ready>,
    sending: usize,
    results: Vec<(i64, Outcome)>,
    /// How many results are being recorded.
    recording: Option<usize>,
    claiming: bool,
    ticking: bool,
    /// The sink has just come back: retries planned while it was down are due now.
    hasten: bool,
    /// The outbox held nothing more that is due, and when something will be.
    dry: bool,
    next_due: Option<Timestamp>,
    /// Something became due while a claim was looking: it may not have seen it.
    missed: bool,
    /// The state could not be used: not before this.
    state_retry: Option<Instant>,
    /// The last try to use it failed, and that was told.
    state_fails: bool,
    next_tick: Instant,
    /// The delivery that failed last: every other probe is made with it, since a receiver may stumble over what it sees for
    /// the first time, or over this one alone.
    stumbled: Option<i64>,
    probed_with_it: bool,
    refusals: Refusals,
    /// The latest the wall clock has shown.
    latest: Timestamp,
    gone: Option<String>,
}

impl Dispatcher {
    pub(super) fn new(
        sink: Arc<dyn Sink>,
        store: Store,
        options: &Options,
        seed: u64,
        kept: Option<Snapshot>,
        bell: Arc<Notify>,
        stop: CancellationToken,
    ) -> Self {
        let limits = sink.limits();
        let health = Health::new(options.delivery.clone(), kept, Duration::ZERO);
        let dispatcher = Self {
            name: sink.name(),
            limits: Limits { batch: limits.batch.max(1), concurrency: limits.concurrency.max(1), ..limits },
            sink,
            store,
            clock: options.clock.clone(),
            config: options.delivery.clone(),
            rng: fastrand::Rng::with_seed(seed),
            bell,
            stop,
            origin: Instant::now(),
            health,
            tasks: JoinSet::new(),
            queue: VecDeque::new(),
            sending: 0,
            results: Vec::new(),
            recording: None,
            claiming: false,
            ticking: false,
            hasten: false,
            dry: false,
            next_due: None,
            missed: false,
            state_retry: None,
            state_fails: false,
            next_tick: Instant::now(),
            stumbled: None,
            probed_with_it: false,
            refusals: Refusals::default(),
            latest: options.clock.now(),
            gone: None,
        };
        dispatcher.show_health();
        dispatcher
    }

    pub(super) async fn run(mut self) -> Ended {
        let stop = self.stop.clone();
        let bell = self.bell.clone();
        loop {
            let stopping = stop.is_cancelled() || self.gone.is_some();
            self.mind_clock();
            if stopping || !self.health.is_up() {
                self.put_back();
            }
            if !stopping {
                self.launch();
                self.claim();
                self.tick();
            }
            self.record();
            if stopping && self.tasks.is_empty() && (self.results.is_empty() || self.state_retry.is_some()) {
                self.refusals.tell(self.name, Instant::now(), true);
                return match self.gone {
                    Some(reason) => Ended::SinkGone(reason),
                    None if self.results.is_empty() => Ended::Stopped,
                    None => Ended::Abandoned,
                };
            }
            let until = self.sleep_until(stopping);
            // in a fixed order, so that a simulated run can be repeated; whatever is taken, the loop looks at all of it
            tokio::select! {
                biased;
                Some(event) = self.tasks.join_next() => {
                    if !self.take(event) {
                        return Ended::StateGone;
                    }
                    // what else has ended is recorded in the same transaction
                    while let Some(event) = self.tasks.try_join_next() {
                        if !self.take(event) {
                            return Ended::StateGone;
                        }
                    }
                }
                () = bell.notified() => self.look_again(),
                () = stop.cancelled(), if !stopping => {}
                () = tokio::time::sleep_until(until) => self.time_passed(),
            }
        }
    }

    /// What was planned by a clock that has been set back since would wait that much too long: it is due now.
    fn mind_clock(&mut self) {
        let now = self.clock.now();
        let back = self.latest.micros().saturating_sub(now.micros());
        if back > SET_BACK {
            tracing::warn!(
                sink = self.name,
                seconds = back / 1_000_000,
                "the clock was set back: what waits is due now"
            );
            self.hasten = true;
            self.latest = now;
        }
        self.latest = self.latest.max(now);
    }

    fn mono(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Sends from the queue as long as the sink's limits and its health allow.
    fn launch(&mut self) {
        let most = (2 * self.limits.concurrency * self.limits.batch).max(UNRECORDED);
        while self.sending < self.limits.concurrency
            && self.state_retry.is_none()
            && self.results.len() + self.recording.unwrap_or_default() < most
            && !self.queue.is_empty()
        {
            let probe = match self.health.permit(self.mono()) {
                Permit::Go => false,
                Permit::Probe => true,
                Permit::Wait(_) => return,
            };
            let Some(Ready { batch, members }) = self.queue.pop_front() else { return };
            if probe {
                self.health.probe_sent();
            }
            self.sending += 1;
            let sink = self.sink.clone();
            self.tasks.spawn(async move {
                let started = Instant::now();
                let answer = sink.send(&batch).await;
                Event::Answered { sent: Sent { members, probe }, batch, answer, took: started.elapsed() }
            });
        }
    }

    /// Fetches the next page while the present one is being sent.
    fn claim(&mut self) {
        let page = (self.limits.concurrency * self.limits.batch * 2).clamp(PAGE_MIN, PAGE_MAX);
        let queued: usize = self.queue.iter().map(|r| r.members.len()).sum();
        let enough = queued * 2 >= page || (queued > 0 && self.queue.len() >= self.limits.concurrency * 2);
        if self.claiming || self.state_retry.is_some() || enough {
            return;
        }
        let deliveries = match self.health.permit(self.mono()) {
            Permit::Go if self.dry => return,
            Permit::Go => page,
            // one batch, the one that is due first, whenever that is
            Permit::Probe if self.dry || !self.queue.is_empty() || self.sending > 0 => return,
            Permit::Probe => self.limits.batch,
            Permit::Wait(_) => return,
        };
        self.claiming = true;
        let due_until = if self.health.is_up() { self.clock.now() } else { FAR };
        let page = Page { deliveries, bytes: PAGE_BYTES, rows: self.limits.rows };
        let (sink, store, limits, now) = (self.sink.clone(), self.store.clone(), self.limits, self.clock.now());
        let mut first = None;
        if !self.health.is_up() {
            self.probed_with_it = !self.probed_with_it;
            first = self.stumbled.filter(|_| self.probed_with_it);
        }
        self.tasks
            .spawn(async move { Event::Claimed(claim_page(sink, store, limits, page, first, due_until, now).await) });
    }

    /// What is queued and not sent goes back: a newer revision may take its place, and others may be tried as a probe.
    fn put_back(&mut self) {
        let keep = usize::from(!self.stop.is_cancelled() && matches!(self.health.permit(self.mono()), Permit::Probe));
        while self.queue.len() > keep {
            let Some(ready) = self.queue.pop_back() else { return };
            let now = self.clock.now();
            let release = Outcome::Release { due_at: now, error: None, refused: false };
            self.results.extend(ready.members.iter().map(|m| (m.delivery, release.clone())));
        }
    }

    fn record(&mut self) {
        let hasten = self.hasten;
        if self.recording.is_some() || self.state_retry.is_some() || (self.results.is_empty() && !hasten) {
            return;
        }
        self.hasten = false;
        let outcomes = std::mem::take(&mut self.results);
        self.recording = Some(outcomes.len());
        let (name, now, snapshot, rows) = (self.name, self.clock.now(), self.health.snapshot(), self.limits.rows);
        let store = self.store.clone();
        let let_go_before = store.let_go_before();
        self.tasks.spawn(async move {
            let kept = Arc::new(outcomes);
            let outcomes = kept.clone();
            let result = store
                .write(move |conn| {
                    outbox::record(conn, &outcomes, now)?;
                    let delivered = outcomes.iter().filter(|(_, o)| *o == Outcome::Delivered).map(|(d, _)| *d);
                    let delivered: Vec<i64> = delivered.collect();
                    if rows {
                        outbox::release_rows(conn, &delivered)?;
                    }
                    retention::delivered(conn, &delivered, let_go_before)?;
                    if hasten {
                        outbox::hasten(conn, name, now)?;
                    }
                    outbox::save_sink(conn, name, &snapshot, now)
                })
                .await;
            Event::Recorded { outcomes: Arc::unwrap_or_clone(kept), hasten, result }
        });
    }

    /// Now and then: count what waits, expire what an outage made too old, mend what a clock set back made too late.
    fn tick(&mut self) {
        if self.ticking || Instant::now() < self.next_tick {
            return;
        }
        self.ticking = true;
        let (name, now, store) = (self.name, self.clock.now(), self.store.clone());
        let outage = self.health.outage_limit(now).map(|limit| (limit, self.health.outage_text()));
        let latest = now.plus_micros(micros(self.config.retry_cap + policy::RETRY_AFTER_MAX) * 2);
        self.tasks.spawn(async move {
            let mended = store
                .write(move |conn| {
                    outbox::mend_clock(conn, name, now, latest)?;
                    match outage {
                        Some((limit, text)) => outbox::expire(conn, name, limit, now, &text),
                        None => Ok(0),
                    }
                })
                .await;
            Event::Ticked(match mended {
                Ok(expired) => {
                    if expired > 0 {
                        tracing::warn!(sink = name, deliveries = expired, "given up: the sink was down too long");
                    }
                    store.read(move |conn| outbox::counts(conn, name)).await
                }
                Err(e) => Err(e),
            })
        });
    }

    /// Takes in what a task reports. `false`: the state is closed.
    fn take(&mut self, event: Result<Event, tokio::task::JoinError>) -> bool {
        match event {
            Ok(Event::Answered { sent, batch, answer, took }) => self.answered(&sent, &batch, &answer, took),
            Ok(Event::Claimed(claimed)) => {
                self.claiming = false;
                match claimed {
                    Ok(claimed) => {
                        self.dry = claimed.dry && !std::mem::take(&mut self.missed);
                        self.next_due = claimed.next_due;
                        if !claimed.ready.is_empty() || !claimed.unreadable.is_empty() {
                            self.state_works();
                        }
                        self.queue.extend(claimed.ready);
                        for failed in claimed.unreadable {
                            let outcome = Outcome::Dead { error: failed.error, refused: false };
                            metrics::DELIVERIES.with_label_values(&[self.name, result_name(&outcome)]).inc();
                            self.refusals.note(&failed.key, "it cannot be written in the sink's format".to_owned());
                            self.results.push((failed.delivery, outcome));
                        }
                        self.refusals.tell(self.name, Instant::now(), false);
                    }
                    Err(StoreError::Closed) => return false,
                    Err(e) => self.state_failed(&e),
                }
            }
            Ok(Event::Recorded { outcomes, hasten, result }) => {
                self.recording = None;
                match result {
                    // what was recorded may make something due: a newer revision, a tombstone, half a batch
                    Ok(()) => {
                        self.state_works();
                        self.look_again();
                    }
                    Err(StoreError::Closed) => return false,
                    Err(e) => {
                        self.results.splice(0..0, outcomes);
                        self.hasten |= hasten;
                        self.state_failed(&e);
                    }
                }
            }
            Ok(Event::Ticked(counts)) => {
                self.ticking = false;
                self.next_tick = Instant::now() + TICK;
                self.refusals.tell(self.name, Instant::now(), false);
                match counts {
                    Ok(counts) => self.show_counts(counts),
                    Err(StoreError::Closed) => return false,
                    Err(e) => tracing::debug!(sink = self.name, error = %e, "cannot count deliveries"),
                }
            }
            Err(e) if e.is_cancelled() => {}
            Err(e) => {
                // a panic in a sink or in the store: its deliveries stay in flight until the next start
                tracing::error!(sink = self.name, error = %e, "a delivery task failed; please report this");
                self.gone = Some(format!("a delivery task failed: {e}"));
            }
        }
        true
    }

    fn answered(&mut self, sent: &Sent, batch: &Batch, answer: &Answer, took: Duration) {
        self.sending -= 1;
        metrics::DELIVERY_SECONDS.with_label_values(&[self.name]).observe(took.as_secs_f64());
        let at = Moment { now: self.clock.now(), mono: self.mono() };
        let judged = self.health.judge(sent, answer, at, &mut self.rng);
        for (_, outcome) in &judged.outcomes {
            metrics::DELIVERIES.with_label_values(&[self.name, result_name(outcome)]).inc();
        }
        let dead = judged.outcomes.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Dead { .. }));
        for member in dead.filter_map(|(delivery, _)| sent.members.iter().find(|m| m.delivery == *delivery)) {
            self.refusals.note(&member.key, policy::describe_briefly(answer));
        }
        self.refusals.tell(self.name, Instant::now(), false);
        tracing::debug!(
            sink = self.name,
            key = %crate::log::text(&batch.key),
            calls = batch.items.len(),
            ms = took.as_millis(),
            answer = %policy::describe_briefly(answer),
            result = judged.outcomes.first().map_or("none", |(_, o)| result_name(o)),
            "sent"
        );
        if let Some((delivery, Outcome::Retry { .. })) = judged.outcomes.first() {
            self.stumbled = Some(*delivery);
        }
        self.results.extend(judged.outcomes);
        if let Some(change) = judged.change {
            self.changed(&change);
        }
        if let Answer::Gone(reason) = answer {
            self.gone = Some(reason.clone());
        }
    }

    /// One line a change of state.
    fn changed(&mut self, change: &Change) {
        let sink = self.name;
        match (change, self.health.mode()) {
            (Change::Paused, Mode::Paused { why, documents: false, .. }) => tracing::error!(
                sink,
                why = %why,
                "sink paused: it turns our requests away. Calls wait; it is tried again each minute"
            ),
            (Change::Paused, Mode::Paused { why, .. }) => tracing::error!(
                sink,
                why = %why,
                "sink paused: it refuses every call. Calls wait; it is tried again each minute"
            ),
            (Change::Opened, Mode::Open { why, .. }) => {
                tracing::warn!(sink, why = %why, "sink is down. Calls wait; it is tried again within a minute");
            }
            (Change::Resumed, _) => {
                tracing::info!(sink, "sink takes calls again");
                self.hasten = true;
            }
            _ => {}
        }
        self.show_health();
    }

    fn show_health(&self) {
        let paused = matches!(self.health.mode(), Mode::Paused { .. });
        metrics::SINK_UP.with_label_values(&[self.name]).set(i64::from(self.health.is_up()));
        metrics::SINK_PAUSED.with_label_values(&[self.name]).set(i64::from(paused));
    }

    fn show_counts(&self, counts: outbox::Counts) {
        let age = counts.oldest.map_or(0, |oldest| (self.clock.now().secs() - oldest.secs()).max(0));
        metrics::PENDING.with_label_values(&[self.name]).set(counts.pending);
        metrics::DEAD.with_label_values(&[self.name]).set(counts.dead);
        metrics::PENDING_AGE.with_label_values(&[self.name]).set(age);
    }

    fn state_failed(&mut self, e: &StoreError) {
        if !std::mem::replace(&mut self.state_fails, true) {
            tracing::error!(sink = self.name, error = %e, "deliveries cannot be recorded: sending stops until they can");
        }
        self.state_retry = Some(Instant::now() + STATE_RETRY);
    }

    fn state_works(&mut self) {
        if std::mem::take(&mut self.state_fails) {
            tracing::info!(sink = self.name, "deliveries can be recorded again");
        }
    }

    /// Something may be due that was not before.
    fn look_again(&mut self) {
        self.dry = false;
        self.missed = self.claiming;
    }

    fn sleep_until(&self, stopping: bool) -> Instant {
        let mut until = self.next_tick;
        if self.ticking || stopping {
            until = Instant::now() + TICK;
        }
        if let Some(retry) = self.state_retry {
            until = until.min(retry);
        }
        if stopping {
            // only answers and the state are waited for
            return until;
        }
        if let Permit::Wait(Some(mono)) = self.health.permit(self.mono()) {
            until = until.min(self.origin + mono);
        } else if let (true, Some(due)) = (self.dry, self.next_due) {
            let wait = u64::try_from(due.micros().saturating_sub(self.clock.now().micros())).unwrap_or(0);
            // a little later rather than a little early
            until = until.min(Instant::now() + Duration::from_micros(wait) + Duration::from_millis(1));
        }
        until
    }

    fn time_passed(&mut self) {
        let now = Instant::now();
        if self.state_retry.is_some_and(|retry| retry <= now) {
            self.state_retry = None;
        }
        self.look_again();
    }
}

fn result_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Retry { .. } => "retry",
        Outcome::Dead { .. } => "dead",
        Outcome::Release { .. } => "released",
        Outcome::Split { .. } => "split",
        Outcome::Revive => "revived",
    }
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}
