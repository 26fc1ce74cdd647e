//! Journal to outbox: whatever way rows arrive, the calls that leave are the same.

pub mod bench;
mod faults;
mod filters;
mod late;
mod order;
mod progress;
mod recordings;
mod starts;
