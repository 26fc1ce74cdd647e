//! Delivery, against real receivers: a web server, a socket that misbehaves, files, and the example of docs/receivers.md.

mod conformance;
mod dispatch;
mod faults;
mod receiver_example;
mod receiver_sql;
mod sipstack_format;
pub mod support;
