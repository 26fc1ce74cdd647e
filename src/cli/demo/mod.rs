//! `callferry demo`: the main job on built-in data. Real rows are written call by call into a SQLite PBX database, the agent as
//! `callferry run` starts it reads, correlates and ships them, and a real HTTP endpoint in this process receives them.

use std::io::{IsTerminal, stderr, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::say;
use crate::agent::{self, Summary};
use crate::config::{
    CelMode, Config, DatabaseConfig, DatabaseKind, DeliveryConfig, LogConfig, NumberPrivacy, RecordingConfig,
    ShippingConfig, SinkConfig, SourceConfig, StartFrom, StateConfig, TlsConfig, TlsMode, WebhookConfig, zone,
};
use crate::correlate::Rules;
use crate::correlate::explain::one_line;
use crate::log;

mod pbx;
mod receiver;

use pbx::Pbx;

/// Between two calls, so that one can watch them come.
const PACE: Duration = Duration::from_millis(100);
/// All of it takes a few seconds.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(clap::Args, Debug)]
pub struct Args {}

/// Returns the exit code: 0 when every call arrived.
pub fn run(_args: Args) -> u8 {
    log::start(&LogConfig { filter: "warn".to_owned(), json: false, mask_numbers: true });
    let demo = super::runtime().context("cannot start").and_then(|runtime| runtime.block_on(demo()));
    match demo {
        Ok(()) => super::OK,
        Err(e) => {
            eprintln!("callferry demo: {e:#}");
            super::RUNTIME
        }
    }
}

async fn demo() -> Result<()> {
    let began = Instant::now();
    let dir = tempfile::Builder::new().prefix("callferry-demo-").tempdir().context("cannot create a directory")?;
    let database = dir.path().join("pbx.db");
    let mut pbx = Pbx::create(&database)?;
    let stop = CancellationToken::new();
    let mut receiver = receiver::start(stop.clone()).await?;
    let config = config(dir.path(), &database, &format!("http://{}/calls", receiver.address))?;
    let (calls, rows) = (pbx.calls(), pbx.rows());
    say(format!(
        "a PBX database in SQLite, an agent, an HTTP endpoint on {}; {calls} calls follow\n",
        receiver.address
    ));

    let agent = tokio::spawn({
        let (config, stop) = (config.clone(), stop.child_token());
        async move { agent::run(&config, &agent::Options::default(), stop).await }
    });
    tokio::pin!(agent);
    let bar = progress(calls);
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let deadline = began + LIMIT;
    let mut arrived = 0;
    let mut writing = true;
    while arrived < calls {
        tokio::select! {
            _ = ticks.tick(), if writing => writing = pbx.write_call()?,
            Some(arrival) = receiver.arrivals.recv() => {
                arrived += usize::from(arrival.first);
                bar.suspend(|| say(one_line(&arrival.call.content)));
                bar.set_position(arrived as u64);
            }
            ended = &mut agent => {
                ended??;
                anyhow::bail!("the agent ended after {arrived} of {calls} calls");
            }
            () = sleep_until(deadline) => {
                anyhow::bail!("only {arrived} of {calls} calls arrived within {} s", LIMIT.as_secs());
            }
        }
    }
    bar.finish_and_clear();
    // the agent records the last answers, saves its place and ends
    stop.cancel();
    let done = agent.await??;
    say(format!("\n{}", summary(&done, arrived, began.elapsed())));
    ensure!(
        (done.rows, done.calls, done.pending) == (rows as u64, calls as u64, 0),
        "expected {rows} rows, {calls} calls and nothing waiting"
    );
    Ok(())
}

fn summary(done: &Summary, delivered: usize, took: Duration) -> String {
    format!(
        "{} rows read, {} calls correlated, {delivered} calls delivered, {} waiting, in {:.1} s",
        done.rows,
        done.calls,
        done.pending,
        took.as_secs_f64()
    )
}

/// Only where somebody looks: a log gets the lines alone.
fn progress(calls: usize) -> ProgressBar {
    let terminal = stdout().is_terminal() && stderr().is_terminal();
    let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(calls as u64), target);
    bar.with_style(
        ProgressStyle::with_template("{bar:40.cyan} {pos}/{len} calls delivered, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    )
}

/// What a `.env` would say, without looking at the environment.
fn config(dir: &Path, database: &Path, url: &str) -> Result<Config> {
    let rules = Rules { trunks: vec![pbx::TRUNKS.to_owned()], ..Rules::default() };
    let day = Duration::from_secs(86_400);
    Ok(Config {
        source: SourceConfig {
            id: "demo".to_owned(),
            database: DatabaseConfig {
                kind: DatabaseKind::Sqlite,
                host: String::new(),
                port: 0,
                socket: None,
                name: database.to_str().context("the temporary directory has a name that is not UTF-8")?.to_owned(),
                name_cel: None,
                user: String::new(),
                password: None,
                tls: TlsMode::Off,
                certificates: TlsConfig::default(),
                table_cdr: "cdr".to_owned(),
                table_cel: "cel".to_owned(),
                table_recordings: None,
                connections: 2,
                timeout: Duration::from_secs(10),
            },
            cel: CelMode::Db,
            cdr: true,
            zone: Some(zone(pbx::ZONE)?),
            start_from: StartFrom::All,
            poll_busy: Duration::from_millis(50),
            poll_idle: Duration::from_millis(50),
            page_size: 2_000,
        },
        rules,
        cdr_grace: Duration::from_secs(5),
        call_max_age: day,
        shipping: ShippingConfig { progressive: false, long_call_update: None },
        sinks: vec![SinkConfig::Webhook(WebhookConfig {
            url: url.to_owned().into(),
            token: None,
            signing_secret: None,
            batch_size: 1,
            gzip: false,
            concurrency: 4,
            timeout: Duration::from_secs(10),
            allow_http: false,
            tls: TlsConfig::default(),
            privacy: NumberPrivacy::default(),
        })],
        delivery: DeliveryConfig {
            retry_base: Duration::from_secs(1),
            retry_cap: Duration::from_secs(5),
            retry_max_age: day,
            outage_max_age: day,
        },
        state: StateConfig {
            dir: dir.join("state"),
            retention: day,
            max_size: 256_000_000,
            // the demo needs a few hundred kilobytes
            min_free: 0,
        },
        recordings: RecordingConfig::default(),
        monitoring: None,
        log: LogConfig { filter: "warn".to_owned(), json: false, mask_numbers: true },
        hostname: "demo".to_owned(),
    })
}
