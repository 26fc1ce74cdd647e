use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tempfile::TempDir;

use super::fold::HeldRow;
use super::ledger::{Key, Settled, State};
use super::retention::{DAY_MICROS, Sweep};
use super::*;
use crate::call::{CdrRow, CelRow, Row, RowTime, Timestamp, WallTime};
use crate::source::{Batch, LocalCounts, Place, PlacedRow, Quarantined, Table};

const NOW: Timestamp = Timestamp::from_secs(1_795_214_890);

fn dir() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn cel(n: i64, place: Place) -> PlacedRow {
    let row = CelRow {
        id: if let Place::Id(id) = place { Some(id) } else { None },
        uniqueid: format!("1795214890.{n}").into(),
        linkedid: format!("1795214890.{n}").into(),
        time: Some(RowTime::Wall(WallTime(NOW.micros() + n * 60_000_000))),
        ..CelRow::default()
    };
    PlacedRow { generation: 1, place, row: Row::Cel(Arc::new(row)), by_audit: false }
}

fn batch(rows: Vec<PlacedRow>) -> Batch {
    Batch { rows, positions: vec![("cel".into(), "{\"at\":1}".into())], ..Batch::default() }
}

fn append(store: &Store, batch: Batch) -> Vec<Option<i64>> {
    store.write_blocking(move |c| journal::append(c, &batch, &HashSet::new(), NOW)).expect("append")
}

pub(super) fn settled(id: &str, revision: i64) -> Settled {
    Settled {
        call: None,
        id: format!("pbx:{id}"),
        revision,
        state: State::Shipped,
        hash: [7; 16],
        started_at: Some(NOW),
        ended_at: NOW,
        supersedes: Vec::new(),
        frozen: false,
        rows: 1,
        rules: 0,
        zone: 0,
        keys: [false, true].map(|linkedid| Key { text: id.into(), linkedid }).to_vec(),
        document: Some(format!("{{\"id\":\"pbx:{id}\"}}")),
        raw_rows: None,
        absorbed: Vec::new(),
        folded: Some(fold::fold([HeldRow { generation: 1, row: cel(1, Place::Id(1)).row }].iter()).expect("fold")),
        recordings: Vec::new(),
    }
}

fn record(store: &Store, settled: Settled) -> i64 {
    store.write_blocking(move |c| ledger::record(c, &settled, &["webhook"], NOW)).expect("record")
}

fn deliver_all(store: &Store) {
    store
        .write_blocking(|c| Ok(c.execute("UPDATE delivery SET state = 1, finished_at = ?1", [NOW.micros()])?))
        .expect("deliver");
}

#[test]
fn what_it_creates_is_private_and_durable() {
    let dir = dir();
    let state = dir.path().join("a/b");
    let store = Store::open(&state).expect("open");
    let mode = |p: &Path| fs::metadata(p).expect("exists").permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for file in [STATE_FILE, "callferry.db-wal", "callferry.db-shm", "agent.lock"] {
        assert_eq!(mode(&state.join(file)), 0o600, "{file}");
    }
    let pragma = |name: &'static str| {
        store
            .write_blocking(move |c| {
                Ok(c.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, rusqlite::types::Value>(0))?)
            })
            .expect(name)
    };
    use rusqlite::types::Value::{Integer, Text};
    assert_eq!(pragma("journal_mode"), Text("wal".into()));
    for (name, value) in [("synchronous", 2), ("foreign_keys", 1), ("secure_delete", 1), ("auto_vacuum", 2)] {
        assert_eq!(pragma(name), Integer(value), "{name}");
    }
}

#[test]
fn a_second_agent_is_refused_and_the_role_goes_back_at_the_end() {
    let dir = dir();
    let first = Store::open(dir.path()).expect("open");
    let Err(e) = Store::open(dir.path()) else { panic!("two agents on one state") };
    assert!(matches!(e, StoreError::Locked { .. }), "{e}");
    assert!(e.to_string().contains("STATE_DIR"), "{e}");
    let clone = first.clone();
    first.close();
    assert!(matches!(clone.write_blocking(|_| Ok(())), Err(StoreError::Closed)));
    Store::open(dir.path()).expect("the role is free again");
}

#[test]
fn a_clean_end_leaves_no_log_behind() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    append(&store, batch((0..100).map(|n| cel(n, Place::Id(n))).collect()));
    store.close();
    assert!(!dir.path().join("callferry.db-wal").exists());
}

#[test]
fn what_is_wrong_with_a_state_is_told() {
    let dir = dir();
    assert!(matches!(open_read_only(dir.path()), Err(StoreError::Missing { .. })));

    fs::write(
        dir.path().join(STATE_FILE),
        "this is no database, and long enough to be looked at as though it were one".repeat(20),
    )
    .expect("write");
    let Err(e) = Store::open(dir.path()) else { panic!("garbage was opened") };
    assert!(matches!(e, StoreError::Corrupt { .. }), "{e}");
    assert!(matches!(open_read_only(dir.path()), Err(StoreError::Corrupt { .. })));
    fs::remove_file(dir.path().join(STATE_FILE)).expect("remove");

    let store = Store::open(dir.path()).expect("open");
    store.write_blocking(|c| Ok(c.pragma_update(None, "user_version", 99)?)).expect("version");
    drop(store);
    let Err(e) = Store::open(dir.path()) else { panic!("a newer state was opened") };
    assert!(matches!(e, StoreError::Newer { found: 99, .. }), "{e}");
    assert!(matches!(open_read_only(dir.path()), Err(StoreError::Newer { .. })));

    let file = dir.path().join("file");
    fs::write(&file, "").expect("write");
    let Err(e) = Store::open(&file.join("state")) else { panic!("a file was used as a directory") };
    assert!(matches!(e, StoreError::Directory { .. }), "{e}");
    let Err(e) = Store::open(Path::new("/proc/1")) else { panic!("/proc was written to") };
    assert!(matches!(e, StoreError::Unwritable { .. }), "{e}");
}

#[test]
fn commands_read_beside_a_running_agent_and_after_it() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    append(&store, batch(vec![cel(1, Place::Id(1))]));
    let conn = open_read_only(dir.path()).expect("beside the agent");
    assert_eq!(journal::len(&conn).expect("count"), 1);
    append(&store, batch(vec![cel(2, Place::Id(2))]));
    assert_eq!(journal::len(&conn).expect("count"), 2);
    drop(store);
    assert_eq!(journal::len(&conn).expect("count"), 2);
    drop(conn);
    let conn = open_read_only(dir.path()).expect("without an agent");
    assert_eq!(journal::len(&conn).expect("count"), 2);
    assert!(conn.execute("DELETE FROM journal", []).is_err());
}

#[tokio::test]
async fn jobs_that_wait_are_committed_together_and_fail_alone() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let put = |n: i64| {
        let store = store.clone();
        async move {
            store
                .write(move |c| {
                    meta::put(c, &format!("k{n}"), "v")?;
                    if n % 3 == 0 { Err(StoreError::Content("no".into())) } else { Ok(n) }
                })
                .await
        }
    };
    let done = futures_util::future::join_all((0..300).map(put)).await;
    for (n, result) in (0..).zip(done) {
        assert_eq!(result.is_ok(), n % 3 != 0, "{n}");
    }
    let kept: i64 = store
        .read(|c| Ok(c.query_row("SELECT count(*) FROM meta WHERE key LIKE 'k%'", [], |r| r.get(0))?))
        .await
        .expect("count");
    assert_eq!(kept, 200);
}

#[test]
fn a_full_disk_is_told_undone_and_survived() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    append(&store, batch(vec![cel(1, Place::Id(1))]));
    let pages: i64 = store
        .write_blocking(|c| {
            let pages: i64 = c.query_row("PRAGMA page_count", [], |r| r.get(0))?;
            c.query_row(&format!("PRAGMA max_page_count = {}", pages + 2), [], |r| r.get::<_, i64>(0))?;
            Ok(pages)
        })
        .expect("limit");
    assert!(pages > 0);
    let many = batch((10..2_000).map(|n| cel(n, Place::Id(n))).collect());
    let again = many.clone();
    let e = store.write_blocking(move |c| journal::append(c, &many, &HashSet::new(), NOW)).expect_err("it is full");
    assert!(e.is_full() && !e.is_fatal(), "{e}");
    let rows = store.read_blocking(journal::len).expect("count");
    assert_eq!(rows, 1, "nothing of it was stored");
    let positions = store.read_blocking(meta::positions).expect("positions");
    assert_eq!(positions.len(), 1);
    store
        .write_blocking(|c| Ok(c.query_row("PRAGMA max_page_count = 1000000", [], |r| r.get::<_, i64>(0))?))
        .expect("room");
    append(&store, again);
    assert_eq!(store.read_blocking(journal::len).expect("count"), 1_991);
}

#[test]
fn the_journal_refuses_what_it_holds() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let first = append(&store, batch(vec![cel(1, Place::Id(1)), cel(2, Place::Id(-2)), cel(1, Place::Id(1))]));
    assert_eq!(first.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
    let second = append(&store, batch(vec![cel(2, Place::Id(-2)), cel(3, Place::Id(3))]));
    assert_eq!(second.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true]);
    // the same id of another generation is another row
    let other = PlacedRow { generation: 2, ..cel(1, Place::Id(1)) };
    assert!(append(&store, batch(vec![other]))[0].is_some());
    let seqs: Vec<i64> =
        store.read_blocking(|c| journal::page(c, 0, 10)).expect("page").iter().map(|r| r.seq).collect();
    assert_eq!(seqs.len(), 4);
    store.write_blocking(move |c| journal::remove(c, &mut seqs.clone())).expect("remove");
    let next = append(&store, batch(vec![cel(9, Place::Id(9))]))[0].expect("new");
    assert!(next > 4, "numbers of rows are not used twice: {next}");
}

#[test]
fn what_is_damaged_is_set_aside_and_keeps_nothing_else_waiting() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    append(&store, batch(vec![cel(1, Place::Id(1)), cel(2, Place::Id(2))]));
    let call = record(&store, settled("1795214890.7", 1));
    store
        .write_blocking(|c| {
            c.execute("UPDATE journal SET body = '{\"time\": tru' WHERE seq = 1", [])?;
            Ok(c.execute("UPDATE folded SET body = x'00'", [])?)
        })
        .expect("damage");
    assert!(matches!(store.read_blocking(|c| journal::page(c, 0, 10)), Err(StoreError::Content(_))));
    assert_eq!(store.write_blocking(journal::set_unreadable_aside).expect("aside"), 1);
    assert_eq!(store.read_blocking(|c| journal::page(c, 0, 10)).expect("page").len(), 1);
    let kept = |sql: &'static str| store.read_blocking(move |c| Ok(c.query_row(sql, [], |r| r.get::<_, String>(0))?));
    assert_eq!(kept("SELECT body FROM quarantine").expect("kept"), "{\"time\": tru");
    assert_eq!(store.read_blocking(move |c| ledger::folded(c, call)).expect("as though gone"), None);
}

#[test]
fn a_job_that_panics_fails_alone() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let broken = store.write_blocking::<(), _>(|c| {
        meta::put(c, "half", "done")?;
        panic!("a fault")
    });
    assert!(matches!(broken, Err(StoreError::Content(_))));
    assert!(matches!(store.read_blocking::<(), _>(|_| panic!("a fault")), Err(StoreError::Content(_))));
    assert_eq!(store.read_blocking(|c| meta::get(c, "half")).expect("goes on"), None);
    store.write_blocking(|c| meta::put(c, "whole", "done")).expect("goes on");
}

#[test]
fn rows_without_an_id_stay_known_after_they_left_the_journal() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let rows = || vec![cel(1, Place::Hash([1; 16])), cel(2, Place::Hash([2; 16]))];
    let mut seqs: Vec<i64> = append(&store, batch(rows())).into_iter().flatten().collect();
    store.write_blocking(move |c| journal::remove(c, &mut seqs)).expect("remove");
    assert_eq!(append(&store, batch(rows())), [None, None]);
    // unless their call is read again whole
    let wanted: HashSet<_> = [compact_str::CompactString::from("1795214890.2")].into();
    let again = batch(rows());
    let seqs = store.write_blocking(move |c| journal::append(c, &again, &wanted, NOW)).expect("append");
    assert!(seqs[0].is_none() && seqs[1].is_some());
}

#[tokio::test]
async fn what_was_read_is_counted_for_the_audit() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let rows = [1, 999, 1_000, 5_500, 5_501].map(|id| cel(0, Place::Id(id))).to_vec();
    append(&store, batch(rows.clone()));
    append(&store, batch(rows));
    let blocks = store.rows_per_block(Table::Cel, 1, 0, 6).await.expect("counts");
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), [(0, 2), (1, 1), (5, 2)]);
    assert!(store.rows_per_block(Table::Cel, 1, 2, 5).await.expect("counts").is_empty());
    assert!(store.rows_per_block(Table::Cdr, 1, 0, 9).await.expect("counts").is_empty());

    append(
        &store,
        batch(vec![cel(0, Place::Hash([1; 16])), cel(0, Place::Hash([2; 16])), cel(5, Place::Hash([3; 16]))]),
    );
    let minute = NOW.micros() / 60_000_000;
    let minutes = store.seen_per_minute(Table::Cel, minute, minute + 6).await.expect("counts");
    assert_eq!(minutes.into_iter().collect::<Vec<_>>(), [(minute, 2), (minute + 5, 1)]);
    assert_eq!(store.seen_per_minute(Table::Cel, minute, minute + 5).await.expect("counts").len(), 1);
}

#[test]
fn unreadable_rows_are_kept_with_their_reason() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let row = Quarantined { table: Table::Cdr, reason: "no uniqueid".into(), body: "é".repeat(10_000) };
    append(&store, Batch { quarantined: vec![row], ..Batch::default() });
    let (reason, body): (String, String) = store
        .read_blocking(|c| Ok(c.query_row("SELECT reason, body FROM quarantine", [], |r| Ok((r.get(0)?, r.get(1)?)))?))
        .expect("row");
    assert_eq!((reason.as_str(), body.len()), ("no uniqueid", 4_096));
    // and for a time only: they are of people, too
    let let_go = |before: Timestamp| {
        store.write_blocking(move |c| retention::housekeep(c, NOW, before, 100)).expect("let go");
        store.read_blocking(|c| Ok(c.query_row("SELECT count(*) FROM quarantine", [], |r| r.get(0))?)).expect("count")
    };
    let kept: [i64; 2] = [NOW, NOW.plus_micros(1)].map(let_go);
    assert_eq!(kept, [1, 0]);
}

#[test]
fn a_call_is_found_by_its_keys_and_those_of_what_it_absorbed() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let a = record(&store, settled("1795214890.1", 1));
    let b = record(&store, settled("1795214890.2", 1));
    let find = |id: &'static str| {
        store
            .read_blocking(move |c| ledger::find(c, std::iter::once(&Key { text: id.into(), linkedid: true })))
            .expect("find")
    };
    assert_eq!(find("1795214890.2")[0].call, b);
    let mut both = settled("1795214890.1", 2);
    both.call = Some(a);
    both.supersedes = vec!["pbx:1795214890.2".into()];
    both.absorbed = vec![ledger::Absorbed {
        call: b,
        id: "pbx:1795214890.2".into(),
        revision: 2,
        tombstone: Some("{\"state\":\"merged\"}".into()),
    }];
    record(&store, both);
    let found = &find("1795214890.2")[0];
    assert_eq!((found.call, found.revision, found.supersedes.len()), (a, 2, 1));
    let gone = store.read_blocking(|c| ledger::by_id(c, "pbx:1795214890.2")).expect("by id").expect("kept");
    assert_eq!((gone.state, gone.merged_into.as_deref()), (State::Merged, Some("pbx:1795214890.1")));
    assert!(store.read_blocking(move |c| ledger::folded(c, b)).expect("folded").is_none());
    // the tombstone waits for the survivor
    let waits: Option<i64> = store
        .read_blocking(move |c| {
            Ok(c.query_row("SELECT after FROM delivery WHERE call = ?1 AND revision = 2", [b], |r| r.get(0))?)
        })
        .expect("delivery");
    assert!(waits.is_some());
}

#[test]
fn rows_of_a_call_are_found_wherever_they_are() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    record(&store, settled("1795214890.1", 1));
    let late = CdrRow { uniqueid: "1795214890.1".into(), linkedid: "1795214890.1".into(), ..CdrRow::default() };
    let late = PlacedRow { generation: 1, place: Place::Id(5), row: Row::Cdr(Arc::new(late)), by_audit: false };
    append(&store, batch(vec![late, cel(2, Place::Id(2))]));
    let rows = |id: &'static str| store.read_blocking(move |c| journal::rows_of_call(c, id)).expect("rows").len();
    assert_eq!(rows("1795214890.1"), 2);
    assert_eq!(rows("1795214890.2"), 1);
    assert_eq!(rows("1795214890.3"), 0);
}

#[test]
fn delivered_calls_go_after_their_time_and_pending_ones_never() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    let old = record(&store, settled("1795214890.1", 1));
    let sweep = |ended_before: Timestamp| {
        store.write_blocking(move |c| Sweep::default().step(c, ended_before, NOW, 100)).expect("sweep").purged
    };
    let later = NOW.plus_micros(1);
    assert_eq!(sweep(later), 0, "it waits for a sink");
    deliver_all(&store);
    assert_eq!(sweep(NOW), 0, "it is not old enough");
    assert_eq!(sweep(later), 1);
    let left = store.read_blocking(|c| {
        Ok(c.query_row("SELECT (SELECT count(*) FROM document) + (SELECT count(*) FROM delivery)", [], |r| {
            r.get::<_, i64>(0)
        })?)
    });
    assert_eq!(left.expect("count"), 0);
    assert!(store.read_blocking(move |c| ledger::entry(c, old)).expect("entry").is_some(), "the ledger still knows it");
    let much_later = NOW.plus_micros(401 * DAY_MICROS);
    store.write_blocking(move |c| retention::housekeep(c, much_later, NOW, 100)).expect("housekeep");
    assert!(store.read_blocking(move |c| ledger::entry(c, old)).expect("entry").is_none());
}

#[test]
fn a_sweep_walks_on_from_where_it_was() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    for n in 0..25 {
        record(&store, settled(&format!("1795214890.{n}"), 1));
    }
    deliver_all(&store);
    let (purged, steps) = store
        .write_blocking(|c| {
            let (mut sweep, mut purged, mut steps) = (Sweep::default(), 0, 0);
            loop {
                let step = sweep.step(c, NOW.plus_micros(1), NOW, 10)?;
                (purged, steps) = (purged + step.purged, steps + 1);
                if step.done {
                    return Ok((purged, steps));
                }
            }
        })
        .expect("sweep");
    assert_eq!((purged, steps), (25, 3));
    store.write_blocking(|c| retention::shrink(c, 10)).expect("shrink");
}

#[test]
fn lists_and_shows_what_commands_ask_for() {
    let dir = dir();
    let store = Store::open(dir.path()).expect("open");
    record(&store, settled("1795214890.1", 1));
    record(&store, Settled { ended_at: NOW.plus_micros(5), ..settled("1795214890.2", 1) });
    record(&store, Settled { state: State::BeforeStart, document: None, ..settled("1795214890.3", 1) });
    store.write_blocking(|c| Ok(c.execute("UPDATE delivery SET state = 2 WHERE call = 1", [])?)).expect("dead");
    let list = |filter: calls::Filter| -> Vec<String> {
        let found = store.read_blocking(move |c| calls::list(c, &filter)).expect("list");
        found.into_iter().map(|k| k.id).collect()
    };
    let all = calls::Filter { limit: 10, ..calls::Filter::default() };
    assert_eq!(list(all.clone()), ["pbx:1795214890.2", "pbx:1795214890.1"]);
    assert_eq!(list(calls::Filter { pending: true, ..all.clone() }), ["pbx:1795214890.2"]);
    assert_eq!(list(calls::Filter { failed: true, ..all.clone() }), ["pbx:1795214890.1"]);
    assert_eq!(list(calls::Filter { since: Some(NOW.plus_micros(1)), ..all.clone() }), ["pbx:1795214890.2"]);
    assert_eq!(list(calls::Filter { limit: 1, ..all }), ["pbx:1795214890.2"]);
    for id in ["pbx:1795214890.1", "1795214890.1"] {
        let (known, deliveries) = store.read_blocking(move |c| calls::show(c, id)).expect("show").expect("known");
        assert_eq!((known.dead, deliveries.len(), deliveries[0].state), (1, 1, "dead"));
    }
    assert!(store.read_blocking(|c| calls::show(c, "pbx:1")).expect("show").is_none());
}
