//! What the settings mean: parsed once, checked once, passed on as types.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chrono::{NaiveDate, TimeZone, Utc};
use secrecy::SecretString;

use super::recordings::RecordingConfig;
use super::settings::{
    DeliverySettings, LogSettings, MonitoringSettings, RuleSettings, Secrets, Settings, SinkSettings,
};
use super::{ConfigError, labels};
use crate::call::Timestamp;
use crate::correlate::{DEFAULT_INBOUND_CONTEXTS, Rules, Zone};

type Result<T> = std::result::Result<T, ConfigError>;

#[derive(Clone, Debug)]
pub struct Config {
    pub source: SourceConfig,
    pub rules: Rules,
    /// Wait for the CDR of an ended call.
    pub cdr_grace: Duration,
    pub call_max_age: Duration,
    pub shipping: ShippingConfig,
    pub sinks: Vec<SinkConfig>,
    pub delivery: DeliveryConfig,
    pub state: StateConfig,
    pub recordings: RecordingConfig,
    /// `None`: not served.
    pub monitoring: Option<MonitoringConfig>,
    pub log: LogConfig,
    /// The PBX's name for display.
    pub hostname: String,
}

#[derive(Clone, Debug)]
pub struct SourceConfig {
    pub id: String,
    pub database: DatabaseConfig,
    pub cel: CelMode,
    /// Records are read (`CDR_MODE=db`).
    pub cdr: bool,
    /// As configured; `None`: to be read off the uniqueids.
    pub zone: Option<Zone>,
    pub start_from: StartFrom,
    pub poll_busy: Duration,
    pub poll_idle: Duration,
    pub page_size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CelMode {
    Db,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    Now,
    All,
    At(Timestamp),
}

#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    pub kind: DatabaseKind,
    pub host: String,
    pub port: u16,
    pub socket: Option<PathBuf>,
    /// Database name, or the file with the cdr table.
    pub name: String,
    /// sqlite: the file with the cel table.
    pub name_cel: Option<String>,
    pub user: String,
    pub password: Option<SecretString>,
    pub tls: TlsMode,
    pub ca_file: Option<PathBuf>,
    pub table_cdr: String,
    pub table_cel: String,
    /// The recordings table, if there is one.
    pub table_recordings: Option<String>,
    pub connections: u32,
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    MySql,
    PostgreSql,
    Sqlite,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    Off,
    Prefer,
    Require,
    Verify,
}

#[derive(Clone, Debug)]
pub enum SinkConfig {
    Webhook(WebhookConfig),
    File(FileSinkConfig),
    Sipstack(SipstackConfig),
}

impl SinkConfig {
    /// The name deliveries of this sink are kept under.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Webhook(_) => "webhook",
            Self::File(_) => "file",
            Self::Sipstack(_) => "sipstack",
        }
    }
}

#[derive(Clone, Debug)]
pub struct WebhookConfig {
    pub url: String,
    pub token: Option<SecretString>,
    pub signing_secret: Option<SecretString>,
    pub batch_size: usize,
    pub gzip: bool,
    pub concurrency: usize,
    pub timeout: Duration,
    pub allow_http: bool,
}

#[derive(Clone, Debug)]
pub struct FileSinkConfig {
    /// `None`: standard output.
    pub path: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct SipstackConfig {
    pub url: String,
    pub api_key: SecretString,
    pub customer_id: i64,
    pub tenant: Option<String>,
    pub hostname: String,
    pub include_raw_data: bool,
    pub concurrency: usize,
    pub timeout: Duration,
    pub allow_http: bool,
}

/// What is shipped of calls that are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShippingConfig {
    /// Each change (`CALL_SHIPPING_MODE=progressive`).
    pub progressive: bool,
    /// Whatever happens, each time a call has been up for this long.
    pub long_call_update: Option<Duration>,
}

#[derive(Clone, Debug)]
pub struct DeliveryConfig {
    pub retry_base: Duration,
    pub retry_cap: Duration,
    pub retry_max_age: Duration,
    pub outage_max_age: Duration,
}

#[derive(Clone, Debug)]
pub struct StateConfig {
    pub dir: PathBuf,
    pub retention: Duration,
    /// Bytes.
    pub max_size: u64,
    /// Bytes.
    pub min_free: u64,
}

#[derive(Clone, Debug)]
pub struct MonitoringConfig {
    pub address: SocketAddr,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    pub filter: String,
    pub json: bool,
    pub mask_numbers: bool,
}

impl Config {
    pub fn resolve(settings: &Settings, secrets: Secrets) -> Result<Self> {
        let hostname = settings.sinks.hostname.clone().unwrap_or_else(machine_name);
        let cel = cel_mode(&settings.database.cel_mode)?;
        let cdr = cdr_mode(&settings.database.cdr_mode)?;
        if cel == CelMode::Off && !cdr {
            return Err(ConfigError::new("CEL_MODE", "CEL_MODE and CDR_MODE are both off: there is nothing to read"));
        }
        let mut rules = rules(&settings.rules)?;
        rules.has_cel = cel == CelMode::Db;
        rules.has_cdr = cdr;
        Ok(Self {
            source: source(settings, &secrets, cel, cdr)?,
            rules,
            cdr_grace: seconds("CDR_GRACE", settings.rules.cdr_grace, 0.0, 600.0)?,
            call_max_age: hours("CALL_MAX_AGE", settings.rules.call_max_age)?,
            shipping: ShippingConfig::resolve(&settings.delivery)?,
            sinks: sinks(settings, &secrets, &hostname)?,
            delivery: DeliveryConfig {
                retry_base: seconds("RETRY_BASE", settings.delivery.retry_base, 0.01, 3_600.0)?,
                retry_cap: seconds("RETRY_CAP", settings.delivery.retry_cap, 0.01, 86_400.0)?,
                retry_max_age: hours("RETRY_MAX_AGE", settings.delivery.retry_max_age)?,
                outage_max_age: hours("OUTAGE_MAX_AGE", settings.delivery.outage_max_age * 24.0)?,
            },
            state: state(settings)?,
            recordings: super::recordings::resolve(settings, &secrets)?,
            monitoring: MonitoringConfig::resolve(&settings.monitoring)?,
            log: LogConfig::resolve(&settings.log)?,
            hostname,
        })
    }
}

/// Rules alone, for commands that correlate files.
pub fn rules(s: &RuleSettings) -> Result<Rules> {
    if s.asterisk_ext_min_length == 0 || s.asterisk_ext_min_length > s.asterisk_ext_max_length {
        return Err(ConfigError::new(
            "ASTERISK_EXT_MIN_LENGTH",
            format!(
                "{} is not between 1 and ASTERISK_EXT_MAX_LENGTH ({})",
                s.asterisk_ext_min_length, s.asterisk_ext_max_length
            ),
        ));
    }
    let contexts = trimmed(&s.inbound_contexts);
    let numbering = labels::numbering(s)?;
    Ok(Rules {
        trunks: trimmed(&s.known_trunks),
        inbound_contexts: if contexts.is_empty() {
            DEFAULT_INBOUND_CONTEXTS.iter().map(|&c| c.to_owned()).collect()
        } else {
            contexts
        },
        extension_len: (s.asterisk_ext_min_length, s.asterisk_ext_max_length),
        applications_self_service: s.applications_self_service,
        tenants: labels::tenants(s, &numbering)?,
        filters: labels::filters(s)?,
        numbering,
        ..Rules::default()
    })
}

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

fn source(settings: &Settings, secrets: &Secrets, cel: CelMode, cdr: bool) -> Result<SourceConfig> {
    let s = &settings.database;
    let id_ok = (1..=64).contains(&s.source_id.len())
        && s.source_id.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'));
    if !id_ok {
        return Err(ConfigError::new(
            "SOURCE_ID",
            format!("{} is not made of 1 to 64 of the characters a-z 0-9 . _ -", s.source_id),
        ));
    }
    let kind = match s.db_type.to_ascii_lowercase().as_str() {
        "mysql" | "mariadb" => DatabaseKind::MySql,
        "postgresql" | "postgres" | "pgsql" => DatabaseKind::PostgreSql,
        "sqlite" | "sqlite3" => DatabaseKind::Sqlite,
        other => {
            return Err(ConfigError::new("DB_TYPE", format!("{other} is not one of mysql, postgresql, sqlite")));
        }
    };
    let Some(name) = s.db_name.clone().filter(|n| !n.trim().is_empty()) else {
        return Err(ConfigError::new(
            "DB_NAME",
            "not set. It names the database that Asterisk writes to (asterisk, asteriskcdrdb …); for sqlite, the file",
        ));
    };
    let tls = match s.db_tls.to_ascii_lowercase().as_str() {
        "off" | "disable" | "disabled" => TlsMode::Off,
        "prefer" | "preferred" => TlsMode::Prefer,
        "require" | "required" => TlsMode::Require,
        "verify" | "verify-full" => TlsMode::Verify,
        other => {
            return Err(ConfigError::new("DB_TLS", format!("{other} is not one of off, prefer, require, verify")));
        }
    };
    let table_recordings = s.db_table_recordings.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    let tables = [("DB_TABLE_CDR", Some(&s.db_table_cdr)), ("DB_TABLE_CEL", Some(&s.db_table_cel))];
    let tables = tables.into_iter().chain([("DB_TABLE_RECORDINGS", table_recordings.as_ref())]);
    for (variable, table) in tables.filter_map(|(variable, table)| Some((variable, table?))) {
        let part = |p: &str| {
            (1..=64).contains(&p.len()) && p.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '-'))
        };
        let parts: Vec<&str> = table.split('.').collect();
        if parts.len() > 2 || !parts.iter().all(|p| part(p)) {
            return Err(ConfigError::new(
                variable,
                format!("{table:?} is not a table name (letters, digits, _ - $, with one dot after a schema)"),
            ));
        }
    }
    if s.db_page_size == 0 || s.db_page_size > 100_000 {
        return Err(ConfigError::new("DB_PAGE_SIZE", format!("{} is not between 1 and 100000", s.db_page_size)));
    }
    if s.db_connections == 0 || s.db_connections > 16 {
        return Err(ConfigError::new("DB_CONNECTIONS", format!("{} is not between 1 and 16", s.db_connections)));
    }
    let poll_busy = seconds("BUSY_POLL_INTERVAL", s.busy_poll_interval, 0.05, 3_600.0)?;
    let poll_idle = seconds("CDR_POLL_INTERVAL", s.cdr_poll_interval, 0.05, 3_600.0)?;
    Ok(SourceConfig {
        id: s.source_id.clone(),
        database: DatabaseConfig {
            kind,
            host: s.db_host.clone(),
            port: s.db_port.unwrap_or(if kind == DatabaseKind::PostgreSql { 5432 } else { 3306 }),
            socket: s.db_socket.clone(),
            name,
            name_cel: s.db_name_cel.clone(),
            user: s.db_user.clone(),
            password: secrets.db_password.clone(),
            tls,
            ca_file: s.db_ca_file.clone(),
            table_cdr: s.db_table_cdr.clone(),
            table_cel: s.db_table_cel.clone(),
            table_recordings,
            connections: s.db_connections,
            timeout: Duration::from_secs(s.db_timeout.clamp(1, 3_600)),
        },
        cel,
        cdr,
        zone: s.db_timezone.as_deref().map(zone).transpose()?,
        start_from: start_from(&s.start_from)?,
        poll_busy,
        poll_idle: poll_idle.max(poll_busy),
        page_size: s.db_page_size,
    })
}

fn cel_mode(value: &str) -> Result<CelMode> {
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

fn cdr_mode(value: &str) -> Result<bool> {
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

fn sinks(settings: &Settings, secrets: &Secrets, hostname: &str) -> Result<Vec<SinkConfig>> {
    let s = &settings.sinks;
    let mut names: Vec<String> = trimmed(&s.sinks).into_iter().map(|n| n.to_ascii_lowercase()).collect();
    if names.is_empty() {
        if secrets.api_key.is_some() {
            names.push("sipstack".to_owned());
        } else {
            return Err(ConfigError::new(
                "SINKS",
                "not set. It says where calls go: webhook (with WEBHOOK_URL), file (with FILE_PATH), sipstack (with \
                 API_KEY), or several with commas between",
            ));
        }
    }
    let mut sinks = Vec::new();
    for name in names {
        let sink = match name.as_str() {
            "webhook" => SinkConfig::Webhook(webhook(settings, secrets)?),
            "file" => {
                SinkConfig::File(FileSinkConfig { path: (s.file_path != "-").then(|| PathBuf::from(&s.file_path)) })
            }
            "sipstack" => SinkConfig::Sipstack(sipstack(settings, secrets, hostname)?),
            other => return Err(ConfigError::new("SINKS", format!("{other} is not one of webhook, file, sipstack"))),
        };
        if sinks.iter().any(|s: &SinkConfig| s.name() == sink.name()) {
            return Err(ConfigError::new("SINKS", format!("{} is named twice", sink.name())));
        }
        sinks.push(sink);
    }
    Ok(sinks)
}

fn webhook(settings: &Settings, secrets: &Secrets) -> Result<WebhookConfig> {
    let s = &settings.sinks;
    let Some(url) = &s.webhook_url else {
        return Err(ConfigError::new("WEBHOOK_URL", "not set, but SINKS names webhook"));
    };
    if !(1..=1_000).contains(&s.webhook_batch_size) {
        return Err(ConfigError::new(
            "WEBHOOK_BATCH_SIZE",
            format!("{} is not between 1 and 1000", s.webhook_batch_size),
        ));
    }
    Ok(WebhookConfig {
        url: http_url("WEBHOOK_URL", url)?,
        token: secrets.webhook_token.clone(),
        signing_secret: secrets.webhook_secret.clone(),
        batch_size: s.webhook_batch_size,
        gzip: s.webhook_gzip,
        concurrency: concurrency("WEBHOOK_CONCURRENCY", s.webhook_concurrency)?,
        timeout: seconds("WEBHOOK_TIMEOUT", s.webhook_timeout, 0.1, 3_600.0)?,
        allow_http: s.allow_http,
    })
}

/// Where calls are posted: as set, or by region.
pub(super) fn calls_url(s: &SinkSettings) -> Result<String> {
    Ok(match s.api_endpoint.as_ref().or(s.api_url.as_ref()) {
        Some(url) => {
            let variable = if s.api_endpoint.is_some() { "API_ENDPOINT" } else { "API_URL" };
            let url = http_url(variable, url)?;
            let url = url.trim_end_matches('/');
            // as the SIPSTACK connector does: only the API's own path lacks its last part
            if url.ends_with("/v1/mqs/connectors/asterisk") { format!("{url}/calls") } else { url.to_owned() }
        }
        None => match s.region.to_ascii_lowercase().as_str() {
            region @ ("dev" | "ca1" | "us1" | "us2") => {
                format!("https://api-{region}.sipstack.com/v1/mqs/connectors/asterisk/calls")
            }
            other => return Err(ConfigError::new("REGION", format!("{other} is not one of dev, ca1, us1, us2"))),
        },
    })
}

fn sipstack(settings: &Settings, secrets: &Secrets, hostname: &str) -> Result<SipstackConfig> {
    let s = &settings.sinks;
    let Some(api_key) = secrets.api_key.clone() else {
        return Err(ConfigError::new("API_KEY", "not set, but SINKS names sipstack (API_KEY or API_KEY_FILE)"));
    };
    let url = calls_url(s)?;
    Ok(SipstackConfig {
        url,
        api_key,
        customer_id: s.customer_id,
        tenant: settings.rules.tenant.clone(),
        hostname: hostname.to_owned(),
        include_raw_data: s.include_raw_data,
        concurrency: concurrency("API_CONCURRENCY", s.api_concurrency)?,
        timeout: seconds("API_TIMEOUT", s.api_timeout, 0.1, 3_600.0)?,
        allow_http: s.allow_http,
    })
}

fn state(settings: &Settings) -> Result<StateConfig> {
    let s = &settings.state;
    if s.state_max_size < 64 {
        return Err(ConfigError::new(
            "STATE_MAX_SIZE",
            format!("{} MB is less than the 64 MB needed", s.state_max_size),
        ));
    }
    Ok(StateConfig {
        dir: s.state_dir.clone(),
        retention: hours("STATE_RETENTION", s.state_retention * 24.0)?,
        max_size: s.state_max_size.saturating_mul(1_000_000),
        min_free: s.state_min_free.saturating_mul(1_000_000),
    })
}

/// `LONG_CALL_UPDATE_INTERVAL` in progressive mode, seconds.
const LONG_CALL_UPDATE: f64 = 600.0;

impl ShippingConfig {
    fn resolve(s: &DeliverySettings) -> Result<Self> {
        let progressive = match s.call_shipping_mode.to_ascii_lowercase().as_str() {
            "complete" => false,
            "progressive" => true,
            other => {
                return Err(ConfigError::new(
                    "CALL_SHIPPING_MODE",
                    format!("{other} is not one of complete, progressive"),
                ));
            }
        };
        let interval = s.long_call_update_interval.unwrap_or(if progressive { LONG_CALL_UPDATE } else { 0.0 });
        let long_call_update = if interval == 0.0 {
            None
        } else if (1.0..=86_400.0).contains(&interval) {
            Some(Duration::from_secs_f64(interval))
        } else {
            return Err(ConfigError::new(
                "LONG_CALL_UPDATE_INTERVAL",
                format!("{interval} is neither 0 (off) nor between 1 and 86400 seconds"),
            ));
        };
        Ok(Self { progressive, long_call_update })
    }
}

impl MonitoringConfig {
    /// `None`: not served.
    pub fn resolve(s: &MonitoringSettings) -> Result<Option<Self>> {
        if !s.monitoring_enabled {
            return Ok(None);
        }
        let ip: IpAddr = s.monitoring_address.parse().map_err(|_| {
            ConfigError::new("MONITORING_ADDRESS", format!("{} is not an IP address", s.monitoring_address))
        })?;
        Ok(Some(Self { address: SocketAddr::new(ip, s.monitoring_port) }))
    }
}

impl LogConfig {
    /// The log alone, for commands that need no PBX.
    pub fn resolve(s: &LogSettings) -> Result<Self> {
        Ok(Self {
            filter: log_filter(&s.log_level)?,
            json: match s.log_format.to_ascii_lowercase().as_str() {
                "human" | "text" => false,
                "json" => true,
                other => return Err(ConfigError::new("LOG_FORMAT", format!("{other} is not one of human, json"))),
            },
            mask_numbers: match s.log_numbers.to_ascii_lowercase().as_str() {
                "masked" => true,
                "plain" => false,
                other => return Err(ConfigError::new("LOG_NUMBERS", format!("{other} is not one of masked, plain"))),
            },
        })
    }
}

/// A level, or a filter of targets. Python's names of levels are understood.
fn log_filter(value: &str) -> Result<String> {
    let fault = || {
        ConfigError::new(
            "LOG_LEVEL",
            format!(
                "{value} is neither one of error, warn, info, debug, trace, off, nor a filter such as \
                 callferry::ship=debug,info"
            ),
        )
    };
    let mut directives = Vec::new();
    for directive in value.to_ascii_lowercase().split(',').map(str::trim).filter(|d| !d.is_empty()) {
        directives.push(match directive {
            "warning" => "warn".to_owned(),
            "critical" | "fatal" => "error".to_owned(),
            level @ ("error" | "warn" | "info" | "debug" | "trace" | "off") => level.to_owned(),
            // a bare word would be taken for a target and silence everything else
            target if target.contains('=') || target.contains("::") => target.to_owned(),
            _ => return Err(fault()),
        });
    }
    let filter = directives.join(",");
    if filter.is_empty() || tracing_subscriber::EnvFilter::try_new(&filter).is_err() {
        return Err(fault());
    }
    Ok(filter)
}

pub(super) fn http_url(variable: &str, value: &str) -> Result<String> {
    let url = reqwest::Url::parse(value)
        .map_err(|e| ConfigError::new(variable, format!("not a URL ({e}); it begins with https:// or http://")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(ConfigError::new(variable, "not an http:// or https:// URL with a host"));
    }
    Ok(value.to_owned())
}

pub(super) fn concurrency(variable: &str, value: usize) -> Result<usize> {
    if (1..=64).contains(&value) {
        Ok(value)
    } else {
        Err(ConfigError::new(variable, format!("{value} is not between 1 and 64")))
    }
}

pub(super) fn seconds(variable: &str, value: f64, min: f64, max: f64) -> Result<Duration> {
    if (min..=max).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(ConfigError::new(variable, format!("{value} is not between {min} and {max} seconds")))
    }
}

pub(super) fn hours(variable: &str, value: f64) -> Result<Duration> {
    if value > 0.0 && value <= 24.0 * 3_650.0 {
        Ok(Duration::from_secs_f64(value * 3_600.0))
    } else {
        Err(ConfigError::new(variable, "has to be more than 0 and at most ten years"))
    }
}

pub(super) fn trimmed(list: &[String]) -> Vec<String> {
    list.iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |s| s.trim().to_owned())
}
