//! `callferry healthcheck`: asks the agent on this machine, as a container's health check does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::text::printable;
use crate::config::{MonitoringConfig, MonitoringSettings};

/// A health check that hangs is a failed one.
const LIMIT: Duration = Duration::from_secs(3);
/// Read of an answer; the agent's own are far smaller.
const BODY_MAX: usize = 64 * 1_024;
/// Shown of an answer that is not the agent's.
const LINE_MAX: usize = 100;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Ask whether the PBX and the state can be reached (/readyz), not only whether the agent runs (/healthz)
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    monitoring: MonitoringSettings,
}

/// Returns the exit code: 0 healthy, 1 not.
pub fn run(args: Args) -> u8 {
    let config = match MonitoringConfig::resolve(&args.monitoring) {
        Ok(Some(config)) => config,
        Ok(None) => {
            // the container runs the agent as its first process: that this command could start tells that it lives
            super::say("monitoring is switched off (MONITORING_ENABLED=false): nothing to ask");
            return super::OK;
        }
        Err(e) => {
            eprintln!("callferry: {e}");
            return super::USAGE;
        }
    };
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let url = format!("http://{}{path}", reachable(config.address));
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("callferry: cannot start: {e}");
            return super::RUNTIME;
        }
    };
    match runtime.block_on(ask(&url)) {
        Ok((status, body)) => {
            let (healthy, line) = judged(status, &body, args.ready);
            super::say(format!("{url}: {line}"));
            if healthy { super::OK } else { super::RUNTIME }
        }
        Err(e) => {
            super::say(format!(
                "{url}: {e}. Is the agent running, with the same MONITORING_ADDRESS and MONITORING_PORT?"
            ));
            super::RUNTIME
        }
    }
}

/// Whether the agent is healthy, and what is told. Whatever else listens there is not the agent.
fn judged(status: u16, body: &str, ready: bool) -> (bool, String) {
    let body = body.trim();
    let is_ours = if ready {
        serde_json::from_str::<serde_json::Value>(body).is_ok_and(|body| body["ready"].is_boolean())
    } else {
        status == 200 && body == "ok"
    };
    match (is_ours, status) {
        (true, 200) => (true, body.to_owned()),
        (true, _) => (false, format!("{status} {body}")),
        (false, _) => {
            let first = printable(body.lines().next().unwrap_or_default().trim());
            let first: String = first.chars().take(LINE_MAX).collect();
            (
                false,
                format!("{status} {first}\nIs this callferry? MONITORING_ADDRESS and MONITORING_PORT say who is asked"),
            )
        }
    }
}

/// Every address of this machine is asked by the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(url: &str) -> Result<(u16, String), String> {
    // never through the proxy that calls may go through
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build().map_err(|e| reason(&e))?;
    let mut answer = client.get(url).send().await.map_err(|e| reason(&e))?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| reason(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() > BODY_MAX {
            break;
        }
    }
    Ok((answer.status().as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

/// The innermost cause: reqwest's own text only repeats the URL.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", LIMIT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_asked_on_loopback() {
        for (configured, asked) in
            [("0.0.0.0:8000", "127.0.0.1:8000"), ("[::]:8000", "[::1]:8000"), ("10.1.2.3:80", "10.1.2.3:80")]
        {
            assert_eq!(reachable(configured.parse().unwrap()), asked.parse().unwrap());
        }
    }
    #[test]
    fn only_the_agent_s_own_answer_is_healthy() {
        assert_eq!(judged(200, "ok\n", false), (true, "ok".to_owned()));
        assert_eq!(judged(200, r#"{"ready":true}"#, true), (true, r#"{"ready":true}"#.to_owned()));
        assert_eq!(judged(503, r#"{"ready":false}"#, true), (false, r#"503 {"ready":false}"#.to_owned()));
        let page = format!("<!doctype html>{}\n<html>\n{}", "x".repeat(200), "<p>line</p>\n".repeat(50));
        for (status, ready) in [(404, false), (200, false), (200, true)] {
            let (healthy, line) = judged(status, &page, ready);
            assert!(!healthy && line.contains("Is this callferry?"), "{line}");
            assert!(line.starts_with(&format!("{status} <!doctype html>")), "{line}");
            assert!(line.lines().count() == 2 && line.len() < 250, "{line}");
        }
    }
}
