//! Recordings found beside the rows of calls. A recording waits until a call that has its id was built with it; one that
//! changed waits again.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::Result;
use super::forgotten::Gate;
use super::ledger::Key;
use crate::call::{FoundRecording, RecordingMatch, Timestamp};
use crate::correlate::ids;

/// A recording as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub recording: i64,
    pub found: FoundRecording,
}

/// What a build knew of a recording: its number and its size then.
pub type Used = (i64, Option<u64>);

/// Recordings of one id that a call is built with, at most: a document with more would be refused everywhere.
const OF_A_KEY_MAX: i64 = 500;

/// Keeps a recording. False: it is known as it is, or its owner holds no id.
pub fn put(conn: &Connection, found: &FoundRecording, now: Timestamp) -> Result<bool> {
    let Some(key) = ids::found_in(&found.owner).last().copied() else { return Ok(false) };
    if let Some(gate) = Gate::load(conn)?
        && gate.refuses_recording(conn, found)?
    {
        return Ok(false);
    }
    let started_at = found.started_at.map(Timestamp::micros);
    let changed = conn
        .prepare_cached(
            "INSERT INTO recording (key, owner, file, path, size, started_at, matched_by, found_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
             ON CONFLICT (key, matched_by, coalesce(path, file)) DO UPDATE SET size = excluded.size, call = NULL,
                 queued = 0
             WHERE size IS NOT excluded.size",
        )?
        .execute(params![
            key,
            found.owner,
            found.file,
            found.path,
            bytes(found.size),
            started_at,
            found.by.as_str(),
            now.micros()
        ])?;
    Ok(changed > 0)
}

/// Whether there is any at all.
pub fn any(conn: &Connection) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT EXISTS (SELECT 1 FROM recording)")?.query_row([], |r| r.get(0))?)
}

/// The recordings of a call with these keys, in an order of their own.
pub fn of_keys(conn: &Connection, keys: &[Key]) -> Result<Vec<Kept>> {
    let mut statement = conn.prepare_cached(
        "SELECT recording, owner, file, path, size, started_at, matched_by FROM recording WHERE key = ?1
         ORDER BY recording LIMIT ?2",
    )?;
    let full: BTreeSet<&str> = keys.iter().map(|k| k.text.as_str()).collect();
    let bare: BTreeSet<&str> = full.iter().filter_map(|id| ids::found_in(id).last().copied()).collect();
    let mut kept = Vec::new();
    for key in bare {
        let rows = statement.query_map(params![key, OF_A_KEY_MAX], read)?;
        for row in rows {
            let row = row?;
            if ids::found_in(&row.found.owner).iter().any(|id| full.contains(id)) {
                kept.push(row);
            }
        }
    }
    kept.sort_by(|a, b| {
        let order = |k: &Kept| (k.found.by.as_str(), k.found.file.clone(), k.found.path.clone());
        order(a).cmp(&order(b))
    });
    Ok(kept)
}

/// A call was built with these: they wait no more, unless they changed meanwhile. One that was another call's, which kept
/// it from being sent, is looked at once more.
pub fn claim(conn: &Connection, call: i64, used: &[Used]) -> Result<()> {
    let mut statement = conn.prepare_cached(
        "UPDATE recording SET call = ?1, queued = iif(EXISTS (
                SELECT 1 FROM upload u WHERE u.recording = recording.recording), queued, 0)
          WHERE recording = ?2 AND size IS ?3 AND call IS NOT ?1",
    )?;
    for (recording, size) in used {
        statement.execute(params![call, recording, bytes(*size)])?;
    }
    Ok(())
}

/// A call that may have been kept back so far is shipped: those of its recordings that were never to be sent are looked
/// at once more.
pub fn look_again(conn: &Connection, call: i64) -> Result<()> {
    conn.prepare_cached(
        "UPDATE recording SET queued = 0 WHERE call = ?1 AND queued = 1
            AND NOT EXISTS (SELECT 1 FROM upload u WHERE u.recording = recording.recording)",
    )?
    .execute([call])?;
    Ok(())
}

/// Recordings that wait and whose call of the ledger can be built again, with that call. Looks at up to `limit` of those
/// after `after`; returns also where to go on, 0 at the end.
pub fn waiting(conn: &Connection, after: i64, limit: usize) -> Result<(Vec<(Used, i64)>, i64)> {
    let limit_sql = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = conn.prepare_cached(
        "SELECT recording, owner, size FROM recording WHERE call IS NULL AND recording > ?1 ORDER BY recording LIMIT ?2",
    )?;
    let page: Vec<(i64, String, Option<i64>)> = statement
        .query_map([after, limit_sql], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let next = if page.len() < limit { 0 } else { page.last().map_or(0, |(n, ..)| *n) };
    let mut found = Vec::new();
    for (recording, owner, size) in &page {
        let used = (*recording, size.and_then(|s| u64::try_from(s).ok()));
        found.extend(call_of(conn, owner)?.filter(|c| c.can_be_built).map(|c| (used, c.call)));
    }
    Ok((found, next))
}

/// The call that the id in `owner` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub call: i64,
    /// Its rows are here, and it is neither frozen nor part of another.
    pub can_be_built: bool,
}

/// `None`: no call of the ledger has it (yet).
pub fn call_of(conn: &Connection, owner: &str) -> Result<Option<Owner>> {
    let mut statement = conn.prepare_cached(
        "SELECT l.call, l.frozen = 0 AND l.state <> 'merged' AND EXISTS (SELECT 1 FROM folded f WHERE f.call = l.call)
         FROM ledger_key k JOIN ledger l ON l.call = k.call WHERE k.key = ?1 ORDER BY k.linkedid DESC LIMIT 1",
    )?;
    for id in ids::found_in(owner) {
        let found = statement.query_row([id], |r| Ok(Owner { call: r.get(0)?, can_be_built: r.get(1)? })).optional()?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The owner of the recordings table's entry that names this file, if it is one.
pub fn named(conn: &Connection, file: &str, path: &str) -> Result<Option<String>> {
    let mut statement = conn
        .prepare_cached("SELECT DISTINCT owner, path FROM recording WHERE matched_by = 'db' AND file = ?1 LIMIT 50")?;
    let entries: Vec<(String, Option<String>)> =
        statement.query_map([file], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
    let exact: BTreeSet<&String> =
        entries.iter().filter(|(_, p)| p.as_deref() == Some(path)).map(|(owner, _)| owner).collect();
    let all: BTreeSet<&String> = entries.iter().map(|(owner, _)| owner).collect();
    let only = |owners: &BTreeSet<&String>| owners.first().filter(|_| owners.len() == 1).map(|o| (*o).clone());
    Ok(only(&exact).or_else(|| only(&all)))
}

/// Calls at once that are looked through for one file.
const AROUND_MAX: usize = 2_000;
/// A clock may be off by this, microseconds.
const OFF: i64 = 5_000_000;
/// A call lasts so much longer than the moment asked for, at most.
const LASTS: i64 = 4 * 3_600_000_000;

/// The documents of calls that were up at a moment, those kept back by a filter too: a recording of theirs must not go to
/// another. `None`: too many to tell them apart.
pub fn around(conn: &Connection, at: Timestamp) -> Result<Option<Vec<String>>> {
    let mut statement = conn.prepare_cached(
        "SELECT (SELECT x.body FROM document x WHERE x.call = l.call ORDER BY x.revision DESC LIMIT 1) FROM ledger l
          WHERE l.ended_at BETWEEN ?1 AND ?2 AND l.started_at <= ?3
            AND l.state IN ('shipped', 'suppressed', 'in_progress') LIMIT ?4",
    )?;
    let bounds = [at.plus_micros(-OFF), at.plus_micros(LASTS), at.plus_micros(OFF)].map(Timestamp::micros);
    let limit = i64::try_from(AROUND_MAX + 1).unwrap_or(i64::MAX);
    let bodies: Vec<Option<String>> = statement
        .query_map(params![bounds[0], bounds[1], bounds[2], limit], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    Ok((bodies.len() <= AROUND_MAX).then(|| bodies.into_iter().flatten().collect()))
}

fn read(r: &SqlRow<'_>) -> rusqlite::Result<Kept> {
    let by: String = r.get(6)?;
    let size: Option<i64> = r.get(4)?;
    let started_at: Option<i64> = r.get(5)?;
    Ok(Kept {
        recording: r.get(0)?,
        found: FoundRecording {
            owner: r.get(1)?,
            file: r.get(2)?,
            path: r.get(3)?,
            size: size.and_then(|s| u64::try_from(s).ok()),
            started_at: started_at.map(Timestamp::from_micros),
            by: if by == RecordingMatch::Db.as_str() { RecordingMatch::Db } else { RecordingMatch::Name },
        },
    })
}

fn bytes(size: Option<u64>) -> Option<i64> {
    size.map(|s| i64::try_from(s).unwrap_or(i64::MAX))
}
