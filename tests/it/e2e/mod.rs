//! The main job from end to end: a real database, the binary as its users run it, a real HTTP receiver.

pub mod agent;
mod backends;
pub mod calls;
pub mod crashes;
mod lateness;
mod past;
mod progress;
pub mod receiver;

use callferry::config::DatabaseKind;

use crate::support::database::{Place, TestDatabase};

/// The settings that make the agent read `database`.
fn settings(database: &TestDatabase) -> Vec<(&'static str, String)> {
    settings_of(&database.place)
}

/// The same of a place.
pub fn settings_of(place: &Place) -> Vec<(&'static str, String)> {
    let kind = match place.kind {
        DatabaseKind::MySql => "mysql",
        DatabaseKind::PostgreSql => "postgresql",
        DatabaseKind::Sqlite => "sqlite",
    };
    let mut settings =
        vec![("DB_TYPE", kind.to_owned()), ("DB_NAME", place.name.clone()), ("DB_USER", place.user.clone())];
    if let Some(socket) = &place.socket {
        settings.push(("DB_SOCKET", socket.display().to_string()));
    }
    settings
}
