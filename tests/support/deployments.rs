//! The ways deployments keep their rows: which tables, and which file of a capture holds what that backend wrote. The
//! suites that go through every capture fill their database here.

use callferry::config::DatabaseKind;

use super::database::{TestDatabase, Values};
use super::expected::{Capture, Sheet, captures};

/// Header of the CEL file of cel_custom and cel_sqlite3_custom, by the columns of the SQLite table.
const CEL_CUSTOM: &[&str] = &[
    "eventtype",
    "eventtime",
    "cidname",
    "cidnum",
    "cidani",
    "cidrdnis",
    "ciddnid",
    "exten",
    "context",
    "channame",
    "appname",
    "appdata",
    "amaflags",
    "accountcode",
    "uniqueid",
    "linkedid",
    "peer",
    "userfield",
    "userdeftype",
    "eventextra",
];
/// The same of the CDR file.
const CDR_CUSTOM: &[&str] = &[
    "clid",
    "src",
    "dst",
    "dcontext",
    "channel",
    "dstchannel",
    "lastapp",
    "lastdata",
    "calldate",
    "answer",
    "end",
    "duration",
    "billsec",
    "disposition",
    "amaflags",
    "accountcode",
    "uniqueid",
    "linkedid",
    "userfield",
    "sequence",
];
/// An empty value of these is NULL in every table.
const NUMBERS: &[&str] = &["sequence", "start", "answer", "end", "calldate", "duration", "billsec"];

/// One way a deployment keeps its rows: files of a capture, and the tables they go to.
#[derive(Clone, Copy)]
pub struct Deployment {
    pub kind: DatabaseKind,
    ddl: &'static [&'static str],
    cel_file: &'static str,
    cdr_file: &'static str,
    pub cel_table: &'static str,
    pub cdr_table: &'static str,
    headerless: bool,
    /// Columns of the CEL file that the table lacks or fills itself.
    pub left_out: &'static [&'static str],
    /// Empty values are NULL in the CDR table.
    nulls: bool,
    /// What the column keeps of an event's time, microseconds.
    pub resolution: i64,
}

pub const MARIADB: Deployment = Deployment {
    kind: DatabaseKind::MySql,
    ddl: &["mariadb_cdr_canonical.sql", "mariadb_extra.sql"],
    cel_file: "cel.csv",
    cdr_file: "cdr.csv",
    cel_table: "cel",
    cdr_table: "cdr",
    headerless: false,
    left_out: &["id"],
    nulls: true,
    resolution: 1,
};

/// Whole seconds, no NULL.
pub const FREEPBX: Deployment = Deployment {
    ddl: &["mariadb_extra.sql"],
    cdr_file: "cdr_freepbx.csv",
    cel_table: "cel_fpbx",
    cdr_table: "cdr_fpbx",
    left_out: &["id", "peeraccount", "userfield", "tenantid"],
    nulls: false,
    resolution: 1_000_000,
    ..MARIADB
};

pub const POSTGRESQL: Deployment = Deployment {
    kind: DatabaseKind::PostgreSql,
    ddl: &["postgresql_cdr_canonical.sql", "postgresql_extra.sql"],
    cel_file: "cel_pg.csv",
    cdr_file: "cdr_pg.csv",
    left_out: &["id", "inserted_at"],
    ..MARIADB
};

pub const SQLITE: Deployment = Deployment {
    kind: DatabaseKind::Sqlite,
    ddl: &["sqlite3_custom.sql"],
    cel_file: "cel_custom-Master.csv",
    cdr_file: "cdr_custom-Master.csv",
    headerless: true,
    left_out: &[],
    ..MARIADB
};

/// What a capture put into the tables.
pub struct Loaded {
    pub capture: Capture,
    pub cel: Sheet,
    pub cdr: Sheet,
}

impl Deployment {
    /// A database with every capture that this backend took part in, in the order of time. `None`: there is no such
    /// server here.
    pub async fn filled(&self) -> Option<(TestDatabase, Vec<Loaded>)> {
        let mut database = TestDatabase::new(self.kind).await?;
        for file in self.ddl {
            database.ddl(file).await;
        }
        let loaded = captures().into_iter().filter_map(|capture| {
            let sheet = |file: &str, columns: &[&str]| {
                if self.headerless { capture.headerless(file, columns) } else { capture.sheet(file) }
            };
            let (cel, cdr) = (sheet(self.cel_file, CEL_CUSTOM)?, sheet(self.cdr_file, CDR_CUSTOM)?);
            Some(Loaded { capture, cel, cdr })
        });
        let mut loaded: Vec<Loaded> = loaded.collect();
        loaded.sort_by_cached_key(|l| {
            let time = l.cel.header.iter().position(|h| h == "eventtime").expect("eventtime");
            l.cel.rows.iter().map(|row| row[time].clone()).min()
        });
        for Loaded { cel, cdr, .. } in &loaded {
            database.insert(self.cel_table, &values(cel, self.left_out, false)).await;
            database.insert(self.cdr_table, &values(cdr, &[], self.nulls)).await;
        }
        Some((database, loaded))
    }
}

/// The rows of a file as a backend would insert them.
pub fn values<'a>(sheet: &'a Sheet, left_out: &[&str], nulls: bool) -> Vec<Values<'a>> {
    let row = |row: &'a Vec<String>| {
        let cells = sheet.header.iter().map(String::as_str).zip(row);
        let kept = cells.filter(|(name, _)| !left_out.contains(name));
        kept.map(|(name, value)| {
            let null = value.is_empty() && (nulls || NUMBERS.contains(&name));
            (name, (!null).then(|| value.clone()))
        })
        .collect()
    };
    sheet.rows.iter().map(row).collect()
}
