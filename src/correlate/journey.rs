//! The call as a person would tell it: steps in order of time.

use super::causes::cause;
use super::handoffs::Handoffs;
use super::media::Media;
use super::parties::party;
use super::scene::Scene;
use super::visits::Visits;
use crate::call::{Content, Party, PartyKind, Seconds, Step, StepKind};

pub(super) fn journey(
    scene: &Scene<'_>,
    media: &Media<'_>,
    visits: &Visits,
    handoffs: &Handoffs,
    caller: usize,
    content: &Content,
) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::with_capacity(content.attempts.len() * 2 + 4);
    if let Some(at) = content.started_at {
        steps.push(Step { at, what: StepKind::Dialled { number: content.to.number.clone() } });
    }
    for menu in &visits.menus {
        let what = StepKind::Ivr {
            context: menu.context.clone(),
            digits: menu.digits.clone(),
            duration_s: Some(menu.span.to - menu.span.from),
        };
        steps.push(Step { at: menu.span.from, what });
    }
    for queue in &visits.queues {
        steps.push(Step { at: queue.span.from, what: StepKind::QueueEnter { queue: queue.name.clone() } });
    }
    for attempt in &content.attempts {
        let (party, duration_s, result) = (attempt.party.clone(), attempt.ring_s, attempt.result);
        steps.push(Step { at: attempt.at, what: StepKind::Ring { party, duration_s, result } });
    }
    answers(scene, media, caller, &mut steps);
    for hold in media.holds.iter().filter(|h| touches_caller(media, h.on, caller)) {
        let by = hold.by.map(|b| party(scene, b));
        steps.push(Step { at: hold.span.from, what: StepKind::Hold { by: by.clone() } });
        if hold.over {
            steps.push(Step { at: hold.span.to, what: StepKind::Unhold { by } });
        }
    }
    for t in &content.transfers {
        let what = StepKind::Transfer { kind: t.kind, by: t.by.clone(), to: t.to.clone(), answered: t.answered };
        steps.push(Step { at: t.at, what });
    }
    steps.extend(handoffs.steps.iter().cloned());
    for meeting in &visits.meetings {
        let what = StepKind::ConferenceJoin { conference: meeting.name.clone() };
        steps.push(Step { at: meeting.span.from, what });
    }
    for (name, span) in &visits.applications {
        steps.push(Step { at: span.from, what: StepKind::Application { name: name.clone() } });
    }
    for mailbox in &visits.mailboxes {
        let duration_s = Some(mailbox.span.to - mailbox.span.from);
        let what = StepKind::Voicemail { mailbox: mailbox.mailbox.clone(), duration_s };
        steps.push(Step { at: mailbox.span.from, what });
    }
    for recording in &content.recordings {
        if let Some(at) = recording.started_at.or(content.started_at) {
            steps.push(Step { at, what: StepKind::Recording { file: recording.file.clone() } });
        }
    }
    if let Some(at) = content.ended_at {
        let what = StepKind::Hangup { by: content.hung_up_by, cause: cause(scene.chans[caller].cause) };
        steps.push(Step { at, what });
    }
    steps.sort_by_key(|s| (s.at, rank(&s.what)));
    steps
}

/// The caller is connected with somebody new. Coming back to the same party after an instant is no answer.
fn answers(scene: &Scene<'_>, media: &Media<'_>, caller: usize, steps: &mut Vec<Step>) {
    let mut told: Vec<usize> = Vec::new();
    for contact in &media.contacts {
        if contact.with != caller && !told.contains(&contact.with) {
            told.push(contact.with);
            let what = StepKind::Answer { party: party(scene, contact.with) };
            steps.push(Step { at: contact.span.from, what });
        }
    }
}

pub(super) fn touches_caller(media: &Media<'_>, on: usize, caller: usize) -> bool {
    on == caller || media.contacts.iter().any(|c| c.with == on)
}

/// Hold while the caller's call was on, without double counting.
pub(super) fn hold_time(media: &Media<'_>, caller: usize) -> (Option<Seconds>, i64) {
    let holds = media.holds.iter().filter(|h| touches_caller(media, h.on, caller)).map(|h| h.span);
    let spans = super::media::union(holds.collect());
    if spans.is_empty() {
        return (None, 0);
    }
    let us = super::media::length(&spans);
    (Some(Seconds::from_micros(us)), super::media::shared(&spans, &media.talk_spans()))
}

/// Order of steps that share a time.
fn rank(what: &StepKind) -> u8 {
    match what {
        StepKind::Dialled { .. } => 0,
        StepKind::Ivr { .. } => 1,
        StepKind::QueueEnter { .. } => 2,
        StepKind::Recording { .. } => 3,
        StepKind::Ring { .. } => 4,
        StepKind::Forward { .. } => 5,
        StepKind::Pickup { .. } => 6,
        StepKind::Answer { .. } => 7,
        StepKind::Application { .. } => 8,
        StepKind::ConferenceJoin { .. } => 9,
        StepKind::Hold { .. } => 10,
        StepKind::Unhold { .. } => 11,
        StepKind::Transfer { .. } => 12,
        StepKind::Park { .. } => 13,
        StepKind::Unpark { .. } => 14,
        StepKind::Voicemail { .. } => 15,
        StepKind::Hangup { .. } => 16,
    }
}

/// The conference under the number that was dialled to reach it.
pub(super) fn conference_party(content: &Content) -> Party {
    Party {
        number: content.to.number.clone(),
        name: content.conference.clone(),
        kind: Some(PartyKind::Conference),
        ..Party::default()
    }
}
