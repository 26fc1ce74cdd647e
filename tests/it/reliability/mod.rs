//! What must not lose a call, done to the running agent. The long runs are ignored here and belong to `make reliability`,
//! which prints a table of them; a smaller one of each runs with every other test.

mod disk;
mod outage;
mod receivers;
pub mod scene;
mod servers;
mod sources;
mod state;
