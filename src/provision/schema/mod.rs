//! The database as it is found: tables, columns, types, limits, privileges. Nothing is assumed from a version, since
//! columns came and went by release (20 lacks what 21 has and the other way round).

mod mysql;
mod postgres;
mod resolve;

use std::collections::{BTreeMap, BTreeSet};

pub(super) use resolve::normal;
pub use resolve::{Resolved, Stored};

use super::db::{Db, Engine};
use super::error::{Error, Result};
use super::table::Table;

/// Tables and columns under other names than Asterisk's own (`queues = "asterisk_queues"`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    pub tables: BTreeMap<Table, String>,
    pub columns: BTreeMap<(Table, String), String>,
}

impl Mapping {
    pub fn table(&self, table: Table) -> &str {
        self.tables.get(&table).map_or(table.name(), String::as_str)
    }

    pub fn column<'a>(&'a self, table: Table, column: &'a str) -> &'a str {
        self.columns.get(&(table, column.to_owned())).map_or(column, String::as_str)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Integer,
    Real,
    Boolean,
    /// Labels in the order of their definition.
    Enum(Vec<String>),
    Other(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnKind,
    /// Characters, for text with a limit.
    pub max_chars: Option<usize>,
    pub nullable: bool,
    /// The server has a value when none is given (default, sequence, auto increment).
    pub has_default: bool,
    /// Character set, MySQL only.
    pub charset: Option<String>,
    /// Type to cast to, PostgreSQL only; quoted by the server.
    pub cast: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// As written in statements, quoted.
    pub quoted: String,
    pub columns: BTreeMap<String, Column>,
    /// MySQL's storage engine where it cannot roll back.
    pub unsafe_engine: Option<String>,
    /// What the user may not do: `INSERT`, `USAGE on sequence x` …
    pub denied: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Schema {
    pub engine: Engine,
    /// Database name and server, for people and saved plans; no credential.
    pub database: String,
    pub mapping: Mapping,
    pub tables: BTreeMap<Table, TableInfo>,
    /// `alembic_version_config`, where that table is.
    pub alembic: Option<String>,
}

impl Schema {
    pub async fn read(db: &mut Db, mapping: &Mapping) -> Result<Self> {
        match db.engine() {
            Engine::PostgreSql => postgres::read(db, mapping).await,
            Engine::MySql => mysql::read(db, mapping).await,
        }
    }

    pub fn table(&self, table: Table) -> Result<&TableInfo> {
        self.tables.get(&table).ok_or_else(|| {
            let name = self.mapping.table(table);
            Error::schema(format!(
                "table {name} is not in {}, or the user of PROVISION_DSN may not see it: GRANT SELECT, INSERT, UPDATE, \
DELETE on it; or create Asterisk's tables (contrib/ast-db-manage: alembic -c config.ini upgrade head); or name the table \
in the mapping",
                self.database
            ))
        })
    }

    /// Refuses with everything the user may not do to any of `tables`, before a statement fails halfway.
    pub fn permitted(&self, tables: impl IntoIterator<Item = Table>) -> Result<()> {
        let tables: BTreeSet<Table> = tables.into_iter().collect();
        let lacking: Vec<String> = tables
            .into_iter()
            .filter_map(|table| {
                let denied = &self.tables.get(&table)?.denied;
                let name = self.mapping.table(table);
                (!denied.is_empty()).then(|| format!("{} for table {name}", denied.join(", ")))
            })
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        Err(Error::schema(format!("the user of PROVISION_DSN lacks {}; GRANT it", lacking.join("; "))))
    }

    /// The column under its name in this database.
    pub fn column(&self, table: Table, column: &str) -> Option<&Column> {
        self.tables.get(&table)?.columns.get(self.mapping.column(table, column))
    }

    /// `"ps_endpoints"`, and its column quoted.
    pub fn quoted(&self, table: Table, column: &str) -> String {
        self.engine.quote(self.mapping.column(table, column))
    }

    /// Selects `column` as text.
    pub fn as_text(&self, table: Table, column: &str) -> String {
        let quoted = self.quoted(table, column);
        match self.engine {
            Engine::PostgreSql => format!("{quoted}::text"),
            Engine::MySql => format!("CAST({quoted} AS CHAR)"),
        }
    }
}
