//! The agent's own state: SIGTERM with requests in flight, a state that is damaged, newer, in use, or lost.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use callferry::config::DatabaseKind;

use super::scene::{Scene, put};
use crate::support::database::TestDatabase;

const END: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_with_requests_in_flight_it_repeats_nothing() {
    let Some(database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let user = database.place.user.clone();
    let mut scene = Scene::start(database, &user, &[("WEBHOOK_BATCH_SIZE", "1"), ("WEBHOOK_CONCURRENCY", "4")]).await;
    scene.receiver.answer_after(Duration::from_millis(150));
    for _ in 0..5 {
        scene.write(40).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = scene.receiver.received.all().len();
        let status = scene.agent.terminate(END);
        assert!(status.success(), "{status}\n{}", scene.agent.log());
        let after = scene.receiver.received.all().len();
        assert!(after <= before + 20, "it sends on after SIGTERM: {before} and {after} calls");
        scene.agent.start();
    }
    scene.arrived().await;
    scene.agent.terminate(END);
    assert_eq!(scene.verify(), 0, "what was in flight was finished and recorded");
    scene.tell("SIGTERM with requests in flight", "5 × SIGTERM");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_cannot_be_used_is_refused_in_one_line_that_says_how_to_proceed() {
    let Some(database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let user = database.place.user.clone();
    let mut scene = Scene::start(database, &user, &[]).await;
    let state = scene.agent.dir.path().join("state/callferry.db");

    let second = scene.agent.command(&["run"]).output().expect("a second agent");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code() == Some(1) && text.contains("another callferry agent"), "{text}");
    scene.write(2).await;
    scene.arrived().await;
    scene.agent.terminate(END);
    let good = fs::read(&state).expect("the state");

    // damaged in the middle, at the beginning, and cut short
    let pages = good.len() / 4_096;
    let mut middle = good.clone();
    for page in 1..pages {
        middle[page * 4_096..page * 4_096 + 100].fill(0xa5);
    }
    let mut beginning = good.clone();
    beginning[..100].fill(0);
    for (what, bytes) in [("middle", middle), ("beginning", beginning), ("cut", good[..good.len() / 2].to_vec())] {
        fs::write(&state, &bytes).expect("damage");
        let run = scene.agent.command(&["run", "--once"]).output().expect("a run");
        let text = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains("damaged") && text.contains("Move it away"), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
        assert_eq!(fs::read(&state).expect("the state").len(), bytes.len(), "{what}: left as it is");
    }

    // of a newer version
    fs::write(&state, &good).expect("the state");
    let conn = rusqlite::Connection::open(&state).expect("the state");
    conn.pragma_update(None, "user_version", 9_999).expect("a version");
    drop(conn);
    let run = scene.agent.command(&["run", "--once"]).output().expect("a run");
    let text = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(1) && text.contains("Run the newer callferry"), "{text}");

    // the good one goes on
    let _ = fs::remove_file(state.with_extension("db-wal"));
    let _ = fs::remove_file(state.with_extension("db-shm"));
    fs::write(&state, &good).expect("the state");
    scene.agent.start();
    scene.write(2).await;
    scene.arrived().await;
    scene.agent.terminate(END);
    assert_eq!(scene.verify(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_state_ships_the_same_calls_under_the_same_ids() {
    let Some(database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let user = database.place.user.clone();
    let mut scene = Scene::start(database, &user, &[]).await;
    scene.write(60).await;
    scene.arrived().await;
    let first = scene.receiver.received.upserted();
    scene.agent.kill();
    fs::remove_dir_all(scene.agent.dir.path().join("state")).expect("the state is lost");
    // revisions begin with the second a state was created in: not the one of the state that was lost
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let made = scene.make(20);
    put(&mut scene.database, &made).await;
    scene.written.extend(made);
    scene.agent.start();
    scene.arrived().await;
    scene.receiver.received.wait(super::scene::LIMIT, "all again", |r| r.all().len() >= 61 + 81).await;
    scene.agent.terminate(END);

    // a receiver that keeps one row an id, in its highest revision, holds each call once and as it was
    let kept = scene.receiver.received.upserted();
    let ids: BTreeSet<String> = scene.written.iter().map(|c| format!("pbx:{}", c.linkedid())).collect();
    assert_eq!(kept.keys().cloned().collect::<BTreeSet<_>>(), ids);
    for (id, before) in first {
        let (mut before, mut now) = (before, kept[&id].clone());
        let revision = |call: &serde_json::Value| call["revision"].as_i64().expect("revision");
        assert!(revision(&now) > revision(&before), "{id}: the later document is the newer one");
        for call in [&mut before, &mut now] {
            call.as_object_mut().expect("a call").remove("revision");
        }
        assert_eq!(before, now, "{id}");
    }
}
