//! Tables with a trustworthy id: read forward by it, once, and never lose a row that was committed out of order.
//!
//! Ids are handed out before commit, so a lower id can appear after a higher one. Whatever is missing between two ids that
//! were read is asked for again for a minute of database time, then counted. The cursor carries a fingerprint of the row
//! it stands on; every read begins with that row, which shows at no cost that the table is still the same one:
//!
//! - the same row: go on;
//! - another row at that id: the table was emptied and filled anew: a new generation begins, by time;
//! - no row at that id nor above: a replica that lags behind, or an emptied table: wait, and look at what lies below;
//! - no row at that id, rows above and older ones below: some rows were removed: go on;
//! - no row at that id nor below, but rows above: nothing is left of what was read. Old rows were purged, or the table was
//!   emptied and has come as far again: a new generation begins, and what lies below may be on its way.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::audit::IdAudit;
use super::backend::{Param, Rows};
use super::engine::Statement;
use super::gaps::{Gap, RANGES, Stride, fill, ids_in, in_turn, was_asked};
use super::probe::Shape;
use super::start::{first, from_time};
use super::{Found, Visit, read};
use crate::call::{Row, RowTime, Timestamp, WallTime};
use crate::source::{Place, PlacedRow, Quarantined, SourceError, Table, raw_micros};

/// Where reading stands, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdPosition {
    pub generation: i64,
    /// The first id reading began with in this generation; what lies below was never asked for.
    pub floor: i64,
    /// Everything up to here was read, but for the gaps.
    pub id: i64,
    /// Fingerprint of the row at `id`; absent while no row was read or the row has gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<String>,
    /// The latest time at which a row says it was written: database reading, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<i64>,
    /// The last few rows before `id`, newest last: which table this is can be told even where the row at `id` is gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<(i64, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
    /// Gaps that were counted as missing, the newest last: asked for now and then for another day, since a replica may show
    /// a row minutes late, and where rows were purged counting them tells nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given_up: Vec<Gap>,
    #[serde(default)]
    pub stride: Stride,
}

const TRAIL: usize = 8;
/// How far a PBX's clock may be ahead of its database's and still be believed, microseconds.
const AHEAD: i64 = 3_600_000_000;
/// Gaps kept at once; the audit looks after what is dropped beyond.
const GAPS: usize = 4_096;
/// Gaps given up that are asked for again: as many as one statement takes.
const GIVEN_UP: usize = RANGES;
/// And for how long, microseconds.
const GIVEN_UP_FOR: i64 = 24 * 3_600_000_000;

impl IdPosition {
    /// Stands before `id`, which is the first to be read.
    pub const fn before(id: i64, generation: i64) -> Self {
        Self {
            generation,
            floor: id,
            id: id - 1,
            row: None,
            written: None,
            trail: Vec::new(),
            gaps: Vec::new(),
            given_up: Vec::new(),
            stride: Stride { divisor: 0, run: 0 },
        }
    }
}

impl IdPosition {
    /// Whether the rows that lie below, the nearest first, are another table's, now that the row at `id` has gone.
    fn is_replaced(&self, below: impl Iterator<Item = (i64, Result<Row, Quarantined>)>) -> bool {
        let began = self.trail.first().map_or(self.id, |(id, _)| *id);
        let mut strange = false;
        for (at, row) in below {
            if let Some((_, mark)) = self.trail.iter().find(|(id, _)| *id == at) {
                return mark_of_row(&row) != *mark;
            }
            let written = row.ok().and_then(|r| written_at(&r)).map(raw_micros);
            // a second of slack: neighbours are not quite in order of time
            let is_newer = written.zip(self.written).is_some_and(|(w, last)| w > last.saturating_add(1_000_000));
            // among those that were read, none of which is left, stands one that was not
            strange |= is_newer || at > began;
        }
        strange
    }

    /// For a table whose id cannot be trusted any longer: a new generation, by time.
    pub const fn by_time(&self) -> super::lanes::TimePosition {
        super::lanes::TimePosition {
            generation: self.generation + 1,
            floor: None,
            walk: None,
            newest: self.written,
            audited: self.written,
        }
    }
}

/// When a row was written, as far as it says: an event at its time, a record at its end.
pub fn written_at(row: &Row) -> Option<RowTime> {
    let time = row.time()?;
    let Row::Cdr(cdr) = row else { return Some(time) };
    let later = |micros: i64| micros.saturating_add(cdr.duration_ms.unwrap_or(0).saturating_mul(1_000));
    Some(match time {
        RowTime::Utc(micros) => RowTime::Utc(later(micros)),
        RowTime::Wall(WallTime(micros)) => RowTime::Wall(WallTime(later(micros))),
    })
}

/// The lane of one table.
pub struct IdLane {
    table: Table,
    position: Option<IdPosition>,
    pending: Option<IdPosition>,
    audit: IdAudit,
    /// Ids read lately, kept while a step of more than one is believed.
    recent: VecDeque<(i64, i64)>,
    /// The gaps the last statement asked for.
    asked: Vec<(i64, i64)>,
    /// When to look again below a cursor that has no row, database time.
    look_again: i64,
    /// When to ask for what was given up, database time.
    look_back: i64,
    waiting: bool,
    /// The row at the cursor is not there, nor any above: what the table shows now is behind, or of another table. Rows
    /// that are missing must not be taken from it.
    behind: bool,
    begin_by_time: bool,
    /// The last poll left nothing unread: what it finds now was not there then, however old it says to be.
    live: bool,
    /// The database's clock at the last poll.
    clock: i64,
}

impl IdLane {
    pub fn new(table: Table, stored: Option<IdPosition>) -> Self {
        Self {
            table,
            position: stored,
            pending: None,
            audit: IdAudit::default(),
            recent: VecDeque::new(),
            asked: Vec::new(),
            look_again: i64::MIN,
            look_back: i64::MIN,
            waiting: false,
            behind: false,
            begin_by_time: false,
            live: false,
            clock: i64::MIN,
        }
    }

    pub fn generation(&self) -> i64 {
        self.pending.as_ref().or(self.position.as_ref()).map_or(0, |p| p.generation)
    }

    /// The latest time of a row that was read, as the table shows it.
    pub fn reached(&self) -> Option<i64> {
        self.position.as_ref().and_then(|p| p.written)
    }

    pub fn committed(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.position = Some(pending);
            self.begin_by_time = false;
            self.audit.committed();
        }
    }

    /// What was found and not stored counts as not found.
    pub fn forget(&mut self) {
        self.pending = None;
        self.audit.forget();
    }

    /// Reads what is new.
    pub async fn poll(&mut self, visit: &mut Visit<'_>, shape: &Shape) -> Result<Found, SourceError> {
        if visit.now < self.clock {
            (self.look_again, self.look_back) = (i64::MIN, i64::MIN);
            self.audit.clock_was_set_back();
        }
        self.clock = visit.now;
        let mut position = match &self.position {
            Some(position) => position.clone(),
            None => {
                let mut position = first(visit, shape, 0).await?;
                anchor(visit, shape, &mut position).await?;
                position
            }
        };
        let mut found = Found::new();
        if self.begin_by_time {
            self.renew(visit, shape, &mut position, "it has got an id that can be trusted").await?;
        }
        let rows = self.read(visit, shape, &position).await?;
        let Some(fresh) = self.judge(visit, shape, &mut position, &rows).await? else {
            // another table: the new generation is read from its own beginning, now
            let rows = self.read(visit, shape, &position).await?;
            self.take(
                visit,
                shape,
                &mut position,
                rows.iter().filter(|c| read::lane(c) == FORWARD).collect(),
                &mut found,
            );
            self.pending = Some(position);
            return Ok(found);
        };
        if self.behind {
            self.live = true;
            self.pending = Some(position);
            return Ok(found);
        }
        self.fill(shape, &mut position, &rows, &mut found);
        // of a full page the answer ends with its last row
        let missing = rows.iter().filter(|c| read::lane(c) == MISSING).filter_map(|c| read::id(shape, c));
        let (count, last) = missing.fold((0, i64::MIN), |(n, last), id| (n + 1, last.max(id)));
        if count >= visit.page {
            self.asked.retain(|(_, end)| *end <= last);
        }
        // only now: after a pause each missing id is asked for once more
        found.gaps_given_up = expire(&mut position, visit, &self.asked);
        self.take(visit, shape, &mut position, fresh, &mut found);
        self.live = !found.more;
        if let (false, Some(committed)) = (found.more, &self.position) {
            found.rows.extend(self.audit.run(visit, shape, committed).await?);
            if !position.given_up.is_empty() && visit.now >= self.look_back {
                self.look_back = visit.now.saturating_add(visit.timing.audit_every);
                look_back(visit, shape, &mut position, &mut found).await?;
            }
        }
        self.pending = Some(position);
        Ok(found)
    }

    /// One statement: the missing ids, the row at the cursor, and a page of what follows.
    async fn read(&mut self, visit: &mut Visit<'_>, shape: &Shape, position: &IdPosition) -> Result<Rows, SourceError> {
        let Some(id) = &shape.id else { return Ok(Rows::default()) };
        let mut statement = Statement::new(shape.engine);
        let ranges = in_turn(&position.gaps, self.asked.last().map_or(i64::MIN, |(first, _)| *first));
        if !ranges.is_empty() {
            statement.push("SELECT * FROM (").push(&shape.select(MISSING as u8)).push(" WHERE ");
            in_ranges(&mut statement, id, &ranges);
            statement.push(&format!(" ORDER BY {id} LIMIT {}) missing_ UNION ALL SELECT * FROM (", visit.page));
        }
        statement.push(&shape.select(FORWARD as u8)).push(" WHERE ").push(id);
        let (from, extra) = if position.row.is_some() { (" >= ", 1) } else { (" > ", 0) };
        statement.push(from).bind(Param::Int(position.id));
        statement.push(&format!(" ORDER BY {id} LIMIT {}", visit.page + extra));
        if !ranges.is_empty() {
            statement.push(") forward_");
        }
        self.asked = ranges;
        visit.select(&statement).await
    }

    /// Whether this is still the table the position speaks of. `Some`: it is, with the rows after the cursor in order;
    /// `None`: it is not, and the position was moved to a new generation.
    async fn judge<'r>(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        position: &mut IdPosition,
        rows: &'r Rows,
    ) -> Result<Option<Vec<&'r [super::backend::Cell]>>, SourceError> {
        let mut forward: Vec<_> = rows.iter().filter(|c| read::lane(c) == FORWARD).collect();
        forward.sort_by_key(|c| read::id(shape, c));
        self.behind = false;
        let Some(mark) = &position.row else {
            return Ok(Some(forward));
        };
        if forward.first().is_some_and(|c| read::id(shape, c) == Some(position.id)) {
            if mark_of(shape, forward[0]) == *mark {
                self.waiting = false;
                forward.remove(0);
                return Ok(Some(forward));
            }
            self.renew(visit, shape, position, "another row stands where reading had come to").await?;
            return Ok(None);
        }
        self.behind = forward.is_empty();
        if visit.now < self.look_again && self.behind {
            return Ok(Some(forward));
        }
        // the row has gone: what lies below tells why
        let Some(id) = &shape.id else { return Ok(Some(forward)) };
        let mut statement = Statement::new(shape.engine);
        statement.push(&shape.select(FORWARD as u8)).push(" WHERE ").push(id).push(" < ").bind(Param::Int(position.id));
        statement.push(&format!(" ORDER BY {id} DESC LIMIT {}", 2 * TRAIL));
        let below = visit.select(&statement).await?;
        let replaced =
            position.is_replaced(below.iter().filter_map(|c| Some((read::id(shape, c)?, read::row(shape, c)))));
        if replaced {
            self.renew(visit, shape, position, "rows newer than what was read stand below where reading had come to")
                .await?;
            return Ok(None);
        }
        if below.is_empty() && !forward.is_empty() {
            tracing::debug!(table = %shape.name, id = position.id, "nothing is left of what was read: a new generation begins");
            self.begin(position, 1);
            return Ok(None);
        }
        self.look_again = visit.now.saturating_add(visit.timing.look_again);
        if forward.is_empty() {
            if !self.waiting {
                tracing::warn!(
                    table = %shape.name,
                    id = position.id,
                    "the table ends before the place reading had come to: waiting for a replica to catch up, or for new rows"
                );
                self.waiting = true;
            }
        } else {
            self.waiting = false;
            position.row = None;
        }
        Ok(Some(forward))
    }

    /// Begins a new generation where the old one ended in time.
    async fn renew(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        position: &mut IdPosition,
        why: &str,
    ) -> Result<(), SourceError> {
        let generation = position.generation + 1;
        let margin = match self.table {
            Table::Cel => visit.timing.renew_cel,
            Table::Cdr => visit.timing.renew_cdr,
        };
        let from = position.written.map_or(i64::MIN, |w| w.saturating_sub(margin));
        let id = from_time(visit, shape, &|row| written_at(row).is_some_and(|t| raw_micros(t) >= from)).await?;
        tracing::warn!(table = %shape.name, generation, from_id = id, "reading begins anew, by time: {why}");
        self.begin(position, id);
        Ok(())
    }

    /// A new generation that begins with this id.
    fn begin(&mut self, position: &mut IdPosition, id: i64) {
        let written = position.written;
        *position = IdPosition { written, ..IdPosition::before(id, position.generation + 1) };
        self.recent.clear();
        self.audit = IdAudit::default();
        self.waiting = false;
        self.live = false;
    }

    /// Takes rows that had been missing.
    fn fill(&self, shape: &Shape, position: &mut IdPosition, rows: &Rows, found: &mut Found) {
        for cells in rows.iter().filter(|c| read::lane(c) == MISSING) {
            let Some(id) = read::id(shape, cells) else { continue };
            if !fill(&mut position.gaps, id) {
                continue;
            }
            found.add(read::row(shape, cells), position.generation, id);
        }
    }

    /// Takes the rows after the cursor, in order of id, and notes what is missing between them.
    fn take(
        &mut self,
        visit: &Visit<'_>,
        shape: &Shape,
        position: &mut IdPosition,
        fresh: Vec<&[super::backend::Cell]>,
        found: &mut Found,
    ) {
        found.more = fresh.len() >= visit.page;
        let mut known = !position.trail.is_empty();
        let mut fresh: Vec<_> = fresh.into_iter().filter_map(|c| Some((read::id(shape, c)?, c))).collect();
        let begin = position.id;
        let latest = visit.reading(shape).map(|now| now.saturating_add(AHEAD));
        fresh.retain(|(id, _)| *id > begin);
        fresh.sort_by_key(|(id, _)| *id);
        fresh.dedup_by_key(|(id, _)| *id);
        // a fingerprint costs as much as reading the row: only those that stay in the trail are made
        let marked_from = fresh.len().saturating_sub(TRAIL);
        for (n, (id, cells)) in fresh.into_iter().enumerate() {
            let row = read::row(shape, cells);
            let written = row.as_ref().ok().and_then(written_at);
            let difference = id - position.id;
            if known && position.stride.learn(difference) {
                // another node writes: what looked like its ids' absence may be rows on their way
                let between: Vec<i64> = self.recent.iter().map(|&(id, _)| id).collect();
                for pair in between.windows(2).filter(|p| p[1] - p[0] > 1) {
                    let (first, last) = (pair[0] + 1, pair[1] - 1);
                    position.gaps.push(Gap { first, last, since: visit.now, quiet: true });
                }
                self.recent.clear();
            }
            if difference > position.stride.step() && (self.live || !is_history(visit, written)) {
                let (first, last) = (position.id + 1, id - 1);
                position.gaps.push(Gap { first, last, since: visit.now, quiet: !known });
            }
            known = true;
            position.id = id;
            if n >= marked_from {
                let mark = mark_of_row(&row);
                if position.trail.len() == TRAIL {
                    position.trail.remove(0);
                }
                position.trail.push((id, mark.clone()));
                position.row = Some(mark);
            }
            // a reading from the future (a clock set wrong) must not hide what is written after it
            let written = written.map(raw_micros).map(|w| latest.map_or(w, |l| w.min(l)));
            position.written = position.written.max(written);
            if position.stride.step() > 1 {
                self.recent.push_back((id, visit.now));
            }
            found.add(row, position.generation, id);
        }
        let horizon = visit.now.saturating_sub(visit.timing.gap_watch);
        while self.recent.front().is_some_and(|&(_, at)| at < horizon) || self.recent.len() > 20_000 {
            self.recent.pop_front();
        }
        if position.gaps.len() > GAPS {
            position.gaps.sort_by_key(|g| g.since);
            let over = position.gaps.len() - GAPS;
            found.gaps_given_up += position.gaps.drain(..over).map(|g| ids_in(&g, position.stride)).sum::<u64>();
        }
    }

    /// The place of a row that was read out of order, by its call.
    pub fn place(&self, id: i64, row: Row) -> PlacedRow {
        PlacedRow { generation: self.generation(), place: Place::Id(id), row, by_audit: false }
    }

    /// The position as stored.
    pub fn stored(&self) -> Option<Stored> {
        self.position.clone().map(Stored::Id)
    }

    /// A table that was read by time and has got an id since: a new generation, by time.
    pub fn after(table: Table, before: &super::lanes::TimePosition) -> Self {
        let written = before.newest;
        let position = IdPosition { written, ..IdPosition::before(0, before.generation) };
        Self { begin_by_time: true, ..Self::new(table, Some(position)) }
    }

    /// The position after the last poll, if it is another than the stored one.
    pub fn to_store(&self) -> Option<Stored> {
        let pending = self.pending.as_ref()?;
        (self.position.as_ref() != Some(pending)).then(|| Stored::Id(pending.clone()))
    }
}

const FORWARD: i64 = 0;
const MISSING: i64 = 1;

/// What a position holds, told apart by its mode.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Stored {
    Id(IdPosition),
    Time(super::lanes::TimePosition),
}

/// Where reading begins behind rows, the last of them stands for the place: should the table be emptied before the next row
/// comes, that shows.
async fn anchor(visit: &mut Visit<'_>, shape: &Shape, position: &mut IdPosition) -> Result<(), SourceError> {
    let Some(id) = &shape.id else { return Ok(()) };
    let mut statement = Statement::new(shape.engine);
    statement.push(&shape.select(FORWARD as u8)).push(" WHERE ").push(id).push(" <= ").bind(Param::Int(position.id));
    statement.push(&format!(" ORDER BY {id} DESC LIMIT 1"));
    let rows = visit.select(&statement).await?;
    if let Some(cells) = rows.first()
        && let Some(at) = read::id(shape, cells)
    {
        let row = read::row(shape, cells);
        let mark = mark_of_row(&row);
        let latest = visit.reading(shape).unwrap_or(i64::MAX);
        position.written = row.ok().as_ref().and_then(written_at).map(|w| raw_micros(w).min(latest));
        position.id = at;
        position.trail.push((at, mark.clone()));
        position.row = Some(mark);
    }
    Ok(())
}

fn mark_of(shape: &Shape, cells: &[super::backend::Cell]) -> String {
    mark_of_row(&read::row(shape, cells))
}

/// A row that cannot be read is known by its text.
fn mark_of_row(row: &Result<Row, Quarantined>) -> String {
    match row {
        Ok(row) => read::fingerprint(row),
        Err(q) => format!("unreadable:{}", q.body.chars().take(64).collect::<String>()),
    }
}

/// `id` lies in one of these ranges. The outer bounds too, so that no plan walks the whole index; and few different
/// statements, which servers prepare.
fn in_ranges(statement: &mut Statement, id: &str, ranges: &[(i64, i64)]) {
    let (first, last) = ranges.iter().fold((i64::MAX, i64::MIN), |(f, l), r| (f.min(r.0), l.max(r.1)));
    statement.push(id).push(" BETWEEN ").bind(Param::Int(first)).push(" AND ").bind(Param::Int(last));
    statement.push(" AND (");
    for i in 0..ranges.len().next_power_of_two() {
        let (first, last) = ranges[i.min(ranges.len() - 1)];
        statement.push(if i > 0 { " OR " } else { "" }).push(id).push(" BETWEEN ");
        statement.bind(Param::Int(first)).push(" AND ").bind(Param::Int(last));
    }
    statement.push(")");
}

/// Asks once more for what was given up.
async fn look_back(
    visit: &mut Visit<'_>,
    shape: &Shape,
    position: &mut IdPosition,
    found: &mut Found,
) -> Result<(), SourceError> {
    let Some(id) = &shape.id else { return Ok(()) };
    let ranges = in_turn(&position.given_up, i64::MIN);
    let mut statement = Statement::new(shape.engine);
    statement.push(&shape.select(MISSING as u8)).push(" WHERE ");
    in_ranges(&mut statement, id, &ranges);
    statement.push(&format!(" ORDER BY {id} LIMIT {}", visit.page));
    for cells in visit.select(&statement).await?.iter() {
        let Some(id) = read::id(shape, cells).filter(|id| fill(&mut position.given_up, *id)) else { continue };
        found.add(read::row(shape, cells), position.generation, id);
        if let Some(row) = found.rows.last_mut() {
            row.by_audit = row.by_audit || matches!(row.place, Place::Id(at) if at == id);
        }
    }
    Ok(())
}

/// A gap among rows this old, read while catching up, is a deleted row, not one on its way.
fn is_history(visit: &Visit<'_>, written: Option<RowTime>) -> bool {
    let horizon = Timestamp::from_micros(visit.now.saturating_sub(visit.timing.renew_cel));
    written.is_some_and(|time| !visit.at_least(time, horizon))
}

/// Drops the gaps that were watched long enough and have just been asked for; returns how many ids that were.
fn expire(position: &mut IdPosition, visit: &Visit<'_>, asked: &[(i64, i64)]) -> u64 {
    let horizon = visit.now.saturating_sub(visit.timing.gap_watch);
    let mut given_up = 0;
    let stride = position.stride;
    let IdPosition { gaps, given_up: kept, .. } = position;
    gaps.retain_mut(|gap| {
        // the clock may have been set back
        gap.since = gap.since.min(visit.now);
        let keep = gap.since >= horizon || !was_asked(asked, gap);
        if !keep {
            given_up += ids_in(gap, stride);
            kept.push(*gap);
        }
        keep
    });
    let long_ago = visit.now.saturating_sub(GIVEN_UP_FOR);
    kept.retain(|gap| gap.since >= long_ago);
    kept.drain(..kept.len().saturating_sub(GIVEN_UP));
    given_up
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_survive_being_stored() {
        let position = IdPosition {
            row: Some("ab".into()),
            written: Some(5),
            gaps: vec![Gap { first: 3, last: 4, since: 9, quiet: false }],
            trail: vec![(8, "ab".into())],
            ..IdPosition::before(9, 2)
        };
        let text = serde_json::to_string(&Stored::Id(position.clone())).expect("a position is JSON");
        let Ok(Stored::Id(back)) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!(back, position);
    }
}
