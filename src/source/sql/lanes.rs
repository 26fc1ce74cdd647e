//! Tables without a trustworthy id, which is how most systems keep their CDR. A record appears when its channel ends, with
//! the time its channel began: no order of any column is the order of arrival. So several lanes look, and rows are known
//! by their content:
//!
//! - *targeted*: the records of calls that CEL shows to have ended;
//! - *near*: the last quarter of an hour, again and again;
//! - *audit*: counts per minute over a day, see [`super::audit`].
//!
//! The near lane is one forward walk in pages by time, from wherever it has to begin: the same walk reads history at the
//! first start and catches up after a pause. A page never ends between rows of one time.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::audit::{Compare, counted};
use super::cursor::Stored;
use super::engine::Statement;
use super::probe::Shape;
use super::read::{self, ContentPlaces};
use super::{Found, Visit};
use crate::call::Row;
use crate::source::{Place, PlacedRow, SourceError, Table, Wishes};

/// Where reading stands, as stored. Times but `covered` are the table's own readings, microseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimePosition {
    pub generation: i64,
    /// What lies before was never asked for. Absent: everything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<i64>,
    /// The walk under way: rows before `at` have been read. Absent: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walk: Option<Walk>,
    /// The latest time seen in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<i64>,
    /// `newest` when the last audit was complete: the next one reaches back from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    /// Absent: from the very first row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
    /// From here on every row; before, only records long enough to have begun so early. Absent: every row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_from: Option<i64>,
}

pub struct TimeLane {
    position: Option<TimePosition>,
    pending: Option<TimePosition>,
    compare: Compare,
    /// Rows found by the first audit after a start are what was written while nobody looked.
    catching_up: bool,
    /// How far the audit goes whose differences are being read again.
    audited_to: Option<i64>,
    /// Content of rows that were stored lately, so that windows read again cost the store nothing.
    stored: [HashSet<[u8; 16]>; 2],
    unstored: HashSet<[u8; 16]>,
    /// When the lanes may look again, database time: a scan without index is paid for with a pause.
    next_walk: i64,
    next_near: i64,
    next_targeted: i64,
    /// Rows in a page; grows while more rows than that share one time, up to `Timing::page_max`.
    limit: usize,
    /// More rows than any page holds share the walk's time: how many of them are stored, and how many once the last
    /// batch is.
    crowd: Option<usize>,
    crowd_next: Option<usize>,
    /// That the search for records takes too long was logged.
    slow_told: bool,
    /// Where in the wishes the next question begins.
    turn: usize,
    /// The database's clock at the last poll.
    clock: i64,
}

/// A row of the walk with its time, which also a row that cannot be read otherwise mostly has.
type Walked = (Option<i64>, Result<Row, crate::source::Quarantined>);

const WALK: i64 = 0;
const TARGETED: i64 = 2;
/// Calls asked for in one statement.
const KEYS: usize = 64;
const REMEMBERED: usize = 50_000;

impl TimeLane {
    pub fn new(stored: Option<TimePosition>) -> Self {
        Self {
            catching_up: stored.is_some(),
            position: stored,
            pending: None,
            compare: Compare::default(),
            stored: [HashSet::new(), HashSet::new()],
            unstored: HashSet::new(),
            next_walk: i64::MIN,
            next_near: i64::MIN,
            next_targeted: i64::MIN,
            limit: 0,
            audited_to: None,
            crowd: None,
            crowd_next: None,
            slow_told: false,
            turn: 0,
            clock: i64::MIN,
        }
    }

    pub fn generation(&self) -> i64 {
        self.pending.as_ref().or(self.position.as_ref()).map_or(0, |p| p.generation)
    }

    /// Where the walk under way stands, as the table shows it.
    pub fn reached(&self) -> Option<i64> {
        self.position.as_ref().and_then(|p| p.walk).and_then(|w| w.at)
    }

    pub fn committed(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        self.position = Some(pending);
        self.crowd = self.crowd_next;
        self.compare.committed();
        if self.stored[0].len() > REMEMBERED {
            self.stored.swap(0, 1);
            self.stored[0].clear();
        }
        self.stored[0].extend(self.unstored.drain());
        if self.compare.idle() {
            self.catching_up = false;
        }
    }

    /// The position as stored.
    pub fn stored(&self) -> Option<Stored> {
        self.position.clone().map(Stored::Time)
    }

    /// The position after the last poll, if it is another than the stored one.
    pub fn to_store(&self) -> Option<Stored> {
        let pending = self.pending.as_ref()?;
        (self.position.as_ref() != Some(pending)).then(|| Stored::Time(pending.clone()))
    }

    /// The place of a row that was read out of order, by its call.
    pub fn place(&self, places: &mut ContentPlaces, row: Row) -> PlacedRow {
        PlacedRow { generation: self.generation(), place: places.place(&row), row, by_audit: false }
    }

    /// What was found and not stored counts as not found.
    pub fn forget(&mut self) {
        self.pending = None;
        if !self.unstored.is_empty() {
            self.unstored.clear();
            // before an audit finds it
            (self.next_walk, self.next_near) = (i64::MIN, i64::MIN);
        }
        self.compare.forget();
    }

    /// Asks the lanes that are due, in one statement.
    pub async fn poll(&mut self, visit: &mut Visit<'_>, shape: &Shape, wishes: &Wishes) -> Result<Found, SourceError> {
        if visit.now < self.clock {
            // the database's clock was set back: what was put off until a moment of the old one would wait too long
            (self.next_walk, self.next_near, self.next_targeted) = (i64::MIN, i64::MIN, i64::MIN);
            self.compare.clock_was_set_back();
        }
        self.clock = visit.now;
        let mut position = self.position.clone().unwrap_or_else(|| first(visit, shape));
        let confirms = self.compare.confirms(visit.now);
        if position.walk.is_none() && (visit.now >= self.next_walk || confirms) {
            // channel events have only this lane, and come in order: their last seconds are enough most of the time
            let wide = shape.table == Table::Cdr || visit.now >= self.next_near || confirms;
            position.walk = Some(near(visit, shape, &position, wide));
            if wide {
                self.next_near = visit.now.saturating_add(visit.timing.near_every);
            }
        }
        let mut found = Found::new();
        let mut keys = self.keys(visit, shape, wishes);
        self.limit = self.limit.max(visit.page);
        self.crowd_next = self.crowd;
        if shape.table == Table::Cdr {
            found.asked = Some(keys.clone());
        }
        let (_, key_indexed) = shape.call_key();
        if !keys.is_empty() && !key_indexed {
            // a scan: alone, so that nothing fails with it
            self.scan(visit, shape, &std::mem::take(&mut keys), &position, &mut found).await?;
        }

        let mut statement = Statement::new(shape.engine);
        if !keys.is_empty() {
            let (column, _) = shape.call_key();
            statement.push("SELECT * FROM (").push(&shape.select(TARGETED as u8));
            statement.push(&format!(" WHERE {column} IN ")).bind_list(&keys);
            statement.push(" LIMIT 5000) targeted_");
        }
        if let Some(walk) = position.walk {
            statement.push(if keys.is_empty() { "" } else { " UNION ALL " });
            statement.push("SELECT * FROM (").push(&shape.select(WALK as u8)).push(" WHERE ");
            match walk.at {
                Some(at) if self.crowd.is_some() => {
                    // a place in between, so that any kind of column compares rightly
                    statement.push(&format!("{} >= ", shape.time.name)).bind_time(at, shape.time.kind);
                    statement.push(&format!(" AND {} < ", shape.time.name)).bind_time(at + 1, shape.time.kind)
                }
                Some(at) => statement.push(&format!("{} >= ", shape.time.name)).bind_time(at, shape.time.kind),
                None => statement.push(&format!("{} IS NOT NULL", shape.time.name)),
            };
            if let (Some(from), Some(duration)) = (walk.whole_from, &shape.duration) {
                statement.push(&format!(" AND ({} >= ", shape.time.name)).bind_time(from, shape.time.kind);
                statement.push(&format!(" OR {duration} >= {})", visit.timing.near_reach / 1_000_000 - 60));
            }
            match self.crowd {
                Some(skip) => {
                    statement.push(&format!(" ORDER BY {} LIMIT {} OFFSET {skip}) walk_", shape.uniqueid, self.limit))
                }
                None => statement.push(&format!(" ORDER BY {} LIMIT {}) walk_", shape.time.name, self.limit)),
            };
        }

        let mut walked = false;
        if !statement.sql.is_empty() {
            let began = Instant::now();
            let rows = visit.select(&statement).await?;
            let pause = visit.pause(began);
            let targeted = rows.iter().filter(|c| read::lane(c) == TARGETED);
            self.add(shape, targeted.map(|c| read::row(shape, c)), &position, false, &mut found);
            if position.walk.is_some() {
                let page = rows.iter().filter(|c| read::lane(c) == WALK);
                let page = page.map(|c| (read::raw_time(shape, c), read::row(shape, c))).collect();
                walked = self.step(visit, shape, page, &mut position, &mut found);
                if walked {
                    let every = match shape.table {
                        Table::Cel => 0,
                        Table::Cdr if visit.has_cel => visit.timing.near_every,
                        Table::Cdr => visit.timing.near_alone,
                    };
                    let scan = if shape.time.indexed { 0 } else { pause };
                    self.next_walk = visit.now.saturating_add(every.max(scan));
                }
            }
        }
        found.more = position.walk.is_some();
        // without CEL, or for CEL itself, only the walk tells of new calls
        let alone = shape.table == Table::Cel || !visit.has_cel;
        found.complete = position.walk.is_none() && (walked || !alone);
        if position.walk.is_none() {
            let began = Instant::now();
            let done = self.audit(visit, shape, &mut position, &mut found).await;
            self.compare.tolerate(visit, shape, began, done)?;
        }
        self.pending = Some(position);
        Ok(found)
    }

    /// Looks for the records of calls where no index helps. What takes too long counts as asked for: the walk finds those
    /// records too, and calls must not wait for ever.
    async fn scan(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        keys: &[String],
        position: &TimePosition,
        found: &mut Found,
    ) -> Result<(), SourceError> {
        let mut statement = Statement::new(shape.engine);
        let (column, _) = shape.call_key();
        statement.push(&shape.select(TARGETED as u8)).push(&format!(" WHERE {column} IN ")).bind_list(keys);
        statement.push(" LIMIT 5000");
        let began = Instant::now();
        let rows = visit.select(&statement).await;
        self.next_targeted = visit.now.saturating_add(visit.pause(began));
        match rows {
            Ok(rows) => {
                self.slow_told = false;
                self.add(shape, rows.iter().map(|c| read::row(shape, c)), position, false, found);
                Ok(())
            }
            Err(SourceError::Slow(why)) => {
                if !std::mem::replace(&mut self.slow_told, true) {
                    let remedy = shape.missing_indexes().join("; ");
                    tracing::warn!(
                        table = %shape.name,
                        "records of ended calls cannot be searched for, and are found by time: {why}. {remedy}"
                    );
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// The calls to ask for now, in turn.
    fn keys(&mut self, visit: &Visit<'_>, shape: &Shape, wishes: &Wishes) -> Vec<String> {
        let wanted = &wishes.cdr_of;
        if shape.table == Table::Cel || wanted.is_empty() || visit.now < self.next_targeted {
            return Vec::new();
        }
        let from = if self.turn < wanted.len() { self.turn } else { 0 };
        let keys: Vec<String> = wanted.iter().cycle().skip(from).take(wanted.len().min(KEYS)).cloned().collect();
        self.turn = (from + keys.len()) % wanted.len();
        keys
    }

    /// Takes a page of the walk. `true`: it was the last.
    fn step(
        &mut self,
        visit: &Visit<'_>,
        shape: &Shape,
        mut page: Vec<Walked>,
        position: &mut TimePosition,
        found: &mut Found,
    ) -> bool {
        let last = page.iter().filter_map(|(time, _)| *time).max();
        let full = page.len() >= self.limit;
        let whole_from = position.walk.and_then(|w| w.whole_from);
        if let (Some(skip), Some(at)) = (self.crowd, position.walk.and_then(|w| w.at)) {
            // a page of the rows of one time; behind the last of them the walk goes on
            self.crowd_next = full.then_some(skip + page.len());
            if !full {
                self.limit = visit.page;
                position.walk = Some(Walk { at: Some(at + 1), whole_from });
            }
        } else if full && let Some(last) = last {
            // more rows may share the last time: they are read together, with the next page
            page.retain(|(time, _)| time.is_none_or(|t| t < last));
            if page.is_empty() && position.walk.and_then(|w| w.at) == Some(last) {
                let most = visit.timing.page_max.max(visit.page);
                self.crowd_next = (self.limit >= most).then_some(0);
                self.limit = self.limit.saturating_mul(4).min(most);
                return false;
            }
            position.walk = Some(Walk { at: Some(last), whole_from });
        } else if full && position.walk.is_some_and(|w| w.at.is_none()) {
            // before all others stands what is no time (0000-00-00): it ends where times begin
            position.walk = Some(Walk { at: Some(read::FIRST), whole_from });
        } else {
            position.walk = None;
            self.limit = visit.page;
        }
        // a reading from the future (a clock set wrong) must not move the window away from the present
        let latest = visit.reading(shape).map(|now| now.saturating_add(3_600_000_000));
        let newest = page.iter().filter_map(|(time, _)| *time).map(|t| latest.map_or(t, |l| t.min(l))).max();
        position.newest = position.newest.max(newest);
        page.sort_by_key(|(time, _)| *time);
        self.add(shape, page.into_iter().map(|(_, row)| row), position, false, found);
        position.walk.is_none()
    }

    fn add(
        &mut self,
        shape: &Shape,
        rows: impl Iterator<Item = Result<Row, crate::source::Quarantined>>,
        position: &TimePosition,
        by_audit: bool,
        found: &mut Found,
    ) {
        let mut places = ContentPlaces::default();
        for row in rows {
            match row {
                Ok(row) => {
                    let place = places.place(&row);
                    let Place::Hash(key) = place else { continue };
                    if self.remember(key) {
                        found.rows.push(PlacedRow { generation: position.generation, place, row, by_audit });
                    }
                }
                Err(quarantined) => {
                    let text = format!("{}\n{}", shape.table.as_str(), quarantined.body);
                    if self.remember(read::text_key(&text)) {
                        found.quarantined.push(quarantined);
                    }
                }
            }
        }
    }

    /// `true`: not stored lately, nor found earlier in this poll.
    fn remember(&mut self, key: [u8; 16]) -> bool {
        !self.stored.iter().any(|s| s.contains(&key)) && self.unstored.insert(key)
    }

    async fn audit(
        &mut self,
        visit: &mut Visit<'_>,
        shape: &Shape,
        position: &mut TimePosition,
        found: &mut Found,
    ) -> Result<(), SourceError> {
        let Some(newest) = position.newest else { return Ok(()) };
        // only when all that differed was read again and stored: a restart meanwhile has to find it once more
        if self.compare.idle() && self.audited_to.is_some() {
            position.audited = self.audited_to.take();
        }
        if !self.catching_up {
            self.compare.postpone(visit.now.saturating_add(visit.timing.audit_every));
        }
        if self.compare.due(visit.now) {
            let since = position.audited.unwrap_or(newest).min(newest).min(visit.reading(shape).unwrap_or(newest));
            let reach = since.saturating_sub(visit.timing.audit_reach);
            let low = position.floor.map_or(reach, |floor| floor.max(reach));
            // whole minutes only: part of the first one was never read
            let low_minute = low.div_euclid(MINUTE) + i64::from(position.floor.is_some_and(|f| f > reach));
            let column = &shape.time.name;
            let mut statement = Statement::new(shape.engine);
            let minute = shape.engine.minute_of(column, shape.time.kind);
            statement.push(&format!("SELECT {minute}, COUNT(*) FROM {} WHERE {column} >= ", shape.from));
            // above stands what is no time: 'infinity', words
            statement.bind_time(low_minute * MINUTE, shape.time.kind).push(&format!(" AND {column} < "));
            statement.bind_time(read::LAST, shape.time.kind).push(" GROUP BY 1");
            let began = Instant::now();
            let there = counted(visit, &statement).await?;
            let cost = i64::try_from(began.elapsed().as_micros()).unwrap_or(0).saturating_mul(visit.timing.scan_share);
            let high = there.keys().max().map_or(low_minute, |m| m + 1);
            match visit.counts.seen_per_minute(shape.table, low_minute, high).await {
                Ok(here) => {
                    let timing = visit.timing;
                    let pause = timing.audit_every.max(cost);
                    if self.compare.weigh(visit.now, timing.audit_confirm, pause, &there, &here) {
                        self.audited_to = Some(newest);
                    }
                }
                Err(e) => tracing::debug!(table = %shape.name, "audit: local counts cannot be had: {e}"),
            }
        }
        for minute in self.compare.take() {
            let mut statement = Statement::new(shape.engine);
            let column = &shape.time.name;
            statement.push(&shape.select(WALK as u8)).push(&format!(" WHERE {column} >= "));
            statement.bind_time(minute * MINUTE, shape.time.kind).push(&format!(" AND {column} < "));
            statement.bind_time((minute + 1) * MINUTE, shape.time.kind).push(" LIMIT 20000");
            let rows = visit.select(&statement).await?;
            // without CEL nothing tells of a long call but this
            let expected = self.catching_up || !visit.has_cel;
            self.add(shape, rows.iter().map(|c| read::row(shape, c)), position, !expected, found);
        }
        Ok(())
    }
}

const MINUTE: i64 = 60_000_000;

fn first(visit: &Visit<'_>, shape: &Shape) -> TimePosition {
    let floor = visit.begin.map(|moment| visit.reading_of(shape, moment.micros()));
    TimePosition { generation: 0, floor, walk: Some(Walk { at: floor, whole_from: None }), newest: None, audited: None }
}

/// The walk over the near past. It begins at the newest row known, however long that is ago, so that a pause is caught up.
fn near(visit: &Visit<'_>, shape: &Shape, position: &TimePosition, wide: bool) -> Walk {
    let Some(newest) = position.newest else {
        return Walk { at: position.floor, whole_from: None };
    };
    // where summer time ends the clock runs back behind the newest row
    let newest = newest.min(visit.reading(shape).unwrap_or(newest));
    let after_floor = |at: i64| Some(position.floor.map_or(at, |floor| at.max(floor)));
    let near = newest.saturating_sub(if wide { visit.timing.near_reach } else { visit.timing.tip_reach });
    if shape.table == Table::Cdr && !visit.has_cel && shape.duration.is_some() {
        let far = newest.saturating_sub(visit.timing.audit_reach);
        return Walk { at: after_floor(far), whole_from: Some(near) };
    }
    Walk { at: after_floor(near), whole_from: None }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::future::BoxFuture;

    use super::super::backend::{Backend, ColumnInfo, Description, Param, Rows, TableName};
    use super::super::engine::Engine;
    use super::super::{Timing, probe};
    use super::*;
    use crate::source::LocalCounts;

    /// A table without rows, where statements of one kind take too long.
    struct SlowWhere(&'static str, Vec<String>);

    impl Backend for SlowWhere {
        fn engine(&self) -> Engine {
            Engine::MySql
        }

        fn connect(&mut self) -> BoxFuture<'_, Result<bool, SourceError>> {
            Box::pin(async { Ok(false) })
        }

        fn disconnect(&mut self) {}

        fn describe<'a>(&'a mut self, _: &'a TableName) -> BoxFuture<'a, Result<Description, SourceError>> {
            Box::pin(async { Ok(Description::default()) })
        }

        fn select<'a>(&'a mut self, sql: &'a str, _: &'a [Param]) -> BoxFuture<'a, Result<Rows, SourceError>> {
            self.1.push(sql.to_owned());
            let slow = sql.contains(self.0);
            Box::pin(async move {
                if slow {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    return Err(SourceError::Slow("no answer within 20 s (DB_TIMEOUT)".to_owned()));
                }
                Ok(Rows::default())
            })
        }
    }

    struct NoCounts;

    impl LocalCounts for NoCounts {
        fn seen_per_minute(&self, _: Table, _: i64, _: i64) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
            Box::pin(async { Ok(BTreeMap::new()) })
        }

        fn rows_per_block(
            &self,
            _: Table,
            _: i64,
            _: i64,
            _: i64,
        ) -> BoxFuture<'_, Result<BTreeMap<i64, i64>, String>> {
            Box::pin(async { Ok(BTreeMap::new()) })
        }
    }

    const NOW: i64 = 1_795_214_890_000_000;

    /// FreePBX's table: an index on the time, none on the linkedid.
    fn shape() -> Shape {
        let names = ["calldate", "duration", "channel", "uniqueid", "linkedid", "disposition"];
        let kind = |name: &str| if name == "calldate" { "datetime" } else { "varchar" };
        let columns = names.map(|n| ColumnInfo { name: n.to_owned(), kind: kind(n).to_owned(), auto: false });
        let description = Description { columns: columns.to_vec(), id_cache: 1, ..Description::default() };
        let name = TableName::parse("cdr", "DB_TABLE_CDR");
        probe::shape(Engine::MySql, Table::Cdr, &name, &description).expect("a table that will do")
    }

    async fn poll(
        lane: &mut TimeLane,
        backend: &mut SlowWhere,
        now: i64,
        wishes: &Wishes,
    ) -> Result<Found, SourceError> {
        let timing = Timing { audit_every: 0, ..Timing::default() };
        let mut visit = Visit {
            backend,
            now,
            begin: None,
            zone: Some(crate::correlate::Zone::Fixed(0)),
            page: 100,
            has_cel: true,
            timing: &timing,
            counts: &NoCounts,
            statements: 0,
        };
        let found = lane.poll(&mut visit, &shape(), wishes).await;
        lane.committed();
        found
    }

    fn read_once() -> TimeLane {
        let position = TimePosition { generation: 0, floor: None, walk: None, newest: Some(NOW), audited: Some(NOW) };
        TimeLane::new(Some(position))
    }

    #[tokio::test]
    async fn a_search_that_takes_too_long_fails_no_poll_and_is_put_off() {
        let (mut lane, mut backend) = (read_once(), SlowWhere(" IN (", Vec::new()));
        let wishes = Wishes { cdr_of: vec!["1795214800.1".to_owned()], ..Wishes::default() };
        let found = poll(&mut lane, &mut backend, NOW, &wishes).await.expect("the rest of the poll stands");
        assert_eq!(found.asked, Some(wishes.cdr_of.clone()), "the call does not wait for ever");
        let searches = |backend: &SlowWhere| backend.1.iter().filter(|sql| sql.contains(" IN (")).count();
        assert_eq!((searches(&backend), backend.1.len() > 1), (1, true), "and the walk went on");
        poll(&mut lane, &mut backend, NOW + 100_000, &wishes).await.expect("nor does it the next");
        assert_eq!(searches(&backend), 1, "a scan is paid for with a pause");
        poll(&mut lane, &mut backend, NOW + 600_000_000, &wishes).await.expect("reads");
        assert_eq!(searches(&backend), 2);
    }

    #[tokio::test]
    async fn an_audit_that_takes_too_long_fails_no_poll_and_is_put_off() {
        let (mut lane, mut backend) = (read_once(), SlowWhere("COUNT(*)", Vec::new()));
        for (after, counts) in [(0, 1), (100_000, 1), (600_000_000, 2)] {
            poll(&mut lane, &mut backend, NOW + after, &Wishes::default()).await.expect("the rest of the poll stands");
            assert_eq!(backend.1.iter().filter(|sql| sql.contains("COUNT(*)")).count(), counts);
        }
    }

    #[tokio::test]
    async fn a_walk_that_takes_too_long_is_told() {
        let (mut lane, mut backend) = (read_once(), SlowWhere("ORDER BY", Vec::new()));
        let failed = poll(&mut lane, &mut backend, NOW, &Wishes::default()).await;
        assert!(matches!(failed, Err(SourceError::Slow(_))));
    }
}
