//! From the rows of one call and what the ledger knows of it to what is to be written: content, hash, who survives, the
//! revision, documents. Pure: everything it needs is handed in.

use std::collections::BTreeSet;
use std::sync::Arc;

use compact_str::CompactString;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::marks::{MarkBook, Marked};
use super::progress;
use crate::call::{
    CallState, CdrRow, CelEvent, CelRow, Content, Discrepancy, Row, RowCounts, SCHEMA, SourceInfo, Timestamp, Tombstone,
};
use crate::correlate::{self, CallRows, Rules, Suppressed, Zone, ids};
use crate::store::fold::{self, HeldRow};
use crate::store::ledger::{Absorbed, ContentHash, Entry, Key, Settled, State};
use crate::store::recordings::{Kept, Used};
use crate::store::{Result, StoreError};

/// What does not change while the agent runs.
#[derive(Clone, Debug)]
pub struct Frame {
    pub source: SourceInfo,
    pub rules: Rules,
    /// When this state was created; calls that began before begin with a revision that no earlier state can have used.
    pub created_at: Timestamp,
    /// Calls that ended before are known and not shipped.
    pub start_at: Option<Timestamp>,
    /// Freezes the rows of a call for sinks that send them along; `None` when no sink does.
    pub freeze_rows: Option<FreezeRows>,
}

/// Rows and the zone in force to bytes.
pub type FreezeRows = fn(&CallRows, &Zone) -> Vec<u8>;

/// The rows of one call, built.
#[derive(Clone, Debug)]
pub struct Built {
    pub rows: CallRows,
    pub content: Content,
    /// The content as JSON, without discrepancies and counts of rows.
    pub text: String,
    /// The filter that keeps it back.
    pub suppressed: Option<Suppressed>,
    pub hash: ContentHash,
    pub keys: Vec<Key>,
    /// Index of the zone it was built in.
    pub zone: i64,
    /// Index of the rules it was built by.
    pub by_rules: i64,
    pub row_count: i64,
    /// Newest event, for calls that do not tell their end.
    pub newest: Option<Timestamp>,
    /// `None`: the call is up, and its rows stay in the journal.
    pub folded: Option<Vec<u8>>,
    /// The found recordings it was built with.
    pub recordings: Vec<Used>,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Over {
        /// It has too many rows: later ones are dropped.
        frozen: bool,
    },
    Up {
        /// It is told again though nothing changed.
        again: bool,
    },
}

/// Builds a call's content from its rows and the recordings found beside them. Rows of a call that is over are folded as they are, and read with the call's own linkedid.
pub fn build(
    (rows, recordings): (Vec<HeldRow>, Vec<Kept>),
    keys: Vec<Key>,
    (rules, by_rules): (&Rules, i64),
    zone: (&Zone, i64),
    book: &MarkBook,
    newest: Option<Timestamp>,
    stage: Stage,
) -> Result<Built> {
    let folded = if matches!(stage, Stage::Over { .. }) { Some(fold::fold(rows.iter())?) } else { None };
    let row_count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let mut rows = split(&with_own_linkedid(rows, book));
    let used = recordings.iter().map(|k| (k.recording, k.found.size)).collect();
    rows.recordings = recordings.into_iter().map(|k| Arc::new(k.found)).collect();
    let marked = if book.is_empty() { Marked::default() } else { book.of(keys.iter().map(|k| &k.text)) };
    let mut content = correlate::build(&rows, rules, zone.0, &marked.marks());
    if matches!(stage, Stage::Up { .. }) {
        progress::so_far(&mut content);
    }
    let (text, hash) = text_and_hash(&mut content)?;
    let suppressed = correlate::suppressed(&rows, rules, &content);
    Ok(Built {
        rows,
        content,
        text,
        suppressed,
        hash,
        keys,
        zone: zone.1,
        by_rules,
        row_count,
        newest,
        folded,
        recordings: used,
    })
}

fn split(rows: &[HeldRow]) -> CallRows {
    let mut split = CallRows::default();
    for held in rows {
        match &held.row {
            Row::Cel(row) => split.cel.push(Arc::clone(row)),
            Row::Cdr(row) => split.cdr.push(Arc::clone(row)),
        }
    }
    split
}

/// The end of a content's text without discrepancies and counts of rows, which are its last fields.
const WITHOUT_COUNTS: &str = r#""discrepancies":[],"rows":{"cel":0,"cdr":0}}"#;

/// What receivers see of the content as JSON, and the hash over it: counts of rows and discrepancies change without the
/// call being another.
fn text_and_hash(content: &mut Content) -> Result<(String, ContentHash)> {
    let rows = std::mem::take(&mut content.rows);
    let discrepancies = std::mem::take(&mut content.discrepancies);
    let written = serde_json::to_string(&*content);
    content.rows = rows;
    content.discrepancies = discrepancies;
    let text = written.map_err(|e| StoreError::Content(e.to_string()))?;
    let digest = Sha256::digest(text.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&digest[..16]);
    Ok((text, short))
}

/// The id a call gets when it is recorded first.
pub fn id_of(frame: &Frame, content: &Content) -> String {
    format!("{}:{}", frame.source.id, content.linkedid)
}

/// Decides what becomes of a built call: `entries` are the calls of the ledger that its rows belong to.
/// Of one that is up nothing is to be written when there is no document.
pub fn settle(built: Built, entries: &[Entry], frame: &Frame, zone: &Zone, stage: Stage) -> Result<Settled> {
    let linkedid = |id: &str| id.split_once(':').map_or_else(|| id.to_owned(), |(_, l)| l.to_owned());
    let mut order: Vec<&Entry> = entries.iter().filter(|e| e.state != State::Merged).collect();
    // what receivers know survives; of those the older
    order.sort_by(|a, b| {
        let unknown = |e: &Entry| !e.state.is_told();
        unknown(a).cmp(&unknown(b)).then_with(|| ids::compare(&linkedid(&a.id), &linkedid(&b.id)))
    });
    let survivor = order.first().copied();
    let others = order.get(1..).unwrap_or_default();
    let was_told = survivor.is_some_and(|e| e.state.is_told());
    let is_up = matches!(stage, Stage::Up { .. });

    let started_at = built.content.started_at;
    let ended_at = built.content.ended_at.or(built.newest).or(started_at).unwrap_or_default();
    let supersedes = supersedes(survivor, others);
    let too_old = !was_told && frame.start_at.is_some_and(|t0| ended_at < t0);
    let changed = survivor.is_none_or(|e| e.hash != built.hash || e.supersedes != supersedes);
    // what receivers know stays theirs: filters decide about calls that were not told yet
    let suppressed = !too_old && !was_told && built.suppressed.is_some();
    // the end of a call is told whatever was told before
    let end = !is_up && survivor.is_some_and(|e| e.state == State::InProgress);
    let ships = !too_old && !suppressed && (!was_told || changed || end || stage == Stage::Up { again: true });
    // a call that is kept back has a document to look at when it is over, and no deliveries
    let written = ships || suppressed && !is_up && changed;

    let id = survivor.map_or_else(|| id_of(frame, &built.content), |e| e.id.clone());
    let revision = match survivor {
        Some(e) if was_told => e.revision + i64::from(ships),
        _ => first_revision(frame, started_at.unwrap_or(ended_at)),
    };
    let document = if written {
        let call = Head { schema: SCHEMA, id: &id, revision, supersedes: &supersedes, source: &frame.source };
        Some(without_nul(document(&call, &built.content, &built.text)?))
    } else {
        None
    };
    let raw_rows = frame.freeze_rows.filter(|_| ships).map(|freeze| freeze(&built.rows, zone));
    let absorbed = others.iter().map(|e| absorbed(e, &id)).collect::<Result<Vec<_>>>()?;
    let settled = Settled {
        call: survivor.map(|e| e.call),
        id,
        revision,
        state: match stage {
            _ if too_old => State::BeforeStart,
            Stage::Over { .. } if suppressed => State::Suppressed,
            Stage::Over { .. } => State::Shipped,
            Stage::Up { .. } => State::InProgress,
        },
        hash: built.hash,
        started_at,
        ended_at,
        supersedes,
        frozen: stage == Stage::Over { frozen: true },
        rows: built.row_count,
        zone: built.zone,
        rules: built.by_rules,
        keys: built.keys,
        document,
        raw_rows,
        absorbed,
        folded: built.folded,
        // those of one that is up are looked at again when it is over
        recordings: if is_up { Vec::new() } else { built.recordings },
    };
    Ok(settled)
}

/// What a [`crate::call::Call`] has before its content.
#[derive(Serialize)]
struct Head<'a> {
    schema: &'a str,
    id: &'a str,
    revision: i64,
    supersedes: &'a [String],
    source: &'a SourceInfo,
}

/// The document of a call, put together from its head and the `text` its content was written as for the hash.
fn document(head: &Head<'_>, content: &Content, text: &str) -> Result<String> {
    #[derive(Serialize)]
    struct Tail<'a> {
        discrepancies: &'a [Discrepancy],
        rows: &'a RowCounts,
    }
    let json_error = |e: serde_json::Error| StoreError::Content(e.to_string());
    let mut document = serde_json::to_string(head).map_err(json_error)?;
    let tail = Tail { discrepancies: &content.discrepancies, rows: &content.rows };
    let tail = serde_json::to_string(&tail).map_err(json_error)?;
    let middle = text.strip_prefix('{').and_then(|t| t.strip_suffix(WITHOUT_COUNTS));
    let middle = middle.ok_or_else(|| StoreError::Content("a content whose last field is another".to_owned()))?;
    document.reserve_exact(middle.len() + tail.len());
    // `}` gives way to the content, whose own end is the tail
    document.pop();
    document.push(',');
    document.push_str(middle);
    document.push_str(tail.get(1..).unwrap_or_default());
    Ok(document)
}

/// The document of the revision that receivers know, of a call that was built as it was then.
pub fn document_again(built: &Built, entry: &Entry, frame: &Frame) -> Result<String> {
    let head = Head {
        schema: SCHEMA,
        id: &entry.id,
        revision: entry.revision,
        supersedes: &entry.supersedes,
        source: &frame.source,
    };
    Ok(without_nul(document(&head, &built.content, &built.text)?))
}

/// Takes the escape of U+0000 out of JSON: it means nothing in a name or a path, and databases refuse documents with it.
fn without_nul(json: String) -> String {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        // a backslash that is written itself may stand before what only looks like the escape
        let (kept, len) =
            if escape.starts_with(NUL) { ("", NUL.len()) } else { (escape.get(..2).unwrap_or(escape), 2) };
        out.push_str(kept);
        rest = escape.get(len..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Every id that receivers know and that this call takes the place of, oldest first.
fn supersedes(survivor: Option<&Entry>, others: &[&Entry]) -> Vec<String> {
    let mut all: BTreeSet<&String> = survivor.into_iter().flat_map(|e| &e.supersedes).collect();
    for other in others.iter().filter(|e| e.state.is_told()) {
        all.insert(&other.id);
        all.extend(&other.supersedes);
    }
    let mut all: Vec<String> = all.into_iter().cloned().collect();
    let linkedid = |id: &str| id.split_once(':').map_or(id.to_owned(), |(_, l)| l.to_owned());
    all.sort_by(|a, b| ids::compare(&linkedid(a), &linkedid(b)));
    all
}

fn first_revision(frame: &Frame, began: Timestamp) -> i64 {
    if began < frame.created_at { frame.created_at.secs().max(1) } else { 1 }
}

fn absorbed(entry: &Entry, into: &str) -> Result<Absorbed> {
    let told = entry.state.is_told();
    let revision = entry.revision + i64::from(told);
    let tombstone = if told { Some(tombstone(&entry.id, revision, into)?) } else { None };
    Ok(Absorbed { call: entry.call, id: entry.id.clone(), revision, tombstone })
}

/// The document that tells receivers that a call is part of another.
pub fn tombstone(id: &str, revision: i64, into: &str) -> Result<String> {
    let tombstone = Tombstone {
        schema: SCHEMA.to_owned(),
        id: id.to_owned(),
        revision,
        state: CallState::Merged,
        merged_into: into.to_owned(),
    };
    serde_json::to_string(&tombstone).map_err(|e| StoreError::Content(e.to_string()))
}

/// The keys that lead to a part of a nailed-up channel's group: what the channel shares with other parts is left out.
pub fn own_keys(rows: &[HeldRow], book: &MarkBook) -> Vec<Key> {
    let mut keys = BTreeSet::new();
    for held in rows {
        for (text, linkedid) in [(held.row.uniqueid(), false), (held.row.linkedid(), true)] {
            if !text.is_empty() && (!book.is_nailed(text) || is_of(rows, text)) {
                keys.insert(Key { text: CompactString::new(text), linkedid });
            }
        }
    }
    keys.into_iter().collect()
}

/// Whether these are the rows of the channel itself: of a channel that is nailed up, other calls have the bridges only.
pub fn is_of(rows: &[HeldRow], uniqueid: &str) -> bool {
    rows.iter().any(|held| {
        held.row.uniqueid() == uniqueid
            && match &held.row {
                Row::Cel(r) => !matches!(r.event, CelEvent::BridgeEnter | CelEvent::BridgeExit),
                Row::Cdr(_) => true,
            }
    })
}

/// A nailed-up channel's linkedid spreads over every call it takes part in. In the rows of one such call it is replaced
/// by the call's own: the least linkedid that no nailed-up channel has, else the least uniqueid. The channel's own part
/// keeps it.
pub fn with_own_linkedid(rows: Vec<HeldRow>, marks: &MarkBook) -> Vec<HeldRow> {
    if marks.is_empty() || !rows.iter().any(|r| marks.is_nailed(r.row.linkedid())) {
        return rows;
    }
    let least = |texts: &mut dyn Iterator<Item = &str>| {
        texts.filter(|t| !t.is_empty()).min_by(|a, b| ids::compare(a, b)).map(CompactString::new)
    };
    let shared: BTreeSet<CompactString> = rows
        .iter()
        .map(|r| r.row.linkedid())
        .filter(|l| marks.is_nailed(l) && !is_of(&rows, l))
        .map(CompactString::new)
        .collect();
    let is_shared = |l: &str| shared.contains(l);
    let own = least(&mut rows.iter().map(|r| r.row.linkedid()).filter(|l| !is_shared(l)))
        .or_else(|| least(&mut rows.iter().map(|r| r.row.uniqueid()).filter(|u| !marks.is_nailed(u))));
    let Some(own) = own else { return rows };
    rows.into_iter()
        .map(|held| {
            if !shared.contains(held.row.linkedid()) {
                return held;
            }
            let row = match held.row {
                Row::Cel(row) => Row::Cel(Arc::new(CelRow { linkedid: own.clone(), ..CelRow::clone(&row) })),
                Row::Cdr(row) => Row::Cdr(Arc::new(CdrRow { linkedid: own.clone(), ..CdrRow::clone(&row) })),
            };
            HeldRow { generation: held.generation, row }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Call, SourceKind};

    #[test]
    fn no_document_has_a_nul_and_nothing_else_is_changed() {
        for text in ["\0", "a\0b\0", "\\u0000", "\\\0", "\\\\u0000\0\"\n\u{1}é\u{1F40E}", "plain", "", "\\"] {
            let json = without_nul(serde_json::to_string(&[text]).expect("JSON"));
            let read: Vec<String> = serde_json::from_str(&json).expect("JSON");
            assert_eq!(read, [text.replace('\0', "")], "{json}");
        }
    }

    #[test]
    fn a_document_is_the_call_as_it_would_be_written_whole() {
        let row = CdrRow { uniqueid: "1795213604.12".into(), linkedid: "1795213604.12".into(), ..CdrRow::default() };
        let rows = CallRows { cdr: vec![Arc::new(row)], ..CallRows::default() };
        let mut content = correlate::build(&rows, &Rules::default(), &Zone::Fixed(0), &correlate::Marks::default());
        content.discrepancies.push(Discrepancy { code: "code".into(), text: "a \"text\"".into() });
        let (text, _) = text_and_hash(&mut content).expect("JSON");
        let source = SourceInfo { id: "pbx".into(), kind: SourceKind::Asterisk, host: None };
        let head =
            Head { schema: SCHEMA, id: "pbx:1", revision: 2, supersedes: &["pbx:0".to_owned()], source: &source };
        let document = document(&head, &content, &text).expect("JSON");
        let call = Call {
            schema: SCHEMA.into(),
            id: "pbx:1".into(),
            revision: 2,
            supersedes: vec!["pbx:0".into()],
            source: source.clone(),
            content,
        };
        assert_eq!(document, serde_json::to_string(&call).expect("JSON"));
    }
}
