//! Goes through the strings of a JSON text and copies everything else as it stands: the order of fields and the spelling
//! of figures stay those of the document.

use std::borrow::Cow;

/// `change` gets each string value and the name of the field it stands in (of the list it stands in), and says what
/// takes its place. `None`: the text is not JSON.
pub fn rewrite(text: &str, mut change: impl FnMut(&str, &str) -> Option<String>) -> Option<String> {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    // the field we are in, for each object around us
    let mut fields: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['"', '{', '}']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        match rest.as_bytes()[0] {
            b'{' => fields.push(String::new()),
            b'}' => {
                fields.pop()?;
            }
            _ => {
                let (raw, after) = rest.split_at(end(rest)?);
                let value: Cow<'_, str> = serde_json::from_str(raw).ok()?;
                if after.trim_start().starts_with(':') {
                    *fields.last_mut()? = value.into_owned();
                    out.push_str(raw);
                } else {
                    match change(fields.last().map_or("", String::as_str), &value) {
                        Some(new) => out.push_str(&serde_json::to_string(&new).ok()?),
                        None => out.push_str(raw),
                    }
                }
                rest = after;
                continue;
            }
        }
        out.push_str(&rest[..1]);
        rest = &rest[1..];
    }
    out.push_str(rest);
    fields.is_empty().then_some(out)
}

/// Where a string literal ends, its quotation marks included.
fn end(literal: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in literal.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_change_and_the_rest_stays() {
        let text = r#"{ "b":[ "x\"1" ,2.50,{"c":"x","d":null}],"a":"\u0078{","e":{},"x":true}"#;
        let mut seen = Vec::new();
        let out = rewrite(text, |key, value| {
            seen.push(format!("{key}={value}"));
            (value == "x").then(|| "\u{1}y\"".to_owned())
        });
        assert_eq!(out.unwrap(), text.replace(r#""c":"x""#, r#""c":"\u0001y\"""#));
        assert_eq!(seen, ["b=x\"1", "c=x", "a=x{"]);
    }

    #[test]
    fn what_is_no_json_is_not_passed_on() {
        for text in [r#"{"a":"b"#, r#"{"a":"b"}}"#, r#"{"a":{"#, "\"\\u12\"", r#"{"a\"#] {
            assert_eq!(rewrite(text, |_, _| None), None, "{text}");
        }
    }
}
