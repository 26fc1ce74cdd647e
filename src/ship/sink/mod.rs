//! The sinks, one file each.

pub mod file;
pub mod sipstack;
pub mod webhook;
