//! The recordings table (`DB_TABLE_RECORDINGS`): which files belong to which linkedid. Read with SELECT only, for calls
//! whose end has just been read, and a few times after it, since whoever fills the table often does so later.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::backend::{Backend, Cell, Description, TableName};
use super::engine::{Engine, Statement};
use crate::call::{CelEvent, FoundRecording, RecordingMatch, Row};
use crate::correlate::ids;
use crate::source::{PlacedRow, SourceError};

/// Linkedids in one statement.
const KEYS: usize = 64;
/// Rows of one statement at most.
const ROWS: usize = 5_000;
/// When a call is asked for again after its end was read, microseconds of database time from one to the next.
const AGAIN: [i64; 3] = [15_000_000, 120_000_000, 900_000_000];
/// Calls to be asked for again, at most; the oldest are given up.
const AGAIN_MAX: usize = 10_000;
/// Of those whose time has come, how many of each queue are asked for at once.
const DUE_MAX: usize = 256;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(60);
/// A name or path longer than this is none.
const TEXT_MAX: usize = 1_024;

/// What the table looks like, for one connection.
#[derive(Clone, Debug)]
struct Shape {
    engine: Engine,
    select: String,
    linkedid: String,
    /// What to say of it once.
    note: Option<String>,
}

/// The table, with the calls it is asked for.
pub struct RecordingsTable {
    name: TableName,
    shape: Option<Shape>,
    /// (due, how often asked, linkedid), one queue a step, each in the order of its times.
    again: [VecDeque<(i64, String)>; AGAIN.len()],
    /// Of the last poll, not stored yet.
    asked: Asked,
    /// It could not be asked: not again before this.
    not_before: Option<Instant>,
    told: bool,
}

#[derive(Default)]
struct Asked {
    at: i64,
    new: BTreeSet<String>,
    /// How many of each queue were asked.
    due: [usize; AGAIN.len()],
}

impl RecordingsTable {
    pub fn new(table: &str) -> Self {
        Self {
            name: TableName::parse(table, "DB_TABLE_RECORDINGS"),
            shape: None,
            again: Default::default(),
            asked: Asked::default(),
            not_before: None,
            told: false,
        }
    }

    /// Looks at the table. An error says what is missing and names the setting; once the table was there, calls are read
    /// without it.
    pub async fn probe(&mut self, backend: &mut dyn Backend) -> Result<Option<String>, SourceError> {
        let description = match backend.describe(&self.name).await {
            Err(e) if self.shape.is_some() => {
                self.put_off(&e);
                return Ok(None);
            }
            description => description?,
        };
        let shape = shape(backend.engine(), &self.name, &description)?;
        let before = self.shape.replace(shape).and_then(|s| s.note);
        Ok(self.shape.as_ref().and_then(|s| s.note.clone()).filter(|n| before.as_ref() != Some(n)))
    }

    /// Asks for the calls that ended in `rows`, and for those whose time has come. `lasting`: what is read now is the
    /// present, so that later asking makes sense. Calls never wait for this table: where it cannot be asked, it is asked for
    /// them later.
    pub async fn poll(
        &mut self,
        backend: &mut dyn Backend,
        now: i64,
        rows: &[PlacedRow],
        lasting: bool,
    ) -> Vec<FoundRecording> {
        let ended: BTreeSet<String> = rows.iter().filter_map(|placed| ended(&placed.row)).map(str::to_owned).collect();
        let mut asked = Asked { at: now, ..Asked::default() };
        let waits = self.not_before.is_some_and(|at| Instant::now() < at);
        let mut ask = ended.clone();
        for (queue, n) in self.again.iter().zip(&mut asked.due).filter(|_| !waits) {
            for (_, linkedid) in queue.iter().take_while(|(due, _)| *due <= now).take(DUE_MAX) {
                *n += 1;
                ask.insert(linkedid.clone());
            }
        }
        let done = if waits { None } else { Some(self.ask(backend, ask).await) };
        let failed = !matches!(done, Some(Ok(_)));
        if failed {
            asked.due = [0; AGAIN.len()];
        }
        if lasting || failed {
            asked.new = ended;
        }
        self.asked = asked;
        match done {
            Some(Ok(found)) => {
                (self.not_before, self.told) = (None, false);
                found
            }
            Some(Err(e)) => {
                self.put_off(&e);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    fn put_off(&mut self, why: &SourceError) {
        self.not_before = Some(Instant::now() + PAUSE);
        if !std::mem::replace(&mut self.told, true) {
            let table = &self.name;
            tracing::warn!(%table, "recordings cannot be looked up, and are later; calls are shipped without them meanwhile: {why}");
        }
    }

    async fn ask(&self, backend: &mut dyn Backend, ask: BTreeSet<String>) -> Result<Vec<FoundRecording>, SourceError> {
        let Some(shape) = &self.shape else { return Ok(Vec::new()) };
        let ask: Vec<String> = ask.into_iter().collect();
        let mut found = Vec::new();
        for keys in ask.chunks(KEYS) {
            let mut statement = Statement::new(shape.engine);
            statement.push(&shape.select).push(&format!(" WHERE {} IN ", shape.linkedid)).bind_list(keys);
            statement.push(&format!(" LIMIT {ROWS}"));
            for cells in backend.select(&statement.sql, &statement.params).await?.iter() {
                found.extend(recording(cells));
            }
        }
        Ok(found)
    }

    /// What the last poll found is stored.
    pub fn committed(&mut self) {
        let asked = std::mem::take(&mut self.asked);
        for (step, n) in asked.due.into_iter().enumerate() {
            let done: Vec<String> = self.again[step].drain(..n).map(|(_, linkedid)| linkedid).collect();
            if let (Some(queue), Some(wait)) = (self.again.get_mut(step + 1), AGAIN.get(step + 1)) {
                queue.extend(done.into_iter().map(|linkedid| (asked.at.saturating_add(*wait), linkedid)));
            }
        }
        self.again[0].extend(asked.new.into_iter().map(|linkedid| (asked.at.saturating_add(AGAIN[0]), linkedid)));
        for queue in &mut self.again {
            let over = queue.len().saturating_sub(AGAIN_MAX);
            queue.drain(..over);
        }
    }
}

/// The linkedid of a row that tells of an end.
fn ended(row: &Row) -> Option<&str> {
    let tells = match row {
        Row::Cel(row) => matches!(row.event, CelEvent::LinkedidEnd | CelEvent::ChanEnd),
        Row::Cdr(_) => true,
    };
    let id = if row.linkedid().is_empty() { row.uniqueid() } else { row.linkedid() };
    (tells && ids::Id::parse(id).is_some()).then_some(id)
}

fn shape(engine: Engine, table: &TableName, description: &Description) -> Result<Shape, SourceError> {
    let column = |names: &[&str]| {
        names.iter().find_map(|name| description.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name)))
    };
    let lacks = |what: &str| {
        SourceError::Setup(format!(
            "the recordings table {table} has no column {what}. It needs linkedid and filename or file_path, and can have \
             file_size and created_at; check {}",
            table.variable
        ))
    };
    let linkedid = column(&["linkedid"]).ok_or_else(|| lacks("linkedid"))?;
    let file = column(&["filename"]);
    let path = column(&["file_path"]);
    if file.is_none() && path.is_none() {
        return Err(lacks("filename or file_path"));
    }
    let columns = [Some(linkedid), file, path, column(&["file_size"])];
    let selected = columns.map(|c| c.map_or_else(|| "NULL".to_owned(), |c| engine.selected(c)));
    let name = table.quoted(engine);
    let linkedid = engine.quote(&linkedid.name);
    let note = (!description.is_view && !description.indexed("linkedid")).then(|| {
        format!(
            "{table} has no index on linkedid: every question reads the whole table. CREATE INDEX {}_linkedid ON {name} \
             ({linkedid})",
            table.name
        )
    });
    Ok(Shape { engine, select: format!("SELECT {} FROM {name}", selected.join(", ")), linkedid, note })
}

/// A row of the table; `None` for one that names no file.
fn recording(cells: &[Cell]) -> Option<FoundRecording> {
    let text = |at: usize| {
        let text = cells.get(at).map(Cell::text).unwrap_or_default();
        let usable = text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
        if usable { text.trim().to_owned() } else { String::new() }
    };
    let (owner, name, path) = (text(0), text(1), text(2));
    ids::Id::parse(&owner)?;
    // either column may hold the whole path
    let last = |p: &str| p.rsplit('/').next().unwrap_or_default().to_owned();
    let file = if name.is_empty() { last(&path) } else { last(&name) };
    if file.is_empty() {
        return None;
    }
    let path = if path.is_empty() {
        name.contains('/').then_some(name)
    } else if last(&path) == file {
        Some(path)
    } else {
        Some(format!("{}/{file}", path.trim_end_matches('/')))
    };
    let size = cells.get(3).and_then(Cell::int).and_then(|s| u64::try_from(s).ok());
    Some(FoundRecording { owner, file, path, size, started_at: None, by: RecordingMatch::Db })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(name: &str, path: &str) -> Vec<Cell> {
        let text = |t: &str| Cell::Text(t.into());
        vec![text("1795214890.5"), text(name), text(path), Cell::Int(10)]
    }

    #[test]
    fn either_column_may_hold_the_path() {
        for (name, path, file, whole) in [
            ("a.wav", "", "a.wav", None),
            ("a.wav", "/s/2026", "a.wav", Some("/s/2026/a.wav")),
            ("a.wav", "/s/2026/", "a.wav", Some("/s/2026/a.wav")),
            ("a.wav", "/s/a.wav", "a.wav", Some("/s/a.wav")),
            ("/s/a.wav", "", "a.wav", Some("/s/a.wav")),
            ("", "/s/a.wav", "a.wav", Some("/s/a.wav")),
        ] {
            let found = recording(&cells(name, path)).expect("a recording");
            assert_eq!((found.file.as_str(), found.path.as_deref()), (file, whole), "{name} {path}");
        }
        for (name, path) in [("", ""), ("", "/s/"), ("a\u{1b}[2J.wav", ""), (&*"x".repeat(2_000), "")] {
            assert_eq!(recording(&cells(name, path)), None, "{name} {path}");
        }
    }
}
