//! What settings of tenants, numbers and filters mean, and which are refused.

use clap::Parser;

use crate::config::{RuleSettings, rules};
use crate::correlate::Rules;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    rules: RuleSettings,
}

fn resolved(args: &[&str]) -> Result<Rules, String> {
    let line = std::iter::once("x").chain(args.iter().copied());
    let settings = Line::try_parse_from(line).map_err(|e| e.to_string())?.rules;
    rules(&settings).map_err(|e| e.to_string())
}

fn e164(args: &[&str], number: &str) -> Option<String> {
    resolved(args).unwrap().numbering.dialled(number)
}

#[test]
fn maps_are_read_in_the_forms_people_write() {
    for map in ["AC:acme,BT:beta", "AC=acme, BT=beta", r#"{"AC": "acme", "BT": "beta"}"#, "ac:acme,,bt:beta,"] {
        let codes = resolved(&["--accountcode-tenant-map", map]).unwrap().tenants.accountcodes;
        assert_eq!(codes.find("AC").as_deref(), Some("acme"), "{map}");
        assert_eq!(codes.find("bt").as_deref(), Some("beta"), "{map}");
        assert_eq!(codes.find("x"), None, "{map}");
    }
    let twice = ["--accountcode-tenant-map", "a=first", "--accountcode-tenant-map", "a=second,*={1}"];
    let codes = resolved(&twice).unwrap().tenants.accountcodes;
    assert_eq!(codes.find("a").as_deref(), Some("first"));
    assert_eq!(codes.find("tenantA").as_deref(), Some("tenantA"));
    let contexts = resolved(&["--tenant-by-context", "{tenant}-in=acme"]).unwrap().tenants.contexts;
    assert_eq!(contexts.find("{tenant}-in").as_deref(), Some("acme"));
}

#[test]
fn the_mapping_file_comes_after_the_settings() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tenants.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        resolved(&["--did-tenant-map", "1000=setting", "--tenant-map-file", path.to_str().unwrap()])
    };
    let tenants = read(
        r#"{"did_mappings": {"1000": "file", "2000": "file"}, "accountcode_mappings": {"z*": "Z", "*": "rest"},
            "endpoint_mappings": {"PJSIP/*-acme": "acme"}, "context_mappings": {"in-*": "{1}"}}"#,
    );
    let tenants = tenants.unwrap().tenants;
    assert_eq!(tenants.dids.find("1000").as_deref(), Some("setting"));
    assert_eq!(tenants.dids.find("2000").as_deref(), Some("file"));
    assert_eq!(tenants.accountcodes.find("z1").as_deref(), Some("Z"), "in the order of the file");
    assert_eq!(tenants.contexts.find("in-x").as_deref(), Some("x"));
    assert_eq!(tenants.endpoints.find("PJSIP/1-acme").as_deref(), Some("acme"));
    // as the SIPSTACK connector reads it
    assert_eq!(read(r#"{"2000": "flat"}"#).unwrap().tenants.dids.find("2000").as_deref(), Some("flat"));
    for wrong in ["", "[]", "{\"did_mapings\": {}}", r#"{"did_mappings": {"a": 1}}"#, r#"{"did_mappings": {"a": ""}}"#]
    {
        let refused = read(wrong).unwrap_err();
        assert!(refused.starts_with("TENANT_MAP_FILE: ") && refused.contains("tenants.json"), "{wrong}: {refused}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(resolved(&["--tenant-map-file", path.to_str().unwrap()]).unwrap_err().contains("cannot read it"));
}

#[test]
fn countries_bring_their_prefixes() {
    assert_eq!(e164(&["--country-code", "+420"], "00442079460000").as_deref(), Some("+442079460000"));
    assert_eq!(e164(&["--country-code", "1"], "011442079460000").as_deref(), Some("+442079460000"));
    assert_eq!(e164(&["--country-code", "1"], "00442079460000"), None);
    let both = ["--country-code", "1", "--asterisk-intl-prefixes", "011,00,+"];
    assert_eq!(e164(&both, "00442079460000").as_deref(), Some("+442079460000"));
    // the list of the SIPSTACK connector does not make Sheffield a number of elsewhere
    let uk = ["--country-code", "44", "--international-prefixes", "011,00,+"];
    assert_eq!(e164(&uk, "01142345678").as_deref(), Some("+441142345678"));
    assert_eq!(e164(&["--country-code", "44", "--asterisk-intl-prefixes", "+"], "00442079460000"), None);
    // without a country the prefixes alone
    assert_eq!(e164(&["--asterisk-intl-prefixes", "00"], "00442079460000").as_deref(), Some("+442079460000"));
    // one that is not built in
    let nepal = ["--country-code", "977", "--national-prefix", "0", "--national-number-length", "8-10"];
    assert_eq!(e164(&nepal, "014123456").as_deref(), Some("+97714123456"));
    assert_eq!(e164(&nepal, "14123456"), None);
    let bare = ["--country-code", "977", "--national-prefix", "none", "--national-number-length", "9"];
    assert_eq!(e164(&bare, "914123456").as_deref(), Some("+977914123456"));
}

#[test]
fn dial_prefixes_and_switches() {
    let us = |more: &[&str], number: &str| e164(&[&["--country-code", "1"], more].concat(), number);
    assert_eq!(us(&["--strip-dial-prefixes", "9,*67"], "*67912125550123").as_deref(), Some("+12125550123"));
    assert_eq!(us(&["--strip-dial-prefixes", "true"], "912125550123").as_deref(), Some("+12125550123"));
    assert_eq!(us(&["--strip-dial-prefixes", "false"], "912125550123"), None);
    assert_eq!(us(&["--normalize-phone-numbers", "false"], "2125550123"), None);
    assert_eq!(us(&["--asterisk-e164-enabled", "no"], "2125550123"), None);
}

#[test]
fn filters_are_off_until_one_is_set() {
    assert_eq!(resolved(&[]).unwrap().filters, crate::correlate::Filters::default());
    let set = ["--filter-internal", "DROP", "--filter-min-duration", "2.5", "--filter-exclude-dst", "*97, 7*"];
    let filters = resolved(&set).unwrap().filters;
    assert!(filters.internal);
    assert_eq!(filters.min_duration_ms, Some(2_500));
    assert_eq!(filters.destinations, ["*97", "7*"]);
    let off = [&set[..], &["--filter-enabled", "false"]].concat();
    assert_eq!(resolved(&off).unwrap().filters, crate::correlate::Filters::default());
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (args, variable) in [
        (&["--accountcode-tenant-map", "acme"][..], "ACCOUNTCODE_TENANT_MAP"),
        (&["--accountcode-tenant-map", r#"{"a": 1}"#], "ACCOUNTCODE_TENANT_MAP"),
        (&["--did-tenant-map", "1000:"], "DID_TENANT_MAP"),
        (&["--tenant-by-endpoint", "x={1}"], "TENANT_BY_ENDPOINT"),
        (&["--tenant-by-context", "=x"], "TENANT_BY_CONTEXT"),
        (&["--country-code", "CZ"], "COUNTRY_CODE"),
        (&["--country-code", "0420123"], "COUNTRY_CODE"),
        (&["--country-code", ""], "COUNTRY_CODE"),
        (&["--country-code", "977"], "NATIONAL_PREFIX"),
        (&["--country-code", "977", "--national-prefix", "0"], "NATIONAL_NUMBER_LENGTH"),
        (&["--country-code", "1", "--national-prefix", "x"], "NATIONAL_PREFIX"),
        (&["--country-code", "1", "--national-number-length", "9-"], "NATIONAL_NUMBER_LENGTH"),
        (&["--country-code", "1", "--national-number-length", "10-8"], "NATIONAL_NUMBER_LENGTH"),
        (&["--national-prefix", "0"], "NATIONAL_PREFIX"),
        (&["--asterisk-intl-prefixes", "0x"], "ASTERISK_INTL_PREFIXES"),
        (&["--strip-dial-prefixes", "9,nine"], "STRIP_DIAL_PREFIXES"),
        (&["--filter-internal", "maybe"], "FILTER_INTERNAL"),
    ] {
        let refused = resolved(args).unwrap_err();
        assert!(refused.starts_with(&format!("{variable}: ")), "{args:?}: {refused}");
    }
}
