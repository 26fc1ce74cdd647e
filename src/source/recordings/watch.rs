//! Changes in folders as the operating system tells them: hints that save waiting for the next scan. Where it tells none
//! (network file systems, too many folders to watch) scans find everything all the same.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};

use notify::{Config, ErrorKind, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Folder;

/// Hints kept until they are asked for; more mean: scan.
const HINTS_MAX: usize = 4_096;

pub struct Watch {
    // stops watching when it goes
    _watcher: Option<RecommendedWatcher>,
    hints: Receiver<PathBuf>,
    overflow: Arc<AtomicBool>,
    /// Why not everything is told, once.
    trouble: Arc<Mutex<Option<String>>>,
}

impl Watch {
    /// Watches these folders as far as that is possible.
    pub fn new(roots: &[Folder]) -> Self {
        let (tell, hints) = mpsc::sync_channel(HINTS_MAX);
        let overflow = Arc::new(AtomicBool::new(false));
        let trouble = Arc::new(Mutex::new(None));
        let (lost, limit) = (Arc::clone(&overflow), Arc::clone(&trouble));
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_) | EventKind::Remove(_)) => {}
            Ok(event) => {
                let kept = event.paths.into_iter().all(|path| tell.try_send(path).is_ok());
                if !kept || matches!(event.kind, EventKind::Other) {
                    lost.store(true, Ordering::Relaxed);
                }
            }
            Err(e) => {
                put(&limit, &e);
                lost.store(true, Ordering::Relaxed);
            }
        };
        let watcher = RecommendedWatcher::new(handler, Config::default().with_follow_symlinks(false));
        let watcher = match watcher {
            Ok(mut watcher) => {
                for root in roots {
                    if let Err(e) = watcher.watch(&root.path, RecursiveMode::Recursive) {
                        put(&trouble, &e);
                    }
                }
                Some(watcher)
            }
            Err(e) => {
                put(&trouble, &e);
                None
            }
        };
        Self { _watcher: watcher, hints, overflow, trouble }
    }

    /// Why the system does not tell of everything; scans find it all the same. The first reason only, and only once.
    pub fn trouble(&self) -> Option<String> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        trouble.as_mut().map(std::mem::take).filter(|why| !why.is_empty())
    }

    /// Paths that changed since the last time. `None`: some were lost, a scan is due.
    pub fn take(&self) -> Option<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = self.hints.try_iter().take(HINTS_MAX).collect();
        paths.sort();
        paths.dedup();
        (!self.overflow.swap(false, Ordering::Relaxed)).then_some(paths)
    }
}

/// Keeps the first reason: an empty one means that it was told.
fn put(trouble: &Mutex<Option<String>>, e: &notify::Error) {
    let why = match e.kind {
        ErrorKind::MaxFilesWatch => {
            "the limit of folders to watch is reached (raise fs.inotify.max_user_watches with sysctl)".to_owned()
        }
        _ => e.to_string(),
    };
    trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
}
