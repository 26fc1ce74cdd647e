//! A manifest of what stands in the database: the start for those who have rows already.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::current::{MARK, Owner};
use super::db::Db;
use super::error::Result;
use super::schema::Schema;
use super::table::{Cell, Need, Row, Table};
use super::value::Value;

type Rows = BTreeMap<Vec<String>, BTreeMap<String, Value>>;

/// The manifest's text. Secrets are not in it: rows keep those they have.
pub async fn import(db: &mut Db, schema: &Schema, ns: &str) -> Result<String> {
    let endpoints = all(db, schema, Table::Endpoints).await?;
    let auths = all(db, schema, Table::Auths).await?;
    let aors = all(db, schema, Table::Aors).await?;
    let registrations = all(db, schema, Table::Registrations).await?;
    let identifies = all(db, schema, Table::Identifies).await?;
    let extensions = all(db, schema, Table::Extensions).await?;
    let mut out = String::from(
        "# Written by callferry provision import. Passwords stay as they are in the database until password_env or\n\
         # password_file is set.\n",
    );
    let one = |rows: &Rows, id: &str, column: &str| -> Option<String> {
        rows.get(&vec![id.to_owned()])?.get(column).filter(|v| !v.is_null()).map(Value::display)
    };
    for key in endpoints.keys() {
        let id = &key[0];
        let registration = |column| one(&registrations, id, column);
        let addresses: Vec<String> = identifies
            .values()
            .filter(|r| r.get("endpoint").map(Value::display).as_deref() == Some(id))
            .filter_map(|r| r.get("match").filter(|v| !v.is_null()).map(Value::display))
            .flat_map(|m| m.split(',').map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let registers = registrations.contains_key(key);
        if registers || !addresses.is_empty() {
            let far = registration("server_uri").or_else(|| one(&aors, id, "contact")).unwrap_or_default();
            let (host, port, protocol) = address(&far);
            let host = one(&endpoints, id, "from_domain").filter(|_| host.is_empty()).unwrap_or(host);
            let _ = writeln!(out, "\n[[trunk]]\nid = {}\nhost = {}", text(id), text(&host));
            if let Some(port) = port {
                let _ = writeln!(out, "port = {port}");
            }
            if let Some(user) = registration("contact_user").or_else(|| one(&endpoints, id, "from_user")) {
                let _ = writeln!(out, "extension = {}", text(&user));
            }
            if !registers {
                let list: Vec<String> = addresses.iter().map(|a| text(a)).collect();
                let _ = writeln!(out, "mode = \"ip\"\nips = [{}]", list.join(", "));
            } else if let Some(auth_id) = one(&auths, id, "username") {
                let _ = writeln!(out, "auth_id = {}", text(&auth_id));
            }
            if protocol != "udp" {
                let _ = writeln!(out, "protocol = {}", text(&protocol));
            }
            common(&mut out, &endpoints[key]);
            dialplan(&mut out, &extensions, id);
        } else if one(&endpoints, id, "auth").is_some() {
            phone(&mut out, ns, id, &endpoints[key]);
        } else {
            let _ = writeln!(out, "\n# endpoint {id:?} has neither registration, address nor login: left out");
        }
    }
    queues(db, schema, ns, &mut out).await?;
    let own = super::current::Owner::namespace(ns);
    let internal: std::collections::BTreeSet<&str> = extensions
        .keys()
        .map(|k| k[0].as_str())
        .filter(|c| own.has_context(c) && !endpoints.keys().any(|e| c.starts_with(&format!("{}-", e[0]))))
        .collect();
    if !internal.is_empty() {
        let list: Vec<&str> = internal.into_iter().collect();
        let _ = writeln!(
            out,
            "\n# Routes, DIDs and numbers of queues are not read back. An apply of this file removes the rows of {} that\n\
             # nothing above makes: add them as [[route]], [[did]] and number first, and look at the plan.",
            list.join(", ")
        );
    }
    Ok(out)
}

/// Columns that tell what a row is for.
const WANTED: &[&str] = &[
    "transport",
    "auth",
    "context",
    "allow",
    "callerid",
    "webrtc",
    "from_user",
    "from_domain",
    "set_var",
    "mailboxes",
    "outbound_proxy",
    "media_encryption",
    "accountcode",
    "username",
    "contact",
    "max_contacts",
    "server_uri",
    "client_uri",
    "contact_user",
    "expiration",
    "endpoint",
    "match",
    "app",
    "appdata",
    "strategy",
    "timeout",
    "ringinuse",
    "wrapuptime",
    "maxlen",
    "joinempty",
    "leavewhenempty",
    "musiconhold",
    "announce",
    "membername",
    "penalty",
    "call_group",
    "pickup_group",
    "qualify_frequency",
    "password",
    "md5_cred",
    "auth_type",
    "aors",
    "outbound_auth",
    "line",
    "identify_by",
    "qualify_timeout",
];

/// Rows of an owner as they stand, in the columns that tell what they are for.
pub async fn standing(db: &mut Db, schema: &Schema, owner: &Owner) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    for table in Table::ALL.into_iter().filter(|t| *t != Table::Contacts) {
        for (key, cells) in all(db, schema, table).await? {
            let ours = if table == Table::Extensions { owner.has_context(&key[0]) } else { owner.has_id(&key[0]) };
            if !ours {
                continue;
            }
            let mut row = Row::new(table, key);
            for column in WANTED {
                if let Some(value) = cells.get(*column) {
                    let cell = Cell { value: value.clone(), need: Need::Optional, flag: false };
                    row.cells.insert(column, cell);
                }
            }
            found.push(row);
        }
    }
    Ok(found)
}

async fn all(db: &mut Db, schema: &Schema, table: Table) -> Result<Rows> {
    let Ok(info) = schema.table(table) else { return Ok(Rows::new()) };
    let columns: Vec<&str> = WANTED.iter().copied().filter(|c| schema.column(table, c).is_some()).collect();
    let list: Vec<String> = table.key().iter().chain(&columns).map(|c| schema.as_text(table, c)).collect();
    let rows = db.texts(&format!("SELECT {} FROM {}", list.join(", "), info.quoted), &[]).await?;
    let keys = table.key().len();
    Ok(rows
        .into_iter()
        .map(|row| {
            let mut cells = row.into_iter().map(|c| c.unwrap_or_default());
            let key: Vec<String> = cells.by_ref().take(keys).collect();
            (key, columns.iter().map(|c| (*c).to_owned()).zip(cells.map(|c| Value::decode(&c))).collect())
        })
        .collect())
}

/// Host, port and protocol of `sip:host:port;transport=tcp`.
fn address(uri: &str) -> (String, Option<u16>, String) {
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

fn common(out: &mut String, row: &BTreeMap<String, Value>) {
    for (column, key) in
        [("transport", "transport"), ("outbound_proxy", "outbound_proxy"), ("media_encryption", "media_encryption")]
    {
        if let Some(value) = row.get(column).filter(|v| !v.is_null()) {
            let _ = writeln!(out, "{key} = {}", text(&value.display()));
        }
    }
    if let Some(codecs) = row.get("allow").filter(|v| !v.is_null()) {
        let list: Vec<String> =
            codecs.display().trim_matches(['(', ')']).split([',', '|']).map(|c| text(c.trim())).collect();
        let _ = writeln!(out, "codecs = [{}]", list.join(", "));
    }
}

/// The strip rule of `<id>-out`, and the application of `<id>-in`.
fn dialplan(out: &mut String, extensions: &Rows, id: &str) {
    let of = |context: String, app: &'static str| {
        extensions
            .iter()
            .filter(move |(k, r)| k[0] == context && r.get("app").map(Value::display).as_deref() == Some(app))
    };
    let mut rules: Vec<(&str, String)> = Vec::new();
    let mut passes = false;
    for (key, row) in of(format!("{id}-out"), "Dial") {
        let data = row.get("appdata").map(Value::display).unwrap_or_default();
        let strip = strip_of(&data);
        passes |= strip == 0;
        if let Some(rule) = key[1].strip_prefix('_').filter(|_| strip > 0).and_then(|p| front(p, strip)) {
            rules.push((&key[1], rule));
        }
    }
    // the order Asterisk tries them in
    rules.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
    if !rules.is_empty() {
        let list: Vec<String> = rules.into_iter().map(|(_, r)| format!("^{r}")).collect();
        let _ = writeln!(out, "strip_prefix = {}", text(&list.join("|")));
        if !passes {
            let _ = writeln!(out, "unmatched = \"reject\"");
        }
    }
    for (_, row) in of(format!("{id}-out"), "Set").take(1) {
        let data = row.get("appdata").map(Value::display).unwrap_or_default();
        if let Some(number) = data.strip_prefix("CALLERID(num)=") {
            let _ = writeln!(out, "from_number = {}", text(number));
        }
    }
    for (_, row) in of(format!("{id}-in"), "Stasis").take(1) {
        let data = row.get("appdata").map(Value::display).unwrap_or_default();
        let _ = writeln!(out, "app = {}", text(data.split(',').next().unwrap_or_default()));
    }
}

/// Characters a dial string cuts off: `${EXTEN:3}` or `${FILTER(…,${EXTEN}):3}`.
fn strip_of(data: &str) -> usize {
    let after = data.split_once("EXTEN").map_or("", |(_, rest)| rest);
    let digits: String = after
        .chars()
        .skip_while(|c| matches!(c, '}' | ')'))
        .skip_while(|c| *c == ':')
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().unwrap_or(0)
}

/// The first `n` places of a pattern as a regular expression.
fn front(pattern: &str, n: usize) -> Option<String> {
    let mut out = String::new();
    let mut rest = pattern.chars().filter(|c| *c != '-' || pattern.contains('['));
    for _ in 0..n {
        match rest.find(|c| *c != '-')? {
            'X' | 'x' => out.push_str("\\d"),
            'Z' | 'z' => out.push_str("[1-9]"),
            'N' | 'n' => out.push_str("[2-9]"),
            '[' => {
                let set: String = rest.by_ref().take_while(|c| *c != ']').collect();
                out.push_str(&format!("[{}]", set.replace('+', "\\+").replace('*', "\\*")));
            }
            c @ ('+' | '*') => out.extend(['\\', c]),
            c @ ('0'..='9' | '#') => out.push(c),
            _ => return None,
        }
    }
    Some(out)
}

fn phone(out: &mut String, ns: &str, id: &str, row: &BTreeMap<String, Value>) {
    let get = |column: &str| row.get(column).filter(|v| !v.is_null()).map(Value::display);
    let callerid = get("callerid").unwrap_or_default();
    let (name, number) = match callerid.rsplit_once('<') {
        Some((name, number)) => (name.trim().trim_matches('"').to_owned(), number.trim_end_matches('>').to_owned()),
        None => (callerid.clone(), id.to_owned()),
    };
    let number = if super::model::number("number", &number).is_ok() { number } else { id.to_owned() };
    let _ = writeln!(out, "\n[[extension]]\nnumber = {}", text(&number));
    if number != id {
        let _ = writeln!(out, "username = {}", text(id));
    }
    if !name.is_empty() && super::model::caller_name(&name).is_ok() {
        let _ = writeln!(out, "name = {}", text(&name));
    }
    let webrtc = get("webrtc").is_some_and(|w| ["yes", "1", "true", "on"].contains(&w.as_str()));
    if webrtc {
        let _ = writeln!(out, "webrtc = true");
    }
    if get("mailboxes").is_some() {
        let _ = writeln!(out, "voicemail = true");
    }
    for key in ["call_group", "pickup_group"] {
        if let Some(value) = get(key) {
            let _ = writeln!(out, "{key} = {}", text(&value));
        }
    }
    let context = get("context").unwrap_or_default();
    if !context.is_empty() && context != format!("{ns}_internal") {
        let _ = writeln!(out, "context = {}", text(&context));
    }
    if let Some(transport) = get("transport") {
        let _ = writeln!(out, "transport = {}", text(&transport));
    }
    if let Some(codecs) = get("allow") {
        let list: Vec<String> = codecs.trim_matches(['(', ')']).split([',', '|']).map(|c| text(c.trim())).collect();
        let _ = writeln!(out, "codecs = [{}]", list.join(", "));
    }
    let ours = row.get("set_var").is_some_and(|v| v.parts().contains(&format!("{MARK}={ns}")));
    if !ours {
        let _ = writeln!(out, "adopt = true");
    }
}

async fn queues(db: &mut Db, schema: &Schema, ns: &str, out: &mut String) -> Result<()> {
    let queues = all(db, schema, Table::Queues).await?;
    let members = all(db, schema, Table::QueueMembers).await?;
    for (key, row) in &queues {
        let get = |column: &str| row.get(column).filter(|v| !v.is_null()).map(Value::display);
        let own = key[0].strip_prefix(&format!("{ns}_")).filter(|n| super::ident::slug(n) == *n);
        let name = own.map_or_else(|| super::ident::slug(&key[0]), str::to_owned);
        let _ = writeln!(out, "\n[[queue]]\nname = {}", text(&name));
        if own.is_none() {
            let _ = writeln!(out, "exact_name = {}", text(&key[0]));
        }
        for (column, key) in [
            ("strategy", "strategy"),
            ("joinempty", "join_empty"),
            ("leavewhenempty", "leave_when_empty"),
            ("musiconhold", "music"),
            ("announce", "announce"),
        ] {
            if let Some(value) = get(column) {
                let _ = writeln!(out, "{key} = {}", text(&value));
            }
        }
        for (column, key) in [("timeout", "timeout"), ("wrapuptime", "wrapup"), ("maxlen", "max_len")] {
            if let Some(number) = get(column).and_then(|v| v.parse::<u32>().ok()) {
                let _ = writeln!(out, "{key} = {number}");
            }
        }
        for (member, row) in members.iter().filter(|(m, _)| m[0] == key[0]) {
            let Some(extension) = member[1].strip_prefix("PJSIP/") else {
                let _ = writeln!(out, "# member {:?} is not a PJSIP phone: left out, and would be removed", member[1]);
                continue;
            };
            let penalty =
                row.get("penalty").map(Value::display).and_then(|p| p.parse::<u32>().ok()).unwrap_or_default();
            let _ = writeln!(out, "[[queue.members]]\nextension = {}\npenalty = {penalty}", text(extension));
            if let Some(name) = row.get("membername").filter(|v| !v.is_null()) {
                let _ = writeln!(out, "name = {}", text(&name.display()));
            }
        }
    }
    Ok(())
}

/// A TOML string.
fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_become_rules_again() {
        assert_eq!(front("+39X.", 3).unwrap(), r"\+39");
        assert_eq!(front("[+0]39X.", 3).unwrap(), r"[\+0]39");
        assert_eq!(front("0[02-9]X.", 2).unwrap(), "0[02-9]");
        assert_eq!(front("+3--X.", 2).unwrap(), r"\+3");
        assert_eq!(strip_of("PJSIP/${FILTER(0-9+*#,${EXTEN}):3}@x,60"), 3);
        assert_eq!(strip_of("PJSIP/${EXTEN:3}@x,60"), 3);
        assert_eq!(strip_of("PJSIP/${FILTER(0-9+*#,${EXTEN})}@x,60"), 0);
        assert_eq!(address("sip:12@pbx.example.com:5061;transport=tls").1, Some(5061));
    }
}
