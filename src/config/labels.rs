//! Settings of tenants, numbers and filters to rules.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::ConfigError;
use super::resolve::trimmed;
use super::settings::RuleSettings;
use crate::correlate::numbering::Plan;
use crate::correlate::tenants::Table;
use crate::correlate::{Filters, Numbering, Tenants};

type Result<T> = std::result::Result<T, ConfigError>;

/// The largest mapping file that is read.
const MAP_FILE_BYTES_MAX: u64 = 16 << 20;

pub(super) fn tenants(s: &RuleSettings, numbering: &Numbering) -> Result<Tenants> {
    let mut tenants = Tenants::of_all(s.tenant.as_deref());
    let settings = [
        ("TENANT_BY_ENDPOINT", &s.tenant_by_endpoint, &mut tenants.endpoints),
        ("TENANT_BY_CONTEXT", &s.tenant_by_context, &mut tenants.contexts),
        ("DID_TENANT_MAP", &s.did_tenant_map, &mut tenants.dids),
        ("ACCOUNTCODE_TENANT_MAP", &s.accountcode_tenant_map, &mut tenants.accountcodes),
    ];
    for (variable, values, table) in settings {
        for value in values {
            fill(variable, value, table)?;
        }
    }
    if let Some(path) = &s.tenant_map_file {
        let file = map_file(path)?;
        let tables = [
            (file.endpoint_mappings, &mut tenants.endpoints),
            (file.context_mappings, &mut tenants.contexts),
            (file.did_mappings, &mut tenants.dids),
            (file.accountcode_mappings, &mut tenants.accountcodes),
        ];
        for (entries, table) in tables {
            for (pattern, tenant) in entries.0 {
                add("TENANT_MAP_FILE", table, &pattern, &tenant)
                    .map_err(|e| ConfigError::new("TENANT_MAP_FILE", format!("{}: {}", path.display(), e.problem)))?;
            }
        }
    }
    tenants.prepare(numbering);
    Ok(tenants)
}

/// `pattern=tenant` or `pattern:tenant`, comma separated, or a JSON object.
fn fill(variable: &str, value: &str, table: &mut Table) -> Result<()> {
    let value = value.trim();
    if value.starts_with("{\"") || value.starts_with("{ ") || value == "{}" {
        let entries: Entries = serde_json::from_str(value)
            .map_err(|e| ConfigError::new(variable, format!("begins like a JSON object of texts and is none: {e}")))?;
        return entries.0.iter().try_for_each(|(pattern, tenant)| add(variable, table, pattern, tenant));
    }
    for entry in value.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let Some((pattern, tenant)) = entry.split_once('=').or_else(|| entry.split_once(':')) else {
            return Err(ConfigError::new(variable, format!("{entry:?} is not of the form pattern=tenant")));
        };
        add(variable, table, pattern, tenant)?;
    }
    Ok(())
}

fn add(variable: &str, table: &mut Table, pattern: &str, tenant: &str) -> Result<()> {
    table.add(pattern, tenant).map_err(|problem| ConfigError::new(variable, problem))
}

/// Pairs of texts, in the order they are written.
#[derive(Default)]
struct Entries(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object whose values are texts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MapFile {
    endpoint_mappings: Entries,
    context_mappings: Entries,
    did_mappings: Entries,
    accountcode_mappings: Entries,
}

/// The mapping file. A flat object maps DIDs.
fn map_file(path: &Path) -> Result<MapFile> {
    let fault = |problem: String| ConfigError::new("TENANT_MAP_FILE", format!("{}: {problem}", path.display()));
    let size = std::fs::metadata(path).map_err(|e| fault(format!("cannot read it: {e}")))?.len();
    if size > MAP_FILE_BYTES_MAX {
        return Err(fault(format!("{size} bytes are more than the {MAP_FILE_BYTES_MAX} that are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fault(format!("cannot read it: {e}")))?;
    let shape: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&text).map_err(|e| fault(format!("not a JSON object: {e}")))?;
    if !shape.is_empty() && shape.values().all(serde_json::Value::is_string) {
        let did_mappings = serde_json::from_str(&text).map_err(|e| fault(e.to_string()))?;
        return Ok(MapFile { did_mappings, ..MapFile::default() });
    }
    serde_json::from_str(&text).map_err(|e| fault(e.to_string()))
}

pub(super) fn numbering(s: &RuleSettings) -> Result<Numbering> {
    let digits = |text: &str| !text.is_empty() && text.len() <= 8 && text.bytes().all(|b| b.is_ascii_digit());
    let mut numbering =
        Numbering { off: !(s.normalize_phone_numbers && s.asterisk_e164_enabled), ..Numbering::default() };
    if let Some(code) = &s.country_code {
        let code = code.trim().trim_start_matches('+');
        let code = if code.len() > 3 { code } else { code.trim_start_matches('0') };
        if !digits(code) || code.len() > 3 {
            return Err(ConfigError::new(
                "COUNTRY_CODE",
                format!("{code:?} is not a country code (1 to 3 digits: 1, 44, 420)"),
            ));
        }
        let (mut plan, international) = match Plan::built_in(code) {
            Some((plan, international)) => (plan, Some(international)),
            None => (Plan { code: code.to_owned(), ..Plan::default() }, None),
        };
        let known = international.is_some();
        if let Some(prefix) = s.national_prefix.as_deref().map(str::trim) {
            let none = prefix.eq_ignore_ascii_case("none");
            if !none && !digits(prefix) {
                return Err(ConfigError::new("NATIONAL_PREFIX", format!("{prefix:?} is neither digits nor none")));
            }
            let prefix = if none { "" } else { prefix };
            if prefix != plan.prefix || !known {
                prefix.clone_into(&mut plan.prefix);
                // of another plan it is not known whether a number is complete without its prefix
                plan.bare = if none { plan.length } else { (0, 0) };
            }
        } else if !known {
            return Err(ConfigError::new(
                "NATIONAL_PREFIX",
                format!(
                    "not set, and the numbers of country code {code} are not built in. Set it (0, or none where \
                     numbers have no prefix) and NATIONAL_NUMBER_LENGTH"
                ),
            ));
        }
        match &s.national_number_length {
            Some(text) => {
                plan.length = length(text)?;
                plan.bare = if plan.prefix.is_empty() || plan.bare != (0, 0) { plan.length } else { (0, 0) };
            }
            None if !known => {
                return Err(ConfigError::new(
                    "NATIONAL_NUMBER_LENGTH",
                    format!("not set, and the numbers of country code {code} are not built in (9, or 8-10)"),
                ));
            }
            None => {}
        }
        numbering.country = Some(plan);
        numbering.international = vec![international.unwrap_or("00").to_owned()];
    } else {
        let national = [("NATIONAL_PREFIX", &s.national_prefix), ("NATIONAL_NUMBER_LENGTH", &s.national_number_length)];
        if let Some((variable, _)) = national.iter().find(|(_, value)| value.is_some()) {
            return Err(ConfigError::new(*variable, "means nothing without COUNTRY_CODE"));
        }
    }
    let prefixes: Vec<String> = trimmed(&s.asterisk_intl_prefixes).into_iter().filter(|p| p != "+").collect();
    if let Some(wrong) = prefixes.iter().find(|p| !digits(p)) {
        return Err(ConfigError::new("ASTERISK_INTL_PREFIXES", format!("{wrong:?} is neither digits nor +")));
    }
    if !s.asterisk_intl_prefixes.is_empty() {
        numbering.international = prefixes;
        // 0011 before 00
        numbering.international.sort_by_key(|p| std::cmp::Reverse(p.len()));
    }
    numbering.dial_prefixes = dial_prefixes(&s.strip_dial_prefixes)?;
    Ok(numbering)
}

fn dial_prefixes(list: &[String]) -> Result<Vec<String>> {
    let list = trimmed(list);
    if let [one] = list.as_slice() {
        // a switch in the SIPSTACK connector, which takes these off
        match one.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => return Ok(["*67", "*82", "9"].map(str::to_owned).to_vec()),
            "false" | "no" | "off" | "none" => return Ok(Vec::new()),
            _ => {}
        }
    }
    let fits = |p: &&String| p.len() > 8 || !p.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#'));
    match list.iter().find(fits) {
        Some(wrong) => Err(ConfigError::new(
            "STRIP_DIAL_PREFIXES",
            format!("{wrong:?} is not something to dial (digits, * and #, at most 8)"),
        )),
        None => Ok(list),
    }
}

/// `9` or `8-10`.
fn length(text: &str) -> Result<(usize, usize)> {
    let (min, max) = text.split_once('-').unwrap_or((text, text));
    let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| (1..=14).contains(n));
    match (number(min), number(max)) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        _ => Err(ConfigError::new(
            "NATIONAL_NUMBER_LENGTH",
            format!("{text:?} is neither a number of digits (9) nor a range (8-10), 14 at most"),
        )),
    }
}

pub(super) fn filters(s: &RuleSettings) -> Result<Filters> {
    let internal = match s.filter_internal.to_ascii_lowercase().as_str() {
        "keep" | "false" => false,
        "drop" | "true" => true,
        other => return Err(ConfigError::new("FILTER_INTERNAL", format!("{other} is neither keep nor drop"))),
    };
    let seconds = s.filter_min_duration;
    if !s.filter_enabled {
        return Ok(Filters::default());
    }
    Ok(Filters {
        internal,
        min_duration_ms: (seconds > 0.0).then_some((seconds * 1_000.0).round() as i64),
        destinations: trimmed(&s.filter_exclude_dst),
        contexts: trimmed(&s.filter_exclude_contexts),
    })
}

#[cfg(test)]
mod tests;
