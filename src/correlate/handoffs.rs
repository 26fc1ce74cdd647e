//! The call changes hands: transfers of every kind, parking, pickup, forwarding.

use super::attempts::Tried;
use super::dialling::{behind_local, is_dialler};
use super::extra;
use super::media::{BridgeKind, Media, Visit};
use super::parties::{known, party};
use super::scene::{Event, Scene};
use super::shape;
use crate::call::{AttemptResult, CelEvent, Party, Seconds, Step, StepKind, Timestamp, Transfer, TransferKind};

#[derive(Default)]
pub(super) struct Handoffs {
    pub transfers: Vec<Transfer>,
    pub steps: Vec<Step>,
    pub transferers: Vec<usize>,
    pub targets: Vec<usize>,
    pub retrievers: Vec<usize>,
    /// (picked up, by)
    pub pickups: Vec<(usize, usize)>,
}

/// What is known about a call's course when it is read for handoffs.
pub(super) struct Course<'s, 'a> {
    pub scene: &'s Scene<'a>,
    pub media: &'s Media<'a>,
    pub tried: &'s [Tried],
    pub caller: usize,
}

/// A park that follows a transfer within this time is what the transfer was for.
const PARK_AFTER_US: i64 = 2_000_000;

pub(super) fn handoffs(course: &Course<'_, '_>) -> Handoffs {
    let mut found = Handoffs::default();
    for event in &course.scene.events {
        match event.row.event {
            CelEvent::BlindTransfer => course.blind(event, &mut found),
            CelEvent::AttendedTransfer => course.attended(event, &mut found),
            CelEvent::ParkStart => course.park(event, &mut found),
            CelEvent::ParkEnd => course.unpark(event, &mut found),
            CelEvent::Pickup => course.pickup(event, &mut found),
            CelEvent::Forward => course.forward(event, &mut found),
            _ => {}
        }
    }
    course.returned_consultations(&mut found);
    course.redirects(&mut found);
    course.redirected_callees(&mut found);
    found.transfers.sort_by_key(|t| t.at);
    found
}

impl Course<'_, '_> {
    fn blind(&self, event: &Event<'_>, found: &mut Handoffs) {
        let transferee = self.channel(event, "transferee_channel").or_else(|| {
            // without details: whoever was in a bridge with the transferer
            self.partner_at(event.ch, event.t)
        });
        if self.parks_at(transferee, event.t) {
            found.transferers.push(event.ch);
            return;
        }
        let exten = extra::get(&event.row.extra, "extension");
        let target = self.target_after(event.t, event.ch, transferee, exten.as_deref());
        let to = match target {
            Some(t) => party(self.scene, self.tried[t].ch),
            None => Party { number: exten.as_deref().and_then(known), ..Party::default() },
        };
        let answered = match target {
            Some(t) => self.reached(self.tried[t].ch, transferee, event.t),
            None => self.joins_conference(transferee.unwrap_or(self.caller), event.t),
        };
        let returned = !answered && self.called_back(event.ch, transferee, event.t);
        found.transferers.push(event.ch);
        found.targets.extend(target.map(|t| self.tried[t].ch));
        found.transfers.push(Transfer {
            at: event.t,
            kind: TransferKind::Blind,
            by: party(self.scene, event.ch),
            to,
            answered,
            consult_s: None,
            returned,
        });
    }

    fn attended(&self, event: &Event<'_>, found: &mut Handoffs) {
        let scene = self.scene;
        let second = self.channel(event, "channel2");
        let named = self.channel(event, "transfer_target_channel");
        let target = named
            .and_then(|t| if scene.chans[t].is_real() { Some(t) } else { behind_local(scene, t) })
            .or_else(|| self.consulted(event, second));
        // a narrow column cuts the names off: then whoever it had been connected with besides the target
        let transferee =
            self.channel(event, "transferee_channel").or_else(|| self.partner_but(event.ch, target, event.t));
        // what the second line was still trying may be answered by somebody who rang later: the next agent of a queue
        let waits = extra::get(&event.row.extra, "app").is_some_and(|app| is_dialler(&app));
        let later = || {
            let x = self.target_after(event.t, event.ch, transferee, None)?;
            (self.tried[x].result == AttemptResult::Answered).then(|| self.tried[x].ch)
        };
        let nobody_yet = target.is_none_or(|t| scene.chans[t].answer.is_none());
        let target = if waits && nobody_yet { later().or(target) } else { target };
        let line = second.unwrap_or(event.ch);
        let answered_at = target.and_then(|t| scene.chans[t].answer);
        // a second line that is still dialling or queueing has reached nobody; any other application has answered it
        let application = extra::get(&event.row.extra, "app").filter(|app| !is_dialler(app));
        let consulted = answered_at.is_some_and(|a| a <= event.t) || application.is_some();
        let kind = if consulted { TransferKind::Attended } else { TransferKind::Blonde };
        let to = match target {
            Some(t) => party(scene, t),
            None => Party { number: known(scene.chans[line].exten), ..Party::default() },
        };
        let answered = match target {
            Some(t) => self.reached(t, transferee, event.t),
            None => application.is_some(),
        };
        let together = |a: usize| target.map_or(0, |t| self.media.together_before(a, t, event.t));
        let consult_us = together(event.ch).max(together(line));
        let returned = !answered && self.called_back(event.ch, transferee, event.t);
        found.transferers.push(event.ch);
        found.transferers.extend(second);
        found.targets.extend(target);
        found.transfers.push(Transfer {
            at: event.t,
            kind,
            by: party(scene, event.ch),
            to,
            answered,
            consult_s: (consult_us > 0 || consulted && target.is_some()).then(|| Seconds::from_micros(consult_us)),
            returned,
        });
    }

    /// A consultation that came back writes no row: the transferer leaves the bridge, waits in another one for somebody
    /// it dialled, and comes back alone.
    fn returned_consultations(&self, found: &mut Handoffs) {
        let talks: Vec<&Visit<'_>> = self.media.visits.iter().filter(|v| v.kind == BridgeKind::Talk).collect();
        for ch in 0..self.scene.chans.len() {
            if !self.scene.chans[ch].is_real() || ch == self.caller && self.media.contacts.is_empty() {
                continue;
            }
            let own: Vec<&&Visit<'_>> = talks.iter().filter(|v| v.ch == ch).collect();
            for three in own.windows(3) {
                let (first, consult, back) = (three[0], three[1], three[2]);
                if first.bridge != back.bridge || consult.bridge == first.bridge {
                    continue;
                }
                // whom it dialled is waiting in the second bridge, itself or by a Local pair
                let with = talks.iter().find(|v| {
                    v.bridge == consult.bridge
                        && v.ch != ch
                        && self.scene.chans[v.ch].first >= first.span.from
                        && !self.scene.chans[v.ch].dialled
                        && self.scene.chans[v.ch].local == 1
                });
                let Some(with) = with else { continue };
                let joins = talks.iter().any(|v| v.ch == with.ch && v.bridge == back.bridge);
                // Local optimisation moves channels for an instant and nobody notices
                let moment = consult.span.to.micros().saturating_sub(consult.span.from.micros()) < 50_000;
                let reported = found.transfers.iter().any(|t| t.at >= consult.span.from && t.at <= back.span.from);
                if joins || reported || moment && !self.scene.whole_seconds {
                    continue;
                }
                let target = behind_local(self.scene, with.ch);
                let to = match target {
                    Some(t) => party(self.scene, t),
                    None => Party { number: known(self.scene.chans[with.ch].exten), ..Party::default() },
                };
                let us = target.map_or(0, |t| self.media.together_before(ch, t, consult.span.to));
                found.transferers.push(ch);
                found.targets.extend(target);
                found.transfers.push(Transfer {
                    at: consult.span.from,
                    kind: TransferKind::Attended,
                    by: party(self.scene, ch),
                    to,
                    answered: false,
                    consult_s: (us > 0).then(|| Seconds::from_micros(us)),
                    returned: true,
                });
            }
        }
    }

    /// AMI Redirect, and blind transfers where these rows are not logged: the caller leaves its bridge with a new
    /// extension.
    fn redirects(&self, found: &mut Handoffs) {
        for visit in self.media.visits.iter().filter(|v| v.ch == self.caller && v.kind == BridgeKind::Talk && v.left) {
            let moved = !visit.exten_out.is_empty() && visit.exten_out != visit.exten_in && visit.exten_out != "h";
            let from_nowhere = visit.exten_in.is_empty();
            let t = visit.span.to;
            let near = |at: Timestamp| at.micros().abs_diff(t.micros()) <= PARK_AFTER_US as u64;
            if !moved
                || from_nowhere
                || found.transfers.iter().any(|x| near(x.at))
                || self.parks_at(Some(self.caller), t)
            {
                continue;
            }
            let target = self.target_after(t, usize::MAX, Some(self.caller), None);
            self.redirect(visit, target.map(|x| self.tried[x].ch), found);
        }
    }

    /// The party of this visit was moved to an extension, where `target` was rung.
    fn redirect(&self, visit: &Visit<'_>, target: Option<usize>, found: &mut Handoffs) {
        let (moved, t) = (visit.ch, visit.span.to);
        let to = match target {
            Some(ch) => party(self.scene, ch),
            None => Party { number: known(visit.exten_out), ..Party::default() },
        };
        let answered = match target {
            Some(ch) => self.reached(ch, Some(moved), t),
            None => self.joins_conference(moved, t),
        };
        // where transfer rows are logged, a move without one was made from outside
        let kind = if self.scene.rich_events { TransferKind::Redirect } else { TransferKind::Blind };
        let by = if kind == TransferKind::Blind { self.partner_at(moved, t) } else { None };
        found.transferers.extend(by);
        found.targets.extend(target);
        found.transfers.push(Transfer {
            at: t,
            kind,
            by: by.map(|b| party(self.scene, b)).unwrap_or_default(),
            to,
            answered,
            consult_s: None,
            returned: false,
        });
    }

    /// The same of a callee: it leaves its bridge at an extension of its own, which a dialled channel has not, and runs
    /// the dialplan there.
    fn redirected_callees(&self, found: &mut Handoffs) {
        let talks = self.media.visits.iter().filter(|v| v.kind == BridgeKind::Talk && v.left && v.ch != self.caller);
        for visit in talks.filter(|v| v.exten_in.is_empty() && shape::is_dialled_number(v.exten_out)) {
            let t = visit.span.to;
            let near = |at: Timestamp| at.micros().abs_diff(t.micros()) <= PARK_AFTER_US as u64;
            let runs = |e: &Event<'_>| e.row.event == CelEvent::AppStart && e.t >= t && near(e.t);
            if !self.scene.chans[visit.ch].dialled
                || !self.scene.events_of(visit.ch).any(runs)
                || found.transfers.iter().any(|x| near(x.at))
                || self.parks_at(Some(visit.ch), t)
            {
                continue;
            }
            let own = |x: &&Tried| x.root == visit.ch && self.scene.chans[x.ch].first.plus_micros(2_000) >= t;
            let all = || self.tried.iter().filter(own);
            let target = all().find(|x| x.result == AttemptResult::Answered).or_else(|| all().next()).map(|x| x.ch);
            self.redirect(visit, target, found);
        }
    }

    fn park(&self, event: &Event<'_>, found: &mut Handoffs) {
        let dialled = extra::get(&event.row.extra, "parker_dial_string");
        let lot = extra::get(&event.row.extra, "parking_lot");
        let by = dialled.as_deref().and_then(|d| {
            let endpoint = |c: &super::scene::Chan<'_>| c.is_real() && c.endpoint.eq_ignore_ascii_case(d);
            self.scene.chans.iter().position(|c| endpoint(c) && c.is_up_at(event.t))
        });
        let by = by.or_else(|| self.partner_at(event.ch, event.t)).filter(|&b| b != event.ch);
        found.steps.push(Step {
            at: event.t,
            what: StepKind::Park {
                by: by.map(|b| party(self.scene, b)),
                slot: self.slot(event.ch, event.t, lot.as_deref()),
                lot: lot.as_deref().and_then(known),
            },
        });
    }

    /// The slot stands in the record (`Park`, `default:701`) and in what the retriever dialled.
    fn slot(&self, parked: usize, t: Timestamp, lot: Option<&str>) -> Option<String> {
        let own =
            self.scene.records.iter().filter(|r| {
                r.row.uniqueid == self.scene.chans[parked].id && r.row.lastapp.eq_ignore_ascii_case("Park")
            });
        let record = own.min_by_key(|r| r.start.unwrap_or_default().micros().abs_diff(t.micros()));
        if let Some((at, slot)) = record.and_then(|r| r.row.lastdata.split_once(':')) {
            return lot.is_none_or(|l| l == at).then(|| known(slot)).flatten();
        }
        let fetch = |e: &&Event<'_>| e.t >= t && e.row.appname.eq_ignore_ascii_case("ParkedCall");
        let fetched = self.scene.events.iter().find(fetch)?;
        fetched.row.appdata.split_once(',').and_then(|(_, slot)| known(slot))
    }

    fn unpark(&self, event: &Event<'_>, found: &mut Handoffs) {
        let retriever = extra::get(&event.row.extra, "retriever").and_then(|n| self.scene.by_name(&n, event.t));
        let reason = extra::get(&event.row.extra, "reason");
        let reason = reason.as_deref().map(|r| match r.strip_prefix("ParkedCall").unwrap_or(r) {
            "TimeOut" => "timeout".to_owned(),
            "GiveUp" => "abandoned".to_owned(),
            "Unparked" => "retrieved".to_owned(),
            other => other.to_lowercase(),
        });
        found.retrievers.extend(retriever);
        let by = retriever.map(|r| party(self.scene, r));
        found.steps.push(Step { at: event.t, what: StepKind::Unpark { by, reason } });
    }

    fn pickup(&self, event: &Event<'_>, found: &mut Handoffs) {
        let Some(by) = self.scene.chans[event.ch].picked_up_by else { return };
        found.pickups.push((event.ch, by));
        let (by, from) = (party(self.scene, by), Some(party(self.scene, event.ch)));
        found.steps.push(Step { at: event.t, what: StepKind::Pickup { by, from } });
    }

    fn forward(&self, event: &Event<'_>, found: &mut Handoffs) {
        let to = extra::get(&event.row.extra, "forward").as_deref().and_then(known);
        // the phone that sent it elsewhere ends in the same breath, without having been answered
        let redirected = self.tried.iter().filter(|t| {
            let chan = &self.scene.chans[t.ch];
            chan.answer.is_none() && chan.first <= event.t && self.scene.same_instant(chan.gone(), event.t)
        });
        let by = redirected.min_by_key(|t| (self.scene.chans[t.ch].cause != Some(23), t.rang_until));
        let by = by.map(|t| party(self.scene, t.ch));
        found.steps.push(Step { at: event.t, what: StepKind::Forward { by, to } });
    }

    /// The channel that `<key>_uniqueid` or `<key>_name` (or `<key>` itself) of `extra` names.
    fn channel(&self, event: &Event<'_>, key: &str) -> Option<usize> {
        let id = extra::get(&event.row.extra, &format!("{key}_uniqueid"));
        id.and_then(|id| self.scene.by_id(&id)).or_else(|| {
            let name = extra::get(&event.row.extra, &format!("{key}_name"))?;
            self.scene.by_name(&name, event.t)
        })
    }

    /// Whom `ch` was connected with at `t`, or last before.
    fn partner_at(&self, ch: usize, t: Timestamp) -> Option<usize> {
        self.partner_but(ch, None, t)
    }

    /// The same, `but` left out.
    fn partner_but(&self, ch: usize, but: Option<usize>, t: Timestamp) -> Option<usize> {
        let other = |a: usize, b: usize| if a == ch { b } else { a };
        let of = self
            .media
            .pairs
            .iter()
            .filter(|(a, b, s)| (*a == ch || *b == ch) && s.from <= t && Some(other(*a, *b)) != but);
        let last = of.max_by_key(|(_, _, s)| (s.to.min(t), s.from))?;
        Some(if last.0 == ch { last.1 } else { last.0 })
    }

    fn parks_at(&self, transferee: Option<usize>, t: Timestamp) -> bool {
        self.scene.events.iter().any(|e| {
            e.row.event == CelEvent::ParkStart
                && transferee.is_none_or(|c| c == e.ch)
                && e.t.micros().abs_diff(t.micros()) <= PARK_AFTER_US as u64
        })
    }

    /// The attempt a blind transfer led to: of those made from then on by the transferee (or a Local pair in its place)
    /// an answered one first, before any further transfer of the same call.
    fn target_after(
        &self,
        t: Timestamp,
        transferer: usize,
        transferee: Option<usize>,
        exten: Option<&str>,
    ) -> Option<usize> {
        let next = self.scene.events.iter().find(|e| {
            e.t > t && matches!(e.row.event, CelEvent::BlindTransfer | CelEvent::AttendedTransfer | CelEvent::ParkStart)
        });
        let until = next.map(|e| e.t);
        let after = |x: &&usize| {
            let tried = &self.tried[**x];
            let chan = &self.scene.chans[tried.ch];
            chan.first.plus_micros(2_000) >= t
                && until.is_none_or(|u| chan.first < u)
                && tried.ch != transferer
                && (transferee.is_none_or(|c| tried.root == c) || tried.root == self.caller)
        };
        let all: Vec<usize> = (0..self.tried.len()).collect();
        let answered = |x: &&usize| self.tried[**x].result == AttemptResult::Answered;
        let own = |x: &&usize| after(x) && !self.is_recall(self.tried[**x].ch, transferer, exten);
        all.iter().filter(own).find(answered).or_else(|| all.iter().find(own)).copied()
    }

    /// The transferer's own phone rings again, alone, and was not what the transfer asked for.
    fn is_recall(&self, ch: usize, transferer: usize, exten: Option<&str>) -> bool {
        let Some(own) = self.scene.chans.get(transferer) else { return false };
        let chan = &self.scene.chans[ch];
        if chan.endpoint != own.endpoint {
            return false;
        }
        // in a group or queue it rings with the others
        let together = |t: &Tried| {
            let other = &self.scene.chans[t.ch];
            t.ch != ch && other.endpoint != own.endpoint && self.scene.same_instant(other.first, chan.first)
        };
        let asked_for = exten.is_some() && exten == chan.extension;
        chan.app_dial2 || !asked_for && !self.tried.iter().any(together)
    }

    /// A consultation's target where the row does not name it: what the second line, or the transferer, dialled last;
    /// else whom a Local pair in its last bridge led to.
    fn consulted(&self, event: &Event<'_>, second: Option<usize>) -> Option<usize> {
        let own = |t: &&Tried| {
            self.scene.chans[t.ch].first <= event.t
                && (Some(t.root) == second && second != Some(self.caller)
                    || t.root == event.ch && event.ch != self.caller)
        };
        let dialled = self.tried.iter().rfind(own).map(|t| t.ch);
        dialled.or_else(|| {
            let lines = [Some(event.ch), second];
            let own =
                |v: &&Visit<'_>| v.kind == BridgeKind::Talk && v.span.from <= event.t && lines.contains(&Some(v.ch));
            let last = self.media.visits.iter().filter(own).max_by_key(|v| v.span.from)?;
            let beside =
                |v: &&Visit<'_>| v.bridge == last.bridge && v.span.from <= event.t && self.scene.chans[v.ch].local == 1;
            self.media.visits.iter().filter(beside).find_map(|v| behind_local(self.scene, v.ch))
        })
    }

    fn reached(&self, target: usize, transferee: Option<usize>, t: Timestamp) -> bool {
        let other = transferee.unwrap_or(self.caller);
        self.media.met_after(target, other, t) || !self.scene.has_bridges && self.scene.chans[target].answer.is_some()
    }

    fn joins_conference(&self, ch: usize, t: Timestamp) -> bool {
        self.media.visits.iter().any(|v| v.ch == ch && v.span.from >= t && v.kind == BridgeKind::Conference)
    }

    /// The transferred party is connected with the transferer's phone once more.
    fn called_back(&self, transferer: usize, transferee: Option<usize>, t: Timestamp) -> bool {
        let other = transferee.unwrap_or(self.caller);
        let phone = self.scene.chans[transferer].endpoint;
        self.scene.chans.iter().enumerate().any(|(i, c)| {
            i != transferer && c.dialled && c.first >= t && c.endpoint == phone && self.media.met_after(i, other, t)
        })
    }
}
