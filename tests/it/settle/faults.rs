//! Faults of ours that concern one call: the others go their way, its rows are kept, and it is tried again.

use super::bench::{Bench, MUCH_LATER, call, capture, ids, placed, setup};

fn panics_with_1001(rows: &callferry::correlate::CallRows, _: &callferry::correlate::Zone) -> Vec<u8> {
    assert!(rows.cdr.iter().all(|r| r.userfield != "field 1"), "a fault that is part of this test");
    Vec::new()
}

#[test]
fn a_call_that_cannot_be_built_keeps_its_rows_and_nobody_waiting() {
    let mut setup = setup();
    setup.frame.freeze_rows = Some(panics_with_1001);
    let mut bench = Bench::with(setup.clone(), 1_000);
    let rows = [call(1, 0, 30), call(2, 100, 30)].concat();
    let outcome = bench.read(placed(rows, 1), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.more), (1, false));
    assert_eq!(bench.count("SELECT count(*) FROM journal"), 9);
    assert_eq!(bench.count("SELECT count(*) FROM mark WHERE kind = 'unbuilt'"), 1);
    // not tried again for nothing, and tried again at the next start
    assert_eq!(bench.read(Vec::new(), MUCH_LATER + 10).shipped, 0);
    let mut bench = bench.restart();
    assert_eq!(bench.read(placed(call(3, 200, 30), 100), MUCH_LATER + 20).shipped, 1);
    assert_eq!(bench.count("SELECT count(*) FROM journal"), 9);
    // a version without the fault
    setup.frame.freeze_rows = None;
    let mut bench = bench.restart_as(setup);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER + 30).shipped, 1);
    assert_eq!(bench.count("SELECT count(*) FROM mark"), 0);
    assert_eq!(bench.documents().len(), 3);
    bench.assert_settled();
}

#[test]
fn a_call_that_the_state_refuses_keeps_nobody_waiting() {
    let mut bench = Bench::new();
    // against the state's own rules: something else stands where its document is to stand
    bench
        .store
        .write_blocking(|c| {
            c.execute_batch(
                "CREATE TEMP TRIGGER refuse BEFORE INSERT ON main.ledger WHEN NEW.id LIKE 'pbx:1795300000.%'
                 BEGIN SELECT RAISE(ABORT, 'refused by this test'); END",
            )?;
            Ok(())
        })
        .expect("a trigger");
    let rows = [call(1, 0, 30), call(2, 100, 30)].concat();
    let outcome = bench.read(placed(rows, 1), MUCH_LATER);
    assert!(!outcome.more);
    let documents = bench.documents();
    assert_eq!(documents.iter().map(|d| d.0.as_str()).collect::<Vec<_>>(), [format!("pbx:{}", ids(2, 100).0)]);
    assert_eq!(bench.count("SELECT count(*) FROM journal"), 9);
    // the connection's trigger goes with it
    let mut bench = bench.restart();
    assert_eq!(bench.read(Vec::new(), MUCH_LATER + 10).shipped, 1);
    bench.assert_settled();
}

/// A backend that lost the answer to its INSERT writes the row once more, under another id.
#[test]
fn rows_that_were_written_twice_tell_nothing_twice() {
    for name in ["29-hold-unhold/run1", "17-blind-transfer-refer/run1"] {
        let rows = capture(name);
        let mut once = Bench::new();
        once.read(placed(rows.clone(), 1), MUCH_LATER);
        let mut twice = Bench::new();
        twice.read(placed([rows.clone(), rows].concat(), 1), MUCH_LATER);
        let seen = |bench: &Bench| {
            let mut document = bench.documents()[0].2.clone();
            for counted in ["rows", "discrepancies"] {
                document[counted] = serde_json::Value::Null;
            }
            document
        };
        assert_eq!(seen(&once), seen(&twice), "{name}");
    }
}
