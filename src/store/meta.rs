//! Single values: who the source is, when this state was created, the zones and rules that were in force; and positions.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Result, StoreError};
use crate::call::Timestamp;
use crate::correlate::{Rules, Zone};

/// Names of the values kept in `meta`.
const SOURCE_ID: &str = "source_id";
const CREATED_AT: &str = "created_at";
const ZONES: &str = "zones";
const RULES: &str = "rules";
const JOURNAL_NEXT: &str = "journal_next";

pub fn get(conn: &Connection, key: &str) -> Result<Option<String>> {
    let mut statement = conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |r| r.get(0)).optional()?)
}

pub fn put(conn: &Connection, key: &str, value: &str) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([key, value])?;
    Ok(())
}

pub fn remove(conn: &Connection, key: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key])?;
    Ok(())
}

fn number(conn: &Connection, key: &str) -> Result<Option<i64>> {
    let Some(text) = get(conn, key)? else { return Ok(None) };
    let value = text.parse().map_err(|_| StoreError::Content(format!("meta {key} = {text:?} is not a number")))?;
    Ok(Some(value))
}

fn micros(conn: &Connection, key: &str) -> Result<Option<Timestamp>> {
    Ok(number(conn, key)?.map(Timestamp::from_micros))
}

/// The number of the journal's next row.
pub(super) fn journal_next(conn: &Connection) -> Result<i64> {
    Ok(number(conn, JOURNAL_NEXT)?.unwrap_or(1))
}

pub(super) fn put_journal_next(conn: &Connection, next: i64) -> Result<()> {
    put(conn, JOURNAL_NEXT, &next.to_string())
}

/// The source this state belongs to; `None` in a new state.
pub fn source_id(conn: &Connection) -> Result<Option<String>> {
    get(conn, SOURCE_ID)
}

/// Makes the state that of this source, once.
pub fn begin(conn: &Connection, source_id: &str, now: Timestamp) -> Result<()> {
    conn.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING")?
        .execute([SOURCE_ID, source_id])?;
    conn.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING")?
        .execute([CREATED_AT, now.micros().to_string().as_str()])?;
    Ok(())
}

/// When this state was created: on the agent's clock, or the database's at the first read, whichever is later.
pub fn created_at(conn: &Connection) -> Result<Timestamp> {
    Ok(micros(conn, CREATED_AT)?.unwrap_or_default())
}

pub fn put_created_at(conn: &Connection, at: Timestamp) -> Result<()> {
    put(conn, CREATED_AT, &at.micros().to_string())
}

/// Every zone that was ever in force, in the order they came; calls refer to theirs by its index.
pub fn zones(conn: &Connection) -> Result<Vec<Zone>> {
    match get(conn, ZONES)? {
        None => Ok(Vec::new()),
        Some(text) => serde_json::from_str(&text).map_err(|e| StoreError::Content(format!("meta {ZONES}: {e}"))),
    }
}

pub fn put_zones(conn: &Connection, zones: &[Zone]) -> Result<()> {
    let text = serde_json::to_string(zones).map_err(|e| StoreError::Content(e.to_string()))?;
    put(conn, ZONES, &text)
}

/// How many sets of rules are kept: a call that was built by an older one is rebuilt by the oldest.
const RULES_KEPT: usize = 16;

/// Every set of rules that was ever in force, in the order they came; calls refer to theirs by its index. `None`: too old
/// to be kept.
pub fn rules(conn: &Connection) -> Result<Vec<Option<Rules>>> {
    match get(conn, RULES)? {
        None => Ok(Vec::new()),
        Some(text) => {
            let all: Vec<serde_json::Value> =
                serde_json::from_str(&text).map_err(|e| StoreError::Content(format!("meta {RULES}: {e}")))?;
            // what another version wrote and this one cannot read is as good as too old
            Ok(all.into_iter().map(|one| serde_json::from_value(one).ok()).collect())
        }
    }
}

/// Makes `rules` those in force, the last of all.
pub fn put_rules(conn: &Connection, rules: &Rules) -> Result<Vec<Option<Rules>>> {
    let mut all = self::rules(conn)?;
    if all.last().is_some_and(|last| last.as_ref() == Some(rules)) {
        return Ok(all);
    }
    all.push(Some(rules.clone()));
    let old = all.len().saturating_sub(RULES_KEPT);
    all.iter_mut().take(old).for_each(|r| *r = None);
    let text = serde_json::to_string(&all).map_err(|e| StoreError::Content(e.to_string()))?;
    put(conn, RULES, &text)?;
    Ok(all)
}

/// The stored positions of the source, as (name, JSON).
pub fn positions(conn: &Connection) -> Result<Vec<(String, String)>> {
    let mut statement = conn.prepare_cached("SELECT name, value FROM position ORDER BY name")?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn put_position(conn: &Connection, name: &str, value: &str, now: Timestamp) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO position (name, value, updated_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
    )?
    .execute(params![name, value, now.micros()])?;
    Ok(())
}
