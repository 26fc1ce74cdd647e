//! What a table is good for: which columns it has under which names, how it keeps time, whether its id can be trusted as
//! the order of insertion, what is indexed. A table that cannot serve is refused with what is missing and the Asterisk
//! setting that adds it.

use super::backend::{Backend, Cell, ColumnInfo, Description, TableName};
use super::engine::{Engine, TimeKind};
use super::zone;
use crate::call::{CelEvent, Row};
use crate::source::columns::{CdrColumn, CelColumn};
use crate::source::{SourceError, Table, raw_micros};

/// A column's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Cel(CelColumn),
    Cdr(CdrColumn),
}

/// The time column rows are found by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    /// Quoted.
    pub name: String,
    pub kind: TimeKind,
    pub indexed: bool,
}

/// Everything the lanes have to know of a table.
#[derive(Clone, Debug)]
pub struct Shape {
    pub table: Table,
    pub name: TableName,
    pub engine: Engine,
    /// Quoted name of the table.
    pub from: String,
    /// Quoted name of the id column that gives the order of insertion.
    pub id: Option<String>,
    /// Why there is none, or what to know of the one there is.
    pub id_note: Option<String>,
    pub time: TimeColumn,
    /// Meaning and select expression of each column that is read, in order; ids are not among them.
    pub columns: Vec<(Field, String)>,
    /// Quoted.
    pub linkedid: Option<String>,
    pub linkedid_indexed: bool,
    /// Quoted.
    pub uniqueid: String,
    pub uniqueid_indexed: bool,
    /// Length of a record in seconds, as an expression that compares with a number.
    pub duration: Option<String>,
    /// Moments of this table are a server's readings in truth (cdr_adaptive_odbc writes local time into timestamptz).
    /// `None`: not yet told from its rows.
    pub mislabelled: Option<bool>,
    /// Warnings for `check` and the log: what is missing and what that costs.
    pub notes: Vec<String>,
}

impl Shape {
    /// `SELECT <lane>, <id>, <columns> FROM <table> `.
    pub fn select(&self, lane: u8) -> String {
        let mut sql = format!("SELECT {lane} AS lane_, {} AS id_", self.id.as_deref().unwrap_or("0"));
        for (i, (_, expression)) in self.columns.iter().enumerate() {
            sql.push_str(&format!(", {expression} AS c{i}_"));
        }
        sql.push_str(" FROM ");
        sql.push_str(&self.from);
        sql
    }

    /// The column that finds a call, and whether an index helps.
    pub fn call_key(&self) -> (&str, bool) {
        match &self.linkedid {
            Some(linkedid) => (linkedid, self.linkedid_indexed),
            None => (&self.uniqueid, self.uniqueid_indexed),
        }
    }

    /// The statements that would create the indexes reading wants and the table lacks.
    pub fn missing_indexes(&self) -> Vec<String> {
        let bare = |quoted: &str| quoted.trim_matches(['`', '"']).to_owned();
        let create = |column: &str| {
            let index = format!("callferry_{}_{}", bare(&self.name.name), bare(column));
            match self.engine {
                // the name of an index is qualified there, never that of its table
                Engine::Sqlite => format!("CREATE INDEX {index} ON {}({column})", self.engine.quote(&self.name.name)),
                _ => format!("CREATE INDEX {index} ON {} ({column})", self.from),
            }
        };
        let mut missing = Vec::new();
        let (key, indexed) = self.call_key();
        if !indexed {
            missing.push(create(key));
        }
        // with an id nothing is searched by time but once, at the first start, by bisection
        if self.id.is_none() && !self.time.indexed {
            missing.push(create(&self.time.name));
        }
        missing
    }
}

/// Columns a CEL table has to have, with what would add them.
const CEL_NEEDED: &[(CelColumn, &str)] = &[
    (
        CelColumn::EventType,
        "cel_odbc and cel_pgsql fill every column whose name they know: add `eventtype VARCHAR(30)`",
    ),
    (
        CelColumn::EventTime,
        "cel_odbc and cel_pgsql fill every column whose name they know: add `eventtime DATETIME(6)`",
    ),
    (CelColumn::UniqueId, "cel_odbc and cel_pgsql fill every column whose name they know: add `uniqueid VARCHAR(150)`"),
    (
        CelColumn::LinkedId,
        "events cannot be joined into calls without it; cel_odbc and cel_pgsql fill every column whose name they know: \
         add `linkedid VARCHAR(150)` and an index on it",
    ),
    (CelColumn::Channel, "cel_odbc and cel_pgsql fill every column whose name they know: add `channame VARCHAR(80)`"),
];

/// Reads what the database says of a table and decides how it is to be read.
pub async fn probe(backend: &mut dyn Backend, table: Table, name: &TableName) -> Result<Shape, SourceError> {
    let description = backend.describe(name).await?;
    let mut shape = shape(backend.engine(), table, name, &description)?;
    settle_time(backend, &mut shape).await?;
    Ok(shape)
}

/// The part that needs no further question.
pub fn shape(engine: Engine, table: Table, name: &TableName, description: &Description) -> Result<Shape, SourceError> {
    let header: Vec<&str> = description.columns.iter().map(|c| c.name.as_str()).collect();
    let mapped: Vec<(Field, usize)> = match table {
        Table::Cel => CelColumn::map(&header).into_iter().map(|(c, i)| (Field::Cel(c), i)).collect(),
        Table::Cdr => CdrColumn::map(&header).into_iter().map(|(c, i)| (Field::Cdr(c), i)).collect(),
    };
    let place = |field: Field| mapped.iter().find(|(f, _)| *f == field).map(|(_, i)| &description.columns[*i]);
    let mut notes = Vec::new();

    let (time, unique, linked) = match table {
        Table::Cel => {
            for (column, remedy) in CEL_NEEDED {
                if place(Field::Cel(*column)).is_none() {
                    return Err(missing(name, &header, column.name(), remedy));
                }
            }
            if place(Field::Cel(CelColumn::Extra)).is_none() {
                notes.push(
                    "no column extra: hangup causes, transfer targets and who hung up are not known. Add `extra \
                     VARCHAR(1024)`; cel_odbc and cel_pgsql fill it by themselves"
                        .to_owned(),
                );
            }
            (
                place(Field::Cel(CelColumn::EventTime)),
                place(Field::Cel(CelColumn::UniqueId)),
                place(Field::Cel(CelColumn::LinkedId)),
            )
        }
        Table::Cdr => {
            let linked = place(Field::Cdr(CdrColumn::LinkedId));
            if place(Field::Cdr(CdrColumn::Start)).is_none() {
                return Err(missing(name, &header, "start (or calldate)", "every CDR backend can write `start`"));
            }
            if place(Field::Cdr(CdrColumn::UniqueId)).is_none() {
                return Err(missing(
                    name,
                    &header,
                    "uniqueid",
                    "set loguniqueid=yes in cdr_odbc.conf (or cdr_mysql's loguniqueid) and add `uniqueid VARCHAR(150)`; for \
                     cdr_adaptive_odbc and cdr_pgsql the column alone is enough",
                ));
            }
            if linked.is_none() {
                notes.push(
                    "no column linkedid: records are joined by channel only, and a call that CEL does not show stays in \
                     pieces. Set newcdrcolumns=yes in cdr_odbc.conf and add `linkedid VARCHAR(150)`; for \
                     cdr_adaptive_odbc and cdr_pgsql the column alone is enough"
                        .to_owned(),
                );
            }
            for (column, what) in [
                (CdrColumn::Channel, "who called cannot be told from a CDR"),
                (CdrColumn::Disposition, "the outcome cannot be told from a CDR"),
                (CdrColumn::Duration, "how long a call took cannot be told from a CDR"),
            ] {
                if place(Field::Cdr(column)).is_none() {
                    notes.push(format!("no column {}: {what}", column.name()));
                }
            }
            (place(Field::Cdr(CdrColumn::Start)), place(Field::Cdr(CdrColumn::UniqueId)), linked)
        }
    };
    let (Some(time), Some(unique)) = (time, unique) else {
        return Err(missing(name, &header, "time and uniqueid", "see the documentation of the CDR and CEL backends"));
    };

    let (id, id_note) = trusted_id(description);
    let is_id = |field: Field| matches!(field, Field::Cel(CelColumn::Id) | Field::Cdr(CdrColumn::Id));
    let mut columns = Vec::new();
    for &(field, i) in mapped.iter().filter(|(f, _)| !is_id(*f)) {
        columns.push((field, engine.selected(&description.columns[i])));
    }
    let Some(kind) = time_kind(time) else {
        return Err(SourceError::Setup(format!(
            "column {} of table {name} ({}) is of type {}, which holds no time of day. DATETIME(6) or timestamp is what \
             CDR and CEL need",
            time.name, name.variable, time.kind
        )));
    };
    Ok(Shape {
        table,
        name: name.clone(),
        engine,
        from: name.quoted(engine),
        id: id.map(|c| engine.quote(&c)),
        id_note,
        time: TimeColumn { name: engine.quote(&time.name), kind, indexed: description.indexed(&time.name) },
        columns,
        linkedid: linked.map(|c| engine.quote(&c.name)),
        linkedid_indexed: linked.is_some_and(|c| description.indexed(&c.name)),
        uniqueid: engine.quote(&unique.name),
        uniqueid_indexed: description.indexed(&unique.name),
        duration: place(Field::Cdr(CdrColumn::Duration)).and_then(|c| number(engine, c)),
        mislabelled: if kind == TimeKind::Instant { None } else { Some(false) },
        notes,
    })
}

fn missing(name: &TableName, header: &[&str], column: &str, remedy: &str) -> SourceError {
    SourceError::Setup(format!(
        "table {name} ({}) cannot serve: it has no column {column}, only {}. {remedy}",
        name.variable,
        if header.is_empty() { "nothing".to_owned() } else { header.join(", ") }
    ))
}

/// The column that may be read as the order of insertion: alone in a unique index, and numbered by the database itself.
/// A name proves nothing: there are systems whose `id` is 0 in every row.
fn trusted_id(description: &Description) -> (Option<String>, Option<String>) {
    let alone = |c: &ColumnInfo| {
        description
            .indexes
            .iter()
            .any(|i| i.unique && i.columns.len() == 1 && i.columns[0].eq_ignore_ascii_case(&c.name))
    };
    let numeric = |c: &ColumnInfo| c.kind.contains("int") || c.kind.contains("serial");
    if let Some(column) = description.columns.iter().find(|c| c.auto && alone(c) && numeric(c)) {
        let note = (description.id_cache > 1).then(|| {
            format!(
                "the sequence of {} hands each session {} numbers in advance: rows appear long after higher ids. Run: \
                 ALTER SEQUENCE … CACHE 1",
                column.name, description.id_cache
            )
        });
        return (Some(column.name.clone()), note);
    }
    let named = |c: &ColumnInfo| CdrColumn::of(&c.name) == Some(CdrColumn::Id);
    let why = if description.is_view {
        "a view has no id that shows the order of insertion".to_owned()
    } else if let Some(column) = description.columns.iter().find(|c| named(c)) {
        match (column.auto, alone(column)) {
            (false, _) => format!("the database does not number column {} itself", column.name),
            (true, false) => format!("column {} is not unique by an index of its own", column.name),
            (true, true) => format!("column {} is of type {}", column.name, column.kind),
        }
    } else {
        "it has no id column".to_owned()
    };
    (None, Some(why))
}

/// A column as a number; `None`: it cannot be compared with one.
fn number(engine: Engine, column: &ColumnInfo) -> Option<String> {
    let name = engine.quote(&column.name);
    match engine {
        Engine::MySql => Some(name),
        Engine::Sqlite => Some(format!("CAST({name} AS INTEGER)")),
        Engine::PostgreSql => {
            let kinds = ["smallint", "integer", "bigint", "numeric", "real", "double precision"];
            kinds.contains(&column.kind.as_str()).then_some(name)
        }
    }
}

fn time_kind(column: &ColumnInfo) -> Option<TimeKind> {
    let kind = column.kind.as_str();
    let has = |part: &str| kind.contains(part);
    Some(match kind {
        "timestamp with time zone" | "timestamp" => TimeKind::Instant,
        "datetime" | "timestamp without time zone" => TimeKind::Naive,
        "date" | "time" | "year" | "boolean" | "json" | "jsonb" => return None,
        _ if has("int")
            || has("serial")
            || has("dec")
            || has("num")
            || has("float")
            || has("double")
            || has("real") =>
        {
            TimeKind::Epoch
        }
        // text of unknown content, settled by a look at the rows
        _ => TimeKind::TextNaive,
    })
}

/// Questions only the rows can answer: what text and untyped columns hold, and whether moments are moments.
async fn settle_time(backend: &mut dyn Backend, shape: &mut Shape) -> Result<(), SourceError> {
    let engine = shape.engine;
    // SQLite's declared types bind nothing: all columns hold what was written, which is text
    let undeclared = engine == Engine::Sqlite;
    if undeclared || shape.time.kind == TimeKind::TextNaive {
        let order = shape.id.as_deref().unwrap_or(&shape.time.name);
        let sql = format!(
            "SELECT {} FROM {} WHERE {} IS NOT NULL ORDER BY {order} DESC LIMIT 1",
            shape.time.name, shape.from, shape.time.name
        );
        let kind = match backend.select(&sql, &[]).await?.first().map(|row| row[0].clone()) {
            Some(Cell::Int(_) | Cell::Float(_)) => TimeKind::Epoch,
            Some(Cell::Text(text)) if looks_like_epoch(&text) => TimeKind::TextEpoch,
            _ => TimeKind::TextNaive,
        };
        shape.time.kind = kind;
        shape.mislabelled = Some(false);
    }
    settle_label(backend, shape).await
}

/// Whether the moments of a table are moments: asked again at each poll until rows tell.
pub async fn settle_label(backend: &mut dyn Backend, shape: &mut Shape) -> Result<(), SourceError> {
    if shape.mislabelled.is_none() {
        let mut vote = zone::Vote::default();
        for (raw, uniqueid) in recent_times(backend, shape, 200).await? {
            vote.add(raw, &uniqueid);
        }
        shape.mislabelled = vote.local();
        if shape.mislabelled.is_none() && vote.asked >= HOPELESS && vote.is_empty() {
            // uniqueids without a time in them: the column is taken at its word
            shape.mislabelled = Some(false);
        }
    }
    Ok(())
}

/// Rows that say nothing before a column is taken at its word.
const HOPELESS: usize = 100;

fn looks_like_epoch(text: &str) -> bool {
    let whole = text.trim().split('.').next().unwrap_or_default();
    whole.len() >= 9 && whole.bytes().all(|b| b.is_ascii_digit())
}

/// Time and uniqueid of the newest rows, newest first; of CEL only those that begin a channel.
pub async fn recent_times(
    backend: &mut dyn Backend,
    shape: &Shape,
    limit: usize,
) -> Result<Vec<(i64, String)>, SourceError> {
    // without an index the newest rows cannot be had cheaply, and any rows will do
    let order = match &shape.id {
        Some(id) => format!("ORDER BY {id} DESC"),
        None if shape.time.indexed => format!("ORDER BY {} DESC", shape.time.name),
        None => String::new(),
    };
    let sql = format!("{} WHERE {} IS NOT NULL {order} LIMIT {limit}", shape.select(0), shape.time.name);
    let rows = backend.select(&sql, &[]).await?;
    let mut found = Vec::new();
    for cells in rows.iter() {
        let Ok(row) = super::read::row(shape, cells) else { continue };
        if matches!(&row, Row::Cel(cel) if cel.event != CelEvent::ChanStart) {
            continue;
        }
        if let Some(time) = row.time() {
            found.push((raw_micros(time), row.uniqueid().to_owned()));
        }
    }
    Ok(found)
}
