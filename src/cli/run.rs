//! `callferry run`: the agent, until it is stopped. SIGINT or SIGTERM ends it in order: reading stops, what was read is
//! settled, what is in flight gets ten seconds. A second signal ends it at once; nothing is lost by that either.

use tokio_util::sync::CancellationToken;

use super::text::count;
use crate::agent::{self, AgentError, Options, Summary};
use crate::config::{Config, Settings, unknown_names};
use crate::finding::Level;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Read what is there, ship it, and end: for cron and for trying things out. Waits for calls that have just ended,
    /// not for those still up. Exit code 1 when a call could not be delivered: its receiver cannot be reached, or refused
    /// it (`callferry calls list --failed`)
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    let (config, runtime) = match super::prepare(&args.settings) {
        Ok(prepared) => prepared,
        Err(code) => return code,
    };
    for warning in unknown_names() {
        tracing::warn!("{warning}");
    }
    for finding in config.certificate_findings() {
        let remedy = finding.remedy.unwrap_or_default();
        match finding.level {
            Level::Problem => tracing::error!("{}: {}. {remedy}", finding.topic, finding.text),
            _ => tracing::warn!("{}: {}. {remedy}", finding.topic, finding.text),
        }
    }
    let ended = runtime.block_on(until_signalled(&config, &Options { once: args.once, requests_only: false }));
    // nothing of value runs any more: a name server that does not answer must not hold the end up
    runtime.shutdown_background();
    match ended {
        Ok(Summary { dead: dead @ 1.., .. }) if args.once => {
            eprintln!(
                "callferry: {} given up: `callferry calls list --failed` shows the calls, `callferry calls retry --all` \
                 sends them again",
                count(dead, "delivery")
            );
            super::RUNTIME
        }
        Ok(_) => super::OK,
        Err(e) => {
            eprintln!("callferry: {e}");
            if e.is_config() { super::USAGE } else { super::RUNTIME }
        }
    }
}

async fn until_signalled(config: &Config, options: &Options) -> Result<Summary, AgentError> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new()?;
    tracing::info!(
        source = config.source.id,
        state = %config.state.dir.display(),
        sinks = config.sinks.iter().map(|s| s.name()).collect::<Vec<_>>().join(","),
        "callferry {} starts",
        env!("CARGO_PKG_VERSION")
    );
    let asked = stop.clone();
    let watching = tokio::spawn(async move {
        let name = signals.next().await;
        tracing::info!("{name}: finishing what is in flight");
        asked.cancel();
        // one request may come twice: a terminal and a wrapper (timeout, docker, make) both pass it on
        let first = tokio::time::Instant::now();
        let name = loop {
            let name = signals.next().await;
            if first.elapsed() >= ONE_REQUEST {
                break name;
            }
        };
        tracing::warn!("{name} again: ending at once; what was not finished is done after the next start");
        std::process::exit(i32::from(super::RUNTIME));
    });
    let ended = agent::run(config, options, stop).await;
    watching.abort();
    let summary = ended?;
    tracing::info!(
        rows = summary.rows,
        calls = summary.calls,
        revisions = summary.revisions,
        pending = summary.pending,
        dead = summary.dead,
        "ended"
    );
    Ok(summary)
}

/// Signals this close together are one request to end.
const ONE_REQUEST: std::time::Duration = std::time::Duration::from_millis(500);

/// SIGINT and SIGTERM.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            terminate: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = tokio::signal::ctrl_c() => "SIGINT",
        }
        #[cfg(not(unix))]
        {
            let _ = tokio::signal::ctrl_c().await;
            "Ctrl-C"
        }
    }
}
