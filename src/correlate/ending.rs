//! How it ended: who hung up, why, and what became of the call.

use super::attempts::{Tried, gave_up, refused, refused_by_dialplan};
use super::dialling::AppRun;
use super::media::{Contact, Media, Visit};
use super::scene::Scene;
use super::visits::Visits;
use crate::call::{AttemptResult, CelEvent, HungUpBy, Outcome, QueueOutcome, Timestamp};

/// Who ended the caller's side. `None` while it is up, or where nothing tells.
pub(super) fn hung_up_by(scene: &Scene<'_>, media: &Media<'_>, caller: usize) -> Option<HungUpBy> {
    let chan = &scene.chans[caller];
    let end = chan.end?;
    if outlived_source(scene, caller) {
        // the dialplan's own end shows; a caller who hung up then is named by no row
        let by_dialplan = ["Hangup", "Busy", "Congestion"].iter().any(|a| chan.last_app.eq_ignore_ascii_case(a));
        return by_dialplan.then_some(HungUpBy::Pbx);
    }
    if let Some(by) = named_source(scene, caller, caller) {
        return Some(by);
    }
    if gave_up(scene, caller) {
        return Some(HungUpBy::Caller);
    }
    // whoever was let go before the caller's `h` extension ran left with the caller as well
    let with_caller = |t: Timestamp| scene.same_instant(t, end) || scene.same_instant(t, chan.went());
    // Local channels keep the far side's source from the caller: whoever ended in the same instant may know it
    let mut told = chan.hangup_told;
    for (i, other) in scene.chans.iter().enumerate() {
        if i == caller || !other.end.is_some_and(with_caller) {
            continue;
        }
        told |= other.hangup_told;
        let met = media.contacts.iter().any(|c| c.with == i);
        if (met || !other.is_real())
            && let Some(by) = named_source(scene, i, caller)
        {
            return Some(by);
        }
    }
    // whoever transfers a call away leaves it by that
    let transfers = |e: &super::scene::Event<'_>| {
        matches!(e.row.event, CelEvent::BlindTransfer | CelEvent::AttendedTransfer) && with_caller(e.t)
    };
    if scene.events_of(caller).any(transfers) {
        return Some(HungUpBy::Caller);
    }
    // so does whoever is gone while the party it was connected with goes on, where transfers are not logged
    let goes_on = |c: &Contact| {
        let with = &scene.chans[c.with];
        // unless it was taken away to an extension of its own: where transfers are logged, that was not the caller
        let taken = |v: &Visit<'_>| {
            let moved = v.exten_in.is_empty() && !v.exten_out.is_empty();
            v.ch == c.with && v.left && moved && scene.rich_events && with_caller(v.span.to)
        };
        !media.visits.iter().any(taken) && with_caller(c.span.to) && with.gone() > end && !with_caller(with.gone())
    };
    if media.contacts.iter().any(goes_on) {
        return Some(HungUpBy::Caller);
    }
    if told {
        // nobody is named anywhere: the PBX took it down
        return Some(HungUpBy::Pbx);
    }
    by_order(scene, media, caller)
}

/// The source that is named first stays: a caller who goes on in the dialplan after its callee has hung up keeps the
/// callee's name to its own end.
fn outlived_source(scene: &Scene<'_>, caller: usize) -> bool {
    let chan = &scene.chans[caller];
    let named = scene.by_name(&chan.hangup_source, chan.gone()).filter(|&by| by != caller);
    let over = named.and_then(|by| scene.chans[by].end);
    over.is_some_and(|e| chan.last_app_start >= Some(e) && !scene.same_instant(e, chan.went()))
}

/// What the hangup of `ch` says of its source.
fn named_source(scene: &Scene<'_>, ch: usize, caller: usize) -> Option<HungUpBy> {
    let source = scene.chans[ch].hangup_source.as_ref();
    if source.is_empty() {
        return None;
    }
    if source.starts_with("dialplan/") {
        // the far dialplan's hangup of a Local channel is not the end of the caller's
        return (ch == caller).then_some(HungUpBy::Pbx);
    }
    if scene.chans[caller].is_named(source) {
        return Some(if refused_by_dialplan(scene, caller) { HungUpBy::Pbx } else { HungUpBy::Caller });
    }
    let by = scene.by_name(source, scene.chans[ch].gone())?;
    scene.chans[by].is_real().then_some(HungUpBy::Callee)
}

/// Old versions tell no source: whoever left their last bridge first; without one, a caller who left while a device
/// was ringing or an application was waiting.
fn by_order(scene: &Scene<'_>, media: &Media<'_>, caller: usize) -> Option<HungUpBy> {
    let chan = &scene.chans[caller];
    if let Some(last) = last_contact(media) {
        let exit = |ch: usize| media.visits.iter().rfind(|v| v.ch == ch && v.left).map(|v| v.span.to);
        return match (exit(caller), exit(last.with)) {
            (Some(own), Some(other)) if own < other => Some(HungUpBy::Caller),
            (Some(own), Some(other)) if other < own => Some(HungUpBy::Callee),
            _ => None,
        };
    }
    let rings = scene.chans.iter().any(|c| c.dialled && c.end.is_some_and(|e| scene.same_instant(e, chan.went())));
    rings.then_some(HungUpBy::Caller)
}

pub(super) fn last_contact<'m>(media: &'m Media<'_>) -> Option<&'m Contact> {
    media.contacts.iter().max_by_key(|c| (c.span.to, c.span.from))
}

/// What the outcome is read from.
pub(super) struct Ended<'s, 'a> {
    pub scene: &'s Scene<'a>,
    pub runs: &'s [AppRun<'a>],
    pub media: &'s Media<'a>,
    pub visits: &'s Visits,
    pub tried: &'s [Tried],
    pub caller: usize,
    pub by: Option<HungUpBy>,
}

/// The outcome; `None` while nothing is decided. `ended`: every channel is gone.
pub(super) fn outcome(call: &Ended<'_, '_>, ended: bool) -> Option<Outcome> {
    let Ended { scene, runs, media, visits, tried, caller, by } = *call;
    let chan = &scene.chans[caller];
    if !media.contacts.is_empty() || !visits.meetings.is_empty() {
        return Some(Outcome::Answered);
    }
    if !visits.applications.is_empty() && tried.is_empty() && visits.queues.is_empty() && visits.menus.is_empty() {
        let service = scene.rules.applications_self_service;
        return Some(if service { Outcome::SelfService } else { Outcome::Answered });
    }
    if !visits.mailboxes.is_empty() {
        return Some(Outcome::Voicemail);
    }
    if !ended || !chan.is_real() {
        return (ended && chan.answer.is_some()).then_some(Outcome::SelfService);
    }
    if by == Some(HungUpBy::Caller) {
        let in_queue = visits.queues.last().is_some_and(|q| q.outcome == QueueOutcome::Abandoned);
        let rings = tried.iter().any(|t| t.result == AttemptResult::Cancelled);
        let in_menu = visits.menus.last().is_some_and(|m| scene.same_instant(m.span.to, chan.went()));
        if in_queue || rings || in_menu {
            return Some(Outcome::Abandoned);
        }
        if tried.is_empty() {
            let served = visits.retrieval || chan.answer.is_some() && visits.queues.is_empty();
            return Some(if served { Outcome::SelfService } else { Outcome::Abandoned });
        }
    }
    if let Some(outcome) = by_attempts(scene, tried) {
        return Some(outcome);
    }
    if visits.retrieval || !visits.menus.is_empty() {
        return Some(Outcome::SelfService);
    }
    if !visits.queues.is_empty() {
        return Some(Outcome::NoAnswer);
    }
    Some(without_attempts(scene, runs, caller))
}

/// The last device that was tried decides, among those that rang with it a waiting one before a refusing one.
fn by_attempts(scene: &Scene<'_>, tried: &[Tried]) -> Option<Outcome> {
    let last = tried.iter().max_by_key(|t| scene.chans[t.ch].first)?;
    let since = scene.chans[last.ch].first;
    let with_last = || tried.iter().filter(|t| t.ch == last.ch || t.rang_until > since).map(|t| t.result);
    let any = |wanted: &[AttemptResult]| with_last().any(|r| wanted.contains(&r));
    use AttemptResult as R;
    Some(if any(&[R::NoAnswer, R::Answered, R::AnsweredElsewhere]) {
        Outcome::NoAnswer
    } else if any(&[R::Cancelled]) {
        // the dialplan took the call away while it rang
        Outcome::NoAnswer
    } else if any(&[R::Busy]) {
        Outcome::Busy
    } else if any(&[R::Declined]) {
        Outcome::Declined
    } else {
        Outcome::Failed
    })
}

/// No device was made, or only the caller's own.
fn without_attempts(scene: &Scene<'_>, runs: &[AppRun<'_>], caller: usize) -> Outcome {
    let chan = &scene.chans[caller];
    if chan.dialled && chan.answer.is_none() {
        // an originate whose first phone was not answered
        return match chan.cause {
            Some(17) => Outcome::Busy,
            Some(21) => Outcome::Declined,
            Some(1..=3 | 20 | 27 | 34 | 38..=66) => Outcome::Failed,
            Some(code) if refused(chan, code) => Outcome::Failed,
            _ => Outcome::NoAnswer,
        };
    }
    if chan.dial_status == "BUSY" || chan.cause == Some(17) {
        return Outcome::Busy;
    }
    let refused =
        refused_by_dialplan(scene, caller) || chan.dial_status == "CHANUNAVAIL" || chan.dial_status == "CONGESTION";
    // a mailbox among them is one that was not there
    let dialled = runs.iter().any(|r| r.is(&["Dial", "VoiceMail"]));
    if refused || dialled || chan.answer.is_none() {
        return Outcome::Failed;
    }
    Outcome::SelfService
}
