//! The stage of one call: its CEL rows in order of time, and the channels they speak of.
//!
//! Everything here borrows from the rows; channels are small indexes in the order in which the PBX made them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::completion::Life;
use super::ids::{self, Id};
use super::zone::{Clock, epoch_of};
use super::{CallRows, Rules, Zone, extra, shape};
use crate::call::{CdrRow, CelEvent, CelRow, FoundRecording, RowTime, Timestamp};

/// One CEL row at its moment.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub t: Timestamp,
    pub row: &'a CelRow,
    /// The channel it is about.
    pub ch: usize,
}

/// One CDR with its moments.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub row: &'a CdrRow,
    pub start: Option<Timestamp>,
    pub answer: Option<Timestamp>,
    pub end: Option<Timestamp>,
}

/// One channel, from all its rows.
#[derive(Default)]
pub(super) struct Chan<'a> {
    pub id: &'a str,
    /// A row of it was read.
    pub seen: bool,
    /// The name it was made with.
    pub name: &'a str,
    /// The endpoint behind that name.
    pub endpoint: &'a str,
    /// The extension in the endpoint's name.
    pub extension: Option<&'a str>,
    /// The name it had last; a masquerade changes it.
    pub last_name: &'a str,
    /// Both names bare.
    bare_names: [&'a str; 2],
    /// What its events say of its end.
    pub life: Life,
    /// Its rows have no uniqueid, `id` is its name.
    nameless: bool,
    pub linkedid: &'a str,
    /// Half 1 or 2 of a Local pair, 0 for a real channel.
    pub local: u8,
    /// The other half.
    pub mate: Option<usize>,
    /// First row.
    pub first: Timestamp,
    /// Last row.
    pub last: Timestamp,
    pub answer: Option<Timestamp>,
    pub end: Option<Timestamp>,
    /// Extension and context of its first row.
    pub exten: &'a str,
    pub context: &'a str,
    /// Number and name of the first row that has a number: they belong together.
    pub number: &'a str,
    pub cname: &'a str,
    /// It had that number from its first row on.
    pub number_at_start: bool,
    /// The next number it showed.
    pub later_number: &'a str,
    /// The dialler's extension, as a dialled channel shows it.
    pub dialled_exten: &'a str,
    pub cause: Option<i64>,
    pub hangup_source: Cow<'a, str>,
    pub dial_status: Cow<'a, str>,
    /// Its HANGUP carried details.
    pub hangup_told: bool,
    pub hung_up: bool,
    /// Shown as dialled by Dial or Queue, or by an originate or recall (AppDial2).
    pub app_dial: bool,
    pub app_dial2: bool,
    /// Ran an application of the dialplan by itself.
    pub own_app: bool,
    pub last_app_start: Option<Timestamp>,
    /// The application of that start.
    pub last_app: &'a str,
    /// The last end of an application; where ends are logged.
    pub last_app_end: Option<Timestamp>,
    /// Its newest row read is such an end.
    pub last_is_app_end: bool,
    /// It left the dialplan: what follows at the extension `h` is no more than tidying up.
    pub left_dialplan: Option<Timestamp>,
    pub bridged: bool,
    /// A device that was rung, not a caller.
    pub dialled: bool,
    pub trunk: bool,
    /// Who dialled it.
    pub dialler: Option<usize>,
    /// The number that was dialled on a trunk.
    pub dial_number: &'a str,
    /// The channel that picked its call up.
    pub picked_up_by: Option<usize>,
}

impl Chan<'_> {
    pub fn is_real(&self) -> bool {
        self.local == 0
    }

    pub fn is_named(&self, name: &str) -> bool {
        self.is_bare_name(ids::bare_name(name))
    }

    fn is_bare_name(&self, name: &str) -> bool {
        !name.is_empty() && self.bare_names.contains(&name)
    }

    /// As its rows have it.
    pub fn uniqueid(&self) -> &str {
        if self.nameless { "" } else { self.id }
    }

    /// When it was gone: its end, or its last row while it has none.
    pub fn gone(&self) -> Timestamp {
        self.end.unwrap_or(self.last)
    }

    /// When it went for good: left the dialplan, or ended where no `h` extension ran after it.
    pub fn went(&self) -> Timestamp {
        self.left_dialplan.unwrap_or_else(|| self.gone())
    }

    /// The same, where its end was read.
    pub fn went_at_end(&self) -> Option<Timestamp> {
        self.end.map(|e| self.left_dialplan.unwrap_or(e))
    }

    pub fn is_up_at(&self, t: Timestamp) -> bool {
        self.first <= t && self.end.is_none_or(|e| e >= t)
    }
}

pub(super) struct Scene<'a> {
    pub rules: &'a Rules,
    pub events: Vec<Event<'a>>,
    pub chans: Vec<Chan<'a>>,
    pub records: Vec<Record<'a>>,
    /// Recordings found beside the rows.
    pub found: &'a [Arc<FoundRecording>],
    /// The table keeps whole seconds only.
    pub whole_seconds: bool,
    pub has_bridges: bool,
    /// Details of hangups are JSON, as Asterisk has them since 12.
    pub json_details: bool,
    /// More than Asterisk's sample event list is switched on.
    pub rich_events: bool,
    /// Rows name a tenant.
    pub has_tenants: bool,
    /// Distinct rows.
    pub cel_rows: u64,
    pub cdr_rows: u64,
}

/// The extension that runs once a channel has hung up; its HANGUP is written only afterwards.
const HANGUP_EXTEN: &str = "h";
/// What runs there takes no longer: an application that ended earlier was not the one the channel left.
pub(super) const HANGUP_EXTEN_MAX_US: i64 = 5_000_000;

/// Two things that happen in this time are one act.
const INSTANT_US: i64 = 500_000;
const WHOLE_INSTANT_US: i64 = 1_000_000;

impl<'a> Scene<'a> {
    pub fn new(rows: &'a CallRows, rules: &'a Rules, zone: &Zone) -> Self {
        let mut clock = Clock::new(zone);
        let mut events = read_events(rows, &mut clock);
        let records = read_records(rows, &mut clock, zone);
        let cel_rows = events.len() as u64;
        let mut chans = name_channels(&mut events);
        let fraction = |e: &Event<'_>| e.t.micros() % 1_000_000 != 0;
        let mut scene = Self {
            rules,
            whole_seconds: !events.iter().any(fraction),
            has_bridges: false,
            json_details: false,
            rich_events: false,
            has_tenants: records.iter().any(|r| !r.row.tenantid.is_empty()),
            cel_rows,
            cdr_rows: records.len() as u64,
            events,
            chans: Vec::new(),
            records,
            found: &rows.recordings,
        };
        for event in &scene.events {
            scene.has_tenants |= !event.row.tenantid.is_empty();
            scene.has_bridges |= matches!(event.row.event, CelEvent::BridgeEnter | CelEvent::BridgeStart);
            scene.json_details |= event.row.event == CelEvent::Hangup && event.row.extra.starts_with('{');
            scene.rich_events |= !matches!(
                event.row.event,
                CelEvent::AppStart
                    | CelEvent::ChanStart
                    | CelEvent::ChanEnd
                    | CelEvent::Answer
                    | CelEvent::Hangup
                    | CelEvent::BridgeEnter
                    | CelEvent::BridgeExit
            );
            if event.row.event != CelEvent::LinkedidEnd {
                observe(&mut chans[event.ch], event);
            }
        }
        pair_locals(&mut chans);
        for chan in &mut chans {
            chan.bare_names = [chan.name, chan.last_name].map(ids::bare_name);
            if chan.end.is_none() && chan.hung_up {
                chan.end = Some(chan.last);
            }
            // a rounded clock may show an answer before the start
            chan.end = chan.end.map(|e| e.max(chan.first));
            chan.extension = shape::extension_of(rules, chan.endpoint);
            chan.trunk = chan.is_real() && shape::is_trunk(rules, chan.endpoint, chan.context);
        }
        scene.chans = chans;
        scene.find_pickups();
        scene.find_dialled();
        scene
    }

    /// Two moments are one act.
    pub fn same_instant(&self, a: Timestamp, b: Timestamp) -> bool {
        let limit = if self.whole_seconds { WHOLE_INSTANT_US } else { INSTANT_US };
        a.micros().abs_diff(b.micros()) <= limit as u64
    }

    pub fn by_id(&self, id: &str) -> Option<usize> {
        self.chans.iter().position(|c| c.id == id)
    }

    /// The channel of this name, as of `t`: names recur after a restart.
    pub fn by_name(&self, name: &str, t: Timestamp) -> Option<usize> {
        let name = ids::bare_name(name);
        let named = || self.chans.iter().enumerate().filter(|(_, c)| c.is_bare_name(name));
        named().find(|(_, c)| c.is_up_at(t)).or_else(|| named().next()).map(|(i, _)| i)
    }

    pub fn events_of(&self, ch: usize) -> impl Iterator<Item = &Event<'a>> {
        self.events.iter().filter(move |e| e.ch == ch)
    }

    fn find_pickups(&mut self) {
        for i in 0..self.events.len() {
            let Event { t, row, ch } = self.events[i];
            if row.event == CelEvent::Pickup {
                let by = extra::get(&row.extra, "pickup_channel_uniqueid").and_then(|id| self.by_id(&id));
                let by = by.or_else(|| extra::get(&row.extra, "pickup_channel").and_then(|n| self.by_name(&n, t)));
                self.chans[ch].picked_up_by = by.filter(|&b| b != ch);
            }
        }
    }

    /// A rung device starts without a dialled extension and shows that Dial, Queue or an originate made it; a caller's
    /// channel starts with the extension it dialled, even where a pickup later makes it look dialled.
    fn find_dialled(&mut self) {
        let pickers: Vec<usize> = self.chans.iter().filter_map(|c| c.picked_up_by).collect();
        for (i, chan) in self.chans.iter_mut().enumerate() {
            let shown = chan.app_dial || chan.app_dial2;
            let founder = chan.id == chan.linkedid;
            chan.dialled = chan.is_real()
                && if matches!(chan.exten, "" | "s") {
                    shown || !founder && !chan.own_app
                } else {
                    // some drivers start a dialled channel with the number that was dialled
                    shown && !founder && !chan.own_app && !pickers.contains(&i)
                };
        }
    }
}

fn read_events<'a>(rows: &'a CallRows, clock: &mut Clock<'_>) -> Vec<Event<'a>> {
    let mut events: Vec<Event<'a>> = Vec::with_capacity(rows.cel.len());
    let mut last_known = Timestamp::default();
    let mut undated = Vec::new();
    for row in rows.cel.iter().map(AsRef::as_ref) {
        if ids::is_service_channel(&row.channel) || key_of(row).is_empty() {
            continue;
        }
        match row.time {
            Some(time) => {
                let t = clock.moment(time, key_of(row));
                last_known = last_known.max(t);
                events.push(Event { t, row, ch: 0 });
            }
            None => undated.push(row),
        }
    }
    // a row without a readable time still says who took part: it stands where its channel began
    for row in undated {
        let t = epoch_of(key_of(row)).unwrap_or(last_known);
        events.push(Event { t, row, ch: 0 });
    }
    if clock.memory.saw_ambiguous {
        clock.settle_fold(&mut events);
    }
    // as they come nearly always
    if !events.is_sorted_by(|a, b| in_order(a, b) != Ordering::Greater) {
        events.sort_unstable_by(in_order);
    }
    // a DTMF row without an id may truly occur twice
    events.dedup_by(|b, a| {
        (std::ptr::eq(a.row, b.row) || a.row == b.row) && !(a.row.event == CelEvent::Dtmf && a.row.id.is_none())
    });
    drop_written_twice(&mut events);
    events
}

/// A backend that lost the answer to its INSERT writes the row once more: the same microsecond of the same channel under
/// another id. (Where the clock has whole seconds, two equal events may be two.)
fn drop_written_twice(events: &mut Vec<Event<'_>>) {
    let twice = |events: &[Event<'_>], n: usize| {
        let (t, row) = (events[n].t, events[n].row);
        t.micros() % 1_000_000 != 0
            && row.id.is_some()
            && events[..n].iter().rev().take_while(|e| e.t == t).any(|e| {
                (&e.row.event, &e.row.uniqueid, &e.row.channel) == (&row.event, &row.uniqueid, &row.channel)
                    && CelRow { id: row.id, ..e.row.clone() } == *row
            })
    };
    // hardly ever there is one
    let Some(first) = (0..events.len()).find(|&n| twice(events, n)) else { return };
    let again: Vec<bool> = (0..events.len()).map(|n| n >= first && twice(events, n)).collect();
    let mut again = again.into_iter();
    events.retain(|_| !again.next().unwrap_or_default());
}

/// Time, then the table's order (rows without an id come after those with one), then the rank of the event; the rest
/// only makes the order total.
fn in_order(a: &Event<'_>, b: &Event<'_>) -> Ordering {
    a.t.cmp(&b.t).then_with(|| match (a.row.id, b.row.id) {
        (Some(x), Some(y)) if x != y => x.cmp(&y),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        _ => {
            let by_id = ids::compare(key_of(a.row), key_of(b.row));
            a.row.event.cmp(&b.row.event).then(by_id).then_with(|| a.row.cmp(b.row))
        }
    })
}

/// What tells channels apart: the uniqueid, or the name where a table has none.
fn key_of(row: &CelRow) -> &str {
    if row.uniqueid.is_empty() { &row.channel } else { &row.uniqueid }
}

fn read_records<'a>(rows: &'a CallRows, clock: &mut Clock<'_>, zone: &Zone) -> Vec<Record<'a>> {
    let usable = |r: &&CdrRow| !ids::is_service_channel(&r.channel);
    let mut sorted: Vec<&CdrRow> = rows.cdr.iter().map(AsRef::as_ref).filter(usable).collect();
    sorted.sort_unstable();
    sorted.dedup();
    // written twice by a backend that lost the answer: of one channel no two records have the same number
    if sorted.len() > 1 {
        let mut numbers: HashSet<_, RandomState> = HashSet::default();
        sorted.retain(|r| {
            let what = |n| (n, &r.uniqueid, &r.linkedid, r.start, &r.dstchannel, r.duration_ms);
            r.sequence.is_none_or(|n| numbers.insert(what(n)))
        });
    }
    let east = mislabelled_offset(&sorted, zone);
    let mut records: Vec<Record<'a>> = sorted
        .into_iter()
        .map(|row| {
            let mut moment = |time: RowTime| match (time, east) {
                (RowTime::Utc(micros), Some(east)) => Timestamp::from_micros(micros.saturating_sub(east)),
                _ => clock.moment(time, &row.uniqueid),
            };
            let start = row.start.map(&mut moment);
            let not_before_start = |t: Timestamp| start.map_or(t, |s| t.max(s));
            let answer = row.answer.map(&mut moment).map(not_before_start);
            let by_duration = || Some(start?.plus_micros(row.duration_ms?.saturating_mul(1_000)));
            let end = match row.end.map(&mut moment) {
                // none: a damaged row, or a clock that was set back meanwhile
                Some(end) if start.is_some_and(|s| end < s) => by_duration().or(start),
                end => end.or_else(by_duration),
            }
            .map(not_before_start);
            Record { row, start, answer, end }
        })
        .collect();
    records.sort_by(|a, b| {
        let key = |r: &Record<'_>| (r.start, r.end, r.row.sequence);
        key(a).cmp(&key(b)).then_with(|| ids::compare(&a.row.uniqueid, &b.row.uniqueid)).then_with(|| a.row.cmp(b.row))
    });
    records
}

/// A `timestamptz` column that a driver filled with local time claims UTC: its records start off their channels' epochs
/// by just the zone's offset. Microseconds east when every record that can tell says so.
fn mislabelled_offset(rows: &[&CdrRow], zone: &Zone) -> Option<i64> {
    let mut found = None;
    for row in rows {
        let Some(RowTime::Utc(start)) = row.start else { continue };
        let Some(id) = Id::parse(&row.uniqueid) else { continue };
        let epoch = Timestamp::from_secs(id.epoch);
        let east = zone.offset_at(epoch);
        let apart = start.saturating_sub(epoch.micros()).saturating_sub(east);
        // a later record of the channel starts later; none starts before it
        if east == 0 || apart < -2_000_000 {
            return None;
        }
        found = match found {
            None if apart <= 2_000_000 => Some(east),
            Some(known) if known == east => Some(east),
            _ => return None,
        };
    }
    found
}

/// Gives every event its channel and makes the channels, in the order of their uniqueids.
fn name_channels<'a>(events: &mut [Event<'a>]) -> Vec<Chan<'a>> {
    let mut keys: Vec<&'a str> = Vec::new();
    if events.len() <= 64 {
        for event in events.iter_mut() {
            let key = key_of(event.row);
            event.ch = keys.iter().position(|k| *k == key).unwrap_or_else(|| {
                keys.push(key);
                keys.len() - 1
            });
        }
    } else {
        let mut index: HashMap<&'a str, usize> = HashMap::new();
        for event in events.iter_mut() {
            let key = key_of(event.row);
            event.ch = *index.entry(key).or_insert_with(|| {
                keys.push(key);
                keys.len() - 1
            });
        }
    }
    let mut order: Vec<(usize, Option<Id<'a>>)> = keys.iter().enumerate().map(|(i, k)| (i, Id::parse(k))).collect();
    order.sort_by(|(i, a), (j, b)| {
        let key = |id: &Option<Id<'a>>| id.map(|i| (i.epoch, i.counter, i.systemname));
        match (key(a), key(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => keys[*i].cmp(keys[*j]),
        }
    });
    let mut place = vec![0; keys.len()];
    for (new, (old, _)) in order.iter().enumerate() {
        place[*old] = new;
    }
    for event in events.iter_mut() {
        event.ch = place[event.ch];
    }
    order.iter().map(|(old, _)| Chan { id: keys[*old], ..Chan::default() }).collect()
}

fn observe<'a>(chan: &mut Chan<'a>, event: &Event<'a>) {
    let (t, row) = (event.t, event.row);
    chan.life.observe(row, Some(t));
    if chan.name.is_empty() {
        chan.name = &row.channel;
        chan.endpoint = ids::endpoint(&row.channel);
        chan.local = ids::local_half(&row.channel).map_or(0, |(_, half)| half);
    }
    if !chan.seen {
        chan.seen = true;
        chan.nameless = row.uniqueid.is_empty();
        chan.first = t;
        chan.linkedid = &row.linkedid;
        chan.exten = &row.exten;
        chan.context = &row.context;
        chan.number_at_start = !row.cid_num.is_empty();
        if chan.number_at_start {
            chan.number = &row.cid_num;
        }
        chan.cname = &row.cid_name;
    } else if !row.cid_num.is_empty() {
        if chan.number.is_empty() {
            chan.number = &row.cid_num;
            chan.cname = &row.cid_name;
        } else if chan.later_number.is_empty() && row.cid_num != chan.number {
            chan.later_number = &row.cid_num;
        }
    }
    chan.last = chan.last.max(t);
    if !row.channel.is_empty() {
        chan.last_name = &row.channel;
    }
    if runs_after_hangup(chan, row) && chan.left_dialplan.is_none() {
        // the application that the hangup broke off ended just before
        let broken_off = chan
            .last_app_end
            .filter(|e| chan.last_is_app_end && t.micros().saturating_sub(e.micros()) <= HANGUP_EXTEN_MAX_US);
        chan.left_dialplan = Some(broken_off.unwrap_or(t));
    }
    chan.last_is_app_end = row.event == CelEvent::AppEnd;
    let app = row.appname.as_str();
    if app.starts_with("App") {
        let by_dial = app.eq_ignore_ascii_case("AppDial") || app.eq_ignore_ascii_case("AppQueue");
        chan.app_dial |= by_dial;
        chan.app_dial2 |= app.eq_ignore_ascii_case("AppDial2");
        if by_dial && chan.dialled_exten.is_empty() && row.exten != "s" {
            chan.dialled_exten = &row.exten;
        }
    }
    match row.event {
        CelEvent::Answer => {
            chan.answer.get_or_insert(t);
        }
        CelEvent::AppStart | CelEvent::AppEnd if chan.left_dialplan.is_some() => {}
        CelEvent::AppStart => {
            chan.own_app = true;
            chan.last_app_start = chan.last_app_start.max(Some(t));
            chan.last_app = &row.appname;
        }
        CelEvent::AppEnd => chan.last_app_end = chan.last_app_end.max(Some(t)),
        CelEvent::Hangup => {
            chan.hung_up = true;
            chan.hangup_told |= !row.extra.is_empty();
            let [cause, source, status] = extra::get_all(&row.extra, ["hangupcause", "hangupsource", "dialstatus"]);
            chan.cause = cause.and_then(|c| c.parse().ok()).or(chan.cause);
            chan.hangup_source = source.unwrap_or_default();
            chan.dial_status = status.unwrap_or_default();
        }
        CelEvent::ChanEnd => chan.end = chan.end.max(Some(t)),
        CelEvent::BridgeEnter | CelEvent::BridgeStart => chan.bridged = true,
        _ => {}
    }
}

/// A row of the extension that runs after a hangup; a channel may also have been called at an extension of that name.
pub(super) fn runs_after_hangup(chan: &Chan<'_>, row: &CelRow) -> bool {
    row.exten == HANGUP_EXTEN && chan.exten != HANGUP_EXTEN
}

fn pair_locals(chans: &mut [Chan<'_>]) {
    let locals: Vec<usize> = (0..chans.len()).filter(|&i| chans[i].local != 0).collect();
    let mut halves: HashMap<(&str, u8), Vec<usize>> = HashMap::new();
    for &i in &locals {
        if let Some((base, half)) = ids::local_half(chans[i].name) {
            halves.entry((base, half)).or_default().push(i);
        }
    }
    let mut pairs = Vec::new();
    for (&(base, half), ones) in &halves {
        if half == 1
            && let Some(twos) = halves.get(&(base, 2))
        {
            // names recur after a restart: both halves are made in the same breath
            pairs.extend(ones.iter().copied().zip(twos.iter().copied()));
        }
    }
    for (one, two) in pairs {
        chans[one].mate = Some(two);
        chans[two].mate = Some(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_and_without_ids_have_one_order() {
        let row = |id: Option<i64>, event: CelEvent| CelRow { id, event, uniqueid: "1.1".into(), ..CelRow::default() };
        let rows = [row(Some(1), CelEvent::ChanEnd), row(Some(2), CelEvent::ChanStart), row(None, CelEvent::Answer)];
        let at = |row| Event { t: Timestamp::default(), row, ch: 0 };
        let before = |a: usize, b: usize| in_order(&at(&rows[a]), &at(&rows[b])) == Ordering::Less;
        assert!(before(0, 1) && before(1, 2) && before(0, 2));
        assert!(!before(2, 0) && !before(2, 1));
    }
}
