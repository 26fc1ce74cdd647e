//! Removes what the state holds of a number: every call that names it anywhere, with rows, documents, deliveries, dead
//! letters and recordings; rows in the journal and in quarantine; the number in errors. Everything in steps.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use compact_str::CompactString;
use flate2::read::DeflateDecoder;
use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};

use super::journal::JournalRow;
use super::{Result, StoreError, forgotten, journal, ledger, requests};
use crate::call::{Row, Timestamp};
use crate::correlate::group::{GroupId, Grouper, partition_with, shared_ids};
use crate::correlate::ids;
use crate::correlate::spelling::Spellings;

/// Longest text looked through, once inflated.
const INFLATED_MAX: u64 = 256 << 20;
/// Rows of the journal read at once.
const PAGE: usize = 1_000;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Calls the ledger knew.
    pub calls: u64,
    /// Of their deliveries: never sent now, and dead letters.
    pub pending: u64,
    pub dead: u64,
    /// Rows of calls that were not over.
    pub rows: u64,
    pub recordings: u64,
    /// Rows that could not be read.
    pub quarantined: u64,
    /// Texts of errors the number was blacked out in.
    pub errors: u64,
}

/// Looks through up to `limit` calls after `after` and removes those that name the number. `None`: those were the last.
pub fn calls(
    conn: &Connection,
    number: &Spellings,
    after: i64,
    limit: usize,
    now: Timestamp,
    removed: &mut Removed,
) -> Result<Option<i64>> {
    let page: Vec<i64> = conn
        .prepare_cached("SELECT call FROM ledger WHERE call > ?1 ORDER BY call LIMIT ?2")?
        .query_map(params![after, i64::try_from(limit).unwrap_or(i64::MAX)], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for call in &page {
        if names(conn, *call, number)? {
            remove_call(conn, *call, now, removed)?;
        }
    }
    Ok(page.last().copied())
}

fn names(conn: &Connection, call: i64, number: &Spellings) -> Result<bool> {
    let mut documents = conn.prepare_cached("SELECT body, rows FROM document WHERE call = ?1")?;
    let mut rows = documents.query([call])?;
    while let Some(r) = rows.next()? {
        let (body, frozen): (String, Option<Vec<u8>>) = (r.get(0)?, r.get(1)?);
        if in_text(number, body.as_bytes()) || frozen.is_some_and(|rows| in_text(number, &inflated(&rows))) {
            return Ok(true);
        }
    }
    let mut sent = conn.prepare_cached("SELECT body FROM delivery WHERE call = ?1 AND body IS NOT NULL")?;
    let mut rows = sent.query([call])?;
    while let Some(r) = rows.next()? {
        let body: Vec<u8> = r.get(0)?;
        if in_text(number, &body) {
            return Ok(true);
        }
    }
    let held = ledger::folded(conn, call)?.unwrap_or_default();
    for held in &held {
        if in_row(number, &held.row)? {
            return Ok(true);
        }
    }
    let mut found = conn.prepare_cached("SELECT owner, file, path FROM recording WHERE call = ?1")?;
    let texts: Vec<[Option<String>; 3]> =
        found.query_map([call], |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?]))?.collect::<rusqlite::Result<_>>()?;
    Ok(texts.iter().flatten().flatten().any(|text| number.is_in(text)))
}

/// JSON where it is, so that moments and ids are told from numbers; else as it stands.
fn in_text(number: &Spellings, bytes: &[u8]) -> bool {
    match serde_json::from_slice(bytes) {
        Ok(value) => number.is_in_json(&value),
        Err(_) => number.is_in(&String::from_utf8_lossy(bytes)),
    }
}

fn in_row(number: &Spellings, row: &Row) -> Result<bool> {
    let value = match row {
        Row::Cel(r) => serde_json::to_value(&**r),
        Row::Cdr(r) => serde_json::to_value(&**r),
    };
    Ok(number.is_in_json(&value.map_err(|e| StoreError::Content(e.to_string()))?))
}

fn inflated(bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    // what cannot be inflated could not be sent either
    let _ = DeflateDecoder::new(bytes).take(INFLATED_MAX).read_to_end(&mut text);
    text
}

/// Removes a call whole, and those that were merged into it.
fn remove_call(conn: &Connection, call: i64, now: Timestamp, removed: &mut Removed) -> Result<()> {
    let Some(entry) = ledger::entry(conn, call)? else { return Ok(()) };
    let mut all: Vec<i64> = conn
        .prepare_cached("SELECT call FROM ledger WHERE merged_into = ?1 AND state = 'merged'")?
        .query_map([&entry.id], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    all.push(call);
    for call in all {
        let keys = ledger::keys(conn, call)?;
        forgotten::remember_ids(conn, keys.iter().map(|k| k.text.as_str()), now)?;
        let own: String = conn.query_row("SELECT id FROM ledger WHERE call = ?1", [call], |r| r.get(0))?;
        forgotten::remember_ids(conn, own.split_once(':').map(|(_, linkedid)| linkedid).into_iter(), now)?;
        for key in keys.iter().filter(|k| k.linkedid) {
            // calls of others are told apart by the mark of a nailed-up channel
            conn.prepare_cached("DELETE FROM mark WHERE linkedid = ?1 AND kind NOT IN (?2, ?3)")?.execute([
                key.text.as_str(),
                ledger::MARK_NAILED,
                ledger::MARK_NAILED_FOR_GOOD,
            ])?;
        }
        let count = |sql: &str| -> Result<u64> {
            let n: i64 = conn.prepare_cached(sql)?.query_row([call], |r| r.get(0))?;
            Ok(n.unsigned_abs())
        };
        removed.pending += count("SELECT count(*) FROM delivery WHERE call = ?1 AND state = 0")?;
        removed.dead += count("SELECT count(*) FROM delivery WHERE call = ?1 AND state = 2")?;
        removed.recordings += count("SELECT count(*) FROM recording WHERE call = ?1")?;
        // keys, rows, documents, deliveries and recordings go with it
        conn.prepare_cached("DELETE FROM ledger WHERE call = ?1")?.execute([call])?;
        removed.calls += 1;
    }
    Ok(())
}

/// Removes the calls in the journal that name the number.
pub fn journal(
    conn: &Connection,
    number: &Spellings,
    has_cel: bool,
    now: Timestamp,
    removed: &mut Removed,
) -> Result<()> {
    let mut grouper = if has_cel { Grouper::default() } else { Grouper::cdr_only() };
    let mut members: BTreeMap<GroupId, Vec<i64>> = BTreeMap::new();
    let mut named: BTreeSet<i64> = BTreeSet::new();
    let mut after = 0;
    loop {
        let rows = journal::page(conn, after, PAGE)?;
        let Some(last) = rows.last() else { break };
        after = last.seq;
        for row in rows {
            if in_row(number, &row.held.row)? {
                named.insert(row.seq);
            }
            if let Ok(Some(joined)) = grouper.add(&row.held.row) {
                let mut own: Vec<i64> = joined.absorbed.iter().filter_map(|g| members.remove(g)).flatten().collect();
                own.push(row.seq);
                members.entry(joined.group).or_default().append(&mut own);
            }
        }
    }
    // a row of no call goes alone: the ids in it may be another's
    let mut gone: BTreeSet<i64> = named.clone();
    for seqs in members.into_values().filter(|seqs| seqs.iter().any(|seq| named.contains(seq))) {
        let rows = journal::rows(conn, &seqs)?;
        for row in group(conn, &rows, &named, now)? {
            gone.insert(row.seq);
        }
    }
    let mut gone: Vec<i64> = gone.into_iter().collect();
    removed.rows += gone.len() as u64;
    journal::remove(conn, &mut gone)
}

/// The rows of a group's calls that are named, whose ids are known as forgotten from then on. A nailed-up channel's group
/// holds calls of others too: what the channel shares with them is nobody's, and it stays known that it is nailed up,
/// though the rows that are left may not tell any more.
fn group<'r>(
    conn: &Connection,
    rows: &'r [JournalRow],
    named: &BTreeSet<i64>,
    now: Timestamp,
) -> Result<Vec<&'r JournalRow>> {
    let marked: BTreeSet<CompactString> = ledger::marks(conn)?
        .into_iter()
        .filter(|(_, kind, _)| kind == ledger::MARK_NAILED_FOR_GOOD)
        .map(|(id, ..)| id)
        .collect();
    let plain: Vec<Row> = rows.iter().map(|r| r.held.row.clone()).collect();
    for id in shared_ids(&plain) {
        let at = ids::Id::parse(id).map_or(Timestamp::default(), |id| Timestamp::from_secs(id.epoch));
        ledger::mark(conn, id, ledger::MARK_NAILED_FOR_GOOD, at, now)?;
    }
    let mut gone = Vec::new();
    for part in partition_with(&plain, |id| marked.contains(id)) {
        let part: Vec<&JournalRow> = part.into_iter().filter_map(|i| rows.get(i)).collect();
        if part.iter().any(|row| named.contains(&row.seq)) {
            let ids = part.iter().flat_map(|r| [r.held.row.uniqueid(), r.held.row.linkedid()]);
            forgotten::remember_ids(conn, ids, now)?;
            gone.extend(part);
        }
    }
    Ok(gone)
}

/// Removes the number from everything that belongs to no call.
pub fn rest(conn: &Connection, number: &Spellings, removed: &mut Removed) -> Result<()> {
    let found = |sql: &str| -> Result<Vec<i64>> {
        let mut statement = conn.prepare(sql)?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(r) = rows.next()? {
            let mut named = false;
            for column in 1..r.as_ref().column_count() {
                let text: Option<String> = r.get(column)?;
                named |= text.is_some_and(|text| in_text(number, text.as_bytes()));
            }
            if named {
                found.push(r.get(0)?);
            }
        }
        Ok(found)
    };
    for seq in found("SELECT seq, body, reason FROM quarantine")? {
        removed.quarantined += conn.execute("DELETE FROM quarantine WHERE seq = ?1", [seq])? as u64;
    }
    for recording in found("SELECT recording, owner, file, path FROM recording")? {
        removed.recordings += conn.execute("DELETE FROM recording WHERE recording = ?1", [recording])? as u64;
    }
    for (table, key, column) in [
        ("delivery", "delivery", "last_error"),
        ("upload", "recording", "last_error"),
        ("sink_state", "rowid", "value"),
        ("request", "request", "answer"),
    ] {
        removed.errors += blacken(conn, number, table, key, column)?;
    }
    // the wish itself names the number; others of its kind may wait for their turn
    let wishes: Vec<(i64, String)> = conn
        .prepare("SELECT request, argument FROM request WHERE kind = 'forget'")?
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (request, argument) in wishes {
        let digits: String = argument.chars().filter(char::is_ascii_digit).collect();
        if number.is_in(&digits) {
            requests::blank(conn, request)?;
        }
    }
    Ok(())
}

fn blacken(conn: &Connection, number: &Spellings, table: &str, key: &str, column: &str) -> Result<u64> {
    // sink_state has a name for its key
    let key = if table == "sink_state" { "sink" } else { key };
    let sql = format!("SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL");
    let mut statement = conn.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut changes: Vec<(rusqlite::types::Value, String)> = Vec::new();
    while let Some(r) = rows.next()? {
        let text: String = r.get(1)?;
        if !in_text(number, text.as_bytes()) {
            continue;
        }
        // JSON has to stay what it is
        let clean = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(mut value) => {
                blacken_json(number, &mut value);
                value.to_string()
            }
            Err(_) => number.without(&text),
        };
        changes.push((r.get(0)?, clean));
    }
    let update = format!("UPDATE {table} SET {column} = ?2 WHERE {key} = ?1");
    for (key, clean) in &changes {
        conn.execute(&update, params![key, clean])?;
    }
    Ok(changes.len() as u64)
}

fn blacken_json(number: &Spellings, value: &mut serde_json::Value) {
    match value {
        serde_json::Value::String(text) if number.is_in(text) => *text = number.without(text),
        serde_json::Value::Array(all) => all.iter_mut().for_each(|v| blacken_json(number, v)),
        serde_json::Value::Object(all) => all.values_mut().for_each(|v| blacken_json(number, v)),
        _ => {}
    }
}
