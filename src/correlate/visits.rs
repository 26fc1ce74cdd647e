//! Where the caller was between people: queues, menus, mailboxes, conferences, applications.

use super::dialling::AppRun;
use super::media::{BridgeKind, Media, Span, is_conference_app};
use super::parties::known;
use super::scene::Scene;
use crate::call::{CelEvent, QueueOutcome, Timestamp};

pub(super) struct QueueStay {
    pub name: Option<String>,
    pub span: Span,
    pub outcome: QueueOutcome,
}

pub(super) struct Menu {
    pub context: Option<String>,
    pub span: Span,
    pub digits: Option<String>,
}

pub(super) struct Mailbox {
    pub mailbox: Option<String>,
    pub span: Span,
}

pub(super) struct Meeting {
    pub name: Option<String>,
    pub span: Span,
}

#[derive(Default)]
pub(super) struct Visits {
    pub queues: Vec<QueueStay>,
    pub menus: Vec<Menu>,
    pub mailboxes: Vec<Mailbox>,
    pub meetings: Vec<Meeting>,
    /// Applications that speak with callers by themselves.
    pub applications: Vec<(String, Span)>,
    /// Checking one's own mailbox.
    pub retrieval: bool,
}

const MENU_APPS: &[&str] = &["Background", "BackgroundDetect", "Read", "WaitExten"];
/// What may run within a menu without leaving it.
const MENU_COMPANIONS: &[&str] = &[
    "Playback",
    "Answer",
    "Wait",
    "Progress",
    "Ringing",
    "NoOp",
    "Verbose",
    "Set",
    "MSet",
    "Goto",
    "GotoIf",
    "GotoIfTime",
    "Gosub",
    "GosubIf",
    "Return",
    "Macro",
    "SayDigits",
    "SayNumber",
    "SayAlpha",
    "SayPhonetic",
    "ExecIf",
    "Log",
    "CELGenUserEvent",
    "UserEvent",
    "AGI",
    "MixMonitor",
    "StopMixMonitor",
    "ResetCDR",
    "ForkCDR",
    "System",
    "Exec",
];
/// Applications a caller speaks with. AGI also looks things up in passing, so it counts only when it takes its time.
const TALKING_APPS: &[&str] =
    &["Stasis", "AudioSocket", "ExternalIVR", "ExternalMedia", "AGI", "EAGI", "DeadAGI", "FastAGI", "AsyncAGI"];
const AGI_MIN_US: i64 = 2_000_000;
/// No prompt of a mailbox is shorter.
const GREETING_MIN_US: i64 = 150_000;

/// Reads the visits of the caller. `side` are the channels that lead the caller's call through the dialplan: its own
/// and the second halves of Local pairs that it dialled or that carry it.
pub(super) fn visits(scene: &Scene<'_>, runs: &[AppRun<'_>], media: &Media<'_>, caller: usize) -> Visits {
    let mut visits = Visits::default();
    let on_side = |r: &&AppRun<'_>| is_callers_side(scene, r.ch, caller);
    for run in runs.iter().filter(on_side) {
        let span = Span { from: run.start, to: run.end.max(run.start) };
        if run.is(&["Queue"]) {
            visits.queues.push(queue(scene, media, run, caller));
        } else if run.is(&["VoiceMail"]) {
            if turned_away(run) {
                continue;
            }
            let mailbox = run.first_arg().split(['&', '@']).next().unwrap_or("");
            visits.mailboxes.push(Mailbox { mailbox: known(mailbox), span });
        } else if run.is(&["VoiceMailMain"]) {
            visits.retrieval = true;
        } else if is_conference_app(run.name) {
            visits.meetings.push(Meeting { name: known(run.first_arg()), span });
        } else if run.is(TALKING_APPS) && scene.chans[run.ch].answer.is_some_and(|a| a <= span.to) {
            let long = span.to.micros().saturating_sub(span.from.micros()) >= AGI_MIN_US;
            if long || run.is(&["Stasis", "AudioSocket", "ExternalMedia"]) {
                visits.applications.push((run.name.to_owned(), span));
            }
        }
    }
    meetings_by_bridge(scene, media, caller, &mut visits.meetings);
    // ConfBridge turned the caller away, at its PIN for one: where details are JSON (Asterisk 12 and later) it logs a bridge
    if !scene.has_bridges && scene.json_details {
        let bridged = |m: &Meeting| !runs.iter().any(|r| r.is(&["ConfBridge"]) && r.start == m.span.from);
        visits.meetings.retain(bridged);
    }
    visits.menus = menus(scene, runs, caller);
    visits
}

/// A mailbox that is not there lets nobody in: the dialplan goes on at once, before any greeting could be heard.
fn turned_away(run: &AppRun<'_>) -> bool {
    run.left && run.end.micros().saturating_sub(run.start.micros()) < GREETING_MIN_US
}

pub(super) fn is_callers_side(scene: &Scene<'_>, ch: usize, caller: usize) -> bool {
    if ch == caller {
        return true;
    }
    // a Local pair between the caller and the dialplan: dialled by the caller, or by which it was called back
    let chan = &scene.chans[ch];
    let first_pair = || scene.chans[0].local != 0 && (ch == 0 || scene.chans[0].mate == Some(ch));
    match chan.local {
        2 => chan.mate.is_some_and(|one| super::dialling::root_dialler(scene, one) == Some(caller)) || first_pair(),
        1 => first_pair(),
        _ => false,
    }
}

fn queue(scene: &Scene<'_>, media: &Media<'_>, run: &AppRun<'_>, caller: usize) -> QueueStay {
    // an announcement, a second queue and the caller's end all end the wait; so does the first person
    let met = media.contacts.iter().find(|c| c.span.from >= run.start && c.span.from <= run.end);
    let until = met.map_or(run.end, |c| c.span.from).max(run.start);
    let chan = &scene.chans[caller];
    let hung_up = chan.went_at_end().is_some_and(|e| !run.left && scene.same_instant(e, run.end));
    let waited_us = until.micros().saturating_sub(run.start.micros());
    let limit_us = run.arg(4).parse::<i64>().ok().and_then(|s| s.checked_mul(1_000_000));
    let outcome = if met.is_some() {
        QueueOutcome::Answered
    } else if hung_up {
        if super::attempts::ended_itself(scene, caller) { QueueOutcome::Abandoned } else { QueueOutcome::Unknown }
    } else if limit_us.is_some_and(|l| waited_us.saturating_add(1_500_000) >= l) {
        QueueOutcome::Timeout
    } else if pressed_key(scene, run.ch, run.end) {
        QueueOutcome::ExitedByKey
    } else {
        way_out(scene, run, waited_us)
    };
    QueueStay { name: known(run.first_arg()), span: Span { from: run.start, to: until }, outcome }
}

/// A queue that lets a caller in and out again within this, microseconds, has not let them in.
const LET_IN_US: i64 = 1_000_000;

/// Neither a person, nor time, nor the caller ended the wait, and the dialplan goes on. `app_queue` goes to the extension of
/// the key that was pressed before it returns, and a redirect moves the channel, so the row of the end shows where to.
fn way_out(scene: &Scene<'_>, run: &AppRun<'_>, waited_us: i64) -> QueueOutcome {
    let place = |event: CelEvent, at: Timestamp| {
        let mut rows = scene.events_of(run.ch).filter(|e| e.t == at).map(|e| e.row);
        let row = rows.find(|r| r.event == event && r.appname.as_str() == run.name)?;
        Some((row.context.as_str(), row.exten.as_str()))
    };
    let (Some(before), Some(after)) = (place(CelEvent::AppStart, run.start), place(CelEvent::AppEnd, run.end)) else {
        return QueueOutcome::Unknown;
    };
    if before != after {
        let is_key = matches!(after.1.as_bytes(), [b'0'..=b'9' | b'*' | b'#']);
        return if is_key { QueueOutcome::ExitedByKey } else { QueueOutcome::Transferred };
    }
    if waited_us < LET_IN_US {
        // empty or full: no row says which
        QueueOutcome::Unknown
    } else if run.arg(1).contains('n') {
        // one round of the members, and no more
        QueueOutcome::Timeout
    } else {
        QueueOutcome::LeaveEmpty
    }
}

fn pressed_key(scene: &Scene<'_>, ch: usize, t: Timestamp) -> bool {
    scene.events_of(ch).any(|e| e.row.event == CelEvent::Dtmf && e.t <= t && e.t.plus_micros(1_000_000) >= t)
}

/// Conferences whose application was not logged show in the bridge.
fn meetings_by_bridge(scene: &Scene<'_>, media: &Media<'_>, caller: usize, meetings: &mut Vec<Meeting>) {
    for visit in media.visits.iter().filter(|v| v.ch == caller && v.kind == BridgeKind::Conference) {
        match meetings.iter_mut().find(|m| m.span.from <= visit.span.from && m.span.to >= visit.span.from) {
            // the caller is in it once the greeting is over
            Some(known) => known.span = visit.span,
            None => {
                let row = scene.events_of(caller).find(|e| e.t == visit.span.from && !e.row.appdata.is_empty());
                let name = row.and_then(|e| known(e.row.appdata.split([',', '|']).next().unwrap_or("")));
                meetings.push(Meeting { name, span: visit.span });
            }
        }
    }
    // an application that never got the caller into the bridge was no meeting
    if scene.has_bridges {
        let joined = |m: &Meeting| {
            media.visits.iter().any(|v| v.ch == caller && v.kind == BridgeKind::Conference && v.span == m.span)
        };
        meetings.retain(joined);
    }
    meetings.sort_by_key(|m| m.span.from);
}

/// From the first prompt until the dialplan leaves the menu, digit timeouts included.
fn menus(scene: &Scene<'_>, runs: &[AppRun<'_>], caller: usize) -> Vec<Menu> {
    let own = || runs.iter().filter(|r| r.ch == caller);
    let mut menus: Vec<Menu> = Vec::new();
    let mut open: Option<(Timestamp, Option<String>)> = None;
    for run in own() {
        if run.is(MENU_APPS) {
            let context = context_at(scene, caller, run.start);
            // a menu that leads to another one ends where that begins
            if let Some((from, left)) = open.take_if(|(_, before)| *before != context) {
                menus.push(menu(scene, caller, left, Span { from, to: run.start }));
            }
            open.get_or_insert((run.start, context));
        } else if !run.is(MENU_COMPANIONS)
            && let Some((from, context)) = open.take()
        {
            menus.push(menu(scene, caller, context, Span { from, to: run.start }));
        }
    }
    let logged = !menus.is_empty() || open.is_some();
    if let Some((from, context)) = open {
        // no application followed: until a device is dialled, or until the end
        let rung = scene.chans.iter().filter(|c| c.dialled && c.first > from).map(|c| c.first).min();
        let to = rung.unwrap_or_else(|| scene.chans[caller].went()).max(from);
        menus.push(menu(scene, caller, context, Span { from, to }));
    }
    if !logged {
        menus.extend(menu_by_context(scene, caller));
    }
    menus
}

fn menu(scene: &Scene<'_>, caller: usize, context: Option<String>, span: Span) -> Menu {
    let pressed =
        scene.events_of(caller).filter(|e| e.row.event == CelEvent::Dtmf && e.t >= span.from && e.t <= span.to);
    let digits: String = pressed.filter_map(|e| super::extra::get(&e.row.extra, "digit")).collect();
    Menu { context, span, digits: known(&digits) }
}

fn context_at(scene: &Scene<'_>, ch: usize, t: Timestamp) -> Option<String> {
    scene.events_of(ch).find(|e| e.t >= t && !e.row.context.is_empty()).and_then(|e| known(&e.row.context))
}

/// FreePBX logs no menu applications; its menus are contexts named `ivr-<n>`.
fn menu_by_context(scene: &Scene<'_>, caller: usize) -> Option<Menu> {
    let is_menu =
        |c: &str| c.strip_prefix("ivr-").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let first = scene.events_of(caller).find(|e| is_menu(&e.row.context))?;
    let left = scene.events_of(caller).find(|e| e.t > first.t && !is_menu(&e.row.context)).map(|e| e.t);
    let rung = scene.chans.iter().filter(|c| c.dialled && c.first > first.t).map(|c| c.first).min();
    let to = [left, rung].into_iter().flatten().min().unwrap_or_else(|| scene.chans[caller].went());
    Some(menu(scene, caller, known(&first.row.context), Span { from: first.t, to: to.max(first.t) }))
}
