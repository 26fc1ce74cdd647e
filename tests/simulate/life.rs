//! One life of the agent, from its start until it is killed: the real source, journal, settling, ledger, outbox and
//! dispatchers, driven step by step in virtual time.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use callferry::agent::compose::Frame;
use callferry::agent::judge::{Policy, Updates};
use callferry::agent::settle::{Arrived, Settler, Setup};
use callferry::call::{SourceInfo, SourceKind, Timestamp};
use callferry::config::{
    CelMode, DatabaseConfig, DatabaseKind, DeliveryConfig, SourceConfig, StartFrom, TlsConfig, TlsMode,
};
use callferry::correlate::Rules;
use callferry::correlate::completion::Grace;
use callferry::ship::{Clock, Limits, Options, Ship, Sink, Wake};
use callferry::source::sql::{SqlSource, Timing};
use callferry::source::{Source, Wishes};
use callferry::store::retention::{self, Sweep};
use callferry::store::{Result, Store, journal, meta, outbox};

use crate::pbx::{SECOND, ZONE};
use crate::sinks::ModelSink;
use crate::table::ModelBackend;
use crate::world::World;

/// Rounds in which the dispatchers come to rest: far more than they ever need.
const ROUNDS: usize = 10_000;
/// Pages that are read at once when nothing disturbs: more than the tables have.
const PAGES: usize = 1_000;

pub fn rules() -> Rules {
    Rules { trunks: vec!["PJSIP/trunk-*".to_owned()], ..Rules::default() }
}

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Killed,
    /// Killed, and its state with it.
    StateLost,
    /// The storm is over and everything was checked.
    Done,
}

struct Agent {
    store: Store,
    settler: Settler,
    source: SqlSource,
    wake: Wake,
    _ship: Ship,
    clock: Clock,
    /// Stored, and not taken in yet.
    waiting: VecDeque<Arrived>,
    wishes: Wishes,
    /// The last poll left something unread.
    more: bool,
    sweep: Sweep,
    /// Commits until nothing becomes durable any more; below zero: no end.
    fuse: Arc<AtomicI64>,
    /// Documents up to this one stand in the trace.
    told_to: i64,
}

fn source_config(world: &World) -> SourceConfig {
    SourceConfig {
        id: "pbx".to_owned(),
        database: DatabaseConfig {
            kind: DatabaseKind::Sqlite,
            host: String::new(),
            port: 1,
            socket: None,
            name: world.tables.path.to_string_lossy().into_owned(),
            name_cel: None,
            user: String::new(),
            password: None,
            tls: TlsMode::Prefer,
            certificates: TlsConfig::default(),
            table_cdr: "cdr".to_owned(),
            table_cel: "cel".to_owned(),
            table_recordings: None,
            connections: 1,
            timeout: Duration::from_secs(20),
        },
        cel: CelMode::Db,
        cdr: true,
        zone: Some(ZONE),
        start_from: match world.t0 {
            Some(t0) => StartFrom::At(Timestamp::from_micros(t0)),
            None => StartFrom::All,
        },
        poll_busy: Duration::from_millis(100),
        poll_idle: Duration::from_secs(2),
        page_size: world.plan.page,
    }
}

fn setup(world: &World) -> Setup {
    let updates = Updates { changes: true, pause: SECOND, every: Some(60 * SECOND) };
    Setup {
        frame: Frame {
            source: SourceInfo { id: "pbx".to_owned(), kind: SourceKind::Asterisk, host: None },
            rules: rules(),
            created_at: Timestamp::default(),
            start_at: None,
            freeze_rows: None,
        },
        policy: Policy {
            grace: Grace { cdr: 5 * SECOND, quiet: 10 * SECOND, cdr_only: 60 * SECOND, has_cel: true, has_cdr: true },
            max_age: world.plan.max_age,
            rows_max: 5_000,
            cached_rows_max: if world.seed.is_multiple_of(3) { 60 } else { 20_000 },
            updates: world.plan.progressive.then_some(updates),
        },
        sinks: world.endpoints.iter().map(|e| e.name).collect(),
    }
}

fn sinks(world: &World) -> Vec<Arc<dyn Sink>> {
    let batches = [1, 7, 30];
    let sink = |(n, endpoint): (usize, &Arc<crate::sinks::Endpoint>)| -> Arc<dyn Sink> {
        let batch = batches[(n + world.seed as usize) % 3];
        let limits = Limits { batch, batch_bytes: 1 << 20, keyed_batches: batch > 1, concurrency: 4, rows: false };
        Arc::new(ModelSink { endpoint: Arc::clone(endpoint), limits })
    };
    world.endpoints.iter().enumerate().map(sink).collect()
}

impl Agent {
    async fn start(world: &mut World) -> Result<Self> {
        let store = Store::open_stepped(&world.dir.join("state"))?;
        let fuse = Arc::new(AtomicI64::new(-1));
        let (now, ahead, hook) = (Arc::clone(&world.now), world.plan.agent_ahead, Arc::clone(&fuse));
        let clock = Clock::from_fn(move || Timestamp::from_micros(now.load(Ordering::Relaxed) + ahead));
        store.write_blocking(move |conn| {
            conn.commit_hook(Some(move || {
                let left = hook.load(Ordering::Relaxed);
                if left > 0 {
                    hook.store(left - 1, Ordering::Relaxed);
                }
                left == 0
            }))?;
            Ok(())
        })?;
        let begin = clock.now();
        store.write_blocking(move |conn| meta::begin(conn, "pbx", begin))?;
        let settler = Settler::new(store.clone(), setup(world))?;
        let options = Options {
            delivery: DeliveryConfig {
                retry_base: Duration::from_secs(1),
                retry_cap: Duration::from_secs(600),
                retry_max_age: Duration::from_secs(48 * 3_600),
                outage_max_age: Duration::from_secs(14 * 86_400),
            },
            clock: clock.clone(),
            seed: world.rng.u64(..),
        };
        let ship = stepped(&store, Ship::start(sinks(world), &store, &options)).await?;
        let positions: BTreeMap<String, String> = store.read_blocking(meta::positions)?.into_iter().collect();
        let config = source_config(world);
        let backend = Box::new(ModelBackend::new(&config.database, Arc::clone(&world.moods)));
        let source = SqlSource::over(backend, &config, positions, Arc::new(store.clone()), Timing::default());
        let wishes = settler.wishes();
        Ok(Self {
            wake: ship.wake(),
            _ship: ship,
            store,
            settler,
            source,
            clock,
            waiting: VecDeque::new(),
            wishes,
            more: false,
            sweep: Sweep::default(),
            fuse,
            told_to: 0,
        })
    }

    /// Asks the source once and makes durable what it found. `false`: killed between the two.
    async fn read(&mut self, world: &mut World) -> Result<bool> {
        if self.waiting.len() >= 2 {
            return Ok(true);
        }
        let asked_at = world.time();
        let batch = match stepped(&self.store, self.source.poll(&self.wishes)).await {
            Ok(batch) => batch,
            Err(e) => {
                world.tell(format!("the source fails: {e}"));
                return Ok(true);
            }
        };
        if dies(world) {
            return Ok(false);
        }
        let reread: HashSet<_> = self.wishes.reread.iter().map(|l| l.as_str().into()).collect();
        let (now, stored) = (self.clock.now(), batch.clone());
        let seqs = self.store.write_blocking(move |conn| journal::append(conn, &stored, &reread, now))?;
        if !batch.rows.is_empty() {
            let mut calls: BTreeMap<usize, usize> = BTreeMap::new();
            for (placed, _) in batch.rows.iter().zip(&seqs).filter(|(_, seq)| seq.is_some()) {
                *calls.entry(world.call_of(&placed.row)).or_default() += 1;
            }
            let (rows, caught_up) = (batch.rows.len(), batch.caught_up);
            world.tell(format!("read {rows} rows; new of calls {calls:?}, caught up {caught_up}, {:?}", batch.reread));
        }
        world.committed(&batch);
        self.more = batch.more;
        if batch.caught_up && !batch.more {
            world.seen_to = asked_at;
        }
        if dies(world) {
            return Ok(false);
        }
        self.source.committed();
        self.waiting.push_back(Arrived::of(batch, &seqs));
        Ok(!dies(world))
    }

    /// Settles one batch. `false`: killed half way.
    fn settle(&mut self, world: &mut World) -> Result<bool> {
        let Some(arrived) = self.waiting.pop_front() else { return Ok(true) };
        if let Err(e) = self.settler.take(arrived) {
            // as the settling thread does: the batch is not taken in again, memory is made anew
            self.settler.settle_all(self.clock.now())?;
            world.tell(format!("taking in failed: {e}"));
        }
        if dies(world) {
            return Ok(false);
        }
        let done = self.settler.settle_all(self.clock.now())?;
        if done.did_something() || done.told > 0 {
            for line in self.news()? {
                world.tell(line);
            }
            if done.before_start + done.unchanged + done.dropped_rows > 0 {
                world.tell(format!("settled {done:?}"));
            }
        }
        self.wishes = self.settler.wishes();
        if !self.wishes.reread.is_empty() {
            world.tell(format!("wishes to read again {:?}", self.wishes.reread));
        }
        if dies(world) {
            return Ok(false);
        }
        self.wake.ring();
        Ok(true)
    }

    /// The documents that were written since this was asked last.
    fn news(&mut self) -> Result<Vec<String>> {
        let after = self.told_to;
        let (lines, last) = self.store.read_blocking(move |conn| {
            let mut find = conn.prepare_cached(
                "SELECT x.doc, l.id, x.revision, x.body, l.rows FROM document x JOIN ledger l USING (call) WHERE x.doc > ?1",
            )?;
            let mut rows = find.query([after])?;
            let (mut lines, mut last) = (Vec::new(), after);
            while let Some(r) = rows.next()? {
                let body: String = r.get(3)?;
                let document: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
                let (id, revision, count): (String, i64, i64) = (r.get(1)?, r.get(2)?, r.get(4)?);
                let (state, why) = (&document["state"], &document["incomplete"]);
                lines.push(format!("queued {id}/{revision} {state} {why} from {count} rows, {}", document["linkedids"]));
                last = r.get(0)?;
            }
            Ok((lines, last))
        })?;
        self.told_to = last;
        Ok(lines)
    }

    fn maintain(&mut self, world: &World) -> Result<()> {
        let (now, mut sweep) = (self.clock.now(), self.sweep);
        let before = now.plus_micros(-world.plan.retention);
        self.sweep = self.store.write_blocking(move |conn| {
            sweep.step(conn, before, now, 250)?;
            Ok(sweep)
        })?;
        self.store.write_blocking(move |conn| retention::housekeep(conn, now, Timestamp::default(), 1_000))?;
        Ok(())
    }

    /// Time passes; the dispatchers do what they can in it.
    async fn pass(&self, world: &mut World, micros: i64) {
        world.pass(micros);
        tokio::time::advance(Duration::from_micros(micros.unsigned_abs())).await;
        self.rest(world).await;
    }

    /// Until the dispatchers wait for nothing but answers that take their time.
    async fn rest(&self, world: &World) {
        let handle = tokio::runtime::Handle::current();
        for _ in 0..ROUNDS {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            let asleep: usize = world.endpoints.iter().map(|e| e.busy.load(Ordering::Relaxed)).sum();
            let done = self.store.step();
            if done == 0 && handle.metrics().num_alive_tasks() <= world.endpoints.len() + asleep {
                return;
            }
        }
        panic!("the dispatchers never come to rest");
    }

    async fn step(&mut self, world: &mut World) -> Result<bool> {
        // sometimes the state is swifter than settling
        let piles_up = world.rng.u64(..5) == 0;
        if !self.read(world).await? || !piles_up && !self.settle(world)? {
            return Ok(false);
        }
        if world.rng.u64(..12) == 0 {
            self.maintain(world)?;
        }
        Ok(true)
    }

    fn count(&self, sql: &'static str) -> i64 {
        self.store.read_blocking(move |c| Ok(c.query_row(sql, [], |r| r.get(0))?)).unwrap_or(-1)
    }
}

/// What comes of `asking`, whose questions to the state are answered as they come.
async fn stepped<T>(store: &Store, asking: impl Future<Output = T>) -> T {
    let mut asking = pin!(asking);
    poll_fn(|cx| {
        loop {
            let polled = asking.as_mut().poll(cx);
            if polled.is_ready() || store.step() == 0 {
                return polled;
            }
        }
    })
    .await
}

/// Whether the agent dies here.
fn dies(world: &mut World) -> bool {
    world.time() < world.end_of_storm() && world.rng.u64(..300) < world.plan.kills
}

/// Lives until it is killed, or until the storm is over and all has been delivered.
pub async fn live(world: &mut World) -> Result<End> {
    let mut agent = Agent::start(world).await?;
    agent.rest(world).await;
    world.tell("the agent starts".to_owned());
    while world.time() < world.end_of_storm() || !world.is_quiet() {
        if world.time() < world.end_of_storm() {
            world.trouble();
        } else {
            world.calm();
        }
        if world.time() < world.end_of_storm() && world.rng.u64(..100) < world.plan.kills {
            // dead after so many more commits, wherever they are
            agent.fuse.store(world.rng.i64(0..7), Ordering::Relaxed);
        }
        let went_on = agent.step(world).await;
        let to_next = world.next_moment().map_or(8 * SECOND, |at| at - world.time());
        let longest = if world.rng.u64(..3) == 0 { 400_000 } else { 6 * SECOND };
        let wait = to_next.clamp(150_000, longest);
        if matches!(went_on, Ok(true)) {
            agent.pass(world, wait).await;
        }
        if !matches!(went_on, Ok(true)) || agent.fuse.load(Ordering::Relaxed) == 0 {
            let lost = world.plan.loses_state && world.rng.u64(..8) == 0;
            world.tell(format!("the agent is killed ({went_on:?})"));
            return Ok(if lost { End::StateLost } else { End::Killed });
        }
    }
    agent.fuse.store(-1, Ordering::Relaxed);
    world.calm();
    world.tell("all is written".to_owned());
    let calm: Vec<i64> =
        [vec![SECOND; 20], vec![15 * SECOND; 60], vec![120 * SECOND; 20], vec![1_800 * SECOND; 54]].concat();
    for (n, wait) in calm.into_iter().enumerate() {
        for _ in 0..PAGES {
            agent.step(world).await?;
            while !agent.waiting.is_empty() {
                agent.settle(world)?;
            }
            if !agent.more {
                break;
            }
        }
        agent.pass(world, wait).await;
        if n == 50 {
            let now = agent.clock.now();
            let again = agent.store.write_blocking(move |conn| {
                let mut find = conn.prepare("SELECT delivery FROM delivery WHERE state = 2")?;
                let dead: Vec<i64> = find.query_map([], |r| r.get(0))?.collect::<rusqlite::Result<_>>()?;
                for delivery in &dead {
                    outbox::revive(conn, *delivery, now)?;
                }
                Ok(dead.len())
            })?;
            world.tell(format!("{again} dead letters tried again"));
            agent.wake.ring();
        }
    }
    for (what, sql) in [
        ("rows in the journal", "SELECT count(*) FROM journal"),
        ("deliveries that wait", "SELECT count(*) FROM delivery WHERE state = 0"),
        ("dead letters", "SELECT count(*) FROM delivery WHERE state = 2"),
        ("quarantined rows", "SELECT count(*) FROM quarantine"),
        ("calls told as up", "SELECT count(*) FROM ledger WHERE state = 'in_progress'"),
    ] {
        let n = agent.count(sql);
        if n != 0 {
            world.problem(format!("{n} {what} at the end"));
        }
    }
    if agent.settler.size() != (0, 0) {
        world.problem(format!("{:?} groups and rows in memory at the end", agent.settler.size()));
    }
    Ok(End::Done)
}
