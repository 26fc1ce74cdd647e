//! From what was written to what it means: parsed once, checked once.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::settings::{DeliverySettings, LogSettings, MonitoringSettings, RuleSettings, Secrets, Settings};
use super::{
    CelMode, Config, ConfigError, DeliveryConfig, Faults, LogConfig, MonitoringConfig, ShippingConfig, StateConfig,
    labels,
};
use crate::correlate::{DEFAULT_INBOUND_CONTEXTS, Rules};

mod sinks;
mod source;
mod values;

pub(super) use sinks::{api_privacy, api_tls, calls_url};
pub use source::zone;
pub(super) use values::{http_url, trimmed};

type Result<T> = std::result::Result<T, ConfigError>;

const HOUR: f64 = 3_600.0;
const DAY: f64 = 24.0 * HOUR;

impl Config {
    /// What the settings mean, or all of them that cannot be used.
    pub fn read(settings: &Settings) -> std::result::Result<Self, Faults> {
        let mut faults = Faults::default();
        match Self::resolve(settings, &mut faults) {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(faults),
        }
    }

    /// Everything is looked at before the first fault ends it.
    fn resolve(settings: &Settings, faults: &mut Faults) -> Option<Self> {
        let log = faults.take(LogConfig::resolve(&settings.log));
        let secrets = Secrets::load(settings, faults);
        let hostname = settings.sinks.hostname.clone().unwrap_or_else(machine_name);
        let cel = faults.take(source::cel_mode(&settings.database.cel_mode));
        let cdr = faults.take(source::cdr_mode(&settings.database.cdr_mode));
        if cel == Some(CelMode::Off) && cdr == Some(false) {
            let problem = "CEL_MODE and CDR_MODE are both off: there is nothing to read";
            faults.add(ConfigError::new("CEL_MODE", problem));
        }
        let rules = faults.take(rules(&settings.rules));
        let source = source::source(settings, &secrets, cel, cdr, faults);
        let sinks = sinks::sinks(settings, &secrets, &hostname, faults);
        let shipping = faults.take(ShippingConfig::resolve(&settings.delivery));
        let recordings = faults.take(super::recordings::resolve(settings, &secrets));
        let monitoring = faults.take(MonitoringConfig::resolve(&settings.monitoring));
        let mut rules = rules?;
        rules.has_cel = cel? == CelMode::Db;
        rules.has_cdr = cdr?;
        let source = source?;
        rules.zone_read_off = source.zone.is_none();
        Some(Self {
            source,
            rules,
            cdr_grace: Duration::from_secs_f64(settings.rules.cdr_grace),
            call_max_age: Duration::from_secs_f64(settings.rules.call_max_age * HOUR),
            shipping: shipping?,
            sinks,
            delivery: DeliveryConfig {
                retry_base: Duration::from_secs_f64(settings.delivery.retry_base),
                retry_cap: Duration::from_secs_f64(settings.delivery.retry_cap),
                retry_max_age: Duration::from_secs_f64(settings.delivery.retry_max_age * HOUR),
                outage_max_age: Duration::from_secs_f64(settings.delivery.outage_max_age * DAY),
            },
            state: state(settings),
            recordings: recordings?,
            monitoring: monitoring?,
            log: log?,
            hostname,
        })
    }
}

/// Rules alone, for commands that correlate files.
pub fn rules(s: &RuleSettings) -> Result<Rules> {
    if s.asterisk_ext_min_length > s.asterisk_ext_max_length {
        return Err(ConfigError::new(
            "ASTERISK_EXT_MIN_LENGTH",
            format!(
                "{} is more than ASTERISK_EXT_MAX_LENGTH ({})",
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

fn state(settings: &Settings) -> StateConfig {
    let s = &settings.state;
    StateConfig {
        dir: s.state_dir.clone(),
        retention: Duration::from_secs_f64(s.state_retention * DAY),
        max_size: s.state_max_size.saturating_mul(1_000_000),
        min_free: s.state_min_free.saturating_mul(1_000_000),
    }
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
