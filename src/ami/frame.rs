//! Frames: lines of `Key: value`, an empty line at the end.

use std::fmt;

use super::AmiError;

/// Largest frame taken. Asterisk's own are a few kilobytes; `Command` output is the largest.
pub const MAX_FRAME_BYTES: usize = 64 << 10;
/// Lines of a frame.
const MAX_HEADERS: usize = 4096;

/// One response or event. Keys keep their case and are compared without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    headers: Vec<(String, String)>,
}

impl Frame {
    /// The first value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    /// Every value of a key: `Output` has one a line.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v.as_str())
    }

    /// Headers whose key begins with one of `prefixes`, in order.
    pub fn with_prefix(&self, prefixes: &[&str]) -> Vec<(String, String)> {
        self.headers.iter().filter(|(k, _)| prefixes.iter().any(|p| k.starts_with(p))).cloned().collect()
    }

    pub fn event(&self) -> Option<&str> {
        self.get("Event")
    }

    pub fn is_success(&self) -> bool {
        // Ping answers `Success` or, in old versions, `Pong`; Logoff `Goodbye`
        self.get("Response").is_some_and(|r| ["Success", "Pong", "Goodbye", "Follows"].contains(&r))
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self, AmiError> {
        let text = String::from_utf8_lossy(text);
        let mut headers = Vec::new();
        for line in text.split('\n').map(|l| l.trim_end_matches('\r')).filter(|l| !l.is_empty()) {
            if headers.len() == MAX_HEADERS {
                return Err(AmiError::Protocol(format!("a frame of more than {MAX_HEADERS} lines")));
            }
            let (key, value) = match line.split_once(':') {
                Some((key, value)) => (key.trim().to_owned(), value.strip_prefix(' ').unwrap_or(value).to_owned()),
                // output of commands in old versions has lines of its own
                None => ("Output".to_owned(), line.to_owned()),
            };
            headers.push((key, value));
        }
        Ok(Self { headers })
    }

    /// Length of the first complete frame in `buffer`, its end included; the first `seen` bytes are known to hold none.
    pub(super) fn end(buffer: &[u8], seen: usize) -> Option<usize> {
        let from = seen.saturating_sub(3).min(buffer.len());
        let crlf = buffer[from..].windows(4).position(|w| w == b"\r\n\r\n").map(|n| from + n + 4);
        // a frame without lines: two frames' ends in a row
        if buffer.starts_with(b"\r\n") { Some(2) } else { crlf }
    }
}

/// Headers that hold a secret: `PJSIPShowRegistrationsOutbound` prints passwords in clear text.
fn secret(key: &str) -> bool {
    const SECRETS: [&str; 9] = [
        "secret",
        "password",
        "md5cred",
        "md5_cred",
        "key",
        "challenge",
        "authdetail",
        "passworddigest",
        "refreshtoken",
    ];
    let key = key.to_ascii_lowercase();
    SECRETS.contains(&key.as_str()) || key.contains("password") || key.contains("secret")
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, value) in &self.headers {
            map.entry(key, if secret(key) { &"***" } else { value });
        }
        map.finish()
    }
}

/// An action to be sent.
#[derive(Clone)]
pub struct Action {
    pub(super) name: &'static str,
    headers: Vec<(String, String)>,
}

impl Action {
    pub const fn new(name: &'static str) -> Self {
        Self { name, headers: Vec::new() }
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.headers.push((key.to_owned(), value.into()));
        self
    }

    /// As it goes over the wire. A line end in a value would begin a header of its own: refused.
    pub(super) fn encode(&self, id: &str) -> Result<Vec<u8>, AmiError> {
        let mut text = format!("Action: {}\r\nActionID: {id}\r\n", self.name);
        for (key, value) in &self.headers {
            if value.contains(['\r', '\n', '\0']) {
                return Err(AmiError::Protocol(format!("{key} of action {} holds a line end", self.name)));
            }
            text.push_str(&format!("{key}: {value}\r\n"));
        }
        text.push_str("\r\n");
        Ok(text.into_bytes())
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        map.entry(&"Action", &self.name);
        for (key, value) in &self.headers {
            map.entry(key, if secret(key) { &"***" } else { value });
        }
        map.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_redacts() {
        let frame =
            Frame::parse(b"Response: Success\r\nOutput: a: b\r\nOutput: \r\nPassword: s3cret\r\nno colon\r\n\r\n")
                .unwrap();
        assert!(frame.is_success());
        assert_eq!(frame.all("output").collect::<Vec<_>>(), ["a: b", "", "no colon"]);
        assert!(!format!("{frame:?}").contains("s3cret"));
        assert_eq!(Frame::end(b"A: b\r\n\r\nC", 0), Some(8));
        assert_eq!(Frame::end(b"A: b\r\n", 0), None);
        assert_eq!(Frame::end(b"A: b\r\n\r\n", 7), Some(8));
        let login = Action::new("Login").with("Secret", "s3cret").with("Username", "u");
        assert!(!format!("{login:?}").contains("s3cret"));
        assert!(Action::new("X").with("A", "b\r\nAction: Originate").encode("1").is_err());
        assert!(Frame::parse("a: b\r\n".repeat(5000).as_bytes()).is_err());
    }
}
