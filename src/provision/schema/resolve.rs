//! A wished-for row against the columns there are: what is written, in which words, and what cannot be.

use std::collections::BTreeMap;

use super::{Column, ColumnKind, Schema};
use crate::provision::db::Engine;
use crate::provision::error::{Error, Result};
use crate::provision::table::{Need, Row, Table};
use crate::provision::value::Value;

/// A cell as it will be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Stored {
    /// `None`: NULL.
    pub text: Option<String>,
    /// Written with new rows only.
    pub initial: bool,
    /// Compared as a yes or no.
    pub flag: bool,
}

/// A row that this database can take.
#[derive(Clone)]
pub struct Resolved {
    pub table: Table,
    pub key: Vec<String>,
    pub cells: BTreeMap<&'static str, Stored>,
    pub adopt: bool,
    pub missing: Option<&'static str>,
}

impl Schema {
    /// Errors name table, row and column, never a secret value. Warnings tell what was left out.
    pub fn resolve(&self, row: &Row, warnings: &mut Vec<String>) -> Result<Resolved> {
        let table = self.table(row.table)?;
        if let Some(engine) = &table.unsafe_engine {
            return Err(Error::schema(format!(
                "table {} is stored by {engine}, which cannot roll back; ALTER TABLE … ENGINE=InnoDB",
                self.mapping.table(row.table)
            )));
        }
        let mut cells = BTreeMap::new();
        for (name, key) in row.table.key().iter().zip(&row.key) {
            let column = self.needed(row, name)?;
            // keys are compared by the database as they are: no encoding can stand in them
            if key.contains([';', '^']) || key.trim() != key || key.is_empty() {
                return Err(Error::input(format!("{name} {key:?} cannot identify a row")).at(row.place()));
            }
            store(column, &Value::one(key.as_str()), false, false).map_err(|e| e.at(row.place()))?;
        }
        for (name, cell) in &row.cells {
            let Some(column) = self.column(row.table, name) else {
                match cell.need {
                    Need::Required => return Err(self.absent(row, name)),
                    _ if cell.value.is_null() => {}
                    _ => {
                        let table = self.mapping.table(row.table);
                        let warning = format!("{table} has no column {name}: left out");
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                    }
                }
                continue;
            };
            let secret = row.table.secret(name);
            let text = store(column, &cell.value, cell.flag, secret).map_err(|e| e.at(row.place()))?;
            cells.insert(*name, Stored { text, initial: cell.need == Need::Initial, flag: cell.flag });
        }
        for column in table.columns.values() {
            let given = |c: &&str| self.mapping.column(row.table, c) == column.name;
            let known = row.table.key().iter().any(given) || cells.keys().any(given);
            let counted = row.table == Table::QueueMembers && column.name == "uniqueid";
            if !column.nullable && !column.has_default && !known && !counted {
                return Err(Error::schema(format!("column {} needs a value that is not known here", column.name))
                    .at(row.place()));
            }
        }
        Ok(Resolved { table: row.table, key: row.key.clone(), cells, adopt: row.adopt, missing: row.missing })
    }

    fn needed(&self, row: &Row, name: &str) -> Result<&Column> {
        self.column(row.table, name).ok_or_else(|| self.absent(row, name))
    }

    fn absent(&self, row: &Row, name: &str) -> Error {
        let table = self.mapping.table(row.table);
        Error::schema(format!("table {table} has no column {name}, which is needed")).at(row.place())
    }

    /// `$2::text::yesno_values`, `?`
    pub fn bind(&self, table: Table, column: &str, n: usize) -> String {
        let placeholder = self.engine.placeholder(n);
        match (self.engine, self.column(table, column)) {
            (Engine::PostgreSql, Some(c)) if c.cast != "text" => format!("{placeholder}::{}", c.cast),
            _ => placeholder,
        }
    }
}

fn store(column: &Column, value: &Value, flag: bool, secret: bool) -> Result<Option<String>> {
    let name = &column.name;
    if value.is_null() {
        return Ok(if column.nullable { None } else { Some(String::new()) });
    }
    let shown = |v: &str| if secret { "the value".to_owned() } else { format!("{v:?}") };
    let text =
        value.encode().map_err(|c| Error::input(format!("{name} holds the character {c:?}, which no row can")))?;
    let text = if flag { word(&column.kind, text == "yes") } else { text };
    match &column.kind {
        ColumnKind::Enum(labels) if !labels.contains(&text) => {
            return Err(Error::input(format!("{name} cannot be {}; it takes {}", shown(&text), labels.join(", "))));
        }
        ColumnKind::Integer if text.parse::<i64>().is_err() => {
            return Err(Error::input(format!("{name} takes a whole number, not {}", shown(&text))));
        }
        ColumnKind::Real if text.parse::<f64>().is_err() => {
            return Err(Error::input(format!("{name} takes a number, not {}", shown(&text))));
        }
        ColumnKind::Other(kind) => {
            return Err(Error::schema(format!("{name} is of type {kind}, which cannot be written")));
        }
        _ => {}
    }
    if let Some(max) = column.max_chars {
        let length = text.chars().count();
        if length > max {
            let what = if secret || length > 200 { String::new() } else { format!(" ({text})") };
            return Err(Error::input(format!(
                "{name} takes {max} characters, the value{what} has {length}; it is refused, not cut"
            )));
        }
    }
    let narrow = column.charset.as_deref().filter(|c| !c.starts_with("utf") && *c != "binary" && *c != "ucs2");
    if let Some(charset) = narrow {
        let limit = if matches!(charset, "latin1") { 0xff } else { 0x7f };
        if let Some(c) = text.chars().find(|c| *c as u32 > limit) {
            let c = if secret { "a character".to_owned() } else { format!("{c:?}") };
            return Err(Error::input(format!(
                "{name} is stored in {charset}, which cannot hold {c}; convert the table to utf8mb4"
            )));
        }
    }
    Ok(Some(text))
}

/// A yes or no in the words of a column.
fn word(kind: &ColumnKind, on: bool) -> String {
    let words = match kind {
        ColumnKind::Integer => ("1", "0"),
        ColumnKind::Boolean => ("true", "false"),
        ColumnKind::Enum(labels) if !labels.iter().any(|l| l == "yes") => {
            if labels.iter().any(|l| l == "true") {
                ("true", "false")
            } else {
                ("1", "0")
            }
        }
        _ => ("yes", "no"),
    };
    if on { words.0.to_owned() } else { words.1.to_owned() }
}

/// What a stored text means, for comparison: decoded, and brought to one spelling of numbers and of yes and no.
pub(in crate::provision) fn normal(stored: Option<&str>, column: &Column, flag: bool) -> Value {
    let Some(stored) = stored else { return Value::NULL };
    let value = Value::decode(stored);
    let yes_no = flag
        || matches!(column.kind, ColumnKind::Boolean)
        || matches!(&column.kind, ColumnKind::Enum(l) if l.iter().all(|l| truth(l).is_some()));
    match value.parts() {
        [one] if yes_no => match truth(one) {
            Some(on) => Value::one(if on { "yes" } else { "no" }),
            None => value,
        },
        [one] if matches!(column.kind, ColumnKind::Integer | ColumnKind::Real) => {
            one.parse::<f64>().map_or(value.clone(), |n| Value::one(n.to_string()))
        }
        _ => value,
    }
}

fn truth(word: &str) -> Option<bool> {
    Some(match word.to_ascii_lowercase().as_str() {
        "yes" | "true" | "on" | "1" | "t" | "y" => true,
        "no" | "false" | "off" | "0" | "f" | "n" => false,
        _ => return None,
    })
}
