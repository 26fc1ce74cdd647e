//! Where rows come from. A [`Source`] is asked again and again for what is new; everything durable about it — rows and
//! the position after them — is stored by the agent in one transaction before it is asked again.
//!
//! A source knows nothing of calls and sinks. It may keep what it likes in memory, as long as it can be made anew from
//! its stored positions at any moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::call::{FoundRecording, Row, RowTime, Timestamp, WallTime};
use crate::config::SourceConfig;
use crate::correlate::Zone;
use crate::finding::Finding;

pub mod columns; // names and text of the columns of both tables
pub mod csv; // CEL and CDR rows in CSV files
pub mod recordings; // files in folders: which are complete, what their names tell
pub mod sql; // tables of MySQL, PostgreSQL, SQLite
pub mod supervisor; // the loop that drives a source

/// Which table a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Cel,
    Cdr,
}

impl Table {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cel => "cel",
            Self::Cdr => "cdr",
        }
    }
}

/// A row's identity inside one generation of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// The table's own trustworthy id (or a file offset).
    Id(i64),
    /// Hash of the content, for tables without one. Identical rows are one there.
    Hash([u8; 16]),
}

/// A row with its place. `generation` grows when the table was emptied or the record source changed.
#[derive(Clone, Debug)]
pub struct PlacedRow {
    pub generation: i64,
    pub place: Place,
    pub row: Row,
    /// Found by the audit only, after every faster lane had missed it: counted and alerted.
    pub by_audit: bool,
}

/// A row that could not be read.
#[derive(Clone, Debug)]
pub struct Quarantined {
    pub table: Table,
    pub reason: String,
    /// What was read of it, as text.
    pub body: String,
}

/// What one poll found. Rows, quarantine and positions are committed together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub rows: Vec<PlacedRow>,
    pub quarantined: Vec<Quarantined>,
    /// (name, JSON) to store as the new positions of this source.
    pub positions: Vec<(String, String)>,
    /// The database's clock at the read: completion counts in it. `None`: this poll did not ask.
    pub db_now: Option<Timestamp>,
    /// More is waiting: poll again at once.
    pub more: bool,
    /// Every lane of this source has been asked up to `db_now`: a CDR that is still missing was not there then, or has to
    /// be asked for (`cdr_of`).
    pub caught_up: bool,
    /// Tables that were read to their end, as of `db_now`, also where another is not.
    pub read_out: Vec<Table>,
    /// Ids that never appeared within the time a gap is watched, per table.
    pub gaps_given_up: u64,
    /// The zone of the wall clock readings, once it is known and whenever it changes: as configured, or as the uniqueids
    /// say. Rows that come before it is known can be stored, not built into calls.
    pub zone: Option<Zone>,
    /// What the PBX's recordings table has of calls that ended.
    pub recordings: Vec<FoundRecording>,
    /// The wishes of [`Wishes::reread`] that this batch answers in full.
    pub reread: Vec<String>,
    /// The wishes of [`Wishes::cdr_of`] that this batch answers. `None`: the source reads records forward by id, and
    /// none has to be asked for.
    pub cdr_of: Option<Vec<String>>,
}

/// What the agent wishes a source to look for; rebuilt from the journal after a start.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// Linkedids of calls that ended by CEL and whose CDR has not come: the targeted lane of tables without id.
    pub cdr_of: Vec<String>,
    /// Linkedids whose call has to be read again whole, both tables: a late row came after its rows were dropped.
    pub reread: Vec<String>,
}

/// What was read of a table so far, for the audit: it counts at the PBX and compares. Implemented by the store.
pub trait LocalCounts: Send + Sync {
    /// How many rows without id are known per minute ([`audit_minute`]) in `from..to`. Minutes without rows are absent.
    fn seen_per_minute(&self, table: Table, from: i64, to: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>>;

    /// How many rows with id are known per block of [`ID_BLOCK`] ids (`id.div_euclid(ID_BLOCK)`) in `from..to`, of one
    /// generation. Blocks without rows are absent.
    fn rows_per_block(
        &self,
        table: Table,
        generation: i64,
        from: i64,
        to: i64,
    ) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>>;
}

/// Ids in one block of the audit.
pub const ID_BLOCK: i64 = 1_000;

/// The minute the audit counts a row under: minutes since 1970 of the time as the table shows it, wall clock readings
/// as though they were UTC. `None`: the row has no time.
pub fn audit_minute(row: &Row) -> Option<i64> {
    row.time().map(|t| raw_micros(t).div_euclid(60_000_000))
}

/// The number inside a row's time, whatever it means.
pub const fn raw_micros(time: RowTime) -> i64 {
    match time {
        RowTime::Utc(micros) | RowTime::Wall(WallTime(micros)) => micros,
    }
}

/// The position that keeps the moment `START_FROM` was resolved to: `{"t0": <microseconds, database time>}`. Calls that
/// ended before it are known, but never shipped. `null` for `START_FROM=all`.
pub const START_POSITION: &str = "start";

/// Reads [`START_POSITION`]: `None` when everything is to be shipped.
pub fn start_of(position: &str) -> Option<Timestamp> {
    let value: serde_json::Value = serde_json::from_str(position).ok()?;
    value.get("t0")?.as_i64().map(Timestamp::from_micros)
}

/// Opens the record source that the configuration names. `positions` are those stored for it, empty at the first start.
/// Nothing is connected before the first `poll`.
pub fn open(
    config: &SourceConfig,
    positions: BTreeMap<String, String>,
    counts: Arc<dyn LocalCounts>,
) -> Box<dyn Source> {
    sql::open(config, positions, counts)
}

/// Tries everything reading would need and says what to mend.
pub async fn check(config: &SourceConfig) -> Vec<Finding> {
    sql::check::check(config).await
}

#[derive(Debug, Error)]
pub enum SourceError {
    /// Will not go away by itself: wrong password, missing table or privilege. At start this ends the program.
    #[error("{0}")]
    Setup(String),
    /// Connection lost, deadlock, lock wait, server restarting: reconnect with backoff and go on from the position.
    #[error("{0}")]
    Transient(String),
    /// One statement took longer than `DB_TIMEOUT`. Passing too; what can wait is put off, and does not fail a poll.
    #[error("{0}")]
    Slow(String),
}

/// The seam between a PBX and the agent.
///
/// Contract: `poll` returns rows that lie after the stored positions, bounded in number (a few thousand), never the
/// same place twice unless the earlier batch was not committed; it may be dropped at any await (shutdown) without
/// losing a row; after an error it reconnects by itself at the next `poll`. It never writes to the PBX.
pub trait Source: Send {
    /// For logs and metrics: `mysql`, `postgresql`, `sqlite`, …
    fn kind(&self) -> &'static str;

    /// Reads what is new. `wishes` may be served a part at a time; what was not served will be wished again.
    fn poll<'a>(&'a mut self, wishes: &'a Wishes) -> BoxFuture<'a, Result<Batch, SourceError>>;

    /// The batch returned last is durable: positions in memory may move on. Not called when storing failed; the next
    /// `poll` must then return those rows again.
    fn committed(&mut self);
}
