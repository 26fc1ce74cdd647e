//! `callferry.call/1`: the JSON document of one call. Field by field this is the page receivers read; a value that is
//! not known is `null`, never `""` and never a 0 that was not measured.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::time::{Seconds, Timestamp};

/// The value of [`Call::schema`].
pub const SCHEMA: &str = "callferry.call/1";

/// Everything one caller lived through, from their first channel to the end of their side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Call {
    /// Always `callferry.call/1`.
    pub schema: String,
    /// `<source id>:<least linkedid>`: the key a receiver upserts by. It never changes once shipped.
    pub id: String,
    /// Grows by at least one whenever late rows change the content; `<id>/<revision>` is the idempotency key.
    pub revision: i64,
    /// Ids shipped earlier that turned out to be part of this call.
    pub supersedes: Vec<String>,
    pub source: SourceInfo,
    #[serde(flatten)]
    pub content: Content,
}

/// What stands in for a call that turned out to be part of another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tombstone {
    pub schema: String,
    pub id: String,
    pub revision: i64,
    /// Always `merged`.
    pub state: CallState,
    /// The id of the call that holds it all.
    pub merged_into: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceInfo {
    /// `SOURCE_ID`.
    pub id: String,
    pub kind: SourceKind,
    /// The PBX's host name, for display only.
    pub host: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SourceKind {
    #[serde(rename = "asterisk")]
    Asterisk,
    #[serde(rename = "3cx")]
    ThreeCx,
}

/// The part of a call that is a pure function of its rows, the rules, the zone and the marks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Content {
    pub tenant: Option<String>,
    /// The numerically least linkedid.
    pub linkedid: String,
    pub linkedids: Vec<String>,
    pub state: CallState,
    /// Why data is missing; empty when nothing is.
    pub incomplete: Vec<Incomplete>,
    pub direction: Direction,
    /// An inbound call that also left through a trunk.
    pub forwarded_external: bool,
    /// `null` while undecided.
    pub outcome: Option<Outcome>,
    /// The caller.
    pub from: Party,
    /// What was dialled: the number or DID as the PBX saw it.
    pub to: Party,
    /// The number an inbound caller reached.
    pub did: Option<String>,
    /// The first person (or conference, or application) who spoke with the caller.
    pub answered_by: Option<Party>,
    /// The last party connected to the caller.
    pub finally_with: Option<Party>,
    /// First channel.
    pub started_at: Option<Timestamp>,
    /// The PBX picked up (IVR, queue, voicemail).
    pub pbx_answered_at: Option<Timestamp>,
    /// First conversation.
    pub answered_at: Option<Timestamp>,
    /// End of the caller's side.
    pub ended_at: Option<Timestamp>,
    pub duration_s: Option<Seconds>,
    /// How long the device that answered rang; nobody answered: the longest attempt.
    pub ring_s: Option<Seconds>,
    /// Waiting in queues.
    pub wait_s: Option<Seconds>,
    /// Conversation, hold taken off.
    pub talk_s: Option<Seconds>,
    pub hold_s: Option<Seconds>,
    /// In an IVR, digit timeouts included.
    pub ivr_s: Option<Seconds>,
    pub voicemail_s: Option<Seconds>,
    pub hung_up_by: Option<HungUpBy>,
    pub hangup_cause: Option<Cause>,
    /// Trunk endpoint the call came in through.
    pub trunk_in: Option<String>,
    /// Trunk endpoint the call left through.
    pub trunk_out: Option<String>,
    /// The first queue; all of them stand in the journey.
    pub queue: Option<QueueVisit>,
    /// Conference or meeting.
    pub conference: Option<String>,
    pub transfers: Vec<Transfer>,
    /// Each device that rang.
    pub attempts: Vec<Attempt>,
    /// The call as a person would tell it, in time order.
    pub journey: Vec<Step>,
    /// Each real channel; Local channels are never legs.
    pub legs: Vec<Leg>,
    pub recordings: Vec<Recording>,
    pub accountcode: Option<String>,
    pub userfield: Option<String>,
    pub amaflags: Option<String>,
    /// Where CDR and CEL disagreed.
    pub discrepancies: Vec<Discrepancy>,
    /// How many rows the call was built from.
    pub rows: RowCounts,
}

impl Content {
    /// Every party the document names, wherever it stands.
    pub fn parties_mut(&mut self, f: &mut impl FnMut(&mut Party)) {
        f(&mut self.from);
        f(&mut self.to);
        [&mut self.answered_by, &mut self.finally_with].into_iter().flatten().for_each(&mut *f);
        for transfer in &mut self.transfers {
            f(&mut transfer.by);
            f(&mut transfer.to);
        }
        self.attempts.iter_mut().for_each(|a| f(&mut a.party));
        for step in &mut self.journey {
            match &mut step.what {
                StepKind::Ring { party, .. } | StepKind::Answer { party } => f(party),
                StepKind::Hold { by: Some(by) }
                | StepKind::Unhold { by: Some(by) }
                | StepKind::Forward { by: Some(by), .. }
                | StepKind::Park { by: Some(by), .. }
                | StepKind::Unpark { by: Some(by), .. } => f(by),
                StepKind::Transfer { by, to, .. } => {
                    f(by);
                    f(to);
                }
                StepKind::Pickup { by, from } => {
                    f(by);
                    from.iter_mut().for_each(&mut *f);
                }
                _ => {}
            }
        }
    }
}

macro_rules! text_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),* }

        impl $name {
            /// As written in the document.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

text_enum!(CallState {
    InProgress = "in_progress",
    Completed = "completed",
    /// A tombstone, see [`Tombstone`].
    Merged = "merged",
});

text_enum!(
    /// Why data of a call is missing.
    Incomplete {
        PbxRestart = "pbx_restart",
        SourceGap = "source_gap",
        Timeout = "timeout",
        CdrMissing = "cdr_missing",
        CelMissing = "cel_missing",
    }
);

text_enum!(Direction {
    Inbound = "inbound",
    Outbound = "outbound",
    Internal = "internal",
    Unknown = "unknown",
});

text_enum!(Outcome {
    Answered = "answered",
    Voicemail = "voicemail",
    Abandoned = "abandoned",
    NoAnswer = "no_answer",
    Busy = "busy",
    Declined = "declined",
    Failed = "failed",
    SelfService = "self_service",
});

text_enum!(PartyKind {
    Extension = "extension",
    External = "external",
    Queue = "queue",
    Conference = "conference",
    Voicemail = "voicemail",
    Ivr = "ivr",
    Application = "application",
});

text_enum!(HungUpBy {
    Caller = "caller",
    Callee = "callee",
    Pbx = "pbx",
});

text_enum!(AttemptResult {
    // in documents of calls in progress only
    Ringing = "ringing",
    Answered = "answered",
    NoAnswer = "no_answer",
    Busy = "busy",
    Declined = "declined",
    AnsweredElsewhere = "answered_elsewhere",
    Cancelled = "cancelled",
    Unreachable = "unreachable",
    Failed = "failed",
});

text_enum!(TransferKind {
    Blind = "blind",
    Attended = "attended",
    Blonde = "blonde",
    Redirect = "redirect",
});

text_enum!(QueueOutcome {
    Answered = "answered",
    Abandoned = "abandoned",
    Timeout = "timeout",
    Full = "full",
    JoinEmpty = "join_empty",
    LeaveEmpty = "leave_empty",
    ExitedByKey = "exited_by_key",
    Transferred = "transferred",
    Unknown = "unknown",
});

text_enum!(LegRole {
    Caller = "caller",
    Callee = "callee",
    Transferer = "transferer",
    Target = "target",
    Retriever = "retriever",
    Participant = "participant",
});

text_enum!(RecordingMatch {
    Cdr = "cdr",
    MixMonitor = "mixmonitor",
    Db = "db",
    Name = "name",
    Api = "api",
});

/// Somebody or something that takes part in a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Party {
    /// What the PBX wrote for that party.
    pub number: Option<String>,
    /// The caller id shown to the other side, where it differs.
    pub presented: Option<String>,
    /// Filled by the numbering plan.
    pub e164: Option<String>,
    pub name: Option<String>,
    /// With its technology: `PJSIP/1001`.
    pub endpoint: Option<String>,
    pub channel: Option<String>,
    pub kind: Option<PartyKind>,
    /// The party's own tenant, where it is not that of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
}

/// A Q.850 cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cause {
    pub code: i64,
    /// `normal_clearing`, `user_busy` …; `null` for a code Q.850 does not name.
    pub name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueueVisit {
    /// `null` where the row of it does not say.
    pub name: Option<String>,
    pub position: Option<i64>,
    pub wait_s: Option<Seconds>,
    pub outcome: Option<QueueOutcome>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Transfer {
    pub at: Timestamp,
    pub kind: TransferKind,
    pub by: Party,
    pub to: Party,
    /// The target spoke with the transferred party.
    pub answered: bool,
    /// How long transferer and target spoke before.
    pub consult_s: Option<Seconds>,
    /// The call came back to the transferer.
    pub returned: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    pub at: Timestamp,
    pub party: Party,
    pub ring_s: Option<Seconds>,
    pub result: AttemptResult,
    pub cause: Option<Cause>,
}

/// One step of the journey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    pub at: Timestamp,
    #[serde(flatten)]
    pub what: StepKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum StepKind {
    Dialled {
        number: Option<String>,
    },
    Ivr {
        context: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        digits: Option<String>,
        duration_s: Option<Seconds>,
    },
    QueueEnter {
        queue: Option<String>,
    },
    Ring {
        party: Party,
        duration_s: Option<Seconds>,
        result: AttemptResult,
    },
    Answer {
        party: Party,
    },
    Hold {
        by: Option<Party>,
    },
    Unhold {
        by: Option<Party>,
    },
    Transfer {
        kind: TransferKind,
        by: Party,
        to: Party,
        answered: bool,
    },
    Forward {
        by: Option<Party>,
        to: Option<String>,
    },
    Park {
        by: Option<Party>,
        slot: Option<String>,
        lot: Option<String>,
    },
    Unpark {
        by: Option<Party>,
        reason: Option<String>,
    },
    Pickup {
        by: Party,
        from: Option<Party>,
    },
    ConferenceJoin {
        conference: Option<String>,
    },
    Application {
        name: String,
    },
    Voicemail {
        mailbox: Option<String>,
        duration_s: Option<Seconds>,
    },
    Recording {
        file: String,
    },
    Hangup {
        by: Option<HungUpBy>,
        cause: Option<Cause>,
    },
}

impl StepKind {
    /// The value of `step`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Dialled { .. } => "dialled",
            Self::Ivr { .. } => "ivr",
            Self::QueueEnter { .. } => "queue_enter",
            Self::Ring { .. } => "ring",
            Self::Answer { .. } => "answer",
            Self::Hold { .. } => "hold",
            Self::Unhold { .. } => "unhold",
            Self::Transfer { .. } => "transfer",
            Self::Forward { .. } => "forward",
            Self::Park { .. } => "park",
            Self::Unpark { .. } => "unpark",
            Self::Pickup { .. } => "pickup",
            Self::ConferenceJoin { .. } => "conference_join",
            Self::Application { .. } => "application",
            Self::Voicemail { .. } => "voicemail",
            Self::Recording { .. } => "recording",
            Self::Hangup { .. } => "hangup",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Leg {
    /// `null` where only CDRs tell of the channel: they give the caller's uniqueid alone.
    pub uniqueid: Option<String>,
    pub channel: Option<String>,
    pub endpoint: Option<String>,
    pub number: Option<String>,
    pub name: Option<String>,
    pub role: LegRole,
    pub started_at: Option<Timestamp>,
    pub answered_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub cause: Option<Cause>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Recording {
    pub path: Option<String>,
    pub file: String,
    pub format: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    pub matched_by: RecordingMatch,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Discrepancy {
    pub code: String,
    pub text: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RowCounts {
    pub cel: u64,
    pub cdr: u64,
}
