//! Reads `.env` files as Docker, Compose and python-dotenv users write them.
//!
//! Why not a library: those at hand replace `$name` inside unquoted and double-quoted values, which silently changes a
//! password such as `pa$$word`, and their errors carry no line number. Here nothing is replaced.
//!
//! `NAME=value`, an `export` before it, spaces around `=`, blank lines, `# comment` lines. An unquoted value ends at the
//! line's end or at a `#` after white space and loses the white space around it. A single-quoted value is taken as it
//! is; a double-quoted one knows `\n \r \t \" \\ \$`. Quoted values may span lines. The last of two equal names counts.

use std::iter::Peekable;
use std::str::Chars;

use thiserror::Error;

/// What is wrong with a line. Never shows a value: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {problem}")]
pub(super) struct LineError {
    pub line: usize,
    pub problem: String,
}

/// The (name, value) pairs of a file, in order.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, LineError> {
    let mut reader = Reader { chars: text.trim_start_matches('\u{feff}').chars().peekable(), line: 1 };
    let mut pairs = Vec::new();
    while let Some(pair) = reader.pair()? {
        pairs.push(pair);
    }
    Ok(pairs)
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn pair(&mut self) -> Result<Option<(String, String)>, LineError> {
        loop {
            self.skip_blanks();
            match self.chars.peek() {
                None => return Ok(None),
                Some('\n') => {
                    self.next();
                }
                Some('#') => {
                    self.rest_of_line();
                }
                Some(_) => break,
            }
        }
        let from = self.line;
        let mut name = self.name();
        self.skip_blanks();
        if name == "export" && self.chars.peek().is_some_and(|&c| c != '=') {
            name = self.name();
            self.skip_blanks();
        }
        let good = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !good {
            return Err(self.error("does not begin with a name; write NAME=value, or # before a comment"));
        }
        if self.chars.peek() != Some(&'=') {
            return Err(self.error(format!("no = after {name}; write {name}=value, or # before a comment")));
        }
        self.next();
        let blanks = self.skip_blanks();
        let value = match self.chars.peek() {
            Some('\'') => self.quoted(&name, '\'')?,
            Some('"') => self.quoted(&name, '"')?,
            Some('#') if blanks => {
                self.rest_of_line();
                String::new()
            }
            _ => self.unquoted(),
        };
        if value.contains('\0') {
            return Err(LineError { line: from, problem: format!("the value of {name} holds a NUL character") });
        }
        Ok(Some((name, value)))
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.chars.peek() {
            if c == '=' || c.is_whitespace() {
                break;
            }
            name.push(c);
            self.next();
        }
        name
    }

    fn unquoted(&mut self) -> String {
        let line = self.rest_of_line();
        let comment =
            line.char_indices().find(|&(i, c)| c == '#' && line[..i].ends_with(char::is_whitespace)).map(|(i, _)| i);
        line[..comment.unwrap_or(line.len())].trim().to_owned()
    }

    fn quoted(&mut self, name: &str, quote: char) -> Result<String, LineError> {
        let from = self.line;
        let unclosed = || LineError {
            line: from,
            problem: format!("the value of {name} begins with {quote} and no {quote} ends it"),
        };
        self.next();
        let mut value = String::new();
        loop {
            match self.next().ok_or_else(unclosed)? {
                c if c == quote => break,
                '\\' if quote == '"' => match self.next().ok_or_else(unclosed)? {
                    'n' => value.push('\n'),
                    'r' => value.push('\r'),
                    't' => value.push('\t'),
                    c @ ('"' | '\\' | '$') => value.push(c),
                    c => {
                        value.push('\\');
                        value.push(c);
                    }
                },
                c => value.push(c),
            }
        }
        let line = self.line;
        let rest = self.rest_of_line();
        let rest = rest.trim();
        if rest.is_empty() || rest.starts_with('#') {
            return Ok(value);
        }
        let problem = format!("the value of {name} goes on after its closing {quote}; put all of it between quotes");
        Err(LineError { line, problem })
    }

    /// What stands before the next line, which is begun.
    fn rest_of_line(&mut self) -> String {
        let mut rest = String::new();
        while let Some(c) = self.next() {
            if c == '\n' {
                break;
            }
            rest.push(c);
        }
        rest
    }

    /// Returns whether there were any.
    fn skip_blanks(&mut self) -> bool {
        let mut any = false;
        while self.chars.peek().is_some_and(|&c| c != '\n' && c.is_whitespace()) {
            self.next();
            any = true;
        }
        any
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        if c == Some('\n') {
            self.line += 1;
        }
        c
    }

    fn error(&self, problem: impl Into<String>) -> LineError {
        LineError { line: self.line, problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> String {
        let pairs = parse(line).unwrap();
        assert_eq!(pairs.len(), 1, "{pairs:?}");
        pairs.into_iter().next().unwrap().1
    }

    #[test]
    fn values_as_people_write_them() {
        for (line, value) in [
            ("A=b", "b"),
            ("A = b  ", "b"),
            ("export A=b", "b"),
            ("\u{feff}A=b\r\n", "b"),
            ("A=", ""),
            ("A=b c", "b c"),
            ("A=b # comment", "b"),
            ("A=                # comment", ""),
            ("A=b#c", "b#c"),
            ("A=#c", "#c"),
            ("A=pa$$word${X}", "pa$$word${X}"),
            ("A=\"pa$$word\"", "pa$$word"),
            ("A=it's", "it's"),
            ("A='b # c' # comment", "b # c"),
            ("A='b\\n'", "b\\n"),
            (r#"A="b\n\"c\"\\ \d""#, "b\n\"c\"\\ \\d"),
            ("A=\"one\ntwo\"", "one\ntwo"),
            ("A=b=c", "b=c"),
            ("A=http://h/p?q#f", "http://h/p?q#f"),
            ("# A=no\n\n  A=b", "b"),
        ] {
            assert_eq!(one(line), value, "{line:?}");
        }
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("export=1").unwrap(), [("export".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn faults_name_line_and_name_and_never_the_value() {
        for (text, line, words) in [
            ("A=1\nB\n", 2, "no = after B"),
            ("A=1\n\n=x", 3, "does not begin with a name"),
            ("A: secret", 1, "does not begin with a name"),
            ("A='secret\nB=1\n", 1, "the value of A begins with ' and no ' ends it"),
            ("A='sec'ret", 1, "goes on after its closing '"),
            ("A=sec\0ret", 1, "NUL"),
            ("1A=b", 1, "does not begin with a name"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("sec"), "{error}");
        }
    }
}
