//! `callferry healthcheck`: asks the agent on this machine, as a container's health check does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::config::{MonitoringConfig, MonitoringSettings};

/// A health check that hangs is a failed one.
const LIMIT: Duration = Duration::from_secs(3);

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
        Ok((200, body)) => {
            super::say(format!("{url}: {}", body.trim()));
            super::OK
        }
        Ok((status, body)) => {
            super::say(format!("{url}: {status} {}", body.trim()));
            super::RUNTIME
        }
        Err(e) => {
            super::say(format!(
                "{url}: {e}. Is the agent running, with the same MONITORING_ADDRESS and MONITORING_PORT?"
            ));
            super::RUNTIME
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
    let answer = client.get(url).send().await.map_err(|e| reason(&e))?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await.map_err(|e| reason(&e))?))
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
}
