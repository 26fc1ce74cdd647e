//! Recordings found beside the rows: before, while and after their call is built.

use callferry::call::{FoundRecording, RecordingMatch};
use callferry::store::recordings;
use serde_json::json;

use super::bench::{Bench, MUCH_LATER, batch, call, ids, placed};

fn found(owner: &str, by: RecordingMatch, size: u64) -> FoundRecording {
    let file = if by == RecordingMatch::Db { "talk.wav".to_owned() } else { owner.to_owned() };
    let path = Some(format!("/spool/{file}"));
    FoundRecording { owner: owner.to_owned(), file, path, size: Some(size), started_at: None, by }
}

fn put(bench: &Bench, recording: &FoundRecording) {
    let (recording, now) = (recording.clone(), bench.now);
    bench.store.write_blocking(move |conn| recordings::put(conn, &recording, now)).expect("put");
}

fn name(n: i64) -> String {
    format!("internal-1002-1001-20261122-101010-{}.wav", ids(n, 0).0)
}

#[test]
fn one_that_is_there_first_is_in_the_first_revision() {
    let mut bench = Bench::new();
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    put(&bench, &found(&name(7), RecordingMatch::Name, 5_000));
    // the table's come with the rows
    let rows = callferry::source::Batch {
        recordings: vec![found(&ids(1, 0).0, RecordingMatch::Db, 900)],
        ..batch(placed(call(1, 0, 30), 1), MUCH_LATER)
    };
    assert_eq!(bench.feed(rows).shipped, 1);
    let documents = bench.documents();
    assert_eq!(
        documents[0].2["recordings"],
        json!([
            {"path": "/spool/talk.wav", "file": "talk.wav", "format": "wav", "size": 900, "matched_by": "db"},
            {"path": format!("/spool/{}", name(1)), "file": name(1), "format": "wav", "size": 4_000, "matched_by": "name"},
        ])
    );
    // nothing waits for it any more, and nothing is built again
    assert_eq!(bench.read(Vec::new(), MUCH_LATER + 10), callferry::agent::settle::Outcome::default());
    assert_eq!(bench.count("SELECT count(*) FROM recording WHERE call IS NULL"), 1);
    bench.assert_settled();
}

#[test]
fn a_late_one_and_one_that_grew_make_a_revision_each_and_only_one() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 0);
    let mut bench = bench.restart();
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 0);
    put(&bench, &found(&name(1), RecordingMatch::Name, 8_000));
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    let last = bench.documents().pop().expect("a document");
    assert_eq!((last.1, &last.2["recordings"][0]["size"]), (3, &json!(8_000)));
    bench.assert_settled();
}

#[test]
fn a_crash_between_finding_and_building_loses_nothing() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    let mut bench = bench.restart();
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    bench.assert_settled();
}

#[test]
fn whatever_the_order_the_last_revision_is_the_same() {
    let recordings = [found(&name(1), RecordingMatch::Name, 4_000), found(&ids(1, 0).0, RecordingMatch::Db, 900)];
    let mut last = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 2, 1]] {
        let mut bench = Bench::new();
        for step in order {
            match step {
                0 => drop(bench.read(placed(call(1, 0, 30), 1), MUCH_LATER)),
                n => {
                    put(&bench, &recordings[n - 1]);
                    bench.read(Vec::new(), MUCH_LATER);
                }
            }
        }
        let mut document = bench.documents().pop().expect("a document").2;
        document["revision"] = json!(0);
        last.push(document);
    }
    assert!(last.windows(2).all(|pair| pair[0] == pair[1]), "{last:#?}");
    assert_eq!(last[0]["recordings"].as_array().map(Vec::len), Some(2));
}

#[test]
fn one_whose_call_cannot_be_built_again_waits_in_peace() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    bench.let_go();
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    for _ in 0..3 {
        assert_eq!(bench.read(Vec::new(), MUCH_LATER), callferry::agent::settle::Outcome::default());
    }
    bench.assert_settled();
}

#[test]
fn thousands_that_belong_to_no_call_do_not_hide_one_that_does() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let now = bench.now;
    bench
        .store
        .write_blocking(move |conn| {
            for n in 0..1_000 {
                recordings::put(conn, &found(&format!("1795000000.{n}"), RecordingMatch::Name, 1), now)?;
            }
            recordings::put(conn, &found(&name(1), RecordingMatch::Name, 4_000), now)
        })
        .expect("put");
    let revised: usize = (0..6).map(|_| bench.read(Vec::new(), MUCH_LATER).revised).sum();
    assert_eq!(revised, 1);
}
