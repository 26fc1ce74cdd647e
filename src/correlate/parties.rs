//! Caller, callees and what was dialled: which channel is whose, and what to call them.

use super::dialling::{AppRun, number_on_trunk, targets};
use super::scene::Scene;
use super::shape::{self, NumberShape};
use crate::call::{CelEvent, Direction, Party, PartyKind};

/// Text as the document has it: never empty.
pub(super) fn known(text: &str) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    // most texts begin and end with what nobody would trim
    let bare = |b: Option<&u8>| b.is_some_and(u8::is_ascii_graphic);
    let text = if bare(text.as_bytes().first()) && bare(text.as_bytes().last()) { text } else { text.trim() };
    (!text.is_empty()).then(|| text.to_owned())
}

/// The call's caller: the first real channel the PBX made. An originate's first channel is the one that asked for the
/// call (or the first that its Local pair made). A call of nothing but Local channels has the first of these.
pub(super) fn caller(scene: &Scene<'_>) -> Option<usize> {
    // where reading began in the middle, the device that was rung may be older than whoever called
    let real = || (0..scene.chans.len()).filter(|&c| scene.chans[c].is_real());
    real().next().or((!scene.chans.is_empty()).then_some(0))
}

/// The call began with an originate: the caller's channel was itself called.
pub(super) fn is_originate(scene: &Scene<'_>, caller: usize) -> bool {
    let chan = &scene.chans[caller];
    chan.app_dial2 && chan.dialled || scene.chans.first().is_some_and(|c| c.local != 0)
}

/// The party behind a channel.
pub(super) fn party(scene: &Scene<'_>, ch: usize) -> Party {
    let chan = &scene.chans[ch];
    if !chan.is_real() {
        return Party { channel: known(chan.name), ..Party::default() };
    }
    let endpoint = chan.endpoint;
    let (number, name) = if chan.dialled && chan.trunk {
        // the trunk's own caller id is no person's
        (number_on_trunk(scene, ch), "")
    } else if chan.dialled && !chan.number_at_start {
        // a phone without a caller id of its own shows the dialled number later
        match chan.extension {
            Some(extension) => (extension, chan.cname_at_start()),
            None => (chan.number, chan.cname),
        }
    } else {
        (chan.number, chan.cname)
    };
    Party {
        number: known(number),
        name: known(name),
        endpoint: known(endpoint),
        channel: known(chan.name),
        kind: shape::kind_by(scene.rules, chan.trunk, endpoint, chan.extension.is_some(), number),
        ..Party::default()
    }
}

impl super::scene::Chan<'_> {
    fn cname_at_start(&self) -> &str {
        if self.number_at_start { self.cname } else { "" }
    }
}

/// The caller as a party: the dialplan's normalisation replaces an outside number, and an extension that goes out with
/// another caller id keeps its own.
pub(super) fn caller_party(scene: &Scene<'_>, runs: &[AppRun<'_>], ch: usize, outbound: bool) -> Party {
    let mut party = party(scene, ch);
    let chan = &scene.chans[ch];
    if party.kind == Some(PartyKind::External) && !chan.dialled {
        let first_app = scene.events_of(ch).find(|e| e.row.event == CelEvent::AppStart);
        if let Some(row) = first_app.map(|e| e.row)
            && !row.cid_num.is_empty()
            && chan.number_at_start
        {
            party.number = known(&row.cid_num);
            party.name = known(&row.cid_name).or(party.name);
        }
    }
    if outbound && party.kind == Some(PartyKind::Extension) {
        let own = chan.number;
        let shown = scene.events_of(ch).map(|e| e.row.cid_num.as_str()).find(|n| !n.is_empty() && *n != own);
        let at_dial = || {
            let dial = runs.iter().find(|r| r.is(&["Dial"]) && !scene.chans[r.ch].is_real())?;
            let at = scene.events_of(dial.ch).find(|e| e.t == dial.start)?;
            Some(at.row.cid_num.as_str()).filter(|n| !n.is_empty() && *n != own)
        };
        party.presented = shown.or_else(at_dial).and_then(known);
    }
    party
}

/// What was dialled, as the PBX saw it first. (number, from CEL)
pub(super) fn dialled_number(scene: &Scene<'_>, caller: usize) -> Option<String> {
    let chan = &scene.chans[caller];
    if !chan.dialled && chan.is_real() && !is_inner(chan.exten) {
        return known(chan.exten);
    }
    if is_originate(scene, caller) {
        return originated_number(scene, caller);
    }
    let rows = || scene.events_of(caller).map(|e| e.row);
    let dnid = rows().map(|r| r.cid_dnid.as_str()).find(|d| !d.is_empty());
    let exten = || rows().map(|r| r.exten.as_str()).find(|e| shape::is_dialled_number(e));
    dnid.or_else(exten).and_then(known).or_else(|| recorded_number(scene, caller))
}

/// Extensions the dialplan jumps to by itself.
fn is_inner(exten: &str) -> bool {
    matches!(exten, "" | "s" | "h" | "i" | "t" | "T" | "e" | "o" | "a")
}

/// The next extension of the channel that was called back, or of the first half of the Local pair, once it is somewhere.
fn originated_number(scene: &Scene<'_>, caller: usize) -> Option<String> {
    let first = if scene.chans[0].local != 0 { 0 } else { caller };
    let start = scene.chans[first].exten;
    let own = scene.events_of(first).filter(|e| {
        // a dialled channel shows its dialler's extension
        !["AppDial", "AppQueue"].iter().any(|a| e.row.appname.eq_ignore_ascii_case(a))
    });
    let next = own.map(|e| e.row.exten.as_str()).find(|x| *x != start && shape::is_dialled_number(x));
    if next.is_some() || scene.chans[first].local == 0 {
        return next.and_then(known);
    }
    // a Local pair that answers by itself was called at its own extension
    let alone = !scene.chans.iter().any(|c| c.dialled);
    (alone && shape::is_dialled_number(start)).then(|| start.to_owned())
}

/// From the records of the caller's channel: `did`, else the first record's `dst`.
fn recorded_number(scene: &Scene<'_>, caller: usize) -> Option<String> {
    let own = || scene.records.iter().map(|r| r.row).filter(|r| r.uniqueid == scene.chans[caller].id);
    let did = own().map(|r| r.did.as_str()).find(|d| !d.is_empty());
    did.or_else(|| own().map(|r| r.dst.as_str()).find(|d| shape::is_dialled_number(d))).and_then(known)
}

/// Endpoints of the trunks on the far side: of the legs that left through one, an answered one first, else the last;
/// without a leg the trunk that was to be dialled.
pub(super) fn trunk_out(scene: &Scene<'_>, runs: &[AppRun<'_>], caller: usize) -> Option<String> {
    let out = || scene.chans.iter().enumerate().filter(|(i, c)| *i != caller && c.dialled && c.trunk).map(|(_, c)| c);
    let leg = out().find(|c| c.bridged).or_else(|| out().next_back()).map(|c| c.endpoint.to_owned());
    leg.or_else(|| {
        let dials = runs.iter().filter(|r| r.is(&["Dial"]));
        let endpoints = dials.flat_map(|r| targets(r.data)).map(|t| t.endpoint());
        endpoints.filter(|e| shape::is_trunk_endpoint(scene.rules, e)).last()
    })
}

/// Trunks decide, then contexts (both in `trunk`), then the shape of the numbers.
pub(super) fn direction(scene: &Scene<'_>, caller: usize, out: bool, to: Option<&str>) -> Direction {
    let chan = &scene.chans[caller];
    if chan.trunk {
        // an originate that calls an outside party first goes out
        return if chan.dialled { Direction::Outbound } else { Direction::Inbound };
    }
    if out {
        return Direction::Outbound;
    }
    if !chan.is_real() {
        return Direction::Unknown;
    }
    let kind = shape::kind_by(scene.rules, false, chan.endpoint, chan.extension.is_some(), chan.number);
    let to_outside = to.is_some_and(|n| shape::number(scene.rules, n) == NumberShape::Outside);
    let rings_inside = scene.chans.iter().enumerate().any(|(i, c)| i != caller && c.dialled && c.extension.is_some());
    match kind {
        Some(PartyKind::External) => Direction::Inbound,
        _ if to_outside && !rings_inside => Direction::Outbound,
        Some(PartyKind::Extension) => Direction::Internal,
        _ => Direction::Unknown,
    }
}
