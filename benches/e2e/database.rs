//! The PBX's database: a private MariaDB with the durability it has by default, on a TCP port of the loopback address.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, MySqlConnection, Row as _};

use crate::calls::{self, History, Row, Table};
use crate::process;
use crate::support::mariadb::MariaDb;
use crate::support::server;

/// Calls loaded at once.
const PORTION: usize = 25_000;

/// What the agent connects as.
pub const USER: &str = "callferry";
pub const PASSWORD: &str = "bench";

pub struct Database {
    server: MariaDb,
    connection: MySqlConnection,
    pub port: u16,
    pub name: String,
}

/// Server settings that differ from a fresh installation's, and those that decide how durable its commits are.
const SETTINGS: &[&str] = &[
    "--default-time-zone=+00:00",
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=96M",
    "--innodb-flush-log-at-trx-commit=1",
];

impl Database {
    /// `None`: there is no MariaDB on this machine, and that was said.
    pub async fn start() -> Option<Self> {
        let port = server::free_port();
        let mut settings: Vec<String> = SETTINGS.iter().map(|&s| s.to_owned()).collect();
        settings.extend(["--skip-networking=0", "--bind-address=127.0.0.1"].map(str::to_owned));
        settings.push(format!("--port={port}"));
        let server = MariaDb::with(|_| settings).await?;
        let mut connection = server.connect("mysql").await.expect("MariaDB answers");
        run(
            &mut connection,
            &format!("CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'; GRANT SELECT ON *.* TO {USER}@'%'"),
        )
        .await;
        Some(Self { server, connection, port, name: "mysql".to_owned() })
    }

    /// The settings figures depend on, as the server has them.
    pub async fn describe(&mut self) -> String {
        let mut text = String::new();
        for variable in [
            "version",
            "innodb_flush_log_at_trx_commit",
            "innodb_doublewrite",
            "innodb_buffer_pool_size",
            "log_bin",
            "tls_version",
        ] {
            let sql = format!("SELECT CAST(@@GLOBAL.{variable} AS CHAR)");
            let value: Option<String> =
                sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connection).await.ok().flatten();
            if let Some(value) = value.filter(|_| variable != "tls_version") {
                let _ = write!(text, "{}{variable}={value}", if text.is_empty() { "" } else { ", " });
            }
        }
        text
    }

    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(self.directory().join("pid")).expect("the server's pid file");
        text.trim().parse().expect("a process id")
    }

    fn directory(&self) -> PathBuf {
        self.server.socket().parent().expect("a directory").to_owned()
    }

    pub fn socket(&self) -> PathBuf {
        self.server.socket()
    }

    pub async fn connect(&self) -> MySqlConnection {
        self.server.connect(&self.name).await.expect("MariaDB answers")
    }

    /// Runs statements, semicolons between them.
    pub async fn run(&mut self, sql: &str) {
        run(&mut self.connection, sql).await;
    }

    /// A new database with empty tables.
    pub async fn begin(&mut self, name: &str) {
        let sql = format!("DROP DATABASE IF EXISTS `{name}`; CREATE DATABASE `{name}` CHARACTER SET utf8mb4");
        self.run(&sql).await;
        name.clone_into(&mut self.name);
        self.connection = self.connect().await;
        self.run(calls::TABLES).await;
    }

    pub async fn index(&mut self) {
        self.run(calls::INDEXES).await;
    }

    /// Finished calls in a new database. Returns how long it took.
    pub async fn fill(&mut self, name: &str, mut history: History) -> Duration {
        let began = Instant::now();
        self.begin(name).await;
        self.run("SET GLOBAL innodb_flush_log_at_trx_commit = 0").await;
        loop {
            let rows = history.portion(PORTION);
            if rows.is_empty() {
                break;
            }
            self.load(&rows, Table::Cel).await;
            self.load(&rows, Table::Cdr).await;
        }
        self.index().await;
        self.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1; ANALYZE TABLE cel, cdr").await;
        began.elapsed()
    }

    async fn load(&mut self, rows: &[Row], table: Table) {
        let mut text = String::with_capacity(rows.len() * 256);
        for row in rows.iter().filter(|r| r.table == table) {
            text.push_str(&row.line);
            text.push('\n');
        }
        let file = self.directory().join("rows.tsv");
        std::fs::write(&file, text).expect("room for the rows");
        server::own(&file);
        let name = name_of(table);
        let sql = format!(
            "LOAD DATA INFILE '{}' INTO TABLE {name} CHARACTER SET utf8mb4 ({})",
            file.display(),
            calls::columns(table)
        );
        self.run(&sql).await;
        let _ = std::fs::remove_file(&file);
    }

    /// A counter of the server.
    pub async fn status(&mut self, name: &str) -> u64 {
        let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
        let row = self.connection.fetch_one(AssertSqlSafe(sql)).await.expect("a counter");
        row.try_get::<String, _>(1).ok().and_then(|v| v.parse().ok()).unwrap_or_default()
    }

    pub fn cpu(&self) -> Duration {
        process::cpu(self.pid()).unwrap_or_default()
    }

    /// Begins to write down every statement.
    pub async fn log_statements(&mut self) -> PathBuf {
        let file = self.directory().join("statements");
        let sql = format!("SET GLOBAL general_log_file = '{}'; SET GLOBAL general_log = 1", file.display());
        self.run(&sql).await;
        file
    }

    pub async fn end_log(&mut self) {
        self.run("SET GLOBAL general_log = 0").await;
    }

    /// The server's number of the agent's connection.
    pub async fn agents_connection(&mut self) -> Option<u64> {
        let sql = format!(
            "SELECT CAST(id AS UNSIGNED) FROM information_schema.PROCESSLIST WHERE user = '{USER}' ORDER BY id DESC LIMIT 1"
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_optional(&mut self.connection).await.ok().flatten()
    }
}

async fn run(connection: &mut MySqlConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
}

pub const fn name_of(table: Table) -> &'static str {
    match table {
        Table::Cel => "cel",
        Table::Cdr => "cdr",
    }
}

/// An INSERT of these rows of one table; `None`: there are none.
pub fn insert(rows: &[Row], table: Table) -> Option<String> {
    let mut sql = String::new();
    for row in rows.iter().filter(|r| r.table == table) {
        let _ = match sql.is_empty() {
            true => write!(sql, "INSERT INTO {} ({}) VALUES ", name_of(table), calls::columns(table)),
            false => write!(sql, ", "),
        };
        let values: Vec<String> = row.line.split('\t').map(|v| format!("'{v}'")).collect();
        let _ = write!(sql, "({})", values.join(","));
    }
    (!sql.is_empty()).then_some(sql)
}

/// How many statements each poll of this connection took: what the server wrote down, cut at each question for the time.
pub fn statements_per_poll(log: &Path, connection: u64) -> Vec<usize> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut polls: Vec<usize> = Vec::new();
    for line in text.lines() {
        // [time] <tab> connection and command <tab> statement
        let Some((before, statement)) = line.rsplit_once('\t') else { continue };
        let mut words = before.split_whitespace().rev();
        let (Some(command), Some(number)) = (words.next(), words.next()) else { continue };
        if number != connection.to_string() || !matches!(command, "Execute" | "Query") {
            continue;
        }
        if statement.contains("NOW") || statement.contains("UTC_TIMESTAMP") {
            polls.push(0);
        }
        if let Some(poll) = polls.last_mut() {
            *poll += 1;
        }
    }
    // the first and the last may be cut
    let ends = polls.len().saturating_sub(1);
    polls.get(1.min(ends)..ends).unwrap_or_default().to_vec()
}
