//! The ladder of a call: parties as columns, time downwards, a row of CEL a line.

use std::fmt::Write;

use super::Zone;
use super::explain::{clean, clock};
use super::reading::Reader;
use super::scene::{Event, Scene};
use crate::call::CelEvent;

/// More columns than this do not fit beside the text; further channels share the last one.
const COLUMNS_MAX: usize = 7;
const WIDTH: usize = 11;
/// A story longer than this is told in its beginning and its end.
const LINES_MAX: usize = 2_000;

pub(super) struct Ladder<'s, 'a> {
    scene: &'s Scene<'a>,
    /// Channel of each column: the caller first, then real channels, then Local pairs.
    columns: Vec<usize>,
    place: Vec<usize>,
}

impl<'s, 'a> Ladder<'s, 'a> {
    pub fn new(scene: &'s Scene<'a>, caller: usize) -> Self {
        let chans = &scene.chans;
        let mut columns = vec![caller];
        columns.extend((0..chans.len()).filter(|&c| c != caller && chans[c].is_real()));
        // both halves of a Local pair are one column
        columns.extend(
            (0..chans.len()).filter(|&c| c != caller && !chans[c].is_real() && chans[c].mate.is_none_or(|m| m > c)),
        );
        columns.truncate(COLUMNS_MAX);
        let place = (0..chans.len()).map(|c| {
            let own = columns.iter().position(|&x| x == c || chans[c].mate == Some(x));
            own.unwrap_or(columns.len() - 1)
        });
        Self { scene, place: place.collect(), columns }
    }

    pub fn write(&self, out: &mut String, reader: &Reader<'_, '_>, zone: &Zone) {
        let _ = write!(out, "{:<13}", "time");
        for (i, &c) in self.columns.iter().enumerate() {
            let shared =
                self.place.iter().enumerate().any(|(ch, &p)| p == i && ch != c && self.scene.chans[ch].mate != Some(c));
            let name = if shared { "others".to_owned() } else { self.label(c) };
            let _ = write!(out, "{name:<WIDTH$}");
        }
        out.push_str("event\n");
        let events = &self.scene.events;
        let skipped = if events.len() > LINES_MAX { LINES_MAX / 2..events.len() - LINES_MAX / 2 } else { 0..0 };
        for (i, event) in events.iter().enumerate() {
            if skipped.contains(&i) {
                if i == skipped.start {
                    let _ = writeln!(out, "… {} rows …", skipped.len());
                }
                continue;
            }
            self.line(out, event, reader.read(i), zone);
        }
    }

    fn label(&self, ch: usize) -> String {
        let chan = &self.scene.chans[ch];
        let name = if chan.is_real() {
            super::explain::who(&super::parties::party(self.scene, ch))
        } else {
            let name = chan.name.strip_prefix("Local/").unwrap_or(chan.name);
            format!("L/{}", clean(name.split('@').next().unwrap_or(name)))
        };
        cut(&name, WIDTH - 1)
    }

    fn line(&self, out: &mut String, event: &Event<'a>, reading: String, zone: &Zone) {
        let _ = write!(out, "{} ", clock(event.t, zone));
        let own = self.place[event.ch];
        let from = match event.row.event {
            // a ring is an arrow from whoever dialled
            CelEvent::ChanStart => self.scene.chans[event.ch].dialler.map(|d| self.place[d]).filter(|&d| d != own),
            _ => None,
        };
        for (i, &c) in self.columns.iter().enumerate() {
            let (low, high) = (from.unwrap_or(own).min(own), from.unwrap_or(own).max(own));
            let within = from.is_some() && i >= low && i < high;
            let mark = if i == own {
                symbol(&event.row.event, from.map(|f| f < own))
            } else if Some(i) == from {
                if i < own { "├" } else { "┤" }
            } else if within && i > low {
                "┼"
            } else if self.scene.chans[c].is_up_at(event.t) {
                "│"
            } else {
                " "
            };
            out.push_str(mark);
            let fill = if within { "─" } else { " " };
            out.extend(std::iter::repeat_n(fill, WIDTH - 1));
        }
        let row = event.row;
        let mut what = clean(row.event.name());
        if !row.appname.is_empty() && matches!(row.event, CelEvent::AppStart | CelEvent::AppEnd) {
            let _ = write!(what, " {}", clean(&row.appname));
            if row.event == CelEvent::AppStart {
                let _ = write!(what, "({})", cut(&clean(&row.appdata), 48));
            }
        }
        let _ = write!(out, "{what}");
        if !reading.is_empty() {
            let _ = write!(out, "  ⇒ {reading}");
        }
        out.push('\n');
    }
}

fn symbol(event: &CelEvent, arrow_right: Option<bool>) -> &'static str {
    match (event, arrow_right) {
        (CelEvent::ChanStart, Some(true)) => "▶",
        (CelEvent::ChanStart, Some(false)) => "◀",
        (CelEvent::ChanStart, None) => "┬",
        (CelEvent::ChanEnd, _) => "┴",
        (CelEvent::Answer, _) => "✓",
        (CelEvent::BridgeEnter, _) => "◆",
        (CelEvent::BridgeExit, _) => "◇",
        (CelEvent::Hangup, _) => "✗",
        _ => "●",
    }
}

fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(max.saturating_sub(1)).collect();
    short.push('…');
    short
}
