//! What a call that is up costs in memory besides its rows: at most 4 kB, in everything the agent remembers of it.

use std::fs::File;

use callferry::agent::judge::Policy;
use callferry::agent::picture::Picture;
use callferry::call::{CdrRow, CelRow, Row};
use callferry::correlate::Zone;
use callferry::correlate::completion::Grace;
use callferry::source::csv;
use callferry::store::fold::HeldRow;

use crate::support::expected::captures_dir;

/// Bytes.
const OPEN_CALL_MAX: i64 = 4_000;
const CALLS: u64 = 2_000;

/// The simple call, as often as asked for, each with ids of its own.
fn calls() -> Vec<Row> {
    let run = captures_dir().join("01-internal-answered/run1");
    let open = |name: &str| File::open(run.join(name)).expect("a file of the capture");
    let mut one = csv::read_cel(open("cel.csv"), "cel").expect("CEL rows").rows;
    one.append(&mut csv::read_cdr(open("cdr.csv"), "cdr").expect("CDR rows").rows);
    assert!(one.len() >= 14, "{} rows", one.len());
    let other = |id: &str, n: u64| {
        let (epoch, counter) = id.split_once('.').expect("epoch.counter");
        format!("{epoch}.{}", counter.parse::<u64>().expect("a counter") + n * 1_000)
    };
    let copy = |row: &Row, n: u64| match row {
        Row::Cel(r) => {
            let (uniqueid, linkedid) = (other(&r.uniqueid, n).into(), other(&r.linkedid, n).into());
            Row::Cel(CelRow { uniqueid, linkedid, ..(**r).clone() }.into())
        }
        Row::Cdr(r) => {
            let (uniqueid, linkedid) = (other(&r.uniqueid, n).into(), other(&r.linkedid, n).into());
            Row::Cdr(CdrRow { uniqueid, linkedid, ..(**r).clone() }.into())
        }
    };
    (0..CALLS).flat_map(|n| one.iter().map(move |row| copy(row, n)).collect::<Vec<_>>()).collect()
}

#[test]
fn an_open_call_holds_less_than_4_kb_and_its_rows() {
    let rows = calls();
    let zone = Zone::Named(chrono_tz::Europe::Prague);
    let grace = Grace { cdr: 5_000_000, quiet: 10_000_000, cdr_only: 60_000_000, has_cel: true, has_cdr: true };
    let policy = Policy { grace, max_age: i64::MAX, rows_max: 5_000, cached_rows_max: 1_000_000, updates: None };
    let mut picture = Picture::new(true);
    // the rows are held by us too: what is counted is all but them
    let held = allocation_counter::measure(|| {
        for (seq, row) in (1..).zip(&rows) {
            picture.take(seq, HeldRow { generation: 0, row: row.clone() }, &zone, None, &policy);
        }
    });
    assert_eq!(picture.len() as u64, CALLS);
    let each = held.bytes_current / CALLS as i64;
    println!("an open call of {} rows: {each} bytes besides its rows", rows.len() as u64 / CALLS);
    assert!(each < OPEN_CALL_MAX, "{each} bytes");
    let freed = allocation_counter::measure(|| drop(picture));
    assert!(freed.bytes_current < 0, "it is all counted: {} bytes given back", freed.bytes_current);
}
