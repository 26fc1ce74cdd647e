//! Journal to outbox: whatever way rows arrive, the calls that leave are the same.

mod bench;
mod filters;
mod late;
mod order;
mod progress;
mod starts;
