//! A manifest's meaning: names resolved, secrets fetched, everything checked, rows made.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;

use super::apply::Desired;
use super::build;
use super::current::Owner;
use super::define::{add_prefix, codec_list, destination, id_of, password_file, secret_of, trunk_of};
use super::error::{Error, Result};
use super::ident;
use super::manifest::{ExtensionDef, Manifest, QueueDef, RouteDef, Source, TrunkDef};
use super::model::{self, Destination, Extension, Member, Queue, Route, Secret, Trunk};
use super::schema::Mapping;
use super::table::{Row, Table};

/// Where secrets are looked up: the environment and files, or nothing at all (`render`, `destroy`).
pub struct Secrets {
    pub base: PathBuf,
    pub read: bool,
}

/// All that a manifest asks for.
#[derive(Debug, Default)]
pub struct Intent {
    pub trunks: Vec<Trunk>,
    pub extensions: Vec<Extension>,
    pub queues: Vec<Queue>,
    pub routes: Vec<Route>,
    pub mapping: Mapping,
}

impl Intent {
    pub fn of(manifest: &Manifest, source: &Source<'_>, ns: &str, secrets: &Secrets) -> Result<Self> {
        ident::check_namespace(ns)?;
        Resolver {
            manifest,
            source,
            ns,
            secrets,
            ids: BTreeMap::new(),
            phones: BTreeMap::new(),
            queues: BTreeMap::new(),
        }
        .resolve()
    }

    pub fn desired(&self, ns: &str) -> Result<Desired> {
        let mut rows: Vec<Row> = Vec::new();
        for trunk in &self.trunks {
            rows.extend(build::trunk_rows(trunk).map_err(|e| e.at(format!("trunk {}", trunk.id)))?);
        }
        for extension in &self.extensions {
            rows.extend(build::extension_rows(ns, extension)?);
        }
        for queue in &self.queues {
            rows.extend(build::queue_rows(queue)?);
        }
        rows.extend(build::internal_rows(&self.extensions, &self.queues, &self.routes)?);
        check_addresses(&rows)?;
        let prefix = format!("{ns}_");
        let adopted = self.trunks.iter().map(|t| t.id.clone()).filter(|id| !id.starts_with(&prefix)).collect();
        Ok(Desired { owner: Owner::Namespace { ns: ns.to_owned(), adopted }, rows })
    }

    /// Contexts that need a stub with a switch in extensions.conf.
    pub fn contexts(&self, ns: &str) -> Result<Vec<String>> {
        let rows = self.desired(ns)?.rows;
        let mut contexts: Vec<String> =
            rows.iter().filter(|r| r.table == Table::Extensions).map(|r| r.key[0].clone()).collect();
        contexts.extend(self.extensions.iter().filter(|e| e.dialable).map(|e| e.context.clone()));
        contexts.sort();
        contexts.dedup();
        Ok(contexts)
    }
}

/// Two identify rows for one address send all calls to one of them, silently.
fn check_addresses(rows: &[Row]) -> Result<()> {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for row in rows.iter().filter(|r| r.table == Table::Identifies) {
        for address in row.cells.get("match").into_iter().flat_map(|c| c.value.parts()).flat_map(|p| p.split(',')) {
            if let Some((_, other)) = seen.iter().find(|(a, id)| *id != row.key[0] && super::apply::overlap(a, address))
            {
                return Err(Error::input(format!(
                    "trunks {other} and {} are both known by the address {address}: Asterisk would send every call to one \
of them; use mode = \"register\", or one trunk",
                    row.key[0]
                )));
            }
            seen.push((address, &row.key[0]));
        }
    }
    Ok(())
}

struct Resolver<'a> {
    manifest: &'a Manifest,
    source: &'a Source<'a>,
    ns: &'a str,
    secrets: &'a Secrets,
    /// Trunk name to id.
    ids: BTreeMap<String, String>,
    /// Extension number (with its tenant) to phone id and seconds to ring.
    phones: BTreeMap<(Option<String>, String), (String, u32)>,
    queues: BTreeMap<String, String>,
}

impl Resolver<'_> {
    fn resolve(mut self) -> Result<Intent> {
        let mut intent = Intent { mapping: self.mapping()?, ..Intent::default() };
        self.tenants()?;
        // names first: what follows refers to them
        self.names()?;
        for def in &self.manifest.extensions {
            if def.get_ref().active {
                intent.extensions.push(self.at(def, |d| self.extension(d))?);
            }
        }
        for def in &self.manifest.queues {
            intent.queues.push(self.at(def, |d| self.queue(d))?);
        }
        for def in &self.manifest.trunks {
            intent.trunks.push(self.at(def, |d| self.trunk(d))?);
        }
        for def in &self.manifest.dids {
            self.at(def, |d| {
                let number = model::number("number", &d.number)?;
                let to = self.destination(&d.to, None)?;
                let only = d.trunk.as_deref().map(|t| self.trunk_id(t)).transpose()?;
                for trunk in intent.trunks.iter_mut().filter(|t| only.as_ref().is_none_or(|id| *id == t.id)) {
                    if trunk.dids.iter().any(|(n, _)| *n == number) {
                        return Err(Error::input(format!(
                            "number {number} has two destinations on trunk {}",
                            trunk.id
                        )));
                    }
                    trunk.dids.push((number.clone(), to.clone()));
                }
                Ok(())
            })?;
        }
        for def in &self.manifest.routes {
            intent.routes.push(self.at(def, |d| self.route(d))?);
        }
        Ok(intent)
    }

    /// Runs `f` and puts the line of `def` to its error.
    fn at<T, R>(&self, def: &Spanned<T>, f: impl FnOnce(&T) -> Result<R>) -> Result<R> {
        f(def.get_ref()).map_err(|e| e.at(self.source.place(&def.span())))
    }

    fn mapping(&self) -> Result<Mapping> {
        let mut mapping = Mapping::default();
        for (name, def) in &self.manifest.tables {
            let table = Table::named(name).ok_or_else(|| {
                let known: Vec<_> = Table::ALL.iter().map(|t| t.name()).collect();
                Error::input(format!("[tables.{name}]: not a table that is written; those are {}", known.join(", ")))
                    .at(self.source.name)
            })?;
            if let Some(name) = &def.name {
                mapping.tables.insert(table, model::word("table", name)?);
            }
            for (column, other) in &def.columns {
                mapping.columns.insert((table, column.clone()), model::word("column", other)?);
            }
        }
        Ok(mapping)
    }

    fn tenants(&self) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        for def in &self.manifest.tenants {
            self.at(def, |t| {
                if ident::slug(&t.name) != t.name {
                    return Err(Error::input(format!(
                        "tenant {} is not lower case letters, digits and underscores",
                        model::quoted(&t.name)
                    )));
                }
                if t.name == "internal" || !seen.insert(t.name.clone()) {
                    return Err(Error::input(format!("tenant {} cannot be used (again)", t.name)));
                }
                model::word("accountcode", t.accountcode.as_deref().unwrap_or(&t.name)).map(|_| ())
            })?;
        }
        Ok(())
    }

    fn names(&mut self) -> Result<()> {
        let mut by_id: BTreeMap<String, String> = BTreeMap::new();
        for def in &self.manifest.trunks {
            let (name, id) = self.at(def, |d| {
                let id = id_of(self.ns, d)?;
                let name = d.name.clone().unwrap_or_else(|| match &d.extension {
                    Some(extension) => format!("{}/{extension}", d.host),
                    None => d.host.clone(),
                });
                if let Some(other) = by_id.insert(id.clone(), name.clone()) {
                    return Err(Error::input(format!("trunks {other} and {name} both get the id {id}")));
                }
                Ok((name, id))
            })?;
            if self.ids.insert(name.clone(), id).is_some() {
                return Err(Error::input(format!("two trunks are called {name}")).at(self.source.place(&def.span())));
            }
        }
        let mut logins = std::collections::BTreeSet::new();
        for def in &self.manifest.extensions {
            let d = def.get_ref();
            let id = d.username.as_deref().unwrap_or(&d.number).to_owned();
            let ring = d.ring_timeout.unwrap_or(self.manifest.defaults.ring_timeout);
            // MySQL does not tell upper case from lower
            let twice = !logins.insert(id.to_lowercase());
            let key = (d.tenant.clone(), d.number.clone());
            if twice || (d.active && self.phones.contains_key(&key)) {
                let message = format!("extension {} stands twice; give one another username", model::quoted(&id));
                return Err(Error::input(message).at(self.source.place(&def.span())));
            }
            if d.active {
                self.phones.insert(key, (id, ring));
            }
        }
        for def in &self.manifest.queues {
            let (name, id) = self.at(def, |d| {
                let id = match &d.exact_name {
                    Some(exact) => model::word("exact_name", exact)?,
                    None if ident::slug(&d.name) == d.name => format!("{}_{}", self.ns, d.name),
                    None => {
                        return Err(Error::input(format!(
                            "queue {} is not lower case letters, digits and underscores",
                            model::quoted(&d.name)
                        )));
                    }
                };
                Ok((d.name.clone(), id))
            })?;
            if self.queues.values().any(|q| *q == id) || self.queues.insert(name.clone(), id).is_some() {
                return Err(Error::input(format!("queue {name} stands twice")).at(self.source.place(&def.span())));
            }
        }
        Ok(())
    }

    fn tenant(&self, name: Option<&str>) -> Result<Option<String>> {
        let Some(name) = name else { return Ok(None) };
        let tenant = self.manifest.tenants.iter().map(Spanned::get_ref).find(|t| t.name == name);
        let tenant = tenant.ok_or_else(|| Error::input(format!("there is no [[tenant]] {}", model::quoted(name))))?;
        Ok(Some(tenant.accountcode.clone().unwrap_or_else(|| tenant.name.clone())))
    }

    /// Context in which a tenant's phones dial.
    fn context(&self, tenant: Option<&str>) -> String {
        format!("{}_{}", self.ns, tenant.unwrap_or("internal"))
    }

    fn trunk_id(&self, name: &str) -> Result<String> {
        self.ids.get(name).cloned().ok_or_else(|| {
            let known: Vec<_> = self.ids.keys().map(String::as_str).collect();
            Error::input(format!("there is no trunk {}; there are: {}", model::quoted(name), known.join(", ")))
        })
    }

    fn destination(&self, text: &str, tenant: Option<&str>) -> Result<Destination> {
        let (kind, what) = text.split_once(':').unwrap_or((text, ""));
        match kind {
            "extension" => {
                let (id, ring) = self.phone(what, tenant)?;
                Ok(Destination::Extension(id.clone(), *ring))
            }
            "queue" => {
                let id = self.queues.get(what);
                id.map(|id| Destination::Queue(id.clone()))
                    .ok_or_else(|| Error::input(format!("there is no queue {}", model::quoted(what))))
            }
            _ => destination(text),
        }
    }

    /// Id of the phone with a number, and seconds to ring it.
    fn phone(&self, number: &str, tenant: Option<&str>) -> Result<&(String, u32)> {
        let phone = self.phones.get(&(tenant.map(str::to_owned), number.to_owned())).or_else(|| {
            // a destination from outside may name any tenant's phone, if only one has that number
            let mut all = self.phones.iter().filter(|((_, n), _)| n == number);
            all.next().filter(|_| all.next().is_none()).map(|(_, p)| p)
        });
        phone.ok_or_else(|| Error::input(format!("there is no extension {}", model::quoted(number))))
    }

    fn secret(&self, env: Option<&str>, file: Option<&str>, realm: Option<&str>) -> Result<Secret> {
        let password = match (env, file) {
            (Some(_), Some(_)) => return Err(Error::input("password_env and password_file are both set; keep one")),
            (None, None) => return Ok(Secret::Keep),
            _ if !self.secrets.read => return Ok(Secret::Keep),
            (Some(name), None) => std::env::var(name)
                .ok()
                .filter(|v| !v.is_empty())
                .ok_or_else(|| Error::input(format!("password_env: the environment has no {}", model::quoted(name))))?,
            (None, Some(path)) => password_file(&self.secrets.base.join(path))?,
        };
        secret_of(password.into(), realm)
    }

    fn trunk(&self, d: &TrunkDef) -> Result<Trunk> {
        let secret = self.secret(d.password_env.as_deref(), d.password_file.as_deref(), d.digest_realm.as_deref())?;
        let defaults = &self.manifest.defaults;
        let tenant = self.tenant(d.tenant.as_deref())?;
        let inbound = match (&d.app, &d.inbound) {
            (Some(_), Some(_)) => return Err(Error::input("app and inbound are both set; keep one")),
            (Some(app), None) => destination(&format!("stasis:{app}"))?,
            (None, Some(to)) => self.destination(to, d.tenant.as_deref())?,
            (None, None) => Destination::Hangup,
        };
        trunk_of(
            self.ns,
            d,
            secret,
            inbound,
            tenant,
            &defaults.trunk_codecs,
            &defaults.transport,
            defaults.dial_timeout,
        )
    }

    fn extension(&self, d: &ExtensionDef) -> Result<Extension> {
        let defaults = &self.manifest.defaults;
        let id = model::user("username", d.username.as_deref().unwrap_or(&d.number))?;
        let number = model::number("number", &d.number)?;
        let transport = if d.webrtc { &defaults.webrtc_transport } else { &defaults.transport };
        let codecs = if d.webrtc { &defaults.webrtc_codecs } else { &defaults.codecs };
        let group = |what: &str, g: &Option<String>| g.as_deref().map(|g| model::text(what, g, 40)).transpose();
        Ok(Extension {
            name: model::caller_name(d.name.as_deref().unwrap_or(&d.number))?,
            secret: self.secret(d.password_env.as_deref(), d.password_file.as_deref(), d.digest_realm.as_deref())?,
            webrtc: d.webrtc,
            transport: model::word("transport", d.transport.as_deref().unwrap_or(transport))?,
            context: match &d.context {
                Some(context) => model::word("context", context)?,
                None => self.context(d.tenant.as_deref()),
            },
            dialable: d.context.is_none(),
            codecs: codec_list(d.codecs.as_ref().unwrap_or(codecs))?,
            mailbox: d.voicemail.then(|| format!("{number}@default")),
            call_group: group("call_group", &d.call_group)?,
            pickup_group: group("pickup_group", &d.pickup_group)?,
            tenant: self.tenant(d.tenant.as_deref())?,
            dtls_cert_file: d.dtls_cert_file.as_deref().map(|f| model::text("dtls_cert_file", f, 200)).transpose()?,
            max_contacts: match d.max_contacts.unwrap_or(1) {
                few @ 1..=100 => few,
                other => return Err(Error::input(format!("max_contacts {other} is not between 1 and 100"))),
            },
            ring_timeout: d.ring_timeout.unwrap_or(defaults.ring_timeout),
            adopt: d.adopt,
            id,
            number,
        })
    }

    fn queue(&self, d: &QueueDef) -> Result<Queue> {
        self.tenant(d.tenant.as_deref())?;
        let id = self.queues.get(&d.name).cloned().unwrap_or_default();
        let mut members = Vec::new();
        for m in &d.members {
            let (interface, named) = match (&m.extension, &m.interface) {
                (Some(number), None) => {
                    let (phone, _) = self.phone(number, d.tenant.as_deref())?;
                    let mut all = self.manifest.extensions.iter().map(Spanned::get_ref);
                    let named = all.find(|e| e.username.as_deref().unwrap_or(&e.number) == phone);
                    let named = named.and_then(|e| e.name.as_deref()).unwrap_or(number);
                    (format!("PJSIP/{phone}"), named)
                }
                (None, Some(interface)) => (model::device("interface", interface)?, interface.as_str()),
                _ => return Err(Error::input("a member has an extension or an interface")),
            };
            if members.iter().any(|o: &Member| o.interface == interface) {
                return Err(Error::input(format!("member {interface} stands twice")));
            }
            let name = m.name.as_deref().unwrap_or(named);
            members.push(Member { interface, name: model::caller_name(name)?, penalty: m.penalty });
        }
        let number = d.number.as_deref().map(|n| model::number("number", n)).transpose()?;
        let word = |what: &str, v: &Option<String>| v.as_deref().map(|v| model::text(what, v, 128)).transpose();
        Ok(Queue {
            id,
            number: number.map(|n| (self.context(d.tenant.as_deref()), n)),
            strategy: model::strategy(d.strategy.as_deref().unwrap_or("ringall"))?,
            timeout: d.timeout.unwrap_or(30),
            ring_in_use: d.ring_in_use,
            wrapup: d.wrapup,
            max_len: d.max_len,
            join_empty: word("join_empty", &d.join_empty)?,
            leave_when_empty: word("leave_when_empty", &d.leave_when_empty)?,
            music: word("music", &d.music)?,
            announce: word("announce", &d.announce)?,
            members,
        })
    }

    fn route(&self, d: &RouteDef) -> Result<Route> {
        self.tenant(d.tenant.as_deref())?;
        let trunk_id = self.trunk_id(&d.trunk)?;
        let trunks = self.manifest.trunks.iter().map(Spanned::get_ref);
        let of_trunk =
            trunks.filter(|t| id_of(self.ns, t).is_ok_and(|id| id == trunk_id)).find_map(|t| t.from_number.as_deref());
        let from_number = d.from_number.as_deref().or(of_trunk);
        Ok(Route {
            context: self.context(d.tenant.as_deref()),
            prefix: d.prefix.clone(),
            strip: d.strip,
            add_prefix: add_prefix(&d.add_prefix)?,
            trunk_id,
            from_number: from_number.map(|n| model::number("from_number", n)).transpose()?,
            dial_timeout: d.dial_timeout.unwrap_or(self.manifest.defaults.dial_timeout),
        })
    }
}
