//! The `.env` of a SIPSTACK connector in db mode works as it is.

use serde_json::Value;

use crate::program::{Ended, Program};

/// As its guide tells people to write it, with what else its documents name.
const ENV: &str = "\
# API Configuration
API_KEY=sk_your_api_key_here
REGION=us1                          # us1, us2, ca1, or dev
CUSTOMER_ID=123
TENANT=                             # Optional default tenant
HOSTNAME=pbx-east

DB_TYPE=mysql                       # mysql or postgresql
DB_HOST=127.0.0.1
DB_NAME=asterisk                    # Database name
DB_USER=asterisk_reader
DB_PASSWORD=secure_password
DB_TABLE_CDR=cdr
DB_TABLE_CEL=cel
DB_TABLE_RECORDINGS=                # Optional recordings table

CEL_MODE=db
CALL_SHIPPING_MODE=complete
LONG_CALL_UPDATE_INTERVAL=600
CDR_POLL_INTERVAL=5
CDR_BATCH_SIZE=100
INCLUDE_RAW_DATA=False
RECORDING_ENABLED=true
RECORDING_PATHS=/var/spool/asterisk/monitor,/var/spool/asterisk/recordings
DELETE_RECORDINGS_AFTER_UPLOAD=true
MONITORING_ENABLED=true
MONITORING_PORT=0
LOG_LEVEL=INFO
";

fn findings(ended: &Ended) -> Vec<Value> {
    let report: Value = serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}{}", ended.out, ended.err));
    report["findings"].as_array().unwrap().clone()
}

/// Settings are accepted (exit code 2 would say otherwise); the database of the example does not exist here.
fn accepted(ended: &Ended) -> Vec<Value> {
    assert!(matches!(ended.code, 0 | 3), "{} {}{}", ended.code, ended.out, ended.err);
    findings(ended)
}

#[test]
fn its_env_file_is_accepted_and_names_without_effect_are_warned_about() {
    // a port where nothing listens: refused at once
    let program = Program::new().env_file(ENV).env("DB_PORT", "9").env("DB_TIMEOUT", "1");
    let warned: Vec<String> = accepted(&program.run(&["check", "--json"]))
        .iter()
        .filter(|f| f["topic"] == "settings")
        .map(|f| f["text"].as_str().unwrap().to_owned())
        .collect();
    for name in ["CDR_BATCH_SIZE", "DELETE_RECORDINGS_AFTER_UPLOAD"] {
        assert!(warned.iter().any(|w| w.starts_with(name)), "{name} is not warned about: {warned:?}");
    }
    assert!(warned.iter().any(|w| w.contains("deletes no recordings")), "{warned:?}");
    for name in [
        "API_KEY",
        "HOSTNAME",
        "TENANT",
        "DB_TABLE_CEL",
        "CUSTOMER_ID",
        "CALL_SHIPPING_MODE",
        "LONG_CALL_UPDATE_INTERVAL",
        "RECORDING_PATHS",
        "RECORDING_ENABLED",
    ] {
        assert!(!warned.iter().any(|w| w.starts_with(name)), "{name} has an effect: {warned:?}");
    }
}

#[test]
fn the_same_settings_as_docker_hands_them_on_are_accepted() {
    // docker run --env-file keeps comments and blanks
    let mut program = Program::new().env("DB_PORT", "9").env("DB_TIMEOUT", "1");
    for line in ENV.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let (name, value) = line.split_once('=').unwrap();
        program = program.env(name, value);
    }
    accepted(&program.run(&["check", "--json"]));
}

#[test]
fn other_cel_modes_are_refused_by_name() {
    for mode in ["csv", "ami"] {
        let program = Program::new().env_file(&ENV.replace("CEL_MODE=db", &format!("CEL_MODE={mode}")));
        program.run(&["run"]).refused(2, &[&format!("CEL_MODE: {mode} is not supported")]);
    }
}

#[test]
fn the_python_program_s_spellings_are_understood() {
    for (name, value) in [
        ("DB_TYPE", "postgres"),
        ("DB_TYPE", "PostgreSQL"),
        ("LOG_LEVEL", "WARNING"),
        ("LOG_LEVEL", "CRITICAL"),
        ("INCLUDE_RAW_DATA", "True"),
        ("INCLUDE_RAW_DATA", "yes"),
        ("INCLUDE_RAW_DATA", "0"),
        ("API_ENDPOINT", "https://api.example.net/v1/mqs/connectors/asterisk"),
        ("REGION", "CA1"),
    ] {
        let program = Program::new().env_file(ENV).env(name, value).env("DB_PORT", "9").env("DB_TIMEOUT", "1");
        accepted(&program.run(&["check", "--json"]));
    }
}
