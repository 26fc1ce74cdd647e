//! Text from strangers on its way to a person's eyes. Whoever calls chooses the name that is shown for them: a control
//! character in it could forge a line of the log or talk to a terminal, a direction mark could make it read as another.
//! Everything printed, logged or put into an error goes through here; documents keep what the PBX wrote (JSON escapes it).

use std::borrow::Cow;

/// Characters that steer rather than show: controls (line ends, escape, C1), line and paragraph separators, direction
/// marks, overrides and isolates, invisible spaces, tags. Joiners stay: scripts and emoji need them.
pub const fn steers(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}'
            | '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    )
}

/// One line that shows what it is: `Eve\u{1b}[2J`.
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if steers(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// The same, but lines stay lines.
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_escaped_and_what_shows_stays() {
        assert_eq!(clean("Eve\u{1b}[2J\n\u{202e}x"), "Eve\\u{1b}[2J\\u{a}\\u{202e}x");
        assert_eq!(clean_lines("a\r\nb\u{7}"), "a\nb\\u{7}");
        for shown in ["Zoë 📞", "👩\u{200d}🚀", "می\u{200c}خواهم", "ありがとう", "a\u{301}"] {
            assert_eq!(clean(shown), shown);
        }
        for steering in "\0\t\n\r\u{7f}\u{85}\u{9b}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{feff}\u{e0041}".chars() {
            assert!(!clean(&steering.to_string()).contains(steering), "{steering:?}");
        }
    }
}
