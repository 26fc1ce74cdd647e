//! The static files Asterisk needs before any row can work; the same for Asterisk 16 to 23.

use std::fmt::Write as _;

use super::db::Engine;
use super::schema::Mapping;
use super::table::Table;

/// What the stubs are written for.
pub struct Setting<'a> {
    pub contexts: &'a [String],
    pub mapping: &'a Mapping,
    pub engine: Engine,
    /// Class of res_odbc.conf; PostgreSQL is reached through res_config_pgsql unless one is given.
    pub odbc: Option<&'a str>,
    pub transports: &'a [String],
}

/// All files, each under a line with its name.
pub fn render(setting: &Setting<'_>) -> String {
    let mut out = String::new();
    let odbc = setting.odbc.or((setting.engine == Engine::MySql).then_some("asterisk"));
    let driver = odbc.map_or("pgsql,asterisk".to_owned(), |class| format!("odbc,{class}"));
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
    out.push('\n');
    section(&mut out, "pjsip.conf: transports stay in the file (then: restart)");
    for name in setting.transports {
        let protocol = name.strip_prefix("transport-").unwrap_or("udp");
        let (bind, more) = match protocol {
            "tls" => (
                "0.0.0.0:5061",
                "cert_file=/etc/asterisk/keys/asterisk.crt\npriv_key_file=/etc/asterisk/keys/asterisk.key\nmethod=tlsv1_2\n",
            ),
            "ws" | "wss" => ("0.0.0.0", ""),
            _ => ("0.0.0.0:5060", ""),
        };
        let protocol = if ["udp", "tcp", "tls", "ws", "wss"].contains(&protocol) { protocol } else { "udp" };
        let _ = writeln!(out, "[{name}]\ntype=transport\nprotocol={protocol}\nbind={bind}\n{more}");
    }
    section(&mut out, "queues.conf has to exist, if only with [general]");
    out
}

fn section(out: &mut String, name: &str) {
    let _ = writeln!(out, "; ---- {name}");
}
