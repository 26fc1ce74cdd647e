//! Being watched: `/metrics`, `/healthz` and `/readyz`, and the health the running agent tells them.
//!
//! Nothing here asks the PBX, the state or a sink: the agent reports into [`Health`], requests only read it.

mod health;
mod process;
mod server;

pub use health::{Health, PartReport, Report};
pub use server::{ObserveError, Server, serve, try_port};
