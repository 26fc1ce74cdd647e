//! Reads the flat JSON object of CEL's `extra` without building it, and what is left of it where a narrow column cut it
//! off. A value that is not complete is not returned.

use std::borrow::Cow;

use memchr::memchr2;

/// The values of one `extra`, in order.
pub struct Pairs<'a> {
    rest: &'a str,
}

/// A top-level member: its key as written and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    pub key: &'a str,
    value: &'a str,
    escaped: bool,
}

impl<'a> Pair<'a> {
    /// The value as text; escapes are resolved.
    pub fn text(&self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.value)) } else { Cow::Borrowed(self.value) }
    }
}

pub fn pairs(extra: &str) -> Pairs<'_> {
    let trimmed = extra.trim_start();
    Pairs { rest: trimmed.strip_prefix('{').unwrap_or("") }
}

/// The value of one key; `None` also for the values that stand for "nobody" (empty, `N/A`).
pub fn get<'a>(extra: &'a str, key: &str) -> Option<Cow<'a, str>> {
    let [value] = get_all(extra, [key]);
    value
}

/// The values of several keys, each as [`get`] gives it, in one reading.
pub fn get_all<'a, const N: usize>(extra: &'a str, keys: [&str; N]) -> [Option<Cow<'a, str>>; N] {
    let mut values = [const { None }; N];
    // most rows have no extra, and most keys are looked for in vain
    let shortest = keys.iter().map(|key| key.len()).min().unwrap_or(0);
    if extra.len() < shortest + 5 {
        return values;
    }
    let mut met = [false; N];
    for pair in pairs(extra) {
        // of a key that is given twice the first one counts
        if let Some(at) = keys.iter().position(|key| *key == pair.key).filter(|&at| !met[at]) {
            met[at] = true;
            values[at] = Some(pair.text()).filter(|v| !v.is_empty() && v != "N/A" && v != "null");
            if met == [true; N] {
                break;
            }
        }
    }
    values
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        let text = std::mem::take(&mut self.rest);
        let bytes = text.as_bytes();
        let is = |at: usize, wanted: u8| (bytes.get(at) == Some(&wanted)).then_some(at + 1);
        let past =
            |from: usize, skipped: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|b| skipped(b)).count();
        let key_at = is(past(0, |b| b.is_ascii_whitespace() || *b == b','), b'"')?;
        let (key_end, _) = string_end(bytes, key_at)?;
        let key = &text[key_at..key_end];
        let colon = is(past(key_end + 1, u8::is_ascii_whitespace), b':')?;
        let value_at = past(colon, u8::is_ascii_whitespace);
        if let Some(from) = is(value_at, b'"') {
            let (end, escaped) = string_end(bytes, from)?;
            self.rest = &text[end + 1..];
            return Some(Pair { key, value: &text[from..end], escaped });
        }
        let end = value_at + bare_end(&bytes[value_at..])?;
        self.rest = &text[end..];
        Some(Pair { key, value: text[value_at..end].trim_end(), escaped: false })
    }
}

/// Place of the quote that closes the string which begins at `from`, and whether the string has escapes; `None` when it
/// was cut off.
fn string_end(bytes: &[u8], mut from: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        let at = from + memchr2(b'"', b'\\', bytes.get(from..)?)?;
        if bytes[at] == b'"' {
            return Some((at, escaped));
        }
        escaped = true;
        from = at + 2;
    }
}

/// End of a number, literal, object or array. A number that runs to the end of the text was cut off.
fn bare_end(bytes: &[u8]) -> Option<usize> {
    let (mut depth, mut i) = (0usize, 0);
    while i < bytes.len() {
        match bytes[i] {
            b'"' => i = string_end(bytes, i + 1)?.0,
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            b',' | b'}' | b']' if depth == 0 => return Some(i),
            _ => {}
        }
        i += 1;
    }
    None
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let unit = hex4(&mut chars);
                let code = match unit {
                    0xd800..=0xdbff => {
                        let mut ahead = chars.clone();
                        let low =
                            if ahead.next() == Some('\\') && ahead.next() == Some('u') { hex4(&mut ahead) } else { 0 };
                        if (0xdc00..=0xdfff).contains(&low) {
                            chars = ahead;
                            0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)
                        } else {
                            unit
                        }
                    }
                    _ => unit,
                };
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

fn hex4(chars: &mut std::str::Chars<'_>) -> u32 {
    let mut value = 0;
    for _ in 0..4 {
        let Some(digit) = chars.clone().next().and_then(|c| c.to_digit(16)) else { break };
        chars.next();
        value = value * 16 + digit;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    const PICKUP: &str = r#"{"pickup_channel":"PJSIP/1003-000000e8","pickup_channel_uniqueid":"1795215392.474"}"#;

    #[test]
    fn values_are_found_by_key() {
        assert_eq!(get(PICKUP, "pickup_channel_uniqueid").as_deref(), Some("1795215392.474"));
        assert_eq!(get(PICKUP, "pickup").as_deref(), None);
        assert_eq!(get(r#"{"hangupcause":16,"dialstatus":""}"#, "hangupcause").as_deref(), Some("16"));
        assert_eq!(get(r#"{"hangupcause":16,"dialstatus":""}"#, "dialstatus").as_deref(), None);
        assert_eq!(get(r#"{"a":{"b":"x,}"},"c":"N/A","d":"y"}"#, "d").as_deref(), Some("y"));
        assert_eq!(get(r#"{"a":{"b":"x,}"},"c":"N/A","d":"y"}"#, "c").as_deref(), None);
        assert_eq!(get(r#"{"n":"Zo\u00eb \ud83d\udcde \"x\""}"#, "n").as_deref(), Some("Zoë \u{1f4de} \"x\""));
    }

    #[test]
    fn what_was_cut_off_is_not_guessed() {
        for cut in 0..PICKUP.len() {
            let value = get(&PICKUP[..cut], "pickup_channel_uniqueid");
            assert!(value.is_none() || value.as_deref() == Some("1795215392.474"));
            let name = get(&PICKUP[..cut], "pickup_channel");
            assert!(name.is_none() || name.as_deref() == Some("PJSIP/1003-000000e8"));
        }
        assert_eq!(get(r#"{"hangupcause":1"#, "hangupcause").as_deref(), None);
    }

    #[test]
    fn rubbish_ends() {
        for text in ["{", "{{{{", "{\"", "{\"a\\", "[1,2]", "}{", "{\"a\":\"\\u12", "{,,,,", "{\"a\":[[[", "nonsense é"]
        {
            assert!(pairs(text).count() < 3, "{text}");
            let _ = get(text, "a");
        }
    }
}
