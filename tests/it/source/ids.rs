//! Tables with a trustworthy id, on every backend: out of order, in a burst, emptied, purged, lagging.

use callferry::config::{DatabaseKind, StartFrom};
use callferry::source::sql::Timing;
use callferry::source::{Place, START_POSITION, Table, start_of};

use crate::support::memory::Reading;
use crate::support::pbx::Pbx;

/// Runs a test's body for every backend there is.
macro_rules! on_every_backend {
    ($name:ident, |$pbx:ident| $body:block) => {
        mod $name {
            use super::*;

            async fn body(kind: DatabaseKind) {
                let Some(mut $pbx) = Pbx::new(kind).await else { return };
                $body
            }

            #[tokio::test]
            async fn mariadb() {
                body(DatabaseKind::MySql).await;
            }

            #[tokio::test]
            async fn postgresql() {
                body(DatabaseKind::PostgreSql).await;
            }

            #[tokio::test]
            async fn sqlite() {
                body(DatabaseKind::Sqlite).await;
            }
        }
    };
}

fn ids(rows: &[callferry::source::PlacedRow]) -> Vec<i64> {
    rows.iter().map(|r| if let Place::Id(id) = r.place { id } else { panic!("{:?}", r.place) }).collect()
}

async fn events(pbx: &mut Pbx, ids: impl IntoIterator<Item = i64>) {
    for id in ids {
        let uniqueid = pbx.uniqueid(20, id);
        pbx.cel(Some(id), "CHAN_START", 20, &uniqueid, &uniqueid).await;
    }
}

on_every_backend!(committed_out_of_order, |pbx| {
    let mut reading = Reading::new(&pbx.database.config());
    events(&mut pbx, [1, 2, 5, 9]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [1, 2, 5, 9]);
    // lower ids become visible after higher ones, in the same and in a later poll, and after a restart
    events(&mut pbx, [4, 10]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    let mut found = ids(&rows);
    found.sort_unstable();
    assert_eq!(found, [4, 10]);
    reading.restart();
    events(&mut pbx, [3, 7]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    let mut found = ids(&rows);
    found.sort_unstable();
    assert_eq!(found, [3, 7]);
    assert_eq!(reading.repeated, 0, "no row came twice");
    assert_eq!(reading.source.statements(), 3, "clock, events, records");
});

on_every_backend!(the_first_rows_of_an_empty_table_come_last, |pbx| {
    let mut reading = Reading::new(&pbx.database.config());
    assert_eq!(reading.drain().await.expect("reads"), 0);
    events(&mut pbx, 15..=18).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [15, 16, 17, 18]);
    // and a reader that saw them first
    let mut second = Reading::new(&pbx.database.config());
    assert_eq!(second.drain().await.expect("reads"), 4);
    events(&mut pbx, 1..=14).await;
    for mut reading in [reading, second] {
        let (rows, _) = reading.poll().await.expect("reads");
        assert_eq!(rows.len(), 14);
        assert_eq!(reading.gaps_given_up, 0);
    }
});

on_every_backend!(what_was_missing_before_a_pause_is_asked_for_once_more, |pbx| {
    let timing = Timing { gap_watch: 300_000, audit_every: i64::MAX / 4, ..Timing::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    events(&mut pbx, [1, 4]).await;
    reading.poll().await.expect("reads");
    events(&mut pbx, [2]).await;
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [2]);
    assert_eq!(reading.gaps_given_up, 1, "id 3");
});

on_every_backend!(more_gaps_than_one_statement_asks_for, |pbx| {
    let mut reading = Reading::new(&pbx.database.config());
    // every other id is not there yet, as where two nodes hand them out and one is slow
    let written = |pbx: &Pbx, ids: std::ops::RangeInclusive<i64>| {
        let ids = ids.step_by(2);
        ids.map(|n| pbx.cel_row(Some(n), "CHAN_START", 5, &pbx.uniqueid(5, n), &pbx.uniqueid(5, n))).collect::<Vec<_>>()
    };
    events(&mut pbx, [1, 2]).await;
    let rows = written(&pbx, 3..=1_401);
    pbx.database.insert("cel", &rows).await;
    reading.drain().await.expect("reads");
    let rows = written(&pbx, 4..=1_400);
    pbx.database.insert("cel", &rows).await;
    for _ in 0..4 {
        reading.poll().await.expect("reads");
    }
    assert_eq!((reading.rows(Table::Cel).len(), reading.gaps_given_up, reading.repeated), (1_401, 0, 0));
});

on_every_backend!(missing_for_good, |pbx| {
    let timing = Timing { gap_watch: 300_000, ..Timing::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    events(&mut pbx, [1, 4]).await;
    reading.poll().await.expect("reads");
    assert_eq!(reading.gaps_given_up, 0);
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    reading.poll().await.expect("reads");
    assert_eq!(reading.gaps_given_up, 2, "ids 2 and 3");
    reading.poll().await.expect("reads");
    assert_eq!(reading.gaps_given_up, 2, "counted once");
});

on_every_backend!(a_burst_in_pages, |pbx| {
    let mut config = pbx.database.config();
    config.page_size = 100;
    let mut reading = Reading::new(&config);
    assert_eq!(reading.drain().await.expect("reads"), 0);
    let rows: Vec<_> = (1..=250)
        .map(|n| {
            let uniqueid = pbx.uniqueid(5, n);
            pbx.cel_row(None, "CHAN_START", 5, &uniqueid, &uniqueid)
        })
        .collect();
    pbx.database.insert("cel", &rows).await;
    assert_eq!(reading.drain().await.expect("reads"), 250);
    assert_eq!(reading.rows(Table::Cel).len(), 250);
});

on_every_backend!(what_was_not_stored_comes_again, |pbx| {
    use callferry::source::{Source, Wishes};
    let mut reading = Reading::new(&pbx.database.config());
    events(&mut pbx, [1, 2]).await;
    let lost = reading.source.poll(&Wishes::default()).await.expect("reads");
    assert_eq!(lost.rows.len(), 2);
    // not committed
    let (rows, batch) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [1, 2]);
    assert!(batch.positions.iter().any(|(name, _)| name == START_POSITION));
    let (rows, batch) = reading.poll().await.expect("reads");
    assert!(rows.is_empty() && batch.positions.is_empty(), "nothing new, nothing to write: {:?}", batch.positions);
});

on_every_backend!(emptied_and_filled_with_the_same_ids, |pbx| {
    let timing = Timing { look_again: 0, ..Timing::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    events(&mut pbx, 1..=6).await;
    reading.drain().await.expect("reads");
    pbx.truncate_cel().await;
    assert_eq!(reading.drain().await.expect("an empty table is waited for"), 0);
    // also there the lowest id may be taken first and committed last
    for id in [2, 3, 1] {
        let uniqueid = pbx.uniqueid(2, 100 + id);
        pbx.cel(Some(id), "CHAN_START", 2, &uniqueid, &uniqueid).await;
        reading.drain().await.expect("reads");
    }
    assert_eq!(reading.rows(Table::Cel).len(), 9);
    assert_eq!(reading.generations(Table::Cel), [0, 1]);
    // and once more, beyond the cursor, while nobody looks
    pbx.truncate_cel().await;
    for id in 1..=40 {
        let uniqueid = pbx.uniqueid(1, 200 + id);
        pbx.cel(Some(id), "CHAN_START", 1, &uniqueid, &uniqueid).await;
    }
    reading.restart();
    reading.drain().await.expect("reads");
    assert_eq!(reading.generations(Table::Cel), [0, 1, 2]);
    assert_eq!(reading.rows(Table::Cel).len(), 49);
});

on_every_backend!(emptied_before_the_first_row_was_read, |pbx| {
    let timing = Timing { look_again: 0, ..Timing::default() };
    // a quiet PBX: what there is was written a day before the start
    for id in 1..=6 {
        let uniqueid = pbx.uniqueid(86_400, id);
        pbx.cel(Some(id), "CHAN_START", 86_400, &uniqueid, &uniqueid).await;
    }
    let mut config = pbx.database.config();
    config.start_from = StartFrom::Now;
    let mut reading = Reading::timed(&config, timing);
    assert_eq!(reading.drain().await.expect("reads"), 0);
    pbx.truncate_cel().await;
    assert_eq!(reading.drain().await.expect("an empty table is waited for"), 0);
    events(&mut pbx, 1..=4).await;
    reading.drain().await.expect("reads");
    assert_eq!(reading.rows(Table::Cel).len(), 4);
});

on_every_backend!(purged_up_to_the_cursor, |pbx| {
    let mut reading = Reading::new(&pbx.database.config());
    events(&mut pbx, 1..=5).await;
    reading.drain().await.expect("reads");
    pbx.database.run("DELETE FROM cel").await;
    events(&mut pbx, [6, 7]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [6, 7]);
    pbx.database.run("DELETE FROM cel WHERE 1 = 1").await;
    reading.drain().await.expect("reads");
    events(&mut pbx, [8]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [8]);
    // nothing tells these from rows of a table that was emptied and has come as far again
    assert_eq!(reading.generations(Table::Cel), [0, 1, 2]);
    pbx.database.run("DELETE FROM cel WHERE 1 = 1").await;
    let uniqueid = pbx.uniqueid(1, 309);
    pbx.cel(Some(9), "CHAN_START", 1, &uniqueid, &uniqueid).await;
    reading.drain().await.expect("reads");
    // then the lowest may come last, and be below where reading had come to
    let uniqueid = pbx.uniqueid(1, 307);
    pbx.cel(Some(7), "CHAN_START", 1, &uniqueid, &uniqueid).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [7]);
    assert_eq!(reading.rows(Table::Cel).len(), 10);
});

on_every_backend!(an_older_table_fills_no_gap, |pbx| {
    let timing = Timing { look_again: 0, ..Timing::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    events(&mut pbx, (1..=20).filter(|id| *id != 3)).await;
    reading.drain().await.expect("reads");
    // a replica that is behind shows the table as it was before it was emptied
    pbx.database.run("DELETE FROM cel WHERE 1 = 1").await;
    for id in 1..=4 {
        let uniqueid = pbx.uniqueid(90, 200 + id);
        pbx.cel(Some(id), "CHAN_START", 90, &uniqueid, &uniqueid).await;
    }
    assert_eq!(reading.drain().await.expect("reads"), 0);
    pbx.database.run("DELETE FROM cel WHERE 1 = 1").await;
    events(&mut pbx, (1..=20).filter(|id| *id != 3)).await;
    assert_eq!(reading.drain().await.expect("reads"), 0);
    events(&mut pbx, [3]).await;
    let (rows, _) = reading.poll().await.expect("reads");
    assert_eq!(ids(&rows), [3], "the third was on its way");
});

on_every_backend!(a_replica_that_lags_behind, |pbx| {
    let mut reading = Reading::new(&pbx.database.config());
    events(&mut pbx, 1..=9).await;
    reading.drain().await.expect("reads");
    let column = if pbx.database.place.kind == DatabaseKind::Sqlite { "AcctId" } else { "id" };
    pbx.database.run(&format!("DELETE FROM cel WHERE {column} > 6")).await;
    reading.restart();
    assert_eq!(reading.drain().await.expect("reads"), 0);
    events(&mut pbx, 7..=10).await;
    assert_eq!(reading.drain().await.expect("reads"), 1, "only the tenth is new");
    assert_eq!(reading.generations(Table::Cel), [0]);
});

on_every_backend!(begins_where_start_from_says, |pbx| {
    const HOUR: i64 = 3_600;
    for (id, ago_s) in [(1, 30 * HOUR), (2, 20 * HOUR), (3, 5 * HOUR), (4, 3 * HOUR), (5, HOUR), (6, 1)] {
        let uniqueid = pbx.uniqueid(ago_s, id);
        pbx.cel(Some(id), "CHAN_START", ago_s, &uniqueid, &uniqueid).await;
        pbx.cdr(ago_s, 60, &uniqueid, &uniqueid).await;
    }
    let mut config = pbx.database.config();
    config.start_from = StartFrom::Now;
    let mut reading = Reading::new(&config);
    reading.drain().await.expect("reads");
    assert_eq!(reading.rows(Table::Cel).len(), 3, "four hours back, so that calls in progress are whole");
    assert_eq!(reading.rows(Table::Cdr).len(), 3);
    let t0 = start_of(&reading.positions[START_POSITION]).expect("a moment");
    assert!((t0.secs() - pbx.now_s).abs() < 60, "{t0}");

    // the setting counts only while nothing is stored
    let stored = reading.positions[START_POSITION].clone();
    reading.restart();
    assert_eq!(reading.drain().await.expect("reads"), 0);
    assert_eq!(reading.positions[START_POSITION], stored);

    config.start_from = StartFrom::At(callferry::call::Timestamp::from_secs(pbx.now_s - 17 * HOUR));
    let mut reading = Reading::new(&config);
    reading.drain().await.expect("reads");
    assert_eq!((reading.rows(Table::Cel).len(), reading.rows(Table::Cdr).len()), (5, 5));

    config.start_from = StartFrom::All;
    let mut reading = Reading::new(&config);
    reading.drain().await.expect("reads");
    assert_eq!((reading.rows(Table::Cel).len(), reading.rows(Table::Cdr).len()), (6, 6));
    assert_eq!(start_of(&reading.positions[START_POSITION]), None);
});

on_every_backend!(the_audit_finds_what_the_cursor_lost, |pbx| {
    let timing = Timing { gap_watch: 0, audit_every: 0, audit_confirm: 0, ..Timing::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    events(&mut pbx, [1, 2, 5]).await;
    reading.drain().await.expect("reads");
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    reading.drain().await.expect("reads");
    // long after the gap was given up
    events(&mut pbx, [3]).await;
    for _ in 0..4 {
        reading.drain().await.expect("reads");
    }
    assert_eq!(reading.rows(Table::Cel).len(), 4);
    assert_eq!(reading.by_audit(), 1, "and only that row is its find");
});
