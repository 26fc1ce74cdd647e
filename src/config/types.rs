//! What the settings mean, as types: made by [`super::resolve`], passed on to whoever needs them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::recordings::RecordingConfig;
use super::settings::HiddenUrl;
use super::tls::TlsConfig;
use crate::call::Timestamp;
use crate::correlate::numbering::Numbering;
use crate::correlate::{Rules, Zone};
use crate::finding::Finding;

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

impl Config {
    /// Certificates whose time runs out, and those that are set and not looked at.
    pub fn certificate_findings(&self) -> Vec<Finding> {
        let database = &self.source.database;
        let mut findings = database.certificates.findings("database certificates");
        if let Some(ca) = &database.certificates.ca
            && database.tls != TlsMode::Verify
        {
            let text = format!("{} is set, and DB_TLS verifies no certificate", ca.variable);
            findings.push(Finding::warning("database certificates", text, "set DB_TLS=verify"));
        }
        for sink in &self.sinks {
            findings.extend(sink.tls().into_iter().flat_map(|t| t.findings(&format!("sink {}", sink.name()))));
        }
        findings
    }
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
    /// Its `ca` counts with [`TlsMode::Verify`].
    pub certificates: TlsConfig,
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

    pub const fn privacy(&self) -> &NumberPrivacy {
        match self {
            Self::Webhook(c) => &c.privacy,
            Self::File(c) => &c.privacy,
            Self::Sipstack(c) => &c.privacy,
        }
    }

    /// `None`: nothing to encrypt.
    pub const fn tls(&self) -> Option<&TlsConfig> {
        match self {
            Self::Webhook(c) => Some(&c.tls),
            Self::File(_) => None,
            Self::Sipstack(c) => Some(&c.tls),
        }
    }
}

#[derive(Clone, Debug)]
pub struct WebhookConfig {
    pub url: HiddenUrl,
    pub token: Option<SecretString>,
    pub signing_secret: Option<SecretString>,
    pub batch_size: usize,
    pub gzip: bool,
    pub concurrency: usize,
    pub timeout: Duration,
    pub allow_http: bool,
    pub tls: TlsConfig,
    pub privacy: NumberPrivacy,
}

#[derive(Clone, Debug)]
pub struct FileSinkConfig {
    /// `None`: standard output.
    pub path: Option<PathBuf>,
    pub privacy: NumberPrivacy,
}

#[derive(Clone, Debug)]
pub struct SipstackConfig {
    pub url: HiddenUrl,
    pub api_key: SecretString,
    pub customer_id: i64,
    pub tenant: Option<String>,
    pub hostname: String,
    pub include_raw_data: bool,
    pub concurrency: usize,
    pub timeout: Duration,
    pub allow_http: bool,
    pub tls: TlsConfig,
    pub privacy: NumberPrivacy,
}

/// What a sink gets to see of outside parties' phone numbers.
#[derive(Clone, Debug, Default)]
pub struct NumberPrivacy {
    pub way: PrivacyWay,
    pub numbering: Numbering,
    /// Digits of the longest extension: longer runs are numbers.
    pub extension_max: usize,
}

#[derive(Clone, Debug, Default)]
pub enum PrivacyWay {
    #[default]
    Full,
    Masked,
    /// With this key.
    Hashed(SecretString),
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
