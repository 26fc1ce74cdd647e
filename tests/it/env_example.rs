//! `.env.example` is what the settings say. `UPDATE=1 cargo test env_example` rewrites it.

use std::path::Path;

use crate::program::Program;

#[test]
fn env_example_lists_every_setting() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env.example");
    let expected = callferry::config::env_example();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, ".env.example differs from the settings; rewrite it: UPDATE=1 cargo test env_example");
    for name in ["DB_NAME", "DB_PASSWORD", "SINKS", "WEBHOOK_SECRET", "API_KEY", "MONITORING_PORT", "LOG_LEVEL"] {
        assert!(found.lines().any(|l| l.starts_with(&format!("#{name}="))), "{name} is missing");
    }
}

/// Settings that one command alone reads are in it as well, with the default that command has.
#[test]
fn env_example_lists_what_single_commands_read() {
    let example = callferry::config::env_example();
    let mut found = 0;
    for command in [
        &["run"][..],
        &["explain"],
        &["calls"],
        &["backfill"],
        &["reconcile"],
        &["forget"],
        &["correlate"],
        &["healthcheck"],
        &["trunk", "add"],
        &["trunk", "verify"],
        &["provision", "apply"],
        &["provision", "destroy"],
        &["provision", "import"],
        &["provision", "render"],
        &["dialplan", "test"],
    ] {
        let help = Program::new().run(&[command, &["--help"]].concat()).out;
        for after in help.split("[env: ").skip(1) {
            let name = after.split(['=', ']']).next().unwrap();
            if name == "ENV_FILE" {
                // it names the file itself
                continue;
            }
            let line = example.lines().find_map(|l| l.strip_prefix('#')?.strip_prefix(name)?.strip_prefix('='));
            let default = line.unwrap_or_else(|| panic!("{command:?} reads {name}, which is not in .env.example"));
            let of_command = after.split_once(']').map_or("", |(_, rest)| rest).trim_start();
            if let Some(told) = of_command.strip_prefix("[default: ").and_then(|d| d.split(']').next()) {
                assert_eq!(default, told, "{name}");
            }
            found += 1;
        }
    }
    assert!(found > 100, "{found}");
    for name in ["PROVISION_MAX_DELETES", "TRUNK_PASSWORD", "TRUNK_PASSWORD_FILE"] {
        assert!(example.lines().any(|l| l.starts_with(&format!("#{name}="))), "{name} is missing");
    }
}
