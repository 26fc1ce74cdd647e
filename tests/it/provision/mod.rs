//! Provisioning against real servers, on the tables of every Asterisk version.

mod activation;
mod ara;
mod engine;
mod failures;
mod hostile;
mod import;
mod program;
