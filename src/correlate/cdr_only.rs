//! Calls of which only CDRs exist. Each record is a stretch of one channel with one other; what they do not say (who
//! hung up, hold, waiting) stays unknown.

use std::collections::HashMap;

use super::ids;
use super::media::{Span, is_conference_app, length, union};
use super::parties::known;
use super::records;
use super::scene::{Record, Scene};
use super::shape::{self, NumberShape};
use crate::call::{
    Attempt, AttemptResult, CdrRow, Content, Direction, Disposition, Leg, LegRole, Outcome, Party, PartyKind,
    QueueOutcome, QueueVisit, Seconds, Step, StepKind, Timestamp, Transfer, TransferKind,
};

struct Tale<'s, 'a> {
    scene: &'s Scene<'a>,
    /// The caller's channel.
    channel: &'a str,
    uniqueid: &'a str,
    /// The device behind each first half of a Local pair, and whether it was answered.
    behind: HashMap<&'a str, (&'a str, bool)>,
}

pub(super) fn fill(scene: &Scene<'_>, content: &mut Content) {
    let Some(first) = caller_record(scene) else { return };
    let mut behind: HashMap<&str, (&str, bool)> = HashMap::new();
    for record in &scene.records {
        if let Some((base, 2)) = ids::local_half(&record.row.channel) {
            let answered = record.row.disposition == Disposition::Answered && !record.row.dstchannel.is_empty();
            let known = behind.entry(base).or_insert((&record.row.dstchannel, answered));
            if answered && !known.1 {
                *known = (&record.row.dstchannel, true);
            }
        }
    }
    let tale = Tale { scene, channel: &first.channel, uniqueid: &first.uniqueid, behind };
    tale.who(first, content);
    tale.when(content);
    tale.attempts(content);
    tale.ending(content);
    tale.handed_over(content);
    tale.legs(content);
    content.recordings = records::recordings(scene, &[]);
    tale.journey(content);
}

/// The caller's first record: of the oldest real channel that made one itself.
fn caller_record<'a>(scene: &Scene<'a>) -> Option<&'a CdrRow> {
    let rows = || scene.records.iter().map(|r| r.row);
    // a called channel gets a record of its own when it goes on without its caller
    let called = |r: &&CdrRow| r.lastapp.eq_ignore_ascii_case("AppDial") || r.lastapp.eq_ignore_ascii_case("AppQueue");
    let oldest = |rows: &mut dyn Iterator<Item = &'a CdrRow>| {
        rows.min_by(|a, b| ids::compare(&a.uniqueid, &b.uniqueid).then_with(|| a.start.cmp(&b.start)))
    };
    let real = || rows().filter(|r| !ids::is_local(&r.channel) && !r.channel.is_empty());
    let found = oldest(&mut real().filter(|r| !called(r))).or_else(|| oldest(&mut real()));
    let row = found.or_else(|| oldest(&mut rows()))?;
    // records are in order of time: the first of that channel
    rows().find(|r| r.uniqueid == row.uniqueid && r.channel == row.channel)
}

impl<'a> Tale<'_, 'a> {
    fn own(&self) -> impl Iterator<Item = &Record<'a>> + '_ {
        self.scene.records.iter().filter(|r| r.row.uniqueid == self.uniqueid && r.row.channel == self.channel)
    }

    /// The device a record's other side is, through Local pairs.
    fn device(&self, dstchannel: &'a str) -> &'a str {
        let mut at = dstchannel;
        for _ in 0..=self.behind.len() {
            let Some((base, _)) = ids::local_half(at) else { return at };
            match self.behind.get(base) {
                Some((next, _)) if !next.is_empty() => at = next,
                _ => return "",
            }
        }
        ""
    }

    /// A caller that a Local pair called back has no number of its own: the pair's first half goes on to it.
    fn called_back_for(&self) -> Option<&'a str> {
        let (base, _) = self.behind.iter().find(|(_, (device, _))| *device == self.channel)?;
        let rows = self.scene.records.iter().map(|r| r.row);
        let first = rows.filter(|r| ids::local_half(&r.channel) == Some((base, 1)));
        let mut dialled = first.map(|r| r.dst.as_str());
        dialled.find(|d| shape::is_dialled_number(d))
    }

    fn trunk(&self, channel: &str) -> bool {
        shape::is_trunk_endpoint(self.scene.rules, ids::endpoint(channel))
    }

    fn who(&self, first: &CdrRow, content: &mut Content) {
        let rules = self.scene.rules;
        let endpoint = ids::endpoint(&first.channel);
        let in_trunk = shape::is_trunk(rules, endpoint, &first.dcontext);
        let extension = shape::extension_of(rules, endpoint).filter(|_| !in_trunk);
        let (name, shown) = split_clid(&first.clid);
        let src = [first.src.as_str(), first.cnum.as_str(), shown].into_iter().find(|s| !s.is_empty()).unwrap_or("");
        // the caller id set for the carrier replaces the extension, which then stands only in the channel's name
        let overridden = extension.is_some() && shape::number(rules, src) != NumberShape::Extension;
        let number = if overridden { extension.unwrap_or(src) } else { src };
        let name = if first.cnam.is_empty() { name } else { first.cnam.as_str() };
        let local = ids::is_local(&first.channel);
        content.from = Party {
            number: known(number),
            presented: if overridden { known(src) } else { None },
            name: if overridden || name == src { None } else { known(name) },
            endpoint: if local { None } else { known(endpoint) },
            channel: known(&first.channel),
            kind: if local { None } else { shape::party_kind(rules, in_trunk, endpoint, number) },
            ..Party::default()
        };
        let dst = first.dst.as_str();
        let did = self.own().map(|r| r.row.did.as_str()).find(|d| !d.is_empty());
        // `dst` is rewritten by menus and transfers: with a DID it is where the call was led to
        let dialled = did.or(shape::is_dialled_number(dst).then_some(dst)).or_else(|| self.called_back_for());
        content.to.number = dialled.and_then(known);

        // a conference pairs participants, and a call that was merged in has records of its own from before
        let called_in = |r: &Record<'a>, device: &str| {
            let earlier =
                |o: &Record<'a>| ids::bare_name(&o.row.channel) == ids::bare_name(device) && o.start <= r.start;
            is_conference_app(&r.row.lastapp) || self.scene.records.iter().any(earlier)
        };
        let out = |r: &&Record<'a>| {
            let device = self.device(&r.row.dstchannel);
            self.trunk(device) && !called_in(r, device)
        };
        let answered = |r: &&Record<'a>| r.row.disposition == Disposition::Answered;
        let records = || self.scene.records.iter().filter(out);
        let leg = records().find(answered).or_else(|| records().next_back());
        let trunk_out = leg.and_then(|r| known(ids::endpoint(self.device(&r.row.dstchannel))));
        content.direction = if in_trunk {
            Direction::Inbound
        } else if trunk_out.is_some() {
            Direction::Outbound
        } else {
            let to_outside = dialled.is_some_and(|n| shape::number(rules, n) == NumberShape::Outside);
            let inside =
                |r: &Record<'a>| shape::extension_of(rules, ids::endpoint(self.device(&r.row.dstchannel))).is_some();
            match content.from.kind {
                Some(PartyKind::External) => Direction::Inbound,
                _ if to_outside && !self.scene.records.iter().any(inside) => Direction::Outbound,
                Some(PartyKind::Extension) => Direction::Internal,
                _ => Direction::Unknown,
            }
        };
        if content.direction == Direction::Inbound {
            content.trunk_in = if in_trunk { known(endpoint) } else { None };
            content.did = did.and_then(known).or_else(|| content.to.number.clone());
            content.forwarded_external = trunk_out.is_some();
        }
        content.trunk_out = trunk_out;
    }

    fn when(&self, content: &mut Content) {
        content.started_at = self.scene.records.iter().filter_map(|r| r.start).min();
        content.ended_at = self.own().filter_map(|r| r.end).max();
        if let (Some(start), Some(end)) = (content.started_at, content.ended_at) {
            content.duration_s = Some(Seconds::from_micros(end.micros().saturating_sub(start.micros()).max(0)));
        }
        let talks: Vec<Span> = self.own().filter_map(|r| self.talk(r)).collect();
        let union = union(talks);
        content.answered_at = union.first().map(|s| s.from);
        content.talk_s = (!union.is_empty()).then(|| Seconds::from_micros(length(&union)));
    }

    /// From the answer of a record with somebody to its end.
    fn talk(&self, record: &Record<'_>) -> Option<Span> {
        let row = record.row;
        let with = !row.dstchannel.is_empty() || is_conference_app(&row.lastapp);
        if row.disposition != Disposition::Answered || !with {
            return None;
        }
        // a Local channel answers for whoever is behind it, also while that still rings
        if let Some((base, _)) = ids::local_half(&row.dstchannel)
            && self.behind.get(base).is_some_and(|(device, answered)| !device.is_empty() && !answered)
        {
            return None;
        }
        let to = record.end?;
        let by_bill = || Some(to.plus_micros(row.billsec_ms?.saturating_mul(-1_000)));
        let from = record.answer.or_else(by_bill).or(record.start)?;
        // nobody answers before the record begins, whatever its columns say
        let from = record.start.map_or(from, |start| from.max(start));
        (from <= to).then_some(Span { from, to })
    }

    fn callee(&self, record: &Record<'a>) -> Option<Party> {
        self.party(self.device(&record.row.dstchannel), record.row)
    }

    fn party(&self, channel: &str, row: &CdrRow) -> Option<Party> {
        if channel.is_empty() || ids::is_local(channel) {
            return None;
        }
        let rules = self.scene.rules;
        let endpoint = ids::endpoint(channel);
        let trunk = self.trunk(channel);
        let dialled = super::dialling::targets(&row.lastdata).find_map(|t| t.number_on(endpoint));
        let out = || shape::is_dialled_number(&row.dst).then_some(row.dst.as_str());
        let number = match shape::extension_of(rules, endpoint) {
            Some(extension) if !trunk => Some(extension),
            _ => dialled.or_else(out),
        };
        // the dialled party's name belongs to the number that was dialled
        let name = number.filter(|n| row.dst == *n).and_then(|_| known(&row.dst_cnam));
        Some(Party {
            kind: shape::party_kind(rules, trunk, endpoint, number.unwrap_or("")),
            number: number.and_then(known),
            name,
            endpoint: known(endpoint),
            channel: known(channel),
            ..Party::default()
        })
    }

    /// One attempt for each device, however many records name it; the best of its dispositions counts.
    fn attempts(&self, content: &mut Content) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let answered: Vec<Span> = self.scene.records.iter().filter_map(|r| self.talk(r)).collect();
        for record in &self.scene.records {
            let device = ids::bare_name(self.device(&record.row.dstchannel));
            if is_conference_app(&record.row.lastapp) || device == ids::bare_name(self.channel) {
                continue;
            }
            let (Some(at), Some(party)) = (record.start, self.party(device, record.row)) else { continue };
            let result = result(record, &answered);
            let waits = record.answer.filter(|a| *a > at).or(record.end).map(|until| until - at);
            let ring_s =
                if result == AttemptResult::Answered && record.answer.is_none_or(|a| a <= at) { None } else { waits };
            match seen.get(device) {
                Some(&known) => {
                    let attempt: &mut Attempt = &mut content.attempts[known];
                    if result == AttemptResult::Answered {
                        attempt.result = result;
                    }
                }
                None => {
                    seen.insert(device, content.attempts.len());
                    content.attempts.push(Attempt { at, party, ring_s, result, cause: None });
                }
            }
        }
        content.attempts.sort_by_key(|a| a.at);
        let device = |a: &&Attempt| a.result == AttemptResult::Answered;
        let first = content.attempts.iter().find(device).and_then(|a| a.ring_s);
        content.ring_s = first.or_else(|| {
            let none = !content.attempts.iter().any(|a| a.result == AttemptResult::Answered);
            none.then(|| content.attempts.iter().filter_map(|a| a.ring_s).max()).flatten()
        });
    }

    fn ending(&self, content: &mut Content) {
        let app = |names: &[&str]| self.own().find(|r| names.iter().any(|n| r.row.lastapp.eq_ignore_ascii_case(n)));
        let talking: Vec<&Record<'a>> = self.own().filter(|r| self.talk(r).is_some()).collect();
        let conference = talking.iter().find(|r| is_conference_app(&r.row.lastapp));
        if let Some(record) = conference {
            content.conference = known(record.row.lastdata.split([',', '|']).next().unwrap_or(""));
            let party = super::journey::conference_party(content);
            content.answered_by = Some(party.clone());
            content.finally_with = Some(party);
        } else {
            let by_answer = talking.iter().min_by_key(|r| self.talk(r).map(|s| s.from));
            content.answered_by = by_answer.and_then(|r| self.callee(r));
            let by_end = talking.iter().max_by_key(|r| self.talk(r).map(|s| (s.to, s.from)));
            content.finally_with = by_end.and_then(|r| self.callee(r));
        }
        let queue = app(&["Queue"]);
        let mailbox = app(&["VoiceMail"]);
        if let Some(record) = queue {
            let name = record.row.lastdata.split([',', '|']).next().unwrap_or("").trim();
            let met = talking.iter().any(|r| r.row.lastapp.eq_ignore_ascii_case("Queue"));
            content.queue = Some(QueueVisit {
                name: known(name),
                position: None,
                wait_s: None,
                outcome: met.then_some(QueueOutcome::Answered),
            });
        }
        content.voicemail_s = mailbox.and_then(|r| Some(r.end? - r.start?));
        let own_answered = self.own().any(|r| r.row.disposition == Disposition::Answered);
        content.outcome = Some(if !talking.is_empty() {
            Outcome::Answered
        } else if mailbox.is_some() {
            Outcome::Voicemail
        } else if let Some(record) = self.own().filter(|r| !r.row.dstchannel.is_empty()).last() {
            by_disposition(&record.row.disposition)
        } else if queue.is_some() {
            Outcome::NoAnswer
        } else if own_answered {
            Outcome::SelfService
        } else {
            self.own().last().map_or(Outcome::Failed, |r| by_disposition(&r.row.disposition))
        });
    }

    /// Consecutive records of the caller's channel with somebody else are a transfer, one of Park is a park.
    fn handed_over(&self, content: &mut Content) {
        let mut last: Option<(&Record<'a>, &'a str)> = None;
        let mut parked: Option<Timestamp> = None;
        for record in self.own() {
            let row = record.row;
            let Some(start) = record.start else { continue };
            if row.lastapp.eq_ignore_ascii_case("Park") {
                let slot = row.lastdata.split_once(':');
                content.journey.push(Step {
                    at: start,
                    what: StepKind::Park {
                        by: last.and_then(|(r, _)| self.callee(r)),
                        slot: slot.and_then(|(_, s)| known(s)),
                        lot: slot.and_then(|(l, _)| known(l)),
                    },
                });
                parked = record.end;
                continue;
            }
            let device = self.device(&row.dstchannel);
            if device.is_empty() {
                continue;
            }
            let met = self.talk(record).is_some();
            match last {
                Some((_, known_device)) if known_device == device => {}
                Some((before, _)) if before.end.is_some_and(|e| start.plus_micros(1_000_000) >= e) => {
                    if parked.take().is_some() {
                        let by = self.callee(record);
                        content.journey.push(Step { at: start, what: StepKind::Unpark { by, reason: None } });
                    } else if let (Some(by), Some(to)) = (self.callee(before), self.callee(record)) {
                        // the transferer's own record with the target is the consultation
                        let consulted = self.scene.records.iter().find(|r| {
                            r.row.uniqueid != self.uniqueid
                                && ids::endpoint(&r.row.channel) == by.endpoint.as_deref().unwrap_or("")
                                && self.device(&r.row.dstchannel) == device
                        });
                        let kind = if consulted.is_some() { TransferKind::Attended } else { TransferKind::Blind };
                        let consult_s = consulted.and_then(|r| self.talk(r)).map(|s| s.to - s.from);
                        content.transfers.push(Transfer {
                            at: start,
                            kind,
                            by,
                            to,
                            answered: met,
                            consult_s,
                            returned: false,
                        });
                    }
                }
                _ => {}
            }
            if met {
                last = Some((record, device));
            }
        }
    }

    fn legs(&self, content: &mut Content) {
        let mut legs: Vec<(&str, Leg)> = Vec::new();
        for record in &self.scene.records {
            let row = record.row;
            for (channel, own) in [(row.channel.as_str(), true), (row.dstchannel.as_str(), false)] {
                if channel.is_empty() || ids::is_local(channel) {
                    continue;
                }
                let name = ids::bare_name(channel);
                let at = legs.iter().position(|(n, _)| *n == name).unwrap_or_else(|| {
                    let party = if name == ids::bare_name(self.channel) {
                        Some(content.from.clone())
                    } else if own {
                        let endpoint = ids::endpoint(channel);
                        let number = shape::extension_of(self.scene.rules, endpoint).and_then(known);
                        Some(Party { number, endpoint: known(endpoint), channel: known(channel), ..Party::default() })
                    } else {
                        self.party(channel, row)
                    };
                    let party = party.unwrap_or_default();
                    let role = if name == ids::bare_name(self.channel) {
                        LegRole::Caller
                    } else if own && !row.lastapp.eq_ignore_ascii_case("AppDial") {
                        LegRole::Participant
                    } else {
                        LegRole::Callee
                    };
                    legs.push((
                        name,
                        Leg {
                            uniqueid: None,
                            channel: known(channel),
                            endpoint: party.endpoint,
                            number: party.number,
                            name: party.name,
                            role,
                            started_at: None,
                            answered_at: None,
                            ended_at: None,
                            cause: None,
                        },
                    ));
                    legs.len() - 1
                });
                let leg = &mut legs[at].1;
                if own && leg.uniqueid.is_none() {
                    leg.uniqueid = known(&row.uniqueid);
                }
                leg.started_at = [leg.started_at, record.start].into_iter().flatten().min();
                leg.ended_at = leg.ended_at.max(record.end);
                if row.disposition == Disposition::Answered {
                    leg.answered_at = [leg.answered_at, record.answer].into_iter().flatten().min();
                }
            }
        }
        legs.sort_by(|(n, a), (m, b)| a.started_at.cmp(&b.started_at).then_with(|| n.cmp(m)));
        content.legs = legs.into_iter().map(|(_, leg)| leg).collect();
    }

    fn journey(&self, content: &mut Content) {
        let mut steps = std::mem::take(&mut content.journey);
        if let Some(at) = content.started_at {
            steps.insert(0, Step { at, what: StepKind::Dialled { number: content.to.number.clone() } });
        }
        if let Some(queue) = &content.queue {
            let entered = self.own().find(|r| r.row.lastapp.eq_ignore_ascii_case("Queue")).and_then(|r| r.start);
            if let Some(at) = entered {
                steps.push(Step { at, what: StepKind::QueueEnter { queue: queue.name.clone() } });
            }
        }
        for a in &content.attempts {
            let what = StepKind::Ring { party: a.party.clone(), duration_s: a.ring_s, result: a.result };
            steps.push(Step { at: a.at, what });
        }
        let mut told: Vec<&str> = Vec::new();
        for record in self.own() {
            let device = self.device(&record.row.dstchannel);
            if let (Some(span), Some(party)) = (self.talk(record), self.callee(record))
                && !told.contains(&device)
                && content.conference.is_none()
            {
                told.push(device);
                steps.push(Step { at: span.from, what: StepKind::Answer { party } });
            }
        }
        if let (Some(at), Some(_)) = (content.answered_at, &content.conference) {
            steps.push(Step { at, what: StepKind::ConferenceJoin { conference: content.conference.clone() } });
        }
        for t in &content.transfers {
            let what = StepKind::Transfer { kind: t.kind, by: t.by.clone(), to: t.to.clone(), answered: t.answered };
            steps.push(Step { at: t.at, what });
        }
        for record in self.own().filter(|r| r.row.lastapp.eq_ignore_ascii_case("VoiceMail")) {
            let mailbox = record.row.lastdata.split([',', '&', '@']).next().and_then(known);
            if let Some(at) = record.start {
                steps.push(Step { at, what: StepKind::Voicemail { mailbox, duration_s: content.voicemail_s } });
            }
        }
        for recording in &content.recordings {
            if let Some(at) = content.started_at {
                steps.push(Step { at, what: StepKind::Recording { file: recording.file.clone() } });
            }
        }
        if let Some(at) = content.ended_at {
            steps.push(Step { at, what: StepKind::Hangup { by: None, cause: None } });
        }
        steps.sort_by_key(|s| (s.at, matches!(s.what, StepKind::Hangup { .. })));
        content.journey = steps;
    }
}

fn result(record: &Record<'_>, answered: &[Span]) -> AttemptResult {
    match record.row.disposition {
        Disposition::Answered => AttemptResult::Answered,
        Disposition::Busy => AttemptResult::Busy,
        Disposition::Congestion | Disposition::Failed => AttemptResult::Failed,
        Disposition::Cancel => AttemptResult::Cancelled,
        // stopped in the second in which another device was answered
        _ if record.end.is_some_and(|e| answered.iter().any(|s| s.from.micros().abs_diff(e.micros()) <= 1_000_000)) => {
            AttemptResult::AnsweredElsewhere
        }
        _ => AttemptResult::NoAnswer,
    }
}

fn by_disposition(disposition: &Disposition) -> Outcome {
    match disposition {
        Disposition::Busy => Outcome::Busy,
        Disposition::Congestion | Disposition::Failed => Outcome::Failed,
        Disposition::Cancel => Outcome::Abandoned,
        _ => Outcome::NoAnswer,
    }
}

/// `"Name" <number>`: name and number.
fn split_clid(clid: &str) -> (&str, &str) {
    let (name, rest) = clid.rsplit_once('<').unwrap_or((clid, ""));
    (name.trim().trim_matches('"'), rest.trim_end_matches('>'))
}
