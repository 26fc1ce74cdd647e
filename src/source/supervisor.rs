//! The loop that drives one source: ask, have it stored, ask again. It decides when to ask next and what to do when asking
//! fails; it knows neither what rows mean nor where they are kept.
//!
//! A batch is either stored whole or asked for again: `committed` is called only after [`Intake::commit`] succeeded, and a
//! commit that has begun is always waited for, also while shutting down.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::{Batch, Source, SourceError, Wishes};
use crate::metrics;

/// What the agent does with what a source reads.
pub trait Intake: Send {
    /// What the source is to look for besides what is new.
    fn wishes(&mut self) -> BoxFuture<'_, Wishes>;

    /// Stores rows, quarantine and positions in one transaction. After an error nothing of the batch may be stored; the
    /// same rows come again.
    fn commit(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), String>>;

    /// The source works, or does not; called at every change, and when the reason of a failure changes.
    fn state(&mut self, state: SourceState<'_>);
}

#[derive(Clone, Copy, Debug)]
pub enum SourceState<'a> {
    Up,
    Down(&'a SourceError),
}

/// How often to ask.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Between polls while rows arrive or something is wished for.
    pub busy: Duration,
    /// Between polls at most while nothing arrives.
    pub idle: Duration,
    /// Before the second attempt after a failure; doubles from attempt to attempt, with full jitter.
    pub retry_base: Duration,
    pub retry_cap: Duration,
    /// How long a source that never worked yet may fail for passing reasons before the loop ends with the reason. A
    /// wrong setting ends it at once. Once a poll succeeded nothing ends it but the token.
    pub patience: Duration,
}

impl Pace {
    pub const fn new(busy: Duration, idle: Duration) -> Self {
        Self {
            busy,
            idle,
            retry_base: Duration::from_millis(500),
            retry_cap: Duration::from_secs(30),
            patience: Duration::from_secs(20),
        }
    }

    /// Wait before attempt `failures + 1`. Never quite nothing: half of the range is kept, the other half is chance.
    fn retry(&self, failures: u32) -> Duration {
        let exponential = self.retry_base.saturating_mul(1_u32.checked_shl(failures.min(16)).unwrap_or(u32::MAX));
        let limit = exponential.min(self.retry_cap);
        limit.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

/// Drives `source` until `stop`. An error: the source never worked, and why.
pub async fn supervise(
    source: &mut dyn Source,
    intake: &mut dyn Intake,
    pace: &Pace,
    stop: &CancellationToken,
) -> Result<(), SourceError> {
    let up = metrics::SOURCE_UP.with_label_values(&[source.kind()]);
    let kind = source.kind();
    up.set(0);
    let began = Instant::now();
    let (mut worked_once, mut is_up) = (false, false);
    // the error last told, while the source is down
    let mut down: Option<String> = None;
    let mut failures = 0;
    let mut store_fails = false;
    let mut idle = pace.busy;
    loop {
        let wishes = intake.wishes().await;
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            polled = source.poll(&wishes) => polled,
        };
        let wait = match polled {
            Ok(batch) => {
                if down.take().is_some() {
                    tracing::info!(source = kind, "the source can be read again");
                }
                if !is_up {
                    intake.state(SourceState::Up);
                }
                (worked_once, is_up) = (true, true);
                up.set(1);
                let (more, busy) = (batch.more, !batch.rows.is_empty() || !wishes.cdr_of.is_empty());
                let wished = !wishes.reread.is_empty();
                match intake.commit(batch).await {
                    Ok(()) => {
                        source.committed();
                        if store_fails {
                            tracing::info!(source = kind, "what is read can be stored again");
                        }
                        (store_fails, failures) = (false, 0);
                        idle = if busy || wished { pace.busy } else { (idle * 2).min(pace.idle) };
                        if more { Duration::ZERO } else { idle }
                    }
                    Err(e) => {
                        if !store_fails {
                            tracing::error!(
                                source = kind,
                                "what was read cannot be stored, and will be read again: {e}"
                            );
                        }
                        store_fails = true;
                        failures += 1;
                        pace.retry(failures - 1)
                    }
                }
            }
            Err(e) => {
                up.set(0);
                is_up = false;
                let text = e.to_string();
                let hopeless = !worked_once && (matches!(e, SourceError::Setup(_)) || began.elapsed() >= pace.patience);
                if hopeless {
                    // the caller tells it, as the reason of the end
                    intake.state(SourceState::Down(&e));
                    return Err(e);
                }
                if down.as_ref() != Some(&text) {
                    intake.state(SourceState::Down(&e));
                    // once a failure, not once an attempt; a changing reason is worth a word, a flickering one is not
                    if down.is_none() {
                        tracing::warn!(source = kind, "the source cannot be read: {text}");
                    } else {
                        tracing::debug!(source = kind, "the source still cannot be read: {text}");
                    }
                    down = Some(text);
                }
                idle = pace.busy;
                failures += 1;
                pace.retry(failures - 1)
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::call::{CelRow, Row};
    use crate::source::{Place, PlacedRow};

    #[derive(Clone, Debug)]
    enum Step {
        Rows(usize),
        More(usize),
        Setup,
        Transient,
        Hang,
    }

    /// What happened, with the second it happened at.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<(u64, String)>>>);

    impl Log {
        fn add(&self, began: Instant, text: impl Into<String>) {
            let entry = (began.elapsed().as_secs(), text.into());
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(entry);
        }

        fn texts(&self) -> Vec<String> {
            self.entries().into_iter().map(|(_, text)| text).collect()
        }

        fn entries(&self) -> Vec<(u64, String)> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
        }
    }

    struct Script {
        steps: VecDeque<Step>,
        log: Log,
        began: Instant,
        stop: CancellationToken,
    }

    impl Source for Script {
        fn kind(&self) -> &'static str {
            "script"
        }

        fn poll<'a>(&'a mut self, _wishes: &'a Wishes) -> BoxFuture<'a, Result<Batch, SourceError>> {
            Box::pin(async move {
                self.log.add(self.began, "poll");
                let batch = |n: usize, more| {
                    let row = |i| PlacedRow {
                        generation: 0,
                        place: Place::Id(i as i64),
                        row: Row::Cel(Arc::new(CelRow::default())),
                        by_audit: false,
                    };
                    Batch { rows: (0..n).map(row).collect(), more, ..Batch::default() }
                };
                match self.steps.pop_front() {
                    Some(Step::Rows(n)) => Ok(batch(n, false)),
                    Some(Step::More(n)) => Ok(batch(n, true)),
                    Some(Step::Setup) => Err(SourceError::Setup("wrong password".into())),
                    Some(Step::Transient) => Err(SourceError::Transient("server has gone away".into())),
                    Some(Step::Hang) => {
                        sleep(Duration::from_secs(3_600)).await;
                        Ok(Batch::default())
                    }
                    None => {
                        self.stop.cancel();
                        Ok(Batch::default())
                    }
                }
            })
        }

        fn committed(&mut self) {
            self.log.add(self.began, "committed");
        }
    }

    struct Keep {
        log: Log,
        began: Instant,
        refuse: usize,
        wishes: Wishes,
    }

    impl Intake for Keep {
        fn wishes(&mut self) -> BoxFuture<'_, Wishes> {
            let wishes = self.wishes.clone();
            Box::pin(async move { wishes })
        }

        fn commit(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), String>> {
            let refused = self.refuse > 0;
            self.refuse = self.refuse.saturating_sub(1);
            self.log.add(self.began, format!("store {}{}", batch.rows.len(), if refused { " fails" } else { "" }));
            Box::pin(async move { if refused { Err("disk full".to_owned()) } else { Ok(()) } })
        }

        fn state(&mut self, state: SourceState<'_>) {
            let text = match state {
                SourceState::Up => "up".to_owned(),
                SourceState::Down(e) => format!("down: {e}"),
            };
            self.log.add(self.began, text);
        }
    }

    async fn drive(steps: &[Step], refuse: usize, wishes: Wishes) -> (Log, Result<(), SourceError>) {
        let (log, began, stop) = (Log::default(), Instant::now(), CancellationToken::new());
        let steps = steps.iter().cloned().collect();
        let mut source = Script { steps, log: log.clone(), began, stop: stop.clone() };
        let mut intake = Keep { log: log.clone(), began, refuse, wishes };
        let pace = Pace::new(Duration::from_secs(1), Duration::from_secs(5));
        let ended = supervise(&mut source, &mut intake, &pace, &stop).await;
        (log, ended)
    }

    fn polls(log: &Log) -> Vec<u64> {
        log.entries().into_iter().filter(|(_, text)| text == "poll").map(|(at, _)| at).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_quick_while_rows_come_and_slow_down_to_the_idle_interval() {
        let (log, ended) = drive(
            &[Step::Rows(1), Step::Rows(1), Step::Rows(0), Step::Rows(0), Step::Rows(0), Step::Rows(3), Step::Rows(0)],
            0,
            Wishes::default(),
        )
        .await;
        assert!(ended.is_ok());
        assert_eq!(polls(&log), [0, 1, 2, 4, 8, 13, 14, 16]);
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_asked_for_at_once_and_wishes_keep_it_busy() {
        let (log, _) = drive(&[Step::More(9), Step::More(9), Step::Rows(1)], 0, Wishes::default()).await;
        assert_eq!(polls(&log), [0, 0, 0, 1]);
        let wishes = Wishes { cdr_of: vec!["1.1".into()], ..Wishes::default() };
        let (log, _) = drive(&[Step::Rows(0), Step::Rows(0), Step::Rows(0)], 0, wishes).await;
        assert_eq!(polls(&log), [0, 1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_and_reading_goes_on() {
        let (log, ended) = drive(
            &[Step::Rows(1), Step::Transient, Step::Transient, Step::Setup, Step::Setup, Step::Rows(1)],
            0,
            Wishes::default(),
        )
        .await;
        assert!(ended.is_ok(), "once it worked nothing ends it");
        let told: Vec<_> = log.texts().into_iter().filter(|t| t != "poll").collect();
        assert_eq!(
            told,
            [
                "up",
                "store 1",
                "committed",
                "down: server has gone away",
                "down: wrong password",
                "up",
                "store 1",
                "committed",
                "store 0",
                "committed"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_setting_ends_the_start_at_once_and_an_unreachable_host_after_a_while() {
        let (log, ended) = drive(&[Step::Setup, Step::Rows(1)], 0, Wishes::default()).await;
        assert!(matches!(ended, Err(SourceError::Setup(_))));
        assert_eq!(polls(&log), [0]);
        let (log, ended) = drive(&vec![Step::Transient; 100], 0, Wishes::default()).await;
        assert!(matches!(ended, Err(SourceError::Transient(_))));
        let last = *polls(&log).last().expect("it polled");
        assert!((20..60).contains(&last), "{last}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_stored_is_not_committed() {
        let (log, _) = drive(&[Step::Rows(2), Step::Rows(2)], 1, Wishes::default()).await;
        let told: Vec<_> = log.texts().into_iter().filter(|t| t != "poll").collect();
        assert_eq!(told, ["up", "store 2 fails", "store 2", "committed", "store 0", "committed"]);
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_does_not_wait_for_a_poll_that_hangs() {
        let (log, began, stop) = (Log::default(), Instant::now(), CancellationToken::new());
        let steps = VecDeque::from([Step::Hang]);
        let mut source = Script { steps, log: log.clone(), began, stop: stop.clone() };
        let mut intake = Keep { log: log.clone(), began, refuse: 0, wishes: Wishes::default() };
        let pace = Pace::new(Duration::from_secs(1), Duration::from_secs(5));
        let stopper = async {
            sleep(Duration::from_secs(7)).await;
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(supervise(&mut source, &mut intake, &pace, &stop), stopper);
        assert!(ended.is_ok());
        assert_eq!(began.elapsed().as_secs(), 7);
    }
}
