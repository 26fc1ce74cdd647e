//! Recording files on their way to the API: one a file and size, kept until answered.

use rusqlite::{Connection, params};

use super::Result;
use crate::call::Timestamp;

/// Recordings taken up in one transaction.
const QUEUE_MAX: i64 = 200;
/// Kept of an error, bytes.
const ERROR_MAX: usize = 2_300;

/// A file that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub recording: i64,
    pub path: String,
    pub file: String,
    /// Bytes it had when it was complete.
    pub size: u64,
    pub attempts: u32,
    pub queued_at: Timestamp,
    /// Id and newest document of its call; `None` where that is gone.
    pub call_id: String,
    pub document: Option<String>,
}

/// Takes up files whose call was shipped with them. Those found before `since` are left alone for good: sending was not
/// asked for then. How many were looked at.
pub fn queue(conn: &Connection, since: Timestamp, now: Timestamp) -> Result<usize> {
    let mut find = conn.prepare_cached(
        "SELECT r.recording, r.found_at >= ?1 AND l.state = 'shipped'
           FROM recording r JOIN ledger l ON l.call = r.call
          WHERE r.call IS NOT NULL AND r.matched_by = 'name' AND r.queued = 0 ORDER BY r.recording LIMIT ?2",
    )?;
    let page: Vec<(i64, bool)> = find
        .query_map(params![since.micros(), QUEUE_MAX], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (recording, wanted) in &page {
        if *wanted {
            conn.prepare_cached("INSERT OR REPLACE INTO upload (recording, due_at, queued_at) VALUES (?1, ?2, ?2)")?
                .execute(params![recording, now.micros()])?;
        }
        conn.prepare_cached("UPDATE recording SET queued = 1 WHERE recording = ?1")?.execute([recording])?;
    }
    Ok(page.len())
}

/// Files whose time has come, at most `limit`.
pub fn due(conn: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Upload>> {
    let mut statement = conn.prepare_cached(
        "SELECT u.recording, r.path, r.file, r.size, u.attempts, u.queued_at, l.id,
                (SELECT x.body FROM document x WHERE x.call = l.call ORDER BY x.revision DESC LIMIT 1)
           FROM upload u JOIN recording r ON r.recording = u.recording JOIN ledger l ON l.call = r.call
          WHERE u.state = 0 AND u.due_at <= ?1 AND r.path IS NOT NULL ORDER BY u.due_at LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([now.micros(), limit], |r| {
        let (size, attempts): (Option<i64>, i64) = (r.get(3)?, r.get(4)?);
        Ok(Upload {
            recording: r.get(0)?,
            path: r.get(1)?,
            file: r.get(2)?,
            size: size.and_then(|s| u64::try_from(s).ok()).unwrap_or_default(),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            queued_at: Timestamp::from_micros(r.get(5)?),
            call_id: r.get(6)?,
            document: r.get(7)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Retry {
        due_at: Timestamp,
        error: String,
    },
    /// Not this file's fault: nothing is counted.
    Release {
        due_at: Timestamp,
        error: String,
    },
    Dead {
        error: String,
    },
}

pub fn record(conn: &Connection, recording: i64, outcome: &Outcome, now: Timestamp) -> Result<()> {
    let (state, attempt, due_at, error) = match outcome {
        Outcome::Delivered => (1, 1, None, None),
        Outcome::Retry { due_at, error } => (0, 1, Some(due_at.micros()), Some(error)),
        Outcome::Release { due_at, error } => (0, 0, Some(due_at.micros()), Some(error)),
        Outcome::Dead { error } => (2, 1, None, Some(error)),
    };
    let finished = (state != 0).then_some(now.micros());
    let error = error.map(|e| &e[..e.floor_char_boundary(ERROR_MAX)]);
    conn.prepare_cached(
        "UPDATE upload SET state = ?2, attempts = attempts + ?3, due_at = coalesce(?4, due_at), finished_at = ?5,
                last_error = ?6 WHERE recording = ?1",
    )?
    .execute(params![recording, state, attempt, due_at, finished, error])?;
    Ok(())
}

/// How many wait.
pub fn pending(conn: &Connection) -> Result<i64> {
    Ok(conn.prepare_cached("SELECT count(*) FROM upload WHERE state = 0")?.query_row([], |r| r.get(0))?)
}
