//! The body SIPSTACK's API gets, held against an example to the letter.

use std::sync::Arc;

use callferry::call::*;
use callferry::correlate::{CallRows, Zone};
use callferry::ship::sink::sipstack::format::{Identity, render};
use callferry::ship::{Frozen, freeze_rows};
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("../../data/sipstack/inbound-answered.json");

fn utc(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).expect("time")
}

/// What a clock in Prague shows at this moment.
fn wall(text: &str) -> RowTime {
    RowTime::Wall(WallTime(utc(text).micros() + 3_600_000_000))
}

fn party(number: &str, kind: PartyKind) -> Party {
    Party { number: Some(number.to_owned()), kind: Some(kind), ..Party::default() }
}

fn call() -> Call {
    Call {
        schema: SCHEMA.to_owned(),
        id: "pbx:1795213604.12".to_owned(),
        revision: 1,
        supersedes: Vec::new(),
        source: SourceInfo { id: "pbx".to_owned(), kind: SourceKind::Asterisk, host: Some("pbx-east".to_owned()) },
        content: Content {
            tenant: None,
            linkedid: "1795213604.12".to_owned(),
            linkedids: vec!["1795213604.12".to_owned()],
            state: CallState::Completed,
            incomplete: Vec::new(),
            direction: Direction::Inbound,
            forwarded_external: false,
            outcome: Some(Outcome::Answered),
            from: Party {
                name: Some("Zoë \u{1f4de}".to_owned()),
                e164: Some("+420601234567".to_owned()),
                ..party("601234567", PartyKind::External)
            },
            to: party("+1 (415) 555-2671", PartyKind::External),
            did: Some("4155552671".to_owned()),
            answered_by: Some(Party { name: Some("Alice".to_owned()), ..party("1001", PartyKind::Extension) }),
            finally_with: None,
            started_at: Some(utc("2026-11-20T22:26:44.553666Z")),
            pbx_answered_at: None,
            answered_at: Some(utc("2026-11-20T22:26:48.9Z")),
            ended_at: Some(utc("2026-11-20T22:27:20.100000Z")),
            duration_s: Some(Seconds::from_millis(35_546)),
            ring_s: None,
            wait_s: None,
            talk_s: None,
            hold_s: None,
            ivr_s: None,
            voicemail_s: None,
            hung_up_by: None,
            hangup_cause: None,
            trunk_in: None,
            trunk_out: None,
            queue: None,
            conference: None,
            transfers: Vec::new(),
            attempts: Vec::new(),
            journey: Vec::new(),
            legs: Vec::new(),
            recordings: vec![Recording {
                path: Some("/var/spool/asterisk/monitor/2026/11/20/in-1795213604.12.wav".to_owned()),
                file: "in-1795213604.12.wav".to_owned(),
                format: Some("wav".to_owned()),
                started_at: Some(utc("2026-11-20T22:26:49Z")),
                size: Some(512_044),
                matched_by: RecordingMatch::Cdr,
            }],
            accountcode: None,
            userfield: None,
            amaflags: None,
            discrepancies: Vec::new(),
            rows: RowCounts { cel: 5, cdr: 1 },
        },
    }
}

fn cel(id: i64, event: CelEvent, at: &str, uniqueid: &str) -> CelRow {
    let (channel, exten) = if uniqueid.ends_with("12") {
        ("PJSIP/trunk-a-0000000c", "4155552671")
    } else {
        ("PJSIP/1001-0000000d", "1001")
    };
    CelRow {
        id: Some(id),
        event,
        time: Some(wall(at)),
        uniqueid: uniqueid.into(),
        linkedid: "1795213604.12".into(),
        channel: channel.into(),
        exten: exten.into(),
        context: "from-trunk".into(),
        ..CelRow::default()
    }
}

fn rows() -> CallRows {
    let bridge = CelRow {
        peer: "PJSIP/1001-0000000d".into(),
        ..cel(4, CelEvent::BridgeEnter, "2026-11-20T22:26:48.9Z", "1795213604.12")
    };
    let cels = vec![
        cel(9, CelEvent::LinkedidEnd, "2026-11-20T22:27:20.1Z", "1795213604.12"),
        cel(1, CelEvent::ChanStart, "2026-11-20T22:26:44.553666Z", "1795213604.12"),
        cel(2, CelEvent::AppStart, "2026-11-20T22:26:44.6Z", "1795213604.12"),
        cel(3, CelEvent::ChanStart, "2026-11-20T22:26:45Z", "1795213605.13"),
        bridge,
    ];
    let cdr = CdrRow {
        start: Some(wall("2026-11-20T22:26:44Z")),
        duration_ms: Some(35_000),
        billsec_ms: Some(31_000),
        uniqueid: "1795213604.12".into(),
        linkedid: "1795213604.12".into(),
        src: "601234567".into(),
        dst: "4155552671".into(),
        channel: "PJSIP/trunk-a-0000000c".into(),
        dstchannel: "PJSIP/1001-0000000d".into(),
        disposition: Disposition::Answered,
        ..CdrRow::default()
    };
    CallRows { cel: cels.into_iter().map(Arc::new).collect(), cdr: vec![Arc::new(cdr)], ..CallRows::default() }
}

fn identity() -> Identity {
    Identity { customer_id: 42, tenant: "acme".to_owned(), hostname: "connector-host".to_owned(), raw_data: false }
}

fn rendered(document: &str, rows: Option<&[u8]>, identity: &Identity) -> Value {
    let now = utc("2026-11-20T22:27:26Z");
    let frozen = Frozen { call_id: "pbx:1795213604.12", revision: 1, document, rows, now };
    let bytes = render(&frozen, identity).expect("render");
    assert_eq!(render(&frozen, identity).expect("render"), bytes);
    serde_json::from_slice(&bytes).expect("JSON")
}

fn of(call: &Call) -> Value {
    let rows = freeze_rows(&rows(), &Zone::Named(chrono_tz::Europe::Prague));
    rendered(&serde_json::to_string(call).expect("document"), Some(&rows), &identity())
}

#[test]
fn an_answered_inbound_call_is_the_example() {
    let mut golden: Value = serde_json::from_str(GOLDEN).expect("example");
    golden["connector_version"] = env!("CARGO_PKG_VERSION").into();
    let found = of(&call());
    assert_eq!(found, golden, "found: {}", serde_json::to_string_pretty(&found).expect("text"));
}

#[test]
fn an_internal_call_has_extensions_on_both_sides() {
    let mut call = call();
    call.content.direction = Direction::Internal;
    call.content.from = Party { name: Some("Bob".to_owned()), ..party("1002", PartyKind::Extension) };
    call.content.to = party("1001", PartyKind::Extension);
    call.content.did = None;
    let body = of(&call);
    let sides = ["src_extension", "src_extension_name", "dst_extension", "dst_extension_name", "direction"];
    assert_eq!(sides.map(|f| body[f].as_str().unwrap_or("-")), ["1002", "Bob", "1001", "Alice", "x"]);
    for absent in ["src_number", "src_name", "dst_number", "dst_name"] {
        assert!(body.get(absent).is_none(), "{absent} is left out, not null");
    }
}

#[test]
fn an_outbound_call_shows_the_number_it_went_out_under() {
    let mut call = call();
    call.content.direction = Direction::Outbound;
    call.content.from = Party { presented: Some("+1 415 555 0100".to_owned()), ..party("1001", PartyKind::Extension) };
    call.content.to = party("+442079460000", PartyKind::External);
    call.content.did = None;
    call.content.answered_by = Some(party("+442079460000", PartyKind::External));
    let body = of(&call);
    let fields = ["src_extension", "src_number", "dst_number", "direction"];
    assert_eq!(fields.map(|f| body[f].as_str().unwrap_or("-")), ["1001", "14155550100", "442079460000", "o"]);
    assert!(body.get("dst_extension").is_none());
}

#[test]
fn numbers_are_not_guessed_at() {
    // what the connector makes of them: null, 19876543210, null, 14155552671
    for (number, expected) in [
        ("9055551234", json!("19055551234")),
        ("919876543210", json!("919876543210")),
        ("112", json!("112")),
        ("1-415-555-2671", json!("14155552671")),
        ("0301234567", json!("0301234567")),
        ("anonymous", Value::Null),
    ] {
        let mut call = call();
        call.content.from = party(number, PartyKind::External);
        assert_eq!(of(&call)["src_number"], expected, "{number}");
    }
}

#[test]
fn raw_data_carries_the_rows_with_their_columns() {
    let identity = Identity { raw_data: true, ..identity() };
    let frozen = freeze_rows(&rows(), &Zone::Fixed(3_600));
    let body = rendered(&serde_json::to_string(&call()).expect("document"), Some(&frozen), &identity);
    assert_eq!(body["raw_cdrs"].as_array().map(Vec::len), Some(1));
    assert_eq!(body["raw_cdrs"][0]["calldate"], "2026-11-20T23:26:44+01:00");
    assert_eq!(body["raw_cdrs"][0]["disposition"], "ANSWERED");
    assert_eq!(body["raw_cels"].as_array().map(Vec::len), Some(5));
    assert_eq!(body["raw_cels"][1]["channame"], "PJSIP/trunk-a-0000000c");
}

#[test]
fn without_rows_or_records_the_outcome_speaks() {
    for (outcome, expected) in [
        (Some(Outcome::Answered), "ANSWERED"),
        (Some(Outcome::Voicemail), "ANSWERED"),
        (Some(Outcome::Busy), "BUSY"),
        (Some(Outcome::Declined), "NO ANSWER"),
        (Some(Outcome::Failed), "FAILED"),
        (None, "NO ANSWER"),
    ] {
        let mut call = call();
        call.content.outcome = outcome;
        let body = rendered(&serde_json::to_string(&call).expect("document"), None, &identity());
        assert_eq!(body["disposition"], expected);
        assert_eq!((&body["call_threads"], &body["call_threads_count"]), (&json!([]), &json!(0)));
        assert_eq!(body["call_time"], "2026-11-20T22:26:44.553666+00:00");
    }
}

#[test]
fn a_call_merged_away_is_put_back_to_incomplete() {
    let tombstone = Tombstone {
        schema: SCHEMA.to_owned(),
        id: "pbx:1795213700.20".to_owned(),
        revision: 2,
        state: CallState::Merged,
        merged_into: "pbx:1795213604.12".to_owned(),
    };
    let body = rendered(&serde_json::to_string(&tombstone).expect("document"), None, &identity());
    assert_eq!(body["linkedid"], "1795213700.20");
    assert_eq!((&body["is_complete"], &body["ship_phase"]), (&json!(false), &json!("update")));
    assert_eq!(body["duration_seconds"], 0);
}

#[test]
fn a_call_still_going_on_says_so() {
    let mut call = call();
    call.content.state = CallState::InProgress;
    assert_eq!((&of(&call)["is_complete"], &of(&call)["ship_phase"]), (&json!(false), &json!("initial")));
    call.revision = 2;
    assert_eq!(of(&call)["ship_phase"], "update");
}

#[test]
fn what_cannot_be_read_is_an_error_and_no_panic() {
    for (document, rows) in [("{}", None), ("", None), ("{}", Some(&b"\xff\xff"[..]))] {
        let frozen = Frozen { call_id: "a", revision: 1, document, rows, now: Timestamp::from_secs(0) };
        assert!(render(&frozen, &identity()).is_err());
    }
}
