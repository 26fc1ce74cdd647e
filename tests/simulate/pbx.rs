//! The model PBX: captured calls under other ids and at other times, as rows with the moment each of them is written.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use callferry::call::{CelEvent, Row, RowTime};
use callferry::source::csv;
use chrono::{NaiveDateTime, TimeDelta};
use fastrand::Rng;
use regex::Regex;

use crate::captures::{self, Sheet};

/// The tables' readings are an hour ahead of UTC: Prague in winter.
pub const ZONE: callferry::correlate::Zone = callferry::correlate::Zone::Named(chrono_tz::Europe::Prague);
const ZONE_MICROS: i64 = 3_600_000_000;
pub const SECOND: i64 = 1_000_000;

/// A scenario of the captures.
struct Shape {
    name: String,
    cel: Sheet,
    cdr: Sheet,
    /// The second its first channel began, the counter it began with, and how many counters it takes.
    epoch: i64,
    counter: u64,
    counters: u64,
}

static IDS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b(\d{10})\.(\d+)\b").expect("a pattern"));

static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
    // a restart inside (34…), names of their own (34c), an hour long (42)
    let left_out = ["34a", "34b", "34c", "42"];
    let mut shapes = Vec::new();
    for capture in captures::captures() {
        if left_out.iter().any(|l| capture.name.starts_with(l)) || !capture.name.ends_with("run1") {
            continue;
        }
        let (Some(cel), Some(cdr)) = (capture.sheet("cel.csv"), capture.sheet("cdr.csv")) else { continue };
        if cel.rows.is_empty() {
            continue;
        }
        let column = |sheet: &Sheet, name: &str| sheet.header.iter().position(|h| h == name).expect("a column");
        let mut ids = Vec::new();
        for sheet in [&cel, &cdr] {
            for name in ["uniqueid", "linkedid"] {
                let at = column(sheet, name);
                ids.extend(sheet.rows.iter().filter_map(|r| id_of(&r[at])));
            }
        }
        let (epoch, counter) = (ids.iter().map(|i| i.0).min(), ids.iter().map(|i| i.1).min());
        let (Some(epoch), Some(counter)) = (epoch, counter) else { continue };
        let most = ids.iter().map(|i| i.1).max().unwrap_or(counter);
        shapes.push(Shape { name: capture.name, cel, cdr, epoch, counter, counters: most - counter + 1 });
    }
    assert!(shapes.len() > 50, "the captures are there");
    shapes
});

fn id_of(text: &str) -> Option<(i64, u64)> {
    let (epoch, counter) = text.split_once('.')?;
    Some((epoch.parse().ok()?, counter.parse().ok()?))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    Cel,
    Cdr,
}

/// One row as the PBX writes it.
#[derive(Clone, Debug)]
pub struct Written {
    pub table: Table,
    /// Column and text.
    pub cells: Vec<(String, String)>,
    /// What tells it from every other row.
    pub sign: String,
    /// The moment it tells of; of a record its end.
    pub happened: i64,
    /// When the database gives it an id, and when it becomes visible.
    pub reserved: i64,
    pub committed: i64,
    pub call: usize,
}

/// What tells a row from every other, whichever way it was read.
pub fn sign(row: &Row) -> String {
    let raw = |time: Option<RowTime>| time.map_or(0, callferry::source::raw_micros);
    match row {
        Row::Cel(r) => {
            let (at, event) = (raw(r.time), r.event.name().to_owned());
            format!(
                "cel {at} {event} {} {} {} {} {} {} {}",
                r.uniqueid, r.linkedid, r.channel, r.appname, r.appdata, r.exten, r.extra
            )
        }
        Row::Cdr(r) => {
            let (at, channels) = (raw(r.start), format!("{} {}", r.channel, r.dstchannel));
            format!("cdr {at} {:?} {} {} {channels} {} {:?}", r.sequence, r.uniqueid, r.linkedid, r.dst, r.duration_ms)
        }
    }
}

/// One PBX: its name in uniqueids, and its counter.
#[derive(Clone, Debug)]
pub struct Pbx {
    pub systemname: &'static str,
    pub counter: u64,
    /// It restarts at this moment: calls that are up end without a trace.
    pub restart: Option<i64>,
}

/// How late rows become visible.
#[derive(Clone, Copy, Debug)]
pub struct Lateness {
    /// Share of rows, in percent, that are committed after rows of higher ids.
    pub late: u64,
    /// And how late at most.
    pub late_max: i64,
    /// Share of records, in percent, that are written long after their call.
    pub late_records: u64,
    /// Rows are written in bursts of this length; 0: at once.
    pub burst: i64,
    /// Share of rows that are written twice.
    pub twice: u64,
}

/// The rows of one more call that begins at `start` (microseconds, whole seconds), in the order of their moments.
/// Those that a restart of the PBX cuts off are left out.
pub fn call(rng: &mut Rng, pbx: &mut Pbx, start: i64, number: usize, late: &Lateness) -> (String, Vec<Written>) {
    let shape = &SHAPES[rng.usize(..SHAPES.len())];
    let restarted = pbx.restart.is_some_and(|at| start >= at);
    let base = pbx.counter;
    pbx.counter += shape.counters;
    let shift = start / SECOND - shape.epoch;
    let ids = |text: &str| {
        IDS.replace_all(text, |found: &regex::Captures<'_>| {
            let (epoch, counter): (i64, u64) = (found[1].parse().expect("digits"), found[2].parse().expect("digits"));
            if (shape.counter..shape.counter + shape.counters).contains(&counter) {
                format!("{}{}.{}", pbx.systemname, epoch + shift, base + counter - shape.counter)
            } else {
                found[0].to_owned()
            }
        })
        .into_owned()
    };
    let mut written = Vec::new();
    for (table, sheet) in [(Table::Cel, &shape.cel), (Table::Cdr, &shape.cdr)] {
        let moved: Vec<Vec<String>> = sheet
            .rows
            .iter()
            .map(|row| {
                let cells = sheet.header.iter().zip(row);
                cells
                    .map(|(name, text)| match name.as_str() {
                        "eventtime" | "start" | "answer" | "end" => later(text, shift),
                        _ => ids(text),
                    })
                    .collect()
            })
            .collect();
        for (cells, row) in moved.iter().zip(parse(table, sheet, &moved)) {
            let happened = match &row {
                Row::Cel(r) => r.time,
                Row::Cdr(r) => r.end.or(r.start),
            };
            let happened = happened.map_or(start, |t| callferry::source::raw_micros(t) - ZONE_MICROS);
            if !restarted && pbx.restart.is_some_and(|at| happened >= at) {
                continue;
            }
            // the table numbers its rows itself
            let named = sheet.header.iter().cloned().zip(cells.iter().cloned());
            let cells = named.filter(|(name, _)| name != "id" && name != "tenantid").collect();
            let (reserved, committed) = moments(rng, table, happened, late);
            written.push(Written { table, cells, sign: sign(&row), happened, reserved, committed, call: number });
        }
    }
    written.sort_by_key(|w| w.happened);
    let again: Vec<Written> = written.iter().filter(|_| rng.u64(..100) < late.twice).cloned().collect();
    written.extend(again.into_iter().map(|w| {
        let (reserved, committed) = moments(rng, w.table, w.committed, late);
        Written { reserved, committed, ..w }
    }));
    (shape.name.clone(), written)
}

fn moments(rng: &mut Rng, table: Table, happened: i64, late: &Lateness) -> (i64, i64) {
    let mut reserved = happened + rng.i64(1_000..300_000);
    if table == Table::Cdr {
        // a record is finished with its channel
        reserved += SECOND;
        if rng.u64(..100) < late.late_records {
            reserved += rng.i64(SECOND..900 * SECOND);
        }
    }
    if late.burst > 0 {
        reserved = (reserved / late.burst + 1) * late.burst;
    }
    let is_late = rng.u64(..100) < late.late;
    (reserved, reserved + if is_late { rng.i64(1_000..late.late_max.max(2_000)) } else { 0 })
}

fn later(text: &str, seconds: i64) -> String {
    let Ok(time) = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f") else { return text.to_owned() };
    let format = if text.contains('.') { "%Y-%m-%d %H:%M:%S%.6f" } else { "%Y-%m-%d %H:%M:%S" };
    (time + TimeDelta::seconds(seconds)).format(format).to_string()
}

/// As the agent would read them.
fn parse(table: Table, sheet: &Sheet, rows: &[Vec<String>]) -> Vec<Row> {
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    writer.write_record(&sheet.header).expect("memory");
    rows.iter().for_each(|row| writer.write_record(row).expect("memory"));
    let bytes = writer.into_inner().expect("memory");
    let read = match table {
        Table::Cel => csv::read_cel(bytes.as_slice(), "cel"),
        Table::Cdr => csv::read_cdr(bytes.as_slice(), "cdr"),
    };
    let read = read.expect("rows of a capture");
    assert!(read.bad.is_empty(), "rows of a capture can be read");
    read.rows
}

/// A line that is never hung up, and the callers it is bridged with one after another. In the rows the callers' channels
/// take the line's linkedid over with the bridge.
pub fn nailed_line(rng: &mut Rng, pbx: &mut Pbx, start: i64, number: usize, late: &Lateness) -> Vec<Written> {
    let mut written = Vec::new();
    let id = |pbx: &mut Pbx, at: i64| {
        pbx.counter += 1;
        format!("{}{}.{}", pbx.systemname, at / SECOND, pbx.counter - 1)
    };
    let line = id(pbx, start);
    let line_channel = format!("PJSIP/1009-{:08x}", rng.u32(..));
    let mut put = |rng: &mut Rng, event: CelEvent, at: i64, ids: (&str, &str), channel: &str, more: &[(&str, &str)]| {
        let time = chrono::DateTime::from_timestamp_micros(at + ZONE_MICROS).expect("a time");
        let mut cells: BTreeMap<&str, String> = BTreeMap::from([
            ("eventtype", event.name().to_owned()),
            ("eventtime", time.format("%Y-%m-%d %H:%M:%S%.6f").to_string()),
            ("uniqueid", ids.0.to_owned()),
            ("linkedid", ids.1.to_owned()),
            ("channame", channel.to_owned()),
            ("context", "from-internal".to_owned()),
        ]);
        cells.extend(more.iter().map(|(name, text)| (*name, (*text).to_owned())));
        let header: Vec<String> = cells.keys().map(|&k| k.to_owned()).collect();
        let sheet = Sheet { header, rows: Vec::new() };
        let values: Vec<String> = cells.values().cloned().collect();
        let row = parse(Table::Cel, &sheet, std::slice::from_ref(&values)).remove(0);
        let (reserved, committed) = moments(rng, Table::Cel, at, late);
        let cells = sheet.header.into_iter().zip(values).collect();
        let (happened, call) = (at, number);
        written.push(Written { table: Table::Cel, cells, sign: sign(&row), happened, reserved, committed, call });
    };
    put(rng, CelEvent::ChanStart, start, (&line, &line), &line_channel, &[("exten", "700"), ("cid_num", "1009")]);
    let login: &[(&str, &str)] = &[("exten", "700"), ("cid_num", "1009"), ("appname", "AgentLogin"), ("appdata", "9")];
    put(rng, CelEvent::AppStart, start + 20_000, (&line, &line), &line_channel, login);
    let mut at = start + 5 * SECOND;
    for n in 0..rng.usize(2..7) {
        at += rng.i64(5..60) * SECOND;
        let caller = id(pbx, at);
        let channel = format!("PJSIP/1001-{:08x}", rng.u32(..));
        let bridge = format!(r#"{{"bridge_id":"{line}-{n}","bridge_technology":"simple_bridge"}}"#);
        let (own, over) = ((caller.as_str(), caller.as_str()), (caller.as_str(), line.as_str()));
        let dialled: &[(&str, &str)] = &[("exten", "400"), ("cid_num", "1001"), ("cid_name", "Alice")];
        put(rng, CelEvent::ChanStart, at, own, &channel, dialled);
        put(rng, CelEvent::Answer, at + SECOND, own, &channel, dialled);
        let bridged: Vec<(&str, &str)> = dialled.iter().copied().chain([("extra", bridge.as_str())]).collect();
        let of_line = [("exten", "700"), ("cid_num", "1009"), ("extra", bridge.as_str())];
        let end = at + rng.i64(3..40) * SECOND;
        put(rng, CelEvent::BridgeEnter, at + 2 * SECOND, (&line, &line), &line_channel, &of_line);
        put(rng, CelEvent::BridgeEnter, at + 2 * SECOND + 9, over, &channel, &bridged);
        put(rng, CelEvent::BridgeExit, end, (&line, &line), &line_channel, &of_line);
        put(rng, CelEvent::BridgeExit, end + 7, over, &channel, &bridged);
        put(rng, CelEvent::Hangup, end + 9, over, &channel, dialled);
        put(rng, CelEvent::ChanEnd, end + 15, over, &channel, dialled);
        at = end;
    }
    written
}
