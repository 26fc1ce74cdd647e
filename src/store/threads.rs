//! The two threads that own the connections. Writing jobs that wait are committed together (group commit); each runs in
//! a savepoint of its own, so that one that fails undoes only itself.
//!
//! Bounded by construction: an async caller holds one of [`WAITING_MAX`] permits, a blocking caller is a thread that
//! waits for its answer.
//!
//! A simulation can do without the threads: the same work is then done step by step on its own, so that what is committed
//! together does not depend on how swift a machine is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::{Connection, InterruptHandle};
use tokio::sync::{Semaphore, oneshot};

use super::{Result, StoreError};

/// How many async callers may have a job waiting at one thread.
const WAITING_MAX: usize = 256;

/// How many waiting jobs one transaction takes up. More would not save fsyncs but would delay the first caller.
const GROUP_COMMIT_MAX: usize = 64;

/// Between two attempts to interrupt a job that runs alone.
const INTERRUPT_AGAIN: Duration = Duration::from_millis(10);

/// Tells a job's caller how it ended, given what became of the commit.
type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;
/// A job gets the connection inside a transaction, or the reason why there is none.
type WriteJob = Box<dyn FnOnce(std::result::Result<&Connection, &StoreError>) -> Answer + Send>;
/// A job that gets the connection outside of any transaction.
type PlainJob = Box<dyn FnOnce(&Connection) + Send>;
/// Takes a job's result to its caller.
type Reply<T> = Box<dyn FnOnce(Result<T>) + Send>;

enum Job {
    Write(WriteJob),
    /// After the transaction that is open has ended, and before the next one begins.
    Alone(PlainJob),
}

/// Who does the jobs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// A thread of its own, as they come.
    Threads,
    /// Whoever calls `step`, or asks and waits.
    Steps,
}

impl Pace {
    fn next<J>(self, queue: &mpsc::Receiver<J>) -> Option<J> {
        match self {
            Self::Threads => queue.recv().ok(),
            Self::Steps => queue.try_recv().ok(),
        }
    }
}

/// Does jobs as long as its pace has more, and says how many it did.
type Work<J> = Box<dyn FnMut(&mpsc::Receiver<J>) -> usize + Send>;

/// What works through a queue of jobs.
struct Worker<J> {
    jobs: Mutex<Option<mpsc::Sender<J>>>,
    permits: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Where no thread does it.
    by_hand: Option<Mutex<(mpsc::Receiver<J>, Work<J>)>>,
}

impl<J: Send + 'static> Worker<J> {
    fn start(name: &str, pace: Pace, mut work: Work<J>) -> Self {
        let (jobs, queue) = mpsc::channel();
        let (thread, by_hand) = match pace {
            Pace::Threads => {
                let thread = thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || {
                        work(&queue);
                    })
                    .expect("the operating system refuses a thread at start");
                (Some(thread), None)
            }
            Pace::Steps => (None, Some(Mutex::new((queue, work)))),
        };
        Self {
            jobs: Mutex::new(Some(jobs)),
            permits: Arc::new(Semaphore::new(WAITING_MAX)),
            thread: Mutex::new(thread),
            by_hand,
        }
    }

    fn submit(&self, job: J) -> Result<()> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(StoreError::Closed)
    }

    /// Does what waits, where no thread does it.
    fn step(&self) -> usize {
        let Some(by_hand) = &self.by_hand else { return 0 };
        let mut by_hand = by_hand.lock().unwrap_or_else(PoisonError::into_inner);
        let (queue, work) = &mut *by_hand;
        work(queue)
    }

    /// Has the job done that `make` makes, and waits for its result.
    async fn ask<T: Send + 'static>(&self, make: impl FnOnce(Reply<T>) -> J) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let (tx, rx) = oneshot::channel();
        self.submit(make(Box::new(move |done| {
            let _ = tx.send(done);
            drop(permit);
        })))?;
        rx.await.map_err(|_| StoreError::Closed)?
    }

    /// [`Worker::ask`] for a thread of its own.
    fn ask_blocking<T: Send + 'static>(&self, make: impl FnOnce(Reply<T>) -> J) -> Result<T> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.submit(make(Box::new(move |done| {
            let _ = tx.send(done);
        })))?;
        self.step();
        rx.recv().map_err(|_| StoreError::Closed)?
    }

    /// Takes no more jobs, does those that wait, closes the connection.
    fn stop(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.step();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            // should the last owner of the state be a job itself, its thread ends after it
            && thread.thread().id() != thread::current().id()
        {
            // a panic there has been printed by the thread itself
            let _ = thread.join();
        }
    }
}

pub(super) struct Writer {
    worker: Worker<Job>,
    interrupt: InterruptHandle,
    alone: Arc<Mutex<Alone>>,
}

/// What runs outside of a transaction is long, and can be done at another time: the end does not wait for it.
#[derive(Debug, Default)]
struct Alone {
    runs: bool,
    over: bool,
}

impl Writer {
    pub(super) fn start(conn: Connection, pace: Pace) -> Self {
        let interrupt = conn.get_interrupt_handle();
        let worker = Worker::start("state-write", pace, Box::new(move |queue| write_loop(&conn, queue, pace)));
        Self { worker, interrupt, alone: Arc::default() }
    }

    pub(super) async fn run<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.worker.ask(|reply| Job::Write(write_job(f, reply))).await
    }

    pub(super) fn run_blocking<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.worker.ask_blocking(|reply| Job::Write(write_job(f, reply)))
    }

    /// Runs `f` outside of any transaction: for what SQLite does in none.
    pub(super) async fn run_alone<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let alone = Arc::clone(&self.alone);
        let job = move |conn: &Connection| {
            {
                let mut alone = alone.lock().unwrap_or_else(PoisonError::into_inner);
                if alone.over {
                    return Err(StoreError::Closed);
                }
                alone.runs = true;
            }
            let done = f(conn);
            alone.lock().unwrap_or_else(PoisonError::into_inner).runs = false;
            done
        };
        self.worker.ask(|reply| Job::Alone(Box::new(move |conn| reply(job(conn))))).await
    }

    pub(super) fn step(&self) -> usize {
        self.worker.step()
    }

    pub(super) fn stop(&self) {
        let interrupted = || {
            let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
            alone.over = true;
            if alone.runs {
                self.interrupt.interrupt();
            }
            alone.runs
        };
        // it may stand between two statements
        while interrupted() {
            thread::sleep(INTERRUPT_AGAIN);
        }
        self.worker.stop();
    }
}

pub(super) struct Reader(Worker<PlainJob>);

impl Reader {
    pub(super) fn start(conn: Connection, pace: Pace) -> Self {
        let work = move |queue: &mpsc::Receiver<PlainJob>| {
            std::iter::from_fn(|| pace.next(queue)).map(|job| job(&conn)).count()
        };
        Self(Worker::start("state-read", pace, Box::new(work)))
    }

    pub(super) fn step(&self) -> usize {
        self.0.step()
    }

    pub(super) async fn run<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.0.ask(|reply| Box::new(move |conn: &Connection| reply(in_snapshot(conn, f)))).await
    }

    pub(super) fn run_blocking<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.0.ask_blocking(|reply| Box::new(move |conn: &Connection| reply(in_snapshot(conn, f))))
    }

    pub(super) fn stop(&self) {
        self.0.stop();
    }
}

fn write_job<T, F>(f: F, answer: Reply<T>) -> WriteJob
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> Result<T> + Send + 'static,
{
    Box::new(move |conn| {
        let done = match conn {
            Ok(conn) => in_savepoint(conn, "job", f),
            Err(e) => Err(e.again()),
        };
        Box::new(move |lost| {
            answer(match lost {
                Some(e) if done.is_ok() => Err(e.again()),
                _ => done,
            });
        })
    })
}

fn write_loop(conn: &Connection, queue: &mpsc::Receiver<Job>, pace: Pace) -> usize {
    let mut next: Option<Job> = None;
    let mut jobs = 0;
    while let Some(job) = next.take().or_else(|| pace.next(queue)) {
        jobs += 1;
        let first = match job {
            Job::Write(first) => first,
            Job::Alone(job) => {
                job(conn);
                continue;
            }
        };
        if let Err(e) = run(conn, "BEGIN IMMEDIATE") {
            first(Err(&e))(None);
            continue;
        }
        let mut answers = vec![first(Ok(conn))];
        // a full disk or an I/O error can undo the whole transaction: then nothing more may run as though in it
        while answers.len() < GROUP_COMMIT_MAX && !conn.is_autocommit() {
            match queue.try_recv() {
                Ok(Job::Write(job)) => {
                    jobs += 1;
                    answers.push(job(Ok(conn)));
                }
                Ok(alone) => {
                    next = Some(alone);
                    break;
                }
                Err(_) => break,
            }
        }
        let lost = if conn.is_autocommit() {
            Some(rolled_back())
        } else {
            let error = run(conn, "COMMIT").err();
            if error.is_some() && !conn.is_autocommit() {
                // an error here means that SQLite rolled back by itself
                let _ = run(conn, "ROLLBACK");
            }
            error
        };
        for answer in answers {
            answer(lost.as_ref());
        }
    }
    if matches!(pace, Pace::Threads) {
        // leave a small file behind: the write-ahead log goes into the database
        let _ = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
    jobs
}

/// For the jobs that had succeeded when a later one's error undid the transaction they shared.
fn rolled_back() -> StoreError {
    StoreError::Sqlite(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
        Some("the transaction was rolled back: the disk is full or failing".to_owned()),
    ))
}

fn run(conn: &Connection, sql: &str) -> Result<()> {
    conn.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// A job that panics fails alone: the thread goes on with the next.
fn unbroken<T>(job: impl FnOnce() -> Result<T>) -> Result<T> {
    // the connection is put right by rolling back, and nothing else is shared
    catch_unwind(AssertUnwindSafe(job)).unwrap_or_else(|_| {
        Err(StoreError::Content(
            "a fault of callferry's broke off what was done with it; please report the panic".to_owned(),
        ))
    })
}

/// `f` in a savepoint of this name: an error undoes what `f` did and nothing else.
pub(super) fn in_savepoint<T>(conn: &Connection, name: &str, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    run(conn, &format!("SAVEPOINT {name}"))?;
    match unbroken(|| f(conn)) {
        Ok(value) => {
            run(conn, &format!("RELEASE {name}"))?;
            Ok(value)
        }
        Err(e) => {
            if !conn.is_autocommit() {
                run(conn, &format!("ROLLBACK TO {name}"))?;
                run(conn, &format!("RELEASE {name}"))?;
            }
            Err(e)
        }
    }
}

fn in_snapshot<T>(conn: &Connection, f: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    run(conn, "BEGIN")?;
    let done = unbroken(|| f(conn));
    let ended = run(conn, "COMMIT");
    if ended.is_err() && !conn.is_autocommit() {
        let _ = run(conn, "ROLLBACK");
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_does_not_wait_for_what_runs_alone() {
        let writer = Arc::new(Writer::start(Connection::open_in_memory().unwrap(), Pace::Threads));
        let (begun, has_begun) = mpsc::channel();
        let asked = Arc::clone(&writer);
        let waiting = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(asked.run_alone(move |conn| {
                begun.send(()).unwrap();
                // it never ends by itself
                let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";
                Ok(conn.query_row(endless, [], |r| r.get::<_, i64>(0))?)
            }))
        });
        has_begun.recv().unwrap();
        writer.stop();
        assert!(matches!(waiting.join().unwrap(), Err(StoreError::Sqlite(_))));
    }
}
