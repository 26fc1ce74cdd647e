//! The dispatchers as the agent sees them: started together, rung, stopped together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dispatcher::Dispatcher;
use super::health::Snapshot;
use super::{Clock, Sink};
use crate::config::DeliveryConfig;
use crate::store::{Store, StoreError, outbox};

/// Rung after a commit that put something into the outbox. Cloning is cheap; ringing too often does no harm.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<[Arc<Notify>]>);

impl Wake {
    pub fn ring(&self) {
        for sink in self.0.iter() {
            sink.notify_one();
        }
    }
}

/// What a dispatcher needs besides its sink and the state.
#[derive(Clone, Debug)]
pub struct Options {
    pub delivery: DeliveryConfig,
    pub clock: Clock,
    /// Of the jitter.
    pub seed: u64,
}

/// How a dispatcher ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to; everything in flight was answered and recorded.
    Stopped,
    /// It was asked to and the time ran out: what was in flight goes out again after the next start.
    Abandoned,
    /// The sink is over (standard output was closed). The agent should end too.
    SinkGone(String),
    /// The state was closed.
    StateGone,
}

/// All dispatchers of an agent.
pub struct Ship {
    running: Vec<(&'static str, JoinHandle<Ended>)>,
    wake: Wake,
    stop: CancellationToken,
}

impl Ship {
    /// Puts back what was in flight when the last run ended and starts one dispatcher a sink.
    pub async fn start(sinks: Vec<Arc<dyn Sink>>, store: &Store, options: &Options) -> Result<Self, StoreError> {
        let stop = CancellationToken::new();
        let mut running = Vec::new();
        let mut bells = Vec::new();
        for (n, sink) in sinks.into_iter().enumerate() {
            let name = sink.name();
            let bell = Arc::new(Notify::new());
            let recovered = store.write(move |conn| outbox::recover(conn, name)).await?;
            if recovered > 0 {
                tracing::info!(sink = name, deliveries = recovered, "sending again what was in flight at the last end");
            }
            let kept = match store.read(move |conn| outbox::load_sink::<Snapshot>(conn, name)).await {
                Ok(kept) => kept,
                // written by another version: the sink is taken to be up, and shows itself with the first answer
                Err(StoreError::Content(problem)) => {
                    tracing::warn!(sink = name, problem, "what was known of the sink cannot be read");
                    None
                }
                Err(e) => return Err(e),
            };
            let seed = options.seed.wrapping_add(n as u64);
            let dispatcher = Dispatcher::new(sink, store.clone(), options, seed, kept, bell.clone(), stop.clone());
            running.push((name, tokio::spawn(dispatcher.run())));
            bells.push(bell);
        }
        Ok(Self { running, wake: Wake(bells.into()), stop })
    }

    /// To be rung after each commit that enqueued something.
    pub fn wake(&self) -> Wake {
        self.wake.clone()
    }

    /// Waits until a dispatcher ends by itself; never ends while all of them run.
    pub async fn ended(&mut self) -> (&'static str, Ended) {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let handles = self.running.iter_mut().map(|(_, handle)| handle);
        let (ended, at, _) = futures_util::future::select_all(handles).await;
        let (name, _) = self.running.swap_remove(at);
        (name, ended.unwrap_or_else(|e| Ended::SinkGone(format!("its dispatcher failed: {e}"))))
    }

    /// Sends nothing new, waits at most `deadline` for what is in flight and records it.
    pub async fn stop(self, deadline: Duration) -> Vec<(&'static str, Ended)> {
        self.stop.cancel();
        let until = Instant::now() + deadline;
        let mut ends = Vec::new();
        for (name, mut handle) in self.running {
            let end = match tokio::time::timeout_at(until, &mut handle).await {
                Ok(end) => end.unwrap_or(Ended::Abandoned),
                Err(_) => {
                    handle.abort();
                    tracing::warn!(sink = name, "gave up waiting for an answer; it is sent again after the next start");
                    Ended::Abandoned
                }
            };
            ends.push((name, end));
        }
        ends
    }
}
