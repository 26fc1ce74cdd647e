//! One database of one test, whatever its kind: statements in, rows in, and the settings an agent would need to read it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use callferry::config::{CelMode, DatabaseConfig, DatabaseKind, SourceConfig, StartFrom, TlsConfig, TlsMode};
use sqlx::{AssertSqlSafe, Executor, MySqlConnection, PgConnection};

/// Where a database is.
#[derive(Clone, Debug)]
pub struct Place {
    pub kind: DatabaseKind,
    pub socket: Option<PathBuf>,
    pub name: String,
    pub user: String,
}

enum Connection {
    MySql(MySqlConnection),
    Postgres(PgConnection),
    Sqlite(rusqlite::Connection),
}

pub struct TestDatabase {
    pub place: Place,
    connection: Connection,
    _directory: Option<tempfile::TempDir>,
}

/// A row to insert: column and text, `None` for NULL.
pub type Values<'a> = Vec<(&'a str, Option<String>)>;

impl TestDatabase {
    pub fn mysql(place: Place, connection: MySqlConnection) -> Self {
        Self { place, connection: Connection::MySql(connection), _directory: None }
    }

    pub fn postgres(place: Place, connection: PgConnection) -> Self {
        Self { place, connection: Connection::Postgres(connection), _directory: None }
    }

    pub fn sqlite() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("master.db");
        let connection = rusqlite::Connection::open(&path).expect("a SQLite file");
        connection.execute_batch("PRAGMA synchronous = OFF").expect("a SQLite file");
        let name = path.to_string_lossy().into_owned();
        let place = Place { kind: DatabaseKind::Sqlite, socket: None, name, user: String::new() };
        Self { place, connection: Connection::Sqlite(connection), _directory: Some(directory) }
    }

    pub fn pg(&mut self) -> &mut PgConnection {
        let Connection::Postgres(connection) = &mut self.connection else { panic!("not PostgreSQL") };
        connection
    }

    pub fn my(&mut self) -> &mut MySqlConnection {
        let Connection::MySql(connection) = &mut self.connection else { panic!("not MySQL") };
        connection
    }

    /// A new database of a kind; `None`: there is no such server here, and that was said.
    pub async fn new(kind: DatabaseKind) -> Option<Self> {
        match kind {
            DatabaseKind::MySql => super::mariadb::database().await,
            DatabaseKind::PostgreSql => super::postgres::database().await,
            DatabaseKind::Sqlite => Some(Self::sqlite()),
        }
    }

    /// Runs statements, semicolons between them.
    pub async fn run(&mut self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    }

    /// The same where they may fail.
    pub async fn try_run(&mut self, sql: &str) -> Result<(), String> {
        match &mut self.connection {
            Connection::MySql(c) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).execute(c).await.map(|_| ()).map_err(|e| e.to_string())
            }
            Connection::Postgres(c) => c.execute(AssertSqlSafe(sql)).await.map(|_| ()).map_err(|e| e.to_string()),
            Connection::Sqlite(c) => c.execute_batch(sql).map_err(|e| e.to_string()),
        }
    }

    /// Runs the table definitions of `tests/data/ddl/<file>`.
    pub async fn ddl(&mut self, file: &str) {
        let path = format!("{}/tests/data/ddl/{file}", env!("CARGO_MANIFEST_DIR"));
        let sql = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        self.run(&sql).await;
    }

    pub fn quote(&self, name: &str) -> String {
        match self.place.kind {
            DatabaseKind::MySql => format!("`{name}`"),
            _ => format!("\"{name}\""),
        }
    }

    /// Inserts rows as Asterisk's backends do: as text.
    pub async fn insert(&mut self, table: &str, rows: &[Values<'_>]) {
        for chunk in rows.chunks(200) {
            let mut grouped: HashMap<Vec<&str>, Vec<&Values<'_>>> = HashMap::new();
            let mut order = Vec::new();
            for row in chunk {
                let columns: Vec<&str> = row.iter().map(|(c, _)| *c).collect();
                if !grouped.contains_key(&columns) {
                    order.push(columns.clone());
                }
                grouped.entry(columns).or_default().push(row);
            }
            for columns in order {
                let names: Vec<String> = columns.iter().map(|c| self.quote(c)).collect();
                let values: Vec<String> = grouped[&columns]
                    .iter()
                    .map(|row| {
                        let cells: Vec<String> = row.iter().map(|(_, v)| self.literal(v.as_deref())).collect();
                        format!("({})", cells.join(", "))
                    })
                    .collect();
                let sql = format!("INSERT INTO {table} ({}) VALUES {}", names.join(", "), values.join(", "));
                self.run(&sql).await;
            }
        }
    }

    fn literal(&self, value: Option<&str>) -> String {
        match (value, self.place.kind) {
            (None, _) => "NULL".to_owned(),
            (Some(s), DatabaseKind::MySql) => format!("'{}'", s.replace('\\', "\\\\").replace('\'', "''")),
            (Some(s), _) => format!("'{}'", s.replace('\'', "''")),
        }
    }

    /// Settings that read this database's tables `cel` and `cdr` from their first row.
    pub fn config(&self) -> SourceConfig {
        SourceConfig {
            id: "pbx".to_owned(),
            database: DatabaseConfig {
                kind: self.place.kind,
                host: "localhost".to_owned(),
                port: 5432,
                socket: self.place.socket.clone(),
                name: self.place.name.clone(),
                name_cel: None,
                user: self.place.user.clone(),
                password: None,
                tls: TlsMode::Prefer,
                certificates: TlsConfig::default(),
                table_cdr: "cdr".to_owned(),
                table_cel: "cel".to_owned(),
                table_recordings: None,
                connections: 2,
                timeout: Duration::from_secs(20),
            },
            cel: CelMode::Db,
            cdr: true,
            zone: None,
            start_from: StartFrom::All,
            poll_busy: Duration::from_millis(100),
            poll_idle: Duration::from_millis(200),
            page_size: 2_000,
        }
    }
}
