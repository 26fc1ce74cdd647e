//! The captures: real rows whose truth is known, through the same code a running agent uses.

use std::fs::File;

use callferry::call::{Call, CelEvent, CelRow, Content, Row, RowTime, SCHEMA, SourceInfo, SourceKind, WallTime};
use callferry::correlate::batch::correlate_all;
use callferry::correlate::{Rules, Zone};
use callferry::source::csv;
use serde_json::Value;

use crate::support::expected::{Capture, captures, driven, looser, misses};

pub fn rules() -> Rules {
    Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], ..Rules::default() }
}

/// Rows of a capture, from two of its files.
pub fn rows(capture: &Capture, cel: &str, cdr: &str) -> Vec<Row> {
    let open = |name: &str| File::open(capture.dir.join(name)).expect("a file of the capture");
    let mut rows = csv::read_cel(open(cel), cel).expect("CEL rows").rows;
    rows.append(&mut csv::read_cdr(open(cdr), cdr).expect("CDR rows").rows);
    rows
}

fn documents(rows: Vec<Row>) -> Vec<Value> {
    let zone = Zone::Named(chrono_tz::Europe::Prague);
    let calls = correlate_all(rows, &rules(), &zone).calls.into_iter();
    calls.map(|content| serde_json::to_value(call(content)).expect("a call is JSON")).collect()
}

/// The first document of a call.
pub fn call(content: Content) -> Call {
    Call {
        schema: SCHEMA.to_owned(),
        id: format!("pbx:{}", content.linkedid),
        revision: 1,
        supersedes: Vec::new(),
        source: SourceInfo { id: "pbx".to_owned(), kind: SourceKind::Asterisk, host: None },
        content,
    }
}

/// Compares, collecting what differs over all captures before it fails.
fn compare(name: &str, documents: &[Value], capture: &Capture, slack: Option<(f64, f64)>, failures: &mut Vec<String>) {
    for fields in &capture.calls {
        let mut fields = fields.clone();
        fields.remove("tenant");
        if let Some((time, duration)) = slack {
            fields = fields.into_iter().map(|(k, v)| (k, looser(&v, time, duration))).collect();
        }
        let call = documents.iter().find(|d| d["linkedid"] == fields["linkedid"]);
        let lines = call.map_or_else(|| vec!["no such call".to_owned()], |call| misses(&fields, call));
        failures.extend(lines.into_iter().map(|l| format!("{name} [{}] {l}", fields["linkedid"])));
    }
}

fn assert_none(failures: &[String]) {
    assert!(failures.is_empty(), "{} fields differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_capture_is_told_as_it_was() {
    let mut failures = Vec::new();
    for capture in captures() {
        let documents = documents(rows(&capture, "cel.csv", "cdr.csv"));
        if documents.len() != capture.calls.len() {
            failures.push(format!("{}: {} calls for {}", capture.name, documents.len(), capture.calls.len()));
        }
        compare(&capture.name, &documents, &capture, None, &mut failures);
    }
    assert_none(&failures);
}

#[test]
fn every_driven_call_is_told_as_it_was() {
    let mut failures = Vec::new();
    for capture in driven() {
        for cdr in ["cdr.csv", "cdr_freepbx.csv"] {
            let documents = documents(rows(&capture, "cel.csv", cdr));
            if documents.len() != capture.calls.len() {
                failures.push(format!("{}: {} calls for {}", capture.name, documents.len(), capture.calls.len()));
            }
            compare(&capture.name, &documents, &capture, None, &mut failures);
        }
    }
    assert_none(&failures);
}

/// What records alone tell of direction and trunks.
#[test]
fn driven_records_alone_tell_where_calls_went() {
    let mut failures = Vec::new();
    for mut capture in driven() {
        // an originate's first leg and a consultation by an application leave no trace in the records
        if capture.calls.len() == 1 && ["24-", "36-", "37-", "06-"].iter().any(|s| capture.scenario.starts_with(s)) {
            continue;
        }
        let records = rows(&capture, "cel.csv", "cdr.csv").into_iter().filter(|r| matches!(r, Row::Cdr(_))).collect();
        for fields in &mut capture.calls {
            fields.retain(|field, _| ["linkedid", "direction", "trunk_in", "trunk_out"].contains(&field.as_str()));
        }
        compare(&capture.name, &documents(records), &capture, None, &mut failures);
    }
    assert_none(&failures);
}

/// The applications FreePBX lets into the CEL: no Dial, no menus.
#[test]
fn driven_calls_are_told_without_dial_and_menu_applications() {
    const LOGGED: &[&str] =
        &["confbridge", "meetme", "mixmonitor", "queue", "stopmixmonitor", "voicemail", "voicemailmain"];
    let mut failures = Vec::new();
    for mut capture in driven() {
        let logged = |row: &Row| match row {
            Row::Cel(r) => {
                !matches!(r.event, CelEvent::AppStart | CelEvent::AppEnd)
                    || LOGGED.iter().any(|a| r.appname.eq_ignore_ascii_case(a))
            }
            Row::Cdr(_) => true,
        };
        let rows = rows(&capture, "cel.csv", "cdr_freepbx.csv").into_iter().filter(logged).collect();
        for fields in &mut capture.calls {
            for menu in ["ivr_s", "journey.has"] {
                fields.remove(menu);
            }
        }
        compare(&capture.name, &documents(rows), &capture, Some((1.0, 1.05)), &mut failures);
    }
    assert_none(&failures);
}

#[test]
fn postgresql_rows_tell_the_same() {
    let mut failures = Vec::new();
    for capture in captures() {
        if !capture.dir.join("cel_pg.csv").exists() || !capture.dir.join("cdr_pg.csv").exists() {
            continue;
        }
        let documents = documents(rows(&capture, "cel_pg.csv", "cdr_pg.csv"));
        let mut capture = capture;
        for fields in &mut capture.calls {
            fields.remove("rows.cel");
            fields.remove("rows.cdr");
        }
        compare(&capture.name, &documents, &capture, None, &mut failures);
    }
    assert_none(&failures);
}

#[test]
fn whole_seconds_tell_the_same_but_for_the_fractions() {
    let mut failures = Vec::new();
    for capture in captures() {
        let mut cut = Vec::new();
        for row in rows(&capture, "cel.csv", "cdr.csv") {
            cut.push(match row {
                Row::Cel(r) => {
                    let mut r = CelRow::clone(&r);
                    if let Some(RowTime::Wall(WallTime(t))) = r.time {
                        r.time = Some(RowTime::Wall(WallTime(t.div_euclid(1_000_000) * 1_000_000)));
                    }
                    Row::Cel(r.into())
                }
                cdr => cdr,
            });
        }
        compare(&capture.name, &documents(cut), &capture, Some((1.0, 1.05)), &mut failures);
    }
    assert_none(&failures);
}

/// A narrow event list: of the callee neither application nor bridge is logged, and only the caller's entry names it.
#[test]
fn whoever_enters_a_bridge_names_whom_it_meets() {
    let cel = "eventtype,eventtime,cid_num,exten,context,channame,appname,appdata,uniqueid,linkedid,peer,extra\n\
        CHAN_START,2026-11-20 23:00:00.00,1001,1002,from-internal,PJSIP/1001-00000001,,,1795212000.1,1795212000.1,,\n\
        CHAN_START,2026-11-20 23:00:00.02,1002,1002,from-internal,PJSIP/1002-00000002,,,1795212000.2,1795212000.1,,\n\
        ANSWER,2026-11-20 23:00:04.00,1002,1002,from-internal,PJSIP/1002-00000002,,,1795212000.2,1795212000.1,,\n\
        ANSWER,2026-11-20 23:00:04.01,1001,1002,from-internal,PJSIP/1001-00000001,Dial,x,1795212000.1,1795212000.1,,\n\
        BRIDGE_ENTER,2026-11-20 23:00:04.02,1001,1002,from-internal,PJSIP/1001-00000001,Dial,x,1795212000.1,1795212000.1,PJSIP/1002-00000002,\n\
        HANGUP,2026-11-20 23:00:34.00,1002,1002,from-internal,PJSIP/1002-00000002,,,1795212000.2,1795212000.1,,\"{\"\"hangupcause\"\":16}\"\n\
        HANGUP,2026-11-20 23:00:34.01,1001,1002,from-internal,PJSIP/1001-00000001,,,1795212000.1,1795212000.1,,\"{\"\"hangupcause\"\":16}\"\n\
        LINKEDID_END,2026-11-20 23:00:34.02,1001,1002,from-internal,PJSIP/1001-00000001,,,1795212000.1,1795212000.1,,\n";
    let rows = csv::read_cel(cel.as_bytes(), "cel").expect("CEL rows").rows;
    let documents = documents(rows);
    let [call] = &documents[..] else { panic!("{} calls", documents.len()) };
    assert_eq!((&call["outcome"], &call["answered_by"]["number"]), (&"answered".into(), &"1002".into()), "{call:#}");
    assert_eq!((&call["answered_at"], &call["talk_s"]), (&"2026-11-20T22:00:04.020000Z".into(), &29.98.into()));
}
