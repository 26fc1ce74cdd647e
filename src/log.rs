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

/// A phone number as the log may show it: with `LOG_NUMBERS=masked` only its last three characters.
pub fn number(number: &str) -> impl fmt::Display {
    Number { number, masked: MASK_NUMBERS.load(Ordering::Relaxed) }
}

struct Number<'a> {
    number: &'a str,
    masked: bool,
}

impl fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.masked {
            return f.write_str(self.number);
        }
        let hidden = self.number.chars().count().saturating_sub(3);
        for (i, c) in self.number.chars().enumerate() {
            write!(f, "{}", if i < hidden { '*' } else { c })?;
        }
        Ok(())
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

    fn masked(number: &str) -> String {
        Number { number, masked: true }.to_string()
    }

    #[test]
    fn a_masked_number_keeps_its_last_three_characters() {
        for (plain, expected) in
            [("+420224000101", "**********101"), ("1001", "*001"), ("101", "101"), ("", ""), ("ěšč1", "*šč1")]
        {
            assert_eq!(masked(plain), expected);
        }
        assert_eq!(Number { number: "+420224000101", masked: false }.to_string(), "+420224000101");
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
