//! Does Asterisk have what the rows say? Before a change (preflight) and after it: each difference with its explanation.

use std::collections::BTreeSet;
use std::time::Duration;

use super::activate::{self, registrations};
use super::apply::Desired;
use super::cache;
use super::schema::Schema;
use super::table::{Row, Table};
use crate::ami::{Action, AmiError, Client};
use crate::finding::Finding;

/// What users of a realtime trunk most often miss, looked for before rows are written.
pub fn preflight_schema(schema: &Schema, desired: &Desired) -> Vec<Finding> {
    let mut findings = Vec::new();
    let used: BTreeSet<Table> = desired.rows.iter().map(|r| r.table).collect();
    for table in used {
        let name = schema.mapping.table(table);
        let topic = format!("table {name}");
        match schema.tables.get(&table) {
            None => findings.push(Finding::problem(topic, "is not there", "create Asterisk's tables with alembic")),
            Some(info) => {
                if let Some(engine) = &info.unsafe_engine {
                    let remedy = format!("ALTER TABLE {name} ENGINE=InnoDB");
                    findings.push(Finding::problem(
                        topic,
                        format!("is stored by {engine}, which cannot roll back"),
                        remedy,
                    ));
                } else if !info.denied.is_empty() {
                    let remedy = "GRANT it to the user of PROVISION_DSN";
                    findings.push(Finding::problem(topic, format!("lacks {}", info.denied.join(", ")), remedy));
                } else {
                    let text = format!("{} columns, writable as far as the catalogue tells", info.columns.len());
                    findings.push(Finding::ok(topic, text));
                }
            }
        }
    }
    if let Some(version) = &schema.alembic {
        findings.push(Finding::ok("schema", format!("alembic version {version}")));
    }
    findings
}

/// What Asterisk's configuration lacks: mappings, transports, switches.
pub async fn preflight_asterisk(
    client: &mut Client,
    schema: &Schema,
    desired: &Desired,
) -> Result<Vec<Finding>, AmiError> {
    let mut findings = Vec::new();
    match client.command("core show config mappings").await {
        Err(e) => findings.push(Finding::warning(
            "asterisk",
            format!("mappings and transports cannot be looked at: {e}"),
            "give the AMI user command in write",
        )),
        Ok(mappings) => {
            let used: BTreeSet<Table> = desired.rows.iter().map(|r| r.table).collect();
            for table in used {
                let family = table.name();
                let mapped = mappings.iter().any(|l| {
                    let mut words = l.trim_start_matches("===>").split_whitespace();
                    l.contains("===>") && words.next() == Some(family)
                });
                if mapped {
                    findings.push(Finding::ok(format!("mapping {family}"), "is in extconfig.conf"));
                } else {
                    let remedy = format!("{family} => odbc|pgsql,…,{} in extconfig.conf", schema.mapping.table(table));
                    let text = "Asterisk does not read this table";
                    findings.push(Finding::problem(format!("mapping {family}"), text, remedy));
                }
            }
            transports(client, desired, &mut findings).await?;
        }
    }
    let used: BTreeSet<Table> = desired.rows.iter().map(|r| r.table).collect();
    for (table, cache) in cache::caches(client, &used).await? {
        findings.push(Finding::warning(
            format!("cache {cache}"),
            format!("sorcery.conf keeps {} in memory: Asterisk goes on with old rows until they expire", table.name()),
            "what callferry changes it takes out of the cache; after changes by hand: `sorcery memory cache expire`",
        ));
    }
    for context in contexts(&desired.rows) {
        findings.push(switch(client, &context).await?);
    }
    Ok(findings)
}

async fn transports(client: &mut Client, desired: &Desired, findings: &mut Vec<Finding>) -> Result<(), AmiError> {
    let lines = client.command("pjsip show transports").await?;
    let known: BTreeSet<String> = lines
        .iter()
        .filter_map(|l| l.trim().strip_prefix("Transport:")?.split_whitespace().next().map(str::to_owned))
        .filter(|name| !name.starts_with('<'))
        .collect();
    let wanted: BTreeSet<&String> =
        desired.rows.iter().filter_map(|r| r.cells.get("transport").and_then(|c| c.value.parts().first())).collect();
    for name in wanted {
        if known.contains(name) {
            findings.push(Finding::ok(format!("transport {name}"), "is in pjsip.conf"));
        } else {
            let text = format!(
                "is not known to Asterisk, which has: {}",
                known.iter().cloned().collect::<Vec<_>>().join(", ")
            );
            let remedy = "define it in pjsip.conf and restart, or name another one (--transport)";
            findings.push(Finding::problem(format!("transport {name}"), text, remedy));
        }
    }
    Ok(())
}

fn contexts(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().filter(|r| r.table == Table::Extensions).map(|r| r.key[0].clone()).collect()
}

/// Rows of a context are reached only through a stub with a switch in extensions.conf.
async fn switch(client: &mut Client, context: &str) -> Result<Finding, AmiError> {
    let topic = format!("context {context}");
    let remedy = format!(
        "[{context}] with `switch => Realtime/@extensions` in extensions.conf (callferry provision render), then `dialplan reload`"
    );
    match client.list(Action::new("ShowDialPlan").with("Context", context)).await {
        Ok(frames) => {
            let switches: Vec<&str> = frames.iter().filter_map(|f| f.get("Switch")).collect();
            if switches.iter().any(|s| s.to_ascii_lowercase().starts_with("realtime/")) {
                Ok(Finding::ok(topic, format!("switch {}", switches.join(", "))))
            } else {
                Ok(Finding::problem(topic, "has no switch to Realtime: its rows are never looked at", remedy))
            }
        }
        Err(AmiError::Refused { .. }) => {
            Ok(Finding::problem(topic, "is not in Asterisk's dialplan: its rows are never looked at", remedy))
        }
        Err(e) => Err(e),
    }
}

/// Every object Asterisk should have made of the rows, and the state of the registrations.
pub async fn loaded(client: &mut Client, rows: &[Row]) -> Result<Vec<Finding>, AmiError> {
    let mut findings = Vec::new();
    for row in rows.iter().filter(|r| r.table == Table::Endpoints) {
        findings.push(endpoint(client, row).await?);
    }
    let wanted: Vec<&Row> = rows.iter().filter(|r| r.table == Table::Registrations).collect();
    if !wanted.is_empty() {
        let states = registrations(client).await?;
        for row in wanted {
            let topic = format!("registration {}", row.key[0]);
            findings.push(match states.get(&row.key[0]) {
                None => Finding::problem(topic, activate::NOT_LOADED, "see Asterisk's log for the id"),
                Some(r) if r.status == "Registered" => Finding::ok(topic, format!("registered with {}", r.server_uri)),
                Some(r) => Finding::problem(
                    topic,
                    activate::explain(r, Duration::ZERO)
                        .replace("has not answered within 0 s", "has not registered us"),
                    "callferry trunk verify shows it again; `pjsip set logger on` shows what the far end says",
                ),
            });
        }
    }
    for row in rows.iter().filter(|r| r.table == Table::Queues) {
        findings.push(queue(client, row, rows).await?);
    }
    for context in contexts(rows) {
        findings.push(switch(client, &context).await?);
    }
    Ok(findings)
}

async fn endpoint(client: &mut Client, row: &Row) -> Result<Finding, AmiError> {
    let id = &row.key[0];
    let topic = format!("endpoint {id}");
    let frames = match client.list(Action::new("PJSIPShowEndpoint").with("Endpoint", id)).await {
        Ok(frames) => frames,
        Err(AmiError::Refused { .. }) => {
            return Ok(Finding::problem(
                topic,
                "the row stands and Asterisk has no such endpoint: it does not read ps_endpoints, or drops the row for a \
value it does not know (a codec, a transport)",
                "compare sorcery.conf and extconfig.conf with callferry provision render; see Asterisk's log",
            ));
        }
        Err(e) => return Err(e),
    };
    let of = |event: &'static str| frames.iter().filter(move |f| f.event() == Some(event));
    let Some(detail) = of("EndpointDetail").next() else {
        return Ok(Finding::problem(topic, "Asterisk answers without details", "see Asterisk's log"));
    };
    for (column, key) in [("context", "Context"), ("transport", "Transport"), ("from_user", "FromUser")] {
        let want = row.cells.get(column).map(|c| c.value.display()).filter(|v| !v.is_empty());
        let have = detail.get(key).unwrap_or_default();
        if let Some(want) = want.filter(|w| w != have) {
            return Ok(Finding::problem(
                topic,
                format!("has {column} {have:?} where the row says {want:?}"),
                "a sorcery memory_cache delays changes: `sorcery memory cache expire`, or the row is another database's",
            ));
        }
    }
    let need = |column: &str| row.cells.get(column).is_some_and(|c| !c.value.is_null());
    if need("aors") && of("AorDetail").next().is_none() {
        return Ok(Finding::problem(
            topic,
            "has no AOR: its calls have nowhere to go",
            "ps_aors in sorcery.conf and extconfig.conf",
        ));
    }
    if (need("auth") || need("outbound_auth")) && of("AuthDetail").next().is_none() {
        let remedy = "ps_auths in sorcery.conf and extconfig.conf";
        return Ok(Finding::problem(topic, "its credentials are not loaded", remedy));
    }
    let contacts: Vec<&str> = of("ContactStatusDetail").filter_map(|f| f.get("Status")).collect();
    let state = detail.get("DeviceState").unwrap_or("unknown");
    let contacts = if contacts.is_empty() { "none".to_owned() } else { contacts.join(", ") };
    Ok(Finding::ok(topic, format!("loaded, {state}, contacts: {contacts}")))
}

async fn queue(client: &mut Client, row: &Row, rows: &[Row]) -> Result<Finding, AmiError> {
    let name = &row.key[0];
    let topic = format!("queue {name}");
    // realtime queues are loaded when they are asked for; QueueStatus lists only what is loaded
    let _ = client.command(&format!("queue show {name}")).await;
    let frames = match client.list(Action::new("QueueStatus").with("Queue", name)).await {
        Ok(frames) => frames,
        Err(AmiError::Refused { message, .. }) => {
            return Ok(Finding::problem(topic, message, "load app_queue.so, with a queues.conf beside it"));
        }
        Err(e) => return Err(e),
    };
    if !frames.iter().any(|f| f.event() == Some("QueueParams") && f.get("Queue") == Some(name)) {
        return Ok(Finding::problem(topic, "Asterisk has no such queue", "queues and queue_members in extconfig.conf"));
    }
    let have: BTreeSet<&str> =
        frames.iter().filter(|f| f.event() == Some("QueueMember")).filter_map(|f| f.get("Location")).collect();
    let members = rows.iter().filter(|r| r.table == Table::QueueMembers && r.key[0] == *name);
    let missing: Vec<&str> = members.map(|r| r.key[1].as_str()).filter(|m| !have.contains(m)).collect();
    if missing.is_empty() {
        Ok(Finding::ok(topic, format!("loaded with {} members", have.len())))
    } else {
        Ok(Finding::problem(
            topic,
            format!("lacks the members {}", missing.join(", ")),
            "queue_members in extconfig.conf",
        ))
    }
}
