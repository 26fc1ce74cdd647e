//! PostgreSQL's catalogue.

use std::collections::BTreeMap;

use super::{Column, ColumnKind, Mapping, Schema, TableInfo};
use crate::provision::db::{Db, Engine};
use crate::provision::error::Result;
use crate::provision::table::Table;

const COLUMNS: &str = "\
SELECT a.attname::text, format_type(a.atttypid, NULL)::text, t.typtype::text, t.typcategory::text, \
  CASE WHEN a.atttypid IN (1042, 1043) AND a.atttypmod > 4 THEN (a.atttypmod - 4)::text END, \
  a.attnotnull::text, (a.atthasdef OR a.attidentity <> '')::text, \
  (SELECT string_agg(e.enumlabel, chr(1) ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = a.atttypid), \
  CASE WHEN d.adbin IS NOT NULL THEN pg_get_serial_sequence($1::text, a.attname) END, \
  CASE WHEN d.adbin IS NOT NULL THEN pg_get_expr(d.adbin, d.adrelid) END \
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
WHERE a.attrelid = to_regclass($1::text) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

pub(super) async fn read(db: &mut Db, mapping: &Mapping) -> Result<Schema> {
    let place = db
        .texts(
            "SELECT current_database()::text || ' on ' || COALESCE(host(inet_server_addr()), 'local socket') \
             || COALESCE(':' || inet_server_port(), '')",
            &[],
        )
        .await?;
    let database = place.into_iter().flatten().flatten().next().unwrap_or_default();
    let mut tables = BTreeMap::new();
    for table in Table::ALL {
        if let Some(info) = table_info(db, mapping.table(table)).await? {
            tables.insert(table, info);
        }
    }
    let alembic = match db.texts("SELECT to_regclass('alembic_version_config')::text", &[]).await?.pop() {
        Some(row) if row[0].is_some() => db
            .texts("SELECT version_num::text FROM alembic_version_config", &[])
            .await
            .ok()
            .and_then(|rows| rows.into_iter().flatten().flatten().next()),
        _ => None,
    };
    Ok(Schema { engine: Engine::PostgreSql, database, mapping: mapping.clone(), tables, alembic })
}

async fn table_info(db: &mut Db, name: &str) -> Result<Option<TableInfo>> {
    let quoted = Engine::PostgreSql.quote_path(name);
    let rows = db.texts(COLUMNS, std::slice::from_ref(&quoted)).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut columns = BTreeMap::new();
    let mut sequences = Vec::new();
    for row in rows {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        let (name, cast, typtype, category) = (
            next().unwrap_or_default(),
            next().unwrap_or_default(),
            next().unwrap_or_default(),
            next().unwrap_or_default(),
        );
        let max_chars = next().and_then(|n| n.parse().ok());
        let not_null = next().as_deref() == Some("true");
        let has_default = next().as_deref() == Some("true");
        let labels = next();
        let (serial, default) = (next(), next());
        // a sequence that the column does not own is found in the text of the default only
        if let Some(sequence) = serial.or_else(|| {
            let inner = default.as_deref()?.strip_prefix("nextval('")?;
            Some(inner.split_once('\'')?.0.to_owned())
        }) {
            sequences.push(sequence);
        }
        let kind = match (typtype.as_str(), category.as_str(), cast.as_str()) {
            ("e", ..) => ColumnKind::Enum(labels.unwrap_or_default().split('\u{1}').map(str::to_owned).collect()),
            (_, "B", _) => ColumnKind::Boolean,
            (_, _, "integer" | "bigint" | "smallint") => ColumnKind::Integer,
            (_, "N", _) => ColumnKind::Real,
            (_, "S", _) => ColumnKind::Text,
            _ => ColumnKind::Other(cast.clone()),
        };
        let column =
            Column { name: name.clone(), kind, max_chars, nullable: !not_null, has_default, charset: None, cast };
        columns.insert(name, column);
    }
    let mut denied = Vec::new();
    let rights = db
        .texts(
            "SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p \
             WHERE NOT has_table_privilege(to_regclass($1::text), p)",
            std::slice::from_ref(&quoted),
        )
        .await?;
    denied.extend(rights.into_iter().flatten().flatten());
    for sequence in sequences {
        let usable = db
            .texts(
                "SELECT COALESCE(has_sequence_privilege(to_regclass($1::text), 'USAGE'), true)::text",
                std::slice::from_ref(&sequence),
            )
            .await?;
        if usable.into_iter().flatten().flatten().next().as_deref() == Some("false") {
            denied.push(format!("USAGE on sequence {sequence}"));
        }
    }
    Ok(Some(TableInfo { quoted, columns, unsafe_engine: None, denied }))
}
