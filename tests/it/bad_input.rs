//! Wrong settings, files and places: each ends with one line that names the setting, and the documented exit code.

use crate::program::Program;

const USABLE: &str = "DB_TYPE=sqlite\nDB_NAME=pbx.db\nSINKS=file\nFILE_PATH=calls.ndjson\nMONITORING_PORT=0\n";

#[test]
fn every_wrong_value_names_its_variable_and_the_value() {
    // each line is appended to settings that are right: the last of two equal names counts
    for (line, says) in [
        ("SOURCE_ID=Pbx East", "Pbx East"),
        ("DB_TYPE=oracle", "oracle"),
        ("DB_PORT=abc", "\"abc\" is not a number between 1 and 65535"),
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
        ("CDR_GRACE=abc", "\"abc\" is not a number between 0 and 600 (seconds)"),
        ("FILTER_MIN_DURATION=NaN", "\"NaN\" is not a number between 0 and 86400 (seconds)"),
        ("CALL_MAX_AGE=0", "is not a number above 0 and up to 87600 (hours)"),
        ("CALL_SHIPPING_MODE=both", "both"),
        ("LONG_CALL_UPDATE_INTERVAL=-5", "-5"),
        ("LONG_CALL_UPDATE_INTERVAL=NaN", "NaN"),
        ("SINKS=kafka", "kafka"),
        ("SINKS=file,file", "twice"),
        ("RETRY_BASE=0", "0"),
        ("RETRY_MAX_AGE=inf", "is not a number above 0 and up to 87600 (hours)"),
        ("STATE_MAX_SIZE=1", "is not a whole number from 64 on (megabytes)"),
        ("MONITORING_ADDRESS=localhost", "localhost"),
        ("MONITORING_PORT=-1", "\"-1\" is not a number between 0 and 65535"),
        ("MONITORING_PORT=99999", "\"99999\" is not a number between 0 and 65535"),
        ("MONITORING_ENABLED=2", "neither true nor false"),
        ("LOG_LEVEL=verbose", "verbose"),
        ("LOG_FORMAT=xml", "xml"),
        ("LOG_NUMBERS=hidden", "hidden"),
        ("CUSTOMER_ID=acme", "\"acme\" is not a whole number"),
    ] {
        let name = line.split('=').next().unwrap();
        let program = Program::new().env_file(&format!("{USABLE}{line}\n"));
        program.run(&["run", "--once"]).refused(2, &[&format!("callferry: {name}: "), says]);
        let check = program.run(&["check"]);
        assert_eq!(check.code, 2, "{}{}", check.out, check.err);
        assert!(check.out.lines().any(|l| l.contains(&format!("✗ {name}: ")) && l.contains(says)), "{}", check.out);
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
        let program = Program::new().env_file(settings);
        program.run(&["run", "--once"]).refused(2, &[says]);
        let check = program.run(&["check"]);
        assert_eq!(check.code, 2, "{}{}", check.out, check.err);
        assert!(check.out.contains(says.trim_start_matches("callferry: ")), "{}", check.out);
    }
}

#[test]
fn check_names_every_wrong_setting_at_once() {
    let program = Program::new().env_file(
        "SOURCE_ID=Pbx East\nDB_PORT=abc\nCDR_GRACE=-1\nAPPLICATIONS_SELF_SERVICE=perhaps\nSINKS=webhook,sipstack,kafka\n\
         DB_TLS=maybe\nCEL_MODE=ami\nLOG_FORMAT=xml\nAPI_KEY_FILE=none.txt\nMONITORING_ADDRESS=here\nSTAE_DIR=x\n",
    );
    let ended = program.run(&["check", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (2, ""), "{}", ended.out);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let told = |level: &str| -> Vec<&str> {
        let of_level = findings.iter().filter(|f| f["level"] == level && f["topic"] == "settings");
        of_level.map(|f| f["text"].as_str().unwrap()).collect()
    };
    let mut names: Vec<&str> = told("problem").iter().map(|text| text.split(':').next().unwrap()).collect();
    names.sort_unstable();
    let wrong = [
        "API_KEY_FILE",
        "APPLICATIONS_SELF_SERVICE",
        "CDR_GRACE",
        "CEL_MODE",
        "DB_NAME",
        "DB_PORT",
        "DB_TLS",
        "LOG_FORMAT",
        "MONITORING_ADDRESS",
        "SINKS",
        "SOURCE_ID",
        "WEBHOOK_URL",
    ];
    // a key that cannot be read is not missing as well
    assert_eq!(names, wrong);
    assert_eq!(report["problems"], wrong.len());
    assert_eq!(told("warning"), ["STAE_DIR is not a setting of callferry: did you mean STATE_DIR?"]);
    let page = program.run(&["check"]);
    assert_eq!(page.code, 2);
    assert!(wrong.iter().all(|name| page.out.contains(&format!("✗ {name}: "))), "{}", page.out);
    assert!(!page.out.contains("every setting can be used"), "{}", page.out);
    // a run names one, and where to find the others
    program.run(&["run"]).refused(2, &["callferry: DB_PORT: \"abc\" is not a number"]);
    let without = Program::new().env_file("SINKS=webhook\n").run(&["run"]);
    without.refused(2, &["DB_NAME: not set", "1 more to mend: `callferry check` names them"]);
}

#[test]
fn a_secret_that_no_sink_can_use_is_a_setting_that_cannot_be_used() {
    let program = Program::new().env_file(&format!(
        "{USABLE}SINKS=webhook,file\nWEBHOOK_URL=http://127.0.0.1:1/\nWEBHOOK_SECRET=whsec_sekret!\n"
    ));
    let check = program.run(&["check"]);
    assert_eq!(check.code, 2, "{}", check.out);
    assert!(check.out.starts_with("settings\n  ✗ WEBHOOK_SECRET: "), "{}", check.out);
    assert!(!check.out.contains("every setting can be used") && !check.out.contains("sekret"), "{}", check.out);
    // what else there is is tried all the same
    assert!(check.out.contains("\ndatabase\n") && check.out.contains("\nstate\n"), "{}", check.out);
}

#[test]
fn numbers_of_single_commands_are_refused_in_plain_words() {
    for (args, told) in [
        (&["calls", "list", "--limit", "many"][..], "callferry: --limit: \"many\" is not a number"),
        (&["calls", "list", "--limit", "99999999999"], "callferry: --limit: \"99999999999\" is not a number"),
        (&["run", "--monitoring-port", "x"], "callferry: MONITORING_PORT: \"x\" is not a number between 0 and 65535"),
    ] {
        let ended = Program::new().run(args);
        ended.refused(2, &[told]);
        assert!(!ended.err.contains("digit found") && !ended.err.contains("..="), "{}", ended.err);
    }
}

#[test]
fn names_mistyped_in_the_file_are_told_by_run_and_check() {
    let typos = "NUMER_PRIVACY=hashed\nTRUNKS=PJSIP/x\nMONITORING_PUBLISH=9000\n";
    let program = Program::new().env_file(&format!("{USABLE}{typos}")).env("WEBHOK_URL", "http://a/");
    for ended in [program.run(&["check"]), program.run(&["run", "--once"])] {
        let told = format!("{}{}", ended.out, ended.err);
        assert!(told.contains("did you mean NUMBER_PRIVACY?"), "{told}");
        assert!(told.contains("did you mean KNOWN_TRUNKS?") && told.contains("did you mean WEBHOOK_URL?"), "{told}");
        assert!(!told.contains("MONITORING_PUBLISH"), "{told}");
    }
}

/// `STATE_DIR` of another user (systemd's DynamicUser): what is there is not told as missing.
#[test]
fn a_state_of_another_user_s_is_not_told_as_none() {
    let program = Program::new().env_file(&format!("{USABLE}STATE_DIR=private/state\n"));
    let private = program.dir().join("private");
    std::fs::create_dir_all(private.join("state")).unwrap();
    std::fs::write(private.join("state/callferry.db"), "").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(program.dir(), 0o755);
    mode(&program.dir().join(".env"), 0o644);
    mode(&private, 0o000);
    let as_nobody = |args: &[&str]| {
        let plain = program.command(args);
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
        if !is_root {
            return program.run(args);
        }
        // root may look everywhere; the program is copied, since what is above it may be root's alone
        let copy = program.dir().join("callferry");
        if !copy.exists() {
            std::fs::copy(plain.get_program(), &copy).unwrap();
            mode(&copy, 0o755);
        }
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy).args(args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).current_dir(program.dir());
        let output = command.output().expect("setpriv");
        crate::program::Ended {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    };
    for command in [
        &["calls", "list"][..],
        &["explain", "1795213604.1"],
        &["forget", "+420777000111"],
        &["reconcile", "--from", "1d"],
    ] {
        let ended = as_nobody(command);
        assert_eq!(ended.code, 1, "{command:?}: {}{}", ended.out, ended.err);
        assert!(
            ended.err.contains("cannot read the state file") && ended.err.contains("ermission denied"),
            "{}",
            ended.err
        );
        assert!(!ended.err.contains("no state"), "{}", ended.err);
    }
    let check = as_nobody(&["check"]);
    assert_eq!(check.code, 3, "{}{}", check.out, check.err);
    assert!(check.out.contains("✗ cannot read the state file"), "{}", check.out);
    assert!(!check.out.contains("no state yet"), "{}", check.out);
    mode(&private, 0o700);
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
    program.run(&["run"]).refused(2, &["bad2"]);
    program.run(&["run", "--log-level", "bad3"]).refused(2, &["LOG_LEVEL", "bad3"]);
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
    assert!(!ended.out.contains("there is no state yet"), "{}", ended.out);
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
