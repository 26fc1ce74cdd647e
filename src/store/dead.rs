//! Dead letters: deliveries that were given up. They are found, sent again, dropped by hand, and read out. Everything goes
//! in small steps, so that ten thousand of them hold nobody up.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use super::outbox::{self, State};
use super::{Result, calls};
use crate::call::Timestamp;

/// Which of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// Calls, by id, linkedid or uniqueid; empty: all.
    pub ids: Vec<String>,
    /// At this sink only.
    pub sink: Option<String>,
}

/// What became of them, over all steps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Deliveries sent again or dropped, by sink.
    pub by_sink: BTreeMap<String, u64>,
    /// How many calls they belong to.
    pub calls: u64,
    /// Not sent again, since a newer revision of the call exists.
    pub superseded: u64,
    /// Not sent again, since the call they depend on is dead itself.
    pub blocked: u64,
    /// Not sent again, since the call they depend on was dropped.
    #[serde(default)]
    pub abandoned: u64,
}

impl Done {
    pub fn deliveries(&self) -> u64 {
        self.by_sink.values().sum()
    }

    /// Deliveries that were left as they are.
    pub const fn left(&self) -> u64 {
        self.blocked + self.abandoned
    }

    fn count(&mut self, letter: &Letter, deliveries: usize) {
        *self.by_sink.entry(letter.sink.clone()).or_default() += deliveries as u64;
    }
}

/// Where the next step goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    call: i64,
    delivery: i64,
}

/// A dead letter, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub delivery: i64,
    pub call: i64,
    pub sink: String,
}

/// How many there are, by sink.
pub fn count(conn: &Connection, which: &Which) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let mut cursor = Cursor::default();
    loop {
        let step = page(conn, which, cursor, 10_000)?;
        let Some(last) = step.last() else { return Ok(counts) };
        cursor = Cursor { call: last.call, delivery: last.delivery };
        for letter in step {
            *counts.entry(letter.sink).or_default() += 1;
        }
    }
}

/// How many deliveries were given up since, and are still.
pub fn since(conn: &Connection, since: Timestamp) -> Result<u64> {
    let mut statement = conn.prepare_cached("SELECT count(*) FROM delivery WHERE state = 2 AND finished_at >= ?1")?;
    let given_up: i64 = statement.query_row([since.micros()], |r| r.get(0))?;
    Ok(given_up.unsigned_abs())
}

/// The next of them, call by call.
fn page(conn: &Connection, which: &Which, after: Cursor, limit: usize) -> Result<Vec<Letter>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let read = |r: &rusqlite::Row<'_>| Ok(Letter { delivery: r.get(0)?, call: r.get(1)?, sink: r.get(2)? });
    if which.ids.is_empty() {
        let mut statement = conn.prepare_cached(
            "SELECT delivery, call, sink FROM delivery WHERE state = 2 AND (?1 IS NULL OR sink = ?1)
                AND (call, delivery) > (?2, ?3) ORDER BY call, delivery LIMIT ?4",
        )?;
        let rows = statement.query_map(params![which.sink, after.call, after.delivery, limit], read)?;
        return Ok(rows.collect::<rusqlite::Result<_>>()?);
    }
    let mut wanted = Vec::new();
    for id in &which.ids {
        wanted.extend(calls::number_of(conn, id)?);
    }
    wanted.sort_unstable();
    wanted.dedup();
    let mut statement = conn.prepare_cached(
        "SELECT delivery, call, sink FROM delivery WHERE call = ?1 AND state = 2 AND (?2 IS NULL OR sink = ?2)
          ORDER BY delivery",
    )?;
    let mut found: Vec<Letter> = Vec::new();
    for call in wanted.into_iter().filter(|call| *call >= after.call) {
        for letter in statement.query_map(params![call, which.sink], read)? {
            let letter = letter?;
            if (letter.call, letter.delivery) > (after.call, after.delivery) {
                found.push(letter);
            }
        }
        if i64::try_from(found.len()).unwrap_or(i64::MAX) >= limit {
            break;
        }
    }
    Ok(found)
}

/// What to do with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Retry,
    /// Those that a walk which began then has left: what they depend on may have been sent again behind them.
    RetryLeft(Timestamp),
    Drop,
}

/// Sends up to `limit` of them again, or drops them. `None`: those were the last.
pub fn step(
    conn: &Connection,
    action: Action,
    which: &Which,
    after: Cursor,
    limit: usize,
    now: Timestamp,
    done: &mut Done,
) -> Result<Option<Cursor>> {
    let letters = page(conn, which, after, limit)?;
    let Some(last) = letters.last() else { return Ok(None) };
    let next = Cursor { call: last.call, delivery: last.delivery };
    let mut call = after.call;
    for letter in &letters {
        let did = match action {
            Action::RetryLeft(began) if !was_left(conn, letter, began)? => 0,
            Action::Retry | Action::RetryLeft(_) => retry(conn, letter, now, done)?,
            Action::Drop => drop(conn, letter, now)?,
        };
        if did > 0 {
            done.count(letter, did);
            // what waited for it is of other calls
            done.calls += u64::from(std::mem::replace(&mut call, letter.call) != letter.call) + did as u64 - 1;
        }
    }
    Ok(Some(next))
}

/// It depends on another, and has not been tried since.
fn was_left(conn: &Connection, letter: &Letter, began: Timestamp) -> Result<bool> {
    Ok(conn
        .prepare_cached("SELECT 1 FROM delivery WHERE delivery = ?1 AND after IS NOT NULL AND finished_at <= ?2")?
        .exists(params![letter.delivery, began.micros()])?)
}

/// How many are pending again: with it those that died because of it.
fn retry(conn: &Connection, letter: &Letter, now: Timestamp, done: &mut Done) -> Result<usize> {
    let mut is_dead = conn.prepare_cached("SELECT 1 FROM delivery WHERE delivery = ?1 AND state = 2")?;
    if !is_dead.exists([letter.delivery])? {
        // the one it waited for was sent again a moment ago, and took it along
        return Ok(0);
    }
    // the newest revision of the call it waits for stands for all of that call's
    let predecessor: Option<(i64, i64)> = conn
        .prepare_cached(
            "SELECT n.delivery, n.state FROM delivery d JOIN delivery p ON p.delivery = d.after
               JOIN delivery n ON n.call = p.call AND n.sink = p.sink
              WHERE d.delivery = ?1 ORDER BY n.revision DESC LIMIT 1",
        )?
        .query_row([letter.delivery], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    if let Some((newest, state)) = predecessor {
        if state == State::Dead as i64 {
            done.blocked += 1;
            return Ok(0);
        }
        if state == State::Dropped as i64 {
            done.abandoned += 1;
            return Ok(0);
        }
        conn.prepare_cached("UPDATE delivery SET after = ?2 WHERE delivery = ?1")?
            .execute([letter.delivery, newest])?;
    }
    let pending = outbox::revive(conn, letter.delivery, now)?;
    done.superseded += u64::from(pending == 0);
    Ok(pending)
}

fn drop(conn: &Connection, letter: &Letter, now: Timestamp) -> Result<usize> {
    let dropped = conn
        .prepare_cached(
            "UPDATE delivery SET state = 4, finished_at = ?2, body = NULL, batch = NULL
              WHERE delivery = ?1 AND state = 2",
        )?
        .execute([letter.delivery, now.micros()])?;
    outbox::release_rows(conn, &[letter.delivery])?;
    Ok(dropped)
}

/// A delivery with everything that was to be sent.
#[derive(Clone, Debug, Serialize)]
pub struct Copy {
    pub id: String,
    pub revision: i64,
    pub sink: String,
    /// `<id>/<revision>`: the idempotency key it was sent under.
    pub key: String,
    pub attempts: i64,
    pub queued_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub last_error: Option<String>,
    /// The call document.
    pub document: serde_json::Value,
    /// What was sent, where that is not the document itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<serde_json::Value>,
    #[serde(skip)]
    cursor: Cursor,
}

impl Copy {
    /// Where to go on after this one.
    pub const fn cursor(&self) -> Cursor {
        self.cursor
    }
}

/// Reads out up to `limit` of them.
pub fn copies(conn: &Connection, which: &Which, after: Cursor, limit: usize) -> Result<Vec<Copy>> {
    let mut statement = conn.prepare_cached(
        "SELECT d.call_id, d.revision, d.sink, d.attempts, d.queued_at, d.finished_at, d.last_error, o.body, d.body
           FROM delivery d JOIN document o ON o.doc = d.doc WHERE d.delivery = ?1",
    )?;
    // a text that is no JSON (it would be a fault of ours) is told as it is
    let json = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| serde_json::Value::from(text));
    let mut copies = Vec::new();
    for letter in page(conn, which, after, limit)? {
        let copy = statement.query_row([letter.delivery], |r| {
            let (id, revision, document): (String, i64, String) = (r.get(0)?, r.get(1)?, r.get(7)?);
            let sent: Option<Vec<u8>> = r.get(8)?;
            Ok(Copy {
                key: format!("{id}/{revision}"),
                id,
                revision,
                sink: r.get(2)?,
                attempts: r.get(3)?,
                queued_at: Timestamp::from_micros(r.get(4)?),
                finished_at: r.get::<_, Option<i64>>(5)?.map(Timestamp::from_micros),
                last_error: r.get(6)?,
                document: json(&document),
                sent: sent.map(|bytes| json(&String::from_utf8_lossy(&bytes))),
                cursor: Cursor { call: letter.call, delivery: letter.delivery },
            })
        })?;
        copies.push(copy);
    }
    Ok(copies)
}
