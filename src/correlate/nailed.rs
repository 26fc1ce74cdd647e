//! Nailed-up channels: an agent who stays logged in (AgentLogin), a line that is held open and handed one caller after
//! another. The linkedid of such a channel spreads over every call it takes part in, so it must unite nothing; the
//! channel is a party of each of those calls.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::extra;
use super::group::for_tied_uniqueids;
use super::ids;
use crate::call::{CelEvent, CelRow, Row};

/// A channel bridged to more callers than this, one after another, is nailed up.
const CALLERS_MAX: usize = 3;
/// A bridge of more channels than this is a meeting.
const PEOPLE_MAX: usize = 8;

/// Splits the rows of one group into calls, as indexes into `rows`. One part for all but groups that a nailed-up channel
/// ties together (AgentLogin, or bridged to more than three callers one after another in basic bridges), whose linkedid
/// unites nothing. Parts come ordered by their least index.
pub fn partition(rows: &[Row]) -> Vec<Vec<usize>> {
    partition_with(rows, |_| false)
}

/// The same where it is known of some channels, by their ids, that they are nailed up: the rows that told so may be gone.
pub fn partition_with(rows: &[Row], known: impl Fn(&str) -> bool) -> Vec<Vec<usize>> {
    let ids = rows.iter().flat_map(|row| [row.uniqueid(), row.linkedid()]);
    let known: BTreeSet<&str> = ids.filter(|id| !id.is_empty() && known(id)).collect();
    let mut nailed = nailed_up(rows);
    nailed.extend(&known);
    if nailed.is_empty() {
        return if rows.is_empty() { Vec::new() } else { vec![(0..rows.len()).collect()] };
    }
    let mut linkedids = linkedids_alone(rows, &nailed);
    linkedids.extend(known);
    split(rows, &nailed, &linkedids)
}

/// Uniqueids and linkedids of the nailed-up channels of one group: they stand in the rows of every call that such a
/// channel takes part in, and name none of them.
pub fn shared_ids(rows: &[Row]) -> BTreeSet<&str> {
    let nailed = nailed_up(rows);
    let mut ids = linkedids_alone(rows, &nailed);
    ids.extend(nailed);
    ids
}

/// Bridges that carry one conversation: linkedids merge in these and in no others.
pub(super) fn is_basic_bridge(technology: &str) -> bool {
    !technology.starts_with("softmix") && !technology.starts_with("holding")
}

/// Uniqueids of nailed-up channels.
fn nailed_up(rows: &[Row]) -> BTreeSet<&str> {
    let mut nailed = BTreeSet::new();
    // bridge → channels in it
    let mut bridges: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    // channel → (it dialled in, linkedid it began with)
    let mut born: HashMap<&str, (bool, &str)> = HashMap::new();
    let mut parked: BTreeSet<&str> = BTreeSet::new();
    for row in rows {
        let Row::Cel(r) = row else { continue };
        match r.event {
            CelEvent::AppStart if r.appname.eq_ignore_ascii_case("AgentLogin") => {
                nailed.insert(r.uniqueid.as_str());
            }
            CelEvent::ChanStart => {
                let dialled_in = !r.exten.is_empty() && r.exten != "s" && !ids::is_local(&r.channel);
                born.insert(&r.uniqueid, (dialled_in, &r.linkedid));
            }
            CelEvent::ParkStart => {
                parked.insert(&r.uniqueid);
            }
            CelEvent::BridgeEnter => {
                if let Some(bridge) = basic_bridge(r) {
                    bridges.entry(bridge).or_default().insert(&r.uniqueid);
                }
            }
            _ => {}
        }
    }
    let mut callers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    // one conversation has few people in it; a crowd in one bridge is no sequence of callers
    for channels in bridges.values().filter(|c| c.len() <= PEOPLE_MAX) {
        for &channel in channels {
            let own = born.get(channel).map(|(_, linkedid)| *linkedid);
            // a caller of the other side founded a call of its own
            let others = channels.iter().filter(|&&c| {
                c != channel && born.get(c).is_some_and(|&(dialled_in, linkedid)| dialled_in && Some(linkedid) != own)
            });
            callers.entry(channel).or_default().extend(others);
        }
    }
    // who was parked and fetched again and again met many callers too, without being held open for them
    nailed.extend(
        callers.into_iter().filter(|(c, others)| others.len() > CALLERS_MAX && !parked.contains(c)).map(|(c, _)| c),
    );
    nailed
}

fn basic_bridge(row: &CelRow) -> Option<String> {
    let [bridge, technology] = extra::get_all(&row.extra, ["bridge_id", "bridge_technology"]);
    bridge.filter(|_| technology.is_none_or(|t| is_basic_bridge(&t))).map(Cow::into_owned)
}

/// The linkedids that nailed-up channels carry where they stand alone.
fn linkedids_alone<'a>(rows: &'a [Row], nailed: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let mut linkedids = BTreeSet::new();
    for row in rows {
        let begins = match row {
            Row::Cel(r) => matches!(r.event, CelEvent::ChanStart | CelEvent::AppStart),
            Row::Cdr(_) => false,
        };
        if nailed.contains(row.uniqueid()) && (begins || row.linkedid() == row.uniqueid()) {
            linkedids.insert(row.linkedid());
        }
    }
    linkedids
}

fn split(rows: &[Row], nailed: &BTreeSet<&str>, linkedids: &BTreeSet<&str>) -> Vec<Vec<usize>> {
    let mut sets = Sets::default();
    let mut of_row = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let bridge = match row {
            Row::Cel(r) if matches!(r.event, CelEvent::BridgeEnter | CelEvent::BridgeExit) => basic_bridge(r),
            _ => None,
        };
        let own = nailed.contains(row.uniqueid());
        let node = match (&bridge, own) {
            (Some(bridge), true) => sets.node('b', bridge),
            _ => sets.node('u', if row.uniqueid().is_empty() { row.linkedid() } else { row.uniqueid() }),
        };
        if let (Some(bridge), false) = (&bridge, own) {
            let bridge = sets.node('b', bridge);
            sets.unite(node, bridge);
        }
        if !row.linkedid().is_empty() && !linkedids.contains(row.linkedid()) {
            let linked = sets.node('l', row.linkedid());
            sets.unite(node, linked);
        }
        if let (Row::Cel(r), false) = (row, own) {
            for_tied_uniqueids(r, |id| {
                if !nailed.contains(id) {
                    let tied = sets.node('u', id);
                    sets.unite(node, tied);
                }
            });
        }
        of_row.push((i, node));
    }
    let mut parts: Vec<Vec<usize>> = Vec::new();
    let mut place: HashMap<usize, usize> = HashMap::new();
    for (i, node) in of_row {
        let root = sets.find(node);
        let part = *place.entry(root).or_insert_with(|| {
            parts.push(Vec::new());
            parts.len() - 1
        });
        parts[part].push(i);
    }
    parts
}

#[derive(Default)]
struct Sets {
    index: HashMap<(char, String), usize>,
    parent: Vec<usize>,
}

impl Sets {
    fn node(&mut self, kind: char, id: &str) -> usize {
        let next = self.parent.len();
        let node = *self.index.entry((kind, id.to_owned())).or_insert(next);
        if node == next {
            self.parent.push(next);
        }
        node
    }

    fn find(&mut self, mut node: usize) -> usize {
        while self.parent[node] != node {
            self.parent[node] = self.parent[self.parent[node]];
            node = self.parent[node];
        }
        node
    }

    fn unite(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        // the older root stays, so that parts do not depend on the order of unions
        self.parent[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(event: CelEvent, uniqueid: &str, linkedid: &str, exten: &str, app: &str, bridge: &str) -> Row {
        let extra = match bridge {
            "" => String::new(),
            b => format!(r#"{{"bridge_id":"{b}","bridge_technology":"simple_bridge"}}"#),
        };
        Row::Cel(
            CelRow {
                event,
                uniqueid: uniqueid.into(),
                linkedid: linkedid.into(),
                channel: format!("PJSIP/x-{uniqueid}").into(),
                exten: exten.into(),
                appname: app.into(),
                extra: extra.into(),
                ..CelRow::default()
            }
            .into(),
        )
    }

    fn shift(callers: usize, app: &str) -> Vec<Row> {
        let agent = "1795214000.1";
        let mut rows = vec![
            row(CelEvent::ChanStart, agent, agent, "s", "", ""),
            row(CelEvent::AppStart, agent, agent, "s", app, ""),
        ];
        for i in 0..callers {
            let (caller, bridge) = (format!("1795215000.{}", i + 10), format!("bridge-{i}"));
            rows.push(row(CelEvent::ChanStart, &caller, &caller, "400", "", ""));
            rows.push(row(CelEvent::BridgeEnter, agent, agent, "", "", &bridge));
            rows.push(row(CelEvent::BridgeEnter, &caller, agent, "400", "", &bridge));
            rows.push(row(CelEvent::BridgeExit, agent, agent, "", "", &bridge));
            rows.push(row(CelEvent::ChanEnd, &caller, agent, "400", "", ""));
        }
        rows
    }

    #[test]
    fn each_caller_of_a_logged_in_agent_is_a_call() {
        let parts = partition(&shift(2, "AgentLogin"));
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 5, 5]);
    }

    #[test]
    fn a_line_held_open_for_many_callers_unites_nothing() {
        assert_eq!(partition(&shift(3, "MusicOnHold")).len(), 1);
        assert_eq!(partition(&shift(6, "MusicOnHold")).len(), 7);
    }

    #[test]
    fn what_is_known_to_be_nailed_up_stays_so_without_the_rows_that_told() {
        let rows = shift(3, "MusicOnHold");
        assert_eq!(partition_with(&rows, |id| id == "1795214000.1").len(), 4);
        // its own rows are gone too: callers who are left have nothing in common but its linkedid
        let callers: Vec<Row> = rows.into_iter().filter(|r| r.uniqueid() != "1795214000.1").collect();
        assert_eq!(partition(&callers).len(), 1);
        assert_eq!(partition_with(&callers, |id| id == "1795214000.1").len(), 3);
    }

    #[test]
    fn ids_of_many_calls_are_those_of_the_nailed_up_channel() {
        assert_eq!(shared_ids(&shift(2, "AgentLogin")), BTreeSet::from(["1795214000.1"]));
        assert_eq!(shared_ids(&shift(6, "MusicOnHold")), BTreeSet::from(["1795214000.1"]));
        assert!(shared_ids(&shift(2, "MusicOnHold")).is_empty());
    }

    #[test]
    fn every_row_is_in_one_part() {
        let rows = shift(9, "AgentLogin");
        let mut all: Vec<usize> = partition(&rows).concat();
        all.sort_unstable();
        assert_eq!(all, (0..rows.len()).collect::<Vec<_>>());
        assert!(partition(&[]).is_empty());
    }
}
