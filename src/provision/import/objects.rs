//! Trunks, phones and queues as blocks of a manifest.

use std::collections::BTreeSet;

use super::block::Block;
use super::rules;
use super::scene::Scene;
use crate::provision::dialplan::Unmatched;
use crate::provision::ident;
use crate::provision::table::Table;

/// Host, port and protocol of `sip:host:port;transport=tcp`.
fn address(uri: &str) -> (String, Option<u32>, String) {
    let inner = uri.strip_prefix("sip:").unwrap_or(uri);
    let mut parts = inner.split(';');
    let place = parts.next().unwrap_or_default();
    let place = place.rsplit('@').next().unwrap_or_default();
    let protocol = parts.find_map(|p| p.strip_prefix("transport=")).unwrap_or("udp").to_owned();
    match place.split_once(':') {
        Some((host, port)) => (host.to_owned(), port.parse().ok(), protocol),
        None => (place.to_owned(), None, protocol),
    }
}

fn codecs(block: &mut Block, allow: Option<&str>) {
    if let Some(allow) = allow {
        block.list("codecs", allow.trim_matches(['(', ')']).split([',', '|', ';']).map(str::trim));
    }
}

/// A trunk, and the `[[did]]`s of numbers with a destination of their own. What the dialplan rows say that no setting does
/// is left to the comparison at the end.
pub fn trunk(scene: &Scene, id: &str, addresses: &[String]) -> Vec<Block> {
    let endpoint = |column: &str| scene.cell(Table::Endpoints, &[id], column);
    let registration = |column: &str| scene.cell(Table::Registrations, &[id], column);
    let registers = scene.has(Table::Registrations, id);
    let far = registration("server_uri").or_else(|| scene.cell(Table::Aors, &[id], "contact")).unwrap_or_default();
    let (host, port, protocol) = address(&far);
    let host = if host.is_empty() { endpoint("from_domain").unwrap_or_default() } else { host };
    let extension = registration("contact_user").or_else(|| endpoint("from_user"));
    let mut block = Block::new("trunk");
    block.text("name", id);
    block.text("id", id);
    block.text("host", &host);
    block.number("port", port, 0);
    block.some("extension", extension.as_deref());
    if registers {
        let auth_id = scene.cell(Table::Auths, &[id], "username").filter(|a| Some(a) != extension.as_ref());
        block.some("auth_id", auth_id.as_deref());
        let digest = scene.cell(Table::Auths, &[id], "auth_type").as_deref() == Some("md5");
        block.some("digest_realm", scene.cell(Table::Auths, &[id], "realm").filter(|_| digest).as_deref());
        block.number("expiration", registration("expiration").and_then(|v| v.parse().ok()), 300);
    } else {
        block.text("mode", "ip");
        block.list("ips", addresses.iter().map(String::as_str));
    }
    if protocol != "udp" {
        block.text("protocol", &protocol);
    }
    for key in ["transport", "outbound_proxy", "media_encryption"] {
        block.some(key, endpoint(key).as_deref());
    }
    codecs(&mut block, endpoint("allow").as_deref());
    block.some("tenant", scene.tenant_of(id));
    let qualify = scene.cell(Table::Aors, &[id], "qualify_frequency").and_then(|v| v.parse().ok());
    block.number("qualify_frequency", qualify, 60);
    block.flag("nat", protocol == "udp" && scene.is_yes(Table::Endpoints, id, "rewrite_contact"));
    outgoing(scene, id, &mut block);
    let dids = incoming(scene, id, extension.as_deref(), &mut block);
    std::iter::once(block).chain(dids).collect()
}

fn outgoing(scene: &Scene, id: &str, block: &mut Block) {
    let (rows, _) = scene.patterns(&format!("{id}-out"));
    let Some(dial) = rows.iter().find(|r| r.strip > 0).or_else(|| rows.first()).map(|r| &r.dial) else { return };
    if let Some((rule, unmatched)) = rules::strip_rule(&rows).filter(|(rule, _)| !rule.is_empty()) {
        block.text("strip_prefix", &rule);
        block.some("unmatched", (unmatched == Unmatched::Reject).then_some("reject"));
    }
    // what passes has no prefix, what is ruled may
    let added = rows.iter().map(|r| r.dial.add_prefix.as_str()).find(|p| !p.is_empty());
    block.some("add_prefix", added);
    block.some("from_number", dial.from_number.as_deref());
    block.number("dial_timeout", Some(dial.timeout), 60);
}

fn incoming(scene: &Scene, id: &str, extension: Option<&str>, block: &mut Block) -> Vec<Block> {
    let Some(rows) = scene.contexts.get(&format!("{id}-in")) else { return Vec::new() };
    let tenant = scene.tenant_of(id);
    let any = rows.get(&("_X.".to_owned(), 1));
    if let Some(to) = any.and_then(|(app, data)| scene.destination(app, data, id, tenant)) {
        match to.strip_prefix("stasis:") {
            Some(app) => block.text("app", app),
            None if to == "hangup" => {}
            None => block.text("inbound", &to),
        }
    }
    let mut dids = Vec::new();
    for ((exten, _), row) in rows.iter().filter(|((exten, priority), _)| !exten.starts_with('_') && *priority == 1) {
        let to = scene.destination(&row.0, &row.1, id, None);
        let as_any = any.is_some_and(|(app, data)| row.0 == *app && to == scene.destination(app, data, id, None));
        if Some(exten.as_str()) == extension && (as_any || Some(row) == any) {
            continue;
        }
        if let Some(to) = to {
            let mut did = Block::new("did");
            did.text("number", exten);
            did.text("trunk", id);
            did.text("to", &to);
            dids.push(did);
        }
    }
    dids
}

/// A phone. One that is not ours says that it is taken over.
pub fn phone(scene: &Scene, id: &str) -> Block {
    let endpoint = |column: &str| scene.cell(Table::Endpoints, &[id], column);
    let aor = |column: &str| scene.cell(Table::Aors, &[id], column);
    let (name, number) = scene.caller(id);
    let found = scene.phones.get(id);
    let mut block = Block::new("extension");
    block.text("number", &number);
    block.some("username", (number != id).then_some(id));
    block.some("name", name.as_deref());
    let digest = scene.cell(Table::Auths, &[id], "auth_type").as_deref() == Some("md5");
    block.some("digest_realm", scene.cell(Table::Auths, &[id], "realm").filter(|_| digest).as_deref());
    block.flag("webrtc", scene.is_yes(Table::Endpoints, id, "webrtc"));
    block.flag("voicemail", endpoint("mailboxes").is_some());
    for key in ["call_group", "pickup_group", "transport", "dtls_cert_file"] {
        block.some(key, endpoint(key).as_deref());
    }
    block.some("tenant", found.and_then(|p| p.tenant.as_deref()));
    block.some("context", endpoint("context").filter(|_| !found.is_some_and(|p| p.dialable)).as_deref());
    codecs(&mut block, endpoint("allow").as_deref());
    block.number("max_contacts", aor("max_contacts").and_then(|v| v.parse().ok()), 1);
    block.number("ring_timeout", found.and_then(|p| p.ring), 30);
    block.flag("adopt", !scene.is_ours(id));
    block
}

/// A queue with its members and its number.
pub fn queue(scene: &Scene, id: &str, name: &str) -> Block {
    let get = |column: &str| scene.cell(Table::Queues, &[id], column);
    let mut block = Block::new("queue");
    block.text("name", name);
    block.some("exact_name", (format!("{}_{name}", scene.ns) != id).then_some(id));
    let number = scene.internal().into_iter().find_map(|(context, tenant)| {
        let rows = scene.contexts.get(context)?;
        let is_queue = |((_, priority), (app, data)): &(&(String, u32), &(String, String))| {
            *priority == 1 && app == "Queue" && data == id
        };
        let ((number, _), _) = rows.iter().find(is_queue)?;
        Some((number.as_str(), tenant))
    });
    let tenant = number.and_then(|(_, tenant)| tenant);
    block.some("number", number.map(|(number, _)| number));
    block.some("tenant", tenant);
    for (column, key) in [
        ("strategy", "strategy"),
        ("joinempty", "join_empty"),
        ("leavewhenempty", "leave_when_empty"),
        ("musiconhold", "music"),
        ("announce", "announce"),
    ] {
        block.some(key, get(column).as_deref());
    }
    for (column, key, default) in [("timeout", "timeout", 30), ("wrapuptime", "wrapup", 0), ("maxlen", "max_len", 0)] {
        block.number(key, get(column).and_then(|v| v.parse().ok()), default);
    }
    block.flag("ring_in_use", scene.is_yes(Table::Queues, id, "ringinuse"));
    for key in scene.rows(Table::QueueMembers).filter(|key| key[0] == id) {
        let interface = key[1].as_str();
        let member = |column: &str| scene.cell(Table::QueueMembers, &[id, interface], column);
        block.inner("queue.members");
        let phone = interface.strip_prefix("PJSIP/").and_then(|id| scene.phones.get(id)).filter(|p| p.ours);
        let alike = |p: &&super::scene::Phone| p.ours && Some(&p.number) == phone.map(|p| &p.number);
        let alone = scene.phones.values().filter(alike).count() == 1;
        match phone.filter(|p| alone || p.tenant.as_deref() == tenant) {
            Some(phone) => block.text("extension", &phone.number),
            None => block.text("interface", interface),
        }
        block.some("name", member("membername").as_deref());
        block.number("penalty", member("penalty").and_then(|v| v.parse().ok()), 0);
    }
    block
}

/// Routes of the contexts that phones dial in, and what of these contexts no setting makes. Trunks of `left_out` are not in
/// the file.
pub fn routes(scene: &Scene, left_out: &BTreeSet<String>) -> (Vec<Block>, Vec<String>) {
    let (mut blocks, mut odd) = (Vec::new(), Vec::new());
    for (context, tenant) in scene.internal() {
        let (rows, mut other) = scene.patterns(context);
        let (known, unknown): (Vec<_>, Vec<_>) = rows
            .into_iter()
            .partition(|r| scene.trunks.contains_key(&r.dial.trunk) && !left_out.contains(&r.dial.trunk));
        other.extend(unknown.into_iter().map(|r| r.exten));
        let (found, rest) = rules::routes(&known);
        other.extend(rest);
        for route in found {
            let mut block = Block::new("route");
            block.some("tenant", tenant);
            block.text("trunk", &route.dial.trunk);
            block.some("prefix", Some(route.prefix.as_str()).filter(|p| !p.is_empty()));
            block.flag("strip", route.strip);
            block.some("add_prefix", Some(route.dial.add_prefix.as_str()).filter(|p| !p.is_empty()));
            block.some("from_number", route.dial.from_number.as_deref());
            block.number("dial_timeout", Some(route.dial.timeout), 60);
            blocks.push(block);
        }
        odd.extend(other.into_iter().map(|exten| format!("{context} {}", exten.escape_debug())));
    }
    (blocks, odd)
}

/// Tenants that something refers to.
pub fn tenants(scene: &Scene) -> Vec<Block> {
    let fine = |name: &str| ident::slug(name) == name && name != "internal";
    let tenants = scene.tenants.iter().filter(|(name, _)| fine(name));
    tenants
        .map(|(name, code)| {
            let mut block = Block::new("tenant");
            block.text("name", name);
            block.some("accountcode", Some(code.as_str()).filter(|c| c != name));
            block
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn addresses_of_uris() {
        let (host, port, protocol) = super::address("sip:12@pbx.example.com:5061;transport=tls");
        assert_eq!((host.as_str(), port, protocol.as_str()), ("pbx.example.com", Some(5061), "tls"));
    }
}
