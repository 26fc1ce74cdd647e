//! What `callferry check` says of a PBX database: everything a run would need, tried cheaply, with what to do about it.

use std::collections::BTreeSet;

use super::backend::{Backend, TableName, backend, server};
use super::engine::Statement;
use super::probe::{self, Shape};
use super::recordings::RecordingsTable;
use super::{is_moment, now, read, tables, vote, zone};
use crate::call::{CelEvent, CelRow, Row, RowTime, Timestamp, WallTime};
use crate::config::{DatabaseKind, SourceConfig};
use crate::correlate::Zone;
use crate::finding::Finding;
use crate::source::{SourceError, Table};

/// Rows looked at for what is logged and when.
const SAMPLE: usize = 2_000;
/// Clocks further apart than this are worth a word.
const CLOCKS_S: i64 = 5;
const HOUR_S: i64 = 3_600;

const DATABASE: &str = "database";

pub async fn check(config: &SourceConfig) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut backend = backend(&config.database);
    if let Err(e) = backend.connect().await {
        findings.push(problem(DATABASE, &e));
        return findings;
    }
    let place = match config.database.kind {
        DatabaseKind::Sqlite => config.database.name.clone(),
        _ => format!("{} of {}", config.database.name, server(&config.database)),
    };
    findings.push(Finding::ok(DATABASE, format!("connected to {place} ({})", backend.engine().kind())));
    let clock = clock(backend.as_mut(), &mut findings).await;

    let mut shapes = Vec::new();
    for (table, name) in tables(config) {
        match probe::probe(backend.as_mut(), table, &name).await {
            Ok(shape) => {
                describe(&shape, &mut findings);
                shapes.push(shape);
            }
            Err(e) => {
                findings.push(problem(&topic(table, &name), &e));
                backend.disconnect();
            }
        }
    }
    if let Some(name) = &config.database.table_recordings {
        let topic = format!("table {name} (recordings)");
        findings.push(match RecordingsTable::new(name).probe(backend.as_mut()).await {
            Ok(None) => Finding::ok(topic, "can be read by linkedid"),
            Ok(Some(note)) => Finding::warning(topic, note, "create the index"),
            Err(e) => problem(&topic, &e),
        });
    }
    let zone = zone_of(backend.as_mut(), config, &shapes, &mut findings).await;
    for shape in &shapes {
        match sample(backend.as_mut(), shape).await {
            Ok(rows) => content(shape, &rows, clock, zone.as_ref(), &mut findings),
            Err(e) => findings.push(problem(&topic(shape.table, &shape.name), &e)),
        }
    }
    findings
}

fn topic(table: Table, name: &TableName) -> String {
    format!("table {name} ({})", table.as_str())
}

/// Messages of a source name their remedy themselves; the part after the last full stop is it.
fn problem(topic: &str, e: &SourceError) -> Finding {
    let text = e.to_string();
    match text.rsplit_once(". ") {
        Some((what, remedy)) => Finding::problem(topic, what, remedy),
        None => Finding::problem(topic, text, "see the settings DB_*"),
    }
}

/// The database's clock, compared with this machine's.
async fn clock(backend: &mut dyn Backend, findings: &mut Vec<Finding>) -> Option<i64> {
    let there = match now(backend).await {
        Ok(micros) => micros,
        Err(e) => {
            findings.push(problem(DATABASE, &e));
            return None;
        }
    };
    let here = chrono::Utc::now().timestamp_micros();
    let apart_s = (there - here) / 1_000_000;
    findings.push(if apart_s.abs() > CLOCKS_S {
        Finding::warning(
            DATABASE,
            format!("its clock and this machine's are {} s apart", apart_s.abs()),
            "let both follow a time server; calls are timed by the PBX and grace by the database, so nothing is lost",
        )
    } else {
        Finding::ok(DATABASE, "its clock agrees with this machine's")
    });
    Some(there)
}

/// Columns, id, indexes.
fn describe(shape: &Shape, findings: &mut Vec<Finding>) {
    let topic = topic(shape.table, &shape.name);
    findings.push(Finding::ok(&topic, format!("{} columns are read", shape.columns.len())));
    for note in &shape.notes {
        let (what, remedy) = note.split_once(". ").unwrap_or((note, "see docs/sources.md"));
        findings.push(Finding::warning(&topic, what, remedy));
    }
    match (&shape.id, &shape.id_note) {
        (Some(id), None) => findings.push(Finding::ok(&topic, format!("read in the order of {id}"))),
        (Some(id), Some(note)) => {
            let (what, remedy) = note.split_once(". Run: ").unwrap_or((note, "see docs/sources.md"));
            findings.push(Finding::warning(&topic, format!("read in the order of {id}; {what}"), remedy));
        }
        (None, why) => {
            let why = why.as_deref().unwrap_or("it has no id");
            let how = match shape.table {
                Table::Cdr => "read by call, by time and by counting",
                Table::Cel => "read by time and by counting",
            };
            findings.push(Finding::ok(&topic, format!("{how}: {why}")));
        }
    }
    for statement in shape.missing_indexes() {
        findings.push(Finding::warning(
            &topic,
            "an index is missing: the table is read whole, and therefore less often",
            statement,
        ));
    }
}

async fn zone_of(
    backend: &mut dyn Backend,
    config: &SourceConfig,
    shapes: &[Shape],
    findings: &mut Vec<Finding>,
) -> Option<Zone> {
    let readings: Vec<&Shape> = shapes.iter().filter(|s| !is_moment(s)).collect();
    if readings.is_empty() {
        if !shapes.is_empty() {
            findings.push(Finding::ok("zone", "the tables hold moments, no zone is needed"));
        }
        return config.zone.clone().or(Some(Zone::Fixed(0)));
    }
    let told = match vote(backend, &readings).await {
        Ok(told) => told,
        Err(e) => {
            findings.push(problem("zone", &e));
            return config.zone.clone();
        }
    };
    let offset =
        |s: i32| format!("{}{:02}:{:02}", if s < 0 { '-' } else { '+' }, s.abs() / 3_600, s.abs() % 3_600 / 60);
    match (&config.zone, told) {
        (Some(zone), Some(told_s)) => {
            // compared at the time of the newest row that spoke
            let newest = newest_epoch(backend, &readings).await.unwrap_or_else(|| chrono::Utc::now().timestamp());
            let configured = (zone::reading_at(zone, newest * 1_000_000) - newest * 1_000_000) / 1_000_000;
            findings.push(if configured == i64::from(told_s) {
                Finding::ok("zone", format!("DB_TIMEZONE agrees with the uniqueids ({})", offset(told_s)))
            } else {
                Finding::problem(
                    "zone",
                    format!(
                        "DB_TIMEZONE says {}, the uniqueids say {}: every call would be {} off",
                        offset(i32::try_from(configured).unwrap_or(0)),
                        offset(told_s),
                        offset(i32::try_from(configured - i64::from(told_s)).unwrap_or(0))
                    ),
                    "set DB_TIMEZONE to the zone of the PBX's /etc/localtime, or leave it out",
                )
            });
            Some(zone.clone())
        }
        (Some(zone), None) => {
            findings.push(Finding::ok("zone", "as DB_TIMEZONE says; no row to compare with"));
            Some(zone.clone())
        }
        (None, Some(told_s)) => {
            findings.push(Finding::warning(
                "zone",
                format!("times are {} of UTC, read off the uniqueids", offset(told_s)),
                "set DB_TIMEZONE to the zone's name (such as Europe/Prague): the hour that the end of summer time repeats \
                 can only be told with it",
            ));
            Some(Zone::Fixed(told_s))
        }
        (None, None) => {
            findings.push(Finding::warning(
                "zone",
                "not known yet: no row tells it. Calls wait until one does",
                "set DB_TIMEZONE to the zone of the PBX's /etc/localtime",
            ));
            None
        }
    }
}

async fn newest_epoch(backend: &mut dyn Backend, shapes: &[&Shape]) -> Option<i64> {
    for shape in shapes {
        let rows = probe::recent_times(backend, shape, 200).await.ok()?;
        if let Some(epoch) = rows.iter().filter_map(|(_, uniqueid)| zone::epoch_of(uniqueid)).max() {
            return Some(epoch);
        }
    }
    None
}

/// The newest rows where an index gives them, else any.
async fn sample(backend: &mut dyn Backend, shape: &Shape) -> Result<Vec<Row>, SourceError> {
    let order = match &shape.id {
        Some(id) => format!(" ORDER BY {id} DESC"),
        None if shape.time.indexed => format!(" ORDER BY {} DESC", shape.time.name),
        None => String::new(),
    };
    let mut statement = Statement::new(shape.engine);
    statement.push(&shape.select(0)).push(&format!("{order} LIMIT {SAMPLE}"));
    let rows = backend.select(&statement.sql, &statement.params).await?;
    Ok(rows.iter().filter_map(|cells| read::row(shape, cells).ok()).collect())
}

/// What the rows themselves tell.
fn content(shape: &Shape, rows: &[Row], clock: Option<i64>, zone: Option<&Zone>, findings: &mut Vec<Finding>) {
    let topic = topic(shape.table, &shape.name);
    if rows.is_empty() {
        findings.push(Finding::warning(
            &topic,
            "it has no rows",
            match shape.table {
                Table::Cel => {
                    "place a call; if it stays empty: enable=yes in cel.conf, and cel_odbc or cel_pgsql set up"
                }
                Table::Cdr => "place a call; if it stays empty: enable=yes in cdr.conf, and a CDR backend set up",
            },
        ));
        return;
    }
    let moment = |time: RowTime| match (time, zone) {
        (RowTime::Utc(micros), _) => Some(micros),
        (RowTime::Wall(WallTime(raw)), Some(zone)) => Some(raw - (zone::reading_at(zone, raw) - raw)),
        (RowTime::Wall(_), None) => None,
    };
    // without an order the newest row of a sample is not the newest row
    let ordered = shape.id.is_some() || shape.time.indexed;
    let newest = rows.iter().filter_map(Row::time).filter_map(moment).max();
    if let (true, Some(newest), Some(clock)) = (ordered, newest, clock) {
        let age_s = (clock - newest) / 1_000_000;
        let text = format!("its newest row is of {}", Timestamp::from_micros(newest - newest.rem_euclid(1_000_000)));
        findings.push(if age_s < -HOUR_S / 2 {
            Finding::warning(&topic, format!("{text}, which is still to come"), "check DB_TIMEZONE and the PBX's clock")
        } else if age_s > 48 * HOUR_S {
            Finding::warning(
                &topic,
                format!("{text}, {} days ago", age_s / (24 * HOUR_S)),
                "if calls were made since, Asterisk does not write here any longer: see its log, and the ODBC or database \
                 settings",
            )
        } else {
            Finding::ok(&topic, text)
        });
    }
    if shape.table == Table::Cel {
        logged(&topic, rows, findings);
    }
}

/// Which events and applications the CEL lets through.
fn logged(topic: &str, rows: &[Row], findings: &mut Vec<Finding>) {
    let events: Vec<&CelRow> =
        rows.iter().filter_map(|r| if let Row::Cel(cel) = r { Some(cel.as_ref()) } else { None }).collect();
    let ended = events.iter().filter(|r| r.event == CelEvent::ChanEnd).count();
    if ended < 20 {
        findings.push(Finding::ok(topic, "too few calls to tell which events are logged"));
        return;
    }
    let seen: BTreeSet<&str> = events.iter().map(|r| r.event.name()).collect();
    for (event, what) in [
        ("LINKEDID_END", "the end of calls is told from their channels only"),
        ("HANGUP", "hangup causes and who hung up are not known"),
        ("ANSWER", "when the PBX answered is not known"),
        ("BRIDGE_ENTER", "who spoke with whom is not known"),
        ("BRIDGE_EXIT", "how long they spoke is not known"),
        ("CHAN_START", "callers and dialled numbers are not known"),
    ] {
        if !seen.contains(event) {
            let remedy = "in cel.conf: events=ALL (or add the event to events=), then `asterisk -rx 'cel reload'`";
            findings.push(Finding::warning(topic, format!("no {event} in the newest {SAMPLE} rows: {what}"), remedy));
        }
    }
    if !seen.contains("APP_START") {
        findings.push(Finding::warning(
            topic,
            "no APP_START: queues, voicemail and menus are told from contexts and channels only",
            "in cel.conf: apps=dial,queue,voicemail,voicemailmain,confbridge,park,background,playback,waitexten,mixmonitor \
             (apps=all logs none), then `asterisk -rx 'cel reload'`",
        ));
    } else if events.iter().any(|r| r.event == CelEvent::Hangup) && events.iter().all(|r| r.extra.is_empty()) {
        findings.push(Finding::warning(
            topic,
            "extra is empty in every row: hangup causes and transfer targets are not known",
            "widen or add the column `extra VARCHAR(1024)`; Asterisk 12 and newer fill it",
        ));
    } else {
        findings.push(Finding::ok(topic, format!("{} kinds of events are logged", seen.len())));
    }
}
