//! One `[[…]]` of a manifest, written line by line.

use std::fmt::Write as _;

#[derive(Clone, Debug)]
pub struct Block(String);

impl Block {
    pub fn new(header: &str) -> Self {
        Self(format!("\n[[{header}]]\n"))
    }

    pub fn text(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {}", quoted(value));
    }

    pub fn some(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// A number, unless it is the one that goes without saying.
    pub fn number(&mut self, key: &str, value: Option<u32>, default: u32) {
        if let Some(value) = value.filter(|v| *v != default) {
            let _ = writeln!(self.0, "{key} = {value}");
        }
    }

    pub fn flag(&mut self, key: &str, on: bool) {
        if on {
            let _ = writeln!(self.0, "{key} = true");
        }
    }

    pub fn list<'a>(&mut self, key: &str, values: impl IntoIterator<Item = &'a str>) {
        let list: Vec<String> = values.into_iter().map(quoted).collect();
        let _ = writeln!(self.0, "{key} = [{}]", list.join(", "));
    }

    /// Another table of the block: `[[queue.members]]`.
    pub fn inner(&mut self, header: &str) {
        let _ = writeln!(self.0, "[[{header}]]");
    }

    /// Several blocks that stand or fall together.
    pub fn joined(blocks: impl IntoIterator<Item = Self>) -> Self {
        Self(blocks.into_iter().map(|b| b.0).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The block in comments, with what stands in the way of it.
    pub fn commented(&self, why: &str) -> String {
        let mut out = String::from("\n");
        for line in why.lines().chain(self.0.trim().lines().filter(|l| !l.is_empty())) {
            let _ = writeln!(out, "# {line}");
        }
        out
    }
}

/// A TOML string.
pub fn quoted(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}
