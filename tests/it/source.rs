//! The SQL sources against real servers.

mod conformance;
mod failures;
mod ids;
mod lanes;
mod schemas;
