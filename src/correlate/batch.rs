//! Rows that are all there at once: files, tests. The same steps the agent takes row by row: group, judge, build.

use std::collections::BTreeMap;

use super::completion::{Grace, Progress, RestartSign, RestartWatch, Verdict};
use super::group::{GroupId, Grouper, partition};
use super::{CallRows, Marks, Rules, Zone, build, ids, suppressed};
use crate::call::{CallState, CelEvent, Content, Row, Timestamp};

/// What became of a set of rows.
#[derive(Debug, Default)]
pub struct Correlated {
    /// One for each call that no filter keeps back, by start and id.
    pub calls: Vec<Content>,
    /// How many calls filters keep back.
    pub suppressed: usize,
    /// Rows that take part in no call, with the reason.
    pub unusable: Vec<(Row, String)>,
}

/// One call with what it was built from.
#[derive(Clone, Debug)]
pub struct Told {
    pub content: Content,
    pub rows: CallRows,
    pub marks: Marks,
}

/// Makes calls of `rows`. Order and repetition do not matter: rows with the same content are one (but DTMF without a row
/// id, since a digit may be pressed twice).
pub fn correlate_all(rows: Vec<Row>, rules: &Rules, zone: &Zone) -> Correlated {
    let (told, unusable) = calls_with_rows(rows, rules, zone);
    let all = told.len();
    let wanted = told.into_iter().filter(|c| suppressed(&c.rows, rules, &c.content).is_none());
    let calls: Vec<Content> = wanted.map(|c| c.content).collect();
    Correlated { suppressed: all - calls.len(), calls, unusable }
}

/// The same, each call with its rows; filters are not asked.
pub fn calls_with_rows(rows: Vec<Row>, rules: &Rules, zone: &Zone) -> (Vec<Told>, Vec<(Row, String)>) {
    let rows = in_order(rows, zone);
    let mut grouper = if rules.has_cel { Grouper::default() } else { Grouper::cdr_only() };
    let (mut calls, mut unusable): (Vec<Told>, Vec<(Row, String)>) = Default::default();
    let mut groups: BTreeMap<GroupId, Vec<Row>> = BTreeMap::new();
    let mut watch = RestartWatch::default();
    let mut restarts: Vec<(String, Timestamp)> = Vec::new();
    for row in rows {
        match watch.observe(&row, zone) {
            Some(RestartSign::Restarted { systemname, at }) => restarts.push((systemname, at)),
            Some(RestartSign::Withdrawn { systemname, at }) => {
                restarts.retain(|(name, when)| *name != systemname || *when != at);
            }
            None => {}
        }
        match grouper.add(&row) {
            Ok(Some(joined)) => {
                let mut members: Vec<Row> = joined.absorbed.iter().filter_map(|g| groups.remove(g)).flatten().collect();
                members.push(row);
                groups.entry(joined.group).or_default().append(&mut members);
            }
            Ok(None) => {}
            Err(e) => unusable.push((row, e.to_string())),
        }
    }
    for members in groups.into_values() {
        let parts = partition(&members);
        for part in parts {
            let rows: Vec<Row> = part.into_iter().map(|i| members[i].clone()).collect();
            calls.push(one(&rows, rules, zone, &restarts));
        }
    }
    calls.sort_by(|a, b| {
        let (a, b) = (&a.content, &b.content);
        a.started_at.cmp(&b.started_at).then_with(|| ids::compare(&a.linkedid, &b.linkedid))
    });
    (calls, unusable)
}

fn one(rows: &[Row], rules: &Rules, zone: &Zone, restarts: &[(String, Timestamp)]) -> Told {
    let mut progress = Progress::default();
    for row in rows {
        progress.observe(row, zone);
    }
    // files end: nothing that is waited for will come
    let grace = Grace { cdr: 0, quiet: 0, cdr_only: 0, has_cel: rules.has_cel, has_cdr: rules.has_cdr };
    let ended = matches!(progress.verdict(&grace), Verdict::EndsAt(_));
    let pbx_restart = !ended && restarts.iter().any(|(name, at)| progress.closed_by_restart(name, *at));
    let marks = Marks { pbx_restart, ..Marks::default() };
    let rows = CallRows::of(rows);
    let mut content = build(&rows, rules, zone, &marks);
    content.state = if ended || pbx_restart { CallState::Completed } else { CallState::InProgress };
    Told { content, rows, marks }
}

/// By time, then id, then content; repeated rows once.
fn in_order(rows: Vec<Row>, zone: &Zone) -> Vec<Row> {
    let mut keyed: Vec<(Timestamp, Row)> = rows
        .into_iter()
        .map(|row| {
            let hint = ids::Id::parse(row.uniqueid()).map(|id| Timestamp::from_secs(id.epoch));
            let at = row.time().map_or_else(Timestamp::default, |t| zone.row_moment(t, hint));
            (at, row)
        })
        .collect();
    keyed.sort();
    keyed.dedup_by(|a, b| a == b && !digit_without_id(&a.1));
    keyed.into_iter().map(|(_, row)| row).collect()
}

fn digit_without_id(row: &Row) -> bool {
    matches!(row, Row::Cel(r) if r.event == CelEvent::Dtmf && r.id.is_none())
}
