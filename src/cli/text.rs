//! Text for a terminal: what comes from outside must not steer it.

use std::fmt;

use chrono::{DateTime, Local};
use rusqlite::Connection;

use super::span;
use crate::call::Timestamp;
use crate::correlate::Zone;
use crate::printable;
use crate::store::{self, meta};

/// Caller names come from anywhere.
pub fn printable(text: &str) -> String {
    printable::clean(text).into_owned()
}

/// The clock that times are shown by: the PBX's, as everywhere, or this machine's while no row has told the zone.
pub struct Clock(Option<Zone>);

impl Clock {
    pub fn of(conn: &Connection) -> store::Result<Self> {
        Ok(Self(meta::zones(conn)?.pop()))
    }

    pub fn shown(&self, at: Timestamp) -> String {
        match &self.0 {
            Some(zone) => span::shown(at, zone),
            None => {
                let at = at.to_chrono().map(DateTime::<Local>::from);
                at.map_or_else(String::new, |at| at.format("%Y-%m-%d %H:%M:%S").to_string())
            }
        }
    }
}

/// The line that names it.
impl fmt::Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(zone) => write!(f, "times on the PBX's clock, {zone}"),
            None => write!(f, "times on this machine's clock, {}", Local::now().format("%:z")),
        }
    }
}

/// `1 call`, `2 calls`.
pub fn count(n: u64, what: &str) -> String {
    let plural = match (n, what.strip_suffix('y')) {
        (1, _) => what.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        _ => format!("{what}s"),
    };
    format!("{} {plural}", thousands(n))
}

/// `12,345`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Joined as a sentence does: `a`, `a and b`, `a, b and c`.
pub fn listed(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((count(1, "delivery"), count(0, "call")), ("1 delivery".into(), "0 calls".into()));
        assert_eq!(count(2_000, "delivery"), "2,000 deliveries");
        assert_eq!(listed(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
