//! Changes in folders as the operating system tells them: hints that save waiting for the next scan. Where it tells none
//! (network file systems, too many folders to watch) scans find everything all the same.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};

use notify::{Config, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::Folder;

/// Hints kept until they are asked for; more mean: scan.
const HINTS_MAX: usize = 4_096;

pub struct Watch {
    // stops watching when it goes
    _watcher: Option<RecommendedWatcher>,
    hints: Receiver<PathBuf>,
    overflow: Arc<AtomicBool>,
}

impl Watch {
    /// Watches these folders as far as that is possible.
    pub fn new(roots: &[Folder]) -> Self {
        let (tell, hints) = mpsc::sync_channel(HINTS_MAX);
        let overflow = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&overflow);
        let handler = move |event: notify::Result<notify::Event>| match event {
            Ok(event) if matches!(event.kind, EventKind::Access(_) | EventKind::Remove(_)) => {}
            Ok(event) => {
                let kept = event.paths.into_iter().all(|path| tell.try_send(path).is_ok());
                if !kept || matches!(event.kind, EventKind::Other) {
                    lost.store(true, Ordering::Relaxed);
                }
            }
            Err(_) => lost.store(true, Ordering::Relaxed),
        };
        let watcher = RecommendedWatcher::new(handler, Config::default().with_follow_symlinks(false));
        let watcher = match watcher {
            Ok(mut watcher) => {
                for root in roots {
                    if let Err(e) = watcher.watch(&root.path, RecursiveMode::Recursive) {
                        tracing::info!(
                            folder = %root.path.display(),
                            "changes here are not told by the system ({e}); new recordings are found by scans"
                        );
                    }
                }
                Some(watcher)
            }
            Err(e) => {
                tracing::info!("the system tells no changes of folders ({e}); new recordings are found by scans");
                None
            }
        };
        Self { _watcher: watcher, hints, overflow }
    }

    /// Paths that changed since the last time. `None`: some were lost, a scan is due.
    pub fn take(&self) -> Option<Vec<PathBuf>> {
        let mut paths: Vec<PathBuf> = self.hints.try_iter().take(HINTS_MAX).collect();
        paths.sort();
        paths.dedup();
        (!self.overflow.swap(false, Ordering::Relaxed)).then_some(paths)
    }
}
