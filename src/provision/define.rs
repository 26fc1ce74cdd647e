//! One definition to one thing: a trunk, a destination, a secret. Shared by the manifest and `trunk add`.

use std::path::Path;

use secrecy::SecretString;

use super::dialplan::Unmatched;
use super::error::{Error, Result};
use super::ident;
use super::manifest::TrunkDef;
use super::model::{self, Destination, Mode, Protocol, Secret, Trunk};

/// The id of a trunk: made of host and extension, unless the manifest names the one that stands.
pub(super) fn id_of(ns: &str, d: &TrunkDef) -> Result<String> {
    match &d.id {
        Some(id) => {
            let id = model::word("id", id)?;
            if id.len() > ident::MAX_ID || id.contains([':', '.']) {
                return Err(Error::input(format!(
                    "id {id} has to be at most {} letters, digits, _ and -",
                    ident::MAX_ID
                )));
            }
            Ok(id)
        }
        None => {
            // without a number of ours at the far end the id still needs a last part
            ident::trunk_id(ns, &model::host("host", &d.host)?, trunk_extension(d)?.unwrap_or("ip"))
        }
    }
}

/// The number this PBX has at the far end; a trunk known by addresses may have none.
fn trunk_extension(d: &TrunkDef) -> Result<Option<&str>> {
    match (&d.extension, d.mode.as_deref()) {
        (Some(extension), _) => Ok(Some(extension)),
        (None, Some("ip")) => Ok(None),
        (None, _) => Err(Error::input("extension is missing: the number this PBX has at the far end")),
    }
}

/// A trunk of its definition; shared by the manifest and `trunk add`.
#[allow(clippy::too_many_arguments, reason = "what a definition does not hold, each of one kind")]
pub fn trunk_of(
    ns: &str,
    d: &TrunkDef,
    secret: Secret,
    inbound: Destination,
    tenant: Option<String>,
    codecs: &[String],
    transport: &str,
    dial_timeout: u32,
) -> Result<Trunk> {
    let host = model::host("host", &d.host)?;
    let extension = trunk_extension(d)?.map(|e| model::user("extension", e)).transpose()?;
    let mode = match (d.mode.as_deref(), d.ips.as_slice()) {
        (None | Some("register"), []) => Mode::Register,
        (None | Some("ip"), ips @ [_, ..]) => Mode::Ip(ips.iter().map(|ip| model::address(ip)).collect::<Result<_>>()?),
        (Some("ip"), []) => return Err(Error::input("mode = \"ip\" needs ips: the addresses calls come from")),
        (Some("register"), [_, ..]) => {
            return Err(Error::input("ips belong to mode = \"ip\"; a registering trunk knows its calls"));
        }
        (Some(other), _) => {
            return Err(Error::input(format!("mode {} is not register or ip", model::quoted(other))));
        }
    };
    let protocol = Protocol::parse(d.protocol.as_deref().unwrap_or("udp"))?;
    let media_encryption = match d.media_encryption.as_deref() {
        None => None,
        Some(m @ ("no" | "sdes" | "dtls")) => Some(m.to_owned()),
        Some(other) => {
            return Err(Error::input(format!("media_encryption {} is not no, sdes or dtls", model::quoted(other))));
        }
    };
    let default_transport = match protocol {
        Protocol::Udp => transport.to_owned(),
        other => format!("transport-{other}"),
    };
    let range = |what: &str, value: u32, min: u32, max: u32| {
        if (min..=max).contains(&value) {
            Ok(value)
        } else {
            Err(Error::input(format!("{what} {value} is not between {min} and {max} seconds")))
        }
    };
    Ok(Trunk {
        id: id_of(ns, d)?,
        host,
        port: match d.port {
            Some(0) => return Err(Error::input("port 0 is none; leave it away for that of the protocol")),
            port => port,
        },
        auth_id: match d.auth_id.as_deref().or(extension.as_deref()) {
            Some(auth_id) => model::text("auth_id", auth_id, 40)?,
            None => String::new(),
        },
        extension,
        secret,
        mode,
        protocol,
        transport: model::word("transport", d.transport.as_deref().unwrap_or(&default_transport))?,
        outbound_proxy: d.outbound_proxy.as_deref().map(model::proxy).transpose()?,
        codecs: codec_list(d.codecs.as_deref().unwrap_or(codecs))?,
        strip_prefix: d.strip_prefix.clone(),
        add_prefix: add_prefix(&d.add_prefix)?,
        unmatched: match d.unmatched.as_deref() {
            None | Some("pass") => Unmatched::Pass,
            Some("reject") => Unmatched::Reject,
            Some(other) => {
                return Err(Error::input(format!("unmatched {} is not pass or reject", model::quoted(other))));
            }
        },
        from_number: d.from_number.as_deref().map(|n| model::number("from_number", n)).transpose()?,
        inbound,
        dids: Vec::new(),
        tenant,
        media_encryption,
        dial_timeout: range("dial_timeout", d.dial_timeout.unwrap_or(dial_timeout), 1, 3600)?,
        expiration: range("expiration", d.expiration.unwrap_or(300), 30, 86_400)?,
        qualify_frequency: range("qualify_frequency", d.qualify_frequency.unwrap_or(60), 0, 86_400)?,
        nat: d.nat,
    })
}

/// A destination that refers to nothing of the manifest.
pub fn destination(text: &str) -> Result<Destination> {
    let (kind, what) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "stasis" => Ok(Destination::Stasis(model::word("application", what)?)),
        "goto" => {
            let parts: Vec<&str> = what.split(',').collect();
            let [context, exten, priority] = parts.as_slice() else {
                return Err(Error::input(format!("{} is not goto:context,exten,priority", model::quoted(text))));
            };
            let exten = if *exten == "${EXTEN}" { (*exten).to_owned() } else { model::user("exten", exten)? };
            let (context, priority) = (model::word("context", context)?, model::word("priority", priority)?);
            Ok(Destination::Goto(format!("{context},{exten},{priority}")))
        }
        "voicemail" => {
            let (mailbox, context) = what.split_once('@').unwrap_or((what, "default"));
            let (mailbox, context) = (model::number("mailbox", mailbox)?, model::word("context", context)?);
            Ok(Destination::Voicemail(format!("{mailbox}@{context}")))
        }
        "hangup" if what.is_empty() => Ok(Destination::Hangup),
        _ => Err(Error::input(format!(
            "{} is none of stasis:app, extension:number, queue:name, voicemail:number, goto:context,exten,priority, hangup",
            model::quoted(text)
        ))),
    }
}

pub fn secret_of(password: SecretString, realm: Option<&str>) -> Result<Secret> {
    match realm {
        Some(realm) => Ok(Secret::Digest { realm: model::text("digest_realm", realm, 40)?, password }),
        None => Ok(Secret::Password(password)),
    }
}

/// A file's one secret, without the line end.
pub fn password_file(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::input(format!("password_file: cannot read {}: {e}", path.display())))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(Error::input(format!("password_file: {} is empty", path.display())));
    }
    Ok(text.to_owned())
}

pub(super) fn add_prefix(text: &str) -> Result<String> {
    if text.is_empty() || text == "+" { Ok(text.to_owned()) } else { model::number("add_prefix", text) }
}

pub(super) fn codec_list(codecs: &[String]) -> Result<Vec<String>> {
    if codecs.is_empty() {
        return Err(Error::input("codecs is empty: name at least one"));
    }
    codecs.iter().map(|c| model::word("codec", c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provision::build;
    use crate::provision::table::{Row, Table};

    fn rows(def: TrunkDef, inbound: &str) -> Result<Vec<Row>> {
        let def = TrunkDef { host: "a.example.com".to_owned(), ..def };
        let password = Secret::Password("x".to_owned().into());
        let codecs = ["alaw".to_owned()];
        let trunk = trunk_of("cf", &def, password, destination(inbound)?, None, &codecs, "transport-udp", 60)?;
        build::trunk_rows(&trunk)
    }

    fn inbound(rows: &[Row]) -> Vec<(&str, String)> {
        let extens = rows.iter().filter(|r| r.table == Table::Extensions && r.key[0].ends_with("-in"));
        extens.map(|r| (r.key[1].as_str(), r.cells["appdata"].value.display())).collect()
    }

    /// A user of From is what the far end sees in place of the caller's number.
    #[test]
    fn a_trunk_known_by_address_needs_no_number() {
        let ip =
            || TrunkDef { mode: Some("ip".to_owned()), ips: vec!["203.0.113.4".to_owned()], ..TrunkDef::default() };
        let numbered = TrunkDef { extension: Some("12".to_owned()), ..ip() };
        for (def, id, user, extens) in [
            (ip(), "cf_a_example_com_ip", "", &["_X.", "_+X."][..]),
            (numbered, "cf_a_example_com_12", "12", &["12", "_X.", "_+X."]),
        ] {
            let rows = rows(def, "hangup").unwrap();
            let endpoint = rows.iter().find(|r| r.table == Table::Endpoints).unwrap();
            assert_eq!((endpoint.key[0].as_str(), endpoint.cells["from_user"].value.display()), (id, user.to_owned()));
            assert_eq!(inbound(&rows).iter().map(|(e, _)| *e).collect::<Vec<_>>(), extens);
        }
        assert!(rows(TrunkDef::default(), "hangup").is_err());
        assert!(rows(TrunkDef { port: Some(0), ..ip() }, "hangup").unwrap_err().message.contains("port 0"));
    }

    /// What a pattern matched came from outside: a comma in it would name another place to go to.
    #[test]
    fn a_dialled_number_names_no_priority() {
        let def = TrunkDef { extension: Some("o-1".to_owned()), ..TrunkDef::default() };
        let safe = "menu,${FILTER(0-9+*#,${EXTEN})},1".to_owned();
        assert_eq!(
            inbound(&rows(def, "goto:menu,${EXTEN},1").unwrap()),
            [("o-1", "menu,${EXTEN},1".to_owned()), ("_X.", safe.clone()), ("_+X.", safe)]
        );
    }
}
