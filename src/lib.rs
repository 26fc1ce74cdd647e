//! callferry: carries every call from a PBX to where it is needed.
//!
//! Data moves one way: `source → journal → correlate → outbox → ship → sink`. Invariants to hold the code against:
//!
//! - A position advances only in the transaction that stores the rows it covers.
//! - `call` and `correlate` do no I/O, read no clock and draw no random number: time comes in as data.
//! - A call document freezes when it enters the outbox; its rendered bytes freeze at the first attempt.
//! - Every channel is bounded; SQLite is the only buffer, and one writer owns it.
//! - A row that cannot be read is quarantined with its reason; it never stops the agent.
//! - Nothing is written to the PBX's database, but by `provision`, on request and with a credential of its own.
//! - `source` and `ship` do not know each other; arrows run
//!   `main → cli → agent → (source | ship | observe) → (correlate | store) → (call | config | finding | metrics)`.

pub mod agent; // the running agent: readers, settling, dispatchers, shutdown order
pub mod ami; // Asterisk manager interface: frames, login, actions, events
pub mod call; // the contract: Call, Party, Leg, Step; CelRow, CdrRow
pub mod cli; // one file a subcommand
pub mod config; // every setting, declared once
pub mod correlate; // pure: rows to calls
pub mod deflate; // compressing one text after another
pub mod finding; // what check reports
pub mod log; // where and how events are written, masked numbers
pub mod metrics; // every metric, declared once
pub mod observe; // serving metrics and health
pub mod printable; // text from strangers, safe to show
pub mod provision; // the companion: trunks, extensions and queues in Asterisk Realtime
pub mod ship; // dispatcher, retry policy, sinks
pub mod source; // the Source trait; SQL tables
pub mod store; // the local SQLite: journal, ledger, outbox, positions
