//! What is said of a call that is up: what has happened, and nothing that its end has yet to decide. Pure.

use std::collections::BTreeSet;

use compact_str::CompactString;

use crate::call::{AttemptResult, Content, QueueOutcome, Step, StepKind};

/// Takes back what the correlator concludes from rows as if they were all: durations that are running, results of what
/// goes on, reasons why data is missing. What remains changes only when something happens, never by time passing.
pub fn so_far(content: &mut Content) {
    content.incomplete.clear();
    content.discrepancies.clear();
    content.ended_at = None;
    content.hung_up_by = None;
    content.hangup_cause = None;
    for running in [
        &mut content.duration_s,
        &mut content.talk_s,
        &mut content.hold_s,
        &mut content.wait_s,
        &mut content.ivr_s,
        &mut content.voicemail_s,
    ] {
        *running = None;
    }
    if content.answered_at.is_none() {
        content.ring_s = None;
    }
    if let Some(queue) = &mut content.queue
        && queue.outcome != Some(QueueOutcome::Answered)
    {
        queue.outcome = None;
        queue.wait_s = None;
    }
    let up = content.legs.iter().filter(|l| l.ended_at.is_none());
    let up: BTreeSet<CompactString> = up.filter_map(|l| l.channel.as_deref().map(CompactString::new)).collect();
    let is_up = |channel: &Option<String>| channel.as_deref().is_some_and(|c| up.contains(c));
    for attempt in &mut content.attempts {
        if attempt.result == AttemptResult::NoAnswer && (attempt.ring_s.is_none() || is_up(&attempt.party.channel)) {
            attempt.result = AttemptResult::Ringing;
            attempt.ring_s = None;
        }
    }
    content.journey.retain(|step| !matches!(step.what, StepKind::Hangup { .. }));
    for Step { what, .. } in &mut content.journey {
        match what {
            StepKind::Ring { party, duration_s, result }
                if *result == AttemptResult::NoAnswer && (duration_s.is_none() || is_up(&party.channel)) =>
            {
                *result = AttemptResult::Ringing;
                *duration_s = None;
            }
            StepKind::Ivr { duration_s, .. } | StepKind::Voicemail { duration_s, .. } => *duration_s = None,
            _ => {}
        }
    }
}
