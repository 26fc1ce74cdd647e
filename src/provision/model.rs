//! What can be provisioned, checked: hosts are hosts, numbers are numbers, and nothing of it can end a field it stands
//! in (no `&`, `,`, `)` in what becomes a dial string).

use std::fmt;
use std::net::IpAddr;

use secrecy::SecretString;

use super::dialplan::Unmatched;
use super::error::{Error, Result};

/// How an `auths` row is filled.
#[derive(Clone, Debug)]
pub enum Secret {
    Password(SecretString),
    /// Stored as md5(username:realm:password).
    Digest {
        realm: String,
        password: SecretString,
    },
    /// As it stands; a row that is not there yet cannot do with it.
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
    Tls,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// We register with the far end and are found by the `line` of our contact.
    Register,
    /// No registration: calls are known by these addresses.
    Ip(Vec<String>),
}

#[derive(Clone, Debug)]
pub struct Trunk {
    pub id: String,
    pub host: String,
    pub port: Option<u16>,
    /// Number at the far end; user of From and of the contact. Without one From has the caller's number.
    pub extension: Option<String>,
    pub auth_id: String,
    pub secret: Secret,
    pub mode: Mode,
    pub protocol: Protocol,
    pub transport: String,
    pub outbound_proxy: Option<String>,
    pub codecs: Vec<String>,
    pub strip_prefix: String,
    pub add_prefix: String,
    pub unmatched: Unmatched,
    pub from_number: Option<String>,
    pub inbound: Destination,
    /// Numbers with a destination of their own.
    pub dids: Vec<(String, Destination)>,
    pub tenant: Option<String>,
    pub media_encryption: Option<String>,
    /// Seconds.
    pub dial_timeout: u32,
    /// Seconds.
    pub expiration: u32,
    /// Seconds; 0 for none.
    pub qualify_frequency: u32,
    /// Asterisk stands behind NAT.
    pub nat: bool,
}

#[derive(Clone, Debug)]
pub struct Extension {
    /// Login of the phone and id of its rows.
    pub id: String,
    /// What others dial.
    pub number: String,
    pub name: String,
    pub secret: Secret,
    pub webrtc: bool,
    pub transport: String,
    pub context: String,
    /// The context is ours: it gets a row for the number.
    pub dialable: bool,
    pub codecs: Vec<String>,
    pub mailbox: Option<String>,
    pub call_group: Option<String>,
    pub pickup_group: Option<String>,
    pub tenant: Option<String>,
    pub dtls_cert_file: Option<String>,
    pub max_contacts: u32,
    /// Seconds.
    pub ring_timeout: u32,
    pub adopt: bool,
}

#[derive(Clone, Debug)]
pub struct Queue {
    pub id: String,
    /// What others dial, in which of our contexts.
    pub number: Option<(String, String)>,
    pub strategy: String,
    pub timeout: u32,
    pub ring_in_use: bool,
    pub wrapup: u32,
    pub max_len: u32,
    pub join_empty: Option<String>,
    pub leave_when_empty: Option<String>,
    pub music: Option<String>,
    pub announce: Option<String>,
    pub members: Vec<Member>,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub interface: String,
    pub name: String,
    pub penalty: u32,
}

/// Outgoing calls of a context, in order; the first that matches has the number.
#[derive(Clone, Debug)]
pub struct Route {
    pub context: String,
    /// Front of the number as a regular expression; empty for every number.
    pub prefix: String,
    pub strip: bool,
    pub add_prefix: String,
    pub trunk_id: String,
    pub from_number: Option<String>,
    pub dial_timeout: u32,
}

/// Where a call goes that comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    Stasis(String),
    /// Id of the phone, seconds to ring.
    Extension(String, u32),
    /// Id of the queue.
    Queue(String),
    Goto(String),
    Voicemail(String),
    Hangup,
}

/// A number a pattern matched, without what could end the field it stands in: it comes from outside.
pub const DIALLED: &str = "${FILTER(0-9+*#,${EXTEN})}";

impl Destination {
    /// Application and its data. `trunk` is told to Stasis applications.
    pub fn application(&self, trunk: &str) -> (&'static str, String) {
        match self {
            Self::Stasis(app) => ("Stasis", format!("{app},inbound,{trunk}")),
            Self::Extension(id, timeout) => ("Dial", format!("PJSIP/{id},{timeout}")),
            Self::Queue(id) => ("Queue", id.clone()),
            Self::Goto(place) => ("Goto", place.clone()),
            Self::Voicemail(mailbox) => ("VoiceMail", format!("{mailbox},u")),
            Self::Hangup => ("Hangup", String::new()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        })
    }
}

impl Protocol {
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "udp" => Ok(Self::Udp),
            "tcp" => Ok(Self::Tcp),
            "tls" => Ok(Self::Tls),
            _ => Err(Error::input(format!("protocol {} is not udp, tcp or tls", quoted(text)))),
        }
    }
}

/// For messages: escaped and short.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{more}")
}

fn checked(what: &str, text: &str, max: usize, allowed: &str, fine: impl Fn(char) -> bool) -> Result<String> {
    let length = text.chars().count();
    if length == 0 || length > max {
        return Err(Error::input(format!("{what} {} has {length} characters, allowed are 1 to {max}", quoted(text))));
    }
    match text.chars().find(|c| !fine(*c)) {
        Some(c) => Err(Error::input(format!("{what} {} holds {c:?}; allowed are {allowed}", quoted(text)))),
        None => Ok(text.to_owned()),
    }
}

/// A host name or address, in lower case.
pub fn host(what: &str, text: &str) -> Result<String> {
    let text = text.trim();
    if let Ok(IpAddr::V6(_)) = text.trim_start_matches('[').trim_end_matches(']').parse() {
        return Err(Error::input(format!("{what} {}: IPv6 addresses are not taken; use a name", quoted(text))));
    }
    let host = checked(what, text, 253, "letters, digits, dots and dashes", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '-')
    })?;
    let labels = |l: &str| !l.is_empty() && l.len() <= 63 && !l.starts_with('-') && !l.ends_with('-');
    if !host.split('.').all(labels) {
        return Err(Error::input(format!("{what} {} is not a host name", quoted(text))));
    }
    Ok(host.to_lowercase())
}

/// User of a SIP address that is dialled and registered: no character of it needs escaping anywhere.
pub fn user(what: &str, text: &str) -> Result<String> {
    let text = checked(what, text, 40, "letters, digits and . _ + - after the first", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')
    })?;
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '+') {
        return Err(Error::input(format!("{what} {} does not begin with a letter or digit", quoted(&text))));
    }
    Ok(text)
}

/// A number that can be dialled.
pub fn number(what: &str, text: &str) -> Result<String> {
    let (plus, digits) = text.strip_prefix('+').map_or(("", text), |d| ("+", d));
    let digits = checked(what, digits, 38, "digits, * and #, with a + in front", |c| {
        c.is_ascii_digit() || matches!(c, '*' | '#')
    })?;
    Ok(format!("{plus}{digits}"))
}

/// A word that names something in Asterisk: context, application, transport, codec.
pub fn word(what: &str, text: &str) -> Result<String> {
    let word = checked(what, text, 80, "letters, digits and . _ - :", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':')
    })?;
    Ok(word)
}

/// A device a queue rings: `PJSIP/200`, `Local/9@ctx/n`. One device: `&` would add another.
pub fn device(what: &str, text: &str) -> Result<String> {
    let device = checked(what, text, 80, "letters, digits and . _ + - @ / after a technology and a slash", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-' | '@' | '/')
    })?;
    match device.split_once('/') {
        Some((technology, rest)) if !technology.is_empty() && !rest.is_empty() => Ok(device),
        _ => Err(Error::input(format!("{what} {} is not a device such as PJSIP/200", quoted(text)))),
    }
}

/// Free text without anything that ends a caller id.
pub fn caller_name(text: &str) -> Result<String> {
    checked("name", text, 80, "all but quotes, < > \\ and control characters", |c| {
        !c.is_control() && !matches!(c, '"' | '<' | '>' | '\\')
    })
}

/// Printable text.
pub fn text(what: &str, value: &str, max: usize) -> Result<String> {
    checked(what, value, max, "all but control characters", |c| !c.is_control())
}

/// `203.0.113.4` or `203.0.113.0/24`: names are resolved once, when Asterisk loads the row, and are not taken.
pub fn address(text: &str) -> Result<String> {
    let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
    let bad = || Error::input(format!("{} is not an IP address or network such as 203.0.113.4/32", quoted(text)));
    let ip: IpAddr = ip.parse().map_err(|_| bad())?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Ok(max), |b| b.parse::<u8>().map_err(|_| bad()))?;
    if bits > max || bits == 0 {
        return Err(bad());
    }
    Ok(format!("{ip}/{bits}"))
}

/// `sip:host:port;lr` from `host`, `host:port` or a URI.
pub fn proxy(text: &str) -> Result<String> {
    if text.starts_with("sips:") {
        return Err(Error::input(format!(
            "outbound proxy {}: sips: is not taken; write sip:host:5061;transport=tls",
            quoted(text)
        )));
    }
    let inner = text.strip_prefix("sip:").unwrap_or(text);
    let mut parts = inner.split(';');
    let place = parts.next().unwrap_or_default();
    let (name, port) = place.split_once(':').map_or((place, None), |(h, p)| (h, Some(p)));
    let name = host("outbound proxy", name)?;
    let mut uri = format!("sip:{name}");
    if let Some(port) = port {
        let port = port.parse().ok().filter(|p: &u16| *p != 0);
        let port = port.ok_or_else(|| Error::input(format!("outbound proxy {} has no port", quoted(text))))?;
        uri.push_str(&format!(":{port}"));
    }
    for parameter in parts.filter(|p| *p != "lr") {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, "-"));
        word("parameter of the outbound proxy", name)?;
        word("parameter of the outbound proxy", value)?;
        uri.push_str(&format!(";{parameter}"));
    }
    Ok(uri + ";lr")
}

/// Names of the hunting strategies elsewhere, or Asterisk's own.
pub fn strategy(text: &str) -> Result<String> {
    let own = ["ringall", "leastrecent", "fewestcalls", "random", "rrmemory", "linear", "wrandom", "rrordered"];
    match text {
        "hunt" => Ok("linear".to_owned()),
        "memoryhunt" | "roundrobin" => Ok("rrmemory".to_owned()),
        known if own.contains(&known) => Ok(known.to_owned()),
        _ => Err(Error::input(format!("strategy {} is none of hunt, memoryhunt, {}", quoted(text), own.join(", ")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_input_is_refused() {
        let long = "9".repeat(10_240);
        for bad in ["", "a;b", "a&Local/1@x", "a'b", "a\"b", "a\nb", "a b", "é", "-a", "a..b", &long, "::1"] {
            assert!(host("host", bad).is_err(), "{bad}");
        }
        for bad in ["", "1;2", "1&Local/9@x", "1,2", "1)", "1'2", "1\n", "ü", "_X.", "-1", &long, "1${X}"] {
            assert!(user("extension", bad).is_err(), "{bad}");
            assert!(number("number", bad).is_err(), "{bad}");
        }
        for bad in ["A\" <1>", "a\nb", "", &long, "a\\b"] {
            assert!(caller_name(bad).is_err(), "{bad}");
        }
        assert_eq!(caller_name("Łucja O'Hara; ✓").unwrap(), "Łucja O'Hara; ✓");
        for bad in ["PJSIP", "PJSIP/", "/1", "PJSIP/1&Local/2", "PJSIP/1,2", "PJSIP/a b", &long, "PJSIP/ü"] {
            assert!(device("interface", bad).is_err(), "{bad}");
        }
        assert_eq!(device("interface", "Local/9@ctx/n").unwrap(), "Local/9@ctx/n");
        for bad in ["evil.com;x=\"", "a:b", "sip:a;b=&", "a:99999", "a:0", "sips:a:5061"] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
        assert_eq!(proxy("sip:edge.example.com:5080;lr").unwrap(), "sip:edge.example.com:5080;lr");
        assert_eq!(proxy("edge;transport=tcp").unwrap(), "sip:edge;transport=tcp;lr");
        assert_eq!(address("203.0.113.4").unwrap(), "203.0.113.4/32");
        for bad in ["pbx.example.com", "1.2.3.4/33", "1.2.3.4/0", "1.2.3.4;x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(number("n", "+390612").unwrap(), "+390612");
        assert_eq!(strategy("hunt").unwrap(), "linear");
        assert!(strategy("whatever").is_err());
    }
}
