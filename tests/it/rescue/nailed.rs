//! A caller of a line that stays up is forgotten: the calls of everybody else who is put through to it are told all the
//! same, as though nothing had been forgotten.

use std::collections::{BTreeMap, BTreeSet};

use callferry::agent::forget::forget;
use callferry::agent::history::Span;
use callferry::agent::history::compare::{Standing, compare};
use callferry::call::{CelEvent, CelRow, Row};
use callferry::ship::Clock;
use callferry::source::PlacedRow;
use serde_json::Value;

use crate::settle::bench::{Bench, EPOCH, ZONE, at, event, placed, setup};

const LINE: &str = "PJSIP/2001-00000001";

/// When a caller is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// In the queue, before the line takes the call.
    Waiting,
    Talking,
    /// So many calls later.
    After(i64),
}

fn changed(row: Row, change: impl FnOnce(&mut CelRow)) -> Row {
    let Row::Cel(row) = row else { unreachable!("an event") };
    let mut row = CelRow::clone(&row);
    change(&mut row);
    Row::Cel(row.into())
}

fn number(n: i64) -> String {
    format!("+42077700{n:04}")
}

fn caller(n: i64) -> String {
    format!("{}.{}", EPOCH + 100 * (n + 1), 600 + n)
}

fn line() -> String {
    format!("{EPOCH}.500")
}

/// What happens to the `n`th caller: waits, is put through, hangs up.
fn course(n: i64) -> [(i64, Vec<Row>); 3] {
    let (start, id, line) = (EPOCH + 100 * (n + 1), caller(n), line());
    let channel = format!("PJSIP/trunk-a-{n:08x}");
    let of_caller = |kind: CelEvent, second: i64, linkedid: &str| {
        changed(event(kind, second, &id, linkedid, &channel), |row| {
            row.cid_num = number(n).into();
            row.exten = "400".into();
        })
    };
    let bridged = |row: Row| {
        changed(row, |row| row.extra = format!(r#"{{"bridge_id":"b-{n}","bridge_technology":"simple_bridge"}}"#).into())
    };
    let both = |kind: CelEvent, second: i64| {
        let of_line = changed(event(kind.clone(), second, &line, &line, LINE), |row| row.cid_num = "2001".into());
        vec![bridged(of_line), bridged(of_caller(kind, second, &line))]
    };
    let ended = [CelEvent::Hangup, CelEvent::ChanEnd].map(|kind| of_caller(kind, start + 21, &line));
    let talked = both(CelEvent::BridgeExit, start + 20).into_iter().chain(ended).collect();
    [
        (start, vec![of_caller(CelEvent::ChanStart, start, &id)]),
        (start + 2, both(CelEvent::BridgeEnter, start + 2)),
        (start + 21, talked),
    ]
}

/// The line's own beginning, by what it is held.
fn opened(app: &str) -> Vec<Row> {
    let row = |kind| changed(event(kind, EPOCH, &line(), &line(), LINE), |row| row.cid_num = "2001".into());
    vec![
        changed(row(CelEvent::ChanStart), |row| row.exten = "s".into()),
        changed(row(CelEvent::AppStart), |row| {
            row.appname = app.into();
        }),
    ]
}

/// A line that is held open by this application for so many callers, one after another.
type Line = (&'static str, i64);

/// What receivers have at the end, and every row the PBX wrote.
fn run(
    line_of: Line,
    forgotten: Option<(i64, When)>,
    restarts: bool,
) -> (BTreeMap<String, Value>, Vec<PlacedRow>, Bench) {
    let (app, callers) = line_of;
    let mut bench = Bench::new();
    let mut all = Vec::new();
    let mut feed = |bench: &mut Bench, second: i64, rows: Vec<Row>| {
        let rows = placed(rows, all.len() as i64 + 1);
        all.extend(rows.iter().cloned());
        bench.read(rows, second);
    };
    let forget_at = |bench: Bench, n: i64, when: When, second: i64| {
        if forgotten != Some((n, when)) {
            return bench;
        }
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let clock = Clock::from_fn(move || at(second));
        runtime.block_on(forget(&bench.store, &number(n), &clock)).expect("forgotten");
        if restarts { bench.restart() } else { bench }
    };
    feed(&mut bench, EPOCH, opened(app));
    for n in 0..callers {
        let steps = course(n);
        for ((second, rows), when) in steps.into_iter().zip([Some(When::Waiting), Some(When::Talking), None]) {
            feed(&mut bench, second, rows);
            if let Some(when) = when {
                bench = forget_at(bench, n, when, second + 1);
            }
        }
        // the record does not come; its grace ends
        let over = EPOCH + 100 * (n + 1) + 60;
        feed(&mut bench, over, Vec::new());
        for earlier in 0..=n {
            bench = forget_at(bench, earlier, When::After(n - earlier), over + 1);
        }
        feed(&mut bench, over + 2, Vec::new());
    }
    let end = EPOCH + 5_000;
    let ended = event(CelEvent::ChanEnd, end, &line(), &line(), LINE);
    feed(&mut bench, end, vec![changed(ended, |row| row.cid_num = "2001".into())]);
    for later in [100, 200] {
        feed(&mut bench, end + later, Vec::new());
    }
    bench.assert_settled();
    (bench.kept(), all, bench)
}

#[test]
fn the_calls_of_others_on_a_line_are_told_as_though_nothing_had_been_forgotten() {
    // AgentLogin says it; a line that is only held open shows by its fourth caller
    let login = [(2, When::Waiting), (2, When::Talking), (2, When::After(0)), (0, When::Waiting), (4, When::After(1))];
    let held = [(4, When::Waiting), (4, When::Talking), (1, When::After(2)), (3, When::After(0)), (0, When::After(5))];
    // without the forgotten one it shows no more
    let few = [(3, When::After(0)), (0, When::After(3))];
    let lines: [(Line, &[(i64, When)]); 3] =
        [(("AgentLogin", 6), &login), (("MusicOnHold", 6), &held), (("MusicOnHold", 4), &few)];
    for (line, cases) in lines {
        let (control, _, _) = run(line, None, false);
        let callers: BTreeSet<String> = (0..line.1).map(|n| format!("pbx:{}", caller(n))).collect();
        assert!(callers.iter().all(|id| control.contains_key(id)), "{line:?}: {:?}", control.keys());
        for &(n, when) in cases {
            for restarts in [false, true] {
                let place = format!("{line:?}, caller {n} forgotten {when:?}, restarts: {restarts}");
                let (kept, rows, bench) = run(line, Some((n, when)), restarts);
                let gone = format!("pbx:{}", caller(n));
                let expected: Vec<&String> = control.keys().filter(|id| **id != gone).collect();
                assert_eq!(kept.keys().collect::<Vec<_>>(), expected, "{place}");
                for (id, document) in &kept {
                    if callers.contains(id) {
                        assert_eq!(document, &control[id], "{place}: {id}");
                    }
                    assert!(!document.to_string().contains(number(n).trim_start_matches('+')), "{place}: {id}");
                }
                assert_accounted(&bench, rows, &gone, &callers, &place);
            }
        }
    }
}

/// Read again, the forgotten call is one that was forgotten, and the others are as they were shipped.
fn assert_accounted(bench: &Bench, rows: Vec<PlacedRow>, gone: &str, callers: &BTreeSet<String>, place: &str) {
    let span = Span { from: at(EPOCH + 1), to: at(EPOCH + 10_000) };
    let page = bench
        .store
        .read_blocking(move |conn| compare(conn, &setup(), &ZONE, at(EPOCH + 6_000), rows, span, false))
        .expect("compared");
    let standings: BTreeMap<String, Standing> = page.calls.into_iter().map(|c| (c.id, c.standing)).collect();
    assert_eq!(&standings.keys().cloned().collect::<BTreeSet<_>>(), callers, "{place}");
    for (id, standing) in standings {
        assert_eq!(standing, if id == gone { Standing::Forgotten } else { Standing::Same }, "{place}: {id}");
    }
}

/// The line itself is what was forgotten: whoever is put through to it later is a call of their own all the same.
#[test]
fn later_calls_on_a_line_that_was_forgotten_are_told_and_come_apart() {
    let mut bench = Bench::new();
    let mut from = 1;
    let mut feed = |bench: &mut Bench, second: i64, rows: Vec<Row>| {
        let rows = placed(rows, from);
        from += rows.len() as i64;
        bench.read(rows, second);
    };
    feed(&mut bench, EPOCH, opened("AgentLogin"));
    for n in 0..4 {
        for (second, rows) in course(n) {
            feed(&mut bench, second, rows);
        }
        feed(&mut bench, EPOCH + 100 * (n + 1) + 60, Vec::new());
        if n == 1 {
            let clock = Clock::from_fn(|| at(EPOCH + 270));
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(forget(&bench.store, "2001", &clock)).expect("forgotten");
            assert!(bench.kept().is_empty(), "everyone it spoke with so far");
        }
    }
    let end = EPOCH + 5_000;
    let ended = event(CelEvent::ChanEnd, end, &line(), &line(), LINE);
    feed(&mut bench, end, vec![changed(ended, |row| row.cid_num = "2001".into())]);
    feed(&mut bench, end + 100, Vec::new());
    let callers: Vec<String> = (2..4).map(|n| format!("pbx:{}", caller(n))).collect();
    assert_eq!(bench.kept().into_keys().collect::<Vec<_>>(), callers);
    bench.assert_settled();
}
