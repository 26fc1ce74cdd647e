//! Whose call it is: tables that say which tenant an endpoint, a context, a DID or an account code belongs to. Only what
//! is configured counts; nothing is read out of names by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ids;
use super::numbering::Numbering;
use super::shape::glob;

/// What may name a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tenants {
    /// Endpoints, with or without technology: `PJSIP/*-acme`, `acme-*`.
    pub endpoints: Table,
    pub contexts: Table,
    /// Numbers that callers from outside reach.
    pub dids: Table,
    pub accountcodes: Table,
    /// Tenant of calls for which nothing else finds one.
    pub default: Option<String>,
    /// The numbers of `dids` as E.164: a PBX may write them in another form than the settings.
    dids_e164: BTreeMap<String, String>,
}

/// The rule that decided, by the order in which rules are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Endpoint,
    Context,
    Did,
    AccountCode,
    Column,
    /// The endpoint of whoever was called.
    CalledEndpoint,
    Default,
}

impl Rule {
    /// In words, with the setting.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "the caller's endpoint, TENANT_BY_ENDPOINT",
            Self::Context => "the caller's context, TENANT_BY_CONTEXT",
            Self::Did => "the number reached, DID_TENANT_MAP",
            Self::AccountCode => "the account code, ACCOUNTCODE_TENANT_MAP",
            Self::Column => "the column tenantid",
            Self::CalledEndpoint => "the endpoint of the other side, TENANT_BY_ENDPOINT",
            Self::Default => "TENANT",
        }
    }
}

/// Patterns (`*` any text, `?` one character, without regard to case) and the tenant each stands for. `{1}`, `{2}` … in
/// a tenant stand for what the first, second … `*` of the pattern matched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    exact: BTreeMap<String, String>,
    patterns: Vec<(String, String)>,
}

impl Table {
    /// Adds an entry. Of equal patterns the first stays.
    pub fn add(&mut self, pattern: &str, tenant: &str) -> Result<(), String> {
        let (pattern, tenant) = (pattern.trim(), tenant.trim());
        if pattern.is_empty() || tenant.is_empty() {
            return Err(format!("{pattern:?} = {tenant:?}: both sides need a text"));
        }
        let stars = pattern.matches('*').count();
        for reference in references(tenant) {
            if reference == 0 || reference > stars {
                return Err(format!("{tenant:?} refers to * number {reference}, and {pattern:?} has {stars}"));
            }
        }
        if pattern.contains(['*', '?']) {
            if !self.patterns.iter().any(|(p, _)| p.eq_ignore_ascii_case(pattern)) {
                self.patterns.push((pattern.to_owned(), tenant.to_owned()));
            }
        } else {
            self.exact.entry(pattern.to_ascii_lowercase()).or_insert_with(|| tenant.to_owned());
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.patterns.is_empty()
    }

    /// The tenant of a text: an entry without wildcards first, then patterns in the order they were written.
    pub fn find(&self, text: &str) -> Option<String> {
        self.find_as(text, |_| text)
    }

    fn find_as<'t>(&self, text: &'t str, of_pattern: impl Fn(&str) -> &'t str) -> Option<String> {
        if text.is_empty() {
            return None;
        }
        if let Some(tenant) = self.exact.get(&text.to_ascii_lowercase()) {
            return Some(tenant.clone());
        }
        self.patterns.iter().find_map(|(pattern, tenant)| {
            let text = of_pattern(pattern);
            if !glob(pattern, text) {
                return None;
            }
            let tenant = expand(tenant, &captures(pattern, text)?);
            let tenant = tenant.trim();
            (!tenant.is_empty()).then(|| tenant.to_owned())
        })
    }

    /// The tenant of an endpoint: entries without a technology are compared with the name alone.
    fn find_endpoint(&self, endpoint: &str) -> Option<String> {
        let peer = ids::peer_of(endpoint);
        let of_pattern = |p: &str| if p.contains('/') { endpoint } else { peer };
        let exact = |text: &str| self.exact.get(&text.to_ascii_lowercase()).cloned();
        exact(endpoint).or_else(|| exact(peer)).or_else(|| self.find_as(endpoint, of_pattern))
    }
}

impl Tenants {
    /// Every call is this tenant's, until there are entries.
    pub fn of_all(tenant: Option<&str>) -> Self {
        let default = tenant.map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        Self { default, ..Self::default() }
    }

    /// Makes DIDs comparable across the forms they are written in. To be called once all entries are there.
    pub fn prepare(&mut self, numbering: &Numbering) {
        let keys = self.dids.exact.iter().filter_map(|(did, tenant)| Some((numbering.from_line(did)?, tenant.clone())));
        self.dids_e164 = keys.collect();
    }

    /// Whether anything but the column and the default can tell.
    pub fn is_empty(&self) -> bool {
        [&self.endpoints, &self.contexts, &self.dids, &self.accountcodes].into_iter().all(Table::is_empty)
    }

    pub(super) fn of_endpoint(&self, endpoint: &str) -> Option<String> {
        if self.endpoints.is_empty() || endpoint.is_empty() { None } else { self.endpoints.find_endpoint(endpoint) }
    }

    pub(super) fn of_context(&self, context: &str) -> Option<String> {
        if self.contexts.is_empty() { None } else { self.contexts.find(context) }
    }

    pub(super) fn of_did(&self, did: &str, numbering: &Numbering) -> Option<String> {
        if self.dids.is_empty() {
            return None;
        }
        let exact = self.dids.exact.get(&did.to_ascii_lowercase()).cloned();
        let by_e164 = || self.dids_e164.get(&numbering.from_line(did)?).cloned();
        exact.or_else(by_e164).or_else(|| self.dids.find(did))
    }

    pub(super) fn of_accountcode(&self, code: &str) -> Option<String> {
        if self.accountcodes.is_empty() { None } else { self.accountcodes.find(code) }
    }
}

/// The numbers in `{1}`, `{2}` …
fn references(tenant: &str) -> Vec<usize> {
    let opened = tenant.split('{').skip(1);
    opened.filter_map(|rest| rest.split_once('}').and_then(|(n, _)| n.parse().ok())).collect()
}

fn expand(tenant: &str, captures: &[&str]) -> String {
    if !tenant.contains('{') {
        return tenant.to_owned();
    }
    let mut out = String::with_capacity(tenant.len());
    let mut rest = tenant;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let reference = from[1..].split_once('}').and_then(|(n, after)| Some((n.parse::<usize>().ok()?, after)));
        match reference {
            Some((n, after)) => {
                out.push_str(n.checked_sub(1).and_then(|i| captures.get(i)).copied().unwrap_or_default());
                rest = after;
            }
            None => {
                out.push('{');
                rest = &from[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// What each `*` of a pattern stands for in a text it matches: each as short as it can be, the last takes the rest.
fn captures<'t>(pattern: &str, text: &'t str) -> Option<Vec<&'t str>> {
    let parts: Vec<&[u8]> = pattern.as_bytes().split(|&b| b == b'*').collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return None };
    if parts.len() == 1 {
        return Some(Vec::new());
    }
    let bytes = text.as_bytes();
    let fits = |part: &[u8], at: usize| {
        bytes
            .get(at..at + part.len())
            .is_some_and(|there| there.iter().zip(part).all(|(t, p)| *p == b'?' || p.eq_ignore_ascii_case(t)))
    };
    let end = bytes.len().checked_sub(last.len())?;
    let mut at = first.len();
    let mut found = Vec::new();
    for part in &parts[1..parts.len() - 1] {
        let start = (at..=end).find(|&start| fits(part, start))?;
        found.push(text.get(at..start)?);
        at = start + part.len();
    }
    found.push(text.get(at..end)?);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        entries.iter().for_each(|(p, t)| table.add(p, t).expect("an entry"));
        table
    }

    #[test]
    fn an_exact_entry_wins_and_patterns_go_in_their_order() {
        let t = table(&[("gc*", "first"), ("gc-1", "exact"), ("*", "rest"), ("GC-1", "too late")]);
        assert_eq!(t.find("GC-1").as_deref(), Some("exact"));
        assert_eq!(t.find("gc-2").as_deref(), Some("first"));
        assert_eq!(t.find("x").as_deref(), Some("rest"));
        assert_eq!(t.find(""), None);
    }

    #[test]
    fn a_tenant_can_be_a_part_of_the_name() {
        for (pattern, tenant, text, expected) in [
            ("*", "{1}", "tenantA", Some("tenantA")),
            ("PJSIP/*-*", "{2}", "PJSIP/1001-tenant-b", Some("tenant-b")),
            ("PJSIP/*-*", "{2}", "PJSIP/1001-", None),
            ("t?_*_in", "x{1}y", "tA_acme_IN", Some("xacmey")),
            ("*é*", "{1}|{2}", "aéb", Some("a|b")),
            ("?*", "{1}", "é", None),
            ("*a*a", "{1}", "a", None),
            ("*", "{", "z", Some("{")),
        ] {
            assert_eq!(table(&[(pattern, tenant)]).find(text).as_deref(), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn endpoints_go_with_and_without_technology() {
        let endpoints = table(&[("*-acme", "{1}"), ("SIP/*", "sip"), ("77", "exact")]);
        let t = Tenants { endpoints, ..Tenants::default() };
        assert_eq!(t.of_endpoint("PJSIP/1001-acme").as_deref(), Some("1001"));
        assert_eq!(t.of_endpoint("SIP/5").as_deref(), Some("sip"));
        assert_eq!(t.of_endpoint("IAX2/77").as_deref(), Some("exact"));
        assert_eq!(t.of_endpoint("IAX2/78"), None);
        assert_eq!(t.of_endpoint(""), None);
    }

    #[test]
    fn a_reference_needs_its_star() {
        assert!(Table::default().add("acme", "{1}").is_err());
        assert!(Table::default().add("*", "{2}").is_err());
        assert!(Table::default().add("*", "{0}").is_err());
        assert!(Table::default().add("", "x").is_err());
        assert!(Table::default().add("x", " ").is_err());
    }
}
