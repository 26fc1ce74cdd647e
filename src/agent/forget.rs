//! Removes a number from the state, beside everything else that works on it. First the number is known as forgotten, so that
//! no row that is read from then on brings it back; then everything that names it goes, step by step; then the file is
//! written anew, so that nothing is left in free pages and in the write-ahead log.

use serde::{Deserialize, Serialize};

use crate::correlate::spelling::Spellings;
use crate::ship::Clock;
use crate::store::forget::{self, Removed};
use crate::store::{Result, Store, StoreError, forgotten, meta, requests};

/// Calls looked through in one transaction: others want the writer too.
const STEP: usize = 100;

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    pub removed: Removed,
    /// Bytes of the state after it was written anew.
    pub size: u64,
    /// Why it could not be: what was removed is overwritten with zeros, but copies may be left in the file's slack.
    pub not_rewritten: Option<String>,
}

pub async fn forget(store: &Store, number: &str, clock: &Clock) -> Result<Forgotten> {
    let (numbering, has_cel) = store
        .read(|conn| {
            let has_cel = meta::rules(conn)?.pop().flatten().is_none_or(|rules| rules.has_cel);
            Ok((forgotten::numbering(conn)?, has_cel))
        })
        .await?;
    let spellings = Spellings::of(number, &numbering).map_err(StoreError::Content)?;
    let now = clock.now();
    let known = spellings.clone();
    store
        .write(move |conn| {
            forgotten::remember_number(conn, known.forms(), now)?;
            forgotten::next_generation(conn)
        })
        .await?;
    let mut removed = Removed::default();
    let mut after = 0;
    loop {
        let (spellings, before) = (spellings.clone(), removed.clone());
        let step = store.write(move |conn| {
            let mut removed = before;
            let next = forget::calls(conn, &spellings, after, STEP, now, &mut removed)?;
            Ok((removed, next))
        });
        let (so_far, next) = step.await?;
        removed = so_far;
        let Some(next) = next else { break };
        after = next;
    }
    let before = removed.clone();
    removed = store
        .write(move |conn| {
            let mut removed = before;
            // those that were settled since, while nobody else writes: from here on what is settled is made anew
            while let Some(next) = forget::calls(conn, &spellings, after, STEP, now, &mut removed)? {
                after = next;
            }
            forget::journal(conn, &spellings, has_cel, now, &mut removed)?;
            forget::rest(conn, &spellings, &mut removed)?;
            // what settling has in memory is made anew
            forgotten::next_generation(conn)?;
            let so_far = serde_json::to_string(&removed).map_err(|e| StoreError::Content(e.to_string()))?;
            requests::note_blank(conn, &so_far, now)?;
            Ok(removed)
        })
        .await?;
    Ok(finish(store, removed).await)
}

/// The end of it: the file is written anew. `removed` is what was removed before.
async fn finish(store: &Store, removed: Removed) -> Forgotten {
    let not_rewritten = rewrite(store).await.err();
    Forgotten { removed, size: store.size(), not_rewritten }
}

/// Goes on with a wish that was blanked, since everything that names the number was removed. `so_far` is what it noted.
pub async fn go_on(store: &Store, so_far: Option<&str>) -> Forgotten {
    let removed = so_far.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    finish(store, removed).await
}

async fn rewrite(store: &Store) -> std::result::Result<(), String> {
    let needed = store.size().saturating_mul(2);
    let free = store.path().parent().and_then(|dir| rustix::fs::statvfs(dir).ok());
    if let Some(free) = free.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize))
        && free < needed
    {
        return Err(format!("{} MB are free on its disk, {} MB are needed", free / 1_000_000, needed / 1_000_000));
    }
    store.rewrite().await.map_err(|e| e.to_string())
}
