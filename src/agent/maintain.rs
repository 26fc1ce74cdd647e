//! What has to be done now and then: letting go what is old, minding the budget and the disk, figures for the metrics.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::call::Timestamp;
use crate::config::StateConfig;
use crate::metrics;
use crate::observe::Health;
use crate::ship::Clock;
use crate::ship::health::{Mode, Snapshot};
use crate::store::retention::{self, Sweep};
use crate::store::{Result, Store, journal, outbox, uploads};

/// Between rounds.
const ROUND: Duration = Duration::from_secs(5);
/// Calls looked at in one transaction.
const STEP: usize = 250;
/// Between two steps: others want the writer too.
const BREATH: Duration = Duration::from_millis(5);
/// Rounds between two walks through the calls that are kept, while there is room.
const WALK_ROUNDS: u32 = 120;
/// Tenths of the budget from which on calls are kept for less long.
const TIGHT: u64 = 7;
/// Rounds between looking at the tables that grow slowly.
const SLOW_ROUNDS: u32 = 60;
/// Free pages are given back when they are more than this share of the file, and never below this many bytes.
const FREE_SHARE: u64 = 4;
const FREE_KEPT: u64 = 32 << 20;
/// Between two lines about the same.
const TELL_AGAIN: Duration = Duration::from_secs(3_600);

pub(super) struct Maintenance {
    pub store: Store,
    pub config: StateConfig,
    pub shared: Arc<Shared>,
    pub health: Health,
    pub sinks: Vec<&'static str>,
    /// What waits for a sink that is not configured any more is given up after this long.
    pub outage_max_age: Duration,
    pub clock: Clock,
    pub stop: CancellationToken,
    /// Device and inode of the state's file at the first round.
    pub file: OnceLock<(u64, u64)>,
}

/// What is kept from round to round.
#[derive(Debug, Default)]
struct Rounds {
    count: u32,
    sweep: Sweep,
    /// Dead letters that gave way since that was logged last, and when that was.
    dropped: u64,
    told: Option<Instant>,
}

pub(super) async fn maintain(m: Maintenance) {
    let mut rounds = Rounds::default();
    loop {
        if let Err(e) = m.round(&mut rounds).await {
            tracing::debug!("maintenance of the state: {e}");
        }
        rounds.count = rounds.count.wrapping_add(1);
        tokio::select! {
            () = m.stop.cancelled() => return,
            () = tokio::time::sleep(ROUND) => {}
        }
    }
}

impl Maintenance {
    async fn round(&self, rounds: &mut Rounds) -> Result<()> {
        // on a full disk nothing can be tidied, and reading has to stop all the same
        let tidied = self.tidy(rounds).await;
        metrics::STATE_BYTES.set(i64::try_from(self.store.size()).unwrap_or(i64::MAX));
        let (used, _) = self.store.read(retention::used_and_free).await?;
        self.mind_room(used).await;
        self.sinks_health().await?;
        if rounds.count.is_multiple_of(6) {
            metrics::JOURNAL_ROWS.set(self.store.read(journal::len).await?);
        }
        tidied
    }

    /// Lets go what is old, and what the budget has no room for.
    async fn tidy(&self, rounds: &mut Rounds) -> Result<()> {
        let (used, free) = self.store.read(retention::used_and_free).await?;
        let now = self.clock.now();
        let ended_before = self.ended_before(now, used);
        self.store.set_let_go_before(ended_before);
        // what is kept is looked through now and then: history goes when it is delivered
        if rounds.count.is_multiple_of(WALK_ROUNDS) || self.tenths(used) >= TIGHT {
            self.sweep(&mut rounds.sweep, ended_before, now).await?;
        }
        self.drop_dead(rounds).await?;
        if free > FREE_KEPT && free > (used + free) / FREE_SHARE {
            self.store.write(|conn| retention::shrink(conn, 2_000)).await?;
        }
        if rounds.count.is_multiple_of(SLOW_ROUNDS) {
            let age = i64::try_from(self.outage_max_age.as_micros()).unwrap_or(i64::MAX);
            self.give_up_unwanted(now.plus_micros(-age), now).await?;
            let retention = i64::try_from(self.config.retention.as_micros()).unwrap_or(i64::MAX);
            let kept_since = Timestamp::from_micros(now.micros().saturating_sub(retention));
            while self.store.write(move |conn| retention::housekeep(conn, now, kept_since, 1_000)).await? {
                if self.pause().await {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The budget is used up though every delivered call was let go: dead letters give way, the oldest first, so that they
    /// cannot keep new calls out for as long as they are kept.
    async fn drop_dead(&self, rounds: &mut Rounds) -> Result<()> {
        while self.store.read(retention::used_and_free).await?.0 > self.config.max_size {
            let dropped = self.store.write(|conn| retention::drop_dead(conn, STEP)).await?;
            let now = self.clock.now();
            if dropped == 0 && self.give_up_unwanted(now.plus_micros(1), now).await? == 0 || self.pause().await {
                break;
            }
            let dropped = u64::try_from(dropped).unwrap_or(0);
            metrics::DEAD_DROPPED.inc_by(dropped);
            rounds.dropped += dropped;
        }
        if rounds.dropped > 0 && rounds.told.is_none_or(|at| at.elapsed() >= TELL_AGAIN) {
            tracing::error!(
                calls = rounds.dropped,
                "the state is over STATE_MAX_SIZE: the oldest dead letters were removed to make room. Mend the receiver, \
                 or raise the budget; `callferry backfill` ships those calls while the PBX has their rows"
            );
            (rounds.dropped, rounds.told) = (0, Some(Instant::now()));
        }
        Ok(())
    }

    /// What has waited since before `before` for a sink that is not in SINKS (any more) is given up: nobody will send it,
    /// and it would keep its calls here for good. How many.
    async fn give_up_unwanted(&self, before: Timestamp, now: Timestamp) -> Result<usize> {
        let mut all = 0;
        for sink in self.store.read(outbox::awaited).await? {
            if self.sinks.contains(&sink.as_str()) {
                continue;
            }
            let name = sink.clone();
            let given_up = self
                .store
                .write(move |conn| {
                    outbox::expire(conn, &name, before, now, &format!("given up: {name} is not in SINKS any more"))
                })
                .await?;
            if given_up > 0 {
                tracing::warn!(sink, deliveries = given_up, "given up, since this sink is not in SINKS any more");
            }
            all += given_up;
        }
        if !self.sinks.contains(&crate::ship::recordings::NAME) {
            let why = "given up: RECORDING_UPLOAD_ENABLED is not set any more";
            all += self.store.write(move |conn| uploads::expire(conn, before, now, why)).await?;
        }
        Ok(all)
    }

    /// Delivered calls that ended before this moment may go. The nearer the budget, the sooner.
    fn ended_before(&self, now: Timestamp, used: u64) -> Timestamp {
        let retention = i64::try_from(self.config.retention.as_micros()).unwrap_or(i64::MAX);
        let kept = match self.tenths(used) {
            0..TIGHT => retention,
            7 => retention / 4,
            8 => retention / 24,
            _ => 0,
        };
        now.plus_micros(-kept)
    }

    /// How much of the budget is used.
    fn tenths(&self, used: u64) -> u64 {
        used.saturating_mul(10) / self.config.max_size.max(1)
    }

    /// Walks once through the calls that are kept.
    async fn sweep(&self, sweep: &mut Sweep, ended_before: Timestamp, now: Timestamp) -> Result<()> {
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
            if step.done || self.pause().await {
                return Ok(());
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

    /// Reading stops when the budget is used up though everything that may go was let go, when the disk runs full, and
    /// when the state was taken away. It goes on with some room to spare, so that it does not stop again at once.
    async fn mind_room(&self, used: u64) {
        let before = self.shared.closed();
        let closed = before.is_some();
        let why = match (self.removed(), self.over_budget(used, closed)) {
            (Some(why), _) | (None, Some(why)) => Some(why),
            (None, None) => self.short_of_room(closed).await,
        };
        match (&before, &why) {
            (None, Some(why)) => tracing::error!("{why}"),
            (Some(_), None) => {
                tracing::info!("the state can be used again; reading goes on");
                self.health.state_ok();
            }
            _ => {}
        }
        if let Some(why) = &why {
            self.health.state_failed(why.as_str());
        }
        metrics::READING_STOPPED.set(i64::from(why.is_some()));
        self.shared.set_closed(why);
    }

    fn removed(&self) -> Option<String> {
        if self.is_there() {
            return None;
        }
        Some(format!(
            "{} was removed or replaced while this agent works: what it knows is lost when it ends. Reading waits, and calls \
             that are waiting are still delivered. Then restart with START_FROM at the date from which calls may be missing, \
             and leave STATE_DIR alone",
            self.store.path().display()
        ))
    }

    fn over_budget(&self, used: u64, closed: bool) -> Option<String> {
        let budget = self.config.max_size;
        let limit = if closed { budget - budget / 20 } else { budget };
        (used > limit).then(|| {
            format!(
                "the state takes {} MB, STATE_MAX_SIZE={}: reading waits until calls were delivered",
                used / 1_000_000,
                budget / 1_000_000
            )
        })
    }

    async fn short_of_room(&self, closed: bool) -> Option<String> {
        let (store, min_free) = (self.store.clone(), self.config.min_free);
        let looked = tokio::task::spawn_blocking(move || {
            let dir = store.path().parent().unwrap_or(Path::new("."));
            let (free, all) = room(dir).ok()?;
            let floor = min_free.min(all / 20);
            Some((free, floor, store.keep_ballast(free, floor)))
        });
        let (free, floor, usable) = looked.await.ok()??;
        if !usable {
            return Some(format!(
                "the disk of the state is full ({} MB free): reading waits until there is room",
                free / 1_000_000
            ));
        }
        let limit = if closed { floor + floor / 4 } else { floor };
        (free < limit).then(|| {
            format!(
                "{} MB are free on the disk of the state, less than STATE_MIN_FREE={} or 5 %: reading waits",
                free / 1_000_000,
                self.config.min_free / 1_000_000
            )
        })
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

#[cfg(test)]
mod tests;
