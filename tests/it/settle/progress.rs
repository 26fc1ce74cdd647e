//! Calls that are told while they are up: what is said, when, and that the end is the same as without.

use std::collections::BTreeMap;

use callferry::agent::judge::Updates;
use callferry::agent::settle::Setup;
use callferry::call::{CelEvent, CelRow, Row};
use callferry::source::{Batch, PlacedRow, START_POSITION};
use serde_json::{Value, json};

use super::bench::{
    Bench, EPOCH, MUCH_LATER, ZONE, at, batch, call, call_cdr, call_cel, capture, event, ids, placed, setup,
};
use super::order::{assert_same, split, truth};
use crate::support::expected::captures;

const SECOND: i64 = 1_000_000;

fn told(changes: bool, every: Option<i64>) -> Setup {
    let mut setup = setup();
    setup.policy.updates = Some(Updates { changes, pause: SECOND, every: every.map(|s| s * SECOND) });
    setup
}

pub fn progressive() -> Setup {
    told(true, None)
}

impl Bench {
    /// Both clocks show this second.
    fn at(&mut self, second: i64, rows: Vec<PlacedRow>) -> callferry::agent::settle::Outcome {
        self.now = at(second);
        self.read(rows, second)
    }

    fn states(&self) -> Vec<(i64, String)> {
        let text = |d: &Value| d["state"].as_str().expect("state").to_owned();
        self.documents().iter().map(|(_, revision, d)| (*revision, text(d))).collect()
    }
}

fn states(of: &[(i64, &str)]) -> Vec<(i64, String)> {
    of.iter().map(|(n, s)| (*n, (*s).to_owned())).collect()
}

/// The made-up call with the application that dials named in its events.
fn dialled(rows: Vec<Row>) -> Vec<Row> {
    let with_app = |row| match row {
        Row::Cel(r) if r.event == CelEvent::Answer => {
            let app = if r.uniqueid == r.linkedid { "Dial" } else { "AppDial" };
            Row::Cel(CelRow { appname: app.into(), ..CelRow::clone(&r) }.into())
        }
        other => other,
    };
    rows.into_iter().map(with_app).collect()
}

/// What no document of a call that is up says.
fn assert_undecided(document: &Value) {
    for field in ["ended_at", "duration_s", "talk_s", "hold_s", "wait_s", "hung_up_by", "hangup_cause"] {
        assert_eq!(document[field], Value::Null, "{field} of {document}");
    }
    assert_eq!(document["incomplete"], json!([]));
    let steps = document["journey"].as_array().expect("a journey");
    assert!(steps.iter().all(|s| s["step"] != "hangup"), "{document}");
}

#[test]
fn a_call_is_told_when_it_begins_when_it_changes_and_when_it_ends() {
    let mut bench = Bench::with(progressive(), 1_000);
    let rows = placed(dialled(call(1, 0, 30)), 1);
    assert_eq!(bench.at(EPOCH, rows[..1].to_vec()).told, 1);
    let (id, revision, first) = bench.documents().remove(0);
    assert_eq!((id, revision), (format!("pbx:{}", ids(1, 0).0), 1));
    assert_eq!((&first["state"], &first["outcome"]), (&json!("in_progress"), &Value::Null));
    assert_undecided(&first);
    // time passes, nothing else
    assert_eq!(bench.at(EPOCH + 5, Vec::new()).told, 0);
    assert_eq!(bench.at(EPOCH + 6, rows[1..2].to_vec()).told, 1);
    assert_eq!(bench.at(EPOCH + 8, rows[2..4].to_vec()).told, 1);
    let answered = bench.documents().remove(2).2;
    assert_eq!((&answered["outcome"], &answered["answered_by"]["number"]), (&json!("answered"), &json!("1002")));
    assert_undecided(&answered);
    // an event that says nothing
    let (a, _) = ids(1, 0);
    let odd = event(CelEvent::Other("VENDOR".into()), EPOCH + 9, &a, &a, "PJSIP/1001-00000001");
    assert_eq!(bench.at(EPOCH + 10, placed([odd], 90)).told, 0);
    assert_eq!(bench.count("SELECT count(*) FROM journal"), 5, "rows stay");
    // the waiting documents of before are replaced
    assert_eq!(bench.count("SELECT count(*) FROM delivery WHERE state = 0"), 2);
    let outcome = bench.at(EPOCH + 31, rows[4..].to_vec());
    assert_eq!((outcome.shipped, outcome.revised, outcome.told), (1, 0, 0));
    let mut expected = states(&[(1, "in_progress"), (2, "in_progress"), (3, "in_progress"), (4, "completed")]);
    assert_eq!(bench.states(), expected);
    assert_eq!(bench.documents()[3].2["duration_s"], 30);
    bench.assert_settled();
    // a late row makes a revision as ever, and nothing is taken back to "in progress"
    let late = event(CelEvent::ChanStart, EPOCH + 29, &format!("{}.99999", EPOCH + 29), &a, "PJSIP/1003-00000009");
    assert_eq!(bench.at(EPOCH + 40, placed([late], 95)).told, 0);
    let down = event(CelEvent::ChanEnd, EPOCH + 30, &format!("{}.99999", EPOCH + 29), &a, "PJSIP/1003-00000009");
    assert_eq!(bench.at(EPOCH + 41, placed([down], 96)).revised, 1);
    expected.extend(states(&[(5, "completed")]));
    assert_eq!(bench.states(), expected);
    bench.assert_settled();
}

#[test]
fn many_changes_in_a_second_are_one_document() {
    let mut bench = Bench::with(progressive(), 1_000);
    let rows = placed(dialled(call_cel(1, 0, 30)), 1);
    assert_eq!(bench.at(EPOCH, rows[..1].to_vec()).told, 1);
    assert_eq!(bench.at(EPOCH, rows[1..2].to_vec()).told, 0);
    assert_eq!(bench.at(EPOCH, rows[2..4].to_vec()).told, 0);
    // told by itself when the second is over
    assert_eq!(bench.at(EPOCH + 1, Vec::new()).told, 1);
    assert_eq!(bench.documents()[1].2["outcome"], "answered");
    assert_eq!(bench.at(EPOCH + 9, Vec::new()).told, 0);
}

#[test]
fn long_calls_are_told_again_and_again() {
    for changes in [true, false] {
        let mut bench = Bench::with(told(changes, Some(600)), 1_000);
        let rows = placed(call(1, 0, 3_000), 1);
        assert_eq!(bench.at(EPOCH + 2, rows[..4].to_vec()).told, usize::from(changes));
        let mut updates = 0;
        let mut step = |bench: Bench, second: i64| {
            // the clock of the last document survives a restart
            let mut bench = if second % 250 == 0 { bench.restart() } else { bench };
            updates += bench.at(EPOCH + second, Vec::new()).told;
            bench
        };
        for second in (50..=1_850).step_by(50) {
            bench = step(bench, second);
        }
        assert_eq!(updates, 3, "progressive: {changes}");
        let outcome = bench.at(EPOCH + 3_001, rows[4..].to_vec());
        assert_eq!((outcome.shipped, outcome.told), (1, 0));
        let documents = bench.documents();
        assert_eq!(documents.last().expect("the end").2["state"], "completed");
        let (before, last) = documents.split_at(documents.len() - 1);
        assert!(before.iter().all(|(_, _, d)| d["state"] == "in_progress"));
        assert_eq!(last[0].1, documents.len() as i64, "revisions without a gap");
        bench.assert_settled();
    }
    // a short one, in complete mode: once
    let mut bench = Bench::with(told(false, Some(600)), 1_000);
    let rows = placed(call(1, 0, 599), 1);
    bench.at(EPOCH + 2, rows[..4].to_vec());
    bench.at(EPOCH + 599, Vec::new());
    bench.at(EPOCH + 600, rows[4..].to_vec());
    assert_eq!(bench.states(), states(&[(1, "completed")]));
}

#[test]
fn history_is_told_once() {
    let mut bench = Bench::with(told(true, Some(600)), 1_000);
    // pages that cut calls, as reading from the beginning meets them
    let rows: Vec<Row> = (0..50).flat_map(|n| call(n, n, 300)).collect();
    for page in placed(rows, 1).chunks(7) {
        bench.feed(Batch { caught_up: false, more: true, ..batch(page.to_vec(), MUCH_LATER) });
    }
    bench.read(Vec::new(), MUCH_LATER);
    assert_eq!(bench.states(), vec![(1, "completed".to_owned()); 50]);
    bench.assert_settled();
}

#[test]
fn what_may_have_ended_before_the_start_is_not_told_until_it_moves() {
    let mut bench = Bench::with(told(true, Some(600)), 1_000);
    let positions = vec![(START_POSITION.to_owned(), format!("{{\"t0\":{}}}", (EPOCH + 100) * SECOND))];
    let rows = placed(call(1, 0, 300), 1);
    bench.now = at(EPOCH + 100);
    let outcome = bench.feed(Batch { positions, ..batch(rows[..3].to_vec(), EPOCH + 100) });
    assert_eq!(outcome.told, 0);
    assert_eq!(bench.at(EPOCH + 900, Vec::new()).told, 0);
    let (a, _) = ids(1, 0);
    let hold = event(CelEvent::Other("HOLD".into()), EPOCH + 901, &a, &a, "PJSIP/1001-00000001");
    assert_eq!(bench.at(EPOCH + 901, placed([hold], 90)).told, 1);
    bench.at(EPOCH + 950, rows[3..].to_vec());
    assert_eq!(bench.states(), states(&[(1, "in_progress"), (2, "completed")]));
}

/// An event of the second call's channel that carries the first call's linkedid.
fn tie(second: i64) -> Row {
    event(CelEvent::Other("LINKED".into()), EPOCH + second, &ids(2, 10).0, &ids(1, 0).0, "PJSIP/1001-00000002")
}

#[test]
fn two_calls_that_are_one_while_both_are_up() {
    for restarts in [false, true] {
        let again = |bench: Bench| if restarts { bench.restart() } else { bench };
        let mut bench = Bench::with(progressive(), 1_000);
        let (one, two) = (placed(call(1, 0, 60), 1), placed(call(2, 10, 50), 50));
        bench.at(EPOCH + 5, one[..4].to_vec());
        bench.at(EPOCH + 15, two[..4].to_vec());
        bench.deliver_all();
        let mut bench = again(bench);
        let outcome = bench.at(EPOCH + 20, placed([tie(20)], 90));
        assert_eq!((outcome.told, outcome.merged), (1, 1));
        let (older, younger) = (format!("pbx:{}", ids(1, 0).0), format!("pbx:{}", ids(2, 10).0));
        let documents = bench.documents();
        let [_, _, (first, 2, survivor), (second, 2, tombstone)] = &documents[..] else { panic!("{documents:?}") };
        assert_eq!((first, second), (&older, &younger));
        assert_eq!((&survivor["state"], &survivor["supersedes"]), (&json!("in_progress"), &json!([younger])));
        assert_eq!((&tombstone["state"], &tombstone["merged_into"]), (&json!("merged"), &json!(older)));
        let waiting = "SELECT count(*) FROM delivery t JOIN delivery s ON t.after = s.delivery
                       WHERE t.sink = s.sink AND t.state = 0 AND s.state = 0 AND s.revision = 2";
        assert_eq!(bench.count(waiting), 2, "the tombstone waits for its survivor at each sink");
        let mut bench = again(bench);
        bench.at(EPOCH + 61, one[4..].iter().chain(&two[4..]).cloned().collect());
        let last = bench.documents().pop().expect("the end");
        assert_eq!((last.0, last.1, &last.2["state"]), (older.clone(), 3, &json!("completed")));
        assert_eq!(last.2["supersedes"], json!([younger]));
        assert_eq!(last.2["legs"].as_array().map(Vec::len), Some(4));
        // no tombstone is left behind
        assert_eq!(bench.count(waiting), 0);
        assert_eq!(bench.count("SELECT count(*) FROM delivery WHERE state = 0"), 4);
        assert_eq!(bench.kept().keys().collect::<Vec<_>>(), [&older]);
        bench.assert_settled();
    }
}

/// The younger of the two was announced, the older came to light with the tie.
#[test]
fn an_announced_id_stays_though_an_older_call_joins() {
    let mut bench = Bench::with(progressive(), 1_000);
    let (one, two) = (placed(call(1, 0, 60), 1), placed(call(2, 10, 50), 50));
    bench.at(EPOCH + 15, two[..4].to_vec());
    let late: Vec<PlacedRow> = one.iter().take(4).cloned().chain(placed([tie(20)], 90)).collect();
    assert_eq!(bench.at(EPOCH + 20, late).told, 1);
    bench.at(EPOCH + 61, one[4..].iter().chain(&two[4..]).cloned().collect());
    let younger = format!("pbx:{}", ids(2, 10).0);
    assert_eq!(bench.kept().keys().collect::<Vec<_>>(), [&younger]);
    assert_eq!(bench.kept()[&younger]["linkedid"], json!(ids(1, 0).0));
    bench.assert_settled();
}

/// The agent dies between any two steps, at every one of them; SIGKILL leaves what was committed.
#[test]
fn a_restart_at_any_step_loses_and_doubles_nothing() {
    let mut rows: Vec<Row> = capture("19-attended-transfer-refer/run1");
    rows.extend(call(1, 0, 30));
    let mut second = call(2, 10, 20);
    second.insert(4, tie(12));
    rows.extend(second);
    let rows = placed(rows, 1);
    let truth = truth(&rows);
    let mut rng = fastrand::Rng::with_seed(11);
    let batches = split(rows, true, &mut rng);
    for killed_at in 0..batches.len() * 2 {
        let mut bench = Bench::with(told(true, Some(5)), 1_000);
        let mut step = 0;
        let mut survive = |bench: Bench| {
            let dies = step == killed_at;
            step += 1;
            if dies { bench.restart() } else { bench }
        };
        for (n, rows) in batches.iter().enumerate() {
            // the captures' day, so that nothing is too old to be up
            let second = EPOCH + 40 + 2 * n as i64;
            bench.now = at(second);
            let now = bench.now;
            bench.settler.ingest(batch(rows.clone(), second), now).expect("ingest");
            bench = survive(bench);
            bench.settler.settle_all(now).expect("settle");
            bench = survive(bench);
        }
        bench.read(Vec::new(), MUCH_LATER);
        assert_same(&format!("killed at step {killed_at}"), &bench, &truth);
        assert_order(&format!("killed at step {killed_at}"), &bench);
    }
}

/// For each id: revisions without a gap, in progress before completed, never back.
fn assert_order(name: &str, bench: &Bench) {
    let mut last: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for (id, revision, document) in bench.documents() {
        let state = document["state"].as_str().expect("state").to_owned();
        match last.get(&id) {
            None => assert_eq!(revision, 1, "{name} {id}"),
            Some((before, was)) => {
                assert_eq!(revision, before + 1, "{name} {id}");
                assert!(state != "in_progress" || was == "in_progress", "{name} {id}: {state} after {was}");
            }
        }
        if state == "in_progress" {
            assert_undecided(&document);
        } else {
            assert!(!document.to_string().contains("\"ringing\""), "{name} {id}");
        }
        last.insert(id, (revision, state));
    }
}

/// Every capture, a few rows at a time as they were written: at the end receivers have what they have without it.
#[test]
fn the_captures_end_the_same() {
    let (mut updates, mut ringing) = (0, 0);
    for capture_ in captures() {
        let rows = placed(capture(&capture_.name), 1);
        let truth = truth(&rows);
        if truth.values().any(|c| c["state"] == "in_progress" || c["incomplete"].to_string().contains("pbx_restart")) {
            continue;
        }
        let mut bench = Bench::with(progressive(), 1_000);
        let mut second = 0;
        for (n, rows) in rows.chunks(3).enumerate() {
            let times = rows.iter().filter(|r| matches!(r.row, Row::Cel(_))).filter_map(|r| r.row.time());
            second = times.map(|t| ZONE.row_moment(t, None).secs() + 1).fold(second, i64::max);
            // the agent's clock goes on, so that no change is held back
            bench.now = at(MUCH_LATER + 2 * n as i64);
            updates += bench.read(rows.to_vec(), second).told;
        }
        bench.read(Vec::new(), second + 100);
        assert_same(&capture_.name, &bench, &truth);
        assert_order(&capture_.name, &bench);
        ringing += bench.documents().iter().filter(|(_, _, d)| d.to_string().contains("\"ringing\"")).count();
    }
    assert!(updates > 200 && ringing > 50, "{updates} documents of calls in progress, {ringing} of them ringing");
}

/// Nothing says AgentLogin: that a channel is nailed up shows with its fourth caller. What was told of the first ones as
/// part of one call comes right: each is a call of its own, and none is named as superseded.
#[test]
fn callers_of_a_logged_in_agent_come_apart_again() {
    let mut bench = Bench::with(progressive(), 1_000);
    let agent = format!("{EPOCH}.500");
    let bridged = |kind: CelEvent, second: i64, uniqueid: &str, linkedid: &str, channel: &str, n: i64| {
        let Row::Cel(row) = event(kind, second, uniqueid, linkedid, channel) else { unreachable!() };
        let extra = format!(r#"{{"bridge_id":"b-{n}","bridge_technology":"simple_bridge"}}"#);
        Row::Cel(CelRow { extra: extra.into(), ..CelRow::clone(&row) }.into())
    };
    let mut all = Vec::new();
    let mut number = 1;
    let mut feed = |bench: &mut Bench, second: i64, rows: Vec<Row>| {
        let rows = placed(rows, number);
        number += rows.len() as i64;
        all.extend(rows.iter().cloned());
        bench.at(second, rows)
    };
    let nailed = "PJSIP/agent-00000001";
    feed(&mut bench, EPOCH, vec![event(CelEvent::ChanStart, EPOCH, &agent, &agent, nailed)]);
    for n in 0..5 {
        let start = EPOCH + 100 * (n + 1);
        let caller = format!("{start}.{}", 600 + n);
        let channel = format!("PJSIP/caller-{n:08x}");
        feed(&mut bench, start, vec![event(CelEvent::ChanStart, start, &caller, &caller, &channel)]);
        for (kind, second) in [(CelEvent::BridgeEnter, start + 2), (CelEvent::BridgeExit, start + 20)] {
            let rows = vec![
                bridged(kind.clone(), second, &agent, &agent, nailed, n),
                bridged(kind, second, &caller, &agent, &channel, n),
            ];
            feed(&mut bench, second, rows);
        }
        let down = [CelEvent::Hangup, CelEvent::ChanEnd].map(|e| event(e, start + 21, &caller, &agent, &channel));
        feed(&mut bench, start + 22, down.to_vec());
        bench.at(start + 50, Vec::new());
    }
    bench.deliver_all();
    assert!(bench.states().iter().any(|(_, s)| s == "merged"), "they were taken for one");
    let mut bench = bench.restart();
    feed(&mut bench, EPOCH + 5_000, vec![event(CelEvent::ChanEnd, EPOCH + 5_000, &agent, &agent, nailed)]);
    bench.at(EPOCH + 5_100, Vec::new());
    bench.at(EPOCH + 5_200, Vec::new());
    let kept = bench.kept();
    let mut without = Bench::new();
    without.read(all, EPOCH + 5_100);
    without.read(Vec::new(), EPOCH + 5_200);
    assert_eq!(kept.keys().collect::<Vec<_>>(), without.kept().keys().collect::<Vec<_>>());
    for (id, document) in &kept {
        assert_eq!(document["state"], "completed", "{id}");
        let named = document["supersedes"].as_array().expect("a list");
        assert!(named.iter().all(|id| !kept.contains_key(id.as_str().expect("text"))), "{id} supersedes {named:?}");
        assert_eq!(document["legs"], without.kept()[id]["legs"], "{id}");
    }
    bench.assert_settled();
}

#[test]
fn a_record_of_a_call_alone_tells_nothing() {
    let mut bench = Bench::with(told(true, Some(5)), 1_000);
    assert_eq!(bench.at(EPOCH + 31, placed([call_cdr(1, 0, 30)], 1)).told, 0);
    assert_eq!(bench.at(EPOCH + 60, Vec::new()).told, 0);
    assert_eq!(bench.at(EPOCH + 91, Vec::new()).shipped, 1);
    assert_eq!(bench.states(), states(&[(1, "completed")]));
}
