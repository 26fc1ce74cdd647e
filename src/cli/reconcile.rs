//! `callferry reconcile`: the PBX's calls against what became of them, call by call. Changes nothing; a month is read in
//! pages, and of each call only its number is kept.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use comfy_table::{CellAlignment, Table, presets};
use rusqlite::Connection;
use serde_json::json;

use super::past::{Past, PastError};
use super::text::{count, printable, thousands};
use super::{OK, PROBLEMS, progress, say, span};
use crate::agent::history::compare::{Compared, Page, Standing};
use crate::call::Timestamp;
use crate::config::Settings;
use crate::correlate::Zone;
use crate::store::reached::{self, AtSink};

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

/// Returns the exit code: 3 when a call is missing, or a sink is not known to have one and will not get it by itself.
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
    unknown: u64,
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
    /// Of those at the PBX and of those that are not there any more.
    sinks: BTreeMap<&'static str, Counts>,
    unusable: u64,
    /// Shipped, and no longer at the PBX.
    purged: u64,
}

/// One reason why a call is not simply shipped and acknowledged, or a row is part of none.
#[derive(Default)]
struct Difference<'a> {
    id: Option<&'a str>,
    started_at: Option<Timestamp>,
    tenant: Option<&'a str>,
    what: &'static str,
    sink: Option<&'static str>,
    reason: String,
}

impl<'a> Difference<'a> {
    fn of(call: &'a Compared, what: &'static str, reason: String) -> Self {
        let (id, tenant) = (Some(call.id.as_str()), call.tenant.as_deref());
        Self { id, started_at: Some(call.started_at), tenant, what, sink: None, reason }
    }
}

impl Totals {
    /// Counts a call and says what is to be said of it.
    fn take(&mut self, call: &Compared, tell: &mut impl FnMut(Difference<'_>)) {
        self.calls += 1;
        let mut say = |what, reason: String| tell(Difference::of(call, what, reason));
        match call.standing {
            Standing::Same | Standing::Changed => {
                self.shipped += 1;
                if call.standing == Standing::Changed {
                    self.changed += 1;
                    let text = "shipped, and its rows say something else now: the agent ships a revision when it reads them, \
                                or `callferry backfill`";
                    say("changed", text.to_owned());
                }
            }
            Standing::Missing => {
                self.missing += 1;
                let why = match &call.entry {
                    Some(entry) => {
                        let state = entry.state.as_str();
                        format!("known here as {state}, and not shipped: `callferry backfill` ships it")
                    }
                    None => "never read here: `callferry backfill` ships it".to_owned(),
                };
                say("missing", why);
            }
            Standing::BeforeStart => {
                self.before_start += 1;
                say("before_start", "ended before START_FROM".to_owned());
            }
            Standing::Filtered(filter) => {
                *self.filtered.entry(filter).or_default() += 1;
                say("filtered", format!("kept back by the filter {filter}"));
            }
            Standing::Forgotten => {
                self.forgotten += 1;
                say("forgotten", "forgotten on request".to_owned());
            }
            Standing::InProgress => {
                self.in_progress += 1;
                say("in_progress", "has not ended".to_owned());
            }
            Standing::Waiting => {
                self.waiting += 1;
                say("waiting", "has just ended: waits for its CDR, or to be settled".to_owned());
            }
        }
        let can_ship = call.standing == Standing::Changed || call.lacking.is_some();
        for (sink, at) in &call.at {
            if let Some((what, reason)) = self.count(sink, at, can_ship) {
                tell(Difference { sink: Some(*sink), ..Difference::of(call, what, reason) });
            }
        }
    }

    /// Counts how a call stands at a sink. Returns what is to be said of it, with what to do: `can_ship` tells whether a
    /// backfill can.
    fn count(&mut self, sink: &'static str, at: &AtSink, can_ship: bool) -> Option<(&'static str, String)> {
        let counts = self.sinks.entry(sink).or_default();
        let last = |error: &Option<String>| error.as_ref().map_or_else(String::new, |e| format!(": {e}"));
        let remedy = if can_ship {
            "`callferry backfill` sends it there"
        } else {
            "it cannot be sent, since the PBX has let rows of it go"
        };
        Some(match at {
            AtSink::Acknowledged => {
                counts.acknowledged += 1;
                return None;
            }
            AtSink::Pending { last_error } => {
                counts.pending += 1;
                ("pending", format!("waits for {sink}{}", last(last_error)))
            }
            AtSink::Dead { last_error } => {
                counts.dead += 1;
                ("dead", format!("given up at {sink}, `callferry calls retry` sends it again{}", last(last_error)))
            }
            AtSink::GivenUp => {
                counts.given_up += 1;
                ("dropped", format!("given up at {sink}, and dropped: {remedy}"))
            }
            AtSink::NotQueued => {
                counts.not_queued += 1;
                ("not_queued", format!("not queued for {sink}, which was not configured when it was shipped: {remedy}"))
            }
            AtSink::Unknown => {
                counts.unknown += 1;
                let text = format!(
                    "whether {sink} got it is not known: an older version let its deliveries go. `callferry backfill --resend` \
                     sends it again"
                );
                ("not_known", text)
            }
        })
    }

    fn unusable_row(&mut self, row: &str, tell: &mut impl FnMut(Difference<'_>)) {
        self.unusable += 1;
        tell(Difference {
            what: "unusable_row",
            reason: format!("{row}: of which call is not known"),
            ..Difference::default()
        });
    }

    /// A call that was told, and that the PBX has no rows of any more.
    fn purged(
        &mut self,
        conn: &Connection,
        number: i64,
        sinks: &[&'static str],
        tell: &mut impl FnMut(Difference<'_>),
    ) -> Result<(), PastError> {
        let Some(call) = reached::told_call(conn, number)? else { return Ok(()) };
        self.purged += 1;
        let reason =
            if call.is_over { "shipped, and no longer at the PBX" } else { "in progress here, and not at the PBX" };
        let mut say = |what, sink, reason| {
            let (id, started_at) = (Some(call.id.as_str()), Some(call.started_at));
            tell(Difference { id, started_at, tenant: None, what, sink, reason });
        };
        say("not_at_the_pbx", None, reason.to_owned());
        for sink in sinks {
            if let Some((what, reason)) = self.count(sink, &reached::at_sink(conn, number, sink)?, false) {
                say(what, Some(*sink), reason);
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

    fn at_sinks(&self, which: impl Fn(&Counts) -> u64) -> u64 {
        self.sinks.values().map(which).sum()
    }

    fn has_problems(&self) -> bool {
        self.missing + self.at_sinks(|s| s.dead + s.given_up + s.not_queued + s.unknown) > 0
    }
}

async fn reconcile(past: &Past, as_json: bool) -> Result<u8, PastError> {
    let mut totals = Totals::default();
    for sink in &past.setup.sinks {
        totals.sinks.insert(sink, Counts::default());
    }
    let bar = progress::bar(!as_json);
    let mut tell = |d: Difference<'_>| {
        bar.suspend(|| say(if as_json { as_line(&d) } else { as_text(&d, &past.zone) }));
    };
    // before the PBX is read: what is told meanwhile need not have been there
    let told = reached::told(&past.conn, past.span.from, past.span.to)?;
    let mut found: HashSet<i64> = HashSet::new();
    past.walk(false, |_, page, permille| {
        let Page { calls, unusable, unnamed, known } = page;
        found.extend(known);
        totals.unusable += unnamed;
        calls.iter().for_each(|call| totals.take(call, &mut tell));
        unusable.iter().for_each(|row| totals.unusable_row(row, &mut tell));
        bar.at(permille, &format!("{} compared", count(totals.calls, "call")));
        Ok(())
    })
    .await?;
    for number in told.into_iter().filter(|number| !found.contains(number)) {
        totals.purged(&past.conn, number, &past.setup.sinks, &mut tell)?;
    }
    bar.clear();
    debug_assert_eq!(totals.parts().iter().sum::<u64>(), totals.calls);
    if as_json {
        say(totals.json(past));
    } else {
        say(totals.page(past));
    }
    Ok(if totals.has_problems() { PROBLEMS } else { OK })
}

fn as_text(d: &Difference<'_>, zone: &Zone) -> String {
    let reason = printable(&d.reason);
    match (d.id, d.started_at) {
        (Some(id), Some(at)) => format!("{}  {}  {reason}", span::shown(at, zone), printable(id)),
        _ => reason,
    }
}

fn as_line(d: &Difference<'_>) -> String {
    json!({
        "id": d.id,
        "started_at": d.started_at,
        "tenant": d.tenant,
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
                    "not_queued": s.not_queued, "not_known": s.unknown,
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
        if self.shipped + self.purged > 0 {
            let _ = writeln!(page, "\nof {} shipped", thousands(self.shipped + self.purged));
            let mut table = plain_table();
            table.set_header(["sink", "acknowledged", "pending", "dead", "dropped", "not queued", "not known"]);
            for (name, s) in &self.sinks {
                let counts = [s.acknowledged, s.pending, s.dead, s.given_up, s.not_queued, s.unknown].map(thousands);
                table.add_row(std::iter::once((*name).to_owned()).chain(counts));
            }
            for column in 1..7 {
                if let Some(column) = table.column_mut(column) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
            let _ = writeln!(page, "{table}");
        }
        for (n, what) in [
            (self.changed, "shipped calls say something else at the PBX now"),
            (self.purged, "shipped calls are no longer at the PBX"),
            (self.unusable, "rows at the PBX cannot be read, or be part of no call"),
        ] {
            if n > 0 {
                let _ = writeln!(page, "{} {what}", thousands(n));
            }
        }
        page.push('\n');
        page.push_str(&self.verdict());
        page
    }

    fn verdict(&self) -> String {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let paint = |code: &str, text: String| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text };
        if self.has_problems() {
            let deliveries = |n: u64| count(n, "delivery");
            let parts: Vec<String> = [
                (self.missing, format!("{} missing", count(self.missing, "call"))),
                (
                    self.at_sinks(|s| s.dead + s.given_up),
                    deliveries(self.at_sinks(|s| s.dead + s.given_up)) + " given up",
                ),
                (self.at_sinks(|s| s.not_queued), deliveries(self.at_sinks(|s| s.not_queued)) + " never queued"),
                (self.at_sinks(|s| s.unknown), deliveries(self.at_sinks(|s| s.unknown)) + " not known of"),
            ]
            .into_iter()
            .filter_map(|(n, text)| (n > 0).then_some(text))
            .collect();
            return paint("31", parts.join(", "));
        }
        let mut text = match self.unusable {
            0 => "every call is accounted for".to_owned(),
            n => format!("every call that can be read is accounted for; {} cannot", count(n, "row")),
        };
        let pending = self.at_sinks(|s| s.pending);
        if pending > 0 {
            text.push_str(&format!("; {} on the way", count(pending, "delivery")));
        }
        paint(if pending + self.unusable > 0 { "33" } else { "32" }, text)
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
