//! What has to hold for any bytes: one function a fuzz target (`fuzz/`), which ordinary tests run over the findings kept
//! in `tests/data/fuzz`. Each panics where a promise is broken.

use std::collections::BTreeSet;

use callferry::call::Row;
use callferry::correlate::extra;
use callferry::source::csv;

mod promises;
pub mod rows;

/// Text after this line of a `captured` input is that of the records.
pub const RECORDS: &str = "\n--records--\n";

/// A CEL file: read or told, never more rows than lines, and whatever was read makes calls.
pub fn cel_csv(data: &[u8]) {
    if let Some(rows) = read(data, csv::read_cel(data, "cel.csv")) {
        promises::keep(&rows, true, seed(data));
    }
}

/// A CDR file, the same.
pub fn cdr_csv(data: &[u8]) {
    if let Some(rows) = read(data, csv::read_cdr(data, "cdr.csv")) {
        promises::keep(&rows, false, seed(data));
    }
}

/// Both files of one PBX.
pub fn captured(data: &[u8]) {
    let split = data.windows(RECORDS.len()).position(|w| w == RECORDS.as_bytes());
    let (cel, cdr) = split.map_or((data, &[][..]), |at| (&data[..at], &data[at + RECORDS.len()..]));
    let mut rows = read(cel, csv::read_cel(cel, "cel.csv")).unwrap_or_default();
    rows.append(&mut read(cdr, csv::read_cdr(cdr, "cdr.csv")).unwrap_or_default());
    promises::keep(&rows, true, seed(data));
}

/// Rows of few channels, bridges and events, near each other in time.
pub fn calls(data: &[u8]) {
    let input = rows::decode(data);
    promises::keep(&input.rows, input.has_cel, seed(data));
}

/// `extra` as JSON that was cut off anywhere: of whole JSON every value is read as a JSON parser reads it, and no cut
/// makes up a value that the whole does not have.
pub fn salvage(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let all: Vec<(&str, String)> = extra::pairs(text).map(|p| (p.key, p.text().into_owned())).collect();
    assert!(all.len() <= text.len(), "more pairs than bytes");
    for (at, _) in text.char_indices() {
        let cut: Vec<(&str, String)> = extra::pairs(&text[..at]).map(|p| (p.key, p.text().into_owned())).collect();
        assert!(all.starts_with(&cut), "cut at {at}: {cut:?}, whole {all:?}");
    }
    let Ok(serde_json::Value::Object(object)) = serde_json::from_str(text) else { return };
    let mut seen = BTreeSet::new();
    for (key, value) in &all {
        // keys are compared as written, and of a key given twice JSON keeps the last
        if key.contains('\\') || !seen.insert(*key) || all.iter().filter(|(k, _)| k == key).count() > 1 {
            continue;
        }
        match object.get(*key) {
            Some(serde_json::Value::String(text)) => assert_eq!(value, text, "{key}"),
            Some(serde_json::Value::Bool(_) | serde_json::Value::Null) => assert_eq!(*value, object[*key].to_string()),
            Some(_) => {}
            None => panic!("{key} is not in the object"),
        }
    }
    let told: BTreeSet<&str> = all.iter().map(|(k, _)| *k).collect();
    let missed =
        object.keys().find(|k| !k.contains(['\\', '"']) && !text.contains("\\u") && !told.contains(k.as_str()));
    assert!(missed.is_none() || text.contains('\\'), "{missed:?} is not told");
}

fn read(data: &[u8], read: Result<csv::CsvRows, csv::CsvError>) -> Option<Vec<Row>> {
    let read = read.ok()?;
    let lines = data.iter().filter(|b| matches!(b, b'\n' | b'\r')).count() + 1;
    assert!(read.rows.len() + read.bad.len() <= lines, "more rows than lines");
    Some(read.rows)
}

/// Decides the order of arrival.
fn seed(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
