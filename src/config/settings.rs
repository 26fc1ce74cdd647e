//! What can be written: one field a setting. Help texts are the documentation; `.env.example` is checked against them.

use std::path::PathBuf;

use clap::Args;
use secrecy::SecretString;

use super::parsers::{above_zero, at_least, boolean, number, whole};

/// An address that may hold a password or a token, in its path too: never shown by `Debug`.
#[derive(Clone)]
pub struct HiddenUrl(String);

impl HiddenUrl {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for HiddenUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl std::fmt::Debug for HiddenUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HiddenUrl(…)")
    }
}

/// Everything `callferry run` reads.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    #[command(flatten)]
    pub database: DatabaseSettings,
    #[command(flatten)]
    pub rules: RuleSettings,
    #[command(flatten)]
    pub sinks: SinkSettings,
    #[command(flatten)]
    pub delivery: DeliverySettings,
    #[command(flatten)]
    pub state: StateSettings,
    #[command(flatten)]
    pub recordings: RecordingSettings,
    #[command(flatten)]
    pub monitoring: MonitoringSettings,
    #[command(flatten)]
    pub log: LogSettings,
}

/// Where the PBX writes.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PBX database")]
pub struct DatabaseSettings {
    /// Name of this PBX; first part of every call id. It is kept in the state, a change is refused
    #[arg(long, env = "SOURCE_ID", default_value = "pbx")]
    pub source_id: String,
    /// Kind of database Asterisk writes to: mysql (also MariaDB), postgresql, sqlite
    #[arg(long, env = "DB_TYPE", default_value = "mysql")]
    pub db_type: String,
    /// Host of the database
    #[arg(long, env = "DB_HOST", default_value = "localhost")]
    pub db_host: String,
    /// Port of the database [default: 3306 for mysql, 5432 for postgresql]
    #[arg(long, env = "DB_PORT", value_parser = number::<u16>(1, 65_535, ""))]
    pub db_port: Option<u16>,
    /// Unix socket to use instead of host and port (MySQL: the socket file; PostgreSQL: its directory)
    #[arg(long, env = "DB_SOCKET")]
    pub db_socket: Option<PathBuf>,
    /// Name of the database; for sqlite the file that cdr_sqlite3_custom writes
    #[arg(long, env = "DB_NAME")]
    pub db_name: Option<String>,
    /// sqlite only: the file that cel_sqlite3_custom writes, where it is not the same
    #[arg(long, env = "DB_NAME_CEL")]
    pub db_name_cel: Option<String>,
    /// User; SELECT on the two tables is all it needs
    #[arg(long, env = "DB_USER", default_value = "asterisk")]
    pub db_user: String,
    /// File that holds the password (or set DB_PASSWORD)
    #[arg(long, env = "DB_PASSWORD_FILE")]
    pub db_password_file: Option<PathBuf>,
    /// Encryption towards the database: off, prefer, require (encrypt, verify nothing), verify (certificate and name)
    #[arg(long, env = "DB_TLS", default_value = "prefer")]
    pub db_tls: String,
    /// PEM file with the certificate authority for DB_TLS=verify [default: the system's]
    #[arg(long, env = "DB_CA_FILE")]
    pub db_ca_file: Option<PathBuf>,
    /// PEM file with a client certificate (and its chain), for servers that ask for one
    #[arg(long, env = "DB_CLIENT_CERT_FILE")]
    pub db_client_cert_file: Option<PathBuf>,
    /// PEM file with the key of that certificate (or set DB_CLIENT_KEY)
    #[arg(long, env = "DB_CLIENT_KEY_FILE")]
    pub db_client_key_file: Option<PathBuf>,
    /// Table of the call detail records, with or without schema (`asteriskcdrdb.cdr`)
    #[arg(long, env = "DB_TABLE_CDR", default_value = "cdr")]
    pub db_table_cdr: String,
    /// Table of the channel events
    #[arg(long, env = "DB_TABLE_CEL", default_value = "cel")]
    pub db_table_cel: String,
    /// Table of recordings: linkedid, filename or file_path, and if it has it file_size [default: none]
    #[arg(long, env = "DB_TABLE_RECORDINGS")]
    pub db_table_recordings: Option<String>,
    /// Where channel events come from: db, or off when there are none
    #[arg(long, env = "CEL_MODE", default_value = "db")]
    pub cel_mode: String,
    /// Where call detail records come from: db, or off when there are none
    #[arg(long, env = "CDR_MODE", default_value = "db")]
    pub cdr_mode: String,
    /// Zone of the times in the tables, as an IANA name (Europe/Prague) or UTC [default: read off the uniqueids]
    #[arg(long = "timezone", visible_alias = "db-timezone", env = "DB_TIMEZONE")]
    pub db_timezone: Option<String>,
    /// Where to begin when the state is empty: now, all, or a date (2026-11-20, or with time in UTC: 2026-11-20T08:00:00Z)
    #[arg(long, env = "START_FROM", default_value = "now")]
    pub start_from: String,
    /// Seconds between polls while calls arrive
    #[arg(long, env = "BUSY_POLL_INTERVAL", default_value = "1", value_parser = number(0.05, 3_600.0, "seconds"))]
    pub busy_poll_interval: f64,
    /// Seconds between polls while nothing arrives
    #[arg(long, env = "CDR_POLL_INTERVAL", default_value = "5", value_parser = number(0.05, 3_600.0, "seconds"))]
    pub cdr_poll_interval: f64,
    /// Rows read at once
    #[arg(long, env = "DB_PAGE_SIZE", default_value = "2000", value_parser = number::<u32>(1, 100_000, "rows"))]
    pub db_page_size: u32,
    /// Connections to the PBX database at most
    #[arg(long, env = "DB_CONNECTIONS", default_value = "2", value_parser = number::<u32>(1, 16, ""))]
    pub db_connections: u32,
    /// Seconds to wait for a connection or an answer of the database
    #[arg(long, env = "DB_TIMEOUT", default_value = "30", value_parser = number::<u64>(1, 3_600, "seconds"))]
    pub db_timeout: u64,
}

/// What makes a call what it is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Calls")]
pub struct RuleSettings {
    /// Trunk endpoints as globs, comma separated: PJSIP/trunk-* or, for any technology, trunk-*
    #[arg(long = "trunk-pattern", visible_alias = "known-trunks", env = "KNOWN_TRUNKS", value_delimiter = ',')]
    pub known_trunks: Vec<String>,
    /// Contexts through which calls from outside enter, as globs [default: from-trunk*, from-pstn*, from-did* and the like]
    #[arg(long = "inbound-context", env = "INBOUND_CONTEXTS", value_delimiter = ',')]
    pub inbound_contexts: Vec<String>,
    /// Digits of the shortest extension
    #[arg(long, env = "ASTERISK_EXT_MIN_LENGTH", default_value = "2", value_parser = number::<usize>(1, 40, "digits"))]
    pub asterisk_ext_min_length: usize,
    /// Digits of the longest extension
    #[arg(long, env = "ASTERISK_EXT_MAX_LENGTH", default_value = "7", value_parser = number::<usize>(1, 40, "digits"))]
    pub asterisk_ext_max_length: usize,
    /// Count calls that only an application answered (Stasis, AGI, AudioSocket) as self_service instead of answered
    #[arg(long, env = "APPLICATIONS_SELF_SERVICE", default_value = "false", action = clap::ArgAction::Set, value_parser = boolean)]
    pub applications_self_service: bool,
    /// Tenants by endpoint of the caller, then of the called: pattern=tenant, comma separated; {1} is what the first * matched (docs/numbers-and-tenants.md): PJSIP/*-acme=acme
    #[arg(long, env = "TENANT_BY_ENDPOINT", value_name = "PATTERN=TENANT")]
    pub tenant_by_endpoint: Vec<String>,
    /// Tenants by a context the caller went through, in the same form: acme-*=acme
    #[arg(long, env = "TENANT_BY_CONTEXT", value_name = "PATTERN=TENANT")]
    pub tenant_by_context: Vec<String>,
    /// Tenants by the number a caller from outside reached: 14165550123:acme,14165550199:beta
    #[arg(long, env = "DID_TENANT_MAP", value_name = "DID=TENANT")]
    pub did_tenant_map: Vec<String>,
    /// Tenants by account code: AC:acme,BT:beta; *={1} takes the account code itself
    #[arg(long, env = "ACCOUNTCODE_TENANT_MAP", value_name = "CODE=TENANT")]
    pub accountcode_tenant_map: Vec<String>,
    /// JSON file with more of the four: {"endpoint_mappings": {…}, "context_mappings": {…}, "did_mappings": {…}, "accountcode_mappings": {…}}
    #[arg(long, env = "TENANT_MAP_FILE", value_name = "FILE")]
    pub tenant_map_file: Option<PathBuf>,
    /// Tenant of every call for which no rule finds one
    #[arg(long, env = "TENANT")]
    pub tenant: Option<String>,

    /// Fill in the E.164 form of outside numbers
    #[arg(long, env = "NORMALIZE_PHONE_NUMBERS", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub normalize_phone_numbers: bool,
    /// The same; both have to be true
    #[arg(long, env = "ASTERISK_E164_ENABLED", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub asterisk_e164_enabled: bool,
    /// Country code of the PBX, 1, 44, 420 …; without it only numbers that begin with + have an E.164 form
    #[arg(long, env = "COUNTRY_CODE")]
    pub country_code: Option<String>,
    /// What is dialled before a national number, or none [default: that of the country]
    #[arg(long, env = "NATIONAL_PREFIX")]
    pub national_prefix: Option<String>,
    /// Digits of a national number without its prefix: 9, or 8-10 [default: that of the country]
    #[arg(long, env = "NATIONAL_NUMBER_LENGTH")]
    pub national_number_length: Option<String>,
    /// What is dialled before a country code, comma separated; + is always one [default: that of the country]
    #[arg(long, visible_alias = "international-prefixes", env = "ASTERISK_INTL_PREFIXES", value_delimiter = ',')]
    pub asterisk_intl_prefixes: Vec<String>,
    /// What is dialled before outside numbers, comma separated: 9,*67. Taken off for the E.164 form where a whole number remains
    #[arg(long, env = "STRIP_DIAL_PREFIXES", value_delimiter = ',')]
    pub strip_dial_prefixes: Vec<String>,

    /// Switch for the four filters below
    #[arg(long, env = "FILTER_ENABLED", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub filter_enabled: bool,
    /// Internal calls: keep, or drop (known to the agent and not shipped)
    #[arg(long, env = "FILTER_INTERNAL", default_value = "keep")]
    pub filter_internal: String,
    /// Do not ship calls that lasted fewer seconds, from first ring to end
    #[arg(long, env = "FILTER_MIN_DURATION", default_value = "0", value_parser = number(0.0, 86_400.0, "seconds"))]
    pub filter_min_duration: f64,
    /// Do not ship calls to these numbers, as globs, comma separated: *97,7*
    #[arg(long, env = "FILTER_EXCLUDE_DST", value_delimiter = ',')]
    pub filter_exclude_dst: Vec<String>,
    /// Do not ship calls whose caller began in these contexts, as globs, comma separated
    #[arg(long, env = "FILTER_EXCLUDE_CONTEXTS", value_delimiter = ',')]
    pub filter_exclude_contexts: Vec<String>,

    /// Seconds to wait for the CDR of a call whose channels have all ended
    #[arg(long, env = "CDR_GRACE", default_value = "5", value_parser = number(0.0, 600.0, "seconds"))]
    pub cdr_grace: f64,
    /// Hours after which a call that never ended is shipped as it is, marked incomplete
    #[arg(long, env = "CALL_MAX_AGE", default_value = "24", value_parser = above_zero(87_600.0, "hours"))]
    pub call_max_age: f64,
}

/// Where calls go.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sinks")]
pub struct SinkSettings {
    /// Where finished calls go, comma separated: webhook, file, sipstack [default: sipstack when API_KEY is set]
    #[arg(long = "sinks", env = "SINKS", value_delimiter = ',')]
    pub sinks: Vec<String>,

    /// webhook: URL that receives each call (or each batch) by POST
    #[arg(long, env = "WEBHOOK_URL", hide_env_values = true)]
    pub webhook_url: Option<HiddenUrl>,
    /// webhook: file with the bearer token (or set WEBHOOK_TOKEN)
    #[arg(long, env = "WEBHOOK_TOKEN_FILE")]
    pub webhook_token_file: Option<PathBuf>,
    /// webhook: file with the Standard Webhooks signing secret, whsec_… (or set WEBHOOK_SECRET)
    #[arg(long, env = "WEBHOOK_SECRET_FILE")]
    pub webhook_secret_file: Option<PathBuf>,
    /// webhook: PEM file with the certificate authority to believe, and no other [default: the system's]
    #[arg(long, env = "WEBHOOK_CA_FILE")]
    pub webhook_ca_file: Option<PathBuf>,
    /// webhook: PEM file with a client certificate (and its chain), for receivers that ask for one
    #[arg(long, env = "WEBHOOK_CLIENT_CERT_FILE")]
    pub webhook_client_cert_file: Option<PathBuf>,
    /// webhook: PEM file with the key of that certificate (or set WEBHOOK_CLIENT_KEY)
    #[arg(long, env = "WEBHOOK_CLIENT_KEY_FILE")]
    pub webhook_client_key_file: Option<PathBuf>,
    /// webhook: calls in one request; 1 posts an object, more always an array
    #[arg(long, env = "WEBHOOK_BATCH_SIZE", default_value = "1", value_parser = number::<usize>(1, 1_000, "calls"))]
    pub webhook_batch_size: usize,
    /// webhook: compress the body with gzip
    #[arg(long, env = "WEBHOOK_GZIP", default_value = "false", action = clap::ArgAction::Set, value_parser = boolean)]
    pub webhook_gzip: bool,
    /// webhook: requests at the same time
    #[arg(long, env = "WEBHOOK_CONCURRENCY", default_value = "4", value_parser = number::<usize>(1, 64, "requests"))]
    pub webhook_concurrency: usize,
    /// webhook: seconds to wait for an answer
    #[arg(long, env = "WEBHOOK_TIMEOUT", default_value = "30", value_parser = number(0.1, 3_600.0, "seconds"))]
    pub webhook_timeout: f64,

    /// file: NDJSON file that calls are appended to, - for standard output
    #[arg(long, env = "FILE_PATH", default_value = "-")]
    pub file_path: String,

    /// sipstack: file with the API key (or set API_KEY)
    #[arg(long, env = "API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// sipstack: PEM file with the certificate authority to believe, and no other [default: the system's]
    #[arg(long, env = "API_CA_FILE")]
    pub api_ca_file: Option<PathBuf>,
    /// sipstack: PEM file with a client certificate (and its chain), for an API that asks for one
    #[arg(long, env = "API_CLIENT_CERT_FILE")]
    pub api_client_cert_file: Option<PathBuf>,
    /// sipstack: PEM file with the key of that certificate (or set API_CLIENT_KEY)
    #[arg(long, env = "API_CLIENT_KEY_FILE")]
    pub api_client_key_file: Option<PathBuf>,
    /// sipstack: region, one of dev, ca1, us1, us2
    #[arg(long, env = "REGION", default_value = "us1")]
    pub region: String,
    /// sipstack: URL that replaces the region's
    #[arg(long, env = "API_ENDPOINT", hide_env_values = true)]
    pub api_endpoint: Option<HiddenUrl>,
    /// sipstack: the same, used when API_ENDPOINT is not set
    #[arg(long, env = "API_URL", hide_env_values = true)]
    pub api_url: Option<HiddenUrl>,
    /// sipstack: customer number
    #[arg(long, env = "CUSTOMER_ID", default_value = "0", value_parser = whole)]
    pub customer_id: i64,
    /// Name of the PBX as shown to receivers [default: the machine's name]
    #[arg(long, env = "HOSTNAME")]
    pub hostname: Option<String>,
    /// sipstack: send the rows of each call along
    #[arg(long, env = "INCLUDE_RAW_DATA", default_value = "false", action = clap::ArgAction::Set, value_parser = boolean)]
    pub include_raw_data: bool,
    /// sipstack: requests at the same time
    #[arg(long, env = "API_CONCURRENCY", default_value = "10", value_parser = number::<usize>(1, 64, "requests"))]
    pub api_concurrency: usize,
    /// sipstack: seconds to wait for an answer
    #[arg(long, env = "API_TIMEOUT", default_value = "30", value_parser = number(0.1, 3_600.0, "seconds"))]
    pub api_timeout: f64,

    /// Allow bearer tokens over plain http to hosts that are neither loopback nor private
    #[arg(long, env = "ALLOW_HTTP", default_value = "false", action = clap::ArgAction::Set, value_parser = boolean)]
    pub allow_http: bool,

    /// Phone numbers of outside parties in what is sent: full, masked (all but the last three digits), or hashed (the same
    /// number is the same word everywhere, and nobody reads it; needs NUMBER_PRIVACY_KEY)
    #[arg(long, env = "NUMBER_PRIVACY", default_value = "full")]
    pub number_privacy: String,
    /// The same for the webhook alone [default: NUMBER_PRIVACY]
    #[arg(long, env = "WEBHOOK_NUMBER_PRIVACY")]
    pub webhook_number_privacy: Option<String>,
    /// The same for the file alone [default: NUMBER_PRIVACY]
    #[arg(long, env = "FILE_NUMBER_PRIVACY")]
    pub file_number_privacy: Option<String>,
    /// The same for sipstack and the upload of recordings alone [default: NUMBER_PRIVACY]
    #[arg(long, env = "API_NUMBER_PRIVACY")]
    pub api_number_privacy: Option<String>,
    /// File with the key of hashed numbers, 16 characters at least (or set NUMBER_PRIVACY_KEY); another key makes other words
    #[arg(long, env = "NUMBER_PRIVACY_KEY_FILE")]
    pub number_privacy_key_file: Option<PathBuf>,
}

/// When calls are shipped, and how deliveries are tried again.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DeliverySettings {
    /// When a call is shipped: complete (once, when it is over) or progressive (also as it goes: when it begins, is answered,
    /// transferred …, as documents of the same id with state in_progress and growing revisions)
    #[arg(long, env = "CALL_SHIPPING_MODE", default_value = "complete")]
    pub call_shipping_mode: String,
    /// Seconds after which a call that is still up is shipped as in_progress, and again each time they have passed; 0: never
    /// [default: 600 when CALL_SHIPPING_MODE is progressive, else 0]
    #[arg(long, env = "LONG_CALL_UPDATE_INTERVAL", value_parser = number(0.0, 86_400.0, "seconds"))]
    pub long_call_update_interval: Option<f64>,
    /// Seconds before the first retry; doubles from try to try, with full jitter
    #[arg(long, env = "RETRY_BASE", default_value = "1", value_parser = number(0.01, 3_600.0, "seconds"))]
    pub retry_base: f64,
    /// Seconds between retries at most
    #[arg(long, env = "RETRY_CAP", default_value = "600", value_parser = number(0.01, 86_400.0, "seconds"))]
    pub retry_cap: f64,
    /// Hours a call is tried while its sink works for others; time in which the sink is down does not count
    #[arg(long, env = "RETRY_MAX_AGE", default_value = "48", value_parser = above_zero(87_600.0, "hours"))]
    pub retry_max_age: f64,
    /// Days a call waits for a sink that is down
    #[arg(long, env = "OUTAGE_MAX_AGE", default_value = "14", value_parser = above_zero(3_650.0, "days"))]
    pub outage_max_age: f64,
}

/// What the agent keeps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "State")]
pub struct StateSettings {
    /// Directory of the agent's own state
    #[arg(long, env = "STATE_DIR", default_value = "data")]
    pub state_dir: PathBuf,
    /// Days to keep rows and documents of delivered calls
    #[arg(long, env = "STATE_RETENTION", default_value = "7", value_parser = above_zero(3_650.0, "days"))]
    pub state_retention: f64,
    /// Megabytes the state may take
    #[arg(long, env = "STATE_MAX_SIZE", default_value = "2048", value_parser = at_least(64, "megabytes"))]
    pub state_max_size: u64,
    /// Megabytes that have to stay free on the disk of the state (or 5 % of it, whichever is less)
    #[arg(long, env = "STATE_MIN_FREE", default_value = "256", value_parser = at_least(0, "megabytes"))]
    pub state_min_free: u64,
}

/// Recording files.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Recordings")]
pub struct RecordingSettings {
    /// Look for recording files [default: true when RECORDING_PATHS is set]
    #[arg(long, env = "RECORDING_ENABLED", action = clap::ArgAction::Set, value_parser = boolean)]
    pub recording_enabled: Option<bool>,
    /// Folders to look in, comma separated, with everything below them; nothing outside is ever opened [default, when
    /// RECORDING_ENABLED=true: /var/spool/asterisk/monitor]
    #[arg(long = "recording-path", env = "RECORDING_PATHS", value_delimiter = ',')]
    pub recording_paths: Vec<String>,
    /// Endings of recording files, comma separated, in upper or lower case
    #[arg(long, env = "RECORDING_FILE_EXTENSIONS", value_delimiter = ',', default_value = "wav,wav49,mp3,gsm,ogg")]
    pub recording_file_extensions: Vec<String>,
    /// Bytes a file has at least; smaller ones are not there yet
    #[arg(long, env = "RECORDING_MIN_FILE_SIZE", default_value = "1024", value_parser = at_least(0, "bytes"))]
    pub recording_min_file_size: u64,
    /// Hours since it was written last after which a file is no longer looked at
    #[arg(long, env = "RECORDING_MAX_AGE_HOURS", default_value = "24", value_parser = above_zero(87_600.0, "hours"))]
    pub recording_max_age_hours: f64,
    /// How often in a row a file has to be found unchanged before it counts
    #[arg(long, env = "RECORDING_STABILITY_CHECK_COUNT", default_value = "2", value_parser = number::<u32>(1, 100, ""))]
    pub recording_stability_check_count: u32,
    /// Seconds between these checks
    #[arg(long, env = "RECORDING_STABILITY_CHECK_INTERVAL", default_value = "2", value_parser = number(0.01, 600.0, "seconds"))]
    pub recording_stability_check_interval: f64,
    /// Send the files to the SIPSTACK API (needs API_KEY); nothing is ever deleted
    #[arg(long, env = "RECORDING_UPLOAD_ENABLED", default_value = "false", action = clap::ArgAction::Set, value_parser = boolean)]
    pub recording_upload_enabled: bool,
    /// URL they are sent to [default: /v1/mqs/recording of the host that calls are sent to]
    #[arg(long, env = "RECORDING_UPLOAD_URL", hide_env_values = true)]
    pub recording_upload_url: Option<HiddenUrl>,
    /// Files sent at the same time
    #[arg(long, env = "RECORDING_UPLOAD_CONCURRENCY", default_value = "2", value_parser = number::<usize>(1, 64, "files"))]
    pub recording_upload_concurrency: usize,
    /// Seconds one file may take
    #[arg(long, env = "RECORDING_UPLOAD_TIMEOUT", default_value = "300", value_parser = number(0.1, 86_400.0, "seconds"))]
    pub recording_upload_timeout: f64,
}

/// Being watched.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Monitoring")]
pub struct MonitoringSettings {
    /// Serve /metrics, /healthz and /readyz
    #[arg(long, env = "MONITORING_ENABLED", default_value = "true", action = clap::ArgAction::Set, value_parser = boolean)]
    pub monitoring_enabled: bool,
    /// Address to serve them on (0.0.0.0 in the container)
    #[arg(long, env = "MONITORING_ADDRESS", default_value = "127.0.0.1")]
    pub monitoring_address: String,
    /// Port to serve them on
    #[arg(long, env = "MONITORING_PORT", default_value = "8000", value_parser = number::<u16>(0, 65_535, ""))]
    pub monitoring_port: u16,
}

/// What is logged.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogSettings {
    /// error, warn, info, debug, trace, or a filter such as callferry::ship=debug,info
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true)]
    pub log_level: String,
    /// human or json
    #[arg(long, env = "LOG_FORMAT", default_value = "human", global = true)]
    pub log_format: String,
    /// Phone numbers in the log: masked or plain
    #[arg(long, env = "LOG_NUMBERS", default_value = "masked", global = true)]
    pub log_numbers: String,
}

/// What `callferry provision` and `callferry trunk` read.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Provisioning")]
pub struct ProvisionSettings {
    /// File with the address of Asterisk's realtime database (or set PROVISION_DSN): postgresql://user:password@host/db or mysql://…
    #[arg(long, env = "PROVISION_DSN_FILE", global = true)]
    pub provision_dsn_file: Option<PathBuf>,
    /// First part of every id of ours; rows of other namespaces are never touched
    #[arg(long, env = "PROVISION_NAMESPACE", default_value = "cf", global = true)]
    pub provision_namespace: String,
    /// Seconds to wait for registrations
    #[arg(long, env = "PROVISION_WAIT", default_value = "20", global = true, value_parser = number::<u64>(0, 86_400, "seconds"))]
    pub provision_wait: u64,
    /// Host of Asterisk's manager interface; without it rows are written and not activated
    #[arg(long, env = "AMI_HOST", global = true)]
    pub ami_host: Option<String>,
    /// Port of the manager interface
    #[arg(long, env = "AMI_PORT", default_value = "5038", global = true, value_parser = number::<u16>(1, 65_535, ""))]
    pub ami_port: u16,
    /// Manager user; in manager.conf it needs read = system and write = system,reporting,command
    #[arg(long, env = "AMI_USERNAME", default_value = "callferry", global = true)]
    pub ami_username: String,
    /// File with the manager user's secret (or set AMI_PASSWORD)
    #[arg(long, env = "AMI_PASSWORD_FILE", global = true)]
    pub ami_password_file: Option<PathBuf>,
    /// Encrypt the manager connection and verify its certificate
    #[arg(long, env = "AMI_TLS", default_value = "false", action = clap::ArgAction::Set, global = true)]
    pub ami_tls: bool,
    /// PEM file of the authority that signed the manager's certificate [default: those of the system]
    #[arg(long, env = "AMI_CA_FILE", value_name = "FILE", global = true)]
    pub ami_ca_file: Option<PathBuf>,
    /// File of context stubs to keep up to date, which extensions.conf has to #include; `dialplan reload` follows
    #[arg(long, env = "PROVISION_STUBS", value_name = "FILE", global = true)]
    pub provision_stubs: Option<PathBuf>,
    /// Do not talk to Asterisk
    #[arg(long, global = true)]
    pub no_activate: bool,
}

/// Values that are read from the environment or from the file that `<NAME>_FILE` names, and never from a flag: a command
/// line is visible to every user of a machine.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    pub db_password: Option<SecretString>,
    pub webhook_token: Option<SecretString>,
    pub webhook_secret: Option<SecretString>,
    pub api_key: Option<SecretString>,
    pub db_client_key: Option<SecretString>,
    pub webhook_client_key: Option<SecretString>,
    pub api_client_key: Option<SecretString>,
    pub number_privacy_key: Option<SecretString>,
}

/// A setting that one command alone has: for `.env.example` and for the warning about unknown names.
pub struct CommandSetting {
    pub name: &'static str,
    pub help: &'static str,
    pub default: &'static str,
}

pub const COMMAND_SETTINGS: &[CommandSetting] = &[
    CommandSetting {
        name: "PROVISION_MAX_DELETES",
        help: "provision apply: trunks, extensions and queues that may be deleted at once",
        default: "5",
    },
    CommandSetting {
        name: "TRUNK_PASSWORD_FILE",
        help: "trunk add: file with the SIP password (or set TRUNK_PASSWORD; else it is asked for)",
        default: "",
    },
];

/// Names of the secrets, for `.env.example` and for the warning about unknown names.
pub const SECRET_NAMES: &[&str] = &[
    "DB_PASSWORD",
    "DB_CLIENT_KEY",
    "WEBHOOK_TOKEN",
    "WEBHOOK_SECRET",
    "WEBHOOK_CLIENT_KEY",
    "API_KEY",
    "API_CLIENT_KEY",
    "NUMBER_PRIVACY_KEY",
    "PROVISION_DSN",
    "AMI_PASSWORD",
    "TRUNK_PASSWORD",
];
