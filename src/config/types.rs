//! What the settings mean, as types: made by [`super::resolve`], passed on to whoever needs them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::recordings::RecordingConfig;
use crate::call::Timestamp;
use crate::correlate::{Rules, Zone};

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
