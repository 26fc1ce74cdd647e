//! Whose calls they are, and their numbers as E.164: the tenants' captures through the program, with each kind of rule.

use std::path::Path;

use callferry::correlate::batch::correlate_all;
use callferry::correlate::numbering::Plan;
use callferry::correlate::{Numbering, Rules, Zone};
use callferry::source::csv;
use serde_json::Value;

use crate::program::Program;
use crate::support::expected::captures_dir;

const INTERNAL: &str = "33a-tenant-internal/run1";
const INBOUND: &str = "33b-tenant-inbound-outbound/run1";

fn correlate(capture: &str, files: &[&str], args: &[&str]) -> Vec<Value> {
    let dir = captures_dir().join(capture);
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut line: Vec<String> =
        ["correlate", "--timezone", "Europe/Prague", "--trunk-pattern", "PJSIP/trunk-*"].map(str::to_owned).to_vec();
    for name in files {
        line.extend([if name.starts_with("cel") { "--cel" } else { "--cdr" }.to_owned(), path(name)]);
    }
    line.extend(args.iter().map(|&a| a.to_owned()));
    let ended = Program::new().run(&line.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(ended.code, 0, "{}", ended.err);
    ended.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

#[test]
fn every_kind_of_rule_finds_the_tenant_whatever_is_logged() {
    let file_sets: &[&[&str]] = &[&["cel.csv", "cdr.csv"], &["cel.csv", "cdr_freepbx.csv"], &["cel.csv"], &["cdr.csv"]];
    let rules: &[&[&str]] = &[
        &["--accountcode-tenant-map", "*={1}"],
        &["--accountcode-tenant-map", "tenantA:tenantA,tenantB:tenantB"],
        &["--tenant-by-endpoint", "PJSIP/trunk-*={1},PJSIP/*-tenant*=tenant{2}"],
        &["--tenant-by-endpoint", "*-tenantA=tenantA"],
        &["--tenant-by-context", "*-internal={1},*-trunk={1}"],
    ];
    for files in file_sets {
        for capture in [INTERNAL, INBOUND] {
            for args in rules {
                let calls = correlate(capture, files, args);
                assert_eq!(calls.len(), 1);
                assert_eq!(calls[0]["tenant"], "tenantA", "{capture} {files:?} {args:?}");
                // of the same tenant: not said again
                assert_eq!(calls[0]["answered_by"]["tenant"], Value::Null, "{capture} {files:?} {args:?}");
            }
            assert_eq!(correlate(capture, files, &[])[0]["tenant"], Value::Null, "nothing is guessed");
            assert_eq!(correlate(capture, files, &["--tenant", "x"])[0]["tenant"], "x");
        }
    }
}

#[test]
fn rules_are_asked_in_their_order() {
    let files: &[&str] = &["cel.csv", "cdr.csv"];
    let all: &[(&str, &str, &str)] = &[
        ("--tenant-by-endpoint", "trunk-tenantA=endpoint", "endpoint"),
        ("--tenant-by-context", "tenantA-trunk=context", "context"),
        ("--did-tenant-map", "420300100200=did", "did"),
        ("--accountcode-tenant-map", "tenantA=code", "code"),
        ("--tenant-by-endpoint", "1001-*=called", "called"),
        ("--tenant", "all", "all"),
    ];
    for from in 0..all.len() {
        let args: Vec<&str> = all[from..].iter().flat_map(|(flag, value, _)| [*flag, *value]).collect();
        assert_eq!(correlate(INBOUND, files, &args)[0]["tenant"], all[from].2, "from {}", all[from].2);
    }
    // a DID in another form
    for did in ["+420300100200", "300100200", "00420300100200"] {
        let args = ["--did-tenant-map", &format!("{did}=acme"), "--country-code", "420"];
        assert_eq!(correlate(INBOUND, files, &args)[0]["tenant"], "acme", "{did}");
        let did = correlate(INBOUND, files, &args[..2]);
        assert_eq!(did[0]["tenant"], Value::Null, "without a country numbers are texts");
    }
    // the number dialled inside is no DID
    assert_eq!(correlate(INTERNAL, files, &["--did-tenant-map", "1002=x"])[0]["tenant"], Value::Null);
}

#[test]
fn a_party_of_another_tenant_says_so() {
    let args = ["--tenant-by-endpoint", "1001-*=one,1002-*=two"];
    let call = &correlate(INTERNAL, &["cel.csv", "cdr.csv"], &args)[0];
    assert_eq!(call["tenant"], "one");
    assert_eq!(call["from"].get("tenant"), None);
    assert_eq!(call["answered_by"]["tenant"], "two");
    assert_eq!(call["attempts"][0]["party"]["tenant"], "two");
    let answer = call["journey"].as_array().unwrap().iter().find(|s| s["step"] == "answer").unwrap();
    assert_eq!(answer["party"]["tenant"], "two");
    // somebody outside belongs to no tenant
    let call = &correlate(INBOUND, &["cel.csv", "cdr.csv"], &["--tenant-by-endpoint", "trunk-*=line,1001-*=one"])[0];
    assert_eq!(call["tenant"], "line");
    assert_eq!(call["from"].get("tenant"), None);
    assert_eq!(call["answered_by"]["tenant"], "one");
}

#[test]
fn numbers_get_their_e164_and_extensions_none() {
    let country = Plan::built_in("420").map(|p| p.0);
    let numbering = Numbering {
        country,
        international: vec!["00".into()],
        dial_prefixes: vec!["9".into(), "88".into()],
        off: false,
    };
    let rules = Rules { trunks: vec!["PJSIP/trunk-*".into()], numbering, ..Rules::default() };
    let mut seen = [0; 3];
    for dir in std::fs::read_dir(captures_dir()).unwrap().map(|d| d.unwrap().path().join("run1")) {
        for mut call in of(&dir, &rules) {
            let inbound = call.direction == callferry::call::Direction::Inbound;
            let anonymous = call.from.number.as_deref() == Some("anonymous");
            assert!(!anonymous || call.from.e164.is_none());
            if let Some(did) = call.did.as_deref().filter(|d| inbound && d.starts_with("420")) {
                assert_eq!(call.to.e164.as_deref(), Some(format!("+{did}").as_str()), "{}", dir.display());
                seen[0] += 1;
            }
            let dialled = call.to.number.clone().unwrap_or_default();
            if call.trunk_out.is_some() && !inbound && dialled.len() >= 10 {
                let rest = dialled.strip_prefix("88").or(dialled.strip_prefix('9')).unwrap();
                let rest = rest.strip_prefix("420").filter(|r| r.len() == 9).unwrap_or(rest);
                let expected = Some(format!("+420{rest}")).filter(|n| n.len() == 13);
                assert_eq!(call.to.e164, expected, "{dialled} in {}", dir.display());
                seen[1] += 1;
            }
            call.parties_mut(&mut |party| {
                let number = party.number.clone().unwrap_or_default();
                let short = number.len() <= 7;
                assert!(!short || party.e164.is_none(), "{number} in {}", dir.display());
                if party.kind == Some(callferry::call::PartyKind::Extension) {
                    assert_eq!(party.e164, None, "{number} in {}", dir.display());
                    seen[2] += 1;
                }
            });
        }
    }
    assert!(seen.iter().all(|n| *n > 3), "{seen:?}");
}

fn of(dir: &Path, rules: &Rules) -> Vec<callferry::call::Content> {
    let open = |name: &str| std::fs::File::open(dir.join(name)).unwrap();
    let mut rows = csv::read_cel(open("cel.csv"), "cel.csv").unwrap().rows;
    rows.append(&mut csv::read_cdr(open("cdr.csv"), "cdr.csv").unwrap().rows);
    correlate_all(rows, rules, &Zone::Named(chrono_tz::Europe::Prague)).calls
}

#[test]
fn filters_leave_out_and_explain_says_which() {
    let files: &[&str] = &["cel.csv", "cdr.csv"];
    assert_eq!(correlate(INTERNAL, files, &["--filter-internal", "keep"]).len(), 1);
    for (capture, args, setting) in [
        (INTERNAL, &["--filter-internal", "drop"][..], Some("FILTER_INTERNAL")),
        (INBOUND, &["--filter-internal", "drop"], None),
        (INBOUND, &["--filter-min-duration", "4"], Some("FILTER_MIN_DURATION")),
        (INBOUND, &["--filter-min-duration", "2"], None),
        (INBOUND, &["--filter-min-duration", "4", "--filter-enabled", "false"], None),
        (INBOUND, &["--filter-exclude-dst", "9*,4203001*"], Some("FILTER_EXCLUDE_DST")),
        (INBOUND, &["--filter-exclude-contexts", "tenantA-*"], Some("FILTER_EXCLUDE_CONTEXTS")),
        (INBOUND, &["--filter-exclude-contexts", "tenantA-internal"], None),
    ] {
        for files in [files, &["cdr.csv"]] {
            let calls = correlate(capture, files, args).len();
            assert_eq!(calls, usize::from(setting.is_none()), "{capture} {files:?} {args:?}");
        }
        let path = |name: &str| captures_dir().join(capture).join(name).to_str().unwrap().to_owned();
        let (cel, cdr) = (path("cel.csv"), path("cdr.csv"));
        let mut line = vec!["explain", "--cel", &cel, "--cdr", &cdr, "--timezone", "Europe/Prague"];
        line.extend(["--trunk-pattern", "PJSIP/trunk-*", "--tenant", "acme"]);
        line.extend(args);
        let ended = Program::new().run(&line);
        let told = ended.out.lines().find(|l| l.trim_start().starts_with("not shipped"));
        assert_eq!(told.map(|l| l.split_whitespace().last().unwrap()), setting, "{}", ended.out);
        assert!(ended.out.lines().any(|l| l.ends_with("acme (by TENANT)")), "{}", ended.out);
    }
}

#[test]
fn names_of_the_sipstack_connector_do_as_they_say() {
    let dir = captures_dir().join(INBOUND);
    let (cel, cdr) = (dir.join("cel.csv"), dir.join("cdr.csv"));
    let (cel, cdr) = (cel.to_str().unwrap(), cdr.to_str().unwrap());
    let program = || Program::new().env("DB_TIMEZONE", "Europe/Prague").env("KNOWN_TRUNKS", "trunk-*");
    let run = |program: &Program| program.run(&["correlate", "--cel", cel, "--cdr", cdr]);
    let ended = run(&program().env("CDR_FILTER_MIN_DURATION", "60 # seconds").env("CDR_FILTER_EXCLUDE_DST", "h"));
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
    assert!(ended.err.contains("1 call(s) kept back by filters"), "{}", ended.err);
    let ours_counts = program().env("CDR_FILTER_MIN_DURATION", "60").env("FILTER_MIN_DURATION", "1");
    assert_eq!(run(&ours_counts).out.lines().count(), 1);
    let map = program();
    std::fs::write(map.dir().join("map.json"), r#"{"did_mappings": {"420300100200": "gconnect"}}"#).unwrap();
    let ended = run(&map.env("DID_TENANT_CONFIG", "map.json").env("ACCOUNTCODE_TENANT_MAP", "tenantA:TL"));
    assert!(ended.out.contains(r#""tenant":"gconnect""#), "{}{}", ended.out, ended.err);
}
