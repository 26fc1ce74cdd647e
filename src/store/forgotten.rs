//! What was forgotten on request is known by keyed hashes alone, so that it does not come back when the PBX's tables are
//! read again: by a late row, the audit, a backfill.
//!
//! A row is refused when its call was forgotten, or when it is older than the forgetting and names the number. Calls of
//! that number that come later are new ones, and are taken as any other.
//!
//! The ids of a nailed-up channel are never remembered: they stand in the rows of everybody who is put through to it.

use hmac::{Hmac, KeyInit, Mac};
use rusqlite::{Connection, OptionalExtension, params};
use sha2::Sha256;

use super::{Result, StoreError, ledger, meta};
use crate::call::{CelEvent, FoundRecording, Row, Timestamp};
use crate::correlate::spelling::{Run, runs};
use crate::correlate::{Numbering, ids};

const KEY: &str = "forget_key";
const GENERATION: &str = "forget_generation";

/// 16 bytes of HMAC-SHA256.
type Hash = [u8; 16];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Id = 0,
    Number = 1,
}

/// Why a row is not to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its channel is one of a call that was forgotten.
    Channel,
    /// So is its call; the channel was not known yet.
    Call,
    /// It names a number that was forgotten after its channel was made.
    Number,
}

/// Stands before the journal where something was forgotten.
pub struct Gate {
    key: Vec<u8>,
    numbering: Numbering,
    /// Rows from then on are not looked at for numbers.
    newest: Timestamp,
}

impl Gate {
    /// `None`: nothing was ever forgotten.
    pub fn load(conn: &Connection) -> Result<Option<Self>> {
        let newest: Option<i64> =
            conn.prepare_cached("SELECT max(forgotten_at) FROM forgotten")?.query_row([], |r| r.get(0))?;
        let Some(newest) = newest else { return Ok(None) };
        Ok(Some(Self { key: key(conn)?, numbering: numbering(conn)?, newest: Timestamp::from_micros(newest) }))
    }

    /// The call of one of these ids was forgotten.
    pub fn knows<'a>(&self, conn: &Connection, mut ids: impl Iterator<Item = &'a str>) -> Result<bool> {
        let mut found = false;
        while let (false, Some(id)) = (found, ids.next()) {
            found = !id.is_empty()
                && forgotten_at(conn, self.hash(Kind::Id, id), Kind::Id)?.is_some()
                // that it is turned out later
                && !ledger::is_nailed(conn, id)?;
        }
        Ok(found)
    }

    /// Whether a row is not to be kept, and why.
    pub fn refuses(&self, conn: &Connection, row: &Row) -> Result<Option<Refusal>> {
        for (id, why) in [(row.uniqueid(), Refusal::Channel), (row.linkedid(), Refusal::Call)] {
            if self.knows(conn, std::iter::once(id))? {
                return Ok(Some(why));
            }
        }
        let Some(at) = moment_of(row.uniqueid()).or_else(|| moment_of(row.linkedid())) else { return Ok(None) };
        if at >= self.newest {
            return Ok(None);
        }
        let value = match row {
            Row::Cel(r) => serde_json::to_value(&**r),
            Row::Cdr(r) => serde_json::to_value(&**r),
        };
        let value = value.map_err(|e| StoreError::Content(e.to_string()))?;
        let texts = value.as_object().into_iter().flatten().filter_map(|(_, v)| v.as_str());
        Ok(self.names(conn, texts, at)?.then_some(Refusal::Number))
    }

    /// Whether a recording beside the rows is not to be kept.
    pub fn refuses_recording(&self, conn: &Connection, found: &FoundRecording) -> Result<bool> {
        let owners = ids::found_in(&found.owner);
        if self.knows(conn, owners.iter().copied())? {
            return Ok(true);
        }
        let Some(at) = owners.iter().find_map(|id| moment_of(id)).filter(|at| *at < self.newest) else {
            return Ok(false);
        };
        let texts = [Some(found.owner.as_str()), Some(found.file.as_str()), found.path.as_deref()];
        self.names(conn, texts.into_iter().flatten(), at)
    }

    /// One of the texts names a number that was forgotten after this moment.
    fn names<'a>(&self, conn: &Connection, texts: impl Iterator<Item = &'a str>, at: Timestamp) -> Result<bool> {
        for text in texts {
            for Run { plus, digits } in runs(text) {
                let written = if plus { format!("+{digits}") } else { digits.clone() };
                let whole = self.numbering.dialled(&written).map(|n| n.trim_start_matches('+').to_owned());
                for form in [Some(digits), whole].into_iter().flatten() {
                    let forgotten = forgotten_at(conn, self.hash(Kind::Number, &form), Kind::Number)?;
                    if forgotten.is_some_and(|forgotten| at < forgotten) {
                        return Ok(true);
                    }
                }
            }
        }
        Ok(false)
    }

    fn hash(&self, kind: Kind, text: &str) -> Hash {
        hash(&self.key, kind, text)
    }
}

/// Remembers what a refused row tells of its call, so that the call's other rows are refused too, whatever they name.
///
/// A channel that is known tells nothing more: its linkedid may have become that of a line it was put through to. Nor does a
/// row about other channels: it can be that line's.
pub fn remember_refused(conn: &Connection, row: &Row, why: Refusal, now: Timestamp) -> Result<()> {
    let of_others = matches!(row, Row::Cel(r) if tells_of_others(&r.event));
    let ids = match why {
        Refusal::Channel => return Ok(()),
        _ if of_others => return Ok(()),
        Refusal::Call => [row.uniqueid(), ""],
        Refusal::Number => [row.uniqueid(), row.linkedid()],
    };
    remember_ids(conn, ids.into_iter(), now)
}

/// Events that say of their channel with whom it was put together.
fn tells_of_others(event: &CelEvent) -> bool {
    matches!(
        event,
        CelEvent::BridgeEnter
            | CelEvent::BridgeExit
            | CelEvent::BlindTransfer
            | CelEvent::AttendedTransfer
            | CelEvent::Pickup
            | CelEvent::LocalOptimize
            | CelEvent::LocalOptimizeBegin
    )
}

/// Remembers the ids of a call; those marked as a nailed-up channel's are left out.
pub fn remember_ids<'a>(conn: &Connection, ids: impl Iterator<Item = &'a str>, now: Timestamp) -> Result<()> {
    let mut own = Vec::new();
    for id in ids.filter(|id| !id.is_empty()) {
        if !ledger::is_nailed(conn, id)? {
            own.push(id);
        }
    }
    remember(conn, Kind::Id, own.into_iter(), now)
}

/// Remembers a number, in each way it is written.
pub fn remember_number<'a>(conn: &Connection, forms: impl Iterator<Item = &'a str>, now: Timestamp) -> Result<()> {
    remember(conn, Kind::Number, forms, now)
}

fn remember<'a>(conn: &Connection, kind: Kind, texts: impl Iterator<Item = &'a str>, now: Timestamp) -> Result<()> {
    let key = key(conn)?;
    let mut statement = conn.prepare_cached(
        "INSERT INTO forgotten (hash, kind, forgotten_at) VALUES (?1, ?2, ?3)
         ON CONFLICT DO UPDATE SET forgotten_at = max(forgotten_at, excluded.forgotten_at)",
    )?;
    for text in texts {
        statement.execute(params![hash(&key, kind, text).as_slice(), kind as i64, now.micros()])?;
    }
    Ok(())
}

/// Grows whenever something was forgotten: what is in memory may be gone from the state.
pub fn generation(conn: &Connection) -> Result<i64> {
    Ok(meta::get(conn, GENERATION)?.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Fails when something was forgotten since `known`: what is about to be written was made of what is gone now.
pub fn unchanged(conn: &Connection, known: i64) -> Result<()> {
    if generation(conn)? == known {
        return Ok(());
    }
    Err(StoreError::Content("a caller was forgotten meanwhile; what is in memory is made anew".to_owned()))
}

pub fn next_generation(conn: &Connection) -> Result<()> {
    meta::put(conn, GENERATION, &(generation(conn)? + 1).to_string())
}

/// How numbers are written around this PBX, as the agent was told last.
pub fn numbering(conn: &Connection) -> Result<Numbering> {
    Ok(meta::rules(conn)?.pop().flatten().map(|rules| rules.numbering).unwrap_or_default())
}

fn forgotten_at(conn: &Connection, hash: Hash, kind: Kind) -> Result<Option<Timestamp>> {
    let mut statement = conn.prepare_cached("SELECT forgotten_at FROM forgotten WHERE hash = ?1 AND kind = ?2")?;
    let at: Option<i64> = statement.query_row(params![hash.as_slice(), kind as i64], |r| r.get(0)).optional()?;
    Ok(at.map(Timestamp::from_micros))
}

/// The key of this state, made when something is forgotten first.
fn key(conn: &Connection) -> Result<Vec<u8>> {
    if let Some(hex) = meta::get(conn, KEY)? {
        return Ok(hex.into_bytes());
    }
    let mut bytes = [0_u8; 32];
    conn.query_row("SELECT randomblob(32)", [], |r| {
        let random: Vec<u8> = r.get(0)?;
        bytes.iter_mut().zip(random).for_each(|(to, from)| *to = from);
        Ok(())
    })?;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    meta::put(conn, KEY, &hex)?;
    Ok(hex.into_bytes())
}

fn hash(key: &[u8], kind: Kind, text: &str) -> Hash {
    let mut short = [0; 16];
    // a key of any length will do
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return short };
    mac.update(&[kind as u8]);
    mac.update(text.as_bytes());
    let whole = mac.finalize().into_bytes();
    short.iter_mut().zip(whole).for_each(|(to, from)| *to = from);
    short
}

/// When a channel was made, as its uniqueid tells.
fn moment_of(id: &str) -> Option<Timestamp> {
    ids::Id::parse(id).map(|id| Timestamp::from_secs(id.epoch))
}
