//! What is let go, and when. Everything goes in small steps, so that no other job waits long for the writer.
//!
//! Rows and documents of a delivered call go `retention` after its end: calls of history go as soon as they are
//! delivered. The ledger stays [`LEDGER_DAYS`], long after them. What waits for a sink is never touched; dead letters give
//! way only where the budget leaves nothing else.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Result, reached};
use crate::call::Timestamp;

/// How long the ledger knows a call, days.
pub const LEDGER_DAYS: i64 = 400;
/// How long a delivery that was given up is kept for a person to look at, days.
pub const DEAD_DAYS: i64 = 90;
/// How long rows without a trustworthy id are known, days of their own clock: the audit looks back 26 hours.
const SEEN_DAYS: i64 = 3;
/// How many blocks of ids are counted, per table.
const ID_BLOCKS_MAX: i64 = 200_000;
/// How long a recording waits for a call that has its id, days: as long as the PBX's database may be away.
const RECORDING_DAYS: i64 = 14;
/// How many of them wait.
const RECORDINGS_WAITING_MAX: i64 = 100_000;
/// How many unreadable rows are kept.
const QUARANTINE_MAX: i64 = 10_000;

pub const DAY_MICROS: i64 = 86_400_000_000;

/// One walk through the calls whose rows are kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    after: i64,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub purged: usize,
    /// The end was reached: the next step begins anew.
    pub done: bool,
}

impl Sweep {
    /// Looks at up to `limit` calls and lets go rows and documents of those that ended before `ended_before` and wait
    /// for no sink.
    pub fn step(&mut self, conn: &Connection, ended_before: Timestamp, now: Timestamp, limit: usize) -> Result<Step> {
        let mut page = conn.prepare_cached(
            "SELECT f.call,
                    l.ended_at < ?2 AND NOT EXISTS (
                        SELECT 1 FROM delivery d WHERE d.call = f.call
                        AND (d.state = 0 OR (d.state = 2 AND d.finished_at > ?3)))
                    AND NOT EXISTS (
                        SELECT 1 FROM recording r JOIN upload u ON u.recording = r.recording
                        WHERE r.call = f.call AND u.state = 0)
             FROM folded f JOIN ledger l ON l.call = f.call WHERE f.call > ?1 ORDER BY f.call LIMIT ?4",
        )?;
        let dead_before = now.micros() - DEAD_DAYS * DAY_MICROS;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let calls: Vec<(i64, bool)> = page
            .query_map(params![self.after, ended_before.micros(), dead_before, limit], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut step = Step::default();
        for (call, over) in &calls {
            if *over {
                let_go(conn, *call)?;
                step.purged += 1;
            }
        }
        match calls.last() {
            Some((last, _)) if i64::try_from(calls.len()).unwrap_or(i64::MAX) >= limit => self.after = *last,
            _ => {
                self.after = 0;
                step.done = true;
            }
        }
        Ok(step)
    }
}

/// Lets go the calls of up to `limit` of the oldest dead letters that wait for no other sink. How many went.
pub fn drop_dead(conn: &Connection, limit: usize) -> Result<usize> {
    let mut oldest = conn.prepare_cached(
        "SELECT DISTINCT call FROM (SELECT d.call FROM delivery d WHERE d.state = 2 AND NOT EXISTS (
             SELECT 1 FROM delivery p WHERE p.call = d.call AND p.state = 0) ORDER BY d.finished_at, d.delivery LIMIT ?1)",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let calls: Vec<i64> = oldest.query_map([limit], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    for call in &calls {
        let_go(conn, *call)?;
    }
    Ok(calls.len())
}

/// Lets go of calls whose deliveries have just ended well and that ended before `ended_before`, unless another sink still
/// wants them: history does not wait for the next walk.
pub fn delivered(conn: &Connection, deliveries: &[i64], ended_before: Timestamp) -> Result<()> {
    let mut find = conn.prepare_cached(
        "SELECT d.call FROM delivery d JOIN ledger l ON l.call = d.call
          WHERE d.delivery = ?1 AND l.ended_at < ?2 AND l.state <> 'in_progress' AND NOT EXISTS (
              SELECT 1 FROM delivery o WHERE o.call = d.call AND o.state IN (0, 2))",
    )?;
    for delivery in deliveries {
        let call = find.query_row(params![delivery, ended_before.micros()], |r| r.get(0)).optional()?;
        if let Some(call) = call {
            let_go(conn, call)?;
        }
    }
    Ok(())
}

fn let_go(conn: &Connection, call: i64) -> Result<()> {
    // what a sink got, and what it never got, has to be known when somebody counts
    reached::write_down(conn, call)?;
    for sql in [
        "DELETE FROM delivery WHERE call = ?1",
        "DELETE FROM document WHERE call = ?1",
        "DELETE FROM folded WHERE call = ?1",
    ] {
        conn.prepare_cached(sql)?.execute([call])?;
    }
    Ok(())
}

/// Lets go what is older than its time in the other tables, up to `limit` rows of each. `kept_since`: rows that could not be
/// read and came before go; they may name people as others do. True: more is waiting.
pub fn housekeep(conn: &Connection, now: Timestamp, kept_since: Timestamp, limit: usize) -> Result<bool> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let ledger_before = now.micros() - LEDGER_DAYS * DAY_MICROS;
    let dead_before = now.micros() - DEAD_DAYS * DAY_MICROS;
    let mut more = false;

    // tombstones have documents and no rows: they go when they were delivered and the day is over
    let merged: Vec<i64> = conn
        .prepare_cached(
            "SELECT l.call FROM document x JOIN ledger l ON l.call = x.call
             WHERE l.state = 'merged' AND x.created_at < ?1 AND NOT EXISTS (
                 SELECT 1 FROM delivery d WHERE d.call = l.call
                 AND (d.state = 0 OR (d.state = 2 AND d.finished_at > ?2)))
             LIMIT ?3",
        )?
        .query_map([now.micros() - DAY_MICROS, dead_before, limit], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for call in &merged {
        let_go(conn, *call)?;
    }

    let mut delete = |sql: &str, values: &[i64]| -> Result<()> {
        let gone = conn.prepare_cached(sql)?.execute(rusqlite::params_from_iter(values))?;
        more |= i64::try_from(gone).unwrap_or(i64::MAX) >= limit;
        Ok(())
    };
    delete(
        "DELETE FROM ledger WHERE call IN (
             SELECT l.call FROM ledger l WHERE l.ended_at < ?1 AND l.updated_at < ?1
             AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.call = l.call AND d.state = 0) LIMIT ?2)",
        &[ledger_before, limit],
    )?;
    delete(
        "DELETE FROM mark WHERE (linkedid, kind) IN (SELECT linkedid, kind FROM mark WHERE created_at < ?1 LIMIT ?2)",
        &[ledger_before, limit],
    )?;
    let seen_before = (now.micros() - SEEN_DAYS * DAY_MICROS).div_euclid(60_000_000);
    for tbl in [0, 1] {
        delete(
            "DELETE FROM seen WHERE place IN (SELECT place FROM seen WHERE tbl = ?1 AND minute < ?2 LIMIT ?3)",
            &[tbl, seen_before, limit],
        )?;
        delete(
            "DELETE FROM id_block WHERE tbl = ?1 AND (generation, block) IN (
                 SELECT generation, block FROM id_block WHERE tbl = ?1 ORDER BY generation DESC, block DESC
                 LIMIT ?3 OFFSET ?2)",
            &[tbl, ID_BLOCKS_MAX, limit],
        )?;
    }
    delete(
        "DELETE FROM recording WHERE recording IN (
             SELECT recording FROM recording WHERE call IS NULL AND found_at < ?1 LIMIT ?2)",
        &[now.micros() - RECORDING_DAYS * DAY_MICROS, limit],
    )?;
    delete(
        "DELETE FROM recording WHERE recording IN (
             SELECT recording FROM recording WHERE call IS NULL ORDER BY recording DESC LIMIT ?2 OFFSET ?1)",
        &[RECORDINGS_WAITING_MAX, limit],
    )?;
    // what the API said of a recording that was given up, as of a call
    delete(
        "UPDATE upload SET last_error = NULL WHERE recording IN (
             SELECT recording FROM upload WHERE state = 2 AND finished_at < ?1 AND last_error IS NOT NULL LIMIT ?2)",
        &[dead_before, limit],
    )?;
    delete(
        "DELETE FROM quarantine WHERE seq IN (SELECT seq FROM quarantine WHERE arrived_at < ?1 ORDER BY seq LIMIT ?2)",
        &[kept_since.micros(), limit],
    )?;
    delete("DELETE FROM quarantine WHERE seq <= (SELECT max(seq) FROM quarantine) - ?1", &[QUARANTINE_MAX])?;
    Ok(more || merged.len() >= usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Pages of the file that hold something, and pages that are free, in bytes.
pub fn used_and_free(conn: &Connection) -> Result<(u64, u64)> {
    let pragma = |sql: &str| -> Result<u64> { Ok(conn.query_row(sql, [], |r| r.get::<_, i64>(0))?.unsigned_abs()) };
    let size = pragma("PRAGMA page_size")?;
    let free = pragma("PRAGMA freelist_count")?;
    let all = pragma("PRAGMA page_count")?;
    Ok((all.saturating_sub(free) * size, free * size))
}

/// Gives up to `pages` free pages back to the file system.
pub fn shrink(conn: &Connection, pages: u32) -> Result<()> {
    let mut statement = conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    // it frees a page per step
    while rows.next()?.is_some() {}
    Ok(())
}
