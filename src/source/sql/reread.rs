//! Reads calls again whole: both tables by linkedid, then by every further linkedid and uniqueid that came up, until
//! nothing new does.

use std::collections::BTreeSet;
use tokio::time::Instant;

use super::engine::Statement;
use super::probe::Shape;
use super::read::{self, ContentPlaces};
use super::{Lane, Reader, Visit, start};
use crate::source::{Batch, PlacedRow, SourceError};

/// Rounds and rows one wish may take; a nailed-up channel would tie the calls of a whole day together.
const ROUNDS: usize = 8;
const ROWS: usize = 5_000;
/// Ids in one statement.
const KEYS: usize = 64;
/// Ids searched in one statement where no index helps, and how many such statements there are at most.
const SLICE: i64 = 20_000;
const SLICES: i64 = 2_000;
/// Wishes served in one poll.
const WISHES: usize = 16;

pub async fn read(
    visit: &mut Visit<'_>,
    readers: &[Reader],
    wishes: &[String],
    batch: &mut Batch,
) -> Result<(), SourceError> {
    let began = Instant::now();
    for linkedid in wishes.iter().take(WISHES) {
        // the rest is wished for again
        if began.elapsed() >= super::SLOW {
            break;
        }
        let mut asked: BTreeSet<String> = BTreeSet::new();
        let mut ask: BTreeSet<String> = BTreeSet::from([linkedid.clone()]);
        let mut rows: Vec<PlacedRow> = Vec::new();
        for _ in 0..ROUNDS {
            let keys: Vec<String> = ask.iter().cloned().collect();
            asked.append(&mut ask);
            for reader in readers {
                let (Some(lane), Some(shape)) = (&reader.lane, &reader.shape) else { continue };
                for keys in keys.chunks(KEYS) {
                    rows.extend(by_ids(visit, shape, lane, keys).await?);
                }
            }
            let came_up = rows.iter().flat_map(|r| [r.row.uniqueid(), r.row.linkedid()]);
            ask = came_up.filter(|id| !id.is_empty() && !asked.contains(*id)).map(str::to_owned).collect();
            if ask.is_empty() || rows.len() >= ROWS {
                break;
            }
        }
        let mut places = BTreeSet::new();
        rows.retain(|r| places.insert((matches!(r.row, crate::call::Row::Cdr(_)), r.generation, r.place)));
        batch.rows.append(&mut rows);
        batch.reread.push(linkedid.clone());
    }
    Ok(())
}

async fn by_ids(
    visit: &mut Visit<'_>,
    shape: &Shape,
    lane: &Lane,
    keys: &[String],
) -> Result<Vec<PlacedRow>, SourceError> {
    // one question a column: an OR over two would use neither index
    let linkedid = shape.linkedid.as_deref().map(|column| (column, shape.linkedid_indexed));
    let uniqueid = (shape.uniqueid.as_str(), shape.uniqueid_indexed);
    let mut placed = Vec::new();
    for (column, indexed) in linkedid.into_iter().chain([uniqueid]) {
        let mut places = ContentPlaces::default();
        for slice in slices(visit, shape, indexed).await? {
            let mut statement = Statement::new(shape.engine);
            statement.push(&shape.select(0)).push(&format!(" WHERE {column} IN ")).bind_list(keys);
            if let (Some((first, last)), Some(id)) = (slice, &shape.id) {
                statement.push(&format!(" AND {id} BETWEEN {first} AND {last}"));
            }
            statement.push(&format!(" LIMIT {ROWS}"));
            for cells in visit.select(&statement).await?.iter() {
                let Ok(row) = read::row(shape, cells) else { continue };
                placed.push(match lane {
                    Lane::Id(lane) => lane.place(read::id(shape, cells).unwrap_or_default(), row),
                    Lane::Time(lane) => lane.place(&mut places, row),
                });
            }
        }
    }
    Ok(placed)
}

/// The parts a table is searched in: the whole where an index helps, else stretches of ids. One scan over all of it could
/// take longer than `DB_TIMEOUT`, and in SQLite would keep Asterisk from writing meanwhile.
async fn slices(visit: &mut Visit<'_>, shape: &Shape, indexed: bool) -> Result<Vec<Option<(i64, i64)>>, SourceError> {
    if shape.id.is_none() || indexed {
        return Ok(vec![None]);
    }
    let Some((first, last)) = start::ends(visit, shape).await? else { return Ok(Vec::new()) };
    let length = SLICE.max(last.saturating_sub(first) / SLICES + 1);
    let mut slices = Vec::new();
    let mut low = first;
    while low <= last {
        let high = low.saturating_add(length - 1);
        slices.push(Some((low, high)));
        let Some(next) = high.checked_add(1) else { break };
        low = next;
    }
    Ok(slices)
}
