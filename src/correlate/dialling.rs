//! Who dialled whom: the applications that ran, what they dialled, and the device each of it made.

use memchr::memrchr;

use super::ids;
use super::scene::{Scene, runs_after_hangup};
use super::shape;
use crate::call::{CelEvent, Timestamp};

/// One run of a dialplan application on a channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct AppRun<'a> {
    pub ch: usize,
    pub name: &'a str,
    pub data: &'a str,
    pub start: Timestamp,
    pub end: Timestamp,
    /// The channel went on afterwards; otherwise the run ended with it.
    pub left: bool,
}

impl AppRun<'_> {
    pub fn is(&self, names: &[&str]) -> bool {
        names.iter().any(|n| self.name.eq_ignore_ascii_case(n))
    }

    /// First argument: up to the first comma (or the bar of old versions).
    pub fn first_arg(&self) -> &str {
        self.data.split([',', '|']).next().unwrap_or("").trim()
    }

    /// When a queue's own time limit is over.
    pub fn time_up(&self) -> Option<Timestamp> {
        let seconds = if self.is(QUEUES) { self.arg(4).parse::<i64>().ok()? } else { return None };
        Some(self.start.plus_micros(seconds.checked_mul(1_000_000)?))
    }

    pub fn arg(&self, n: usize) -> &str {
        self.data.split([',', '|']).nth(n).unwrap_or("").trim()
    }
}

/// Applications that dial devices.
const DIALLERS: &[&str] = &["Dial", "RetryDial", "Page", "FollowMe", "ChanIsAvail", "BridgeCall"];
const QUEUES: &[&str] = &["Queue"];

/// An application that is looking for somebody to answer.
pub(super) fn is_dialler(app: &str) -> bool {
    DIALLERS.iter().chain(QUEUES).any(|a| app.eq_ignore_ascii_case(a))
}

/// All application runs in order of their start.
pub(super) fn app_runs<'a>(scene: &Scene<'a>) -> Vec<AppRun<'a>> {
    let ends_logged = scene.events.iter().any(|e| e.row.event == CelEvent::AppEnd);
    let mut runs: Vec<AppRun<'a>> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    for event in &scene.events {
        let chan = &scene.chans[event.ch];
        match event.row.event {
            // nobody is there any more
            CelEvent::AppStart | CelEvent::AppEnd if runs_after_hangup(chan, event.row) => {}
            CelEvent::AppStart => {
                // where ends are logged a second start is a nested application, otherwise the first is over
                open.retain(|&r| {
                    let over = runs[r].ch == event.ch && (!ends_logged || runs[r].name == event.row.appname.as_str());
                    if over {
                        runs[r].end = event.t;
                        runs[r].left = true;
                    }
                    !over
                });
                open.push(runs.len());
                runs.push(AppRun {
                    ch: event.ch,
                    name: &event.row.appname,
                    data: &event.row.appdata,
                    start: event.t,
                    end: chan.went(),
                    left: false,
                });
            }
            CelEvent::AppEnd => {
                let ended = |&r: &usize| runs[r].ch == event.ch && runs[r].name == event.row.appname.as_str();
                if let Some(at) = open.iter().rposition(ended) {
                    let r = open.remove(at);
                    runs[r].end = event.t;
                    runs[r].left =
                        chan.went_at_end().is_none_or(|e| e > event.t) || chan.last_app_start > Some(runs[r].start);
                }
            }
            _ => {
                // two runs of one application in a row log neither end nor start between them: only what the channel
                // shows of its arguments changes
                let row = event.row;
                let goes_on = |&&r: &&usize| {
                    let run: &AppRun<'_> = &runs[r];
                    run.ch == event.ch
                        && run.name == row.appname.as_str()
                        && !run.is(DIALLERS)
                        && !row.appdata.is_empty()
                        && run.data != row.appdata.as_str()
                        && run.start < event.t
                };
                if let Some(&before) = open.iter().find(goes_on) {
                    let since = runs[before].time_up().filter(|t| *t <= event.t).unwrap_or(event.t);
                    runs[before].end = since;
                    runs[before].left = true;
                    open.retain(|&r| r != before);
                    open.push(runs.len());
                    runs.push(AppRun {
                        ch: event.ch,
                        name: &row.appname,
                        data: &row.appdata,
                        start: since,
                        end: chan.went(),
                        left: false,
                    });
                }
            }
        }
    }
    runs
}

/// One destination of a dial string: `PJSIP/777@trunk`, `SIP/trunk/777`, `Local/1002@from-internal/n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub text: &'a str,
    tech: &'a str,
    rest: &'a str,
}

impl<'a> Target<'a> {
    /// The number that is dialled on a trunk, when this target is `endpoint` ("PJSIP/trunk").
    pub fn number_on(&self, endpoint: &str) -> Option<&'a str> {
        if self.leads_to(endpoint) { self.number() } else { None }
    }

    pub fn leads_to(&self, endpoint: &str) -> bool {
        let Some((tech, peer)) = ids::split(endpoint, b'/') else { return false };
        let by_name = || same(self.host(), peer) || same(self.address(), peer);
        same(tech, self.tech) && (by_name() || self.is_group())
    }

    /// What follows the host's slash, or stands before its `@`: `777@trunk`, `trunk/777`, `user:secret@trunk/777`,
    /// `trunk/sip:777@host:port`. With a colon before the `@` it is credentials and never a number.
    fn number(&self) -> Option<&'a str> {
        let Some((head, tail)) = self.rest.split_once('/') else {
            return self.rest.contains('@').then(|| user_of(self.rest)).flatten();
        };
        // a secret may contain the slash
        if head.contains(':') && !head.contains('@') && tail.contains('@') {
            return None;
        }
        let dialled = user_of(tail.split('/').next().unwrap_or(tail));
        dialled.or_else(|| head.contains('@').then(|| user_of(head)).flatten())
    }

    /// Host or peer, with a port where one stands there.
    fn address(&self) -> &'a str {
        let head = ids::split(self.rest, b'/').map_or(self.rest, |(head, _)| head);
        memrchr(b'@', head.as_bytes()).map_or(head, |at| &head[at + 1..])
    }

    fn host(&self) -> &'a str {
        let address = self.address();
        ids::split(address, b':').map_or(address, |(host, _)| host)
    }

    /// A group of DAHDI channels (`g1`, `G1`, `r1`, `R1`): any of them may be taken.
    fn is_group(&self) -> bool {
        let digits = self.address().strip_prefix(['g', 'G', 'r', 'R']);
        self.tech.eq_ignore_ascii_case("DAHDI") && digits.is_some_and(|d| d.starts_with(|c: char| c.is_ascii_digit()))
    }

    /// The endpoint as a name: `PJSIP/trunk` of `PJSIP/777@trunk`.
    pub fn endpoint(&self) -> String {
        [self.tech, "/", self.host()].concat()
    }
}

/// The user of an address: `777` of `777`, of `777@host` and of `sip:777@host:port`. None where a colon tells that it is
/// not only a user, or where a URI names a host alone.
fn user_of(address: &str) -> Option<&str> {
    let uri = ["sip:", "sips:"].iter().find_map(|scheme| {
        let start = address.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then(|| &address[scheme.len()..])
    });
    let user = match (uri, uri.unwrap_or(address).split_once('@')) {
        (Some(_), None) => return None,
        (Some(_), Some((user, _))) => user.split([':', ';']).next().unwrap_or(user),
        (None, Some((user, _))) => user,
        (None, None) => address,
    };
    (!user.is_empty() && !user.contains(':')).then_some(user)
}

fn same(a: &str, b: &str) -> bool {
    !a.is_empty() && a.eq_ignore_ascii_case(b)
}

/// The destinations in the arguments of Dial.
pub(super) fn targets(data: &str) -> impl Iterator<Item = Target<'_>> {
    let first = ids::split(data, b',').map_or(data, |(first, _)| first);
    first.split('&').filter_map(|text| {
        let text = text.trim();
        let (tech, rest) = ids::split(text, b'/')?;
        Some(Target { text, tech, rest })
    })
}

/// Finds for every dialled channel (and every first half of a Local pair) who dialled it, and on trunks which number.
pub(super) fn find_diallers<'a>(scene: &mut Scene<'a>, runs: &[AppRun<'a>]) {
    for i in 0..scene.chans.len() {
        let wanted = scene.chans[i].dialled || scene.chans[i].local == 1;
        if !wanted {
            continue;
        }
        let by_app = dialler_by_app(scene, runs, i);
        // the record tells what the application does not
        let told = by_app.is_some_and(|(_, number)| !number.is_empty());
        let by_record = if told { None } else { dialler_by_record(scene, i) };
        if let Some((_, number)) = by_record.or(by_app) {
            scene.chans[i].dial_number = number;
        }
        let dialler = by_app.or(by_record).map(|(d, _)| d).or_else(|| dialler_by_place(scene, i));
        scene.chans[i].dialler = dialler.filter(|&d| d != i);
    }
}

fn dialler_by_app<'a>(scene: &Scene<'a>, runs: &[AppRun<'a>], i: usize) -> Option<(usize, &'a str)> {
    let chan = &scene.chans[i];
    let running = |r: &&AppRun<'a>| {
        // a channel is made within its dialler's run; stamps of two channels may cross by a hair
        r.ch != i && r.start.plus_micros(-2_000) <= chan.first && r.end.plus_micros(2_000) >= chan.first
    };
    let mut queue = None;
    for run in runs.iter().rev().filter(running) {
        if run.is(DIALLERS) {
            let matched = targets(run.data).find_map(|t| {
                if chan.is_real() {
                    return t.leads_to(chan.endpoint).then(|| t.number().unwrap_or(""));
                }
                let local = t.text.strip_prefix("Local/")?;
                let local = local.strip_suffix("/n").unwrap_or(local);
                let local = local.split('/').next().unwrap_or(local);
                ids::endpoint(chan.name).strip_prefix("Local/").is_some_and(|n| local_name(n) == local).then_some("")
            });
            if let Some(number) = matched {
                return Some((run.ch, number));
            }
        }
        if queue.is_none() && run.is(QUEUES) && (chan.app_dial || chan.linkedid == scene.chans[run.ch].linkedid) {
            queue = Some((run.ch, ""));
        }
    }
    queue
}

/// `1002@from-internal` of `1002@from-internal-00000009;1`.
fn local_name(name: &str) -> &str {
    let name = name.split(';').next().unwrap_or(name);
    match name.rsplit_once('-') {
        Some((head, tail)) if tail.len() >= 4 && tail.bytes().all(|b| b.is_ascii_hexdigit()) => head,
        _ => name,
    }
}

fn dialler_by_record<'a>(scene: &Scene<'a>, i: usize) -> Option<(usize, &'a str)> {
    let chan = &scene.chans[i];
    let record = scene.records.iter().find(|r| chan.is_named(&r.row.dstchannel))?;
    let by = scene.by_id(&record.row.uniqueid).filter(|&d| d != i)?;
    // a record names whoever was bridged with it, also a caller that was handed over
    let dialled_it = || targets(&record.row.lastdata).filter(|t| t.leads_to(chan.endpoint));
    let number = dialled_it().find_map(|t| t.number());
    number.or_else(|| dialled_it().next().map(|_| "")).map(|number| (by, number))
}

/// A dialler is made shortly before what it dials: so many channels back it is looked for.
const PLACE_REACH: usize = 256;

/// Without a logged application: the newest channel of the same linkedid that was up and could dial, best one at the
/// extension that the dialled channel shows.
fn dialler_by_place(scene: &Scene<'_>, i: usize) -> Option<usize> {
    let chan = &scene.chans[i];
    // a forward or transfer makes a Local pair without anybody dialling it
    if chan.local == 1 && !chan.app_dial {
        return None;
    }
    let could = |c: usize| {
        let other = &scene.chans[c];
        let makes = if other.is_real() { !other.dialled } else { other.local == 2 };
        c != i && makes && other.linkedid == chan.linkedid && other.first <= chan.first && other.gone() >= chan.first
    };
    let candidates = || (i.saturating_sub(PLACE_REACH)..i).rev().filter(|&c| could(c));
    let at_exten = |c: &usize| !chan.dialled_exten.is_empty() && scene.chans[*c].exten == chan.dialled_exten;
    candidates().find(at_exten).or_else(|| candidates().next())
}

/// The real channel at the end of the chain of Local pairs that dialled `i`: a caller, or a transferer.
pub(super) fn root_dialler(scene: &Scene<'_>, i: usize) -> Option<usize> {
    let mut at = scene.chans[i].dialler?;
    for _ in 0..scene.chans.len() {
        let chan = &scene.chans[at];
        if chan.is_real() {
            return Some(at);
        }
        let one = if chan.local == 1 { at } else { chan.mate? };
        at = scene.chans[one].dialler?;
    }
    None
}

/// The device that a Local channel's other half dialled: the latest one, an answered one first.
pub(super) fn behind_local(scene: &Scene<'_>, ch: usize) -> Option<usize> {
    let mut half = ch;
    for _ in 0..scene.chans.len() {
        let two = if scene.chans[half].local == 2 { half } else { scene.chans[half].mate? };
        let dialled = || (0..scene.chans.len()).filter(|&c| scene.chans[c].dialler == Some(two));
        let real = || dialled().filter(|&c| scene.chans[c].is_real());
        if let Some(device) = real().find(|&c| scene.chans[c].bridged).or_else(|| real().next_back()) {
            return Some(device);
        }
        half = dialled().find(|&c| scene.chans[c].local == 1)?;
    }
    None
}

/// The number somebody reached on a trunk: what was dialled on it, else what the channel shows later.
pub(super) fn number_on_trunk<'a>(scene: &Scene<'a>, ch: usize) -> &'a str {
    let chan = &scene.chans[ch];
    if !chan.dial_number.is_empty() {
        return chan.dial_number;
    }
    let later = if chan.number_at_start { chan.later_number } else { chan.number };
    if shape::is_dialled_number(later) { later } else { chan.dialled_exten }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dial_strings_name_endpoint_and_number() {
        let all: Vec<Target<'_>> = targets("PJSIP/1001&SIP/out/777&PJSIP/888@trunk-a,30,tT(&x)").collect();
        assert_eq!(all.len(), 3);
        assert!(all[0].leads_to("PJSIP/1001"));
        assert!(!all[0].leads_to("SIP/1001"));
        assert_eq!(all[1].number_on("SIP/out"), Some("777"));
        assert_eq!(all[2].number_on("PJSIP/trunk-a"), Some("888"));
        assert_eq!(all[2].endpoint(), "PJSIP/trunk-a");
        assert_eq!(targets(",,").count(), 0);
    }

    #[test]
    fn credentials_are_no_numbers() {
        let one = |text: &'static str| targets(text).next().expect("a target");
        for (text, endpoint, number) in [
            ("IAX2/acme:s3cret@out/777", "IAX2/out", Some("777")),
            ("IAX2/acme:s3cret@out:4569/777@ctx", "IAX2/out", Some("777")),
            ("IAX2/acme:s3@cret@out/777", "IAX2/out", Some("777")),
            ("IAX2/acme:s3cret@out", "IAX2/out", None),
            ("IAX2/acme:s3/cret@out/777", "IAX2/out", None),
            ("SIP/777:s3cret@out", "SIP/out", None),
            ("PJSIP/out/sip:777@198.51.100.7:5060", "PJSIP/out", Some("777")),
            ("PJSIP/out/sip:198.51.100.7:5060", "PJSIP/out", None),
            ("PJSIP/sip:777:s3cret@out", "PJSIP/out", Some("777")),
            ("DAHDI/g1/777", "DAHDI/i1", Some("777")),
            ("DAHDI/i2/777", "DAHDI/i1", None),
            ("DAHDI/R0/777", "DAHDI/12", Some("777")),
        ] {
            assert_eq!(one(text).number_on(endpoint), number, "{text}");
            let named = one(text).endpoint();
            assert!(!named.contains("cret") && !named.contains("s3"), "{text}: {named}");
        }
    }

    #[test]
    fn local_names_lose_their_serial() {
        assert_eq!(local_name("1002@from-internal-00000009;1"), "1002@from-internal");
    }
}
