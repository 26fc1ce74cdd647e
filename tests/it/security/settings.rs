//! Every secret can come from a file, and no other way than that and the environment; names of tables cannot be SQL.

use callferry::config::SECRET_NAMES;

use crate::program::Program;

fn program() -> Program {
    Program::new().env_file(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nSINKS=webhook\nWEBHOOK_URL=https://localhost:1/\nMONITORING_PORT=0\n",
    )
}

/// The command that reads a secret, and settings it takes for that.
fn reader(name: &str) -> Vec<&'static str> {
    match name {
        "PROVISION_DSN" => vec!["trunk", "list"],
        "AMI_PASSWORD" => vec!["trunk", "list", "--ami-host", "localhost"],
        "TRUNK_PASSWORD" => vec!["trunk", "add", "t1", "--host", "sip.example", "--user", "u"],
        _ => vec!["run", "--once"],
    }
}

#[test]
fn every_secret_has_its_file_and_both_are_refused() {
    for name in SECRET_NAMES {
        if matches!(*name, "AMI_PASSWORD" | "TRUNK_PASSWORD") {
            // read after the database was reached; tests/it/provision tries them
            continue;
        }
        let file = format!("{name}_FILE");
        let command = reader(name);
        let code = if command[0] == "run" { 2 } else { 4 };
        let missing = program().env(&file, "/nowhere/secret");
        let ended = missing.run(&command);
        assert!(ended.err.contains(&file) && ended.err.contains("/nowhere/secret"), "{name}: {}", ended.err);
        assert_eq!(ended.code, code, "{name}: {}", ended.err);
        let both = program().env(&file, "/nowhere/secret").env(name, "S3cretValue-long-enough");
        let ended = both.run(&command);
        assert!(ended.err.contains("both") && ended.err.contains("keep one"), "{name}: {}", ended.err);
        assert!(!ended.err.contains("S3cretValue"), "{name}: {}", ended.err);
    }
}

#[test]
fn every_setting_that_sounds_secret_is_one() {
    let example = callferry::config::env_example();
    let names: Vec<&str> =
        example.lines().filter_map(|l| l.strip_prefix('#')?.split_once('=').map(|(n, _)| n)).collect();
    let names: Vec<&str> =
        names.into_iter().filter(|n| n.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).collect();
    assert!(names.len() > 80, "{names:?}");
    let mut secrets = 0;
    for name in &names {
        let base = name.strip_suffix("_FILE").unwrap_or(name);
        let sounds = ["PASSWORD", "SECRET", "TOKEN", "_KEY", "DSN"].iter().any(|s| base.ends_with(s));
        if sounds {
            assert!(SECRET_NAMES.contains(&base), "{name} is read like any other setting");
            assert!(names.contains(&format!("{base}_FILE").as_str()), "{base} has no _FILE");
            secrets += 1;
        }
    }
    assert_eq!(secrets / 2, SECRET_NAMES.len());
    // and none of them is a flag, which `ps` would show
    for command in ["run", "check", "trunk", "provision"] {
        let help = program().run(&[command, "--help"]).out.to_lowercase();
        for name in SECRET_NAMES {
            let flag = format!("--{} ", name.to_lowercase().replace('_', "-"));
            assert!(!help.contains(&flag), "{command} takes {flag}");
        }
    }
}

#[test]
fn hashed_numbers_need_a_key_that_is_not_guessed() {
    let hashed = || program().env("NUMBER_PRIVACY", "hashed");
    hashed().run(&["run", "--once"]).refused(2, &["NUMBER_PRIVACY_KEY", "NUMBER_PRIVACY_KEY_FILE", "openssl rand"]);
    let short = hashed().env("NUMBER_PRIVACY_KEY", "sh0rt");
    let ended = short.run(&["run", "--once"]);
    ended.refused(2, &["NUMBER_PRIVACY_KEY", "16 characters"]);
    assert!(!ended.err.contains("sh0rt"), "{}", ended.err);
    program().env("WEBHOOK_NUMBER_PRIVACY", "hidden").run(&["run", "--once"]).refused(2, &["WEBHOOK_NUMBER_PRIVACY"]);
    program()
        .env("NUMBER_PRIVACY", "none")
        .run(&["run", "--once"])
        .refused(2, &["NUMBER_PRIVACY", "full, masked, hashed"]);
}

#[test]
fn names_of_tables_and_urls_are_what_they_say() {
    for table in
        ["cel; DROP TABLE cdr", "cel`", "cel\"", "a.b.c", "cel\\", "", " ", "c\u{0}el", "cel\n", "x'y", ".", "a."]
    {
        if table.contains('\0') {
            continue;
        }
        for name in ["DB_TABLE_CEL", "DB_TABLE_CDR", "DB_TABLE_RECORDINGS"] {
            if table.trim().is_empty() || (table.trim() != table && table.trim() == "cel") {
                continue;
            }
            program().env(name, table).run(&["run", "--once"]).refused(2, &[name, "table name"]);
        }
    }
    for url in
        ["file:///etc/passwd", "ftp://h/x", "gopher://h/", "javascript:alert(1)", "unix:/run/x", "h/x", "http://"]
    {
        for (name, sink) in [("WEBHOOK_URL", "webhook"), ("API_ENDPOINT", "sipstack"), ("API_URL", "sipstack")] {
            let ended = program().env(name, url).env("SINKS", sink).env("API_KEY", "k").run(&["run", "--once"]);
            assert_eq!(ended.code, 2, "{name}={url}: {}", ended.err);
            assert!(ended.err.contains(name) && ended.err.contains("http"), "{name}={url}: {}", ended.err);
        }
    }
}
