//! Creating, locking and migrating the state file. Everything that can be wrong with it at a start is told here.

use std::fs::{self, File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{LOCK_FILE, Result, STATE_FILE, StoreError};

/// The schema, in order; the position in this list is the version kept in `PRAGMA user_version`.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_state.sql"),
    include_str!("../../migrations/0002_rules.sql"),
    include_str!("../../migrations/0003_recordings.sql"),
    include_str!("../../migrations/0004_uploads.sql"),
    include_str!("../../migrations/0005_undelivered.sql"),
    include_str!("../../migrations/0006_forgotten.sql"),
    include_str!("../../migrations/0007_journal_numbers.sql"),
    include_str!("../../migrations/0008_delivered.sql"),
];

/// Pages of write-ahead log after which a commit also carries it into the database: 16 MB.
const WAL_PAGES: i64 = 4_000;

/// Opens the state for a command that only looks, beside a running agent or without one.
pub fn open_read_only(dir: &Path) -> Result<Connection> {
    known_state(dir, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Opens the state for a command that leaves a request for the agent that runs on it. Nothing else may be written so.
pub fn open_beside(dir: &Path) -> Result<Connection> {
    known_state(dir, OpenFlags::SQLITE_OPEN_READ_WRITE)
}

/// A state that is there, and of this version.
fn known_state(dir: &Path, flags: OpenFlags) -> Result<Connection> {
    let path = dir.join(STATE_FILE);
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Err(StoreError::Missing { path }),
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => return Err(StoreError::Missing { path }),
        // a directory of another user's: whether there is a state cannot be seen, and that there is none would be a lie
        Err(e) => return Err(StoreError::Unreadable { path, detail: e.to_string() }),
    }
    let conn = match open(&path, flags) {
        Err(StoreError::Sqlite(e))
            if matches!(
                e.sqlite_error_code(),
                Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly)
            ) =>
        {
            return Err(StoreError::Unreadable { path, detail: e.to_string() });
        }
        other => other?,
    };
    let found = version(&conn)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path, found, known });
    }
    if found < known {
        return Err(StoreError::Older { path, found, known });
    }
    Ok(conn)
}

/// Creates the directory for this user alone; one that exists is left as it is.
pub(super) fn create_private_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| StoreError::Directory { path: dir.to_owned(), source })
}

fn private_file(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The role is an advisory lock: it goes with the process, however that ends.
pub(super) fn take_role(dir: &Path) -> Result<File> {
    let unwritable = |source| StoreError::Unwritable { path: dir.to_owned(), source };
    let file = private_file(&dir.join(LOCK_FILE)).map_err(unwritable)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(e)) => Err(unwritable(e)),
    }
}

/// Whether an agent holds the role on `dir`. Looking does not take it.
pub fn agent_runs(dir: &Path) -> bool {
    let Ok(lock) = File::open(dir.join(LOCK_FILE)) else { return false };
    matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock))
}

pub(super) fn open_writer(path: &Path) -> Result<Connection> {
    // created here, with its mode, before SQLite opens it; its -wal and -shm files take the mode over
    let file = private_file(path).map_err(|source| StoreError::Unwritable { path: path.to_owned(), source })?;
    keep_private(&file);
    drop(file);
    let conn = open(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let settings = || -> rusqlite::Result<()> {
        // has to stand before the first table
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        conn.pragma_update(None, "secure_delete", "ON")?;
        conn.pragma_update(None, "foreign_keys", "ON")?;
        conn.pragma_update(None, "cache_size", -8_000)?;
        conn.pragma_update_and_check(None, "wal_autocheckpoint", WAL_PAGES, |_| Ok(()))?;
        conn.pragma_update_and_check(None, "journal_size_limit", WAL_PAGES * 4_096, |_| Ok(()))?;
        Ok(())
    };
    settings().map_err(|e| told(path, e))?;
    Ok(conn)
}

pub(super) fn open_reader(path: &Path) -> Result<Connection> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection> {
    // 3.51.3 is the first SQLite without the WAL-reset corruption bug
    assert!(rusqlite::version_number() >= 3_051_003, "bundled SQLite {} is too old", rusqlite::version());
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(Duration::from_secs(10))?;
    conn.set_prepared_statement_cache_capacity(128);
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).map_err(|e| told(path, e))?;
    Ok(conn)
}

/// A state that others may read (an old one, one restored from a backup) is made private where this user may do so.
fn keep_private(file: &File) {
    #[cfg(unix)]
    if let Ok(meta) = file.metadata() {
        use std::os::unix::fs::PermissionsExt;
        if meta.permissions().mode() & 0o077 != 0 {
            let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
        }
    }
}

fn told(path: &Path, e: rusqlite::Error) -> StoreError {
    match e.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Corrupt { path: path.to_owned(), detail: e.to_string() }
        }
        _ => StoreError::Sqlite(e),
    }
}

/// Opening failed in a way that a full disk explains.
pub(super) fn may_lack_room(e: &StoreError) -> bool {
    let StoreError::Sqlite(e) = e else { return false };
    matches!(e.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen))
}

fn version(conn: &Connection) -> Result<i64> {
    Ok(conn.query_row("PRAGMA user_version", [], |r| r.get(0))?)
}

pub(super) fn migrate(conn: &mut Connection, path: &Path) -> Result<()> {
    let found = version(conn)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    let missing = usize::try_from(found).ok().and_then(|from| MIGRATIONS.get(from..)).unwrap_or_default();
    if missing.is_empty() {
        return Ok(());
    }
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for migration in missing {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "user_version", known)?;
    tx.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;
    use crate::call::{CelRow, Row, Timestamp};
    use crate::source::{Batch, Place, PlacedRow};
    use crate::store::{Store, journal};

    #[test]
    fn a_state_that_cannot_be_looked_at_is_not_missing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let missing = |path: &Path| matches!(open_read_only(path), Err(StoreError::Missing { .. }));
        assert!(missing(dir.path()) && missing(&dir.path().join("not/there")));
        let file = dir.path().join("file");
        fs::write(&file, "").expect("a file");
        assert!(missing(&file), "a file holds no state");
        // whoever runs this, root included, gets no further here
        let around = dir.path().join("around");
        std::os::unix::fs::symlink(&around, &around).expect("a link to itself");
        for opened in [open_read_only(&around), open_beside(&around)] {
            let told = opened.expect_err("it cannot be looked at").to_string();
            assert!(told.contains("cannot read the state file") && told.contains("symbolic link"), "{told}");
        }
    }

    #[test]
    fn the_journal_of_an_earlier_version_keeps_its_numbers_and_uses_none_twice() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let conn = Connection::open(dir.path().join(STATE_FILE)).expect("a file");
        let before = MIGRATIONS.iter().position(|m| m.contains("journal_next")).expect("the migration");
        MIGRATIONS[..before].iter().for_each(|m| conn.execute_batch(m).expect("a migration"));
        conn.pragma_update(None, "user_version", before as i64).expect("a version");
        for id in [1_i64, 2] {
            conn.execute(
                "INSERT INTO journal (tbl, generation, place, body, arrived_at) VALUES (0, 1, ?1, '{}', 0)",
                [(id ^ i64::MIN).to_be_bytes().as_slice()],
            )
            .expect("a row");
        }
        conn.execute("DELETE FROM journal WHERE seq = 2", []).expect("the newest leaves");
        drop(conn);

        let store = Store::open(dir.path()).expect("brought up to date");
        let rows = [1, 3, 4].map(|id| PlacedRow {
            generation: 1,
            place: Place::Id(id),
            row: Row::Cel(Arc::new(CelRow { id: Some(id), ..CelRow::default() })),
            by_audit: false,
        });
        let batch = Batch { rows: rows.to_vec(), ..Batch::default() };
        let append = |batch: Batch| {
            store
                .write_blocking(move |c| journal::append(c, &batch, &HashSet::new(), Timestamp::default()))
                .expect("append")
        };
        assert_eq!(append(batch.clone()), [None, Some(3), Some(4)]);
        store.write_blocking(|c| journal::remove(c, &mut [3, 4])).expect("they leave");
        assert_eq!(append(batch), [None, Some(5), Some(6)]);
    }
}
