//! Where reading begins: the first id of a time, found by halving.

use super::backend::{Param, Rows};
use super::cursor::{IdPosition, written_at};
use super::engine::Statement;
use super::probe::Shape;
use super::{Visit, read};
use crate::call::Row;
use crate::source::SourceError;

/// Where to begin in a table that was never read.
pub async fn first(visit: &mut Visit<'_>, shape: &Shape, generation: i64) -> Result<IdPosition, SourceError> {
    let id = match visit.begin {
        None => ends(visit, shape).await?.map_or(1, |(lowest, _)| lowest.min(1)),
        Some(begin) => {
            let zone = visit.zone.clone();
            let reached = move |row: &Row| written_at(row).is_some_and(|t| super::at_least(zone.as_ref(), t, begin));
            from_time(visit, shape, &reached).await?
        }
    };
    Ok(IdPosition::before(id, generation))
}

/// The lowest id from which on rows may have `reached` what is looked for. Where that is the first row of all, it is not
/// the lowest id there is but the lowest there can be: rows with lower ones may be on their way.
pub async fn from_time(
    visit: &mut Visit<'_>,
    shape: &Shape,
    reached: &(dyn Fn(&Row) -> bool + Send + Sync),
) -> Result<i64, SourceError> {
    let lowest = ends(visit, shape).await?.map_or(1, |(lowest, _)| lowest);
    let found = bisect(visit, shape, reached).await?;
    Ok(if found <= lowest { found.min(1) } else { found })
}

/// The lowest id from which on rows have `reached` what is looked for, in some 2·log₂(n) cheap questions. Rows are nearly
/// in that order, so a few neighbours are looked at together.
pub async fn bisect(
    visit: &mut Visit<'_>,
    shape: &Shape,
    reached: &(dyn Fn(&Row) -> bool + Send + Sync),
) -> Result<i64, SourceError> {
    let Some(id) = &shape.id else { return Ok(0) };
    let Some((mut low, high)) = ends(visit, shape).await? else { return Ok(1) };
    let mut high = high.saturating_add(1);
    while low < high {
        let middle = low + (high - low) / 2;
        let rows = from_id(visit, shape, id, middle).await?;
        let any = rows.iter().any(|cells| read::row(shape, cells).is_ok_and(|row| reached(&row)));
        if any || rows.is_empty() {
            high = middle;
        } else {
            let last = rows.iter().filter_map(|cells| read::id(shape, cells)).max().unwrap_or(middle);
            low = last.max(middle).saturating_add(1);
        }
    }
    // of the neighbours the first that has reached it
    let rows = from_id(visit, shape, id, low).await?;
    let first = rows.iter().find(|cells| read::row(shape, cells).is_ok_and(|row| reached(&row)));
    Ok(first.and_then(|cells| read::id(shape, cells)).unwrap_or(low))
}

/// Lowest and highest id; `None`: there are no rows. Two questions in one, since SQLite answers only a single MIN or MAX
/// from the index: for both together it reads the whole table, and Asterisk cannot write meanwhile.
pub async fn ends(visit: &mut Visit<'_>, shape: &Shape) -> Result<Option<(i64, i64)>, SourceError> {
    let Some(id) = &shape.id else { return Ok(None) };
    let mut statement = Statement::new(shape.engine);
    let from = &shape.from;
    statement.push(&format!("SELECT (SELECT MIN({id}) FROM {from}), (SELECT MAX({id}) FROM {from})"));
    let rows = visit.select(&statement).await?;
    Ok(rows.first().and_then(|row| row[0].int().zip(row[1].int())))
}

/// A few rows from an id on.
async fn from_id(visit: &mut Visit<'_>, shape: &Shape, column: &str, id: i64) -> Result<Rows, SourceError> {
    let mut statement = Statement::new(shape.engine);
    statement.push(&shape.select(0)).push(&format!(" WHERE {column} >= ")).bind(Param::Int(id));
    statement.push(&format!(" ORDER BY {column} LIMIT 8"));
    visit.select(&statement).await
}
