//! The ledger: one small row a call that was built at least once, kept long after its rows. [`record`] writes everything
//! that a settled call leads to — ledger, keys, folded rows, documents, deliveries — as part of one transaction.

use std::collections::BTreeSet;

use compact_str::CompactString;
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, params};

use super::fold::{self, HeldRow};
use super::outbox::{self, NewRevision};
use super::recordings::{self, Used};
use super::{Result, StoreError};
use crate::call::Timestamp;

/// 16 bytes of SHA-256 over what receivers see of a call's content.
pub type ContentHash = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is up, and a document that says so was queued for the sinks. Its rows are in the journal.
    InProgress,
    /// It is over, and a document was queued for the sinks.
    Shipped,
    /// It ended before the moment `START_FROM` names: known, never shipped.
    BeforeStart,
    /// It turned out to be part of another call.
    Merged,
    /// Kept back by a filter: it has a document, and no deliveries.
    Suppressed,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Shipped => "shipped",
            Self::BeforeStart => "before_start",
            Self::Merged => "merged",
            Self::Suppressed => "suppressed",
        }
    }

    /// Receivers know the call by its id.
    pub const fn is_told(self) -> bool {
        matches!(self, Self::InProgress | Self::Shipped)
    }

    /// It was built from all of its rows, which then left the journal.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Shipped | Self::BeforeStart | Self::Suppressed)
    }

    fn parse(text: &str) -> Result<Self> {
        [Self::InProgress, Self::Shipped, Self::BeforeStart, Self::Merged, Self::Suppressed]
            .into_iter()
            .find(|s| s.as_str() == text)
            .ok_or_else(|| StoreError::Content(format!("ledger state {text:?}")))
    }
}

/// What the ledger holds of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub call: i64,
    pub id: String,
    pub revision: i64,
    pub state: State,
    pub hash: ContentHash,
    pub supersedes: Vec<String>,
    /// The id of the call it is part of now.
    pub merged_into: Option<String>,
    pub frozen: bool,
    /// How many rows the last revision was built from.
    pub rows: i64,
    /// Index into [`super::meta::zones`].
    pub zone: i64,
    /// Index into [`super::meta::rules`].
    pub rules: i64,
    /// When it was written last, by the agent's clock.
    pub updated_at: Timestamp,
}

const ENTRY_COLUMNS: &str =
    "l.call, l.id, l.revision, l.state, l.content_hash, l.supersedes, l.frozen, l.rows, l.zone, l.merged_into, l.rules,
     l.updated_at";

/// A uniqueid or a linkedid that leads to a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub text: CompactString,
    pub linkedid: bool,
}

/// The calls that any of these keys belong to, by their number.
pub fn find<'a>(conn: &Connection, keys: impl Iterator<Item = &'a Key>) -> Result<Vec<Entry>> {
    let mut key_statement = conn.prepare_cached("SELECT call FROM ledger_key WHERE key = ?1 AND linkedid = ?2")?;
    let mut calls: BTreeSet<i64> = BTreeSet::new();
    for key in keys {
        if let Some(call) =
            key_statement.query_row(params![key.text.as_str(), key.linkedid], |r| r.get(0)).optional()?
        {
            calls.insert(call);
        }
    }
    let mut entries = Vec::with_capacity(calls.len());
    for call in calls {
        entries.extend(entry(conn, call)?);
    }
    Ok(entries)
}

/// One call by its number.
pub fn entry(conn: &Connection, call: i64) -> Result<Option<Entry>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {ENTRY_COLUMNS} FROM ledger l WHERE l.call = ?1"))?;
    let mut rows = statement.query([call])?;
    rows.next()?.map(read_entry).transpose()
}

/// One call by its id.
pub fn by_id(conn: &Connection, id: &str) -> Result<Option<Entry>> {
    let mut statement = conn.prepare_cached(&format!("SELECT {ENTRY_COLUMNS} FROM ledger l WHERE l.id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(read_entry).transpose()
}

fn read_entry(r: &SqlRow<'_>) -> Result<Entry> {
    let state: String = r.get(3)?;
    let hash: Vec<u8> = r.get(4)?;
    let supersedes: String = r.get(5)?;
    Ok(Entry {
        call: r.get(0)?,
        id: r.get(1)?,
        revision: r.get(2)?,
        state: State::parse(&state)?,
        hash: hash.try_into().map_err(|_| StoreError::Content("ledger content_hash".to_owned()))?,
        supersedes: serde_json::from_str(&supersedes)
            .map_err(|e| StoreError::Content(format!("ledger supersedes: {e}")))?,
        frozen: r.get(6)?,
        rows: r.get(7)?,
        zone: r.get(8)?,
        merged_into: r.get(9)?,
        rules: r.get(10)?,
        updated_at: Timestamp::from_micros(r.get(11)?),
    })
}

/// The folded rows of a call; `None` when they are gone, or damaged.
pub fn folded(conn: &Connection, call: i64) -> Result<Option<Vec<HeldRow>>> {
    let mut statement = conn.prepare_cached("SELECT body FROM folded WHERE call = ?1")?;
    let body: Option<Vec<u8>> = statement.query_row([call], |r| r.get(0)).optional()?;
    // what cannot be read counts as gone: the call is read from the PBX again when its rows are needed, no other waits
    let damaged = |_: &StoreError| tracing::error!(call, "the rows kept of a call cannot be read any more");
    Ok(body.and_then(|b| fold::unfold(&b).inspect_err(damaged).ok()))
}

/// Every key that leads to a call; by its linkedids it can be read again whole.
pub fn keys(conn: &Connection, call: i64) -> Result<Vec<Key>> {
    let mut statement = conn.prepare_cached("SELECT key, linkedid FROM ledger_key WHERE call = ?1")?;
    let mut rows = statement.query([call])?;
    let mut keys = Vec::new();
    while let Some(r) = rows.next()? {
        let text = r.get_ref(0)?.as_str().map_err(|e| StoreError::Content(e.to_string()))?;
        keys.push(Key { text: CompactString::new(text), linkedid: r.get(1)? });
    }
    Ok(keys)
}

/// A call of the ledger that turned out to be part of the one that is recorded.
#[derive(Clone, Debug)]
pub struct Absorbed {
    pub call: i64,
    pub id: String,
    pub revision: i64,
    /// The document that tells receivers so; `None` when they never heard of the call.
    pub tombstone: Option<String>,
}

/// One settled call, ready to be written.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Its number when the ledger knows it already.
    pub call: Option<i64>,
    pub id: String,
    pub revision: i64,
    pub state: State,
    pub hash: ContentHash,
    pub started_at: Option<Timestamp>,
    pub ended_at: Timestamp,
    pub supersedes: Vec<String>,
    pub frozen: bool,
    pub rows: i64,
    pub zone: i64,
    pub rules: i64,
    pub keys: Vec<Key>,
    /// What to ship (to keep, when it is suppressed); `None`: nothing that receivers see has changed, or it is not for them.
    pub document: Option<String>,
    /// The rows as a sink asked for them, frozen with the document.
    pub raw_rows: Option<Vec<u8>>,
    pub absorbed: Vec<Absorbed>,
    /// The rows, folded; `None`: kept as they are.
    pub folded: Option<Vec<u8>>,
    /// The found recordings it was built with.
    pub recordings: Vec<Used>,
}

/// Writes a settled call: ledger, keys, folded rows, and its document with one delivery per sink. Returns its number.
pub fn record(conn: &Connection, settled: &Settled, sinks: &[&str], now: Timestamp) -> Result<i64> {
    let call = write_entry(conn, settled, now)?;
    for absorbed in &settled.absorbed {
        absorb(conn, absorbed, call, &settled.id, now)?;
    }
    let mut key_statement = conn.prepare_cached(
        "INSERT INTO ledger_key (key, linkedid, call) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET call = excluded.call WHERE call <> excluded.call",
    )?;
    for key in &settled.keys {
        key_statement.execute(params![key.text.as_str(), key.linkedid, call])?;
    }
    recordings::claim(conn, call, &settled.recordings)?;
    if let Some(body) = &settled.folded {
        conn.prepare_cached("INSERT OR REPLACE INTO folded (call, rows, body, folded_at) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![call, settled.rows, body, now.micros()])?;
    }
    let Some(document) = &settled.document else { return Ok(call) };
    let suppressed = settled.state == State::Suppressed;
    if settled.call.is_some() {
        // the document of a call that was kept back so far has its first revision, and no deliveries
        conn.prepare_cached(
            "DELETE FROM document WHERE call = ?1 AND revision = ?2
             AND NOT EXISTS (SELECT 1 FROM delivery d WHERE d.call = ?1)",
        )?
        .execute(params![call, settled.revision])?;
        if settled.state == State::Shipped {
            recordings::look_again(conn, call)?;
        }
    }
    let document = NewRevision {
        call,
        id: &settled.id,
        revision: settled.revision,
        body: document,
        rows: settled.raw_rows.as_deref(),
        after: None,
    };
    outbox::enqueue(conn, &document, if suppressed { &[] } else { sinks }, now)?;
    for absorbed in &settled.absorbed {
        let Some(body) = &absorbed.tombstone else { continue };
        let tombstone = NewRevision {
            call: absorbed.call,
            id: &absorbed.id,
            revision: absorbed.revision,
            body,
            rows: None,
            after: Some((call, settled.revision)),
        };
        outbox::enqueue(conn, &tombstone, sinks, now)?;
    }
    Ok(call)
}

fn write_entry(conn: &Connection, s: &Settled, now: Timestamp) -> Result<i64> {
    let supersedes = if s.supersedes.is_empty() {
        "[]".to_owned()
    } else {
        serde_json::to_string(&s.supersedes).map_err(|e| StoreError::Content(e.to_string()))?
    };
    let started_at = s.started_at.map(Timestamp::micros);
    let values = params![
        s.id,
        s.revision,
        s.state.as_str(),
        s.hash.as_slice(),
        started_at,
        s.ended_at.micros(),
        supersedes,
        s.frozen,
        s.rows,
        s.zone,
        now.micros(),
        s.call,
        s.rules
    ];
    if let Some(call) = s.call {
        conn.prepare_cached(
            "UPDATE ledger SET id = ?1, revision = ?2, state = ?3, content_hash = ?4, started_at = ?5, ended_at = ?6,
                 supersedes = ?7, frozen = ?8, rows = ?9, zone = ?10, updated_at = ?11, merged_into = NULL,
                 rules = ?13, delivered = iif(revision = ?2, delivered, NULL),
                 undelivered = iif(revision = ?2, undelivered, NULL)
             WHERE call = ?12",
        )?
        .execute(values)?;
        return Ok(call);
    }
    conn.prepare_cached(
        "INSERT INTO ledger (id, revision, state, content_hash, started_at, ended_at, supersedes, frozen, rows, zone,
             updated_at, call, rules)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?
    .execute(values)?;
    Ok(conn.last_insert_rowid())
}

fn absorb(conn: &Connection, absorbed: &Absorbed, into: i64, id: &str, now: Timestamp) -> Result<()> {
    conn.prepare_cached(
        "UPDATE ledger SET state = 'merged', merged_into = ?2, revision = ?3, updated_at = ?4, delivered = NULL,
             undelivered = NULL WHERE call = ?1",
    )?
    .execute(params![absorbed.call, id, absorbed.revision, now.micros()])?;
    // calls merged into this one before point at the survivor too
    conn.prepare_cached("UPDATE ledger SET merged_into = ?2 WHERE merged_into = ?1 AND state = 'merged'")?
        .execute([absorbed.id.as_str(), id])?;
    conn.prepare_cached("UPDATE ledger_key SET call = ?2 WHERE call = ?1")?.execute([absorbed.call, into])?;
    conn.prepare_cached("DELETE FROM folded WHERE call = ?1")?.execute([absorbed.call])?;
    Ok(())
}

/// Kinds of marks.
pub const MARK_RESTART: &str = "pbx_restart";
pub const MARK_TIMEOUT: &str = "timeout";
pub const MARK_GAP: &str = "source_gap";
/// The linkedid of a nailed-up channel.
pub const MARK_NAILED: &str = "nailed_up";
/// The id of a channel that was nailed up when the rows of some of its calls were forgotten, or all of them were over: it
/// stays so, whatever the rows that are left tell.
pub const MARK_NAILED_FOR_GOOD: &str = "nailed_up_for_good";
/// The call could not be built or recorded, by a fault of ours: its rows are kept in the journal.
pub const MARK_UNBUILT: &str = "unbuilt";

/// Writes what was decided about the calls of a linkedid. `at` is the moment it was decided about.
pub fn mark(conn: &Connection, linkedid: &str, kind: &str, at: Timestamp, now: Timestamp) -> Result<()> {
    conn.prepare_cached(
        "INSERT INTO mark (linkedid, kind, value, created_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET value = excluded.value",
    )?
    .execute(params![linkedid, kind, at.micros().to_string(), now.micros()])?;
    Ok(())
}

/// Takes a mark back.
pub fn unmark(conn: &Connection, linkedid: &str, kind: &str) -> Result<()> {
    conn.prepare_cached("DELETE FROM mark WHERE linkedid = ?1 AND kind = ?2")?.execute([linkedid, kind])?;
    Ok(())
}

/// Whether the id is marked as that of a nailed-up channel.
pub fn is_nailed(conn: &Connection, id: &str) -> Result<bool> {
    Ok(conn.prepare_cached("SELECT 1 FROM mark WHERE linkedid = ?1 AND kind IN (?2, ?3)")?.exists([
        id,
        MARK_NAILED,
        MARK_NAILED_FOR_GOOD,
    ])?)
}

/// Every mark: linkedid, kind, and the moment it was decided about.
pub fn marks(conn: &Connection) -> Result<Vec<(CompactString, String, Timestamp)>> {
    let mut statement = conn.prepare_cached("SELECT linkedid, kind, value FROM mark")?;
    let mut rows = statement.query([])?;
    let mut marks = Vec::new();
    while let Some(r) = rows.next()? {
        let linkedid: String = r.get(0)?;
        let value: String = r.get(2)?;
        let at = value.parse().map_err(|_| StoreError::Content(format!("mark of {linkedid}: {value:?}")))?;
        marks.push((CompactString::from(linkedid), r.get(1)?, Timestamp::from_micros(at)));
    }
    Ok(marks)
}
