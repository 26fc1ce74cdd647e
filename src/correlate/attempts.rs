//! Ring attempts: every device that was dialled, how long it rang and what came of it.

use super::causes::cause;
use super::dialling::root_dialler;
use super::media::Media;
use super::parties::party;
use super::scene::{Chan, HANGUP_EXTEN_MAX_US, Scene};
use crate::call::{Attempt, AttemptResult, Seconds, Timestamp};

/// Applications that keep a caller until it hangs up or they are done.
const HOLDING_APPS: &[&str] = &[
    "VoiceMail",
    "VoiceMailMain",
    "Queue",
    "Background",
    "WaitExten",
    "Read",
    "Playback",
    "ConfBridge",
    "MeetMe",
    "MusicOnHold",
    "Park",
    "Echo",
];

/// An attempt and whose it was.
pub(super) struct Tried {
    pub ch: usize,
    /// The channel on whose behalf it rang: caller, transferer …
    pub root: usize,
    pub rang_until: Timestamp,
    pub result: AttemptResult,
}

pub(super) fn attempts(scene: &Scene<'_>, media: &Media<'_>, caller: usize) -> Vec<Tried> {
    let dialled = (0..scene.chans.len()).filter(|&i| i != caller && scene.chans[i].dialled);
    dialled
        .map(|ch| {
            let root = root_dialler(scene, ch).unwrap_or(caller);
            let chan = &scene.chans[ch];
            let result = result(scene, media, ch, root);
            // somebody who answered but refused to confirm has not rung since either
            let rang = result == AttemptResult::AnsweredElsewhere;
            let answered = chan.answer.filter(|_| !rang);
            let rang_until = answered.unwrap_or_else(|| chan.gone()).max(chan.first);
            Tried { ch, root, rang_until, result }
        })
        .collect()
}

pub(super) fn document(scene: &Scene<'_>, tried: &Tried) -> Attempt {
    let chan = &scene.chans[tried.ch];
    Attempt {
        at: chan.first,
        party: party(scene, tried.ch),
        ring_s: ring(scene, tried),
        result: tried.result,
        cause: cause(own_cause(scene, tried.ch)),
    }
}

/// How long it rang. A device that rings still has no duration yet.
pub(super) fn ring(scene: &Scene<'_>, tried: &Tried) -> Option<Seconds> {
    let chan = &scene.chans[tried.ch];
    let over = chan.end.is_some() || chan.answer.is_some();
    over.then(|| tried.rang_until - chan.first)
}

fn result(scene: &Scene<'_>, media: &Media<'_>, ch: usize, root: usize) -> AttemptResult {
    use AttemptResult as R;
    let chan = &scene.chans[ch];
    if chan.picked_up_by.is_some() {
        return R::AnsweredElsewhere;
    }
    let connected = if scene.has_bridges { chan.bridged } else { media.contacts.iter().any(|c| c.with == ch) };
    if chan.answer.is_some() && connected || chan.bridged {
        return R::Answered;
    }
    match own_cause(scene, ch) {
        Some(26) => R::AnsweredElsewhere,
        Some(17) => R::Busy,
        Some(21) => R::Declined,
        Some(3 | 18 | 20 | 27) => R::Unreachable,
        Some(1 | 2 | 22 | 28..=30 | 34 | 38..=66 | 79 | 88 | 111) => R::Failed,
        Some(code) if refused(chan, code) => R::Failed,
        // a phone that sent the call elsewhere did not answer it
        Some(23) => R::NoAnswer,
        _ if scene.chans[root].dial_status == "CHANUNAVAIL" && chan.end.is_some() && chan.first == chan.gone() => {
            R::Unreachable
        }
        _ => unanswered(scene, ch, root),
    }
}

/// A device that was never answered and names itself as the source of its hangup has refused; those that were given up
/// name nobody. Any cause that does not tell how it refused is a failure.
pub(super) fn refused(chan: &Chan<'_>, code: i64) -> bool {
    chan.answer.is_none() && chan.is_named(&chan.hangup_source) && !matches!(code, 0 | 16..=21 | 23 | 26 | 27)
}

/// The device just stopped ringing: somebody else had answered, whoever had it rung gave up, or its time was over.
fn unanswered(scene: &Scene<'_>, ch: usize, root: usize) -> AttemptResult {
    let (chan, by) = (&scene.chans[ch], &scene.chans[root]);
    let Some(stopped) = chan.end else { return AttemptResult::NoAnswer };
    let sibling = |c: &super::scene::Chan<'_>| {
        c.dialled && c.first < stopped && c.answer.is_some_and(|a| scene.same_instant(a, stopped) && a > c.first)
    };
    // devices are let go when the application ends, those of a queue at times with the channel itself
    let root_gone = [by.end, by.went_at_end()].iter().flatten().any(|&e| scene.same_instant(e, stopped));
    // without ends of applications only the status of its last Dial tells that a hangup broke it off
    let broke_off = by.left_dialplan.is_some_and(|left| {
        let since = left.micros().saturating_sub(stopped.micros());
        by.dial_status == "CANCEL" && by.last_app_end.is_none() && (0..=HANGUP_EXTEN_MAX_US).contains(&since)
    });
    let root_gone = root_gone || broke_off;
    // whoever went on to another application waited until the time was over
    let went_on = by.last_app_start.is_some_and(|t| t > chan.first && t.plus_micros(50_000) >= stopped);
    if root_gone && !went_on && ended_itself(scene, root) {
        AttemptResult::Cancelled
    } else if !root_gone
        && scene.chans.iter().enumerate().any(|(i, c)| i != ch && i != root && c.dialler == chan.dialler && sibling(c))
    {
        // rings without a told cause, stopped by a neighbour's answer
        AttemptResult::AnsweredElsewhere
    } else {
        AttemptResult::NoAnswer
    }
}

/// The channel ended by its own side's hand, not by the dialplan.
pub(super) fn ended_itself(scene: &Scene<'_>, ch: usize) -> bool {
    let chan = &scene.chans[ch];
    if chan.hangup_told {
        let own = chan.is_named(&chan.hangup_source) || gave_up(scene, ch);
        return own && !refused_by_dialplan(scene, ch);
    }
    // nothing was told: it ended while an application was still dialling
    !["Hangup", "Busy", "Congestion"].iter().any(|a| chan.last_app.eq_ignore_ascii_case(a))
}

/// Some drivers name no source ever. A Dial that ends with CANCEL was broken off by the hangup of its channel, unless that
/// is of another one before: what it rang stopped with it.
pub(super) fn gave_up(scene: &Scene<'_>, ch: usize) -> bool {
    let chan = &scene.chans[ch];
    let stopped = |(i, c): (usize, &Chan<'_>)| {
        c.dialled
            && c.answer.is_none()
            && c.end.is_some_and(|e| scene.same_instant(e, chan.went()) || scene.same_instant(e, chan.gone()))
            && !c.is_named(&c.hangup_source)
            && root_dialler(scene, i) == Some(ch)
    };
    chan.hangup_source.is_empty() && chan.dial_status == "CANCEL" && scene.chans.iter().enumerate().any(stopped)
}

/// The cause a device gave. Those that still ring when the dialler gives up end with the cause an earlier one refused
/// with; their hangup does not name them.
fn own_cause(scene: &Scene<'_>, ch: usize) -> Option<i64> {
    let chan = &scene.chans[ch];
    let by_itself = |c: &Chan<'_>| c.is_named(&c.hangup_source);
    if !chan.hangup_told || by_itself(chan) || chan.cause.is_none_or(|c| matches!(c, 16 | 26)) {
        return chan.cause;
    }
    let handed_on = |c: &Chan<'_>| {
        c.dialled && c.cause == chan.cause && by_itself(c) && c.gone() <= chan.gone() && c.answer.is_none()
    };
    let elder = scene.chans.iter().enumerate().any(|(i, c)| i != ch && handed_on(c));
    chan.cause.filter(|_| !elder)
}

/// Busy() and Congestion() name the channel itself as the source of its hangup; the cause gives them away. But a channel
/// keeps the cause of a device that refused also when it goes on to ring another one or to an application.
pub(super) fn refused_by_dialplan(scene: &Scene<'_>, ch: usize) -> bool {
    let chan = &scene.chans[ch];
    // of a channel that is up they only play their tone: whoever ends it then is who it says
    if chan.answer.is_some() || !matches!(chan.cause, Some(17 | 34 | 42)) {
        return false;
    }
    if ["Busy", "Congestion"].iter().any(|a| chan.last_app.eq_ignore_ascii_case(a)) {
        return true;
    }
    let end = chan.went();
    let ran_until_the_end = HOLDING_APPS.iter().any(|a| chan.last_app.eq_ignore_ascii_case(a))
        && chan.last_app_end.is_none_or(|e| Some(e) < chan.last_app_start || e == end);
    let still_rang = |(i, c): (usize, &Chan<'_>)| {
        c.dialled
            && c.answer.is_none()
            && c.end.is_some_and(|e| scene.same_instant(e, end))
            && !c.is_named(&c.hangup_source)
            && root_dialler(scene, i) == Some(ch)
    };
    !ran_until_the_end && !scene.chans.iter().enumerate().any(still_rang)
}
