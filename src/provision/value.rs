//! Values as Asterisk Realtime reads them.
//!
//! Realtime splits a column at every `;` into repeated options, trims each part, drops empty ones and decodes `^HH`. A
//! `;` or `^` inside a value therefore has to be written as `^3B` and `^5E` (upper case: the ODBC driver takes no
//! other), and so does white space at its ends.

use std::fmt;

/// One column's value, decoded: no part is NULL, one is the usual case, more are a repeated option.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value(Vec<String>);

/// Values can be secrets.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} parts)", self.0.len())
    }
}

impl Value {
    pub const NULL: Self = Self(Vec::new());

    pub fn one(text: impl Into<String>) -> Self {
        let text = text.into();
        if text.is_empty() { Self::NULL } else { Self(vec![text]) }
    }

    pub fn many(parts: impl IntoIterator<Item = String>) -> Self {
        Self(parts.into_iter().filter(|p| !p.is_empty()).collect())
    }

    pub const fn is_null(&self) -> bool {
        self.0.is_empty()
    }

    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// For people: parts joined with ` ; `.
    pub fn display(&self) -> String {
        self.0.join(" ; ")
    }

    /// As it is stored. Errors with the character that no column can carry.
    pub fn encode(&self) -> Result<String, char> {
        let mut text = String::new();
        for (i, part) in self.0.iter().enumerate() {
            if i > 0 {
                text.push(';');
            }
            encode_part(part, &mut text)?;
        }
        Ok(text)
    }

    /// What Asterisk makes of a stored text.
    pub fn decode(stored: &str) -> Self {
        Self(
            stored
                .split(';')
                .map(|p| p.trim_matches(|c: char| c <= ' '))
                .filter(|p| !p.is_empty())
                .map(decode_part)
                .collect(),
        )
    }
}

fn encode_part(part: &str, out: &mut String) -> Result<(), char> {
    let inner = part.trim_matches(is_blank);
    let start = part.len() - part.trim_start_matches(is_blank).len();
    let end = start + inner.len();
    for (i, c) in part.char_indices() {
        match c {
            ';' => out.push_str("^3B"),
            '^' => out.push_str("^5E"),
            // a part of blanks alone has no inside: all of it is ends
            ' ' | '\t' if i < start || i >= end => out.push_str(if c == ' ' { "^20" } else { "^09" }),
            '\t' => out.push('\t'),
            c if c.is_control() => return Err(c),
            c => out.push(c),
        }
    }
    Ok(())
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn decode_part(part: &str) -> String {
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = (bytes[i] == b'^').then(|| bytes.get(i + 1..i + 3)).flatten();
        // two digits and no sign
        let hex = hex.filter(|h| h.iter().all(u8::is_ascii_hexdigit));
        let byte = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match byte {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn encodes_what_realtime_would_take_apart() {
        for (plain, stored) in [
            ("a;b^41 ", "a^3Bb^5E41^20"),
            ("s3cr;et^41x", "s3cr^3Bet^5E41x"),
            ("  in side\t", "^20^20in side^09"),
            ("  ", "^20^20"),
            ("ŁÓ✓", "ŁÓ✓"),
            ("", ""),
        ] {
            assert_eq!(Value::one(plain).encode().unwrap(), stored);
            assert_eq!(Value::decode(stored), Value::one(plain));
        }
        for bad in ["a\nb", "a\rb", "a\0b", "\u{7f}"] {
            assert!(Value::one(bad).encode().is_err());
        }
        assert_eq!(Value::many(["A=1".to_owned(), "B=;".to_owned()]).encode().unwrap(), "A=1;B=^3B");
        assert_eq!(Value::decode(" a ;; b").parts(), ["a", "b"]);
        assert_eq!(Value::decode("100^zz^").parts(), ["100^zz^"]);
        assert_eq!(Value::decode("^+5^-1").parts(), ["^+5^-1"]);
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_read_back(parts in prop::collection::vec("[^\\x00-\\x08\\x0a-\\x1f\\x7f-\\u{9f}]{0,20}", 0..4)) {
            let value = Value::many(parts);
            prop_assert_eq!(Value::decode(&value.encode().unwrap()), value);
        }
    }
}
