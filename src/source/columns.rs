//! The columns of CEL and CDR tables, under every name deployments give them, and how their text is read.
//!
//! Sites rename columns freely (`alias start => calldate`), so a table is understood by alias and never by position.
//! Nothing here fails on odd text: what cannot be read as a time or a number is simply not known.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use crate::call::{CdrRow, CelEvent, CelRow, Disposition, RowTime, WallTime};

macro_rules! columns {
    ($(#[$meta:meta])* $name:ident { $($variant:ident [$($alias:literal),+ $(,)?]),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($variant),* }

        impl $name {
            /// Every column, in the order of the fields of the row.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Names this column goes by, the preferred one first. Where a table has several of them (VitalPBX keeps
            /// both `src` and `source`), the earlier name is the one to read.
            pub const fn aliases(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($alias),+]),* }
            }

            /// The column's own name.
            pub const fn name(self) -> &'static str {
                self.aliases()[0]
            }

            /// The column a name stands for, in any case.
            pub fn of(name: &str) -> Option<Self> {
                Self::ranked(name).map(|(column, _)| column)
            }

            /// The column and how far down its list of names this one stands: of two names of one column the lower
            /// rank wins.
            pub fn ranked(name: &str) -> Option<(Self, usize)> {
                let name = plain(name);
                Self::ALL.iter().find_map(|&c| {
                    c.aliases().iter().position(|a| a.eq_ignore_ascii_case(name)).map(|rank| (c, rank))
                })
            }

            /// For every known column its place in `header`; unknown names are left out, of several names of one
            /// column the preferred one is taken.
            pub fn map<S: AsRef<str>>(header: &[S]) -> Vec<(Self, usize)> {
                let mut best: Vec<(Self, usize, usize)> = Vec::new();
                for (place, name) in header.iter().enumerate() {
                    let Some((column, rank)) = Self::ranked(name.as_ref()) else { continue };
                    match best.iter_mut().find(|(c, ..)| *c == column) {
                        Some(known) if rank < known.1 => *known = (column, rank, place),
                        Some(_) => {}
                        None => best.push((column, rank, place)),
                    }
                }
                best.into_iter().map(|(column, _, place)| (column, place)).collect()
            }
        }
    };
}

/// A header's name without byte order mark, blanks and quotes.
fn plain(name: &str) -> &str {
    name.trim_matches(|c: char| c == '\u{feff}' || c.is_whitespace() || matches!(c, '"' | '`' | '[' | ']'))
}

columns! {
    /// Columns of a CEL table.
    CelColumn {
        Id ["id", "cel_id", "celid"],
        EventType ["eventtype", "event_type", "eventname", "event"],
        EventTime ["eventtime", "event_time", "timestamp"],
        UserDefType ["userdeftype", "user_def_type", "userdeftypename"],
        CidName ["cid_name", "cidname", "callerid_name", "calleridname"],
        CidNum ["cid_num", "cidnum", "callerid_num", "calleridnum"],
        CidAni ["cid_ani", "cidani", "callerid_ani", "calleridani"],
        CidRdnis ["cid_rdnis", "cidrdnis", "callerid_rdnis", "calleridrdnis"],
        CidDnid ["cid_dnid", "ciddnid", "callerid_dnid", "calleriddnid"],
        Exten ["exten", "extension"],
        Context ["context"],
        Channel ["channame", "channel", "chan_name", "channelname"],
        AppName ["appname", "app_name", "application"],
        AppData ["appdata", "app_data", "applicationdata"],
        AmaFlags ["amaflags", "ama_flags"],
        AccountCode ["accountcode", "account_code", "account"],
        PeerAccount ["peeraccount", "peer_account"],
        UniqueId ["uniqueid", "unique_id"],
        LinkedId ["linkedid", "linked_id"],
        UserField ["userfield", "user_field"],
        Peer ["peer", "bridgepeer", "bridge_peer"],
        Extra ["extra", "eventextra", "event_extra"],
        TenantId ["tenantid", "tenant_id"],
    }
}

columns! {
    /// Columns of a CDR table.
    CdrColumn {
        Id ["id", "cdr_id", "cdrid", "acctid", "acct_id"],
        Start ["start", "calldate", "start_time", "starttime", "startdate", "call_date"],
        Answer ["answer", "answer_time", "answertime", "answerdate"],
        End ["end", "end_time", "endtime", "enddate", "hangupdate"],
        Duration ["duration"],
        BillSec ["billsec", "billable_seconds", "billableseconds", "bill_sec"],
        UniqueId ["uniqueid", "unique_id"],
        LinkedId ["linkedid", "linked_id"],
        Sequence ["sequence", "sequenceno", "seq"],
        Clid ["clid", "callerid", "caller_id"],
        Src ["src", "source"],
        Dst ["dst", "destination"],
        DContext ["dcontext", "destinationcontext", "dstcontext", "dst_context", "context"],
        Channel ["channel", "channame"],
        DstChannel ["dstchannel", "destinationchannel", "dst_channel"],
        LastApp ["lastapp", "lastapplication", "last_app"],
        LastData ["lastdata", "last_data"],
        Disposition ["disposition"],
        AmaFlags ["amaflags", "ama_flags"],
        AccountCode ["accountcode", "account_code", "account"],
        PeerAccount ["peeraccount", "peer_account"],
        UserField ["userfield", "user_field"],
        Did ["did"],
        RecordingFile ["recordingfile", "recording_file", "recording"],
        CNum ["cnum"],
        CNam ["cnam"],
        OutboundCNum ["outbound_cnum"],
        OutboundCNam ["outbound_cnam"],
        DstCNam ["dst_cnam"],
        TenantId ["tenantid", "tenant_id"],
    }
}

impl CelColumn {
    /// Puts a column's text into its field. An unreadable time or number leaves the field unknown.
    pub fn set(self, row: &mut CelRow, text: &str) {
        let text = present(text);
        match self {
            Self::Id => row.id = text.trim().parse().ok(),
            Self::EventType => row.event = CelEvent::parse(text),
            Self::EventTime => row.time = parse_time(text),
            Self::UserDefType => row.userdeftype = text.into(),
            Self::CidName => row.cid_name = text.into(),
            Self::CidNum => row.cid_num = text.into(),
            Self::CidAni => row.cid_ani = text.into(),
            Self::CidRdnis => row.cid_rdnis = text.into(),
            Self::CidDnid => row.cid_dnid = text.into(),
            Self::Exten => row.exten = text.into(),
            Self::Context => row.context = text.into(),
            Self::Channel => row.channel = text.trim().into(),
            Self::AppName => row.appname = text.into(),
            Self::AppData => row.appdata = text.into(),
            Self::AmaFlags => row.amaflags = text.into(),
            Self::AccountCode => row.accountcode = text.into(),
            Self::PeerAccount => row.peeraccount = text.into(),
            Self::UniqueId => row.uniqueid = text.trim().into(),
            Self::LinkedId => row.linkedid = text.trim().into(),
            Self::UserField => row.userfield = text.into(),
            Self::Peer => row.peer = text.into(),
            Self::Extra => row.extra = text.into(),
            Self::TenantId => row.tenantid = text.into(),
        }
    }
}

impl CdrColumn {
    /// Puts a column's text into its field. An unreadable time or number leaves the field unknown.
    pub fn set(self, row: &mut CdrRow, text: &str) {
        let text = present(text);
        match self {
            Self::Id => row.id = text.trim().parse().ok(),
            Self::Start => row.start = parse_time(text),
            Self::Answer => row.answer = parse_time(text),
            Self::End => row.end = parse_time(text),
            Self::Duration => row.duration_ms = parse_duration_ms(text),
            Self::BillSec => row.billsec_ms = parse_duration_ms(text),
            Self::Sequence => row.sequence = text.trim().parse().ok(),
            Self::Disposition => row.disposition = Disposition::parse(text),
            Self::UniqueId => row.uniqueid = text.trim().into(),
            Self::LinkedId => row.linkedid = text.trim().into(),
            Self::Clid => row.clid = text.into(),
            Self::Src => row.src = text.into(),
            Self::Dst => row.dst = text.into(),
            Self::DContext => row.dcontext = text.into(),
            Self::Channel => row.channel = text.trim().into(),
            Self::DstChannel => row.dstchannel = text.trim().into(),
            Self::LastApp => row.lastapp = text.into(),
            Self::LastData => row.lastdata = text.into(),
            Self::AmaFlags => row.amaflags = text.into(),
            Self::AccountCode => row.accountcode = text.into(),
            Self::PeerAccount => row.peeraccount = text.into(),
            Self::UserField => row.userfield = text.into(),
            Self::Did => row.did = text.into(),
            Self::RecordingFile => row.recordingfile = text.into(),
            Self::CNum => row.cnum = text.into(),
            Self::CNam => row.cnam = text.into(),
            Self::OutboundCNum => row.outbound_cnum = text.into(),
            Self::OutboundCNam => row.outbound_cnam = text.into(),
            Self::DstCNam => row.dst_cnam = text.into(),
            Self::TenantId => row.tenantid = text.into(),
        }
    }
}

/// `\N` is how MySQL exports a NULL.
fn present(text: &str) -> &str {
    if text.trim() == "\\N" { "" } else { text }
}

/// Times outside these years are misreadings: 1970 is how several backends write "never".
const FIRST_YEAR: i32 = 1971;
const LAST_YEAR: i32 = 2200;

/// Reads a time as any backend writes it: `YYYY-MM-DD HH:MM:SS[.ffffff]` (wall clock), the same with an offset or `Z`
/// (a moment), or the epoch with or without fraction (a moment). `None`: empty, zero dates, 1970, or unreadable.
pub fn parse_time(text: &str) -> Option<RowTime> {
    let text = text.trim();
    let time = match text.as_bytes() {
        [] => return None,
        b if b.len() >= 10 && b[4] == b'-' => parse_calendar(text)?,
        _ => RowTime::Utc(parse_epoch(text)?),
    };
    let (RowTime::Utc(micros) | RowTime::Wall(WallTime(micros))) = time;
    let year = chrono::Datelike::year(&DateTime::from_timestamp_micros(micros)?);
    (FIRST_YEAR..=LAST_YEAR).contains(&year).then_some(time)
}

fn parse_calendar(text: &str) -> Option<RowTime> {
    let date = text.get(..10)?;
    let number = |s: &str| (!s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok())?;
    let part = |from: usize, to: usize| number(text.get(from..to)?);
    if date.as_bytes()[7] != b'-' {
        return None;
    }
    let day = NaiveDate::from_ymd_opt(part(0, 4)? as i32, part(5, 7)?, part(8, 10)?)?;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(RowTime::Wall(WallTime::from_naive(day.and_hms_opt(0, 0, 0)?)));
    }
    let clock = rest.strip_prefix([' ', 'T', 't'])?.trim_start();
    let field = |from: usize, to: usize| number(clock.get(from..to)?);
    if clock.as_bytes().get(2) != Some(&b':') {
        return None;
    }
    let (hour, minute) = (field(0, 2)?, field(3, 5)?);
    let (second, mut tail) = match clock.as_bytes().get(5) {
        Some(b':') => (field(6, 8)?, clock.get(8..)?),
        _ => (0, clock.get(5..)?),
    };
    let mut micros = 0;
    if let Some(fraction) = tail.strip_prefix(['.', ',']) {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        micros = micros_of_fraction(&fraction[..digits]);
        tail = &fraction[digits..];
    }
    // a leap second is shown as the last moment of its minute
    let naive: NaiveDateTime = day.and_hms_micro_opt(hour, minute, second.min(59), micros)?;
    let wall = WallTime::from_naive(naive);
    Some(match parse_offset(tail.trim())? {
        Some(east_s) => RowTime::Utc(wall.0.checked_sub(east_s.checked_mul(1_000_000)?)?),
        None => RowTime::Wall(wall),
    })
}

/// `Some(None)`: there is no offset; `None`: there is something that is not one.
fn parse_offset(tail: &str) -> Option<Option<i64>> {
    if tail.is_empty() {
        return Some(None);
    }
    if ["Z", "UTC", "GMT"].iter().any(|z| tail.eq_ignore_ascii_case(z)) {
        return Some(Some(0));
    }
    let (sign, digits) = match tail.as_bytes()[0] {
        b'+' => (1, &tail[1..]),
        b'-' => (-1, &tail[1..]),
        _ => return None,
    };
    let digits: String = digits.chars().filter(|&c| c != ':').collect();
    if !matches!(digits.len(), 2 | 4 | 6) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let two = |at: usize| digits.get(at..at + 2).and_then(|s| s.parse::<i64>().ok()).unwrap_or(0);
    Some(Some(sign * (two(0) * 3600 + two(2) * 60 + two(4))))
}

/// Epoch seconds, with a fraction or not; 13 digits are milliseconds, 16 microseconds.
fn parse_epoch(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        // a float column may be exported as 1.795214890593251e9
        let value: f64 = text.parse().ok()?;
        return (value.is_finite() && value.abs() < 1e12).then(|| (value * 1e6).round() as i64);
    }
    let number: i64 = whole.parse().ok()?;
    match whole.len() {
        16 => Some(number),
        13 => number.checked_mul(1_000),
        _ => number.checked_mul(1_000_000)?.checked_add(i64::from(micros_of_fraction(fraction))),
    }
}

/// Digits after the point as microseconds; what is finer is cut off.
fn micros_of_fraction(digits: &str) -> u32 {
    let mut micros = 0;
    for i in 0..6 {
        micros = micros * 10 + digits.as_bytes().get(i).map_or(0, |b| u32::from(b - b'0'));
    }
    micros
}

/// A duration in seconds, with a fraction or not, as milliseconds. Negative or unreadable: not known.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    let value: f64 = text.parse().ok()?;
    (value.is_finite() && (0.0..1e9).contains(&value)).then(|| (value * 1000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(text: &str) -> Option<RowTime> {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok().map(|t| RowTime::Wall(WallTime::from_naive(t)))
    }

    #[test]
    fn columns_go_by_many_names() {
        assert_eq!(CdrColumn::of("calldate"), Some(CdrColumn::Start));
        assert_eq!(CdrColumn::of("START"), Some(CdrColumn::Start));
        assert_eq!(CdrColumn::of("source"), Some(CdrColumn::Src));
        assert_eq!(CelColumn::of("eventextra"), Some(CelColumn::Extra));
        assert_eq!(CelColumn::of("cidnum"), Some(CelColumn::CidNum));
        assert_eq!(CelColumn::of("\u{feff}channel"), Some(CelColumn::Channel));
        assert_eq!(CelColumn::of("call_log_id"), None);
    }

    #[test]
    fn no_name_stands_for_two_columns() {
        for &c in CelColumn::ALL {
            c.aliases().iter().for_each(|a| assert_eq!(CelColumn::of(a), Some(c), "{a}"));
        }
        for &c in CdrColumn::ALL {
            c.aliases().iter().for_each(|a| assert_eq!(CdrColumn::of(a), Some(c), "{a}"));
        }
    }

    #[test]
    fn the_preferred_name_wins_where_a_table_has_both() {
        let map = CdrColumn::map(&["source", "src", "x", "calldate"]);
        assert_eq!(map, [(CdrColumn::Src, 1), (CdrColumn::Start, 3)]);
    }

    #[test]
    fn times_of_every_backend() {
        assert_eq!(parse_time("2026-11-20 23:48:10"), wall("2026-11-20 23:48:10"));
        assert_eq!(parse_time("2026-11-20T23:48:10.5932519"), wall("2026-11-20 23:48:10.593251"));
        assert_eq!(parse_time("2026-11-20 23:48:10.59"), wall("2026-11-20 23:48:10.59"));
        let moment = Some(RowTime::Utc(1_795_214_890_593_251));
        assert_eq!(parse_time("1795214890.593251"), moment);
        assert_eq!(parse_time("2026-11-20 22:48:10.593251Z"), moment);
        assert_eq!(parse_time("2026-11-20 23:48:10.593251+01"), moment);
        assert_eq!(parse_time("2026-11-20 23:48:10.593251+01:00"), moment);
        assert_eq!(parse_time("2026-11-20 17:48:10.593251 -0500"), moment);
        assert_eq!(parse_time("1795214890593251"), moment);
        assert_eq!(parse_time("1795214890"), Some(RowTime::Utc(1_795_214_890_000_000)));
        assert_eq!(parse_time("1795214890593"), Some(RowTime::Utc(1_795_214_890_593_000)));
    }

    #[test]
    fn what_is_no_time_is_not_known() {
        for text in [
            "",
            " ",
            "0000-00-00 00:00:00",
            "1970-01-01 00:00:00",
            "1970-01-01 01:00:00",
            "0",
            "never",
            "2026-13-40 00:00:00",
            "2026-11-20 25:00:00",
            "2026-11-20 10:00:00 somewhere",
            "99999999999999999999",
            "-5",
            "9999-12-31 23:59:59",
            "2026-11-2é 10:00:00",
            "NaN",
            "inf",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn durations_may_have_fractions() {
        assert_eq!(parse_duration_ms("5"), Some(5000));
        assert_eq!(parse_duration_ms("5.011923"), Some(5012));
        assert_eq!(parse_duration_ms("-1"), None);
        assert_eq!(parse_duration_ms(""), None);
        assert_eq!(parse_duration_ms("1e30"), None);
    }

    #[test]
    fn odd_text_never_fails() {
        let mut row = CdrRow::default();
        for &c in CdrColumn::ALL {
            for text in ["", "\\N", "ééé", "-", "0x10", "99999999999999999999999"] {
                c.set(&mut row, text);
            }
        }
        let mut row = CelRow::default();
        CelColumn::UniqueId.set(&mut row, " 1795214890.54 ");
        assert_eq!(row.uniqueid, "1795214890.54");
        CelColumn::CidName.set(&mut row, "\\N");
        assert_eq!(row.cid_name, "");
    }
}
