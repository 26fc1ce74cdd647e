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
    /// With a delivery (of that kind) at this sink.
    pub sink: Option<String>,
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
    /// `pending`, `in_flight`, `delivered`, `dead`, `superseded`, `dropped`.
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
    let of_state = match states.as_slice() {
        [] => String::new(),
        states => format!("AND d.state IN ({})", states.join(", ")),
    };
    let with = match (&filter.sink, states.is_empty()) {
        (None, true) => String::new(),
        // the partial indexes on pending and dead ones find these at once
        (None, false) => format!("AND l.call IN (SELECT d.call FROM delivery d WHERE true {of_state})"),
        (Some(_), _) => {
            format!("AND EXISTS (SELECT 1 FROM delivery d WHERE d.call = l.call AND d.sink = ?3 {of_state})")
        }
    };
    let sql = format!(
        "{SELECT} WHERE l.state <> 'before_start' AND l.ended_at >= ?1 {with} ORDER BY l.ended_at DESC, l.call DESC LIMIT ?2"
    );
    let mut statement = conn.prepare(&sql)?;
    let since = filter.since.map_or(i64::MIN, Timestamp::micros);
    let rows = match &filter.sink {
        None => statement.query_map(params![since, filter.limit], known)?,
        Some(sink) => statement.query_map(params![since, filter.limit, sink], known)?,
    };
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// One call, by its id, or by any linkedid or uniqueid of it.
pub fn show(conn: &Connection, id: &str) -> Result<Option<(Known, Vec<Delivery>)>> {
    let Some(call) = number_of(conn, id)? else { return Ok(None) };
    let found = conn.query_row(&format!("{SELECT} WHERE l.call = ?1"), [call], known)?;
    let mut statement = conn.prepare(
        "SELECT sink, revision, state, flight, attempts, queued_at, due_at, finished_at, last_error
         FROM delivery WHERE call = ?1 ORDER BY sink, revision",
    )?;
    let deliveries = statement.query_map([found.call], delivery)?.collect::<rusqlite::Result<_>>()?;
    Ok(Some((found, deliveries)))
}

/// `ledger.call` of a call, by its id, or by any linkedid or uniqueid of it.
pub fn number_of(conn: &Connection, id: &str) -> Result<Option<i64>> {
    let by_id =
        conn.prepare_cached("SELECT call FROM ledger WHERE id = ?1")?.query_row([id], |r| r.get(0)).optional()?;
    if by_id.is_some() {
        return Ok(by_id);
    }
    let keys = [true, false].map(|linkedid| ledger::Key { text: id.into(), linkedid });
    Ok(ledger::find(conn, keys.iter())?.first().map(|e| e.call))
}

/// Ids of calls that somebody may mean who wrote `id`: the newest calls are looked through, those with a delivery that
/// was given up before others.
pub fn like(conn: &Connection, id: &str, limit: usize) -> Result<Vec<String>> {
    const LOOKED_THROUGH: usize = 5_000;
    const DISTANCE_MAX: usize = 3;
    let bare = |text: &str| text.rsplit_once(':').map_or_else(|| text.to_owned(), |(_, linkedid)| linkedid.to_owned());
    let wanted = bare(id);
    let mut near: Vec<(usize, usize, String)> = Vec::new();
    let mut statement = conn.prepare(
        "SELECT l.id FROM ledger l WHERE l.state <> 'before_start'
          ORDER BY EXISTS (SELECT 1 FROM delivery d WHERE d.call = l.call AND d.state = 2) DESC, l.call DESC LIMIT ?1",
    )?;
    let newest = statement.query_map([i64::try_from(LOOKED_THROUGH).unwrap_or(i64::MAX)], |r| r.get::<_, String>(0))?;
    for (order, known) in newest.enumerate() {
        let known = known?;
        let linkedid = bare(&known);
        let part = wanted.len() > 3 && (linkedid.contains(&wanted) || wanted.contains(&linkedid));
        let distance = if part { 1 } else { strsim::damerau_levenshtein(&wanted, &linkedid) };
        if distance <= DISTANCE_MAX {
            near.push((distance, order, known));
        }
    }
    near.sort_unstable();
    Ok(near.into_iter().take(limit).map(|(_, _, id)| id).collect())
}

/// Names of the sinks that anything was ever queued for and is still known.
pub fn sinks(conn: &Connection) -> Result<Vec<String>> {
    let mut statement = conn.prepare(
        "SELECT sink FROM sink_state UNION SELECT DISTINCT sink FROM delivery WHERE state IN (0, 2) ORDER BY 1",
    )?;
    Ok(statement.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?)
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
            4 => "dropped",
            _ => "superseded",
        },
        attempts: r.get(4)?,
        queued_at: Timestamp::from_micros(r.get(5)?),
        due_at: if state == 0 { Some(Timestamp::from_micros(r.get(6)?)) } else { None },
        finished_at: r.get::<_, Option<i64>>(7)?.map(Timestamp::from_micros),
        last_error: r.get(8)?,
    })
}
