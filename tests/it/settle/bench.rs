//! A settler over a state of its own, and rows to feed it with.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use callferry::agent::compose::Frame;
use callferry::agent::judge::Policy;
use callferry::agent::settle::{Outcome, Settler, Setup};
use callferry::call::{CdrRow, CelEvent, CelRow, Disposition, Row, RowTime, SourceInfo, SourceKind, Timestamp};
use callferry::correlate::completion::Grace;
use callferry::correlate::{Rules, Zone};
use callferry::source::{Batch, Place, PlacedRow, csv};
use callferry::store::{Store, meta};
use serde_json::Value;

use crate::support::expected::captures_dir;

pub const ZONE: Zone = Zone::Named(chrono_tz::Europe::Prague);
/// The second the made-up calls begin at.
pub const EPOCH: i64 = 1_795_300_000;
/// A moment long after all of them.
pub const MUCH_LATER: i64 = EPOCH + 400_000;

pub fn at(second: i64) -> Timestamp {
    Timestamp::from_secs(second)
}

pub struct Bench {
    // declared first: it has to let go of the state before the directory goes
    pub settler: Settler,
    pub store: Store,
    pub dir: tempfile::TempDir,
    setup: Setup,
    pub now: Timestamp,
}

pub fn setup() -> Setup {
    Setup {
        frame: Frame {
            source: SourceInfo { id: "pbx".to_owned(), kind: SourceKind::Asterisk, host: None },
            rules: Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], ..Rules::default() },
            created_at: Timestamp::default(),
            start_at: None,
            freeze_rows: None,
        },
        policy: Policy {
            grace: Grace { cdr: 5_000_000, quiet: 10_000_000, cdr_only: 60_000_000, has_cel: true, has_cdr: true },
            max_age: 86_400_000_000,
            rows_max: 5_000,
            cached_rows_max: 20_000,
            updates: None,
        },
        sinks: vec!["webhook", "file"],
    }
}

impl Bench {
    /// The state is created long before the calls, so that revisions begin with 1.
    pub fn new() -> Self {
        Self::with(setup(), 1_000)
    }

    pub fn with(setup: Setup, created: i64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let now = at(created);
        let store = Store::open(dir.path()).expect("a new state");
        store
            .write_blocking(move |c| {
                meta::begin(c, "pbx", now)?;
                // the clocks were compared when the state was made
                meta::put(c, "created_at_compared", "1")
            })
            .expect("begin");
        let settler = Settler::new(store.clone(), setup.clone()).expect("a settler");
        Self { settler, store, dir, setup, now: at(MUCH_LATER) }
    }

    /// Everything in memory is gone; the state is opened again.
    pub fn restart(self) -> Self {
        let Self { settler, store, dir, setup, now } = self;
        drop(settler);
        drop(store);
        // another test's process that is just being started holds what was open here for a moment
        let opened = (0..500).find_map(|_| {
            Store::open(dir.path()).inspect_err(|_| std::thread::sleep(std::time::Duration::from_millis(10))).ok()
        });
        let store = opened.expect("the state");
        let settler = Settler::new(store.clone(), setup.clone()).expect("a settler");
        Self { settler, store, dir, setup, now }
    }

    /// The same, with other settings.
    pub fn restart_with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(&mut self.setup.frame.rules);
        self.restart()
    }

    /// The same as another version of the program.
    pub fn restart_as(mut self, setup: Setup) -> Self {
        self.setup = setup;
        self.restart()
    }

    pub fn feed(&mut self, batch: Batch) -> Outcome {
        self.settler.ingest(batch, self.now).expect("ingest");
        self.settler.settle_all(self.now).expect("settle")
    }

    /// Rows, when the database's clock shows `db_now` and everything has been read.
    pub fn read(&mut self, rows: Vec<PlacedRow>, db_now: i64) -> Outcome {
        self.feed(batch(rows, db_now))
    }

    /// Every document, in the order they were queued: id, revision, document.
    pub fn documents(&self) -> Vec<(String, i64, Value)> {
        let rows: Vec<(String, i64, String)> = self
            .store
            .read_blocking(|c| {
                let mut statement = c.prepare(
                    "SELECT l.id, x.revision, x.body FROM document x JOIN ledger l USING (call) ORDER BY x.doc",
                )?;
                let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .expect("documents");
        rows.into_iter().map(|(id, n, body)| (id, n, serde_json::from_str(&body).expect("JSON"))).collect()
    }

    /// What a receiver that keeps the highest revision has at the end, tombstones taken out.
    pub fn kept(&self) -> BTreeMap<String, Value> {
        let mut kept: BTreeMap<String, (i64, Value)> = BTreeMap::new();
        for (id, revision, document) in self.documents() {
            assert_eq!(document["id"], id.as_str());
            assert_eq!(document["revision"], revision);
            let known = kept.get(&id).map(|k| k.0);
            assert!(known.is_none_or(|k| k < revision), "{id}: revision {revision} after {known:?}");
            kept.insert(id, (revision, document));
        }
        kept.into_iter().filter(|(_, (_, d))| d["state"] != "merged").map(|(id, (_, d))| (id, d)).collect()
    }

    pub fn count(&self, sql: &'static str) -> i64 {
        self.store.read_blocking(move |c| Ok(c.query_row(sql, [], |r| r.get(0))?)).expect(sql)
    }

    /// Nothing of any call is left in the journal.
    pub fn assert_settled(&self) {
        assert_eq!(self.count("SELECT count(*) FROM journal"), 0);
        assert_eq!(self.settler.size(), (0, 0));
    }

    pub fn deliver_all(&self) {
        let at = self.now.micros();
        self.store
            .write_blocking(move |c| {
                Ok(c.execute("UPDATE delivery SET state = 1, finished_at = ?1 WHERE state = 0", [at])?)
            })
            .expect("deliver");
    }

    /// The rows and documents of everything delivered are let go.
    pub fn let_go(&self) {
        self.deliver_all();
        let (before, now) = (self.now, self.now);
        self.store
            .write_blocking(move |c| callferry::store::retention::Sweep::default().step(c, before, now, 10_000))
            .expect("sweep");
        assert_eq!(self.count("SELECT count(*) FROM folded"), 0);
    }
}

pub fn batch(rows: Vec<PlacedRow>, db_now: i64) -> Batch {
    Batch { rows, db_now: Some(at(db_now)), caught_up: true, zone: Some(ZONE), ..Batch::default() }
}

/// Gives rows ids in the order they are in, from `from` on.
pub fn placed(rows: impl IntoIterator<Item = Row>, from: i64) -> Vec<PlacedRow> {
    let with_id = |(n, row): (i64, Row)| {
        let row = match row {
            Row::Cel(r) => Row::Cel(Arc::new(CelRow { id: Some(n), ..CelRow::clone(&r) })),
            Row::Cdr(r) => Row::Cdr(Arc::new(CdrRow { id: Some(n), ..CdrRow::clone(&r) })),
        };
        PlacedRow { generation: 1, place: Place::Id(n), row, by_audit: false }
    };
    (from..).zip(rows).map(with_id).collect()
}

fn time(second: i64) -> Option<RowTime> {
    Some(RowTime::Utc(second * 1_000_000))
}

/// A made-up event.
pub fn event(event: CelEvent, second: i64, uniqueid: &str, linkedid: &str, channel: &str) -> Row {
    Row::Cel(Arc::new(CelRow {
        event,
        time: time(second),
        uniqueid: uniqueid.into(),
        linkedid: linkedid.into(),
        channel: channel.into(),
        exten: "1002".into(),
        context: "internal".into(),
        cid_num: if channel.contains("1001") { "1001".into() } else { "1002".into() },
        ..CelRow::default()
    }))
}

/// 1001 calls 1002 at `EPOCH + start`, who answers; it lasts `length` seconds. Eight events and a record.
pub fn call(n: i64, start: i64, length: i64) -> Vec<Row> {
    let mut rows = call_cel(n, start, length);
    rows.push(call_cdr(n, start, length));
    rows
}

pub fn ids(n: i64, start: i64) -> (String, String) {
    (format!("{}.{}", EPOCH + start, 10_000 + 2 * n), format!("{}.{}", EPOCH + start, 10_001 + 2 * n))
}

pub fn call_cel(n: i64, start: i64, length: i64) -> Vec<Row> {
    let (a, b) = ids(n, start);
    let begin = EPOCH + start;
    let end = begin + length;
    let (x, y) = (format!("PJSIP/1001-{n:08x}"), format!("PJSIP/1002-{n:08x}"));
    vec![
        event(CelEvent::ChanStart, begin, &a, &a, &x),
        event(CelEvent::ChanStart, begin, &b, &a, &y),
        event(CelEvent::Answer, begin + 1, &b, &a, &y),
        event(CelEvent::Answer, begin + 1, &a, &a, &x),
        event(CelEvent::Hangup, end, &b, &a, &y),
        event(CelEvent::ChanEnd, end, &b, &a, &y),
        event(CelEvent::Hangup, end, &a, &a, &x),
        event(CelEvent::ChanEnd, end, &a, &a, &x),
    ]
}

pub fn call_cdr(n: i64, start: i64, length: i64) -> Row {
    let (a, _) = ids(n, start);
    let begin = EPOCH + start;
    Row::Cdr(Arc::new(CdrRow {
        start: time(begin),
        answer: time(begin + 1),
        end: time(begin + length),
        duration_ms: Some(length * 1_000),
        billsec_ms: Some((length - 1) * 1_000),
        uniqueid: a.as_str().into(),
        linkedid: a.as_str().into(),
        src: "1001".into(),
        dst: "1002".into(),
        channel: format!("PJSIP/1001-{n:08x}").into(),
        dstchannel: format!("PJSIP/1002-{n:08x}").into(),
        lastapp: "Dial".into(),
        disposition: Disposition::Answered,
        userfield: format!("field {n}").into(),
        ..CdrRow::default()
    }))
}

/// The rows of one capture, in the order of its files.
pub fn capture(name: &str) -> Vec<Row> {
    let dir = captures_dir().join(name);
    let open = |file: &str| File::open(dir.join(file)).expect("a file of the capture");
    let mut rows = csv::read_cel(open("cel.csv"), "cel.csv").expect("CEL rows").rows;
    rows.append(&mut csv::read_cdr(open("cdr.csv"), "cdr.csv").expect("CDR rows").rows);
    rows
}
