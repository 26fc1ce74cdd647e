//! A private PostgreSQL.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use callferry::config::DatabaseKind;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Executor, PgConnection};
use tokio::sync::OnceCell;

use super::database::{Place, TestDatabase};
use super::server::{self, Process};

pub struct Postgres {
    directory: tempfile::TempDir,
    process: Process,
    /// Part of the socket's name.
    port: u16,
}

static SHARED: OnceCell<Option<Postgres>> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The server all tests of this process share; `None`: there is none on this machine.
pub async fn shared() -> Option<&'static Postgres> {
    SHARED.get_or_init(Postgres::private).await.as_ref()
}

/// A new database on the shared server.
pub async fn database() -> Option<TestDatabase> {
    Some(shared().await?.database().await)
}

/// Debian keeps the server's programs out of the way, by version.
fn binaries() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok().map(|e| e.path().join("bin")))
        .collect();
    found.sort();
    found.reverse();
    found
}

impl Postgres {
    /// A server that only one test uses, to be killed at will.
    pub async fn private() -> Option<Self> {
        Self::with(|_| Vec::new()).await
    }

    /// The same over TCP and TLS. Returns the port, and the file with the certificate authority.
    pub async fn with_tls() -> Option<(Self, u16, PathBuf)> {
        let port = server::free_port();
        let server = Self::with(|dir| {
            let tls = server::certificates(dir);
            let file = |name: &str| tls.join(name).display().to_string();
            let settings = [
                "listen_addresses=127.0.0.1".to_owned(),
                format!("port={port}"),
                "ssl=on".to_owned(),
                format!("ssl_cert_file={}", file("server.pem")),
                format!("ssl_key_file={}", file("server.key")),
            ];
            settings.into_iter().flat_map(|s| ["-c".to_owned(), s]).collect()
        });
        let mut server = server.await?;
        server.port = port;
        server.ready().await;
        let ca = server.directory.path().join("tls/ca.pem");
        Some((server, port, ca))
    }

    async fn with(more: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let (Some(initdb), Some(postgres)) =
            (server::program("initdb", &binaries()), server::program("postgres", &binaries()))
        else {
            server::missing("PostgreSQL", "postgresql");
            return None;
        };
        let directory = server::directory("p");
        let data = directory.path().join("data");
        let mut command = server::command(&initdb);
        command
            .args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "-D"])
            .arg(&data);
        server::run(command);
        // this one user has to show a password
        let hba = "local all pw_user scram-sha-256\nlocal all all trust\nhostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");
        let dir = directory.path().to_owned();
        let more = more(&dir);
        let tcp = more.iter().any(|setting| setting.starts_with("port="));
        let process = Process::start(move || {
            let mut command = server::command(&postgres);
            command
                .arg("-D")
                .arg(&data)
                .arg("-k")
                .arg(&dir)
                .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "shared_buffers=16MB"])
                .args(["-c", "timezone=Asia/Kolkata", "-c", "logging_collector=off", "-c", "max_connections=100"])
                .args(&more)
                .stderr(std::fs::File::create(dir.join("log")).expect("a log file"));
            command
        });
        let server = Self { directory, process, port: 5432 };
        if !tcp {
            server.ready().await;
        }
        Some(server)
    }

    async fn ready(&self) {
        server::until_ready("PostgreSQL", || async { self.connect("postgres").await.map(|_| ()) }).await;
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub fn kill(&self) {
        self.process.kill();
    }

    pub async fn restart(&self) {
        // the lock file names a process that is gone
        self.process.restart();
        self.ready().await;
    }

    pub async fn connect(&self, database: &str) -> Result<PgConnection, String> {
        PgConnectOptions::new_without_pgpass()
            .socket(self.socket())
            .port(self.port)
            .username("postgres")
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .connect()
            .await
            .map_err(|e| e.to_string())
    }

    pub async fn database(&self) -> TestDatabase {
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("postgres").await.expect("PostgreSQL answers");
        let sql = format!("CREATE DATABASE \"{name}\" TEMPLATE template0");
        connection.execute(sqlx::AssertSqlSafe(sql)).await.expect("a new database");
        let connection = self.connect(&name).await.expect("PostgreSQL answers");
        let place =
            Place { kind: DatabaseKind::PostgreSql, socket: Some(self.socket()), name, user: "postgres".to_owned() };
        TestDatabase::postgres(place, connection)
    }
}
