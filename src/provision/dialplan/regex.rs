//! The grammar of strip rules, and their expansion to sequences of character sets in backtracking order.
//!
//! Allowed: a leading `^`, the literals `0-9 + * #` (the specials escaped), `\d`, `[…]` with ranges and complement,
//! groups, `|`, `?`, `{n}` and `{n,m}`. Everything else is refused with the construct and its place.

use thiserror::Error;

/// Longest regular expression taken, characters.
pub const MAX_REGEX_LEN: usize = 256;
/// Most sequences one expression may stand for.
const MAX_SEQUENCES: usize = 64;
/// Longest sequence: an exten holds 40 characters, `_` and the tail take three.
const MAX_SEQUENCE_LEN: usize = 37;
const MAX_REPEAT: u32 = 16;
const MAX_DEPTH: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("character {at}: {construct}: {reason}")]
pub struct RegexError {
    /// 1-based character of the expression.
    pub at: usize,
    /// As written.
    pub construct: String,
    pub reason: &'static str,
}

/// Characters of [`super::ALPHABET`] as bits: digits 0–9, then `+ * #`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Set(pub u16);

impl Set {
    pub const DIGITS: Self = Self(0x03ff);
    pub const ALL: Self = Self(0x1fff);
    pub const PLUS: Self = Self(1 << 10);

    pub fn of(c: char) -> Option<Self> {
        Some(Self(match c {
            '0'..='9' => 1 << (c as u32 - '0' as u32),
            '+' => return Some(Self::PLUS),
            '*' => 1 << 11,
            '#' => 1 << 12,
            _ => return None,
        }))
    }

    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One set a dialled character.
pub(super) type Sequence = Vec<Set>;

enum Node {
    Set(Set),
    Concat(Vec<Node>),
    Alternatives(Vec<Node>),
    /// Greedy, as every quantifier of the grammar.
    Repeat(Box<Node>, u32, u32),
}

/// Sequences the expression stands for, in the order a backtracking matcher tries them.
pub(super) fn sequences(regex: &str) -> Result<Vec<Sequence>, RegexError> {
    let chars: Vec<char> = regex.chars().collect();
    if chars.len() > MAX_REGEX_LEN {
        return Err(RegexError {
            at: MAX_REGEX_LEN + 1,
            construct: "expression".to_owned(),
            reason: "longer than 256 characters",
        });
    }
    let mut parser = Parser { chars, at: 0, depth: 0 };
    let node = parser.top()?;
    expand(&node).map_err(|reason| RegexError { at: 1, construct: shorten(regex), reason })
}

fn shorten(regex: &str) -> String {
    if regex.chars().count() <= 40 { regex.to_owned() } else { regex.chars().take(39).chain(['…']).collect() }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn error<T>(&self, at: usize, construct: impl Into<String>, reason: &'static str) -> Result<T, RegexError> {
        // no control character reaches a terminal; a backslash stays one
        let escaped = |c: char| if c == '\\' || c == '"' { c.to_string() } else { c.escape_debug().to_string() };
        let construct = construct.into().chars().map(escaped).collect();
        Err(RegexError { at: at + 1, construct, reason })
    }

    /// Alternatives of the whole expression: every one is anchored, or the expression matches in mid-number.
    fn top(&mut self) -> Result<Node, RegexError> {
        let mut branches = Vec::new();
        loop {
            if self.peek() != Some('^') {
                let construct: String = self.chars[self.at..].iter().take(12).collect();
                return self.error(
                    self.at,
                    construct,
                    "has to begin with ^: only the front of a number can be stripped",
                );
            }
            self.at += 1;
            branches.push(self.concat()?);
            match self.peek() {
                None => return Ok(Node::Alternatives(branches)),
                Some('|') => self.at += 1,
                Some(c) => return self.error(self.at, c, "closes a group that was never opened"),
            }
        }
    }

    fn alternatives(&mut self) -> Result<Node, RegexError> {
        let mut branches = vec![self.concat()?];
        while self.peek() == Some('|') {
            self.at += 1;
            branches.push(self.concat()?);
        }
        Ok(Node::Alternatives(branches))
    }

    fn concat(&mut self) -> Result<Node, RegexError> {
        let mut parts = Vec::new();
        while let Some(c) = self.peek() {
            if c == '|' || c == ')' {
                break;
            }
            let atom = self.atom(c)?;
            parts.push(self.quantified(atom)?);
        }
        Ok(Node::Concat(parts))
    }

    fn atom(&mut self, c: char) -> Result<Node, RegexError> {
        let start = self.at;
        self.at += 1;
        if let ('0'..='9' | '#', Some(set)) = (c, Set::of(c)) {
            return Ok(Node::Set(set));
        }
        match c {
            '\\' => Ok(Node::Set(self.escape(start)?)),
            '[' => Ok(Node::Set(self.set(start)?)),
            '(' => self.group(start),
            '$' => self.error(start, "$", "the end of a number cannot be tied down: the rest is what is dialled"),
            '.' => self.error(start, ".", "any character: write the set of characters meant, such as \\d"),
            '*' => self.error(start, "*", "repetition without limit; for the key write \\*"),
            '+' => self.error(start, "+", "repetition without limit; for a plus sign write \\+"),
            '^' => self.error(start, "^", "only at the front of an alternative of the whole expression"),
            '?' | '{' => self.error(start, c, "repeats nothing"),
            c if c.is_alphabetic() => {
                self.error(start, c, "letters are not dialled; allowed are digits, \\+, \\* and #")
            }
            c => self.error(start, c, "is not dialled; allowed are digits, \\+, \\* and #"),
        }
    }

    fn escape(&mut self, start: usize) -> Result<Set, RegexError> {
        let Some(c) = self.peek() else {
            return self.error(start, "\\", "escapes nothing");
        };
        self.at += 1;
        match (c, Set::of(c)) {
            ('d', _) => Ok(Set::DIGITS),
            ('+' | '*' | '#', Some(set)) => Ok(set),
            ('0'..='9', _) => self.error(start, format!("\\{c}"), "references to groups cannot be translated"),
            (c, _) => self.error(start, format!("\\{c}"), "this escape cannot be translated"),
        }
    }

    fn set(&mut self, start: usize) -> Result<Set, RegexError> {
        let negated = self.peek() == Some('^');
        if negated {
            self.at += 1;
        }
        let mut set = Set(0);
        loop {
            let at = self.at;
            let Some(c) = self.peek() else {
                return self.error(start, "[", "is not closed");
            };
            self.at += 1;
            match c {
                ']' if set.0 != 0 => break,
                ']' => return self.error(start, "[]", "an empty set matches nothing"),
                '\\' => set = set.union(self.escape(at)?),
                '0'..='9' if self.peek() == Some('-') => {
                    self.at += 1;
                    match self.peek() {
                        Some(end @ '0'..='9') if end >= c => {
                            self.at += 1;
                            set = (c..=end).filter_map(Set::of).fold(set, Set::union);
                        }
                        Some(end) => {
                            return self.error(at, format!("{c}-{end}"), "ranges go up, digit to digit");
                        }
                        None => return self.error(start, "[", "is not closed"),
                    }
                }
                c => match Set::of(c) {
                    Some(one) => set = set.union(one),
                    None => {
                        return self.error(at, c, "is not dialled; a set holds digits, + * #");
                    }
                },
            }
        }
        if negated {
            set = Set(Set::ALL.0 & !set.0);
            if set.0 == 0 {
                return self.error(start, "[^…]", "leaves no character");
            }
        }
        Ok(set)
    }

    fn group(&mut self, start: usize) -> Result<Node, RegexError> {
        if self.peek() == Some('?') {
            if self.chars.get(self.at + 1) == Some(&':') {
                self.at += 2;
            } else {
                let construct: String = self.chars[start..].iter().take(4).collect();
                return self.error(start, construct, "look-around, flags and named groups cannot be translated");
            }
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.error(start, "(", "groups are nested more than 16 deep");
        }
        let inner = self.alternatives()?;
        self.depth -= 1;
        if self.peek() != Some(')') {
            return self.error(start, "(", "is not closed");
        }
        self.at += 1;
        Ok(inner)
    }

    fn quantified(&mut self, atom: Node) -> Result<Node, RegexError> {
        let start = self.at;
        let node = match self.peek() {
            Some('?') => {
                self.at += 1;
                Node::Repeat(Box::new(atom), 0, 1)
            }
            Some('{') => {
                self.at += 1;
                let (min, max) = self.counts(start)?;
                Node::Repeat(Box::new(atom), min, max)
            }
            Some(c @ ('*' | '+')) => return self.error(start, c, "repetition without limit; write {n,m}"),
            _ => return Ok(atom),
        };
        match self.peek() {
            Some('?') => self.error(start, "lazy quantifier", "cannot be translated"),
            Some(c @ ('+' | '*' | '{')) => self.error(self.at, c, "a quantifier after a quantifier"),
            _ => Ok(node),
        }
    }

    fn counts(&mut self, start: usize) -> Result<(u32, u32), RegexError> {
        let close = self.chars[start..].iter().position(|&c| c == '}').map(|n| start + n);
        let Some(close) = close else {
            return self.error(start, "{", "is not closed");
        };
        let text: String = self.chars[self.at..close].iter().collect();
        self.at = close + 1;
        let construct: String = format!("{{{text}}}").chars().take(12).collect();
        let number = |s: &str| {
            let digits = !s.is_empty() && s.len() <= 4 && s.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| s.parse::<u32>().ok()).flatten()
        };
        let counts = match text.split_once(',') {
            None => number(&text).map(|n| (n, n)),
            Some((_, "")) => return self.error(start, construct, "repetition without limit; write {n,m}"),
            Some((min, max)) => number(min).zip(number(max)),
        };
        match counts {
            Some((min, max)) if min <= max && max <= MAX_REPEAT => Ok((min, max)),
            Some((min, max)) if min <= max => self.error(start, construct, "more than 16 repetitions"),
            _ => self.error(start, construct, "counts are written {n} or {n,m} with n at most m"),
        }
    }
}

fn expand(node: &Node) -> Result<Vec<Sequence>, &'static str> {
    match node {
        Node::Set(set) => Ok(vec![vec![*set]]),
        Node::Alternatives(branches) => {
            let mut all = Vec::new();
            for branch in branches {
                all.extend(expand(branch)?);
            }
            tidy(all)
        }
        Node::Concat(parts) => {
            let mut all = vec![Vec::new()];
            for part in parts {
                all = product(&all, &expand(part)?)?;
            }
            Ok(all)
        }
        Node::Repeat(inner, min, max) => {
            let one = expand(inner)?;
            // x{2,4} is xx(x(x)?)?: longer first
            let mut optional = vec![Vec::new()];
            for _ in *min..*max {
                let mut longer = product(&one, &optional)?;
                longer.push(Vec::new());
                optional = tidy(longer)?;
            }
            let mut all = vec![Vec::new()];
            for _ in 0..*min {
                all = product(&all, &one)?;
            }
            product(&all, &optional)
        }
    }
}

fn product(left: &[Sequence], right: &[Sequence]) -> Result<Vec<Sequence>, &'static str> {
    let mut all = Vec::with_capacity(left.len() * right.len());
    for a in left {
        for b in right {
            if a.len() + b.len() > MAX_SEQUENCE_LEN {
                return Err("stands for a prefix longer than the 40 characters of an exten hold");
            }
            all.push([a.as_slice(), b.as_slice()].concat());
        }
    }
    tidy(all)
}

/// Drops sequences that an earlier one of the same length covers, joins neighbours that differ in one place.
fn tidy(all: Vec<Sequence>) -> Result<Vec<Sequence>, &'static str> {
    let mut kept: Vec<Sequence> = Vec::new();
    for next in all {
        if kept.iter().any(|k| k.len() == next.len() && k.iter().zip(&next).all(|(a, b)| a.contains(*b))) {
            continue;
        }
        kept.push(next);
        while let [.., a, b] = kept.as_slice() {
            let Some(joined) = join(a, b) else { break };
            kept.truncate(kept.len() - 2);
            kept.push(joined);
        }
        if kept.len() > MAX_SEQUENCES {
            return Err("stands for more than 64 prefixes");
        }
    }
    Ok(kept)
}

fn join(a: &[Set], b: &[Set]) -> Option<Sequence> {
    if a.len() != b.len() {
        return None;
    }
    let mut places = (0..a.len()).filter(|&i| a[i] != b[i]);
    let (place, None) = (places.next()?, places.next()) else { return None };
    let mut joined = a.to_vec();
    joined[place] = a[place].union(b[place]);
    Some(joined)
}
