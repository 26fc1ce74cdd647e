//! Rows of the dialplan: outgoing numbers of trunks, and the contexts that phones dial in.
//!
//! Asterisk looks every priority up by itself: with `_1XX` lacking priority 2, priority 2 of `_X.` runs. So all extens of
//! a context have the same priorities.

use std::collections::{BTreeMap, BTreeSet};

use super::trunk::exten_row;
use crate::provision::dialplan::{Rule, Unmatched, translate, translate_rules};
use crate::provision::error::{Error, Result};
use crate::provision::model::{DIALLED, Extension, Queue, Route, Trunk, quoted};
use crate::provision::table::Row;

/// Data of `Dial`. The number is filtered before anything is cut off: a dash that Asterisk ignores in matching counts in
/// `${EXTEN:n}`, and an `&` would add a second destination.
pub fn dial_data(add_prefix: &str, strip: usize, trunk_id: &str, timeout: u32) -> String {
    let number = if strip == 0 { DIALLED.to_owned() } else { format!("${{FILTER(0-9+*#,${{EXTEN}}):{strip}}}") };
    format!("PJSIP/{add_prefix}{number}@{trunk_id},{timeout}")
}

pub(super) fn outbound_rows(trunk: &Trunk) -> Result<Vec<Row>> {
    let context = format!("{}-out", trunk.id);
    let translated = translate(&trunk.strip_prefix, trunk.unmatched)
        .map_err(|e| Error::input(format!("strip prefix {}: {e}", quoted(&trunk.strip_prefix))))?;
    let mut rows = Vec::new();
    for row in translated {
        // what the rule does not concern is dialled as it is
        let ruled = row.rule.is_some() || trunk.strip_prefix.is_empty();
        let add = if ruled { trunk.add_prefix.as_str() } else { "" };
        let dial = dial_data(add, row.strip, &trunk.id, trunk.dial_timeout);
        rows.extend(dial_rows(&context, &row.exten, trunk.from_number.as_deref(), &dial));
    }
    Ok(rows)
}

fn dial_rows(context: &str, exten: &str, from_number: Option<&str>, dial: &str) -> Vec<Row> {
    match from_number {
        Some(number) => vec![
            exten_row(context, exten, 1, "Set", &format!("CALLERID(num)={number}")),
            exten_row(context, exten, 2, "Dial", dial),
        ],
        None => vec![exten_row(context, exten, 1, "Dial", dial)],
    }
}

/// Rows of the contexts that phones dial in: phones, queues, and routes to trunks.
pub fn internal_rows(extensions: &[Extension], queues: &[Queue], routes: &[Route]) -> Result<Vec<Row>> {
    let mut contexts: BTreeMap<&str, Vec<Row>> = BTreeMap::new();
    let mut taken: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut claim = |context, number| {
        if taken.insert((context, number)) {
            return Ok(());
        }
        Err(Error::input(format!("number {number} is given to two in context {context}")))
    };
    for e in extensions.iter().filter(|e| e.dialable) {
        claim(&e.context, &e.number)?;
        let dial = format!("PJSIP/{},{}", e.id, e.ring_timeout);
        contexts.entry(&e.context).or_default().push(exten_row(&e.context, &e.number, 1, "Dial", &dial));
    }
    for q in queues {
        if let Some((context, number)) = &q.number {
            claim(context, number)?;
            contexts.entry(context).or_default().push(exten_row(context, number, 1, "Queue", &q.id));
        }
    }
    let mut by_context: BTreeMap<&str, Vec<&Route>> = BTreeMap::new();
    for route in routes {
        by_context.entry(&route.context).or_default().push(route);
    }
    for (context, routes) in by_context {
        let rules: Vec<Rule<'_>> = routes.iter().map(|r| Rule { regex: &r.prefix, strip: r.strip }).collect();
        let translated = translate_rules(&rules, Unmatched::Reject)
            .map_err(|e| Error::input(format!("routes of context {context}: {e}")))?;
        for row in translated {
            let Some(route) = row.rule.map(|n| routes[n]) else { continue };
            let dial = dial_data(&route.add_prefix, row.strip, &route.trunk_id, route.dial_timeout);
            contexts.entry(context).or_default().extend(dial_rows(
                context,
                &row.exten,
                route.from_number.as_deref(),
                &dial,
            ));
        }
    }
    Ok(contexts.into_iter().flat_map(|(context, rows)| padded(context, rows)).collect())
}

/// Every exten with the priorities of the longest.
fn padded(context: &str, mut rows: Vec<Row>) -> Vec<Row> {
    let mut last: BTreeMap<String, u32> = BTreeMap::new();
    for row in &rows {
        let priority = row.key[2].parse().unwrap_or(1);
        let entry = last.entry(row.key[1].clone()).or_default();
        *entry = priority.max(*entry);
    }
    let most = last.values().copied().max().unwrap_or_default();
    for (exten, last) in last {
        rows.extend((last + 1..=most).map(|priority| exten_row(context, &exten, priority, "Hangup", "")));
    }
    rows
}
