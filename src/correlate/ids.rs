//! What uniqueids, linkedids and channel names say: `[systemname-]epoch.counter`, `TECH/peer-xxxxxxxx[;1]`.

use std::cmp::Ordering;

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
        let counter_len = trailing_digits(bytes);
        let dot = bytes.len().checked_sub(counter_len + 1)?;
        if !(1..=19).contains(&counter_len) || bytes[dot] != b'.' {
            return None;
        }
        let epoch_len = trailing_digits(&bytes[..dot]);
        let epoch_at = dot - epoch_len;
        let systemname = match epoch_at {
            0 => "",
            at if bytes[at - 1] == b'-' => &text[..at - 1],
            _ => return None,
        };
        let named = epoch_at > 0;
        if named && (systemname.is_empty() || systemname.chars().count() > SYSTEMNAME_MAX) {
            return None;
        }
        if !matches!(epoch_len, 9 | 10) {
            return None;
        }
        // ten and nineteen digits at most: neither can overflow
        let number = |digits: &[u8]| digits.iter().fold(0_u64, |n, d| n * 10 + u64::from(d - b'0'));
        let epoch = number(&bytes[epoch_at..dot]).cast_signed();
        Some(Self { systemname, epoch, counter: number(&bytes[dot + 1..]) })
    }
}

fn trailing_digits(bytes: &[u8]) -> usize {
    bytes.iter().rev().take_while(|b| b.is_ascii_digit()).count()
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
    match (Id::parse(a), Id::parse(b)) {
        (Some(x), Some(y)) => {
            (x.epoch, x.counter, x.systemname).cmp(&(y.epoch, y.counter, y.systemname)).then_with(|| a.cmp(b))
        }
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Channels of the PBX's own making: announcers, recorders, messages. They never found nor join a call.
pub fn is_service_channel(channel: &str) -> bool {
    // asked of every row, and hardly ever so
    matches!(channel.as_bytes().first(), Some(b'M' | b'C' | b'R' | b'A' | b'S'))
        && ["Message/", "CBAnn/", "CBRec/", "Recorder/", "Announcer/", "Snoop/"].iter().any(|p| channel.starts_with(p))
}

/// A channel's name without what masquerades and hangups put around it.
pub fn bare_name(channel: &str) -> &str {
    let mut name = channel.strip_prefix("AsyncGoto/").unwrap_or(channel);
    for decoration in ["<ZOMBIE>", "<MASQ>"] {
        name = name.strip_suffix(decoration).unwrap_or(name);
    }
    name
}

pub fn is_local(channel: &str) -> bool {
    channel.starts_with("Local/")
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
    let name = match name.rsplit_once('-') {
        Some((head, tail)) if is_serial(tail) && head.contains('/') => head,
        _ => name,
    };
    // a span of DAHDI has the number of its call in the channel's name
    match name.match_indices('/').nth(1) {
        Some((at, _)) if name.starts_with("DAHDI/i") => &name[..at],
        _ => name,
    }
}

/// Eight hexadecimal digits of chan_pjsip and chan_sip; chan_iax2 counts from 1, chan_dahdi has what its call has.
fn is_serial(tail: &str) -> bool {
    (1..=16).contains(&tail.len()) && tail.bytes().all(|b| b.is_ascii_hexdigit())
}

/// An endpoint without its technology: `1001` of `PJSIP/1001`.
pub fn peer_of(endpoint: &str) -> &str {
    endpoint.split_once('/').map_or(endpoint, |(_, peer)| peer)
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
