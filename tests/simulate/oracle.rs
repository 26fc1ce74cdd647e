//! What is true after the storm: the calls that the rows tell of, and what each endpoint has of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use callferry::call::{CallState, CelEvent, CelRow, Row};
use callferry::correlate::batch::calls_with_rows;
use callferry::correlate::{CallRows, Marks, build};
use serde_json::Value;

use crate::life::rules;
use crate::pbx::ZONE;
use crate::world::{HeldRow, World};

/// A call as it has to be at every endpoint.
struct Expected {
    number: usize,
    content: Value,
    ended_at: i64,
}

/// What receivers see of the content.
fn seen(mut document: Value) -> Value {
    if let Some(fields) = document.as_object_mut() {
        for other in ["schema", "id", "revision", "supersedes", "source", "rows", "discrepancies", "state"] {
            fields.remove(other);
        }
    }
    document
}

fn expected(world: &World, held: &[HeldRow]) -> Vec<Expected> {
    let (lines, plain): (Vec<&HeldRow>, Vec<&HeldRow>) = held.iter().partition(|h| world.nailed.contains(&h.call));
    let call_of: BTreeMap<String, usize> = plain.iter().map(|h| (h.row.linkedid().to_owned(), h.call)).collect();
    let (told, _) = calls_with_rows(plain.iter().map(|h| h.row.clone()).collect(), &rules(), &ZONE);
    let mut all = Vec::new();
    for one in told {
        let number = call_of.get(one.content.linkedid.as_str()).copied().unwrap_or(usize::MAX);
        let content = if one.content.state == CallState::InProgress {
            build(&one.rows, &rules(), &ZONE, &Marks { timeout: true, ..one.marks })
        } else {
            one.content
        };
        let newest = one.rows.cel.iter().filter_map(|r| r.time).map(callferry::source::raw_micros).max();
        let ended_at = content.ended_at.map_or(newest.unwrap_or_default() - 3_600_000_000, |t| t.micros());
        all.push(Expected { number, content: seen(serde_json::to_value(content).expect("JSON")), ended_at });
    }
    let mut of_line: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    lines.iter().for_each(|h| of_line.entry(h.call).or_default().push(h.row.clone()));
    for (number, rows) in of_line {
        all.extend(parts_of_line(number, rows));
    }
    all
}

/// The calls of a line that is never hung up: each caller's, and the line's own.
fn parts_of_line(number: usize, rows: Vec<Row>) -> Vec<Expected> {
    let cel: Vec<Arc<CelRow>> =
        rows.into_iter().filter_map(|r| if let Row::Cel(r) = r { Some(r) } else { None }).collect();
    let line = cel
        .iter()
        .map(|r| r.linkedid.clone())
        .min_by_key(|l| callferry::correlate::ids::Id::parse(l).map(|i| (i.epoch, i.counter)));
    let line = line.unwrap_or_default();
    let is_bridge = |r: &CelRow| matches!(r.event, CelEvent::BridgeEnter | CelEvent::BridgeExit);
    let caller_of: BTreeMap<_, _> = cel
        .iter()
        .filter(|r| is_bridge(r) && r.uniqueid != line)
        .map(|r| (r.extra.clone(), r.uniqueid.clone()))
        .collect();
    let mut parts: BTreeMap<_, Vec<Row>> = BTreeMap::new();
    for row in cel {
        let own = match (row.uniqueid == line, is_bridge(&row)) {
            (true, true) => caller_of.get(&row.extra).cloned().unwrap_or_else(|| line.clone()),
            _ => row.uniqueid.clone(),
        };
        let row = CelRow { linkedid: own.clone(), ..CelRow::clone(&row) };
        parts.entry(own).or_default().push(Row::Cel(row.into()));
    }
    parts
        .into_iter()
        .map(|(id, rows)| {
            // the line never ends, nor does a caller whose last rows went before they could be read
            let is_end = |event: &CelEvent| matches!(event, CelEvent::ChanEnd | CelEvent::Hangup);
            let ends = |r: &Row| matches!(r, Row::Cel(r) if r.uniqueid == id && is_end(&r.event));
            let marks = Marks { timeout: id == line || !rows.iter().any(ends), ..Marks::default() };
            let content = build(&CallRows::of(&rows), &rules(), &ZONE, &marks);
            let newest = rows.iter().filter_map(Row::time).map(callferry::source::raw_micros).max();
            let ended_at = content.ended_at.map_or(newest.unwrap_or_default() - 3_600_000_000, |t| t.micros());
            Expected { number, content: seen(serde_json::to_value(content).expect("JSON")), ended_at }
        })
        .collect()
}

/// Everything that is not as it has to be.
pub fn check(world: &mut World) {
    let mut problems = Vec::new();
    for row in &world.rows {
        if !world.signs.contains(&row.sign) && !world.unreadable.contains(&row.sign) {
            problems.push(format!("never read (call {}): {}", row.call, row.sign));
        }
    }
    // a line shows by its login only that it is never hung up; where nobody could read that, its callers may be told as one call
    let is_login =
        |h: &HeldRow, line: usize| h.call == line && matches!(&h.row, Row::Cel(r) if r.appname == "AgentLogin");
    let unknown = |line: &usize| !world.held.iter().any(|h| is_login(h, *line));
    let unknown: Vec<usize> = world.nailed.iter().copied().filter(unknown).collect();
    world.half_known.extend(unknown);
    let all = expected(world, &world.held);
    for endpoint in world.endpoints.clone() {
        let name = endpoint.name;
        let (newest, broken) = endpoint.kept(|k| (k.newest.clone(), std::mem::take(&mut k.broken)));
        problems.extend(broken);
        let live: Vec<&Value> = newest.values().map(|(_, d)| d).filter(|d| d["state"] != "merged").collect();
        let mut told: BTreeSet<&str> = BTreeSet::new();
        for call in &all {
            let linkedid = call.content["linkedid"].as_str().unwrap_or_default();
            told.insert(linkedid);
            let has: Vec<&&Value> = live.iter().filter(|d| d["linkedid"] == linkedid).collect();
            let exempt = world.half_known.contains(&call.number);
            let before = world.t0.is_some_and(|t0| call.ended_at < t0);
            match has.as_slice() {
                [] if before || exempt => {}
                [] => problems.push(format!("{name}: call {} ({linkedid}) never arrived", call.number)),
                [one] => {
                    if before {
                        problems.push(format!("{name}: call {} ({linkedid}) ended before the start", call.number));
                    }
                    if one["state"] != "completed" {
                        problems.push(format!("{name}: call {} ({linkedid}) is {}", call.number, one["state"]));
                    }
                    let mut got = seen((**one).clone());
                    // ids that were handed out and never used are known to be missing: a call without an end says so
                    let timed_out = call.content["incomplete"].to_string().contains("timeout");
                    if let (true, Some(why)) = (timed_out, got["incomplete"].as_array_mut()) {
                        why.retain(|w| w != "source_gap");
                    }
                    if got != call.content && !exempt && !was_so_once(world, call, &got) {
                        let what = differences(&call.content, &got);
                        problems.push(format!("{name}: call {} ({linkedid}) differs: {what}", call.number));
                    }
                }
                _ if exempt => {}
                more => problems.push(format!("{name}: {} calls of {linkedid}", more.len())),
            }
        }
        let knows = |l: &Value| l.as_str().is_some_and(|l| told.contains(l));
        for extra in live.iter().filter(|d| !knows(&d["linkedid"])) {
            let known_before = world.unreadable.iter().any(|s| s.contains(extra["linkedid"].as_str().unwrap_or("?")));
            if !known_before || world.half_known.is_empty() {
                problems.push(format!("{name}: a call that is none: {} {}", extra["id"], extra["state"]));
            }
        }
    }
    problems.into_iter().for_each(|p| world.problem(p));
}

/// Rows of a call that the PBX let go, here as well as there: it stays as it was before the row that came last.
fn was_so_once(world: &World, call: &Expected, got: &Value) -> bool {
    if !world.purged.contains(&call.number) || world.plan.retention > 3_600_000_000 {
        return false;
    }
    let own: Vec<&HeldRow> = world.held.iter().filter(|h| h.call == call.number).collect();
    let batches: BTreeSet<u64> = own.iter().map(|h| h.batch).collect();
    let is = |part: &dyn Fn(u64) -> bool| {
        // other calls' rows tell of a restart
        let some: Vec<HeldRow> =
            world.held.iter().filter(|h| h.call != call.number || part(h.batch)).cloned().collect();
        expected(world, &some).iter().any(|e| e.content == *got)
    };
    // or of what came after, where that is more than was known before
    batches.into_iter().any(|cut| is(&|batch| batch <= cut) || is(&|batch| batch >= cut))
}

fn differences(expected: &Value, got: &Value) -> String {
    let mut found = Vec::new();
    differ("", expected, got, &mut found);
    found.truncate(5);
    found.join("; ")
}

fn differ(path: &str, expected: &Value, got: &Value, found: &mut Vec<String>) {
    match (expected, got) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().for_each(|k| differ(&format!("{path}.{k}"), &expected[k], &got[k], found));
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(n, (a, b))| differ(&format!("{path}[{n}]"), a, b, found));
        }
        _ if expected == got => {}
        _ => found.push(format!("{path}: {expected} expected, {got} arrived")),
    }
}
