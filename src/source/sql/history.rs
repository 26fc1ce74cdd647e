//! Reads what lies in the past, beside the source that follows the present and without its positions: which calls have rows
//! in a span of time, and all rows of those calls, wherever in time they lie.
//!
//! The tables are walked one after another. Where the time column has an index the walk goes by time, else by id between
//! two ids found by halving, else by time all the same, in larger pages since each is a scan.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::backend::{Cell, Param};
use super::cursor::written_at;
use super::engine::Statement;
use super::probe::{self, Shape};
use super::read::{self, ContentPlaces};
use super::start::bisect;
use super::{Lane, Reader, SqlSource, Timing, Visit, now};
use crate::call::{Row, Timestamp};
use crate::config::{CelMode, SourceConfig};
use crate::correlate::Zone;
use crate::source::{LocalCounts, PlacedRow, Quarantined, SourceError, Table, raw_micros};

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;
/// Readings of a clock that is set back at the end of summer time are looked for on both sides.
const AMBIGUOUS: i64 = HOUR;
/// Events are written at once, records when their channel has ended: by id they lie so much behind their time.
const CEL_LATE: i64 = HOUR;
const CDR_LATE: i64 = 26 * HOUR;
/// Rows looked through at once for ids of calls, and where each look is a scan.
const PAGE: usize = 1_000;
const SCAN_PAGE: usize = 20_000;
/// Ids in one statement, rows one statement may return, and rounds of following ids to further ids.
const KEYS: usize = 64;
const ROWS: usize = 5_000;
const ROUNDS: usize = 8;
/// Rows of the calls of one page at most: a nailed-up channel could tie a day together.
const ROWS_MAX: usize = 50_000;
/// Rows that cannot be read, named until somebody asks for them.
const NAMED_MAX: usize = 1_000;

/// Where the walk stands. Kept between pages, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// How many tables are done.
    pub table: usize,
    /// The next row's time as the table shows it, or its id; absent: the first.
    pub at: Option<i64>,
    /// How far the walk through this table is, 0 to 1,000.
    pub permille: u32,
}

/// One page of the walk.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// Linkedids with rows in the span, in the order they came up.
    pub linkedids: Vec<String>,
    /// `None`: the walk is over.
    pub next: Option<Place>,
}

/// Tables as they are now, and what to read of them.
pub struct History {
    source: SqlSource,
    unreadable: Unreadable,
}

/// Rows that cannot be read, each told once: a row comes up on several pages, and under several ids.
#[derive(Default)]
struct Unreadable {
    known: HashSet<u64>,
    new: Unread,
}

/// Rows that could not be read: which and why, and how many more.
#[derive(Clone, Debug, Default)]
pub struct Unread {
    pub named: Vec<String>,
    pub more: u64,
}

impl Unreadable {
    fn add(&mut self, shape: &Shape, cells: &[Cell], row: &Quarantined) {
        let mut hasher = DefaultHasher::new();
        (row.table, &row.reason, &row.body).hash(&mut hasher);
        if self.known.insert(hasher.finish()) {
            if self.new.named.len() >= NAMED_MAX {
                self.new.more += 1;
                return;
            }
            let (table, why) = (row.table.as_str(), &row.reason);
            self.new.named.push(match read::id(shape, cells) {
                Some(id) => format!("row {id} of {table}: {why}"),
                None => format!("a row of {table}: {why}"),
            });
        }
    }
}

struct NoCounts;

impl LocalCounts for NoCounts {
    fn seen_per_minute(&self, _: Table, _: i64, _: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        async { Ok(BTreeMap::new()) }.boxed()
    }

    fn rows_per_block(&self, _: Table, _: i64, _: i64, _: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
        async { Ok(BTreeMap::new()) }.boxed()
    }
}

impl History {
    /// `positions` are those of the source: rows get the generation it gives them.
    pub fn new(config: &SourceConfig, positions: BTreeMap<String, String>) -> Self {
        let source = SqlSource::new(config, positions, Arc::new(NoCounts), Timing::default());
        Self { source, unreadable: Unreadable::default() }
    }

    /// Connects where that is needed. To be called before anything is read, and again after an error.
    /// Returns the database's clock.
    pub async fn connect(&mut self) -> Result<Timestamp, SourceError> {
        let source = &mut self.source;
        let fresh = source.backend.connect().await?;
        if fresh || source.probed.is_none_or(|at| at.elapsed() >= source.timing.probe_every) {
            source.probe().await?;
        }
        for shape in source.readers.iter_mut().filter_map(|r| r.shape.as_mut()) {
            probe::settle_label(source.backend.as_mut(), shape).await?;
        }
        Ok(Timestamp::from_micros(now(source.backend.as_mut()).await?))
    }

    /// Something went wrong: the next `connect` begins anew.
    pub fn disconnect(&mut self) {
        self.source.backend.disconnect();
    }

    /// Rows that could not be read since this was asked last.
    pub fn unreadable(&mut self) -> Unread {
        std::mem::take(&mut self.unreadable.new)
    }

    /// The zone of the readings, as configured or as the uniqueids say; known after `connect`.
    pub fn zone(&self) -> Option<&Zone> {
        self.source.zone.current()
    }

    /// The next linkedids with rows between two moments.
    pub async fn ids(&mut self, place: &Place, from: Timestamp, to: Timestamp) -> Result<Ids, SourceError> {
        let (mut visit, readers) = self.source.visit();
        let Some(reader) = readers.get(place.table) else { return Ok(Ids::default()) };
        let Some(shape) = &reader.shape else { return Ok(Ids::default()) };
        let low = visit.reading_of(shape, from.micros()).saturating_sub(AMBIGUOUS);
        let mut high = visit.reading_of(shape, to.micros()).saturating_add(AMBIGUOUS);
        if visit.zone.is_none() && !super::is_moment(shape) {
            high = high.saturating_add(2 * super::UNKNOWN_ZONE);
        }
        let by_id = !shape.time.indexed && shape.id.is_some();
        let bad = &mut self.unreadable;
        let found = if by_id {
            by_id_walk(&mut visit, shape, place, (low, high), bad).await?
        } else {
            by_time_walk(&mut visit, shape, place, (low, high), bad).await?
        };
        let next = found.next.or_else(|| {
            let next = Place { table: place.table + 1, ..Place::default() };
            (next.table < readers.len()).then_some(next)
        });
        Ok(Ids { linkedids: found.linkedids, next })
    }

    /// All rows of the calls that these linkedids belong to: by every further id that comes up, until nothing new does.
    pub async fn whole(&mut self, linkedids: &[String]) -> Result<Vec<PlacedRow>, SourceError> {
        let (mut visit, readers) = self.source.visit();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut ask: BTreeSet<String> = linkedids.iter().cloned().collect();
        let mut rows: Vec<PlacedRow> = Vec::new();
        let mut places = BTreeSet::new();
        for _ in 0..ROUNDS {
            let keys: Vec<String> = ask.iter().cloned().collect();
            asked.append(&mut ask);
            let mut new = Vec::new();
            for reader in readers.iter() {
                by_keys(&mut visit, reader, &keys, &mut new, &mut self.unreadable).await?;
            }
            for row in new {
                for id in [row.row.uniqueid(), row.row.linkedid()] {
                    if !id.is_empty() && !asked.contains(id) {
                        ask.insert(id.to_owned());
                    }
                }
                if places.insert((matches!(row.row, Row::Cdr(_)), row.generation, row.place)) {
                    rows.push(row);
                }
            }
            if ask.is_empty() || rows.len() >= ROWS_MAX {
                break;
            }
        }
        Ok(rows)
    }
}

impl SqlSource {
    fn visit(&mut self) -> (Visit<'_>, &[Reader]) {
        let visit = Visit {
            backend: self.backend.as_mut(),
            now: 0,
            begin: None,
            zone: self.zone.current().cloned(),
            page: PAGE,
            has_cel: self.config.cel == CelMode::Db,
            timing: &self.timing,
            counts: self.counts.as_ref(),
            statements: 0,
        };
        (visit, &self.readers)
    }
}

/// Linkedids of the rows of a page that lie in the span.
fn ids_of<'c>(
    shape: &Shape,
    rows: impl Iterator<Item = &'c [Cell]>,
    (low, high): (i64, i64),
    bad: &mut Unreadable,
) -> Vec<String> {
    let mut known = BTreeSet::new();
    let mut ids = Vec::new();
    for cells in rows {
        let row = match read::row(shape, cells) {
            Ok(row) => row,
            Err(why) => {
                bad.add(shape, cells, &why);
                continue;
            }
        };
        let inside = row.time().is_none_or(|t| (low..high).contains(&raw_micros(t)));
        let id = if row.linkedid().is_empty() { row.uniqueid() } else { row.linkedid() };
        if inside && known.insert(id.to_owned()) {
            ids.push(id.to_owned());
        }
    }
    ids
}

fn permille(at: i64, low: i64, high: i64) -> u32 {
    let (done, all) = (at.saturating_sub(low).max(0), high.saturating_sub(low).max(1));
    u32::try_from(i128::from(done) * 1_000 / i128::from(all)).unwrap_or(1_000).min(1_000)
}

async fn by_time_walk(
    visit: &mut Visit<'_>,
    shape: &Shape,
    place: &Place,
    (low, high): (i64, i64),
    bad: &mut Unreadable,
) -> Result<Ids, SourceError> {
    let column = &shape.time.name;
    let from = place.at.unwrap_or(low);
    let mut limit = if shape.time.indexed { PAGE } else { SCAN_PAGE };
    loop {
        let mut statement = Statement::new(shape.engine);
        statement.push(&shape.select(0)).push(&format!(" WHERE {column} >= ")).bind_time(from, shape.time.kind);
        statement.push(&format!(" AND {column} < ")).bind_time(high, shape.time.kind);
        statement.push(&format!(" ORDER BY {column} LIMIT {limit}"));
        let rows = visit.select(&statement).await?;
        let last = rows.iter().filter_map(|cells| read::raw_time(shape, cells)).max();
        let full = rows.len() >= limit;
        match last {
            // rows of the last time may go on behind the page: they are read again with the next one
            Some(last) if full && last > from => {
                let next = Place { at: Some(last), permille: permille(last, low, high), ..place.clone() };
                return Ok(Ids { linkedids: ids_of(shape, rows.iter(), (low, high), bad), next: Some(next) });
            }
            Some(_) if full => limit = limit.saturating_mul(4),
            _ => return Ok(Ids { linkedids: ids_of(shape, rows.iter(), (low, high), bad), next: None }),
        }
    }
}

async fn by_id_walk(
    visit: &mut Visit<'_>,
    shape: &Shape,
    place: &Place,
    (low, high): (i64, i64),
    bad: &mut Unreadable,
) -> Result<Ids, SourceError> {
    let Some(id) = &shape.id else { return Ok(Ids::default()) };
    let late = if shape.table == Table::Cel { CEL_LATE } else { CDR_LATE };
    let reached = |raw: i64| move |row: &Row| written_at(row).is_some_and(|t| raw_micros(t) >= raw);
    let first = bisect(visit, shape, &reached(low.saturating_sub(CEL_LATE))).await?;
    let end = bisect(visit, shape, &reached(high.saturating_add(late))).await?;
    let from = place.at.unwrap_or(first);
    let mut statement = Statement::new(shape.engine);
    statement.push(&shape.select(0)).push(&format!(" WHERE {id} >= ")).bind(Param::Int(from));
    statement.push(&format!(" AND {id} <= ")).bind(Param::Int(end)).push(&format!(" ORDER BY {id} LIMIT {PAGE}"));
    let rows = visit.select(&statement).await?;
    let last = rows.iter().filter_map(|cells| read::id(shape, cells)).max();
    let next = last.filter(|_| rows.len() >= PAGE).map(|last| Place {
        at: Some(last.saturating_add(1)),
        permille: permille(last, first, end),
        ..place.clone()
    });
    Ok(Ids { linkedids: ids_of(shape, rows.iter(), (low, high), bad), next })
}

/// The rows of one table with any of these ids.
async fn by_keys(
    visit: &mut Visit<'_>,
    reader: &Reader,
    keys: &[String],
    found: &mut Vec<PlacedRow>,
    bad: &mut Unreadable,
) -> Result<(), SourceError> {
    let (Some(lane), Some(shape)) = (&reader.lane, &reader.shape) else { return Ok(()) };
    // the channels of a call are known by its events: records need not be searched for by a column without an index
    let by_channel = shape.table == Table::Cdr && visit.has_cel && shape.uniqueid_indexed && !shape.linkedid_indexed;
    let linkedid = shape.linkedid.as_deref().filter(|_| !by_channel);
    for column in [linkedid, Some(shape.uniqueid.as_str())].into_iter().flatten() {
        let mut portions: Vec<Vec<String>> = keys.chunks(KEYS).map(<[String]>::to_vec).collect();
        while let Some(portion) = portions.pop() {
            let mut statement = Statement::new(shape.engine);
            statement.push(&shape.select(0)).push(&format!(" WHERE {column} IN ")).bind_list(&portion);
            statement.push(&format!(" LIMIT {ROWS}"));
            let rows = visit.select(&statement).await?;
            if rows.len() >= ROWS && portion.len() > 1 {
                // cut off: a call would be a fragment
                let (a, b) = portion.split_at(portion.len() / 2);
                portions.extend([a.to_vec(), b.to_vec()]);
                continue;
            }
            let mut places = ContentPlaces::default();
            for cells in rows.iter() {
                let row = match read::row(shape, cells) {
                    Ok(row) => row,
                    Err(why) => {
                        bad.add(shape, cells, &why);
                        continue;
                    }
                };
                found.push(match lane {
                    Lane::Id(lane) => lane.place(read::id(shape, cells).unwrap_or_default(), row),
                    Lane::Time(lane) => lane.place(&mut places, row),
                });
            }
        }
    }
    Ok(())
}
