//! The rows of a built call as one compressed blob: zlib over NDJSON, one line a row, so that a late row can rebuild it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Result, StoreError};
use crate::call::{CdrRow, CelRow, Row};
use crate::deflate::{Form, deflate};

/// No call is larger than this once unfolded: the row cap times a generous row.
const UNFOLDED_BYTES_MAX: u64 = 256 << 20;

/// A row together with the generation of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRow {
    pub generation: i64,
    pub row: Row,
}

#[derive(Serialize)]
enum Line<'a> {
    #[serde(rename = "cel")]
    Cel(i64, &'a CelRow),
    #[serde(rename = "cdr")]
    Cdr(i64, &'a CdrRow),
}

#[derive(Deserialize)]
enum ReadLine {
    #[serde(rename = "cel")]
    Cel(i64, Box<CelRow>),
    #[serde(rename = "cdr")]
    Cdr(i64, Box<CdrRow>),
}

/// Folds the rows of a call.
pub fn fold<'a>(rows: impl Iterator<Item = &'a HeldRow>) -> Result<Vec<u8>> {
    let folded = deflate(Form::Zlib, |text| {
        for held in rows {
            let line = match &held.row {
                Row::Cel(row) => Line::Cel(held.generation, row),
                Row::Cdr(row) => Line::Cdr(held.generation, row),
            };
            serde_json::to_writer(&mut *text, &line)?;
            text.push(b'\n');
        }
        Ok(())
    });
    folded.map_err(|e| StoreError::Content(e.to_string()))
}

/// Unfolds what [`fold`] made.
pub fn unfold(folded: &[u8]) -> Result<Vec<HeldRow>> {
    let mut text = Vec::new();
    flate2::read::ZlibDecoder::new(folded)
        .take(UNFOLDED_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|e| StoreError::Content(format!("folded rows: {e}")))?;
    let lines = text.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let line = serde_json::from_slice(line).map_err(|e| StoreError::Content(format!("folded row: {e}")))?;
            Ok(match line {
                ReadLine::Cel(generation, row) => HeldRow { generation, row: Row::Cel(row.into()) },
                ReadLine::Cdr(generation, row) => HeldRow { generation, row: Row::Cdr(row.into()) },
            })
        })
        .collect()
}

/// Drops rows that are held twice: the same place read again, or the same content under another generation (a table
/// that was emptied and filled again). Repeated digits of one generation stay: they differ by id.
/// Returns what is left, and the rows of a trustworthy id that were dropped.
pub fn distinct(rows: Vec<HeldRow>) -> (Vec<HeldRow>, Vec<HeldRow>) {
    // content without id → generation → how many there
    let mut seen: HashMap<Row, Vec<HeldRow>> = HashMap::with_capacity(rows.len());
    let mut order = Vec::with_capacity(rows.len());
    let mut dropped = Vec::new();
    for held in rows {
        let content = without_id(&held.row);
        let same = seen.entry(content.clone()).or_default();
        if same.iter().any(|other| other.generation == held.generation && id(&other.row) == id(&held.row)) {
            dropped.push(held);
            continue;
        }
        if same.is_empty() {
            order.push(content);
        }
        same.push(held);
    }
    let mut kept = Vec::new();
    for content in order {
        let Some(mut same) = seen.remove(&content) else { continue };
        let first = same.first().map(|r| r.generation);
        if same.iter().any(|r| Some(r.generation) != first) {
            let mut counts: HashMap<i64, usize> = HashMap::new();
            for r in &same {
                *counts.entry(r.generation).or_default() += 1;
            }
            // the generation that holds it most often; of equals the oldest
            let best = counts.iter().max_by_key(|(g, n)| (**n, std::cmp::Reverse(**g))).map(|(g, _)| *g);
            same.retain(|r| Some(r.generation) == best);
        }
        kept.extend(same);
    }
    (kept, dropped)
}

fn id(row: &Row) -> Option<i64> {
    match row {
        Row::Cel(r) => r.id,
        Row::Cdr(r) => r.id,
    }
}

fn without_id(row: &Row) -> Row {
    match row {
        Row::Cel(r) if r.id.is_some() => Row::Cel(Arc::new(CelRow { id: None, ..CelRow::clone(r) })),
        Row::Cdr(r) if r.id.is_some() => Row::Cdr(Arc::new(CdrRow { id: None, ..CdrRow::clone(r) })),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::CelEvent;

    fn digit(generation: i64, id: i64) -> HeldRow {
        let row = CelRow { id: Some(id), event: CelEvent::Dtmf, uniqueid: "1.1".into(), ..CelRow::default() };
        HeldRow { generation, row: Row::Cel(Arc::new(row)) }
    }

    #[test]
    fn folding_keeps_every_row() {
        let cdr =
            HeldRow { generation: 3, row: Row::Cdr(Arc::new(CdrRow { src: "Zoë".into(), ..CdrRow::default() })) };
        let mut rows: Vec<_> = (0..2_000).map(|i| digit(1, i)).collect();
        rows.push(cdr);
        let folded = fold(rows.iter()).expect("fold");
        assert!(folded.len() < 40_000, "{} bytes", folded.len());
        assert_eq!(unfold(&folded).expect("unfold"), rows);
        // the compressor is used again
        let small = fold(rows.iter().take(1)).expect("fold");
        assert_eq!(unfold(&small).expect("unfold"), rows[..1]);
    }

    #[test]
    fn damaged_blobs_are_told() {
        assert!(unfold(b"not zlib").is_err());
    }

    #[test]
    fn repeated_rows_are_one_but_repeated_digits_are_not() {
        let (kept, dropped) = distinct(vec![digit(1, 1), digit(1, 2), digit(1, 1)]);
        assert_eq!((kept.len(), dropped.len()), (2, 1));
        let (kept, dropped) = distinct(vec![digit(1, 1), digit(2, 7), digit(2, 8), digit(1, 2)]);
        assert_eq!(kept, vec![digit(1, 1), digit(1, 2)]);
        assert!(dropped.is_empty());
    }
}
