//! The local SQLite: the only place with SQL for it. One writer thread owns the writing connection; what is asked of it
//! while it works is committed together, so that one fsync serves many callers. Readers have a connection of their own.
//!
//! This module is the way in: [`Store::open`], [`Store::write`], [`Store::read`]. `open` creates, locks and migrates,
//! `threads` runs the connections; `journal`, `ledger`, `outbox`, `meta`, `recordings`, `uploads`, `retention` and `calls` hold the statements
//! of their tables as functions of a connection. `ballast` keeps room for a full disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use thiserror::Error;

mod ballast;
pub mod calls;
mod counts;
pub mod dead;
pub mod fold;
pub mod forget;
pub mod forgotten;
pub mod journal;
pub mod ledger;
pub mod meta;
mod open;
pub mod outbox;
pub mod reached;
pub mod recordings;
pub mod requests;
pub mod retention;
mod threads;
pub mod uploads;

pub use ballast::{BALLAST, BALLAST_FILE, Ballast};
pub use open::{agent_runs, open_beside, open_read_only};

use crate::call::Timestamp;
use threads::{Pace, Reader, Writer};

/// The state file inside the state directory.
pub const STATE_FILE: &str = "callferry.db";
pub(crate) const LOCK_FILE: &str = "agent.lock";

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("cannot create the state directory {path}: {source}. Set STATE_DIR to a directory this user can write")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("cannot write in the state directory {path}: {source}. Set STATE_DIR to a directory this user can write")]
    Unwritable { path: PathBuf, source: std::io::Error },
    #[error("another callferry agent already works on {path}. Stop it, or give this one its own STATE_DIR")]
    Locked { path: PathBuf },
    #[error(
        "the state file {path} is of version {found}, this callferry knows up to {known}. Run the newer callferry, or \
         start anew with another STATE_DIR"
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "the state file {path} is of version {found}, older than this callferry's {known}. Start `callferry run` once, \
         which brings it up to date"
    )]
    Older { path: PathBuf, found: i64, known: i64 },
    #[error("there is no state at {path} yet. `callferry run` creates it; STATE_DIR names its directory")]
    Missing { path: PathBuf },
    #[error(
        "cannot read the state file {path}: {detail}. It belongs to the user the agent runs as; run this as that user"
    )]
    Unreadable { path: PathBuf, detail: String },
    #[error(
        "the state file {path} is damaged: {detail}. Move it away and start again: calls are then read anew and shipped \
         under the same ids"
    )]
    Corrupt { path: PathBuf, detail: String },
    #[error("the disk of the state in {path} is full: make room there, then start again. Nothing is lost meanwhile")]
    Full { path: PathBuf },
    #[error("state database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("state database holds something unreadable: {0}")]
    Content(String),
    #[error("the state database is closed")]
    Closed,
}

impl StoreError {
    /// The disk (or the quota) is full: nothing was written, trying again later can succeed.
    pub fn is_full(&self) -> bool {
        self.code() == Some(rusqlite::ErrorCode::DiskFull)
    }

    /// What was to be written goes against the state's own rules: trying again is of no use, other writes succeed.
    pub fn is_constraint(&self) -> bool {
        matches!(
            self,
            Self::Sqlite(rusqlite::Error::SqliteFailure(e, _))
                if e.code == rusqlite::ErrorCode::ConstraintViolation
                    // a commit that a hook refused is none of these
                    && e.extended_code != rusqlite::ffi::SQLITE_CONSTRAINT_COMMITHOOK
        )
    }

    /// The file is damaged or the writer is gone: trying again is of no use.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Closed | Self::Corrupt { .. })
            || matches!(self.code(), Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase))
    }

    /// Another process writes to the file, and did so for as long as was waited.
    pub fn is_busy(&self) -> bool {
        matches!(self.code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
    }

    fn code(&self) -> Option<rusqlite::ErrorCode> {
        match self {
            Self::Sqlite(e) => e.sqlite_error_code(),
            _ => None,
        }
    }

    /// One failed commit fails every job in it; an error is not `Clone`, so each caller gets its own.
    fn again(&self) -> Self {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(code, text)) => {
                Self::Sqlite(rusqlite::Error::SqliteFailure(*code, text.clone()))
            }
            Self::Closed => Self::Closed,
            other => Self::Content(other.to_string()),
        }
    }
}

pub type Result<T> = std::result::Result<T, StoreError>;

/// Runs `f` so that a constraint it violates undoes `f` alone, inside a transaction. `None`: it did.
pub fn apart<T>(conn: &Connection, f: impl FnOnce(&Connection) -> Result<T>) -> Result<Option<T>> {
    match threads::in_savepoint(conn, "apart", f) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_constraint() => {
            tracing::error!("recording a call: {e}");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The state, shared by everything that runs in one process. Cloning is cheap. When the last clone goes (or at
/// [`Store::close`]) the write-ahead log is brought into the database and the agent role is given back.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    writer: Writer,
    reader: Reader,
    path: PathBuf,
    ballast: ballast::Keeper,
    let_go_before: AtomicI64,
    // declared after the threads: both connections are closed before the role is given back
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens (or creates) the state in `dir`, takes the agent role, brings the schema up to date.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_at(dir, Pace::Threads)
    }

    /// [`Store::open`] without threads: what is asked of it is done by [`Store::step`] and within each blocking call, so that
    /// a simulated run can be repeated exactly.
    pub fn open_stepped(dir: &Path) -> Result<Self> {
        Self::open_at(dir, Pace::Steps)
    }

    fn open_at(dir: &Path, pace: Pace) -> Result<Self> {
        open::create_private_dir(dir)?;
        let lock = open::take_role(dir)?;
        let path = dir.join(STATE_FILE);
        let ballast = ballast::Keeper::new(dir);
        let connect = || {
            let mut conn = open::open_writer(&path)?;
            open::migrate(&mut conn, &path)?;
            Ok((conn, open::open_reader(&path)?))
        };
        let (conn, read) = match connect() {
            // also the files beside the database take room
            Err(e) if open::may_lack_room(&e) && ballast.give_up() => connect(),
            other => other,
        }
        .map_err(|e| if e.is_full() { StoreError::Full { path: dir.to_owned() } } else { e })?;
        Ok(Self(Arc::new(Inner {
            writer: Writer::start(conn, pace),
            reader: Reader::start(read, pace),
            path,
            ballast,
            let_go_before: AtomicI64::new(i64::MIN),
            lock: Mutex::new(Some(lock)),
        })))
    }

    /// Does what was asked of a stepped state and waits, and says how much that was.
    pub fn step(&self) -> usize {
        self.0.writer.step() + self.0.reader.step()
    }

    /// Calls that ended before this moment need not be kept once they are delivered. Nothing is let go until this was set.
    pub fn let_go_before(&self) -> Timestamp {
        Timestamp::from_micros(self.0.let_go_before.load(Ordering::Relaxed))
    }

    pub fn set_let_go_before(&self, moment: Timestamp) {
        self.0.let_go_before.store(moment.micros(), Ordering::Relaxed);
    }

    /// Path of the state file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Bytes of the state on disk, write-ahead log included.
    pub fn size(&self) -> u64 {
        let length = |suffix: &str| {
            let mut name = self.0.path.clone().into_os_string();
            name.push(suffix);
            fs::metadata(PathBuf::from(name)).map_or(0, |m| m.len())
        };
        length("") + length("-wal")
    }

    /// Runs `f` in a transaction of the writer. Returns after the commit: what `f` wrote is durable then. An error
    /// undoes what `f` did and nothing else.
    pub async fn write<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let done = self.0.writer.run(f).await;
        self.0.mind_room(done)
    }

    /// [`Store::write`] for a thread of its own. Not to be called from async code that others wait for.
    pub fn write_blocking<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        let done = self.0.writer.run_blocking(f);
        self.0.mind_room(done)
    }

    /// What room is kept in reserve on the disk. [`Ballast::Spent`]: the disk was full, and nothing may be written but
    /// what became of what is in flight.
    pub fn ballast(&self) -> Ballast {
        self.0.ballast.is()
    }

    /// Keeps room in reserve (again) where `free` bytes allow it above `floor`. `true`: rows may be read.
    pub fn keep_ballast(&self, free: u64, floor: u64) -> bool {
        self.0.ballast.take_back(free, floor)
    }

    /// Writes the whole file anew and empties the write-ahead log: nothing of what was removed is left in them. Takes as long
    /// as the file is large, and needs as much room again; nothing else is written meanwhile.
    pub async fn rewrite(&self) -> Result<()> {
        self.0
            .writer
            .run_alone(|conn| {
                conn.execute_batch("VACUUM")?;
                // a reader may hold an older snapshot for a moment
                for _ in 0..50 {
                    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))?;
                    if busy == 0 {
                        return Ok(());
                    }
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
                Err(StoreError::Content("a reader holds on to the write-ahead log".to_owned()))
            })
            .await
    }

    /// Runs `f` on the reading connection, in one snapshot.
    pub async fn read<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.0.reader.run(f).await
    }

    /// [`Store::read`] for a thread of its own.
    pub fn read_blocking<T, F>(&self, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    {
        self.0.reader.run_blocking(f)
    }

    /// Finishes what was asked, brings the write-ahead log into the database, closes both connections and gives the
    /// agent role back. Whoever still holds a clone gets [`StoreError::Closed`] from now on.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Inner {
    /// A full disk is answered by giving up the ballast: whoever tries again has room.
    fn mind_room<T>(&self, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(StoreError::is_full) && self.ballast.is() != Ballast::Spent {
            self.ballast.give_up();
        }
        done
    }

    fn close(&self) {
        self.reader.stop();
        self.writer.stop();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
