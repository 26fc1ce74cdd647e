//! What uniqueids, linkedids and channel names say: `[systemname-]epoch.counter`, `TECH/peer-xxxxxxxx[;1]`.

use std::cmp::Ordering;

use memchr::{memchr, memrchr};

/// A uniqueid or linkedid, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id<'a> {
    pub systemname: &'a str,
    /// Seconds since 1970 UTC, as the PBX's clock had it when the channel was made.
    pub epoch: i64,
    pub counter: u64,
}

/// The longest systemname that is believed.
const SYSTEMNAME_MAX: usize = 128;

impl<'a> Id<'a> {
    /// Reads `^(.{1,128}-)?\d{9,10}\.\d+$`. `None` for anything else. Every row is asked twice: byte by byte from the end.
    pub fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (counter_at, counter) = trailing_number(bytes);
        let dot = counter_at.checked_sub(1)?;
        if !(1..=19).contains(&(bytes.len() - counter_at)) || bytes[dot] != b'.' {
            return None;
        }
        let (epoch_at, epoch) = trailing_number(&bytes[..dot]);
        let systemname = match epoch_at {
            0 => "",
            at if bytes[at - 1] == b'-' => &text[..at - 1],
            _ => return None,
        };
        let named = epoch_at > 0;
        if named && (systemname.is_empty() || systemname.chars().count() > SYSTEMNAME_MAX) {
            return None;
        }
        if !matches!(dot - epoch_at, 9 | 10) {
            return None;
        }
        Some(Self { systemname, epoch: epoch.cast_signed(), counter })
    }
}

/// Where the digits at the end begin, and their number; of more than nineteen digits it says nothing.
fn trailing_number(bytes: &[u8]) -> (usize, u64) {
    let (mut at, mut number, mut unit) = (bytes.len(), 0_u64, 1_u64);
    while at > 0 && bytes[at - 1].is_ascii_digit() {
        at -= 1;
        number = number.wrapping_add(unit.wrapping_mul(u64::from(bytes[at] - b'0')));
        unit = unit.wrapping_mul(10);
    }
    (at, number)
}

/// Every way to read the last id in a text, such as a file name: `epoch.counter` with what stands before it as systemname,
/// the longest first, and bare at the end. `a-1795214890.5` may be an id of system `a`, or one after a word.
pub fn found_in(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let digits = |from: usize| bytes.get(from..).unwrap_or_default().iter().take_while(|b| b.is_ascii_digit()).count();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let epoch = digits(at);
        if epoch == 0 {
            at += 1;
            continue;
        }
        let dot = at + epoch;
        let counter = if bytes.get(dot) == Some(&b'.') { digits(dot + 1) } else { 0 };
        if !matches!(epoch, 9 | 10) || counter == 0 {
            at = dot;
            continue;
        }
        let end = dot + 1 + counter;
        let starts = text[..at]
            .char_indices()
            .filter(|(i, _)| *i == 0 || matches!(bytes.get(i - 1), Some(b'-' | b'_' | b'/' | b' ')));
        let with_system = starts.filter_map(|(i, _)| text.get(i..end)).filter(|id| Id::parse(id).is_some());
        // where a name holds several, the channel's own stands last
        found.clear();
        found.extend(with_system);
        found.extend(text.get(at..end).filter(|id| Id::parse(id).is_some()));
        at = end;
    }
    found
}

/// Orders ids as (epoch, counter, systemname), numbers as numbers; what is no id comes last, as text.
pub fn compare(a: &str, b: &str) -> Ordering {
    rank(a).cmp(&rank(b))
}

/// What [`compare`] compares of an id.
pub fn rank(id: &str) -> impl Ord + '_ {
    let (odd, epoch, counter, systemname) =
        Id::parse(id).map_or((true, 0, 0, ""), |i| (false, i.epoch, i.counter, i.systemname));
    (odd, epoch, counter, systemname, id)
}

/// Channels of the PBX's own making: announcers, recorders, messages. They never found nor join a call.
pub fn is_service_channel(channel: &str) -> bool {
    // asked of every row, and hardly ever so
    matches!(channel.as_bytes().first(), Some(b'M' | b'C' | b'R' | b'A' | b'S'))
        && ["Message/", "CBAnn/", "CBRec/", "Recorder/", "Announcer/", "Snoop/"].iter().any(|p| channel.starts_with(p))
}

/// A channel's name without what masquerades and hangups put around it.
pub fn bare_name(channel: &str) -> &str {
    // asked over and over, and hardly any name has such a thing
    let mut name = channel;
    if name.as_bytes().first() == Some(&b'A') {
        name = name.strip_prefix("AsyncGoto/").unwrap_or(name);
    }
    if name.as_bytes().last() == Some(&b'>') {
        for decoration in ["<ZOMBIE>", "<MASQ>"] {
            name = name.strip_suffix(decoration).unwrap_or(name);
        }
    }
    name
}

pub fn is_local(channel: &str) -> bool {
    channel.as_bytes().first() == Some(&b'L') && channel.starts_with("Local/")
}

/// `1` or `2` of a Local channel's name, and the name without it.
pub fn local_half(channel: &str) -> Option<(&str, u8)> {
    let name = bare_name(channel);
    if !is_local(name) {
        return None;
    }
    if let Some(base) = name.strip_suffix(";1") {
        return Some((base, 1));
    }
    name.strip_suffix(";2").map(|base| (base, 2))
}

/// The endpoint behind a channel: `PJSIP/1001-tenantA` of `PJSIP/1001-tenantA-00000001`, `DAHDI/i1` of
/// `DAHDI/i1/777-1e`. Only the last `-x` in hexadecimal is the channel's own.
pub fn endpoint(channel: &str) -> &str {
    let name = bare_name(channel);
    let name = match memrchr(b'-', name.as_bytes()) {
        Some(at) if is_serial(&name[at + 1..]) && memchr(b'/', &name.as_bytes()[..at]).is_some() => &name[..at],
        _ => name,
    };
    if !name.starts_with("DAHDI/i") {
        return name;
    }
    // a span of DAHDI has the number of its call in the channel's name
    name.match_indices('/').nth(1).map_or(name, |(at, _)| &name[..at])
}

/// Eight hexadecimal digits of chan_pjsip and chan_sip; chan_iax2 counts from 1, chan_dahdi has what its call has.
fn is_serial(tail: &str) -> bool {
    (1..=16).contains(&tail.len()) && tail.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An endpoint without its technology: `1001` of `PJSIP/1001`.
pub fn peer_of(endpoint: &str) -> &str {
    split(endpoint, b'/').map_or(endpoint, |(_, peer)| peer)
}

/// What stands before and after the first of this ASCII character.
pub fn split(text: &str, at: u8) -> Option<(&str, &str)> {
    debug_assert!(at.is_ascii());
    memchr(at, text.as_bytes()).map(|at| (&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_by_their_form() {
        assert_eq!(Id::parse("1795214890.54"), Some(Id { systemname: "", epoch: 1_795_214_890, counter: 54 }));
        assert_eq!(Id::parse("pbx-1-1795214890.0").map(|i| i.systemname), Some("pbx-1"));
        for bad in
            ["", ".", "1795214890", "1795214890.", "x1795214890.1", "-1795214890.1", "12.5", "N/A", "1795214890.x"]
        {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_found_in_names() {
        assert_eq!(found_in("1795214890.54"), ["1795214890.54"]);
        assert_eq!(found_in("pbx-1-1795214890.5"), ["pbx-1-1795214890.5", "1-1795214890.5", "1795214890.5"]);
        let name = "out-5551234567-1001-20261120-224810-1795214890.54.WAV";
        assert_eq!(found_in(name).last(), Some(&"1795214890.54"));
        assert_eq!(found_in(name).len(), 6);
        assert_eq!(found_in("1795214890.5-1795214890.54.wav").last(), Some(&"1795214890.54"));
        assert_eq!(found_in("ü_1795214890.54-in.wav"), ["1795214890.54"]);
        for none in ["", "20261120-224810-1001.wav", "5551234567.wav", "17952148901.5", "1795214890.", "é.1"] {
            assert!(found_in(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn ids_sort_as_numbers() {
        assert_eq!(compare("1795214890.9", "1795214890.10"), Ordering::Less);
        assert_eq!(compare("b-1795214890.9", "a-1795214890.10"), Ordering::Less);
        assert_eq!(compare("1795214890.9", "odd"), Ordering::Less);
    }

    #[test]
    fn only_the_serial_is_stripped() {
        assert_eq!(endpoint("PJSIP/1001-tenantA-00000001"), "PJSIP/1001-tenantA");
        assert_eq!(endpoint("SIP/trunk-acme-0a1b2c3d<ZOMBIE>"), "SIP/trunk-acme");
        assert_eq!(endpoint("PJSIP/1001"), "PJSIP/1001");
        assert_eq!(endpoint("IAX2/trunk-acme-503"), "IAX2/trunk-acme");
        assert_eq!(endpoint("DAHDI/12-1"), "DAHDI/12");
        assert_eq!(endpoint("DAHDI/i1/060050177-1e"), "DAHDI/i1");
        assert_eq!(local_half("Local/1001@from-queue-00000003;2"), Some(("Local/1001@from-queue-00000003", 2)));
    }
}
