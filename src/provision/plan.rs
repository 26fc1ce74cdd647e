//! What has to change: the difference between the rows asked for and the rows that stand, both decoded. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::current::{Current, Owner};
use super::db::Engine;
use super::error::{Error, Result};
use super::schema::{Resolved, Schema, normal};
use super::table::{Table, place};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Create,
    Update,
    Delete,
}

/// One column of a change, decoded for people. A secret's values are never in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    pub column: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sensitive: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub action: Action,
    /// Asterisk's name of the table, whatever it is called here.
    pub table: Table,
    pub key: Vec<String>,
    pub fields: Vec<Field>,
}

impl Change {
    pub fn touches(&self, column: &str) -> bool {
        self.fields.iter().any(|f| f.column == column)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub changes: Vec<Change>,
    pub warnings: Vec<String>,
    /// [`Current::digest`] of the rows the plan was made from.
    pub state: String,
    /// Trunks, extensions and queues that stand and are ours.
    pub owned_objects: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Totals {
    pub add: usize,
    pub change: usize,
    pub destroy: usize,
}

/// Changes in the order they are carried out: new and changed rows by table, then deletions in the opposite order.
pub fn plan(schema: &Schema, desired: &[Resolved], current: &Current, owner: &Owner) -> Result<Plan> {
    let mut plan = Plan { state: current.digest(), ..Plan::default() };
    let mut wanted: BTreeMap<(Table, &Vec<String>), &Resolved> = BTreeMap::new();
    for row in desired {
        if wanted.insert((row.table, &row.key), row).is_some() {
            return Err(Error::input("is asked for twice").at(place(row.table, &row.key)));
        }
    }
    let folded: BTreeMap<(Table, Vec<String>), &Vec<String>> = if schema.engine == Engine::MySql {
        current.rows.keys().map(|(t, k)| ((*t, fold(k)), k)).collect()
    } else {
        BTreeMap::new()
    };
    for ((table, key), row) in &wanted {
        let Some(stands) = current.rows.get(&(*table, (*key).clone())) else {
            if let Some(other) = folded.get(&(*table, fold(key))) {
                return Err(Error::input(format!(
                    "{} stands already; this database does not tell upper case from lower",
                    place(*table, other)
                ))
                .at(place(*table, key)));
            }
            if let Some(setting) = row.missing {
                let message = format!("has to be created and has no secret: set {setting}");
                return Err(Error::input(message).at(place(*table, key)));
            }
            plan.changes.push(created(row));
            continue;
        };
        let fields = differences(schema, row, &stands.cells);
        if !stands.ours && !row.adopt {
            return Err(Error::input(format!(
                "stands already and is not ours{}; choose another name, remove it, or take it over (adopt = true)",
                owner.mark().map_or(String::new(), |m| format!(" (no {m} in set_var)"))
            ))
            .at(place(*table, key)));
        }
        if !fields.is_empty() {
            let key = (*key).clone();
            plan.changes.push(Change { action: Action::Update, table: *table, key, fields });
        }
    }
    plan.changes.sort_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
    let gone: BTreeSet<&str> = current
        .rows
        .iter()
        .filter(|((t, k), r)| *t == Table::Endpoints && r.ours && !wanted.contains_key(&(*t, k)))
        .map(|((_, k), _)| k[0].as_str())
        .collect();
    for ((table, key), row) in current.rows.iter().rev() {
        let delete = match table {
            Table::Contacts => {
                row.cells.get("endpoint").and_then(Option::as_deref).is_some_and(|endpoint| gone.contains(endpoint))
            }
            _ => row.ours && !wanted.contains_key(&(*table, key)),
        };
        if delete {
            plan.changes.push(Change { action: Action::Delete, table: *table, key: key.clone(), fields: Vec::new() });
        }
    }
    let object = |t: &Table| matches!(t, Table::Endpoints | Table::Queues);
    plan.owned_objects = current.rows.iter().filter(|((t, _), r)| r.ours && object(t)).count();
    Ok(plan)
}

fn fold(key: &[String]) -> Vec<String> {
    key.iter().map(|k| k.to_lowercase()).collect()
}

fn created(row: &Resolved) -> Change {
    let fields =
        row.cells.iter().filter(|(_, s)| s.text.as_deref().is_some_and(|t| !t.is_empty())).map(|(column, s)| {
            let sensitive = row.table.secret(column);
            let new = s.text.as_deref().map(|t| super::value::Value::decode(t).display());
            Field { column: (*column).to_owned(), old: None, new: if sensitive { None } else { new }, sensitive }
        });
    Change { action: Action::Create, table: row.table, key: row.key.clone(), fields: fields.collect() }
}

fn differences(schema: &Schema, row: &Resolved, stands: &BTreeMap<String, Option<String>>) -> Vec<Field> {
    let mut fields = Vec::new();
    for (column, cell) in row.cells.iter().filter(|(_, c)| !c.initial) {
        let Some(info) = schema.column(row.table, column) else { continue };
        let old = normal(stands.get(*column).and_then(Option::as_deref), info, cell.flag);
        let new = normal(cell.text.as_deref(), info, cell.flag);
        if old == new {
            continue;
        }
        let sensitive = row.table.secret(column);
        let show = |v: &super::value::Value| (!sensitive && !v.is_null()).then(|| v.display());
        fields.push(Field { column: (*column).to_owned(), old: show(&old), new: show(&new), sensitive });
    }
    fields
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub fn totals(&self) -> Totals {
        let count = |action| self.changes.iter().filter(|c| c.action == action).count();
        Totals { add: count(Action::Create), change: count(Action::Update), destroy: count(Action::Delete) }
    }

    /// Trunks, extensions and queues that would go.
    pub fn deleted_objects(&self) -> usize {
        let object = |c: &&Change| matches!(c.table, Table::Endpoints | Table::Queues);
        self.changes.iter().filter(|c| c.action == Action::Delete).filter(object).count()
    }

    /// As terraform prints it. Texts from outside are escaped: a terminal is no place for their control characters.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for change in &self.changes {
            let sign = match change.action {
                Action::Create => '+',
                Action::Update => '~',
                Action::Delete => '-',
            };
            let _ = writeln!(text, "{sign} {}", place(change.table, &change.key));
            for f in &change.fields {
                let shown = |v: &Option<String>| v.as_ref().map_or("(null)".to_owned(), |v| format!("{v:?}"));
                let what = match (f.sensitive, change.action) {
                    (true, Action::Update) => "(sensitive, changed)".to_owned(),
                    (true, _) => "(sensitive)".to_owned(),
                    (false, Action::Update) => format!("{} -> {}", shown(&f.old), shown(&f.new)),
                    (false, _) => shown(&f.new),
                };
                let _ = writeln!(text, "    {:<26} {what}", f.column);
            }
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        let Totals { add, change, destroy } = self.totals();
        if self.is_empty() {
            text.push_str("No changes. The database is as asked for.\n");
        } else {
            let _ = writeln!(text, "\nPlan: {add} to add, {change} to change, {destroy} to destroy.");
        }
        text
    }
}
