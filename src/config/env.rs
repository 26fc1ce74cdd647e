//! The environment: `.env` files, empty values, names nobody reads, secrets in files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use secrecy::SecretString;
use thiserror::Error;

use super::ConfigError;
use super::dotenv;
use super::settings::{ProvisionSettings, SECRET_NAMES, Secrets, Settings};

#[derive(Debug, Error)]
pub enum EnvError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
}

/// Names the SIPSTACK connector documents that change nothing there or here; setting them deserves a word.
const WITHOUT_EFFECT: &[&str] = &[
    "BATCH_SIZE",
    "CDR_BATCH_FORCE_TIMEOUT",
    "CDR_BATCH_SIZE",
    "CDR_BATCH_TIMEOUT",
    "CDR_LOOKBACK_MINUTES",
    "CDR_MAX_CONCURRENT",
    "CDR_MAX_RETRIES",
    "CDR_QUEUE_SIZE",
    "CEL_CSV_MAX_LINES",
    "CEL_CSV_POLL_INTERVAL",
    "CONNECTION_POOL_SIZE",
    "DETECT_DIRECTION",
    "ENABLE_CALL_THREADS",
    "HOST_HOSTNAME",
    "API_RETRY_ATTEMPTS",
    "MAX_RECORDS_PER_POLL",
    "MAX_WORKERS",
    "METRICS_INTERVAL",
    "PGID",
    "POLL_INTERVAL",
    "PUID",
    "RECORDING_WATCHER_ENABLED",
    "SHIP_COMPLETE_AFTER",
    "SHIP_INCOMPLETE_AFTER",
];

/// Names of the SIPSTACK connector that mean one of ours, which counts where both are set.
const ALSO_CALLED: &[(&str, &str)] = &[
    ("CDR_FILTER_ENABLED", "FILTER_ENABLED"),
    ("CDR_FILTER_EXCLUDE_DST", "FILTER_EXCLUDE_DST"),
    ("CDR_FILTER_MIN_DURATION", "FILTER_MIN_DURATION"),
    ("DID_TENANT_CONFIG", "TENANT_MAP_FILE"),
];

/// Names of the SIPSTACK connector that have no counterpart, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "CDR_FILTER_INTERNAL_ONLY",
        "has no effect: there is no setting that ships internal calls alone. FILTER_INTERNAL=drop leaves them out",
    ),
    (
        "CDR_FILTER_QUEUE_ATTEMPTS",
        "has no effect: attempts of a queue are parts of their call here, and no calls of their own",
    ),
    (
        "CDR_FILTER_ZERO_DURATION",
        "has no effect: calls of no length are shipped. FILTER_MIN_DURATION leaves short calls out",
    ),
];

/// Names (or beginnings that end in `_`) that will mean something when the feature they belong to exists; until then they
/// are told apart from typing errors.
const NOT_YET: &[&str] = &["ASTERISK_CONFIG_FILE", "CEL_CSV_PATH", "VOICEMAIL_"];

/// Prefixes that are ours: an unknown name that begins so is likely a typing error.
const PREFIXES: &[&str] = &[
    "ACCOUNTCODE_",
    "AMI_",
    "API_",
    "ASTERISK_",
    "BATCH_",
    "CALL_",
    "CDR_",
    "CEL_",
    "COUNTRY_",
    "CUSTOMER_",
    "DB_",
    "DID_",
    "FILE_",
    "FILTER_",
    "INBOUND_",
    "INCLUDE_RAW",
    "KNOWN_",
    "LOG_",
    "LONG_CALL_",
    "MONITORING_",
    "NATIONAL_",
    "NUMBER_",
    "OUTAGE_",
    "RECORDING",
    "REGION",
    "RETRY_",
    "SHIP_",
    "SINK",
    "SOURCE_",
    "START_",
    "STATE_",
    "TENANT",
    "VOICEMAIL_",
    "WEBHOOK_",
];

/// Reads `.env` (or the file given) into the environment, where what is set already wins. Then tidies the values of our
/// settings: white space around them and `# comments` behind them go, and empty ones are removed, so that `DB_PORT=`
/// means the same as no `DB_PORT`. Returns what a person should know about that.
///
/// To be called first thing in `main`, before any thread is started.
pub fn load_env(file: Option<&Path>) -> Result<Vec<String>, EnvError> {
    let path = file.map_or_else(|| PathBuf::from(".env"), Path::to_owned);
    let mut set = Vec::new();
    if file.is_some() || path.exists() {
        let fault = |problem| EnvError::File { path: path.clone(), problem };
        let bytes = std::fs::read(&path).map_err(|e| fault(format!("cannot read it: {e}")))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let good = e.as_bytes().iter().take(e.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count();
            fault(format!("line {} is not UTF-8 text", good + 1))
        })?;
        set = dotenv::parse(&text).map_err(|e| fault(e.to_string()))?;
    }
    let mut warnings = Vec::new();
    let mut environment: Vec<(OsString, Option<String>)> = Vec::new();
    for (name, value) in &set {
        // an empty variable outside counts as none, so the file's value is taken
        if std::env::var_os(name).is_none_or(|v| v.is_empty()) {
            environment.push((name.into(), Some(value.clone())));
        }
    }
    apply(environment);
    apply(renamed());
    apply(tidy(&mut warnings));
    Ok(warnings)
}

/// Values under another program's names, under ours. They are tidied there.
fn renamed() -> Vec<(OsString, Option<String>)> {
    let ours_is_free = |name: &str| std::env::var_os(name).is_none_or(|v| v.is_empty());
    let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let free = ALSO_CALLED.iter().filter(|(_, ours)| ours_is_free(ours));
    free.filter_map(|(theirs, ours)| Some(((*ours).into(), Some(value(theirs)?)))).collect()
}

/// What has to change in the environment so that our settings read as they were meant. `docker run --env-file` hands on
/// comments, quotes and blanks as they stand in the file.
fn tidy(warnings: &mut Vec<String>) -> Vec<(OsString, Option<String>)> {
    let mut changes = Vec::new();
    for name in known_names() {
        let Some(value) = std::env::var_os(&name) else { continue };
        let Some(value) = value.to_str() else { continue };
        if SECRET_NAMES.contains(&name.as_str()) {
            if value.is_empty() {
                changes.push((name.clone().into(), None));
            } else if !value.contains("-----BEGIN ")
                && (quoted(value).is_some() || value.trim() != value || value.contains(" #"))
            {
                warnings.push(format!(
                    "{name} holds white space, quotation marks or a comment; it is used as it is (docker run --env-file \
                     removes none of them)"
                ));
            }
            continue;
        }
        let tidied = tidied(value);
        if tidied.is_empty() {
            changes.push((name.into(), None));
        } else if tidied != value {
            changes.push((name.into(), Some(tidied.to_owned())));
        }
    }
    changes
}

fn tidied(value: &str) -> &str {
    let value = value.trim_end();
    let comment = value.char_indices().find(|&(i, c)| c == '#' && value[..i].ends_with(char::is_whitespace));
    let value = value[..comment.map_or(value.len(), |(i, _)| i)].trim();
    quoted(value).unwrap_or(value)
}

/// What stands between the quotation marks, if that is all there is.
fn quoted(value: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|&q| {
        let inner = value.strip_prefix(q)?.strip_suffix(q)?;
        (!inner.contains(q)).then_some(inner)
    })
}

fn apply(changes: Vec<(OsString, Option<String>)>) {
    for (name, value) in changes {
        // SAFETY: `load_env` runs first thing in main, before any thread exists that could read the environment.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}

/// Every name we read.
fn known_names() -> BTreeSet<String> {
    settings_command()
        .get_arguments()
        .filter_map(|a| a.get_env().map(|e| e.to_string_lossy().into_owned()))
        .chain(SECRET_NAMES.iter().map(|&s| s.to_owned()))
        .collect()
}

/// The settings as a command line, to ask for names, defaults and help.
pub(super) fn settings_command() -> clap::Command {
    #[derive(clap::Parser)]
    struct All {
        #[command(flatten)]
        _settings: Settings,
        #[command(flatten)]
        _provision: ProvisionSettings,
    }
    All::command()
}

/// What to tell about names in the environment that look like ours and are not read.
pub fn unknown_names(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut known = known_names();
    // set for the connector that came before, most likely
    known.retain(|name| !name.starts_with("AMI_"));
    let mut warnings: Vec<String> =
        names.filter(|name| !known.contains(name)).filter_map(|name| warning(&name)).collect();
    warnings.sort();
    warnings
}

fn warning(name: &str) -> Option<String> {
    if name.starts_with("AMI_") {
        Some(format!("{name} has no effect on reading calls; `callferry provision` and `callferry trunk` use it"))
    } else if name.starts_with("DELETE_RECORDINGS") {
        Some(format!("{name} has no effect: callferry deletes no recordings"))
    } else if ALSO_CALLED.iter().any(|(theirs, _)| *theirs == name) {
        None
    } else if let Some((_, why)) = REFUSED.iter().find(|(theirs, _)| *theirs == name) {
        Some(format!("{name} {why}"))
    } else if WITHOUT_EFFECT.contains(&name) {
        Some(format!("{name} has no effect; remove it"))
    } else if NOT_YET.iter().any(|p| name == *p || (p.ends_with('_') && name.starts_with(p))) {
        Some(format!("{name} has no effect in this version"))
    } else if PREFIXES.iter().any(|p| name.starts_with(p)) {
        Some(format!("{name} is not a setting of callferry; check its spelling"))
    } else {
        None
    }
}

impl Secrets {
    /// Reads each secret from `<NAME>` or the file `<NAME>_FILE` names.
    pub fn load(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            db_password: secret("DB_PASSWORD", settings.database.db_password_file.as_deref())?,
            webhook_token: secret("WEBHOOK_TOKEN", settings.sinks.webhook_token_file.as_deref())?,
            webhook_secret: secret("WEBHOOK_SECRET", settings.sinks.webhook_secret_file.as_deref())?,
            api_key: secret("API_KEY", settings.sinks.api_key_file.as_deref())?,
            db_client_key: secret("DB_CLIENT_KEY", settings.database.db_client_key_file.as_deref())?,
            webhook_client_key: secret("WEBHOOK_CLIENT_KEY", settings.sinks.webhook_client_key_file.as_deref())?,
            api_client_key: secret("API_CLIENT_KEY", settings.sinks.api_client_key_file.as_deref())?,
            number_privacy_key: secret("NUMBER_PRIVACY_KEY", settings.sinks.number_privacy_key_file.as_deref())?,
        })
    }
}

/// From `<NAME>` or the file of `<NAME>_FILE`.
pub fn secret(name: &str, file: Option<&Path>) -> Result<Option<SecretString>, ConfigError> {
    let direct = match std::env::var(name) {
        Ok(value) => Some(value).filter(|v| !v.is_empty()),
        Err(std::env::VarError::NotPresent) => None,
        Err(std::env::VarError::NotUnicode(_)) => return Err(ConfigError::new(name, "is not UTF-8 text")),
    };
    match (direct, file) {
        (Some(_), Some(_)) => Err(ConfigError::new(name, format!("both {name} and {name}_FILE are set; keep one"))),
        (Some(value), None) => Ok(Some(SecretString::from(value))),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|e| {
                ConfigError::new(format!("{name}_FILE"), format!("cannot read {}: {e}", path.display()))
            })?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                return Err(ConfigError::new(format!("{name}_FILE"), format!("{} is empty", path.display())));
            }
            Ok(Some(SecretString::from(text.to_owned())))
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_tidied_as_docker_hands_them_on() {
        for (raw, meant) in [
            ("us1", "us1"),
            ("us1                          # us1, us2, ca1, or dev", "us1"),
            ("                             # Optional default tenant", ""),
            ("  mysql  ", "mysql"),
            ("\"asterisk\"", "asterisk"),
            ("'asterisk'", "asterisk"),
            ("it's", "it's"),
            ("a'b'", "a'b'"),
            ("https://h/p#f", "https://h/p#f"),
            ("\"", "\""),
        ] {
            assert_eq!(tidied(raw), meant, "{raw:?}");
        }
    }

    #[test]
    fn names_of_the_sipstack_connector_are_told_apart() {
        let names = [
            ("DB_HOST", None),
            ("API_KEY", None),
            ("PATH", None),
            ("HOME", None),
            ("CDR_BATCH_SIZE", Some("no effect; remove")),
            ("RECORDING_PATHS", None),
            ("RECORDING_WATCHER", Some("check its spelling")),
            ("RECORDING_WATCHER_ENABLED", Some("no effect; remove")),
            ("DELETE_RECORDINGS_AFTER_UPLOAD", Some("deletes no recordings")),
            ("DELETE_RECORDINGS", Some("deletes no recordings")),
            ("DB_PASWORD", Some("check its spelling")),
            ("DID_TENANT_CONFIG", None),
            ("CDR_FILTER_MIN_DURATION", None),
            ("CDR_FILTER_INTERNAL_ONLY", Some("FILTER_INTERNAL=drop")),
            ("CDR_FILTER_ZERO_DURATION", Some("FILTER_MIN_DURATION")),
            ("CDR_FILTER_QUEUE_ATTEMPTS", Some("parts of their call")),
            ("CDR_FILTER_SOMETHING", Some("check its spelling")),
            ("STRIP_DIAL_PREFIXES", None),
            ("AMI_HOST", Some("no effect on reading calls")),
        ];
        for (name, expected) in names {
            let warnings = unknown_names(std::iter::once(name.to_owned()));
            match expected {
                None => assert!(warnings.is_empty(), "{warnings:?}"),
                Some(words) => assert!(warnings.len() == 1 && warnings[0].contains(words), "{name}: {warnings:?}"),
            }
        }
    }
}
