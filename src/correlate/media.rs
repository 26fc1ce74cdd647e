//! Who was connected with whom: a sweep over the bridges, with Local pairs as pieces of wire.

use std::borrow::Cow;

use super::extra;
use super::nailed::is_basic_bridge;
use super::scene::{Event, Scene};
use crate::call::{CelEvent, Timestamp};

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Caller and somebody were connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    pub with: usize,
    pub span: Span,
    /// Nothing ended it yet.
    pub open: bool,
}

/// A channel's stay in one bridge.
#[derive(Clone, Copy, Debug)]
pub(super) struct Visit<'a> {
    pub ch: usize,
    pub bridge: usize,
    pub span: Span,
    pub kind: BridgeKind,
    /// The channel's extension when it entered and when it left.
    pub exten_in: &'a str,
    pub exten_out: &'a str,
    pub left: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BridgeKind {
    Talk,
    Conference,
    /// Parking and waiting.
    Holding,
}

/// Somebody heard music while connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub on: usize,
    pub by: Option<usize>,
    pub span: Span,
    pub over: bool,
}

#[derive(Default)]
pub(super) struct Media<'a> {
    /// The caller's contacts in order of their beginning.
    pub contacts: Vec<Contact>,
    pub visits: Vec<Visit<'a>>,
    pub holds: Vec<Hold>,
    /// Connected pairs of any two real channels that shared a component, for consultations and transfer targets.
    pub pairs: Vec<(usize, usize, Span)>,
}

impl Media<'_> {
    pub fn talk_spans(&self) -> Vec<Span> {
        union(self.contacts.iter().map(|c| c.span).collect())
    }

    /// `a` and `b` were connected at some time in or after `from`.
    pub fn met_after(&self, a: usize, b: usize, from: Timestamp) -> bool {
        self.pairs.iter().any(|&(x, y, s)| ((x, y) == (a, b) || (x, y) == (b, a)) && s.to > from)
    }

    /// How long `a` and `b` were connected before `until`, in microseconds.
    pub fn together_before(&self, a: usize, b: usize, until: Timestamp) -> i64 {
        let spans = self.pairs.iter().filter(|&&(x, y, _)| (x, y) == (a, b) || (x, y) == (b, a));
        let cut = spans.map(|&(_, _, s)| Span { from: s.from, to: s.to.min(until) }).filter(|s| s.to >= s.from);
        length(&union(cut.collect()))
    }
}

/// Overlapping stretches become one.
pub(super) fn union(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by_key(|s| (s.from, s.to));
    let mut out: Vec<Span> = Vec::with_capacity(spans.len());
    for span in spans {
        match out.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            _ => out.push(span),
        }
    }
    out
}

/// Microseconds.
pub(super) fn length(spans: &[Span]) -> i64 {
    spans.iter().map(|s| s.to.micros().saturating_sub(s.from.micros())).fold(0, i64::saturating_add)
}

/// Microseconds that two sets of stretches share.
pub(super) fn shared(a: &[Span], b: &[Span]) -> i64 {
    let both = |x: &Span, y: &Span| Span { from: x.from.max(y.from), to: x.to.min(y.to) };
    let cuts = a.iter().flat_map(|x| b.iter().map(move |y| both(x, y))).filter(|s| s.to > s.from);
    length(&union(cuts.collect()))
}

struct Bridge<'a> {
    id: Cow<'a, str>,
    kind: BridgeKind,
    members: Vec<usize>,
}

struct Sweep<'s, 'a> {
    scene: &'s Scene<'a>,
    caller: usize,
    bridges: Vec<Bridge<'a>>,
    /// Bridges each channel is in.
    places: Vec<Vec<usize>>,
    open_visits: Vec<usize>,
    open_contacts: Vec<(usize, Timestamp)>,
    open_pairs: Vec<(usize, usize, Timestamp)>,
    in_contact: Vec<bool>,
    /// Channels that are in a bridge.
    bridged: Vec<usize>,
    /// The search in which a channel or bridge was met last.
    round: u32,
    chan_seen: Vec<u32>,
    bridge_seen: Vec<u32>,
    /// Lists that every search needs, kept for the next one.
    reached: Vec<usize>,
    people: Vec<usize>,
    paired: Vec<(usize, usize)>,
    open_holds: Vec<usize>,
    gone: Vec<bool>,
    /// A bridge became one of another kind since the last search.
    stale: bool,
    media: Media<'a>,
}

/// Pairs are of use for transfers; with more channels than this in bridges at a time they are not followed.
const PAIRED_MAX: usize = 32;

pub(super) fn sweep<'a>(scene: &Scene<'a>, caller: usize) -> Media<'a> {
    let mut sweep = Sweep {
        scene,
        caller,
        bridges: Vec::new(),
        places: vec![Vec::new(); scene.chans.len()],
        open_visits: Vec::new(),
        open_contacts: Vec::new(),
        open_pairs: Vec::new(),
        in_contact: vec![false; scene.chans.len()],
        bridged: Vec::new(),
        round: 0,
        chan_seen: vec![0; scene.chans.len()],
        bridge_seen: Vec::new(),
        reached: Vec::new(),
        people: Vec::new(),
        paired: Vec::new(),
        open_holds: Vec::new(),
        gone: vec![false; scene.chans.len()],
        stale: false,
        media: Media::default(),
    };
    for (i, event) in scene.events.iter().enumerate() {
        sweep.take(i, event);
    }
    sweep.finish();
    if !scene.has_bridges {
        sweep.contacts_by_answers();
    }
    sweep.media
}

impl<'a> Sweep<'_, 'a> {
    fn take(&mut self, index: usize, event: &Event<'a>) {
        match event.row.event {
            CelEvent::BridgeEnter | CelEvent::BridgeStart => self.enter(event),
            CelEvent::BridgeExit | CelEvent::BridgeEnd => self.exit(event),
            CelEvent::ChanEnd => self.leave_all(event),
            CelEvent::Hangup if self.scene.chans[event.ch].end == Some(event.t) => self.leave_all(event),
            CelEvent::StreamBegin => self.music_starts(index, event),
            CelEvent::StreamEnd => self.music_stops(event.ch, event.t, true),
            _ => {}
        }
    }

    /// The bridge of this id; the empty id is the one anonymous bridge.
    fn bridge_of(&mut self, id: Option<Cow<'a, str>>) -> usize {
        let id = id.unwrap_or_default();
        if let Some(known) = self.bridges.iter().rposition(|b| b.id == id) {
            return known;
        }
        self.bridges.push(Bridge { id, kind: BridgeKind::Talk, members: Vec::new() });
        self.bridge_seen.push(0);
        self.bridges.len() - 1
    }

    fn enter(&mut self, event: &Event<'a>) {
        let [id, technology] = extra::get_all(&event.row.extra, ["bridge_id", "bridge_technology"]);
        let b = self.bridge_of(id);
        let app = event.row.appname.as_str();
        let technology = technology.unwrap_or_default();
        let kind = if is_conference_app(app) {
            BridgeKind::Conference
        } else if technology.starts_with("holding") || !is_basic_bridge(&technology) && app.is_empty() {
            BridgeKind::Holding
        } else {
            BridgeKind::Talk
        };
        if self.bridges[b].members.is_empty() || kind == BridgeKind::Conference {
            self.stale |= self.bridges[b].kind != kind;
            self.bridges[b].kind = kind;
        }
        if self.bridges[b].members.contains(&event.ch) || self.gone[event.ch] {
            return;
        }
        self.join(event.ch, b, event);
        self.join_unlogged(b, event);
        self.reconnect(event.t);
    }

    fn join(&mut self, ch: usize, b: usize, event: &Event<'a>) {
        self.bridges[b].members.push(ch);
        if self.places[ch].is_empty() {
            self.bridged.push(ch);
        }
        self.places[ch].push(b);
        let visit = Visit {
            ch,
            bridge: b,
            span: Span { from: event.t, to: event.t },
            kind: self.bridges[b].kind,
            exten_in: if ch == event.ch { &event.row.exten } else { "" },
            exten_out: "",
            left: false,
        };
        self.open_visits.push(self.media.visits.len());
        self.media.visits.push(visit);
    }

    /// Whoever enters names those it meets: channels of which no bridge is logged are in this one.
    fn join_unlogged(&mut self, b: usize, event: &Event<'a>) {
        for name in event.row.peer.split(',') {
            let met = self.scene.by_name(name, event.t).filter(|&ch| {
                let chan = &self.scene.chans[ch];
                !chan.bridged && chan.is_up_at(event.t) && !self.gone[ch] && !self.bridges[b].members.contains(&ch)
            });
            if let Some(ch) = met {
                self.join(ch, b, event);
            }
        }
    }

    fn exit(&mut self, event: &Event<'a>) {
        let b = self.bridge_of(extra::get(&event.row.extra, "bridge_id"));
        self.leave(event.ch, b, event.t, &event.row.exten);
        self.reconnect(event.t);
        if self.places[event.ch].is_empty() {
            self.music_stops(event.ch, event.t, false);
        }
    }

    fn leave_all(&mut self, event: &Event<'a>) {
        self.gone[event.ch] = true;
        self.music_stops(event.ch, event.t, false);
        let was_in_none = self.places[event.ch].is_empty();
        while let Some(&b) = self.places[event.ch].first() {
            self.leave(event.ch, b, event.t, &event.row.exten);
        }
        // HANGUP and CHAN_END of whoever left its bridge before change nothing
        if !was_in_none || self.stale {
            self.reconnect(event.t);
        }
    }

    fn leave(&mut self, ch: usize, b: usize, t: Timestamp, exten: &'a str) {
        self.bridges[b].members.retain(|&m| m != ch);
        self.places[ch].retain(|&p| p != b);
        if self.places[ch].is_empty() {
            self.bridged.retain(|&c| c != ch);
        }
        if let Some(at) = self.open_visits.iter().position(|&v| {
            let visit = &self.media.visits[v];
            visit.ch == ch && visit.bridge == b
        }) {
            let visit = &mut self.media.visits[self.open_visits.swap_remove(at)];
            visit.span.to = t;
            visit.exten_out = exten;
            visit.left = true;
        }
    }

    /// Real channels that `from` is connected with now: over bridges, and over Local pairs of which both halves are in
    /// one. Into `people`, in the order met.
    fn component(&mut self, from: usize, people: &mut Vec<usize>) {
        self.round += 1;
        let round = self.round;
        people.clear();
        let mut bridges = std::mem::take(&mut self.reached);
        bridges.clear();
        bridges.extend(self.talk_bridges(from));
        for &b in &bridges {
            self.bridge_seen[b] = round;
        }
        let mut at = 0;
        while at < bridges.len() {
            for m in 0..self.bridges[bridges[at]].members.len() {
                let m = self.bridges[bridges[at]].members[m];
                if self.scene.chans[m].is_real() {
                    if m != from && self.chan_seen[m] != round {
                        self.chan_seen[m] = round;
                        people.push(m);
                    }
                } else if let Some(mate) = self.scene.chans[m].mate {
                    for p in 0..self.places[mate].len() {
                        let b = self.places[mate][p];
                        if self.bridges[b].kind == BridgeKind::Talk && self.bridge_seen[b] != round {
                            self.bridge_seen[b] = round;
                            bridges.push(b);
                        }
                    }
                }
            }
            at += 1;
        }
        self.reached = bridges;
    }

    fn talk_bridges(&self, ch: usize) -> impl Iterator<Item = usize> + '_ {
        self.places[ch].iter().copied().filter(|&b| self.bridges[b].kind == BridgeKind::Talk)
    }

    fn reconnect(&mut self, t: Timestamp) {
        self.stale = false;
        let mut now = std::mem::take(&mut self.people);
        self.component(self.caller, &mut now);
        let (media, round, seen) = (&mut self.media, self.round, &self.chan_seen);
        let in_contact = &mut self.in_contact;
        self.open_contacts.retain(|&(with, from)| {
            let stays = seen[with] == round;
            if !stays {
                in_contact[with] = false;
                media.contacts.push(Contact { with, span: Span { from, to: t }, open: false });
            }
            stays
        });
        for &with in &now {
            if !in_contact[with] {
                in_contact[with] = true;
                self.open_contacts.push((with, t));
            }
        }
        self.people = now;
        self.reconnect_pairs(t);
    }

    fn reconnect_pairs(&mut self, t: Timestamp) {
        let mut people = std::mem::take(&mut self.people);
        let mut now = std::mem::take(&mut self.paired);
        now.clear();
        if self.bridged.len() <= PAIRED_MAX {
            for i in 0..self.bridged.len() {
                let ch = self.bridged[i];
                if self.scene.chans[ch].is_real() {
                    self.component(ch, &mut people);
                    now.extend(people.iter().filter(|&&o| o > ch).map(|&o| (ch, o)));
                }
            }
        }
        self.people = people;
        let (media, open) = (&mut self.media, &mut self.open_pairs);
        open.retain(|&(a, b, from)| {
            let stays = now.contains(&(a, b));
            if !stays {
                media.pairs.push((a, b, Span { from, to: t }));
            }
            stays
        });
        for &(a, b) in &now {
            if !open.iter().any(|&(x, y, _)| (x, y) == (a, b)) {
                open.push((a, b, t));
            }
        }
        self.paired = now;
    }

    /// Music on a connected channel is hold by the other side, unless a feature code is being dialled there.
    fn music_starts(&mut self, index: usize, event: &Event<'a>) {
        if extra::get(&event.row.extra, "class").is_none() {
            return;
        }
        let Some(b) = self.talk_bridges(event.ch).find(|&b| self.bridges[b].members.len() > 1) else { return };
        let mut met = std::mem::take(&mut self.people);
        self.component(event.ch, &mut met);
        let by = met.first().copied();
        self.people = met;
        let others: Vec<usize> = self.bridges[b].members.iter().copied().filter(|&m| m != event.ch).collect();
        if self.dials_feature(index, event, &others) {
            return;
        }
        self.open_holds.push(self.media.holds.len());
        self.media.holds.push(Hold { on: event.ch, by, span: Span { from: event.t, to: event.t }, over: false });
    }

    /// A prompt to whoever dials the code starts in the same breath, or their digits came just before.
    fn dials_feature(&self, index: usize, event: &Event<'_>, others: &[usize]) -> bool {
        let events = &self.scene.events;
        let near = |e: &Event<'_>, us: u64| e.t.micros().abs_diff(event.t.micros()) <= us;
        let prompt = events[index + 1..].iter().take_while(|e| near(e, 100_000)).any(|e| {
            e.row.event == CelEvent::StreamBegin
                && others.contains(&e.ch)
                && extra::get(&e.row.extra, "sound").is_some()
        });
        let digits = events[..index]
            .iter()
            .rev()
            .take_while(|e| near(e, 1_000_000))
            .any(|e| e.row.event == CelEvent::Dtmf && others.contains(&e.ch));
        prompt || digits
    }

    fn music_stops(&mut self, ch: usize, t: Timestamp, over: bool) {
        let holds = &mut self.media.holds;
        self.open_holds.retain(|&h| {
            let stops = holds[h].on == ch;
            if stops {
                holds[h].span.to = t;
                holds[h].over = over;
            }
            !stops
        });
    }

    fn finish(&mut self) {
        let end = self.scene.events.last().map_or(Timestamp::default(), |e| e.t);
        for (with, from) in std::mem::take(&mut self.open_contacts) {
            self.media.contacts.push(Contact { with, span: Span { from, to: end }, open: true });
        }
        for (a, b, from) in std::mem::take(&mut self.open_pairs) {
            self.media.pairs.push((a, b, Span { from, to: end }));
        }
        for v in std::mem::take(&mut self.open_visits) {
            self.media.visits[v].span.to = end;
        }
        for h in std::mem::take(&mut self.open_holds) {
            self.media.holds[h].span.to = end;
        }
        self.sort_contacts();
    }

    fn sort_contacts(&mut self) {
        self.media.contacts.sort_by_key(|c| (c.span.from, c.span.to, c.with));
    }

    /// An event list without bridges: from the callee's answer until one of the two is gone. A caller that was never
    /// answered has spoken with nobody, whoever picked up for it: a confirmation was refused.
    fn contacts_by_answers(&mut self) {
        let caller = &self.scene.chans[self.caller];
        if caller.is_real() && caller.answer.is_none() && caller.hung_up {
            return;
        }
        for (i, chan) in self.scene.chans.iter().enumerate() {
            if i == self.caller || !chan.dialled || chan.cause == Some(26) {
                continue;
            }
            if let Some(from) = chan.answer.filter(|&t| caller.is_up_at(t)) {
                let to = chan.gone().min(caller.gone()).max(from);
                let open = chan.end.is_none() && caller.end.is_none();
                self.media.contacts.push(Contact { with: i, span: Span { from, to }, open });
                self.media.pairs.push((self.caller.min(i), self.caller.max(i), Span { from, to }));
            }
        }
        self.sort_contacts();
    }
}

pub(super) fn is_conference_app(app: &str) -> bool {
    ["ConfBridge", "MeetMe", "Conference"].iter().any(|a| app.eq_ignore_ascii_case(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(from: i64, to: i64) -> Span {
        Span { from: Timestamp::from_micros(from), to: Timestamp::from_micros(to) }
    }

    #[test]
    fn stretches_add_up_once() {
        let a = union(vec![span(5, 9), span(0, 3), span(2, 4), span(9, 10)]);
        assert_eq!(a, [span(0, 4), span(5, 10)]);
        assert_eq!(length(&a), 9);
        assert_eq!(shared(&a, &[span(3, 6), span(100, 200)]), 2);
    }
}
