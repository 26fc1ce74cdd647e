//! Names nobody reads: typing errors, and names of other programs in whose place callferry was put.

use std::collections::BTreeSet;

use super::env::{ALSO_CALLED, known_names, names_in_file};

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

/// Names that may stand beside ours, in the file or around it: those of compose.yml, of systemd, of libraries.
const OF_OTHERS: &[&str] = &[
    "ALL_PROXY",
    "CALLFERRY_IMAGE",
    "COMPOSE_",
    "DOCKER_",
    "ENV_FILE",
    "GRAFANA_PASSWORD",
    "GRAFANA_PUBLISH",
    "HOME",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LANG",
    "LC_",
    "MONITORING_PUBLISH",
    "NO_COLOR",
    "NO_PROXY",
    "PATH",
    "PROMETHEUS_PUBLISH",
    "RUST_BACKTRACE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "STATE_DIRECTORY",
    "TZ",
];

/// What to tell about names that look like ours and are not read, and about every other one in the `.env` file.
pub fn unknown_names() -> Vec<String> {
    let environment = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    unknown(environment, &names_in_file())
}

fn unknown(environment: impl Iterator<Item = String>, in_file: &BTreeSet<String>) -> Vec<String> {
    let known = known_names();
    let names: BTreeSet<String> = environment.chain(in_file.iter().cloned()).collect();
    let provisions = names.contains("PROVISION_DSN") || names.contains("PROVISION_DSN_FILE");
    names.iter().filter_map(|name| warning(name, &known, provisions, in_file.contains(name))).collect()
}

fn warning(name: &str, known: &BTreeSet<String>, provisions: bool, in_file: bool) -> Option<String> {
    if known.contains(name) {
        // without the other settings of provisioning it was set for the connector that came before, most likely
        return (name.starts_with("AMI_") && !provisions).then(|| {
            format!("{name} has no effect on reading calls; `callferry provision` and `callferry trunk` use it")
        });
    }
    if name.starts_with("DELETE_RECORDINGS") {
        Some(format!("{name} has no effect: callferry deletes no recordings"))
    } else if ALSO_CALLED.iter().any(|(theirs, _)| *theirs == name) || is_of(OF_OTHERS, &name.to_ascii_uppercase()) {
        None
    } else if let Some((_, why)) = REFUSED.iter().find(|(theirs, _)| *theirs == name) {
        Some(format!("{name} {why}"))
    } else if WITHOUT_EFFECT.contains(&name) {
        Some(format!("{name} has no effect; remove it"))
    } else if is_of(NOT_YET, name) {
        Some(format!("{name} has no effect in this version"))
    } else if let Some(meant) = meant(name, known, in_file) {
        Some(format!("{name} is not a setting of callferry: did you mean {meant}?"))
    } else if in_file || PREFIXES.iter().any(|p| name.starts_with(p)) {
        Some(format!("{name} is not a setting of callferry; check its spelling"))
    } else {
        None
    }
}

/// Whether it is in the list, or begins as an entry that ends in `_`.
fn is_of(list: &[&str], name: &str) -> bool {
    list.iter().any(|entry| name == *entry || (entry.ends_with('_') && name.starts_with(entry)))
}

/// The setting that a name is so near to that it is one mistyped. In the file a part of a name will do as well.
fn meant<'a>(name: &str, known: &'a BTreeSet<String>, in_file: bool) -> Option<&'a str> {
    let upper = name.to_ascii_uppercase();
    let most = match upper.chars().count() {
        0..=3 => 0,
        4..=8 => 1,
        _ => 2,
    };
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(&upper, k), k)).min();
    if let Some((_, meant)) = near.filter(|(distance, _)| *distance <= most) {
        return Some(meant);
    }
    let part = |k: &&String| k.ends_with(&format!("_{upper}")) || k.starts_with(&format!("{upper}_"));
    let mut whole = known.iter().filter(part);
    let first = whole.next().filter(|_| in_file)?;
    whole.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_environment(names: &[&str]) -> Vec<String> {
        unknown(names.iter().map(|&n| n.to_owned()), &BTreeSet::new())
    }

    fn of_file(names: &[&str]) -> Vec<String> {
        unknown(std::iter::empty(), &names.iter().map(|&n| n.to_owned()).collect())
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
            ("DB_PASWORD", Some("did you mean DB_PASSWORD?")),
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
            let warnings = of_environment(&[name]);
            match expected {
                None => assert!(warnings.is_empty(), "{warnings:?}"),
                Some(words) => assert!(warnings.len() == 1 && warnings[0].contains(words), "{name}: {warnings:?}"),
            }
        }
    }

    #[test]
    fn a_name_mistyped_is_told_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("NUMER_PRIVACY", "NUMBER_PRIVACY"),
            ("STAE_DIR", "STATE_DIR"),
            ("STATEDIR", "STATE_DIR"),
            ("COUNTY_CODE", "COUNTRY_CODE"),
            ("KNOWNTRUNKS", "KNOWN_TRUNKS"),
            ("WEBHOK_URL", "WEBHOOK_URL"),
            ("SOURCEID", "SOURCE_ID"),
            ("db_host", "DB_HOST"),
            ("SINK", "SINKS"),
        ] {
            let told = format!("{name} is not a setting of callferry: did you mean {meant}?");
            assert_eq!(of_environment(&[name]), [told.as_str()]);
            assert_eq!(of_file(&[name]), [told.as_str()]);
        }
        // what is only a part of one is told where it can only be meant for us
        assert_eq!(of_file(&["TRUNKS"]), ["TRUNKS is not a setting of callferry: did you mean KNOWN_TRUNKS?"]);
        assert_eq!(of_file(&["FAVOURITE"]), ["FAVOURITE is not a setting of callferry; check its spelling"]);
        assert_eq!(of_file(&["HOST"]), ["HOST is not a setting of callferry; check its spelling"]);
        let around = ["TRUNKS", "FAVOURITE", "HOST", "LINES", "TERM", "USER", "SHLVL", "HOSTTYPE", "INVOCATION_ID"];
        assert_eq!(of_environment(&around), Vec::<String>::new());
    }

    #[test]
    fn names_of_neighbours_are_none_of_ours() {
        let names =
            ["MONITORING_PUBLISH", "CALLFERRY_IMAGE", "GRAFANA_PASSWORD", "STATE_DIRECTORY", "TZ", "https_proxy"];
        assert_eq!(of_file(&names), Vec::<String>::new());
        assert_eq!(of_environment(&names), Vec::<String>::new());
    }

    #[test]
    fn the_manager_settings_belong_to_provisioning() {
        assert_eq!(of_file(&["AMI_HOST", "AMI_PASSWORD"]).len(), 2);
        for dsn in ["PROVISION_DSN", "PROVISION_DSN_FILE"] {
            assert_eq!(of_file(&["AMI_HOST", "AMI_PASSWORD", dsn]), Vec::<String>::new());
        }
        assert_eq!(
            of_file(&["AMI_HOTS", "PROVISION_DSN"]),
            ["AMI_HOTS is not a setting of callferry: did you mean AMI_HOST?"]
        );
        assert_eq!(of_file(&["PROVISION_MAX_DELETES", "TRUNK_PASSWORD_FILE", "TRUNK_PASSWORD"]), Vec::<String>::new());
    }
}
