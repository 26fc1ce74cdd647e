//! How fast rows become calls: one simple call, the captures' mix, and 1k to 1M rows fed in windows as the agent feeds
//! them (grouped, judged, built, forgotten), where the cost of a row must not grow.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use callferry::call::{CdrRow, CelRow, Row, RowTime, WallTime};
use callferry::correlate::completion::{Grace, Progress, Verdict};
use callferry::correlate::group::{GroupId, GroupMap, Grouper};
use callferry::correlate::ids::Id;
use callferry::correlate::{CallRows, Marks, Rules, Zone, build};
use callferry::source::csv;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// As the program has it (src/main.rs).
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const ZONE: Zone = Zone::Named(chrono_tz::Europe::Prague);
const GRACE: Grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: true, has_cdr: true };

/// A phone calls another, which answers.
const SIMPLE: &str = "tests/data/captures/01-internal-answered/run1";

fn rules() -> Rules {
    Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], ..Rules::default() }
}

/// Rows of one capture run in the order in which they were written: a record when its channel has ended.
fn capture(dir: &Path) -> Vec<Row> {
    let read = |name: &str| File::open(dir.join(name)).expect("a file of the capture");
    let mut rows = csv::read_cel(read("cel.csv"), "cel").expect("CEL rows").rows;
    rows.append(&mut csv::read_cdr(read("cdr.csv"), "cdr").expect("CDR rows").rows);
    rows.sort_by_key(|row| match row {
        Row::Cel(r) => r.time.map(micros),
        // whole seconds, cut off
        Row::Cdr(r) => r.end.map(|t| micros(t) + 1_000_000),
    });
    rows
}

fn micros(time: RowTime) -> i64 {
    match time {
        RowTime::Utc(us) | RowTime::Wall(WallTime(us)) => us,
    }
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
    let mut groups: GroupMap<Vec<Row>> = GroupMap::default();
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

/// How many calls are up at a time: their rows come mixed, as a table holds them.
const UP_AT_A_TIME: usize = 50;
/// Rows that a source reads at a time.
const WINDOW: usize = 2_000;

/// Calls of these shapes, whole ones, until there are so many rows. Rows are made as they are asked for: what a source
/// reads is memory just written, and gone once its call is shipped.
struct Traffic<'a> {
    shapes: &'a [Vec<Row>],
    /// Rows of calls that are still to begin.
    to_begin: usize,
    /// Calls that are up: the shape and how far it has come, with its distance in time.
    up: Vec<(std::slice::Iter<'a, Row>, i64)>,
    /// How many calls have begun.
    begun: usize,
    turn: usize,
}

impl<'a> Traffic<'a> {
    fn new(shapes: &'a [Vec<Row>], rows: usize) -> Self {
        Self { shapes, to_begin: rows, up: Vec::new(), begun: 0, turn: 0 }
    }

    /// Of the calls that are up each in its turn; a new one begins where one has ended.
    fn row(&mut self) -> Option<Row> {
        loop {
            if self.up.len() < UP_AT_A_TIME && self.to_begin > 0 {
                let shape = &self.shapes[self.begun % self.shapes.len()];
                self.up.push((shape.iter(), self.begun as i64));
                self.begun += 1;
                self.to_begin = self.to_begin.saturating_sub(shape.len());
            }
            self.turn = (self.turn + 1).checked_rem(self.up.len())?;
            let (rows, shift) = &mut self.up[self.turn];
            match rows.next() {
                Some(row) => return Some(later(row, *shift, *shift as u64 * 1_000)),
                None => drop(self.up.swap_remove(self.turn)),
            }
        }
    }

    fn window(&mut self, rows: usize) -> Vec<Row> {
        (0..rows).map_while(|_| self.row()).collect()
    }
}

/// As the agent works: a window of rows is grouped and observed, then whatever is complete is built and forgotten.
#[derive(Default)]
struct Feed {
    grouper: Grouper,
    open: GroupMap<(Vec<Row>, Progress)>,
    touched: Vec<GroupId>,
    built: usize,
}

impl Feed {
    fn take(&mut self, window: Vec<Row>, rules: &Rules) {
        for row in window {
            let Ok(Some(joined)) = self.grouper.add(&row) else { continue };
            for gone in &joined.absorbed {
                if let Some((members, progress)) = self.open.remove(gone) {
                    let (rows, known) = self.open.entry(joined.group).or_default();
                    rows.extend(members);
                    known.absorb(progress);
                }
            }
            let (rows, progress) = self.open.entry(joined.group).or_default();
            progress.observe(&row, &ZONE);
            rows.push(row);
            self.touched.push(joined.group);
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for group in self.touched.drain(..) {
            let ended = self.open.get(&group).is_some_and(|(_, p)| p.verdict(&GRACE) != Verdict::Open);
            if ended && let Some((members, _)) = self.open.remove(&group) {
                black_box(build(&CallRows::of(&members), rules, &ZONE, &Marks::default()));
                self.grouper.forget(group);
                self.built += 1;
            }
        }
    }
}

/// The time it takes to feed calls of `count` rows, without that of making them; and how many calls came out.
fn feed(shapes: &[Vec<Row>], count: usize, rules: &Rules) -> (Duration, usize) {
    let mut traffic = Traffic::new(shapes, count);
    let mut feed = Feed::default();
    let mut took = Duration::ZERO;
    loop {
        let window = traffic.window(WINDOW);
        if window.is_empty() {
            break;
        }
        let begun = Instant::now();
        feed.take(window, rules);
        took += begun.elapsed();
    }
    (took, feed.built)
}

fn build_calls(c: &mut Criterion) {
    let rules = rules();
    let all = captures();
    let simple = grouped(&capture(&Path::new(env!("CARGO_MANIFEST_DIR")).join(SIMPLE)));
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
    let sum = |times: u64, shapes: &[Vec<Row>], count: usize| {
        (0..times).map(|_| black_box(feed(shapes, count, &rules)).0).sum::<Duration>()
    };
    for count in [1_000, 10_000, 100_000, 1_000_000] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("rows", count), |b| b.iter_custom(|times| sum(times, &all, count)));
    }
    // calls a second: the simple call over and over, and the captures' mix
    let simple = [capture(&Path::new(env!("CARGO_MANIFEST_DIR")).join(SIMPLE))];
    for (name, shapes) in [("simple calls", &simple[..]), ("captures' mix", &all)] {
        let rows = 100_000;
        let (_, calls) = feed(shapes, rows, &rules);
        group.throughput(Throughput::Elements(calls as u64));
        group.bench_function(name, |b| b.iter_custom(|times| sum(times, shapes, rows)));
    }
    group.finish();
}

criterion_group!(benches, build_calls, feed_rows);
criterion_main!(benches);
