//! What a database has to do for the lanes: describe a table, run a SELECT. Written once here are the values that go in
//! and out and how a setting becomes part of an error message; each backend maps its own errors onto two kinds.

use compact_str::CompactString;
use futures_util::future::BoxFuture;

use super::engine::Engine;
use crate::config::{DatabaseConfig, DatabaseKind};
use crate::source::SourceError;

/// A value bound to a placeholder.
#[derive(Clone, Debug, PartialEq)]
pub enum Param {
    Int(i64),
    Text(String),
    /// A zoneless time, microseconds as though it were UTC.
    Wall(i64),
    /// A moment, microseconds.
    Utc(i64),
}

/// A value that came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    Null,
    Int(i64),
    Float(f64),
    Text(CompactString),
    /// From a column without zone, microseconds as though it were UTC.
    Wall(i64),
    /// From a column that means a moment, microseconds.
    Utc(i64),
}

impl Cell {
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(i) => Some(*i),
            Self::Float(f) if f.is_finite() => Some(*f as i64),
            Self::Text(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    /// As Asterisk would have written it into a text column; empty for NULL. Times are not text.
    pub fn text(&self) -> CompactString {
        match self {
            Self::Null | Self::Wall(_) | Self::Utc(_) => CompactString::default(),
            Self::Int(i) => {
                use compact_str::ToCompactString;
                i.to_compact_string()
            }
            Self::Float(f) => compact_str::format_compact!("{f}"),
            Self::Text(s) => s.clone(),
        }
    }
}

/// The rows of an answer, one after another in one vector.
#[derive(Debug, Default)]
pub struct Rows {
    width: usize,
    cells: Vec<Cell>,
}

impl Rows {
    pub fn new(width: usize) -> Self {
        Self { width, cells: Vec::new() }
    }

    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        let before = self.cells.len();
        self.cells.extend(row);
        if before == 0 {
            self.width = self.cells.len();
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[Cell]> {
        self.cells.chunks_exact(self.width.max(1))
    }

    pub fn len(&self) -> usize {
        self.cells.len() / self.width.max(1)
    }

    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }

    pub fn first(&self) -> Option<&[Cell]> {
        self.iter().next()
    }
}

/// A column as the database describes it.
#[derive(Clone, Debug)]
pub struct ColumnInfo {
    pub name: String,
    /// Type name in lower case, without length: `varchar`, `timestamp with time zone` …
    pub kind: String,
    /// The database itself hands out ascending numbers for it.
    pub auto: bool,
}

/// An index with its columns in order.
#[derive(Clone, Debug)]
pub struct IndexInfo {
    pub columns: Vec<String>,
    pub unique: bool,
}

/// What the database says of a table or view.
#[derive(Clone, Debug, Default)]
pub struct Description {
    pub columns: Vec<ColumnInfo>,
    pub indexes: Vec<IndexInfo>,
    pub is_view: bool,
    /// Numbers that one session takes in advance (a PostgreSQL sequence's CACHE); 1 where it does not.
    pub id_cache: i64,
}

impl Description {
    /// An index that begins with `column`.
    pub fn indexed(&self, column: &str) -> bool {
        self.indexes.iter().any(|i| i.columns.first().is_some_and(|c| c.eq_ignore_ascii_case(column)))
    }
}

/// A table's name as configured: `cdr` or `asteriskcdrdb.cdr`. Its characters were checked when the setting was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    pub schema: Option<String>,
    pub name: String,
    /// The setting it came from.
    pub variable: &'static str,
}

impl TableName {
    pub fn parse(text: &str, variable: &'static str) -> Self {
        match text.split_once('.') {
            Some((schema, name)) => Self { schema: Some(schema.to_owned()), name: name.to_owned(), variable },
            None => Self { schema: None, name: text.to_owned(), variable },
        }
    }

    pub fn quoted(&self, engine: Engine) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", engine.quote(schema), engine.quote(&self.name)),
            None => engine.quote(&self.name),
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

/// One connection to a PBX database, made when it is first needed and after every failure. A call that is dropped half
/// way (shutdown, timeout) takes its connection with it, so that the next one never reads another's answer.
pub trait Backend: Send {
    fn engine(&self) -> Engine;

    /// Connects if there is no connection. `true`: a new one was made.
    fn connect(&mut self) -> BoxFuture<'_, Result<bool, SourceError>>;

    fn disconnect(&mut self);

    /// Columns and indexes; an error that names the setting when there is no such table or it may not be read.
    fn describe<'a>(&'a mut self, table: &'a TableName) -> BoxFuture<'a, Result<Description, SourceError>>;

    /// Runs one SELECT.
    fn select<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>>;
}

/// The backend of the configured kind: one line a kind.
pub fn backend(config: &DatabaseConfig) -> Box<dyn Backend> {
    match config.kind {
        DatabaseKind::MySql => Box::new(super::mysql::MySqlBackend::new(config)),
        DatabaseKind::PostgreSql => Box::new(super::postgres::PostgresBackend::new(config)),
        DatabaseKind::Sqlite => Box::new(super::sqlite::SqliteBackend::new(config)),
    }
}

/// `host:port`, or the socket.
pub fn server(config: &DatabaseConfig) -> String {
    match &config.socket {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", config.host, config.port),
    }
}

/// The settings that say where the server is.
pub fn where_settings(config: &DatabaseConfig) -> &'static str {
    if config.socket.is_some() { "DB_SOCKET" } else { "DB_HOST and DB_PORT" }
}
