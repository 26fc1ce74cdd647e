//! The model database: what the PBX wrote becomes rows of a SQLite file, through a replica that may lag, stop, or be
//! swapped for one that is behind; and the file seen through a backend whose clock is the simulation's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use callferry::config::DatabaseConfig;
use callferry::source::SourceError;
use callferry::source::sql::backend::{Backend, Description, Param, Rows, TableName};
use callferry::source::sql::engine::Engine;
use callferry::source::sql::sqlite::SqliteBackend;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params_from_iter};

use crate::pbx::{Table, Written};

/// What happened to a table, in the order it happened.
#[derive(Clone, Debug)]
pub enum Change {
    Insert {
        table: Table,
        id: i64,
        row: usize,
    },
    Purge {
        table: Table,
        ids: Vec<i64>,
    },
    /// Emptied, and its numbers begin anew.
    Truncate {
        table: Table,
    },
}

const CEL: &[&str] = &[
    "eventtype",
    "eventtime",
    "userdeftype",
    "cid_name",
    "cid_num",
    "cid_ani",
    "cid_rdnis",
    "cid_dnid",
    "exten",
    "context",
    "channame",
    "appname",
    "appdata",
    "amaflags",
    "accountcode",
    "peeraccount",
    "uniqueid",
    "linkedid",
    "userfield",
    "peer",
    "extra",
];
const CDR: &[&str] = &[
    "accountcode",
    "src",
    "dst",
    "dcontext",
    "clid",
    "channel",
    "dstchannel",
    "lastapp",
    "lastdata",
    "start",
    "answer",
    "end",
    "duration",
    "billsec",
    "disposition",
    "amaflags",
    "userfield",
    "uniqueid",
    "linkedid",
    "peeraccount",
    "sequence",
];

/// The tables as one reader sees them.
pub struct Tables {
    conn: Connection,
    pub path: PathBuf,
    /// Everything the primary did.
    pub log: Vec<Change>,
    /// How much of it this reader has.
    pub shown: usize,
    /// (table, id) → (row, since when it is seen).
    pub present: BTreeMap<(Table, i64), (usize, i64)>,
    /// Since when each row can be seen, or could before it was removed.
    pub first_shown: HashMap<usize, i64>,
}

impl Tables {
    /// `cdr_ids`: the records have numbers too; else a view hides them, as most systems have it.
    pub fn new(path: PathBuf, cdr_ids: bool) -> Self {
        let conn = Connection::open(&path).expect("a SQLite file");
        let columns = |names: &[&str]| names.iter().map(|n| format!("\"{n}\" TEXT")).collect::<Vec<_>>().join(", ");
        let named = CDR.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
        let cdr = if cdr_ids { "cdr" } else { "cdr_rows" };
        conn.execute_batch(&format!(
            "PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY;
             CREATE TABLE cel (id INTEGER PRIMARY KEY, {}); CREATE INDEX cel_linkedid ON cel (linkedid);
             CREATE TABLE {cdr} (id INTEGER PRIMARY KEY, {});",
            columns(CEL),
            columns(CDR)
        ))
        .expect("tables");
        if !cdr_ids {
            conn.execute_batch(&format!("CREATE VIEW cdr AS SELECT {named} FROM cdr_rows")).expect("a view");
        }
        Self { conn, path, log: Vec::new(), shown: 0, present: BTreeMap::new(), first_shown: HashMap::new() }
    }

    fn name(&self, table: Table) -> &'static str {
        let has_view = self.conn.prepare("SELECT 1 FROM cdr_rows LIMIT 0").is_ok();
        match table {
            Table::Cel => "cel",
            Table::Cdr if has_view => "cdr_rows",
            Table::Cdr => "cdr",
        }
    }

    /// Shows the reader the changes up to `to`.
    pub fn show(&mut self, to: usize, rows: &[Written], now: i64) {
        if to <= self.shown {
            return;
        }
        let names =
            HashMap::from([(Table::Cel as u8, self.name(Table::Cel)), (Table::Cdr as u8, self.name(Table::Cdr))]);
        self.conn.execute_batch("BEGIN").expect("a transaction");
        for change in &self.log[self.shown..to] {
            match change {
                Change::Insert { table, id, row } => {
                    let cells = &rows[*row].cells;
                    let columns: Vec<String> = cells.iter().map(|(n, _)| format!("\"{n}\"")).collect();
                    let marks = vec!["?"; cells.len() + 1].join(", ");
                    let sql =
                        format!("INSERT INTO {} (id, {}) VALUES ({marks})", names[&(*table as u8)], columns.join(", "));
                    let values = std::iter::once(id.to_string()).chain(cells.iter().map(|(_, text)| text.clone()));
                    let mut insert = self.conn.prepare_cached(&sql).expect("an insert");
                    insert.execute(params_from_iter(values)).expect("a new id");
                    self.present.insert((*table, *id), (*row, now));
                    self.first_shown.entry(*row).or_insert(now);
                }
                Change::Purge { table, ids } => {
                    for id in ids {
                        let sql = format!("DELETE FROM {} WHERE id = ?1", names[&(*table as u8)]);
                        self.conn.execute(&sql, [id]).expect("a delete");
                        self.present.remove(&(*table, *id));
                    }
                }
                Change::Truncate { table } => {
                    self.conn.execute_batch(&format!("DELETE FROM {}", names[&(*table as u8)])).expect("a delete");
                    self.present.retain(|(t, _), _| t != table);
                }
            }
        }
        self.conn.execute_batch("COMMIT").expect("a commit");
        self.shown = to;
    }

    /// Another replica, which has only the first `to` changes.
    pub fn fall_back(&mut self, to: usize, rows: &[Written], now: i64) {
        let seen: BTreeMap<_, _> = self.present.iter().map(|(k, v)| (*k, v.1)).collect();
        for table in [Table::Cel, Table::Cdr] {
            self.conn.execute_batch(&format!("DELETE FROM {}", self.name(table))).expect("a delete");
        }
        self.present.clear();
        self.shown = 0;
        self.show(to, rows, now);
        for (key, value) in &mut self.present {
            value.1 = seen.get(key).copied().unwrap_or(value.1);
        }
        let still: BTreeSet<usize> = self.present.values().map(|(row, _)| *row).collect();
        self.first_shown.retain(|row, _| still.contains(row));
    }
}

/// What the database does to those who ask.
#[derive(Debug, Default)]
pub struct Moods {
    /// The database's clock, microseconds.
    pub now: AtomicI64,
    /// The connection is lost at the n-th statement from now on; 0: it holds.
    pub lost_at: AtomicU64,
    /// There is no server.
    pub down: AtomicU64,
}

/// The model database as the source asks it.
pub struct ModelBackend {
    pub inner: SqliteBackend,
    pub moods: Arc<Moods>,
}

impl ModelBackend {
    pub fn new(config: &DatabaseConfig, moods: Arc<Moods>) -> Self {
        Self { inner: SqliteBackend::new(config), moods }
    }

    fn mood(&self) -> Result<(), SourceError> {
        if self.moods.down.load(Ordering::Relaxed) > 0 {
            return Err(SourceError::Transient("the server is not there".to_owned()));
        }
        match self.moods.lost_at.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => {
                self.moods.lost_at.store(0, Ordering::Relaxed);
                Err(SourceError::Transient("server has gone away".to_owned()))
            }
            n => {
                self.moods.lost_at.store(n - 1, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

impl Backend for ModelBackend {
    fn engine(&self) -> Engine {
        Engine::Sqlite
    }

    fn connect(&mut self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            self.mood()?;
            self.inner.connect().await
        })
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }

    fn describe<'a>(&'a mut self, table: &'a TableName) -> BoxFuture<'a, Result<Description, SourceError>> {
        Box::pin(async move {
            self.mood()?;
            self.inner.describe(table).await
        })
    }

    fn select<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            self.mood()?;
            if sql == Engine::Sqlite.now() {
                let mut rows = Rows::new(1);
                rows.push([callferry::source::sql::backend::Cell::Int(self.moods.now.load(Ordering::Relaxed))]);
                return Ok(rows);
            }
            self.inner.select(sql, params).await
        })
    }
}
