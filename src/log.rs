//! The log: human on a terminal, JSON for machines, on standard error, one event a line whatever a caller put into a name.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogConfig;
use crate::printable::steers;

static MASK_NUMBERS: AtomicBool = AtomicBool::new(true);

/// Starts logging for the rest of the process. A second call changes nothing but the masking of numbers.
pub fn start(config: &LogConfig) {
    MASK_NUMBERS.store(config.mask_numbers, Ordering::Relaxed);
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // `Config` has tried the filter already
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    let _ = if config.json {
        log.json().flatten_event(true).with_writer(OneLine { keep_escape: false }).try_init()
    } else {
        log.with_ansi(colour).with_target(false).with_writer(OneLine { keep_escape: colour }).try_init()
    };
}

/// Digits of the shortest number that is masked: fewer are extensions and short codes.
const MASKED_MIN: usize = 6;

/// A text that others chose (an id, a value of a table) as the log may show it: with `LOG_NUMBERS=masked` of each number
/// in it only the last three digits. The moments in Asterisk's ids are none.
pub fn text(text: &str) -> impl fmt::Display {
    Text { text, masked: MASK_NUMBERS.load(Ordering::Relaxed) }
}

struct Text<'a> {
    text: &'a str,
    masked: bool,
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = if self.masked { self.text } else { "" };
        f.write_str(if self.masked { "" } else { self.text })?;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
            let digits = &rest[at..end];
            let counter = rest[end..].strip_prefix('.').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
            let is_moment = counter && matches!(digits.len(), 9 | 10);
            let hidden = if is_moment || digits.len() < MASKED_MIN { 0 } else { digits.len() - 3 };
            write!(f, "{}{}{}", &rest[..at], "*".repeat(hidden), &digits[hidden..])?;
            rest = &rest[end..];
        }
        f.write_str(rest)
    }
}

/// Writes each event as one line: control characters that came in with a value (a caller's name is chosen by the caller)
/// are escaped as JSON does, so that nobody can forge a line or talk to a terminal.
#[derive(Clone, Copy)]
struct OneLine {
    /// Colours are escape sequences of our own; tracing-subscriber has escaped those of others.
    keep_escape: bool,
}

impl<'a> MakeWriter<'a> for OneLine {
    type Writer = OneLine;

    fn make_writer(&'a self) -> Self::Writer {
        *self
    }
}

impl Write for OneLine {
    /// Called once an event, with the whole of it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(one_line(event, self.keep_escape).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn one_line(event: &[u8], keep_escape: bool) -> String {
    let text = String::from_utf8_lossy(event);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            '\u{1b}' if keep_escape => line.push(c),
            c if steers(c) => {
                // JSON knows characters beyond the first plane as two
                for unit in c.encode_utf16(&mut [0; 2]) {
                    line.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_number_keeps_its_last_three_digits() {
        for (plain, expected) in [
            ("+420224000101", "+*********101"),
            ("1001", "1001"),
            ("", ""),
            ("é", "é"),
            ("uniqueid \"420777123456\" does not read", "uniqueid \"*********456\" does not read"),
            ("pbx:to-777123456-1795213604.12", "pbx:to-******456-1795213604.12"),
            ("asterisk01-1795213604.12/3", "asterisk01-1795213604.12/3"),
            ("1795213604.", "*******604."),
            ("123456.wav", "***456.wav"),
        ] {
            assert_eq!(Text { text: plain, masked: true }.to_string(), expected);
            assert_eq!(Text { text: plain, masked: false }.to_string(), plain);
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let event = "a\nINFO forged\r\u{1b}[2J\u{9b}\u{202e}é\u{2028}\0\n";
        let line = one_line(event.as_bytes(), false);
        assert_eq!(line, "a\\nINFO forged\\r\\u001b[2J\\u009b\\u202eé\\u2028\\u0000\n");
        assert_eq!(one_line("\u{1b}[32m INFO\u{1b}[0m\n".as_bytes(), true), "\u{1b}[32m INFO\u{1b}[0m\n");
        assert_eq!(one_line(b"\xff\n", false), "\u{fffd}\n");
    }
}
