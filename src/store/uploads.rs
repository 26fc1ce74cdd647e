//! Recording files on their way to the API: one a file and size, kept until answered. What becomes of an attempt is said
//! in the words of the outbox, since the same policy decides it.

use rusqlite::{Connection, params};

use super::outbox::{ERROR_MAX, Outcome};
use super::{Result, meta};
use crate::call::Timestamp;

/// Recordings taken up in one transaction.
const QUEUE_MAX: i64 = 200;
/// Since when recordings are sent, in `meta`.
const SINCE: &str = "recordings_sent_since";

/// A file that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub recording: i64,
    pub path: String,
    pub file: String,
    /// Bytes it had when it was complete.
    pub size: u64,
    pub attempts: u32,
    pub refused: u32,
    /// How long it was tried while the API was up, microseconds.
    pub age: i64,
    /// The API's up-clock at the last attempt, microseconds.
    pub tried_up: Option<i64>,
    pub queued_at: Timestamp,
    /// `ledger.call`.
    pub call: i64,
    /// Id and newest document of its call; `None` where that is gone.
    pub call_id: String,
    pub document: Option<String>,
}

/// Since when files are sent: recordings found before were not asked for. Set by the first agent that sends them to
/// `begin`, and kept until one runs that does not.
pub fn since(conn: &Connection, begin: Timestamp) -> Result<Timestamp> {
    if let Some(kept) = meta::get(conn, SINCE)?.and_then(|text| text.parse().ok()) {
        return Ok(Timestamp::from_micros(kept));
    }
    meta::put(conn, SINCE, &begin.micros().to_string())?;
    Ok(begin)
}

/// Recordings are not sent from now on.
pub fn stop(conn: &Connection) -> Result<()> {
    meta::remove(conn, SINCE)
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

/// Files whose time has come, at most `limit`, the longest due first.
pub fn due(conn: &Connection, now: Timestamp, limit: usize) -> Result<Vec<Upload>> {
    let mut statement = conn.prepare_cached(
        "SELECT u.recording, r.path, r.file, r.size, u.attempts, u.refused, u.age, u.tried_up, u.queued_at, l.call, l.id,
                (SELECT x.body FROM document x WHERE x.call = l.call ORDER BY x.revision DESC LIMIT 1)
           FROM upload u JOIN recording r ON r.recording = u.recording JOIN ledger l ON l.call = r.call
          WHERE u.state = 0 AND u.due_at <= ?1 AND r.path IS NOT NULL ORDER BY u.due_at LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map([now.micros(), limit], |r| {
        let (size, attempts, refused): (Option<i64>, i64, i64) = (r.get(3)?, r.get(4)?, r.get(5)?);
        Ok(Upload {
            recording: r.get(0)?,
            path: r.get(1)?,
            file: r.get(2)?,
            size: size.and_then(|s| u64::try_from(s).ok()).unwrap_or_default(),
            attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
            refused: u32::try_from(refused).unwrap_or(u32::MAX),
            age: r.get(6)?,
            tried_up: r.get(7)?,
            queued_at: Timestamp::from_micros(r.get(8)?),
            call: r.get(9)?,
            call_id: r.get(10)?,
            document: r.get(11)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What became of an attempt. `queued_at`: of what was sent, if known; where the file changed meanwhile and was queued
/// anew, the answer is not about it and nothing is written.
pub fn record(
    conn: &Connection,
    recording: i64,
    queued_at: Option<Timestamp>,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<()> {
    let (state, attempt) = match outcome {
        Outcome::Delivered => (1, 1),
        Outcome::Retry { .. } => (0, 1),
        Outcome::Dead { .. } => (2, 1),
        Outcome::Release { .. } | Outcome::Split { .. } | Outcome::Revive => (0, 0),
    };
    let (due_at, age, tried_up, error, refused) = match outcome {
        Outcome::Delivered => (None, None, None, None, false),
        Outcome::Retry { due_at, age, tried_up, error } => {
            (Some(*due_at), Some(*age), Some(*tried_up), Some(error.as_str()), false)
        }
        Outcome::Dead { error, refused } => (None, None, None, Some(error.as_str()), *refused),
        Outcome::Release { due_at, error, refused } => (Some(*due_at), None, None, error.as_deref(), *refused),
        // a file is never sent in a batch
        Outcome::Split { error, .. } => (Some(now), None, None, Some(error.as_str()), false),
        Outcome::Revive => (Some(now), Some(0), None, None, false),
    };
    let finished = (state != 0).then_some(now.micros());
    let error = error.map(|e| &e[..e.floor_char_boundary(ERROR_MAX)]);
    conn.prepare_cached(
        "UPDATE upload SET state = ?2, attempts = attempts + ?3, due_at = coalesce(?4, due_at), finished_at = ?5,
                age = coalesce(?6, age), tried_up = coalesce(?7, tried_up), refused = refused + ?8,
                last_error = iif(?2 = 1, NULL, coalesce(?9, last_error))
          WHERE recording = ?1 AND queued_at = coalesce(?10, queued_at)",
    )?
    .execute(params![
        recording,
        state,
        attempt,
        due_at.map(Timestamp::micros),
        finished,
        age,
        tried_up,
        refused,
        error,
        queued_at.map(Timestamp::micros),
    ])?;
    Ok(())
}

/// The API answers again: nothing has to wait for a retry that was planned while it did not. The same for what a clock
/// that was set back since planned later than `latest`.
pub fn hasten(conn: &Connection, latest: Timestamp, now: Timestamp) -> Result<usize> {
    Ok(conn
        .prepare_cached("UPDATE upload SET due_at = ?2 WHERE state = 0 AND due_at > ?1")?
        .execute([latest.micros(), now.micros()])?)
}

/// Gives up what was queued before `before`. Returns how many.
pub fn expire(conn: &Connection, before: Timestamp, now: Timestamp, error: &str) -> Result<usize> {
    Ok(conn
        .prepare_cached(
            "UPDATE upload SET state = 2, finished_at = ?2,
                    last_error = substr(?3 || coalesce(': ' || last_error, ''), 1, 2300)
              WHERE state = 0 AND queued_at < ?1",
        )?
        .execute(params![before.micros(), now.micros(), error])?)
}

/// How many wait.
pub fn pending(conn: &Connection) -> Result<i64> {
    Ok(conn.prepare_cached("SELECT count(*) FROM upload WHERE state = 0")?.query_row([], |r| r.get(0))?)
}

/// How many were given up.
pub fn dead(conn: &Connection) -> Result<i64> {
    Ok(conn.prepare_cached("SELECT count(*) FROM upload WHERE state = 2")?.query_row([], |r| r.get(0))?)
}
