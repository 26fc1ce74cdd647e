//! The SQLite files of cdr_sqlite3_custom and cel_sqlite3_custom, opened read only, on a blocking thread. The second file
//! is attached under a name of its own, so that both tables are read over one connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use compact_str::CompactString;
use futures_util::future::BoxFuture;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::backend::{Backend, Cell, ColumnInfo, Description, IndexInfo, Param, Rows, TableName};
use super::engine::Engine;
use crate::config::DatabaseConfig;
use crate::source::SourceError;

/// The schema name the second file is attached under.
pub const CEL_SCHEMA: &str = "cel_file";

pub struct SqliteBackend {
    config: DatabaseConfig,
    connection: Option<Opened>,
}

struct Opened {
    connection: Connection,
    /// Device and inode of each file: a file that was put in its place is opened anew.
    files: Vec<(PathBuf, Option<(u64, u64)>)>,
}

type Work<T> = Box<dyn FnOnce(&Connection) -> rusqlite::Result<T> + Send>;

impl SqliteBackend {
    pub fn new(config: &DatabaseConfig) -> Self {
        Self { config: config.clone(), connection: None }
    }

    // takes what it needs at once: a connection may move between threads, but not be shared by them
    fn open(&self) -> impl Future<Output = Result<Opened, SourceError>> + Send + 'static {
        let config = self.config.clone();
        async move { blocking(move || open(&config)).await? }
    }

    fn current(&self) -> bool {
        self.connection.as_ref().is_some_and(|o| o.files.iter().all(|(path, id)| identity(path) == *id))
    }

    async fn run<T: Send + 'static>(&mut self, work: Work<T>, table: Option<&TableName>) -> Result<T, SourceError> {
        let opened = match self.connection.take() {
            Some(opened) => opened,
            None => self.open().await?,
        };
        let interrupt = opened.connection.get_interrupt_handle();
        let working = blocking(move || {
            let done = work(&opened.connection);
            (opened, done)
        });
        tokio::pin!(working);
        // a long scan keeps Asterisk from writing
        let (opened, done) = match tokio::time::timeout(self.config.timeout, &mut working).await {
            Ok(ended) => ended?,
            Err(_) => {
                interrupt.interrupt();
                working.await?
            }
        };
        match done {
            Ok(value) => {
                self.connection = Some(opened);
                Ok(value)
            }
            Err(e) => Err(error(&e, &self.config, table)),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SourceError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| SourceError::Transient(format!("the thread that reads the SQLite file ended: {e}")))
}

#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|_| (0, 0))
}

fn open(config: &DatabaseConfig) -> Result<Opened, SourceError> {
    let path = PathBuf::from(&config.name);
    readable(&path, "DB_NAME")?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(|e| error(&e, config, None))?;
    let wait = config.timeout.min(Duration::from_secs(10));
    connection.busy_timeout(wait).map_err(|e| error(&e, config, None))?;
    let mut files = vec![(path.clone(), identity(&path))];
    if let Some(cel) = config.name_cel.as_ref().filter(|c| **c != config.name) {
        let cel = PathBuf::from(cel);
        readable(&cel, "DB_NAME_CEL")?;
        let name = cel.to_string_lossy().into_owned();
        // an attached file inherits the read-only flag
        connection
            .execute(&format!("ATTACH DATABASE ?1 AS {CEL_SCHEMA}"), [name])
            .map_err(|e| error(&e, config, None))?;
        let id = identity(&cel);
        files.push((cel, id));
    }
    Ok(Opened { connection, files })
}

fn readable(path: &Path, variable: &str) -> Result<(), SourceError> {
    std::fs::File::open(path).map(|_| ()).map_err(|e| {
        SourceError::Setup(format!(
            "cannot open the SQLite file {}: {e}. Check {variable} and that this user may read it",
            path.display()
        ))
    })
}

fn error(e: &rusqlite::Error, config: &DatabaseConfig, table: Option<&TableName>) -> SourceError {
    let file = &config.name;
    let text = e.to_string();
    match e.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            SourceError::Setup(format!("{file} is not a SQLite database, or is damaged: {text}. Check DB_NAME"))
        }
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => SourceError::Setup(format!(
            "cannot open the SQLite file {file}: {text}. This user has to be able to read it, and where it is in WAL mode \
             to write in its directory"
        )),
        Some(ErrorCode::OperationInterrupted) => SourceError::Slow(format!(
            "reading {file} takes longer than {} s (DB_TIMEOUT). An index may be missing, which `callferry check` names",
            config.timeout.as_secs()
        )),
        _ if text.contains("no such table") => match table {
            Some(t) => SourceError::Setup(format!("there is no table {t} in {file}: {text}. Check {}", t.variable)),
            None => SourceError::Transient(format!("a table has gone from {file}: {text}")),
        },
        _ => SourceError::Transient(format!("reading {file}: {text}")),
    }
}

impl Backend for SqliteBackend {
    fn engine(&self) -> Engine {
        Engine::Sqlite
    }

    fn connect(&mut self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            if self.connection.is_some() && self.current() {
                return Ok(false);
            }
            self.connection = None;
            self.connection = Some(self.open().await?);
            Ok(true)
        })
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    fn describe<'a>(&'a mut self, table: &'a TableName) -> BoxFuture<'a, Result<Description, SourceError>> {
        Box::pin(async move {
            let t = table.clone();
            let work: Work<Description> = Box::new(move |connection| describe(connection, &t));
            self.run(work, Some(table)).await
        })
    }

    fn select<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(async move {
            let sql = sql.to_owned();
            let params = params.to_vec();
            let work: Work<Rows> = Box::new(move |connection| {
                let mut statement = connection.prepare_cached(&sql)?;
                let width = statement.column_count();
                let values = params.into_iter().map(|p| match p {
                    Param::Int(i) | Param::Wall(i) | Param::Utc(i) => Value::Integer(i),
                    Param::Text(s) => Value::Text(s),
                });
                let mut found = statement.query(rusqlite::params_from_iter(values))?;
                let mut rows = Rows::new(width);
                while let Some(row) = found.next()? {
                    let mut cells = Vec::with_capacity(width);
                    for i in 0..width {
                        cells.push(match row.get_ref(i)? {
                            ValueRef::Null => Cell::Null,
                            ValueRef::Integer(i) => Cell::Int(i),
                            ValueRef::Real(f) => Cell::Float(f),
                            ValueRef::Text(b) | ValueRef::Blob(b) => Cell::Text(CompactString::from_utf8_lossy(b)),
                        });
                    }
                    rows.push(cells);
                }
                Ok(rows)
            });
            self.run(work, None).await
        })
    }
}

fn describe(connection: &Connection, table: &TableName) -> rusqlite::Result<Description> {
    let quoted = table.quoted(Engine::Sqlite);
    connection.prepare(&format!("SELECT 1 FROM {quoted} LIMIT 0"))?;
    let schema = table.schema.as_deref().unwrap_or("main");
    let mut description = Description { id_cache: 1, ..Description::default() };
    let mut keys = Vec::new();

    let mut columns = connection.prepare("SELECT name, lower(type), pk FROM pragma_table_info(?1, ?2)")?;
    let mut rows = columns.query([&table.name, schema])?;
    while let Some(row) = rows.next()? {
        let column = ColumnInfo { name: row.get(0)?, kind: row.get(1)?, auto: false };
        if row.get::<_, i64>(2)? > 0 {
            keys.push(description.columns.len());
        }
        description.columns.push(column);
    }
    // INTEGER PRIMARY KEY is another name of the rowid, which SQLite hands out ascending
    if let [key] = keys[..]
        && description.columns[key].kind == "integer"
    {
        description.columns[key].auto = true;
        description.indexes.push(IndexInfo { columns: vec![description.columns[key].name.clone()], unique: true });
    }

    let mut list = connection.prepare("SELECT name, \"unique\", partial FROM pragma_index_list(?1, ?2)")?;
    let mut names = list.query([&table.name, schema])?;
    while let Some(row) = names.next()? {
        let (name, unique, partial): (String, bool, bool) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if partial {
            continue;
        }
        let mut info = connection.prepare("SELECT name FROM pragma_index_info(?1, ?2) ORDER BY seqno")?;
        let columns = info.query_map([&name, schema], |r| r.get::<_, Option<String>>(0))?;
        let columns: Vec<String> = columns.filter_map(|c| c.transpose()).collect::<rusqlite::Result<_>>()?;
        description.indexes.push(IndexInfo { columns, unique });
    }

    let kind: Option<String> = connection
        .query_row(
            &format!("SELECT type FROM {}.sqlite_schema WHERE lower(name) = lower(?1)", Engine::Sqlite.quote(schema)),
            [&table.name],
            |r| r.get(0),
        )
        .ok();
    description.is_view = kind.as_deref() == Some("view");
    // every table but WITHOUT ROWID has a rowid, also one without a key of its own
    let has_key = description.columns.iter().any(|c| c.auto);
    if !description.is_view && !has_key && connection.prepare(&format!("SELECT rowid FROM {quoted}")).is_ok() {
        description.columns.push(ColumnInfo { name: "rowid".to_owned(), kind: "integer".to_owned(), auto: true });
        description.indexes.push(IndexInfo { columns: vec!["rowid".to_owned()], unique: true });
    }
    Ok(description)
}
