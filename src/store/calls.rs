//! What commands ask of the state: the calls it knows and how their deliveries stand.

use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::{Result, ledger};
use crate::call::Timestamp;

/// Which calls to list. Newest end first.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// With a delivery that waits.
    pub pending: bool,
    /// With a delivery that was given up.
    pub failed: bool,
    /// Ended at or after this moment.
    pub since: Option<Timestamp>,
    pub limit: u32,
}

/// A call as the ledger knows it.
#[derive(Clone, Debug)]
pub struct Known {
    pub call: i64,
    pub id: String,
    pub revision: i64,
    /// `in_progress`, `shipped`, `before_start`, `merged`, `suppressed`.
    pub state: String,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub merged_into: Option<String>,
    /// The newest document, while it is kept.
    pub document: Option<String>,
    pub pending: i64,
    pub delivered: i64,
    pub dead: i64,
}

/// One call to one sink in one revision.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub sink: String,
    pub revision: i64,
    /// `pending`, `in_flight`, `delivered`, `dead`, `superseded`.
    pub state: &'static str,
    pub attempts: i64,
    pub queued_at: Timestamp,
    /// Next attempt, while it waits.
    pub due_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub last_error: Option<String>,
}

const SELECT: &str = "
    SELECT l.call, l.id, l.revision, l.state, l.started_at, l.ended_at, l.merged_into,
           (SELECT x.body FROM document x WHERE x.call = l.call ORDER BY x.revision DESC LIMIT 1),
           (SELECT count(*) FROM delivery d WHERE d.call = l.call AND d.state = 0),
           (SELECT count(*) FROM delivery d WHERE d.call = l.call AND d.state = 1),
           (SELECT count(*) FROM delivery d WHERE d.call = l.call AND d.state = 2)
      FROM ledger l";

/// Calls that match; those that ended before `START_FROM` are not among them.
pub fn list(conn: &Connection, filter: &Filter) -> Result<Vec<Known>> {
    let mut states = Vec::new();
    if filter.pending {
        states.push("0");
    }
    if filter.failed {
        states.push("2");
    }
    let with = if states.is_empty() {
        String::new()
    } else {
        format!("AND l.call IN (SELECT d.call FROM delivery d WHERE d.state IN ({}))", states.join(", "))
    };
    let sql = format!(
        "{SELECT} WHERE l.state <> 'before_start' AND l.ended_at >= ?1 {with} ORDER BY l.ended_at DESC, l.call DESC LIMIT ?2"
    );
    let mut statement = conn.prepare(&sql)?;
    let since = filter.since.map_or(i64::MIN, Timestamp::micros);
    let rows = statement.query_map(params![since, filter.limit], known)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// One call, by its id, or by any linkedid or uniqueid of it.
pub fn show(conn: &Connection, id: &str) -> Result<Option<(Known, Vec<Delivery>)>> {
    let by_id = conn.query_row(&format!("{SELECT} WHERE l.id = ?1"), [id], known).optional()?;
    let found = match by_id {
        Some(found) => Some(found),
        None => {
            let keys = [true, false].map(|linkedid| ledger::Key { text: id.into(), linkedid });
            let entry = ledger::find(conn, keys.iter())?.into_iter().next();
            let call = entry.map(|e| e.call);
            call.map(|call| conn.query_row(&format!("{SELECT} WHERE l.call = ?1"), [call], known)).transpose()?
        }
    };
    let Some(found) = found else { return Ok(None) };
    let mut statement = conn.prepare(
        "SELECT sink, revision, state, flight, attempts, queued_at, due_at, finished_at, last_error
         FROM delivery WHERE call = ?1 ORDER BY sink, revision",
    )?;
    let deliveries = statement.query_map([found.call], delivery)?.collect::<rusqlite::Result<_>>()?;
    Ok(Some((found, deliveries)))
}

/// The error of the newest delivery that waits after a failed attempt.
pub fn last_error(conn: &Connection) -> Result<Option<String>> {
    let mut statement = conn.prepare_cached(
        "SELECT last_error FROM delivery WHERE state = 0 AND last_error IS NOT NULL ORDER BY delivery DESC LIMIT 1",
    )?;
    Ok(statement.query_row([], |r| r.get(0)).optional()?)
}

fn known(r: &SqlRow<'_>) -> rusqlite::Result<Known> {
    let moment = |at: Option<i64>| at.map(Timestamp::from_micros);
    let state: String = r.get(3)?;
    let is_up = state == ledger::State::InProgress.as_str();
    Ok(Known {
        call: r.get(0)?,
        id: r.get(1)?,
        revision: r.get(2)?,
        state,
        started_at: moment(r.get(4)?),
        // of a call that is up the ledger holds the newest event
        ended_at: moment(r.get(5)?).filter(|_| !is_up),
        merged_into: r.get(6)?,
        document: r.get(7)?,
        pending: r.get(8)?,
        delivered: r.get(9)?,
        dead: r.get(10)?,
    })
}

fn delivery(r: &SqlRow<'_>) -> rusqlite::Result<Delivery> {
    let state: i64 = r.get(2)?;
    let in_flight: bool = r.get(3)?;
    Ok(Delivery {
        sink: r.get(0)?,
        revision: r.get(1)?,
        state: match state {
            0 if in_flight => "in_flight",
            0 => "pending",
            1 => "delivered",
            2 => "dead",
            _ => "superseded",
        },
        attempts: r.get(4)?,
        queued_at: Timestamp::from_micros(r.get(5)?),
        due_at: if state == 0 { Some(Timestamp::from_micros(r.get(6)?)) } else { None },
        finished_at: r.get::<_, Option<i64>>(7)?.map(Timestamp::from_micros),
        last_error: r.get(8)?,
    })
}
