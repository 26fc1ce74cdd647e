//! A manifest of what stands in the database: the start for those who have rows already.
//!
//! An apply of the written file changes nothing. What is ours is written as settings; what is somebody else's is too where
//! the settings make exactly the rows there are, and otherwise stands in comments with what taking it over would change.
//! The text is read again before it is handed out, and what it would not bring back is told at its head.

mod block;
mod objects;
mod rules;
mod scene;
mod standing;

use std::collections::BTreeSet;
use std::path::PathBuf;

use block::{Block, quoted};
use scene::Scene;
pub use standing::standing;

use super::apply;
use super::current::{Current, Owner};
use super::db::Db;
use super::error::Result;
use super::intent::{Intent, Secrets};
use super::manifest::{Manifest, Source};
use super::plan::{Plan, plan};
use super::schema::{Resolved, Schema};
use super::table::Table;

const HEAD: &str = "# Written by callferry provision import. Passwords stay as they are in the database until password_env or\n\
                    # password_file is set.\n";

/// The manifest's text. Secrets are not in it: rows keep those they have.
pub async fn import(db: &mut Db, schema: &Schema, ns: &str) -> Result<String> {
    super::ident::check_namespace(ns)?;
    let scene = Scene::read(db, schema, ns).await?;
    let tables = tables(schema);
    let tenants: String = objects::tenants(&scene).iter().map(Block::as_str).collect();
    // phones first: trunks and queues refer to them
    let mut body = tenants.clone();
    let mut foreign: Vec<(String, Block)> = Vec::new();
    let mut sorted = |id: &str, ours: bool, block: Block| match ours {
        true => body.push_str(block.as_str()),
        false => foreign.push((id.to_owned(), block)),
    };
    for (id, phone) in &scene.phones {
        sorted(id, phone.ours, objects::phone(&scene, id));
    }
    for (id, name) in &scene.queues {
        sorted(id, scene.in_namespace(id) || scene.calls_queue(id), objects::queue(&scene, id, name));
    }
    for (id, addresses) in &scene.trunks {
        sorted(id, scene.in_namespace(id), Block::joined(objects::trunk(&scene, id, addresses)));
    }
    let mut out = BTreeSet::new();
    for (id, block, why) in judged(db, schema, ns, &format!("{tables}{tenants}"), foreign).await? {
        match why {
            None => body.push_str(block.as_str()),
            Some(why) => {
                body.push_str(&block.commented(&why));
                out.insert(id);
            }
        }
    }
    let (routes, odd) = objects::routes(&scene, &out);
    routes.iter().for_each(|b| body.push_str(b.as_str()));
    for key in scene.rows(Table::Endpoints).filter(|k| !scene.trunks.contains_key(&k[0])) {
        if !scene.phones.contains_key(&key[0]) {
            body.push_str(&format!(
                "\n# endpoint {:?} has neither registration, address nor login: left out\n",
                key[0]
            ));
        }
    }
    for place in odd {
        body.push_str(&format!("\n# extensions {place}: no setting makes this row\n"));
    }
    let body = format!("{tables}{body}");
    let left = match desired(&body, ns) {
        Ok(wanted) => match apply::preview(db, schema, &wanted).await {
            Ok(plan) if plan.is_empty() => return Ok(format!("{HEAD}{body}")),
            Ok(plan) => format!("An apply of this file would change:\n{}", changes(&plan)),
            Err(e) => format!("This file is not taken as it is: {e}"),
        },
        Err(e) => format!("This file is not taken as it is: {e}"),
    };
    let left: String = left.lines().map(|l| format!("# {}\n", l.replace(char::is_control, " "))).collect();
    Ok(format!("{HEAD}#\n{left}{body}"))
}

fn desired(text: &str, ns: &str) -> Result<apply::Desired> {
    let source = Source { name: "the file", text };
    let manifest = Manifest::parse(&source)?;
    Intent::of(&manifest, &source, ns, &Secrets { base: PathBuf::new(), read: false })?.desired(ns)
}

/// For each block whether it makes exactly the rows that stand, and if not, why or what it would change.
async fn judged(
    db: &mut Db,
    schema: &Schema,
    ns: &str,
    preamble: &str,
    blocks: Vec<(String, Block)>,
) -> Result<Vec<(String, Block, Option<String>)>> {
    let mut adopted = BTreeSet::new();
    let mut all: Vec<Resolved> = Vec::new();
    let mut made = Vec::new();
    for (id, block) in blocks {
        let rows = desired(&format!("{preamble}{}", block.as_str()), ns).and_then(|wanted| {
            if let Owner::Namespace { adopted: ids, .. } = wanted.owner {
                adopted.extend(ids);
            }
            Ok(apply::resolve(schema, &wanted.rows)?.0)
        });
        all.extend(rows.iter().flatten().cloned());
        made.push((id, block, rows));
    }
    let owner = Owner::Namespace { ns: ns.to_owned(), adopted };
    let current = Current::read(db, schema, &all, &owner, false).await?;
    let judged = made.into_iter().map(|(id, block, rows)| {
        let why = match rows {
            Err(e) => Some(format!("cannot be written as it stands: {e}")),
            Ok(rows) => compared(schema, &rows, &current, &owner),
        };
        (id, block, why.map(|w| w.replace(|c: char| c.is_control() && c != '\n', " ")))
    });
    Ok(judged.collect())
}

fn compared(schema: &Schema, rows: &[Resolved], current: &Current, owner: &Owner) -> Option<String> {
    // only the rows of this block: others of ours are not going
    let keys = rows.iter().map(|r| (r.table, r.key.clone()));
    let standing = keys.filter_map(|key| current.rows.get_key_value(&key)).map(|(k, r)| (k.clone(), r.clone()));
    match plan(schema, rows, &Current { rows: standing.collect() }, owner) {
        Err(e) => Some(format!("cannot be taken over: {e}")),
        Ok(plan) if plan.is_empty() => None,
        Ok(plan) => Some(format!("not ours; taking it over would change:\n{}", changes(&plan))),
    }
}

/// A plan without its totals.
fn changes(plan: &Plan) -> String {
    let text = plan.render();
    text.split("\n\nPlan: ").next().unwrap_or_default().to_owned()
}

/// The names of the tables, where they are not Asterisk's.
fn tables(schema: &Schema) -> String {
    let mut text = String::new();
    for table in Table::ALL {
        let name = schema.mapping.tables.get(&table);
        let columns: Vec<String> = schema
            .mapping
            .columns
            .iter()
            .filter(|((t, _), _)| *t == table)
            .map(|((_, column), other)| format!("{column} = {}", quoted(other)))
            .collect();
        if name.is_none() && columns.is_empty() {
            continue;
        }
        text.push_str(&format!("\n[tables.{}]\n", table.name()));
        if let Some(name) = name {
            text.push_str(&format!("name = {}\n", quoted(name)));
        }
        if !columns.is_empty() {
            text.push_str(&format!("columns = {{ {} }}\n", columns.join(", ")));
        }
    }
    text
}
