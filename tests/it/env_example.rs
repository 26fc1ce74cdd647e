//! `.env.example` is what the settings say. `UPDATE=1 cargo test env_example` rewrites it.

use std::path::Path;

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
