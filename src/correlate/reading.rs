//! What each CEL row was read as: the rule that took it up, in words.

use super::attempts::Tried;
use super::causes;
use super::explain::{clean, spaced, who};
use super::extra;
use super::media::{BridgeKind, Media};
use super::parties::party;
use super::scene::{Event, Scene};
use crate::call::{AttemptResult, CelEvent, Content};

pub(super) struct Reader<'s, 'a> {
    pub scene: &'s Scene<'a>,
    pub media: &'s Media<'a>,
    pub tried: &'s [Tried],
    pub caller: usize,
    pub content: &'s Content,
}

impl Reader<'_, '_> {
    /// Empty: no rule reads the row.
    pub fn read(&self, index: usize) -> String {
        let event = &self.scene.events[index];
        let chan = &self.scene.chans[event.ch];
        let row = event.row;
        match row.event {
            CelEvent::ChanStart => self.start(event),
            CelEvent::Answer if event.ch == self.caller => match self.content.pbx_answered_at {
                Some(at) if at == event.t => "the PBX answers the caller".to_owned(),
                _ => "the callee's answer passed on".to_owned(),
            },
            CelEvent::Answer if chan.dialled => "answered: ringing is over".to_owned(),
            CelEvent::BridgeEnter | CelEvent::BridgeStart => self.enter(event),
            CelEvent::BridgeExit | CelEvent::BridgeEnd => self.exit(event),
            CelEvent::AppStart => self.app(event),
            CelEvent::Hangup => self.hangup(event),
            CelEvent::ChanEnd if event.ch == self.caller => "end of the caller's channel".to_owned(),
            CelEvent::LinkedidEnd => "no channel has this linkedid any more".to_owned(),
            CelEvent::BlindTransfer | CelEvent::AttendedTransfer => self.transfer(event),
            CelEvent::ParkStart => "parked: waiting, not talking".to_owned(),
            CelEvent::ParkEnd => {
                let reason = extra::get(&row.extra, "reason").unwrap_or_default();
                format!("leaves parking: {}", clean(&reason))
            }
            CelEvent::Pickup => match chan.picked_up_by {
                Some(by) => format!("picked up by {}", self.name(by)),
                None => "picked up".to_owned(),
            },
            CelEvent::Forward => {
                format!("forwarded to {}", clean(&extra::get(&row.extra, "forward").unwrap_or_default()))
            }
            CelEvent::StreamBegin => match self.media.holds.iter().find(|h| h.on == event.ch && h.span.from == event.t)
            {
                Some(hold) => {
                    format!("music while connected: on hold by {}", hold.by.map_or("?".into(), |b| self.name(b)))
                }
                None => String::new(),
            },
            CelEvent::StreamEnd
                if self.media.holds.iter().any(|h| h.on == event.ch && h.over && h.span.to == event.t) =>
            {
                "off hold".to_owned()
            }
            CelEvent::Dtmf => format!("digit {}", clean(&extra::get(&row.extra, "digit").unwrap_or_default())),
            CelEvent::LocalOptimize => "the Local pair is taken out of the path".to_owned(),
            _ => String::new(),
        }
    }

    fn name(&self, ch: usize) -> String {
        who(&party(self.scene, ch))
    }

    fn start(&self, event: &Event<'_>) -> String {
        let chan = &self.scene.chans[event.ch];
        if event.ch == self.caller {
            let number = self.content.to.number.as_deref().map_or("?".into(), clean);
            return if chan.dialled {
                format!("the caller, called back first; then {number}")
            } else {
                format!("the caller, dialled {number}")
            };
        }
        if !chan.is_real() {
            return format!("half {} of a Local pair: a piece of wire, no party", chan.local);
        }
        if chan.dialled {
            let tried = self.tried.iter().find(|t| t.ch == event.ch);
            let result = tried.map_or_else(String::new, |t| spaced(t.result.as_str()));
            return format!("rings {}: {result}", self.name(event.ch));
        }
        format!("{} calls in: a line of its own, not rung", self.name(event.ch))
    }

    fn enter(&self, event: &Event<'_>) -> String {
        let visit = self.media.visits.iter().find(|v| v.ch == event.ch && v.span.from == event.t);
        match visit.map(|v| v.kind) {
            Some(BridgeKind::Holding) => return "waits in a holding bridge".to_owned(),
            Some(BridgeKind::Conference) => return "joins a conference".to_owned(),
            _ => {}
        }
        let begun = self.media.contacts.iter().filter(|c| c.span.from == event.t);
        let begun: Vec<String> = begun.map(|c| self.name(c.with)).collect();
        if begun.is_empty() { String::new() } else { format!("caller and {} are connected", begun.join(", ")) }
    }

    fn exit(&self, event: &Event<'_>) -> String {
        let over = self.media.contacts.iter().filter(|c| c.span.to == event.t && !c.open);
        let over: Vec<String> = over.map(|c| self.name(c.with)).collect();
        if over.is_empty() { String::new() } else { format!("caller and {} are parted", over.join(", ")) }
    }

    fn app(&self, event: &Event<'_>) -> String {
        let is = |names: &[&str]| names.iter().any(|n| event.row.appname.eq_ignore_ascii_case(n));
        if is(&["Dial", "FollowMe", "Page"]) {
            "dials".to_owned()
        } else if is(&["Queue"]) {
            "enters a queue: waiting begins".to_owned()
        } else if is(&["Background", "BackgroundDetect", "Read", "WaitExten"]) {
            "a menu".to_owned()
        } else if is(&["VoiceMail"]) {
            "a mailbox".to_owned()
        } else if is(&["VoiceMailMain"]) {
            "listens to a mailbox: self service".to_owned()
        } else if is(&["MixMonitor", "Monitor"]) {
            "recording".to_owned()
        } else if super::media::is_conference_app(&event.row.appname) {
            "a conference".to_owned()
        } else if is(&["Busy", "Congestion", "Hangup"]) {
            "the dialplan ends it".to_owned()
        } else {
            String::new()
        }
    }

    fn hangup(&self, event: &Event<'_>) -> String {
        let chan = &self.scene.chans[event.ch];
        let mut text = match chan.cause.map(|c| (c, causes::name(c))) {
            None => "no cause".to_owned(),
            Some((code, None)) => format!("cause {code}"),
            Some((code, Some(name))) => format!("cause {code} ({})", spaced(name)),
        };
        if !chan.hangup_source.is_empty() {
            text = format!("{text} by {}", clean(&chan.hangup_source));
        }
        match self.tried.iter().find(|t| t.ch == event.ch) {
            // that it was answered was told when it was
            Some(t) if t.result == AttemptResult::Answered => text,
            Some(t) => format!("{text}: {}", spaced(t.result.as_str())),
            None if event.ch == self.caller => {
                format!("{text}: hung up by {}", self.content.hung_up_by.map_or("?", |h| h.as_str()))
            }
            None => text,
        }
    }

    fn transfer(&self, event: &Event<'_>) -> String {
        match self.content.transfers.iter().find(|t| t.at == event.t) {
            Some(t) => {
                let how = if t.answered {
                    "answered"
                } else if t.returned {
                    "came back"
                } else {
                    "not answered"
                };
                format!("{} transfer to {}: {how}", t.kind, who(&t.to))
            }
            None => "transfer into parking".to_owned(),
        }
    }
}
