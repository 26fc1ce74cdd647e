//! Dialplan rows back to rules: patterns to regular expressions, applications to destinations.

use std::collections::BTreeMap;

use crate::provision::dialplan::{Rule, Unmatched, translate, translate_rules};

/// What a row with a pattern does with a number, but for what it strips.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dial {
    pub add_prefix: String,
    pub trunk: String,
    pub timeout: u32,
    pub from_number: Option<String>,
}

/// One exten with a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRow {
    pub exten: String,
    pub strip: usize,
    pub dial: Dial,
}

/// `PJSIP/+39${FILTER(0-9+*#,${EXTEN}):1}@trunk,60`: prefix, stripped, trunk, seconds. Nothing else is taken.
pub fn dial(data: &str) -> Option<(String, usize, String, u32)> {
    let (add, rest) = data.strip_prefix("PJSIP/")?.split_once("${FILTER(0-9+*#,${EXTEN})")?;
    let (strip, rest) = rest.split_once("}@")?;
    let strip = if strip.is_empty() { 0 } else { strip.strip_prefix(':')?.parse().ok()? };
    let (trunk, timeout) = rest.rsplit_once(',')?;
    Some((add.to_owned(), strip, trunk.to_owned(), timeout.parse().ok()?))
}

/// The places of `_+39[03]--X.` before its tail, as regular expressions. `None`: has another tail, or something odd.
pub fn places(exten: &str) -> Option<Vec<String>> {
    let front = exten.strip_prefix('_')?.strip_suffix("X.")?;
    let mut places = Vec::new();
    let mut rest = front.chars();
    while let Some(c) = rest.next() {
        places.push(match c {
            '-' => continue,
            'X' | 'x' => "\\d".to_owned(),
            'Z' | 'z' => "[1-9]".to_owned(),
            'N' | 'n' => "[2-9]".to_owned(),
            '[' => {
                let set: String = rest.by_ref().take_while(|c| *c != ']').collect();
                format!("[{}]", set.replace('+', "\\+").replace('*', "\\*"))
            }
            '+' | '*' => format!("\\{c}"),
            '0'..='9' | '#' => c.to_string(),
            _ => return None,
        });
    }
    Some(places)
}

fn anchored(row: &PatternRow) -> Option<String> {
    Some(format!("^{}", places(&row.exten)?.concat()))
}

/// In the order Asterisk tries them, which is the order of the rules they came from.
fn ordered(rows: &[PatternRow]) -> Vec<&PatternRow> {
    let mut rows: Vec<&PatternRow> = rows.iter().collect();
    rows.sort_by(|a, b| b.exten.len().cmp(&a.exten.len()).then_with(|| a.exten.cmp(&b.exten)));
    rows
}

/// The strip rule of a trunk's rows, and what happens to the others; `None` when no rule makes these rows.
pub fn strip_rule(rows: &[PatternRow]) -> Option<(String, Unmatched)> {
    let want: BTreeMap<&str, usize> = rows.iter().map(|r| (r.exten.as_str(), r.strip)).collect();
    let makes = |regex: &str, unmatched| {
        translate(regex, unmatched)
            .is_ok_and(|made| want == made.iter().map(|r| (r.exten.as_str(), r.strip)).collect::<BTreeMap<_, _>>())
    };
    if makes("", Unmatched::Pass) {
        return Some((String::new(), Unmatched::Pass));
    }
    let ordered = ordered(rows);
    // rows of the rule, and those that pass numbers on as they are where that is not the rule's own doing
    for ruled in [
        ordered.iter().filter(|r| r.strip > 0).copied().collect::<Vec<_>>(),
        ordered.clone(),
        ordered.iter().filter(|r| r.exten != "_X.").copied().collect(),
    ] {
        let Some(alternatives) = ruled.iter().map(|r| anchored(r)).collect::<Option<Vec<_>>>() else { continue };
        let regex = alternatives.join("|");
        for unmatched in [Unmatched::Pass, Unmatched::Reject] {
            if !regex.is_empty() && makes(&regex, unmatched) {
                return Some((regex, unmatched));
            }
        }
    }
    None
}

/// A route of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    pub prefix: String,
    pub strip: bool,
    pub dial: Dial,
}

/// Routes in order that make these rows of one context, and the rows that none makes.
pub fn routes(rows: &[PatternRow]) -> (Vec<FoundRoute>, Vec<String>) {
    let (fine, odd): (Vec<PatternRow>, Vec<PatternRow>) =
        rows.iter().cloned().partition(|r| places(&r.exten).is_some_and(|p| r.strip == 0 || r.strip == p.len()));
    let odd = odd.into_iter().map(|r| r.exten).collect();
    let ordered = ordered(&fine);
    let mut first = None;
    for groups in [grouped(&ordered, false), grouped(&ordered, true), ordered.iter().map(|r| vec![*r]).collect()] {
        let found: Vec<FoundRoute> = groups.iter().filter_map(|g| route(g)).collect();
        if makes(&found, &fine) {
            return (found, odd);
        }
        first.get_or_insert(found);
    }
    (first.unwrap_or_default(), odd)
}

/// Whether two rows can be of one route. A row without places strips nothing either way.
fn same(a: &PatternRow, b: &PatternRow) -> bool {
    let stripping = |r: &PatternRow| (r.exten != "_X.").then_some(r.strip > 0);
    let agree = match (stripping(a), stripping(b)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    agree && a.dial == b.dial
}

/// Rows that can be of one route, together: those that stand beside each other, or wherever they stand.
fn grouped<'a>(rows: &[&'a PatternRow], anywhere: bool) -> Vec<Vec<&'a PatternRow>> {
    let mut groups: Vec<Vec<&PatternRow>> = Vec::new();
    for row in rows {
        let last = groups.len().saturating_sub(1);
        let open = if anywhere { 0 } else { last };
        match groups.iter_mut().skip(open).find(|g| g.iter().all(|r| same(r, row))) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

fn route(group: &[&PatternRow]) -> Option<FoundRoute> {
    let dial = group.first()?.dial.clone();
    let strip = group.iter().any(|r| r.strip > 0);
    let mut extens: Vec<&str> = group.iter().map(|r| r.exten.as_str()).collect();
    extens.sort_unstable();
    let prefix = if !strip && extens == ["_+X.", "_X."] {
        String::new()
    } else {
        group.iter().map(|r| anchored(r)).collect::<Option<Vec<_>>>()?.join("|")
    };
    Some(FoundRoute { prefix, strip, dial })
}

fn makes(found: &[FoundRoute], rows: &[PatternRow]) -> bool {
    let rules: Vec<Rule<'_>> = found.iter().map(|r| Rule { regex: &r.prefix, strip: r.strip }).collect();
    let Ok(made) = translate_rules(&rules, Unmatched::Reject) else { return false };
    let want: BTreeMap<&str, (usize, &Dial)> = rows.iter().map(|r| (r.exten.as_str(), (r.strip, &r.dial))).collect();
    let have: BTreeMap<&str, (usize, &Dial)> =
        made.iter().filter_map(|r| Some((r.exten.as_str(), (r.strip, &found.get(r.rule?)?.dial)))).collect();
    want == have
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(exten: &str, strip: usize, trunk: &str) -> PatternRow {
        let dial = Dial { add_prefix: String::new(), trunk: trunk.to_owned(), timeout: 60, from_number: None };
        PatternRow { exten: exten.to_owned(), strip, dial }
    }

    #[test]
    fn dial_strings_as_they_are_written() {
        let data = crate::provision::build::dial_data("+39", 3, "cf_a_1", 45);
        assert_eq!(dial(&data).unwrap(), ("+39".to_owned(), 3, "cf_a_1".to_owned(), 45));
        let data = crate::provision::build::dial_data("", 0, "cf_a_1", 60);
        assert_eq!(dial(&data).unwrap(), (String::new(), 0, "cf_a_1".to_owned(), 60));
        for other in ["PJSIP/${EXTEN:3}@x,60", "PJSIP/100,30", "SIP/x", "PJSIP/${FILTER(0-9+*#,${EXTEN}):x}@a,1"] {
            assert_eq!(dial(other), None, "{other}");
        }
    }

    /// Whatever rule made the rows of a trunk, one is found that makes the same.
    #[test]
    fn strip_rules_come_back() {
        for regex in [
            "",
            "^",
            r"^\+39",
            r"^\+",
            r"^(\+39|0039)",
            "^0[02-9]",
            r"^\+39(0|3)?",
            r"^(\+3|\+39)",
            r"^[+0]{1,2}39",
            r"^\+[1-9]\d?",
            "^[^9]",
            r"^(?:1[2-4]|19)",
            r"^\*31#",
            "^0|^00|^000",
            "^([+0]0|0[+0])",
        ] {
            for unmatched in [Unmatched::Pass, Unmatched::Reject] {
                let rows = translate(regex, unmatched).unwrap();
                let rows: Vec<_> = rows.iter().map(|r| row(&r.exten, r.strip, "t")).collect();
                let (found, rest) = strip_rule(&rows).unwrap_or_else(|| panic!("{regex}: {rows:?}"));
                let again = translate(&found, rest).unwrap();
                let again: Vec<_> = again.iter().map(|r| row(&r.exten, r.strip, "t")).collect();
                assert_eq!(ordered(&again), ordered(&rows), "{regex} became {found}");
            }
        }
        assert_eq!(strip_rule(&[row("_1XX", 0, "t")]), None);
    }

    #[test]
    fn routes_come_back_in_order() {
        for rules in [
            &[("^0", true, "a"), ("^00", false, "b"), ("", false, "c")][..],
            &[("", false, "a")],
            &[("^([+0]0|0[+0])", true, "a"), (r"^\+", false, "b")],
            &[(r"^\+39(0|3)?", true, "a"), ("^0", false, "a"), ("", false, "b")],
            &[("^0", false, "a"), ("^00", false, "b"), ("^000", false, "a")],
            &[("^1", true, "a"), ("^2", true, "a"), ("^3", false, "a")],
        ] {
            let list: Vec<_> = rules.iter().map(|(regex, strip, _)| Rule { regex, strip: *strip }).collect();
            let made = translate_rules(&list, Unmatched::Reject).unwrap();
            let rows: Vec<_> = made.iter().map(|r| row(&r.exten, r.strip, rules[r.rule.unwrap()].2)).collect();
            let (found, odd) = routes(&rows);
            assert!(odd.is_empty() && makes(&found, &rows), "{rules:?}: {rows:?} {found:?}");
        }
        assert_eq!(routes(&[row("_1XX", 0, "t"), row("_00X.", 1, "t")]).1.len(), 2);
    }
}
