//! How one sink stands: up, behind an open breaker, or paused; and what an answer therefore does to the deliveries it was
//! for. A pure state machine: time and randomness come in.
//!
//! - *Up*: sends as much as its limits allow.
//! - *Open* (the breaker): requests failed several times in a row. One probe at a time, at growing distances up to a minute.
//! - *Paused*: the sink says that something is wrong with our request whoever's call it carries. One probe each minute;
//!   nothing is counted against the deliveries used for it.
//!
//! The *up-clock* runs only while the sink is up; the age of a delivery is measured on it, so that an outage expires
//! nothing.

use std::collections::HashSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::policy::{self, Verdict};
use super::{Answer, Batch};
use crate::call::Timestamp;
use crate::config::DeliveryConfig;
use crate::store::outbox::Outcome;

/// So many failed requests in a row open the breaker.
const FAILURES_MAX: u32 = 5;
const PROBE_EVERY: Duration = Duration::from_secs(60);

/// What the dispatcher remembers of a batch it sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub members: Vec<Member>,
    /// Sent although the sink was down, to see whether it still is.
    pub probe: bool,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub delivery: i64,
    pub call: i64,
    /// `<id>/<revision>`.
    pub key: String,
    pub attempts: u32,
    pub refused: u32,
    /// Microseconds, as of the last attempt.
    pub age: i64,
    /// Up-clock at the last attempt, microseconds.
    pub tried_up: Option<i64>,
    pub queued_at: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    Up,
    Open {
        since: Timestamp,
        why: String,
    },
    Paused {
        since: Timestamp,
        why: String,
        /// Every document was refused, rather than the request.
        documents: bool,
    },
}

/// A dead delivery that may turn out to be the sink's fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Suspect {
    delivery: i64,
    call: i64,
    forbidden: bool,
}

/// What is kept over a restart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    #[serde(flatten)]
    pub mode: Mode,
    /// Up-clock, microseconds.
    up: i64,
    suspects: Vec<Suspect>,
}

/// May a batch be sent?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    Go,
    /// One, then wait for its answer.
    Probe,
    /// Not before this moment of the monotonic clock; `None`: not before the running probe is answered.
    Wait(Option<Duration>),
}

/// A change worth a line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Paused,
    Opened,
    Resumed,
}

/// When an answer came, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Timestamp,
    /// The monotonic clock, from anywhere.
    pub mono: Duration,
}

#[derive(Clone, Debug, Default)]
pub struct Judged {
    pub outcomes: Vec<(i64, Outcome)>,
    pub change: Option<Change>,
}

#[derive(Debug)]
pub struct Health {
    config: DeliveryConfig,
    mode: Mode,
    /// Up-clock and the monotonic moment it was last wound at.
    up: Duration,
    wound: Duration,
    /// Up-clock at the last success.
    success_up: Option<Duration>,
    /// Requests that failed in a row, and the calls they carried (two are enough to know).
    failures: u32,
    failed_calls: HashSet<i64>,
    unreachable: bool,
    suspects: Vec<Suspect>,
    probing: bool,
    probes: u32,
    next_probe: Duration,
    /// `Retry-After`.
    hold: Duration,
}

impl Health {
    /// `mono` is the monotonic clock's reading now; it counts from anywhere. A sink that was down when the agent stopped
    /// is probed at once.
    pub fn new(config: DeliveryConfig, kept: Option<Snapshot>, mono: Duration) -> Self {
        let kept = kept.unwrap_or(Snapshot { mode: Mode::Up, up: 0, suspects: Vec::new() });
        Self {
            config,
            mode: kept.mode,
            up: Duration::from_micros(u64::try_from(kept.up).unwrap_or(0)),
            wound: mono,
            success_up: None,
            failures: 0,
            failed_calls: HashSet::new(),
            unreachable: false,
            suspects: kept.suspects,
            probing: false,
            probes: 0,
            next_probe: mono,
            hold: mono,
        }
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot { mode: self.mode.clone(), up: micros(self.up), suspects: self.suspects.clone() }
    }

    pub const fn mode(&self) -> &Mode {
        &self.mode
    }

    pub fn is_up(&self) -> bool {
        self.mode == Mode::Up
    }

    pub fn permit(&self, mono: Duration) -> Permit {
        if mono < self.hold {
            return Permit::Wait(Some(self.hold));
        }
        match self.mode {
            Mode::Up => Permit::Go,
            _ if self.probing => Permit::Wait(None),
            _ if mono < self.next_probe => Permit::Wait(Some(self.next_probe)),
            _ => Permit::Probe,
        }
    }

    /// The batch that [`Permit::Probe`] allowed is on its way.
    pub fn probe_sent(&mut self) {
        self.probing = true;
    }

    /// Takes an answer in and says what becomes of the deliveries it was for. [`Verdict::Gone`] releases them.
    pub fn judge(&mut self, sent: &Sent, answer: &Answer, at: Moment, rng: &mut fastrand::Rng) -> Judged {
        self.wind(at.mono);
        if sent.probe {
            self.probing = false;
            self.next_probe = at.mono + PROBE_EVERY;
        }
        let verdict = policy::sort(answer);
        match verdict {
            Verdict::Delivered => self.delivered(sent),
            Verdict::Gone => self.release(sent, answer, at.now, false),
            Verdict::Sink => {
                let change = self.pause(answer, at, false);
                Judged { change, ..self.release(sent, answer, at.now, false) }
            }
            Verdict::Transient => self.transient(sent, answer, at, rng),
            Verdict::Document | Verdict::Forbidden => self.refused(sent, answer, verdict == Verdict::Forbidden, at),
        }
    }

    fn delivered(&mut self, sent: &Sent) -> Judged {
        self.success_up = Some(self.up);
        self.failures = 0;
        self.failed_calls.clear();
        self.suspects.clear();
        // a straggler sent before the pause does not end it: other requests were turned away after it
        let straggler = matches!(self.mode, Mode::Paused { documents: false, .. }) && !sent.probe;
        let change = if straggler { None } else { self.resume() };
        Judged { outcomes: sent.members.iter().map(|m| (m.delivery, Outcome::Delivered)).collect(), change }
    }

    fn transient(&mut self, sent: &Sent, answer: &Answer, at: Moment, rng: &mut fastrand::Rng) -> Judged {
        let Moment { now, mono } = at;
        let asked = policy::asked_to_wait(answer);
        if let Some(wait) = asked {
            self.hold = self.hold.max(mono + wait);
        }
        if matches!(self.mode, Mode::Paused { .. }) {
            return self.release(sent, answer, now, false);
        }
        let mut change = None;
        if sent.probe {
            self.probes += 1;
            self.next_probe = mono + self.probe_distance(rng);
        } else if self.is_up() {
            self.failures += 1;
            self.failed_calls.extend(sent.members.iter().map(|m| m.call).take(2));
            self.unreachable = matches!(answer, Answer::Unreachable(_));
            // one call that makes the receiver stumble is not an outage
            if self.failures >= FAILURES_MAX && (self.failed_calls.len() > 1 || self.unreachable) {
                self.mode = Mode::Open { since: now, why: policy::describe_briefly(answer) };
                self.probes = 0;
                self.next_probe = mono + self.probe_distance(rng);
                change = Some(Change::Opened);
            }
        }
        let error = policy::describe(answer);
        let attempts = sent.members.iter().map(|m| m.attempts).max().unwrap_or(0);
        let success_since = sent.members.iter().all(|m| m.tried_up.is_some_and(|t| t < self.success_micros()));
        if sent.members.len() > 1 && attempts + 1 >= policy::BATCH_ATTEMPTS_MAX && success_since {
            return Judged { outcomes: split(sent, &error), change };
        }
        let wait = policy::backoff(self.config.retry_base, self.config.retry_cap, attempts, rng);
        let due_at = now.plus_micros(micros(wait.max(asked.unwrap_or_default())));
        let outcomes = sent.members.iter().map(|m| (m.delivery, self.later(m, &error, due_at, now))).collect();
        Judged { outcomes, change }
    }

    /// Again at `due_at`, or given up when it is too old.
    fn later(&self, member: &Member, error: &str, due_at: Timestamp, now: Timestamp) -> Outcome {
        let up = micros(self.up);
        let age = member.age.saturating_add(member.tried_up.map_or(0, |tried| (up - tried).max(0)));
        let queued_for = now.micros().saturating_sub(member.queued_at.micros());
        if age > micros(self.config.retry_max_age) {
            let error = format!("given up after {}, RETRY_MAX_AGE: {error}", hours(self.config.retry_max_age));
            return Outcome::Dead { error, refused: false };
        }
        // only of a sink that is down: one that is up again gets what waited through a long outage, or through the agent's
        if !self.is_up() && queued_for > micros(self.config.outage_max_age) {
            return Outcome::Dead { error: format!("{}: {error}", self.outage_text()), refused: false };
        }
        Outcome::Retry { due_at, age, tried_up: up, error: error.to_owned() }
    }

    /// Why deliveries older than [`Health::outage_limit`] are given up.
    pub fn outage_text(&self) -> String {
        format!("given up after {}, OUTAGE_MAX_AGE", hours(self.config.outage_max_age))
    }

    /// While the sink is down, what was queued before this moment is given up.
    pub fn outage_limit(&self, now: Timestamp) -> Option<Timestamp> {
        (!self.is_up()).then(|| now.plus_micros(-micros(self.config.outage_max_age)))
    }

    fn refused(&mut self, sent: &Sent, answer: &Answer, forbidden: bool, at: Moment) -> Judged {
        // it answers, whatever it says
        self.failures = 0;
        self.failed_calls.clear();
        let still_paused = match self.mode {
            Mode::Paused { documents, .. } => documents || forbidden || !sent.probe,
            _ => false,
        };
        let change = if still_paused { None } else { self.resume() };
        let error = policy::describe(answer);
        let [member] = sent.members.as_slice() else {
            return Judged { outcomes: split(sent, &error), change };
        };
        if still_paused {
            return self.release(sent, answer, at.now, true);
        }
        let dead = (member.delivery, Outcome::Dead { error, refused: true });
        if member.refused > 0 {
            // refused before the sink was mended and after: its own fault, and no sign of anything else
            return Judged { outcomes: vec![dead], change };
        }
        self.suspects.retain(|s| s.delivery != member.delivery);
        self.suspects.push(Suspect { delivery: member.delivery, call: member.call, forbidden });
        let calls: HashSet<i64> = self.suspects.iter().map(|s| s.call).collect();
        let forbidden_calls: HashSet<i64> = self.suspects.iter().filter(|s| s.forbidden).map(|s| s.call).collect();
        if calls.len() < policy::REFUSED_CALLS_MAX && forbidden_calls.len() < policy::FORBIDDEN_CALLS_MAX {
            return Judged { outcomes: vec![dead], change };
        }
        let mut judged = self.release(sent, answer, at.now, true);
        judged.change = self.pause(answer, at, true).or(change);
        let others = self.suspects.drain(..).filter(|s| s.delivery != member.delivery);
        judged.outcomes.extend(others.map(|s| (s.delivery, Outcome::Revive)));
        judged
    }

    /// Nothing is counted; at the end of those that are due now, so that the next probe carries another call.
    fn release(&self, sent: &Sent, answer: &Answer, now: Timestamp, refused: bool) -> Judged {
        let error = Some(policy::describe(answer));
        let outcome = Outcome::Release { due_at: now, error, refused };
        Judged { outcomes: sent.members.iter().map(|m| (m.delivery, outcome.clone())).collect(), change: None }
    }

    fn pause(&mut self, answer: &Answer, at: Moment, documents: bool) -> Option<Change> {
        self.next_probe = at.mono + PROBE_EVERY;
        if matches!(self.mode, Mode::Paused { .. }) {
            return None;
        }
        self.mode = Mode::Paused { since: at.now, why: policy::describe_briefly(answer), documents };
        Some(Change::Paused)
    }

    fn resume(&mut self) -> Option<Change> {
        if self.is_up() {
            return None;
        }
        self.mode = Mode::Up;
        self.probing = false;
        Some(Change::Resumed)
    }

    fn wind(&mut self, mono: Duration) {
        if self.is_up() {
            self.up += mono.saturating_sub(self.wound);
        }
        self.wound = mono;
    }

    fn success_micros(&self) -> i64 {
        self.success_up.map_or(i64::MIN, micros)
    }

    /// Jittered between half and all of a distance that doubles up to a minute.
    fn probe_distance(&self, rng: &mut fastrand::Rng) -> Duration {
        let most = PROBE_EVERY.min(self.config.retry_cap);
        let full = self.config.retry_base.saturating_mul(1 << self.probes.min(16)).min(most);
        full.mul_f64(0.5 + rng.f64() / 2.0)
    }
}

/// In halves, each a batch with a key of its own from now on.
fn split(sent: &Sent, error: &str) -> Vec<(i64, Outcome)> {
    let halves = sent.members.split_at(sent.members.len().div_ceil(2));
    let half = |members: &[Member]| -> Vec<(i64, Outcome)> {
        let batch = Batch::key_of(members.iter().map(|m| m.key.as_str()));
        let outcome = Outcome::Split { batch, error: error.to_owned() };
        members.iter().map(|m| (m.delivery, outcome.clone())).collect()
    };
    [half(halves.0), half(halves.1)].concat()
}

fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

fn hours(d: Duration) -> String {
    format!("{} h", d.as_secs() / 3_600)
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
