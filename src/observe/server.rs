//! The HTTP server of `/metrics`, `/healthz` and `/readyz`.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use prometheus::TextEncoder;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::process;
use crate::config::MonitoringConfig;
use crate::metrics;

/// How long a request under way may hold up the end of the program.
const STOP_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum ObserveError {
    #[error(
        "cannot serve metrics and health on {address}: the port is in use. Set MONITORING_PORT to a free port, or \
         MONITORING_ENABLED=false"
    )]
    PortInUse { address: SocketAddr },
    #[error(
        "cannot serve metrics and health on {address}: {source}. Set MONITORING_ADDRESS and MONITORING_PORT to an \
         address of this machine and a port this user may open, or MONITORING_ENABLED=false"
    )]
    Bind { address: SocketAddr, source: io::Error },
}

/// A running server. Dropping it leaves it running; the token it was started with ends it.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it really listens (`MONITORING_PORT=0` takes any free port).
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the end after the token was cancelled; a request that hangs is cut off after a second.
    pub async fn stopped(mut self) {
        if tokio::time::timeout(STOP_LIMIT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

/// Opens the port and serves until `stop` is cancelled. Returns once the port is open, so that a port in use is an error
/// of the start.
pub async fn serve(config: &MonitoringConfig, health: Health, stop: CancellationToken) -> Result<Server, ObserveError> {
    let address = config.address;
    let listener = bind(address).await?;
    let address = listener.local_addr().map_err(|source| ObserveError::Bind { address, source })?;
    process::register();
    metrics::BUILD_INFO.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let app = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .with_state(health);
    let task = tokio::spawn(async move {
        // only its listener could fail it, and that retries by itself
        let _ = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    });
    Ok(Server { address, task })
}

/// Tries the port and leaves it again, for `callferry check`.
pub async fn try_port(config: &MonitoringConfig) -> Result<(), ObserveError> {
    bind(config.address).await.map(drop)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ObserveError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ObserveError::PortInUse { address },
        _ => ObserveError::Bind { address, source },
    })
}

async fn metrics_text() -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&metrics::REGISTRY.gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(e) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], format!("metrics: {e}\n"))
        }
    }
}

async fn readiness(State(health): State<Health>) -> impl IntoResponse {
    let report = health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port() -> MonitoringConfig {
        MonitoringConfig { address: "127.0.0.1:0".parse().unwrap() }
    }

    async fn get(server: &Server, path: &str) -> (u16, String) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://{}{path}", server.address())).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn serves_metrics_health_and_readiness() {
        let health = Health::new();
        let stop = CancellationToken::new();
        let server = serve(&any_port(), health.clone(), stop.clone()).await.unwrap();

        assert_eq!(get(&server, "/healthz").await, (200, "ok\n".to_owned()));

        let (status, body) = get(&server, "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["source"]["error"]), (503, &"starting".into()));
        health.source_ok();
        health.state_ok();
        health.sink_paused("webhook", "401 Unauthorized");
        let (status, body) = get(&server, "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["ready"], &body["sinks"]["webhook"]["ok"]), (200, &true.into(), &false.into()));

        metrics::ROWS_READ.with_label_values(&["cel"]).inc();
        let (status, text) = get(&server, "/metrics").await;
        assert_eq!(status, 200);
        for name in ["callferry_rows_read_total{", "callferry_build_info{", "process_resident_memory_bytes "] {
            assert!(text.lines().any(|l| l.starts_with(name)), "{name} is missing in {text}");
        }
        assert_eq!(get(&server, "/nothing").await.0, 404);

        stop.cancel();
        server.stopped().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_told_with_the_setting() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let config = MonitoringConfig { address: taken.local_addr().unwrap() };
        let error = serve(&config, Health::new(), CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, ObserveError::PortInUse { .. }));
        assert!(error.to_string().contains("MONITORING_PORT"), "{error}");
        assert!(try_port(&config).await.is_err());
        assert!(try_port(&any_port()).await.is_ok());
    }

    #[tokio::test]
    async fn the_port_is_free_again_after_the_stop() {
        let stop = CancellationToken::new();
        let server = serve(&any_port(), Health::new(), stop.clone()).await.unwrap();
        let address = server.address();
        stop.cancel();
        server.stopped().await;
        assert!(try_port(&MonitoringConfig { address }).await.is_ok());
    }
}
