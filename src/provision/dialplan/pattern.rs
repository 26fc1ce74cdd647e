//! What Asterisk makes of a pattern: a model of `_extension_match_core` and of the realtime switch's choice of a row.

/// One row of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Exten as it is stored: `_+39X.`, or an exact number.
    pub exten: String,
    /// Characters `${EXTEN:n}` takes off the front.
    pub strip: usize,
    /// Rule the row stands for; `None` for the pass-through rows.
    pub rule: Option<usize>,
}

/// The row the realtime switch takes for `number`: the exact exten, else the matching pattern with the longest text
/// (of equal lengths the first: Asterisk leaves that undefined, and a translation has no such pair that matters).
pub fn lookup<'a>(rows: &'a [Row], number: &str) -> Option<&'a Row> {
    let exact = rows.iter().find(|r| !r.exten.starts_with('_') && r.exten == number);
    exact.or_else(|| {
        let matching = rows.iter().filter(|r| r.exten.strip_prefix('_').is_some_and(|p| matches(p, number)));
        matching.fold(None, |best: Option<&Row>, r| match best {
            Some(b) if b.exten.len() >= r.exten.len() => Some(b),
            _ => Some(r),
        })
    })
}

/// Whether `number` matches `pattern` (without its `_`). A dash is skipped on both sides, as Asterisk does.
pub fn matches(pattern: &str, number: &str) -> bool {
    let (pattern, number) = (pattern.as_bytes(), number.as_bytes());
    let (mut p, mut n) = (0, 0);
    loop {
        while number.get(n) == Some(&b'-') {
            n += 1;
        }
        let Some(&want) = pattern.get(p) else { return n == number.len() };
        if want == b'-' {
            p += 1;
            continue;
        }
        match want {
            b'!' => return true,
            b'.' => return n < number.len(),
            _ => {}
        }
        let Some(&have) = number.get(n) else { return false };
        let (hit, width) = match want {
            b'X' | b'x' => (have.is_ascii_digit(), 1),
            b'Z' | b'z' => ((b'1'..=b'9').contains(&have), 1),
            b'N' | b'n' => ((b'2'..=b'9').contains(&have), 1),
            b'[' => {
                // a set without its end matches nothing
                let Some(end) = pattern[p..].iter().position(|&b| b == b']') else { return false };
                (in_set(&pattern[p + 1..p + end], have), end + 1)
            }
            literal => (literal == have, 1),
        };
        if !hit {
            return false;
        }
        p += width;
        n += 1;
    }
}

fn in_set(set: &[u8], have: u8) -> bool {
    let mut i = 0;
    while i < set.len() {
        if i + 2 < set.len() && set[i + 1] == b'-' {
            if (set[i]..=set[i + 2]).contains(&have) {
                return true;
            }
            i += 3;
        } else {
            if set[i] == have {
                return true;
            }
            i += 1;
        }
    }
    false
}

/// What `${FILTER(0-9+*#,${EXTEN}):n}` leaves of `number`: only what can be dialled, then the first `n` characters off.
pub fn strip(number: &str, n: usize) -> String {
    number.chars().filter(|c| super::ALPHABET.contains(*c)).skip(n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_as_asterisk_does() {
        for (pattern, number, want) in [
            ("X.", "12", true),
            ("X.", "1", false),
            ("X.", "+1", false),
            ("+X.", "+39", true),
            ("X!", "1", true),
            ("+3--X.", "+3912", true),
            ("[+0]39X.", "03912", true),
            ("[02-9]X", "15", false),
            ("[02-9]X", "95", true),
            ("[02-9]X", "0-5", true),
            ("NXX", "199", false),
            ("zxn", "102", true),
            ("[02", "0", false),
            ("", "", true),
            ("", "1", false),
            (".", "", false),
        ] {
            assert_eq!(matches(pattern, number), want, "_{pattern} on {number}");
        }
    }

    #[test]
    fn exact_wins_then_the_longest_text() {
        let row = |exten: &str| Row { exten: exten.to_owned(), strip: 0, rule: None };
        let rows = [row("_X."), row("_1XX"), row("_[1]X."), row("123")];
        assert_eq!(lookup(&rows, "123").unwrap().exten, "123");
        assert_eq!(lookup(&rows, "124").unwrap().exten, "_[1]X.");
        assert_eq!(lookup(&rows, "224").unwrap().exten, "_X.");
        assert_eq!(lookup(&rows, "5"), None);
    }
}
