//! The tables of known deployments: each is understood, or refused with what is missing and the setting that adds it.

use callferry::call::{CdrRow, CelEvent, CelRow, Disposition, Row, RowTime, WallTime};
use callferry::config::{CelMode, DatabaseKind};
use callferry::correlate::Zone;
use callferry::finding::Level;
use callferry::source::sql::Timing;
use callferry::source::sql::backend::{TableName, backend};
use callferry::source::sql::engine::TimeKind;
use callferry::source::sql::probe::{Shape, probe};
use callferry::source::{self, SourceError, Table};

use crate::support::database::{TestDatabase, Values};
use crate::support::deployments;
use crate::support::expected::captures;
use crate::support::memory::Reading;

async fn shape(database: &TestDatabase, table: Table, name: &str) -> Result<Shape, SourceError> {
    let mut backend = backend(&database.config().database);
    let variable = if table == Table::Cel { "DB_TABLE_CEL" } else { "DB_TABLE_CDR" };
    probe(backend.as_mut(), table, &TableName::parse(name, variable)).await
}

/// What a table should be found to be: id column, kind of time, number of columns read, indexes missing.
struct Expected {
    id: Option<&'static str>,
    time: TimeKind,
    columns: usize,
    missing_indexes: usize,
}

async fn understood(database: &TestDatabase, table: Table, name: &str, expected: Expected) -> Shape {
    let shape = shape(database, table, name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    let bare = |s: &str| s.trim_matches(['`', '"']).to_owned();
    assert_eq!(shape.id.as_deref().map(bare).as_deref(), expected.id, "{name}: {:?}", shape.id_note);
    assert_eq!(shape.time.kind, expected.time, "{name}");
    assert_eq!(shape.columns.len(), expected.columns, "{name}: {:?}", shape.columns);
    assert_eq!(shape.missing_indexes().len(), expected.missing_indexes, "{name}: {:?}", shape.missing_indexes());
    shape
}

#[tokio::test]
async fn vanilla_has_no_id_and_no_index() {
    for (kind, file) in
        [(DatabaseKind::MySql, "mariadb_cdr_canonical.sql"), (DatabaseKind::PostgreSql, "postgresql_cdr_canonical.sql")]
    {
        let Some(mut db) = TestDatabase::new(kind).await else { continue };
        db.ddl(file).await;
        let e = Expected { id: None, time: TimeKind::Naive, columns: 21, missing_indexes: 2 };
        let shape = understood(&db, Table::Cdr, "cdr", e).await;
        // the statements it recommends do what they say
        for statement in shape.missing_indexes() {
            db.run(&statement).await;
        }
        let e = Expected { id: None, time: TimeKind::Naive, columns: 21, missing_indexes: 0 };
        understood(&db, Table::Cdr, "cdr", e).await;
    }
}

/// What docs/sources.md tells people to create is read by its id, with every index, and lacks nothing.
#[tokio::test]
async fn the_tables_of_the_documentation_serve() {
    let page = include_str!("../../../docs/sources.md");
    let blocks: Vec<&str> = page.split("```sql\n").skip(1).map(|b| b.split("```").next().expect("its end")).collect();
    for (kind, sign, tables) in [
        (DatabaseKind::MySql, "DATETIME(6)", &[(Table::Cel, "cel")][..]),
        (DatabaseKind::PostgreSql, "bigserial", &[(Table::Cel, "cel"), (Table::Cdr, "cdr")]),
    ] {
        let Some(mut db) = TestDatabase::new(kind).await else { continue };
        let block = blocks.iter().find(|b| b.contains("CREATE TABLE") && b.contains(sign)).expect("the tables");
        db.run(block).await;
        for (table, name) in tables {
            let shape = shape(&db, *table, name).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(shape.id.as_deref().is_some_and(|id| id.contains("id")) && shape.id_note.is_none(), "{name}");
            assert_eq!(shape.missing_indexes(), Vec::<String>::new(), "{name}");
            assert_eq!(shape.notes, Vec::<String>::new(), "{name}");
        }
    }
}

#[tokio::test]
async fn freepbx_and_issabel() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("freepbx16_mysql.sql").await;
    let e = Expected { id: None, time: TimeKind::Naive, columns: 26, missing_indexes: 1 };
    let shape = understood(&db, Table::Cdr, "cdr", e).await;
    assert!(shape.missing_indexes()[0].contains("(`linkedid`)"), "{:?}", shape.missing_indexes());
    let e = Expected { id: Some("id"), time: TimeKind::Naive, columns: 19, missing_indexes: 0 };
    understood(&db, Table::Cel, "cel", e).await;

    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("issabel_mysql.sql").await;
    let e = Expected { id: None, time: TimeKind::Naive, columns: 21, missing_indexes: 0 };
    understood(&db, Table::Cdr, "cdr", e).await;
    let e = Expected { id: Some("id"), time: TimeKind::Naive, columns: 20, missing_indexes: 0 };
    understood(&db, Table::Cel, "cel", e).await;
}

#[tokio::test]
async fn tables_of_another_schema_and_views_of_them() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let Some(mut other) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    other.ddl("freepbx16_mysql.sql").await;
    let name = format!("{}.cel", other.place.name);
    let e = || Expected { id: Some("id"), time: TimeKind::Naive, columns: 19, missing_indexes: 0 };
    understood(&db, Table::Cel, &name, e()).await;
    db.run(&format!("CREATE VIEW cel AS SELECT * FROM {name}")).await;
    let e = Expected { id: None, missing_indexes: 2, ..e() };
    let shape = understood(&db, Table::Cel, "cel", e).await;
    assert!(shape.id_note.expect("a reason").contains("view"));
    let uniqueid = "1795214890.1";
    let row: Values<'_> = [("eventtype", "CHAN_START"), ("eventtime", "2026-11-20 23:48:10"), ("uniqueid", uniqueid)]
        .into_iter()
        .chain([("linkedid", uniqueid), ("channame", "PJSIP/1-1")])
        .map(|(c, v)| (c, Some(v.to_owned())))
        .collect();
    other.insert("cel", &[row]).await;
    let mut config = db.config();
    config.cdr = false;
    for table in ["cel", name.as_str()] {
        config.database.table_cel = table.to_owned();
        let mut reading = Reading::new(&config);
        assert_eq!(reading.drain().await.expect("reads"), 1, "{table}");
    }
}

#[tokio::test]
async fn vitalpbx_and_sipstack_have_ids() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("vitalpbx_mysql.sql").await;
    let e = Expected { id: Some("cdr_id"), time: TimeKind::Naive, columns: 16, missing_indexes: 1 };
    let shape = understood(&db, Table::Cdr, "cdr", e).await;
    let read = shape.select(0);
    assert!(read.contains("`src`") && !read.contains("`source`"), "the Asterisk name wins: {read}");

    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("sipstack_mysql.sql").await;
    let e = Expected { id: Some("id"), time: TimeKind::Naive, columns: 19, missing_indexes: 0 };
    understood(&db, Table::Cdr, "cdr", e).await;
    let e = Expected { id: Some("id"), time: TimeKind::Instant, columns: 19, missing_indexes: 0 };
    understood(&db, Table::Cel, "cel", e).await;
}

#[tokio::test]
async fn documented_postgresql_and_wazo() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::PostgreSql).await else { return };
    db.ddl("documented_postgresql.sql").await;
    let e = Expected { id: Some("id"), time: TimeKind::Naive, columns: 20, missing_indexes: 1 };
    let shape = understood(&db, Table::Cel, "cel", e).await;
    assert!(shape.notes.iter().any(|n| n.contains("extra")), "{:?}", shape.notes);
    let e = Expected { id: None, time: TimeKind::Naive, columns: 19, missing_indexes: 2 };
    understood(&db, Table::Cdr, "cdr", e).await;

    let Some(mut db) = TestDatabase::new(DatabaseKind::PostgreSql).await else { return };
    db.ddl("wazo_postgresql.sql").await;
    let e = Expected { id: Some("id"), time: TimeKind::Instant, columns: 21, missing_indexes: 0 };
    understood(&db, Table::Cel, "cel", e).await;
}

#[tokio::test]
async fn sqlite_files() {
    let mut db = TestDatabase::sqlite();
    db.ddl("sqlite3_custom.sql").await;
    let e = Expected { id: Some("AcctId"), time: TimeKind::TextNaive, columns: 21, missing_indexes: 1 };
    understood(&db, Table::Cdr, "cdr", e).await;
    db.run("INSERT INTO cel (eventtype, eventtime, uniqueid) VALUES ('HANGUP', '1795214890.593251', '1795214890.1')")
        .await;
    let e = Expected { id: Some("AcctId"), time: TimeKind::TextEpoch, columns: 20, missing_indexes: 1 };
    understood(&db, Table::Cel, "cel", e).await;
    // a table without a key of its own has a number all the same
    db.run("CREATE TABLE plain (start TEXT, uniqueid TEXT, linkedid TEXT, channel TEXT)").await;
    let e = Expected { id: Some("rowid"), time: TimeKind::TextNaive, columns: 4, missing_indexes: 1 };
    understood(&db, Table::Cdr, "plain", e).await;
}

#[tokio::test]
async fn an_id_is_trusted_only_if_the_database_numbers_it() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let columns = "start DATETIME, uniqueid VARCHAR(150), linkedid VARCHAR(150), channel VARCHAR(80)";
    for (name, id, trusted) in [
        ("zeros", "id INT NOT NULL DEFAULT 0", false),
        ("own_numbers", "id INT PRIMARY KEY", false),
        ("not_unique", "id INT AUTO_INCREMENT, KEY k (id)", false),
        ("good", "id BIGINT UNSIGNED AUTO_INCREMENT UNIQUE", true),
        ("other_name", "record INT AUTO_INCREMENT PRIMARY KEY", true),
        ("with_more", "id INT AUTO_INCREMENT, site INT, PRIMARY KEY (id, site)", false),
    ] {
        db.run(&format!("CREATE TABLE {name} ({id}, {columns})")).await;
        let shape = shape(&db, Table::Cdr, name).await.expect("serves");
        assert_eq!(shape.id.is_some(), trusted, "{name}: {:?}", shape.id_note);
    }
    let Some(mut db) = TestDatabase::new(DatabaseKind::PostgreSql).await else { return };
    let columns = "start timestamp, uniqueid text, linkedid text, channel text";
    for (name, id, trusted, noted) in [
        ("serials", "id serial PRIMARY KEY", true, false),
        ("identity", "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", true, false),
        ("no_key", "id serial", false, true),
        ("own_numbers", "id int PRIMARY KEY", false, true),
        ("cached", "id bigint GENERATED BY DEFAULT AS IDENTITY (CACHE 50) PRIMARY KEY", true, true),
    ] {
        db.run(&format!("CREATE TABLE {name} ({id}, {columns})")).await;
        let shape = shape(&db, Table::Cdr, name).await.expect("serves");
        assert_eq!((shape.id.is_some(), shape.id_note.is_some()), (trusted, noted), "{name}: {:?}", shape.id_note);
    }
}

#[tokio::test]
async fn what_cannot_serve_is_refused_with_the_setting_that_helps() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("freepbx2_mysql.sql").await;
    let served = shape(&db, Table::Cdr, "cdr").await.expect("uniqueids are enough");
    assert!(served.notes.iter().any(|n| n.contains("newcdrcolumns=yes")), "{:?}", served.notes);
    let refused = |e: SourceError| match e {
        SourceError::Setup(text) => text,
        SourceError::Transient(text) | SourceError::Slow(text) => panic!("will not go away by itself: {text}"),
    };

    db.run("ALTER TABLE cdr DROP COLUMN uniqueid").await;
    let text = refused(shape(&db, Table::Cdr, "cdr").await.expect_err("nothing joins its rows"));
    assert!(text.contains("loguniqueid=yes") && text.contains("DB_TABLE_CDR"), "{text}");

    db.run(
        "CREATE TABLE mssql_cel (eventtype VARCHAR(30), eventtime DATETIME, cidname VARCHAR(80), uniqueid VARCHAR(32), \
            channame VARCHAR(80))",
    )
    .await;
    let text = refused(shape(&db, Table::Cel, "mssql_cel").await.expect_err("no linkedid"));
    assert!(text.contains("linkedid VARCHAR(150)") && text.contains("DB_TABLE_CEL"), "{text}");

    db.run("CREATE TABLE days (start DATE, uniqueid VARCHAR(32), channel VARCHAR(80))").await;
    let text = refused(shape(&db, Table::Cdr, "days").await.expect_err("no time of day"));
    assert!(text.contains("DATETIME"), "{text}");

    let text = refused(shape(&db, Table::Cdr, "absent").await.expect_err("no such table"));
    assert!(text.contains("absent") && text.contains("DB_TABLE_CDR"), "{text}");
    let text = refused(shape(&db, Table::Cdr, "nowhere.cdr").await.expect_err("no such database"));
    assert!(text.contains("nowhere"), "{text}");
}

const EPOCH: i64 = 1_795_214_890;

fn values(pairs: &[(&'static str, &str)]) -> Values<'static> {
    pairs.iter().map(|&(c, v)| (c, Some(v.to_owned()))).collect()
}

fn cdr(row: &Row) -> &CdrRow {
    let Row::Cdr(row) = row else { panic!("{row:?}") };
    row
}

fn cel(row: &Row) -> &CelRow {
    let Row::Cel(row) = row else { panic!("{row:?}") };
    row
}

#[tokio::test]
async fn integer_dispositions_and_fractional_durations() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("cdr_odbc_mysql.sql").await;
    for (i, disposition) in [0, 4, 8, 32].iter().enumerate() {
        let (uniqueid, disposition) = (format!("{EPOCH}.{i}"), disposition.to_string());
        let row = [("calldate", "2026-11-20 23:48:10"), ("duration", "5.011923"), ("disposition", &disposition)];
        db.insert("cdr", &[values(&[&row[..], &[("uniqueid", &uniqueid), ("linkedid", &uniqueid)]].concat())]).await;
    }
    let mut config = db.config();
    config.cel = CelMode::Off;
    let mut reading = Reading::new(&config);
    assert_eq!(reading.drain().await.expect("reads"), 4);
    let mut found: Vec<Disposition> = reading.rows(Table::Cdr).iter().map(|r| cdr(r).disposition.clone()).collect();
    found.sort();
    assert_eq!(found, [Disposition::Answered, Disposition::Busy, Disposition::NoAnswer, Disposition::Cancel]);
    assert!(reading.rows(Table::Cdr).iter().all(|r| cdr(r).duration_ms == Some(5_012)));
    assert_eq!(reading.zone, Some(Zone::Fixed(3_600)), "told by records alone");
}

#[tokio::test]
async fn epochs_as_numbers_and_as_text_and_events_as_numbers() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("epoch_mysql.sql").await;
    let id = format!("{EPOCH}.1");
    let ids = [("uniqueid", id.as_str()), ("linkedid", id.as_str())];
    let start = EPOCH.to_string();
    db.insert("cdr", &[values(&[&[("start", start.as_str()), ("duration", "9")][..], &ids].concat())]).await;
    for (event, time) in [("1", "1795214890.593251"), ("2", "1795214899.000001")] {
        db.insert("cel", &[values(&[&[("eventtype", event), ("eventtime", time)][..], &ids].concat())]).await;
    }
    let timing = Timing { scan_share: 0, audit_every: 0, audit_confirm: 0, ..Timing::default() };
    let mut reading = Reading::timed(&db.config(), timing);
    assert_eq!(reading.drain().await.expect("reads"), 3);
    let rows = reading.rows(Table::Cel);
    let events: Vec<_> = rows.iter().map(|r| (cel(r).event.clone(), cel(r).time)).collect();
    assert!(events.contains(&(CelEvent::ChanStart, Some(RowTime::Utc(1_795_214_890_593_251)))), "{events:?}");
    assert!(events.contains(&(CelEvent::ChanEnd, Some(RowTime::Utc(1_795_214_899_000_001)))), "{events:?}");
    assert_eq!(cdr(&reading.rows(Table::Cdr)[0]).start, Some(RowTime::Utc(EPOCH * 1_000_000)));
    assert_eq!(reading.zone, Some(Zone::Fixed(0)), "there is nothing a zone would be needed for");
    // the audit counts in these columns too
    for _ in 0..3 {
        reading.drain().await.expect("reads");
    }
    assert_eq!(reading.by_audit(), 0);
}

#[tokio::test]
async fn timestamps_are_moments_whatever_the_server_zone() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("sipstack_mysql.sql").await;
    // the writer's session is in its own zone, as Asterisk's is
    let id = format!("{EPOCH}.1");
    db.run(&format!(
        "SET time_zone = '+01:00'; INSERT INTO cel (eventtype, eventtime, channame, uniqueid, linkedid) VALUES \
         ('CHAN_START', '2026-11-20 23:48:10.593251', 'PJSIP/1-1', '{id}', '{id}')"
    ))
    .await;
    let mut config = db.config();
    config.cdr = false;
    let mut reading = Reading::new(&config);
    assert_eq!(reading.drain().await.expect("reads"), 1);
    assert_eq!(cel(&reading.rows(Table::Cel)[0]).time, Some(RowTime::Utc(1_795_214_890_593_251)));
    assert_eq!(reading.zone, Some(Zone::Fixed(0)));
}

#[tokio::test]
async fn local_time_in_timestamptz_is_found_out() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::PostgreSql).await else { return };
    db.ddl("postgresql_extra.sql").await;
    let mut config = db.config();
    config.cel = CelMode::Off;
    config.database.table_cdr = "cdr_adaptive".to_owned();
    // first while the table is empty: each row has to speak for itself
    let mut live = Reading::new(&config);
    live.drain().await.expect("reads");
    let mut written = 0;
    for capture in captures() {
        let Some(sheet) = capture.sheet("cdr_pg_adaptive.csv") else { continue };
        let rows = deployments::values(&sheet, &["id"], true);
        written += rows.len();
        db.insert("cdr_adaptive", &rows).await;
    }
    assert!(written > 150);
    let mut later = Reading::new(&config);
    live.drain().await.expect("reads");
    later.drain().await.expect("reads");
    for reading in [&live, &later] {
        let rows = reading.rows(Table::Cdr);
        assert_eq!(rows.len(), written);
        let walls = rows.iter().filter(|r| matches!(r.time(), Some(RowTime::Wall(_)))).count();
        assert!(walls * 10 >= rows.len() * 9, "{walls} of {}", rows.len());
        assert_eq!(reading.zone, Some(Zone::Fixed(3_600)));
    }
    assert!(later.rows(Table::Cdr).iter().all(|r| matches!(r.time(), Some(RowTime::Wall(_)))));
    let duration = cdr(&later.rows(Table::Cdr)[0]).duration_ms;
    assert!(duration.is_some(), "numeric columns are read");
}

#[tokio::test]
async fn impossible_times_are_unknown_ones() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("mariadb_cdr_canonical.sql").await;
    db.run("ALTER TABLE cdr ADD COLUMN id INT AUTO_INCREMENT PRIMARY KEY").await;
    let id = format!("{EPOCH}.1");
    db.run(&format!(
        "SET sql_mode = ''; INSERT INTO cdr (start, answer, end, uniqueid, linkedid) VALUES \
         ('2026-11-20 23:48:10', '0000-00-00 00:00:00', '1970-01-01 00:00:00', '{id}', '{id}'), \
         ('0000-00-00 00:00:00', NULL, NULL, '{id}', '{id}'), ('2026-00-11 00:00:00', NULL, NULL, '{id}', '{id}'), \
         ('2026-11-20 23:48:11', NULL, NULL, NULL, ''), ('2026-11-20 23:48:12', NULL, NULL, '{id}', NULL)"
    ))
    .await;
    let mut config = db.config();
    config.cel = CelMode::Off;
    let mut reading = Reading::new(&config);
    reading.drain().await.expect("one bad row stops nothing");
    let rows = reading.rows(Table::Cdr);
    assert_eq!(rows.len(), 2);
    let wall = WallTime((EPOCH + 3_600) * 1_000_000);
    assert_eq!((cdr(&rows[0]).start, cdr(&rows[0]).answer, cdr(&rows[0]).end), (Some(RowTime::Wall(wall)), None, None));
    assert_eq!(reading.quarantined.len(), 3, "{:?}", reading.quarantined);
    assert!(reading.quarantined.iter().any(|q| q.reason.contains("time")));
    assert_eq!(reading.drain().await.expect("reads"), 0);
    assert_eq!(reading.quarantined.len(), 3, "each once");
}

#[tokio::test]
async fn check_says_what_to_mend() {
    let Some(mut db) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    db.ddl("mariadb_cdr_canonical.sql").await;
    db.ddl("mariadb_extra.sql").await;
    let mut rows = Vec::new();
    for n in 0..30 {
        for event in ["CHAN_START", "ANSWER", "HANGUP", "CHAN_END"] {
            let id = format!("{}.{n}", EPOCH + n);
            let time = chrono::DateTime::from_timestamp(EPOCH + n + 3_600, 0).expect("a time");
            let time = time.format("%Y-%m-%d %H:%M:%S").to_string();
            rows.push(values(&[
                ("eventtype", event),
                ("eventtime", &time),
                ("uniqueid", &id),
                ("linkedid", &id),
                ("channame", "PJSIP/1-1"),
                ("extra", "{}"),
            ]));
        }
    }
    db.insert("cel", &rows).await;
    let mut config = db.config();
    config.zone = Some(Zone::Named(chrono_tz::Europe::Prague));
    let findings = source::check(&config).await;
    let texts = |level: Level| -> Vec<String> {
        let of = findings.iter().filter(|f| f.level == level);
        of.map(|f| format!("{}: {} | {}", f.topic, f.text, f.remedy.as_deref().unwrap_or(""))).collect()
    };
    let has = |level: Level, parts: &[&str]| {
        let texts = texts(level);
        assert!(texts.iter().any(|t| parts.iter().all(|p| t.contains(p))), "{parts:?} not in {texts:#?}");
    };
    assert!(texts(Level::Problem).is_empty(), "{:?}", texts(Level::Problem));
    has(Level::Ok, &["connected"]);
    has(Level::Ok, &["zone", "agrees", "+01:00"]);
    has(Level::Warning, &["CREATE INDEX callferry_cdr_linkedid ON `cdr` (`linkedid`)"]);
    has(Level::Warning, &["CREATE INDEX callferry_cdr_start"]);
    has(Level::Warning, &["LINKEDID_END", "cel.conf"]);
    has(Level::Warning, &["BRIDGE_ENTER"]);
    has(Level::Warning, &["APP_START", "apps=dial"]);
    has(Level::Warning, &["table cdr", "no rows"]);

    config.zone = Some(Zone::Named(chrono_tz::America::New_York));
    let findings = source::check(&config).await;
    let wrong = findings.iter().find(|f| f.level == Level::Problem).expect("a wrong zone is a problem");
    assert!(wrong.text.contains("-05:00") && wrong.text.contains("+01:00"), "{wrong:?}");
    assert!(wrong.remedy.as_ref().is_some_and(|r| r.contains("DB_TIMEZONE")));
}
