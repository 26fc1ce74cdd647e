//! Cells to rows: the one place where a database's values become the fields of a CEL or CDR row, and where a row gets the
//! place it is known by.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::backend::Cell;
use super::probe::{Field, Shape};
use super::zone;
use crate::call::{CdrRow, CelEvent, CelRow, Row, RowTime, WallTime};
use crate::source::columns::{CdrColumn, CelColumn, parse_time};
use crate::source::{Place, Quarantined, Table, raw_micros};

/// Cells before the columns of a row: the lane that asked, and the id.
const HEAD: usize = 2;

/// The lane a row of an answer belongs to.
pub fn lane(cells: &[Cell]) -> i64 {
    cells.first().and_then(Cell::int).unwrap_or_default()
}

/// The id of a row of an answer; `None` where the table has no trustworthy one.
pub fn id(shape: &Shape, cells: &[Cell]) -> Option<i64> {
    shape.id.as_ref().and(cells.get(1)).and_then(Cell::int)
}

/// Reads a row, or says why it cannot be read.
pub fn row(shape: &Shape, cells: &[Cell]) -> Result<Row, Quarantined> {
    let values = cells.get(HEAD..).unwrap_or_default();
    let uniqueid = match shape.table {
        Table::Cel => Field::Cel(CelColumn::UniqueId),
        Table::Cdr => Field::Cdr(CdrColumn::UniqueId),
    };
    let at = shape.columns.iter().position(|(f, _)| *f == uniqueid);
    let number;
    let uniqueid = match at.and_then(|i| values.get(i)) {
        Some(Cell::Text(text)) => text.as_str(),
        Some(other) => {
            number = other.text();
            number.as_str()
        }
        None => "",
    };
    let time = |cell: &Cell| time(shape, cell, uniqueid);

    let row = match shape.table {
        Table::Cel => {
            let mut row = CelRow { id: id(shape, cells), ..CelRow::default() };
            for ((field, _), cell) in shape.columns.iter().zip(values) {
                match field {
                    Field::Cel(CelColumn::EventTime) => row.time = time(cell),
                    Field::Cel(column) => set(cell, |text| column.set(&mut row, text)),
                    _ => {}
                }
            }
            Row::Cel(Arc::new(row))
        }
        Table::Cdr => {
            let mut row = CdrRow { id: id(shape, cells), ..CdrRow::default() };
            for ((field, _), cell) in shape.columns.iter().zip(values) {
                match field {
                    Field::Cdr(CdrColumn::Start) => row.start = time(cell),
                    Field::Cdr(CdrColumn::Answer) => row.answer = time(cell),
                    Field::Cdr(CdrColumn::End) => row.end = time(cell),
                    Field::Cdr(column) => set(cell, |text| column.set(&mut row, text)),
                    _ => {}
                }
            }
            if shape.linkedid.is_none() {
                row.linkedid.clone_from(&row.uniqueid);
            }
            Row::Cdr(Arc::new(row))
        }
    };
    if row.time().is_none() {
        return Err(quarantined(shape, cells, &format!("its time ({}) cannot be read", shape.time.name)));
    }
    if row.uniqueid().is_empty() && row.linkedid().is_empty() {
        return Err(quarantined(shape, cells, "it has neither uniqueid nor linkedid"));
    }
    Ok(row)
}

/// Most cells are text, and many of them empty: those are not worth a copy.
fn set(cell: &Cell, mut field: impl FnMut(&str)) {
    match cell {
        Cell::Null => {}
        Cell::Text(text) if text.is_empty() => {}
        Cell::Text(text) => field(text),
        other => field(&other.text()),
    }
}

/// The time rows are found by, microseconds as the table shows it; also of a row that cannot be read otherwise.
pub fn raw_time(shape: &Shape, cells: &[Cell]) -> Option<i64> {
    let field = match shape.table {
        Table::Cel => Field::Cel(CelColumn::EventTime),
        Table::Cdr => Field::Cdr(CdrColumn::Start),
    };
    let at = shape.columns.iter().position(|(f, _)| *f == field)?;
    time(shape, cells.get(HEAD + at)?, "").map(raw_micros)
}

/// Times outside these are how backends write "never": 1970, `0000-00-00`, `infinity`.
pub const FIRST: i64 = 31_536_000_000_000;
pub const LAST: i64 = 7_258_118_400_000_000;

fn time(shape: &Shape, cell: &Cell, uniqueid: &str) -> Option<RowTime> {
    let time = match cell {
        Cell::Null => return None,
        Cell::Wall(micros) => RowTime::Wall(WallTime(*micros)),
        Cell::Utc(micros) => {
            let mislabelled = shape.mislabelled.unwrap_or_else(|| {
                // not told yet: each row speaks for itself
                zone::offset_of(*micros, uniqueid).is_some_and(|offset_s| offset_s != 0)
            });
            if mislabelled { RowTime::Wall(WallTime(*micros)) } else { RowTime::Utc(*micros) }
        }
        Cell::Int(seconds) => RowTime::Utc(seconds.checked_mul(1_000_000)?),
        Cell::Float(seconds) if seconds.is_finite() => RowTime::Utc((seconds * 1e6).round() as i64),
        Cell::Float(_) => return None,
        Cell::Text(text) => parse_time(text)?,
    };
    (FIRST..LAST).contains(&raw_micros(time)).then_some(time)
}

fn quarantined(shape: &Shape, cells: &[Cell], reason: &str) -> Quarantined {
    use std::fmt::Write;
    let mut body = String::new();
    if let Some(id) = id(shape, cells) {
        let _ = write!(body, "id={id} ");
    }
    for ((field, _), cell) in shape.columns.iter().zip(cells.get(HEAD..).unwrap_or_default()) {
        let name = match field {
            Field::Cel(c) => c.name(),
            Field::Cdr(c) => c.name(),
        };
        match cell {
            Cell::Null => {}
            Cell::Wall(micros) | Cell::Utc(micros) => {
                let _ = write!(body, "{name}={micros}us ");
            }
            other => {
                let _ = write!(body, "{name}={:?} ", other.text());
            }
        }
        if body.len() > 2_000 {
            break;
        }
    }
    Quarantined { table: shape.table, reason: reason.to_owned(), body: body.trim_end().to_owned() }
}

/// The place of a row without id: its content. `ordinal` tells identical rows apart where they are not one (DTMF).
pub fn content_place(row: &Row, ordinal: u32) -> Place {
    let mut hash = Sha256::new();
    let body = match row {
        Row::Cel(r) => serde_json::to_vec(r.as_ref()),
        Row::Cdr(r) => serde_json::to_vec(r.as_ref()),
    };
    hash.update(body.unwrap_or_default());
    if ordinal > 0 {
        hash.update(ordinal.to_be_bytes());
    }
    Place::Hash(first_half(&hash.finalize()))
}

/// A text as a key, for rows that could not be read.
pub fn text_key(text: &str) -> [u8; 16] {
    first_half(&Sha256::digest(text.as_bytes()))
}

fn first_half(digest: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    half
}

/// What a cursor remembers of the row it stands on: which row it is, not what was later written into its other columns
/// (sites patch userfield or recordingfile afterwards).
pub fn fingerprint(row: &Row) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &[u8]| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    part(&row.time().map_or(0, raw_micros).to_be_bytes());
    part(row.uniqueid().as_bytes());
    match row {
        Row::Cel(r) => {
            part(r.event.name().as_bytes());
            part(r.channel.as_bytes());
        }
        Row::Cdr(r) => {
            part(&r.sequence.unwrap_or(-1).to_be_bytes());
            part(r.channel.as_bytes());
        }
    }
    let digest = first_half(&hash.finalize());
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

/// Gives each row of one answer its content place; identical DTMF rows get ordinals in the order they came.
#[derive(Default)]
pub struct ContentPlaces {
    dtmf: std::collections::HashMap<[u8; 16], u32>,
}

impl ContentPlaces {
    pub fn place(&mut self, row: &Row) -> Place {
        let first = content_place(row, 0);
        let (Row::Cel(cel), Place::Hash(key)) = (row, first) else { return first };
        if cel.event != CelEvent::Dtmf {
            return first;
        }
        let seen = self.dtmf.entry(key).or_default();
        let ordinal = *seen;
        *seen += 1;
        if ordinal == 0 { first } else { content_place(row, ordinal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_rows_are_one_but_keys_pressed_twice_are_two() {
        let row = |event: &str| {
            Row::Cel(Arc::new(CelRow { event: CelEvent::parse(event), uniqueid: "1.1".into(), ..CelRow::default() }))
        };
        let mut places = ContentPlaces::default();
        assert_eq!(places.place(&row("HANGUP")), places.place(&row("HANGUP")));
        let (a, b) = (places.place(&row("DTMF")), places.place(&row("DTMF")));
        assert_ne!(a, b);
        let mut again = ContentPlaces::default();
        assert_eq!((again.place(&row("DTMF")), again.place(&row("DTMF"))), (a, b));
    }

    #[test]
    fn a_patched_column_does_not_change_the_fingerprint() {
        let row = |userfield: &str, channel: &str| {
            Row::Cdr(Arc::new(CdrRow {
                uniqueid: "1.1".into(),
                userfield: userfield.into(),
                channel: channel.into(),
                ..CdrRow::default()
            }))
        };
        assert_eq!(fingerprint(&row("", "PJSIP/1-1")), fingerprint(&row("late", "PJSIP/1-1")));
        assert_ne!(fingerprint(&row("", "PJSIP/1-1")), fingerprint(&row("", "PJSIP/2-1")));
    }
}
