//! What the agent knows of its own health. Cheap to clone and to report into, once a poll or once a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use serde::Serialize;

use crate::call::Timestamp;

/// Shared health. The agent is ready when source and state are; a paused sink is shown, and does not make it unready:
/// calls are still read and kept.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    source: Part,
    state: Part,
    sinks: BTreeMap<String, Part>,
}

/// One thing that works or does not.
#[derive(Clone, Debug)]
struct Part {
    ok: bool,
    /// When it became what it is now.
    since: Timestamp,
    /// Why it does not work, as of the last report.
    error: Option<String>,
}

/// `/readyz`'s body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub ready: bool,
    pub source: PartReport,
    pub state: PartReport,
    /// By name. A sink that is not `ok` is paused: its deliveries wait.
    pub sinks: BTreeMap<String, PartReport>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartReport {
    pub ok: bool,
    /// When it became what it is now.
    pub since: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Not ready before the source and the state have been reported working once.
    pub fn new() -> Self {
        let starting = || Part { ok: false, since: now(), error: Some("starting".to_owned()) };
        Self(Arc::new(Mutex::new(Inner { source: starting(), state: starting(), sinks: BTreeMap::new() })))
    }

    /// The source answered a poll.
    pub fn source_ok(&self) {
        self.lock().source.set(None);
    }

    /// The source could not be read. `error` must hold no secret; it is shown to whoever asks `/readyz`.
    pub fn source_failed(&self, error: impl Into<String>) {
        self.lock().source.set(Some(error.into()));
    }

    /// The state could be written.
    pub fn state_ok(&self) {
        self.lock().state.set(None);
    }

    /// The state could not be written, or is over its budget so that reading stopped.
    pub fn state_failed(&self, error: impl Into<String>) {
        self.lock().state.set(Some(error.into()));
    }

    /// The sink takes calls (or has not been tried yet).
    pub fn sink_ok(&self, sink: &str) {
        self.sink(sink, None);
    }

    /// The sink is paused, and why.
    pub fn sink_paused(&self, sink: &str, error: impl Into<String>) {
        self.sink(sink, Some(error.into()));
    }

    /// What is wrong, and since when.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        Report {
            ready: inner.source.ok && inner.state.ok,
            source: inner.source.report(),
            state: inner.state.report(),
            sinks: inner.sinks.iter().map(|(name, part)| (name.clone(), part.report())).collect(),
        }
    }

    fn sink(&self, sink: &str, error: Option<String>) {
        let mut inner = self.lock();
        match inner.sinks.get_mut(sink) {
            Some(part) => part.set(error),
            None => {
                inner.sinks.insert(sink.to_owned(), Part { ok: error.is_none(), since: now(), error });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // plain values: a panic elsewhere cannot leave them half written
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn set(&mut self, error: Option<String>) {
        if self.ok != error.is_none() {
            self.ok = error.is_none();
            self.since = now();
        }
        self.error = error;
    }

    fn report(&self) -> PartReport {
        PartReport { ok: self.ok, since: self.since, error: self.error.clone() }
    }
}

fn now() -> Timestamp {
    Timestamp::from_chrono(Utc::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_ready_until_source_and_state_have_worked() {
        let health = Health::new();
        assert!(!health.report().ready);
        health.source_ok();
        assert!(!health.report().ready);
        health.state_ok();
        assert!(health.report().ready);
        health.source_failed("connection refused");
        let report = health.report();
        assert!(!report.ready);
        assert_eq!(report.source.error.as_deref(), Some("connection refused"));
    }

    #[test]
    fn since_is_the_first_failure_and_the_error_the_last() {
        let health = Health::new();
        health.source_ok();
        health.source_failed("first");
        let since = health.report().source.since;
        std::thread::sleep(std::time::Duration::from_millis(2));
        health.source_failed("second");
        let report = health.report().source;
        assert_eq!((report.since, report.error.as_deref()), (since, Some("second")));
        health.source_ok();
        assert!(health.report().source.since > since);
        assert_eq!(health.report().source.error, None);
    }

    #[test]
    fn a_paused_sink_is_shown_and_leaves_the_agent_ready() {
        let health = Health::new();
        health.source_ok();
        health.state_ok();
        health.sink_ok("file");
        health.sink_paused("webhook", "401 Unauthorized");
        let report = health.report();
        assert!(report.ready);
        assert!(report.sinks["file"].ok);
        assert!(!report.sinks["webhook"].ok);
        health.sink_ok("webhook");
        assert!(health.report().sinks["webhook"].ok);
    }
}
