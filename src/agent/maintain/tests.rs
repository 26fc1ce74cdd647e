//! The budget and the disk: what gives way, in which order, and that reading goes on by itself.

use tempfile::TempDir;

use super::*;
use crate::store::ledger::{self, Key, Settled, State};
use crate::store::{BALLAST, BALLAST_FILE, Ballast};

const NOW: Timestamp = Timestamp::from_secs(1_795_214_890);
const HOUR: i64 = 3_600;
/// Of the tests; a call takes about 9 kB of it.
const BUDGET: u64 = 4_000_000;

struct Scene {
    dir: TempDir,
    work: Maintenance,
    rounds: Rounds,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a state");
        let config = StateConfig {
            dir: dir.path().to_owned(),
            retention: Duration::from_secs(7 * 86_400),
            max_size: BUDGET,
            min_free: 0,
        };
        let work = Maintenance {
            store,
            config,
            shared: Arc::default(),
            health: Health::new(),
            sinks: vec!["webhook"],
            outage_max_age: Duration::from_secs(14 * 86_400),
            clock: Clock::from_fn(|| NOW),
            stop: CancellationToken::new(),
            file: OnceLock::new(),
        };
        work.health.source_ok();
        work.health.state_ok();
        Self { dir, work, rounds: Rounds::default() }
    }

    /// Calls that ended an hour apart, the last of them an hour ago, with their deliveries in this state. Random text:
    /// nothing packs it.
    fn calls(&self, ids: std::ops::Range<i64>, delivery: i64) {
        let mut random = fastrand::Rng::with_seed(7);
        let calls: Vec<Settled> = ids
            .clone()
            .map(|n| {
                let ended_at = NOW.plus_micros((n - ids.end) * HOUR * 1_000_000);
                let mut body = vec![0; 4_000];
                random.fill(&mut body);
                Settled {
                    call: None,
                    id: format!("pbx:{}.{n}", ended_at.secs()),
                    revision: 1,
                    state: State::Shipped,
                    hash: [7; 16],
                    started_at: Some(ended_at),
                    ended_at,
                    supersedes: Vec::new(),
                    frozen: false,
                    rows: 9,
                    rules: 0,
                    zone: 0,
                    keys: vec![Key { text: format!("{}.{n}", ended_at.secs()).into(), linkedid: true }],
                    document: Some("x".repeat(4_000)),
                    raw_rows: None,
                    absorbed: Vec::new(),
                    folded: Some(body),
                    recordings: Vec::new(),
                }
            })
            .collect();
        self.work
            .store
            .write_blocking(move |conn| {
                for call in &calls {
                    let call = ledger::record(conn, call, &["webhook"], NOW)?;
                    conn.execute(
                        "UPDATE delivery SET state = ?2, finished_at = CASE ?2 WHEN 0 THEN NULL ELSE ?3 END WHERE call = ?1",
                        [call, delivery, NOW.micros() + call],
                    )?;
                }
                Ok(())
            })
            .expect("calls");
    }

    async fn round(&mut self) {
        self.work.round(&mut self.rounds).await.expect("a round");
        self.rounds.count += 1;
    }

    /// How many calls are kept whose delivery is in this state.
    fn kept(&self, delivery: i64) -> i64 {
        let sql = "SELECT count(*) FROM folded JOIN delivery USING (call) JOIN document USING (call) WHERE state = ?1";
        self.work.store.read_blocking(move |c| Ok(c.query_row(sql, [delivery], |r| r.get(0))?)).expect("count")
    }

    fn closed(&self) -> String {
        assert_eq!(self.work.shared.closed().is_some(), !self.work.health.report().ready, "readiness tells it");
        self.work.shared.closed().unwrap_or_default()
    }
}

#[tokio::test]
async fn the_nearer_the_budget_the_shorter_delivered_calls_are_kept() {
    let scene = Scene::new();
    let kept = |used: u64| (NOW.secs() - scene.work.ended_before(NOW, used).secs()) / HOUR;
    let week = 7 * 24;
    let expected = [(0, week), (69, week), (70, week / 4), (80, week / 24), (90, 0), (100, 0), (500, 0)];
    for (percent, hours) in expected {
        assert_eq!(kept(BUDGET / 100 * percent), hours, "{percent} %");
    }
}

#[tokio::test]
async fn delivered_calls_give_way_first_then_dead_letters_and_never_what_waits() {
    let mut scene = Scene::new();
    scene.calls(0..100, 1);
    scene.calls(100..200, 2);
    scene.calls(200..300, 0);
    scene.round().await;
    assert_eq!((scene.kept(1), scene.kept(2), scene.kept(0)), (100, 100, 100), "within the budget all are kept");
    assert_eq!(scene.closed(), "");

    // full: first what is delivered goes, all of it, and dead letters stay
    scene.calls(300..440, 0);
    scene.round().await;
    assert_eq!((scene.kept(1), scene.kept(2), scene.kept(0)), (0, 100, 240));
    assert_eq!(scene.closed(), "");

    // more than full: dead letters go, the oldest first, and no more of them than it takes
    let before = metrics::DEAD_DROPPED.get();
    scene.calls(440..500, 2);
    scene.calls(500..650, 0);
    scene.round().await;
    assert_eq!(scene.kept(0), 390, "what waits is never touched");
    assert!(metrics::DEAD_DROPPED.get() > before, "and it is counted");
    assert_eq!(scene.closed(), "", "they do not keep new calls out");
}

#[tokio::test]
async fn waiting_calls_over_the_budget_stop_reading_until_they_are_delivered() {
    let mut scene = Scene::new();
    scene.calls(0..600, 0);
    scene.round().await;
    assert!(scene.closed().contains("STATE_MAX_SIZE=4"), "{}", scene.closed());
    assert_eq!(metrics::READING_STOPPED.get(), 1);
    scene.round().await;
    assert_eq!(scene.kept(0), 600);
    let deliver = |up_to: i64| {
        let sql = "UPDATE delivery SET state = 1, finished_at = 0 WHERE call <= ?1";
        scene.work.store.write_blocking(move |c| Ok(c.execute(sql, [up_to])?)).expect("delivered");
    };
    deliver(400);
    scene.round().await;
    assert_eq!((scene.kept(0), scene.kept(1)), (200, 0));
    assert_eq!(scene.closed(), "", "it goes on by itself");
}

#[tokio::test]
async fn what_waits_for_a_sink_that_was_taken_away_does_not_wait_for_ever() {
    let mut scene = Scene::new();
    scene.calls(0..100, 0);
    scene.work.sinks = vec!["file"];
    scene.round().await;
    assert_eq!(scene.kept(0), 100, "it may come back");
    scene.work.clock = Clock::from_fn(|| NOW.plus_micros(15 * 86_400 * 1_000_000));
    scene.rounds.count = 0;
    scene.round().await;
    assert_eq!((scene.kept(0), scene.kept(2)), (0, 100), "given up, and kept as dead letters");

    // it does not keep new calls out either
    let mut scene = Scene::new();
    scene.calls(0..600, 0);
    scene.round().await;
    assert!(scene.closed().contains("STATE_MAX_SIZE=4"), "{}", scene.closed());
    scene.work.sinks = vec!["file"];
    scene.round().await;
    assert!(scene.kept(0) < 600, "the oldest gave way");
    assert_eq!(scene.closed(), "");
}

#[tokio::test]
async fn reading_goes_on_with_some_room_to_spare() {
    let scene = Scene::new();
    assert!(scene.work.over_budget(BUDGET, false).is_none());
    assert!(scene.work.over_budget(BUDGET + 1, false).is_some());
    assert!(scene.work.over_budget(BUDGET - 1, true).is_some(), "it would stop again at once");
    assert!(scene.work.over_budget(BUDGET / 100 * 95, true).is_none());
}

#[tokio::test]
async fn a_full_disk_stops_reading_and_the_reserve_comes_back() {
    let mut scene = Scene::new();
    scene.round().await;
    let ballast = scene.dir.path().join(BALLAST_FILE);
    assert_eq!(std::fs::metadata(&ballast).expect("room is kept").len(), BALLAST);

    let full = |store: &Store, pages: i64| {
        let limit = format!("PRAGMA max_page_count = {pages}");
        store.write_blocking(move |c| Ok(c.query_row(&limit, [], |r| r.get::<_, i64>(0))?)).expect("a limit")
    };
    full(&scene.work.store, 1);
    let e = scene
        .work
        .store
        .write_blocking(|c| Ok(c.execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(9000))")?));
    assert!(e.expect_err("no room").is_full());
    assert_eq!(std::fs::metadata(&ballast).expect("a mark").len(), 0, "given up at once");
    assert_eq!(scene.work.store.ballast(), Ballast::Spent);

    // this disk has room again: it is taken back, and reading goes on
    full(&scene.work.store, 1_000_000);
    scene.round().await;
    assert_eq!((scene.closed().as_str(), scene.work.store.ballast()), ("", Ballast::Held));
    assert_eq!(std::fs::metadata(&ballast).expect("room is kept").len(), BALLAST);
}

#[tokio::test]
async fn a_state_that_is_taken_away_stops_reading() {
    let mut scene = Scene::new();
    scene.round().await;
    std::fs::rename(scene.work.store.path(), scene.dir.path().join("elsewhere")).expect("moved");
    scene.round().await;
    assert!(scene.closed().contains("START_FROM"), "{}", scene.closed());
    std::fs::rename(scene.dir.path().join("elsewhere"), scene.work.store.path()).expect("moved back");
    scene.round().await;
    assert_eq!(scene.closed(), "");
}
