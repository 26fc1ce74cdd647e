//! Recordings found beside the rows: before, while and after their call is built.

use callferry::call::{CelEvent, FoundRecording, RecordingMatch, Row, Timestamp};
use callferry::correlate::Filters;
use callferry::source::Batch;
use callferry::store::{recordings, uploads};
use serde_json::json;

use super::bench::{Bench, EPOCH, MUCH_LATER, batch, call, call_cdr, call_cel, event, ids, placed, setup};
use super::progress::progressive;

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

/// What the agent's uploader does each round.
fn queue(bench: &Bench) -> usize {
    let now = bench.now;
    bench.store.write_blocking(move |conn| uploads::queue(conn, Timestamp::default(), now)).expect("queue")
}

fn uploads(bench: &Bench) -> i64 {
    bench.count("SELECT count(*) FROM upload WHERE state = 0")
}

#[test]
fn what_is_told_of_a_call_that_is_up_takes_no_recording_and_sends_none() {
    let mut bench = Bench::with(progressive(), 1_000);
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    let rows = placed(call(1, 0, 30), 1);
    bench.now = Timestamp::from_secs(EPOCH + 2);
    assert_eq!(bench.read(rows[..4].to_vec(), EPOCH + 2).told, 1);
    assert_eq!(bench.documents()[0].2["state"], "in_progress");
    assert_eq!(bench.count("SELECT count(*) FROM recording WHERE call IS NULL"), 1, "it waits");
    assert_eq!((queue(&bench), uploads(&bench)), (0, 0));
    // the same after a restart in between
    let mut bench = bench.restart();
    assert_eq!((queue(&bench), uploads(&bench)), (0, 0));
    bench.now = Timestamp::from_secs(MUCH_LATER);
    bench.read(rows[4..].to_vec(), MUCH_LATER);
    let last = bench.documents().pop().expect("a document").2;
    assert_eq!((&last["state"], &last["recordings"][0]["matched_by"]), (&json!("completed"), &json!("name")));
    assert_eq!(bench.count("SELECT count(*) FROM recording WHERE call IS NULL"), 0);
    assert_eq!((queue(&bench), uploads(&bench)), (1, 1));
    assert_eq!(queue(&bench), 0, "once");
    bench.assert_settled();
}

fn filtered() -> Bench {
    let mut setup = setup();
    setup.frame.rules.filters = Filters { min_duration_ms: Some(10_000), ..Filters::default() };
    Bench::with(setup, 1_000)
}

/// The caller's channel seemed to have ended early.
fn longer(n: i64) -> Vec<Row> {
    let (a, _) = ids(n, 0);
    let channel = format!("PJSIP/1001-{n:08x}");
    [CelEvent::Hangup, CelEvent::ChanEnd].map(|e| event(e, EPOCH + 40, &a, &a, &channel)).to_vec()
}

#[test]
fn a_call_that_passes_its_filter_later_has_its_recordings_sent_and_one_kept_back_has_not() {
    for seen_before in [true, false] {
        for purged in [true, false] {
            let mut bench = filtered();
            put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
            assert_eq!(bench.read(placed(call(1, 0, 5), 1), MUCH_LATER).suppressed, 1);
            if seen_before {
                assert_eq!((queue(&bench), uploads(&bench)), (1, 0), "kept back: looked at, and not to be sent");
                assert_eq!(queue(&bench), 0);
            }
            let mut late = longer(1);
            if purged {
                // its document and its rows are gone, and all of it is read again
                bench.let_go();
                late = call(1, 0, 5).into_iter().chain(late).collect();
            }
            let mut outcome = bench.read(placed(late.clone(), 500), MUCH_LATER);
            if purged {
                let answer =
                    Batch { reread: bench.settler.wishes().reread, ..batch(placed(late, 700), MUCH_LATER + 1) };
                outcome = bench.feed(answer);
            }
            assert_eq!(outcome.shipped, 1, "{seen_before} {purged} {outcome:?}");
            assert_eq!((queue(&bench), uploads(&bench)), (1, 1), "{seen_before} {purged}");
            assert_eq!(bench.documents().pop().expect("a document").2["recordings"][0]["file"], name(1));
        }
    }
}

#[test]
fn what_was_shipped_is_sent_whatever_filters_say_later_and_not_twice() {
    let mut bench = Bench::new();
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    bench.read(placed(call_cel(1, 0, 5), 1), MUCH_LATER);
    let mut bench = bench.restart_with(|rules| rules.filters.internal = true);
    bench.read(placed([call_cdr(1, 0, 5)], 900), MUCH_LATER);
    assert_eq!((queue(&bench), uploads(&bench)), (1, 1));
    // it is there; revisions do not send it again
    bench.store.write_blocking(|c| Ok(c.execute("UPDATE upload SET state = 1", [])?)).expect("delivered");
    bench.read(placed(longer(1), 950), MUCH_LATER);
    put(&bench, &found(&ids(1, 0).0, RecordingMatch::Db, 900));
    bench.read(Vec::new(), MUCH_LATER);
    assert_eq!(bench.documents().last().expect("a document").1, 4);
    queue(&bench);
    assert_eq!(uploads(&bench), 0);
    // another size is another recording
    put(&bench, &found(&name(1), RecordingMatch::Name, 5_000));
    assert_eq!((queue(&bench), uploads(&bench)), (0, 0), "not before its call was built with it");
    bench.read(Vec::new(), MUCH_LATER);
    assert_eq!((queue(&bench), uploads(&bench)), (1, 1));
}

#[test]
fn a_call_kept_back_that_becomes_part_of_one_that_is_not_brings_its_recordings() {
    let mut bench = filtered();
    put(&bench, &found(&name(2), RecordingMatch::Name, 4_000));
    assert_eq!(bench.read(placed(call(2, 0, 5), 1), MUCH_LATER).suppressed, 1);
    assert_eq!((queue(&bench), uploads(&bench)), (1, 0));
    assert_eq!(bench.read(placed(call(1, 0, 30), 100), MUCH_LATER).shipped, 1);
    // a row that says that both are one
    let ((a, _), (x, _)) = (ids(1, 0), ids(2, 0));
    let both = event(CelEvent::Answer, EPOCH + 2, &x, &a, "PJSIP/1001-00000002");
    let outcome = bench.read(placed([both], 300), MUCH_LATER);
    assert_eq!((outcome.merged, outcome.revised), (1, 1), "{outcome:?}");
    assert_eq!((queue(&bench), uploads(&bench)), (1, 1));
    assert_eq!(
        bench.count("SELECT count(*) FROM recording r JOIN ledger l ON l.call = r.call WHERE l.state = 'shipped'"),
        1
    );
}

#[test]
fn rows_and_document_stay_until_the_recording_is_sent() {
    let mut bench = Bench::new();
    put(&bench, &found(&name(1), RecordingMatch::Name, 4_000));
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    assert_eq!(queue(&bench), 1);
    bench.deliver_all();
    let sweep = |bench: &Bench| {
        let now = bench.now;
        bench
            .store
            .write_blocking(move |c| callferry::store::retention::Sweep::default().step(c, now, now, 100))
            .expect("sweep")
            .purged
    };
    assert_eq!(sweep(&bench), 0);
    bench.store.write_blocking(|c| Ok(c.execute("UPDATE upload SET state = 1", [])?)).expect("delivered");
    assert_eq!(sweep(&bench), 1);
}

#[test]
fn recordings_that_belong_to_nobody_are_bounded_in_number_and_time() {
    let bench = Bench::new();
    let now = bench.now;
    bench
        .store
        .write_blocking(move |conn| {
            for n in 0..100_300 {
                recordings::put(conn, &found(&format!("1795000000.{n}"), RecordingMatch::Name, 1), now)?;
            }
            Ok(())
        })
        .expect("put");
    let housekeep = |at: Timestamp| {
        while bench
            .store
            .write_blocking(move |conn| callferry::store::retention::housekeep(conn, at, Timestamp::default(), 1_000))
            .expect("housekeep")
        {}
        bench.count("SELECT count(*) FROM recording")
    };
    assert_eq!(housekeep(now), 100_000);
    assert_eq!(bench.count("SELECT count(*) FROM recording WHERE file LIKE '1795000000.100299%'"), 1, "the oldest go");
    let day = 86_400_000_000;
    assert_eq!(housekeep(now.plus_micros(13 * day)), 100_000);
    assert_eq!(housekeep(now.plus_micros(15 * day)), 0);
}

#[test]
fn a_call_with_more_recordings_than_any_has_is_built_with_some() {
    let mut bench = Bench::new();
    let now = bench.now;
    bench
        .store
        .write_blocking(move |conn| {
            for n in 0..3_000 {
                recordings::put(conn, &found(&format!("{n}-{}", name(1)), RecordingMatch::Name, 1), now)?;
            }
            Ok(())
        })
        .expect("put");
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    for _ in 0..20 {
        bench.read(Vec::new(), MUCH_LATER);
    }
    let (_, revision, document) = bench.documents().pop().expect("a document");
    assert_eq!((revision, document["recordings"].as_array().map(Vec::len)), (1, Some(500)));
    bench.assert_settled();
}
