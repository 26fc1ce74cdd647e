//! What commands ask of a state, carried out by whoever owns it: the running agent, which looks for requests all the time,
//! or the command itself where no agent runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::forget;
use super::history::backfill::{Job, Order, Progress, STOPPED};
use crate::ship::Clock;
use crate::store::dead::{self, Action, Cursor, Which};
use crate::store::requests::{self, Request, State};
use crate::store::{Result, Store, StoreError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Deliveries in one transaction.
const STEP: usize = 500;
/// Looks between letting go what was answered long ago.
const CLEAN: u32 = 7_200;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Sends dead deliveries again. Answer: [`dead::Done`].
    Retry(Which),
    /// Gives dead deliveries up for good. Answer: [`dead::Done`].
    Drop(Which),
    /// Reads history again, as a job beside everything else. Answer: [`Progress`].
    Backfill(Order),
    /// Ends backfills that are under way. Answer: how many.
    StopBackfill,
    /// Removes everything that is known of a number. Answer: [`forget::Forgotten`].
    Forget(String),
}

impl Wish {
    /// The `kind` of its row in the state.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::Drop(_) => "drop",
            Self::Backfill(_) => "backfill",
            Self::StopBackfill => "stop_backfill",
            Self::Forget(_) => "forget",
        }
    }
}

/// Carries out one wish. Returns its answer, as JSON.
pub async fn carry_out(store: &Store, wish: Wish, clock: &Clock) -> Result<String> {
    let done = match wish {
        Wish::Retry(which) => serde_json::to_string(&letters(store, Action::Retry, which, clock).await?),
        Wish::Drop(which) => serde_json::to_string(&letters(store, Action::Drop, which, clock).await?),
        Wish::StopBackfill => serde_json::to_string(&stop_backfills(store, clock).await?),
        Wish::Forget(number) => serde_json::to_string(&forget::forget(store, &number, clock).await?),
        Wish::Backfill(_) => return Err(StoreError::Content("a backfill is a job of the agent".to_owned())),
    };
    done.map_err(|e| StoreError::Content(e.to_string()))
}

/// Ends every backfill that was ordered. How many those were.
async fn stop_backfills(store: &Store, clock: &Clock) -> Result<usize> {
    let now = clock.now();
    let stopping = store.write(move |conn| {
        let open = requests::open(conn)?;
        let jobs: Vec<i64> = open.iter().filter(|r| r.kind == "backfill").map(|r| r.request).collect();
        for job in &jobs {
            requests::answer(conn, *job, State::Failed, STOPPED, now)?;
        }
        Ok(jobs.len())
    });
    stopping.await
}

/// Waits until nothing is asked for any more.
pub(super) async fn all_done(store: &Store, stop: &CancellationToken) {
    while !matches!(store.read(requests::open).await, Ok(open) if open.is_empty()) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn letters(store: &Store, action: Action, which: Which, clock: &Clock) -> Result<dead::Done> {
    let began = clock.now();
    let mut done = walk(store, action, &which, dead::Done::default(), clock).await?;
    // a merged call mostly stands before the one that took it in, and could not be sent before that
    while matches!(action, Action::Retry) && done.left() > 0 {
        let before = done.deliveries();
        let again = dead::Done { blocked: 0, abandoned: 0, ..done };
        done = walk(store, Action::RetryLeft(began), &which, again, clock).await?;
        if done.deliveries() == before {
            break;
        }
    }
    Ok(done)
}

/// Goes through the dead letters once, step by step.
async fn walk(store: &Store, action: Action, which: &Which, mut done: dead::Done, clock: &Clock) -> Result<dead::Done> {
    let mut cursor = Cursor::default();
    loop {
        let (which, before, now) = (which.clone(), done.clone(), clock.now());
        let step = store.write(move |conn| {
            let mut done = before;
            let next = dead::step(conn, action, &which, cursor, STEP, now, &mut done)?;
            Ok((done, next))
        });
        let (so_far, next) = step.await?;
        done = so_far;
        match next {
            Some(next) => cursor = next,
            None => return Ok(done),
        }
    }
}

/// The agent's side.
pub(super) struct Desk {
    job: Job,
    stop: CancellationToken,
    /// The backfill under way, and what ends it.
    backfill: Option<(i64, JoinHandle<()>, CancellationToken)>,
}

impl Desk {
    pub(super) const fn new(job: Job, stop: CancellationToken) -> Self {
        Self { job, stop, backfill: None }
    }

    /// Looks for requests and carries them out, one after another, until told to stop.
    pub(super) async fn serve(mut self) {
        let mut looks = 0_u32;
        let mut failing = false;
        loop {
            match self.look(looks.is_multiple_of(CLEAN)).await {
                Ok(()) => failing = false,
                Err(e) if !std::mem::replace(&mut failing, true) => tracing::warn!("requests of commands: {e}"),
                Err(_) => {}
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if let Some((_, running, stop)) = self.backfill.take() {
            stop.cancel();
            let _ = running.await;
        }
    }

    async fn look(&mut self, clean: bool) -> Result<()> {
        if clean {
            let now = self.job.clock.now();
            self.job.store.write(move |conn| requests::clean(conn, now)).await?;
        }
        for request in self.job.store.read(requests::open).await? {
            self.answer(request).await?;
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// Starts a backfill, or goes on with one that an earlier run began; one at a time.
    async fn start(&mut self, request: Request, order: Order) -> Result<()> {
        if self.backfill.as_ref().is_some_and(|(_, running, _)| !running.is_finished()) {
            return Ok(());
        }
        let number = request.request;
        let kept = request.answer.as_deref().and_then(|text| serde_json::from_str::<Progress>(text).ok());
        let progress = kept.unwrap_or_default();
        if request.state == State::New {
            let text = serde_json::to_string(&progress).map_err(|e| StoreError::Content(e.to_string()))?;
            let now = self.job.clock.now();
            self.job.store.write(move |conn| requests::answer(conn, number, State::Running, &text, now)).await?;
        }
        let stop = self.job.stop.child_token();
        let job = Job { stop: stop.clone(), ..self.job.clone() };
        let running = tokio::spawn(job.run(number, order, request.created_at, progress));
        self.backfill = Some((number, running, stop));
        Ok(())
    }

    async fn answer(&mut self, request: Request) -> Result<()> {
        let wish = request.argument::<Wish>();
        if let Ok(Wish::Backfill(order)) = wish {
            return self.start(request, order).await;
        }
        if matches!(wish, Ok(Wish::StopBackfill))
            && let Some((_, running, stop)) = self.backfill.take()
        {
            stop.cancel();
            let _ = running.await;
        }
        attend(&self.job.store, &self.job.clock, &request).await?;
        self.job.wake.ring();
        Ok(())
    }
}

/// Takes up a wish that is no job, carries it out and writes its answer. One that was begun before is carried out again:
/// each of them may be.
pub(crate) async fn attend(store: &Store, clock: &Clock, request: &Request) -> Result<()> {
    let (number, now) = (request.request, clock.now());
    // in a write of its own: whoever asked knows from now on that it is being done, however long that takes
    if !store.write(move |conn| requests::take_up(conn, number, now)).await? {
        return Ok(());
    }
    let done = if request.is_blank() {
        let forgotten = forget::go_on(store, request.answer.as_deref()).await;
        serde_json::to_string(&forgotten).map_err(|e| StoreError::Content(e.to_string()))
    } else {
        match request.argument::<Wish>() {
            Ok(wish) => carry_out(store, wish, clock).await,
            Err(_) => {
                let version = env!("CARGO_PKG_VERSION");
                let text = format!("the running agent ({version}) does not know this command: update and restart it");
                return store.write(move |conn| requests::answer(conn, number, State::Failed, &text, now)).await;
            }
        }
    };
    let (state, answer) = match done {
        Ok(answer) => {
            tracing::info!(request = number, kind = request.kind, answer, "carried out what a command asked for");
            (State::Done, answer)
        }
        // the state cannot be written: it is tried again
        Err(e) if e.is_full() || e.is_fatal() => return Err(e),
        Err(e) => (State::Failed, e.to_string()),
    };
    let now = clock.now();
    store.write(move |conn| requests::answer(conn, number, state, &answer, now)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Timestamp;
    use crate::store::outbox::{self, NewRevision, Outcome};

    const SINK: &str = "webhook";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_secs(second)
    }

    /// Calls 1 and 2, of which the younger number took the older in, as it mostly is: it was shipped last. Both dead.
    fn merged(dir: &std::path::Path) -> Store {
        let store = Store::open(dir).unwrap();
        store
            .write_blocking(|conn| {
                for call in [1, 2] {
                    conn.execute(
                        "INSERT INTO ledger (call, id, revision, state, content_hash, updated_at)
                         VALUES (?1, ?2, 2, 'shipped', x'', 0)",
                        (call, format!("pbx:{call}.1")),
                    )?;
                }
                for (call, after) in [(2, None), (1, Some((2, 2)))] {
                    let id = format!("pbx:{call}.1");
                    let new = NewRevision { call, id: &id, revision: 2, body: "{}", rows: None, after };
                    outbox::enqueue(conn, &new, &[SINK], at(10))?;
                }
                conn.execute("UPDATE delivery SET flight = 1 WHERE call = 2", [])?;
                let survivor = conn.query_row("SELECT delivery FROM delivery WHERE call = 2", [], |r| r.get(0))?;
                outbox::record(conn, &[(survivor, Outcome::Dead { error: "422".to_owned(), refused: true })], at(20))
            })
            .unwrap();
        assert_eq!(states(&store), [2, 2], "the merged one died with the one that took it in");
        store
    }

    fn states(store: &Store) -> Vec<i64> {
        store
            .read_blocking(|conn| {
                let mut statement = conn.prepare("SELECT state FROM delivery ORDER BY call")?;
                let states = statement.query_map([], |r| r.get(0))?;
                Ok(states.collect::<rusqlite::Result<_>>()?)
            })
            .unwrap()
    }

    async fn done(store: &Store, wish: Wish) -> dead::Done {
        let answer = carry_out(store, wish, &Clock::from_fn(|| at(30))).await.unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn one(id: &str) -> Which {
        Which { ids: vec![id.to_owned()], sink: None }
    }

    #[tokio::test]
    async fn a_merged_call_goes_with_the_one_behind_it_that_took_it_in() {
        let dir = tempfile::tempdir().unwrap();
        let store = merged(dir.path());
        let all = done(&store, Wish::Retry(Which::default())).await;
        assert_eq!((all.deliveries(), all.calls, all.left()), (2, 2, 0), "{all:?}");
        assert_eq!(states(&store), [0, 0]);
    }

    #[tokio::test]
    async fn a_merged_call_that_died_by_itself_goes_with_it_too() {
        let dir = tempfile::tempdir().unwrap();
        let store = merged(dir.path());
        store
            .write_blocking(|conn| Ok(conn.execute("UPDATE delivery SET last_error = '410' WHERE call = 1", [])?))
            .unwrap();
        let all = done(&store, Wish::Retry(Which::default())).await;
        assert_eq!((all.deliveries(), all.calls, all.left()), (2, 2, 0), "{all:?}");
        assert_eq!(states(&store), [0, 0]);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_told_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let store = merged(dir.path());
        let alone = done(&store, Wish::Retry(one("pbx:1.1"))).await;
        assert_eq!((alone.deliveries(), alone.blocked, alone.abandoned), (0, 1, 0));
        assert_eq!(done(&store, Wish::Drop(one("pbx:2.1"))).await.deliveries(), 1);
        let all = done(&store, Wish::Retry(Which::default())).await;
        assert_eq!((all.deliveries(), all.blocked, all.abandoned), (0, 0, 1));
        assert_eq!(states(&store), [2, 4]);
    }
}
