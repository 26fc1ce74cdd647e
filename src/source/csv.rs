//! CEL and CDR rows in CSV files with a header line that names the columns, under any name of [`super::columns`].
//!
//! A record that cannot be read is reported with its line and left out; it never stops the reading.

use std::io::Read;

use thiserror::Error;

use super::columns::{CdrColumn, CelColumn};
use crate::call::{CdrRow, CelRow, Row};

#[derive(Debug, Error)]
pub enum CsvError {
    #[error("the first line of {name} names none of the columns of a {table} table; it has to be a header line")]
    NoHeader { name: String, table: &'static str },
    #[error("{name} lacks the column {column}; without it its rows belong to no call")]
    Missing { name: String, column: &'static str },
    #[error("cannot read {name}: {problem}")]
    Read { name: String, problem: String },
}

/// A record that was left out.
#[derive(Debug)]
pub struct BadRecord {
    pub line: u64,
    pub reason: String,
}

/// Rows of one file.
#[derive(Debug, Default)]
pub struct CsvRows {
    pub rows: Vec<Row>,
    pub bad: Vec<BadRecord>,
}

/// Reads a CEL file. `name` is what messages call it.
pub fn read_cel(input: impl Read, name: &str) -> Result<CsvRows, CsvError> {
    let needed =
        [(CelColumn::UniqueId, "uniqueid"), (CelColumn::EventType, "eventtype"), (CelColumn::EventTime, "eventtime")];
    read(input, name, "CEL", CelColumn::map, &needed, |columns, record| {
        let mut row = CelRow::default();
        for &(column, place) in columns {
            column.set(&mut row, &field(record, place));
        }
        if !columns.iter().any(|c| c.0 == CelColumn::LinkedId) {
            row.linkedid = row.uniqueid.clone();
        }
        if row.time.is_none() { Err("its eventtime cannot be read".to_owned()) } else { Ok(Row::Cel(row.into())) }
    })
}

/// Reads a CDR file. `name` is what messages call it.
pub fn read_cdr(input: impl Read, name: &str) -> Result<CsvRows, CsvError> {
    let needed = [(CdrColumn::UniqueId, "uniqueid"), (CdrColumn::Start, "start (or calldate)")];
    read(input, name, "CDR", CdrColumn::map, &needed, |columns, record| {
        let mut row = CdrRow::default();
        for &(column, place) in columns {
            column.set(&mut row, &field(record, place));
        }
        if !columns.iter().any(|c| c.0 == CdrColumn::LinkedId) {
            row.linkedid = row.uniqueid.clone();
        }
        if row.start.is_none() { Err("its start cannot be read".to_owned()) } else { Ok(Row::Cdr(row.into())) }
    })
}

/// Columns found, each with its place in a record.
type Columns<C> = Vec<(C, usize)>;

fn read<C: Copy + PartialEq>(
    input: impl Read,
    name: &str,
    table: &'static str,
    map: impl Fn(&[String]) -> Columns<C>,
    needed: &[(C, &'static str)],
    row_of: impl Fn(&Columns<C>, &csv::ByteRecord) -> Result<Row, String>,
) -> Result<CsvRows, CsvError> {
    let read_error = |e: csv::Error| CsvError::Read { name: name.to_owned(), problem: e.to_string() };
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(input);
    let header = reader.byte_headers().map_err(read_error)?;
    let header: Vec<String> = header.iter().map(|f| String::from_utf8_lossy(f).trim().to_owned()).collect();
    let columns = map(&header);
    if columns.len() < needed.len() {
        return Err(CsvError::NoHeader { name: name.to_owned(), table });
    }
    for &(column, what) in needed {
        if !columns.iter().any(|c| c.0 == column) {
            return Err(CsvError::Missing { name: name.to_owned(), column: what });
        }
    }
    let mut out = CsvRows::default();
    let mut record = csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) if e.is_io_error() => return Err(read_error(e)),
            Err(e) => {
                let line = e.position().map_or(0, csv::Position::line);
                out.bad.push(BadRecord { line, reason: e.to_string() });
                continue;
            }
        }
        match row_of(&columns, &record) {
            Ok(row) => out.rows.push(row),
            Err(reason) => {
                let line = record.position().map_or(0, csv::Position::line);
                out.bad.push(BadRecord { line, reason });
            }
        }
    }
    Ok(out)
}

fn field(record: &csv::ByteRecord, place: usize) -> std::borrow::Cow<'_, str> {
    record.get(place).map_or(std::borrow::Cow::Borrowed(""), String::from_utf8_lossy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name_and_a_bad_record_is_left_out() {
        let text = "EventTime,eventtype,uniqueid,linkedid,eventextra\n\
                    2026-11-20 10:00:00,CHAN_START,1.1,1.1,\n\
                    no time,CHAN_END,1.1,1.1,\n\
                    2026-11-20 10:00:01,HANGUP,1.1,1.1,\"{\"\"hangupcause\"\":16}\"\n";
        let read = read_cel(text.as_bytes(), "cel.csv").expect("a CEL file");
        assert_eq!(read.rows.len(), 2);
        assert_eq!(read.bad.len(), 1);
        assert_eq!(read.bad[0].line, 3);
        let Row::Cel(hangup) = &read.rows[1] else { panic!("a CEL row") };
        assert_eq!(hangup.extra, r#"{"hangupcause":16}"#);
    }

    #[test]
    fn a_file_without_header_is_told() {
        let e = read_cel("\"CHAN_START\",\"1795214890.1\"\n".as_bytes(), "cel.csv").expect_err("no header");
        assert!(e.to_string().contains("header line"), "{e}");
        let e = read_cdr("uniqueid,src,dst\n".as_bytes(), "cdr.csv").expect_err("no start");
        assert!(e.to_string().contains("calldate"), "{e}");
    }
}
