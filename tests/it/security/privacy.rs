//! `NUMBER_PRIVACY`: over every captured call and in every format, no number of an outside party is left in any spelling.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use callferry::call::{CelEvent, CelRow, Row, RowTime, Timestamp};
use callferry::config::{FileSinkConfig, NumberPrivacy, PrivacyWay, SinkConfig, SipstackConfig, TlsConfig};
use callferry::correlate::batch::correlate_all;
use callferry::correlate::numbering::{Numbering, Plan};
use callferry::correlate::{CallRows, Rules, Zone};
use callferry::ship::{Frozen, Sink, freeze_rows, sinks};
use serde_json::Value;

use crate::captures::{call, rows};
use crate::ship::support::webhook_config;
use crate::support::expected::{Capture, captures, driven};

fn numbering() -> Numbering {
    let country = Plan::built_in("420").map(|p| p.0);
    let international = vec!["00".to_owned()];
    Numbering { country, international, dial_prefixes: vec!["9".to_owned()], ..Numbering::default() }
}

fn rules() -> Rules {
    Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], numbering: numbering(), ..Rules::default() }
}

/// The three formats behind one way of hiding.
fn all_sinks(way: &PrivacyWay) -> Vec<Arc<dyn Sink>> {
    sinks_with(way, numbering())
}

fn sinks_with(way: &PrivacyWay, numbering: Numbering) -> Vec<Arc<dyn Sink>> {
    let privacy = NumberPrivacy { way: way.clone(), numbering, extension_max: 7 };
    let webhook =
        callferry::config::WebhookConfig { privacy: privacy.clone(), ..webhook_config("http://localhost:1/") };
    let sipstack = SipstackConfig {
        url: "http://localhost:1/".to_owned().into(),
        api_key: "k".to_owned().into(),
        customer_id: 1,
        tenant: None,
        hostname: "pbx".to_owned(),
        include_raw_data: true,
        concurrency: 1,
        timeout: std::time::Duration::from_secs(1),
        allow_http: false,
        tls: TlsConfig::default(),
        privacy: privacy.clone(),
    };
    let file = FileSinkConfig { path: None, privacy };
    sinks(&[SinkConfig::Webhook(webhook), SinkConfig::File(file), SinkConfig::Sipstack(sipstack)]).expect("sinks")
}

/// A call's document and its rows, frozen.
struct Told {
    document: String,
    rows: Vec<u8>,
}

fn told(capture: &Capture) -> Vec<Told> {
    told_of(rows(capture, "cel.csv", "cdr.csv"), &rules())
}

fn told_of(rows: Vec<Row>, rules: &Rules) -> Vec<Told> {
    let zone = Zone::Named(chrono_tz::Europe::Prague);
    let calls = correlate_all(rows.clone(), rules, &zone).calls.into_iter();
    calls
        .map(|content| {
            let mut own = CallRows::default();
            for row in rows.iter().filter(|r| content.linkedids.iter().any(|l| l == r.linkedid())) {
                match row {
                    Row::Cel(r) => own.cel.push(r.clone()),
                    Row::Cdr(r) => own.cdr.push(r.clone()),
                }
            }
            let call = call(content);
            Told { document: serde_json::to_string(&call).expect("JSON"), rows: freeze_rows(&own, &zone) }
        })
        .collect()
}

fn rendered(sink: &dyn Sink, told: &Told) -> String {
    let frozen = Frozen {
        call_id: "pbx:1.1",
        revision: 1,
        document: &told.document,
        rows: Some(&told.rows),
        now: Timestamp::from_secs(1_795_300_000),
    };
    let body = sink.render(&frozen).expect("rendered").unwrap_or_else(|| told.document.clone().into_bytes());
    String::from_utf8(body).expect("UTF-8")
}

/// National parts of outside numbers in a text: they begin with a 6 or with 777, behind 00, 420, 9 or nothing. (The company
/// of the captures has 224 000 xxx.) Independent of how the program looks for them.
fn outside(text: &str) -> BTreeSet<String> {
    let runs = text.split(|c: char| !c.is_ascii_digit());
    let nationals = runs.map(|run| {
        let run = run.strip_prefix("00").unwrap_or(run);
        let run = run.strip_prefix('9').unwrap_or(run);
        run.strip_prefix("420").unwrap_or(run)
    });
    let long = nationals.filter(|n| (8..=12).contains(&n.len()));
    long.filter(|n| n.starts_with('6') || n.starts_with("777")).map(str::to_owned).collect()
}

#[test]
fn no_outside_number_is_left_in_any_format() {
    let ways = [PrivacyWay::Masked, PrivacyWay::Hashed("a key that is long enough".to_owned().into())];
    let mut numbers = 0;
    for way in ways {
        let (hidden, plain) = (all_sinks(&way), all_sinks(&PrivacyWay::Full));
        for capture in captures().iter().chain(&driven()) {
            for told in told(capture) {
                for (sink, plain) in hidden.iter().zip(&plain) {
                    let before = rendered(plain.as_ref(), &told);
                    let after = rendered(sink.as_ref(), &told);
                    let place = format!("{} at {} {way:?}", capture.name, sink.name());
                    let known = outside(&before);
                    numbers += known.len();
                    for national in &known {
                        assert!(!after.contains(national.as_str()), "{place}: {national} is left in {after}");
                        // nor with anything between its digits
                        let loose = loose(national, &after);
                        assert!(!loose, "{place}: {national} is left, spelled loosely, in {after}");
                    }
                    assert_eq!(outside(&after), BTreeSet::new(), "{place}: {after}");
                    // it is still the same document, with the same fields
                    assert_eq!(shape(&before), shape(&after), "{place}");
                }
            }
        }
    }
    assert!(numbers > 500, "{numbers}: the captures hold calls with the outside");
}

/// The digits in order with separators between, within one string.
fn loose(number: &str, text: &str) -> bool {
    let joined: String = text.chars().filter(|c| !matches!(c, ' ' | '.' | '(' | ')' | '/' | '_' | '\u{a0}')).collect();
    joined.contains(number)
}

/// Fields and kinds of values, without strings.
fn shape(text: &str) -> Value {
    fn strip(value: Value) -> Value {
        match value {
            Value::String(_) => "…".into(),
            Value::Array(list) => list.into_iter().map(strip).collect(),
            Value::Object(map) => map.into_iter().map(|(k, v)| (k, strip(v))).collect(),
            other => other,
        }
    }
    strip(serde_json::from_str(text).expect("JSON"))
}

#[test]
fn what_is_needed_to_count_calls_stays() {
    let way = PrivacyWay::Hashed("a key that is long enough".to_owned().into());
    let mut tokens: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let hidden = all_sinks(&way);
    for capture in captures() {
        for told in told(&capture) {
            let before: Value = serde_json::from_str(&told.document).expect("JSON");
            for sink in &hidden {
                let after: Value = serde_json::from_str(&rendered(sink.as_ref(), &told)).expect("JSON");
                assert_eq!(before["linkedid"], after["linkedid"]);
                if sink.name() == "sipstack" {
                    continue;
                }
                for field in
                    ["id", "did", "started_at", "ended_at", "outcome", "duration_s", "direction", "linkedids", "queue"]
                {
                    assert_eq!(before[field], after[field], "{}: {field}", capture.name);
                }
                for (side, inside) in [("from", "extension"), ("to", "extension")] {
                    if before[side]["kind"] == inside {
                        assert_eq!(before[side]["number"], after[side]["number"], "{}", capture.name);
                    }
                }
                // one number, one word: in every capture and format
                if before["direction"] == "inbound"
                    && let (Some(e164), Some(token)) =
                        (before["from"]["e164"].as_str(), after["from"]["number"].as_str())
                {
                    tokens.entry(e164.to_owned()).or_default().insert(token.to_owned());
                    assert_eq!(after["from"]["e164"], after["from"]["number"]);
                }
            }
        }
    }
    assert!(tokens.len() > 3, "{tokens:?}");
    for (number, words) in &tokens {
        assert_eq!(words.len(), 1, "{number}: {words:?}");
    }
    let distinct: BTreeSet<&BTreeSet<String>> = tokens.values().collect();
    assert_eq!(distinct.len(), tokens.len(), "different numbers have different words");
}

/// Event, tenths of a second, uniqueid, channel, caller id, extension, application, its data, bridge.
type Happened<'a> = (CelEvent, i64, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str, &'a str);

/// A dialler calls the customer first, through a Local channel, and 1001 when the customer has answered: the direction is
/// outbound, and the customer is the caller.
fn customer_first(customer: &str) -> Vec<Row> {
    let (first, second) =
        (format!("Local/9{customer}@from-internal-00000017;1"), format!("Local/9{customer}@from-internal-00000017;2"));
    let dialled = format!("9{customer}");
    let out = format!("PJSIP/{customer}@trunk-acme,30,tT");
    let (trunk, phone) = ("PJSIP/trunk-acme-00000113", "PJSIP/1001-00000112");
    let (l1, l2, t, p) = ("1795215561.567", "1795215561.568", "1795215561.569", "1795215562.570");
    let (far, near) = ("e9", "5c");
    use CelEvent::{Answer, AppStart, BridgeEnter, BridgeExit, ChanEnd, ChanStart, Hangup, LinkedidEnd};
    let rows: Vec<Happened<'_>> = vec![
        (ChanStart, 0, l1, &first, "", &dialled, "", "", ""),
        (ChanStart, 0, l2, &second, "", &dialled, "", "", ""),
        (AppStart, 1, l2, &second, "420224000100", &dialled, "Dial", &out, ""),
        (ChanStart, 2, t, trunk, "", "s", "", "", ""),
        (Answer, 10, t, trunk, customer, &dialled, "AppDial", "(Outgoing Line)", ""),
        (Answer, 10, l2, &second, "420224000100", &dialled, "Dial", &out, ""),
        (BridgeEnter, 11, t, trunk, customer, "", "AppDial", "(Outgoing Line)", far),
        (Answer, 11, l1, &first, customer, &dialled, "AppDial2", "(Outgoing Line)", ""),
        (AppStart, 12, l1, &first, customer, "1001", "Dial", "PJSIP/1001,20", ""),
        (BridgeEnter, 12, l2, &second, "420224000100", &dialled, "Dial", &out, far),
        (ChanStart, 13, p, phone, "1001", "s", "", "", ""),
        (Answer, 24, p, phone, "1001", "1001", "AppDial", "(Outgoing Line)", ""),
        (BridgeEnter, 25, p, phone, "1001", "", "AppDial", "(Outgoing Line)", near),
        (BridgeEnter, 25, l1, &first, customer, "1001", "Dial", "PJSIP/1001,20", near),
        (BridgeExit, 50, p, phone, "1001", "", "", "", near),
        (Hangup, 51, p, phone, "1001", "", "", "", ""),
        (ChanEnd, 51, p, phone, "1001", "", "", "", ""),
        (BridgeExit, 52, l1, &first, customer, "1001", "", "", near),
        (Hangup, 52, l1, &first, customer, "1001", "", "", ""),
        (ChanEnd, 52, l1, &first, customer, "1001", "", "", ""),
        (BridgeExit, 53, l2, &second, "420224000100", &dialled, "", "", far),
        (Hangup, 53, l2, &second, "420224000100", &dialled, "", "", ""),
        (ChanEnd, 53, l2, &second, "420224000100", &dialled, "", "", ""),
        (BridgeExit, 54, t, trunk, customer, "", "", "", far),
        (Hangup, 54, t, trunk, customer, "", "", "", ""),
        (ChanEnd, 54, t, trunk, customer, "", "", "", ""),
        (LinkedidEnd, 54, t, trunk, customer, "", "", "", ""),
    ];
    let row = |(n, one): (i64, Happened<'_>)| {
        let (event, tenths, uniqueid, channel, cid, exten, app, data, bridge) = one;
        let extra = match bridge {
            "" => String::new(),
            b => format!(r#"{{"bridge_id":"{b}","bridge_technology":"simple_bridge"}}"#),
        };
        Row::Cel(Arc::new(CelRow {
            id: Some(n),
            event,
            time: Some(RowTime::Utc(1_795_215_561_000_000 + tenths * 100_000)),
            uniqueid: uniqueid.into(),
            linkedid: l1.into(),
            channel: channel.into(),
            cid_num: cid.into(),
            exten: exten.into(),
            context: if uniqueid == t { "from-trunk" } else { "from-internal" }.into(),
            appname: app.into(),
            appdata: data.into(),
            extra: extra.into(),
            ..CelRow::default()
        }))
    };
    (1..).zip(rows).map(row).collect()
}

#[test]
fn the_customer_of_a_dialler_is_hidden_in_every_format() {
    let way = PrivacyWay::Hashed("a key that is long enough".to_owned().into());
    for customer in ["777270001", "270001", "2700012"] {
        for numbering in [numbering(), Numbering::default()] {
            let rules = Rules { numbering: numbering.clone(), ..rules() };
            let told = told_of(customer_first(customer), &rules);
            assert_eq!(told.len(), 1, "one call");
            let plain: Value = serde_json::from_str(&told[0].document).expect("JSON");
            assert_eq!(
                (&plain["direction"], &plain["from"]["kind"], &plain["from"]["number"]),
                (&"outbound".into(), &"external".into(), &customer.into()),
                "{plain}"
            );
            for way in [PrivacyWay::Masked, way.clone()] {
                for sink in sinks_with(&way, numbering.clone()) {
                    let hidden = rendered(sink.as_ref(), &told[0]);
                    assert!(!hidden.contains(customer), "{customer} at {} {way:?}: {hidden}", sink.name());
                    assert!(hidden.contains("1001"), "the extension stays: {hidden}");
                }
            }
        }
    }
}
