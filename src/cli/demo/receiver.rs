//! The receiver of the demo: a real HTTP endpoint that keeps one call an id, as a user's would.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::call::Call;

/// What the endpoint shares with whoever watches it.
#[derive(Clone)]
struct Inbox {
    /// Highest revision of each id.
    revisions: Arc<Mutex<BTreeMap<String, i64>>>,
    arrivals: mpsc::Sender<Arrival>,
}

/// A call that was not there yet, or not in this revision.
pub struct Arrival {
    pub call: Call,
    /// Its id came for the first time.
    pub first: bool,
}

/// A running receiver.
pub struct Receiver {
    pub address: SocketAddr,
    /// Calls as they come: first arrivals and higher revisions, nothing twice.
    pub arrivals: mpsc::Receiver<Arrival>,
}

/// Listens on a free port of the loopback interface until `stop`.
pub async fn start(stop: CancellationToken) -> Result<Receiver> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot open a port on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let (sender, arrivals) = mpsc::channel(64);
    let inbox = Inbox { revisions: Arc::default(), arrivals: sender };
    let app = Router::new().route("/calls", post(take)).with_state(inbox);
    tokio::spawn(async move {
        let _ = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
    });
    Ok(Receiver { address, arrivals })
}

async fn take(State(inbox): State<Inbox>, Json(call): Json<Call>) -> StatusCode {
    let known = {
        let mut revisions = inbox.revisions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = revisions.get(&call.id).copied();
        if known.is_none_or(|known| known < call.revision) {
            revisions.insert(call.id.clone(), call.revision);
        }
        known
    };
    let arrival = match known {
        Some(known) if known >= call.revision => return StatusCode::NO_CONTENT,
        known => Arrival { call, first: known.is_none() },
    };
    match inbox.arrivals.send(arrival).await {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
