//! Puts the content of one call together from what the other modules read in its rows.

use super::attempts::{self, Tried};
use super::causes::cause;
use super::completion::{Grace, Progress, Verdict};
use super::dialling::{self, AppRun};
use super::ending;
use super::handoffs::{Course, Handoffs, handoffs};
use super::journey;
use super::media::{self, Media};
use super::parties;
use super::records;
use super::scene::Scene;
use super::visits::{self, Visits};
use super::{CallRows, Marks, Rules, Zone, cdr_only, ids, labels};
use crate::call::{
    AttemptResult, CallState, CelEvent, Content, Direction, Incomplete, Leg, LegRole, Outcome, Party, PartyKind,
    QueueVisit, RowCounts, Seconds, Timestamp,
};

/// Builds the content of one call.
pub fn build(rows: &CallRows, rules: &Rules, zone: &Zone, marks: &Marks) -> Content {
    let own = if rules.zone_read_off { zone.own_of(rows) } else { None };
    let mut scene = Scene::new(rows, rules, own.as_ref().unwrap_or(zone));
    let mut content = empty(rows, &scene, marks);
    content.rows = RowCounts { cel: scene.cel_rows, cdr: scene.cdr_rows };
    content.incomplete = incomplete(&scene, rules, marks, content.state);
    match parties::caller(&scene) {
        Some(caller) => from_events(&mut scene, caller, marks, &mut content),
        None => cdr_only::fill(&scene, &mut content),
    }
    let caller = parties::caller(&scene);
    let found = records::labels(&scene, caller);
    content.accountcode = found.accountcode;
    content.userfield = found.userfield;
    content.amaflags = found.amaflags;
    labels::fill(&scene, caller, &mut content);
    content
}

/// Identity and state; everything else unknown.
fn empty(rows: &CallRows, scene: &Scene<'_>, marks: &Marks) -> Content {
    let mut linkedids = linkedids(rows);
    linkedids.sort_by(|a, b| ids::compare(a, b));
    linkedids.dedup();
    let state = if marks.pbx_restart || marks.timeout || has_ended(scene) {
        CallState::Completed
    } else {
        CallState::InProgress
    };
    Content {
        tenant: None,
        linkedid: linkedids.first().map(|l| (*l).to_owned()).unwrap_or_default(),
        linkedids: linkedids.into_iter().map(str::to_owned).collect(),
        state,
        incomplete: Vec::new(),
        direction: Direction::Unknown,
        forwarded_external: false,
        outcome: None,
        from: Party::default(),
        to: Party::default(),
        did: None,
        answered_by: None,
        finally_with: None,
        started_at: None,
        pbx_answered_at: None,
        answered_at: None,
        ended_at: None,
        duration_s: None,
        ring_s: None,
        wait_s: None,
        talk_s: None,
        hold_s: None,
        ivr_s: None,
        voicemail_s: None,
        hung_up_by: None,
        hangup_cause: None,
        trunk_in: None,
        trunk_out: None,
        queue: None,
        conference: None,
        transfers: Vec::new(),
        attempts: Vec::new(),
        journey: Vec::new(),
        legs: Vec::new(),
        recordings: Vec::new(),
        accountcode: None,
        userfield: None,
        amaflags: None,
        discrepancies: Vec::new(),
        rows: RowCounts::default(),
    }
}

/// Every linkedid of the rows (uniqueids where a table has none). The linkedid of a nailed-up channel, which is in the
/// call only through its bridges, is left out as long as there is another.
fn linkedids(rows: &CallRows) -> Vec<&str> {
    let cel = rows.cel.iter().filter(|r| !ids::is_service_channel(&r.channel));
    let cdr = rows.cdr.iter().filter(|r| !ids::is_service_channel(&r.channel));
    let pairs = || {
        let cel = cel.clone().map(|r| (r.linkedid.as_str(), r.uniqueid.as_str()));
        cel.chain(cdr.clone().map(|r| (r.linkedid.as_str(), r.uniqueid.as_str())))
    };
    let mut all: Vec<&str> = Vec::new();
    for (linkedid, uniqueid) in pairs() {
        let id = if linkedid.is_empty() { uniqueid } else { linkedid };
        if !id.is_empty() && all.last() != Some(&id) && !all.contains(&id) {
            all.push(id);
        }
    }
    if all.len() > 1 {
        let founders: Vec<&str> =
            cel.clone().filter(|r| r.event == CelEvent::ChanStart).map(|r| r.uniqueid.as_str()).collect();
        let guest = |l: &str| {
            !founders.contains(&l)
                && rows.cel.iter().any(|r| r.uniqueid == l)
                && rows
                    .cel
                    .iter()
                    .filter(|r| r.uniqueid == l)
                    .all(|r| matches!(r.event, CelEvent::BridgeEnter | CelEvent::BridgeExit))
        };
        let own: Vec<&str> = all.iter().copied().filter(|l| !guest(l)).collect();
        if own.iter().any(|l| founders.contains(l)) {
            return own;
        }
    }
    all
}

fn has_ended(scene: &Scene<'_>) -> bool {
    let lives = scene.chans.iter().filter(|c| c.seen).map(|c| (c.uniqueid(), &c.life));
    let ended = scene.events.iter().filter(|e| e.row.event == CelEvent::LinkedidEnd).map(|e| e.row.linkedid.as_str());
    let mut progress = Progress::of_lives(lives, ended);
    for record in &scene.records {
        progress.observe_record(record.row, record.start, record.end);
    }
    // whether a record is still to come does not keep it open
    let grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: true, has_cdr: false };
    progress.verdict(&grace) != Verdict::Open
}

fn incomplete(scene: &Scene<'_>, rules: &Rules, marks: &Marks, state: CallState) -> Vec<Incomplete> {
    let over = state == CallState::Completed && !marks.pbx_restart;
    let missing = [
        (marks.pbx_restart, Incomplete::PbxRestart),
        (marks.source_gap, Incomplete::SourceGap),
        (marks.timeout, Incomplete::Timeout),
        (over && rules.has_cdr && scene.records.is_empty() && scene.cel_rows > 0, Incomplete::CdrMissing),
        (rules.has_cel && scene.cel_rows == 0, Incomplete::CelMissing),
    ];
    missing.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect()
}

fn from_events<'a>(scene: &mut Scene<'a>, caller: usize, marks: &Marks, content: &mut Content) {
    let runs = dialling::app_runs(scene);
    dialling::find_diallers(scene, &runs);
    let scene = &*scene;
    let media = media::sweep(scene, caller);
    let tried = attempts::attempts(scene, &media, caller);
    let visits = visits::visits(scene, &runs, &media, caller);
    let handed = handoffs(&Course { scene, media: &media, tried: &tried, caller });
    let ended = content.state == CallState::Completed;

    who(scene, &runs, caller, content);
    when(scene, &runs, &media, &visits, caller, marks, content);
    content.conference = visits.meetings.iter().find_map(|m| m.name.clone());
    content.hung_up_by = ending::hung_up_by(scene, &media, caller);
    let by = content.hung_up_by;
    let end = ending::Ended { scene, runs: &runs, media: &media, visits: &visits, tried: &tried, caller, by };
    content.outcome = ending::outcome(&end, ended);
    content.transfers = handed.transfers.clone();
    answered(scene, &media, &visits, caller, content);
    content.ring_s = ring(scene, &tried, &handed, &media, content.answered_at);
    content.hangup_cause = hangup_cause(scene, &tried, caller, content.outcome);
    content.to.kind = to_kind(scene, &visits, &tried, content);
    content.queue = visits.queues.first().map(|q| QueueVisit {
        name: q.name.clone(),
        position: None,
        wait_s: Some(q.span.to - q.span.from),
        outcome: Some(q.outcome),
    });
    content.attempts = tried.iter().map(|t| attempts::document(scene, t)).collect();
    content.attempts.sort_by_key(|a| a.at);
    content.legs = legs(scene, &media, &tried, &handed, caller);
    content.recordings = records::recordings(scene, &runs);
    content.journey = journey::journey(scene, &media, &visits, &handed, caller, content);
    content.discrepancies = records::discrepancies(scene, &media, caller, content);
}

fn who(scene: &Scene<'_>, runs: &[AppRun<'_>], caller: usize, content: &mut Content) {
    let chan = &scene.chans[caller];
    let trunk_out = parties::trunk_out(scene, runs, caller);
    let number = parties::dialled_number(scene, caller);
    content.direction = parties::direction(scene, caller, trunk_out.is_some(), number.as_deref());
    content.from = parties::caller_party(scene, runs, caller, trunk_out.is_some());
    if content.direction == Direction::Inbound {
        content.trunk_in = chan.trunk.then(|| parties::known(chan.endpoint)).flatten();
        let did = scene.records.iter().find_map(|r| parties::known(&r.row.did));
        content.did = did.or_else(|| number.clone());
        content.forwarded_external = trunk_out.is_some();
        content.from.name = records::caller_name(scene, caller).or(content.from.name.take());
    }
    // an outside party that was called first went out through its own trunk
    let called_first = || (chan.trunk && chan.dialled).then(|| parties::known(chan.endpoint)).flatten();
    // it went out, also through one whose name the rows do not tell
    content.trunk_out = trunk_out.filter(|name| !name.is_empty()).or_else(called_first);
    content.to.number = number;
    if content.to.number.is_none() && parties::is_originate(scene, caller) {
        // the dialled number is in no row: the first device that was dialled stands for it
        let first = (0..scene.chans.len()).find(|&c| c != caller && scene.chans[c].dialled);
        if let Some(first) = first {
            content.to = parties::party(scene, first);
            content.to.channel = None;
        }
    }
}

fn when(
    scene: &Scene<'_>,
    runs: &[AppRun<'_>],
    media: &Media<'_>,
    visits: &Visits,
    caller: usize,
    marks: &Marks,
    content: &mut Content,
) {
    let chan = &scene.chans[caller];
    let sum =
        |us: Vec<i64>| (!us.is_empty()).then(|| Seconds::from_micros(us.into_iter().fold(0, i64::saturating_add)));
    let long = |s: &media::Span| s.to.micros().saturating_sub(s.from.micros());
    content.started_at = scene.chans.iter().filter(|c| c.is_real() || !chan.is_real()).map(|c| c.first).min();
    if scene.chans[0].local != 0 {
        // a Local pair that called the caller back began the call
        content.started_at = content.started_at.min(Some(scene.chans[0].first));
    }
    content.ended_at = caller_side_end(scene, caller);
    if content.ended_at.is_none() && marks.pbx_restart {
        content.ended_at = scene.events.last().map(|e| e.t);
    }
    if let (Some(start), Some(end)) = (content.started_at, content.ended_at) {
        content.duration_s = Some(end - start);
    }
    let talk = media.talk_spans();
    let meetings: Vec<media::Span> = visits.meetings.iter().map(|m| m.span).collect();
    let together = media::union(talk.iter().copied().chain(meetings).collect());
    let first_contact = together.first().map(|s| s.from);
    let (hold_s, held_us) = journey::hold_time(media, caller);
    content.hold_s = hold_s;
    if first_contact.is_some() {
        let talk = Seconds::from_micros(media::length(&together).saturating_sub(held_us).max(0));
        // rows with impossible times must not make a call talk for longer than it was
        content.talk_s = Some(content.duration_s.map_or(talk, |whole| talk.min(whole)));
    }
    content.answered_at = first_contact;
    content.pbx_answered_at = pbx_answer(scene, runs, visits, caller, first_contact);
    content.wait_s = sum(visits.queues.iter().map(|q| long(&q.span)).collect());
    content.ivr_s = sum(visits.menus.iter().map(|m| long(&m.span)).collect());
    content.voicemail_s = sum(visits.mailboxes.iter().map(|m| long(&m.span)).collect());
}

/// The caller's channel; a second line of the same phone in this call (a consultation) may outlast it.
fn caller_side_end(scene: &Scene<'_>, caller: usize) -> Option<Timestamp> {
    let chan = &scene.chans[caller];
    if !chan.is_real() {
        // nothing but Local channels: the last of them
        return if scene.chans.iter().all(|c| c.end.is_some()) {
            scene.chans.iter().filter_map(|c| c.end).max()
        } else {
            None
        };
    }
    let own = scene
        .chans
        .iter()
        .enumerate()
        .filter(|(i, c)| *i == caller || c.is_real() && !c.dialled && !c.trunk && c.endpoint == chan.endpoint);
    own.map(|(_, c)| c.end).try_fold(Timestamp::from_micros(i64::MIN), |latest, end| Some(latest.max(end?)))
}

/// The PBX itself answered: before any person, or without one.
fn pbx_answer(
    scene: &Scene<'_>,
    runs: &[AppRun<'_>],
    visits: &Visits,
    caller: usize,
    contact: Option<Timestamp>,
) -> Option<Timestamp> {
    let by_pbx = |e: &&super::scene::Event<'_>| {
        let app = e.row.appname.as_str();
        let passes_on =
            ["Dial", "AppDial", "AppDial2", "AppQueue", "FollowMe"].iter().any(|a| app.eq_ignore_ascii_case(a));
        let with_person = contact.is_some_and(|c| scene.same_instant(c, e.t) || c < e.t);
        let greets = visits.meetings.iter().any(|m| scene.same_instant(m.span.from, e.t));
        e.row.event == CelEvent::Answer && !passes_on && (!with_person || greets || app.eq_ignore_ascii_case("Answer"))
    };
    let at = scene.events_of(caller).find(by_pbx).map(|e| e.t);
    // through a Local pair the caller's own answer belongs to Dial, and the dialplan behind it has answered
    let through_local = || {
        let answer = scene.chans[caller].answer?;
        let alone = contact.is_none_or(|c| answer < c && !scene.same_instant(c, answer));
        let behind = |e: &&super::scene::Event<'_>| {
            scene.chans[e.ch].local == 2 && e.t <= answer && by_pbx(e) && visits::is_callers_side(scene, e.ch, caller)
        };
        (alone && scene.events.iter().any(|e| behind(&e))).then_some(answer)
    };
    let at = at.or_else(through_local);
    // a mailbox that was reached has answered, also where the row of it is missing
    at.or_else(|| {
        let reached = runs.iter().find(|r| r.ch == caller && r.is(&["VoiceMail"]))?;
        scene.chans[caller].answer.filter(|a| *a >= reached.start)
    })
}

fn answered(scene: &Scene<'_>, media: &Media<'_>, visits: &Visits, caller: usize, content: &mut Content) {
    let meeting = visits.meetings.first().map(|m| m.span.from);
    let first = media.contacts.first().filter(|c| c.with != caller);
    let last = ending::last_contact(media).filter(|c| c.with != caller);
    // a caller who was sent on to the conference reached it under the number of that transfer
    let sent_to = |at: Timestamp| content.transfers.iter().rfind(|t| t.at <= at && t.to.endpoint.is_none());
    let conference = |at: Timestamp| {
        let mut party = journey::conference_party(content);
        if let Some(number) = sent_to(at).and_then(|t| t.to.number.clone()) {
            party.number = Some(number);
        }
        party
    };
    let last_meeting = visits.meetings.last().map(|m| conference(m.span.from));
    if let Some(at) = meeting.filter(|at| first.is_none_or(|c| c.span.from >= *at)) {
        content.answered_by = Some(conference(at));
    } else if let Some(contact) = first {
        content.answered_by = Some(parties::party(scene, contact.with));
    } else if let (Some((name, span)), Some(Outcome::Answered)) = (visits.applications.first(), content.outcome) {
        content.answered_at = Some(span.from);
        let number = content.to.number.clone();
        content.answered_by =
            Some(Party { number, name: Some(name.clone()), kind: Some(PartyKind::Application), ..Party::default() });
    }
    let meets_last = visits.meetings.last().is_some_and(|m| last.is_none_or(|c| m.span.to >= c.span.to));
    content.finally_with = if meets_last {
        last_meeting
    } else {
        last.map(|c| parties::party(scene, c.with)).or_else(|| content.answered_by.clone())
    };
}

/// How long the device that answered rang; picked up elsewhere: the device that was picked up; nobody: the longest.
fn ring(
    scene: &Scene<'_>,
    tried: &[Tried],
    handed: &Handoffs,
    media: &Media<'_>,
    answered_at: Option<Timestamp>,
) -> Option<Seconds> {
    let of = |ch: usize| tried.iter().find(|t| t.ch == ch).and_then(|t| attempts::ring(scene, t));
    if let Some(first) = media.contacts.first() {
        let picked = handed.pickups.iter().find(|(_, by)| *by == first.with).map(|(from, _)| *from);
        if let Some(ring) = of(first.with).or_else(|| picked.and_then(of)) {
            return Some(ring);
        }
    }
    // an unlogged pickup: what rang until then
    let ringing = |t: &&Tried| answered_at.is_none_or(|at| scene.same_instant(t.rang_until, at));
    tried.iter().filter(ringing).filter_map(|t| attempts::ring(scene, t)).max()
}

/// The caller's own cause; of a call that could not be set up, the cause of the device that could not be reached.
fn hangup_cause(
    scene: &Scene<'_>,
    tried: &[Tried],
    caller: usize,
    outcome: Option<Outcome>,
) -> Option<crate::call::Cause> {
    let wanted = match outcome {
        Some(Outcome::Busy) => Some(AttemptResult::Busy),
        Some(Outcome::Declined) => Some(AttemptResult::Declined),
        Some(Outcome::Failed) => Some(AttemptResult::Failed),
        _ => None,
    };
    let last = wanted.and_then(|w| tried.iter().rev().find(|t| t.result == w));
    last.and_then(|t| cause(scene.chans[t.ch].cause)).or_else(|| cause(scene.chans[caller].cause))
}

/// What stands behind the dialled number.
fn to_kind(scene: &Scene<'_>, visits: &Visits, tried: &[Tried], content: &Content) -> Option<PartyKind> {
    if content.to.kind.is_some() {
        return content.to.kind;
    }
    let number = content.to.number.as_deref()?;
    if content.direction == Direction::Outbound && content.trunk_out.is_some() {
        return Some(PartyKind::External);
    }
    let first_ring = tried.iter().map(|t| scene.chans[t.ch].first).min();
    let before_ring = |at: Timestamp| first_ring.is_none_or(|r| at <= r);
    if visits.meetings.first().is_some_and(|m| before_ring(m.span.from)) {
        return Some(PartyKind::Conference);
    }
    if visits.menus.first().is_some_and(|m| before_ring(m.span.from)) {
        return Some(PartyKind::Ivr);
    }
    if visits.queues.first().is_some_and(|q| before_ring(q.span.from)) {
        return Some(PartyKind::Queue);
    }
    if !visits.mailboxes.is_empty() && tried.is_empty() {
        return Some(PartyKind::Voicemail);
    }
    if !visits.applications.is_empty() && tried.is_empty() {
        return Some(PartyKind::Application);
    }
    let extension = |t: &Tried| parties::party(scene, t.ch).number.as_deref() == Some(number);
    tried.iter().any(extension).then_some(PartyKind::Extension)
}

fn legs(scene: &Scene<'_>, media: &Media<'_>, tried: &[Tried], handed: &Handoffs, caller: usize) -> Vec<Leg> {
    // without a logged handoff whoever spoke with the caller was called
    let nothing_handed = handed.pickups.is_empty() && handed.transfers.is_empty();
    let met = |ch: usize| nothing_handed && media.contacts.iter().any(|c| c.with == ch);
    let role = |ch: usize| {
        if ch == caller {
            LegRole::Caller
        } else if handed.transferers.contains(&ch) {
            LegRole::Transferer
        } else if handed.retrievers.contains(&ch) {
            LegRole::Retriever
        } else if handed.targets.contains(&ch) {
            LegRole::Target
        } else if tried.iter().any(|t| t.ch == ch) || handed.pickups.iter().any(|(_, by)| *by == ch) || met(ch) {
            LegRole::Callee
        } else {
            LegRole::Participant
        }
    };
    let real = scene.chans.iter().enumerate().filter(|(_, c)| c.is_real());
    let mut legs: Vec<Leg> = real
        .map(|(ch, c)| {
            let party = parties::party(scene, ch);
            Leg {
                uniqueid: parties::known(c.id),
                channel: party.channel,
                endpoint: party.endpoint,
                number: party.number,
                name: party.name,
                role: role(ch),
                started_at: Some(c.first),
                answered_at: c.answer,
                ended_at: c.end,
                cause: cause(c.cause),
            }
        })
        .collect();
    legs.sort_by_key(|l| l.started_at);
    legs
}
