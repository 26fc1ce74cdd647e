//! What a recording's file name tells where no id stands in it: numbers, and when it began.

use chrono::NaiveDateTime;

use crate::call::{Timestamp, WallTime};

/// When a recording began, as its name has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Began {
    /// On the PBX's clock: `20261120-224810`.
    Wall(WallTime),
    /// `auto-1795214890-…`.
    Moment(Timestamp),
}

/// What a name tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Digits with an optional plus, in the order they stand in.
    pub numbers: Vec<String>,
    pub began: Option<Began>,
}

/// Reads `SRC-DST-20261120-224810`, `20261120-224810-EXT-NUMBER`, `queue-NAME-CALLER-agent-EXT-…`, `ext-A-ext-B-…`,
/// `auto-EPOCH-A-B`, in any order: what is neither a date nor a time and all digits is a number.
pub fn hints(file: &str) -> Hints {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let tokens: Vec<&str> = stem.split(['-', '_', ' ', '@', '(', ')', ',']).filter(|t| !t.is_empty()).collect();
    let mut hints = Hints::default();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        if hints.began.is_none() {
            if let Some(began) = reading(token) {
                hints.began = Some(Began::Wall(began));
                continue;
            }
            if let Some(began) =
                tokens.get(at).and_then(|time| reading(&format!("{token}{time}"))).filter(|_| token.len() == 8)
            {
                hints.began = Some(Began::Wall(began));
                at += 1;
                continue;
            }
            if at >= 2
                && tokens.get(at - 2) == Some(&"auto")
                && token.len() == 10
                && let Ok(epoch) = token.parse()
            {
                hints.began = Some(Began::Moment(Timestamp::from_secs(epoch)));
                continue;
            }
        }
        let digits = token.strip_prefix('+').unwrap_or(token);
        if (2..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
            hints.numbers.push((*token).to_owned());
        }
    }
    hints
}

/// `20261120224810`.
fn reading(text: &str) -> Option<WallTime> {
    if text.len() != 14
        || !text.bytes().all(|b| b.is_ascii_digit())
        || !(text.starts_with("20") || text.starts_with("19"))
    {
        return None;
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y%m%d%H%M%S").ok()?;
    Some(WallTime(time.and_utc().timestamp_micros()))
}

/// Digits without which two long numbers are the same: country code, trunk prefix.
const SAME_DIGITS: usize = 7;

/// Whether two numbers are one, also where one of them lacks its prefix.
pub fn same_number(a: &str, b: &str) -> bool {
    let digits = |s: &str| s.bytes().filter(u8::is_ascii_digit).collect::<Vec<u8>>();
    let (a, b) = (digits(a), digits(b));
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    !short.is_empty() && (short == long || (short.len() >= SAME_DIGITS && long.ends_with(&short)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_numbers_and_times() {
        let at = |text: &str| Some(Began::Wall(reading(text).expect("a time")));
        for (file, numbers, began) in [
            ("20261120-224810-1001-+420555123456.wav", vec!["1001", "+420555123456"], at("20261120224810")),
            ("1001-5551234-20261120224810.WAV", vec!["1001", "5551234"], at("20261120224810")),
            ("queue-support-5551234-agent-1001.wav", vec!["5551234", "1001"], None),
            ("ext-1001-ext-1002.gsm", vec!["1001", "1002"], None),
            (
                "auto-1795214890-1001-1002.wav",
                vec!["1001", "1002"],
                Some(Began::Moment(Timestamp::from_secs(1_795_214_890))),
            ),
            ("20261399-224810-1001.wav", vec!["20261399", "224810", "1001"], None),
            ("greeting.wav", vec![], None),
            ("ü-20261120-.wav", vec!["20261120"], None),
        ] {
            let hints = hints(file);
            assert_eq!(
                (hints.numbers, hints.began),
                (numbers.into_iter().map(str::to_owned).collect(), began),
                "{file}"
            );
        }
    }

    #[test]
    fn a_prefix_does_not_make_another_number() {
        for (a, b) in [("1001", "1001"), ("+420555123456", "555123456"), ("00420555123456", "420555123456")] {
            assert!(same_number(a, b) && same_number(b, a), "{a} {b}");
        }
        for (a, b) in [("1001", "2001"), ("1001", "51001"), ("", ""), ("s", "h"), ("5551234567", "5551234")] {
            assert!(!same_number(a, b), "{a} {b}");
        }
    }
}
