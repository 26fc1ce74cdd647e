//! Wrong settings, files and places: each ends with one line that names the setting, and the documented exit code.

use crate::program::Program;

const USABLE: &str = "DB_TYPE=sqlite\nDB_NAME=pbx.db\nSINKS=file\nFILE_PATH=calls.ndjson\nMONITORING_PORT=0\n";

#[test]
fn every_wrong_value_names_its_variable_and_the_value() {
    // each line is appended to settings that are right: the last of two equal names counts
    for (line, says) in [
        ("SOURCE_ID=Pbx East", "Pbx East"),
        ("DB_TYPE=oracle", "oracle"),
        ("DB_PORT=abc", "abc"),
        ("DB_PORT=70000", "70000"),
        ("DB_TLS=maybe", "maybe"),
        ("DB_TABLE_CDR=cdr; DROP TABLE cdr", "DROP TABLE"),
        ("DB_TABLE_CEL=a.b.c", "a.b.c"),
        ("CEL_MODE=csv", "csv is not supported by this version"),
        ("CEL_MODE=ami", "ami is not supported by this version"),
        ("CEL_MODE=odbc", "odbc"),
        ("CDR_MODE=csv", "csv"),
        ("DB_TIMEZONE=Prague", "Prague"),
        ("START_FROM=yesterday", "yesterday"),
        ("BUSY_POLL_INTERVAL=0", "0"),
        ("CDR_POLL_INTERVAL=fast", "fast"),
        ("CDR_POLL_INTERVAL=NaN", "NaN"),
        ("DB_PAGE_SIZE=0", "0"),
        ("DB_CONNECTIONS=100", "100"),
        ("ASTERISK_EXT_MIN_LENGTH=9", "9"),
        ("APPLICATIONS_SELF_SERVICE=perhaps", "perhaps"),
        ("CDR_GRACE=-1", "-1"),
        ("CALL_MAX_AGE=0", "more than 0"),
        ("CALL_SHIPPING_MODE=both", "both"),
        ("LONG_CALL_UPDATE_INTERVAL=-5", "-5"),
        ("LONG_CALL_UPDATE_INTERVAL=NaN", "NaN"),
        ("SINKS=kafka", "kafka"),
        ("SINKS=file,file", "twice"),
        ("RETRY_BASE=0", "0"),
        ("RETRY_MAX_AGE=inf", "ten years"),
        ("STATE_MAX_SIZE=1", "64 MB"),
        ("MONITORING_ADDRESS=localhost", "localhost"),
        ("MONITORING_PORT=-1", "-1"),
        ("MONITORING_ENABLED=2", "neither true nor false"),
        ("LOG_LEVEL=verbose", "verbose"),
        ("LOG_FORMAT=xml", "xml"),
        ("LOG_NUMBERS=hidden", "hidden"),
        ("CUSTOMER_ID=acme", "acme"),
    ] {
        let name = line.split('=').next().unwrap();
        let ended = Program::new().env_file(&format!("{USABLE}{line}\n")).run(&["check"]);
        ended.refused(2, &[&format!("callferry: {name}: "), says]);
    }
}

#[test]
fn what_is_missing_is_named() {
    for (settings, says) in [
        ("", "callferry: DB_NAME: not set"),
        ("DB_NAME=a", "callferry: SINKS: not set"),
        ("DB_NAME=a\nSINKS=webhook", "callferry: WEBHOOK_URL: not set"),
        ("DB_NAME=a\nSINKS=sipstack", "callferry: API_KEY: not set"),
        ("DB_NAME=\nSINKS=file", "callferry: DB_NAME: not set"),
        ("DB_NAME=a\nSINKS=webhook\nWEBHOOK_URL=ftp://host/x", "callferry: WEBHOOK_URL: "),
        ("DB_NAME=a\nSINKS=webhook\nWEBHOOK_URL=host/x", "callferry: WEBHOOK_URL: "),
        ("DB_NAME=a\nSINKS=sipstack\nAPI_KEY=k\nREGION=eu1", "callferry: REGION: eu1"),
        ("DB_NAME=a\nCEL_MODE=off\nCDR_MODE=off\nSINKS=file", "callferry: CEL_MODE: "),
        ("DB_NAME=a\nSINKS=file\nDB_PASSWORD_FILE=none.txt", "callferry: DB_PASSWORD_FILE: cannot read none.txt"),
        ("DB_NAME=a\nSINKS=file\nDB_PASSWORD=a\nDB_PASSWORD_FILE=b", "both DB_PASSWORD and DB_PASSWORD_FILE"),
    ] {
        Program::new().env_file(settings).run(&["check"]).refused(2, &[says]);
    }
}

#[test]
fn a_malformed_env_file_is_told_by_line_and_never_by_value() {
    for (text, says) in [
        ("DB_NAME=a\nDB_PASSWORD sekret\n", ".env: line 2: no = after DB_PASSWORD"),
        ("DB_PASSWORD='sekret\nDB_NAME=a\n", ".env: line 1: the value of DB_PASSWORD begins with '"),
        ("\n{\"DB_PASSWORD\": \"sekret\"}\n", ".env: line 2: does not begin with a name"),
    ] {
        let ended = Program::new().env_file(text).run(&["check"]);
        ended.refused(2, &[says]);
        assert!(!ended.err.contains("sekret"), "{}", ended.err);
    }
    let program = Program::new();
    std::fs::write(program.dir().join(".env"), b"A=1\nB=\xff\n").unwrap();
    program.run(&["check"]).refused(2, &["line 2 is not UTF-8"]);
    Program::new().run(&["--env-file", "nowhere.env", "check"]).refused(2, &["nowhere.env: cannot read it"]);
}

#[test]
fn a_secret_is_no_flag_and_is_never_shown() {
    let help = Program::new().env("DB_PASSWORD", "sekret").env("API_KEY", "sekret").run(&["run", "--help"]);
    assert_eq!(help.code, 0);
    assert!(!help.out.contains("sekret"), "{}", help.out);
    let ended = Program::new().run(&["run", "--db-password", "sekret"]);
    assert_eq!(ended.code, 2);
    let ended = Program::new().env("DB_PASSWORD", "sekret").env_file(USABLE).run(&["check", "--json"]);
    assert!(!format!("{}{}", ended.out, ended.err).contains("sekret"));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let program = Program::new().env_file(&format!("{USABLE}REGION=bad\nLOG_LEVEL=bad1\n")).env("LOG_LEVEL", "bad2");
    program.run(&["check"]).refused(2, &["bad2"]);
    program.run(&["check", "--log-level", "bad3"]).refused(2, &["LOG_LEVEL", "bad3"]);
}

#[test]
fn a_state_directory_that_cannot_be_written_is_a_problem() {
    let program = Program::new().env_file(&format!("{USABLE}STATE_DIR=occupied/state\n"));
    std::fs::write(program.dir().join("occupied"), "a file").unwrap();
    let ended = program.run(&["check", "--json"]);
    assert_eq!(ended.code, 3, "{}{}", ended.out, ended.err);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let finding = report["findings"].as_array().unwrap().iter().find(|f| f["topic"] == "state").unwrap();
    assert_eq!(finding["level"], "problem");
    assert!(finding["remedy"].as_str().unwrap().contains("STATE_DIR"));
}

#[test]
fn a_port_in_use_is_a_problem_that_names_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = Program::new().env_file(USABLE).env("MONITORING_PORT", &port).run(&["check"]);
    assert_eq!(ended.code, 3, "{}{}", ended.out, ended.err);
    assert!(ended.out.contains("MONITORING_PORT") && ended.out.contains(&port), "{}", ended.out);
}

#[test]
fn a_health_check_without_an_agent_fails_and_says_where_it_asked() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let program = Program::new().env("MONITORING_PORT", &port).env("MONITORING_ADDRESS", "0.0.0.0");
    let ended = program.run(&["healthcheck"]);
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains(&format!("http://127.0.0.1:{port}/healthz")), "{}", ended.out);
    assert_eq!(ended.out.lines().count(), 1);
    assert_eq!(program.run(&["healthcheck", "--ready"]).code, 1);
    let off = Program::new().env("MONITORING_ENABLED", "False").run(&["healthcheck"]);
    assert_eq!((off.code, off.out.lines().count()), (0, 1));
}

#[test]
fn usage_is_told_with_exit_code_2_and_help_with_0() {
    assert_eq!(Program::new().run(&["ferry"]).code, 2);
    assert_eq!(Program::new().run(&[]).code, 2);
    let help = Program::new().run(&["--help"]);
    assert_eq!(help.code, 0);
    for command in ["run", "check", "demo", "correlate", "explain", "calls", "schema", "healthcheck"] {
        assert!(help.out.lines().any(|l| l.trim_start().starts_with(command)), "{command} is not in {}", help.out);
        assert_eq!(Program::new().run(&[command, "--help"]).code, 0);
    }
    assert!(help.out.contains("Exit codes: 0 ok, 1 runtime"), "{}", help.out);
    let version = Program::new().run(&["--version"]);
    assert_eq!(version.out.trim(), concat!("callferry ", env!("CARGO_PKG_VERSION")));
}
