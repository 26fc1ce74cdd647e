//! The HTTP server of `/metrics`, `/healthz` and `/readyz`.
//!
//! Nobody who reaches the port can hold the agent up: so many connections at a time and no more, one request each, so
//! long for its headers, so long for all of it. Bodies are not read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus::TextEncoder;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::process;
use crate::config::MonitoringConfig;
use crate::metrics;

/// How long a request under way may hold up the end of the program.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// At a time; who comes while there are so many is turned away at once.
const CONNECTIONS_MAX: usize = 64;
const HEADERS_TIME: Duration = Duration::from_secs(5);
/// From the first byte of a request to the last of its answer, whoever is slow.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 * 1_024;
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

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
    Ok(Server { address, task: tokio::spawn(accept(listener, app, stop)) })
}

async fn accept(listener: TcpListener, app: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            // dropped: whoever holds them all gets none more, and their time runs out
            Ok(_) if connections.len() >= CONNECTIONS_MAX => {}
            Ok((stream, _)) => {
                connections.spawn(connection(stream, app.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// One request and its answer. What goes wrong is the other side's business.
async fn connection(stream: TcpStream, app: Router) {
    let service = TowerToHyperService::new(app);
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIME)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_TIME, served).await;
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    /// Sends `text` and reads until the other side closes.
    async fn exchange(server: &Server, text: &[u8]) -> String {
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        let _ = socket.write_all(text).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn a_request_without_end_is_cut_off() {
        let stop = CancellationToken::new();
        let server = serve(&any_port(), Health::new(), stop.clone()).await.unwrap();
        // a header a second, each in time, and never the last one
        let mut slow = TcpStream::connect(server.address()).await.unwrap();
        let began = std::time::Instant::now();
        slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: a\r\n").await.unwrap();
        while slow.write_all(b"X-A: b\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let limit = HEADERS_TIME + Duration::from_secs(2);
            assert!(began.elapsed() < limit, "still taken after {:?}", began.elapsed());
        }
        // while others are served
        assert_eq!(get(&server, "/healthz").await.0, 200);
        let long = format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
        assert!(!exchange(&server, long.as_bytes()).await.contains(" 200 "));
        let many = format!("GET /healthz HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
        assert!(!exchange(&server, many.as_bytes()).await.contains(" 200 "));
        // a body is not waited for
        let body = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n";
        assert!(exchange(&server, body).await.contains(" 405 "));
        stop.cancel();
        server.stopped().await;
    }

    #[tokio::test]
    async fn connections_are_counted() {
        let stop = CancellationToken::new();
        let server = serve(&any_port(), Health::new(), stop.clone()).await.unwrap();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(server.address()).await.unwrap());
        }
        // the last of them has been accepted once one more is turned away, without a byte
        assert_eq!(exchange(&server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await, "");
        idle.pop();
        let mut answered = 0;
        for _ in 0..50 {
            answered = exchange(&server, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n").await.len();
            if answered > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answered > 0, "a place that is free is given away");
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
