//! The SQL that docs/receivers.md gives, taken from the page and run on real servers: whatever comes twice, late or in
//! another order, the newest revision stays, and what is counted is right.

use callferry::config::DatabaseKind;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};

use crate::support::{mariadb, postgres};

const PAGE: &str = include_str!("../../../docs/receivers.md");

/// The statements of the page's block under a heading.
fn statements(heading: &str) -> Vec<String> {
    let part = PAGE.split(&format!("\n## {heading}\n")).nth(1).expect(heading);
    let block = part.split("```sql\n").nth(1).and_then(|b| b.split("```").next()).expect("a block of SQL");
    block.split(";\n").map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect()
}

fn call(id: &str, revision: i64, state: &str, outcome: Option<&str>, talk: Option<f64>) -> Value {
    json!({
        "schema": "callferry.call/1", "id": id, "revision": revision, "state": state, "direction": "inbound",
        "outcome": outcome, "talk_s": talk, "started_at": "2026-11-20T22:26:44.553666Z",
        "from": {"number": "+420602000001", "name": "Zoë O'Hara \\ \"x\" 🐎 null"}
    })
}

fn tombstone(id: &str, revision: i64, into: &str) -> Value {
    json!({"schema": "callferry.call/1", "id": id, "revision": revision, "state": "merged", "merged_into": into})
}

/// What comes in, in this order.
fn arrivals() -> Vec<Value> {
    vec![
        call("pbx:1.1", 1, "in_progress", None, None),
        call("pbx:1.1", 3, "completed", Some("answered"), Some(12.345)),
        // late, and twice
        call("pbx:1.1", 2, "in_progress", None, None),
        call("pbx:1.1", 3, "completed", Some("abandoned"), Some(99.0)),
        call("pbx:2.1", 1_795_000_000, "completed", Some("answered"), Some(2.5)),
        call("pbx:2.1", 1, "completed", Some("failed"), None),
        call("pbx:3.1", 1, "completed", Some("abandoned"), None),
        // a part of the first after all; its late revision does not bring it back
        tombstone("pbx:3.1", 2, "pbx:1.1"),
        call("pbx:3.1", 1, "completed", Some("abandoned"), None),
        call("pbx:4.1", 1, "in_progress", None, None),
        // differs by its case only
        call("PBX:1.1", 1, "completed", Some("voicemail"), Some(0.0)),
    ]
}

/// `(direction, outcome, calls, talk)`.
fn expected() -> Vec<(String, String, i64, String)> {
    let row = |outcome: &str, n, talk: &str| ("inbound".to_owned(), outcome.to_owned(), n, talk.to_owned());
    vec![row("answered", 2, "14.845"), row("voicemail", 1, "0")]
}

fn trimmed(number: &str) -> String {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.').to_owned() } else { number.to_owned() }
}

/// Every rotation of the order, so that each document comes first once.
fn orders() -> Vec<Vec<Value>> {
    let all = arrivals();
    // of one revision the first one stays: only where both are alike any order is the same
    let alike = |n: usize| {
        let mut rotated = all.clone();
        rotated.retain(|d| !(d["id"] == "pbx:1.1" && d["outcome"] == "abandoned"));
        let by = n % rotated.len();
        rotated.rotate_left(by);
        rotated
    };
    std::iter::once(all.clone()).chain((0..all.len()).map(alike)).collect()
}

#[tokio::test]
async fn postgresql_as_the_page_says() {
    let Some(mut database) = postgres::database().await else { return };
    let page = statements("PostgreSQL");
    let [create, insert] = page.as_slice() else { panic!("{page:#?}") };
    let counting = statements("Counting").remove(0);
    let batch = insert.replace("SELECT $1::jsonb AS d", "SELECT jsonb_array_elements($1::jsonb) AS d");
    assert!(PAGE.contains("`SELECT jsonb_array_elements($1::jsonb) AS d`") && &batch != insert);
    let c: &mut PgConnection = database.pg();
    c.execute(AssertSqlSafe(create.as_str())).await.expect("create");
    for (n, order) in orders().into_iter().enumerate() {
        c.execute("TRUNCATE calls").await.expect("empty");
        if n % 2 == 0 {
            for document in &order {
                sqlx::query(AssertSqlSafe(insert.as_str()))
                    .bind(document.to_string())
                    .execute(&mut *c)
                    .await
                    .expect("upsert");
            }
        } else {
            // one revision of a call in a batch, as they come
            for half in order.chunks(1) {
                let array = Value::from(half.to_vec()).to_string();
                sqlx::query(AssertSqlSafe(batch.as_str())).bind(array).execute(&mut *c).await.expect("batch");
            }
        }
        let counted =
            format!("SELECT direction, outcome, calls, talk_s::text FROM ({}) AS c", counting.trim_end_matches(';'));
        let rows = sqlx::query(AssertSqlSafe(counted.as_str())).fetch_all(&mut *c).await.expect("count");
        let rows: Vec<_> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), trimmed(r.get::<&str, _>(3)))).collect();
        assert_eq!(rows, expected(), "order {n}");
        let (revision, merged, name): (i64, Option<String>, String) = sqlx::query_as(
            "SELECT revision, (SELECT merged_into FROM calls WHERE id = 'pbx:3.1'), doc->'from'->>'name' FROM calls
              WHERE id = 'pbx:1.1' AND started_at = '2026-11-20 22:26:44.553666+00'",
        )
        .fetch_one(&mut *c)
        .await
        .expect("the call");
        assert_eq!((revision, merged.as_deref()), (3, Some("pbx:1.1")));
        assert_eq!(name, "Zoë O'Hara \\ \"x\" 🐎 null");
    }
    // three calls in one array
    let three: Vec<Value> =
        (10..13).map(|n| call(&format!("pbx:{n}.1"), 1, "completed", Some("answered"), None)).collect();
    sqlx::query(AssertSqlSafe(batch.as_str()))
        .bind(Value::from(three).to_string())
        .execute(&mut *c)
        .await
        .expect("batch");
    let n: i64 = sqlx::query_scalar("SELECT count(*) FROM calls").fetch_one(&mut *c).await.expect("count");
    assert_eq!(n, 8);
    assert_eq!(database.place.kind, DatabaseKind::PostgreSql);
}

#[tokio::test]
async fn mariadb_as_the_page_says() {
    let Some(mut database) = mariadb::database().await else { return };
    let page = statements("MySQL and MariaDB");
    let [create, insert] = page.as_slice() else { panic!("{page:#?}") };
    let counting = statements("Counting").remove(0);
    let c: &mut MySqlConnection = database.my();
    c.execute(AssertSqlSafe(create.as_str())).await.expect("create");
    for (n, order) in orders().into_iter().enumerate() {
        c.execute("TRUNCATE calls").await.expect("empty");
        let mut transaction = c.begin().await.expect("transaction");
        for document in &order {
            let query = sqlx::query(AssertSqlSafe(insert.as_str())).bind(document.to_string());
            query.execute(&mut *transaction).await.expect("upsert");
        }
        transaction.commit().await.expect("commit");
        let counted = format!(
            "SELECT direction, outcome, calls, CAST(talk_s AS CHAR) FROM ({}) AS c",
            counting.trim_end_matches(';')
        );
        let rows = sqlx::query(AssertSqlSafe(counted.as_str())).fetch_all(&mut *c).await.expect("count");
        let rows: Vec<_> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), trimmed(r.get::<&str, _>(3)))).collect();
        assert_eq!(rows, expected(), "order {n}");
        let (revision, merged, name): (i64, Option<String>, String) = sqlx::query_as(
            "SELECT revision, (SELECT merged_into FROM calls WHERE id = 'pbx:3.1'), json_value(doc, '$.from.name')
               FROM calls WHERE id = 'pbx:1.1' AND started_at = '2026-11-20 22:26:44.553666'",
        )
        .fetch_one(&mut *c)
        .await
        .expect("the call");
        assert_eq!((revision, merged.as_deref()), (3, Some("pbx:1.1")));
        assert_eq!(name, "Zoë O'Hara \\ \"x\" 🐎 null");
    }
    assert_eq!(database.place.kind, DatabaseKind::MySql);
}
