//! Numbers as E.164, by the rules of the country the PBX stands in. A number that does not say beyond doubt where it
//! belongs gets none: short codes, emergency numbers, local numbers without their area, anonymous callers.
//!
//! Own rules in place of a library: the ports of libphonenumber keep several megabytes of metadata in memory, for
//! formatting and carriers that nobody needs here. The lengths are those of the national plans (ITU-T E.164, the
//! countries' E.129 notices), generous where a plan is not of one length.

use serde::{Deserialize, Serialize};

/// How numbers are written around this PBX. By default nothing is known of the country: numbers with a `+` are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Numbering {
    /// Fill in no number at all.
    pub off: bool,
    pub country: Option<Plan>,
    /// What is dialled before a country code, besides `+`.
    pub international: Vec<String>,
    /// What is dialled before a number to get an outside line, or to hide one's own: `9`, `*67`.
    pub dial_prefixes: Vec<String>,
}

/// The plan of one country.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// Country code.
    pub code: String,
    /// National prefix; empty where there is none.
    pub prefix: String,
    /// Digits of a number without prefix.
    pub length: (usize, usize),
    /// Digits of a number that is complete without the prefix; (0, 0): without it a number is a local one.
    pub bare: (usize, usize),
}

/// Country code, national prefix, length, length without prefix, international prefix.
type Known = (&'static str, &'static str, (usize, usize), (usize, usize), &'static str);

const LOCAL: (usize, usize) = (0, 0);
/// Digits of the longest local or national number written without a prefix.
const LOCAL_MAX: usize = 10;

#[rustfmt::skip]
const PLANS: &[Known] = &[
    ("1", "1", (10, 10), (10, 10), "011"),
    ("7", "8", (10, 10), (10, 10), "810"),
    ("20", "0", (8, 10), LOCAL, "00"),
    ("27", "0", (9, 9), (9, 9), "00"),
    ("30", "", (10, 10), (10, 10), "00"),
    ("31", "0", (7, 11), (9, 9), "00"),
    ("32", "0", (8, 9), (8, 9), "00"),
    ("33", "0", (9, 9), (9, 9), "00"),
    ("34", "", (9, 9), (9, 9), "00"),
    ("36", "06", (8, 9), (8, 9), "00"),
    ("39", "", (6, 11), (6, 11), "00"),
    ("40", "0", (9, 9), (9, 9), "00"),
    ("41", "0", (9, 9), (9, 9), "00"),
    ("43", "0", (4, 13), LOCAL, "00"),
    ("44", "0", (7, 10), (10, 10), "00"),
    ("45", "", (8, 8), (8, 8), "00"),
    ("46", "0", (7, 10), LOCAL, "00"),
    ("47", "", (8, 8), (8, 8), "00"),
    ("48", "", (9, 9), (9, 9), "00"),
    ("49", "0", (5, 13), LOCAL, "00"),
    ("52", "", (10, 10), (10, 10), "00"),
    ("54", "0", (10, 11), (10, 10), "00"),
    ("55", "0", (10, 11), (10, 11), "00"),
    ("56", "", (9, 9), (9, 9), "00"),
    ("57", "", (10, 10), (10, 10), "00"),
    ("60", "0", (8, 10), LOCAL, "00"),
    ("61", "0", (9, 9), (9, 9), "0011"),
    ("63", "0", (8, 10), (10, 10), "00"),
    ("64", "0", (8, 10), LOCAL, "00"),
    ("65", "", (8, 8), (8, 8), "001"),
    ("66", "0", (8, 9), LOCAL, "001"),
    ("81", "0", (9, 10), LOCAL, "010"),
    ("82", "0", (8, 10), LOCAL, "001"),
    ("84", "0", (9, 10), (9, 9), "00"),
    ("86", "0", (10, 11), (11, 11), "00"),
    ("90", "0", (10, 10), (10, 10), "00"),
    ("91", "0", (10, 10), (10, 10), "00"),
    ("94", "0", (9, 9), (9, 9), "00"),
    ("98", "0", (10, 10), (10, 10), "00"),
    ("212", "0", (9, 9), (9, 9), "00"),
    ("216", "", (8, 8), (8, 8), "00"),
    ("234", "0", (8, 10), (10, 10), "009"),
    ("254", "0", (9, 9), (9, 9), "000"),
    ("351", "", (9, 9), (9, 9), "00"),
    ("352", "", (6, 11), (6, 11), "00"),
    ("353", "0", (7, 9), LOCAL, "00"),
    ("354", "", (7, 9), (7, 9), "00"),
    ("356", "", (8, 8), (8, 8), "00"),
    ("357", "", (8, 8), (8, 8), "00"),
    ("358", "0", (5, 12), LOCAL, "00"),
    ("359", "0", (7, 9), LOCAL, "00"),
    ("370", "0", (8, 8), (8, 8), "00"),
    ("371", "", (8, 8), (8, 8), "00"),
    ("372", "", (7, 8), (7, 8), "00"),
    ("373", "0", (8, 8), (8, 8), "00"),
    ("380", "0", (9, 9), (9, 9), "00"),
    ("381", "0", (8, 9), LOCAL, "00"),
    ("385", "0", (8, 9), LOCAL, "00"),
    ("386", "0", (8, 8), (8, 8), "00"),
    ("387", "0", (8, 8), (8, 8), "00"),
    ("389", "0", (8, 8), (8, 8), "00"),
    ("420", "", (9, 9), (9, 9), "00"),
    ("421", "0", (9, 9), (9, 9), "00"),
    ("852", "", (8, 8), (8, 8), "001"),
    ("886", "0", (8, 9), LOCAL, "002"),
    ("965", "", (8, 8), (8, 8), "00"),
    ("966", "0", (9, 9), (9, 9), "00"),
    ("971", "0", (8, 9), LOCAL, "00"),
    ("972", "0", (8, 9), (9, 9), "00"),
    ("974", "", (8, 8), (8, 8), "00"),
    ("995", "0", (9, 9), (9, 9), "00"),
];

/// Shortest and longest number with its country code.
const DIGITS_MIN: usize = 7;
const DIGITS_MAX: usize = 15;

impl Plan {
    /// The plan of a country code, and its international prefix. `None`: not built in.
    pub fn built_in(code: &str) -> Option<(Self, &'static str)> {
        let (code, prefix, length, bare, international) = PLANS.iter().find(|p| p.0 == code)?;
        let plan = Self { code: (*code).to_owned(), prefix: (*prefix).to_owned(), length: *length, bare: *bare };
        Some((plan, international))
    }

    /// The national number in what was written, if it is one as it stands.
    fn national<'n>(&self, digits: &'n str) -> Option<&'n str> {
        let with_prefix = digits.strip_prefix(self.prefix.as_str()).filter(|_| !self.prefix.is_empty());
        if let Some(rest) = with_prefix
            && self.is_number(rest, self.length)
        {
            return Some(rest);
        }
        self.is_number(digits, self.bare).then_some(digits)
    }

    fn is_number(&self, digits: &str, (min, max): (usize, usize)) -> bool {
        (min..=max).contains(&digits.len()) && begins_well(&self.code, digits)
    }

    /// A number with its country code, and nothing to show that it is one.
    fn with_code<'n>(&self, digits: &'n str) -> Option<&'n str> {
        let rest = digits.strip_prefix(self.code.as_str())?;
        // where local numbers exist, a short one may begin like the country code
        let long = self.bare != LOCAL || rest.len() >= 8;
        (long && self.is_number(rest, self.length)).then_some(digits)
    }
}

/// What the beginning of a national number tells: no plan has one of these for anything but itself.
fn begins_well(code: &str, national: &str) -> bool {
    let b = national.as_bytes();
    match code {
        // NANP: area and exchange begin with 2 to 9, N11 are services
        "1" => {
            matches!(b.first(), Some(b'2'..=b'9'))
                && matches!(b.get(3), Some(b'2'..=b'9'))
                && b.get(1..3) != Some(b"11")
        }
        // the zero of Italian numbers is part of them; 00 is what stands before a country code
        "39" | "378" => !national.starts_with("00"),
        "7" => matches!(b.first(), Some(b'3'..=b'9')),
        "420" => matches!(b.first(), Some(b'2'..=b'9')),
        // countries without a national prefix have numbers with a zero in front
        "225" | "241" | "242" => true,
        _ => !matches!(b.first(), Some(b'0') | None),
    }
}

impl Numbering {
    /// Whether there is anything to fill in.
    pub fn is_on(&self) -> bool {
        !self.off
    }

    /// A number as a line or another PBX wrote it: a caller, a DID, what was sent to a trunk.
    pub fn plain(&self, number: &str) -> Option<String> {
        if self.off {
            return None;
        }
        let number = digits(number)?;
        if let Some(international) = number.strip_prefix('+') {
            return valid(international);
        }
        // with a national prefix first: 011 is also Leeds to Bristol
        if let Some(plan) = &self.country
            && let Some(national) = plan.national(&number)
        {
            return Some(format!("+{}{national}", plan.code));
        }
        let mut known = self.international.iter().filter_map(|p| number.strip_prefix(p.as_str()).and_then(valid));
        known.next().or_else(|| self.country.as_ref()?.with_code(&number).map(|n| format!("+{n}")))
    }

    /// A number that came in over a line: a caller from outside, a DID. Carriers write foreign ones with their country code
    /// and nothing before it; that is read where no number of this country can be meant, and the country's own plan is
    /// met exactly.
    pub fn from_line(&self, number: &str) -> Option<String> {
        self.plain(number).or_else(|| self.foreign(number))
    }

    fn foreign(&self, number: &str) -> Option<String> {
        let own = self.country.as_ref().filter(|_| !self.off)?;
        let digits = digits(number).filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
        // longer than any number of the own plan without its prefix, local ones included
        let longest = if own.bare == LOCAL { LOCAL_MAX } else { own.bare.1.max(LOCAL_MAX) };
        if digits.len() <= longest {
            return None;
        }
        let code = country_code(&digits).filter(|code| *code != own.code)?;
        let (plan, _) = Plan::built_in(code)?;
        plan.is_number(digits.get(code.len()..)?, plan.length).then(|| format!("+{digits}"))
    }

    /// A number as somebody dialled it: with what gets an outside line in front, or without. The prefix is taken off only
    /// where a whole number remains.
    pub fn dialled(&self, number: &str) -> Option<String> {
        if self.off {
            return None;
        }
        let number = number.trim();
        // *67 and then 9, in any order; each at most once
        let without = |text: &'_ str, used: Option<usize>| -> Vec<(usize, String)> {
            let prefixes = self.dial_prefixes.iter().enumerate().filter(|(n, p)| Some(*n) != used && !p.is_empty());
            prefixes.filter_map(|(n, p)| Some((n, text.strip_prefix(p.as_str())?.to_owned()))).collect()
        };
        let once = without(number, None);
        let twice = once.iter().flat_map(|(n, rest)| without(rest, Some(*n)));
        let found = twice.collect::<Vec<_>>().iter().chain(&once).find_map(|(_, rest)| self.plain(rest));
        found.or_else(|| self.plain(number))
    }
}

/// The digits of a number, with a leading `+`. `None` where there is anything that no number has.
fn digits(number: &str) -> Option<String> {
    if number.len() > 64 {
        return None;
    }
    let mut out = String::with_capacity(number.len());
    for c in number.trim().chars() {
        match c {
            '0'..='9' => out.push(c),
            '+' if out.is_empty() => out.push(c),
            ' ' | '-' | '.' | '(' | ')' | '/' | '\u{a0}' => {}
            _ => return None,
        }
    }
    Some(out)
}

/// A number with its country code: the code exists, the length can be, the national part begins as it may.
fn valid(number: &str) -> Option<String> {
    if !(DIGITS_MIN..=DIGITS_MAX).contains(&number.len()) {
        return None;
    }
    let code = country_code(number)?;
    let national = &number[code.len()..];
    let length_ok = code != "1" || national.len() == 10;
    (length_ok && begins_well(code, national)).then(|| format!("+{number}"))
}

/// What follows the country code in the digits of an E.164 number.
pub fn national(number: &str) -> Option<&str> {
    number.get(country_code(number)?.len()..)
}

/// The country code a number begins with (ITU-T E.164, list of assigned codes).
fn country_code(number: &str) -> Option<&str> {
    let two = number.get(..2)?;
    if number.starts_with(['1', '7']) {
        return number.get(..1);
    }
    let has_two = matches!(
        two,
        "20" | "27"
            | "30"
            | "31"
            | "32"
            | "33"
            | "34"
            | "36"
            | "39"
            | "40"
            | "41"
            | "43"
            | "44"
            | "45"
            | "46"
            | "47"
            | "48"
            | "49"
            | "51"
            | "52"
            | "53"
            | "54"
            | "55"
            | "56"
            | "57"
            | "58"
            | "60"
            | "61"
            | "62"
            | "63"
            | "64"
            | "65"
            | "66"
            | "81"
            | "82"
            | "84"
            | "86"
            | "90"
            | "91"
            | "92"
            | "93"
            | "94"
            | "95"
            | "98"
    );
    if has_two {
        return Some(two);
    }
    let three = number.get(..3)?;
    let code: u16 = three.parse().ok()?;
    let assigned = matches!(
        code,
        211..=213 | 216 | 218 | 220..=258 | 260..=269 | 290 | 291 | 297..=299 | 350..=359 | 370..=378 | 380..=383
            | 385..=387 | 389 | 420 | 421 | 423 | 500..=509 | 590..=599 | 670 | 672..=683 | 685..=692 | 800 | 808 | 850
            | 852 | 853 | 855 | 856 | 870 | 878 | 880..=883 | 886 | 888 | 960..=968 | 970..=977 | 979 | 992..=996 | 998
    );
    assigned.then_some(three)
}

#[cfg(test)]
mod tests;
