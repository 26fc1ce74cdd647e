//! What the two drivers of sqlx have in common: which of their errors an admin has to mend, and in which words. What the
//! servers themselves answer is told by `mysql` and `postgres`.

use std::time::Duration;

use super::backend::{server, where_settings};
use crate::config::DatabaseConfig;
use crate::source::SourceError;

/// The server is given this much longer than `DB_TIMEOUT`, which it is asked to keep itself: a statement it goes on with
/// after nobody waits for it any longer is load on the PBX for nothing.
const GRACE: Duration = Duration::from_secs(2);

/// How long a statement is waited for.
pub fn patience(config: &DatabaseConfig) -> Duration {
    config.timeout + GRACE
}

/// No connection came about within `DB_TIMEOUT`.
pub fn no_connection(config: &DatabaseConfig) -> SourceError {
    SourceError::Transient(format!(
        "connecting: no answer from the database at {} within {} s. Check DB_HOST, DB_PORT and firewalls, or raise DB_TIMEOUT",
        server(config),
        config.timeout.as_secs()
    ))
}

/// A statement was not answered within `DB_TIMEOUT`: broken off by the server or here.
pub fn no_answer(config: &DatabaseConfig) -> SourceError {
    SourceError::Slow(format!(
        "reading: no answer from the database at {} within {} s (DB_TIMEOUT). It is overloaded, a table is locked, or an \
         index is missing, which `callferry check` names",
        server(config),
        config.timeout.as_secs()
    ))
}

/// An error that is none of the server's own answers.
pub fn error(config: &DatabaseConfig, e: &sqlx::Error) -> SourceError {
    let at = server(config);
    match e {
        sqlx::Error::Tls(e) => tls_error(config, e),
        sqlx::Error::Io(e) if is_certificate_error(e) => tls_error(config, e),
        sqlx::Error::Configuration(e) => {
            SourceError::Setup(format!("the database connection cannot be set up: {e}. Check DB_TLS and DB_CA_FILE"))
        }
        sqlx::Error::Io(e) => SourceError::Transient(format!(
            "cannot reach the database at {at}: {e}. Check {} and that the server runs{}",
            where_settings(config),
            if is_this_machine(config) { "; inside a container, this address is the container itself" } else { "" }
        )),
        other => SourceError::Transient(format!("reading from the database at {at}: {other}")),
    }
}

fn is_this_machine(config: &DatabaseConfig) -> bool {
    let host = config.host.trim_start_matches('[').trim_end_matches(']');
    let by_address = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    config.socket.is_none() && (by_address || host.eq_ignore_ascii_case("localhost"))
}

fn tls_error(config: &DatabaseConfig, e: &dyn std::fmt::Display) -> SourceError {
    SourceError::Setup(format!(
        "no encrypted connection to the database at {}: {e}. Check DB_TLS (off, prefer, require, verify), DB_CA_FILE, \
         and that DB_HOST is the name in the server's certificate",
        server(config)
    ))
}

/// A certificate that is not believed, which the drivers report as a failure of the connection.
fn is_certificate_error(e: &std::io::Error) -> bool {
    use rustls::Error as Tls;
    let certificate = |e: &Tls| matches!(e, Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented);
    e.get_ref().and_then(|inner| inner.downcast_ref::<Tls>()).is_some_and(certificate)
}
