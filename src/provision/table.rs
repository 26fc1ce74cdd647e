//! The tables written, the columns that identify a row in each, and rows as they are asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::value::Value;

/// In the order rows are inserted; they are deleted in the opposite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "&str", try_from = "String")]
pub enum Table {
    Auths,
    Aors,
    Endpoints,
    Identifies,
    Registrations,
    Queues,
    QueueMembers,
    Extensions,
    /// Read and cleaned up after a phone that is gone; Asterisk writes it.
    Contacts,
}

impl Table {
    pub const ALL: [Self; 9] = [
        Self::Auths,
        Self::Aors,
        Self::Endpoints,
        Self::Identifies,
        Self::Registrations,
        Self::Queues,
        Self::QueueMembers,
        Self::Extensions,
        Self::Contacts,
    ];

    /// Name in Asterisk's own schema; another one can stand in the mapping.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auths => "ps_auths",
            Self::Aors => "ps_aors",
            Self::Endpoints => "ps_endpoints",
            Self::Identifies => "ps_endpoint_id_ips",
            Self::Registrations => "ps_registrations",
            Self::Queues => "queues",
            Self::QueueMembers => "queue_members",
            Self::Extensions => "extensions",
            Self::Contacts => "ps_contacts",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Columns that identify a row.
    pub const fn key(self) -> &'static [&'static str] {
        match self {
            Self::Queues => &["name"],
            Self::QueueMembers => &["queue_name", "interface"],
            Self::Extensions => &["context", "exten", "priority"],
            _ => &["id"],
        }
    }

    /// Values that are never shown.
    pub fn secret(self, column: &str) -> bool {
        self == Self::Auths
            && matches!(column, "password" | "md5_cred" | "password_digest" | "refresh_token" | "oauth_secret")
    }
}

impl From<Table> for &str {
    fn from(table: Table) -> Self {
        table.name()
    }
}

impl TryFrom<String> for Table {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::named(&name).ok_or_else(|| format!("{name:?} is not a table that is written"))
    }
}

/// What becomes of a cell when its column is not there, and when it differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Without the column the row does not work: refused.
    Required,
    /// Left out with a warning.
    Optional,
    /// Written with a new row, left alone afterwards (a queue member's pause).
    Initial,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    pub value: Value,
    pub need: Need,
    /// A yes or no, stored in the words the column knows.
    pub flag: bool,
}

/// A row as it has to be. Columns not named are not ours and are left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub table: Table,
    /// Values of [`Table::key`].
    pub key: Vec<String>,
    pub cells: BTreeMap<&'static str, Cell>,
    /// Take a row over that stands and is not ours.
    pub adopt: bool,
    /// The row lacks this setting and can only be changed, not created.
    pub missing: Option<&'static str>,
}

impl Row {
    pub fn new(table: Table, key: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let key: Vec<String> = key.into_iter().map(Into::into).collect();
        debug_assert_eq!(key.len(), table.key().len());
        Self { table, key, cells: BTreeMap::new(), adopt: false, missing: None }
    }

    fn cell(mut self, column: &'static str, value: Value, need: Need, flag: bool) -> Self {
        self.cells.insert(column, Cell { value, need, flag });
        self
    }

    #[must_use]
    pub fn set(self, column: &'static str, value: impl Into<String>) -> Self {
        self.cell(column, Value::one(value), Need::Required, false)
    }

    /// Managed, and empty.
    #[must_use]
    pub fn null(self, column: &'static str) -> Self {
        self.cell(column, Value::NULL, Need::Optional, false)
    }

    #[must_use]
    pub fn optional(self, column: &'static str, value: impl Into<String>) -> Self {
        self.cell(column, Value::one(value), Need::Optional, false)
    }

    /// A setting that can be taken away again: without a value the column is empty, and need not be there.
    #[must_use]
    pub fn managed(self, column: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.set(column, value),
            None => self.null(column),
        }
    }

    #[must_use]
    pub fn flag(self, column: &'static str, on: bool) -> Self {
        self.cell(column, Value::one(if on { "yes" } else { "no" }), Need::Optional, true)
    }

    #[must_use]
    pub fn required_flag(self, column: &'static str, on: bool) -> Self {
        self.cell(column, Value::one(if on { "yes" } else { "no" }), Need::Required, true)
    }

    #[must_use]
    pub fn initial(self, column: &'static str, value: impl Into<String>) -> Self {
        self.cell(column, Value::one(value), Need::Initial, false)
    }

    #[must_use]
    pub fn many(self, column: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        self.cell(column, Value::many(values), Need::Optional, false)
    }

    /// To be changed only: a new row would need `setting`.
    #[must_use]
    pub const fn standing(mut self, setting: &'static str) -> Self {
        self.missing = Some(setting);
        self
    }

    /// `ps_endpoints cf_a_100`
    pub fn place(&self) -> String {
        place(self.table, &self.key)
    }
}

pub fn place(table: Table, key: &[String]) -> String {
    format!("{} {}", table.name(), key.iter().map(|k| k.escape_debug().to_string()).collect::<Vec<_>>().join(" "))
}
