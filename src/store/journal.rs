//! Rows waiting for their call to end. Rows, quarantine and positions of a batch go in together; a row that is held
//! already is refused by its place.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use compact_str::CompactString;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};

use super::fold::{self, HeldRow};
use super::forgotten::{self, Gate};
use super::{Result, StoreError, ledger, meta, recordings};
use crate::call::{Row, Timestamp};
use crate::correlate::group::Grouper;
use crate::source::{Batch, ID_BLOCK, Place, Quarantined, Table, audit_minute};

/// Longest text of a quarantined row that is kept, bytes.
const QUARANTINE_BODY_MAX: usize = 4_096;

/// A row of the journal.
#[derive(Clone, Debug)]
pub struct JournalRow {
    pub seq: i64,
    pub held: HeldRow,
}

/// Stores what a poll found and the positions after it. Returns, for each row of the batch, its number in the journal,
/// or `None` for a row that is held already.
///
/// `reread` holds linkedids that are being read again whole because their rows were dropped: rows of those are taken
/// although they have been seen before.
pub fn append(
    conn: &Connection,
    batch: &Batch,
    reread: &HashSet<CompactString>,
    now: Timestamp,
) -> Result<Vec<Option<i64>>> {
    let mut insert = conn.prepare_cached(
        "INSERT INTO journal (seq, tbl, generation, place, body, arrived_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (tbl, generation, place) DO NOTHING",
    )?;
    let first = meta::journal_next(conn)?;
    let mut next = first;
    let mut body = Vec::with_capacity(1_024);
    let mut blocks: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
    let mut seqs = Vec::with_capacity(batch.rows.len());
    let gate = Gate::load(conn)?;
    for placed in &batch.rows {
        let again = !reread.is_empty() && reread.contains(placed.row.linkedid());
        let tbl = table_number(table_of(&placed.row));
        if let Some(gate) = &gate
            && let Some(why) = gate.refuses(conn, &placed.row)?
        {
            // forgotten on request: known as read, so that no audit looks for it, and kept nowhere
            forgotten::remember_refused(conn, &placed.row, why, now)?;
            match placed.place {
                Place::Hash(hash) => {
                    see(conn, tbl, &hash, &placed.row)?;
                }
                Place::Id(id) if !again && !placed.by_audit => {
                    *blocks.entry((tbl, placed.generation, id.div_euclid(ID_BLOCK))).or_default() += 1;
                }
                Place::Id(_) => {}
            }
            seqs.push(None);
            continue;
        }
        let place = match placed.place {
            Place::Id(id) => PlaceBytes::id(id),
            Place::Hash(hash) => {
                if !see(conn, tbl, &hash, &placed.row)? && !again {
                    seqs.push(None);
                    continue;
                }
                PlaceBytes::hash(hash)
            }
        };
        body.clear();
        write_body(&mut body, &placed.row)?;
        let text = std::str::from_utf8(&body).map_err(|e| StoreError::Content(e.to_string()))?;
        let new = insert.execute(params![next, tbl, placed.generation, place.as_slice(), text, now.micros()])? > 0;
        if !new {
            seqs.push(None);
            continue;
        }
        seqs.push(Some(next));
        next += 1;
        if let Place::Id(id) = placed.place
            && !again
        {
            *blocks.entry((tbl, placed.generation, id.div_euclid(ID_BLOCK))).or_default() += 1;
        }
    }
    if next > first {
        meta::put_journal_next(conn, next)?;
    }
    for ((tbl, generation, block), rows) in blocks {
        conn.prepare_cached(
            "INSERT INTO id_block (tbl, generation, block, rows) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET rows = rows + excluded.rows",
        )?
        .execute([tbl, generation, block, rows])?;
    }
    for row in &batch.quarantined {
        quarantine(conn, row, now)?;
    }
    for recording in &batch.recordings {
        recordings::put(conn, recording, now)?;
    }
    for (name, value) in &batch.positions {
        meta::put_position(conn, name, value, now)?;
    }
    Ok(seqs)
}

/// Marks a row without a trustworthy id as known. False: it was.
fn see(conn: &Connection, tbl: i64, hash: &[u8; 16], row: &Row) -> Result<bool> {
    let changed = conn
        .prepare_cached("INSERT INTO seen (place, tbl, minute) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?
        .execute(params![hash.as_slice(), tbl, audit_minute(row).unwrap_or_default()])?;
    Ok(changed > 0)
}

/// Keeps a row that could not be read, with the reason.
pub fn quarantine(conn: &Connection, row: &Quarantined, now: Timestamp) -> Result<()> {
    let mut end = row.body.len().min(QUARANTINE_BODY_MAX);
    while !row.body.is_char_boundary(end) {
        end -= 1;
    }
    conn.prepare_cached("INSERT INTO quarantine (tbl, reason, body, arrived_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![table_number(row.table), row.reason, &row.body[..end], now.micros()])?;
    Ok(())
}

/// Drops rows from the journal, by their numbers.
pub fn remove(conn: &Connection, seqs: &mut [i64]) -> Result<()> {
    seqs.sort_unstable();
    let mut statement = conn.prepare_cached("DELETE FROM journal WHERE seq BETWEEN ?1 AND ?2")?;
    // rows of calls that end together mostly lie side by side
    for run in seqs.chunk_by(|a, b| *b <= a + 1) {
        if let (Some(first), Some(last)) = (run.first(), run.last()) {
            statement.execute([first, last])?;
        }
    }
    Ok(())
}

/// Undoes the counting of rows that turned out to be held already.
pub fn uncount(conn: &Connection, rows: &[HeldRow]) -> Result<()> {
    for held in rows {
        let id = match &held.row {
            Row::Cel(r) => r.id,
            Row::Cdr(r) => r.id,
        };
        if let Some(id) = id {
            conn.prepare_cached(
                "UPDATE id_block SET rows = rows - 1 WHERE tbl = ?1 AND generation = ?2 AND block = ?3 AND rows > 0",
            )?
            .execute([table_number(table_of(&held.row)), held.generation, id.div_euclid(ID_BLOCK)])?;
        }
    }
    Ok(())
}

/// The rows after `after`, at most `limit`, in the order they came.
pub fn page(conn: &Connection, after: i64, limit: usize) -> Result<Vec<JournalRow>> {
    let mut statement =
        conn.prepare_cached("SELECT seq, tbl, generation, body FROM journal WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let mut rows = statement.query(params![after, i64::try_from(limit).unwrap_or(i64::MAX)])?;
    let mut page = Vec::new();
    while let Some(r) = rows.next()? {
        page.push(journal_row(r)?);
    }
    Ok(page)
}

/// Moves rows that cannot be read (any more) to quarantine, so that the others are not kept waiting by them. How many.
pub fn set_unreadable_aside(conn: &Connection) -> Result<usize> {
    let mut statement = conn.prepare("SELECT seq, tbl, generation, body, arrived_at FROM journal")?;
    let mut rows = statement.query([])?;
    let mut unreadable = Vec::new();
    while let Some(r) = rows.next()? {
        if let Err(e) = journal_row(r) {
            let body = String::from_utf8_lossy(r.get_ref(3)?.as_bytes_or_null().ok().flatten().unwrap_or_default());
            let table = if r.get::<_, i64>(1)? == table_number(Table::Cel) { Table::Cel } else { Table::Cdr };
            let row = Quarantined { table, reason: e.to_string(), body: body.into_owned() };
            unreadable.push((r.get::<_, i64>(0)?, row, Timestamp::from_micros(r.get(4)?)));
        }
    }
    for (seq, row, arrived) in &unreadable {
        quarantine(conn, row, *arrived)?;
        remove(conn, &mut [*seq])?;
    }
    Ok(unreadable.len())
}

/// Rows by their numbers; those that are gone are left out.
pub fn rows(conn: &Connection, seqs: &[i64]) -> Result<Vec<JournalRow>> {
    let mut statement = conn.prepare_cached("SELECT seq, tbl, generation, body FROM journal WHERE seq = ?1")?;
    let mut found = Vec::with_capacity(seqs.len());
    for seq in seqs {
        let mut rows = statement.query([seq])?;
        if let Some(r) = rows.next()? {
            found.push(journal_row(r)?);
        }
    }
    Ok(found)
}

/// How many rows wait.
pub fn len(conn: &Connection) -> Result<i64> {
    Ok(conn.prepare_cached("SELECT count(*) FROM journal")?.query_row([], |r| r.get(0))?)
}

/// Every row held of the call that `linkedid` (or a uniqueid) belongs to: folded ones and those in the journal. Empty
/// when nothing is known of it. Reads the whole journal: for a command, not for the agent.
pub fn rows_of_call(conn: &Connection, linkedid: &str) -> Result<Vec<Row>> {
    let mut grouper = Grouper::default();
    let mut held: Vec<HeldRow> = Vec::new();
    let mut calls = HashSet::new();
    let mut keys =
        [false, true].map(|linked| ledger::Key { text: CompactString::new(linkedid), linkedid: linked }).to_vec();
    // ids of the call's rows can lead to more of its rows, in the journal and in the ledger
    let mut in_journal: HashMap<i64, HeldRow> = HashMap::new();
    loop {
        let before = (held.len(), in_journal.len());
        for entry in ledger::find(conn, keys.iter())? {
            if calls.insert(entry.call)
                && let Some(rows) = ledger::folded(conn, entry.call)?
            {
                for row in &rows {
                    let _ = grouper.add(&row.row);
                }
                held.extend(rows);
            }
        }
        let mut after = 0;
        loop {
            let rows = page(conn, after, 1_000)?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for row in &rows {
                let _ = grouper.add(&row.held.row);
            }
        }
        let groups: HashSet<_> = keys.iter().filter_map(|k| grouper.find(&k.text)).collect();
        after = 0;
        loop {
            let rows = page(conn, after, 1_000)?;
            let Some(last) = rows.last() else { break };
            after = last.seq;
            for row in rows {
                let ids = [row.held.row.uniqueid(), row.held.row.linkedid()];
                if ids.iter().any(|id| grouper.find(id).is_some_and(|g| groups.contains(&g))) {
                    in_journal.insert(row.seq, row.held);
                }
            }
        }
        for group in groups {
            let ids = grouper.keys(group, 0).into_iter();
            keys.extend(ids.map(|(text, linkedid)| ledger::Key { text, linkedid }));
        }
        keys.sort_unstable();
        keys.dedup();
        if before == (held.len(), in_journal.len()) {
            break;
        }
    }
    held.extend(in_journal.into_values());
    let (rows, _) = fold::distinct(held);
    Ok(rows.into_iter().map(|r| r.row).collect())
}

/// How many rows of a table with a trustworthy id are known per block of [`ID_BLOCK`] ids, blocks `from..to`.
pub fn rows_by_block(conn: &Connection, table: Table, generation: i64, from: i64, to: i64) -> Result<Vec<(i64, i64)>> {
    let mut statement = conn.prepare_cached(
        "SELECT block, rows FROM id_block WHERE tbl = ?1 AND generation = ?2 AND block >= ?3 AND block < ?4",
    )?;
    let rows = statement.query_map([table_number(table), generation, from, to], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How many rows without a trustworthy id are known per minute of their own clock, minutes `from..to` since 1970.
pub fn rows_by_minute(conn: &Connection, table: Table, from: i64, to: i64) -> Result<Vec<(i64, i64)>> {
    let mut statement = conn.prepare_cached(
        "SELECT minute, count(*) FROM seen WHERE tbl = ?1 AND minute >= ?2 AND minute < ?3 GROUP BY minute",
    )?;
    let rows = statement.query_map([table_number(table), from, to], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn journal_row(r: &rusqlite::Row<'_>) -> Result<JournalRow> {
    let seq: i64 = r.get(0)?;
    let tbl: i64 = r.get(1)?;
    let generation = r.get(2)?;
    let ValueRef::Text(body) = r.get_ref(3)? else {
        return Err(StoreError::Content(format!("journal row {seq} holds no text")));
    };
    let unreadable = |e: serde_json::Error| StoreError::Content(format!("journal row {seq}: {e}"));
    let row = if tbl == table_number(Table::Cel) {
        Row::Cel(Arc::new(serde_json::from_slice(body).map_err(unreadable)?))
    } else {
        Row::Cdr(Arc::new(serde_json::from_slice(body).map_err(unreadable)?))
    };
    Ok(JournalRow { seq, held: HeldRow { generation, row } })
}

fn write_body(body: &mut Vec<u8>, row: &Row) -> Result<()> {
    match row {
        Row::Cel(row) => serde_json::to_writer(body, &**row),
        Row::Cdr(row) => serde_json::to_writer(body, &**row),
    }
    .map_err(|e| StoreError::Content(e.to_string()))
}

pub fn table_of(row: &Row) -> Table {
    match row {
        Row::Cel(_) => Table::Cel,
        Row::Cdr(_) => Table::Cdr,
    }
}

const fn table_number(table: Table) -> i64 {
    match table {
        Table::Cel => 0,
        Table::Cdr => 1,
    }
}

/// A place as it is kept: ids as 8 bytes that sort as they count, hashes as they are.
struct PlaceBytes([u8; 16], usize);

impl PlaceBytes {
    fn id(id: i64) -> Self {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(id ^ i64::MIN).to_be_bytes());
        Self(bytes, 8)
    }

    const fn hash(hash: [u8; 16]) -> Self {
        Self(hash, 16)
    }

    fn as_slice(&self) -> &[u8] {
        &self.0[..self.1]
    }
}
