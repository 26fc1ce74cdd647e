//! PostgreSQL, over sqlx. Sessions are read only.

use chrono::{DateTime, NaiveDateTime, Utc};
use compact_str::CompactString;
use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgRow, PgSslMode, PgValueRef};
use sqlx::{AssertSqlSafe, ConnectOptions, Decode, Executor, PgConnection, Row, TypeInfo, ValueRef};

use super::backend::{Backend, Cell, ColumnInfo, Description, IndexInfo, Param, Rows, TableName, server};
use super::driver;
use super::engine::Engine;
use crate::config::{DatabaseConfig, TlsMode};
use crate::source::SourceError;

/// PostgreSQL counts from 2000-01-01; microseconds from 1970 to then.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

pub struct PostgresBackend {
    config: DatabaseConfig,
    connection: Option<PgConnection>,
}

impl PostgresBackend {
    pub fn new(config: &DatabaseConfig) -> Self {
        Self { config: config.clone(), connection: None }
    }

    fn options(&self) -> PgConnectOptions {
        let c = &self.config;
        let mut options = PgConnectOptions::new_without_pgpass()
            .username(&c.user)
            .database(&c.name)
            .port(c.port)
            .application_name("callferry")
            .statement_cache_capacity(64)
            .ssl_mode(match c.tls {
                TlsMode::Off => PgSslMode::Disable,
                TlsMode::Prefer => PgSslMode::Prefer,
                TlsMode::Require => PgSslMode::Require,
                TlsMode::Verify => PgSslMode::VerifyFull,
            })
            .disable_statement_logging();
        options = match &c.socket {
            Some(socket) => options.socket(socket),
            None => options.host(&c.host),
        };
        if let Some(password) = &c.password {
            options = options.password(password.expose_secret());
        }
        if let Some(ca) = &c.certificates.ca {
            options = options.ssl_root_cert_from_pem(ca.pem.clone());
        }
        if let Some(client) = &c.certificates.client {
            options = options
                .ssl_client_cert_from_pem(&client.certificate.pem)
                .ssl_client_key_from_pem(client.key.expose_secret().as_bytes());
        }
        options
    }

    async fn open(&self) -> Result<PgConnection, SourceError> {
        let work = async {
            let mut connection = self.options().connect().await?;
            // not as start-up options, which connection poolers refuse
            connection.execute("SET default_transaction_read_only = on; SET TIME ZONE 'UTC'").await?;
            // the server breaks off what takes longer
            let limit = format!("SET statement_timeout = {}", self.config.timeout.as_millis());
            connection.execute(AssertSqlSafe(limit)).await?;
            Ok(connection)
        };
        match tokio::time::timeout(self.config.timeout, work).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(e)) => Err(self.error(&e, None)),
            Err(_) => Err(driver::no_connection(&self.config)),
        }
    }

    /// What an error of the driver means to an admin.
    fn error(&self, e: &sqlx::Error, table: Option<&TableName>) -> SourceError {
        let c = &self.config;
        let at = server(c);
        match e {
            sqlx::Error::Database(db) => {
                let code = db.try_downcast_ref::<PgDatabaseError>().map_or("", PgDatabaseError::code);
                let said = db.message();
                match code {
                    "28P01" => SourceError::Setup(format!(
                        "the database at {at} refuses user {}: {said}. Check DB_USER and DB_PASSWORD",
                        c.user
                    )),
                    "28000" => SourceError::Setup(format!(
                        "the database at {at} refuses user {}: {said}. Check DB_USER, DB_TLS and the server's pg_hba.conf",
                        c.user
                    )),
                    "3D000" => {
                        SourceError::Setup(format!("there is no database {} at {at}: {said}. Check DB_NAME", c.name))
                    }
                    "42501" => match table {
                        Some(t) => {
                            let schema = t.schema.as_deref().unwrap_or("public");
                            SourceError::Setup(format!(
                                "user {} may not read table {t} ({}): {said}. Run: GRANT USAGE ON SCHEMA \"{schema}\" TO \
                                 \"{}\"; GRANT SELECT ON {} TO \"{}\"",
                                c.user,
                                t.variable,
                                c.user,
                                t.quoted(Engine::PostgreSql),
                                c.user
                            ))
                        }
                        None => SourceError::Setup(format!(
                            "user {} lacks a privilege in database {} at {at}: {said}",
                            c.user, c.name
                        )),
                    },
                    "42P01" | "3F000" => match table {
                        Some(t) => SourceError::Setup(format!(
                            "there is no table {t} in database {} at {at}: {said}. Check {} and DB_NAME; capital letters \
                             count",
                            c.name, t.variable
                        )),
                        None => SourceError::Transient(format!("a table has gone: {said}")),
                    },
                    "57014" => driver::no_answer(c),
                    _ => SourceError::Transient(format!("the database at {at} answered {code}: {said}")),
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
                    Param::Wall(micros) => query.bind(naive(*micros)),
                    Param::Utc(micros) => query.bind(naive(*micros).and_utc()),
                };
            }
            let mut rows = Rows::default();
            {
                let mut stream = query.fetch(&mut connection);
                while let Some(row) = stream.try_next().await? {
                    rows.push(cells(&row));
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

impl Backend for PostgresBackend {
    fn engine(&self) -> Engine {
        Engine::PostgreSql
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
            let quoted = table.quoted(Engine::PostgreSql);
            // says precisely what is wrong: no such table, or no privilege
            self.run(&format!("SELECT 1 FROM {quoted} LIMIT 0"), &[], Some(table)).await?;
            let of_table = [Param::Text(quoted)];
            let mut description = Description { id_cache: 1, ..Description::default() };

            // catalogues rather than information_schema: readable by everyone, in one go
            let sql = "SELECT a.attname, format_type(a.atttypid, NULL), (a.attidentity <> '' OR \
                       coalesce(pg_get_expr(d.adbin, d.adrelid), '') LIKE 'nextval(%')::int \
                       FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
                       WHERE a.attrelid = $1::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
            for row in self.run(sql, &of_table, Some(table)).await?.iter() {
                description.columns.push(ColumnInfo {
                    name: row[0].text().into(),
                    kind: row[1].text().into(),
                    auto: row[2].int() == Some(1),
                });
            }

            let sql = "SELECT i.indexrelid::bigint, i.indisunique::int, a.attname FROM pg_index i \
                       JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, place) ON true \
                       JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
                       WHERE i.indrelid = $1::regclass AND i.indisvalid AND i.indpred IS NULL \
                       ORDER BY i.indexrelid, k.place";
            let mut last = None;
            for row in self.run(sql, &of_table, Some(table)).await?.iter() {
                let index = row[0].int();
                if last != Some(index) {
                    description.indexes.push(IndexInfo { columns: Vec::new(), unique: row[1].int() == Some(1) });
                    last = Some(index);
                }
                if let Some(index) = description.indexes.last_mut() {
                    index.columns.push(row[2].text().into());
                }
            }

            let sql = "SELECT c.relkind::text, coalesce(max(s.seqcache), 1) FROM pg_class c \
                       LEFT JOIN pg_depend d ON d.refobjid = c.oid AND d.deptype IN ('a', 'i') \
                       LEFT JOIN pg_sequence s ON s.seqrelid = d.objid \
                       WHERE c.oid = $1::regclass GROUP BY c.relkind";
            if let Some(row) = self.run(sql, &of_table, Some(table)).await?.first() {
                description.is_view = matches!(row[0].text().as_str(), "v" | "m" | "f");
                description.id_cache = row[1].int().unwrap_or(1);
            }
            Ok(description)
        })
    }

    fn select<'a>(&'a mut self, sql: &'a str, params: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>> {
        Box::pin(self.run(sql, params, None))
    }
}

fn naive(micros: i64) -> NaiveDateTime {
    let t: DateTime<Utc> = DateTime::from_timestamp_micros(micros).unwrap_or_default();
    t.naive_utc()
}

fn cells(row: &PgRow) -> impl Iterator<Item = Cell> + '_ {
    (0..row.len()).map(|i| row.try_get_raw(i).map_or(Cell::Null, cell))
}

fn cell(value: PgValueRef<'_>) -> Cell {
    if value.is_null() {
        return Cell::Null;
    }
    let info = value.type_info().into_owned();
    // the number itself: chrono would not survive 'infinity'
    let micros = |value| {
        let since_2000 = <i64 as Decode<sqlx::Postgres>>::decode(value).ok()?;
        since_2000.checked_add(EPOCH_MICROS)
    };
    match info.name() {
        "INT2" | "INT4" | "INT8" => <i64 as Decode<sqlx::Postgres>>::decode(value).map_or(Cell::Null, Cell::Int),
        "FLOAT4" => <f32 as Decode<sqlx::Postgres>>::decode(value).map_or(Cell::Null, |f| Cell::Float(f64::from(f))),
        "FLOAT8" => <f64 as Decode<sqlx::Postgres>>::decode(value).map_or(Cell::Null, Cell::Float),
        "TIMESTAMP" => micros(value).map_or(Cell::Null, Cell::Wall),
        "TIMESTAMPTZ" => micros(value).map_or(Cell::Null, Cell::Utc),
        _ => value.as_bytes().map_or(Cell::Null, |bytes| Cell::Text(CompactString::from_utf8_lossy(bytes))),
    }
}
