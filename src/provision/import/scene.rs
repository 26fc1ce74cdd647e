//! What stands, sorted: which endpoint is a trunk, which a phone, which contexts are whose, which tenants there are.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{self, Dial, PatternRow};
use super::standing::{Rows, all};
use crate::provision::current::MARK;
use crate::provision::db::Db;
use crate::provision::error::Result;
use crate::provision::ident;
use crate::provision::model::DIALLED;
use crate::provision::schema::Schema;
use crate::provision::table::Table;

/// A phone as the dialplan and the queues refer to it.
#[derive(Clone, Debug)]
pub struct Phone {
    pub number: String,
    pub tenant: Option<String>,
    /// Its context has a row for its number.
    pub dialable: bool,
    /// Seconds.
    pub ring: Option<u32>,
    pub ours: bool,
}

/// Application and data of an exten and priority.
type Steps = BTreeMap<(String, u32), (String, String)>;

pub struct Scene {
    pub ns: String,
    pub tables: BTreeMap<Table, Rows>,
    pub contexts: BTreeMap<String, Steps>,
    /// Ids of endpoints that are trunks, and their addresses.
    pub trunks: BTreeMap<String, Vec<String>>,
    pub phones: BTreeMap<String, Phone>,
    /// Name to account code.
    pub tenants: BTreeMap<String, String>,
    /// Queue id to its name in the file.
    pub queues: BTreeMap<String, String>,
}

impl Scene {
    pub async fn read(db: &mut Db, schema: &Schema, ns: &str) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for table in Table::ALL.into_iter().filter(|t| *t != Table::Contacts) {
            tables.insert(table, all(db, schema, table).await?);
        }
        let mut scene = Self {
            ns: ns.to_owned(),
            tables,
            contexts: BTreeMap::new(),
            trunks: BTreeMap::new(),
            phones: BTreeMap::new(),
            tenants: BTreeMap::new(),
            queues: BTreeMap::new(),
        };
        scene.sort();
        Ok(scene)
    }

    pub fn rows(&self, table: Table) -> impl Iterator<Item = &Vec<String>> {
        self.tables.get(&table).into_iter().flat_map(|rows| rows.keys())
    }

    /// A cell for people; `None`: NULL or empty.
    pub fn cell(&self, table: Table, key: &[&str], column: &str) -> Option<String> {
        let key: Vec<String> = key.iter().map(|k| (*k).to_owned()).collect();
        self.tables.get(&table)?.get(&key)?.get(column).filter(|v| !v.is_null()).map(|v| v.display())
    }

    pub fn has(&self, table: Table, id: &str) -> bool {
        self.tables.get(&table).is_some_and(|rows| rows.contains_key(&vec![id.to_owned()]))
    }

    pub fn is_yes(&self, table: Table, id: &str, column: &str) -> bool {
        self.cell(table, &[id], column).is_some_and(|v| ["yes", "1", "true", "on"].contains(&v.as_str()))
    }

    /// Of a namespace of ours: the file's, or that of `trunk add`.
    pub fn in_namespace(&self, id: &str) -> bool {
        let after = id.strip_prefix(&self.ns).map(|rest| rest.strip_prefix('t').unwrap_or(rest));
        after.is_some_and(|rest| rest.starts_with('_'))
    }

    /// A row of a context of ours sends calls to the queue.
    pub fn calls_queue(&self, id: &str) -> bool {
        let ours = self.contexts.iter().filter(|(context, _)| self.in_namespace(context));
        ours.flat_map(|(_, rows)| rows.values()).any(|(app, data)| app == "Queue" && data == id)
    }

    /// Contexts of the file's namespace that phones dial in, with the tenant they are of.
    pub fn internal(&self) -> Vec<(&str, Option<&str>)> {
        let prefix = format!("{}_", self.ns);
        let of_trunk =
            |c: &str| ["-in", "-out"].iter().any(|s| c.strip_suffix(s).is_some_and(|id| self.trunks.contains_key(id)));
        self.contexts
            .keys()
            .filter(|c| !of_trunk(c))
            .filter_map(|c| {
                let name = c.strip_prefix(&prefix).filter(|n| ident::slug(n) == *n)?;
                Some((c.as_str(), (name != "internal").then_some(name)))
            })
            .collect()
    }

    fn sort(&mut self) {
        let mut contexts: BTreeMap<String, Steps> = BTreeMap::new();
        for (key, row) in self.tables.get(&Table::Extensions).into_iter().flatten() {
            let [context, exten, priority] = key.as_slice() else { continue };
            let text = |column: &str| row.get(column).map(|v| v.display()).unwrap_or_default();
            let place = (exten.clone(), priority.parse().unwrap_or_default());
            contexts.entry(context.clone()).or_default().insert(place, (text("app"), text("appdata")));
        }
        self.contexts = contexts;
        let endpoints: Vec<String> = self.rows(Table::Endpoints).map(|key| key[0].clone()).collect();
        for id in &endpoints {
            let addresses: Vec<String> = self
                .rows(Table::Identifies)
                .filter(|key| self.cell(Table::Identifies, &[&key[0]], "endpoint").as_ref() == Some(id))
                .filter_map(|key| self.cell(Table::Identifies, &[&key[0]], "match"))
                .flat_map(|m| m.split(',').map(|a| a.trim().to_owned()).collect::<Vec<_>>())
                .collect();
            if self.has(Table::Registrations, id) || !addresses.is_empty() {
                self.trunks.insert(id.clone(), addresses);
            }
        }
        self.find_tenants(&endpoints);
        for id in endpoints.iter().filter(|id| !self.trunks.contains_key(*id)) {
            if self.cell(Table::Endpoints, &[id], "auth").is_some() {
                let phone = self.phone(id);
                self.phones.insert(id.clone(), phone);
            }
        }
        let mut taken = BTreeSet::new();
        for key in self.rows(Table::Queues).map(|k| k[0].clone()).collect::<Vec<_>>() {
            let own = key.strip_prefix(&format!("{}_", self.ns)).filter(|n| ident::slug(n) == *n);
            let base = own.map_or_else(|| ident::slug(&key), str::to_owned);
            let name = free(&base, |name| taken.contains(name));
            taken.insert(name.clone());
            self.queues.insert(key, name);
        }
    }

    /// A tenant is a context that phones dial in, or an account code.
    fn find_tenants(&mut self, endpoints: &[String]) {
        let code = |id: &String| self.cell(Table::Endpoints, &[id], "accountcode");
        let mut tenants = BTreeMap::new();
        for (context, name) in self.internal() {
            let Some(name) = name else { continue };
            let inside = |id: &&String| self.cell(Table::Endpoints, &[id], "context").as_deref() == Some(context);
            let found = endpoints.iter().filter(inside).find_map(code);
            tenants.insert(name.to_owned(), found.unwrap_or_else(|| name.to_owned()));
        }
        for id in endpoints.iter().filter(|id| self.is_ours(id)) {
            let Some(code) = code(id).filter(|c| !tenants.values().any(|v| v == c)) else { continue };
            let name = free(&ident::slug(&code), |name| name == "internal" || tenants.contains_key(name));
            tenants.insert(name, code);
        }
        self.tenants = tenants;
    }

    pub fn is_ours(&self, id: &str) -> bool {
        let mark = format!("{MARK}={}", self.ns);
        let rows = self.tables.get(&Table::Endpoints);
        let marked = rows.and_then(|rows| rows.get(&vec![id.to_owned()])?.get("set_var"));
        self.in_namespace(id) || marked.is_some_and(|v| v.parts().contains(&mark))
    }

    /// Name of the tenant with this account code.
    pub fn tenant_of(&self, id: &str) -> Option<&str> {
        let code = self.cell(Table::Endpoints, &[id], "accountcode")?;
        self.tenants.iter().find(|(_, c)| **c == code).map(|(name, _)| name.as_str())
    }

    /// Name and number of a phone's caller id.
    pub fn caller(&self, id: &str) -> (Option<String>, String) {
        let callerid = self.cell(Table::Endpoints, &[id], "callerid").unwrap_or_default();
        let (name, number) = match callerid.rsplit_once('<') {
            Some((name, number)) => (name.trim().trim_matches('"').to_owned(), number.trim_end_matches('>').to_owned()),
            None => (callerid.clone(), id.to_owned()),
        };
        let number = if crate::provision::model::number("number", &number).is_ok() { number } else { id.to_owned() };
        (Some(name).filter(|n| crate::provision::model::caller_name(n).is_ok()), number)
    }

    fn phone(&self, id: &str) -> Phone {
        let number = self.caller(id).1;
        let context = self.cell(Table::Endpoints, &[id], "context").unwrap_or_default();
        let dials = |app: &str, data: &str| -> Option<u32> {
            let (who, ring) = data.strip_prefix("PJSIP/").filter(|_| app == "Dial")?.rsplit_once(',')?;
            ring.parse().ok().filter(|_| who == id)
        };
        let own = self.contexts.get(&context).and_then(|rows| rows.get(&(number.clone(), 1)));
        let own = own.and_then(|(app, data)| dials(app, data));
        let tenant = self.internal().into_iter().find(|(c, _)| *c == context).map(|(_, t)| t.map(str::to_owned));
        let code = self.tenant_of(id).map(str::to_owned);
        // the phone's tenant is of its context and its account code, or it is not dialled by its number in a context of ours
        let dialable = own.is_some() && tenant.as_ref().is_some_and(|t| *t == code);
        let elsewhere = || self.contexts.values().flat_map(BTreeMap::values).find_map(|(app, data)| dials(app, data));
        Phone { number, tenant: code, dialable, ring: own.or_else(elsewhere), ours: self.is_ours(id) }
    }

    /// `queue:support` for an application and its data; `None`: the file has no word for it.
    pub fn destination(&self, app: &str, data: &str, trunk: &str, tenant: Option<&str>) -> Option<String> {
        match app {
            "Stasis" => {
                let app = data.strip_suffix(&format!(",inbound,{trunk}"))?;
                Some(format!("stasis:{app}"))
            }
            "Dial" => {
                let (id, ring) = data.strip_prefix("PJSIP/")?.rsplit_once(',')?;
                let phone = self.phones.get(id).filter(|p| p.ours && ring.parse().ok() == p.ring)?;
                let named = |p: &&Phone| p.ours && p.number == phone.number;
                let alone = self.phones.values().filter(named).count() == 1;
                (alone || phone.tenant.as_deref() == tenant).then(|| format!("extension:{}", phone.number))
            }
            "Queue" => self.queues.get(data).map(|name| format!("queue:{name}")),
            "Goto" => Some(format!("goto:{}", data.replace(DIALLED, "${EXTEN}"))),
            "VoiceMail" => data.strip_suffix(",u").map(|mailbox| format!("voicemail:{mailbox}")),
            "Hangup" if data.is_empty() => Some("hangup".to_owned()),
            _ => None,
        }
    }

    /// Rows of a context that dial out by pattern, and the extens that are something else.
    pub fn patterns(&self, context: &str) -> (Vec<PatternRow>, Vec<String>) {
        let (mut rows, mut other) = (Vec::new(), Vec::new());
        let Some(extens) = self.contexts.get(context) else { return (rows, other) };
        let names: BTreeSet<&String> = extens.keys().map(|(exten, _)| exten).collect();
        for exten in names.into_iter().filter(|e| e.starts_with('_')) {
            let step = |n: u32| extens.get(&(exten.clone(), n)).map(|(app, data)| (app.as_str(), data.as_str()));
            let (from_number, data) = match (step(1), step(2)) {
                (Some(("Set", set)), Some(("Dial", data))) => {
                    (set.strip_prefix("CALLERID(num)=").map(str::to_owned), data)
                }
                (Some(("Dial", data)), _) => (None, data),
                _ => {
                    other.push(exten.clone());
                    continue;
                }
            };
            match rules::dial(data) {
                Some((add_prefix, strip, trunk, timeout)) => {
                    let dial = Dial { add_prefix, trunk, timeout, from_number };
                    rows.push(PatternRow { exten: exten.clone(), strip, dial });
                }
                None => other.push(exten.clone()),
            }
        }
        (rows, other)
    }
}

/// `base`, or `base_2` … where that is taken.
fn free(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let base = if base.is_empty() { "unnamed" } else { base };
    let mut names = std::iter::once(base.to_owned()).chain((2..).map(|n| format!("{base}_{n}")));
    names.find(|name| !taken(name)).unwrap_or_default()
}
