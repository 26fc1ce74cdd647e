//! A file of context stubs that extensions.conf includes: rows of a context are reached only through its switch.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::db::Db;
use super::error::{Error, Kind, Result};
use super::schema::Schema;
use super::table::Table;

/// Every context of ours that has rows, of both namespaces.
pub async fn contexts(db: &mut Db, schema: &Schema, ns: &str) -> Result<BTreeSet<String>> {
    let context = schema.as_text(Table::Extensions, "context");
    let sql = format!("SELECT DISTINCT {context} FROM {}", schema.table(Table::Extensions)?.quoted);
    let rows = db.texts(&sql, &[]).await?;
    let ours = |c: &String| [format!("{ns}_"), format!("{ns}t_")].iter().any(|p| c.starts_with(p.as_str()));
    Ok(rows.into_iter().flatten().flatten().filter(ours).collect())
}

/// Writes the file anew, whole or not at all; true when it differs from what stood there.
pub fn write(path: &Path, contexts: &BTreeSet<String>) -> Result<bool> {
    let mut text = String::from("; written by callferry; extensions.conf: #include this file\n");
    for context in contexts {
        // a name that is none would break the dialplan of all
        if super::model::word("context", context).is_err() {
            return Err(Error::new(Kind::Activation, format!("context {context:?} cannot stand in extensions.conf")));
        }
        text.push_str(&format!("\n[{context}]\nswitch => Realtime/@extensions\n"));
    }
    if std::fs::read_to_string(path).is_ok_and(|stands| stands == text) {
        return Ok(false);
    }
    let problem = |e: std::io::Error| {
        Error::new(Kind::Activation, format!("cannot write the stubs to {} (PROVISION_STUBS): {e}", path.display()))
    };
    let partial = path.with_extension("callferry-new");
    let mut file = std::fs::File::create(&partial).map_err(problem)?;
    // Asterisk reads it as another user, whatever the umask of the one who runs this
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(problem)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(problem)?;
    std::fs::rename(&partial, path).map_err(problem)?;
    Ok(true)
}
