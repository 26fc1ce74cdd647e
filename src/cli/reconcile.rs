//! `callferry reconcile`: the PBX's calls against what became of them, call by call. Changes nothing; a month is read in
//! pages, and only counts are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use comfy_table::{CellAlignment, Table, presets};
use rusqlite::Connection;
use serde_json::json;

use super::past::{Past, PastError};
use super::text::{count, printable, thousands};
use super::{OK, PROBLEMS, progress, say, span};
use crate::agent::history::compare::{AtSink, Compared, Standing, at_sink, told_in};
use crate::config::Settings;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    span: span::Args,
    /// One JSON object a line: each call that is not acknowledged everywhere, then the totals
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Returns the exit code: 3 when a call is missing, or was given up at a sink.
pub fn run(args: Args) -> u8 {
    let (config, runtime) = match super::prepare_quiet(&args.settings) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let done = runtime.block_on(async {
        let past = Past::open(config, &args.span).await?;
        reconcile(&past, args.json).await
    });
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("callferry: {e}");
            e.code()
        }
    }
}

/// What was counted at one sink.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    acknowledged: u64,
    pending: u64,
    dead: u64,
    given_up: u64,
    not_queued: u64,
}

#[derive(Debug, Default)]
struct Totals {
    calls: u64,
    shipped: u64,
    /// Of the shipped ones: the PBX's rows say something else now.
    changed: u64,
    in_progress: u64,
    waiting: u64,
    before_start: u64,
    filtered: BTreeMap<&'static str, u64>,
    missing: u64,
    forgotten: u64,
    sinks: BTreeMap<&'static str, Counts>,
    unusable: u64,
    /// Shipped, and no longer at the PBX.
    purged: u64,
}

/// One reason why a call is not simply shipped and acknowledged.
struct Difference<'a> {
    call: &'a Compared,
    what: &'static str,
    sink: Option<&'static str>,
    reason: String,
}

impl Totals {
    /// Counts a call and says what is to be said of it.
    fn take<'c>(
        &mut self,
        conn: &Connection,
        sinks: &[&'static str],
        call: &'c Compared,
        tell: &mut impl FnMut(Difference<'c>),
    ) -> Result<(), PastError> {
        self.calls += 1;
        let mut say = |what, sink, reason: String| tell(Difference { call, what, sink, reason });
        match call.standing {
            Standing::Same | Standing::Changed => {
                self.shipped += 1;
                if call.standing == Standing::Changed {
                    self.changed += 1;
                    let text = "shipped, and its rows say something else now: the agent ships a revision when it reads them, \
                                or `callferry backfill`";
                    say("changed", None, text.to_owned());
                }
            }
            Standing::Missing => {
                self.missing += 1;
                let why = match &call.entry {
                    Some(entry) => format!("known here as {}, and not shipped", entry.state.as_str()),
                    None => "never read here: `callferry backfill` ships it".to_owned(),
                };
                say("missing", None, why);
            }
            Standing::BeforeStart => {
                self.before_start += 1;
                say("before_start", None, "ended before START_FROM".to_owned());
            }
            Standing::Filtered(filter) => {
                *self.filtered.entry(filter).or_default() += 1;
                say("filtered", None, format!("kept back by the filter {filter}"));
            }
            Standing::Forgotten => {
                self.forgotten += 1;
                say("forgotten", None, "forgotten on request".to_owned());
            }
            Standing::InProgress => {
                self.in_progress += 1;
                say("in_progress", None, "has not ended".to_owned());
            }
            Standing::Waiting => {
                self.waiting += 1;
                say("waiting", None, "has just ended: waits for its CDR, or to be settled".to_owned());
            }
        }
        let Some(entry) = call.entry.as_ref().filter(|_| matches!(call.standing, Standing::Same | Standing::Changed))
        else {
            return Ok(());
        };
        for sink in sinks.iter().copied() {
            let counts = self.sinks.entry(sink).or_default();
            let mut say = |what, reason: String| tell(Difference { call, what, sink: Some(sink), reason });
            let last = |error: Option<String>| error.map_or_else(String::new, |e| format!(": {e}"));
            match at_sink(conn, entry.call, sink)? {
                AtSink::Acknowledged => counts.acknowledged += 1,
                AtSink::Pending { last_error } => {
                    counts.pending += 1;
                    say("pending", format!("waits for {sink}{}", last(last_error)));
                }
                AtSink::Dead { last_error } => {
                    counts.dead += 1;
                    say("dead", format!("given up at {sink}{}", last(last_error)));
                }
                AtSink::GivenUp => {
                    counts.given_up += 1;
                    say("dropped", format!("given up at {sink}, and dropped"));
                }
                AtSink::NotQueued => {
                    counts.not_queued += 1;
                    say("not_queued", format!("shipped before {sink} was configured"));
                }
            }
        }
        Ok(())
    }

    fn filtered(&self) -> u64 {
        self.filtered.values().sum()
    }

    /// What every call of the PBX is, once.
    fn parts(&self) -> [u64; 7] {
        let kept = [self.before_start, self.filtered(), self.forgotten];
        let [before_start, filtered, forgotten] = kept;
        [self.shipped, self.missing, before_start, filtered, forgotten, self.in_progress, self.waiting]
    }

    fn has_problems(&self) -> bool {
        self.missing > 0 || self.sinks.values().any(|s| s.dead + s.given_up > 0)
    }
}

async fn reconcile(past: &Past, as_json: bool) -> Result<u8, PastError> {
    let mut totals = Totals::default();
    for sink in &past.setup.sinks {
        totals.sinks.insert(sink, Counts::default());
    }
    let bar = progress::bar(!as_json);
    let sinks = past.setup.sinks.clone();
    let unusable = past
        .walk(|conn, calls, permille| {
            for call in &calls {
                totals.take(conn, &sinks, call, &mut |d| {
                    bar.suspend(|| say(if as_json { as_line(&d) } else { as_text(&d, &past.zone) }));
                })?;
            }
            bar.at(permille, &format!("{} compared", count(totals.calls, "call")));
            Ok(())
        })
        .await?;
    bar.clear();
    totals.unusable = unusable;
    totals.purged = told_in(&past.conn, past.span)?.saturating_sub(totals.shipped);
    debug_assert_eq!(totals.parts().iter().sum::<u64>(), totals.calls);
    if as_json {
        say(totals.json(past));
    } else {
        say(totals.page(past));
    }
    Ok(if totals.has_problems() { PROBLEMS } else { OK })
}

fn as_text(d: &Difference<'_>, zone: &crate::correlate::Zone) -> String {
    let started = span::shown(d.call.started_at, zone);
    format!("{started}  {}  {}", printable(&d.call.id), printable(&d.reason))
}

fn as_line(d: &Difference<'_>) -> String {
    json!({
        "id": d.call.id,
        "started_at": d.call.started_at,
        "tenant": d.call.tenant,
        "difference": d.what,
        "sink": d.sink,
        "reason": d.reason,
    })
    .to_string()
}

impl Totals {
    fn json(&self, past: &Past) -> String {
        let sinks: serde_json::Map<String, serde_json::Value> = self
            .sinks
            .iter()
            .map(|(name, s)| {
                let counts = json!({
                    "acknowledged": s.acknowledged, "pending": s.pending, "dead": s.dead, "dropped": s.given_up,
                    "not_queued": s.not_queued,
                });
                ((*name).to_owned(), counts)
            })
            .collect();
        json!({
            "totals": {
                "from": past.span.from, "to": past.span.to,
                "calls": self.calls, "shipped": self.shipped, "missing": self.missing,
                "before_start": self.before_start, "filtered": self.filtered, "in_progress": self.in_progress,
                "waiting": self.waiting, "forgotten": self.forgotten, "changed": self.changed, "sinks": sinks,
                "not_at_the_pbx": self.purged, "unusable_rows": self.unusable,
            }
        })
        .to_string()
    }

    fn page(&self, past: &Past) -> String {
        let mut page = String::new();
        let from_to = format!(
            "{} to {} ({})",
            span::shown(past.span.from, &past.zone),
            span::shown(past.span.to, &past.zone),
            past.zone
        );
        let _ = writeln!(page, "{}calls that began {from_to}", if self.calls == 0 { "no " } else { "" });
        let mut table = plain_table();
        let mut row = |what: &str, n: u64, note: &str| {
            if n > 0 {
                table.add_row([what.to_owned(), thousands(n), note.to_owned()]);
            }
        };
        row("at the PBX", self.calls, "");
        row("shipped", self.shipped, "");
        row("missing", self.missing, "`callferry backfill` with the same --from and --to ships them");
        row("before START_FROM", self.before_start, "`callferry backfill` ships these too");
        for (filter, n) in &self.filtered {
            row("filtered", *n, &format!("by {filter}"));
        }
        row("forgotten", self.forgotten, "on request");
        row("in progress", self.in_progress, "");
        row("just ended", self.waiting, "waiting for their CDR");
        let _ = writeln!(page, "{table}");
        if self.shipped > 0 {
            let _ = writeln!(page, "\nof {} shipped", thousands(self.shipped));
            let mut table = plain_table();
            table.set_header(["sink", "acknowledged", "pending", "dead", "dropped", "not queued"]);
            for (name, s) in &self.sinks {
                let counts = [s.acknowledged, s.pending, s.dead, s.given_up, s.not_queued].map(thousands);
                table.add_row(std::iter::once((*name).to_owned()).chain(counts));
            }
            for column in 1..6 {
                if let Some(column) = table.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            let _ = writeln!(page, "{table}");
        }
        for (n, what) in [
            (self.changed, "shipped calls say something else at the PBX now"),
            (self.purged, "shipped calls are no longer at the PBX"),
            (self.unusable, "rows at the PBX can be part of no call"),
        ] {
            if n > 0 {
                let _ = writeln!(page, "{} {what}", thousands(n));
            }
        }
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let paint = |code: &str, text: String| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
        let given_up: u64 = self.sinks.values().map(|s| s.dead + s.given_up).sum();
        let pending: u64 = self.sinks.values().map(|s| s.pending).sum();
        page.push('\n');
        page.push_str(&match (self.missing, given_up, pending) {
            (0, 0, 0) => paint("32", "every call is accounted for".to_owned()),
            (0, 0, n) => paint("33", format!("every call is accounted for; {} on the way", count(n, "delivery"))),
            (m, d, _) => paint("31", format!("{} missing, {} given up", count(m, "call"), count(d, "delivery"))),
        });
        page
    }
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
