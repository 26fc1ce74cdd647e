//! The body SIPSTACK's API takes: field names, kinds and the order of a call's thread as the connector sends them.
//!
//! Where it differs, on purpose: times carry their offset (the connector's later versions lost it), `duration_seconds` is
//! the length of the call where the longest record is not, direction, tenant and parties are those of the correlated call,
//! numbers are not guessed at (a leading 9 stays, a foreign number gets no 1), and `INCLUDE_RAW_DATA` works.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::call::{
    Call, CallState, CdrRow, CelEvent, CelRow, Direction, Disposition, Outcome, Party, PartyKind, RowTime, Timestamp,
    Tombstone,
};
use crate::correlate::Zone;
use crate::ship::privacy::is_hidden;
use crate::ship::rows::{FrozenRows, local};
use crate::ship::{Frozen, RenderError};

/// What the settings say about every call.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub customer_id: i64,
    pub tenant: String,
    pub hostname: String,
    /// Send the rows along (`INCLUDE_RAW_DATA`).
    pub raw_data: bool,
}

/// One call. Fields that are `Option` are left out when there is nothing to say.
#[derive(Serialize)]
struct Body<'a> {
    connector: &'static str,
    connector_version: &'static str,
    customer_id: i64,
    tenant: &'a str,
    hostname: &'a str,
    linkedid: &'a str,
    direction: &'static str,
    disposition: String,
    call_time: String,
    duration_seconds: i64,
    is_complete: bool,
    #[serde(flatten)]
    source: Side<'a>,
    #[serde(flatten)]
    destination: DestinationSide<'a>,
    call_threads: Vec<Value>,
    call_threads_count: usize,
    recording_files: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_cdrs: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_cels: Option<Vec<Value>>,
    ship_phase: &'static str,
    shipped_at: String,
}

#[derive(Default, Serialize)]
struct Side<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    src_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_extension: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    src_extension_name: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct DestinationSide<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_number: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_extension: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dst_extension_name: Option<&'a str>,
}

/// Renders a frozen call, or what remains of one that was merged into another.
pub fn render(frozen: &Frozen<'_>, identity: &Identity) -> Result<Vec<u8>, RenderError> {
    let unreadable = |e: serde_json::Error| RenderError(format!("call document: {e}"));
    let rows = frozen.rows.map(FrozenRows::thaw).transpose()?;
    let zone = rows.as_ref().map_or(Zone::Fixed(0), |r| r.zone.clone());
    let shipped_at = local(&zone, frozen.now);
    let body = match serde_json::from_str::<Tombstone>(frozen.document) {
        Ok(tombstone) => serde_json::to_vec(&merged(&tombstone, identity, shipped_at)),
        Err(_) => {
            let call: Call = serde_json::from_str(frozen.document).map_err(unreadable)?;
            serde_json::to_vec(&body(&call, rows.as_ref(), &zone, identity, shipped_at))
        }
    };
    body.map_err(unreadable)
}

fn body<'a>(
    call: &'a Call,
    rows: Option<&FrozenRows>,
    zone: &Zone,
    identity: &'a Identity,
    shipped_at: String,
) -> Body<'a> {
    let c = &call.content;
    let threads = rows.map(threads).unwrap_or_default();
    let raw = rows.filter(|_| identity.raw_data);
    let over = c.state != CallState::InProgress;
    Body {
        connector: "asterisk",
        connector_version: env!("CARGO_PKG_VERSION"),
        customer_id: identity.customer_id,
        tenant: c.tenant.as_deref().unwrap_or(&identity.tenant),
        hostname: call.source.host.as_deref().unwrap_or(&identity.hostname),
        linkedid: &c.linkedid,
        direction: match c.direction {
            Direction::Inbound => "i",
            Direction::Outbound => "o",
            Direction::Internal | Direction::Unknown => "x",
        },
        disposition: disposition(c.outcome, rows),
        call_time: c.started_at.map_or_else(String::new, |t| local(zone, t)),
        duration_seconds: c.duration_s.map_or(0, |d| duration(d.millis(), rows)),
        is_complete: over,
        source: source_side(&c.from),
        destination: destination_side(&c.to, c.did.as_deref(), c.answered_by.as_ref()),
        call_threads_count: threads.len(),
        call_threads: threads,
        recording_files: c.recordings.iter().map(|r| recording(r, zone)).collect(),
        raw_cdrs: raw.map(|r| r.cdr.iter().map(|row| raw_cdr(row, r)).collect()),
        raw_cels: raw.map(|r| r.cel.iter().map(|row| raw_cel(row, r)).collect()),
        ship_phase: match (over, call.revision) {
            (true, _) => "complete",
            (false, 1) => "initial",
            (false, _) => "update",
        },
        shipped_at,
    }
}

/// The format knows no merging: the absorbed linkedid is put back to "not complete" with nothing to count in it.
fn merged<'a>(tombstone: &'a Tombstone, identity: &'a Identity, shipped_at: String) -> Body<'a> {
    Body {
        connector: "asterisk",
        connector_version: env!("CARGO_PKG_VERSION"),
        customer_id: identity.customer_id,
        tenant: &identity.tenant,
        hostname: &identity.hostname,
        // SOURCE_ID holds no colon
        linkedid: tombstone.id.split_once(':').map_or(tombstone.id.as_str(), |(_, linkedid)| linkedid),
        direction: "x",
        disposition: String::new(),
        call_time: shipped_at.clone(),
        duration_seconds: 0,
        is_complete: false,
        source: Side::default(),
        destination: DestinationSide::default(),
        call_threads: Vec::new(),
        call_threads_count: 0,
        recording_files: Vec::new(),
        raw_cdrs: None,
        raw_cels: None,
        ship_phase: "update",
        shipped_at,
    }
}

/// ANSWERED when any record says so, else the first record's; without records, from the outcome as Asterisk would write it.
fn disposition(outcome: Option<Outcome>, rows: Option<&FrozenRows>) -> String {
    let records = rows.map_or(&[][..], |r| &r.cdr);
    let known = |d: &&Disposition| !d.name().is_empty();
    if records.iter().any(|r| r.disposition == Disposition::Answered) {
        return "ANSWERED".to_owned();
    }
    let first = records.iter().min_by_key(|r| (r.start.map(raw_micros), r.sequence, r.id)).map(|r| &r.disposition);
    if let Some(first) = first.filter(known) {
        return first.name().to_owned();
    }
    match outcome {
        Some(Outcome::Answered | Outcome::Voicemail | Outcome::SelfService) => "ANSWERED",
        Some(Outcome::Busy) => "BUSY",
        Some(Outcome::Failed) => "FAILED",
        Some(Outcome::Abandoned | Outcome::NoAnswer | Outcome::Declined) | None => "NO ANSWER",
    }
    .to_owned()
}

/// The longest record's seconds, as the connector sent them, where that record is the whole call: a record counts whole
/// seconds in its own way, and the receiver's figures must not move by one. Otherwise the length of the call, rounded.
fn duration(call_ms: i64, rows: Option<&FrozenRows>) -> i64 {
    let longest = rows.and_then(|r| r.cdr.iter().filter_map(|row| row.duration_ms).max());
    match longest {
        Some(ms) if (ms.div_euclid(1_000) * 1_000).abs_diff(call_ms) <= 1_000 => ms.div_euclid(1_000),
        _ => (call_ms + 500).div_euclid(1_000),
    }
}

const fn raw_micros(time: RowTime) -> i64 {
    match time {
        RowTime::Utc(micros) => micros,
        RowTime::Wall(wall) => wall.0,
    }
}

fn source_side(from: &Party) -> Side<'_> {
    if from.kind == Some(PartyKind::Extension) {
        Side {
            // what the other side saw, where that is a number of its own
            src_number: from.presented.as_deref().and_then(digits).filter(|d| d.len() >= 10),
            src_extension: from.number.as_deref(),
            src_extension_name: from.name.as_deref(),
            src_name: None,
        }
    } else {
        Side { src_number: number(from), src_name: from.name.as_deref(), ..Side::default() }
    }
}

/// The number dialled from outside, and the extension that answered; for a call from inside, whom it was for.
fn destination_side<'a>(to: &'a Party, did: Option<&str>, answered_by: Option<&'a Party>) -> DestinationSide<'a> {
    let mut side = DestinationSide::default();
    let inside = match to.kind {
        // queues, conferences, mailboxes: reached under a short number of the PBX
        Some(PartyKind::External) | None => false,
        Some(_) => did.is_none(),
    };
    if inside {
        side.dst_extension = to.number.as_deref();
        side.dst_extension_name = to.name.as_deref();
    } else {
        side.dst_number = did.and_then(digits).map(nanp).or_else(|| number(to));
        side.dst_name = to.name.as_deref().filter(|_| to.kind == Some(PartyKind::External));
    }
    let extension = answered_by.filter(|p| p.kind == Some(PartyKind::Extension) && p.number.is_some());
    if let Some(party) = extension.or_else(|| Some(to).filter(|p| p.kind == Some(PartyKind::Extension))) {
        side.dst_extension = party.number.as_deref();
        side.dst_extension_name = party.name.as_deref();
    }
    side
}

/// Digits of the E.164 form where it is known, else of what the PBX wrote.
fn number(party: &Party) -> Option<String> {
    let e164 = party.e164.as_deref().and_then(digits);
    e164.or_else(|| party.number.as_deref().and_then(digits).map(nanp))
}

fn digits(text: &str) -> Option<String> {
    if is_hidden(text) {
        return Some(text.trim_start_matches('+').to_owned());
    }
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

/// As the connector writes North American numbers: ten digits get their country code, when they have that plan's shape.
fn nanp(digits: String) -> String {
    let b = digits.as_bytes();
    let plain = !is_hidden(&digits);
    if plain && b.len() == 10 && b[0] >= b'2' && b[3] >= b'2' { format!("1{digits}") } else { digits }
}

fn recording(r: &crate::call::Recording, zone: &Zone) -> Value {
    let mut value = json!({
        "filename": r.file,
        "file_path": r.path,
        "file_size": r.size,
        "source": r.matched_by.as_str(),
    });
    if let (Some(at), Some(map)) = (r.started_at, value.as_object_mut()) {
        map.insert("started_at".to_owned(), local(zone, at).into());
    }
    value
}

/// Records and the events that move a call, in the order of their times.
fn threads(rows: &FrozenRows) -> Vec<Value> {
    let cdr = rows.cdr.iter().map(|r| {
        let at = r.start.map(|t| rows.moment(t, &r.uniqueid));
        (at, (0, r.sequence, r.id), cdr_thread(r, time(rows, at)))
    });
    let cel = rows.cel.iter().filter(|r| in_thread(&r.event)).map(|r| {
        let at = r.time.map(|t| rows.moment(t, &r.uniqueid));
        (at, (1, None, r.id), cel_thread(r, time(rows, at)))
    });
    let mut items: Vec<_> = cdr.chain(cel).collect();
    items.sort_by_key(|(at, place, _)| (*at, *place));
    items.into_iter().map(|(_, _, item)| item).collect()
}

fn time(rows: &FrozenRows, at: Option<Timestamp>) -> String {
    at.map_or_else(String::new, |t| rows.local(t))
}

const fn in_thread(event: &CelEvent) -> bool {
    matches!(
        event,
        CelEvent::ChanStart
            | CelEvent::Answer
            | CelEvent::BridgeEnter
            | CelEvent::BridgeExit
            | CelEvent::BlindTransfer
            | CelEvent::AttendedTransfer
            | CelEvent::Hangup
            | CelEvent::LinkedidEnd
    )
}

fn cdr_thread(r: &CdrRow, time: String) -> Value {
    json!({
        "time": time,
        "event": "CDR",
        "src": r.src.as_str(),
        "dst": r.dst.as_str(),
        "duration": seconds(r.duration_ms),
        "billsec": seconds(r.billsec_ms),
        "disposition": r.disposition.name(),
        "channel": r.channel.as_str(),
        "dstchannel": r.dstchannel.as_str(),
        "uniqueid": r.uniqueid.as_str(),
    })
}

fn cel_thread(r: &CelRow, time: String) -> Value {
    let mut item = json!({
        "time": time,
        "event": r.event.name(),
        "channel": r.channel.as_str(),
        "exten": r.exten.as_str(),
        "context": r.context.as_str(),
        "uniqueid": r.uniqueid.as_str(),
    });
    let more = match r.event {
        CelEvent::BridgeEnter | CelEvent::BridgeExit => Some(("peer", &r.peer)),
        CelEvent::BlindTransfer | CelEvent::AttendedTransfer => Some(("transferee", &r.extra)),
        _ => None,
    };
    if let (Some((name, text)), Some(map)) = (more, item.as_object_mut()) {
        map.insert(name.to_owned(), text.as_str().into());
    }
    item
}

/// Whole seconds, as the table holds them.
fn seconds(millis: Option<i64>) -> i64 {
    millis.unwrap_or(0).div_euclid(1_000)
}

/// The columns of Asterisk's `cdr` table under their usual names; what the row does not hold is left out.
fn raw_cdr(r: &CdrRow, rows: &FrozenRows) -> Value {
    let mut map = Map::new();
    let mut time = |name: &str, at: Option<RowTime>| {
        if let Some(at) = at {
            map.insert(name.to_owned(), rows.local(rows.moment(at, &r.uniqueid)).into());
        }
    };
    time("calldate", r.start);
    time("answer", r.answer);
    time("end", r.end);
    let numbers = [
        ("id", r.id),
        ("duration", r.duration_ms.map(|ms| ms.div_euclid(1_000))),
        ("billsec", r.billsec_ms.map(|ms| ms.div_euclid(1_000))),
        ("sequence", r.sequence),
    ];
    let texts = [
        ("clid", r.clid.as_str()),
        ("src", &r.src),
        ("dst", &r.dst),
        ("dcontext", &r.dcontext),
        ("channel", &r.channel),
        ("dstchannel", &r.dstchannel),
        ("lastapp", &r.lastapp),
        ("lastdata", &r.lastdata),
        ("disposition", r.disposition.name()),
        ("amaflags", &r.amaflags),
        ("accountcode", &r.accountcode),
        ("peeraccount", &r.peeraccount),
        ("userfield", &r.userfield),
        ("uniqueid", &r.uniqueid),
        ("linkedid", &r.linkedid),
        ("did", &r.did),
        ("recordingfile", &r.recordingfile),
        ("cnum", &r.cnum),
        ("cnam", &r.cnam),
        ("outbound_cnum", &r.outbound_cnum),
        ("outbound_cnam", &r.outbound_cnam),
        ("dst_cnam", &r.dst_cnam),
    ];
    fill(map, &numbers, &texts)
}

/// The same for the `cel` table.
fn raw_cel(r: &CelRow, rows: &FrozenRows) -> Value {
    let mut map = Map::new();
    if let Some(at) = r.time {
        map.insert("eventtime".to_owned(), rows.local(rows.moment(at, &r.uniqueid)).into());
    }
    let texts = [
        ("eventtype", r.event.name()),
        ("cid_name", &r.cid_name),
        ("cid_num", &r.cid_num),
        ("cid_ani", &r.cid_ani),
        ("cid_rdnis", &r.cid_rdnis),
        ("cid_dnid", &r.cid_dnid),
        ("exten", &r.exten),
        ("context", &r.context),
        ("channame", &r.channel),
        ("appname", &r.appname),
        ("appdata", &r.appdata),
        ("amaflags", &r.amaflags),
        ("accountcode", &r.accountcode),
        ("peeraccount", &r.peeraccount),
        ("uniqueid", &r.uniqueid),
        ("linkedid", &r.linkedid),
        ("userfield", &r.userfield),
        ("peer", &r.peer),
        ("userdeftype", &r.userdeftype),
        ("extra", &r.extra),
    ];
    fill(map, &[("id", r.id)], &texts)
}

fn fill(mut map: Map<String, Value>, numbers: &[(&str, Option<i64>)], texts: &[(&str, &str)]) -> Value {
    for (name, number) in numbers {
        if let Some(number) = number {
            map.insert((*name).to_owned(), (*number).into());
        }
    }
    for (name, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        map.insert((*name).to_owned(), (*text).into());
    }
    Value::Object(map)
}
