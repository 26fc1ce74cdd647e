//! A plan carried out: one transaction, one at a time, all or nothing.

use std::time::Duration;

use super::current::{Current, Owner};
use super::db::{Db, Engine};
use super::error::{Error, Result};
use super::plan::{Action, Change, Plan, plan};
use super::schema::{Resolved, Schema};
use super::table::{Row, Table, place};

/// What is asked for: rows, and whose rows may go.
#[derive(Clone, Debug)]
pub struct Desired {
    pub owner: Owner,
    pub rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub struct Options {
    /// Trunks, extensions and queues that may be deleted at once; more need `force`.
    pub max_deletes: usize,
    pub force: bool,
    /// State and changes of a saved plan; anything else is refused as stale.
    pub expected: Option<Plan>,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_deletes: 5, force: false, expected: None }
    }
}

/// Times a transaction is tried that the database gave up for another one's sake.
const TRIES: u32 = 4;
/// "callferr" as a number: one lock for all who provision this database.
const LOCK: i64 = 0x6361_6c6c_6665_7272;
const LOCK_SECONDS: u32 = 30;

/// Rows that this database can take, and what had to be left out.
pub fn resolve(schema: &Schema, rows: &[Row]) -> Result<(Vec<Resolved>, Vec<String>)> {
    let mut warnings = Vec::new();
    schema.permitted(rows.iter().map(|r| r.table))?;
    let rows = rows.iter().map(|r| schema.resolve(r, &mut warnings)).collect::<Result<_>>()?;
    Ok((rows, warnings))
}

/// What an apply would do now. Reads only.
pub async fn preview(db: &mut Db, schema: &Schema, desired: &Desired) -> Result<Plan> {
    let (rows, warnings) = resolve(schema, &desired.rows)?;
    let current = Current::read(db, schema, &rows, &desired.owner, false).await?;
    addresses(db, schema, &rows, &current).await?;
    let mut plan = plan(schema, &rows, &current, &desired.owner)?;
    schema.permitted(plan.changes.iter().map(|c| c.table))?;
    plan.warnings.splice(0..0, warnings);
    plan.warnings.extend(twice_registered(db, schema, &rows, &current).await?);
    Ok(plan)
}

/// Registrations of the same number at the same host that are not asked for: the far end would see two.
async fn twice_registered(db: &mut Db, schema: &Schema, rows: &[Resolved], current: &Current) -> Result<Vec<String>> {
    let wanted: Vec<&Resolved> = rows.iter().filter(|r| r.table == Table::Registrations).collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let [id, uri] = ["id", "client_uri"].map(|c| schema.as_text(Table::Registrations, c));
    let sql = format!("SELECT {id}, {uri} FROM {}", schema.table(Table::Registrations)?.quoted);
    let mut warnings = Vec::new();
    for stands in db.texts(&sql, &[]).await? {
        let [Some(id), Some(uri)] = stands.as_slice() else { continue };
        let ours = current.rows.get(&(Table::Registrations, vec![id.clone()])).is_some_and(|r| r.ours);
        let same = wanted
            .iter()
            .find(|w| w.key[0] != *id && w.cells.get("client_uri").and_then(|c| c.text.as_ref()) == Some(uri));
        if let Some(row) = same.filter(|_| !ours) {
            warnings.push(format!(
                "{} registers {} too, beside {}: the far end sees two of them and may call either; remove one",
                id.escape_debug(),
                uri.escape_debug(),
                row.key[0]
            ));
        }
    }
    Ok(warnings)
}

/// Carries out what is asked for and returns what was done. On an error nothing is written.
pub async fn apply(db: &mut Db, schema: &Schema, desired: &Desired, options: &Options) -> Result<Plan> {
    let (rows, warnings) = resolve(schema, &desired.rows)?;
    let mut attempt = 1;
    loop {
        let result = transaction(db, schema, &rows, &desired.owner, options).await;
        match result {
            Ok(mut plan) => {
                plan.warnings.splice(0..0, warnings);
                return Ok(plan);
            }
            Err(e) => {
                // a lost connection has rolled back by itself
                let _ = db.raw("ROLLBACK").await;
                release(db).await;
                if !e.retry || attempt == TRIES {
                    return Err(scrubbed(e, &rows));
                }
                tokio::time::sleep(Duration::from_millis(fastrand::u64(20..100 * u64::from(attempt)))).await;
                attempt += 1;
            }
        }
    }
}

async fn transaction(
    db: &mut Db,
    schema: &Schema,
    rows: &[Resolved],
    owner: &Owner,
    options: &Options,
) -> Result<Plan> {
    lock(db).await?;
    let current = Current::read(db, schema, rows, owner, true).await?;
    addresses(db, schema, rows, &current).await?;
    let plan = plan(schema, rows, &current, owner)?;
    schema.permitted(plan.changes.iter().map(|c| c.table))?;
    allowed(&plan, options)?;
    for change in &plan.changes {
        carry_out(db, schema, rows, change).await.map_err(|e| e.at(place(change.table, &change.key)))?;
    }
    db.raw("COMMIT").await.map_err(|e| Error {
        retry: false,
        message: format!(
            "{}; whether it was written is not known: run the same again, it writes only what is missing",
            e.message
        ),
        ..e
    })?;
    release(db).await;
    Ok(plan)
}

/// Refuses a plan that is not the saved one, or deletes more than it may. Asked before Asterisk is told of anything, and
/// again with the rows locked.
pub fn allowed(plan: &Plan, options: &Options) -> Result<()> {
    if let Some(expected) = &options.expected
        && (expected.state != plan.state || expected.changes != plan.changes)
    {
        return Err(Error::input(
            "the plan is stale: rows or manifest are not as they were when it was made; plan again",
        ));
    }
    let deleted = plan.deleted_objects();
    if deleted > options.max_deletes && !options.force {
        return Err(Error::input(format!(
            "{deleted} of {} trunks, extensions and queues would be deleted, more than {} at once; look at the plan, then \
use --force",
            plan.owned_objects, options.max_deletes
        )));
    }
    Ok(())
}

/// Begins the transaction with the lock held: the rows are read as the one before left them.
async fn lock(db: &mut Db) -> Result<()> {
    match db.engine() {
        Engine::PostgreSql => {
            db.raw("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
            db.raw(&format!("SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")).await?;
            db.texts(&format!("SELECT pg_advisory_xact_lock({LOCK})::text"), &[]).await.map_err(|e| {
                Error::database(format!(
                    "another provisioning run holds this database since {LOCK_SECONDS} s: {}",
                    e.message
                ))
            })?;
        }
        Engine::MySql => {
            // lock names are of the whole server
            let got = db
                .texts(
                    &format!("SELECT CAST(GET_LOCK(CONCAT('callferry ', MD5(DATABASE())), {LOCK_SECONDS}) AS CHAR)"),
                    &[],
                )
                .await?;
            if got.into_iter().flatten().flatten().next().as_deref() != Some("1") {
                return Err(Error::database(format!(
                    "another provisioning run holds this database since {LOCK_SECONDS} s"
                )));
            }
            db.raw("START TRANSACTION").await?;
        }
    }
    Ok(())
}

async fn release(db: &mut Db) {
    if db.engine() == Engine::MySql {
        let _ = db.texts("SELECT CAST(RELEASE_LOCK(CONCAT('callferry ', MD5(DATABASE()))) AS CHAR)", &[]).await;
    }
}

/// Two identify rows for one address send all its calls to one of them, silently: refused, whoever wrote the other.
async fn addresses(db: &mut Db, schema: &Schema, rows: &[Resolved], current: &Current) -> Result<()> {
    let wanted: Vec<&Resolved> = rows.iter().filter(|r| r.table == Table::Identifies).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "SELECT {}, {} FROM {}",
        schema.as_text(Table::Identifies, "id"),
        schema.as_text(Table::Identifies, "match"),
        schema.table(Table::Identifies)?.quoted
    );
    for stands in db.texts(&sql, &[]).await? {
        let [Some(id), Some(networks)] = stands.as_slice() else { continue };
        let known = current.rows.get(&(Table::Identifies, vec![id.clone()]));
        // ours that is not asked for goes, ours that is asked for is replaced
        if known.is_some_and(|r| r.ours) || wanted.iter().any(|w| w.key[0] == *id) {
            continue;
        }
        for row in &wanted {
            let own = row.cells.get("match").and_then(|c| c.text.clone()).unwrap_or_default();
            if let Some((a, _)) = own
                .split(',')
                .flat_map(|a| networks.split([',', ';']).map(move |b| (a, b.trim())))
                .find(|(a, b)| overlap(a, b))
            {
                return Err(Error::input(format!(
                    "the address {a} identifies {} already ({}); Asterisk would send every call to one of the two; \
register instead, or remove the other row",
                    id.escape_debug(),
                    networks.escape_debug()
                ))
                .at(place(Table::Identifies, &row.key)));
            }
        }
    }
    Ok(())
}

/// Two networks in CIDR notation (or single addresses) that share an address.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let network = |text: &str| -> Option<(u128, u32, bool)> {
        let (ip, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let ip: std::net::IpAddr = ip.parse().ok()?;
        let (value, width) = match ip {
            std::net::IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
            std::net::IpAddr::V6(v6) => (u128::from(v6), 128),
        };
        // Asterisk takes a dotted mask as well
        let bits = bits.map_or(Some(width), |b| {
            let dotted = || b.parse::<std::net::Ipv4Addr>().ok().map(|mask| u32::from(mask).leading_ones());
            b.parse().ok().or_else(dotted)
        });
        Some((value, bits?.min(width), ip.is_ipv4()))
    };
    match (network(a), network(b)) {
        (Some((a, a_bits, a4)), Some((b, b_bits, b4))) if a4 == b4 => {
            let bits = a_bits.min(b_bits);
            bits == 0 || (a ^ b) >> (128 - bits) == 0
        }
        (None, None) => a == b,
        _ => false,
    }
}

async fn carry_out(db: &mut Db, schema: &Schema, rows: &[Resolved], change: &Change) -> Result<()> {
    let table = change.table;
    let quoted = &schema.table(table)?.quoted;
    let row = || {
        rows.iter()
            .find(|r| r.table == table && r.key == change.key)
            .ok_or_else(|| Error::input("is planned and not asked for"))
    };
    let mut binds: Vec<Option<String>> = Vec::new();
    let key_condition = |binds: &mut Vec<Option<String>>| {
        let mut conditions = Vec::new();
        for (column, value) in table.key().iter().zip(&change.key) {
            binds.push(Some(value.clone()));
            conditions.push(format!("{} = {}", schema.quoted(table, column), schema.bind(table, column, binds.len())));
        }
        conditions.join(" AND ")
    };
    match change.action {
        Action::Create => {
            let row = row()?;
            let mut columns = Vec::new();
            let mut values = Vec::new();
            let keys = table.key().iter().copied().zip(row.key.iter().map(Some));
            let cells = row.cells.iter().map(|(c, s)| (*c, s.text.as_ref()));
            // a NULL is what a row begins with
            for (column, value) in keys.chain(cells).filter(|(_, v)| v.is_some()) {
                binds.push(value.cloned());
                columns.push(schema.quoted(table, column));
                values.push(schema.bind(table, column, binds.len()));
            }
            if let Some(uniqueid) = counted(db, schema, table).await? {
                binds.push(Some(uniqueid));
                columns.push(schema.quoted(table, "uniqueid"));
                values.push(schema.bind(table, "uniqueid", binds.len()));
            }
            let sql = format!("INSERT INTO {quoted} ({}) VALUES ({})", columns.join(", "), values.join(", "));
            db.execute(&sql, &binds).await?;
        }
        Action::Update => {
            let row = row()?;
            let mut sets = Vec::new();
            for field in &change.fields {
                let cell = row.cells.get(field.column.as_str());
                binds.push(cell.and_then(|c| c.text.clone()));
                sets.push(format!(
                    "{} = {}",
                    schema.quoted(table, &field.column),
                    schema.bind(table, &field.column, binds.len())
                ));
            }
            let condition = key_condition(&mut binds);
            let touched =
                db.execute(&format!("UPDATE {quoted} SET {} WHERE {condition}", sets.join(", ")), &binds).await?;
            if touched != 1 {
                return Err(Error::database(format!(
                    "{touched} rows took the change instead of one; nothing was written"
                )));
            }
        }
        Action::Delete => {
            let condition = key_condition(&mut binds);
            db.execute(&format!("DELETE FROM {quoted} WHERE {condition}"), &binds).await?;
        }
    }
    Ok(())
}

/// The next `queue_members.uniqueid` where the database does not count by itself (PostgreSQL's schema has no sequence).
async fn counted(db: &mut Db, schema: &Schema, table: Table) -> Result<Option<String>> {
    let needs = schema.column(table, "uniqueid").is_some_and(|c| !c.nullable && !c.has_default);
    if table != Table::QueueMembers || !needs {
        return Ok(None);
    }
    let quoted = &schema.table(table)?.quoted;
    if db.engine() == Engine::PostgreSql {
        db.raw(&format!("LOCK TABLE {quoted} IN SHARE ROW EXCLUSIVE MODE")).await?;
    }
    let column = schema.quoted(table, "uniqueid");
    let cast = if db.engine() == Engine::PostgreSql { "text" } else { "char" };
    let rows = db.texts(&format!("SELECT CAST(COALESCE(MAX({column}), 0) + 1 AS {cast}) FROM {quoted}"), &[]).await?;
    Ok(rows.into_iter().flatten().flatten().next())
}

/// No message of a server may carry a secret on.
fn scrubbed(mut error: Error, rows: &[Resolved]) -> Error {
    for row in rows {
        for (_, cell) in row.cells.iter().filter(|(c, _)| row.table.secret(c)) {
            if let Some(secret) = cell.text.as_deref().filter(|s| !s.is_empty()) {
                error.message = error.message.replace(secret, "***");
            }
        }
    }
    error
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn networks_that_share_an_address() {
        for (a, b, shared) in [
            ("203.0.113.4/32", "203.0.113.0/24", true),
            ("203.0.113.4/32", "203.0.113.0/255.255.255.0", true),
            ("203.0.114.4/32", "203.0.113.0/255.255.255.0", false),
            ("203.0.113.4", "0.0.0.0/0.0.0.0", true),
            ("203.0.113.4/32", "203.0.113.5", false),
            ("2001:db8::1/128", "2001:db8::/64", true),
            ("2001:db8::1/128", "203.0.113.0/24", false),
            ("203.0.113.4/32", "pbx.example.com", false),
            ("pbx.example.com", "pbx.example.com", true),
        ] {
            assert_eq!((overlap(a, b), overlap(b, a)), (shared, shared), "{a} {b}");
        }
    }
}
