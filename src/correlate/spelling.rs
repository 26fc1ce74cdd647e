//! One number in every way it may be written: with country code, with the national prefix or without, with what was
//! dialled for an outside line, inside a channel's name or a file's. For finding a caller, never for naming one.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Numbering;

/// Fewer digits name no caller.
const DIGITS_MIN: usize = 3;
const DIGITS_MAX: usize = 20;
/// From so many digits on, a number is known with something in front of it.
const LONG: usize = 7;
/// From so many digits on, a number of an unknown country is known by its end.
const TELLING: usize = 9;
/// What gets an outside line has so many digits at most.
const DIALLED_FIRST: usize = 3;

/// Digits that stand together in a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run {
    /// A `+` stands before them.
    pub plus: bool,
    pub digits: String,
}

/// A number to look for.
#[derive(Clone, Debug)]
pub struct Spellings {
    numbering: Numbering,
    /// Digits of the whole number with its country code, where that is known.
    e164: Option<String>,
    /// Digits of each way to write it.
    forms: BTreeSet<String>,
}

impl Spellings {
    /// `Err`: it is no number; what to tell.
    pub fn of(number: &str, numbering: &Numbering) -> Result<Self, String> {
        let numbering = Numbering { off: false, ..numbering.clone() };
        let mut digits = String::new();
        for c in number.trim().chars() {
            match c {
                '0'..='9' => digits.push(c),
                '+' if digits.is_empty() => {}
                ' ' | '-' | '.' | '(' | ')' | '/' | '\u{a0}' => {}
                _ => return Err(format!("{number:?} is no number: {c:?} is not part of one")),
            }
        }
        if !(DIGITS_MIN..=DIGITS_MAX).contains(&digits.len()) {
            return Err(format!("{number:?} is no number: it has {} digits", digits.len()));
        }
        let e164 = numbering.plain(number).map(|n| n.trim_start_matches('+').to_owned());
        let mut forms = BTreeSet::from([digits]);
        if let Some(whole) = &e164 {
            let before = numbering.international.iter().map(String::as_str).chain(["00", ""]);
            forms.extend(before.map(|before| format!("{before}{whole}")));
            if let Some(plan) = &numbering.country
                && let Some(national) = whole.strip_prefix(plan.code.as_str())
            {
                forms.insert(national.to_owned());
                forms.insert(format!("{}{national}", plan.prefix));
            }
        }
        Ok(Self { numbering, e164, forms })
    }

    /// Digits of each way to write it.
    pub fn forms(&self) -> impl Iterator<Item = &str> {
        self.forms.iter().map(String::as_str)
    }

    /// As short as an extension: other things may be written the same.
    pub fn is_short(&self) -> bool {
        self.e164.is_none() && self.forms.iter().all(|f| f.len() < LONG)
    }

    fn is(&self, run: &Run) -> bool {
        let digits = run.digits.as_str();
        if let Some(whole) = &self.e164
            && (digits == whole || run.plus)
        {
            return digits == whole;
        }
        if self.forms.contains(digits) {
            return true;
        }
        match &self.e164 {
            Some(whole) => {
                let meant = self.numbering.dialled(digits);
                meant.as_deref().map(|m| m.trim_start_matches('+')) == Some(whole.as_str())
                    || meant.is_none() && self.is_behind(digits, DIALLED_FIRST)
            }
            // with a country code that is not known
            None => self.forms.iter().any(|f| f.len() >= TELLING && digits.ends_with(f.trim_start_matches('0'))),
        }
    }

    /// One of the long forms stands at the end, with up to so many digits before it.
    fn is_behind(&self, digits: &str, before_max: usize) -> bool {
        self.forms
            .iter()
            .any(|f| f.len() >= LONG && digits.len() <= f.len() + before_max && digits.ends_with(f.as_str()))
    }

    /// Whether it is written anywhere in a text.
    pub fn is_in(&self, text: &str) -> bool {
        text.bytes().any(|b| b.is_ascii_digit()) && runs(text).iter().any(|run| self.is(run))
    }

    /// Whether it is written in any text of a JSON value; names of fields and moments are left out.
    pub fn is_in_json(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.is_in(text),
            Value::Array(all) => all.iter().any(|v| self.is_in_json(v)),
            Value::Object(all) => all.values().any(|v| self.is_in_json(v)),
            _ => false,
        }
    }

    /// The text with every such number blacked out.
    pub fn without(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            let end = rest[at..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |n| at + n);
            let run = Run { plus: rest[..at].ends_with('+'), digits: rest[at..end].to_owned() };
            clean.push_str(&rest[..at]);
            clean.push_str(if self.is(&run) { "…" } else { &rest[at..end] });
            rest = &rest[end..];
        }
        clean.push_str(rest);
        // written in groups: nothing of it may stay
        if self.is_in(&clean) { "…".to_owned() } else { clean }
    }
}

/// Every number a text may hold: digits that stand together, and neighbours with nothing but the separators of written
/// numbers between them. The numbers of channels (`1795213604.12`) and moments (`2026-11-20T22:26:44Z`) are none.
pub fn runs(text: &str) -> Vec<Run> {
    if is_moment(text) {
        return Vec::new();
    }
    let bytes = text.as_bytes();
    // (start, end, plus)
    let mut plain: Vec<(usize, usize, bool)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        let is_id = (9..=10).contains(&(at - start))
            && bytes.get(at) == Some(&b'.')
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if is_id {
            at += 1;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
        } else {
            plain.push((start, at, start > 0 && bytes[start - 1] == b'+'));
        }
    }
    let mut runs: Vec<Run> =
        plain.iter().map(|&(start, end, plus)| Run { plus, digits: text[start..end].to_owned() }).collect();
    for (first, &(start, end, plus)) in plain.iter().enumerate() {
        let mut digits = text[start..end].to_owned();
        let mut last = end;
        for &(start, end, has_plus) in &plain[first + 1..] {
            let between = &text[last..start];
            let joins =
                between.len() <= 3 && !has_plus && between.chars().all(|c| matches!(c, ' ' | '-' | '(' | ')' | '/'));
            if !joins || digits.len() + (end - start) > DIGITS_MAX {
                break;
            }
            digits.push_str(&text[start..end]);
            last = end;
            if digits.len() >= LONG {
                runs.push(Run { plus, digits: digits.clone() });
            }
        }
    }
    runs
}

/// As documents and answers write them.
fn is_moment(text: &str) -> bool {
    text.len() <= 40 && text.as_bytes().get(10) == Some(&b'T') && crate::call::Timestamp::parse_rfc3339(text).is_some()
}

#[cfg(test)]
mod tests {
    use super::super::numbering::Plan;
    use super::*;

    fn prague() -> Numbering {
        let (plan, international) = Plan::built_in("420").expect("built in");
        Numbering { country: Some(plan), international: vec![international.to_owned()], ..Numbering::default() }
    }

    fn london() -> Numbering {
        let (plan, international) = Plan::built_in("44").expect("built in");
        Numbering { country: Some(plan), international: vec![international.to_owned()], ..Numbering::default() }
    }

    #[test]
    fn one_number_in_all_its_spellings() {
        let written = ["+420777000111", "00420777000111", "777000111", "420 777 000 111", "+420 (777) 000-111"];
        for number in written {
            let spellings = Spellings::of(number, &prague()).expect(number);
            for text in written {
                assert!(spellings.is_in(text), "{number} in {text}");
            }
            for text in [
                "\"Outside\" <+420777000111>",
                "PJSIP/trunk-00000001;sip:777000111@10.0.0.1",
                "PJSIP/9777000111@trunk,30",
                "in-224000101-+420777000111-20261120-224810-1795213604.12.wav",
                "0777000111",
            ] {
                assert!(spellings.is_in(text), "{number} in {text}");
            }
            for text in [
                "777000112",
                "+777000111",
                "+1777000111",
                "7770001115",
                "1777000111.12",
                "77700011",
                "2026-11-20T22:26:44.553666Z",
                "",
                "no number",
            ] {
                assert!(!spellings.is_in(text), "{number} in {text}");
            }
        }
        let national = Spellings::of("01795 213604", &london()).expect("a number");
        assert!(national.is_in("+441795213604") && national.is_in("1795213604") && national.is_in("901795213604"));
        assert!(!national.is_in("pbx:1795213604.12"), "an id is no number");
    }

    #[test]
    fn without_a_country_the_end_tells() {
        let spellings = Spellings::of("777000111", &Numbering::default()).expect("a number");
        assert!(spellings.is_in("+420777000111") && !spellings.is_in("777000112"));
        let extension = Spellings::of("1001", &Numbering::default()).expect("a number");
        assert!(extension.is_short() && extension.is_in("PJSIP/1001-0000002a") && !extension.is_in("21001"));
        for wrong in ["", "12", "%", "777%", "77700011a", "' OR 1=1", "123456789012345678901"] {
            assert!(Spellings::of(wrong, &prague()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_stays_is_blacked_out() {
        let spellings = Spellings::of("+420777000111", &prague()).expect("a number");
        assert_eq!(spellings.without("422: from +420777000111 is wrong, 42 times"), "422: from +… is wrong, 42 times");
        assert_eq!(spellings.without("from 777 000 111"), "…");
        assert_eq!(spellings.without("no 5 here"), "no 5 here");
    }
}
