//! `callferry calls`: what the agent knows of calls and their deliveries, and what is to become of those that were given up.
//! Reads the state beside a running agent or without one; what changes something is asked of the agent. Numbers are shown
//! as they are: this is the admin's own terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::PathBuf;

use chrono::{NaiveDate, Utc};
use comfy_table::{Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use serde_json::json;

use super::span;
use super::text::{Clock, printable};
use crate::call::{Call, Party, Seconds, Timestamp};
use crate::config::StateSettings;
use crate::correlate::explain;
use crate::printable;
use crate::store::calls::{self, Delivery, Filter, Known};
use crate::store::{self, StoreError};

mod dead;
mod export;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    state: StateSettings,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// List calls, the last that ended first
    List {
        /// Only calls with a delivery that waits
        #[arg(long)]
        pending: bool,
        /// Only calls with a delivery that was given up: the dead letters
        #[arg(long)]
        failed: bool,
        /// Only calls that were queued for this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Only calls that ended since: a duration back (90m, 24h, 7d), a date (2026-11-20), or a time in UTC
        /// (2026-11-20T08:00:00Z)
        #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
        since: Option<Timestamp>,
        /// How many
        #[arg(long, default_value = "50")]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one call: its document, and each delivery with its attempts
    Show {
        /// The call's id, or a linkedid or uniqueid of it
        id: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Send again what was given up: after the receiver was mended
    Retry {
        #[command(flatten)]
        which: dead::Chosen,
    },
    /// Give up for good what was given up: it is not sent any more, and not listed as failed
    Drop {
        #[command(flatten)]
        which: dead::Chosen,
        /// Do not ask whether to drop all
        #[arg(long)]
        yes: bool,
    },
    /// Write what was given up as JSON lines, with documents and answers
    Export {
        /// File to write, which must not exist; - is standard output
        file: PathBuf,
        /// Only at this sink
        #[arg(long, value_name = "NAME")]
        sink: Option<String>,
        /// Replace a file that exists
        #[arg(long)]
        force: bool,
    },
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    let mut out = String::new();
    let done = match &args.command {
        Command::List { pending, failed, sink, since, limit, json } => {
            let (sink, since) = (sink.clone(), *since);
            let filter = Filter { pending: *pending, failed: *failed, sink, since, limit: *limit };
            list(&args.state, &filter, *json, &mut out)
        }
        Command::Show { id, json } => show(&args.state, id, *json, &mut out),
        Command::Retry { which } => return dead::retry(&args.state, which),
        Command::Drop { which, yes } => return dead::drop(&args.state, which, *yes),
        Command::Export { file, sink, force } => return export::run(&args.state, file, sink.as_deref(), *force),
    };
    // a reader that has seen enough (head, less) is no failure
    let _ = io::stdout().lock().write_all(out.as_bytes());
    match done {
        Ok(found) => {
            if found {
                super::OK
            } else {
                super::RUNTIME
            }
        }
        Err(e) => {
            eprintln!("callferry: {e}");
            super::RUNTIME
        }
    }
}

fn list(state: &StateSettings, filter: &Filter, as_json: bool, out: &mut String) -> Result<bool, StoreError> {
    let conn = store::open_read_only(&state.state_dir)?;
    if let Some(unknown) = filter.sink.as_deref().map(|sink| dead::unknown_sink(&conn, sink)).transpose()?.flatten() {
        eprintln!("callferry: {unknown}");
        return Ok(false);
    }
    let calls = calls::list(&conn, filter)?;
    if as_json {
        for known in &calls {
            let _ = writeln!(out, "{}", known_json(known));
        }
        return Ok(true);
    }
    if calls.is_empty() {
        out.push_str(match (filter.failed, filter.pending) {
            (true, false) => "no dead letters\n",
            (false, true) => "nothing waits\n",
            _ => "no calls\n",
        });
        return Ok(true);
    }
    let times = Clock::of(&conn)?;
    let _ = writeln!(out, "{times}");
    let mut table = table(&["ended", "call", "direction", "from", "to", "outcome", "with", "talk", "delivery"]);
    let narrow = table.width().is_some_and(|width| width < WIDE);
    let who = if narrow { number } else { party };
    for known in &calls {
        let call = known.document.as_deref().and_then(|d| serde_json::from_str::<Call>(d).ok());
        let content = call.as_ref().map(|c| &c.content);
        let text = |f: fn(&crate::call::Content) -> String| content.map_or_else(String::new, f);
        table.add_row([
            Cell::new(match known.state.as_str() {
                "in_progress" => "in progress".to_owned(),
                _ => known.ended_at.map_or_else(String::new, |at| {
                    let at = times.shown(at);
                    // the year goes on a narrow terminal
                    if narrow { at.get(5..).unwrap_or_default().to_owned() } else { at }
                }),
            }),
            Cell::new(printable(&known.id)),
            Cell::new(text(|c| c.direction.to_string())),
            Cell::new(content.map_or_else(String::new, |c| who(&c.from))),
            Cell::new(content.map_or_else(String::new, |c| who(&c.to))),
            Cell::new(match known.state.as_str() {
                "merged" => format!("merged into {}", printable(known.merged_into.as_deref().unwrap_or_default())),
                _ => text(|c| c.outcome.map_or_else(|| "open".to_owned(), |o| o.to_string())),
            }),
            Cell::new(text(|c| c.finally_with.as_ref().map_or_else(String::new, party))),
            Cell::new(text(|c| c.talk_s.map_or_else(String::new, clock))),
            standing(known),
        ]);
    }
    fit(&mut table);
    let _ = writeln!(out, "{table}");
    Ok(true)
}

/// Columns of a terminal from which on the list shows names and years.
const WIDE: u16 = 110;

/// Makes the list fit the terminal: an id is there to be copied and is never broken; what can be looked up with
/// `calls show` goes first.
fn fit(table: &mut Table) {
    const WHOLE: [usize; 4] = [0, 1, 5, 8];
    const GO_FIRST: [usize; 3] = [7, 6, 2];
    let width = usize::from(table.width().unwrap_or(u16::MAX));
    let widths: Vec<usize> = table.column_max_content_widths().into_iter().map(usize::from).collect();
    let mut needed: usize = widths.iter().map(|w| w + 2).sum();
    for gone in GO_FIRST {
        if needed <= width {
            break;
        }
        needed -= widths.get(gone).map_or(0, |w| w + 2);
        if let Some(column) = table.column_mut(gone) {
            column.set_constraint(ColumnConstraint::Hidden);
        }
    }
    for whole in WHOLE {
        if let Some(column) = table.column_mut(whole) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn show(state: &StateSettings, id: &str, as_json: bool, out: &mut String) -> Result<bool, StoreError> {
    let conn = store::open_read_only(&state.state_dir)?;
    let Some((known, deliveries)) = calls::show(&conn, id)? else {
        eprintln!("callferry: {}", dead::unknown_call(&conn, &state.state_dir, id)?);
        return Ok(false);
    };
    if as_json {
        let mut value = known_json(&known);
        value["deliveries"] = deliveries.iter().map(delivery_json).collect();
        let _ = writeln!(out, "{value}");
        return Ok(true);
    }
    let _ = writeln!(out, "{}  revision {}  {}", printable(&known.id), known.revision, known.state);
    if let Some(into) = &known.merged_into {
        let _ = writeln!(out, "merged into {}", printable(into));
    }
    if let Some(call) = known.document.as_deref().and_then(|d| serde_json::from_str::<Call>(d).ok()) {
        let _ = writeln!(out, "{}", printable(&explain::one_line(&call.content)));
    }
    match known.document.as_deref().map(serde_json::from_str::<serde_json::Value>) {
        Some(Ok(document)) => {
            // JSON escapes control characters; what would turn the writing direction is left
            let _ = writeln!(out, "{}", printable::clean_lines(&format!("{document:#}")));
        }
        _ => out.push_str("its document is not kept any more (STATE_RETENTION)\n"),
    }
    if deliveries.is_empty() {
        if known.state == "suppressed" {
            out.push_str("a filter keeps it back; `callferry explain` tells which\n");
        }
        out.push_str("no deliveries\n");
        return Ok(true);
    }
    let times = Clock::of(&conn)?;
    let _ = writeln!(out, "{times}");
    let mut table = table(&["sink", "revision", "delivery", "attempts", "queued", "next or last"]);
    // a row is one line, so that its error can stand under it, as long as it may be
    table.set_content_arrangement(ContentArrangement::Disabled);
    for d in &deliveries {
        table.add_row([
            Cell::new(printable(&d.sink)),
            Cell::new(d.revision),
            coloured(d.state, d.state),
            Cell::new(d.attempts),
            Cell::new(times.shown(d.queued_at)),
            Cell::new(d.due_at.or(d.finished_at).map_or_else(String::new, |at| times.shown(at))),
        ]);
    }
    let mut lines = table.lines();
    let _ = writeln!(out, "{}", lines.next().unwrap_or_default());
    for (line, d) in lines.zip(&deliveries) {
        let _ = writeln!(out, "{line}");
        if let Some(error) = &d.last_error {
            let _ = writeln!(out, "     last error: {}", printable(error));
        }
    }
    Ok(true)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    if !io::stdout().is_terminal() {
        table.set_width(200);
    }
    table
}

fn standing(known: &Known) -> Cell {
    let mut parts = Vec::new();
    for (n, what) in [(known.dead, "dead"), (known.pending, "pending"), (known.delivered, "delivered")] {
        match n {
            0 => {}
            1 => parts.push(what.to_owned()),
            n => parts.push(format!("{n} {what}")),
        }
    }
    if known.state == "suppressed" {
        parts.push("suppressed".to_owned());
    }
    let state = match known {
        Known { dead: 1.., .. } => "dead",
        Known { pending: 1.., .. } => "pending",
        _ => "delivered",
    };
    coloured(&parts.join(", "), state)
}

fn coloured(text: &str, state: &str) -> Cell {
    let cell = Cell::new(text);
    if std::env::var_os("NO_COLOR").is_some() {
        return cell;
    }
    match state {
        "dead" => cell.fg(Color::Red),
        "pending" | "in_flight" => cell.fg(Color::Yellow),
        _ => cell,
    }
}

fn known_json(known: &Known) -> serde_json::Value {
    let document = known.document.as_deref().and_then(|d| serde_json::from_str::<serde_json::Value>(d).ok());
    json!({
        "id": known.id,
        "revision": known.revision,
        "state": known.state,
        "started_at": known.started_at,
        "ended_at": known.ended_at,
        "merged_into": known.merged_into,
        "pending": known.pending,
        "delivered": known.delivered,
        "dead": known.dead,
        "document": document,
    })
}

fn delivery_json(d: &Delivery) -> serde_json::Value {
    json!({
        "sink": d.sink,
        "revision": d.revision,
        "state": d.state,
        "attempts": d.attempts,
        "queued_at": d.queued_at,
        "due_at": d.due_at,
        "finished_at": d.finished_at,
        "last_error": d.last_error,
    })
}

fn number(party: &Party) -> String {
    printable(&shortened(party.number.as_deref().or(party.endpoint.as_deref()).unwrap_or_default()))
}

fn party(party: &Party) -> String {
    let number = party.number.as_deref().or(party.endpoint.as_deref()).unwrap_or_default();
    match party.name.as_deref() {
        Some(name) if !name.is_empty() && name != number => printable(&shortened(&format!("{number} {name}"))),
        _ => printable(&shortened(number)),
    }
}

/// One cell of the list: a caller may call themselves what they like, and as long as they like.
fn shortened(text: &str) -> String {
    const CHARS_MAX: usize = 30;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// `1:02:03` or `2:03`.
fn clock(duration: Seconds) -> String {
    let seconds = duration.millis().max(0) / 1_000;
    match seconds / 3_600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Some(at) = Timestamp::parse_rfc3339(text) {
        return Ok(at);
    }
    if let Ok(day) = text.parse::<NaiveDate>()
        && let Some(midnight) = day.and_hms_opt(0, 0, 0)
    {
        return Ok(Timestamp::from_chrono(midnight.and_utc()));
    }
    match span::seconds_back(text) {
        Some(seconds) => Ok(Timestamp::from_chrono(Utc::now()).plus_micros(-((seconds * 1e6) as i64))),
        None => Err("neither a duration (90m, 24h, 7d) nor a date (2026-11-20, 2026-11-20T08:00:00Z)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_reads_durations_and_dates() {
        assert_eq!(since("2026-11-20"), Ok(Timestamp::from_secs(1_795_132_800)));
        assert_eq!(since("2026-11-20T08:00:00Z"), Ok(Timestamp::from_secs(1_795_161_600)));
        let now = Timestamp::from_chrono(Utc::now());
        let back = |text| (now - since(text).expect(text)).millis();
        for (text, seconds) in [("90m", 5_400), ("24h", 86_400), ("7d", 604_800), ("1.5h", 5_400), ("10s", 10)] {
            assert!((back(text) - seconds * 1_000).abs() < 1_000, "{text}");
        }
        for wrong in ["", "d", "-5m", "5 apples", "NaNh", "é", "2026-13-40"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_read_like_a_clock() {
        assert_eq!(clock(Seconds::from_millis(62_900)), "1:02");
        assert_eq!(clock(Seconds::from_millis(3_723_000)), "1:02:03");
    }
}
