//! Any order, split and repetition of rows, and a restart between any two steps.

use std::collections::BTreeMap;

use callferry::call::Row;
use callferry::correlate::batch::correlate_all;
use callferry::source::{Batch, PlacedRow};
use serde_json::Value;

use super::bench::{Bench, MUCH_LATER, ZONE, batch, call, capture, placed, setup};
use crate::support::expected::captures;

/// What the calls of these rows are, by linkedid, without what does not make a revision.
pub fn truth(rows: &[PlacedRow]) -> BTreeMap<String, Value> {
    let rows: Vec<Row> = rows.iter().map(|r| r.row.clone()).collect();
    let calls = correlate_all(rows, &setup().frame.rules, &ZONE).calls.into_iter();
    calls.map(|c| (c.linkedid.clone(), told(serde_json::to_value(c).expect("JSON")))).collect()
}

fn told(mut document: Value) -> Value {
    let fields = document.as_object_mut().expect("an object");
    for envelope in ["schema", "id", "revision", "supersedes", "source", "rows", "discrepancies"] {
        fields.remove(envelope);
    }
    document
}

fn shipped(bench: &Bench) -> BTreeMap<String, Value> {
    bench.kept().into_values().map(|d| (d["linkedid"].as_str().expect("text").to_owned(), told(d))).collect()
}

pub fn assert_same(name: &str, bench: &Bench, truth: &BTreeMap<String, Value>) {
    let shipped = shipped(bench);
    assert_eq!(shipped.keys().collect::<Vec<_>>(), truth.keys().collect::<Vec<_>>(), "{name}");
    for (linkedid, expected) in truth {
        assert_eq!(&shipped[linkedid], expected, "{name} {linkedid}");
    }
    bench.assert_settled();
}

/// Splits rows into batches of chance sizes; `repeat`: some come again later.
pub fn split(rows: Vec<PlacedRow>, repeat: bool, rng: &mut fastrand::Rng) -> Vec<Vec<PlacedRow>> {
    let mut rest = rows.clone();
    let mut batches = Vec::new();
    while !rest.is_empty() {
        let size = rng.usize(1..=rest.len().min(20));
        let mut batch: Vec<PlacedRow> = rest.drain(..size).collect();
        if repeat && rng.bool() {
            batch.push(rng.choice(&rows).expect("rows").clone());
        }
        batches.push(batch);
    }
    batches
}

#[test]
fn the_captures_in_their_order_leave_as_they_are() {
    for capture_ in captures() {
        let rows = placed(capture(&capture_.name), 1);
        let truth = truth(&rows);
        if truth.values().any(|c| c["state"] == "in_progress") {
            // Asterisk died and nothing came after: shipped as it is when its time is over
            continue;
        }
        let mut bench = Bench::new();
        bench.read(rows.clone(), MUCH_LATER);
        assert_same(&capture_.name, &bench, &truth);
        assert!(bench.documents().iter().all(|(_, revision, _)| *revision == 1), "{}", capture_.name);
        assert_eq!(
            bench.count("SELECT count(*) FROM delivery"),
            2 * bench.documents().len() as i64,
            "one delivery a sink"
        );
    }
}

/// Rows come in any order and everything is taken for read after each batch: calls are shipped in pieces, revised and
/// merged; what a receiver has at the end is the same.
#[test]
fn any_order_split_and_repetition_ends_the_same() {
    let seeds = std::env::var("SETTLE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    for capture_ in captures() {
        let rows = placed(capture(&capture_.name), 1);
        let truth = truth(&rows);
        // a restart of the PBX is read from the order in which channels begin
        let restarted =
            truth.values().any(|c| c["incomplete"].as_array().is_some_and(|i| i.contains(&"pbx_restart".into())));
        if restarted || truth.values().any(|c| c["state"] == "in_progress") {
            continue;
        }
        for seed in 0..seeds {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut shuffled = rows.clone();
            rng.shuffle(&mut shuffled);
            let mut bench = Bench::new();
            for rows in split(shuffled, true, &mut rng) {
                let early = rng.bool();
                bench.feed(Batch { caught_up: early, ..batch(rows, MUCH_LATER) });
            }
            bench.read(Vec::new(), MUCH_LATER);
            assert_same(&format!("{} seed {seed}", capture_.name), &bench, &truth);
        }
    }
}

/// The agent dies between any two steps, at every one of them.
#[test]
fn a_restart_at_any_step_loses_and_doubles_nothing() {
    let names = ["19-attended-transfer-refer/run1", "09-queue-ringall-answered/run1", "27-cdr-only/run1"];
    let mut rows: Vec<Row> = names
        .iter()
        .filter(|n| crate::support::expected::captures_dir().join(n).exists())
        .flat_map(|n| capture(n))
        .collect();
    rows.extend(call(1, 0, 30));
    rows.extend(call(2, 10, 5));
    let rows = placed(rows, 1);
    let truth = truth(&rows);
    let mut rng = fastrand::Rng::with_seed(7);
    let batches = split(rows, true, &mut rng);
    // a step is an ingest or a settle
    for killed_at in 0..batches.len() * 2 {
        let mut bench = Bench::new();
        let mut step = 0;
        let mut survive = |bench: Bench| {
            let dies = step == killed_at;
            step += 1;
            if dies { bench.restart() } else { bench }
        };
        for rows in &batches {
            let now = bench.now;
            bench.settler.ingest(batch(rows.clone(), MUCH_LATER), now).expect("ingest");
            bench = survive(bench);
            bench.settler.settle_all(now).expect("settle");
            bench = survive(bench);
        }
        bench.read(Vec::new(), MUCH_LATER);
        assert_same(&format!("killed at step {killed_at}"), &bench, &truth);
    }
}

/// What a journal commit left behind when the agent died is settled without any new row; but not before the source has
/// been asked once more, since the agent may have died in the middle of a call's rows.
#[test]
fn what_was_stored_and_not_settled_is_settled_after_a_restart() {
    let mut bench = Bench::new();
    let now = bench.now;
    bench.settler.ingest(batch(placed(call(1, 0, 30), 1), MUCH_LATER), now).expect("ingest");
    assert!(bench.documents().is_empty());
    let mut bench = bench.restart();
    assert_eq!(bench.settler.settle_all(now).expect("settle").shipped, 0);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).shipped, 1);
    bench.assert_settled();
}

/// A long backlog: whatever its length, memory holds what is open.
#[test]
fn a_hundred_thousand_calls_leave_nothing_in_memory() {
    let calls: i64 = std::env::var("SETTLE_CALLS").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    let mut bench = Bench::new();
    let mut largest = (0, 0);
    let mut shipped = 0;
    for page in 0..calls / 200 {
        // CEL is read ahead of the records by a page, as two lanes are
        let cel = (0..200).flat_map(|n| call_cel(page, n));
        let cdr = (0..200).filter(|_| page > 0).map(|n| record(page - 1, n));
        let mut rows = placed(cel, 1 + page * 1_600);
        rows.extend(placed(cdr, 1 + (page - 1) * 200));
        let outcome = bench.feed(Batch { caught_up: false, more: true, ..batch(rows, MUCH_LATER * 2) });
        shipped += outcome.shipped as i64;
        let size = bench.settler.size();
        largest = (largest.0.max(size.0), largest.1.max(size.1));
    }
    assert_eq!(shipped, calls - 400, "the last page waits for its records, the one before for what may follow");
    assert!(largest.0 <= 600 && largest.1 <= 600 * 9, "{largest:?}");

    fn call_cel(page: i64, n: i64) -> Vec<Row> {
        super::bench::call_cel(page * 200 + n, page, 30)
    }
    fn record(page: i64, n: i64) -> Row {
        super::bench::call_cdr(page * 200 + n, page, 30)
    }
}
