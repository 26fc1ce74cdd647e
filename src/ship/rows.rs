//! The rows of a call, frozen with its document for sinks that send them along. They freeze when the document does, with
//! the zone in force then, so that rendering needs nothing but the outbox and cannot see rows that came later.

use std::io::{Read, Write};

use chrono::{FixedOffset, Offset, TimeZone};
use flate2::read::DeflateDecoder;
use serde::{Deserialize, Serialize};

use super::RenderError;
use crate::call::{CdrRow, CelRow, RowTime, Timestamp};
use crate::correlate::{CallRows, Zone};
use crate::deflate::{Form, deflate};

/// More than the largest group the correlator builds a call from.
const INFLATED_MAX: u64 = 256 << 20;

#[derive(Serialize)]
struct Freezing<'a> {
    zone: &'a Zone,
    cel: Vec<&'a CelRow>,
    cdr: Vec<&'a CdrRow>,
}

/// The rows as they froze.
#[derive(Clone, Debug, Deserialize)]
pub struct FrozenRows {
    pub zone: Zone,
    pub cel: Vec<CelRow>,
    pub cdr: Vec<CdrRow>,
}

/// Freezes the rows a document was built from; the result goes into `NewRevision::rows`.
pub fn freeze_rows(rows: &CallRows, zone: &Zone) -> Vec<u8> {
    let freezing =
        Freezing { zone, cel: rows.cel.iter().map(|r| &**r).collect(), cdr: rows.cdr.iter().map(|r| &**r).collect() };
    // writing into memory fails only where there is none
    deflate(Form::Raw, |text| Ok(serde_json::to_writer(text, &freezing)?)).unwrap_or_default()
}

/// Frozen rows whose JSON went through `change`; `None` from that: it is not JSON.
pub(super) fn rewrite_rows(bytes: &[u8], change: impl FnOnce(&str) -> Option<String>) -> Result<Vec<u8>, RenderError> {
    let fault = |e: &dyn std::fmt::Display| RenderError(format!("frozen rows: {e}"));
    let text = String::from_utf8(inflate(bytes)?).map_err(|e| fault(&e))?;
    let text = change(&text).ok_or_else(|| fault(&"not JSON"))?;
    deflate(Form::Raw, |kept| kept.write_all(text.as_bytes())).map_err(|e| fault(&e))
}

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, RenderError> {
    let mut text = Vec::new();
    let read = DeflateDecoder::new(bytes).take(INFLATED_MAX).read_to_end(&mut text);
    read.map_err(|e| RenderError(format!("frozen rows: {e}")))?;
    Ok(text)
}

impl FrozenRows {
    pub fn thaw(bytes: &[u8]) -> Result<Self, RenderError> {
        serde_json::from_slice(&inflate(bytes)?).map_err(|e| RenderError(format!("frozen rows: {e}")))
    }

    /// The moment of a row's time. `uniqueid` helps where the clock showed the same reading twice.
    pub fn moment(&self, time: RowTime, uniqueid: &str) -> Timestamp {
        match time {
            RowTime::Utc(micros) => Timestamp::from_micros(micros),
            RowTime::Wall(wall) => self.zone.moment(wall, epoch(uniqueid)),
        }
    }

    /// As a clock beside the PBX shows it, with its offset.
    pub fn local(&self, moment: Timestamp) -> String {
        local(&self.zone, moment)
    }
}

/// `2026-11-20T23:26:44.553666+01:00`; whole seconds without a fraction, as Python's `isoformat` writes them.
pub fn local(zone: &Zone, moment: Timestamp) -> String {
    let Some(utc) = moment.to_chrono() else { return moment.to_string() };
    let offset = match zone {
        Zone::Named(tz) => tz.offset_from_utc_datetime(&utc.naive_utc()).fix(),
        Zone::Fixed(secs) => FixedOffset::east_opt(*secs).unwrap_or(chrono::Utc.fix()),
    };
    let format = if moment.micros() % 1_000_000 == 0 { "%Y-%m-%dT%H:%M:%S%:z" } else { "%Y-%m-%dT%H:%M:%S%.6f%:z" };
    utc.with_timezone(&offset).format(format).to_string()
}

/// The epoch inside a uniqueid: `[systemname-]<epoch>.<counter>`.
fn epoch(uniqueid: &str) -> Option<Timestamp> {
    let (head, _) = uniqueid.rsplit_once('.')?;
    let digits = head.rsplit_once('-').map_or(head, |(_, d)| d);
    digits.parse().ok().map(Timestamp::from_secs)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn rows_thaw_as_they_froze() {
        let cel = CelRow {
            id: Some(1),
            uniqueid: "sys-1795213604.12".into(),
            time: Some(RowTime::Utc(5)),
            ..CelRow::default()
        };
        let rows = CallRows { cel: vec![Arc::new(cel.clone())], cdr: vec![Arc::default()], ..CallRows::default() };
        let thawed = FrozenRows::thaw(&freeze_rows(&rows, &Zone::Named(chrono_tz::Europe::Prague))).expect("thaw");
        assert_eq!((&thawed.cel[0], thawed.cdr.len()), (&cel, 1));
        assert!(FrozenRows::thaw(b"nonsense").is_err());
        assert_eq!(epoch(&cel.uniqueid), Some(Timestamp::from_secs(1_795_213_604)));
    }

    #[test]
    fn local_times_carry_the_offset_of_their_day() {
        let prague = Zone::Named(chrono_tz::Europe::Prague);
        let winter = Timestamp::parse_rfc3339("2026-11-20T22:26:44.553666Z").expect("time");
        let summer = Timestamp::parse_rfc3339("2026-07-20T22:26:44Z").expect("time");
        assert_eq!(local(&prague, winter), "2026-11-20T23:26:44.553666+01:00");
        assert_eq!(local(&prague, summer), "2026-07-21T00:26:44+02:00");
        assert_eq!(local(&Zone::Fixed(-19_800), summer), "2026-07-20T16:56:44-05:30");
    }
}
