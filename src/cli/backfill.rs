//! `callferry backfill`: history is read again, and what is missing is shipped. A job of the agent that runs on the state; this
//! command orders it and shows how far it is. Where no agent runs, the command is one for as long as the job takes.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio_util::sync::CancellationToken;

use super::ask::ask;
use super::past::{Past, PastError};
use super::text::{count, listed, printable, thousands};
use super::{OK, RUNTIME, progress, say, span};
use crate::agent::history::backfill::{Order, Progress, STOPPED, Shipping};
use crate::agent::history::compare::Standing;
use crate::agent::requests::Wish;
use crate::agent::{self, AgentError, Options, Summary};
use crate::config::{Config, Settings};
use crate::ship::Clock;
use crate::store::requests::{self, Request, State};
use crate::store::{self, StoreError};

/// Between two looks how far it is.
const LOOK: Duration = Duration::from_millis(250);
/// Calls a dry run names.
const NAMED_MAX: usize = 20;

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    span: span::Args,
    /// Only calls of this tenant; may be given again
    #[arg(long, value_name = "NAME")]
    only_tenant: Vec<String>,
    /// Compare, and say what would be shipped
    #[arg(long)]
    dry_run: bool,
    /// Ship every call again, also what was shipped and is the same, by the settings of now
    #[arg(long)]
    resend: bool,
    /// Calls read a second, at most
    #[arg(long, default_value = "100", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// End the backfill that is under way; what it shipped stays shipped
    #[arg(long, conflicts_with_all = ["from", "to", "only_tenant", "dry_run", "resend"])]
    stop: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    if args.stop {
        return stop(&args.settings.state.state_dir);
    }
    let (config, runtime) = match super::prepare_quiet(&args.settings) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    let done = runtime.block_on(backfill(config, &args));
    runtime.shutdown_background();
    done.unwrap_or_else(|e| {
        eprintln!("callferry: {e}");
        e.code()
    })
}

fn stop(dir: &Path) -> u8 {
    match ask::<u64>(dir, &Wish::StopBackfill) {
        Ok((0, _)) => say("no backfill is under way"),
        Ok((n, _)) => say(format!("{} stopped", count(n, "backfill"))),
        Err(e) => {
            eprintln!("callferry: {e}");
            return RUNTIME;
        }
    }
    OK
}

async fn backfill(config: Config, args: &Args) -> Result<u8, PastError> {
    let past = Past::open(config, &args.span).await?;
    let zone = &past.zone;
    say(format!(
        "calls that began {} to {} ({zone})",
        span::shown(past.span.from, zone),
        span::shown(past.span.to, zone)
    ));
    let order = Order { span: past.span, tenants: args.only_tenant.clone(), resend: args.resend, rate: args.rate };
    if args.dry_run {
        return dry_run(&past, &order).await;
    }
    let request = order_of(&past, &order, args.span.to.is_none())?;
    let dir = past.config.state.dir.clone();
    let bar = progress::bar(true);
    loop {
        let done = if store::agent_runs(&dir) {
            watch(&past.conn, &dir, request, &order, &bar, None).await?
        } else {
            ourselves(&past, request, &order, &bar).await?
        };
        if let Some(code) = done {
            return Ok(code);
        }
    }
}

/// Goes on with the same order where it was left, or gives a new one.
fn order_of(past: &Past, order: &Order, until_now: bool) -> Result<i64, PastError> {
    for open in requests::open(&past.conn)? {
        let Ok(Wish::Backfill(known)) = open.argument::<Wish>() else { continue };
        // the end of one that goes until now is another moment each time
        let same_end = known.span.to == order.span.to || until_now && known.span.from == order.span.from;
        let rest = Order { span: order.span, rate: order.rate, ..known.clone() };
        if known.span.from == order.span.from && same_end && rest == *order {
            let permille = so_far(&open).permille;
            say(format!("goes on with the backfill begun before, {} % of it done", permille / 10));
            return Ok(open.request);
        }
        say("another backfill is under way: this one follows it");
    }
    let conn = store::open_beside(&past.config.state.dir)?;
    let wish = Wish::Backfill(order.clone());
    Ok(requests::put(&conn, wish.kind(), &wish, Clock::system().now())?)
}

fn so_far(request: &Request) -> Progress {
    request.answer.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// This command is the agent for as long as there is something to do; nothing new is read meanwhile.
async fn ourselves(past: &Past, request: i64, order: &Order, bar: &progress::Bar) -> Result<Option<u8>, PastError> {
    let mut config = past.config.clone();
    config.monitoring = None;
    config.recordings.files = None;
    let options = Options { once: true, requests_only: true };
    let running = tokio::spawn(async move { agent::run(&config, &options, CancellationToken::new()).await });
    watch(&past.conn, &past.config.state.dir, request, order, bar, Some(running)).await
}

type Running = tokio::task::JoinHandle<Result<Summary, AgentError>>;

/// Shows how far the job is until it ends. `None`: whoever worked on it is gone, and it is not done.
async fn watch(
    conn: &Connection,
    dir: &Path,
    request: i64,
    order: &Order,
    bar: &progress::Bar,
    mut ours: Option<Running>,
) -> Result<Option<u8>, PastError> {
    let begun = Instant::now();
    let mut first: Option<u64> = None;
    let mut last = Progress::default();
    loop {
        let Some(row) = requests::get(conn, request)? else {
            return Err(PastError::Told("the backfill is gone from the state".to_owned()));
        };
        let now = so_far(&row);
        match row.state {
            State::Done | State::Failed => {
                bar.clear();
                // what was shipped is delivered before the end
                let ended = match ours {
                    Some(running) => Some(running.await.map_err(|e| PastError::Told(e.to_string()))?),
                    None => None,
                };
                if row.state == State::Failed {
                    let why = row.answer.unwrap_or_else(|| "no reason is known".to_owned());
                    if why == STOPPED {
                        let so_far = summary(&last, false);
                        return Err(PastError::Told(format!("the backfill was {STOPPED} before its end; {so_far}")));
                    }
                    return Err(PastError::Told(format!("the backfill was refused: {why}")));
                }
                say(summary(&now, false));
                tell_tenants(order, &now);
                ended.transpose()?;
                return Ok(Some(OK));
            }
            State::New | State::Running => {}
        }
        let compared = now.compared - *first.get_or_insert(now.compared);
        let rate = compared as f64 / begun.elapsed().as_secs_f64().max(1.0);
        let message = match (&row.state, &now.waiting) {
            (State::New, _) => "waits for the agent".to_owned(),
            (_, Some(waiting)) => format!("waits: {}", printable(waiting)),
            _ => format!("{} compared, {} shipped, {rate:.0}/s", count(now.compared, "call"), thousands(now.sent())),
        };
        bar.at(now.permille, &message);
        match &mut ours {
            Some(running) if running.is_finished() => {
                let ended = running.await.map_err(|e| PastError::Told(e.to_string()))?;
                match ended {
                    // an agent was started at this very moment: it does it
                    Err(AgentError::Store(StoreError::Locked { .. })) => return Ok(None),
                    Err(e) => return Err(e.into()),
                    Ok(_) => ours = None,
                }
            }
            // it may have ended with the job done
            None if !store::agent_runs(dir) && requests::get(conn, request)?.is_some_and(|r| r.is_open()) => {
                bar.suspend(|| eprintln!("the agent has ended: going on without it"));
                return Ok(None);
            }
            _ => {}
        }
        last = now;
        tokio::time::sleep(LOOK).await;
    }
}

/// `1,204 calls compared: 12 shipped for the first time, 3 shipped again, 1,189 as they were shipped`.
fn summary(p: &Progress, dry_run: bool) -> String {
    let mut parts = Vec::new();
    let did = |what: &str| if dry_run { format!("would be {what}") } else { what.to_owned() };
    for (n, what) in [
        (p.shipped, did("shipped for the first time")),
        (p.revised, did("shipped again")),
        (p.lacking, did("shipped again to sinks that did not have them")),
        (p.same, "as they were shipped".to_owned()),
        (p.filtered, "kept back by filters".to_owned()),
        (p.forgotten, "forgotten on request".to_owned()),
        (p.unfinished, "not over yet".to_owned()),
    ] {
        if n > 0 {
            parts.push(format!("{} {what}", thousands(n)));
        }
    }
    let parts = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!("{} compared{parts}", count(p.compared, "call"))
}

/// Whoever asked for a tenant that has no calls may have mistyped its name.
fn tell_tenants(order: &Order, p: &Progress) {
    let quoted = |name: &String| format!("\"{}\"", printable(name));
    let unseen: Vec<String> = order.tenants.iter().filter(|t| !p.tenants.contains(*t)).map(quoted).collect();
    if unseen.is_empty() {
        return;
    }
    let seen: Vec<String> = p.tenants.iter().map(quoted).collect();
    let seen = if seen.is_empty() { "no tenant at all".to_owned() } else { listed(&seen) };
    eprintln!("no call of the span is of the tenant {}; its calls are of {seen}", listed(&unseen));
}

async fn dry_run(past: &Past, order: &Order) -> Result<u8, PastError> {
    let mut total = Progress::default();
    let bar = progress::bar(true);
    let mut named = 0_usize;
    let began = Clock::system().now();
    past.walk(order.resend, |_, page, permille| {
        for call in page.calls {
            total.see(order, call.tenant.as_ref());
            if !order.wants(&call) {
                continue;
            }
            let shipping = order.shipping(&call, began);
            total.count(&call, shipping);
            if shipping != Shipping::No {
                named += 1;
                if named <= NAMED_MAX {
                    let why = match (call.standing, &call.lacking) {
                        (Standing::Missing, _) => "missing".to_owned(),
                        (Standing::BeforeStart, _) => "before START_FROM".to_owned(),
                        (Standing::Changed, _) => "changed".to_owned(),
                        (_, Some(lacking)) if shipping == Shipping::Lacking => {
                            let sinks: Vec<String> = lacking.sinks.iter().map(|s| (*s).to_owned()).collect();
                            format!("missing at {}", listed(&sinks))
                        }
                        _ => "shipped before".to_owned(),
                    };
                    let started = span::shown(call.started_at, &past.zone);
                    bar.suspend(|| say(format!("{started}  {}  {why}", printable(&call.id))));
                }
            }
        }
        bar.at(permille, &format!("{} compared", count(total.compared, "call")));
        Ok(())
    })
    .await?;
    bar.clear();
    if named > NAMED_MAX {
        say(format!("… and {} more", thousands((named - NAMED_MAX) as u64)));
    }
    say(format!("dry run: {}; {}", would(&total, past), summary(&total, true)));
    tell_tenants(order, &total);
    Ok(OK)
}

/// `21 calls would be shipped again to webhook and file`.
fn would(total: &Progress, past: &Past) -> String {
    let sinks: Vec<String> = past.setup.sinks.iter().map(|s| (*s).to_owned()).collect();
    let everywhere = total.shipped + total.revised;
    let again = if total.shipped == 0 && total.revised > 0 { " again" } else { "" };
    let whole = format!("{} would be shipped{again} to {}", count(everywhere, "call"), listed(&sinks));
    match (everywhere, total.lacking) {
        (_, 0) => whole,
        (0, n) => format!("{} would be shipped again to sinks that do not have them", count(n, "call")),
        (_, n) => format!("{whole}, {} to sinks that do not have them", count(n, "call")),
    }
}
