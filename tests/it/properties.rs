//! What has to hold for any rows: no order, repetition or splitting of arrival changes a call; nothing makes the
//! correlator panic, loop or grow without bound.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use callferry::call::{CdrRow, CelEvent, CelRow, Disposition, Row, RowTime, WallTime};
use callferry::correlate::batch::correlate_all;
use callferry::correlate::completion::{Grace, Progress, Verdict};
use callferry::correlate::group::{GroupId, Grouper, partition};
use callferry::correlate::{CallRows, Marks, Rules, Zone, build, explain};
use callferry::source::csv;
use proptest::prelude::*;

use crate::captures::rules;
use crate::support::expected::captures;

const ZONE: Zone = Zone::Named(chrono_tz::Europe::Prague);
const GRACE: Grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: true, has_cdr: true };

/// Rows of every capture, read once.
static ROWS: LazyLock<Vec<(String, Vec<Row>)>> = LazyLock::new(|| {
    let rows = |c: &crate::support::expected::Capture| {
        let open = |name: &str| File::open(c.dir.join(name)).expect("a file of the capture");
        let mut rows = csv::read_cel(open("cel.csv"), "cel").expect("CEL rows").rows;
        rows.append(&mut csv::read_cdr(open("cdr.csv"), "cdr").expect("CDR rows").rows);
        rows
    };
    captures().iter().map(|c| (c.name.clone(), rows(c))).filter(|(_, r)| !r.is_empty()).collect()
});

/// Rows as they arrive, through the steps an agent takes; the calls as JSON, by linkedid.
fn arrive(rows: &[Row], by_name: bool) -> Vec<String> {
    let mut grouper = if by_name { Grouper::cdr_only() } else { Grouper::default() };
    let mut groups: BTreeMap<GroupId, (Vec<Row>, Progress)> = BTreeMap::new();
    for row in rows {
        let Ok(Some(joined)) = grouper.add(row) else { continue };
        let mut held: (Vec<Row>, Progress) = groups.remove(&joined.group).unwrap_or_default();
        for gone in &joined.absorbed {
            let Some((rows, seen)) = groups.remove(gone) else { continue };
            held.0.extend(rows);
            held.1.absorb(seen);
        }
        held.1.observe(row, &ZONE);
        held.0.push(row.clone());
        groups.insert(joined.group, held);
    }
    let mut calls = Vec::new();
    for (group, (members, progress)) in groups {
        for part in partition(&members) {
            let rows = CallRows::of(part.iter().map(|&i| &members[i]));
            let content = build(&rows, &rules(), &ZONE, &Marks::default());
            let json = serde_json::to_string(&content).expect("content is JSON");
            calls.push(format!("{json} open={}", progress.verdict(&GRACE) == Verdict::Open));
        }
        grouper.forget(group);
    }
    assert!(grouper.is_empty(), "every group can be forgotten");
    calls.sort();
    calls
}

/// A permutation with repetitions that `seed` decides.
fn scramble(rows: &[Row], seed: u64) -> Vec<Row> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut mixed: Vec<Row> = rows.to_vec();
    mixed.extend(rows.iter().filter(|r| keyed(r)).filter(|_| rng.u8(..) < 80).cloned());
    rng.shuffle(&mut mixed);
    mixed
}

/// A digit without a row id may truly occur twice.
fn keyed(row: &Row) -> bool {
    !matches!(row, Row::Cel(r) if r.event == CelEvent::Dtmf && r.id.is_none())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_or_repetition_changes_a_captured_call(pick in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (name, rows) = pick.get(&ROWS);
        prop_assert_eq!(arrive(rows, false), arrive(&scramble(rows, seed), false), "{}", name);
    }

    #[test]
    fn rows_without_ids_keep_their_order_too(pick in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (name, rows) = pick.get(&ROWS);
        let bare: Vec<Row> = rows.iter().map(|row| match row {
            Row::Cel(r) => Row::Cel(Arc::new(CelRow { id: None, ..(**r).clone() })),
            Row::Cdr(r) => Row::Cdr(Arc::new(CdrRow { id: None, sequence: None, ..(**r).clone() })),
        }).collect();
        prop_assert_eq!(arrive(&bare, false), arrive(&scramble(&bare, seed), false), "{}", name);
    }

    #[test]
    fn records_alone_do_not_depend_on_order(pick in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (name, rows) = pick.get(&ROWS);
        let records: Vec<Row> = rows.iter().filter(|r| matches!(r, Row::Cdr(_))).cloned().collect();
        prop_assert_eq!(arrive(&records, true), arrive(&scramble(&records, seed), true), "{}", name);
    }

    #[test]
    fn part_of_a_captured_call_is_read_without_complaint(pick in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (_, rows) = pick.get(&ROWS);
        let mut rng = fastrand::Rng::with_seed(seed);
        let kept: Vec<Row> = rows.iter().filter(|_| rng.bool()).cloned().collect();
        prop_assert_eq!(arrive(&kept, false), arrive(&scramble(&kept, seed), false));
    }

    #[test]
    fn arbitrary_rows_are_bounded_and_free_of_order(rows in prop::collection::vec(any_row(), 0..60), seed in any::<u64>()) {
        prop_assert_eq!(arrive(&rows, false), arrive(&scramble(&rows, seed), false));
        prop_assert_eq!(arrive(&rows, true), arrive(&scramble(&rows, seed), true));
        let rules = Rules { trunks: vec!["trunk*".to_owned()], ..Rules::default() };
        let told = correlate_all(rows.clone(), &rules, &ZONE);
        prop_assert!(told.calls.len() <= rows.len());
        for call in &told.calls {
            prop_assert!(call.journey.len() <= rows.len() * 4 + 8);
            prop_assert!(call.legs.len() <= rows.len() * 2);
            let line = explain::one_line(call);
            prop_assert!(!line.chars().any(char::is_control), "{}", line);
        }
        let story = explain::story(&CallRows::of(&rows), &rules, &ZONE, &Marks::default());
        prop_assert!(!story.chars().any(|c| c.is_control() && c != '\n'));
    }
}

fn one_of(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(options)
}

fn any_id() -> impl Strategy<Value = &'static str> {
    one_of(&[
        "1795214890.1",
        "1795214890.2",
        "1795214891.3",
        "1795214895.10",
        "pbx-1795214895.4",
        "",
        "x",
        "1795214890.9999999999999999999",
    ])
}

fn any_channel() -> impl Strategy<Value = &'static str> {
    one_of(&[
        "PJSIP/1001-00000001",
        "PJSIP/trunk-a-00000002",
        "Local/1002@x-00000003;1",
        "Local/1002@x-00000003;2",
        "Local/1002@x-00000003;1",
        "Message/ast_msg_queue",
        "",
        "-",
        "/",
        "é/\u{1b}[2J-00000001",
        "Local/;1",
        "PJSIP/1002-00000004",
    ])
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        one_of(&[
            "",
            "s",
            "1001",
            "420224000101",
            "*8",
            "h",
            "\u{202e}abc",
            "PJSIP/1002,20",
            "Local/1002@x/n&PJSIP/7@trunk-a",
            "q,,,,5",
            "default:701"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ]
}

fn any_time() -> impl Strategy<Value = Option<RowTime>> {
    let near = 1_795_214_890_000_000_i64;
    prop_oneof![
        8 => (0..20_000_000_i64).prop_map(move |us| Some(RowTime::Utc(near + us))),
        4 => (0..20_i64).prop_map(move |s| Some(RowTime::Wall(WallTime(near + 3_600_000_000 + s * 1_000_000)))),
        1 => any::<i64>().prop_map(|t| Some(RowTime::Utc(t))),
        1 => any::<i64>().prop_map(|t| Some(RowTime::Wall(WallTime(t)))),
        1 => Just(None),
    ]
}

fn any_extra() -> impl Strategy<Value = String> {
    let whole = one_of(&[
        "",
        r#"{"bridge_id":"a","bridge_technology":"simple_bridge"}"#,
        r#"{"bridge_id":"b","bridge_technology":"softmix"}"#,
        r#"{"bridge_id":"c","bridge_technology":"holding_bridge"}"#,
        r#"{"hangupcause":16,"hangupsource":"PJSIP/1001-00000001","dialstatus":"ANSWER"}"#,
        r#"{"hangupcause":-99999999999999999999,"hangupsource":"dialplan/builtin"}"#,
        r#"{"pickup_channel":"PJSIP/1002-00000004","pickup_channel_uniqueid":"1795214891.3"}"#,
        r#"{"transferee_channel_uniqueid":"1795214890.2","channel2_uniqueid":"1795214891.3","transfer_target_channel_uniqueid":"N/A"}"#,
        r#"{"extension":"1003","transferee_channel_uniqueid":"1795214890.1"}"#,
        r#"{"local_two":"Local/1002@x-00000003;2","local_two_uniqueid":"1795214895.10"}"#,
        r#"{"parker_dial_string":"PJSIP/1001","parking_lot":"default"}"#,
        r#"{"class":"default"}"#,
        r#"{"digit":"1"}"#,
    ]);
    (whole, 0..200_usize).prop_map(|(text, cut)| text.chars().take(cut).collect())
}

fn any_event() -> impl Strategy<Value = CelEvent> {
    // names, numbers, and what is neither
    prop_oneof![
        (0..24_i32).prop_map(|n| CelEvent::parse(&n.to_string())),
        Just(CelEvent::BridgeStart),
        Just(CelEvent::BridgeEnd)
    ]
}

prop_compose! {
    fn any_cel()(
        id in prop::option::of(0..40_i64), event in any_event(), time in any_time(), uniqueid in any_id(), linkedid in any_id(),
        channel in any_channel(), cid in any_text(), exten in any_text(), app in one_of(&["", "Dial", "Queue", "AppDial", "AppDial2",
            "AppQueue", "VoiceMail", "ConfBridge", "BackGround", "AgentLogin", "Stasis", "MixMonitor", "Hangup", "Park"]),
        data in any_text(), extra in any_extra(),
    ) -> Row {
        Row::Cel(Arc::new(CelRow {
            id, event, time, uniqueid: uniqueid.into(), linkedid: linkedid.into(), channel: channel.into(), cid_num: cid.as_str().into(),
            cid_name: cid.into(), exten: exten.into(), appname: app.into(), appdata: data.into(), extra: extra.into(),
            ..CelRow::default()
        }))
    }
}

prop_compose! {
    fn any_cdr()(
        start in any_time(), answer in any_time(), end in any_time(), billsec in prop::option::of(any::<i64>()), uniqueid in any_id(),
        linkedid in any_id(), channel in any_channel(), dstchannel in any_channel(), dst in any_text(), data in any_text(),
        disposition in one_of(&["ANSWERED", "NO ANSWER", "BUSY", "", "CANCEL", "8"]), app in one_of(&["Dial", "Queue", "Park", "ConfBridge", "AppDial", ""]),
    ) -> Row {
        Row::Cdr(Arc::new(CdrRow {
            start, answer, end, billsec_ms: billsec, duration_ms: billsec, uniqueid: uniqueid.into(), linkedid: linkedid.into(),
            channel: channel.into(), dstchannel: dstchannel.into(), dst: dst.as_str().into(), src: dst.as_str().into(), clid: dst.into(),
            lastdata: data.as_str().into(), recordingfile: data.into(), lastapp: app.into(), disposition: Disposition::parse(disposition),
            ..CdrRow::default()
        }))
    }
}

fn any_row() -> impl Strategy<Value = Row> {
    prop_oneof![4 => any_cel(), 1 => any_cdr()]
}

/// One group of the largest size that is taken, in the shapes that cost most.
#[test]
fn the_largest_groups_are_built_in_time() {
    let at = |i: i64| Some(RowTime::Utc(1_795_214_890_000_000 + i * 1_000));
    let row = |i: i64, ch: i64, event: CelEvent, app: &str, extra: String| {
        Row::Cel(Arc::new(CelRow {
            id: Some(i),
            event,
            time: at(i),
            uniqueid: format!("1795214890.{ch}").into(),
            linkedid: "1795214890.0".into(),
            channel: if ch % 3 == 0 {
                format!("PJSIP/x-{ch:08x}")
            } else {
                format!("Local/x@y-{:08x};{}", ch / 3, ch % 3)
            }
            .into(),
            exten: "s".into(),
            appname: app.into(),
            appdata: "PJSIP/x&Local/x@y/n".into(),
            extra: extra.into(),
            ..CelRow::default()
        }))
    };
    let bridge = |b: i64| format!(r#"{{"bridge_id":"{b}","bridge_technology":"simple_bridge"}}"#);
    // everybody in one bridge; a bridge each; a chain of Local pairs; nothing but ringing devices
    let one = (0..5_000).map(|i| {
        row(i, i / 2, if i % 2 == 0 { CelEvent::ChanStart } else { CelEvent::BridgeEnter }, "AppDial", bridge(1))
    });
    let many = (0..5_000).map(|i| {
        row(i, i / 2, if i % 2 == 0 { CelEvent::BridgeEnter } else { CelEvent::BridgeExit }, "Dial", bridge(i / 2))
    });
    let chain = (0..5_000).map(|i| {
        row(i, i / 2, if i % 2 == 0 { CelEvent::AppStart } else { CelEvent::BridgeEnter }, "Dial", bridge(i / 4))
    });
    let ringing = (0..5_000).map(|i| row(i, i, CelEvent::ChanStart, "AppDial", String::new()));
    let dials = (0..5_000).map(|i| {
        row(i, i / 2, if i % 2 == 0 { CelEvent::ChanStart } else { CelEvent::AppStart }, "Dial", String::new())
    });
    let shapes: [(&str, Vec<Row>); 5] = [
        ("one bridge", one.collect()),
        ("many bridges", many.collect()),
        ("chain", chain.collect()),
        ("ringing", ringing.collect()),
        ("dials", dials.collect()),
    ];
    for (name, rows) in shapes {
        let begun = Instant::now();
        let calls = arrive(&rows, false);
        assert!(!calls.is_empty());
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{name}: {took:?} for {} rows", rows.len());
        eprintln!("{name}: {took:?}");
    }
}
