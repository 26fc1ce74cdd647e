//! The story of one call as text: which row was read as what, the journey, and where CDR and CEL disagree. Names and
//! numbers come from strangers: whatever could steer a terminal is shown escaped.

use std::fmt::Write;

use super::attempts;
use super::dialling;
use super::ladder::Ladder;
use super::media;
use super::parties;
use super::reading::Reader;
use super::scene::{Record, Scene};
use super::{CallRows, Marks, Rules, Zone, build, labels, suppressed};
use crate::call::{Content, HungUpBy, Party, Seconds, Step, StepKind, Timestamp};
use crate::printable;

/// Text that is safe on a terminal.
pub fn clean(text: &str) -> String {
    printable::clean(text).into_owned()
}

/// One readable line: time (UTC), direction, from → to, the journey in a few words, outcome, durations.
pub fn one_line(content: &Content) -> String {
    line_at(content, content.started_at)
}

/// The same with this reading for its time.
fn line_at(content: &Content, at: Option<Timestamp>) -> String {
    let at = at.map_or_else(|| "?".repeat(19), |t| t.to_string()[..19].replace('T', " "));
    let mut line = format!("{at}  {:<8}  {} → {}", content.direction.as_str(), who(&content.from), who(&content.to));
    let words = words(content);
    if !words.is_empty() {
        let _ = write!(line, "  {}", words.join(", "));
    }
    let _ = write!(line, "  [{}", content.outcome.map_or("undecided", |o| o.as_str()));
    let durations = [
        ("", content.duration_s),
        ("talk ", content.talk_s),
        ("wait ", content.wait_s),
        ("ivr ", content.ivr_s),
        ("hold ", content.hold_s),
        ("voicemail ", content.voicemail_s),
    ];
    for (name, value) in durations {
        if let Some(value) = value {
            let _ = write!(line, ", {name}{}", short(value));
        }
    }
    for reason in &content.incomplete {
        let _ = write!(line, ", {reason}");
    }
    line.push(']');
    line
}

fn short(value: Seconds) -> String {
    match value.millis() {
        ms if ms < 60_000 => format!("{:.1} s", value.as_f64()),
        ms => format!("{}:{:02} min", ms / 60_000, ms % 60_000 / 1_000),
    }
}

/// The steps that make this call different from others.
fn words(content: &Content) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let rings = content.journey.iter().filter(|s| matches!(s.what, StepKind::Ring { .. })).count();
    let mut told_rings = false;
    for step in &content.journey {
        let word = match &step.what {
            StepKind::Dialled { .. } | StepKind::Unhold { .. } => continue,
            StepKind::Ring { party, .. } if rings <= 2 => format!("rings {}", who(party)),
            StepKind::Ring { .. } if !std::mem::replace(&mut told_rings, true) => format!("rings {rings} devices"),
            StepKind::Ring { .. } => continue,
            StepKind::Hangup { .. } => continue,
            other => tell(other),
        };
        words.push(word);
    }
    if words.len() > 8 {
        let more = words.len() - 7;
        words.truncate(7);
        words.push(format!("and {more} more"));
    }
    words
}

/// A party by number, name or endpoint.
pub(super) fn who(party: &Party) -> String {
    let text = party.number.as_ref().or(party.name.as_ref()).or(party.endpoint.as_ref()).or(party.channel.as_ref());
    clean(text.map_or("?", |t| t))
}

fn opt(party: Option<&Party>) -> String {
    party.map_or_else(|| "?".to_owned(), who)
}

fn text(value: Option<&String>) -> String {
    value.map_or_else(|| "?".to_owned(), |v| clean(v))
}

/// A step in words.
fn tell(step: &StepKind) -> String {
    let lasting = |d: &Option<Seconds>| d.map_or_else(String::new, |d| format!(" for {}", short(d)));
    match step {
        StepKind::Dialled { number } => format!("dials {}", text(number.as_ref())),
        StepKind::Ivr { context, digits, duration_s } => {
            let pressed = digits.as_ref().map_or_else(String::new, |d| format!(", presses {}", clean(d)));
            format!("in menu {}{}{pressed}", text(context.as_ref()), lasting(duration_s))
        }
        StepKind::QueueEnter { queue } => format!("enters queue {}", clean(queue.as_deref().unwrap_or("?"))),
        StepKind::Ring { party, duration_s, result } => {
            format!("rings {}{}: {}", who(party), lasting(duration_s), spaced(result.as_str()))
        }
        StepKind::Answer { party } => format!("{} answers", who(party)),
        StepKind::Hold { by } => format!("put on hold by {}", opt(by.as_ref())),
        StepKind::Unhold { by } => format!("taken off hold by {}", opt(by.as_ref())),
        StepKind::Transfer { kind, by, to, answered } => {
            let end = if *answered { "" } else { ", not answered" };
            let by = if *by == Party::default() { String::new() } else { format!(" by {}", who(by)) };
            format!("{kind} transfer{by} to {}{end}", who(to))
        }
        StepKind::Forward { by, to } => format!("{} forwards to {}", opt(by.as_ref()), text(to.as_ref())),
        StepKind::Park { by, slot, .. } => match slot {
            Some(slot) => format!("parked by {} in {}", opt(by.as_ref()), clean(slot)),
            None => format!("parked by {}", opt(by.as_ref())),
        },
        StepKind::Unpark { by, reason } => match (by, reason) {
            (Some(by), _) => format!("fetched from parking by {}", who(by)),
            (None, reason) => format!("leaves parking: {}", text(reason.as_ref())),
        },
        StepKind::Pickup { by, from } => format!("{} picks up the call of {}", who(by), opt(from.as_ref())),
        StepKind::ConferenceJoin { conference } => format!("joins conference {}", text(conference.as_ref())),
        StepKind::Application { name } => format!("speaks with {}", clean(name)),
        StepKind::Voicemail { mailbox, duration_s } => {
            format!("reaches mailbox {}{}", text(mailbox.as_ref()), lasting(duration_s))
        }
        StepKind::Recording { file } => format!("recorded to {}", clean(file)),
        StepKind::Hangup { by, cause } => {
            let by = match by {
                Some(HungUpBy::Caller) => "the caller hangs up",
                Some(HungUpBy::Callee) => "the callee hangs up",
                Some(HungUpBy::Pbx) => "the PBX hangs up",
                None => "ends",
            };
            let name = |c: &crate::call::Cause| c.name.as_ref().map_or_else(|| c.code.to_string(), |n| spaced(n));
            cause.as_ref().map_or_else(|| by.to_owned(), |c| format!("{by} ({})", name(c)))
        }
    }
}

/// The whole story of a call: ladder of its rows with what read each, its records, the journey, the sums, and the
/// discrepancies.
pub fn story(rows: &CallRows, rules: &Rules, zone: &Zone, marks: &Marks) -> String {
    let content = build(rows, rules, zone, marks);
    let mut out = String::new();
    let _ = writeln!(out, "call {}", clean(&content.linkedid));
    if content.linkedids.len() > 1 {
        let ids: Vec<String> = content.linkedids.iter().map(|l| clean(l)).collect();
        let _ = writeln!(out, "linkedids {}", ids.join(", "));
    }
    // all times of a story are the PBX's: whoever reads it has the PBX's log beside it
    let wall = content.started_at.map(|t| t.plus_micros(zone.offset_at(t)));
    let _ = writeln!(out, "{}", line_at(&content, wall));
    let _ = writeln!(out, "times on the PBX's clock, {}\n", clock_name(zone, content.started_at));

    let mut scene = Scene::new(rows, rules, zone);
    if let Some(caller) = parties::caller(&scene) {
        let runs = dialling::app_runs(&scene);
        dialling::find_diallers(&mut scene, &runs);
        let media = media::sweep(&scene, caller);
        let tried = attempts::attempts(&scene, &media, caller);
        let reader = Reader { scene: &scene, media: &media, tried: &tried, caller, content: &content };
        Ladder::new(&scene, caller).write(&mut out, &reader, zone);
    }
    records(&mut out, &scene, zone);
    journey(&mut out, &content, zone);
    sums(&mut out, &content);
    if let Some((tenant, rule)) = labels::tenant(&scene, parties::caller(&scene), &content) {
        let _ = writeln!(out, "  {:<12} {} (by {})", "tenant", clean(&tenant), rule.as_str());
    }
    if let Some(filter) = suppressed(rows, rules, &content) {
        let _ = writeln!(out, "  {:<12} by {}", "not shipped", filter.setting());
    }
    if !content.discrepancies.is_empty() {
        out.push_str("\ndiscrepancies between CDR and CEL\n");
        for d in &content.discrepancies {
            let _ = writeln!(out, "  {}: {}", d.code, clean(&d.text));
        }
    }
    out
}

/// `Europe/Prague (UTC+01:00)`: the offset is that at the call's begin.
fn clock_name(zone: &Zone, at: Option<Timestamp>) -> String {
    let minutes = at.map_or(0, |t| zone.offset_at(t) / 60_000_000);
    let sign = if minutes < 0 { '-' } else { '+' };
    let offset = format!("UTC{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60);
    match zone {
        Zone::Named(name) => format!("{name} ({offset})"),
        Zone::Fixed(0) => "UTC".to_owned(),
        Zone::Fixed(_) => offset,
    }
}

/// A name of ours as a person writes it.
pub(super) fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// Wall clock of the PBX, milliseconds.
pub(super) fn clock(t: Timestamp, zone: &Zone) -> String {
    let wall = t.plus_micros(zone.offset_at(t));
    wall.to_chrono().map_or_else(|| "??:??:??.???".to_owned(), |t| t.format("%H:%M:%S%.3f").to_string())
}

fn records(out: &mut String, scene: &Scene<'_>, zone: &Zone) {
    if scene.records.is_empty() {
        return;
    }
    out.push_str("\nrecords (CDR)\n");
    for Record { row, start, answer, end } in &scene.records {
        let time = |t: &Option<Timestamp>| t.map_or_else(|| "-".to_owned(), |t| clock(t, zone)[..8].to_owned());
        let to = if row.dstchannel.is_empty() { "nobody".to_owned() } else { clean(&row.dstchannel) };
        let _ = writeln!(
            out,
            "  {} {} {}  {:<10} {} → {}  src {} dst {}  {}({})",
            time(start),
            time(answer),
            time(end),
            clean(row.disposition.name()),
            clean(&row.channel),
            to,
            clean(&row.src),
            clean(&row.dst),
            clean(&row.lastapp),
            clean(&row.lastdata),
        );
    }
}

fn journey(out: &mut String, content: &Content, zone: &Zone) {
    out.push_str("\njourney\n");
    for Step { at, what } in &content.journey {
        let _ = writeln!(out, "  {}  {}", clock(*at, zone), tell(what));
    }
}

fn sums(out: &mut String, content: &Content) {
    out.push_str("\nresult\n");
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name:<12} {value}");
        }
    };
    let full = |p: &Party| {
        let also: Vec<String> = [&p.name, &p.endpoint].into_iter().flatten().map(|t| clean(t)).collect();
        let number = p.number.as_ref().map(|n| clean(n));
        let also = if also.is_empty() { String::new() } else { format!("({})", also.join(", ")) };
        [number.unwrap_or_default(), also].join(" ").trim().to_owned()
    };
    line("state", Some(content.state.to_string()));
    line("direction", Some(content.direction.to_string()));
    line("from", Some(full(&content.from)));
    line("to", Some(full(&content.to)));
    line("answered by", content.answered_by.as_ref().map(full));
    line("finally with", content.finally_with.as_ref().map(full));
    line("outcome", content.outcome.map(|o| o.to_string()));
    line("hung up by", content.hung_up_by.map(|h| h.to_string()));
    let durations = [
        ("duration", content.duration_s),
        ("ring", content.ring_s),
        ("wait", content.wait_s),
        ("talk", content.talk_s),
        ("hold", content.hold_s),
        ("ivr", content.ivr_s),
        ("voicemail", content.voicemail_s),
    ];
    for (name, value) in durations {
        line(name, value.map(|v| format!("{:.3} s", v.as_f64())));
    }
    let missing: Vec<&str> = content.incomplete.iter().map(|i| i.as_str()).collect();
    line("incomplete", (!missing.is_empty()).then(|| missing.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("Zoë \u{1f4de} 1001"), "Zoë \u{1f4de} 1001");
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d");
    }
}
