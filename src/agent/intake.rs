//! From the source into the journal: each batch in one transaction with the positions after it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use compact_str::CompactString;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::settle::Arrived;
use super::thread::Work;
use crate::observe::Health;
use crate::ship::Clock;
use crate::source::supervisor::{Intake, SourceState};
use crate::source::{Batch, Wishes};
use crate::store::{Ballast, Store, StoreError, journal};

pub(super) struct JournalIntake {
    pub(super) store: Store,
    pub(super) shared: Arc<Shared>,
    pub(super) health: Health,
    pub(super) clock: Clock,
    pub(super) batches: mpsc::Sender<Work>,
    pub(super) stop: CancellationToken,
    /// The last batch could not be stored.
    pub(super) failing: bool,
}

impl JournalIntake {
    async fn store(&self, batch: Batch) -> Result<Arrived, StoreError> {
        // an empty batch costs no transaction
        let nothing = batch.rows.is_empty() && batch.quarantined.is_empty() && batch.recordings.is_empty();
        if nothing && batch.positions.is_empty() {
            return Ok(Arrived::of(batch, &[]));
        }
        let reread: HashSet<CompactString> = self.shared.wishes().reread.into_iter().map(CompactString::from).collect();
        let now = self.clock.now();
        let stored = self.store.write(move |conn| {
            let seqs = journal::append(conn, &batch, &reread, now)?;
            Ok((batch, seqs))
        });
        let (batch, seqs) = stored.await?;
        Ok(Arrived::of(batch, &seqs))
    }
}

impl Intake for JournalIntake {
    fn wishes(&mut self) -> BoxFuture<'_, Wishes> {
        let wishes = self.shared.wishes();
        async move { wishes }.boxed()
    }

    fn commit(&mut self, batch: Batch) -> BoxFuture<'_, Result<(), String>> {
        async move {
            if let Some(why) = self.shared.closed() {
                return Err(why);
            }
            // the room that was kept in reserve is for what is in flight
            if self.store.ballast() == Ballast::Spent {
                let why = "the disk of the state is full";
                self.health.state_failed(why);
                return Err(why.to_owned());
            }
            match self.store(batch).await {
                Ok(arrived) => {
                    if std::mem::take(&mut self.failing) {
                        self.health.state_ok();
                    }
                    self.shared.rows.fetch_add(arrived.rows.len() as u64, Ordering::Relaxed);
                    // the rows are safe: should settling be gone, or stuck at the end, the next start finds them in the
                    // journal
                    tokio::select! {
                        biased;
                        _ = self.batches.send(Work::Live(arrived)) => {}
                        () = self.stop.cancelled() => {}
                    }
                    Ok(())
                }
                Err(e) => {
                    self.failing = true;
                    self.health.state_failed(e.to_string());
                    Err(e.to_string())
                }
            }
        }
        .boxed()
    }

    fn state(&mut self, state: SourceState<'_>) {
        match state {
            SourceState::Up => self.health.source_ok(),
            SourceState::Down(e) => self.health.source_failed(e.to_string()),
        }
    }
}
