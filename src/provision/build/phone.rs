//! A phone: SIP or WebRTC.

use super::auth_row;
use crate::provision::current::MARK;
use crate::provision::error::Result;
use crate::provision::model::Extension;
use crate::provision::table::{Row, Table};

/// Rows of one phone, marked as the namespace's.
pub fn rows(ns: &str, e: &Extension) -> Result<Vec<Row>> {
    let id = &e.id;
    let mut endpoint = Row::new(Table::Endpoints, [id])
        .set("transport", e.transport.as_str())
        .set("aors", id)
        .set("auth", id)
        .set("context", e.context.as_str())
        .set("disallow", "all")
        .set("allow", e.codecs.join(","))
        .set("callerid", format!("\"{}\" <{}>", e.name, e.number))
        .set("set_var", format!("{MARK}={ns}"))
        .flag("direct_media", false)
        .flag("force_rport", true)
        .flag("rewrite_contact", true)
        .flag("rtp_symmetric", true)
        .flag("send_pai", true)
        .flag("send_rpid", true)
        .flag("send_diversion", true)
        .flag("trust_id_inbound", false)
        .flag("trust_id_outbound", false)
        .optional("dtmf_mode", "rfc4733")
        .flag("ice_support", e.webrtc)
        .flag("use_avpf", e.webrtc);
    endpoint = if e.webrtc {
        let endpoint = endpoint
            .required_flag("webrtc", true)
            .set("media_encryption", "dtls")
            .optional("dtls_verify", "fingerprint")
            .optional("dtls_setup", "actpass")
            .flag("rtcp_mux", true)
            .flag("media_use_received_transport", true);
        match &e.dtls_cert_file {
            Some(file) => endpoint.set("dtls_cert_file", file),
            None => endpoint.flag("dtls_auto_generate_cert", true),
        }
    } else {
        endpoint.flag("webrtc", false).optional("media_encryption", "no")
    };
    endpoint = endpoint.managed("mailboxes", e.mailbox.as_deref());
    if e.mailbox.is_some() {
        endpoint = endpoint.optional("voicemail_extension", "*97");
    }
    endpoint =
        endpoint.managed("call_group", e.call_group.as_deref()).managed("pickup_group", e.pickup_group.as_deref());
    if let Some(tenant) = &e.tenant {
        endpoint = endpoint.set("accountcode", tenant).optional("tenantid", tenant);
    }
    let aor = Row::new(Table::Aors, [id])
        .set("max_contacts", e.max_contacts.to_string())
        .flag("remove_existing", true)
        .set("minimum_expiration", "60")
        .set("maximum_expiration", "7200")
        .set("default_expiration", "3600")
        .set("qualify_frequency", "60")
        .optional("qualify_timeout", "3.0");
    let auth = auth_row(id, id, &e.secret).optional("nonce_lifetime", "32");
    Ok([auth, aor, endpoint].into_iter().map(|r| Row { adopt: e.adopt, ..r }).collect())
}
