//! What integration tests stand on: private database servers, tables as deployments have them, captured rows and what
//! they are known to have been.

#![allow(dead_code, reason = "each test module uses a part of it")]

pub mod ami;
pub mod database;
pub mod deployments;
pub mod expected;
pub mod faults;
pub mod fuzzed;
pub mod mariadb;
pub mod memory;
pub mod pbx;
pub mod postgres;
pub mod private;
pub mod server;
