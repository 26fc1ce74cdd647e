//! Room on the disk that is kept for the worst moment: a file that holds nothing. A delivery cannot be marked as delivered
//! without space, and without the mark it would go out again. When the disk is full the file is given up at once, which
//! leaves enough to record what is in flight; what reads must stop then, or it would use the room up for new rows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

/// Bytes of it.
pub const BALLAST: u64 = 32 << 20;
/// Its name in the state directory.
pub const BALLAST_FILE: &str = "ballast";

/// What is known of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ballast {
    /// There was no room for it yet, or nobody made it.
    Absent,
    /// It is there.
    Held,
    /// The disk was full. Nothing new may be written until [`Keeper::take_back`] says so.
    Spent,
}

/// Owns the file. Given up it stays as an empty one, so that the next start knows too what the free room is for.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    ballast: Ballast,
    /// The disk has room for it, when it is not full.
    fits: bool,
}

impl Keeper {
    /// A file that an earlier run made is taken over.
    pub(super) fn new(dir: &Path) -> Self {
        let path = dir.join(BALLAST_FILE);
        let inner = match fs::metadata(&path) {
            Ok(found) if found.len() >= BALLAST => Inner { ballast: Ballast::Held, fits: true },
            Ok(_) => Inner { ballast: Ballast::Spent, fits: true },
            Err(_) => Inner { ballast: Ballast::Absent, fits: false },
        };
        Self { path, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is(&self) -> Ballast {
        self.lock().ballast
    }

    /// The disk is full. `true`: there was a file, and its room is free now.
    pub(super) fn give_up(&self) -> bool {
        let mut inner = self.lock();
        if inner.ballast == Ballast::Spent {
            return false;
        }
        let freed = inner.ballast == Ballast::Held && self.empty().is_ok();
        inner.ballast = Ballast::Spent;
        tracing::error!(
            "the disk of the state is full: reading stops{}. Make room there; everything goes on by itself then",
            if freed { ", and the room kept in reserve records what is in flight" } else { "" }
        );
        freed
    }

    fn empty(&self) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)
    }

    /// Makes the file again when `free` bytes leave room for it above `floor`. `true`: new rows may be written, with or
    /// without the file.
    pub(super) fn take_back(&self, free: u64, floor: u64) -> bool {
        let mut inner = self.lock();
        if inner.ballast == Ballast::Held {
            return true;
        }
        if free >= floor.saturating_add(BALLAST) {
            match create(&self.path) {
                Ok(()) => *inner = Inner { ballast: Ballast::Held, fits: true },
                Err(e) => {
                    let _ = self.empty();
                    tracing::debug!("no room can be kept in reserve in {}: {e}", self.path.display());
                }
            }
        } else if !inner.fits && free >= floor.saturating_add(floor / 4).max(1 << 20) {
            // a disk too small for it is used without it
            inner.ballast = Ballast::Absent;
        }
        inner.ballast != Ballast::Spent
    }
}

/// Every byte of it takes room: a file system that packs zeros, or one that keeps holes, is not taken in.
fn create(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BALLAST) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&mut file),
        Err(e) => Err(e.into()),
    }
}

fn fill(file: &mut File) -> io::Result<()> {
    let mut random = fastrand::Rng::new();
    let mut block = vec![0; 1 << 20];
    for _ in 0..BALLAST >> 20 {
        random.fill(&mut block);
        file.write_all(&block)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: u64 = 10 << 20;

    #[test]
    fn it_is_made_given_up_and_made_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join(BALLAST_FILE);
        let keeper = Keeper::new(dir.path());
        assert_eq!(keeper.is(), Ballast::Absent);
        assert!(keeper.take_back(FLOOR, FLOOR), "too little room for it, enough to go on");
        assert!(!file.exists());
        assert!(keeper.take_back(FLOOR + BALLAST, FLOOR));
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&file).expect("it is there"));
        assert!(blocks * 512 >= BALLAST, "it takes the room it is for: {blocks} blocks");
        assert_eq!(Keeper::new(dir.path()).is(), Ballast::Held, "after a restart");

        assert!(keeper.give_up());
        assert_eq!(fs::metadata(&file).expect("as a mark").len(), 0);
        assert!(!keeper.give_up(), "only once");
        for keeper in [&keeper, &Keeper::new(dir.path())] {
            assert!(!keeper.take_back(FLOOR + BALLAST - 1, FLOOR), "what was freed is for what is in flight");
        }
        assert_eq!(keeper.is(), Ballast::Spent);
        assert!(keeper.take_back(FLOOR + BALLAST, FLOOR));
        assert_eq!(keeper.is(), Ballast::Held);
    }

    #[test]
    fn a_disk_too_small_for_it_is_used_without() {
        let dir = tempfile::tempdir().expect("a directory");
        let keeper = Keeper::new(dir.path());
        assert!(!keeper.give_up());
        assert!(!keeper.take_back(FLOOR, FLOOR));
        assert!(keeper.take_back(FLOOR * 2, FLOOR));
        assert_eq!(keeper.is(), Ballast::Absent);
    }

    #[test]
    fn without_the_system_call_it_is_written_out() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fill(&mut file.reopen().expect("again")).expect("written");
        assert_eq!(file.as_file().metadata().expect("its length").len(), BALLAST);
    }
}
