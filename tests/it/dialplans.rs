//! Ways of dialplans and drivers that the captured PBX does not have: rows of a few calls, and what is to be told of them.

use std::fs::File;
use std::path::Path;

use callferry::call::{CelEvent, Content, Row};
use callferry::correlate::{Rules, Zone, batch::correlate_all};
use callferry::source::csv;
use serde_json::{Value, json};

use crate::captures::{call, rules};
use crate::support::expected::captures;

/// The rows of a case.
fn rows(case: &str) -> Vec<Row> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/dialplans").join(case);
    let mut rows = csv::read_cel(File::open(dir.join("cel.csv")).expect("the case"), "cel").expect("CEL rows").rows;
    if let Ok(file) = File::open(dir.join("cdr.csv")) {
        rows.append(&mut csv::read_cdr(file, "cdr").expect("CDR rows").rows);
    }
    rows
}

/// The one call of these rows as a document.
fn told_by(rows: Vec<Row>, rules: &Rules) -> Value {
    let calls: Vec<Content> = correlate_all(rows, rules, &Zone::Named(chrono_tz::Europe::Prague)).calls;
    assert_eq!(calls.len(), 1);
    let one = calls.into_iter().next().expect("a call");
    serde_json::to_value(call(one)).expect("a call is JSON")
}

fn told(case: &str) -> Value {
    told_by(rows(case), &rules())
}

/// Without the ends of applications, as Asterisk's sample configuration logs.
fn without_ends(case: &str) -> Vec<Row> {
    let kept = |row: &Row| !matches!(row, Row::Cel(r) if r.event == CelEvent::AppEnd);
    rows(case).into_iter().filter(kept).collect()
}

/// Results of all attempts.
fn results(call: &Value) -> Vec<&str> {
    let attempts = call["attempts"].as_array().expect("attempts").iter();
    attempts.map(|a| a["result"].as_str().expect("a result")).collect()
}

#[test]
fn a_caller_who_hangs_up_has_gone_before_the_h_extension_runs() {
    let ringing = [told("h-ringing"), told("h-ringing-slow"), told_by(without_ends("h-ringing-slow"), &rules())];
    for call in ringing {
        assert_eq!(call["outcome"], "abandoned");
        assert_eq!(call["hung_up_by"], "caller");
        assert_eq!(results(&call), ["cancelled"]);
    }
    let queue = told("h-queue");
    assert_eq!((&queue["outcome"], &queue["queue"]["outcome"]), (&json!("abandoned"), &json!("abandoned")));
    assert_eq!(results(&queue), ["cancelled"; 3]);
    let menu = told("h-menu-slow");
    assert_eq!(menu["outcome"], "abandoned");
    assert_eq!(menu["ivr_s"], 2.501);
}

#[test]
fn an_answered_caller_hangs_up_itself_whatever_cause_it_carries() {
    for case in ["answered-keeps-busy-menu", "answered-keeps-busy-voicemail", "answered-keeps-busy-freepbx"] {
        assert_eq!(told(case)["hung_up_by"], "caller", "{case}");
    }
}

#[test]
fn records_alone_tell_the_did_that_was_dialled() {
    for capture in captures().iter().filter(|c| c.dir.join("cdr_freepbx.csv").exists()) {
        let file = File::open(capture.dir.join("cdr_freepbx.csv")).expect("records");
        let records = csv::read_cdr(file, "cdr").expect("CDR rows").rows;
        for told in correlate_all(records, &rules(), &Zone::Named(chrono_tz::Europe::Prague)).calls {
            if told.did.is_some() {
                assert_eq!(told.to.number, told.did, "{}", capture.name);
            }
        }
    }
}

#[test]
fn the_name_looked_up_for_a_caller_stands_in_its_records() {
    let call = told("freepbx-cnam");
    assert_eq!((&call["from"]["name"], &call["from"]["number"]), (&json!("ACME CORP"), &json!("+42060050177")));
    assert_eq!(call["answered_by"]["name"], "Alice Novak");
}

#[test]
fn a_trunk_that_refuses_has_failed_whatever_the_cause() {
    for (case, code) in
        [("trunk-refuses-102", 102), ("trunk-refuses-127", 127), ("trunk-refuses-31", 31), ("trunk-refuses-81", 81)]
    {
        let call = told(case);
        assert_eq!(call["outcome"], "failed", "{case}");
        assert_eq!(results(&call), ["failed"], "{case}");
        assert_eq!(call["hangup_cause"]["code"], code, "{case}");
    }
}

#[test]
fn every_form_of_dial_string_tells_trunk_and_number() {
    for (case, trunk) in [
        ("iax-credentials", "IAX2/trunk-acme"),
        ("iax-short-serial", "IAX2/trunk-acme"),
        ("pjsip-uri", "PJSIP/trunk-acme"),
        ("dahdi-out", "DAHDI/i1"),
    ] {
        let rules = Rules { trunks: vec![trunk.to_owned()], ..Rules::default() };
        let records = || rows(case).into_iter().filter(|r| matches!(r, Row::Cdr(_))).collect();
        for call in [told_by(rows(case), &rules), told_by(records(), &rules)] {
            assert_eq!((&call["direction"], &call["trunk_out"]), (&json!("outbound"), &json!(trunk)), "{case}");
            assert_eq!(call["answered_by"]["number"], "777150001", "{case}");
            assert!(!call.to_string().contains("s3cret"), "{case}");
        }
    }
    let dahdi = told_by(rows("dahdi-in"), &Rules { trunks: vec!["DAHDI/*".to_owned()], ..Rules::default() });
    assert_eq!((&dahdi["direction"], &dahdi["trunk_in"]), (&json!("inbound"), &json!("DAHDI/i1")));
    let hairpin = told("pjsip-uri-hairpin");
    assert_eq!(hairpin["forwarded_external"], true);
    for attempt in hairpin["attempts"].as_array().expect("attempts") {
        assert!(!attempt["party"]["number"].to_string().contains(['@', ':']), "{attempt}");
    }
}

#[test]
fn a_blind_transfer_that_comes_back_went_to_whom_it_was_sent() {
    let call = told("blind-returned");
    let transfers = call["transfers"].as_array().expect("transfers");
    assert_eq!(transfers.len(), 1);
    let one = &transfers[0];
    assert_eq!(
        (&one["to"]["number"], &one["answered"], &one["returned"]),
        (&json!("1003"), &json!(false), &json!(true))
    );
    assert_eq!(call["finally_with"]["number"], "1001");
}

#[test]
fn a_conference_that_let_nobody_in_was_none() {
    let call = told("conference-not-joined");
    assert_eq!(call["outcome"], "self_service");
    assert!(call["answered_at"].is_null() && call["answered_by"].is_null() && call["conference"].is_null());
}

#[test]
fn the_pbx_answers_also_through_a_local_pair() {
    for case in ["mailbox-through-local", "queue-through-local"] {
        assert_eq!(told(case)["pbx_answered_at"].as_str().map(|t| &t[..22]), Some("2026-11-21T22:26:40.00"), "{case}");
    }
    assert!(
        told("queue-through-local")["answered_at"].as_str() > told("queue-through-local")["pbx_answered_at"].as_str()
    );
}

#[test]
fn a_caller_gives_up_also_where_the_driver_names_no_source() {
    for case in ["no-source-ringing", "no-source-queue"] {
        let call = told(case);
        assert_eq!((&call["outcome"], &call["hung_up_by"]), (&json!("abandoned"), &json!("caller")), "{case}");
        assert!(results(&call).iter().all(|r| *r == "cancelled"), "{case}");
    }
    assert_eq!(told("no-source-queue")["queue"]["outcome"], "abandoned");
}

#[test]
fn a_callee_who_left_earlier_did_not_end_the_survey() {
    let call = told("survey-after-queue");
    assert_eq!((&call["outcome"], &call["hung_up_by"]), (&json!("answered"), &json!("pbx")));
    // a caller who ended it leaves no name of its own
    let kept = |row: &Row| !matches!(row, Row::Cel(r) if ["Playback", "Hangup"].contains(&r.appname.as_str()));
    let left = told_by(rows("survey-after-queue").into_iter().filter(kept).collect(), &rules());
    assert!(left["hung_up_by"].is_null());
}

#[test]
fn a_callee_that_is_redirected_was_transferred() {
    let call = told("redirected-callee");
    let transfers = call["transfers"].as_array().expect("transfers");
    assert_eq!(transfers.len(), 1);
    assert_eq!((&transfers[0]["kind"], &transfers[0]["answered"]), (&json!("redirect"), &json!(true)));
    assert_eq!(transfers[0]["to"]["number"], "1003");
    assert_eq!(call["hung_up_by"], "pbx", "it was not the caller who left");
}
