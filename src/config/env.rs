//! The environment: `.env` files, empty values, secrets in files.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use clap::CommandFactory;
use secrecy::SecretString;
use thiserror::Error;

use super::ConfigError;
use super::dotenv;
use super::faults::Faults;
use super::settings::{COMMAND_SETTINGS, ProvisionSettings, SECRET_NAMES, Secrets, Settings};

#[derive(Debug, Error)]
pub enum EnvError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
}

/// Names that stand in the `.env` file: whoever wrote one there meant it for us.
static IN_FILE: OnceLock<BTreeSet<String>> = OnceLock::new();

pub(super) fn names_in_file() -> BTreeSet<String> {
    IN_FILE.get().cloned().unwrap_or_default()
}

/// Names of the SIPSTACK connector that mean one of ours, which counts where both are set.
pub(super) const ALSO_CALLED: &[(&str, &str)] = &[
    ("CDR_FILTER_ENABLED", "FILTER_ENABLED"),
    ("CDR_FILTER_EXCLUDE_DST", "FILTER_EXCLUDE_DST"),
    ("CDR_FILTER_MIN_DURATION", "FILTER_MIN_DURATION"),
    ("DID_TENANT_CONFIG", "TENANT_MAP_FILE"),
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
    let _ = IN_FILE.set(set.iter().map(|(name, _)| name.clone()).collect());
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

/// Takes a setting out of the environment, so that those after it can be looked at. To be called in `main`, before any
/// thread is started.
pub fn set_aside(variable: &str) {
    apply(vec![(variable.into(), None)]);
}

fn apply(changes: Vec<(OsString, Option<String>)>) {
    for (name, value) in changes {
        // SAFETY: called first thing in main, before any thread exists that could read the environment.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
}

/// Every name we read.
pub(super) fn known_names() -> BTreeSet<String> {
    settings_command()
        .get_arguments()
        .filter_map(|a| a.get_env().map(|e| e.to_string_lossy().into_owned()))
        .chain(SECRET_NAMES.iter().map(|&s| s.to_owned()))
        .chain(COMMAND_SETTINGS.iter().map(|s| s.name.to_owned()))
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

impl Secrets {
    /// Reads each secret from `<NAME>` or the file `<NAME>_FILE` names.
    pub(super) fn load(settings: &Settings, faults: &mut Faults) -> Self {
        let mut load = |name, file: &Option<PathBuf>| faults.take(secret(name, file.as_deref())).flatten();
        let (database, sinks) = (&settings.database, &settings.sinks);
        Self {
            db_password: load("DB_PASSWORD", &database.db_password_file),
            webhook_token: load("WEBHOOK_TOKEN", &sinks.webhook_token_file),
            webhook_secret: load("WEBHOOK_SECRET", &sinks.webhook_secret_file),
            api_key: load("API_KEY", &sinks.api_key_file),
            db_client_key: load("DB_CLIENT_KEY", &database.db_client_key_file),
            webhook_client_key: load("WEBHOOK_CLIENT_KEY", &sinks.webhook_client_key_file),
            api_client_key: load("API_CLIENT_KEY", &sinks.api_client_key_file),
            number_privacy_key: load("NUMBER_PRIVACY_KEY", &sinks.number_privacy_key_file),
        }
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
}
