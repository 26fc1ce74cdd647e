//! From what was written to what it means: parsed once, checked once.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::settings::{DeliverySettings, LogSettings, MonitoringSettings, RuleSettings, Secrets, Settings};
use super::{
    CelMode, Config, ConfigError, DeliveryConfig, LogConfig, MonitoringConfig, ShippingConfig, StateConfig, labels,
};
use crate::correlate::{DEFAULT_INBOUND_CONTEXTS, Rules};

mod sinks;
mod source;
mod values;

pub(super) use sinks::{api_privacy, api_tls, calls_url};
pub use source::zone;
pub(super) use values::{concurrency, hours, http_url, seconds, trimmed};

type Result<T> = std::result::Result<T, ConfigError>;

impl Config {
    pub fn resolve(settings: &Settings, secrets: Secrets) -> Result<Self> {
        let hostname = settings.sinks.hostname.clone().unwrap_or_else(machine_name);
        let cel = source::cel_mode(&settings.database.cel_mode)?;
        let cdr = source::cdr_mode(&settings.database.cdr_mode)?;
        if cel == CelMode::Off && !cdr {
            return Err(ConfigError::new("CEL_MODE", "CEL_MODE and CDR_MODE are both off: there is nothing to read"));
        }
        let mut rules = rules(&settings.rules)?;
        rules.has_cel = cel == CelMode::Db;
        rules.has_cdr = cdr;
        Ok(Self {
            source: source::source(settings, &secrets, cel, cdr)?,
            rules,
            cdr_grace: seconds("CDR_GRACE", settings.rules.cdr_grace, 0.0, 600.0)?,
            call_max_age: hours("CALL_MAX_AGE", settings.rules.call_max_age)?,
            shipping: ShippingConfig::resolve(&settings.delivery)?,
            sinks: sinks::sinks(settings, &secrets, &hostname)?,
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

fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |s| s.trim().to_owned())
}
