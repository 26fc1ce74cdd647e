//! What has to be done now and then: letting go what is old, minding the budget and the disk, figures for the metrics.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::call::Timestamp;
use crate::config::StateConfig;
use crate::metrics;
use crate::observe::Health;
use crate::ship::Clock;
use crate::ship::health::{Mode, Snapshot};
use crate::store::retention::{self, Sweep};
use crate::store::{Result, Store, journal, outbox};

/// Between rounds.
const ROUND: Duration = Duration::from_secs(5);
/// Calls looked at in one transaction.
const STEP: usize = 250;
/// Between two steps: others want the writer too.
const BREATH: Duration = Duration::from_millis(5);
/// Rounds between looking at the tables that grow slowly.
const SLOW_ROUNDS: u32 = 60;
/// Free pages are given back when they are more than this share of the file, and never below this many bytes.
const FREE_SHARE: u64 = 4;
const FREE_KEPT: u64 = 32 << 20;

pub(super) struct Maintenance {
    pub store: Store,
    pub config: StateConfig,
    pub shared: Arc<Shared>,
    pub health: Health,
    pub sinks: Vec<&'static str>,
    pub clock: Clock,
    pub stop: CancellationToken,
    /// Device and inode of the state's file at the first round.
    pub file: OnceLock<(u64, u64)>,
}

pub(super) async fn maintain(m: Maintenance) {
    let mut sweep = Sweep::default();
    let mut round = 0_u32;
    loop {
        if let Err(e) = m.round(&mut sweep, round).await {
            tracing::debug!("maintenance of the state: {e}");
        }
        round = round.wrapping_add(1);
        tokio::select! {
            () = m.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

impl Maintenance {
    async fn round(&self, sweep: &mut Sweep, round: u32) -> Result<()> {
        let (used, free) = self.store.read(retention::used_and_free).await?;
        metrics::STATE_BYTES.set(i64::try_from(self.store.size()).unwrap_or(i64::MAX));
        self.sinks_health().await?;
        let now = self.clock.now();
        let purged = self.sweep(sweep, self.ended_before(now, used), now).await?;
        self.mind_room(used, purged);
        if free > FREE_KEPT && free > (used + free) / FREE_SHARE {
            self.store.write(|conn| retention::shrink(conn, 2_000)).await?;
        }
        if round.is_multiple_of(SLOW_ROUNDS) {
            while self.store.write(move |conn| retention::housekeep(conn, now, 1_000)).await? {
                if self.pause().await {
                    return Ok(());
                }
            }
        }
        if round.is_multiple_of(6) {
            metrics::JOURNAL_ROWS.set(self.store.read(journal::len).await?);
        }
        Ok(())
    }

    /// Delivered calls that ended before this moment may go. The nearer the budget, the sooner.
    fn ended_before(&self, now: Timestamp, used: u64) -> Timestamp {
        let retention = i64::try_from(self.config.retention.as_micros()).unwrap_or(i64::MAX);
        let tenths = used.saturating_mul(10) / self.config.max_size.max(1);
        let kept = match tenths {
            0..=6 => retention,
            7 => retention / 4,
            8 => retention / 24,
            _ => 0,
        };
        now.plus_micros(-kept)
    }

    /// Walks once through the calls that are kept. How many were let go.
    async fn sweep(&self, sweep: &mut Sweep, ended_before: Timestamp, now: Timestamp) -> Result<usize> {
        let mut purged = 0;
        loop {
            let mut walker = *sweep;
            let (walker, step) = self
                .store
                .write(move |conn| {
                    let step = walker.step(conn, ended_before, now, STEP)?;
                    Ok((walker, step))
                })
                .await?;
            *sweep = walker;
            purged += step.purged;
            if step.done || self.pause().await {
                return Ok(purged);
            }
        }
    }

    /// True: told to stop.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep(BREATH) => false,
        }
    }

    /// Reading stops when the budget is used up though everything delivered was let go, when the disk runs full, and when
    /// the state was taken away.
    fn mind_room(&self, used: u64, purged: usize) {
        let before = self.shared.closed();
        let why = if !self.is_there() {
            Some(format!(
                "{} was removed or replaced while this agent works: what it knows is lost when it ends. Reading waits, \
                 and calls that are waiting are still delivered. Then restart with START_FROM at the date from which calls \
                 may be missing, and leave STATE_DIR alone",
                self.store.path().display()
            ))
        } else if used > self.config.max_size && purged == 0 {
            Some(format!(
                "the state takes {} MB, more than STATE_MAX_SIZE={}; reading waits until calls were delivered",
                used / 1_000_000,
                self.config.max_size / 1_000_000
            ))
        } else {
            match room(self.store.path().parent().unwrap_or(Path::new("."))) {
                Ok((free, all)) if free < self.config.min_free.min(all / 20) => Some(format!(
                    "{} MB are free on the disk of the state, less than STATE_MIN_FREE={}; reading waits",
                    free / 1_000_000,
                    self.config.min_free / 1_000_000
                )),
                _ => None,
            }
        };
        match (&before, &why) {
            (None, Some(why)) => {
                tracing::error!("{why}");
                self.health.state_failed(why.as_str());
            }
            (Some(_), None) => {
                tracing::info!("the state can be used again; reading goes on");
                self.health.state_ok();
            }
            _ => {}
        }
        self.shared.set_closed(why);
    }

    /// The state's file is still the one that is open: whatever is written to a removed one is gone with this process.
    fn is_there(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let place = |m: std::fs::Metadata| (m.dev(), m.ino());
        match std::fs::metadata(self.store.path()) {
            Ok(found) => *self.file.get_or_init(|| place(found.clone())) == place(found),
            Err(e) => e.kind() != std::io::ErrorKind::NotFound,
        }
    }

    /// Sinks that are paused, for `/readyz`.
    async fn sinks_health(&self) -> Result<()> {
        for sink in self.sinks.iter().copied() {
            let kept = self.store.read(move |conn| outbox::load_sink::<Snapshot>(conn, sink)).await?;
            match kept.map(|s| s.mode) {
                None | Some(Mode::Up) => self.health.sink_ok(sink),
                Some(Mode::Open { why, .. } | Mode::Paused { why, .. }) => self.health.sink_paused(sink, why),
            }
        }
        Ok(())
    }
}

/// Bytes free for this user on the disk of `dir`, and its size.
fn room(dir: &Path) -> std::io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok((disk.f_bavail.saturating_mul(disk.f_frsize), disk.f_blocks.saturating_mul(disk.f_frsize)))
}
