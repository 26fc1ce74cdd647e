//! One suite for every backend: each captured row survives the way from the table into a row, as it was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use callferry::call::{CdrRow, CelRow, Row, RowTime, WallTime};
use callferry::config::DatabaseKind;
use callferry::correlate::Zone;
use callferry::source::Table;
use callferry::source::columns::{CdrColumn, CelColumn};

use crate::support::captures::{self, Sheet};
use crate::support::database::{TestDatabase, Values};
use crate::support::memory::Reading;

/// Columns of the captures' headerless files.
const CEL_CUSTOM: &[&str] = &[
    "eventtype",
    "eventtime",
    "cid_name",
    "cid_num",
    "cid_ani",
    "cid_rdnis",
    "cid_dnid",
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
    "extra",
];
const CDR_CUSTOM: &[&str] = &[
    "clid",
    "src",
    "dst",
    "dcontext",
    "channel",
    "dstchannel",
    "lastapp",
    "lastdata",
    "start",
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

/// One way a deployment keeps its rows.
struct Setting {
    kind: DatabaseKind,
    ddl: &'static [&'static str],
    cel: (&'static str, &'static str),
    cdr: (&'static str, &'static str),
    /// Header of files that have none.
    headers: Option<(&'static [&'static str], &'static [&'static str])>,
    /// Names of columns that differ between file and table.
    renamed: &'static [(&'static str, &'static str)],
    /// Columns of the files that the tables lack.
    left_out: &'static [&'static str],
    /// Empty values are stored as NULL in the CDR.
    null: bool,
    /// What the column keeps of an event's time, microseconds.
    resolution: i64,
}

const MARIADB: Setting = Setting {
    kind: DatabaseKind::MySql,
    ddl: &["mariadb_cdr_canonical.sql", "mariadb_extra.sql"],
    cel: ("cel.csv", "cel"),
    cdr: ("cdr.csv", "cdr"),
    headers: None,
    renamed: &[],
    left_out: &["id"],
    null: true,
    resolution: 1,
};

async fn rows_survive(setting: &Setting) {
    let Some(mut database) = TestDatabase::new(setting.kind).await else { return };
    for file in setting.ddl {
        database.ddl(file).await;
    }
    let (mut cel, mut cdr) = (Vec::new(), BTreeSet::new());
    for capture in captures::all() {
        let sheet = |file: &str, header: Option<&[&str]>| match header {
            None => capture.sheet(file),
            Some(header) => capture.headerless(file, header),
        };
        if let Some(sheet) = sheet(setting.cel.0, setting.headers.map(|h| h.0)) {
            insert(&mut database, setting, &sheet, setting.cel.1, false).await;
            for row in &sheet.rows {
                let mut expected = cel_of(setting, &sheet, row);
                expected.id = Some(cel.len() as i64 + 1);
                cel.push(Row::Cel(Arc::new(expected)));
            }
        }
        if let Some(sheet) = sheet(setting.cdr.0, setting.headers.map(|h| h.1)) {
            insert(&mut database, setting, &sheet, setting.cdr.1, setting.null).await;
            for row in &sheet.rows {
                let mut expected = cdr_of(setting, &sheet, row);
                if setting.kind == DatabaseKind::Sqlite {
                    expected.id = Some(cdr.len() as i64 + 1);
                }
                cdr.insert(Row::Cdr(Arc::new(expected)));
            }
        }
    }
    assert!(cel.len() > 1_500 && cdr.len() > 150, "{} and {} rows", cel.len(), cdr.len());

    let mut config = database.config();
    config.database.table_cel = setting.cel.1.to_owned();
    config.database.table_cdr = setting.cdr.1.to_owned();
    config.page_size = 500;
    let mut reading = Reading::new(&config);
    reading.drain().await.expect("the tables can be read");

    assert!(reading.quarantined.is_empty(), "{:?}", reading.quarantined);
    let read = reading.rows(Table::Cel);
    assert_eq!(read.len(), cel.len());
    for (read, written) in read.iter().zip(&cel) {
        assert_eq!(read, written);
    }
    let read: BTreeSet<Row> = reading.rows(Table::Cdr).into_iter().collect();
    if let Some(row) = cdr.symmetric_difference(&read).next() {
        panic!("{} by one side only: {row:?}", if cdr.contains(row) { "written" } else { "read" });
    }
    assert_eq!(reading.zone, Some(Zone::Fixed(3_600)), "Prague in November, whatever the servers' own zone");
    assert_eq!(reading.gaps_given_up, 0);

    // a second look finds nothing new, and neither does a restart
    assert_eq!(reading.drain().await.expect("reads"), 0);
    reading.restart();
    assert_eq!(reading.drain().await.expect("reads"), 0);
}

async fn insert(database: &mut TestDatabase, setting: &Setting, sheet: &Sheet, table: &str, null: bool) {
    let rows: Vec<Values<'_>> = sheet
        .rows
        .iter()
        .map(|row| {
            let mut values = Vec::new();
            for (name, value) in sheet.header.iter().zip(row) {
                if setting.left_out.contains(&name.as_str()) {
                    continue;
                }
                let name = setting.renamed.iter().find(|(from, _)| from == name).map_or(name.as_str(), |(_, to)| to);
                values.push((name, (!(null && value.is_empty())).then(|| value.clone())));
            }
            values
        })
        .collect();
    database.insert(table, &rows).await;
}

fn cut(setting: &Setting, time: RowTime) -> RowTime {
    let whole = |micros: i64| micros - micros.rem_euclid(setting.resolution);
    match time {
        RowTime::Wall(WallTime(micros)) => RowTime::Wall(WallTime(whole(micros))),
        RowTime::Utc(micros) => RowTime::Utc(whole(micros)),
    }
}

fn cel_of(setting: &Setting, sheet: &Sheet, row: &[String]) -> CelRow {
    let mut cel = CelRow::default();
    for (column, place) in CelColumn::map(&sheet.header) {
        if !setting.left_out.contains(&column.name()) {
            column.set(&mut cel, &row[place]);
        }
    }
    cel.time = cel.time.map(|t| cut(setting, t));
    cel
}

fn cdr_of(setting: &Setting, sheet: &Sheet, row: &[String]) -> CdrRow {
    let mut cdr = CdrRow::default();
    for (column, place) in CdrColumn::map(&sheet.header) {
        if !setting.left_out.contains(&column.name()) {
            column.set(&mut cdr, &row[place]);
        }
    }
    cdr
}

#[tokio::test]
async fn mariadb_with_microseconds() {
    rows_survive(&MARIADB).await;
}

#[tokio::test]
async fn mariadb_as_freepbx_keeps_it_in_whole_seconds() {
    rows_survive(&Setting {
        ddl: &["mariadb_extra.sql"],
        cel: ("cel.csv", "cel_fpbx"),
        cdr: ("cdr_freepbx.csv", "cdr_fpbx"),
        left_out: &["id", "peeraccount", "userfield", "tenantid"],
        null: false,
        resolution: 1_000_000,
        ..MARIADB
    })
    .await;
}

#[tokio::test]
async fn postgresql() {
    rows_survive(&Setting {
        kind: DatabaseKind::PostgreSql,
        ddl: &["postgresql_cdr_canonical.sql", "postgresql_extra.sql"],
        cel: ("cel_pg.csv", "cel"),
        cdr: ("cdr_pg.csv", "cdr"),
        left_out: &["id", "inserted_at"],
        ..MARIADB
    })
    .await;
}

#[tokio::test]
async fn sqlite() {
    rows_survive(&Setting {
        kind: DatabaseKind::Sqlite,
        ddl: &["sqlite3_custom.sql"],
        cel: ("cel_custom-Master.csv", "cel"),
        cdr: ("cdr_custom-Master.csv", "cdr"),
        headers: Some((CEL_CUSTOM, CDR_CUSTOM)),
        renamed: &[
            ("cid_name", "cidname"),
            ("cid_num", "cidnum"),
            ("cid_ani", "cidani"),
            ("cid_rdnis", "cidrdnis"),
            ("cid_dnid", "ciddnid"),
            ("extra", "eventextra"),
            ("start", "calldate"),
        ],
        left_out: &[],
        ..MARIADB
    })
    .await;
}
