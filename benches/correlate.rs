//! How fast rows become calls: one simple call, the captures' mix, and 1k to 1M rows fed in windows as the agent feeds
//! them (grouped, judged, built, forgotten), where the cost of a row must not grow.

use std::collections::HashMap;
use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use callferry::call::{CdrRow, CelRow, Row, RowTime, WallTime};
use callferry::correlate::completion::{Grace, Progress, Verdict};
use callferry::correlate::group::{GroupId, Grouper};
use callferry::correlate::ids::Id;
use callferry::correlate::{CallRows, Marks, Rules, Zone, build};
use callferry::source::csv;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const ZONE: Zone = Zone::Named(chrono_tz::Europe::Prague);
const GRACE: Grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: true, has_cdr: true };

fn rules() -> Rules {
    Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], ..Rules::default() }
}

/// Rows of one capture run.
fn capture(dir: &Path) -> Vec<Row> {
    let read = |name: &str| File::open(dir.join(name)).expect("a file of the capture");
    let mut rows = csv::read_cel(read("cel.csv"), "cel").expect("CEL rows").rows;
    rows.append(&mut csv::read_cdr(read("cdr.csv"), "cdr").expect("CDR rows").rows);
    rows
}

fn captures() -> Vec<Vec<Row>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let folders = |dir: &Path| {
        let entries = std::fs::read_dir(dir).expect("captures").map(|e| e.expect("an entry").path());
        let mut paths: Vec<_> = entries.filter(|p| p.is_dir()).collect();
        paths.sort();
        paths
    };
    let runs = folders(&root).into_iter().flat_map(|s| folders(&s));
    runs.map(|run| capture(&run)).filter(|rows| !rows.is_empty()).collect()
}

/// The rows of each call of a set.
fn grouped(rows: &[Row]) -> Vec<CallRows> {
    let mut grouper = Grouper::default();
    let mut groups: HashMap<GroupId, Vec<Row>> = HashMap::new();
    for row in rows {
        let Ok(Some(joined)) = grouper.add(row) else { continue };
        let mut members: Vec<Row> = joined.absorbed.iter().filter_map(|g| groups.remove(g)).flatten().collect();
        members.push(row.clone());
        groups.entry(joined.group).or_default().append(&mut members);
    }
    groups.values().map(CallRows::of).collect()
}

/// The same rows some seconds later, with ids of their own.
fn later(row: &Row, seconds: i64, counter: u64) -> Row {
    let id = |text: &str| match Id::parse(text) {
        Some(id) => format!("{}.{}", id.epoch + seconds, id.counter + counter).into(),
        None => text.into(),
    };
    let time = |t: Option<RowTime>| {
        t.map(|t| match t {
            RowTime::Utc(us) => RowTime::Utc(us + seconds * 1_000_000),
            RowTime::Wall(WallTime(us)) => RowTime::Wall(WallTime(us + seconds * 1_000_000)),
        })
    };
    match row {
        Row::Cel(r) => {
            let mut r =
                CelRow { time: time(r.time), uniqueid: id(&r.uniqueid), linkedid: id(&r.linkedid), ..(**r).clone() };
            if r.extra.contains("_uniqueid") {
                // ids inside `extra` move along
                let pieces: Vec<String> = r
                    .extra
                    .split('"')
                    .map(|piece| if Id::parse(piece).is_some() { id(piece).to_string() } else { piece.to_owned() })
                    .collect::<Vec<String>>();
                r.extra = pieces.join("\"").into();
            }
            Row::Cel(Arc::new(r))
        }
        Row::Cdr(r) => Row::Cdr(Arc::new(CdrRow {
            start: time(r.start),
            answer: time(r.answer),
            end: time(r.end),
            uniqueid: id(&r.uniqueid),
            linkedid: id(&r.linkedid),
            ..(**r).clone()
        })),
    }
}

/// At least `count` rows of the captures' mix, call after call.
fn traffic(captures: &[Vec<Row>], count: usize) -> Vec<Row> {
    let mut rows = Vec::with_capacity(count + 1_000);
    for round in 0.. {
        for (i, capture) in captures.iter().enumerate() {
            let shift = (round * captures.len() + i) as i64;
            rows.extend(capture.iter().map(|r| later(r, shift, shift as u64 * 1_000)));
        }
        if rows.len() >= count {
            rows.truncate(count);
            return rows;
        }
    }
    rows
}

/// As the agent works: a window of rows is grouped and observed, then whatever is complete is built and forgotten.
fn feed(rows: &[Row], window: usize, rules: &Rules) -> usize {
    let mut grouper = Grouper::default();
    let mut open: HashMap<GroupId, (Vec<Row>, Progress)> = HashMap::new();
    let mut built = 0;
    for chunk in rows.chunks(window) {
        let mut touched: Vec<GroupId> = Vec::new();
        for row in chunk {
            let Ok(Some(joined)) = grouper.add(row) else { continue };
            let mut entry = open.remove(&joined.group).unwrap_or_default();
            for gone in &joined.absorbed {
                if let Some((members, progress)) = open.remove(gone) {
                    entry.0.extend(members);
                    entry.1.absorb(progress);
                }
            }
            entry.0.push(row.clone());
            entry.1.observe(row, &ZONE);
            open.insert(joined.group, entry);
            touched.push(joined.group);
        }
        for group in touched {
            let ended = open.get(&group).is_some_and(|(_, p)| p.verdict(&GRACE) != Verdict::Open);
            if ended && let Some((members, _)) = open.remove(&group) {
                black_box(build(&CallRows::of(&members), rules, &ZONE, &Marks::default()));
                grouper.forget(group);
                built += 1;
            }
        }
    }
    built
}

fn build_calls(c: &mut Criterion) {
    let rules = rules();
    let all = captures();
    let simple = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures/01-internal-answered/run1");
    let simple = grouped(&capture(&simple));
    let mix: Vec<CallRows> = all.iter().flat_map(|rows| grouped(rows)).collect();
    let mut group = c.benchmark_group("build");
    group.throughput(Throughput::Elements(simple.len() as u64));
    group.bench_function("simple call", |b| {
        b.iter(|| {
            for rows in &simple {
                black_box(build(black_box(rows), &rules, &ZONE, &Marks::default()));
            }
        });
    });
    group.throughput(Throughput::Elements(mix.len() as u64));
    group.bench_function("captures' mix", |b| {
        b.iter(|| {
            for rows in &mix {
                black_box(build(black_box(rows), &rules, &ZONE, &Marks::default()));
            }
        });
    });
    group.finish();
}

fn feed_rows(c: &mut Criterion) {
    let rules = rules();
    let all = captures();
    let mut group = c.benchmark_group("feed");
    group.sample_size(10);
    for count in [1_000, 10_000, 100_000, 1_000_000] {
        let rows = traffic(&all, count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(BenchmarkId::new("rows", count), &rows, |b, rows| {
            b.iter(|| black_box(feed(rows, 2_000, &rules)));
        });
    }
    // calls a second: the simple call, one after another
    let simple = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures/01-internal-answered/run1");
    let one = [capture(&simple)];
    let calls = 10_000;
    let rows = traffic(&one, calls * one[0].len());
    group.throughput(Throughput::Elements(calls as u64));
    group.bench_function("simple calls", |b| b.iter(|| black_box(feed(&rows, 2_000, &rules))));
    group.finish();
}

criterion_group!(benches, build_calls, feed_rows);
criterion_main!(benches);
