//! The walk through the past: a few whole calls at a time, each once.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Span;
use crate::call::Timestamp;
use crate::correlate::Zone;
use crate::source::sql::history::{History, Ids, Place, Unread};
use crate::source::{PlacedRow, SourceError};

/// Calls read at once: what the settling thread does between two polls of the live source has to stay small.
const CALLS: usize = 50;

/// Whole calls, and how far the walk is after them.
#[derive(Debug)]
pub struct Chunk {
    pub rows: Vec<PlacedRow>,
    /// The database's clock.
    pub db_now: Timestamp,
    pub zone: Zone,
    /// Where to begin after this chunk: the same place as before it while a page goes on. `None`: this was the last.
    pub place: Option<Place>,
}

pub struct Walk {
    history: History,
    span: Span,
    place: Option<Place>,
    next: Option<Place>,
    queue: VecDeque<String>,
    /// Hashes of every id that was read, so that no call is read twice: its rows lie on several pages, and in both tables.
    /// 8 bytes a call, about 16 MB for a million with what a set needs.
    seen: HashSet<u64>,
}

impl Walk {
    pub fn new(history: History, span: Span, place: Place) -> Self {
        Self { history, span, place: Some(place), next: None, queue: VecDeque::new(), seen: HashSet::new() }
    }

    /// The next calls; `None`: there are no more. After an error it can be called again, and goes on.
    pub async fn next(&mut self) -> Result<Option<Chunk>, SourceError> {
        let done = self.read().await;
        if done.is_err() {
            self.history.disconnect();
        }
        done
    }

    /// Rows that could not be read since this was asked last.
    pub fn unreadable(&mut self) -> Unread {
        self.history.unreadable()
    }

    async fn read(&mut self) -> Result<Option<Chunk>, SourceError> {
        let db_now = self.history.connect().await?;
        while self.queue.is_empty() {
            let Some(place) = self.place.clone() else { return Ok(None) };
            let Ids { linkedids, next } = self.history.ids(&place, self.span.from, self.span.to).await?;
            self.queue = linkedids.into_iter().filter(|id| !self.seen.contains(&hashed(id))).collect();
            self.next = next;
            if self.queue.is_empty() {
                self.place = self.next.take();
            }
        }
        let wanted: Vec<String> = self.queue.iter().take(CALLS).cloned().collect();
        let rows = self.history.whole(&wanted).await?;
        let Some(zone) = self.history.zone().cloned() else {
            return Err(SourceError::Setup(
                "the zone of the PBX's times is not known: its uniqueids do not tell it. Set DB_TIMEZONE".to_owned(),
            ));
        };
        self.seen.extend(wanted.iter().map(|id| hashed(id)));
        self.seen.extend(rows.iter().map(|r| hashed(r.row.linkedid())));
        self.queue.drain(..wanted.len());
        self.queue.retain(|id| !self.seen.contains(&hashed(id)));
        if self.queue.is_empty() {
            self.place = self.next.take();
        }
        Ok(Some(Chunk { rows, db_now, zone, place: self.place.clone() }))
    }
}

fn hashed(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}
