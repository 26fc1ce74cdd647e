//! Which sinks a call's newest revision has reached, also long after its deliveries were let go; and queueing it again,
//! under the revision it has, for sinks that lack it. A sink is never said to have what nobody knows it has.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::ledger::{self, State};
use super::outbox::{self, NewRevision};
use super::{Result, StoreError};
use crate::call::Timestamp;

/// How the newest revision of a call stands at one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtSink {
    Acknowledged,
    Pending {
        last_error: Option<String>,
    },
    /// Given up, and there to be sent again.
    Dead {
        last_error: Option<String>,
    },
    /// Given up, and dropped by hand, to make room, or kept longer than dead letters are.
    GivenUp,
    /// This revision was never queued for the sink, which was not configured then.
    NotQueued,
    /// Its deliveries were let go by a version that did not write down who got it.
    Unknown,
}

impl AtSink {
    /// The sink does not have it, and nothing of it waits or can be retried.
    pub const fn is_lacking(&self) -> bool {
        matches!(self, Self::GivenUp | Self::NotQueued)
    }
}

/// How a call that was told stands at a sink.
pub fn at_sink(conn: &Connection, call: i64, sink: &str) -> Result<AtSink> {
    type Found = (Option<i64>, Option<String>, Option<String>, Option<String>, bool);
    let found: Option<Found> = conn
        .prepare_cached(
            "SELECT d.state, d.last_error, l.delivered, l.undelivered,
                    EXISTS (SELECT 1 FROM document o WHERE o.call = l.call AND o.revision = l.revision)
               FROM ledger l LEFT JOIN delivery d ON d.call = l.call AND d.sink = ?2 AND d.revision = l.revision
              WHERE l.call = ?1",
        )?
        .query_row(params![call, sink], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?, r.get(4)?)))
        .optional()?;
    let Some((state, last_error, delivered, undelivered, has_document)) = found else { return Ok(AtSink::Unknown) };
    let named = |list: &Option<String>| names(list.as_deref()).contains(sink);
    Ok(match state {
        Some(0) => AtSink::Pending { last_error },
        Some(1) => AtSink::Acknowledged,
        Some(2) => AtSink::Dead { last_error },
        Some(_) => AtSink::GivenUp,
        None if named(&delivered) => AtSink::Acknowledged,
        None if named(&undelivered) => AtSink::GivenUp,
        None if delivered.is_some() || has_document && undelivered.is_none() => AtSink::NotQueued,
        None => AtSink::Unknown,
    })
}

/// Writes down who got a call's newest revision and who did not, before its deliveries are let go. What an earlier time
/// told of sinks that were not asked again stays.
pub(super) fn write_down(conn: &Connection, call: i64) -> Result<()> {
    let mut find = conn.prepare_cached(
        "SELECT d.sink, d.state, l.delivered, l.undelivered FROM ledger l
           JOIN delivery d ON d.call = l.call AND d.revision = l.revision WHERE l.call = ?1",
    )?;
    let mut rows = find.query([call])?;
    let mut told: Option<(BTreeSet<String>, BTreeSet<String>)> = None;
    while let Some(r) = rows.next()? {
        let (delivered, undelivered) = match &mut told {
            Some(told) => told,
            None => {
                let before: (Option<String>, Option<String>) = (r.get(2)?, r.get(3)?);
                told.insert((names(before.0.as_deref()), names(before.1.as_deref())))
            }
        };
        let (sink, state): (String, i64) = (r.get(0)?, r.get(1)?);
        delivered.remove(&sink);
        undelivered.remove(&sink);
        match state {
            1 => delivered.insert(sink),
            2 | 4 => undelivered.insert(sink),
            _ => continue,
        };
    }
    let Some((delivered, undelivered)) = told else { return Ok(()) };
    let text = |sinks: &BTreeSet<String>| serde_json::to_string(sinks).map_err(|e| StoreError::Content(e.to_string()));
    let undelivered = if undelivered.is_empty() { None } else { Some(text(&undelivered)?) };
    conn.prepare_cached("UPDATE ledger SET delivered = ?2, undelivered = ?3 WHERE call = ?1")?.execute(params![
        call,
        text(&delivered)?,
        undelivered
    ])?;
    Ok(())
}

fn names(list: Option<&str>) -> BTreeSet<String> {
    list.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// What a revision consists of, built once more: the same content as was queued then.
#[derive(Clone, Debug)]
pub struct Content {
    pub document: String,
    /// The rows as a sink asked for them.
    pub raw_rows: Option<Vec<u8>>,
    pub folded: Option<Vec<u8>>,
    pub rows: i64,
}

/// A call that sinks lack.
#[derive(Clone, Debug)]
pub struct Lacking {
    pub call: i64,
    pub id: String,
    pub revision: i64,
    pub sinks: Vec<&'static str>,
    /// `None`: its document is still there.
    pub content: Option<Content>,
    /// What tells receivers that other calls are part of this one: number, id, revision, document.
    pub tombstones: Vec<(i64, String, i64, String)>,
}

/// Whether the document of this revision is there, and its frozen rows.
pub fn document(conn: &Connection, call: i64, revision: i64) -> Result<Option<(i64, bool)>> {
    Ok(conn
        .prepare_cached("SELECT doc, rows IS NOT NULL FROM document WHERE call = ?1 AND revision = ?2")?
        .query_row([call, revision], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?)
}

/// Queues a call for the sinks that lack it, and for no other. The revision and with it the key stay, so that a receiver
/// that has it after all counts it once. False: the call has changed since, or the sinks have it.
pub fn queue(conn: &Connection, lacking: &Lacking, now: Timestamp) -> Result<bool> {
    let Some(entry) = ledger::entry(conn, lacking.call)? else { return Ok(false) };
    if entry.state != State::Shipped || entry.revision != lacking.revision || entry.id != lacking.id {
        return Ok(false);
    }
    let mut sinks = Vec::new();
    for sink in &lacking.sinks {
        if at_sink(conn, lacking.call, sink)?.is_lacking() {
            sinks.push(*sink);
        }
    }
    if sinks.is_empty() {
        return Ok(false);
    }
    let Some(doc) = kept_or_new(conn, lacking, now)? else { return Ok(false) };
    let mut survivors = Vec::with_capacity(sinks.len());
    for sink in sinks {
        let call = (lacking.call, lacking.id.as_str(), lacking.revision);
        survivors.push((sink, outbox::queue_again(conn, sink, call, doc, None, now)?));
    }
    for (call, id, revision, document) in &lacking.tombstones {
        let entry = ledger::entry(conn, *call)?;
        if !entry.is_some_and(|e| e.state == State::Merged && e.revision == *revision) {
            continue;
        }
        for (sink, after) in &survivors {
            if at_sink(conn, *call, sink)?.is_lacking() {
                let doc = match self::document(conn, *call, *revision)? {
                    Some((doc, _)) => doc,
                    None => outbox::put_document(conn, &revision_of(*call, id, *revision, document, None), now)?,
                };
                outbox::queue_again(conn, sink, (*call, id, *revision), doc, Some(*after), now)?;
            }
        }
    }
    Ok(true)
}

/// The document that is there, or the one that was built once more. `None`: neither.
fn kept_or_new(conn: &Connection, lacking: &Lacking, now: Timestamp) -> Result<Option<i64>> {
    let kept = document(conn, lacking.call, lacking.revision)?;
    let Some(content) = &lacking.content else { return Ok(kept.map(|(doc, _)| doc)) };
    let doc = match kept {
        Some((doc, has_rows)) => {
            if let (false, Some(rows)) = (has_rows, &content.raw_rows) {
                conn.prepare_cached("UPDATE document SET rows = ?2 WHERE doc = ?1")?.execute(params![doc, rows])?;
            }
            doc
        }
        None => {
            let rows = content.raw_rows.as_deref();
            let new = revision_of(lacking.call, &lacking.id, lacking.revision, &content.document, rows);
            outbox::put_document(conn, &new, now)?
        }
    };
    // with its rows it is let go like any other call
    if let Some(body) = &content.folded {
        conn.prepare_cached("INSERT OR IGNORE INTO folded (call, rows, body, folded_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![lacking.call, content.rows, body, now.micros()])?;
    }
    Ok(Some(doc))
}

fn revision_of<'a>(call: i64, id: &'a str, revision: i64, body: &'a str, rows: Option<&'a [u8]>) -> NewRevision<'a> {
    NewRevision { call, id, revision, body, rows, after: None }
}

/// The calls the ledger was told of that began between two moments, by number.
pub fn told(conn: &Connection, from: Timestamp, to: Timestamp) -> Result<Vec<i64>> {
    let mut statement = conn.prepare(
        "SELECT call FROM ledger WHERE state IN ('shipped', 'in_progress') AND started_at >= ?1 AND started_at < ?2
          ORDER BY started_at, call",
    )?;
    let calls = statement.query_map([from.micros(), to.micros()], |r| r.get(0))?;
    Ok(calls.collect::<rusqlite::Result<_>>()?)
}

/// A call that was told, as far as the ledger tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub id: String,
    pub started_at: Timestamp,
    pub is_over: bool,
}

/// `None`: it is not told any more.
pub fn told_call(conn: &Connection, call: i64) -> Result<Option<Told>> {
    let read = |r: &rusqlite::Row<'_>| {
        Ok(Told { id: r.get(0)?, started_at: Timestamp::from_micros(r.get(1)?), is_over: r.get(2)? })
    };
    Ok(conn
        .prepare_cached(
            "SELECT id, coalesce(started_at, 0), state = 'shipped' FROM ledger
              WHERE call = ?1 AND state IN ('shipped', 'in_progress')",
        )?
        .query_row([call], read)
        .optional()?)
}

#[cfg(test)]
mod tests;
