//! The PBX of the demo: a SQLite database as `cel_sqlite3_custom` and `cdr_sqlite3_custom` make it, into which real captured
//! rows are written call by call, as Asterisk does. Their times are moved so that each call ends when it is written:
//! otherwise the agent would take them for history.

use std::path::Path;

use anyhow::{Context, Result};
use chrono::{NaiveDateTime, TimeDelta, Utc};
use rusqlite::{Connection, params_from_iter};

const CEL: &str = include_str!("../../../data/demo/cel.csv");
const CDR: &str = include_str!("../../../data/demo/cdr.csv");

/// Zone of the times in the CDR rows.
pub const ZONE: &str = "UTC";
/// The PBX's lines to its carriers.
pub const TRUNKS: &str = "PJSIP/trunk-*";

const WALL: &str = "%Y-%m-%d %H:%M:%S";
// columns of the two files
const EVENTTIME: usize = 1;
const CEL_LINKEDID: usize = 15;
const CDR_LINKEDID: usize = 17;

/// The database, and the rows that are still to be written to it.
pub struct Pbx {
    conn: Connection,
    cel: Rows,
    cdr: Rows,
    /// For each call, how many rows of each table it ends with.
    calls: Vec<(usize, usize)>,
    written: usize,
}

struct Rows {
    insert: String,
    rows: Vec<csv::StringRecord>,
}

impl Pbx {
    /// Creates the database with empty tables.
    pub fn create(path: &Path) -> Result<Self> {
        let conn = Connection::open(path).with_context(|| format!("cannot create {}", path.display()))?;
        // as Asterisk has it when somebody reads while it writes
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let cel = Rows::create(&conn, "cel", CEL)?;
        let cdr = Rows::create(&conn, "cdr", CDR)?;
        let calls = calls(&cel, &cdr)?;
        Ok(Self { conn, cel, cdr, calls, written: 0 })
    }

    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    pub fn rows(&self) -> usize {
        self.cel.rows.len() + self.cdr.rows.len()
    }

    /// Writes the rows of the next call. `false`: there is none.
    pub fn write_call(&mut self) -> Result<bool> {
        let Some(&(cel_to, cdr_to)) = self.calls.get(self.written) else { return Ok(false) };
        let (cel_from, cdr_from) = match self.written.checked_sub(1) {
            Some(last) => self.calls[last],
            None => (0, 0),
        };
        let last = self.cel.rows[cel_to - 1][EVENTTIME].split('.').next().and_then(|s| s.parse::<i64>().ok());
        let move_by = Utc::now().timestamp() - last.context("the last row of a call has no time")?;
        let tx = self.conn.transaction()?;
        for (table, range) in [(&self.cel, cel_from..cel_to), (&self.cdr, cdr_from..cdr_to)] {
            let mut insert = tx.prepare(&table.insert)?;
            for row in &table.rows[range] {
                insert.execute(params_from_iter(row.iter().map(|text| moved(text, move_by))))?;
            }
        }
        tx.commit()?;
        self.written += 1;
        Ok(true)
    }
}

impl Rows {
    fn create(conn: &Connection, table: &str, csv: &str) -> Result<Self> {
        let mut reader = csv::Reader::from_reader(csv.as_bytes());
        let names: Vec<String> = reader.headers()?.iter().map(|n| format!("\"{n}\"")).collect();
        let columns = names.join(", ");
        conn.execute_batch(&format!("CREATE TABLE {table} (AcctId INTEGER PRIMARY KEY, {columns})"))?;
        let marks = vec!["?"; names.len()].join(", ");
        let rows = reader.records().collect::<Result<_, _>>()?;
        Ok(Self { insert: format!("INSERT INTO {table} ({columns}) VALUES ({marks})"), rows })
    }
}

/// The text with its times moved: seconds since 1970 before a dot (times and ids, also inside JSON), or a date and time.
fn moved(text: &str, by: i64) -> String {
    if let Ok(time) = NaiveDateTime::parse_from_str(text, WALL) {
        return (time + TimeDelta::seconds(by)).format(WALL).to_string();
    }
    let mut moved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, from) = rest.split_at(at);
        let digits = from.find(|c: char| !c.is_ascii_digit()).unwrap_or(from.len());
        let (number, after) = from.split_at(digits);
        moved.push_str(before);
        match number.parse::<i64>() {
            Ok(epoch) if digits == 10 && after.starts_with('.') => moved.push_str(&(epoch + by).to_string()),
            _ => moved.push_str(number),
        }
        rest = after;
    }
    moved.push_str(rest);
    moved
}

/// Where each call ends: the phones were used one after another, so a call is over when no channel is left.
fn calls(cel: &Rows, cdr: &Rows) -> Result<Vec<(usize, usize)>> {
    let mut open = 0_usize;
    let mut linkedids = Vec::new();
    let mut calls = Vec::new();
    for (i, row) in cel.rows.iter().enumerate() {
        let (event, linkedid) = (&row[0], row[CEL_LINKEDID].to_owned());
        match event {
            "CHAN_START" => open += 1,
            "CHAN_END" => open = open.saturating_sub(1),
            _ => {}
        }
        linkedids.push(linkedid);
        // what is said of a call after its last channel: the end of its linkedid
        let next = cel.rows.get(i + 1).map(|r| &r[0]);
        if open == 0 && next.is_none_or(|e| e == "CHAN_START") {
            let (_, cdr_from) = calls.last().copied().unwrap_or((0, 0));
            let cdr_to = cdr.rows[cdr_from..]
                .iter()
                .position(|r| !linkedids.iter().any(|l| *l == r[CDR_LINKEDID]))
                .map_or(cdr.rows.len(), |n| cdr_from + n);
            calls.push((i + 1, cdr_to));
            linkedids.clear();
        }
    }
    anyhow::ensure!(
        calls.last() == Some(&(cel.rows.len(), cdr.rows.len())),
        "the rows of the demo do not divide into calls"
    );
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_ids_are_moved_and_nothing_else() {
        for (text, expected) in [
            ("1795214836.816349", "1795214936.816349"),
            ("2026-11-20 22:47:16", "2026-11-20 22:48:56"),
            ("+42060050177", "+42060050177"),
            ("4202240001 01.", "4202240001 01."),
            ("PJSIP/1001-00000000", "PJSIP/1001-00000000"),
            (
                r#"{"bridge_id":"1c2.3","channel2_uniqueid":"1795214836.12"}"#,
                r#"{"bridge_id":"1c2.3","channel2_uniqueid":"1795214936.12"}"#,
            ),
            ("", ""),
        ] {
            assert_eq!(moved(text, 100), expected);
        }
    }

    #[test]
    fn the_rows_are_written_whole_call_by_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pbx.db");
        let mut pbx = Pbx::create(&path).unwrap();
        assert_eq!((pbx.calls(), pbx.rows()), (21, 462));
        let mut written = 0;
        while pbx.write_call().unwrap() {
            written += 1;
        }
        assert_eq!(written, 21);
        let conn = Connection::open(&path).unwrap();
        let count =
            |table| conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!((count("cel"), count("cdr")), (420, 42));
    }
}
