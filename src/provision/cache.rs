//! Sorcery's memory cache: an administrator may have put one in front of the realtime tables (`endpoint/cache=memory_cache`
//! in sorcery.conf). A row that was changed then stays as it was, for Asterisk, until the cache lets go of it. Here the
//! caches are found, and what was changed is taken out of them.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::Plan;
use super::table::Table;
use crate::ami::{Action, AmiError, Client};

/// Sorcery's instance and object type behind a table.
const fn sorcery(table: Table) -> Option<(&'static str, &'static str)> {
    match table {
        Table::Auths => Some(("res_pjsip", "auth")),
        Table::Aors => Some(("res_pjsip", "aor")),
        Table::Endpoints => Some(("res_pjsip", "endpoint")),
        Table::Identifies => Some(("res_pjsip_endpoint_identifier_ip", "identify")),
        Table::Registrations => Some(("res_pjsip_outbound_registration", "registration")),
        Table::Queues | Table::QueueMembers | Table::Extensions | Table::Contacts => None,
    }
}

/// Ids of changed rows, by table.
pub type Touched = BTreeMap<Table, BTreeSet<String>>;

/// Rows of a plan that a cache could hold.
pub fn touched(plan: &Plan) -> Touched {
    let mut touched = Touched::new();
    for change in plan.changes.iter().filter(|c| sorcery(c.table).is_some()) {
        touched.entry(change.table).or_default().insert(change.key[0].clone());
    }
    touched
}

/// Names of the caches before these tables. Read from sorcery.conf; where the manager user may not, those that have their
/// default name are found by asking for them.
pub async fn caches(client: &mut Client, tables: &BTreeSet<Table>) -> Result<BTreeMap<Table, String>, AmiError> {
    let mut found = BTreeMap::new();
    let config = match client.action(Action::new("GetConfig").with("Filename", "sorcery.conf")).await {
        Ok(frame) => Some(frame.with_prefix(&["Category-", "Line-"])),
        Err(AmiError::Refused { .. }) => None,
        Err(e) => return Err(e),
    };
    for table in tables {
        let Some((instance, kind)) = sorcery(*table) else { continue };
        let default = format!("{instance}/{kind}");
        match &config {
            Some(lines) => {
                if let Some(options) = cache_line(lines, instance, kind) {
                    let named = options.split(',').find_map(|o| o.trim().strip_prefix("name="));
                    found.insert(*table, named.unwrap_or(&default).to_owned());
                }
            }
            None => match client.command(&format!("sorcery memory cache show {default}")).await {
                Ok(lines) if lines.iter().any(|l| l.contains("Number of objects within cache")) => {
                    found.insert(*table, default);
                }
                Ok(_) | Err(AmiError::Refused { .. }) => {}
                Err(e) => return Err(e),
            },
        }
    }
    Ok(found)
}

/// Options of `<kind>/cache=memory_cache,…` in the section of an instance, of what GetConfig answers:
/// `Category-000000: res_pjsip`, `Line-000000-000000: endpoint/cache=memory_cache`.
fn cache_line<'a>(lines: &'a [(String, String)], instance: &str, kind: &str) -> Option<&'a str> {
    let section = lines.iter().filter(|(key, name)| key.starts_with("Category-") && name == instance);
    let numbers: Vec<&str> = section.filter_map(|(key, _)| key.strip_prefix("Category-")).collect();
    lines.iter().find_map(|(key, line)| {
        let number = key.strip_prefix("Line-")?.split('-').next()?;
        let (name, value) = line.split_once('=')?;
        let (object, role) = name.trim().split_once('/')?;
        let cached = numbers.contains(&number) && object == kind && role.split('/').next() == Some("cache");
        let options = value.trim_start_matches('>').trim().strip_prefix("memory_cache")?;
        cached.then(|| options.trim_start_matches(','))
    })
}

/// Takes what was changed out of the caches. Returns what was done, and what could not be.
pub async fn expire(client: &mut Client, touched: &Touched) -> (Vec<String>, Vec<String>) {
    let (mut done, mut problems) = (Vec::new(), Vec::new());
    let caches = match caches(client, &touched.keys().copied().collect()).await {
        Ok(caches) => caches,
        Err(e) => return (done, vec![format!("whether sorcery.conf has memory caches is not known: {e}")]),
    };
    for (table, cache) in caches {
        let ids = touched.get(&table).into_iter().flatten();
        match expire_all(client, &cache, ids).await {
            Ok(()) => done.push(format!("cache {cache}: what was changed is taken out")),
            Err(e) => problems.push(format!(
                "Asterisk keeps {} in the memory cache {cache}, and may go on with the old rows: {e}; run `asterisk -rx \
'sorcery memory cache expire {cache}'`",
                table.name()
            )),
        }
    }
    (done, problems)
}

async fn expire_all(client: &mut Client, cache: &str, ids: impl Iterator<Item = &String>) -> Result<(), AmiError> {
    for id in ids {
        let one = Action::new("SorceryMemoryCacheExpireObject").with("Cache", cache).with("Object", id);
        match client.action(one).await {
            Ok(_) => {}
            // a cache of the whole table cannot lose one object; it is filled anew
            Err(AmiError::Refused { message, .. }) if message.contains("full backend") => {
                let whole = Action::new("SorceryMemoryCachePopulate").with("Cache", cache);
                return client.action(whole).await.map(|_| ());
            }
            // the object was not in it, or nothing has been so far
            Err(AmiError::Refused { message, .. })
                if message.contains("could not be expired") || message.contains("does not exist") => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_lines_of_sorcery_conf() {
        let lines: Vec<(String, String)> = [
            ("Category-000000", "res_pjsip"),
            ("Line-000000-000000", "endpoint/cache=memory_cache,object_lifetime_stale=600,name=mine"),
            ("Line-000000-000001", "endpoint=realtime,ps_endpoints"),
            ("Line-000000-000002", "aor/cache=memory_cache"),
            ("Category-000001", "res_pjsip_outbound_registration"),
            ("Line-000001-000000", "registration/cache/extra=memory_cache"),
            ("Line-000001-000001", "auth/cache=memory_cache"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        assert_eq!(cache_line(&lines, "res_pjsip", "endpoint"), Some("object_lifetime_stale=600,name=mine"));
        assert_eq!(cache_line(&lines, "res_pjsip", "aor"), Some(""));
        assert_eq!(cache_line(&lines, "res_pjsip", "auth"), None);
        assert_eq!(cache_line(&lines, "res_pjsip_outbound_registration", "registration"), Some(""));
    }
}
