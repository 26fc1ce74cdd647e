//! The promises of the correlator, for any rows.

use std::collections::BTreeMap;

use callferry::call::{CelEvent, Content, Outcome, Row, Seconds, StepKind};
use callferry::correlate::batch::correlate_all;
use callferry::correlate::completion::{Grace, Progress, Verdict};
use callferry::correlate::group::{GroupId, Grouper, partition};
use callferry::correlate::{CallRows, Marks, Rules, Zone, build, explain};

pub const ZONE: Zone = Zone::Named(chrono_tz::Europe::Prague);
const GRACE: Grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: true, has_cdr: true };

fn rules(has_cel: bool) -> Rules {
    Rules { trunks: vec!["trunk*".to_owned()], has_cel, ..Rules::default() }
}

/// Any order, repetition and splitting of arrival gives the same calls; each of them is sound.
pub fn keep(rows: &[Row], has_cel: bool, seed: u64) {
    let rules = rules(has_cel);
    let told = arrive(rows, &rules, usize::MAX);
    let mixed = scramble(rows, seed);
    assert_eq!(told, arrive(&mixed, &rules, 3 + (seed % 13) as usize), "order or repetition changes a call");
    let batch = correlate_all(rows.to_vec(), &rules, &ZONE);
    let again = correlate_all(mixed, &rules, &ZONE);
    assert_eq!(batch.calls, again.calls, "order or repetition changes a call of a file");
    assert!(batch.calls.len() <= rows.len(), "more calls than rows");
    for call in &batch.calls {
        sound(call, rows.len());
    }
}

/// Rows as they arrive, through the steps an agent takes, with a look at every call after each `window`; in the end the
/// calls as JSON.
fn arrive(rows: &[Row], rules: &Rules, window: usize) -> Vec<String> {
    let mut grouper = if rules.has_cel { Grouper::default() } else { Grouper::cdr_only() };
    let mut groups: BTreeMap<GroupId, (Vec<Row>, Progress)> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        let Ok(Some(joined)) = grouper.add(row) else { continue };
        let mut held = groups.remove(&joined.group).unwrap_or_default();
        for gone in &joined.absorbed {
            let Some((rows, seen)) = groups.remove(gone) else { continue };
            held.0.extend(rows);
            held.1.absorb(seen);
        }
        held.1.observe(row, &ZONE);
        held.0.push(row.clone());
        if i % window == window - 1 {
            sound(&build(&CallRows::of(&held.0), rules, &ZONE, &Marks::default()), held.0.len());
        }
        groups.insert(joined.group, held);
    }
    let mut calls = Vec::new();
    for (group, (members, progress)) in groups {
        for part in partition(&members) {
            let rows = CallRows::of(part.iter().map(|&i| &members[i]));
            let content = build(&rows, rules, &ZONE, &Marks::default());
            let json = serde_json::to_string(&content).expect("content is JSON");
            calls.push(format!("{json} open={}", progress.verdict(&GRACE) == Verdict::Open));
        }
        grouper.forget(group);
    }
    assert!(grouper.is_empty(), "every group can be forgotten");
    calls.sort();
    calls
}

/// A permutation with repetitions that `seed` decides.
fn scramble(rows: &[Row], seed: u64) -> Vec<Row> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut mixed: Vec<Row> = rows.to_vec();
    // a digit without a row id may truly occur twice
    let keyed = |row: &&Row| !matches!(row, Row::Cel(r) if r.event == CelEvent::Dtmf && r.id.is_none());
    mixed.extend(rows.iter().filter(keyed).filter(|_| rng.u8(..) < 80).cloned());
    rng.shuffle(&mut mixed);
    mixed
}

/// What one document may say.
fn sound(call: &Content, rows: usize) {
    assert!(call.journey.len() <= rows * 4 + 8, "{} steps of {rows} rows", call.journey.len());
    assert!(call.legs.len() <= rows * 2 && call.attempts.len() <= rows, "legs and attempts of {rows} rows");
    assert!(call.transfers.len() <= rows && call.recordings.len() <= rows * 2, "transfers of {rows} rows");
    assert!(call.journey.is_sorted_by_key(|s| s.at), "the journey is in order of time");
    assert!(call.linkedids.first().is_none_or(|l| *l == call.linkedid), "the least linkedid is the call's");
    if let (Some(started), Some(ended)) = (call.started_at, call.ended_at) {
        assert!(started <= ended, "ended {ended} before it started {started}");
        assert_eq!(call.duration_s, Some(ended - started), "the whole call");
    }
    if let (Some(started), Some(answered)) = (call.started_at, call.answered_at) {
        assert!(started <= answered, "answered {answered} before it started {started}");
    }
    if call.outcome == Some(Outcome::Answered) {
        assert!(call.answered_at.is_some(), "answered at some time");
    }
    let times = [call.duration_s, call.ring_s, call.wait_s, call.talk_s, call.hold_s, call.ivr_s, call.voicemail_s];
    let consulted = call.transfers.iter().map(|t| t.consult_s);
    let rang = call.attempts.iter().map(|a| a.ring_s);
    let stays = call.journey.iter().map(|s| match &s.what {
        StepKind::Ring { duration_s, .. }
        | StepKind::Ivr { duration_s, .. }
        | StepKind::Voicemail { duration_s, .. } => *duration_s,
        _ => None,
    });
    for time in times.into_iter().chain(consulted).chain(rang).chain(stays).flatten() {
        assert!(time.millis() >= 0, "a negative duration");
    }
    let longer =
        |part: Option<Seconds>| part.zip(call.duration_s).is_some_and(|(p, whole)| p.millis() > whole.millis());
    assert!(!longer(call.talk_s), "talked {:?} of {:?}", call.talk_s, call.duration_s);
    for leg in &call.legs {
        if let (Some(from), Some(to)) = (leg.started_at, leg.ended_at) {
            assert!(from <= to, "a leg ends before it starts");
        }
    }
    let json = serde_json::to_value(call).expect("content is JSON");
    assert!(!has_empty_text(&json), "an empty text: {json}");
    assert_eq!(serde_json::from_value::<Content>(json).ok().as_ref(), Some(call), "the document can be read back");
    assert!(!explain::one_line(call).chars().any(char::is_control), "a control character reaches the terminal");
}

fn has_empty_text(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::String(s) => s.is_empty(),
        serde_json::Value::Array(list) => list.iter().any(has_empty_text),
        serde_json::Value::Object(o) => o.values().any(has_empty_text),
        _ => false,
    }
}
