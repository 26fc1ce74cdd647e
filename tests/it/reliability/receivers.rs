//! The agent through a receiver that misbehaves at every fourth request: resets, stalls, garbage, late and odd answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use callferry::config::DatabaseKind;
use serde_json::Value;

use super::scene::{LIMIT, put, tables};
use crate::e2e::agent::Agent;
use crate::e2e::calls::MadeCall;
use crate::support::database::TestDatabase;
use crate::support::faults::{ACCEPTING, Fault, FaultReceiver, REFUSING, Request};

/// Whether the sender was told that its calls were taken.
fn told(request: &Request) -> bool {
    request.fault.is_none_or(|fault| ACCEPTING.contains(&fault))
}

fn calls(request: &Request) -> Vec<Value> {
    match serde_json::from_slice(&request.body).expect("JSON") {
        Value::Array(calls) => calls,
        call => vec![call],
    }
}

async fn through_faults(count: u32, batch: &str) {
    let Some(mut database) = TestDatabase::new(DatabaseKind::MySql).await else { return };
    database.run(&tables(DatabaseKind::MySql)).await;
    let faults: Vec<Fault> = REFUSING.iter().chain(ACCEPTING).copied().collect();
    let kinds = faults.len();
    let receiver = FaultReceiver::start(move |turn| (turn % 4 == 1).then(|| faults[turn / 4 % kinds])).await;
    let began = Instant::now();
    let mut agent = Agent::new(&crate::e2e::settings_of(&database.place), &receiver.url);
    for (name, value) in [("DB_TIMEZONE", "UTC"), ("WEBHOOK_BATCH_SIZE", batch), ("WEBHOOK_TIMEOUT", "1")] {
        agent.set(name, value);
    }
    agent.set("RETRY_BASE", "0.05").set("RETRY_CAP", "0.5");
    agent.start();
    let start = chrono::Utc::now().timestamp_micros() - 600_000_000;
    let made: Vec<MadeCall> = (0..count)
        .map(|n| MadeCall {
            start: start + i64::from(n) * 10_000,
            ring: 2_000_000,
            talk: 9_000_000,
            counter: 100 + 2 * n,
        })
        .collect();
    for portion in made.chunks(250) {
        put(&mut database, portion).await;
    }

    // the sender knows that each was taken, and has nothing left
    let known = || -> BTreeSet<String> {
        let requests = receiver.requests();
        let ids = requests.iter().filter(|r| told(r)).flat_map(calls).map(|c| c["id"].as_str().expect("id").to_owned());
        ids.collect()
    };
    while known().len() < count as usize {
        assert!(began.elapsed() < LIMIT * 3, "{} of {count} calls were taken\n{}", known().len(), agent.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(agent.terminate(Duration::from_secs(15)).success(), "{}", agent.log());

    let requests = receiver.requests();
    let seen: BTreeSet<String> = requests.iter().filter_map(|r| r.fault).map(|f| format!("{f:?}")).collect();
    assert!(seen.len() >= kinds - 2, "of those that read the request: {seen:?}");
    // counted by key: one call, one key, one content, however often it came
    let (mut documents, mut accepted) = (BTreeMap::new(), BTreeMap::<String, u32>::new());
    let mut arrivals = 0;
    for request in &requests {
        assert!(!request.key().is_empty());
        for call in calls(request) {
            arrivals += 1;
            let key = crate::e2e::receiver::own_key(&call);
            let text = call.to_string();
            assert_eq!(*documents.entry(key.clone()).or_insert_with(|| text.clone()), text, "one key, two documents");
            *accepted.entry(key).or_default() += u32::from(told(request));
        }
    }
    assert_eq!(documents.len(), count as usize, "every call under one key only");
    assert!(accepted.values().all(|taken| *taken == 1), "what was accepted is never sent again");
    let (faulty, repeated) = (requests.len() / 4, arrivals - documents.len());
    let seconds = began.elapsed().as_secs();
    println!(
        "| receiver with {kinds} kinds of fault | {count} | ≈ {faulty} requests | 0 | 0 | {repeated} | {seconds} s |"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_lost_or_accepted_twice_through_a_faulty_receiver() {
    through_faults(400, "3").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make reliability"]
async fn long_faulty_receiver() {
    through_faults(5_000, "5").await;
}
