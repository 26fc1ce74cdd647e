//! The tables as they stand, in the columns that tell what a row is for.

use std::collections::BTreeMap;

use crate::provision::current::Owner;
use crate::provision::db::Db;
use crate::provision::error::Result;
use crate::provision::schema::Schema;
use crate::provision::table::{Cell, Need, Row, Table};
use crate::provision::value::Value;

/// Decoded cells of a table's rows, by key.
pub(super) type Rows = BTreeMap<Vec<String>, BTreeMap<String, Value>>;

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
    "realm",
    "rewrite_contact",
    "dtls_cert_file",
    "state_interface",
];

/// Rows of an owner as they stand, in the columns that tell what they are for.
pub async fn standing(db: &mut Db, schema: &Schema, owner: &Owner) -> Result<Vec<Row>> {
    let mut found = Vec::new();
    for table in Table::ALL.into_iter().filter(|t| *t != Table::Contacts) {
        for (key, cells) in all(db, schema, table).await? {
            if !owner.has(table, &key) {
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

pub(super) async fn all(db: &mut Db, schema: &Schema, table: Table) -> Result<Rows> {
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
