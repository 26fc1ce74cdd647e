//! Asterisk's realtime tables of any version, on either engine.

use std::collections::BTreeMap;

use callferry::config::DatabaseKind;
use callferry::provision::db::Db;
use callferry::provision::schema::{Mapping, Schema};
use secrecy::SecretString;
use serde::Deserialize;

use crate::support::database::TestDatabase;

pub const VERSIONS: [&str; 5] = ["16", "18", "20", "21", "22"];
pub const KINDS: [DatabaseKind; 2] = [DatabaseKind::PostgreSql, DatabaseKind::MySql];

#[derive(Deserialize)]
struct Version {
    enums: BTreeMap<String, Vec<String>>,
    unique: Vec<(String, String)>,
    tables: BTreeMap<String, Vec<Column>>,
}

/// Name, type on PostgreSQL, type on MariaDB, not null, counted by MariaDB.
type Column = (String, String, String, bool, bool);

pub struct Ara {
    pub db: TestDatabase,
    pub dsn: SecretString,
}

impl Ara {
    /// `None`: there is no such server here, and that was said.
    pub async fn new(kind: DatabaseKind, version: &str) -> Option<Self> {
        let mut db = TestDatabase::new(kind).await?;
        let text = include_str!("../../data/ara/schemas.json");
        let versions: BTreeMap<String, Version> = serde_json::from_str(text).unwrap();
        db.run(&ddl(kind, &versions[version])).await;
        let dsn = dsn(&db, "");
        Some(Self { db, dsn })
    }

    pub async fn connect(&self) -> Db {
        Db::connect(&self.dsn).await.unwrap()
    }

    pub async fn schema(&self) -> Schema {
        Schema::read(&mut self.connect().await, &Mapping::default()).await.unwrap()
    }

    /// All rows of a table as text, by the order of `order`.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.connect().await.texts(sql, &[]).await.unwrap()
    }

    /// Every cell of every table written.
    pub async fn everything(&self, schema: &Schema) -> Vec<Vec<Option<String>>> {
        let (mut db, mut all) = (self.connect().await, Vec::new());
        for (table, info) in &schema.tables {
            let columns: Vec<String> = info.columns.keys().map(|c| schema.as_text(*table, c)).collect();
            let sql = format!("SELECT {} FROM {}", columns.join(", "), info.quoted);
            all.extend(db.texts(&sql, &[]).await.unwrap());
        }
        all.sort();
        all
    }

    /// Rows of every table written.
    pub async fn counts(&self) -> BTreeMap<&'static str, String> {
        let mut counts = BTreeMap::new();
        let cast = if self.db.place.kind == DatabaseKind::MySql { "char" } else { "text" };
        for table in [
            "ps_auths",
            "ps_aors",
            "ps_endpoints",
            "ps_endpoint_id_ips",
            "ps_registrations",
            "queues",
            "queue_members",
            "extensions",
        ] {
            let rows = self.rows(&format!("SELECT CAST(count(*) AS {cast}) FROM {table}")).await;
            counts.insert(table, rows[0][0].clone().unwrap());
        }
        counts
    }
}

pub fn dsn(db: &TestDatabase, user: &str) -> SecretString {
    let place = &db.place;
    let socket = place.socket.as_ref().unwrap().display();
    let user = if user.is_empty() { &place.user } else { user };
    match place.kind {
        DatabaseKind::MySql => format!("mysql://{user}@localhost/{}?socket={socket}", place.name),
        _ => format!("postgresql://{user}@localhost/{}?host={socket}", place.name),
    }
    .into()
}

fn ddl(kind: DatabaseKind, version: &Version) -> String {
    let mysql = kind == DatabaseKind::MySql;
    let quote = |name: &str| if mysql { format!("`{name}`") } else { format!("\"{name}\"") };
    let mut sql = String::new();
    if !mysql {
        for (name, labels) in &version.enums {
            let labels: Vec<String> = labels.iter().map(|l| format!("'{l}'")).collect();
            sql.push_str(&format!("CREATE TYPE {name} AS ENUM ({});\n", labels.join(", ")));
        }
    }
    for (table, columns) in &version.tables {
        let mut lines = Vec::new();
        for (name, pg, my, not_null, counted) in columns {
            let serial = table == "extensions" && name == "id";
            let kind = match (mysql, serial) {
                (false, true) => "bigserial",
                (false, false) => pg,
                (true, _) => my,
            };
            let not_null = if *not_null { " NOT NULL" } else { "" };
            let counted = if mysql && *counted { " AUTO_INCREMENT" } else { "" };
            lines.push(format!("{} {kind}{not_null}{counted}", quote(name)));
        }
        for (_, key) in version.unique.iter().filter(|(t, _)| t == table) {
            let columns: Vec<String> = key.split(", ").map(quote).collect();
            lines.push(format!("UNIQUE ({})", columns.join(", ")));
        }
        // Asterisk's tables take the charset of their database
        sql.push_str(&format!("CREATE TABLE {table} ({});\n", lines.join(", ")));
    }
    sql
}
