//! Tables without id: each lane finds what it is for, on every backend.

use callferry::config::{CelMode, DatabaseKind};
use callferry::source::sql::Timing;
use callferry::source::{Table, Wishes};

use crate::support::memory::Reading;
use crate::support::pbx::Pbx;

const KINDS: [DatabaseKind; 3] = [DatabaseKind::MySql, DatabaseKind::PostgreSql, DatabaseKind::Sqlite];

/// Nothing but what a test lets through.
fn only(timing: Timing) -> Timing {
    Timing { near_every: i64::MAX / 4, audit_every: i64::MAX / 4, scan_share: 0, ..timing }
}

fn for_calls(linkedids: &[String]) -> Wishes {
    Wishes { cdr_of: linkedids.to_vec(), ..Wishes::default() }
}

#[tokio::test]
async fn the_targeted_lane_finds_the_records_of_ended_calls() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut reading = Reading::timed(&pbx.database.config(), only(Timing::default()));
        pbx.cdr(60, 10, &pbx.uniqueid(60, 1), &pbx.uniqueid(60, 1)).await;
        reading.drain().await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 1);

        // calls of many hours: no window of time would look there
        let calls: Vec<String> = (0..100).map(|n| pbx.uniqueid(40_000, 10 + n)).collect();
        for call in &calls {
            pbx.cdr(40_000, 39_990, call, call).await;
        }
        let (rows, batch) = reading.poll().await.expect("reads");
        assert!(rows.is_empty(), "{kind:?}: {rows:?}");
        assert!(batch.caught_up, "{kind:?}");
        let (rows, batch) = reading.poll_for(&for_calls(&calls)).await.expect("reads");
        assert_eq!(rows.len(), 64, "a part at a time");
        assert_eq!(batch.cdr_of.map(|asked| asked.len()), Some(64), "and says which");
        assert!(reading.source.statements() <= 3);
        // those that are still missing are wished for again, until all have been asked for
        let mut polls = 0;
        while reading.rows(Table::Cdr).len() < 101 {
            reading.poll_for(&for_calls(&calls)).await.expect("reads");
            polls += 1;
            assert!(polls < 10, "{kind:?}");
        }
        let (_, batch) = reading.poll_for(&for_calls(&calls[..3])).await.expect("reads");
        assert!(batch.caught_up);
        assert_eq!(reading.by_audit(), 0);
    }
}

#[tokio::test]
async fn the_near_lane_finds_records_that_no_event_announced() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let timing = Timing { near_every: 0, ..only(Timing::default()) };
        let mut reading = Reading::timed(&pbx.database.config(), timing);
        pbx.cdr(5, 1, &pbx.uniqueid(5, 1), &pbx.uniqueid(5, 1)).await;
        reading.drain().await.expect("reads");
        // shorter than a quarter of an hour, and written after one that began later
        pbx.cdr(800, 790, &pbx.uniqueid(800, 2), &pbx.uniqueid(800, 2)).await;
        pbx.cdr(3_000, 2_990, &pbx.uniqueid(3_000, 3), &pbx.uniqueid(3_000, 3)).await;
        reading.drain().await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 2, "{kind:?}");
        assert_eq!(reading.repeated, 0, "rows of a window that is read again do not come again");
    }
}

#[tokio::test]
async fn the_audit_finds_the_rest_and_says_so() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let timing = Timing { audit_every: 0, audit_confirm: 0, ..only(Timing::default()) };
        let mut reading = Reading::timed(&pbx.database.config(), timing);
        for n in 0..20 {
            pbx.cdr(3_000 + n * 61, 5, &pbx.uniqueid(3_000 + n * 61, n), &pbx.uniqueid(3_000 + n * 61, n)).await;
        }
        reading.drain().await.expect("reads");
        for _ in 0..3 {
            reading.drain().await.expect("reads");
        }
        assert_eq!((reading.rows(Table::Cdr).len(), reading.by_audit()), (20, 0));
        pbx.cdr(20_000, 19_000, &pbx.uniqueid(20_000, 99), &pbx.uniqueid(20_000, 99)).await;
        pbx.cdr(90_000, 80_000, &pbx.uniqueid(90_000, 98), &pbx.uniqueid(90_000, 98)).await;
        pbx.cdr(200_000, 8, &pbx.uniqueid(200_000, 97), &pbx.uniqueid(200_000, 97)).await;
        for _ in 0..4 {
            reading.drain().await.expect("reads");
        }
        assert_eq!(reading.rows(Table::Cdr).len(), 22, "{kind:?}: within 26 hours, and no further");
        assert_eq!(reading.by_audit(), 2);
        // identical rows are one; that the counts differ for ever is noticed once
        pbx.cdr(20_000, 19_000, &pbx.uniqueid(20_000, 99), &pbx.uniqueid(20_000, 99)).await;
        for _ in 0..6 {
            reading.drain().await.expect("reads");
        }
        assert_eq!(reading.rows(Table::Cdr).len(), 22);
        assert!(reading.repeated <= 2, "{}", reading.repeated);
    }
}

#[tokio::test]
async fn a_pause_is_caught_up_without_alarm() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut config = pbx.database.config();
        config.page_size = 10;
        let timing = Timing { audit_confirm: 0, scan_share: 0, ..Timing::default() };
        let mut reading = Reading::timed(&config, timing);
        pbx.cdr(50_000, 10, &pbx.uniqueid(50_000, 1), &pbx.uniqueid(50_000, 1)).await;
        reading.drain().await.expect("reads");
        for n in 0..60 {
            pbx.cdr(40_000 - n * 600, 10, &pbx.uniqueid(40_000 - n * 600, n), &pbx.uniqueid(40_000 - n * 600, n)).await;
        }
        // began before the last record that was read
        pbx.cdr(55_000, 30_000, &pbx.uniqueid(55_000, 99), &pbx.uniqueid(55_000, 99)).await;
        reading.restart();
        for _ in 0..6 {
            reading.drain().await.expect("reads");
        }
        assert_eq!(reading.rows(Table::Cdr).len(), 62, "{kind:?}");
        assert_eq!(reading.by_audit(), 0);
    }
}

#[tokio::test]
async fn history_is_walked_in_pages_that_never_split_a_second() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut config = pbx.database.config();
        config.page_size = 50;
        let mut reading = Reading::new(&config);
        for n in 0..240 {
            // 120 of them begin in the same second, which no page of 50 can hold
            let ago_s = if n < 120 { 9_000 } else { 9_000 - n * 3 };
            pbx.cdr(ago_s, n, &pbx.uniqueid(9_000, n), &pbx.uniqueid(9_000, n)).await;
        }
        reading.poll().await.expect("reads");
        reading.restart();
        reading.drain().await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 240, "{kind:?}");
    }
}

/// A wrong clock, or an import that gave every record one date: memory stays bounded and no row is left out.
#[tokio::test]
async fn more_records_of_one_second_than_any_page_holds() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut config = pbx.database.config();
        config.page_size = 50;
        let timing = Timing { page_max: 100, ..only(Timing::default()) };
        let mut reading = Reading::timed(&config, timing);
        for n in 0..30 {
            pbx.cdr(9_100 - n, 1, &pbx.uniqueid(9_100, n), &pbx.uniqueid(9_100, n)).await;
        }
        for n in 100..450 {
            pbx.cdr(9_000, n, &pbx.uniqueid(9_000, n), &pbx.uniqueid(9_000, n)).await;
        }
        for n in 500..560 {
            pbx.cdr(9_000 - n, 1, &pbx.uniqueid(9_000, n), &pbx.uniqueid(9_000, n)).await;
        }
        loop {
            // what was not stored comes again, in the middle of it too
            use callferry::source::Source;
            reading.source.poll(&Wishes::default()).await.expect("reads");
            let (new, batch) = reading.poll().await.expect("reads");
            assert!(new.len() <= 100, "{kind:?}: {} rows at once", new.len());
            if !batch.more {
                break;
            }
        }
        assert_eq!(reading.rows(Table::Cdr).len(), 440, "{kind:?}");
        assert_eq!(reading.drain().await.expect("reads"), 0, "{kind:?}: nor does it go round in circles");
    }
}

#[tokio::test]
async fn pages_of_records_that_cannot_be_read_do_not_end_the_walk() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut config = pbx.database.config();
        config.page_size = 50;
        // as cdr_mysql wrote them before loguniqueid=yes
        for n in 0..120 {
            pbx.cdr(9_000 - n, n, "", "").await;
        }
        for n in 0..5 {
            pbx.cdr(2_000 - n, n, &pbx.uniqueid(2_000, n), &pbx.uniqueid(2_000, n)).await;
        }
        let mut reading = Reading::timed(&config, only(Timing::default()));
        reading.drain().await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 5, "{kind:?}");
    }
}

#[tokio::test]
async fn records_alone_are_found_by_time_and_length() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut config = pbx.database.config();
        config.cel = CelMode::Off;
        let timing = Timing { near_alone: 0, ..only(Timing::default()) };
        let mut reading = Reading::timed(&config, timing);
        pbx.cdr(5, 1, &pbx.uniqueid(5, 1), &pbx.uniqueid(5, 1)).await;
        reading.drain().await.expect("reads");
        pbx.cdr(400, 300, &pbx.uniqueid(400, 2), &pbx.uniqueid(400, 2)).await;
        pbx.cdr(30_000, 29_000, &pbx.uniqueid(30_000, 3), &pbx.uniqueid(30_000, 3)).await;
        let (_, batch) = reading.poll().await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 3, "{kind:?}: short calls by time, long ones by their length");
        assert!(batch.caught_up);
    }
}

#[tokio::test]
async fn a_call_is_read_again_whole_across_linkedids() {
    for kind in KINDS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let (a, b, other) = (pbx.uniqueid(100, 1), pbx.uniqueid(90, 2), pbx.uniqueid(80, 3));
        pbx.cel(None, "CHAN_START", 100, &a, &a).await;
        pbx.cel(None, "CHAN_START", 90, &b, &b).await;
        // an attended transfer: the second channel moves to the first one's linkedid
        pbx.cel(None, "HANGUP", 50, &b, &a).await;
        pbx.cel(None, "CHAN_START", 80, &other, &other).await;
        pbx.cdr(100, 50, &a, &a).await;
        pbx.cdr(90, 40, &b, &b).await;
        pbx.cdr(80, 10, &other, &other).await;
        let mut reading = Reading::new(&pbx.database.config());
        reading.drain().await.expect("reads");
        let wish = Wishes { reread: vec![a.clone(), "1.1".to_owned()], ..Wishes::default() };
        let (new, batch) = reading.poll_for(&wish).await.expect("reads");
        assert!(new.is_empty(), "each has the place it had");
        assert_eq!(batch.rows.len(), 5, "{kind:?}");
        assert_eq!(batch.reread, [a, "1.1".to_owned()]);
    }
}

#[tokio::test]
async fn events_without_id_are_read_by_time_and_keys_pressed_twice_are_two() {
    for kind in [DatabaseKind::MySql, DatabaseKind::PostgreSql] {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        pbx.database.run("ALTER TABLE cel DROP COLUMN id").await;
        let timing = Timing { scan_share: 0, ..Timing::default() };
        let mut reading = Reading::timed(&pbx.database.config(), timing);
        let a = pbx.uniqueid(10, 1);
        pbx.cel(None, "CHAN_START", 10, &a, &a).await;
        for _ in 0..2 {
            pbx.cel(None, "DTMF", 9, &a, &a).await;
            pbx.cel(None, "BRIDGE_ENTER", 8, &a, &a).await;
        }
        let (rows, batch) = reading.poll().await.expect("reads");
        assert_eq!(rows.len(), 4, "{kind:?}");
        assert!(batch.caught_up);
        pbx.cel(None, "HANGUP", 7, &a, &a).await;
        let (rows, _) = reading.poll().await.expect("reads");
        assert_eq!(rows.len(), 1);
        // a row that comes late by less than the window
        pbx.cel(None, "ANSWER", 12, &a, &a).await;
        let (rows, _) = reading.poll().await.expect("reads");
        assert_eq!(rows.len(), 1);
        reading.restart();
        assert_eq!(reading.drain().await.expect("reads"), 0);
    }
}

#[tokio::test]
async fn an_id_that_is_added_later_begins_a_generation_and_loses_nothing() {
    let Some(mut pbx) = Pbx::new(DatabaseKind::MySql).await else { return };
    let mut reading = Reading::new(&pbx.database.config());
    for n in 0..5 {
        pbx.cdr(100 - n, 3, &pbx.uniqueid(100 - n, n), &pbx.uniqueid(100 - n, n)).await;
    }
    reading.drain().await.expect("reads");
    pbx.database.run("ALTER TABLE cdr ADD COLUMN id INT AUTO_INCREMENT PRIMARY KEY").await;
    pbx.cdr(10, 3, &pbx.uniqueid(10, 9), &pbx.uniqueid(10, 9)).await;
    reading.restart();
    reading.drain().await.expect("reads");
    assert!(reading.rows(Table::Cdr).iter().any(|r| r.uniqueid() == pbx.uniqueid(10, 9)));
    assert_eq!(reading.generations(Table::Cdr), [0, 1]);
}
