//! A private MariaDB (or MySQL): the data directory is prepared once and copied for each server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use callferry::config::DatabaseKind;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::{ConnectOptions, Executor, MySqlConnection};
use tokio::sync::OnceCell;

use super::database::{Place, TestDatabase};
use super::server::{self, Process};

pub struct MariaDb {
    directory: tempfile::TempDir,
    process: Process,
}

static SHARED: OnceCell<Option<MariaDb>> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The server all tests of this process share; `None`: there is none on this machine.
pub async fn shared() -> Option<&'static MariaDb> {
    SHARED.get_or_init(MariaDb::private).await.as_ref()
}

/// A new database on the shared server.
pub async fn database() -> Option<TestDatabase> {
    Some(shared().await?.database().await)
}

impl MariaDb {
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
            vec![
                "--skip-networking=0".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--port={port}"),
                format!("--ssl-cert={}", file("server.pem")),
                format!("--ssl-key={}", file("server.key")),
            ]
        });
        let server = server.await?;
        let ca = server.directory.path().join("tls/ca.pem");
        Some((server, port, ca))
    }

    /// With settings of its own, which win over those tests have; `more` is given the server's directory.
    pub async fn with(more: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        let Some(mariadbd) = server::program("mariadbd", &[]).or_else(|| server::program("mysqld", &[])) else {
            server::missing("MariaDB", "mariadb-server");
            return None;
        };
        let Some(install) = server::program("mariadb-install-db", &[]) else {
            server::missing("mariadb-install-db", "mariadb-server");
            return None;
        };
        let directory = server::directory("m");
        let data = directory.path().join("data");
        let template = template(&install);
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(template).arg(&data);
        server::run(copy);
        let (dir, data) = (directory.path().to_owned(), data);
        let more = more(&dir);
        let process = Process::start(move || {
            let mut command = server::command(&mariadbd);
            command
                .arg("--no-defaults")
                .arg(format!("--datadir={}", data.display()))
                .arg(format!("--socket={}", dir.join("s").display()))
                .arg(format!("--pid-file={}", dir.join("pid").display()))
                .arg(format!("--log-error={}", dir.join("log").display()))
                .args(["--skip-networking", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"])
                .args(["--innodb-flush-log-at-trx-commit=2", "--skip-log-bin", "--performance-schema=OFF"])
                .args(["--max-connections=100", "--default-time-zone=+05:30"])
                .args(&more);
            command
        });
        let server = Self { directory, process };
        server.ready().await;
        Some(server)
    }

    async fn ready(&self) {
        server::until_ready("MariaDB", || async { self.connect("mysql").await.map(|_| ()) }).await;
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    pub fn kill(&self) {
        self.process.kill();
    }

    pub async fn restart(&self) {
        self.process.restart();
        self.ready().await;
    }

    pub async fn connect(&self, database: &str) -> Result<MySqlConnection, String> {
        MySqlConnectOptions::new()
            .socket(self.socket())
            .username("root")
            .database(database)
            .ssl_mode(MySqlSslMode::Disabled)
            .connect()
            .await
            .map_err(|e| e.to_string())
    }

    pub async fn database(&self) -> TestDatabase {
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut connection = self.connect("mysql").await.expect("MariaDB answers");
        let sql = format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4");
        connection.execute(sqlx::AssertSqlSafe(sql)).await.expect("a new database");
        let connection = self.connect(&name).await.expect("MariaDB answers");
        let place = Place { kind: DatabaseKind::MySql, socket: Some(self.socket()), name, user: "root".to_owned() };
        TestDatabase::mysql(place, connection)
    }
}

/// The prepared data directory, made once on this machine and kept beside the build.
fn template(install: &Path) -> PathBuf {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let whose = if server::is_root() { "nobody" } else { "own" };
    let finished = home.join(format!("mariadb-{whose}"));
    if finished.is_dir() {
        return finished;
    }
    let made = server::directory("mt");
    let data = made.path().join("data");
    std::fs::create_dir(&data).expect("a directory");
    server::own(&data);
    let mut command = server::command(install);
    command
        .arg("--no-defaults")
        .arg(format!("--datadir={}", data.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"])
        .arg("--innodb-log-file-size=8M");
    server::run(command);
    // complete or not there: another process may prepare it too
    let partial = home.join(format!("mariadb-{whose}.{}", std::process::id()));
    let mut copy = Command::new("cp");
    copy.arg("-a").arg(&data).arg(&partial);
    server::run(copy);
    if std::fs::rename(&partial, &finished).is_err() {
        let _ = std::fs::remove_dir_all(&partial);
    }
    finished
}
