//! Rows as read from a PBX, whatever table, file or event they came from.
//!
//! An empty string means the row did not say. Sources map their columns onto these fields by name and alias; nothing
//! here is interpreted yet.

use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

use super::text::RareText;
use super::time::RowTime;

fn empty(s: &str) -> bool {
    s.is_empty()
}

/// One channel event, as Asterisk's CEL writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct CelRow {
    /// The row's number in its table where there is one: orders rows that share a time.
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    #[serde(rename = "e")]
    pub event: CelEvent,
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    pub time: Option<RowTime>,
    #[serde(rename = "u", skip_serializing_if = "empty")]
    pub uniqueid: CompactString,
    #[serde(rename = "l", skip_serializing_if = "empty")]
    pub linkedid: CompactString,
    #[serde(rename = "ch", skip_serializing_if = "empty")]
    pub channel: CompactString,
    #[serde(rename = "n", skip_serializing_if = "empty")]
    pub cid_name: CompactString,
    #[serde(rename = "num", skip_serializing_if = "empty")]
    pub cid_num: CompactString,
    #[serde(rename = "ani", skip_serializing_if = "empty")]
    pub cid_ani: CompactString,
    #[serde(rename = "rdnis", skip_serializing_if = "empty")]
    pub cid_rdnis: RareText,
    #[serde(rename = "dnid", skip_serializing_if = "empty")]
    pub cid_dnid: CompactString,
    #[serde(rename = "x", skip_serializing_if = "empty")]
    pub exten: CompactString,
    #[serde(rename = "c", skip_serializing_if = "empty")]
    pub context: CompactString,
    #[serde(rename = "a", skip_serializing_if = "empty")]
    pub appname: CompactString,
    #[serde(rename = "d", skip_serializing_if = "empty")]
    pub appdata: CompactString,
    #[serde(rename = "ama", skip_serializing_if = "empty")]
    pub amaflags: CompactString,
    #[serde(rename = "acc", skip_serializing_if = "empty")]
    pub accountcode: RareText,
    #[serde(rename = "pacc", skip_serializing_if = "empty")]
    pub peeraccount: RareText,
    #[serde(rename = "uf", skip_serializing_if = "empty")]
    pub userfield: RareText,
    #[serde(rename = "p", skip_serializing_if = "empty")]
    pub peer: CompactString,
    /// Name of a user-defined event, where the table keeps it in a column of its own.
    #[serde(rename = "ud", skip_serializing_if = "empty")]
    pub userdeftype: RareText,
    /// JSON, at times cut short by the width of its column.
    #[serde(rename = "ex", skip_serializing_if = "empty")]
    pub extra: CompactString,
    #[serde(rename = "ten", skip_serializing_if = "empty")]
    pub tenantid: RareText,
}

macro_rules! cel_events {
    ($($variant:ident $name:literal $number:expr),* $(,)?) => {
        /// What happened. Numbers are those of `enum ast_cel_event_type`
        /// (Asterisk 12 and newer, include/asterisk/cel.h); events without one ended with Asterisk 11.
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum CelEvent {
            $($variant,)*
            /// A vendor's or a newer Asterisk's event: kept, not read.
            Other(RareText),
        }

        impl CelEvent {
            /// Reads the name, or the number an integer column holds.
            pub fn parse(s: &str) -> Self {
                let s = s.trim();
                $(if s.eq_ignore_ascii_case($name) { return Self::$variant; })*
                if let Ok(number) = s.parse::<i64>() {
                    $(if $number == Some(number) { return Self::$variant; })*
                }
                Self::Other(s.into())
            }

            pub fn name(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(s) => s,
                }
            }
        }
    };
}

// The order is the rank of events of one channel that share a (whole-second) time; it is not the order of the numbers.
cel_events! {
    ChanStart "CHAN_START" Some(1),
    AppStart "APP_START" Some(5),
    Answer "ANSWER" Some(4),
    BridgeStart "BRIDGE_START" None,
    ConfStart "CONF_START" None,
    BridgeEnter "BRIDGE_ENTER" Some(7),
    StreamBegin "STREAM_BEGIN" Some(19),
    Dtmf "DTMF" Some(21),
    BlindTransfer "BLINDTRANSFER" Some(11),
    AttendedTransfer "ATTENDEDTRANSFER" Some(12),
    Transfer "TRANSFER" None,
    Pickup "PICKUP" Some(15),
    Forward "FORWARD" Some(16),
    ParkStart "PARK_START" Some(9),
    ParkEnd "PARK_END" Some(10),
    LocalOptimizeBegin "LOCAL_OPTIMIZE_BEGIN" Some(18),
    LocalOptimize "LOCAL_OPTIMIZE" Some(17),
    UserDefined "USER_DEFINED" Some(13),
    StreamEnd "STREAM_END" Some(20),
    BridgeExit "BRIDGE_EXIT" Some(8),
    BridgeEnd "BRIDGE_END" None,
    ConfEnd "CONF_END" None,
    AppEnd "APP_END" Some(6),
    Hangup "HANGUP" Some(3),
    ChanEnd "CHAN_END" Some(2),
    LinkedidEnd "LINKEDID_END" Some(14),
}

impl Default for CelEvent {
    fn default() -> Self {
        Self::Other(RareText::default())
    }
}

impl Serialize for CelEvent {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for CelEvent {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Ok(Self::parse(&s))
    }
}

/// What a CDR says of the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Disposition {
    Answered,
    Busy,
    Congestion,
    NoAnswer,
    Cancel,
    Failed,
    #[default]
    Unknown,
    Other(CompactString),
}

impl Disposition {
    /// Reads the text, or the number an integer column holds (Asterisk, include/asterisk/cdr.h: 0 no answer, 1 null,
    /// 2 failed, 4 busy, 8 answered, 16 congestion, 32 cancel).
    pub fn parse(s: &str) -> Self {
        let s = s.trim();
        let is = |name: &str| s.eq_ignore_ascii_case(name);
        if s.is_empty() || is("NULL") || s == "1" {
            Self::Unknown
        } else if is("ANSWERED") || is("ANSWER") || s == "8" {
            Self::Answered
        } else if is("BUSY") || s == "4" {
            Self::Busy
        } else if is("CONGESTION") || s == "16" {
            Self::Congestion
        } else if is("NO ANSWER") || is("NOANSWER") || is("NO_ANSWER") || s == "0" {
            Self::NoAnswer
        } else if is("CANCEL") || is("CANCELLED") || is("CANCELED") || s == "32" {
            Self::Cancel
        } else if is("FAILED") || s == "2" {
            Self::Failed
        } else {
            Self::Other(CompactString::new(s))
        }
    }

    /// As Asterisk writes it into a text column.
    pub fn name(&self) -> &str {
        match self {
            Self::Answered => "ANSWERED",
            Self::Busy => "BUSY",
            Self::Congestion => "CONGESTION",
            Self::NoAnswer => "NO ANSWER",
            Self::Cancel => "CANCEL",
            Self::Failed => "FAILED",
            Self::Unknown => "",
            Self::Other(s) => s,
        }
    }
}

impl Serialize for Disposition {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Disposition {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
        Ok(Self::parse(&s))
    }
}

/// One call detail record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct CdrRow {
    /// The row's number in its table where there is a trustworthy one.
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// `start` or `calldate`: when this record began, which is not when the call began.
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    pub start: Option<RowTime>,
    #[serde(rename = "ta", skip_serializing_if = "Option::is_none")]
    pub answer: Option<RowTime>,
    #[serde(rename = "te", skip_serializing_if = "Option::is_none")]
    pub end: Option<RowTime>,
    /// Milliseconds.
    #[serde(rename = "dur", skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// Milliseconds.
    #[serde(rename = "bill", skip_serializing_if = "Option::is_none")]
    pub billsec_ms: Option<i64>,
    #[serde(rename = "u", skip_serializing_if = "empty")]
    pub uniqueid: CompactString,
    #[serde(rename = "l", skip_serializing_if = "empty")]
    pub linkedid: CompactString,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    pub sequence: Option<i64>,
    #[serde(rename = "clid", skip_serializing_if = "empty")]
    pub clid: CompactString,
    #[serde(rename = "src", skip_serializing_if = "empty")]
    pub src: CompactString,
    #[serde(rename = "dst", skip_serializing_if = "empty")]
    pub dst: CompactString,
    #[serde(rename = "c", skip_serializing_if = "empty")]
    pub dcontext: CompactString,
    #[serde(rename = "ch", skip_serializing_if = "empty")]
    pub channel: CompactString,
    #[serde(rename = "dch", skip_serializing_if = "empty")]
    pub dstchannel: CompactString,
    #[serde(rename = "a", skip_serializing_if = "empty")]
    pub lastapp: CompactString,
    #[serde(rename = "d", skip_serializing_if = "empty")]
    pub lastdata: CompactString,
    #[serde(rename = "disp")]
    pub disposition: Disposition,
    #[serde(rename = "ama", skip_serializing_if = "empty")]
    pub amaflags: CompactString,
    #[serde(rename = "acc", skip_serializing_if = "empty")]
    pub accountcode: CompactString,
    #[serde(rename = "pacc", skip_serializing_if = "empty")]
    pub peeraccount: CompactString,
    #[serde(rename = "uf", skip_serializing_if = "empty")]
    pub userfield: CompactString,
    #[serde(rename = "did", skip_serializing_if = "empty")]
    pub did: CompactString,
    #[serde(rename = "rec", skip_serializing_if = "empty")]
    pub recordingfile: CompactString,
    #[serde(rename = "cnum", skip_serializing_if = "empty")]
    pub cnum: CompactString,
    #[serde(rename = "cnam", skip_serializing_if = "empty")]
    pub cnam: CompactString,
    #[serde(rename = "ocnum", skip_serializing_if = "empty")]
    pub outbound_cnum: CompactString,
    #[serde(rename = "ocnam", skip_serializing_if = "empty")]
    pub outbound_cnam: CompactString,
    #[serde(rename = "dcnam", skip_serializing_if = "empty")]
    pub dst_cnam: CompactString,
    #[serde(rename = "ten", skip_serializing_if = "empty")]
    pub tenantid: CompactString,
}

/// A row of either table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Row {
    Cel(Arc<CelRow>),
    Cdr(Arc<CdrRow>),
}

impl Row {
    pub fn uniqueid(&self) -> &str {
        match self {
            Self::Cel(r) => &r.uniqueid,
            Self::Cdr(r) => &r.uniqueid,
        }
    }

    pub fn linkedid(&self) -> &str {
        match self {
            Self::Cel(r) => &r.linkedid,
            Self::Cdr(r) => &r.linkedid,
        }
    }

    /// The event's time, or the record's start.
    pub fn time(&self) -> Option<RowTime> {
        match self {
            Self::Cel(r) => r.time,
            Self::Cdr(r) => r.start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_read_by_name_and_number() {
        assert_eq!(CelEvent::parse("CHAN_START"), CelEvent::ChanStart);
        assert_eq!(CelEvent::parse("chan_start"), CelEvent::ChanStart);
        assert_eq!(CelEvent::parse("2"), CelEvent::ChanEnd);
        assert_eq!(CelEvent::parse("MY_EVENT").name(), "MY_EVENT");
    }

    #[test]
    fn an_event_takes_no_more_than_it_should() {
        // with the two counts of its Arc: one more byte and allocators hand out 512
        let size = size_of::<CelRow>() + 2 * size_of::<usize>();
        assert!(size <= 448, "{size}");
    }

    #[test]
    fn rows_survive_the_journal() {
        let row = CelRow {
            id: Some(7),
            event: CelEvent::Hangup,
            time: Some(RowTime::Utc(1_795_214_890_593_251)),
            uniqueid: "1795214890.54".into(),
            cid_name: "Zoë \u{1f4de}".into(),
            ..CelRow::default()
        };
        let text = serde_json::to_string(&row).expect("row to JSON");
        assert_eq!(serde_json::from_str::<CelRow>(&text).expect("row from JSON"), row);
    }

    #[test]
    fn dispositions_read_as_text_and_integer() {
        assert_eq!(Disposition::parse("NO ANSWER"), Disposition::NoAnswer);
        assert_eq!(Disposition::parse("8"), Disposition::Answered);
        assert_eq!(Disposition::parse("1"), Disposition::Unknown);
    }
}
