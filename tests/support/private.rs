//! A database server of one test, of either kind, to be killed at will.

use callferry::config::DatabaseKind;

use super::database::{Place, TestDatabase};
use super::mariadb::MariaDb;
use super::postgres::Postgres;

pub enum PrivateServer {
    MySql(MariaDb),
    Postgres(Postgres),
}

impl PrivateServer {
    /// `None`: there is no such server here, and that was said.
    pub async fn start(kind: DatabaseKind) -> Option<Self> {
        match kind {
            DatabaseKind::MySql => Some(Self::MySql(MariaDb::private().await?)),
            DatabaseKind::PostgreSql => Some(Self::Postgres(Postgres::private().await?)),
            DatabaseKind::Sqlite => panic!("SQLite has no server"),
        }
    }

    pub async fn database(&self) -> TestDatabase {
        match self {
            Self::MySql(server) => server.database().await,
            Self::Postgres(server) => server.database().await,
        }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        match self {
            Self::MySql(server) => server.kill(),
            Self::Postgres(server) => server.kill(),
        }
    }

    /// Starts it again, and connects to a database that was there before.
    pub async fn restart(&self, place: &Place) -> TestDatabase {
        match self {
            Self::MySql(server) => server.restart().await,
            Self::Postgres(server) => server.restart().await,
        }
        self.connect(place).await
    }

    /// Another connection.
    pub async fn connect(&self, place: &Place) -> TestDatabase {
        match self {
            Self::MySql(server) => {
                TestDatabase::mysql(place.clone(), server.connect(&place.name).await.expect("it answers"))
            }
            Self::Postgres(server) => {
                TestDatabase::postgres(place.clone(), server.connect(&place.name).await.expect("it answers"))
            }
        }
    }
}
