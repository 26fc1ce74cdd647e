//! One connection to PostgreSQL or MySQL/MariaDB. Everything goes in and comes out as text: columns differ from one
//! schema to the next, and the server knows best how to read a text as its own type.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};

use super::error::{Error, Kind, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    PostgreSql,
    MySql,
}

impl Engine {
    /// An identifier of the catalogue, quoted.
    pub fn quote(self, name: &str) -> String {
        match self {
            Self::PostgreSql => format!("\"{}\"", name.replace('"', "\"\"")),
            Self::MySql => format!("`{}`", name.replace('`', "``")),
        }
    }

    /// `schema.table`, each part quoted.
    pub fn quote_path(self, name: &str) -> String {
        name.split('.').map(|p| self.quote(p)).collect::<Vec<_>>().join(".")
    }

    pub fn placeholder(self, n: usize) -> String {
        match self {
            Self::PostgreSql => format!("${n}::text"),
            Self::MySql => "?".to_owned(),
        }
    }
}

pub enum Db {
    Pg(Box<PgConnection>),
    My(Box<MySqlConnection>),
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any transaction of ours, shorter than a person's patience.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

impl Db {
    /// Connects to `postgresql://user:password@host:port/database` or `mysql://…`, also in the spelling of SQLAlchemy
    /// (`postgresql+asyncpg://`). Messages never hold the password.
    pub async fn connect(dsn: &SecretString) -> Result<Self> {
        let text = dsn.expose_secret();
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| bad_dsn("is not an address such as postgresql://user@host/database"))?;
        if password_spills(rest) {
            return Err(bad_dsn(DSN_HINT));
        }
        let (connected, place) = match scheme.split('+').next().unwrap_or_default() {
            "postgres" | "postgresql" => {
                let options = PgConnectOptions::from_str(&format!("postgresql://{rest}"))
                    .map_err(|_| bad_dsn(DSN_HINT))?
                    .application_name("callferry provision")
                    .disable_statement_logging();
                let place = place(options.get_host(), options.get_port(), options.get_socket());
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
                (connected.map(|c| c.map(|c| Self::Pg(Box::new(c)))), place)
            }
            "mysql" | "mariadb" => {
                let options = MySqlConnectOptions::from_str(&format!("mysql://{rest}"))
                    .map_err(|_| bad_dsn(DSN_HINT))?
                    .disable_statement_logging();
                let place = place(options.get_host(), options.get_port(), options.get_socket());
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await;
                (connected.map(|c| c.map(|c| Self::My(Box::new(c)))), place)
            }
            _ => return Err(bad_dsn("begins with neither postgresql:// nor mysql://")),
        };
        let connected = connected.map_err(|_| {
            Error::database(format!(
                "no connection to the database of PROVISION_DSN at {place} within {CONNECT_TIMEOUT:?}; {REACH_HINT}"
            ))
        })?;
        let mut db = connected.map_err(|e| {
            let failed = format!("cannot connect to the database of PROVISION_DSN at {place}");
            match e {
                sqlx::Error::Io(e) => Error::database(format!("{failed}: {e}; {REACH_HINT}")),
                e => {
                    let e = Error::from(&e);
                    Error { message: format!("{failed}: {}", e.message), ..e }
                }
            }
        })?;
        if let Self::My(_) = db {
            // without strict mode a value too long is cut and an unknown enum label becomes '', each with a warning only
            db.raw("SET SESSION sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'").await?;
        }
        Ok(db)
    }

    pub const fn engine(&self) -> Engine {
        match self {
            Self::Pg(_) => Engine::PostgreSql,
            Self::My(_) => Engine::MySql,
        }
    }

    /// Rows of a query whose columns are all text.
    pub async fn texts(&mut self, sql: &str, binds: &[String]) -> Result<Vec<Vec<Option<String>>>> {
        let sql = AssertSqlSafe(sql.to_owned());
        let run = async {
            macro_rules! fetch {
                ($conn:expr) => {{
                    let mut query = sqlx::query(sql);
                    for bind in binds {
                        query = query.bind(bind);
                    }
                    let rows = query.fetch_all(&mut **$conn).await?;
                    rows.iter().map(|r| (0..r.len()).map(|i| r.try_get::<Option<String>, _>(i)).collect()).collect()
                }};
            }
            match self {
                Self::Pg(conn) => fetch!(conn),
                Self::My(conn) => fetch!(conn),
            }
        };
        timed(run).await
    }

    /// Rows touched. `None` binds NULL.
    pub async fn execute(&mut self, sql: &str, binds: &[Option<String>]) -> Result<u64> {
        let sql = AssertSqlSafe(sql.to_owned());
        let run = async {
            macro_rules! execute {
                ($conn:expr) => {{
                    let mut query = sqlx::query(sql);
                    for bind in binds {
                        query = query.bind(bind);
                    }
                    Ok(query.execute(&mut **$conn).await?.rows_affected())
                }};
            }
            match self {
                Self::Pg(conn) => execute!(conn),
                Self::My(conn) => execute!(conn),
            }
        };
        timed(run).await
    }

    /// A statement without parameters, outside the prepared protocol (MySQL prepares neither SET nor BEGIN).
    pub async fn raw(&mut self, sql: &str) -> Result<()> {
        let sql = AssertSqlSafe(sql.to_owned());
        let run = async {
            match self {
                Self::Pg(conn) => sqlx::raw_sql(sql).execute(&mut **conn).await.map(|_| ()),
                Self::My(conn) => sqlx::raw_sql(sql).execute(&mut **conn).await.map(|_| ()),
            }
        };
        timed(run).await
    }

    pub async fn close(self) {
        let _ = match self {
            Self::Pg(conn) => conn.close().await,
            Self::My(conn) => conn.close().await,
        };
    }
}

const DSN_HINT: &str = "cannot be read; it is written postgresql://user:password@host:port/database, with characters \
such as @ / # in the password percent-encoded";

const REACH_HINT: &str = "check host and port in PROVISION_DSN, that the server listens there (PostgreSQL: \
listen_addresses, MySQL and MariaDB: bind-address), and the firewall";

/// `127.0.0.1:5432`, for people; nothing else of the address.
fn place(host: &str, port: u16, socket: Option<&PathBuf>) -> String {
    match socket {
        Some(socket) => format!("the socket {}", socket.display().to_string().escape_debug()),
        None => format!("{}:{port}", host.escape_debug()),
    }
}

/// A `/`, `?` or `#` that stands in a password as it is ends the host before the `@` that ends the password: what is read
/// as host and port then is of the credentials.
fn password_spills(rest: &str) -> bool {
    rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@'))
}

fn bad_dsn(problem: &str) -> Error {
    Error::input(format!("PROVISION_DSN {problem}"))
}

async fn timed<T>(run: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, run).await {
        Ok(done) => done.map_err(|e| Error::from(&e)),
        Err(_) => Err(Error::database(format!("the database did not answer within {STATEMENT_TIMEOUT:?}"))),
    }
}

impl From<&sqlx::Error> for Error {
    fn from(error: &sqlx::Error) -> Self {
        let Some(db) = error.as_database_error() else {
            return Self::database(error.to_string());
        };
        let code = match db.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>() {
            Some(my) => my.number().to_string(),
            None => db.code().unwrap_or_default().into_owned(),
        };
        let (kind, hint, retry) = classify(&code);
        // the server names column and type; for text a charset cannot hold it also prints the text, which may be secret
        let said = match code.as_str() {
            "1366" => db.message().split_once(" for column ").map_or("", |(_, column)| column).to_owned(),
            _ => db.message().to_owned(),
        };
        Self { kind, place: None, message: format!("{hint}: {said} ({code})"), retry }
    }
}

/// What an SQLSTATE or a MySQL error number means here.
fn classify(code: &str) -> (Kind, &'static str, bool) {
    match code {
        "42P01" | "1146" => (Kind::Schema, "a table is missing", false),
        "42703" | "1054" => (Kind::Schema, "a column is missing", false),
        "42501" | "1142" | "1143" | "1044" | "1370" => {
            (Kind::Schema, "the user of PROVISION_DSN lacks a privilege; grant it", false)
        }
        "23502" | "1364" | "1048" => (Kind::Schema, "a column needs a value that is not known", false),
        "42804" => (Kind::Schema, "a column is of another type", false),
        "22001" | "1406" => (Kind::Input, "a value is too long", false),
        "22P02" | "1265" | "1366" | "22003" | "1264" => (Kind::Input, "a value does not suit its column", false),
        "23514" | "4025" => (Kind::Input, "a value is refused by a check of its table", false),
        "23505" | "1062" => (Kind::Database, "another row with this key stands already", true),
        "40001" | "40P01" | "1213" | "1205" => (Kind::Database, "another transaction stood in the way", true),
        "28P01" | "28000" | "1045" => (Kind::Database, "the database refused user or password of PROVISION_DSN", false),
        "3D000" | "1049" => (Kind::Database, "the database does not exist", false),
        _ => (Kind::Database, "the database refused", false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn said(dsn: &str) -> Error {
        Db::connect(&dsn.to_owned().into()).await.err().expect("nobody listens there")
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_named() {
        for (dsn, at) in [
            ("postgresql://us3r:sEcReT%40x@127.0.0.1:1/d", " at 127.0.0.1:1: "),
            ("mysql://us3r:sEcReT@127.0.0.1:1/d", " at 127.0.0.1:1: "),
            ("postgresql+asyncpg://us3r:sEcReT@localhost/d?host=/nowhere", " at the socket /nowhere"),
            ("mysql://us3r:sEcReT@localhost/d?socket=/nowhere/s", " at the socket /nowhere/s: "),
        ] {
            let e = said(dsn).await;
            assert!(e.kind == Kind::Database && e.message.contains(at) && e.message.contains(REACH_HINT), "{e}");
            assert!(!e.message.contains("sEcReT") && !e.message.contains("us3r"), "{e}");
        }
    }

    /// Characters of a password that end the host: what follows is no address to connect to, or to print.
    #[tokio::test]
    async fn a_password_in_place_of_a_host_is_not_shown() {
        for dsn in ["us3r:12/sEcReT@h/d", "us3r:12#sEcReT@h/d", "us3r:12?sEcReT@h/d", "us3r:s@sEcReT/x@h:5/d"] {
            for scheme in ["postgresql", "mysql"] {
                let e = said(&format!("{scheme}://{dsn}")).await;
                assert!(e.kind == Kind::Input && e.message.contains("percent-encoded"), "{e}");
                assert!(!e.message.contains("sEcReT") && !e.message.contains("us3r"), "{e}");
            }
        }
    }
}
