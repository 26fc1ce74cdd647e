//! One error for the whole of provisioning: what kind of trouble, at which row, and what to do.

use std::fmt;

/// What went wrong, and by that the exit code of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What was asked for cannot be written: the file, the flags, a value too long.
    Input,
    /// The database's tables are not what is needed: table, column, privilege, engine.
    Schema,
    /// The database could not be reached, or refused or lost the transaction.
    Database,
    /// Rows stand, Asterisk has not taken them up.
    Activation,
}

/// Nothing is written when a plan or an apply ends with one, except for [`Kind::Activation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    /// Table and row, where one is concerned: `ps_endpoints cf_a_100`.
    pub place: Option<String>,
    pub message: String,
    /// The database gave the transaction up for another one's sake: the same again may succeed.
    pub retry: bool,
}

impl Error {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, place: None, message: message.into(), retry: false }
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(Kind::Input, message)
    }

    pub fn schema(message: impl Into<String>) -> Self {
        Self::new(Kind::Schema, message)
    }

    pub fn database(message: impl Into<String>) -> Self {
        Self::new(Kind::Database, message)
    }

    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place.get_or_insert_with(|| place.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
