//! SQL tables as sources: MariaDB and MySQL, PostgreSQL, and the SQLite files Asterisk can write.
//!
//! One connection, used by one poll at a time. [`backend`] runs statements, [`engine`] knows where their SQL differs,
//! [`probe`] finds out what a table is good for, [`cursor`] reads tables with a trustworthy id, [`lanes`] those without,
//! [`audit`] compares counts, [`history`] reads the past beside all of them, [`recordings`] reads the recordings table, [`zone`] tells the zone of readings, [`read`] makes rows of cells. A poll in the steady state
//! asks three statements: the clock, channel events, records.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use self::backend::{Backend, Rows, TableName};
use self::cursor::{IdLane, Stored};
use self::engine::{Engine, Statement};
use self::lanes::TimeLane;
use self::probe::Shape;
use self::recordings::RecordingsTable;
use self::zone::ZoneWatch;
use super::{
    Batch, LocalCounts, Place, PlacedRow, Quarantined, START_POSITION, Source, SourceError, Table, Wishes, start_of,
};
use crate::call::{Row, RowTime, Timestamp, WallTime};
use crate::config::{CelMode, DatabaseKind, SourceConfig, StartFrom};
use crate::correlate::Zone;

pub mod audit;
pub mod backend;
pub mod check;
pub mod cursor;
mod driver;
pub mod engine;
mod gaps;
pub mod history;
pub mod lanes;
pub mod mysql;
pub mod postgres;
pub mod probe;
pub mod read;
pub mod recordings;
mod reread;
pub mod sqlite;
mod start;
pub mod zone;

/// How far and how often the lanes look; microseconds of database time. Not settings: they follow from how Asterisk
/// writes. Tests shorten them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long a missing id is asked for.
    pub gap_watch: i64,
    pub near_every: i64,
    /// The same where there is no CEL to tell of ended calls.
    pub near_alone: i64,
    pub near_reach: i64,
    /// Channel events without id: how far back the newest are read again at each poll.
    pub tip_reach: i64,
    pub audit_every: i64,
    pub audit_reach: i64,
    /// A difference is looked at again after this before it is believed: longer than missing ids are asked for and than
    /// the near past takes to be walked over twice.
    pub audit_confirm: i64,
    /// How long before `START_FROM` reading begins, so that calls in progress are whole.
    pub start_margin: i64,
    /// How far back a new generation begins: events are written at once, records when their channel ends.
    pub renew_cel: i64,
    pub renew_cdr: i64,
    /// How often a cursor without its row looks what lies below.
    pub look_again: i64,
    /// A scan without index is followed by a pause of this many times its length.
    pub scan_share: i64,
    /// Rows in one page at most where many share one time, about 20 MB.
    pub page_max: usize,
    /// How often the tables are looked at again: an index or a column may have been added. Of this machine's clock.
    pub probe_every: Duration,
}

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

impl Default for Timing {
    fn default() -> Self {
        Self {
            gap_watch: 60 * SECOND,
            near_every: 30 * SECOND,
            near_alone: 10 * SECOND,
            near_reach: 900 * SECOND,
            tip_reach: 10 * SECOND,
            audit_every: 300 * SECOND,
            audit_reach: 26 * HOUR,
            audit_confirm: 75 * SECOND,
            start_margin: 4 * HOUR,
            renew_cel: 600 * SECOND,
            renew_cdr: 26 * HOUR,
            look_again: 5 * SECOND,
            scan_share: 20,
            page_max: 20_000,
            probe_every: Duration::from_secs(600),
        }
    }
}

/// Reading calls again whole is slow beyond this, and is then followed by a pause of [`REREAD_SHARE`] times its length.
const SLOW: Duration = Duration::from_secs(1);
const REREAD_SHARE: u32 = 20;
/// After a failure at least this.
const REREAD_RETRY: Duration = Duration::from_secs(20);

/// Readings may lie this far from UTC where the zone is not known.
const UNKNOWN_ZONE: i64 = 14 * HOUR;

/// Opens the database of the configuration; connects at the first poll.
pub fn open(
    config: &SourceConfig,
    positions: BTreeMap<String, String>,
    counts: Arc<dyn LocalCounts>,
) -> Box<dyn Source> {
    Box::new(SqlSource::new(config, positions, counts, Timing::default()))
}

/// The tables of the configuration, as the backend has to name them.
pub fn tables(config: &SourceConfig) -> Vec<(Table, TableName)> {
    let db = &config.database;
    let mut tables = Vec::new();
    if config.cel == CelMode::Db {
        let mut name = TableName::parse(&db.table_cel, "DB_TABLE_CEL");
        if db.kind == DatabaseKind::Sqlite && db.name_cel.as_ref().is_some_and(|c| *c != db.name) {
            name.schema = Some(sqlite::CEL_SCHEMA.to_owned());
        }
        tables.push((Table::Cel, name));
    }
    if config.cdr {
        tables.push((Table::Cdr, TableName::parse(&db.table_cdr, "DB_TABLE_CDR")));
    }
    tables
}

/// What one lane found in one poll.
pub struct Found {
    pub rows: Vec<PlacedRow>,
    pub quarantined: Vec<Quarantined>,
    pub more: bool,
    pub gaps_given_up: u64,
    /// Everything that was there at the time of the poll has been asked for.
    pub complete: bool,
    /// Linkedids whose records were asked for; `None`: the table is read by id.
    pub asked: Option<Vec<String>>,
}

impl Found {
    fn new() -> Self {
        Self { rows: Vec::new(), quarantined: Vec::new(), more: false, gaps_given_up: 0, complete: true, asked: None }
    }

    fn add(&mut self, row: Result<Row, Quarantined>, generation: i64, id: i64) {
        match row {
            Ok(row) => self.rows.push(PlacedRow { generation, place: Place::Id(id), row, by_audit: false }),
            Err(quarantined) => self.quarantined.push(quarantined),
        }
    }
}

/// What lanes share during one poll.
pub struct Visit<'a> {
    pub backend: &'a mut dyn Backend,
    /// The database's clock when the poll began, microseconds.
    pub now: i64,
    /// Where reading begins in a table that was never read; `None`: at its first row.
    pub begin: Option<Timestamp>,
    pub zone: Option<Zone>,
    pub page: usize,
    pub has_cel: bool,
    pub timing: &'a Timing,
    pub counts: &'a dyn LocalCounts,
    pub statements: u32,
}

impl Visit<'_> {
    pub async fn select(&mut self, statement: &Statement) -> Result<Rows, SourceError> {
        self.statements += 1;
        self.backend.select(&statement.sql, &statement.params).await
    }

    /// What a scan that began then is paid for with: a pause many times its length, microseconds.
    fn pause(&self, began: Instant) -> i64 {
        i64::try_from(began.elapsed().as_micros()).unwrap_or(i64::MAX).saturating_mul(self.timing.scan_share)
    }

    /// Whether a row's time lies at or after a moment; where the zone is unknown it is assumed to.
    fn at_least(&self, time: RowTime, moment: Timestamp) -> bool {
        at_least(self.zone.as_ref(), time, moment)
    }

    /// What a table's clock shows at a moment, never later than it really shows.
    fn reading_of(&self, shape: &Shape, moment_micros: i64) -> i64 {
        if is_moment(shape) {
            moment_micros
        } else {
            self.zone
                .as_ref()
                .map_or(moment_micros.saturating_sub(UNKNOWN_ZONE), |z| zone::reading_at(z, moment_micros))
        }
    }

    /// What a table's clock shows now; `None` while the zone is not known.
    fn reading(&self, shape: &Shape) -> Option<i64> {
        (is_moment(shape) || self.zone.is_some()).then(|| self.reading_of(shape, self.now))
    }
}

fn is_moment(shape: &Shape) -> bool {
    shape.time.kind.is_moment() && shape.mislabelled != Some(true)
}

fn at_least(zone: Option<&Zone>, time: RowTime, moment: Timestamp) -> bool {
    match (time, zone) {
        (RowTime::Utc(micros), _) => micros >= moment.micros(),
        (RowTime::Wall(WallTime(raw)), Some(zone)) => raw >= zone::reading_at(zone, moment.micros()),
        (RowTime::Wall(WallTime(raw)), None) => raw >= moment.micros().saturating_sub(UNKNOWN_ZONE),
    }
}

/// How one table is read.
enum Lane {
    Id(IdLane),
    Time(TimeLane),
}

struct Reader {
    table: Table,
    name: TableName,
    shape: Option<Shape>,
    lane: Option<Lane>,
    stored: Option<Stored>,
    /// The last poll filled its page: there is more to read at once.
    behind: bool,
}

impl Reader {
    /// How far history has been read, while there is more of it: a moment, microseconds.
    fn reached(&self, zone: Option<&Zone>) -> Option<i64> {
        let (Some(shape), true) = (&self.shape, self.behind) else { return None };
        let raw = match self.lane.as_ref()? {
            Lane::Id(lane) => lane.reached(),
            Lane::Time(lane) => lane.reached(),
        }?;
        match zone {
            Some(zone) if !is_moment(shape) => Some(zone.moment(WallTime(raw), None).micros()),
            _ => Some(raw),
        }
    }

    /// Fits the lane to what the table turned out to be.
    fn settle(&mut self, mut shape: Shape) {
        if let Some(before) = &self.shape
            && shape.mislabelled.is_none()
            && before.time.kind == shape.time.kind
        {
            // what its rows said before counts until they say otherwise
            shape.mislabelled = before.mislabelled;
        }
        // after a reconnect only what has changed is worth a word
        let known = self.shape.as_ref().map_or(&[][..], |s| &s.notes);
        for note in shape.notes.iter().filter(|n| !known.contains(n)) {
            tracing::warn!(table = %shape.name, "{note}");
        }
        let fits = match &self.lane {
            Some(Lane::Id(_)) => shape.id.is_some(),
            Some(Lane::Time(_)) => shape.id.is_none(),
            None => false,
        };
        if !fits {
            let stored = match &self.lane {
                Some(Lane::Id(lane)) => lane.stored(),
                Some(Lane::Time(lane)) => lane.stored(),
                None => self.stored.take(),
            };
            self.lane = Some(match (shape.id.is_some(), stored) {
                (true, Some(Stored::Id(position))) => Lane::Id(IdLane::new(self.table, Some(position))),
                (true, Some(Stored::Time(before))) => Lane::Id(IdLane::after(self.table, &before)),
                (true, None) => Lane::Id(IdLane::new(self.table, None)),
                (false, Some(Stored::Time(position))) => Lane::Time(TimeLane::new(Some(position))),
                (false, Some(Stored::Id(before))) => Lane::Time(TimeLane::new(Some(before.by_time()))),
                (false, None) => Lane::Time(TimeLane::new(None)),
            });
        }
        self.shape = Some(shape);
    }
}

pub struct SqlSource {
    config: SourceConfig,
    backend: Box<dyn Backend>,
    counts: Arc<dyn LocalCounts>,
    timing: Timing,
    readers: Vec<Reader>,
    recordings: Option<RecordingsTable>,
    zone: ZoneWatch,
    /// T0 of `START_FROM`, once resolved; the outer `None`: not yet.
    start: Option<Option<Timestamp>>,
    start_stored: bool,
    /// When the tables were looked at last; `None`: that has to be done.
    probed: Option<Instant>,
    statements: u32,
    /// Calls are not read again whole before this: it failed, or took long.
    reread_after: Option<Instant>,
    reread_fails: bool,
}

impl SqlSource {
    pub fn new(
        config: &SourceConfig,
        positions: BTreeMap<String, String>,
        counts: Arc<dyn LocalCounts>,
        timing: Timing,
    ) -> Self {
        Self::over(backend::backend(&config.database), config, positions, counts, timing)
    }

    /// The same over a backend that is there already.
    pub fn over(
        backend: Box<dyn Backend>,
        config: &SourceConfig,
        positions: BTreeMap<String, String>,
        counts: Arc<dyn LocalCounts>,
        timing: Timing,
    ) -> Self {
        let readers = tables(config).into_iter().map(|(table, name)| {
            let stored = positions.get(table.as_str()).and_then(|text| match serde_json::from_str(text) {
                Ok(stored) => Some(stored),
                Err(e) => {
                    tracing::error!(table = %name, "the stored position cannot be read ({e}); reading begins anew");
                    None
                }
            });
            Reader { table, name, shape: None, lane: None, stored, behind: false }
        });
        let start = positions.get(START_POSITION).map(|text| start_of(text));
        Self {
            backend,
            counts,
            timing,
            readers: readers.collect(),
            recordings: config.database.table_recordings.as_deref().map(RecordingsTable::new),
            zone: ZoneWatch::new(config.zone.clone()),
            start_stored: start.is_some(),
            start,
            probed: None,
            statements: 0,
            reread_after: None,
            reread_fails: false,
            config: config.clone(),
        }
    }

    async fn poll_once(&mut self, wishes: &Wishes) -> Result<Batch, SourceError> {
        let fresh = self.backend.connect().await?;
        if fresh || self.probed.is_none_or(|at| at.elapsed() >= self.timing.probe_every) {
            self.probe().await?;
        }
        for shape in self.readers.iter_mut().filter_map(|r| r.shape.as_mut()) {
            probe::settle_label(self.backend.as_mut(), shape).await?;
        }
        if self.zone.current().is_none() && no_readings(self.readers.iter().filter_map(|r| r.shape.as_ref())) {
            self.zone.decide(0);
        }
        let now = now(self.backend.as_mut()).await?;
        let start = *self.start.get_or_insert_with(|| match self.config.start_from {
            StartFrom::Now => Some(Timestamp::from_micros(now)),
            StartFrom::All => None,
            StartFrom::At(moment) => Some(moment),
        });
        let mut batch = Batch { db_now: Some(Timestamp::from_micros(now)), caught_up: true, ..Batch::default() };
        if !self.start_stored {
            let value = serde_json::json!({ "t0": start.map(Timestamp::micros) });
            batch.positions.push((START_POSITION.to_owned(), value.to_string()));
        }

        let mut visit = Visit {
            backend: self.backend.as_mut(),
            now,
            begin: start.map(|t| t.plus_micros(-self.timing.start_margin)),
            zone: self.zone.current().cloned(),
            page: self.config.page_size as usize,
            has_cel: self.config.cel == CelMode::Db,
            timing: &self.timing,
            counts: self.counts.as_ref(),
            // the clock
            statements: 1,
        };
        // what a poll found that failed in the end is found again, also by a lane that has to wait this time
        for reader in &mut self.readers {
            match &mut reader.lane {
                Some(Lane::Id(lane)) => lane.forget(),
                Some(Lane::Time(lane)) => lane.forget(),
                None => {}
            }
        }
        let waits = ahead(&self.readers, visit.zone.as_ref());
        for (n, reader) in self.readers.iter_mut().enumerate() {
            let (Some(lane), Some(shape)) = (&mut reader.lane, &reader.shape) else { continue };
            if waits == Some(n) {
                (batch.more, batch.caught_up) = (true, false);
                continue;
            }
            let found = match lane {
                Lane::Id(lane) => lane.poll(&mut visit, shape).await?,
                Lane::Time(lane) => lane.poll(&mut visit, shape, wishes).await?,
            };
            reader.behind = found.more;
            batch.more |= found.more;
            if found.complete && !found.more {
                batch.read_out.push(reader.table);
            } else {
                batch.caught_up = false;
            }
            batch.gaps_given_up += found.gaps_given_up;
            batch.quarantined.extend(found.quarantined);
            batch.rows.extend(found.rows);
            batch.cdr_of = batch.cdr_of.take().or(found.asked);
            let position = match lane {
                Lane::Id(lane) => lane.to_store(),
                Lane::Time(lane) => lane.to_store(),
            };
            if let Some(text) = position.and_then(|p| serde_json::to_string(&p).ok()) {
                batch.positions.push((reader.table.as_str().to_owned(), text));
            }
        }
        if !wishes.reread.is_empty() && self.reread_after.is_none_or(|at| Instant::now() >= at) {
            let began = Instant::now();
            let done = reread::read(&mut visit, &self.readers, &wishes.reread, &mut batch).await;
            let took = began.elapsed();
            // without an index these are scans, and they may be too long ones: what is new must not wait for them
            self.reread_after = match &done {
                Ok(()) if took < SLOW => None,
                _ => Some(Instant::now() + (took * REREAD_SHARE).max(REREAD_RETRY)),
            };
            if let Err(e) = &done
                && !self.reread_fails
            {
                tracing::warn!("a late row's call cannot be read again whole, and is tried again later: {e}");
            }
            self.reread_fails = done.is_err();
        }
        self.statements = visit.statements;
        if let Some(table) = &mut self.recordings {
            batch.recordings = table.poll(self.backend.as_mut(), now, &batch.rows, !batch.more).await;
        }
        tracing::trace!(statements = self.statements, rows = batch.rows.len(), "polled");
        batch.rows.iter().for_each(|placed| self.zone.observe(&placed.row));
        batch.zone = self.zone.tell();
        Ok(batch)
    }

    /// Statements the last poll took, those of a probe not counted.
    pub const fn statements(&self) -> u32 {
        self.statements
    }

    /// Looks at both tables: after every connect and now and then, since a table may have been altered or replaced.
    async fn probe(&mut self) -> Result<(), SourceError> {
        self.probed = None;
        for reader in &mut self.readers {
            let shape = probe::probe(self.backend.as_mut(), reader.table, &reader.name).await?;
            reader.settle(shape);
        }
        if let Some(table) = &mut self.recordings
            && let Some(note) = table.probe(self.backend.as_mut()).await?
        {
            tracing::warn!("{note}");
        }
        if self.zone.current().is_none() {
            let shapes: Vec<&Shape> = self.readers.iter().filter_map(|r| r.shape.as_ref()).collect();
            if let Some(offset_s) = vote(self.backend.as_mut(), &shapes).await? {
                self.zone.decide(offset_s);
            }
        }
        self.probed = Some(Instant::now());
        Ok(())
    }
}

/// Of two tables whose history is being read, the one that has come further: it waits, so that the pieces of a call are
/// read together. A record stands for many events; read at the same pace, records of months would wait for theirs.
fn ahead(readers: &[Reader], zone: Option<&Zone>) -> Option<usize> {
    let [one, other] = readers else { return None };
    match one.reached(zone)?.cmp(&other.reached(zone)?) {
        Ordering::Less => Some(1),
        Ordering::Equal => None,
        Ordering::Greater => Some(0),
    }
}

/// No table keeps anything but moments. Those without rows yet may still turn out to be mislabelled.
fn no_readings<'a>(mut shapes: impl Iterator<Item = &'a Shape>) -> bool {
    shapes.all(|s| s.time.kind.is_moment() && s.mislabelled == Some(false))
}

/// The offset recent rows speak for; 0 where no table keeps readings. `None`: they do not say.
pub async fn vote(backend: &mut dyn Backend, shapes: &[&Shape]) -> Result<Option<i32>, SourceError> {
    let readings: Vec<&&Shape> = shapes.iter().filter(|s| !is_moment(s)).collect();
    if readings.is_empty() {
        return Ok(no_readings(shapes.iter().copied()).then_some(0));
    }
    for shape in readings {
        let mut vote = zone::Vote::default();
        for (raw, uniqueid) in probe::recent_times(backend, shape, 500).await? {
            vote.add(raw, &uniqueid);
        }
        if let Some(offset_s) = vote.winner() {
            return Ok(Some(offset_s));
        }
    }
    Ok(None)
}

/// The database's clock, microseconds.
pub async fn now(backend: &mut dyn Backend) -> Result<i64, SourceError> {
    use self::backend::Cell;
    let sql = backend.engine().now();
    let rows = backend.select(sql, &[]).await?;
    match rows.first().map(|row| &row[0]) {
        Some(Cell::Wall(micros) | Cell::Utc(micros) | Cell::Int(micros)) => Ok(*micros),
        _ => Err(SourceError::Transient("the database does not tell the time".to_owned())),
    }
}

impl Source for SqlSource {
    fn kind(&self) -> &'static str {
        Engine::kind(self.backend.engine())
    }

    fn poll<'a>(&'a mut self, wishes: &'a Wishes) -> BoxFuture<'a, Result<Batch, SourceError>> {
        Box::pin(async move {
            let polled = self.poll_once(wishes).await;
            if polled.is_err() {
                // whatever went wrong, the next poll begins with a new connection and a look at the tables
                self.backend.disconnect();
            }
            polled
        })
    }

    fn committed(&mut self) {
        self.start_stored = true;
        self.zone.told();
        for reader in &mut self.readers {
            match &mut reader.lane {
                Some(Lane::Id(lane)) => lane.committed(),
                Some(Lane::Time(lane)) => lane.committed(),
                None => {}
            }
        }
        if let Some(table) = &mut self.recordings {
            table.committed();
        }
    }
}
