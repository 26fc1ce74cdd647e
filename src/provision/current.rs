//! The rows that stand: read in the transaction that will change them, locked until it ends.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::db::Db;
use super::error::Result;
use super::schema::{Resolved, Schema};
use super::table::Table;
use super::value::Value;

/// Channel variable in `set_var` that marks an extension as ours: its id is the phone's login and cannot carry a prefix.
pub const MARK: &str = "CALLFERRY";

/// Whose rows a change may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Everything of a namespace: ids, queues and contexts `<ns>_…`, and extensions that carry its mark; and trunks
    /// outside of it that the manifest names by their ids.
    Namespace { ns: String, adopted: BTreeSet<String> },
    /// One trunk by its id.
    Trunk(String),
}

impl Owner {
    pub fn namespace(ns: impl Into<String>) -> Self {
        Self::Namespace { ns: ns.into(), adopted: BTreeSet::new() }
    }

    pub fn has_id(&self, id: &str) -> bool {
        match self {
            Self::Namespace { ns, adopted } => {
                id.strip_prefix(ns.as_str()).is_some_and(|rest| rest.starts_with('_')) || adopted.contains(id)
            }
            Self::Trunk(trunk) => id == trunk,
        }
    }

    pub fn has_context(&self, context: &str) -> bool {
        match self {
            Self::Namespace { adopted, .. } => {
                self.has_id(context)
                    || ["-in", "-out"].iter().any(|s| context.strip_suffix(s).is_some_and(|id| adopted.contains(id)))
            }
            Self::Trunk(trunk) => context.strip_prefix(trunk.as_str()).is_some_and(|s| matches!(s, "-in" | "-out")),
        }
    }

    /// Queues carry names, not ids: one called as a trunk is stays whose it was.
    pub fn has_queue(&self, name: &str) -> bool {
        match self {
            Self::Namespace { ns, .. } => Self::namespace(ns.as_str()).has_id(name),
            Self::Trunk(_) => false,
        }
    }

    /// Whether a row is the owner's by its key; phones are by their mark besides.
    pub fn has(&self, table: Table, key: &[String]) -> bool {
        let first = key.first().map(String::as_str).unwrap_or_default();
        match table {
            Table::Extensions => self.has_context(first),
            Table::Queues | Table::QueueMembers => self.has_queue(first),
            _ => self.has_id(first),
        }
    }

    /// Ids outside of the namespace: no prefix finds them.
    fn adopted(&self) -> BTreeSet<String> {
        match self {
            Self::Namespace { adopted, .. } => adopted.clone(),
            Self::Trunk(_) => BTreeSet::new(),
        }
    }

    /// The mark this owner's extensions carry.
    pub fn mark(&self) -> Option<String> {
        match self {
            Self::Namespace { ns, .. } => Some(format!("{MARK}={ns}")),
            Self::Trunk(_) => None,
        }
    }
}

#[derive(Clone)]
pub struct CurrentRow {
    /// As stored, by canonical column.
    pub cells: BTreeMap<String, Option<String>>,
    pub ours: bool,
}

#[derive(Clone, Default)]
pub struct Current {
    pub rows: BTreeMap<(Table, Vec<String>), CurrentRow>,
}

/// Rows asked for at once by their ids.
const CHUNK: usize = 1000;

impl Current {
    /// Rows of the owner, and rows that `desired` would meet. `lock` holds them until the transaction ends.
    pub async fn read(db: &mut Db, schema: &Schema, desired: &[Resolved], owner: &Owner, lock: bool) -> Result<Self> {
        let mut reader = Reader { db, schema, owner, lock, found: Self::default() };
        let wanted = |table: Table, part: usize| -> BTreeSet<String> {
            desired.iter().filter(|r| r.table == table).map(|r| r.key[part].clone()).collect()
        };
        let adopted = owner.adopted();
        // endpoints first: the marked ones say whose the auths and aors of the same id are
        let ids = wanted(Table::Endpoints, 0).union(&adopted).cloned().collect();
        reader.table(Table::Endpoints, "id", ids, desired).await?;
        let endpoints = &reader.found.rows;
        let marked: BTreeSet<String> =
            endpoints.iter().filter(|(_, r)| r.ours).map(|((_, key), _)| key[0].clone()).collect();
        for table in [Table::Auths, Table::Aors] {
            let ids = &(&wanted(table, 0) | &marked) | &adopted;
            reader.table(table, "id", ids, desired).await?;
            for id in &marked {
                if let Some(row) = reader.found.rows.get_mut(&(table, vec![id.clone()])) {
                    row.ours = true;
                }
            }
        }
        // a phone has neither of these: one of its id is somebody else's, however the phone is marked
        for table in [Table::Identifies, Table::Registrations] {
            reader.table(table, "id", &wanted(table, 0) | &adopted, desired).await?;
        }
        reader.table(Table::Queues, "name", wanted(Table::Queues, 0), desired).await?;
        reader.table(Table::QueueMembers, "queue_name", wanted(Table::QueueMembers, 0), desired).await?;
        let contexts: BTreeSet<String> =
            adopted.iter().flat_map(|id| ["in", "out"].map(|end| format!("{id}-{end}"))).collect();
        reader.table(Table::Extensions, "context", &wanted(Table::Extensions, 0) | &contexts, desired).await?;
        reader.contacts(&marked).await?;
        Ok(reader.found)
    }

    /// A digest of the rows, secrets left out: a plan is stale when it is another one.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for ((table, key), row) in self.rows.iter().filter(|((t, _), _)| *t != Table::Contacts) {
            for part in [table.name()].into_iter().chain(key.iter().map(String::as_str)) {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            for (column, text) in row.cells.iter().filter(|(c, _)| !table.secret(c)) {
                let text = text.as_deref().unwrap_or("\0");
                for part in [column.as_str(), text] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
            }
        }
        hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

struct Reader<'a> {
    db: &'a mut Db,
    schema: &'a Schema,
    owner: &'a Owner,
    lock: bool,
    found: Current,
}

impl Reader<'_> {
    /// Rows whose `column` is the owner's or one of `wanted`.
    async fn table(
        &mut self,
        table: Table,
        column: &str,
        wanted: BTreeSet<String>,
        desired: &[Resolved],
    ) -> Result<()> {
        if !self.schema.tables.contains_key(&table) {
            return Ok(());
        }
        let mut columns: BTreeSet<&str> =
            desired.iter().filter(|r| r.table == table).flat_map(|r| r.cells.keys().copied()).collect();
        if table == Table::Endpoints {
            columns.insert("set_var");
        }
        columns.retain(|c| self.schema.column(table, c).is_some());
        let columns: Vec<&str> = table.key().iter().copied().chain(columns).collect();
        let (wheres, binds) = self.owned(table, column);
        self.fetch(table, &columns, &wheres, &binds).await?;
        let wanted: Vec<String> = wanted.into_iter().collect();
        for chunk in wanted.chunks(CHUNK) {
            let places: Vec<String> = (1..=chunk.len()).map(|n| self.schema.engine.placeholder(n)).collect();
            let wheres = format!("{} IN ({})", self.schema.quoted(table, column), places.join(", "));
            self.fetch(table, &columns, &wheres, chunk).await?;
        }
        Ok(())
    }

    fn owned(&self, table: Table, column: &str) -> (String, Vec<String>) {
        let quoted = self.schema.quoted(table, column);
        let place = |n| self.schema.engine.placeholder(n);
        match self.owner {
            Owner::Namespace { ns, .. } => {
                // LIKE would take the underscore for any character
                let prefix = format!("{ns}_");
                let mut wheres = format!("LEFT({quoted}, {}) = {}", prefix.len(), place(1));
                let mut binds = vec![prefix];
                if let (Table::Endpoints, Some(mark), Some(_)) =
                    (table, self.owner.mark(), self.schema.column(table, "set_var"))
                {
                    let set_var = self.schema.quoted(table, "set_var");
                    let found = match self.schema.engine {
                        super::db::Engine::PostgreSql => format!("strpos({set_var}, {}) > 0", place(2)),
                        super::db::Engine::MySql => format!("LOCATE({}, {set_var}) > 0", place(2)),
                    };
                    wheres = format!("{wheres} OR {found}");
                    binds.push(mark);
                }
                (wheres, binds)
            }
            Owner::Trunk(id) if table == Table::Extensions => {
                (format!("{quoted} IN ({}, {})", place(1), place(2)), vec![format!("{id}-in"), format!("{id}-out")])
            }
            Owner::Trunk(id) => (format!("{quoted} = {}", place(1)), vec![id.clone()]),
        }
    }

    async fn fetch(&mut self, table: Table, columns: &[&str], wheres: &str, binds: &[String]) -> Result<()> {
        let list: Vec<String> = columns.iter().map(|c| self.schema.as_text(table, c)).collect();
        let lock = if self.lock { " FOR UPDATE" } else { "" };
        let quoted = &self.schema.table(table)?.quoted;
        let sql = format!("SELECT {} FROM {quoted} WHERE {wheres}{lock}", list.join(", "));
        let keys = table.key().len();
        for row in self.db.texts(&sql, binds).await.map_err(|e| e.at(table.name()))? {
            let mut row = row.into_iter();
            let key: Vec<String> = row.by_ref().take(keys).map(Option::unwrap_or_default).collect();
            let cells: BTreeMap<String, Option<String>> =
                columns[keys..].iter().map(|c| (*c).to_owned()).zip(row).collect();
            let marked = || {
                let (Some(mark), Some(Some(set_var))) = (self.owner.mark(), cells.get("set_var")) else { return false };
                Value::decode(set_var).parts().contains(&mark)
            };
            let ours = self.owner.has(table, &key) || table == Table::Endpoints && marked();
            self.found.rows.insert((table, key), CurrentRow { cells, ours });
        }
        Ok(())
    }

    /// Bindings of our phones: they go with the phone.
    async fn contacts(&mut self, endpoints: &BTreeSet<String>) -> Result<()> {
        let Some(info) = self.schema.tables.get(&Table::Contacts) else { return Ok(()) };
        // without the privilege to clean up after a phone its bindings expire by themselves
        if !info.denied.is_empty() || self.schema.column(Table::Contacts, "endpoint").is_none() {
            return Ok(());
        }
        let ids: Vec<String> = endpoints.iter().cloned().collect();
        for chunk in ids.chunks(CHUNK) {
            let places: Vec<String> = (1..=chunk.len()).map(|n| self.schema.engine.placeholder(n)).collect();
            let sql = format!(
                "SELECT {}, {} FROM {} WHERE {} IN ({})",
                self.schema.as_text(Table::Contacts, "id"),
                self.schema.as_text(Table::Contacts, "endpoint"),
                info.quoted,
                self.schema.quoted(Table::Contacts, "endpoint"),
                places.join(", ")
            );
            for row in self.db.texts(&sql, chunk).await.map_err(|e| e.at(Table::Contacts.name()))? {
                if let [Some(id), endpoint] = row.as_slice() {
                    let cells = BTreeMap::from([("endpoint".to_owned(), endpoint.clone())]);
                    self.found.rows.insert((Table::Contacts, vec![id.clone()]), CurrentRow { cells, ours: true });
                }
            }
        }
        Ok(())
    }
}
