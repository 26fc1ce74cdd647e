//! Wishes of commands. A command writes one row; the agent that owns the state takes it up, carries it out and writes the
//! answer beside it. Without an agent the command takes the role and carries its wish out itself.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Result, StoreError};
use crate::call::Timestamp;

/// How long an answered request is kept for whoever asks late, microseconds.
const KEPT: i64 = 86_400_000_000;

/// Value of `request.state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    New,
    /// Taken up; `answer` tells how far it is.
    Running,
    Done,
    /// `answer` tells why.
    Failed,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::New, Self::Running, Self::Done, Self::Failed]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| StoreError::Content(format!("request state {text:?}")))
    }
}

/// One wish.
#[derive(Clone, Debug)]
pub struct Request {
    pub request: i64,
    /// Which command: `retry`, `drop`, …
    pub kind: String,
    /// JSON.
    pub argument: String,
    pub state: State,
    /// JSON; while it runs how far it is, then the result, or a text that says what went wrong.
    pub answer: Option<String>,
    pub created_at: Timestamp,
}

impl Request {
    /// Waits for an agent, or is being done.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::New | State::Running)
    }

    /// What it says was removed: it was carried out but for its end.
    pub fn is_blank(&self) -> bool {
        self.argument == BLANK
    }

    pub fn argument<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.argument)
            .map_err(|e| StoreError::Content(format!("request {} ({}): {e}", self.request, self.kind)))
    }
}

const COLUMNS: &str = "request, kind, argument, state, answer, created_at";

/// Asks for something. Returns the number to look for the answer under.
pub fn put(conn: &Connection, kind: &str, argument: &impl Serialize, now: Timestamp) -> Result<i64> {
    let argument = serde_json::to_string(argument).map_err(|e| StoreError::Content(e.to_string()))?;
    conn.prepare_cached("INSERT INTO request (kind, argument, created_at, updated_at) VALUES (?1, ?2, ?3, ?3)")?
        .execute(params![kind, argument, now.micros()])?;
    Ok(conn.last_insert_rowid())
}

pub fn get(conn: &Connection, request: i64) -> Result<Option<Request>> {
    let sql = format!("SELECT {COLUMNS} FROM request WHERE request = ?1");
    let found = conn.prepare_cached(&sql)?.query_row([request], |r| Ok(read(r))).optional()?;
    found.transpose()
}

/// What is to be done or was begun, the oldest first.
pub fn open(conn: &Connection) -> Result<Vec<Request>> {
    let sql = format!("SELECT {COLUMNS} FROM request WHERE state IN ('new', 'running') ORDER BY request");
    let mut statement = conn.prepare_cached(&sql)?;
    let found: Vec<Result<Request>> = statement.query_map([], |r| Ok(read(r)))?.collect::<rusqlite::Result<_>>()?;
    found.into_iter().collect()
}

/// Writes down how far a request is, or how it ended.
pub fn answer(conn: &Connection, request: i64, state: State, answer: &str, now: Timestamp) -> Result<()> {
    conn.prepare_cached("UPDATE request SET state = ?2, answer = ?3, updated_at = ?4 WHERE request = ?1")?
        .execute(params![request, state.as_str(), answer, now.micros()])?;
    Ok(())
}

/// Takes a wish up, or goes on with one that was begun: from then on it cannot be withdrawn. False: it was.
pub fn take_up(conn: &Connection, request: i64, now: Timestamp) -> Result<bool> {
    let taken = conn
        .prepare_cached("UPDATE request SET state = ?2, updated_at = ?3 WHERE request = ?1 AND state IN (?2, ?4)")?
        .execute(params![request, State::Running.as_str(), now.micros(), State::New.as_str()])?;
    Ok(taken > 0)
}

/// What a wish says once it must not say it any more.
const BLANK: &str = "null";

/// Removes what a wish says.
pub fn blank(conn: &Connection, request: i64) -> Result<()> {
    conn.prepare_cached("UPDATE request SET argument = ?2 WHERE request = ?1")?.execute(params![request, BLANK])?;
    Ok(())
}

/// Writes down how far the wish is that is being carried out and was blanked: by that alone it can be gone on with.
pub fn note_blank(conn: &Connection, answer: &str, now: Timestamp) -> Result<()> {
    conn.prepare_cached("UPDATE request SET answer = ?3, updated_at = ?4 WHERE state = ?1 AND argument = ?2")?
        .execute(params![State::Running.as_str(), BLANK, answer, now.micros()])?;
    Ok(())
}

/// Takes a wish back that nobody took up. False: somebody did.
pub fn withdraw(conn: &Connection, request: i64) -> Result<bool> {
    Ok(conn.execute("DELETE FROM request WHERE request = ?1 AND state = 'new'", [request])? > 0)
}

/// Lets go what was answered long ago.
pub fn clean(conn: &Connection, now: Timestamp) -> Result<usize> {
    Ok(conn
        .execute("DELETE FROM request WHERE state IN ('done', 'failed') AND updated_at < ?1", [now.micros() - KEPT])?)
}

fn read(r: &Row<'_>) -> Result<Request> {
    let state: String = r.get(3)?;
    Ok(Request {
        request: r.get(0)?,
        kind: r.get(1)?,
        argument: r.get(2)?,
        state: State::parse(&state)?,
        answer: r.get(4)?,
        created_at: Timestamp::from_micros(r.get(5)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    #[test]
    fn a_wish_is_taken_up_once_and_its_answer_kept_for_a_day() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let at = Timestamp::from_secs;
        store
            .write_blocking(move |conn| {
                let first = put(conn, "retry", &vec!["a"], at(1))?;
                let second = put(conn, "drop", &"it's \n all", at(2))?;
                assert_eq!(open(conn)?.iter().map(|r| r.request).collect::<Vec<_>>(), [first, second]);
                assert!(take_up(conn, first, at(3))? && take_up(conn, first, at(3))?, "it is gone on with");
                assert!(!withdraw(conn, first)?, "it was taken up");
                assert!(withdraw(conn, second)?);
                assert!(!take_up(conn, second, at(3))?, "it was withdrawn");
                assert!(get(conn, second)?.is_none());
                answer(conn, first, State::Done, "[1]", at(4))?;
                let done = get(conn, first)?.expect("kept");
                assert_eq!((done.state, done.answer.as_deref()), (State::Done, Some("[1]")));
                assert_eq!(done.argument::<Vec<String>>()?, ["a"]);
                assert!(done.argument::<u32>().is_err(), "told, not taken for something else");
                assert!(open(conn)?.is_empty());
                assert!(!take_up(conn, first, at(4))?, "it is done");
                assert_eq!((clean(conn, at(86_403))?, clean(conn, at(86_405))?), (0, 1));
                Ok(())
            })
            .unwrap();
    }
}
