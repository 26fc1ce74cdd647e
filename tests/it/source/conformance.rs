//! One suite for every backend: each captured row survives the way from the table into a row, as it was written.

use std::collections::BTreeSet;
use std::sync::Arc;

use callferry::call::{CdrRow, CelRow, Row, RowTime, WallTime};
use callferry::config::DatabaseKind;
use callferry::correlate::Zone;
use callferry::source::Table;
use callferry::source::columns::{CdrColumn, CelColumn};

use crate::support::deployments::{Deployment, FREEPBX, MARIADB, POSTGRESQL, SQLITE};
use crate::support::expected::Sheet;
use crate::support::memory::Reading;

async fn rows_survive(deployment: &Deployment) {
    let Some((database, loaded)) = deployment.filled().await else { return };
    let (mut cel, mut cdr) = (Vec::new(), BTreeSet::new());
    for sheets in &loaded {
        for row in &sheets.cel.rows {
            let mut expected = cel_of(deployment, &sheets.cel, row);
            expected.id = Some(cel.len() as i64 + 1);
            cel.push(Row::Cel(Arc::new(expected)));
        }
        for row in &sheets.cdr.rows {
            let mut expected = cdr_of(&sheets.cdr, row);
            if deployment.kind == DatabaseKind::Sqlite {
                expected.id = Some(cdr.len() as i64 + 1);
            }
            cdr.insert(Row::Cdr(Arc::new(expected)));
        }
    }
    assert!(cel.len() > 1_500 && cdr.len() > 150, "{} and {} rows", cel.len(), cdr.len());

    let mut config = database.config();
    config.database.table_cel = deployment.cel_table.to_owned();
    config.database.table_cdr = deployment.cdr_table.to_owned();
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

fn cut(deployment: &Deployment, time: RowTime) -> RowTime {
    let whole = |micros: i64| micros - micros.rem_euclid(deployment.resolution);
    match time {
        RowTime::Wall(WallTime(micros)) => RowTime::Wall(WallTime(whole(micros))),
        RowTime::Utc(micros) => RowTime::Utc(whole(micros)),
    }
}

fn cel_of(deployment: &Deployment, sheet: &Sheet, row: &[String]) -> CelRow {
    let mut cel = CelRow::default();
    for (column, place) in CelColumn::map(&sheet.header) {
        if !deployment.left_out.contains(&column.name()) {
            column.set(&mut cel, &row[place]);
        }
    }
    cel.time = cel.time.map(|t| cut(deployment, t));
    cel
}

fn cdr_of(sheet: &Sheet, row: &[String]) -> CdrRow {
    let mut cdr = CdrRow::default();
    for (column, place) in CdrColumn::map(&sheet.header) {
        column.set(&mut cdr, &row[place]);
    }
    cdr
}

#[tokio::test]
async fn mariadb_with_microseconds() {
    rows_survive(&MARIADB).await;
}

#[tokio::test]
async fn mariadb_as_freepbx_keeps_it_in_whole_seconds() {
    rows_survive(&FREEPBX).await;
}

#[tokio::test]
async fn postgresql() {
    rows_survive(&POSTGRESQL).await;
}

#[tokio::test]
async fn sqlite() {
    rows_survive(&SQLITE).await;
}
