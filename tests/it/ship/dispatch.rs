//! What the dispatcher promises: order, superseding, splitting, restarts, bounded memory, a stop that ends.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callferry::config::WebhookConfig;
use callferry::finding::Finding;
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Answer, Batch, Clock, Ended, Frozen, Limits, RenderError, Ship, Sink};
use futures_util::future::BoxFuture;

use super::support::*;

const SOON: Duration = Duration::from_secs(5);

fn batching(url: &str, batch_size: usize) -> Arc<dyn Sink> {
    Arc::new(Webhook::new(&WebhookConfig { batch_size, ..webhook_config(url) }).expect("webhook"))
}

#[tokio::test]
async fn a_refused_batch_is_split_until_the_one_document_is_found() {
    let poison = [key(13, 1), key(14, 1), key(37, 1)];
    let bad = poison.clone();
    let receiver = Receiver::start(move |r, _| {
        let refused = r.calls().iter().any(|c| bad.contains(c));
        if refused { reply(422).body("no such field: journey") } else { reply(200) }
    })
    .await;
    let state = State::new();
    let calls: Vec<_> = (1..=40).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let _ship = state.ship(vec![batching(&receiver.url(), 20)]).await;
    state.settled("webhook").await;
    assert_eq!((state.count("webhook", 1).await, state.count("webhook", 2).await), (37, 3));
    let (_, _, refused, error) = state.delivery("webhook", 13, 1).await;
    assert_eq!((refused, error.as_str()), (1, "HTTP 422: no such field: journey"));
    for request in receiver.seen() {
        let mut calls = request.calls();
        assert_eq!(request.key(), Batch::key_of(calls.iter().map(String::as_str)));
        calls.sort();
        calls.dedup_by(|a, b| a.split('/').next() == b.split('/').next());
        assert_eq!(calls.len(), request.calls().len(), "one revision of a call");
    }
    assert!(receiver.seen().len() < 30, "{} requests", receiver.seen().len());
}

#[tokio::test]
async fn a_batch_keeps_members_key_and_bytes_over_failures_restarts_and_newer_revisions() {
    let receiver = Receiver::start(|_, _| reply(200).after(Duration::from_secs(60))).await;
    let state = State::new();
    let calls: Vec<_> = (1..=6).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let ship = state.ship(vec![batching(&receiver.url(), 4)]).await;
    receiver.wait_for(2).await;
    assert!(ship.stop(Duration::ZERO).await.iter().all(|(_, end)| *end == Ended::Abandoned));
    // while it is down, newer revisions and other calls come
    state.put_all(&["webhook"], &[(1, 2, None), (5, 2, None), (7, 1, None)], 0).await;
    let state = state.reopen().await;
    receiver.answer_with(|_, n| reply(if n < 5 { 503 } else { 200 }));
    let _ship = state.ship(vec![batching(&receiver.url(), 4)]).await;
    state.settled("webhook").await;
    let seen = receiver.seen();
    let mut first: Vec<_> = seen[..2].iter().map(|r| (r.key(), r.body.clone())).collect();
    first.sort();
    for (key, body) in &first {
        let again: Vec<_> = seen[2..].iter().filter(|r| r.key() == *key).collect();
        assert!(!again.is_empty() && again.iter().all(|r| r.body == *body), "{key}");
    }
    let at = |k: String| seen.iter().rposition(|r| r.calls().contains(&k)).expect("arrived");
    assert!(at(key(1, 1)) < at(key(1, 2)) && at(key(5, 1)) < at(key(5, 2)));
    assert_eq!(state.count("webhook", 1).await, 9);
}

#[tokio::test]
async fn one_call_a_request_keeps_key_and_bytes_over_a_restart() {
    let receiver = Receiver::start(|_, _| reply(200).after(Duration::from_secs(60))).await;
    let state = State::new();
    state.put_all(&["webhook"], &[(1, 1, None), (2, 1, None)], 50).await;
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    receiver.wait_for(2).await;
    ship.stop(Duration::ZERO).await;
    let state = state.reopen().await;
    receiver.answer_with(|_, _| reply(200));
    let _ship = state.ship(vec![webhook(&receiver.url())]).await;
    state.settled("webhook").await;
    let mut sent: Vec<_> = receiver.seen().iter().map(|r| (r.key(), r.body.clone())).collect();
    sent.sort();
    assert_eq!(sent.len(), 4);
    assert_eq!((&sent[0], &sent[2]), (&sent[1], &sent[3]));
}

#[tokio::test]
async fn a_newer_revision_replaces_a_waiting_one_and_waits_for_one_in_flight() {
    let receiver = Receiver::start(|_, _| reply(200).after(Duration::from_millis(300))).await;
    let state = State::new();
    state.put(&["webhook"], 1, 1).await;
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    receiver.wait_for(1).await;
    for revision in 2..=5 {
        state.put(&["webhook"], 1, revision).await;
        ship.wake().ring();
    }
    state.settled("webhook").await;
    let order: Vec<String> = receiver.seen().iter().map(super::support::Request::key).collect();
    assert_eq!(order, [key(1, 1), key(1, 5)]);
    assert_eq!(state.count("webhook", 3).await, 3);
}

#[tokio::test]
async fn a_call_that_fails_holds_up_no_other() {
    let bad = key(1, 1);
    let receiver = Receiver::start(move |r, _| reply(if r.key() == bad { 500 } else { 200 })).await;
    let state = State::new();
    let calls: Vec<_> = (1..=100).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let _ship = state.ship(vec![webhook(&receiver.url())]).await;
    for _ in 0..1_000 {
        if state.count("webhook", 1).await == 99 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(state.count("webhook", 1).await, 99);
    assert_eq!(state.delivery("webhook", 1, 1).await.0, 0);
}

#[tokio::test]
async fn a_tombstone_comes_after_its_survivor() {
    let tries = AtomicUsize::new(0);
    let survivor = key(1, 2);
    let receiver = Receiver::start(move |r, _| {
        let fails = r.key() == survivor && tries.fetch_add(1, Ordering::SeqCst) < 3;
        reply(if fails { 503 } else { 200 })
    })
    .await;
    let state = State::new();
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    state.put_all(&["webhook"], &[(1, 2, None), (2, 2, Some((1, 2)))], 0).await;
    ship.wake().ring();
    state.settled("webhook").await;
    let order: Vec<String> = receiver.seen().iter().map(super::support::Request::key).collect();
    assert_eq!(order, [key(1, 2), key(1, 2), key(1, 2), key(1, 2), key(2, 2)]);
}

#[tokio::test]
async fn a_dead_endpoint_costs_a_request_a_probe_and_loses_nothing() {
    let receiver = Receiver::start(|_, _| reply(503)).await;
    let state = State::new();
    let calls: Vec<_> = (1..=500).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let _ship = state.ship(vec![webhook(&receiver.url())]).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let during = receiver.seen().len();
    assert!(during < 60, "{during} requests in half a second to a sink that is down");
    receiver.answer_with(|_, _| reply(200));
    state.settled("webhook").await;
    assert_eq!(state.count("webhook", 1).await, 500);
}

#[tokio::test]
async fn a_sink_that_refuses_everything_is_paused_and_a_restart_probes_it() {
    for status in [400, 401, 403] {
        let receiver = Receiver::start(move |_, _| reply(status)).await;
        let state = State::new();
        let calls: Vec<_> = (1..=20).map(|c| (c, 1, None)).collect();
        state.put_all(&["webhook"], &calls, 0).await;
        let ship = state.ship(vec![webhook(&receiver.url())]).await;
        receiver.wait_for(if status == 400 { 5 } else { 1 }).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(state.count("webhook", 0).await, 20, "{status}: nothing was burnt");
        assert!(receiver.seen().len() < 12, "{status}: {} requests", receiver.seen().len());
        ship.stop(SOON).await;
        let state = state.reopen().await;
        let before = receiver.seen().len();
        let ship = state.ship(vec![webhook(&receiver.url())]).await;
        receiver.wait_for(before + 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(receiver.seen().len(), before + 1, "{status}: one probe, still paused");
        ship.stop(SOON).await;
        let state = state.reopen().await;
        receiver.answer_with(|_, _| reply(200));
        let _ship = state.ship(vec![webhook(&receiver.url())]).await;
        state.settled("webhook").await;
        assert_eq!(state.count("webhook", 1).await, 20, "{status}");
    }
}

#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight_and_sends_nothing_new() {
    let receiver = Receiver::start(|_, _| reply(200).after(Duration::from_millis(300))).await;
    let state = State::new();
    let calls: Vec<_> = (1..=50).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    receiver.wait_for(4).await;
    let started = Instant::now();
    assert_eq!(ship.stop(SOON).await, [("webhook", Ended::Stopped)]);
    assert!(started.elapsed() < SOON);
    assert_eq!((receiver.seen().len(), state.count("webhook", 1).await), (4, 4));
    let in_flight: i64 = state
        .store
        .read(|c| Ok(c.query_row("SELECT count(*) FROM delivery WHERE flight = 1", [], |r| r.get(0))?))
        .await
        .expect("count");
    assert_eq!(in_flight, 0);
}

/// Answers at once, counts, and can be told to be gone or not to come back.
struct Fake {
    seen: Mutex<Vec<String>>,
    gone: AtomicBool,
    /// So many sends fail first.
    failing: AtomicUsize,
    peak_kb: AtomicUsize,
}

impl Sink for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn limits(&self) -> Limits {
        Limits { batch: 50, batch_bytes: 1 << 20, keyed_batches: true, concurrency: 4, rows: false }
    }

    fn render(&self, _document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        Ok(None)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            if self.gone.load(Ordering::SeqCst) {
                return Answer::Gone("standard output was closed".to_owned());
            }
            if self.failing.try_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Answer::Unreachable("connection refused".to_owned());
            }
            self.peak_kb.fetch_max(resident_kb(), Ordering::SeqCst);
            self.seen.lock().expect("seen").extend(batch.items.iter().map(|i| i.key.clone()));
            Answer::Accepted
        })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async { Vec::new() })
    }
}

fn fake() -> Arc<Fake> {
    Arc::new(Fake {
        seen: Mutex::default(),
        gone: AtomicBool::new(false),
        failing: AtomicUsize::new(0),
        peak_kb: AtomicUsize::new(0),
    })
}

fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}

#[tokio::test]
async fn a_backlog_of_10_000_is_sent_once_in_bounded_memory() {
    let state = State::new();
    for thousand in 0..10 {
        let calls: Vec<_> = (thousand * 1_000..(thousand + 1) * 1_000).map(|c| (c + 1, 1, None)).collect();
        // 150 MB in all
        state.put_all(&["fake"], &calls, 15_000).await;
    }
    let before = resident_kb();
    let sink = fake();
    let ship = state.ship(vec![sink.clone()]).await;
    state.settled("fake").await;
    let mut seen = sink.seen.lock().expect("seen").clone();
    assert_eq!(seen.len(), 10_000);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 10_000);
    let grown = sink.peak_kb.load(Ordering::SeqCst).saturating_sub(before);
    assert!(grown < 64 * 1_024, "grew by {grown} kB");
    ship.stop(SOON).await;
}

#[tokio::test]
async fn a_sink_that_is_gone_ends_its_dispatcher_with_the_reason() {
    let state = State::new();
    let sink = fake();
    sink.gone.store(true, Ordering::SeqCst);
    let mut ship = state.ship(vec![sink]).await;
    state.put(&["fake"], 1, 1).await;
    ship.wake().ring();
    let (name, end) = tokio::time::timeout(SOON, ship.ended()).await.expect("in time");
    assert_eq!((name, end), ("fake", Ended::SinkGone("standard output was closed".to_owned())));
    assert_eq!(state.delivery("fake", 1, 1).await.0, 0, "waits for the next start");
    assert_eq!(ship.stop(SOON).await, []);
}

#[tokio::test]
async fn sinks_do_not_wait_for_each_other() {
    let down = Receiver::start(|_, _| reply(503)).await;
    let state = State::new();
    let sink = fake();
    let calls: Vec<_> = (1..=200).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook", "fake"], &calls, 0).await;
    let ship = state.ship(vec![webhook(&down.url()), sink]).await;
    state.settled("fake").await;
    assert_eq!((state.count("webhook", 0).await, state.count("fake", 1).await), (200, 200));
    let ends = ship.stop(SOON).await;
    assert!(ends.iter().all(|(_, end)| *end == Ended::Stopped), "{ends:?}");
}

#[tokio::test]
async fn a_document_the_format_cannot_hold_is_a_dead_letter_and_stops_nothing() {
    let receiver = Receiver::accepting().await;
    let state = State::new();
    // no call documents: SIPSTACK's format cannot be made of them
    state.put_all(&["sipstack"], &[(1, 1, None), (2, 1, None)], 0).await;
    let _ship = state.ship(vec![super::conformance::sipstack(&receiver.url())]).await;
    state.settled("sipstack").await;
    let (dead, attempts, _, error) = state.delivery("sipstack", 1, 1).await;
    assert_eq!((dead, attempts), (2, 1));
    assert!(error.contains("cannot write the document in this sink's format"), "{error}");
    assert_eq!(receiver.seen().len(), 0);
}

/// In virtual time: retries were planned up to ten minutes ahead when the sink was down; it comes back within one.
#[tokio::test(start_paused = true)]
async fn a_sink_that_comes_back_gets_everything_at_once() {
    let state = State::new();
    let calls: Vec<_> = (1..=400).map(|c| (c, 1, None)).collect();
    state.put_all(&["fake"], &calls, 0).await;
    let sink = fake();
    sink.failing.store(8, Ordering::SeqCst);
    let mut options = options();
    options.clock = Clock::tokio(now());
    options.delivery.retry_base = Duration::from_secs(600);
    options.delivery.retry_cap = Duration::from_secs(600);
    // as long as a blocking task runs, time goes only where this test moves it, not while the state's threads work
    let (_release, held) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || held.recv());
    let started = tokio::time::Instant::now();
    let _ship = Ship::start(vec![sink], &state.store, &options).await.expect("start");
    while state.count("fake", 0).await > 0 && started.elapsed() < Duration::from_secs(700) {
        tokio::time::advance(Duration::from_millis(500)).await;
        // what the dispatcher has asked of the state's threads comes before this, however slow the machine is
        for _ in 0..10 {
            state.store.write(|_| Ok(())).await.expect("the state");
            state.count("fake", 0).await;
        }
    }
    let took = started.elapsed();
    assert!((Duration::from_secs(30)..Duration::from_secs(62)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn no_ring_of_the_bell_is_lost() {
    let state = State::new();
    let sink = fake();
    let ship = state.ship(vec![sink]).await;
    let started = Instant::now();
    for call in 1..=300 {
        state.put(&["fake"], call, 1).await;
        ship.wake().ring();
        if call % 3 == 0 {
            tokio::time::sleep(Duration::from_micros(u64::try_from(call).expect("small") * 7)).await;
        }
        if call % 50 == 0 {
            state.settled("fake").await;
        }
    }
    // a lost one would wait for the next count, 15 s
    assert!(started.elapsed() < Duration::from_secs(14), "{:?}", started.elapsed());
}

#[tokio::test]
async fn while_the_state_cannot_be_written_nothing_is_sent_twice_and_little_is_sent_at_all() {
    let receiver = Receiver::accepting().await;
    let state = State::new();
    let calls: Vec<_> = (1..=200).map(|c| (c, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let sql = |text: &'static str| state.store.write(move |c| Ok(c.execute_batch(text)?));
    // claims pass, results do not: as when the disk fills up in between
    sql("CREATE TRIGGER full BEFORE UPDATE OF state ON delivery BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        .await
        .expect("trigger");
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    receiver.wait_for(4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let during = receiver.seen().len();
    // not more than may wait to be recorded, and what is on its way
    assert!(during <= 64 + 4, "{during} sent that could not be recorded");
    sql("DROP TRIGGER full").await.expect("trigger");
    state.settled("webhook").await;
    assert_eq!((receiver.seen().len(), state.count("webhook", 1).await), (200, 200), "each once");
    ship.stop(SOON).await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_delays_nothing() {
    use std::sync::atomic::AtomicI64;
    let ahead = Arc::new(AtomicI64::new(3_600_000_000));
    let shown = Arc::clone(&ahead);
    let mut options = options();
    options.clock = Clock::from_fn(move || now().plus_micros(shown.load(Ordering::SeqCst)));
    options.delivery.retry_base = Duration::from_secs(2);
    options.delivery.retry_cap = Duration::from_secs(4);
    let receiver = Receiver::start(|_, n| reply(if n < 3 { 503 } else { 200 })).await;
    let state = State::new();
    for call in 1..=3 {
        state.put(&["webhook"], call, 1).await;
    }
    let ship = Ship::start(vec![webhook(&receiver.url())], &state.store, &options).await.expect("start");
    receiver.wait_for(3).await;
    // tried again at a moment of a clock that is an hour ahead, which is corrected now
    ahead.store(0, Ordering::SeqCst);
    state.put(&["webhook"], 4, 1).await;
    let began = Instant::now();
    state.settled("webhook").await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    ship.stop(Duration::from_secs(5)).await;
}

/// As receivers do that look a call up in a table they fill later: each call is refused once, and taken the second time.
#[tokio::test]
async fn a_receiver_that_fails_at_whatever_it_sees_first_gets_everything() {
    let tried = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let receiver = Receiver::start(move |request, _| {
        let new = request.calls().into_iter().any(|call| tried.lock().expect("calls").insert(call));
        reply(if new { 500 } else { 200 })
    })
    .await;
    let state = State::new();
    let calls: Vec<Queued> = (1..=200).map(|call| (call, 1, None)).collect();
    state.put_all(&["webhook"], &calls, 0).await;
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    state.settled("webhook").await;
    assert_eq!((state.count("webhook", 1).await, receiver.seen().len() < 800), (200, true));
    ship.stop(Duration::from_secs(5)).await;
}
