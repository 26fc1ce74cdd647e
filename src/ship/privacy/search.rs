//! Finds phone numbers in text: those that are known, however they are written, and runs of digits that can only be one.

use std::ops::Range;

/// Longest gap between digits of one number, in characters.
const GAP_MAX: usize = 3;

/// An outside party's number.
pub struct Known {
    canonical: String,
    /// Digits alone, longest first, none short.
    spellings: Vec<String>,
}

impl Known {
    pub fn new(canonical: String, mut spellings: Vec<String>) -> Self {
        spellings.retain(|s| s.len() >= super::SHORTEST);
        spellings.sort_by_key(|s| std::cmp::Reverse(s.len()));
        spellings.dedup();
        Self { canonical, spellings }
    }
}

pub struct Found {
    pub at: Range<usize>,
    /// `None`: what is written there is all that is known.
    pub canonical: Option<String>,
}

pub struct Search {
    outside: Vec<Known>,
    /// Digits of numbers that stay.
    own: Vec<String>,
    /// `<epoch>.<counter>` of the call's channels: no numbers, wherever they stand.
    moments: Vec<String>,
    unknown_min: usize,
}

/// One digit of a text.
#[derive(Clone, Copy)]
struct Digit {
    value: u8,
    start: usize,
    end: usize,
    /// Follows the last one without anything between.
    touches: bool,
    /// Follows it, or with only what people write between the digits of a number.
    joins: bool,
    /// Part of an id.
    id: bool,
}

/// The value of a decimal digit: also full-width, Arabic and Devanagari ones, which a name may hold.
pub fn digit(c: char) -> Option<u8> {
    const ZEROS: [char; 5] = ['0', '\u{ff10}', '\u{660}', '\u{6f0}', '\u{966}'];
    ZEROS.iter().find_map(|&zero| u8::try_from(u32::from(c).wrapping_sub(u32::from(zero))).ok().filter(|d| *d <= 9))
}

impl Search {
    pub fn new(outside: Vec<Known>, own: Vec<String>, mut moments: Vec<String>, unknown_min: usize) -> Self {
        moments.retain(|m| m.contains('.'));
        Self { outside, own, moments, unknown_min }
    }

    /// Spellings of known numbers, in order.
    pub fn known(&self, text: &str) -> Vec<Found> {
        self.found(text, &self.read(text))
    }

    /// The same, and runs of digits that are nothing else than a number. `plain`: the E.164 form of what was written.
    pub fn all(&self, text: &str, plain: impl Fn(&str) -> Option<String>) -> Vec<Found> {
        let digits = self.read(text);
        let mut found = self.found(text, &digits);
        for run in digits.chunk_by(|_, next| next.touches) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let at = first.start..last.end;
            let taken = found.iter().any(|f| f.at.start < at.end && at.start < f.at.end);
            if run.len() < self.unknown_min || first.id || taken {
                continue;
            }
            let value: String = run.iter().map(|d| char::from(b'0' + d.value)).collect();
            // zeros in front: a channel's count, unless the plan knows better
            let number = !value.starts_with("000") || plain(&value).is_some();
            if number && !self.is_own(&value) && !is_moment(&value, text, &at) && !is_date(&value) {
                found.push(Found { at: with_plus(text, at), canonical: None });
            }
        }
        found.sort_by_key(|f| f.at.start);
        found
    }

    fn is_own(&self, value: &str) -> bool {
        // with or without country code and prefixes
        self.own.iter().any(|own| own == value || own.ends_with(value) || value.ends_with(own.as_str()))
    }

    fn read(&self, text: &str) -> Vec<Digit> {
        let ids: Vec<Range<usize>> =
            self.moments.iter().flat_map(|m| text.match_indices(m.as_str()).map(|(at, m)| at..at + m.len())).collect();
        let mut digits: Vec<Digit> = Vec::new();
        for (start, c) in text.char_indices() {
            let Some(value) = digit(c) else { continue };
            let between = digits.last().map(|last| &text[last.end..start]);
            let id = ids.iter().any(|id| id.contains(&start));
            let same = digits.last().is_some_and(|last| last.id == id);
            digits.push(Digit {
                value,
                start,
                end: start + c.len_utf8(),
                touches: same && between.is_some_and(str::is_empty),
                joins: same && between.is_some_and(|b| b.chars().count() <= GAP_MAX && b.chars().all(is_separator)),
                id,
            });
        }
        digits
    }

    fn found(&self, text: &str, digits: &[Digit]) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let mut at = 0;
        while at < digits.len() {
            let Some((known, len)) = self.known_at(digits, at) else {
                at += 1;
                continue;
            };
            // whatever was dialled before it, up to the number found last
            let mut first = at;
            let limit = found.last().map_or(0, |f| f.at.end);
            while first > 0 && digits[first].touches && digits[first - 1].start >= limit {
                first -= 1;
            }
            let span = with_plus(text, digits[first].start..digits[at + len - 1].end);
            found.push(Found { at: span, canonical: Some(known.canonical.clone()) });
            at += len;
        }
        found
    }

    /// A known number that is written here and ends where its digits end.
    fn known_at(&self, digits: &[Digit], at: usize) -> Option<(&Known, usize)> {
        let here = |spelling: &str| {
            let end = at + spelling.len();
            !digits[at].id
                && end <= digits.len()
                && digits.get(end).is_none_or(|next| !next.touches)
                && spelling.bytes().zip(&digits[at..end]).all(|(b, d)| b == b'0' + d.value)
                && digits[at + 1..end].iter().all(|d| d.joins)
        };
        let fits = |known: &'_ Known| known.spellings.iter().find(|s| here(s)).map(String::len);
        self.outside.iter().filter_map(|k| Some((k, fits(k)?))).max_by_key(|(_, len)| *len)
    }
}

/// What people write between the digits of one number.
fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '/' | '(' | ')' | '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2013}' | '_')
}

fn with_plus(text: &str, at: Range<usize>) -> Range<usize> {
    if text[..at.start].ends_with('+') { at.start - 1..at.end } else { at }
}

/// Part of an id that Asterisk made: `1795213604.12`.
fn is_moment(value: &str, text: &str, at: &Range<usize>) -> bool {
    let after = text[at.end..].strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    after && matches!(value.len(), 9 | 10)
}

/// `20261120`, alone or with a time behind it, as file names have them.
fn is_date(value: &str) -> bool {
    let part = |range: Range<usize>| value.get(range).and_then(|p| p.parse::<u32>().ok());
    matches!(value.len(), 8 | 12 | 14)
        && part(0..4).is_some_and(|y| (1990..2100).contains(&y))
        && part(4..6).is_some_and(|m| (1..=12).contains(&m))
        && part(6..8).is_some_and(|d| (1..=31).contains(&d))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str) -> String {
        let outside = vec![Known::new(
            "+420777123456".to_owned(),
            vec!["420777123456".to_owned(), "777123456".to_owned(), "1001".to_owned()],
        )];
        let own = vec!["420224000101".to_owned()];
        let search = Search::new(outside, own, vec!["1795213604.12".to_owned()], 8);
        let mut out = String::new();
        let mut done = 0;
        for found in search.all(text, |_| None) {
            out.push_str(&text[done..found.at.start]);
            out.push_str(if found.canonical.is_some() { "<N>" } else { "<?>" });
            done = found.at.end;
        }
        out + &text[done..]
    }

    #[test]
    fn every_spelling_of_a_known_number() {
        for (text, expected) in [
            ("777123456", "<N>"),
            ("+420777123456", "<N>"),
            ("00420777123456", "<N>"),
            ("9,00420777123456", "9,<N>"),
            ("90777123456#", "<N>#"),
            ("+420 777 123 456", "<N>"),
            ("(420) 777-123-456", "(<N>"),
            ("Jan 777\u{a0}123\u{a0}456 Novak", "Jan <N> Novak"),
            ("７７７１２３４５６", "<N>"),
            ("PJSIP/777123456-00000012", "PJSIP/<N>-00000012"),
            ("Local/9777123456@out-0000001;1", "Local/<N>@out-0000001;1"),
            ("out-777123456-1001-20261120-222644-1795213604.12.wav", "out-<N>-1001-20261120-222644-1795213604.12.wav"),
            ("777123456777123456", "<N>"),
            ("777123456-777123456", "<N>-<N>"),
            ("7771234561", "<?>"),
        ] {
            assert_eq!(marked(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_stays() {
        for text in [
            "",
            "1001",
            "1234567",
            "PJSIP/1001-00000012",
            "1795213604.12",
            "pbx-1795213604.99",
            "20261120",
            "20261120222644",
            "420224000101",
            "224000101",
            "00420224000101",
            "1",
            "2026-11-20 22:26:44",
            "3f2b-00001234",
        ] {
            assert_eq!(marked(text), text);
        }
        assert_eq!(marked("12345678"), "<?>");
        assert_eq!(marked("+12345678 and 87654321"), "<?> and <?>");
    }
}
