//! Rows that come late, calls that turn out to be one, calls that never end.

use callferry::call::{CelEvent, Row};
use callferry::source::{Batch, PlacedRow, Table};

use super::bench::{Bench, EPOCH, MUCH_LATER, at, batch, call, call_cdr, call_cel, event, ids, placed, setup};

#[test]
fn a_call_waits_for_its_record_and_no_longer() {
    let mut bench = Bench::new();
    let ended = EPOCH + 30;
    assert_eq!(bench.read(placed(call_cel(1, 0, 30), 1), ended + 1).shipped, 0);
    assert_eq!(bench.settler.wishes().cdr_of, [ids(1, 0).0]);
    assert_eq!(bench.read(Vec::new(), ended + 4).shipped, 0);
    // the source has not asked everywhere: the record may have been there
    let unsure = Batch { caught_up: false, ..batch(Vec::new(), ended + 600) };
    assert_eq!(bench.feed(unsure).shipped, 0);
    assert_eq!(bench.read(Vec::new(), ended + 5).shipped, 1);
    assert!(bench.settler.wishes().cdr_of.is_empty());
    let (_, _, document) = &bench.documents()[0];
    assert_eq!(document["incomplete"], serde_json::json!(["cdr_missing"]));
    // with the record there is nothing to wait for
    assert_eq!(bench.read(placed(call(2, 100, 30), 100), EPOCH + 130).shipped, 1);
}

#[test]
fn a_call_whose_record_is_asked_for_too_rarely_does_not_wait_for_ever() {
    let mut bench = Bench::new();
    let ended = EPOCH + 30;
    let asks = |rows, db_now| Batch { cdr_of: Some(Vec::new()), ..batch(rows, db_now) };
    assert_eq!(bench.feed(asks(placed(call_cel(1, 0, 30), 1), ended + 1)).shipped, 0);
    assert_eq!(bench.feed(asks(Vec::new(), ended + 10)).shipped, 0, "it was not asked for yet");
    assert_eq!(bench.feed(asks(Vec::new(), ended + 200)).shipped, 0);
    assert_eq!(bench.feed(asks(Vec::new(), ended + 400)).shipped, 1);
    bench.assert_settled();
}

#[test]
fn records_that_become_visible_pages_before_their_events_wait_for_them() {
    let mut bench = Bench::new();
    // long caught up: the rows that come now are old when they become visible
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let pages = [
        placed((10..20).map(|n| call_cdr(n, n, 30)), 100),
        placed((10..15).flat_map(|n| call_cel(n, n, 30)), 1_000),
        placed((15..20).flat_map(|n| call_cel(n, n, 30)), 2_000),
    ];
    let mut all = 0;
    for rows in pages {
        let outcome = bench.feed(Batch { caught_up: false, more: true, ..batch(rows, MUCH_LATER) });
        (all, _) = (all + outcome.shipped, assert_eq!(outcome.revised, 0));
    }
    let last = bench.read(Vec::new(), MUCH_LATER);
    assert_eq!((all + last.shipped, last.revised), (10, 0));
    assert!(
        bench.documents().iter().all(|(_, revision, d)| *revision == 1 && d["incomplete"] == serde_json::json!([]))
    );
}

#[test]
fn what_was_committed_between_the_reading_of_the_tables_is_seen_whole_with_the_next_batch() {
    let mut bench = Bench::new();
    // one transaction of old calls: the records are read, the events were asked for a moment before
    let records = placed((10..20).map(|n| call_cdr(n, n, 30)), 100);
    assert_eq!(bench.read(records, MUCH_LATER).shipped, 0);
    assert!(bench.settler.waits(0));
    let events = placed((10..20).flat_map(|n| call_cel(n, n, 30)), 1_000);
    let outcome = bench.read(events, MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised), (10, 0));
    assert!(bench.documents().iter().all(|(_, _, d)| d["incomplete"] == serde_json::json!([])));
    // where there are no events nothing more is waited for
    assert_eq!(bench.read(placed([call_cdr(30, 30, 30)], 2_000), MUCH_LATER).shipped, 0);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).shipped, 1);
    bench.assert_settled();
}

#[test]
fn an_import_of_old_calls_is_a_history_of_its_own() {
    let mut bench = Bench::new();
    // the same run has read history of a later time
    for n in 0..2 {
        let rows = placed(call(n, 86_400 + n, 30), 1 + 20 * n);
        bench.feed(Batch { caught_up: false, more: true, ..batch(rows, MUCH_LATER) });
    }
    bench.read(Vec::new(), MUCH_LATER);
    // the records fit in one page, their events do not
    let read_out = vec![Table::Cdr];
    let mut page = |rows| {
        let batch = Batch { caught_up: false, more: true, ..batch(rows, MUCH_LATER) };
        bench.feed(Batch { read_out: read_out.clone(), ..batch }).revised
    };
    let call_of = |n: i64| (n, 600 * (n - 10), 30);
    let events = |calls: std::ops::Range<i64>| calls.map(call_of).flat_map(|(n, at, talk)| call_cel(n, at, talk));
    let records = (10..20).map(call_of).map(|(n, at, talk)| call_cdr(n, at, talk));
    page(placed(records, 100));
    assert_eq!(page(placed(events(10..15), 1_000)), 0);
    assert_eq!(page(placed(events(15..20), 2_000)), 0);
    bench.read(Vec::new(), MUCH_LATER);
    bench.assert_settled();
    assert!(
        bench.documents().iter().all(|(_, revision, d)| *revision == 1 && d["incomplete"] == serde_json::json!([])),
        "{:?}",
        bench.documents().iter().map(|(id, revision, d)| (id, revision, &d["incomplete"])).collect::<Vec<_>>()
    );
}

/// Records that were switched off, or never written: their table has been read to its end long before the events.
#[test]
fn history_without_records_does_not_wait_for_its_last_event() {
    let mut bench = Bench::new();
    let page = |n: i64| placed((10 * n..10 * n + 10).flat_map(|c| call_cel(c, c * 60, 30)), 1 + n * 1_000);
    let mut shipped = Vec::new();
    for n in 0..4 {
        let unread = Batch { caught_up: false, more: true, ..batch(page(n), MUCH_LATER) };
        shipped.push(bench.feed(Batch { read_out: vec![Table::Cdr], ..unread }).shipped);
    }
    // those of the newest page wait for what the next one may bring of them
    assert_eq!(shipped, [0, 10, 10, 10]);
    assert_eq!(bench.settler.size().0, 10);
    assert!(bench.documents().iter().all(|(_, _, d)| d["incomplete"] == serde_json::json!(["cdr_missing"])));
}

#[test]
fn a_database_clock_that_was_ahead_ends_no_call_that_is_up() {
    let mut bench = Bench::new();
    // for a moment the server believes it is days later
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let up: Vec<Row> = call_cel(2, 100, 30).into_iter().take(2).collect();
    let outcome = bench.read(placed(up, 100), EPOCH + 101);
    assert_eq!(outcome.shipped, 0, "{:?}", bench.documents().last());
}

#[test]
fn calls_whose_rows_are_gone_and_that_a_late_row_ties_are_all_read_again() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    bench.read(placed(call(2, 10, 20), 100), MUCH_LATER);
    bench.let_go();
    bench.read(tie((1, 0), (2, 10), 200), MUCH_LATER);
    assert_eq!(bench.settler.wishes().reread, [ids(1, 0).0, ids(2, 10).0]);
}

#[test]
fn a_late_record_makes_a_revision_and_a_repeated_one_does_not() {
    let mut bench = Bench::new();
    bench.read(placed(call_cel(1, 0, 30), 1), MUCH_LATER);
    let record = placed([call_cdr(1, 0, 30)], 900);
    let outcome = bench.read(record.clone(), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised), (0, 1));
    let documents = bench.documents();
    assert_eq!(documents.iter().map(|d| d.1).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(documents[1].2["userfield"], "field 1");
    // the first revision had not been sent: the second took its place
    assert_eq!(bench.count("SELECT count(*) FROM delivery WHERE state = 3 AND revision = 1"), 2);
    // the record again, and an event that says nothing new
    assert_eq!(bench.read(record, MUCH_LATER).unchanged, 1);
    let (a, _) = ids(1, 0);
    let odd = event(CelEvent::Other("VENDOR".into()), EPOCH + 5, &a, &a, "PJSIP/1001-00000001");
    assert_eq!(bench.read(placed([odd], 901), MUCH_LATER).unchanged, 1);
    assert_eq!(bench.documents().len(), 2);
    // the audit counts the repeated record once
    assert_eq!(bench.count("SELECT sum(rows) FROM id_block WHERE tbl = 1"), 1);
    bench.assert_settled();
}

#[test]
fn a_late_event_of_a_call_whose_rows_are_gone_has_it_read_again_whole() {
    let all = placed(call_cel(1, 0, 30), 1);
    let late = placed([call_cdr(1, 0, 30)], 500);
    for gone_at_the_pbx in [false, true] {
        let mut bench = Bench::new();
        bench.read(all.clone(), MUCH_LATER);
        bench.let_go();
        assert_eq!(bench.read(late.clone(), MUCH_LATER), callferry::agent::settle::Outcome::default());
        assert_eq!(bench.settler.wishes().reread, [ids(1, 0).0]);
        // the wish survives a restart
        let mut bench = bench.restart();
        assert_eq!(bench.settler.wishes().reread, [ids(1, 0).0]);
        let rows: Vec<PlacedRow> =
            if gone_at_the_pbx { late.clone() } else { all.iter().chain(&late).cloned().collect() };
        let answer = Batch { reread: bench.settler.wishes().reread, ..batch(rows, MUCH_LATER) };
        let outcome = bench.feed(answer);
        if gone_at_the_pbx {
            assert_eq!((outcome.revised, outcome.dropped_rows), (0, 1), "never a fragment");
        } else {
            assert_eq!((outcome.revised, outcome.dropped_rows), (1, 0));
            assert_eq!(bench.documents().last().expect("a document").1, 2);
        }
        assert!(bench.settler.wishes().reread.is_empty());
        bench.assert_settled();
    }
}

#[test]
fn rows_let_go_while_their_call_is_open_again_are_read_again() {
    let mut bench = Bench::new();
    let all = placed(call_cel(1, 0, 30), 1);
    bench.read(all.clone(), MUCH_LATER);
    let (a, _) = ids(1, 0);
    let late = placed([event(CelEvent::Other("VENDOR".into()), EPOCH + 5, &a, &a, "PJSIP/1001-00000001")], 900);
    // the call is opened with the rows the state has; before it is built they are let go
    bench.feed(Batch { caught_up: false, ..batch(late.clone(), MUCH_LATER) });
    assert!(bench.settler.wishes().reread.is_empty());
    bench.let_go();
    bench.read(Vec::new(), MUCH_LATER + 600);
    assert!(bench.documents().is_empty(), "never a fragment");
    assert_eq!(bench.settler.wishes().reread, std::slice::from_ref(&a));
    let rows = all.into_iter().chain(late).collect();
    let outcome = bench.feed(Batch { reread: vec![a], ..batch(rows, MUCH_LATER + 601) });
    assert_eq!((outcome.revised, outcome.unchanged, outcome.dropped_rows), (0, 1, 0));
    bench.assert_settled();
}

/// An event of the second call's channel that carries the first call's linkedid.
fn tie(first: (i64, i64), second: (i64, i64), second_number: i64) -> Vec<PlacedRow> {
    let (a, _) = ids(first.0, first.1);
    let (c, _) = ids(second.0, second.1);
    placed([event(CelEvent::Hangup, EPOCH + second.1 + 30, &c, &a, "PJSIP/1001-00000002")], second_number)
}

#[test]
fn two_shipped_calls_that_are_one_leave_the_older_and_a_tombstone() {
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    bench.read(placed(call(2, 10, 20), 100), MUCH_LATER);
    bench.deliver_all();
    let outcome = bench.read(tie((1, 0), (2, 10), 200), MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised, outcome.merged), (0, 1, 1));
    let (older, younger) = (format!("pbx:{}", ids(1, 0).0), format!("pbx:{}", ids(2, 10).0));
    let documents = bench.documents();
    let [.., (first, two, survivor), (second, also_two, tombstone)] = &documents[..] else { panic!("{documents:?}") };
    assert_eq!((first.as_str(), *two, second.as_str(), *also_two), (older.as_str(), 2, younger.as_str(), 2));
    assert_eq!(survivor["supersedes"], serde_json::json!([younger]));
    assert_eq!(survivor["legs"].as_array().map(Vec::len), Some(4));
    assert_eq!((&tombstone["state"], &tombstone["merged_into"]), (&"merged".into(), &older.as_str().into()));
    // the tombstone waits for its survivor at each sink
    let waiting = "SELECT count(*) FROM delivery t JOIN delivery s ON t.after = s.delivery
                   WHERE t.sink = s.sink AND t.state = 0 AND s.state = 0 AND s.revision = 2";
    assert_eq!(bench.count(waiting), 2);

    // a third call comes in: what was superseded before stays named
    let mut bench = bench.restart();
    bench.read(placed(call(3, 20, 20), 300), MUCH_LATER);
    bench.read(tie((2, 10), (3, 20), 400), MUCH_LATER);
    let kept = bench.kept();
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&older]);
    assert_eq!(kept[&older]["supersedes"], serde_json::json!([younger, format!("pbx:{}", ids(3, 20).0)]));
    assert_eq!(kept[&older]["revision"], 3);
    // a late row of the absorbed call finds the survivor
    let (c, _) = ids(2, 10);
    let late = event(CelEvent::AppStart, EPOCH + 12, &c, &c, "PJSIP/1001-00000002");
    let outcome = bench.read(placed([late], 500), MUCH_LATER);
    assert_eq!(outcome.shipped + outcome.merged, 0);
    assert_eq!(bench.kept().len(), 1);
    bench.assert_settled();
}

#[test]
fn of_one_shipped_call_and_one_that_was_not_the_shipped_id_stays() {
    let mut bench = Bench::new();
    bench.read(placed(call(2, 10, 20), 100), MUCH_LATER);
    let younger = format!("pbx:{}", ids(2, 10).0);
    // the older call's rows come after, together with what ties them
    let mut rows = placed(call(1, 0, 30), 1);
    rows.extend(tie((1, 0), (2, 10), 200));
    let outcome = bench.read(rows, MUCH_LATER);
    assert_eq!((outcome.shipped, outcome.revised, outcome.merged), (0, 1, 0));
    let kept = bench.kept();
    assert_eq!(kept.keys().collect::<Vec<_>>(), [&younger]);
    assert_eq!(kept[&younger]["linkedid"], ids(1, 0).0);
    bench.assert_settled();
}

#[test]
fn a_call_that_never_ends_is_shipped_as_it_is_and_stays_open() {
    let mut bench = Bench::new();
    let rows = call(1, 0, 200_000);
    let (begun, ended): (Vec<Row>, Vec<Row>) = (rows[..4].to_vec(), rows[4..].to_vec());
    bench.read(placed(begun, 1), EPOCH + 10);
    assert_eq!(bench.read(Vec::new(), EPOCH + 86_399).shipped, 0);
    assert_eq!(bench.read(Vec::new(), EPOCH + 86_400).shipped, 1);
    let documents = bench.documents();
    assert!(documents[0].2["incomplete"].as_array().expect("a list").contains(&"timeout".into()));
    // its rows come and it is not shipped again at each of them
    let (a, _) = ids(1, 0);
    let middle = event(CelEvent::AppStart, EPOCH + 90_000, &a, &a, "PJSIP/1001-00000001");
    let outcome = bench.read(placed([middle], 50), EPOCH + 90_001);
    assert_eq!((outcome.shipped, outcome.revised), (0, 0));
    let mut bench = bench.restart();
    let outcome = bench.read(placed(ended, 100), EPOCH + 200_001);
    assert_eq!(outcome.revised, 1);
    let last = bench.documents().pop().expect("a document").2;
    assert_eq!((last["incomplete"].as_array().map(Vec::len), &last["duration_s"]), (Some(0), &200_000.into()));
    bench.assert_settled();
}

#[test]
fn a_call_of_too_many_rows_is_shipped_frozen_and_its_rows_counted() {
    let mut setup = setup();
    setup.policy.rows_max = 50;
    let mut bench = Bench::with(setup, 1_000);
    let (a, _) = ids(1, 0);
    let digit = |n: i64| event(CelEvent::Dtmf, EPOCH + n, &a, &a, "PJSIP/1001-00000001");
    let mut rows = call_cel(1, 0, 3_000)[..4].to_vec();
    rows.extend((0..60).map(digit));
    assert_eq!(bench.read(placed(rows, 1), EPOCH + 100).shipped, 1);
    let outcome = bench.read(placed((60..90).map(digit), 200), EPOCH + 200);
    assert_eq!((outcome.revised, outcome.dropped_rows), (0, 30));
    let mut bench = bench.restart();
    assert_eq!(bench.read(placed([digit(99)], 300), EPOCH + 300).dropped_rows, 1);
    assert_eq!(bench.documents().len(), 1);
    assert!(bench.documents()[0].2["incomplete"].as_array().expect("a list").contains(&"timeout".into()));
    bench.assert_settled();
}

#[test]
fn rows_that_belong_to_no_call_leave_the_journal() {
    let mut bench = Bench::new();
    let message = event(CelEvent::ChanStart, EPOCH, "1795300000.1", "1795300000.1", "Message/ast_msg_queue");
    let broken = event(CelEvent::ChanStart, EPOCH, "rubbish\u{1b}[31m", "rubbish", "PJSIP/1001-00000001");
    bench.read(placed([message, broken], 1), EPOCH + 1);
    bench.assert_settled();
    assert_eq!(bench.count("SELECT count(*) FROM quarantine"), 1);
    assert!(bench.documents().is_empty());
}

#[test]
fn nothing_is_built_before_the_zone_is_known_and_late_rows_keep_theirs() {
    let mut bench = Bench::new();
    let unknown = Batch { zone: None, ..batch(placed(call_cel(1, 0, 30), 1), MUCH_LATER) };
    assert_eq!(bench.feed(unknown.clone()).shipped, 0);
    let mut bench = bench.restart();
    assert_eq!(bench.feed(Batch { rows: Vec::new(), ..unknown }).shipped, 0);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).shipped, 1);
    // the zone changes: a call built before keeps its own
    let other = callferry::correlate::Zone::Fixed(3_600);
    let change = Batch { zone: Some(other.clone()), ..batch(placed([call_cdr(1, 0, 30)], 100), MUCH_LATER) };
    assert_eq!(bench.feed(change).revised, 1);
    assert_eq!(bench.settler.zone(), Some(&other));
    assert_eq!(bench.count("SELECT zone FROM ledger"), 0);
    let change = Batch { zone: Some(other), ..batch(placed(call(2, 50, 30), 200), MUCH_LATER) };
    assert_eq!(bench.feed(change).shipped, 1);
    assert_eq!(bench.count("SELECT max(zone) FROM ledger"), 1);
    assert_eq!(bench.now, at(MUCH_LATER));
}

/// The state is opened again after the rows were let go: the rows of a late row's call are gone here.
fn started_later(bench: Bench) -> Bench {
    bench.let_go();
    bench.restart()
}

#[test]
fn a_call_that_ended_before_the_start_never_comes_as_a_fragment() {
    let mut setup = setup();
    setup.frame.start_at = Some(at(EPOCH + 100));
    let mut bench = Bench::with(setup, 1_000);
    let start = |rows| {
        let position = serde_json::json!({ "t0": at(EPOCH + 100).micros() }).to_string();
        Batch { positions: vec![(callferry::source::START_POSITION.to_owned(), position)], ..batch(rows, MUCH_LATER) }
    };
    assert_eq!(bench.feed(start(placed(call(1, 0, 30), 1))).before_start, 1);
    let mut bench = started_later(bench);
    // an event that would lie after the start
    let (a, _) = ids(1, 0);
    let late = placed([event(CelEvent::ChanEnd, EPOCH + 200, &a, &a, "PJSIP/1001-00000001")], 900);
    let outcome = bench.read(late.clone(), MUCH_LATER);
    assert_eq!((outcome.shipped, bench.settler.wishes().reread), (0, vec![a]));
    let answer = Batch { reread: bench.settler.wishes().reread, ..batch(late, MUCH_LATER) };
    let outcome = bench.feed(answer);
    assert_eq!((outcome.shipped, outcome.dropped_rows), (0, 1));
    assert!(bench.documents().is_empty());
    bench.assert_settled();
}

#[test]
fn two_calls_that_are_one_are_read_again_with_the_rows_of_both_or_stay() {
    let (first, second) = (placed(call(1, 0, 30), 1), placed(call(2, 10, 20), 100));
    let one_is_gone = first.clone();
    let both: Vec<PlacedRow> = first.iter().chain(&second).cloned().collect();
    for (there, merged) in [(one_is_gone, 0), (both, 1)] {
        let mut bench = Bench::new();
        bench.read(first.clone(), MUCH_LATER);
        bench.read(second.clone(), MUCH_LATER);
        let mut bench = started_later(bench);
        let ties = tie((1, 0), (2, 10), 200);
        bench.read(ties.clone(), MUCH_LATER);
        let rows = there.into_iter().chain(ties).collect();
        let outcome = bench.feed(Batch { reread: bench.settler.wishes().reread, ..batch(rows, MUCH_LATER) });
        assert_eq!((outcome.merged, outcome.dropped_rows > 0), (merged, merged == 0), "{outcome:?}");
        bench.assert_settled();
    }
}
