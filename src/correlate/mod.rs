//! Rows to calls: pure. No I/O, no clock, no randomness; time comes in as data.
//!
//! [`build`] makes the content of one call from its rows. [`group`] says which rows belong together, [`completion`] when a
//! call is complete.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::call::{CdrRow, CelRow, FoundRecording, Row};

mod attempts; // every device that was rung
pub mod batch; // rows that are all there at once
mod build; // puts the content together
mod causes; // Q.850 by name
mod cdr_only; // calls of which only records exist
pub mod completion; // when a call is complete
mod dialling; // who dialled whom
mod ending; // who hung up, what became of the call
pub mod explain; // the story of one call as text
pub mod extra; // the JSON of CEL's `extra`, also truncated
pub mod filters; // calls that nobody wants shipped
pub mod group; // which rows belong together
mod handoffs; // transfers, parking, pickup, forwarding
pub mod ids; // what uniqueids and channel names say
mod journey; // the call as a person would tell it
mod labels; // what the settings add: tenant, E.164
mod ladder; // parties as columns, time downwards
mod media; // who was connected with whom
mod nailed; // groups that a nailed-up channel ties together
pub mod numbering; // numbers as E.164
mod parties; // caller, callees, dialled number, direction
mod reading; // what each row was read as
mod records; // what only CDRs know
mod restart; // the restart of a PBX
mod scene; // rows in order, channels
mod shape; // trunk or phone, extension or outside number
pub mod spelling; // one number in every way it may be written
pub mod tenants; // whose call it is
mod visits; // queues, menus, mailboxes, conferences
pub mod zone; // wall clock readings to moments

pub use build::build;
pub use filters::{Filters, Suppressed, suppressed};
pub use numbering::Numbering;
pub use tenants::Tenants;
pub use zone::vote_offset;

/// The settings that shape a call's content. Pure data; made from the configuration once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    /// Globs on endpoints: `PJSIP/trunk-*`, or without technology `trunk-*`; case-insensitive.
    pub trunks: Vec<String>,
    /// Globs on contexts a call from outside enters through.
    pub inbound_contexts: Vec<String>,
    /// Shortest and longest number that can be an extension.
    pub extension_len: (usize, usize),
    /// Count calls answered by an application (Stasis, AGI, AudioSocket …) as `self_service`.
    pub applications_self_service: bool,
    pub tenants: Tenants,
    pub numbering: Numbering,
    pub filters: Filters,
    /// Which record sources are configured: a call that lacks one of them says so.
    pub has_cel: bool,
    pub has_cdr: bool,
    /// The zone was read off earlier calls and not set: what a call's own channels say of it counts for that call.
    pub zone_read_off: bool,
}

/// Contexts of the common distributions that calls from outside enter through.
pub const DEFAULT_INBOUND_CONTEXTS: &[&str] =
    &["from-trunk*", "from-pstn*", "from-did*", "from-external*", "from-provider*", "from-dahdi*", "from-zaptel*"];

impl Default for Rules {
    fn default() -> Self {
        Self {
            trunks: Vec::new(),
            inbound_contexts: DEFAULT_INBOUND_CONTEXTS.iter().map(|&s| s.to_owned()).collect(),
            extension_len: (2, 7),
            applications_self_service: false,
            tenants: Tenants::default(),
            numbering: Numbering::default(),
            filters: Filters::default(),
            has_cel: true,
            has_cdr: true,
            zone_read_off: false,
        }
    }
}

/// How wall clock readings become moments.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Zone {
    /// An IANA zone; the uniqueid's epoch picks the hour that the end of daylight saving repeats.
    Named(chrono_tz::Tz),
    /// Seconds east of UTC.
    Fixed(i32),
}

impl std::fmt::Display for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(zone) => f.write_str(zone.name()),
            Self::Fixed(0) => f.write_str("UTC"),
            Self::Fixed(s) => {
                let (sign, s) = (if *s < 0 { '-' } else { '+' }, s.unsigned_abs());
                write!(f, "{sign}{:02}:{:02}", s / 3_600, s % 3_600 / 60)
            }
        }
    }
}

/// What was decided once about the calls of a group, by the agent and not by its rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The PBX restarted while the call was up: closed at its last event.
    pub pbx_restart: bool,
    /// The absolute cap or the row cap was reached.
    pub timeout: bool,
    /// Rows of the time of this call are known to be missing.
    pub source_gap: bool,
}

/// The rows of one call, and the recordings found beside them. Order and repetition do not matter.
#[derive(Clone, Debug, Default)]
pub struct CallRows {
    pub cel: Vec<Arc<CelRow>>,
    pub cdr: Vec<Arc<CdrRow>>,
    pub recordings: Vec<Arc<FoundRecording>>,
}

impl CallRows {
    /// Splits rows of both tables.
    pub fn of<'r>(rows: impl IntoIterator<Item = &'r Row>) -> Self {
        let rows = rows.into_iter();
        // nearly all are events
        let mut split = Self { cel: Vec::with_capacity(rows.size_hint().0), ..Self::default() };
        for row in rows {
            match row {
                Row::Cel(r) => split.cel.push(r.clone()),
                Row::Cdr(r) => split.cdr.push(r.clone()),
            }
        }
        split
    }
}
