use rusqlite::Connection;

use super::*;

const SINK: &str = "webhook";
const ALL: Page = Page { deliveries: 100, bytes: 1 << 20, rows: true };

fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn state() -> Connection {
    let conn = Connection::open_in_memory().expect("memory database");
    conn.execute_batch(include_str!("../../../migrations/0001_state.sql")).expect("schema");
    for call in 1..=9 {
        conn.execute(
            "INSERT INTO ledger (call, id, revision, state, content_hash, updated_at) VALUES (?1, ?2, 1, 'shipped', x'', 0)",
            params![call, format!("pbx:{call}.1")],
        )
        .expect("ledger row");
    }
    conn
}

fn put(conn: &Connection, call: i64, revision: i64, after: Option<(i64, i64)>) -> usize {
    let id = format!("pbx:{call}.1");
    let body = format!("{{\"id\":\"{id}\",\"revision\":{revision}}}");
    let new = NewRevision { call, id: &id, revision, body: &body, rows: Some(b"rows"), after };
    enqueue(conn, &new, &[SINK], at(10 + revision)).expect("enqueue")
}

/// The keys that are due.
fn keys(conn: &Connection) -> Vec<String> {
    due(conn, SINK, at(1_000_000), ALL).expect("due").iter().map(Due::key).collect()
}

fn take(conn: &Connection, key: &str, batch: Option<&str>) -> i64 {
    let found = due(conn, SINK, at(1_000_000), ALL).expect("due");
    let delivery = found.iter().find(|d| d.key() == key).unwrap_or_else(|| panic!("{key} is not due")).delivery;
    let claim_one = Claim { delivery, key: key.to_owned(), body: None, batch: batch.map(str::to_owned) };
    assert_eq!(claim(conn, &[vec![claim_one]]).expect("claim"), [true]);
    delivery
}

fn end(conn: &Connection, delivery: i64, outcome: Outcome) {
    record(conn, &[(delivery, outcome)], at(500)).expect("record");
}

fn retry() -> Outcome {
    Outcome::Retry { due_at: at(600), age: 7, tried_up: 8, error: "503".to_owned() }
}

fn dead() -> Outcome {
    Outcome::Dead { error: "422".to_owned(), refused: true }
}

fn state_of(conn: &Connection, key: &str) -> i64 {
    conn.query_row("SELECT state FROM delivery WHERE call_id || '/' || revision = ?1", [key], |r| r.get(0))
        .expect("delivery")
}

#[test]
fn a_newer_revision_takes_the_place_of_a_waiting_one() {
    let conn = state();
    assert_eq!(put(&conn, 1, 1, None), 0);
    assert_eq!(put(&conn, 2, 1, None), 0);
    assert_eq!(put(&conn, 1, 2, None), 1);
    assert_eq!(keys(&conn), ["pbx:2.1/1", "pbx:1.1/2"]);
    assert_eq!(state_of(&conn, "pbx:1.1/1"), 3);
}

#[test]
fn a_revision_in_flight_is_waited_for_also_after_a_crash() {
    let conn = state();
    put(&conn, 1, 1, None);
    let first = take(&conn, "pbx:1.1/1", None);
    assert_eq!(put(&conn, 1, 2, None), 0, "in flight: not superseded");
    assert_eq!(keys(&conn), [""; 0], "and not overtaken");
    // the process ends here and starts again
    assert_eq!(recover(&conn, SINK).expect("recover"), 1);
    assert_eq!(keys(&conn), ["pbx:1.1/1"]);
    assert_eq!(take(&conn, "pbx:1.1/1", None), first);
    end(&conn, first, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:1.1/2"]);
}

#[test]
fn an_attempt_that_failed_gives_way_to_the_newer_revision() {
    let conn = state();
    put(&conn, 1, 1, None);
    let first = take(&conn, "pbx:1.1/1", None);
    put(&conn, 1, 2, None);
    end(&conn, first, retry());
    assert_eq!(state_of(&conn, "pbx:1.1/1"), 3);
    assert_eq!(keys(&conn), ["pbx:1.1/2"]);
}

#[test]
fn a_batch_that_was_sent_keeps_its_members_until_answered() {
    let conn = state();
    put(&conn, 1, 1, None);
    put(&conn, 2, 1, None);
    let one = take(&conn, "pbx:1.1/1", Some("b"));
    let two = take(&conn, "pbx:2.1/1", Some("b"));
    end(&conn, one, retry());
    end(&conn, two, retry());
    assert_eq!(put(&conn, 1, 2, None), 0);
    assert_eq!(keys(&conn), ["pbx:1.1/1", "pbx:2.1/1"], "both again, the newer one waits");
    let small = Page { deliveries: 1, ..ALL };
    assert_eq!(due(&conn, SINK, at(1_000), small).expect("due").len(), 2, "a batch is loaded whole");
}

#[test]
fn a_dead_revision_does_not_block_and_comes_back_only_as_the_newest() {
    let conn = state();
    put(&conn, 1, 1, None);
    let first = take(&conn, "pbx:1.1/1", None);
    end(&conn, first, dead());
    assert_eq!(counts(&conn, SINK).expect("counts"), Counts { pending: 0, dead: 1, oldest: None });
    put(&conn, 1, 2, None);
    assert_eq!(keys(&conn), ["pbx:1.1/2"]);
    assert_eq!(revive(&conn, first, at(700)).expect("revive"), 0, "it would overtake nothing but itself");
    assert_eq!(state_of(&conn, "pbx:1.1/1"), 3);
}

#[test]
fn a_tombstone_waits_for_its_survivor() {
    let conn = state();
    put(&conn, 2, 1, None);
    put(&conn, 1, 2, None);
    put(&conn, 2, 2, Some((1, 2)));
    assert_eq!(keys(&conn), ["pbx:1.1/2"]);
    let survivor = take(&conn, "pbx:1.1/2", None);
    assert_eq!(keys(&conn), [""; 0]);
    end(&conn, survivor, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:2.1/2"]);
}

#[test]
fn a_tombstone_follows_its_survivor_to_a_newer_revision_and_into_death() {
    let conn = state();
    put(&conn, 1, 2, None);
    put(&conn, 2, 2, Some((1, 2)));
    put(&conn, 1, 3, None);
    assert_eq!(keys(&conn), ["pbx:1.1/3"]);
    let survivor = take(&conn, "pbx:1.1/3", None);
    end(&conn, survivor, dead());
    assert_eq!(state_of(&conn, "pbx:2.1/2"), 2);
    put(&conn, 3, 2, Some((1, 3)));
    assert_eq!(state_of(&conn, "pbx:3.1/2"), 2, "enqueued after its survivor died");
    assert_eq!(revive(&conn, survivor, at(700)).expect("revive"), 3);
    assert_eq!(keys(&conn), ["pbx:1.1/3"], "survivor first");
    let survivor = take(&conn, "pbx:1.1/3", None);
    end(&conn, survivor, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:2.1/2", "pbx:3.1/2"]);
}

#[test]
fn a_claim_notices_what_was_superseded_meanwhile() {
    let conn = state();
    put(&conn, 1, 1, None);
    put(&conn, 2, 1, None);
    let found = due(&conn, SINK, at(1_000), ALL).expect("due");
    put(&conn, 1, 2, None);
    let claims: Vec<Vec<Claim>> = found
        .iter()
        .map(|d| vec![Claim { delivery: d.delivery, key: d.key(), body: Some(b"x".to_vec()), batch: None }])
        .collect();
    assert_eq!(claim(&conn, &claims).expect("claim"), [false, true]);
}

#[test]
fn bytes_freeze_at_the_first_attempt() {
    let conn = state();
    put(&conn, 1, 1, None);
    for bytes in [b"first", b"again"] {
        let found = due(&conn, SINK, at(1_000), ALL).expect("due");
        let (delivery, key) = (found[0].delivery, found[0].key());
        claim(&conn, &[vec![Claim { delivery, key, body: Some(bytes.to_vec()), batch: None }]]).expect("claim");
        end(&conn, delivery, retry());
    }
    assert_eq!(due(&conn, SINK, at(1_000), ALL).expect("due")[0].body.as_deref(), Some(&b"first"[..]));
    assert_eq!(next_due(&conn, SINK, at(599)).expect("next"), Some(at(600)));
}

#[test]
fn pages_are_bounded_by_bytes_and_number() {
    let conn = state();
    for call in 1..=9 {
        put(&conn, call, 1, None);
    }
    let of =
        |deliveries, bytes| due(&conn, SINK, at(1_000), Page { deliveries, bytes, rows: false }).expect("due").len();
    assert_eq!(of(4, 1 << 20), 4);
    assert_eq!(of(100, 80), 2);
    assert_eq!(of(100, 1), 1, "one goes whatever its size");
}

#[test]
fn rows_go_when_every_sink_has_them() {
    let conn = state();
    let new = NewRevision { call: 1, id: "pbx:1.1", revision: 1, body: "{}", rows: Some(b"rows"), after: None };
    enqueue(&conn, &new, &["webhook", "sipstack"], at(1)).expect("enqueue");
    conn.execute("UPDATE delivery SET flight = 1", []).expect("both are sent");
    let rows =
        || -> Option<Vec<u8>> { conn.query_row("SELECT rows FROM document", [], |r| r.get(0)).expect("document") };
    record(&conn, &[(1, Outcome::Delivered)], at(2)).expect("record");
    release_rows(&conn, &[1]).expect("release");
    assert!(rows().is_some());
    record(&conn, &[(2, Outcome::Delivered)], at(2)).expect("record");
    release_rows(&conn, &[2]).expect("release");
    assert!(rows().is_none());
}

#[test]
fn old_deliveries_expire_and_clocks_are_mended() {
    let conn = state();
    put(&conn, 1, 1, None);
    put(&conn, 2, 5, None);
    assert_eq!(expire(&conn, SINK, at(12), at(900), "the sink was down for 14 days").expect("expire"), 1);
    assert_eq!(state_of(&conn, "pbx:1.1/1"), 2);
    let two = take(&conn, "pbx:2.1/5", None);
    end(&conn, two, Outcome::Retry { due_at: at(99_999_999), age: 0, tried_up: 0, error: String::new() });
    assert_eq!(mend_clock(&conn, SINK, at(900), at(10_000)).expect("mend"), 1);
    assert_eq!(next_due(&conn, SINK, at(0)).expect("next"), Some(at(900)));
}

#[test]
fn what_is_due_is_found_by_index() {
    let conn = state();
    let plan = |sql: &str| -> String {
        let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("plan");
        let rows = statement.query_map([], |r| r.get::<_, String>(3)).expect("plan");
        rows.map(|r| r.expect("line")).collect::<Vec<_>>().join("\n")
    };
    let text = plan(
        "SELECT d.delivery FROM delivery d JOIN document o ON o.doc = d.doc
          WHERE d.sink = 'a' AND d.state = 0 AND d.flight = 0 AND d.due_at <= 5
            AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.call = d.call AND e.sink = d.sink
                            AND e.revision < d.revision AND e.state = 0)
          ORDER BY d.due_at, d.delivery LIMIT 5",
    );
    assert!(text.contains("delivery_due") && !text.contains("SCAN") && !text.contains("TEMP B-TREE"), "{text}");
    let text = plan("SELECT queued_at FROM delivery WHERE sink = 'a' AND state = 0 ORDER BY delivery LIMIT 1");
    assert!(text.contains("delivery_pending"), "{text}");
}

#[test]
fn what_was_said_of_a_call_while_it_was_up_goes_when_a_sink_has_something_newer() {
    let conn = state();
    let tell = |revision: i64, state: &str| {
        // a text of the call's that looks like its state
        let body =
            format!("{{\"id\":\"pbx:1.1\",\"state\":\"{state}\",\"userfield\":\"\\\"state\\\":\\\"in_progress\\\"\"}}");
        let new = NewRevision { call: 1, id: "pbx:1.1", revision, body: &body, rows: None, after: None };
        enqueue(&conn, &new, &[SINK, "other"], at(10 + revision)).expect("enqueue");
    };
    let left = || -> Vec<i64> {
        let mut statement =
            conn.prepare("SELECT revision FROM document WHERE call = 1 ORDER BY revision").expect("sql");
        let rows = statement.query_map([], |r| r.get(0)).expect("query");
        rows.collect::<rusqlite::Result<_>>().expect("rows")
    };
    tell(1, "in_progress");
    let first = take(&conn, "pbx:1.1/1", None);
    tell(2, "in_progress");
    tell(3, "in_progress");
    // the first is in flight at one sink; at the other only the last waits
    assert_eq!(left(), [1, 2, 3]);
    end(&conn, first, Outcome::Delivered);
    assert_eq!(left(), [1, 2, 3], "nothing newer was delivered yet");
    let third = take(&conn, "pbx:1.1/3", None);
    tell(4, "completed");
    end(&conn, third, Outcome::Delivered);
    // the third waits at nobody: the other sink waits for the fourth
    assert_eq!(left(), [3, 4]);
    let fourth = take(&conn, "pbx:1.1/4", None);
    tell(5, "completed");
    end(&conn, fourth, Outcome::Delivered);
    assert_eq!(left(), [4, 5]);
    let fifth = take(&conn, "pbx:1.1/5", None);
    end(&conn, fifth, Outcome::Delivered);
    assert_eq!(left(), [4, 5], "what was said of its end stays");
    let deliveries: i64 = conn.query_row("SELECT count(*) FROM delivery", [], |r| r.get(0)).expect("count");
    assert_eq!(deliveries, 4);
}

#[test]
fn what_another_sink_refused_or_still_waits_for_stays() {
    for outcome in [None, Some(dead())] {
        let conn = state();
        let tell = |revision: i64, state: &str| {
            let body = format!("{{\"state\":\"{state}\"}}");
            let new = NewRevision { call: 1, id: "pbx:1.1", revision, body: &body, rows: None, after: None };
            enqueue(&conn, &new, &[SINK, "other"], at(10 + revision)).expect("enqueue");
        };
        tell(1, "in_progress");
        let other = due(&conn, "other", at(1_000_000), ALL).expect("due")[0].delivery;
        let one = Claim { delivery: other, key: "pbx:1.1/1".to_owned(), body: None, batch: None };
        assert_eq!(claim(&conn, &[vec![one]]).expect("claim"), [true]);
        if let Some(outcome) = &outcome {
            end(&conn, other, outcome.clone());
        }
        tell(2, "completed");
        let second = take(&conn, "pbx:1.1/2", None);
        end(&conn, second, Outcome::Delivered);
        let left: i64 = conn.query_row("SELECT count(*) FROM document", [], |r| r.get(0)).expect("count");
        assert_eq!(left, 2, "{outcome:?}");
    }
}

#[test]
fn dead_letters_are_sent_again_with_what_waited_for_them_and_never_before() {
    use crate::store::dead::{self, Action, Cursor, Done, Which};
    let conn = state();
    let act = |action, which: &Which, limit| {
        let (mut done, mut cursor) = (Done::default(), Cursor::default());
        while let Some(next) = dead::step(&conn, action, which, cursor, limit, at(700), &mut done).expect("step") {
            cursor = next;
        }
        done
    };
    let all = Which::default();
    let one = |id: &str| Which { ids: vec![id.to_owned()], sink: None };
    // call 2 is merged into call 1: its tombstone waits for revision 2 of call 1
    put(&conn, 1, 2, None);
    put(&conn, 2, 2, Some((1, 2)));
    put(&conn, 3, 1, None);
    for key in ["pbx:1.1/2", "pbx:3.1/1"] {
        let delivery = take(&conn, key, None);
        end(&conn, delivery, dead());
    }
    assert_eq!(["pbx:1.1/2", "pbx:2.1/2", "pbx:3.1/1"].map(|k| state_of(&conn, k)), [2, 2, 2]);

    // the tombstone alone would only take a call away
    let done = act(Action::Retry, &one("pbx:2.1"), 10);
    assert_eq!((done.deliveries(), done.blocked), (0, 1));
    // both at once, a step each
    let done = act(Action::Retry, &all, 1);
    assert_eq!((done.deliveries(), done.calls, done.blocked), (3, 3, 0));
    assert_eq!(keys(&conn), ["pbx:1.1/2", "pbx:3.1/1"], "the tombstone waits again");

    // a newer revision stands for the older one
    let delivery = take(&conn, "pbx:3.1/1", None);
    end(&conn, delivery, dead());
    put(&conn, 3, 2, None);
    let done = act(Action::Retry, &all, 10);
    assert_eq!((done.deliveries(), done.superseded), (0, 1));

    // dropped: not dead any more, and not sent; at another sink there is nothing
    let delivery = take(&conn, "pbx:3.1/2", None);
    end(&conn, delivery, dead());
    let elsewhere = Which { sink: Some("file".to_owned()), ..Which::default() };
    assert_eq!(act(Action::Drop, &elsewhere, 10), Done::default());
    assert_eq!(dead::count(&conn, &all).expect("count"), [(SINK.to_owned(), 1)].into());
    assert_eq!(act(Action::Drop, &all, 10).deliveries(), 1);
    assert_eq!(state_of(&conn, "pbx:3.1/2"), 4);
    assert_eq!(counts(&conn, SINK).expect("counts").dead, 0);
    // what was dropped was not delivered either: what waits for its call stays back
    assert_eq!(act(Action::Retry, &all, 10), Done::default());
}

#[test]
fn a_tombstone_that_died_with_its_survivor_goes_with_the_survivors_next_revision() {
    let conn = state();
    put(&conn, 1, 2, None);
    put(&conn, 2, 2, Some((1, 2)));
    let survivor = take(&conn, "pbx:1.1/2", None);
    end(&conn, survivor, dead());
    assert!(keys(&conn).is_empty());
    // a late row of the survivor: it goes first, the tombstone after it
    put(&conn, 1, 3, None);
    assert_eq!(keys(&conn), ["pbx:1.1/3"]);
    let survivor = take(&conn, "pbx:1.1/3", None);
    assert!(keys(&conn).is_empty());
    end(&conn, survivor, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:2.1/2"]);
}

#[test]
fn a_tombstone_outlives_a_revision_that_is_given_up_when_a_newer_one_waits() {
    let conn = state();
    put(&conn, 1, 2, None);
    put(&conn, 2, 2, Some((1, 2)));
    let survivor = take(&conn, "pbx:1.1/2", None);
    put(&conn, 1, 3, None);
    end(&conn, survivor, dead());
    assert_eq!(keys(&conn), ["pbx:1.1/3"]);
    let survivor = take(&conn, "pbx:1.1/3", None);
    end(&conn, survivor, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:2.1/2"]);
}

#[test]
fn an_answer_counts_for_what_was_sent_and_not_for_who_has_its_number_now() {
    let conn = state();
    put(&conn, 1, 1, None);
    let found = due(&conn, SINK, at(1_000), ALL).expect("due");
    let sent = take(&conn, "pbx:1.1/1", None);
    // the caller is forgotten while the request is on its way; the next call gets the number
    conn.execute("DELETE FROM delivery", []).expect("forgotten");
    put(&conn, 2, 1, None);
    assert_eq!(due(&conn, SINK, at(1_000), ALL).expect("due")[0].delivery, sent, "the case that is meant");
    end(&conn, sent, Outcome::Delivered);
    assert_eq!(keys(&conn), ["pbx:2.1/1"]);
    let stale = Claim { delivery: sent, key: found[0].key(), body: None, batch: None };
    assert_eq!(claim(&conn, &[vec![stale]]).expect("claim"), [false]);
}

#[test]
fn a_dead_letter_that_is_revived_is_young_again() {
    let conn = state();
    put(&conn, 1, 1, None);
    let delivery = take(&conn, "pbx:1.1/1", None);
    end(&conn, delivery, dead());
    assert_eq!(revive(&conn, delivery, at(9_000_000)).expect("revive"), 1);
    assert_eq!(expire(&conn, SINK, at(8_999_999), at(9_000_001), "too old").expect("expire"), 0);
    assert_eq!(awaited(&conn).expect("awaited"), [SINK]);
}
