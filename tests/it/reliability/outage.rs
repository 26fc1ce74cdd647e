//! A receiver that is down for long: what waits costs it one request a probe, and arrives when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use callferry::config::DatabaseKind;

use super::scene::{Scene, put};
use crate::e2e::calls::MadeCall;
use crate::support::database::TestDatabase;

/// Ten minutes of calls, `calls` in all, come in while the receiver answers 503.
async fn down_for_ten_minutes_of_calls(calls: u32, least_s: u64) {
    let Some(database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    let user = database.place.user.clone();
    // a receiver of its own stands before the one that keeps
    let (down, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut scene = Scene::start(database, &user, &[]).await;
    scene.receiver.refuse_while(Arc::clone(&down), Arc::clone(&refused));
    down.store(true, Ordering::SeqCst);
    let began = std::time::Instant::now();
    let first = chrono::Utc::now().timestamp_micros() - 640_000_000;
    let step = 600_000_000 / i64::from(calls);
    let made: Vec<MadeCall> = (0..calls)
        .map(|n| MadeCall {
            start: first + i64::from(n) * step,
            ring: 2_000_000,
            talk: 20_000_000,
            counter: 50_000 + 2 * n,
        })
        .collect();
    for portion in made.chunks(500) {
        put(&mut scene.database, portion).await;
    }
    scene.written.extend(made);
    scene
        .until("the calls in the outbox", async || {
            let pending = scene.metric("callferry_deliveries_pending{sink=\"webhook\"}").await;
            pending.is_some_and(|n| n >= f64::from(calls))
        })
        .await;
    assert_eq!(scene.get("/readyz").await.0, 200, "calls are still read and kept");
    assert_eq!(scene.metric("callferry_sink_up{sink=\"webhook\"}").await, Some(0.0));
    tokio::time::sleep(Duration::from_secs(least_s).saturating_sub(began.elapsed())).await;
    let requests = refused.load(Ordering::SeqCst);
    let seconds = usize::try_from(began.elapsed().as_secs()).expect("seconds");
    assert!(requests <= 20 + seconds, "{requests} requests in {seconds} s at a receiver that is down");
    down.store(false, Ordering::SeqCst);
    scene
        .receiver
        .received
        .wait(Duration::from_secs(180), "all after the outage", |r| r.upserted().len() >= scene.written.len())
        .await;
    let told = scene.complaints().iter().filter(|l| l.contains("sink is down")).count();
    assert_eq!(told, 1, "{:?}", scene.complaints());
    assert!(scene.agent.terminate(Duration::from_secs(15)).success());
    scene.tell("receiver down (503) for ten minutes of calls", &format!("{requests} requests refused"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_arrives_when_the_receiver_is_back() {
    down_for_ten_minutes_of_calls(600, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make reliability"]
async fn long_outage() {
    down_for_ten_minutes_of_calls(5_000, 75).await;
}
