//! How far history has been read, while the source has not caught up yet: a call of last year whose record is missing
//! need not wait until the last row of this year is read.

use crate::call::{Row, Timestamp};
use crate::correlate::{Zone, ids};
use crate::source::Table;

/// Rows younger than this are no history: lanes that look at the present while history is read must not count.
const HISTORY_MICROS: i64 = 30 * 60 * 1_000_000;
/// Rows are written a little out of order.
const DISORDER_MICROS: i64 = 60 * 1_000_000;

/// Newest moment seen per table.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    has_cel: bool,
    has_cdr: bool,
    cel: Option<Timestamp>,
    cdr: Option<Timestamp>,
}

impl Lanes {
    pub const fn new(has_cel: bool, has_cdr: bool) -> Self {
        Self { has_cel, has_cdr, cel: None, cdr: None }
    }

    pub fn observe(&mut self, row: &Row, zone: &Zone, db_now: Option<Timestamp>) {
        let Some(now) = db_now else { return };
        let lane = match row {
            Row::Cel(_) => &mut self.cel,
            Row::Cdr(_) => &mut self.cdr,
        };
        // a record's start: whether records come in the order of their start or of their end, a later start means that
        // those of calls that ended before are there
        let Some(time) = row.time() else { return };
        let hint = ids::Id::parse(row.uniqueid()).map(|id| Timestamp::from_secs(id.epoch));
        let at = zone.row_moment(time, hint);
        if at < now.plus_micros(-HISTORY_MICROS) {
            *lane = (*lane).max(Some(at));
        }
    }

    /// The source has caught up: old rows that come from now on (an import, a replica that lagged) are a history of their
    /// own, of which nothing has been read.
    pub fn forget(&mut self) {
        (self.cel, self.cdr) = (None, None);
    }

    /// Everything that happened before has been read. Of a table that was read to its end (`read_out`) that is everything
    /// until `db_now`, however old its last row is: records may have been switched off long ago, or never written.
    pub fn horizon(&self, read_out: &[Table], db_now: Option<Timestamp>) -> Option<Timestamp> {
        let reached = |table, seen: Option<Timestamp>| if read_out.contains(&table) { db_now.or(seen) } else { seen };
        let at = match (self.has_cel, self.has_cdr) {
            (true, true) => reached(Table::Cel, self.cel)?.min(reached(Table::Cdr, self.cdr)?),
            (true, false) => reached(Table::Cel, self.cel)?,
            (false, true) => reached(Table::Cdr, self.cdr)?,
            (false, false) => return None,
        };
        Some(at.plus_micros(-DISORDER_MICROS))
    }
}
