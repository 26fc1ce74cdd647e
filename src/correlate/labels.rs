//! What the settings add to a call that is told already: its tenant, and the numbers of its parties as E.164.

use super::parties::known;
use super::scene::Scene;
use super::tenants::Rule;
use super::{Rules, ids, shape};
use crate::call::{Content, Direction, Party, PartyKind};

/// Fills in `tenant` and `e164` of the call and of its parties.
pub(super) fn fill(scene: &Scene<'_>, caller: Option<usize>, content: &mut Content) {
    content.tenant = tenant(scene, caller, content).map(|(tenant, _)| tenant);
    let rules = scene.rules;
    if !rules.tenants.is_empty() || scene.has_tenants {
        let call = content.tenant.clone();
        content.parties_mut(&mut |party| {
            party.tenant = tenant_of_party(scene, party).filter(|own| call.as_ref() != Some(own));
        });
    }
    if rules.numbering.is_on() {
        let inbound = content.direction == Direction::Inbound;
        content.from.e164 = e164(rules, &content.from, if inbound { Written::Line } else { Written::Plain });
        content.to.e164 = e164(rules, &content.to, if inbound { Written::Line } else { Written::Dialled });
        let (from, to) = (content.from.e164.clone(), content.to.e164.clone());
        content.parties_mut(&mut |party| party.e164 = e164(rules, party, Written::Dialled));
        (content.from.e164, content.to.e164) = (from, to);
    }
}

/// By whom a number was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Written {
    /// The line it came in over.
    Line,
    Plain,
    /// Unless it is a device, somebody dialled it.
    Dialled,
}

fn e164(rules: &Rules, party: &Party, written: Written) -> Option<String> {
    let number = party.number.as_deref()?;
    if party.kind == Some(PartyKind::Extension) || shape::number(rules, number) == shape::NumberShape::Extension {
        return None;
    }
    match written {
        Written::Line => rules.numbering.from_line(number),
        Written::Dialled if party.endpoint.is_none() && party.channel.is_none() => rules.numbering.dialled(number),
        Written::Plain | Written::Dialled => rules.numbering.plain(number),
    }
}

/// The tenant of a call and the rule that found it.
pub(super) fn tenant(scene: &Scene<'_>, caller: Option<usize>, content: &Content) -> Option<(String, Rule)> {
    let (rules, tenants) = (scene.rules, &scene.rules.tenants);
    let named = |tenant: Option<String>, rule: Rule| tenant.map(|t| (t, rule));
    let by_maps = || {
        if tenants.is_empty() {
            return None;
        }
        let own = content.from.endpoint.as_deref().unwrap_or_default();
        let endpoint = || named(tenants.of_endpoint(own), Rule::Endpoint);
        let context = || named(contexts(scene, caller).find_map(|c| tenants.of_context(c)), Rule::Context);
        let did = || {
            // only a caller from outside reaches a number from outside
            let did = content.did.as_deref().filter(|_| content.direction == Direction::Inbound)?;
            named(tenants.of_did(did, &rules.numbering), Rule::Did)
        };
        let code = || named(tenants.of_accountcode(content.accountcode.as_deref()?), Rule::AccountCode);
        endpoint().or_else(context).or_else(did).or_else(code)
    };
    let column = || named(column(scene), Rule::Column);
    let other_side = || {
        let called = [&content.answered_by, &content.finally_with].into_iter().flatten();
        let called = called.chain(content.attempts.iter().map(|a| &a.party));
        let endpoints = called.filter_map(|p| p.endpoint.as_deref()).chain(content.trunk_out.as_deref());
        if tenants.endpoints.is_empty() {
            return None;
        }
        named(endpoints.filter_map(|e| tenants.of_endpoint(e)).next(), Rule::CalledEndpoint)
    };
    let default = || named(tenants.default.clone(), Rule::Default);
    by_maps().or_else(column).or_else(other_side).or_else(default)
}

/// The contexts the caller went through, in order of time; of a call without events, those of its records.
fn contexts<'s>(scene: &'s Scene<'_>, caller: Option<usize>) -> impl Iterator<Item = &'s str> {
    let events = scene.events.iter().filter(move |e| Some(e.ch) == caller).map(|e| e.row.context.as_str());
    let own = caller.map(|c| scene.chans[c].id);
    let records = scene.records.iter().map(|r| r.row).filter(move |r| own.is_none_or(|id| r.uniqueid == id));
    events.chain(records.map(|r| r.dcontext.as_str()))
}

/// The column `tenantid`: of the events first, then of the records.
fn column(scene: &Scene<'_>) -> Option<String> {
    if !scene.has_tenants {
        return None;
    }
    let cel = scene.events.iter().map(|e| &*e.row.tenantid);
    let cdr = scene.records.iter().map(|r| r.row.tenantid.as_str());
    cel.chain(cdr).find_map(known)
}

/// The tenant of one device: by its endpoint, the context it began in, its account code, its column. Somebody outside has
/// none.
fn tenant_of_party(scene: &Scene<'_>, party: &Party) -> Option<String> {
    if party.kind != Some(PartyKind::Extension) {
        return None;
    }
    let tenants = &scene.rules.tenants;
    let channel = party.channel.as_deref().unwrap_or_default();
    let ch = scene.chans.iter().position(|c| !channel.is_empty() && (c.name == channel || c.last_name == channel));
    let by_endpoint = party.endpoint.as_deref().and_then(|e| tenants.of_endpoint(e));
    let by_context = || tenants.of_context(scene.chans[ch?].context);
    let own = || scene.events.iter().filter(|e| Some(e.ch) == ch).map(|e| e.row);
    let records = || scene.records.iter().map(|r| r.row).filter(|r| ids::bare_name(&r.channel) == channel);
    let by_code = || {
        let code = own().map(|r| &*r.accountcode).find(|c| !c.is_empty());
        let code = code.or_else(|| records().map(|r| r.accountcode.as_str()).find(|c| !c.is_empty()));
        tenants.of_accountcode(code?)
    };
    let by_column = || own().find_map(|r| known(&r.tenantid)).or_else(|| records().find_map(|r| known(&r.tenantid)));
    if channel.is_empty() {
        return by_endpoint;
    }
    by_endpoint.or_else(by_context).or_else(by_code).or_else(by_column)
}
