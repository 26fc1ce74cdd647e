//! The outbox: documents and the deliveries that carry them to each sink. Only statements and the rules of order; when to
//! try again and what an answer means is decided in `ship`.
//!
//! - A newer revision replaces an older one of the same call and sink that waits ([`State::Superseded`]), unless the older
//!   one is in flight or belongs to a batch that was sent and not answered: then the newer one waits for its end.
//! - A delivery is marked in flight *before* its first byte is sent, together with its bytes and its batch. After a crash
//!   [`recover`] puts those back; they go out again with the same key and the same bytes.
//! - A delivery is due only when no older revision of its call waits at that sink and the one it waits for has succeeded.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Result, StoreError};
use crate::call::Timestamp;

mod order;
#[cfg(test)]
mod tests;

pub use order::revive;
use order::{PREDECESSOR_FAILED, give_way, kill_followers, predecessor, supersede_older};

/// Value of `delivery.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Pending = 0,
    Delivered = 1,
    Dead = 2,
    /// A newer revision took its place before it was sent.
    Superseded = 3,
    /// Given up, and dropped by hand after that.
    Dropped = 4,
}

/// Longest `last_error` kept, in bytes.
pub const ERROR_MAX: usize = 2_300;

/// A document entering the outbox.
#[derive(Clone, Debug)]
pub struct NewRevision<'a> {
    /// `ledger.call`.
    pub call: i64,
    /// The call's id, `<source id>:<linkedid>`.
    pub id: &'a str,
    pub revision: i64,
    /// The frozen document: JSON without a line break.
    pub body: &'a str,
    /// The frozen rows, when a sink asked for them (`ship::freeze_rows`).
    pub rows: Option<&'a [u8]>,
    /// `(ledger.call, revision)` of the survivor that has to be delivered first at each sink: for tombstones.
    pub after: Option<(i64, i64)>,
}

/// Stores the document and queues one delivery a sink. To be called inside the transaction that writes the ledger; ring
/// `ship::Wake` after its commit. Returns how many older deliveries were superseded.
pub fn enqueue(conn: &Connection, new: &NewRevision<'_>, sinks: &[&str], now: Timestamp) -> Result<usize> {
    let doc = put_document(conn, new, now)?;
    let mut superseded = 0;
    for sink in sinks {
        let (after, state, error) = match predecessor(conn, sink, new.after)? {
            // the survivor was refused: without it the tombstone would only take a call away
            Some((after, dead)) if dead => (Some(after), State::Dead, Some(PREDECESSOR_FAILED)),
            found => (found.map(|f| f.0), State::Pending, None),
        };
        conn.prepare_cached(
            "INSERT INTO delivery (sink, call, call_id, revision, doc, state, due_at, queued_at, finished_at, after,
                                   last_error)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7, iif(?6 = 0, NULL, ?7), ?8, ?9)",
        )?
        .execute(params![
            sink,
            new.call,
            new.id,
            new.revision,
            doc,
            state as i64,
            now.micros(),
            after,
            error
        ])?;
        superseded += supersede_older(conn, sink, new.call, new.revision, conn.last_insert_rowid(), now)?;
    }
    Ok(superseded)
}

/// Stores the document alone. Returns its number.
pub(super) fn put_document(conn: &Connection, new: &NewRevision<'_>, now: Timestamp) -> Result<i64> {
    conn.prepare_cached("INSERT INTO document (call, revision, body, rows, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![new.call, new.revision, new.body, new.rows, now.micros()])?;
    Ok(conn.last_insert_rowid())
}

/// Queues a document that is stored already for one sink, which has not got this revision: as though never tried. `after`:
/// the delivery that has to succeed first. Returns the delivery.
pub(super) fn queue_again(
    conn: &Connection,
    sink: &str,
    (call, id, revision): (i64, &str, i64),
    doc: i64,
    after: Option<i64>,
    now: Timestamp,
) -> Result<i64> {
    conn.prepare_cached(
        "INSERT INTO delivery (sink, call, call_id, revision, doc, due_at, queued_at, after)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, ?7)
         ON CONFLICT (call, sink, revision) DO UPDATE SET state = 0, flight = 0, due_at = excluded.due_at,
             queued_at = excluded.queued_at, doc = excluded.doc, after = excluded.after, finished_at = NULL, attempts = 0,
             refused = 0, age = 0, tried_up = NULL, last_error = NULL, body = NULL, batch = NULL
         RETURNING delivery",
    )?
    .query_row(params![sink, call, id, revision, doc, now.micros(), after], |r| r.get(0))
    .map_err(StoreError::from)
}

/// A delivery that may be sent now.
#[derive(Clone, Debug)]
pub struct Due {
    pub delivery: i64,
    pub call: i64,
    pub call_id: String,
    pub revision: i64,
    pub attempts: u32,
    pub refused: u32,
    /// Microseconds.
    pub age: i64,
    /// The sink's up-clock at the last attempt, microseconds.
    pub tried_up: Option<i64>,
    pub queued_at: Timestamp,
    pub due_at: Timestamp,
    /// Key of the batch it was sent in before and that was not answered.
    pub batch: Option<String>,
    pub document: String,
    /// The bytes of the first attempt, where they differ from the document.
    pub body: Option<Vec<u8>>,
    pub rows: Option<Vec<u8>>,
}

impl Due {
    /// `<id>/<revision>`: the idempotency key.
    pub fn key(&self) -> String {
        format!("{}/{}", self.call_id, self.revision)
    }

    fn bytes(&self) -> usize {
        self.document.len() + self.body.as_ref().map_or(0, Vec::len) + self.rows.as_ref().map_or(0, Vec::len)
    }
}

/// How much of the outbox to look at.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    pub deliveries: usize,
    /// Stop once this much is loaded; the first delivery is loaded whatever its size.
    pub bytes: usize,
    /// Load the frozen rows too.
    pub rows: bool,
}

/// What is due at this sink, the longest due first. `now` = the far future asks for the next one whenever it is due.
/// When a member of an unanswered batch is found, all of its members are returned, together.
pub fn due(conn: &Connection, sink: &str, now: Timestamp, page: Page) -> Result<Vec<Due>> {
    let mut found: Vec<Due> = Vec::new();
    let mut bytes = 0;
    let mut batches = std::collections::HashSet::new();
    let mut statement = conn.prepare_cached(&format!(
        "{SELECT} WHERE d.sink = ?1 AND d.state = 0 AND d.flight = 0 AND d.due_at <= ?2
           AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.call = d.call AND e.sink = d.sink
                           AND e.revision < d.revision AND e.state = 0)
           AND NOT EXISTS (SELECT 1 FROM delivery a WHERE a.delivery = d.after AND a.state = 0)
         ORDER BY d.due_at, d.delivery LIMIT ?4"
    ))?;
    let mut rows = statement.query(params![sink, now.micros(), page.rows, page.deliveries as i64])?;
    while let Some(row) = rows.next()? {
        let one = read_due(row)?;
        let members = match &one.batch {
            Some(batch) if !batches.insert(batch.clone()) => continue,
            Some(batch) => members(conn, sink, batch, page.rows)?,
            None => vec![one],
        };
        bytes += members.iter().map(Due::bytes).sum::<usize>();
        if bytes > page.bytes && !found.is_empty() {
            break;
        }
        found.extend(members);
        if found.len() >= page.deliveries {
            break;
        }
    }
    Ok(found)
}

/// One delivery that waits, with the members of its unanswered batch, whenever it is due. Empty: it does not wait any more,
/// or for another one.
pub fn waiting(conn: &Connection, sink: &str, delivery: i64, rows: bool) -> Result<Vec<Due>> {
    let mut statement = conn.prepare_cached(&format!(
        "{SELECT} WHERE d.sink = ?1 AND d.delivery = ?2 AND d.state = 0 AND d.flight = 0
           AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.call = d.call AND e.sink = d.sink
                           AND e.revision < d.revision AND e.state = 0)
           AND NOT EXISTS (SELECT 1 FROM delivery a WHERE a.delivery = d.after AND a.state = 0)"
    ))?;
    let one = statement.query_row(params![sink, delivery, rows], |row| Ok(read_due(row))).optional()?.transpose()?;
    match one {
        Some(Due { batch: Some(batch), .. }) => members(conn, sink, &batch, rows),
        one => Ok(one.into_iter().collect()),
    }
}

fn members(conn: &Connection, sink: &str, batch: &str, rows: bool) -> Result<Vec<Due>> {
    let mut statement = conn.prepare_cached(&format!(
        "{SELECT} WHERE d.sink = ?1 AND d.batch = ?2 AND d.state = 0 AND d.flight = 0 ORDER BY d.delivery"
    ))?;
    let mut found = statement.query(params![sink, batch, rows])?;
    let mut members = Vec::new();
    while let Some(row) = found.next()? {
        members.push(read_due(row)?);
    }
    Ok(members)
}

const SELECT: &str = "SELECT d.delivery, d.call, d.call_id, d.revision, d.attempts, d.refused, d.age, d.tried_up,
       d.queued_at, d.due_at, d.batch, o.body, d.body, iif(?3, o.rows, NULL)
  FROM delivery d JOIN document o ON o.doc = d.doc";

fn read_due(row: &Row<'_>) -> Result<Due> {
    Ok(Due {
        delivery: row.get(0)?,
        call: row.get(1)?,
        call_id: row.get(2)?,
        revision: row.get(3)?,
        attempts: row.get(4)?,
        refused: row.get(5)?,
        age: row.get(6)?,
        tried_up: row.get(7)?,
        queued_at: Timestamp::from_micros(row.get(8)?),
        due_at: Timestamp::from_micros(row.get(9)?),
        batch: row.get(10)?,
        document: row.get(11)?,
        body: row.get(12)?,
        rows: row.get(13)?,
    })
}

/// The next moment after `now` at which something of this sink becomes due. What is due already and was not returned by
/// [`due`] waits for another delivery to end, not for a moment.
pub fn next_due(conn: &Connection, sink: &str, now: Timestamp) -> Result<Option<Timestamp>> {
    let at: Option<i64> = conn
        .prepare_cached(
            "SELECT min(due_at) FROM delivery WHERE sink = ?1 AND state = 0 AND flight = 0 AND due_at > ?2",
        )?
        .query_row(params![sink, now.micros()], |r| r.get(0))?;
    Ok(at.map(Timestamp::from_micros))
}

/// A delivery about to be sent.
#[derive(Clone, Debug)]
pub struct Claim {
    pub delivery: i64,
    /// `<id>/<revision>` it was read with: its number may have gone to another delivery since.
    pub key: String,
    /// `Some`: freeze these bytes (first attempt of a sink that renders its own).
    pub body: Option<Vec<u8>>,
    pub batch: Option<String>,
}

/// Marks deliveries as in flight. A batch is claimed whole or, when one of its members was superseded or taken away
/// meanwhile, not at all. Returns which of `batches` may be sent.
pub fn claim(conn: &Connection, batches: &[Vec<Claim>]) -> Result<Vec<bool>> {
    let mut check = conn.prepare_cached(
        "SELECT 1 FROM delivery WHERE delivery = ?1 AND call_id || '/' || revision = ?2 AND state = 0 AND flight = 0",
    )?;
    let mut mark = conn
        .prepare_cached("UPDATE delivery SET flight = 1, body = coalesce(body, ?2), batch = ?3 WHERE delivery = ?1")?;
    let mut claimed = Vec::with_capacity(batches.len());
    for batch in batches {
        let mut whole = true;
        for member in batch {
            whole &= check.exists(params![member.delivery, member.key])?;
        }
        if whole {
            for member in batch {
                mark.execute(params![member.delivery, member.body, member.batch])?;
            }
        }
        claimed.push(whole);
    }
    Ok(claimed)
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Delivered,
    /// To be tried again, in the same batch.
    Retry {
        due_at: Timestamp,
        age: i64,
        tried_up: i64,
        error: String,
    },
    /// Given up. `refused`: the sink refused this very document.
    Dead {
        error: String,
        refused: bool,
    },
    /// Not this delivery's fault, or not sent at all: nothing is counted.
    Release {
        due_at: Timestamp,
        error: Option<String>,
        refused: bool,
    },
    /// Part of a batch that was refused: goes out again in a smaller one, before anything else.
    Split {
        batch: String,
        error: String,
    },
    /// Was given up on, though it was the sink's fault: pending again, unless a newer revision exists.
    Revive,
}

/// Records outcomes of what is in flight; of what was taken away meanwhile (a caller who was forgotten) nothing is
/// recorded, whoever has its number now. Results of one call's deliveries may come in any order.
pub fn record(conn: &Connection, outcomes: &[(i64, Outcome)], now: Timestamp) -> Result<()> {
    for (delivery, outcome) in outcomes {
        let delivery = *delivery;
        match outcome {
            Outcome::Delivered => {
                conn.prepare_cached(
                    "UPDATE delivery SET state = 1, flight = 0, finished_at = ?2, attempts = attempts + 1,
                            last_error = NULL, body = NULL WHERE delivery = ?1 AND state = 0 AND flight = 1",
                )?
                .execute(params![delivery, now.micros()])?;
                drop_outdated(conn, delivery)?;
            }
            Outcome::Retry { due_at, age, tried_up, error } => {
                conn.prepare_cached(
                    "UPDATE delivery SET flight = 0, attempts = attempts + 1, due_at = ?2, age = ?3, tried_up = ?4,
                            last_error = ?5 WHERE delivery = ?1 AND state = 0 AND flight = 1",
                )?
                .execute(params![delivery, due_at.micros(), age, tried_up, bounded(error)])?;
                give_way(conn, delivery, now)?;
            }
            Outcome::Dead { error, refused } => {
                conn.prepare_cached(
                    "UPDATE delivery SET state = 2, flight = 0, finished_at = ?2, attempts = attempts + 1,
                            refused = refused + ?3, last_error = ?4, batch = NULL
                      WHERE delivery = ?1 AND state = 0 AND flight = 1",
                )?
                .execute(params![delivery, now.micros(), refused, bounded(error)])?;
                kill_followers(conn, delivery, now)?;
            }
            Outcome::Release { due_at, error, refused } => {
                conn.prepare_cached(
                    "UPDATE delivery SET flight = 0, due_at = ?2, refused = refused + ?3,
                            last_error = coalesce(?4, last_error) WHERE delivery = ?1 AND state = 0 AND flight = 1",
                )?
                .execute(params![
                    delivery,
                    due_at.micros(),
                    refused,
                    error.as_deref().map(bounded)
                ])?;
                give_way(conn, delivery, now)?;
            }
            Outcome::Split { batch, error } => {
                conn.prepare_cached(
                    "UPDATE delivery SET flight = 0, due_at = 0, batch = ?2, last_error = ?3
                      WHERE delivery = ?1 AND state = 0 AND flight = 1",
                )?
                .execute(params![delivery, batch, bounded(error)])?;
            }
            Outcome::Revive => {
                revive(conn, delivery, now)?;
            }
        }
    }
    Ok(())
}

/// A sink has got a newer revision: what older documents said of the call while it was up is of no use to anybody, unless
/// another sink still waits for one or refused it. A call that is up for hours would leave hundreds of them.
fn drop_outdated(conn: &Connection, delivered: i64) -> Result<()> {
    let mut find = conn.prepare_cached(
        r#"SELECT o.doc, o.call, o.revision FROM delivery d
           JOIN document o ON o.call = d.call AND o.revision < d.revision
          WHERE d.delivery = ?1 AND instr(o.body, '"state":"in_progress"') > 0
            AND NOT EXISTS (SELECT 1 FROM delivery w
                             WHERE w.call = o.call AND w.revision = o.revision AND w.state IN (0, 2))"#,
    )?;
    let outdated: Vec<[i64; 3]> =
        find.query_map([delivered], |r| Ok([r.get(0)?, r.get(1)?, r.get(2)?]))?.collect::<rusqlite::Result<_>>()?;
    for [doc, call, revision] in outdated {
        conn.prepare_cached("DELETE FROM delivery WHERE call = ?1 AND revision = ?2")?.execute([call, revision])?;
        conn.prepare_cached("DELETE FROM document WHERE doc = ?1")?.execute([doc])?;
    }
    Ok(())
}

fn bounded(text: &str) -> &str {
    &text[..text.floor_char_boundary(ERROR_MAX)]
}

/// Frees the rows frozen with documents that every sink has got: called for deliveries that have just ended.
pub fn release_rows(conn: &Connection, deliveries: &[i64]) -> Result<()> {
    let mut free = conn.prepare_cached(
        "UPDATE document SET rows = NULL
          WHERE doc = (SELECT doc FROM delivery WHERE delivery = ?1) AND rows IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM delivery o WHERE o.call = document.call
                            AND o.revision = document.revision AND o.state IN (0, 2))",
    )?;
    for delivery in deliveries {
        free.execute([delivery])?;
    }
    Ok(())
}

/// After a start: what was in flight when the process ended goes out again, with its bytes and in its batch.
pub fn recover(conn: &Connection, sink: &str) -> Result<usize> {
    Ok(conn.execute("UPDATE delivery SET flight = 0 WHERE sink = ?1 AND state = 0 AND flight = 1", [sink])?)
}

/// The sink answers again: nothing has to wait for a retry that was planned while it did not.
pub fn hasten(conn: &Connection, sink: &str, now: Timestamp) -> Result<usize> {
    Ok(conn
        .prepare_cached("UPDATE delivery SET due_at = ?2 WHERE sink = ?1 AND state = 0 AND flight = 0 AND due_at > ?2")?
        .execute(params![sink, now.micros()])?)
}

/// Retries planned later than `latest` were planned by a clock that has been set back since: they are due at once.
pub fn mend_clock(conn: &Connection, sink: &str, now: Timestamp, latest: Timestamp) -> Result<usize> {
    Ok(conn
        .prepare_cached("UPDATE delivery SET due_at = ?2 WHERE sink = ?1 AND state = 0 AND flight = 0 AND due_at > ?3")?
        .execute(params![sink, now.micros(), latest.micros()])?)
}

/// Gives up deliveries queued before `before`, at most 500 of the oldest. Returns how many.
pub fn expire(conn: &Connection, sink: &str, before: Timestamp, now: Timestamp, error: &str) -> Result<usize> {
    let mut find = conn.prepare_cached(
        "SELECT delivery FROM (SELECT delivery, queued_at, flight FROM delivery WHERE sink = ?1 AND state = 0
                               ORDER BY delivery LIMIT 500) WHERE queued_at < ?2 AND flight = 0",
    )?;
    let old: Vec<i64> =
        find.query_map(params![sink, before.micros()], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
    for delivery in &old {
        conn.prepare_cached(
            "UPDATE delivery SET state = 2, finished_at = ?2, last_error = substr(?3 || coalesce(': ' || last_error, ''),
                    1, 2300), batch = NULL WHERE delivery = ?1 AND state = 0",
        )?
        .execute(params![delivery, now.micros(), error])?;
        kill_followers(conn, *delivery, now)?;
    }
    Ok(old.len())
}

/// Every sink that something waits for, whether it is configured or not.
pub fn awaited(conn: &Connection) -> Result<Vec<String>> {
    // from one to the next by the index, however many wait for each
    let mut find = conn.prepare_cached(
        "WITH RECURSIVE awaited (sink) AS (
             SELECT min(sink) FROM delivery WHERE state = 0
             UNION ALL SELECT (SELECT min(d.sink) FROM delivery d WHERE d.state = 0 AND d.sink > a.sink)
               FROM awaited a WHERE a.sink IS NOT NULL)
         SELECT sink FROM awaited WHERE sink IS NOT NULL",
    )?;
    Ok(find.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// How a sink stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: i64,
    pub dead: i64,
    /// When the oldest pending delivery was queued.
    pub oldest: Option<Timestamp>,
}

pub fn counts(conn: &Connection, sink: &str) -> Result<Counts> {
    let count = |state: i64| -> Result<i64> {
        let sql = match state {
            0 => "SELECT count(*) FROM delivery WHERE sink = ?1 AND state = 0",
            _ => "SELECT count(*) FROM delivery WHERE sink = ?1 AND state = 2",
        };
        Ok(conn.prepare_cached(sql)?.query_row([sink], |r| r.get(0))?)
    };
    let oldest: Option<i64> = conn
        .prepare_cached("SELECT queued_at FROM delivery WHERE sink = ?1 AND state = 0 ORDER BY delivery LIMIT 1")?
        .query_row([sink], |r| r.get(0))
        .optional()?;
    Ok(Counts { pending: count(0)?, dead: count(2)?, oldest: oldest.map(Timestamp::from_micros) })
}

/// What the dispatcher knows of its sink, as it wrote it.
pub fn load_sink<T: serde::de::DeserializeOwned>(conn: &Connection, sink: &str) -> Result<Option<T>> {
    let text: Option<String> =
        conn.query_row("SELECT value FROM sink_state WHERE sink = ?1", [sink], |r| r.get(0)).optional()?;
    text.map(|t| serde_json::from_str(&t).map_err(|e| StoreError::Content(format!("sink_state of {sink}: {e}"))))
        .transpose()
}

pub fn save_sink<T: serde::Serialize>(conn: &Connection, sink: &str, value: &T, now: Timestamp) -> Result<()> {
    let text = serde_json::to_string(value).map_err(|e| StoreError::Content(e.to_string()))?;
    conn.prepare_cached(
        "INSERT INTO sink_state (sink, value, updated_at) VALUES (?1, ?2, ?3)
         ON CONFLICT (sink) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at",
    )?
    .execute(params![sink, text, now.micros()])?;
    Ok(())
}
