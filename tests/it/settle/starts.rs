//! Where reading began, a state that was lost, restarts of the PBX, agents that stay logged in.

use callferry::call::CelEvent;
use callferry::source::{Batch, START_POSITION};

use super::bench::{Bench, EPOCH, MUCH_LATER, batch, call, call_cdr, call_cel, event, ids, placed, setup};

fn start_at(second: i64) -> Vec<(String, String)> {
    vec![(START_POSITION.to_owned(), format!("{{\"t0\":{}}}", second * 1_000_000))]
}

#[test]
fn calls_that_ended_before_the_start_are_known_and_not_shipped() {
    let mut bench = Bench::new();
    let t0 = EPOCH + 100;
    let mut rows = placed(call_cel(1, 0, 30), 1);
    rows.extend(placed(call_cel(2, 80, 300)[..4].to_vec(), 20));
    let outcome = bench.feed(Batch { positions: start_at(t0), ..batch(rows, t0) });
    assert_eq!((outcome.shipped, outcome.before_start), (0, 1));
    // a late record changes nothing about that
    let mut bench = bench.restart();
    let outcome = bench.read(placed([call_cdr(1, 0, 30)], 100), t0 + 1);
    assert_eq!((outcome.shipped, outcome.revised), (0, 0));
    // the call in progress is whole
    let mut rest = placed(call_cel(2, 80, 300)[4..].to_vec(), 24);
    rest.extend(placed([call_cdr(2, 80, 300)], 101));
    assert_eq!(bench.read(rest, MUCH_LATER).shipped, 1);
    let documents = bench.documents();
    assert_eq!(documents.len(), 1);
    assert_eq!((documents[0].1, &documents[0].2["duration_s"]), (1, &300.into()));
    bench.assert_settled();
}

#[test]
fn calls_from_before_a_new_state_begin_with_a_revision_no_older_state_had() {
    let created = EPOCH + 1_000;
    let mut bench = Bench::with(setup(), created);
    bench.read(placed(call_cel(1, 0, 30), 1), MUCH_LATER);
    bench.read(placed([call_cdr(1, 0, 30)], 100), MUCH_LATER);
    bench.read(placed(call(2, 2_000, 30), 200), MUCH_LATER);
    let revisions: Vec<i64> = bench.documents().iter().map(|d| d.1).collect();
    assert_eq!(revisions, [created, created + 1, 1]);
}

#[test]
fn a_restart_of_the_pbx_closes_what_was_up() {
    let mut bench = Bench::new();
    let begun = call_cel(1, 0, 30)[..4].to_vec();
    bench.read(placed(begun, 1), EPOCH + 10);
    // the counter starts again: another call, of the new Asterisk
    let id = format!("{}.3", EPOCH + 100);
    let up = event(CelEvent::ChanStart, EPOCH + 100, &id, &id, "PJSIP/1001-00000001");
    bench.read(placed([up], 50), EPOCH + 101);
    assert!(bench.documents().is_empty(), "rows may still be on their way");
    let mut bench = bench.restart();
    assert_eq!(bench.read(Vec::new(), EPOCH + 115).shipped, 1);
    let first = bench.documents().pop().expect("a document");
    assert!(first.2["incomplete"].as_array().expect("a list").contains(&"pbx_restart".into()), "{first:?}");
    // the new call goes on
    let down = event(CelEvent::ChanEnd, EPOCH + 130, &id, &id, "PJSIP/1001-00000001");
    assert_eq!(bench.read(placed([down], 60), MUCH_LATER).shipped, 1);
    bench.assert_settled();
}

#[test]
fn a_restart_ends_what_was_shipped_as_a_call_that_does_not_end() {
    let mut bench = Bench::new();
    bench.read(placed(call_cel(1, 0, 30)[..4].to_vec(), 1), EPOCH + 10);
    assert_eq!(bench.read(Vec::new(), EPOCH + 86_500).shipped, 1);
    // the restart is seen, and recorded with another call, in the last moment before the agent is killed
    let id = format!("{}.3", EPOCH + 90_000);
    let up = event(CelEvent::ChanStart, EPOCH + 90_000, &id, &id, "PJSIP/1001-00000001");
    let mut rows = placed([up], 50);
    rows.extend(placed(call(2, 20, 30), 60));
    assert_eq!(bench.read(rows, EPOCH + 90_001).shipped, 1);
    let mut bench = bench.restart();
    assert_eq!(bench.read(Vec::new(), EPOCH + 90_015).revised, 1);
    let first = format!("pbx:{}", ids(1, 0).0);
    let told = bench.documents().into_iter().filter(|(id, ..)| *id == first);
    let reasons: Vec<String> =
        told.map(|(_, _, d)| d["incomplete"][0].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(reasons, ["timeout", "pbx_restart"]);
    // it is over now
    let down = event(CelEvent::ChanEnd, EPOCH + 90_030, &id, &id, "PJSIP/1001-00000001");
    assert_eq!(bench.read(placed([down], 51), MUCH_LATER).shipped, 1);
    bench.assert_settled();
}

#[test]
fn a_restart_that_was_none_is_taken_back() {
    let mut bench = Bench::new();
    bench.read(placed(call_cel(1, 0, 30)[..4].to_vec(), 1), EPOCH + 10);
    let other = |second: i64, counter: i64, number: i64| {
        let id = format!("{}.{counter}", EPOCH + second);
        placed([event(CelEvent::ChanStart, EPOCH + second, &id, &id, "PJSIP/1003-00000001")], number)
    };
    // a second PBX writes to the same table, with small counters
    bench.read(other(100, 3, 50), EPOCH + 120);
    assert_eq!(bench.documents().len(), 1, "taken for a restart");
    // the first one goes on: its counter continues
    bench.read(other(140, 10_100, 51), EPOCH + 150);
    assert_eq!(bench.settler.restarts_switched_off(), [""]);
    // the call of the first one ends as calls do
    let mut rest = placed(call_cel(1, 0, 200)[4..].to_vec(), 60);
    rest.extend(placed([call_cdr(1, 0, 200)], 100));
    let mut bench = bench.restart();
    assert_eq!(bench.read(rest, EPOCH + 210).revised, 1);
    let id = format!("pbx:{}", ids(1, 0).0);
    let kept = &bench.kept()[&id];
    assert_eq!((kept["incomplete"].as_array().map(Vec::len), &kept["duration_s"]), (Some(0), &200.into()));
}

/// An agent who stays logged in speaks with one caller after the other, all under the agent's linkedid.
#[test]
fn each_caller_of_a_logged_in_agent_is_a_call_of_its_own() {
    let mut bench = Bench::new();
    let agent = format!("{}.500", EPOCH);
    let bridged = |event_: CelEvent, second: i64, uniqueid: &str, channel: &str, n: i64| {
        let callferry::call::Row::Cel(row) = event(event_, second, uniqueid, &agent, channel) else { unreachable!() };
        let extra = format!(r#"{{"bridge_id":"b-{n}","bridge_technology":"simple_bridge"}}"#);
        callferry::call::Row::Cel(std::sync::Arc::new(callferry::call::CelRow {
            extra: extra.into(),
            ..callferry::call::CelRow::clone(&row)
        }))
    };
    let callferry::call::Row::Cel(login) = event(CelEvent::AppStart, EPOCH, &agent, &agent, "PJSIP/agent-00000001")
    else {
        unreachable!()
    };
    let login = callferry::call::CelRow { appname: "AgentLogin".into(), ..callferry::call::CelRow::clone(&login) };
    let mut rows = vec![
        event(CelEvent::ChanStart, EPOCH, &agent, &agent, "PJSIP/agent-00000001"),
        callferry::call::Row::Cel(login.into()),
    ];
    let mut number = 1;
    let mut shipped = 0;
    for n in 0..5 {
        let start = EPOCH + 100 * (n + 1);
        let caller = format!("{start}.{}", 600 + n);
        let channel = format!("PJSIP/caller-{n:08x}");
        rows.push(event(CelEvent::ChanStart, start, &caller, &caller, &channel));
        for (kind, second) in [(CelEvent::BridgeEnter, start + 2), (CelEvent::BridgeExit, start + 20)] {
            rows.push(bridged(kind.clone(), second, &agent, "PJSIP/agent-00000001", n));
            rows.push(bridged(kind, second, &caller, &channel, n));
        }
        rows.push(event(CelEvent::Hangup, start + 21, &caller, &agent, &channel));
        rows.push(event(CelEvent::ChanEnd, start + 21, &caller, &agent, &channel));
        let taken = std::mem::take(&mut rows);
        let count = taken.len() as i64;
        bench.read(placed(taken, number), start + 22);
        number += count;
        // the record does not come; its grace ends
        shipped += bench.read(Vec::new(), start + 50).shipped;
        assert_eq!(shipped as i64, n + 1, "each is shipped when it is over");
        if n == 2 {
            bench = bench.restart();
        }
    }
    let callers: Vec<String> = bench.kept().into_keys().collect();
    let expected: Vec<String> = (0..5).map(|n| format!("pbx:{}.{}", EPOCH + 100 * (n + 1), 600 + n)).collect();
    assert_eq!(callers, expected);
    assert!(bench.documents().iter().all(|d| d.1 == 1), "none was revised");
    // the agent logs out
    let out = event(CelEvent::ChanEnd, EPOCH + 5_000, &agent, &agent, "PJSIP/agent-00000001");
    bench.read(placed([out], number), MUCH_LATER);
    bench.read(Vec::new(), MUCH_LATER + 10);
    assert!(bench.documents().iter().all(|d| d.1 == 1), "none was revised");
    bench.assert_settled();
    // a late record of one caller finds that call alone
    let start = EPOCH + 200;
    let callferry::call::Row::Cdr(record) = call_cdr(1, 200, 21) else { unreachable!() };
    let record = callferry::call::CdrRow {
        uniqueid: format!("{start}.601").into(),
        linkedid: agent.as_str().into(),
        ..callferry::call::CdrRow::clone(&record)
    };
    let outcome = bench.read(placed([callferry::call::Row::Cdr(record.into())], 900), MUCH_LATER + 20);
    assert_eq!((outcome.shipped, outcome.revised, outcome.merged), (0, 1, 0));
    bench.assert_settled();
}
