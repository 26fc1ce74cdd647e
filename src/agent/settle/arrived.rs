//! A batch after it was stored: the rows the journal took, and what the source said besides.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::call::{Row, Timestamp};
use crate::correlate::Zone;
use crate::metrics;
use crate::source::{self, Batch, Quarantined, Table};
use crate::store::fold::HeldRow;

/// Between two lines about rows that cannot be used.
const QUARANTINE_TELL: Duration = Duration::from_secs(60);

/// What a batch brought, after it was stored.
#[derive(Clone, Debug, Default)]
pub struct Arrived {
    /// Rows the journal took, by their number.
    pub rows: Vec<(i64, HeldRow)>,
    pub db_now: Option<Timestamp>,
    pub caught_up: bool,
    pub read_out: Vec<Table>,
    pub zone: Option<Zone>,
    pub reread: Vec<String>,
    pub cdr_of: Option<Vec<String>>,
    /// Ids that never appeared.
    pub gaps_given_up: u64,
    /// `START_FROM` as the source resolved it, when this batch tells.
    pub start: Option<Option<Timestamp>>,
}

impl Arrived {
    /// What it said besides rows.
    pub fn without_rows(&self) -> Self {
        Self {
            rows: Vec::new(),
            reread: self.reread.clone(),
            cdr_of: self.cdr_of.clone(),
            zone: self.zone.clone(),
            read_out: self.read_out.clone(),
            ..*self
        }
    }

    /// `seqs` is what [`journal::append`] said of the batch.
    pub fn of(batch: Batch, seqs: &[Option<i64>]) -> Self {
        let mut new = [0_u64; 2];
        let mut audited = [0_u64; 2];
        let mut rows = Vec::with_capacity(seqs.iter().flatten().count());
        for (placed, seq) in batch.rows.into_iter().zip(seqs) {
            let Some(seq) = seq else { continue };
            let table = usize::from(matches!(placed.row, Row::Cdr(_)));
            new[table] += 1;
            audited[table] += u64::from(placed.by_audit);
            rows.push((*seq, HeldRow { generation: placed.generation, row: placed.row }));
        }
        for (n, table) in [Table::Cel, Table::Cdr].into_iter().enumerate() {
            metrics::ROWS_READ.with_label_values(&[table.as_str()]).inc_by(new[n]);
            metrics::ROWS_BY_AUDIT.with_label_values(&[table.as_str()]).inc_by(audited[n]);
        }
        tell_quarantined(&batch.quarantined);
        metrics::GAPS_GIVEN_UP.inc_by(batch.gaps_given_up);
        let start = batch.positions.iter().find(|(name, _)| name == source::START_POSITION);
        Self {
            rows,
            db_now: batch.db_now,
            caught_up: batch.caught_up,
            read_out: batch.read_out,
            zone: batch.zone,
            reread: batch.reread,
            cdr_of: batch.cdr_of,
            gaps_given_up: batch.gaps_given_up,
            start: start.map(|(_, value)| source::start_of(value)),
        }
    }
}

/// Counts rows that could not be used and says why: the first at once, then one line a minute, each one at debug.
pub(super) fn tell_quarantined<'a>(rows: impl IntoIterator<Item = &'a Quarantined>) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    for row in rows {
        let table = row.table.as_str();
        metrics::ROWS_QUARANTINED.with_label_values(&[table]).inc();
        let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= QUARANTINE_TELL) {
            *told = Some(Instant::now());
            tracing::warn!(
                table,
                "a row cannot be used and is set aside: {}. More of them within a minute are only counted \
                 (callferry_rows_quarantined_total) and told at LOG_LEVEL=debug",
                crate::log::text(&row.reason)
            );
        } else {
            tracing::debug!(table, "a row cannot be used and is set aside: {}", crate::log::text(&row.reason));
        }
    }
}
