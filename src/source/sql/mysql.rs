//! MariaDB and MySQL, over sqlx. The session is read only and in UTC, so that TIMESTAMP columns arrive as moments.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use compact_str::CompactString;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use sqlx::mysql::{MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlSslMode, MySqlTypeInfo, MySqlValueRef};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Decode, Executor, MySqlConnection, Row, TypeInfo, ValueRef};

use super::backend::{Backend, Cell, ColumnInfo, Description, IndexInfo, Param, Rows, TableName, server};
use super::driver;
use super::engine::Engine;
use crate::config::{DatabaseConfig, TlsMode};
use crate::source::SourceError;

/// Accounts are a name and a host; only an administrator sees which host this one has.
const ACCOUNT_HOST: &str = "with the account's host in mysql.user in place of %";

pub struct MySqlBackend {
    config: DatabaseConfig,
    connection: Option<MySqlConnection>,
}

impl MySqlBackend {
    pub fn new(config: &DatabaseConfig) -> Self {
        Self { config: config.clone(), connection: None }
    }

    fn options(&self) -> MySqlConnectOptions {
        let c = &self.config;
        let mut options = MySqlConnectOptions::new()
            .username(&c.user)
            .database(&c.name)
            .statement_cache_capacity(64)
            // 'utf8mb4' and '+00:00' are sqlx's own defaults; the second is what TIMESTAMP columns depend on
            .timezone(Some("+00:00".to_owned()))
            .ssl_mode(match c.tls {
                TlsMode::Off => MySqlSslMode::Disabled,
                TlsMode::Prefer => MySqlSslMode::Preferred,
                TlsMode::Require => MySqlSslMode::Required,
                TlsMode::Verify => MySqlSslMode::VerifyIdentity,
            })
            .disable_statement_logging();
        options = match &c.socket {
            // a socket is local: encryption is asked for only where the setting demands it
            Some(socket) => {
                let options = options.socket(socket);
                if c.tls == TlsMode::Prefer { options.ssl_mode(MySqlSslMode::Disabled) } else { options }
            }
            None => options.host(&c.host).port(c.port),
        };
        if let Some(password) = &c.password {
            options = options.password(password.expose_secret());
        }
        if let Some(ca) = &c.certificates.ca {
            options = options.ssl_ca_from_pem(ca.pem.clone());
        }
        if let Some(client) = &c.certificates.client {
            options = options
                .ssl_client_cert_from_pem(&client.certificate.pem)
                .ssl_client_key_from_pem(client.key.expose_secret().as_bytes());
        }
        options
    }

    async fn open(&self) -> Result<MySqlConnection, SourceError> {
        let limit = self.config.timeout;
        let work = async {
            let mut connection = self.options().connect().await?;
            connection.execute("SET SESSION TRANSACTION READ ONLY").await?;
            limit_statements(&mut connection, limit).await?;
            Ok(connection)
        };
        match tokio::time::timeout(limit, work).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(e)) => Err(self.error(&e, None)),
            Err(_) => Err(driver::no_connection(&self.config)),
        }
    }

    /// What an error of the driver means to an admin.
    fn error(&self, e: &sqlx::Error, table: Option<&TableName>) -> SourceError {
        let c = &self.config;
        let at = server(c);
        let grant = |t: &TableName| {
            let schema = t.schema.as_deref().unwrap_or(&c.name);
            format!("GRANT SELECT ON `{schema}`.`{}` TO '{}'@'%' ({ACCOUNT_HOST})", t.name, c.user)
        };
        match e {
            sqlx::Error::Database(db) => {
                let number = db.try_downcast_ref::<MySqlDatabaseError>().map_or(0, MySqlDatabaseError::number);
                let said = db.message();
                match number {
                    1045 | 1698 => SourceError::Setup(format!(
                        "the database at {at} refuses user {}: {said}. Check DB_USER and DB_PASSWORD",
                        c.user
                    )),
                    1044 => SourceError::Setup(format!(
                        "user {} may not use database {} at {at}: {said}. Check DB_NAME, or: GRANT SELECT ON `{}`.* TO \
                         '{}'@'%' ({ACCOUNT_HOST})",
                        c.user, c.name, c.name, c.user
                    )),
                    1049 => SourceError::Setup(format!(
                        "there is no database {} at {at}: {said}. Check DB_NAME",
                        table.and_then(|t| t.schema.as_deref()).unwrap_or(&c.name)
                    )),
                    1130 => SourceError::Setup(format!(
                        "the database at {at} takes no connections from this machine: {said}. Create the user for this \
                         host: CREATE USER '{}'@'<this host>' …",
                        c.user
                    )),
                    1142 | 1143 => match table {
                        Some(t) => SourceError::Setup(format!(
                            "user {0} may not read table {t} ({1}), or it does not exist: {said}. Check {1}, or run: {2}",
                            c.user,
                            t.variable,
                            grant(t)
                        )),
                        None => SourceError::Setup(format!("user {} lacks a privilege: {said}", c.user)),
                    },
                    1146 => match table {
                        Some(t) => SourceError::Setup(format!(
                            "there is no table {t} in database {} at {at}: {said}. Check {} and DB_NAME",
                            c.name, t.variable
                        )),
                        None => SourceError::Transient(format!("a table has gone: {said}")),
                    },
                    // broken off as asked for: MariaDB, MySQL
                    1969 | 3024 => driver::no_answer(c),
                    // an account that has to change its password, or lacks its plugin, will not get better
                    1820 | 1862 | 1251 | 1524 => {
                        SourceError::Setup(format!("the database at {at} refuses user {}: {said}", c.user))
                    }
                    _ => SourceError::Transient(format!("the database at {at} answered {number}: {said}")),
                }
            }
            other => driver::error(c, other),
        }
    }

    async fn run(&mut self, sql: &str, params: &[Param], table: Option<&TableName>) -> Result<Rows, SourceError> {
        // taken out, and put back only when the answer was read to its end
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.open().await?,
        };
        let work = async {
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for param in params {
                query = match param {
                    Param::Int(i) => query.bind(*i),
                    Param::Text(s) => query.bind(s.as_str()),
                    Param::Wall(micros) | Param::Utc(micros) => query.bind(naive(*micros)),
                };
            }
            let mut rows = Rows::default();
            {
                let mut kinds = Vec::new();
                let mut stream = query.fetch(&mut connection);
                while let Some(row) = stream.try_next().await? {
                    if kinds.len() != row.len() {
                        kinds = row.columns().iter().map(|c| Kind::of(c.type_info())).collect();
                    }
                    rows.push(cells(&row, &kinds));
                }
            }
            Ok::<_, sqlx::Error>((connection, rows))
        };
        match tokio::time::timeout(driver::patience(&self.config), work).await {
            Ok(Ok((connection, rows))) => {
                self.connection = Some(connection);
                Ok(rows)
            }
            Ok(Err(e)) => Err(self.error(&e, table)),
            Err(_) => Err(driver::no_answer(&self.config)),
        }
    }
}

impl Backend for MySqlBackend {
    fn engine(&self) -> Engine {
        Engine::MySql
    }

    fn connect(&mut self) -> BoxFuture<'_, Result<bool, SourceError>> {
        Box::pin(async move {
            if self.connection.is_some() {
                return Ok(false);
            }
            self.connection = Some(self.open().await?);
            Ok(true)
        })
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    fn describe<'a>(&'a mut self, table: &'a TableName) -> BoxFuture<'a, Result<Description, SourceError>> {
        Box::pin(async move {
            // says precisely what is wrong, which information_schema does not
            let probe = format!("SELECT 1 FROM {} LIMIT 0", table.quoted(Engine::MySql));
            self.run(&probe, &[], Some(table)).await?;

            let schema = match &table.schema {
                Some(schema) => literal(schema),
                None => "DATABASE()".to_owned(),
            };
            let name = [Param::Text(table.name.clone())];
            let of_table = format!("TABLE_SCHEMA = {schema} AND TABLE_NAME = ?");
            let mut description = Description { id_cache: 1, ..Description::default() };

            let sql = format!(
                "SELECT COLUMN_NAME, DATA_TYPE, EXTRA FROM information_schema.COLUMNS WHERE {of_table} ORDER BY \
                 ORDINAL_POSITION"
            );
            for row in self.run(&sql, &name, Some(table)).await?.iter() {
                description.columns.push(ColumnInfo {
                    name: row[0].text().into(),
                    kind: row[1].text().to_lowercase().into(),
                    auto: row[2].text().to_lowercase().contains("auto_increment"),
                });
            }

            let sql = format!(
                "SELECT INDEX_NAME, NON_UNIQUE, COLUMN_NAME FROM information_schema.STATISTICS WHERE {of_table} ORDER BY \
                 INDEX_NAME, SEQ_IN_INDEX"
            );
            let mut last = None;
            for row in self.run(&sql, &name, Some(table)).await?.iter() {
                let index = row[0].text();
                if last.as_ref() != Some(&index) {
                    description.indexes.push(IndexInfo { columns: Vec::new(), unique: row[1].int() == Some(0) });
                    last = Some(index);
                }
                if let Some(index) = description.indexes.last_mut() {
                    index.columns.push(row[2].text().into());
                }
            }

            let sql = format!("SELECT TABLE_TYPE FROM information_schema.TABLES WHERE {of_table}");
            let kind = self.run(&sql, &name, Some(table)).await?.first().map(|row| row[0].text());
            description.is_view = kind.is_some_and(|k| k.to_uppercase().contains("VIEW"));
            Ok(description)
        })
    }

    fn select<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(self.run(sql, params, None))
    }
}

/// Has the server break off what takes longer. MariaDB and MySQL have different variables for it, old servers none.
async fn limit_statements(connection: &mut MySqlConnection, limit: Duration) -> Result<(), sqlx::Error> {
    let mariadb = format!("SET SESSION max_statement_time = {}", limit.as_secs_f64());
    let mysql = format!("SET SESSION max_execution_time = {}", limit.as_millis());
    for sql in [mariadb, mysql] {
        match connection.execute(AssertSqlSafe(sql)).await {
            Err(sqlx::Error::Database(_)) => {}
            done => return done.map(|_| ()),
        }
    }
    Ok(())
}

/// A schema's name as a string literal; its characters were checked when the setting was read.
fn literal(name: &str) -> String {
    format!("'{}'", name.replace(['\'', '\\'], ""))
}

fn naive(micros: i64) -> NaiveDateTime {
    DateTime::from_timestamp_micros(micros).unwrap_or_default().naive_utc()
}

/// How a column's values are read: the same for every row of an answer.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Int,
    Unsigned,
    Float,
    Wall,
    Utc,
    Text,
}

impl Kind {
    fn of(info: &MySqlTypeInfo) -> Self {
        match info.name() {
            "BOOLEAN" | "TINYINT" | "SMALLINT" | "INT" | "MEDIUMINT" | "BIGINT" => Self::Int,
            name if name.ends_with("UNSIGNED") => Self::Unsigned,
            "FLOAT" | "DOUBLE" => Self::Float,
            "DATETIME" | "DATE" => Self::Wall,
            "TIMESTAMP" => Self::Utc,
            _ => Self::Text,
        }
    }
}

fn cells(row: &MySqlRow, kinds: &[Kind]) -> impl Iterator<Item = Cell> {
    kinds.iter().enumerate().map(|(i, kind)| row.try_get_raw(i).map_or(Cell::Null, |value| cell(value, *kind)))
}

fn cell(value: MySqlValueRef<'_>, kind: Kind) -> Cell {
    if value.is_null() {
        return Cell::Null;
    }
    match kind {
        Kind::Int => <i64 as Decode<sqlx::MySql>>::decode(value).map_or(Cell::Null, Cell::Int),
        Kind::Unsigned => <u64 as Decode<sqlx::MySql>>::decode(value)
            .map_or(Cell::Null, |u| Cell::Int(i64::try_from(u).unwrap_or(i64::MAX))),
        Kind::Float => <f64 as Decode<sqlx::MySql>>::decode(value).map_or(Cell::Null, Cell::Float),
        // an impossible date (2026-00-00) is an unknown one
        Kind::Wall => micros(value).map_or(Cell::Null, Cell::Wall),
        Kind::Utc => micros(value).map_or(Cell::Null, Cell::Utc),
        Kind::Text => <&[u8] as Decode<sqlx::MySql>>::decode(value).map_or(Cell::Null, |bytes| {
            // nearly all of it is UTF-8, which is told much faster than it is mended
            let text = std::str::from_utf8(bytes);
            Cell::Text(text.map_or_else(|_| CompactString::from_utf8_lossy(bytes), CompactString::new))
        }),
    }
}

fn micros(value: MySqlValueRef<'_>) -> Option<i64> {
    <NaiveDateTime as Decode<sqlx::MySql>>::decode(value).ok().map(|t| t.and_utc().timestamp_micros())
}
