//! The order of one call's deliveries at a sink: a newer revision takes the place of an older one, a tombstone waits for its
//! survivor and shares its fate.

use rusqlite::{Connection, OptionalExtension, params};

use super::super::Result;
use crate::call::Timestamp;

pub(super) const PREDECESSOR_FAILED: &str = "predecessor_failed: the call that took this one in was not delivered";

/// The delivery that `after` names at this sink, and whether it is dead.
pub(super) fn predecessor(conn: &Connection, sink: &str, after: Option<(i64, i64)>) -> Result<Option<(i64, bool)>> {
    let Some((call, revision)) = after else { return Ok(None) };
    // a newer revision of the survivor stands for it just as well
    Ok(conn
        .prepare_cached(
            "SELECT delivery, state = 2 FROM delivery WHERE call = ?1 AND sink = ?2 AND revision >= ?3
             ORDER BY revision DESC LIMIT 1",
        )?
        .query_row(params![call, sink, revision], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?)
}

pub(super) fn supersede_older(
    conn: &Connection,
    sink: &str,
    call: i64,
    revision: i64,
    by: i64,
    now: Timestamp,
) -> Result<usize> {
    let mut find = conn.prepare_cached(
        "SELECT delivery, state = 2 FROM delivery WHERE call = ?1 AND sink = ?2 AND revision < ?3
            AND (state = 2 OR state = 0 AND flight = 0 AND batch IS NULL)",
    )?;
    let older: Vec<(i64, bool)> = find
        .query_map(params![call, sink, revision], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut superseded = 0;
    for (delivery, dead) in older {
        if dead {
            // what died with it has another chance with the newer one
            for follower in dead_followers(conn, delivery)? {
                conn.prepare_cached("UPDATE delivery SET after = ?2 WHERE delivery = ?1")?.execute([follower, by])?;
                revive(conn, follower, now)?;
            }
        } else {
            supersede(conn, delivery, by, now)?;
            superseded += 1;
        }
    }
    Ok(superseded)
}

/// Deliveries that were given up because they waited for this one.
fn dead_followers(conn: &Connection, delivery: i64) -> Result<Vec<i64>> {
    let mut find = conn.prepare_cached(
        "SELECT delivery FROM delivery WHERE sink = (SELECT sink FROM delivery WHERE delivery = ?1)
            AND state = 2 AND after = ?1 AND last_error = ?2",
    )?;
    Ok(find.query_map(params![delivery, PREDECESSOR_FAILED], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

fn supersede(conn: &Connection, delivery: i64, by: i64, now: Timestamp) -> Result<()> {
    conn.prepare_cached(
        "UPDATE delivery SET state = 3, flight = 0, finished_at = ?2, body = NULL, batch = NULL WHERE delivery = ?1",
    )?
    .execute(params![delivery, now.micros()])?;
    // who waited for it waits for the newer one
    conn.prepare_cached("UPDATE delivery SET after = ?2 WHERE after = ?1 AND state = 0 AND delivery <> ?2")?
        .execute(params![delivery, by])?;
    Ok(())
}

/// An attempt has failed and the delivery waits again: a newer revision that came meanwhile takes its place.
pub(super) fn give_way(conn: &Connection, delivery: i64, now: Timestamp) -> Result<()> {
    let newer: Option<i64> = conn
        .prepare_cached(
            "SELECT n.delivery FROM delivery d JOIN delivery n
                 ON n.call = d.call AND n.sink = d.sink AND n.revision > d.revision AND n.state = 0
              WHERE d.delivery = ?1 AND d.state = 0 AND d.batch IS NULL ORDER BY n.revision DESC LIMIT 1",
        )?
        .query_row([delivery], |r| r.get(0))
        .optional()?;
    newer.map_or(Ok(()), |by| supersede(conn, delivery, by, now))
}

/// Who waited for a delivery that is dead is dead with it, and so on; unless a newer revision came meanwhile, which stands
/// for it.
pub(super) fn kill_followers(conn: &Connection, delivery: i64, now: Timestamp) -> Result<()> {
    let newer: Option<i64> = conn
        .prepare_cached(
            "SELECT n.delivery FROM delivery d JOIN delivery n
                 ON n.call = d.call AND n.sink = d.sink AND n.revision > d.revision AND n.state IN (0, 1)
              WHERE d.delivery = ?1 AND d.state = 2 ORDER BY n.revision DESC LIMIT 1",
        )?
        .query_row([delivery], |r| r.get(0))
        .optional()?;
    if let Some(newer) = newer {
        conn.prepare_cached("UPDATE delivery SET after = ?2 WHERE after = ?1 AND state = 0")?
            .execute([delivery, newer])?;
        return Ok(());
    }
    let mut dead = vec![delivery];
    while let Some(first) = dead.pop() {
        let mut find = conn.prepare_cached("SELECT delivery FROM delivery WHERE after = ?1 AND state = 0")?;
        let followers: Vec<i64> = find.query_map([first], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
        for follower in followers {
            conn.prepare_cached(
                "UPDATE delivery SET state = 2, flight = 0, finished_at = ?2, last_error = ?3, batch = NULL
                  WHERE delivery = ?1",
            )?
            .execute(params![follower, now.micros(), PREDECESSOR_FAILED])?;
            dead.push(follower);
        }
    }
    Ok(())
}

/// Makes a dead delivery pending again, due at once and with a new age; with it those that died because of it. Where a
/// newer revision exists the old one is superseded instead. Returns how many are pending now.
pub fn revive(conn: &Connection, delivery: i64, now: Timestamp) -> Result<usize> {
    let newer: Option<i64> = conn
        .prepare_cached(
            "SELECT n.delivery FROM delivery d JOIN delivery n
                 ON n.call = d.call AND n.sink = d.sink AND n.revision > d.revision
              WHERE d.delivery = ?1 AND d.state = 2 ORDER BY n.revision DESC LIMIT 1",
        )?
        .query_row([delivery], |r| r.get(0))
        .optional()?;
    if let Some(by) = newer {
        supersede(conn, delivery, by, now)?;
        return Ok(0);
    }
    let mut revived = conn
        .prepare_cached(
            "UPDATE delivery SET state = 0, flight = 0, due_at = ?2, queued_at = ?2, finished_at = NULL, age = 0,
                    tried_up = NULL
              WHERE delivery = ?1 AND state = 2",
        )?
        .execute(params![delivery, now.micros()])?;
    if revived > 0 {
        for follower in dead_followers(conn, delivery)? {
            revived += revive(conn, follower, now)?;
        }
    }
    Ok(revived)
}
