//! A trunk to another PBX, with a registration or known by address.

use super::auth_row;
use super::dialplan::outbound_rows;
use crate::provision::error::{Error, Result};
use crate::provision::model::{DIALLED, Mode, Protocol, Trunk};
use crate::provision::table::{Row, Table};

/// Retries for as long as it takes: the default gives up for good after ten, or after one wrong password.
const MAX_RETRIES: &str = "10000";
const RETRY_SECONDS: &str = "60";
const REJECTED_RETRY_SECONDS: &str = "300";

/// All rows of one trunk.
pub fn rows(trunk: &Trunk) -> Result<Vec<Row>> {
    let Trunk { id, host, .. } = trunk;
    let extension = trunk.extension.as_deref();
    let port = trunk.port.map_or(String::new(), |p| format!(":{p}"));
    let parameter = match trunk.protocol {
        Protocol::Udp => String::new(),
        other => format!(";transport={other}"),
    };
    let far = format!("sip:{host}{port}{parameter}");
    let register = trunk.mode == Mode::Register;
    let mut rows = vec![
        Row::new(Table::Aors, [id])
            .set("contact", far.as_str())
            .set("qualify_frequency", trunk.qualify_frequency.to_string())
            .set("max_contacts", "1"),
    ];
    let mut endpoint = Row::new(Table::Endpoints, [id])
        .set("transport", trunk.transport.as_str())
        .set("aors", id)
        // a challenge of ours is what the far end has no credentials for
        .null("auth")
        .set("context", format!("{id}-in"))
        .set("disallow", "all")
        .set("allow", trunk.codecs.join(","))
        .managed("from_user", extension)
        .set("from_domain", host)
        .set("identify_by", "ip")
        .flag("direct_media", false)
        .flag("rtp_symmetric", true)
        .flag("force_rport", true)
        .flag("rewrite_contact", trunk.nat || trunk.protocol != Protocol::Udp)
        .optional("dtmf_mode", "rfc4733")
        .optional("timers", "yes")
        .flag("send_pai", trunk.from_number.is_some())
        .managed("outbound_proxy", trunk.outbound_proxy.as_deref())
        .managed("media_encryption", trunk.media_encryption.as_deref());
    if let Some(tenant) = &trunk.tenant {
        endpoint = endpoint.set("accountcode", tenant).optional("tenantid", tenant);
    }
    if register {
        let extension = extension.ok_or_else(|| Error::input("a trunk that registers needs an extension"))?;
        rows.push(auth_row(id, &trunk.auth_id, &trunk.secret));
        endpoint = endpoint.set("outbound_auth", id);
        rows.push(
            Row::new(Table::Registrations, [id])
                .set("transport", trunk.transport.as_str())
                .set("outbound_auth", id)
                .set("server_uri", far)
                .set("client_uri", format!("sip:{extension}@{host}"))
                .set("contact_user", extension)
                // both or neither
                .required_flag("line", true)
                .set("endpoint", id)
                .set("expiration", trunk.expiration.to_string())
                .set("retry_interval", RETRY_SECONDS)
                .set("max_retries", MAX_RETRIES)
                .flag("auth_rejection_permanent", false)
                .set("forbidden_retry_interval", REJECTED_RETRY_SECONDS)
                .optional("fatal_retry_interval", REJECTED_RETRY_SECONDS)
                // the default puts every start off by up to ten seconds
                .optional("max_random_initial_delay", "0")
                .managed("outbound_proxy", trunk.outbound_proxy.as_deref()),
        );
    } else {
        endpoint = endpoint.null("outbound_auth");
    }
    if let Mode::Ip(addresses) = &trunk.mode {
        rows.push(
            Row::new(Table::Identifies, [id])
                .set("endpoint", id)
                .set("match", addresses.join(","))
                .flag("srv_lookups", false),
        );
    }
    rows.push(endpoint);
    let inbound = format!("{id}-in");
    let (app, data) = trunk.inbound.application(id);
    if let Some(exten) = extension.filter(|e| trunk.dids.iter().all(|(n, _)| n != e)) {
        rows.push(exten_row(&inbound, exten, 1, app, &data));
    }
    for exten in ["_X.", "_+X."] {
        rows.push(exten_row(&inbound, exten, 1, app, &data.replace("${EXTEN}", DIALLED)));
    }
    for (number, destination) in &trunk.dids {
        let (app, data) = destination.application(id);
        rows.push(exten_row(&inbound, number, 1, app, &data));
    }
    rows.extend(outbound_rows(trunk)?);
    Ok(rows)
}

pub(super) fn exten_row(context: &str, exten: &str, priority: u32, app: &str, data: &str) -> Row {
    Row::new(Table::Extensions, [context, exten, &priority.to_string()]).set("app", app).set("appdata", data)
}
