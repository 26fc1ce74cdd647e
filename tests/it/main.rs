//! The integration tests: one binary, one module a subject.

#[path = "../support/mod.rs"]
mod support;

mod ami;
mod bad_input;
mod captures;
mod demo;
mod deployment;
mod dialplans;
mod documents;
mod e2e;
mod env_example;
mod fuzzed;
mod open_call;
mod program;
mod properties;
mod provision;
mod queue_exits;
mod recordings;
mod reliability;
mod rescue;
mod running;
mod scorer;
mod security;
mod settle;
mod ship;
mod sipstack_env;
mod source;
mod stories;
mod tenants;
mod uploads;
