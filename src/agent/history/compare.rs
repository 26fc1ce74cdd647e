//! How calls of the PBX stand in the state: rows in, one standing a call out. Reads the state and changes nothing, so that
//! commands can use it beside a running agent.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::Span;
use crate::agent::compose::{self, Built, Stage};
use crate::agent::judge::end_of;
use crate::agent::marks::{MarkBook, Restarts};
use crate::agent::settle::Setup;
use crate::call::{Row, Timestamp};
use crate::correlate::completion::{Progress, Verdict};
use crate::correlate::group::{GroupId, Grouper, partition};
use crate::correlate::{Rules, Zone, ids};
use crate::source::{Place, PlacedRow};
use crate::store::fold::{self, HeldRow};
use crate::store::forgotten::Gate;
use crate::store::ledger::{self, Entry, State};
use crate::store::reached::{self, AtSink, Content, Lacking};
use crate::store::{Result, meta, recordings};

/// How a call of the PBX stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It was queued for the sinks, as it is.
    Same,
    /// It was queued, and its rows say something else now.
    Changed,
    /// It has ended, and nothing was queued.
    Missing,
    /// It ended before the moment `START_FROM` names.
    BeforeStart,
    /// This filter keeps it back.
    Filtered(&'static str),
    /// It is up.
    InProgress,
    /// It has just ended, and waits for its record or for quiet.
    Waiting,
    /// A number of it was forgotten on request.
    Forgotten,
}

/// One call of the PBX.
#[derive(Clone, Debug)]
pub struct Compared {
    pub id: String,
    pub started_at: Timestamp,
    pub tenant: Option<String>,
    pub standing: Standing,
    /// What the ledger knows of it.
    pub entry: Option<Entry>,
    /// Of one that was shipped: how its newest revision stands at each sink.
    pub at: Vec<(&'static str, AtSink)>,
    /// Of one that is the same: what the sinks that lack it can be sent.
    pub lacking: Option<Box<Lacking>>,
    /// Receivers know more of it than the PBX has: built again it would be a fragment.
    pub is_fragment: bool,
    /// Its rows.
    pub rows: Vec<PlacedRow>,
}

/// What a page of rows turned out to be.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub calls: Vec<Compared>,
    /// Rows that can be part of no call: which, and why.
    pub unusable: Vec<String>,
    /// And how many more of them.
    pub unnamed: u64,
    /// Every call of the ledger that these rows lead to, by number, whenever it began.
    pub known: Vec<i64>,
}

/// Compares the calls of these rows, which have to be whole, that began in the span. `now` is the database's clock.
/// `resend`: a call that was told is compared as it would be told now, not as it was told then.
pub fn compare(
    conn: &Connection,
    setup: &Setup,
    zone: &Zone,
    now: Timestamp,
    rows: Vec<PlacedRow>,
    span: Span,
    resend: bool,
) -> Result<Page> {
    let known = Known {
        setup,
        zone,
        zones: meta::zones(conn)?,
        rules: meta::rules(conn)?,
        book: MarkBook::new(ledger::marks(conn)?, Restarts::default()),
        start_at: start_at(conn)?,
        any_recordings: recordings::any(conn)?,
        gate: Gate::load(conn)?,
        now,
        span,
        resend,
    };
    let mut grouper = if setup.frame.rules.has_cel { Grouper::default() } else { Grouper::cdr_only() };
    let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
    let mut page = Page::default();
    for (n, placed) in rows.iter().enumerate() {
        match grouper.add(&placed.row) {
            Ok(Some(joined)) => {
                let mut members: Vec<usize> =
                    joined.absorbed.iter().filter_map(|g| groups.remove(g)).flatten().collect();
                members.push(n);
                groups.entry(joined.group).or_default().append(&mut members);
            }
            Ok(None) => {}
            Err(why) => page.unusable.push(unusable(placed, &why.to_string())),
        }
    }
    for members in groups.into_values() {
        let plain: Vec<Row> = members.iter().filter_map(|n| rows.get(*n)).map(|r| r.row.clone()).collect();
        for part in partition(&plain) {
            let part: Vec<PlacedRow> = part.into_iter().filter_map(|i| rows.get(*members.get(i)?).cloned()).collect();
            page.calls.extend(known.one(conn, part, &mut page.known)?);
        }
    }
    page.calls.sort_by(|a, b| a.started_at.cmp(&b.started_at).then_with(|| a.id.cmp(&b.id)));
    Ok(page)
}

fn unusable(placed: &PlacedRow, why: &str) -> String {
    let table = if matches!(placed.row, Row::Cel(_)) { "cel" } else { "cdr" };
    match placed.place {
        Place::Id(id) => format!("row {id} of {table}: {why}"),
        Place::Hash(_) => format!("a row of {table}: {why}"),
    }
}

fn start_at(conn: &Connection) -> Result<Option<Timestamp>> {
    let positions = meta::positions(conn)?;
    let start = positions.iter().find(|(name, _)| name == crate::source::START_POSITION);
    Ok(start.and_then(|(_, value)| crate::source::start_of(value)))
}

/// What the state holds that all calls are compared with.
struct Known<'a> {
    setup: &'a Setup,
    zone: &'a Zone,
    zones: Vec<Zone>,
    rules: Vec<Option<Rules>>,
    book: MarkBook,
    start_at: Option<Timestamp>,
    any_recordings: bool,
    gate: Option<Gate>,
    now: Timestamp,
    span: Span,
    resend: bool,
}

impl Known<'_> {
    /// `None`: it began at another time. `known` gets every call of the ledger that the rows lead to.
    fn one(&self, conn: &Connection, part: Vec<PlacedRow>, known: &mut Vec<i64>) -> Result<Option<Compared>> {
        let held: Vec<HeldRow> =
            part.iter().map(|r| HeldRow { generation: r.generation, row: r.row.clone() }).collect();
        let (held, _) = fold::distinct(held);
        let mut progress = Progress::default();
        held.iter().for_each(|h| progress.observe(&h.row, self.zone));
        let Some((newest, oldest)) = progress.span() else { return Ok(None) };
        let keys = compose::own_keys(&held, &self.book);
        let mut entries = ledger::find(conn, keys.iter())?;
        known.extend(entries.iter().map(|e| e.call));
        if !self.span.holds(oldest) {
            return Ok(None);
        }
        let mut forgotten = false;
        if let Some(gate) = &self.gate {
            for held in &held {
                forgotten |= gate.refuses(conn, &held.row)?.is_some();
            }
        }
        entries.retain(|e| e.state != State::Merged);
        entries.sort_by(|a, b| {
            b.state.is_told().cmp(&a.state.is_told()).then_with(|| ids::compare(bare(&a.id), bare(&b.id)))
        });
        let mut entry = entries.into_iter().next();

        let row_count = i64::try_from(held.len()).unwrap_or(i64::MAX);
        let marked = self.book.of(keys.iter().map(|k| &k.text));
        let (end, _) = end_of(&progress, None, marked, &self.setup.policy, &self.book, self.now);
        let is_open = progress.verdict(&self.setup.policy.grace) == Verdict::Open;

        // a call that was told is built as it was then, any other as it would be now
        let told = entry.as_ref().filter(|e| e.state.is_told() && !self.resend);
        let frame = &self.setup.frame;
        let kept_zone = told.and_then(|e| self.zones.get(usize::try_from(e.zone).ok()?));
        let kept_rules = told.and_then(|e| {
            let from = usize::try_from(e.rules).ok()?;
            self.rules.iter().skip(from).find_map(Option::as_ref)
        });
        let (zone, rules) = (kept_zone.unwrap_or(self.zone), kept_rules.unwrap_or(&frame.rules));
        let found = if self.any_recordings { recordings::of_keys(conn, &keys)? } else { Vec::new() };
        let stage = Stage::Over { frozen: false };
        let built = compose::build((held, found), keys, (rules, 0), (zone, 0), &self.book, Some(newest), stage)?;

        if entry.is_none() {
            entry = by_id(conn, &compose::id_of(frame, &built.content))?;
            known.extend(entry.iter().map(|e| e.call));
        }
        let told = entry.as_ref().filter(|e| e.state.is_told());
        let ended_at = built.content.ended_at.unwrap_or(newest);
        let standing = match told {
            _ if forgotten => Standing::Forgotten,
            // of a call whose rows were purged in part, the receiver knows more than the PBX
            Some(e) if e.state == State::Shipped && (e.hash == built.hash || row_count < e.rows || e.frozen) => {
                Standing::Same
            }
            Some(e) if e.state == State::Shipped => Standing::Changed,
            _ if end.is_none() && is_open => Standing::InProgress,
            _ if end.is_none() => Standing::Waiting,
            // told as one that is up, and it is over: the live agent is about to settle it
            Some(_) => Standing::Waiting,
            None => match built.suppressed {
                Some(filter) => Standing::Filtered(filter.as_str()),
                None if self.start_at.is_some_and(|t0| ended_at < t0) => Standing::BeforeStart,
                None => Standing::Missing,
            },
        };
        let mut compared = Compared {
            id: entry.as_ref().map_or_else(|| compose::id_of(frame, &built.content), |e| e.id.clone()),
            started_at: oldest,
            tenant: built.content.tenant.clone(),
            standing,
            entry: None,
            at: Vec::new(),
            lacking: None,
            is_fragment: false,
            rows: part,
        };
        if let Some(e) = entry.as_ref().filter(|_| matches!(standing, Standing::Same | Standing::Changed)) {
            compared.is_fragment = e.frozen || row_count < e.rows && ledger::folded(conn, e.call)?.is_none();
            for sink in &self.setup.sinks {
                compared.at.push((sink, reached::at_sink(conn, e.call, sink)?));
            }
            if standing == Standing::Same {
                compared.lacking = self.lacking(conn, e, built, zone, &compared.at)?.map(Box::new);
            }
        }
        compared.entry = entry;
        Ok(Some(compared))
    }

    /// What the sinks that lack a call can be sent: what they would have got then, under the same revision. Only a document
    /// that is still there, or a call that is built to the same content, can go so.
    fn lacking(
        &self,
        conn: &Connection,
        entry: &Entry,
        built: Built,
        zone: &Zone,
        at: &[(&'static str, AtSink)],
    ) -> Result<Option<Lacking>> {
        let sinks: Vec<&'static str> = at.iter().filter(|(_, at)| at.is_lacking()).map(|(sink, _)| *sink).collect();
        if sinks.is_empty() {
            return Ok(None);
        }
        let frame = &self.setup.frame;
        let content = if built.hash == entry.hash && built.row_count >= entry.rows {
            Some(Content {
                document: compose::document_again(&built, entry, frame)?,
                raw_rows: frame.freeze_rows.map(|freeze| freeze(&built.rows, zone)),
                folded: built.folded,
                rows: built.row_count,
            })
        } else {
            match reached::document(conn, entry.call, entry.revision)? {
                Some((_, has_rows)) if has_rows || frame.freeze_rows.is_none() => None,
                _ => return Ok(None),
            }
        };
        let mut tombstones = Vec::new();
        for id in &entry.supersedes {
            let merged = ledger::by_id(conn, id)?.filter(|e| e.state == State::Merged);
            if let Some(e) = merged.filter(|e| e.merged_into.as_ref() == Some(&entry.id)) {
                let document = compose::tombstone(&e.id, e.revision, &entry.id)?;
                tombstones.push((e.call, e.id, e.revision, document));
            }
        }
        Ok(Some(Lacking {
            call: entry.call,
            id: entry.id.clone(),
            revision: entry.revision,
            sinks,
            content,
            tombstones,
        }))
    }
}

fn bare(id: &str) -> &str {
    id.split_once(':').map_or(id, |(_, linkedid)| linkedid)
}

/// The call that has this id, or that the call with this id was merged into.
fn by_id(conn: &Connection, id: &str) -> Result<Option<Entry>> {
    let mut id = id.to_owned();
    for _ in 0..16 {
        match ledger::by_id(conn, &id)? {
            Some(Entry { merged_into: Some(into), state: State::Merged, .. }) if into != id => id = into,
            found => return Ok(found),
        }
    }
    Ok(None)
}
