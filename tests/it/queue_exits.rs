//! How a caller got out of a queue, as the rows tell it: the capture of a queue where nobody answers, changed in the one
//! thing that differs.

use std::fs::File;
use std::sync::Arc;

use callferry::call::{CelEvent, CelRow, QueueOutcome, Row};
use callferry::correlate::{Zone, batch::correlate_all};
use callferry::source::csv;

use crate::captures::rules;
use crate::support::expected::captures_dir;

/// The queue's outcome with each row of events changed like this; those for which `None` comes are left out.
fn outcome(change: impl Fn(CelRow) -> Option<CelRow>) -> QueueOutcome {
    let file = captures_dir().join("11-queue-timeout-voicemail/run1/cel.csv");
    let rows = csv::read_cel(File::open(file).expect("the capture"), "cel").expect("CEL rows").rows;
    let rows = rows.into_iter().filter_map(|row| match row {
        Row::Cel(row) => change(CelRow::clone(&row)).map(|r| Row::Cel(Arc::new(r))),
        other => Some(other),
    });
    let calls = correlate_all(rows.collect::<Vec<_>>(), &rules(), &Zone::Named(chrono_tz::Europe::Prague)).calls;
    assert_eq!(calls.len(), 1);
    let queue = calls.into_iter().next().and_then(|c| c.queue).expect("a queue");
    assert_eq!(queue.name.as_deref(), Some("dead"));
    queue.outcome.expect("an outcome")
}

fn data(row: CelRow, data: &str) -> CelRow {
    if row.appname == "Queue" { CelRow { appdata: data.into(), ..row } } else { row }
}

fn is_end(row: &CelRow) -> bool {
    row.event == CelEvent::AppEnd && row.appname == "Queue"
}

#[test]
fn time_is_up() {
    assert_eq!(outcome(Some), QueueOutcome::Timeout);
    assert_eq!(outcome(|r| Some(data(r, "dead,tnT,,,300"))), QueueOutcome::Timeout, "one round, and no more");
    assert_eq!(outcome(|r| Some(data(r, "dead,n"))), QueueOutcome::Timeout);
}

#[test]
fn nobody_is_left_in_it() {
    for of in ["dead,tT,,,300", "dead,tT", "dead"] {
        assert_eq!(outcome(|r| Some(data(r, of))), QueueOutcome::LeaveEmpty, "{of}");
    }
}

#[test]
fn a_key_or_somebody_else_took_the_caller_out() {
    let moved = |context: &'static str, exten: &'static str| {
        outcome(move |r| {
            let r = data(r, "dead,tT,,,300");
            Some(if is_end(&r) { CelRow { context: context.into(), exten: exten.into(), ..r } } else { r })
        })
    };
    assert_eq!(moved("q-out", "5"), QueueOutcome::ExitedByKey);
    assert_eq!(moved("q-dead", "#"), QueueOutcome::ExitedByKey);
    assert_eq!(moved("internal", "1001"), QueueOutcome::Transferred);
}

#[test]
fn what_no_row_says_is_not_said() {
    // in and out again: nobody there, or too many; and nobody rang
    let begun = std::sync::Mutex::new(None);
    let at_once = outcome(|r| {
        let r = data(r, "dead,tT,,,300");
        if r.channel.contains("1007") {
            return None;
        }
        if r.event == CelEvent::AppStart && r.appname == "Queue" {
            *begun.lock().expect("one thread") = r.time;
        }
        let time = begun.lock().expect("one thread").filter(|_| is_end(&r)).or(r.time);
        Some(CelRow { time, ..r })
    });
    assert_eq!(at_once, QueueOutcome::Unknown);
    // no event says how the queue ended
    let no_ends = outcome(|r| Some(data(r, "dead,tT,,,300")).filter(|r| r.event != CelEvent::AppEnd));
    assert_eq!(no_ends, QueueOutcome::Unknown);
}
