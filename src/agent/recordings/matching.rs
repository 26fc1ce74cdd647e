//! Which of the calls of that time a file without id belongs to: only a single one that fits is taken. Pure.

use std::collections::BTreeSet;

use crate::call::{Call, Party};
use crate::source::recordings::{Hints, same_number};

/// A call cut down to what a file name can speak of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    pub linkedid: String,
    numbers: BTreeSet<String>,
    recordings: Vec<String>,
}

impl Candidate {
    pub fn of(call: Call) -> Self {
        let c = call.content;
        let parties = [Some(&c.from), Some(&c.to), c.answered_by.as_ref(), c.finally_with.as_ref()];
        let attempts = c.attempts.iter().map(|a| &a.party);
        let of_party = |p: &Party| [p.number.clone(), p.presented.clone()];
        let numbers = parties.into_iter().flatten().chain(attempts).flat_map(of_party).flatten();
        let legs = c.legs.iter().filter_map(|l| l.number.clone());
        Self {
            numbers: numbers
                .chain(legs)
                .chain(c.did.clone())
                .filter(|n| n.bytes().any(|b| b.is_ascii_digit()))
                .collect(),
            recordings: c.recordings.iter().map(|r| r.file.clone()).collect(),
            linkedid: c.linkedid,
        }
    }
}

/// The one call that names this file as its recording; else the one that has every number of its name. Where the name tells
/// no time, it has to have two numbers.
pub fn pick<'c>(
    file: &str,
    hints: &Hints,
    timed: bool,
    calls: &'c [Candidate],
) -> Option<(&'c Candidate, &'static str)> {
    let only = |fits: &dyn Fn(&Candidate) -> bool| {
        let mut fitting = calls.iter().filter(|c| fits(c));
        fitting.next().filter(|_| fitting.next().is_none())
    };
    if let Some(call) = only(&|c| c.recordings.iter().any(|r| r == file)) {
        return Some((call, "record"));
    }
    let distinct: BTreeSet<&String> = hints.numbers.iter().collect();
    if distinct.len() < if timed { 1 } else { 2 } {
        return None;
    }
    let all = |c: &Candidate| distinct.iter().all(|n| c.numbers.iter().any(|own| same_number(own, n)));
    only(&all).map(|call| (call, "number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::recordings::hints;

    fn call(linkedid: &str, numbers: &[&str], recordings: &[&str]) -> Candidate {
        Candidate {
            linkedid: linkedid.to_owned(),
            numbers: numbers.iter().map(|&n| n.to_owned()).collect(),
            recordings: recordings.iter().map(|&n| n.to_owned()).collect(),
        }
    }

    #[test]
    fn only_one_call_that_fits_is_taken() {
        let calls = [
            call("1", &["1001", "+420555123456"], &[]),
            call("2", &["1001", "1002"], &["special.wav"]),
            call("3", &["1003", "1004"], &[]),
        ];
        let picked = |file: &str| {
            let hints = hints(file);
            pick(file, &hints, hints.began.is_some(), &calls).map(|(c, how)| (c.linkedid.clone(), how))
        };
        let is = |linkedid: &str, how| Some((linkedid.to_owned(), how));
        assert_eq!(picked("special.wav"), is("2", "record"));
        assert_eq!(picked("20261120-224810-1001-555123456.wav"), is("1", "number"));
        assert_eq!(picked("ext-1002-ext-1001.wav"), is("2", "number"));
        assert_eq!(picked("20261120-224810-1003.wav"), is("3", "number"));
        for none in ["20261120-224810-1001.wav", "ext-1001.wav", "ext-1003.wav", "20261120-224810.wav", "1001-1004.wav"]
        {
            assert_eq!(picked(none), None, "{none}");
        }
    }
}
