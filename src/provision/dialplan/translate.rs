//! Sequences to patterns, in such an order of text lengths that the earlier alternative wins.

use thiserror::Error;

use super::pattern::Row;
use super::regex::{RegexError, Sequence, Set, sequences};

/// Longest exten a row holds.
const MAX_EXTEN: usize = 40;

/// What happens to numbers no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// Dialled as they are (`_X.` and `_+X.`).
    Pass,
    /// No row: Asterisk refuses them.
    Reject,
}

/// One rule of an ordered list: numbers that begin as `regex` says.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// Empty: every number, nothing stripped.
    pub regex: &'a str,
    /// Take the matched front off.
    pub strip: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TranslateError {
    #[error("rule {rule} cannot be translated: {error}", rule = .rule + 1)]
    Regex { rule: usize, error: RegexError },
    #[error("the pattern {pattern} is longer than the 40 characters of an exten; write the rule shorter")]
    TooLong { pattern: String },
}

/// One strip rule; an empty regex means that nothing is stripped.
pub fn translate(regex: &str, unmatched: Unmatched) -> Result<Vec<Row>, TranslateError> {
    if regex.is_empty() {
        return translate_rules(&[], Unmatched::Pass);
    }
    translate_rules(&[Rule { regex, strip: true }], unmatched)
}

/// Rows of an ordered list of rules: the first rule that matches a number has it.
pub fn translate_rules(rules: &[Rule<'_>], unmatched: Unmatched) -> Result<Vec<Row>, TranslateError> {
    let mut drafts: Vec<Draft> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let found = if rule.regex.is_empty() {
            vec![Vec::new(), vec![Set::PLUS]]
        } else {
            sequences(rule.regex).map_err(|error| TranslateError::Regex { rule: index, error })?
        };
        for set in found {
            let strip = if rule.strip && !rule.regex.is_empty() { set.len() } else { 0 };
            let draft = Draft { dashes: 0, strip, rule: Some(index), set };
            if !drafts.iter().any(|d| d.text() == draft.text()) {
                drafts.push(draft);
            }
        }
    }
    if unmatched == Unmatched::Pass {
        for set in [Vec::new(), vec![Set::PLUS]] {
            let draft = Draft { dashes: 0, strip: 0, rule: None, set };
            if !drafts.iter().any(|d| d.text() == draft.text()) {
                drafts.push(draft);
            }
        }
    }
    for i in (0..drafts.len()).rev() {
        let longest_later = drafts[i + 1..]
            .iter()
            .filter(|later| drafts[i].overlaps(later) && !drafts[i].same_effect(later))
            .map(|later| later.text().len())
            .max();
        if let Some(longest) = longest_later {
            let own = drafts[i].text().len();
            drafts[i].dashes = (longest + 1).saturating_sub(own);
        }
    }
    drafts
        .into_iter()
        .map(|d| {
            let exten = d.text();
            if exten.len() > MAX_EXTEN {
                return Err(TranslateError::TooLong { pattern: exten });
            }
            Ok(Row { exten, strip: d.strip, rule: d.rule })
        })
        .collect()
}

struct Draft {
    set: Sequence,
    /// Put before the tail: they match nothing and lengthen the text.
    dashes: usize,
    strip: usize,
    rule: Option<usize>,
}

impl Draft {
    /// `_+39X.`: at least two more characters, the first a digit.
    fn text(&self) -> String {
        let mut text = String::from("_");
        for set in &self.set {
            push_set(&mut text, *set);
        }
        text.extend(std::iter::repeat_n('-', self.dashes));
        text.push_str("X.");
        text
    }

    /// Some number matches both.
    fn overlaps(&self, other: &Self) -> bool {
        let at = |d: &Self, i: usize| match i.cmp(&d.set.len()) {
            std::cmp::Ordering::Less => d.set[i],
            std::cmp::Ordering::Equal => Set::DIGITS,
            std::cmp::Ordering::Greater => Set::ALL,
        };
        (0..=self.set.len().max(other.set.len())).all(|i| at(self, i).intersects(at(other, i)))
    }

    fn same_effect(&self, other: &Self) -> bool {
        self.strip == other.strip && self.rule == other.rule
    }
}

/// `X`, `Z`, `N`, a literal, or `[…]` in the order of ASCII with ranges of three and more.
fn push_set(text: &mut String, set: Set) {
    match set.0 {
        0x03ff => return text.push('X'),
        0x03fe => return text.push('Z'),
        0x03fc => return text.push('N'),
        _ => {}
    }
    let members: Vec<char> = "#*+0123456789".chars().filter(|&c| Set::of(c).is_some_and(|s| set.contains(s))).collect();
    if let [one] = members.as_slice() {
        return text.push(*one);
    }
    text.push('[');
    let mut i = 0;
    while i < members.len() {
        let run = (i + 1..members.len())
            .take_while(|&k| members[k].is_ascii_digit() && members[k] as usize - members[i] as usize == k - i)
            .count();
        if members[i].is_ascii_digit() && run >= 2 {
            text.extend([members[i], '-', members[i + run]]);
            i += run + 1;
        } else {
            text.push(members[i]);
            i += 1;
        }
    }
    text.push(']');
}

#[cfg(test)]
mod tests {
    use super::super::{lookup, strip};
    use super::*;

    fn rows(regex: &str) -> Vec<(String, usize)> {
        translate(regex, Unmatched::Pass).unwrap().into_iter().map(|r| (r.exten, r.strip)).collect()
    }

    #[test]
    fn conformance_table() {
        let pass = [("_X.", 0), ("_+X.", 0)];
        for (regex, want) in [
            ("", vec![]),
            (r"^\+39", vec![("_+39X.", 3)]),
            (r"^(\+39|0039)", vec![("_+39X.", 3), ("_0039X.", 4)]),
            (r"^(\+|00)39", vec![("_+39X.", 3), ("_0039X.", 4)]),
            (r"^\+39|^0039", vec![("_+39X.", 3), ("_0039X.", 4)]),
            ("^0[02-9]", vec![("_0[02-9]X.", 2)]),
            (r"^\+39(0|3)?", vec![("_+39[03]X.", 4), ("_+39X.", 3)]),
            (r"^(\+3|\+39)", vec![("_+3--X.", 2), ("_+39X.", 3)]),
            (r"^[+0]{1,2}39", vec![("_[+0][+0]39X.", 4), ("_[+0]39X.", 3)]),
            (r"^\+[1-9]\d?", vec![("_+ZXX.", 3), ("_+ZX.", 2)]),
            ("^[^9]", vec![("_[#*+0-8]X.", 1)]),
            (r"^(?:1[2-4]|19)", vec![("_1[2-49]X.", 2)]),
            (r"^\*31#", vec![("_*31#X.", 4)]),
        ] {
            let want: Vec<_> = want.into_iter().chain(pass).map(|(p, n)| (p.to_owned(), n)).collect();
            assert_eq!(rows(regex), want, "{regex}");
        }
        // the pass-through pattern exists already
        assert_eq!(rows(r"^\+"), [("_+X.".to_owned(), 1), ("_X.".to_owned(), 0)]);
        assert_eq!(
            translate(r"^\+39", Unmatched::Reject).unwrap(),
            [Row { exten: "_+39X.".to_owned(), strip: 3, rule: Some(0) }]
        );
    }

    #[test]
    fn refuses_with_construct_and_place() {
        for (regex, at, construct) in [
            (r"\+39", 1, r"\+39"),
            (r"^\+39$", 6, "$"),
            (r"^\+*", 4, "*"),
            ("^.+", 2, "."),
            (r"^(?=\+)", 2, r"(?=\"),
            ("^a", 2, "a"),
            ("^0{2,}", 3, "{2,}"),
            ("^0{17}", 3, "{17}"),
            ("^0{3,2}", 3, "{3,2}"),
            (r"^(0)\1", 5, r"\1"),
            ("^0+", 3, "+"),
            ("^0??", 3, "lazy quantifier"),
            ("^(0", 2, "("),
            ("^0)", 3, ")"),
            ("^[0", 2, "["),
            ("^[]0]", 2, "[]"),
            ("^[a]", 3, "a"),
            ("^[9-0]", 3, "9-0"),
            ("^0|1", 4, "1"),
            ("^0^1", 3, "^"),
            ("^?", 2, "?"),
            (r"^\D", 2, r"\D"),
            ("^0 1", 3, " "),
            ("^0\n", 3, "\\n"),
            ("^é", 2, "é"),
            ("^[^0-9+*#]", 2, "[^…]"),
        ] {
            let Err(TranslateError::Regex { error, .. }) = translate(regex, Unmatched::Pass) else {
                panic!("{regex} was taken");
            };
            assert_eq!((error.at, error.construct.as_str()), (at, construct), "{regex}");
        }
        for regex in
            [r"^\d{16}\d{16}\d{16}", r"^(0|11|222|3333){4}", &format!("^{}", "(".repeat(50)), &"^0".repeat(5000)]
        {
            assert!(translate(regex, Unmatched::Pass).is_err(), "{}", &regex[..20]);
        }
    }

    #[test]
    fn numbers_of_the_example() {
        let rows = translate(r"^\+39", Unmatched::Pass).unwrap();
        for (number, want) in [
            ("+390612345678", Some("0612345678")),
            ("+393331112222", Some("3331112222")),
            ("+44123", Some("+44123")),
            ("12", Some("12")),
            ("5", None),
            ("+3-90612", Some("0612")),
        ] {
            assert_eq!(lookup(&rows, number).map(|r| strip(number, r.strip)).as_deref(), want, "{number}");
        }
    }

    #[test]
    fn first_rule_of_a_list_wins() {
        let rules =
            [Rule { regex: "^0", strip: true }, Rule { regex: "^00", strip: false }, Rule { regex: "", strip: false }];
        let rows = translate_rules(&rules, Unmatched::Reject).unwrap();
        assert_eq!(lookup(&rows, "00123").unwrap().rule, Some(0));
        assert_eq!(lookup(&rows, "123").unwrap().rule, Some(2));
        assert_eq!(lookup(&rows, "+123").unwrap().rule, Some(2));
    }
}

#[cfg(test)]
mod properties {
    use proptest::prelude::*;

    use super::super::{ALPHABET, lookup, strip};
    use super::*;

    fn regexes() -> impl Strategy<Value = String> {
        let atom = prop_oneof![
            6 => prop::sample::select(vec!["0", "1", "3", "9", r"\+", r"\+", "0", r"\*", "#"]).prop_map(str::to_owned),
            1 => Just(r"\d".to_owned()),
            2 => prop::sample::select(vec!["[+0]", "[0-9]", "[1-9]", "[2-9]", "[^9]", "[^0-8]", r"[\d#]", "[13-5]", r"[\+*]"])
                .prop_map(str::to_owned),
        ];
        let inner = atom.prop_recursive(3, 12, 4, |inner| {
            let piece = (
                prop_oneof![
                    3 => inner.clone(),
                    2 => prop::collection::vec(inner.clone(), 1..3).prop_map(|v| format!("({})", v.join("|"))),
                    1 => prop::collection::vec(inner, 1..3).prop_map(|v| format!("(?:{}|)", v.join(""))),
                ],
                prop::sample::select(vec!["", "", "", "?", "{2}", "{1,2}", "{0,3}"]),
            );
            let piece = piece.prop_map(|(p, q)| if q.is_empty() { p } else { format!("(?:{p}){q}") });
            prop::collection::vec(piece, 1..4).prop_map(|v| v.concat())
        });
        prop::collection::vec(inner, 1..3).prop_map(|v| v.iter().map(|p| format!("^{p}")).collect::<Vec<_>>().join("|"))
    }

    fn numbers() -> impl Strategy<Value = Vec<String>> {
        let number = prop_oneof!["[+]?[0139]{1,9}", r"[+]{0,2}[0-9]{0,6}[*#]?[0-9]{1,5}", "[0-9+*#]{1,8}"];
        prop::collection::vec(number, 60)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
        #[test]
        fn rows_dial_what_the_regex_leaves(regex in regexes(), numbers in numbers(), reject in any::<bool>()) {
            let unmatched = if reject { Unmatched::Reject } else { Unmatched::Pass };
            let rows = match translate(&regex, unmatched) {
                Ok(rows) => rows,
                // only limits may refuse what the grammar allows
                Err(TranslateError::Regex { error, .. }) => {
                    prop_assert!(error.reason.starts_with("stands for"), "{regex}: {error}");
                    return Ok(());
                }
                Err(TranslateError::TooLong { .. }) => return Ok(()),
            };
            let engine = regex::Regex::new(&regex).unwrap();
            for number in &numbers {
                let hit = lookup(&rows, number);
                let dialable = |rest: &str| rest.len() >= 2 && rest.as_bytes()[0].is_ascii_digit();
                match engine.find(number) {
                    Some(front) => {
                        let rest = &number[front.end()..];
                        if dialable(rest) {
                            let row = hit.expect("a row");
                            prop_assert_eq!((strip(number, row.strip), row.rule), (rest.to_owned(), Some(0)), "{} {} {:?}", regex, number, rows);
                        }
                    }
                    None => {
                        let whole = dialable(number.strip_prefix('+').unwrap_or(number));
                        let want = (whole && !reject).then_some((0, None));
                        prop_assert_eq!(hit.map(|r| (r.strip, r.rule)), want, "{} {} {:?}", regex, number, rows);
                    }
                }
            }
        }

        #[test]
        fn nothing_makes_it_panic(regex in ".{0,60}", tail in "[\\^()\\[\\]{}|?0-9,+*\\\\#d-]{0,40}") {
            let _ = translate(&regex, Unmatched::Pass);
            if let Ok(rows) = translate(&format!("^{tail}"), Unmatched::Pass) {
                for row in rows {
                    prop_assert!(row.exten.len() <= MAX_EXTEN);
                    prop_assert!(row.exten.chars().all(|c| "_XZN.[]-".contains(c) || ALPHABET.contains(c)));
                }
                let known = regex::Regex::new(&format!("^{tail}")).is_ok();
                prop_assert!(known, "{}", tail);
            }
        }
    }
}
