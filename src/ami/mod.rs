//! Asterisk Manager Interface: a small client that knows the protocol and nothing of its users.
//!
//! One owner, no task of its own: whoever holds the [`Client`] reads from it. A read that is dropped midway loses
//! nothing, since what has arrived stays in the client's buffer; events that arrive while an action is awaited are kept,
//! up to a limit, and handed out by [`Client::event`] in order.

mod client;
mod frame;

pub use client::{Client, Connect, Tls};
pub use frame::{Action, Frame, MAX_FRAME_BYTES};

use thiserror::Error;

#[derive(Debug, Error)]
pub enum AmiError {
    #[error("cannot connect to AMI at {address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("{address} is not an Asterisk manager: it said {greeting:?}")]
    Greeting { address: String, greeting: String },
    #[error("AMI refused the login of {user}: {message}; see manager.conf: secret, permit, and allowmultiplelogin")]
    Login { user: String, message: String },
    /// Asterisk answered with an error: the action is refused or its object unknown.
    #[error("AMI action {action}: {message}")]
    Refused { action: String, message: String },
    #[error("AMI did not answer {action} within {seconds} s")]
    Timeout { action: String, seconds: u64 },
    #[error("AMI connection lost: {0}")]
    Lost(String),
    #[error("AMI sent what it should not: {0}")]
    Protocol(String),
}
