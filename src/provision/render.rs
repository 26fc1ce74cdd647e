//! The static files Asterisk needs before any row can work, as its release reads them.

use std::fmt::Write as _;

use super::db::Engine;
use super::schema::Mapping;
use super::table::Table;
use super::version::Version;

/// What the stubs are written for.
pub struct Setting<'a> {
    pub contexts: &'a [String],
    pub mapping: &'a Mapping,
    pub engine: Engine,
    /// Class of res_odbc.conf; PostgreSQL is reached through res_config_pgsql unless one is given.
    pub odbc: Option<&'a str>,
    pub transports: &'a [String],
    pub version: Version,
}

/// All files, each under a line with its name.
pub fn render(setting: &Setting<'_>) -> String {
    let mut out = String::new();
    let odbc = setting.odbc.or((setting.engine == Engine::MySql).then_some("asterisk"));
    let driver = odbc.map_or("pgsql,asterisk".to_owned(), |class| format!("odbc,{class}"));
    let _ = writeln!(out, "; for Asterisk {}", setting.version);
    section(&mut out, "extensions.conf (then: dialplan reload)");
    for context in setting.contexts {
        let _ = writeln!(out, "[{context}]\nswitch => Realtime/@extensions\n");
    }
    section(&mut out, "extconfig.conf, in [settings] (then: restart)");
    for table in Table::ALL.into_iter().filter(|t| *t != Table::Contacts) {
        let name = setting.mapping.table(table);
        let _ = writeln!(out, "{} => {driver},{name}", table.name());
    }
    out.push('\n');
    section(&mut out, "sorcery.conf (then: restart)");
    out.push_str(
        "[res_pjsip]\nendpoint=realtime,ps_endpoints\nendpoint=config,pjsip.conf,criteria=type=endpoint\n\
         auth=realtime,ps_auths\nauth=config,pjsip.conf,criteria=type=auth\n\
         aor=realtime,ps_aors\naor=config,pjsip.conf,criteria=type=aor\n\n\
         [res_pjsip_endpoint_identifier_ip]\nidentify=realtime,ps_endpoint_id_ips\n\
         identify=config,pjsip.conf,criteria=type=identify\n\n\
         [res_pjsip_outbound_registration]\nregistration=realtime,ps_registrations\n\
         registration=config,pjsip.conf,criteria=type=registration\n\n",
    );
    match odbc {
        Some(class) => {
            section(&mut out, "res_odbc.conf (the DSN is of /etc/odbc.ini)");
            // 13.10 replaced the old pooling settings
            let _ = writeln!(
                out,
                "[{class}]\nenabled=yes\ndsn=asterisk\nusername=asterisk\npassword=CHANGE-ME\npre-connect=yes\nmax_connections=5\n"
            );
        }
        None => {
            section(&mut out, "res_pgsql.conf (not res_config_pgsql.conf; the section is [general])");
            out.push_str(
                "[general]\ndbhost=127.0.0.1\ndbport=5432\ndbname=asterisk\ndbuser=asterisk\ndbpass=CHANGE-ME\nrequirements=warn\n\n",
            );
        }
    }
    section(&mut out, "modules.conf: the driver before everything that reads tables");
    match odbc {
        Some(_) => out.push_str("preload => res_odbc.so\npreload => res_config_odbc.so\n"),
        None => out.push_str("preload => res_config_pgsql.so\n"),
    }
    out.push_str("; and no line `noload => …` for it: Debian's modules.conf has one\n");
    if setting.version.has_chan_sip() {
        out.push_str(
            "; the old SIP driver would hold the port of PJSIP (21 has none any more)\nnoload => chan_sip.so\n",
        );
    }
    out.push('\n');
    section(&mut out, "pjsip.conf: transports stay in the file (then: restart)");
    for name in setting.transports {
        transport(&mut out, name, setting.version);
    }
    if setting.transports.iter().any(|name| matches!(protocol(name), "ws" | "wss")) {
        section(&mut out, "http.conf: WebRTC phones connect to it (then: restart)");
        out.push_str(
            "[general]\nenabled=yes\nbindaddr=127.0.0.1\nbindport=8088\ntlsenable=yes\ntlsbindaddr=0.0.0.0:8089\n\
             tlscertfile=/etc/asterisk/keys/asterisk.crt\ntlsprivatekey=/etc/asterisk/keys/asterisk.key\n\n",
        );
    }
    section(&mut out, "queues.conf has to exist, if only with [general]");
    out
}

fn section(out: &mut String, name: &str) {
    let _ = writeln!(out, "; ---- {name}");
}

/// `transport-tls` → `tls`; another name says nothing and is taken for udp.
fn protocol(name: &str) -> &str {
    let last = name.rsplit('-').next().unwrap_or_default();
    if ["udp", "tcp", "tls", "ws", "wss"].contains(&last) { last } else { "udp" }
}

fn transport(out: &mut String, name: &str, version: Version) {
    let protocol = protocol(name);
    let bind = match protocol {
        "tls" => "0.0.0.0:5061",
        // http.conf says where they listen
        "ws" | "wss" => "0.0.0.0",
        _ => "0.0.0.0:5060",
    };
    let _ = writeln!(out, "[{name}]\ntype=transport\nprotocol={protocol}\nbind={bind}");
    if protocol == "tls" {
        out.push_str("cert_file=/etc/asterisk/keys/asterisk.crt\npriv_key_file=/etc/asterisk/keys/asterisk.key\n");
        if version.names_tls_versions() {
            out.push_str("method=tlsv1_2\n");
        }
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(version: &str, engine: Engine, odbc: Option<&str>) -> String {
        let (contexts, transports) = (["cf_a-in".to_owned()], ["transport-tls".to_owned(), "transport-wss".to_owned()]);
        let mapping = Mapping::default();
        let version = Version::parse(version).unwrap();
        render(&Setting { contexts: &contexts, mapping: &mapping, engine, odbc, transports: &transports, version })
    }

    #[test]
    fn each_release_gets_what_it_reads() {
        for (version, chan_sip, method) in [
            ("16.30", true, false),
            ("18", true, true),
            ("20.12.0", true, true),
            ("21", false, true),
            ("22.10.1", false, true),
            ("23", false, true),
        ] {
            for (engine, odbc, driver) in [
                (Engine::PostgreSql, None, "pgsql,asterisk"),
                (Engine::PostgreSql, Some("pg"), "odbc,pg"),
                (Engine::MySql, None, "odbc,asterisk"),
            ] {
                let text = rendered(version, engine, odbc);
                assert_eq!(text.contains("noload => chan_sip.so"), chan_sip, "{version}");
                assert_eq!(text.contains("method=tlsv1_2"), method, "{version}");
                for line in [
                    &format!("ps_endpoints => {driver},ps_endpoints"),
                    "[cf_a-in]\nswitch => Realtime/@extensions",
                    "identify=realtime,ps_endpoint_id_ips",
                    "registration=realtime,ps_registrations",
                    "[transport-wss]\ntype=transport\nprotocol=wss",
                    "tlsbindaddr=0.0.0.0:8089",
                ] {
                    assert!(text.contains(line), "{version}: {line}");
                }
                assert_eq!(text.contains("[general]\ndbhost="), driver.starts_with("pgsql"));
                assert_eq!(text.contains("preload => res_odbc.so"), driver.starts_with("odbc"));
            }
        }
    }
}
