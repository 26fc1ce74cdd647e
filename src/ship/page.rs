//! A page of the outbox on its way to a sink: loaded, rendered, made into batches, marked as in flight.

use std::collections::HashMap;
use std::sync::Arc;

use super::health::Member;
use super::{Batch, Frozen, Item, Limits, RenderError, Sink};
use crate::call::Timestamp;
use crate::store::outbox::{self, Claim, Due, Page};
use crate::store::{Store, StoreError};

/// A batch marked in flight, ready to go.
pub(super) struct Ready {
    pub batch: Arc<Batch>,
    pub members: Vec<Member>,
}

pub(super) struct Claimed {
    pub ready: Vec<Ready>,
    /// Could not be written in the sink's format.
    pub unreadable: Vec<Failed>,
    /// Nothing else was due.
    pub dry: bool,
    pub next_due: Option<Timestamp>,
}

/// Loads what is due (or `first`, when that waits), renders what was never sent, makes batches, and marks it all as in flight in one transaction.
pub(super) async fn claim_page(
    sink: Arc<dyn Sink>,
    store: Store,
    limits: Limits,
    page: Page,
    first: Option<i64>,
    due_until: Timestamp,
    now: Timestamp,
) -> Result<Claimed, StoreError> {
    let name = sink.name();
    let (found, next_due) = store
        .read(move |conn| {
            let mut found = match first {
                Some(delivery) => outbox::waiting(conn, name, delivery, page.rows)?,
                None => Vec::new(),
            };
            if found.is_empty() {
                found = outbox::due(conn, name, due_until, page)?;
            }
            let next = if found.is_empty() { outbox::next_due(conn, name, due_until)? } else { None };
            Ok((found, next))
        })
        .await?;
    let dry = found.is_empty();
    let mut failed = Vec::new();
    let mut items = Vec::new();
    for due in found {
        match rendered(sink.as_ref(), due, now) {
            Ok(item) => items.push(item),
            Err(error) => failed.push(error),
        }
    }
    let mut batches = into_batches(items, limits);
    // what cannot be rendered is taken out of the queue like anything else, until its end is recorded
    let alone = |f: &Failed| vec![Claim { delivery: f.delivery, key: f.key.clone(), body: None, batch: None }];
    let claims: Vec<Vec<Claim>> = batches.iter_mut().map(|b| std::mem::take(&mut b.claims)).collect();
    let claims: Vec<Vec<Claim>> = claims.into_iter().chain(failed.iter().map(alone)).collect();
    let mut claimed =
        if claims.is_empty() { Vec::new() } else { store.write(move |c| outbox::claim(c, &claims)).await? };
    let failed_claimed = claimed.split_off(batches.len());
    let ready = batches.into_iter().zip(claimed).filter(|(_, whole)| *whole).map(|(batch, _)| batch.ready).collect();
    let unreadable = failed.into_iter().zip(failed_claimed).filter(|(_, claimed)| *claimed).map(|(f, _)| f).collect();
    Ok(Claimed { ready, unreadable, dry, next_due })
}

struct Rendered {
    item: Item,
    member: Member,
    /// To be frozen.
    fresh: Option<Vec<u8>>,
    batch: Option<String>,
}

/// What a sink cannot render.
pub(super) struct Failed {
    pub delivery: i64,
    pub key: String,
    pub error: String,
}

fn rendered(sink: &dyn Sink, due: Due, now: Timestamp) -> Result<Rendered, Failed> {
    let key = due.key();
    let (body, fresh) = match due.body {
        Some(frozen) => (frozen, None),
        None => {
            let document = Frozen {
                call_id: &due.call_id,
                revision: due.revision,
                document: &due.document,
                rows: due.rows.as_deref(),
                now,
            };
            let failed = |e: RenderError| Failed { delivery: due.delivery, key: key.clone(), error: e.to_string() };
            match sink.render(&document).map_err(failed)? {
                Some(own) => (own.clone(), Some(own)),
                None => (due.document.into_bytes(), None),
            }
        }
    };
    let member = Member {
        delivery: due.delivery,
        call: due.call,
        key: key.clone(),
        attempts: due.attempts,
        refused: due.refused,
        age: due.age,
        tried_up: due.tried_up,
        queued_at: due.queued_at,
    };
    Ok(Rendered { item: Item { key, body }, member, fresh, batch: due.batch })
}

struct Built {
    ready: Ready,
    claims: Vec<Claim>,
}

/// Batches that were sent before stay as they were; the rest is filled up in order. A page holds one revision of a call,
/// so a batch does.
fn into_batches(items: Vec<Rendered>, limits: Limits) -> Vec<Built> {
    let mut groups: Vec<Vec<Rendered>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut open: Option<(usize, usize)> = None;
    for item in items {
        let bytes = item.item.body.len();
        match item.batch.clone().filter(|_| limits.batch > 1) {
            Some(batch) => match known.get(&batch) {
                Some(at) => groups[*at].push(item),
                None => {
                    known.insert(batch, groups.len());
                    groups.push(vec![item]);
                }
            },
            None => match &mut open {
                Some((at, filled))
                    if groups[*at].len() < limits.batch && filled.saturating_add(bytes) <= limits.batch_bytes =>
                {
                    *filled += bytes;
                    groups[*at].push(item);
                }
                _ => {
                    open = Some((groups.len(), bytes));
                    groups.push(vec![item]);
                }
            },
        }
    }
    groups.into_iter().map(|group| build(group, limits)).collect()
}

fn build(group: Vec<Rendered>, limits: Limits) -> Built {
    let keyed = limits.keyed_batches || group.iter().any(|r| r.batch.is_some() && limits.batch > 1);
    let key = match group.as_slice() {
        [one] if !keyed => one.item.key.clone(),
        // equal to the kept key as long as the members are those it was made of
        _ => Batch::key_of(group.iter().map(|r| r.item.key.as_str())),
    };
    let mut claims = Vec::with_capacity(group.len());
    let mut members = Vec::with_capacity(group.len());
    let mut items = Vec::with_capacity(group.len());
    for rendered in group {
        let batch = keyed.then(|| key.clone());
        claims.push(Claim {
            delivery: rendered.member.delivery,
            key: rendered.member.key.clone(),
            body: rendered.fresh,
            batch,
        });
        members.push(rendered.member);
        items.push(rendered.item);
    }
    Built { ready: Ready { batch: Arc::new(Batch { key, items }), members }, claims }
}
