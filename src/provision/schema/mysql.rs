//! The information schema of MySQL and MariaDB.

use std::collections::BTreeMap;

use super::{Column, ColumnKind, Mapping, Schema, TableInfo};
use crate::provision::db::{Db, Engine};
use crate::provision::error::{Error, Result};
use crate::provision::table::Table;

pub(super) async fn read(db: &mut Db, mapping: &Mapping) -> Result<Schema> {
    let place = db.texts("SELECT CAST(DATABASE() AS CHAR), CAST(CONCAT(@@hostname, ':', @@port) AS CHAR)", &[]).await?;
    let mut place = place.into_iter().flatten();
    let Some(Some(name)) = place.next() else {
        return Err(Error::input("PROVISION_DSN names no database: add /database at its end"));
    };
    let server = place.next().flatten().unwrap_or_default();
    let mut tables = BTreeMap::new();
    for table in Table::ALL {
        if let Some(info) = table_info(db, &name, mapping.table(table)).await? {
            tables.insert(table, info);
        }
    }
    let alembic = db.texts("SELECT CAST(version_num AS CHAR) FROM alembic_version_config", &[]).await.ok();
    let alembic = alembic.and_then(|rows| rows.into_iter().flatten().flatten().next());
    let database = format!("{name} on {server}");
    Ok(Schema { engine: Engine::MySql, database, mapping: mapping.clone(), tables, alembic })
}

async fn table_info(db: &mut Db, database: &str, name: &str) -> Result<Option<TableInfo>> {
    let (schema, table) = name.split_once('.').unwrap_or((database, name));
    let binds = [schema.to_owned(), table.to_owned()];
    let rows = db
        .texts(
            "SELECT CAST(COLUMN_NAME AS CHAR), CAST(DATA_TYPE AS CHAR), CAST(COLUMN_TYPE AS CHAR), \
             CAST(CHARACTER_MAXIMUM_LENGTH AS CHAR), CAST(IS_NULLABLE AS CHAR), \
             CAST(IF(COLUMN_DEFAULT IS NOT NULL AND COLUMN_DEFAULT <> 'NULL' OR EXTRA LIKE '%auto_increment%', 'yes', 'no') AS CHAR), \
             CAST(CHARACTER_SET_NAME AS CHAR) \
             FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION",
            &binds,
        )
        .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut columns = BTreeMap::new();
    for row in rows {
        let mut cells = row.into_iter();
        let mut next = || cells.next().flatten();
        let (name, data_type, column_type) =
            (next().unwrap_or_default(), next().unwrap_or_default(), next().unwrap_or_default());
        let max_chars = next().and_then(|n| n.parse().ok());
        let nullable = next().as_deref() == Some("YES");
        let has_default = next().as_deref() == Some("yes");
        let charset = next();
        let kind = match data_type.as_str() {
            "enum" => ColumnKind::Enum(enum_labels(&column_type)),
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => ColumnKind::Integer,
            "float" | "double" | "decimal" => ColumnKind::Real,
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => ColumnKind::Text,
            other => ColumnKind::Other(other.to_owned()),
        };
        // an enum's own length says nothing
        let max_chars = if matches!(kind, ColumnKind::Text) { max_chars } else { None };
        let column =
            Column { name: name.clone(), kind, max_chars, nullable, has_default, charset, cast: String::new() };
        columns.insert(name, column);
    }
    let engine = db
        .texts(
            "SELECT CAST(ENGINE AS CHAR), CAST((SELECT TRANSACTIONS FROM information_schema.ENGINES e \
             WHERE e.ENGINE = t.ENGINE) AS CHAR) FROM information_schema.TABLES t WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
            &binds,
        )
        .await?;
    let unsafe_engine = engine.into_iter().next().and_then(|row| match row.as_slice() {
        [Some(engine), Some(transactions)] if transactions != "YES" => Some(engine.clone()),
        _ => None,
    });
    let quoted = Engine::MySql.quote_path(name);
    let denied = denied(db, &quoted, &columns).await;
    Ok(Some(TableInfo { quoted, columns, unsafe_engine, denied }))
}

/// What the user may not do to a table. EXPLAIN asks for the privileges of the statement it explains and runs nothing; the
/// information schema would leave out what comes by a role.
async fn denied(db: &mut Db, quoted: &str, columns: &BTreeMap<String, Column>) -> Vec<String> {
    const TABLE_ACCESS_DENIED: &str = "(1142)";
    let Some(column) = columns.keys().next().map(|c| Engine::MySql.quote(c)) else { return Vec::new() };
    let mut denied = Vec::new();
    for (privilege, statement) in [
        ("SELECT", format!("SELECT {column} FROM {quoted} WHERE 1 = 0")),
        ("INSERT", format!("INSERT INTO {quoted} ({column}) SELECT NULL FROM DUAL WHERE 1 = 0")),
        ("UPDATE", format!("UPDATE {quoted} SET {column} = NULL WHERE 1 = 0")),
        ("DELETE", format!("DELETE FROM {quoted} WHERE 1 = 0")),
    ] {
        // a privilege on columns, or whatever else EXPLAIN dislikes, is left for the statement itself to tell
        if db.raw(&format!("EXPLAIN {statement}")).await.is_err_and(|e| e.message.ends_with(TABLE_ACCESS_DENIED)) {
            denied.push(privilege.to_owned());
        }
    }
    denied
}

/// `enum('yes','it''s')`
fn enum_labels(column_type: &str) -> Vec<String> {
    let inner = column_type.split_once('(').map_or("", |(_, i)| i.trim_end_matches(')'));
    let mut labels = Vec::new();
    let mut rest = inner.trim_start_matches('\'');
    let mut label = String::new();
    while let Some(at) = rest.find('\'') {
        label.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(more) = rest.strip_prefix('\'') {
            label.push('\'');
            rest = more;
        } else {
            labels.push(std::mem::take(&mut label));
            rest = rest.trim_start_matches(',').strip_prefix('\'').unwrap_or("");
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_enum_labels() {
        assert_eq!(super::enum_labels("enum('yes','no')"), ["yes", "no"]);
        assert_eq!(super::enum_labels("enum('it''s','a,b','c)')"), ["it's", "a,b", "c)"]);
    }
}
