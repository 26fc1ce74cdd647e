//! What SECURITY.md promises, tried by somebody who means harm.

mod answers;
mod injection;
mod privacy;
mod secrets;
mod settings;
mod tls;
