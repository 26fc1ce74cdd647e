//! The thread that settles: correlating is work, and waits for nobody.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::settle::{Arrived, Outcome, Past, Settler};
use crate::observe::Health;
use crate::ship::{Clock, Wake};
use crate::store::StoreError;

/// Between tries to use a state that cannot be used.
const RETRY: Duration = Duration::from_secs(2);
/// `--once` waits for calls whose grace ends within this, microseconds of database time.
const GRACE_MAX: i64 = 120 * 1_000_000;

/// What the thread is given.
pub(super) enum Work {
    /// What the source found, after it was stored.
    Live(Arrived),
    /// Calls of the past; answered when they are settled.
    Past(Past, oneshot::Sender<()>),
}

pub(super) struct Settling {
    pub settler: Settler,
    pub shared: Arc<Shared>,
    pub health: Health,
    pub wake: Wake,
    pub clock: Clock,
    /// True once everything that is there was read and settled.
    pub idle: watch::Sender<bool>,
    /// Give up trying.
    pub stop: CancellationToken,
    /// That calls were left out as older than the first start was logged.
    pub before_start_told: bool,
    /// The last try to write something failed.
    pub failing: bool,
}

impl Settling {
    /// Settles what arrives until the channel is closed. What it sends at the end is `Err` only if the state is of no use
    /// any more.
    pub(super) fn start(
        self,
        work: mpsc::Receiver<Work>,
    ) -> std::io::Result<oneshot::Receiver<Result<(), StoreError>>> {
        let (done, ended) = oneshot::channel();
        thread::Builder::new().name("settle".to_owned()).spawn(move || {
            let _ = done.send(self.run(work));
        })?;
        Ok(ended)
    }

    fn run(mut self, mut work: mpsc::Receiver<Work>) -> Result<(), StoreError> {
        // what an earlier run had committed and not settled
        self.persist(Settler::settle_all)?;
        while let Some(work) = work.blocking_recv() {
            let arrived = match work {
                Work::Live(arrived) => arrived,
                Work::Past(past, done) => {
                    self.persist(|settler, now| settler.take_past(past.clone(), now))?;
                    let _ = done.send(());
                    continue;
                }
            };
            let nothing_new = arrived.rows.is_empty() && arrived.caught_up;
            let caught_up = arrived.caught_up;
            let mut waiting = Some(arrived);
            self.persist(|settler, now| {
                if let Some(arrived) = waiting.take() {
                    // its rows are in the journal; what it says besides (the zone, the clock) comes no second time
                    let again = arrived.without_rows();
                    settler.take(arrived).inspect_err(|_| waiting = Some(again))?;
                }
                settler.settle_all(now)
            })?;
            if caught_up {
                self.recovered();
            }
            self.shared.set_wishes(self.settler.wishes());
            self.idle.send_if_modified(|idle| {
                let now_idle = nothing_new && !self.settler.waits(GRACE_MAX);
                std::mem::replace(idle, now_idle) != now_idle
            });
        }
        Ok(())
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            tracing::info!("calls can be settled again");
            self.health.state_ok();
        }
    }

    /// Tries until it succeeds; ends with the error when that is of no use, or when told to stop.
    fn persist(
        &mut self,
        mut work: impl FnMut(&mut Settler, crate::call::Timestamp) -> Result<Outcome, StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            match work(&mut self.settler, self.clock.now()) {
                Ok(outcome) => {
                    // after an error there is nothing to do until the source was asked again: no success yet
                    if outcome.did_something() {
                        self.recovered();
                    }
                    if outcome.before_start > 0 && !self.before_start_told {
                        self.before_start_told = true;
                        tracing::info!("calls that ended before the first start are not shipped (START_FROM)");
                    }
                    self.shared.calls.fetch_add(outcome.shipped as u64, Ordering::Relaxed);
                    self.shared.revisions.fetch_add(outcome.revised as u64, Ordering::Relaxed);
                    if outcome.shipped + outcome.revised + outcome.merged + outcome.told > 0 {
                        self.wake.ring();
                    }
                    return Ok(());
                }
                Err(e) if e.is_fatal() || self.stop.is_cancelled() => return Err(e),
                Err(e) => {
                    if !self.failing {
                        tracing::error!("calls cannot be settled: {e}");
                    }
                    self.failing = true;
                    self.health.state_failed(e.to_string());
                    thread::sleep(RETRY);
                }
            }
        }
    }
}
