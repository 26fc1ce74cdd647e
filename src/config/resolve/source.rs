//! Where calls are read, and from when on.

use std::time::Duration;

use chrono::{NaiveDate, TimeZone, Utc};

use super::super::settings::{Secrets, Settings};
use super::super::tls::{TlsConfig, Wanted};
use super::super::{CelMode, ConfigError, DatabaseConfig, DatabaseKind, Faults, SourceConfig, StartFrom, TlsMode};
use crate::call::Timestamp;
use crate::correlate::Zone;

type Result<T> = std::result::Result<T, ConfigError>;

/// `Europe/Prague`, `UTC`, or a fixed offset such as `+02:00`.
pub fn zone(name: &str) -> Result<Zone> {
    if let Ok(tz) = name.parse::<chrono_tz::Tz>() {
        return Ok(Zone::Named(tz));
    }
    let fixed = name.parse::<chrono::FixedOffset>().ok();
    fixed.map(|o| Zone::Fixed(o.local_minus_utc())).ok_or_else(|| {
        ConfigError::new(
            "DB_TIMEZONE",
            format!("{name} is neither an IANA zone (Europe/Prague, UTC) nor an offset (+02:00)"),
        )
    })
}

pub(super) fn source(
    settings: &Settings,
    secrets: &Secrets,
    cel: Option<CelMode>,
    cdr: Option<bool>,
    faults: &mut Faults,
) -> Option<SourceConfig> {
    let s = &settings.database;
    faults.take(source_id(&s.source_id));
    let kind = faults.take(database_kind(&s.db_type));
    let name = s.db_name.clone().filter(|n| !n.trim().is_empty());
    if name.is_none() {
        faults.add(ConfigError::new(
            "DB_NAME",
            "not set. It names the database that Asterisk writes to (asterisk, asteriskcdrdb …); for sqlite, the file",
        ));
    }
    let table_recordings = s.db_table_recordings.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    let tables = [("DB_TABLE_CDR", Some(&s.db_table_cdr)), ("DB_TABLE_CEL", Some(&s.db_table_cel))];
    let tables = tables.into_iter().chain([("DB_TABLE_RECORDINGS", table_recordings.as_ref())]);
    for (variable, table) in tables.filter_map(|(variable, table)| Some((variable, table?))) {
        faults.take(table_name(variable, table));
    }
    let tls = faults.take(tls_mode(&s.db_tls));
    let certificates = faults.take(TlsConfig::resolve(&Wanted {
        ca: s.db_ca_file.as_deref().map(|file| ("DB_CA_FILE", file)),
        certificate: s.db_client_cert_file.as_deref().map(|file| ("DB_CLIENT_CERT_FILE", file)),
        key: ("DB_CLIENT_KEY", secrets.db_client_key.as_ref()),
    }));
    let zone = faults.take(s.db_timezone.as_deref().map(zone).transpose());
    let start_from = faults.take(start_from(&s.start_from));
    let poll_busy = Duration::from_secs_f64(s.busy_poll_interval);
    let kind = kind?;
    Some(SourceConfig {
        id: s.source_id.clone(),
        database: DatabaseConfig {
            kind,
            host: s.db_host.clone(),
            port: s.db_port.unwrap_or(if kind == DatabaseKind::PostgreSql { 5432 } else { 3306 }),
            socket: s.db_socket.clone(),
            name: name?,
            name_cel: s.db_name_cel.clone(),
            user: s.db_user.clone(),
            password: secrets.db_password.clone(),
            tls: tls?,
            certificates: certificates?,
            table_cdr: s.db_table_cdr.clone(),
            table_cel: s.db_table_cel.clone(),
            table_recordings,
            connections: s.db_connections,
            timeout: Duration::from_secs(s.db_timeout),
        },
        cel: cel?,
        cdr: cdr?,
        zone: zone?,
        start_from: start_from?,
        poll_busy,
        poll_idle: Duration::from_secs_f64(s.cdr_poll_interval).max(poll_busy),
        page_size: s.db_page_size,
    })
}

fn source_id(id: &str) -> Result<()> {
    let fits =
        (1..=64).contains(&id.len()) && id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(ConfigError::new("SOURCE_ID", format!("{id} is not made of 1 to 64 of the characters a-z 0-9 . _ -")))
}

fn database_kind(value: &str) -> Result<DatabaseKind> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "mysql" | "mariadb" => DatabaseKind::MySql,
        "postgresql" | "postgres" | "pgsql" => DatabaseKind::PostgreSql,
        "sqlite" | "sqlite3" => DatabaseKind::Sqlite,
        other => {
            return Err(ConfigError::new("DB_TYPE", format!("{other} is not one of mysql, postgresql, sqlite")));
        }
    })
}

fn tls_mode(value: &str) -> Result<TlsMode> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "off" | "disable" | "disabled" => TlsMode::Off,
        "prefer" | "preferred" => TlsMode::Prefer,
        "require" | "required" => TlsMode::Require,
        "verify" | "verify-full" => TlsMode::Verify,
        other => {
            return Err(ConfigError::new("DB_TLS", format!("{other} is not one of off, prefer, require, verify")));
        }
    })
}

/// Names go into SQL as identifiers: nothing that could be anything else is let in.
fn table_name(variable: &str, table: &str) -> Result<()> {
    let part =
        |p: &str| (1..=64).contains(&p.len()) && p.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '-'));
    let parts: Vec<&str> = table.split('.').collect();
    if parts.len() <= 2 && parts.iter().all(|p| part(p)) {
        return Ok(());
    }
    Err(ConfigError::new(
        variable,
        format!("{table:?} is not a table name (letters, digits, _ - $, with one dot after a schema)"),
    ))
}

pub(super) fn cel_mode(value: &str) -> Result<CelMode> {
    match value.to_ascii_lowercase().as_str() {
        "db" => Ok(CelMode::Db),
        "off" | "none" => Ok(CelMode::Off),
        "csv" | "ami" => Err(ConfigError::new(
            "CEL_MODE",
            format!(
                "{value} is not supported by this version; use db (cel_odbc, cel_pgsql, cel_sqlite3_custom) or off"
            ),
        )),
        other => Err(ConfigError::new("CEL_MODE", format!("{other} is not one of db, off"))),
    }
}

pub(super) fn cdr_mode(value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "db" => Ok(true),
        "off" | "none" => Ok(false),
        // names of the SIPSTACK connector's older program, which read the same table
        "batch" | "direct" => Ok(true),
        other => Err(ConfigError::new("CDR_MODE", format!("{other} is not one of db, off"))),
    }
}

fn start_from(value: &str) -> Result<StartFrom> {
    match value.to_ascii_lowercase().as_str() {
        "now" => return Ok(StartFrom::Now),
        "all" => return Ok(StartFrom::All),
        _ => {}
    }
    if let Some(at) = Timestamp::parse_rfc3339(value) {
        return Ok(StartFrom::At(at));
    }
    if let Ok(day) = value.parse::<NaiveDate>()
        && let Some(midnight) = day.and_hms_opt(0, 0, 0)
    {
        return Ok(StartFrom::At(Timestamp::from_chrono(Utc.from_utc_datetime(&midnight))));
    }
    Err(ConfigError::new(
        "START_FROM",
        format!("{value} is neither now, all, nor a date such as 2026-11-20 or 2026-11-20T08:00:00Z"),
    ))
}
