//! Rows to plan to transaction: equal on both engines, all or nothing, one at a time, nothing that is not ours.

use std::collections::BTreeMap;

use callferry::config::DatabaseKind;
use callferry::provision::apply::{self, Desired, Options};
use callferry::provision::build;
use callferry::provision::current::Owner;
use callferry::provision::dialplan::Unmatched;
use callferry::provision::error::Kind;
use callferry::provision::model::{Destination, Extension, Member, Mode, Protocol, Queue, Secret, Trunk};
use callferry::provision::plan::{Action, Change};
use callferry::provision::schema::Schema;
use callferry::provision::table::{Row, Table};
use callferry::provision::value::Value;

use super::ara::{Ara, KINDS, VERSIONS, dsn};

pub fn trunk(host: &str, extension: &str, password: &str) -> Trunk {
    Trunk {
        id: callferry::provision::ident::trunk_id("cf", host, extension).unwrap(),
        host: host.to_owned(),
        port: None,
        extension: Some(extension.to_owned()),
        auth_id: "A".to_owned(),
        secret: Secret::Password(password.to_owned().into()),
        mode: Mode::Register,
        protocol: Protocol::Udp,
        transport: "transport-udp".to_owned(),
        outbound_proxy: None,
        codecs: vec!["alaw".to_owned(), "ulaw".to_owned()],
        strip_prefix: r"^\+39".to_owned(),
        add_prefix: String::new(),
        unmatched: Unmatched::Pass,
        from_number: Some("+393331112222".to_owned()),
        inbound: Destination::Stasis("dograh".to_owned()),
        dids: Vec::new(),
        tenant: None,
        media_encryption: None,
        dial_timeout: 60,
        expiration: 300,
        qualify_frequency: 60,
        nat: false,
    }
}

fn phone(number: &str, webrtc: bool) -> Extension {
    Extension {
        id: number.to_owned(),
        number: number.to_owned(),
        name: "Łucja; O'Hara ^41".to_owned(),
        secret: Secret::Password("pw;1".to_owned().into()),
        webrtc,
        transport: if webrtc { "transport-ws" } else { "transport-udp" }.to_owned(),
        context: "cf_internal".to_owned(),
        dialable: true,
        codecs: vec!["ulaw".to_owned()],
        mailbox: Some(format!("{number}@default")),
        call_group: None,
        pickup_group: None,
        tenant: Some("acme".to_owned()),
        dtls_cert_file: None,
        max_contacts: 1,
        ring_timeout: 30,
        adopt: false,
    }
}

fn queue(penalty: u32) -> Queue {
    Queue {
        id: "cf_support".to_owned(),
        number: Some(("cf_internal".to_owned(), "600".to_owned())),
        strategy: "linear".to_owned(),
        timeout: 30,
        ring_in_use: false,
        wrapup: 5,
        max_len: 0,
        join_empty: None,
        leave_when_empty: None,
        music: Some("default".to_owned()),
        announce: None,
        members: vec![Member { interface: "PJSIP/100".to_owned(), name: "Alice".to_owned(), penalty }],
    }
}

fn desired(trunks: &[Trunk], phones: &[Extension], queues: &[Queue]) -> Desired {
    let mut rows: Vec<Row> = Vec::new();
    for t in trunks {
        rows.extend(build::trunk_rows(t).unwrap());
    }
    for e in phones {
        rows.extend(build::extension_rows("cf", e).unwrap());
    }
    for q in queues {
        rows.extend(build::queue_rows(q).unwrap());
    }
    rows.extend(build::internal_rows(phones, queues, &[]).unwrap());
    Desired { owner: Owner::namespace("cf"), rows }
}

fn everything() -> Desired {
    desired(&[trunk("1156.3cx.cloud", "12611", "a;b^41 ")], &[phone("100", false), phone("101", true)], &[queue(1)])
}

/// Every stored cell of the rows asked for, decoded and with its yes and no in one word.
async fn decoded(ara: &Ara, desired: &Desired) -> BTreeMap<String, String> {
    let schema = ara.schema().await;
    let mut found = BTreeMap::new();
    for row in &desired.rows {
        let columns: Vec<&str> = row.cells.keys().copied().filter(|c| schema.column(row.table, c).is_some()).collect();
        let list: Vec<String> = columns.iter().map(|c| schema.as_text(row.table, c)).collect();
        let wheres: Vec<String> = row
            .table
            .key()
            .iter()
            .zip(&row.key)
            .map(|(c, k)| format!("{} = '{k}'", schema.quoted(row.table, c)))
            .collect();
        let sql = format!(
            "SELECT {} FROM {} WHERE {}",
            list.join(", "),
            schema.table(row.table).unwrap().quoted,
            wheres.join(" AND ")
        );
        let rows = ara.rows(&sql).await;
        assert_eq!(rows.len(), 1, "{}", row.place());
        for (column, text) in columns.iter().zip(&rows[0]) {
            let value = text.as_deref().map_or(Value::NULL, Value::decode).display();
            let value = if row.cells[column].flag {
                match value.as_str() {
                    "yes" | "true" | "1" | "on" => "yes",
                    "no" | "false" | "0" | "off" => "no",
                    other => panic!("{other}"),
                }
                .to_owned()
            } else {
                value.parse::<f64>().map_or(value, |n| n.to_string())
            };
            found.insert(format!("{}.{column}", row.place()), value);
        }
    }
    found
}

/// Conformance 1, 6 and 11: the rows of the set, in every schema, alike on both engines; the same again writes nothing.
#[tokio::test]
async fn every_schema_takes_the_rows_once() {
    for version in VERSIONS {
        let mut both = Vec::new();
        for kind in KINDS {
            let Some(ara) = Ara::new(kind, version).await else { return };
            let schema = ara.schema().await;
            let mut db = ara.connect().await;
            let wanted = everything();
            let preview = apply::preview(&mut db, &schema, &wanted).await.unwrap();
            let done = apply::apply(&mut db, &schema, &wanted, &Options::default()).await.unwrap();
            assert_eq!(preview.changes, done.changes, "{version} {kind:?}");
            assert_eq!(done.totals().add, wanted.rows.len(), "{version} {kind:?}");
            let again = apply::apply(&mut db, &schema, &wanted, &Options::default()).await.unwrap();
            assert!(again.is_empty(), "{version} {kind:?}: {}", again.render());
            both.push(decoded(&ara, &wanted).await);
            let password = ara.rows("SELECT password FROM ps_auths WHERE id = 'cf_1156_3cx_cloud_12611'").await;
            assert_eq!(password[0][0].as_deref(), Some("a^3Bb^5E41^20"));
            let auth =
                ara.rows("SELECT auth, outbound_auth FROM ps_endpoints WHERE id = 'cf_1156_3cx_cloud_12611'").await;
            assert_eq!(auth[0], [None, Some("cf_1156_3cx_cloud_12611".to_owned())]);
            let text = done.render();
            assert!(!text.contains("a;b^41") && text.contains("(sensitive)"), "{text}");
        }
        let [a, b] = both.as_slice() else { unreachable!() };
        assert_eq!(a, b, "{version}");
        assert_eq!(a["ps_endpoints 100.callerid"], "\"Łucja; O'Hara ^41\" <100>");
    }
}

/// Conformance 2: a changed password is one update of one column.
#[tokio::test]
async fn a_new_password_is_one_update() {
    for kind in KINDS {
        let Some(ara) = Ara::new(kind, "22").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        let first = desired(&[trunk("a.example.com", "1", "old")], &[], &[]);
        apply::apply(&mut db, &schema, &first, &Options::default()).await.unwrap();
        let second = desired(&[trunk("a.example.com", "1", "new")], &[], &[]);
        let plan = apply::apply(&mut db, &schema, &second, &Options::default()).await.unwrap();
        let [change] = plan.changes.as_slice() else { panic!("{}", plan.render()) };
        assert_eq!((change.action, change.table, change.fields.len()), (Action::Update, Table::Auths, 1));
        assert!(plan.render().contains("(sensitive, changed)") && !plan.render().contains("new\""));
    }
}

/// Conformance 3: a column that may be missing is left out with a warning, one that may not is named.
#[tokio::test]
async fn missing_columns() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "22").await else { return };
        ara.db.run("ALTER TABLE ps_registrations DROP COLUMN max_random_initial_delay").await;
        let wanted = desired(&[trunk("a.example.com", "1", "x")], &[], &[]);
        let plan = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap();
        assert_eq!(plan.warnings, ["ps_registrations has no column max_random_initial_delay: left out"]);
        ara.db.run("ALTER TABLE ps_registrations DROP COLUMN line").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert_eq!(error.kind, Kind::Schema);
        assert!(error.to_string().contains("ps_registrations") && error.to_string().contains("line"), "{error}");
        ara.db.run("DROP TABLE ps_registrations").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert_eq!(error.kind, Kind::Schema);
        assert!(error.to_string().contains("ps_registrations"), "{error}");
    }
}

/// Makes the server refuse one statement: set up, take away.
pub fn boom(kind: DatabaseKind, schema: &Schema, change: &Change) -> (String, String) {
    let table = change.table;
    let (op, row) = match change.action {
        Action::Create => ("INSERT", "NEW"),
        Action::Update => ("UPDATE", "NEW"),
        Action::Delete => ("DELETE", "OLD"),
    };
    let condition: Vec<String> = table
        .key()
        .iter()
        .zip(&change.key)
        .map(|(c, k)| format!("{row}.{} = '{k}'", schema.quoted(table, c)))
        .collect();
    let (condition, name) = (condition.join(" AND "), &schema.table(table).unwrap().quoted);
    if kind == DatabaseKind::MySql {
        let set = format!(
            "CREATE TRIGGER boom BEFORE {op} ON {name} FOR EACH ROW IF {condition} THEN \
             SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'boom'; END IF"
        );
        (set, "DROP TRIGGER boom".to_owned())
    } else {
        let set = format!(
            "CREATE OR REPLACE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN IF {condition} THEN RAISE EXCEPTION 'boom'; END IF; RETURN {row}; END $$; \
             CREATE TRIGGER boom BEFORE {op} ON {name} FOR EACH ROW EXECUTE FUNCTION boom()"
        );
        (set, format!("DROP TRIGGER boom ON {name}"))
    }
}

/// Conformance 4: whichever statement fails, nothing stays of the others, and the message names table, row and reason.
#[tokio::test]
async fn a_failure_at_any_statement_leaves_nothing() {
    let options = Options { force: true, ..Options::default() };
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "20").await else { return };
        let schema = ara.schema().await;
        let changed = desired(
            &[Trunk { protocol: Protocol::Tcp, ..trunk("1156.3cx.cloud", "12611", "new") }],
            &[Extension { name: "Eve".to_owned(), ..phone("100", false) }],
            &[queue(7)],
        );
        let mut statements = Vec::new();
        for wanted in [everything(), changed, desired(&[], &[], &[])] {
            let plan = apply::preview(&mut ara.connect().await, &schema, &wanted).await.unwrap();
            for change in &plan.changes {
                let (set, unset) = boom(kind, &schema, change);
                ara.db.run(&set).await;
                let error = apply::apply(&mut ara.connect().await, &schema, &wanted, &options).await.unwrap_err();
                ara.db.run(&unset).await;
                assert_eq!(error.kind, Kind::Database);
                let (text, table) = (error.to_string(), change.table.name());
                assert!(text.contains("boom") && text.contains(table) && text.contains(&change.key[0]), "{text}");
                // the rows are as they were: the same is still to do
                let left = apply::preview(&mut ara.connect().await, &schema, &wanted).await.unwrap();
                assert_eq!(left, plan, "{text}");
            }
            apply::apply(&mut ara.connect().await, &schema, &wanted, &options).await.unwrap();
            let totals = plan.totals();
            statements.push((totals.add, totals.change, totals.destroy));
        }
        assert!(ara.counts().await.values().all(|n| n == "0"));
        // every kind of statement has failed
        let [(add, ..), (_, change, destroy), (.., all)] = statements.as_slice() else { unreachable!() };
        assert!(*add >= 20 && *change >= 6 && *destroy >= 3 && *all >= 15, "{statements:?}");
    }
}

/// Another registration of the same number at the same host is told: the far end would see two.
#[tokio::test]
async fn a_number_registered_twice_is_told() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "22").await else { return };
        ara.db
            .run("INSERT INTO ps_registrations (id, client_uri) VALUES ('dograh_x\u{1b}[2J', 'sip:12611@1156.3cx.cloud')")
            .await;
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        let plan = apply::preview(&mut db, &schema, &everything()).await.unwrap();
        assert!(plan.warnings.iter().any(|w| w.contains(r"dograh_x\u{1b}[2J registers")), "{:?}", plan.warnings);
    }
}

/// Two at once: one writes, the other finds nothing left to do, or writes only what differs.
#[tokio::test]
async fn concurrent_applies_take_turns() {
    for kind in KINDS {
        let Some(ara) = Ara::new(kind, "22").await else { return };
        let schema = ara.schema().await;
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..6 {
            let (schema, mut db) = (schema.clone(), ara.connect().await);
            let wanted = if n % 2 == 0 { everything() } else { desired(&[trunk("b.example.com", "7", "x")], &[], &[]) };
            tasks.spawn(async move {
                let options = Options { force: true, ..Options::default() };
                apply::apply(&mut db, &schema, &wanted, &options).await.unwrap()
            });
        }
        tasks.join_all().await;
        // whoever came last, the rows are exactly one of the two
        let mut db = ara.connect().await;
        let first = apply::preview(&mut db, &schema, &everything()).await.unwrap();
        let second =
            apply::preview(&mut db, &schema, &desired(&[trunk("b.example.com", "7", "x")], &[], &[])).await.unwrap();
        assert!(first.is_empty() != second.is_empty(), "{}{}", first.render(), second.render());
        // the very same, at the same time: the rows are written once
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (schema, mut db) = (schema.clone(), ara.connect().await);
            let mut wanted = desired(&[trunk("c.example.com", "9", "x")], &[], &[]);
            wanted.owner = Owner::Trunk("cf_c_example_com_9".to_owned());
            tasks.spawn(async move { apply::apply(&mut db, &schema, &wanted, &Options::default()).await.unwrap() });
        }
        let plans = tasks.join_all().await;
        assert_eq!(plans.iter().filter(|p| !p.is_empty()).count(), 1);
    }
}

/// Conformance 5: what is too long is refused by name; ids are short enough by themselves.
#[tokio::test]
async fn limits_refuse_and_never_cut() {
    for kind in KINDS {
        let Some(ara) = Ara::new(kind, "22").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        let long = desired(&[trunk("mycompany-berlin.my3cx.de", "20001", "x")], &[], &[]);
        apply::apply(&mut db, &schema, &long, &Options::default()).await.unwrap();
        let host = format!("{}.example.com", "a".repeat(40));
        let error = apply::preview(&mut db, &schema, &desired(&[trunk(&host, "1", "x")], &[], &[])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Input);
        assert!(error.to_string().contains("from_domain takes 40 characters"), "{error}");
        let secret = "p".repeat(81);
        let error =
            apply::preview(&mut db, &schema, &desired(&[trunk("a.b", "1", &secret)], &[], &[])).await.unwrap_err();
        assert!(error.to_string().contains("password takes 80") && !error.to_string().contains("pppp"), "{error}");
        let error =
            apply::preview(&mut db, &schema, &desired(&[trunk("a.b", "1", "a\nb")], &[], &[])).await.unwrap_err();
        assert_eq!(error.kind, Kind::Input);
        // harmless wherever it goes
        let hostile = "'; DROP TABLE ps_auths; -- \" \\ ` ✓ &Local/9@x ${SHELL(id)} ?$1";
        apply::apply(
            &mut db,
            &schema,
            &desired(&[trunk("a.b", "1", hostile)], &[], &[]),
            &Options { force: true, ..Options::default() },
        )
        .await
        .unwrap();
        let stored = ara.rows("SELECT password FROM ps_auths WHERE id = 'cf_a_b_1'").await;
        assert_eq!(Value::decode(stored[0][0].as_deref().unwrap()), Value::one(hostile));
    }
}

/// Conformance 7 and 8: what is not ours, and what we do not manage, stays as it is.
#[tokio::test]
async fn unmanaged_rows_and_columns_survive() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "22").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        ara.db
            .run("INSERT INTO ps_endpoints (id, context) VALUES ('other', 'from-x'), ('cfx_1', 'y'), ('cfy', 'z')")
            .await;
        ara.db.run("INSERT INTO extensions (context, exten, priority, app, appdata) VALUES ('from-internal', '1', 1, 'NoOp', '')").await;
        apply::apply(&mut db, &schema, &everything(), &Options::default()).await.unwrap();
        ara.db.run("UPDATE queue_members SET paused = 1, reason_paused = 'lunch'").await;
        ara.db
            .run("UPDATE ps_endpoints SET moh_suggest = 'jazz', allow = 'g722' WHERE id = 'cf_1156_3cx_cloud_12611'")
            .await;
        let mut wanted = everything();
        wanted.rows = desired(
            &[trunk("1156.3cx.cloud", "12611", "a;b^41 ")],
            &[phone("100", false), phone("101", true)],
            &[queue(3)],
        )
        .rows;
        let plan = apply::apply(&mut db, &schema, &wanted, &Options::default()).await.unwrap();
        let text = plan.render();
        assert!(text.contains("\"g722\" -> \"alaw,ulaw\"") && text.contains("\"1\" -> \"3\""), "{text}");
        assert_eq!(plan.totals().change, 2, "{text}");
        let paused = ara
            .rows(if kind == DatabaseKind::MySql {
                "SELECT CAST(paused AS CHAR), reason_paused FROM queue_members"
            } else {
                "SELECT paused::text, reason_paused FROM queue_members"
            })
            .await;
        assert_eq!(paused, [[Some("1".to_owned()), Some("lunch".to_owned())]]);
        let kept = ara.rows("SELECT moh_suggest FROM ps_endpoints WHERE id = 'cf_1156_3cx_cloud_12611'").await;
        assert_eq!(kept[0][0].as_deref(), Some("jazz"));
        // all of ours goes, but not without force, and nothing else
        let nothing = desired(&[], &[], &[]);
        let options = Options { max_deletes: 2, ..Options::default() };
        let error = apply::apply(&mut db, &schema, &nothing, &options).await.unwrap_err();
        assert!(error.to_string().contains("--force"), "{error}");
        apply::apply(&mut db, &schema, &nothing, &Options { force: true, ..Options::default() }).await.unwrap();
        let left = ara.rows("SELECT id FROM ps_endpoints ORDER BY id").await;
        assert_eq!(left.into_iter().flatten().flatten().collect::<Vec<_>>(), ["cfx_1", "cfy", "other"]);
        let counts = ara.counts().await;
        assert_eq!(
            (counts["extensions"].as_str(), counts["queue_members"].as_str(), counts["ps_auths"].as_str()),
            ("1", "0", "0")
        );
    }
}

/// Rows that only have the name of a phone or a trunk of ours are somebody else's.
#[tokio::test]
async fn rows_of_the_same_name_survive() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "22").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        let matches = schema.quoted(Table::Identifies, "match");
        let id = "cft_a_1";
        ara.db
            .run(&format!(
                "INSERT INTO ps_endpoint_id_ips (id, endpoint, {matches}) VALUES ('100', '100', '198.51.100.1'); \
                 INSERT INTO ps_registrations (id, client_uri) VALUES ('101', 'sip:a@b'); \
                 INSERT INTO queues (name, strategy, timeout, ringinuse, wrapuptime, maxlen) VALUES ('{id}', 'linear', 20, 'no', 0, 0)"
            ))
            .await;
        let force = Options { force: true, ..Options::default() };
        let mut one = desired(&[Trunk { id: id.to_owned(), ..trunk("a", "1", "x") }], &[], &[]);
        one.owner = Owner::Trunk(id.to_owned());
        let none = Desired { rows: Vec::new(), ..one.clone() };
        let phones = desired(&[], &[phone("100", false), phone("101", true)], &[]);
        let no_phones = Desired { rows: Vec::new(), ..phones.clone() };
        for wanted in [one, none, phones.clone(), phones, no_phones] {
            apply::apply(&mut db, &schema, &wanted, &force).await.unwrap();
            let counts = ara.counts().await;
            let kept = ["ps_endpoint_id_ips", "queues"].map(|t| counts[t].as_str());
            assert_eq!(kept, ["1", "1"], "{:?}", wanted.owner);
            assert_eq!(ara.rows("SELECT id FROM ps_registrations WHERE id = '101'").await.len(), 1);
        }
    }
}

/// A phone that stands and is not ours is not touched unless asked to; its bindings go with it.
#[tokio::test]
async fn phones_of_others_are_refused_and_adopted() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "18").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        ara.db.run("INSERT INTO ps_endpoints (id, moh_suggest) VALUES ('100', 'jazz'); INSERT INTO ps_contacts (id, endpoint) VALUES ('100;@x', '100')").await;
        let error = apply::apply(&mut db, &schema, &desired(&[], &[phone("100", false)], &[]), &Options::default())
            .await
            .unwrap_err();
        assert!(error.kind == Kind::Input && error.to_string().contains("not ours"), "{error}");
        let adopted = Extension { adopt: true, ..phone("100", false) };
        apply::apply(&mut db, &schema, &desired(&[], &[adopted], &[]), &Options::default()).await.unwrap();
        // ours by its mark now
        let plan = apply::apply(&mut db, &schema, &desired(&[], &[phone("100", false)], &[]), &Options::default())
            .await
            .unwrap();
        assert!(plan.is_empty(), "{}", plan.render());
        apply::apply(&mut db, &schema, &desired(&[], &[], &[]), &Options::default()).await.unwrap();
        assert!(ara.rows("SELECT id FROM ps_endpoints").await.is_empty());
        assert!(ara.rows("SELECT id FROM ps_contacts").await.is_empty());
        assert!(ara.rows("SELECT id FROM ps_auths").await.is_empty());
    }
}

/// A saved plan is carried out as it was seen or not at all.
#[tokio::test]
async fn stale_plans_are_refused() {
    for kind in KINDS {
        let Some(mut ara) = Ara::new(kind, "22").await else { return };
        let (schema, mut db) = (ara.schema().await, ara.connect().await);
        apply::apply(&mut db, &schema, &everything(), &Options::default()).await.unwrap();
        let wanted = desired(
            &[trunk("1156.3cx.cloud", "12611", "new")],
            &[phone("100", false), phone("101", true)],
            &[queue(1)],
        );
        let seen = apply::preview(&mut db, &schema, &wanted).await.unwrap();
        ara.db.run("UPDATE ps_endpoints SET allow = 'g722' WHERE id = '100'").await;
        let options = Options { expected: Some(seen), ..Options::default() };
        let error = apply::apply(&mut db, &schema, &wanted, &options).await.unwrap_err();
        assert!(error.kind == Kind::Input && error.to_string().contains("stale"), "{error}");
        ara.db.run("UPDATE ps_endpoints SET allow = 'ulaw' WHERE id = '100'").await;
        apply::apply(&mut db, &schema, &wanted, &options).await.unwrap();
    }
}

/// Errors of the schema: a privilege, a sequence, an engine without transactions, a charset.
#[tokio::test]
async fn schema_problems_are_named() {
    let wanted = everything();
    if let Some(mut ara) = Ara::new(DatabaseKind::PostgreSql, "22").await {
        ara.db
            .run("CREATE ROLE prov LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO prov")
            .await;
        ara.dsn = dsn(&ara.db, "prov");
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert_eq!(error.kind, Kind::Schema);
        assert!(
            error.to_string().contains("USAGE on sequence") && error.to_string().contains("extensions_id_seq"),
            "{error}"
        );
        ara.db.run("GRANT USAGE ON SEQUENCE extensions_id_seq TO prov; REVOKE INSERT ON ps_auths FROM prov").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert!(error.to_string().contains("INSERT") && error.to_string().contains("ps_auths"), "{error}");
        ara.db.run("GRANT INSERT ON ps_auths TO prov").await;
        apply::apply(&mut ara.connect().await, &ara.schema().await, &wanted, &Options::default()).await.unwrap();
        // without rights on the bindings of phones they are left alone
        ara.db
            .run("REVOKE ALL ON ps_contacts FROM prov; INSERT INTO ps_contacts (id, endpoint) VALUES ('100;@x', '100')")
            .await;
        let all = Options { force: true, ..Options::default() };
        let nothing = desired(&[], &[], &[]);
        ara.db.run("REVOKE DELETE ON queues FROM prov").await;
        let error = apply::apply(&mut ara.connect().await, &ara.schema().await, &nothing, &all).await.unwrap_err();
        assert!(error.kind == Kind::Schema && error.to_string().contains("DELETE for table queues"), "{error}");
        ara.db.run("GRANT DELETE ON queues TO prov").await;
        apply::apply(&mut ara.connect().await, &ara.schema().await, &nothing, &all).await.unwrap();
        ara.db.run("DROP OWNED BY prov; DROP ROLE prov").await;
    }
    if let Some(mut ara) = Ara::new(DatabaseKind::MySql, "22").await {
        // every privilege of every table is looked at before a statement is tried, by role or directly
        let user = format!("prov{}", std::process::id());
        let name = ara.db.place.name.clone();
        ara.db.run(&format!("CREATE USER {user}@localhost; CREATE ROLE {user}_writer; GRANT {user}_writer TO {user}@localhost; SET DEFAULT ROLE {user}_writer FOR {user}@localhost")).await;
        for table in
            ["ps_auths", "ps_aors", "ps_endpoints", "ps_registrations", "queues", "queue_members", "extensions"]
        {
            ara.db.run(&format!("GRANT SELECT ON {name}.{table} TO {user}@localhost; GRANT INSERT, UPDATE ON {name}.{table} TO {user}_writer")).await;
        }
        let admin = std::mem::replace(&mut ara.dsn, dsn(&ara.db, &user));
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert_eq!(error.kind, Kind::Schema);
        for table in
            ["ps_auths", "ps_aors", "ps_endpoints", "ps_registrations", "queues", "queue_members", "extensions"]
        {
            assert!(error.to_string().contains(&format!("DELETE for table {table}")), "{error}");
        }
        assert!(!error.to_string().contains("INSERT"), "{error}");
        ara.db.run(&format!("GRANT DELETE ON {name}.* TO {user}_writer")).await;
        apply::apply(&mut ara.connect().await, &ara.schema().await, &wanted, &Options::default()).await.unwrap();
        ara.db.run(&format!("REVOKE INSERT ON {name}.queue_members FROM {user}_writer")).await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert!(error.to_string().contains("lacks INSERT for table queue_members;"), "{error}");
        ara.db.run(&format!("DROP USER {user}@localhost; DROP ROLE {user}_writer")).await;
        ara.dsn = admin;
        let all = Options { force: true, ..Options::default() };
        apply::apply(&mut ara.connect().await, &ara.schema().await, &desired(&[], &[], &[]), &all).await.unwrap();
        ara.db.run("ALTER TABLE ps_aors ENGINE=MyISAM").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert!(error.kind == Kind::Schema && error.to_string().contains("MyISAM"), "{error}");
        ara.db.run("ALTER TABLE ps_aors ENGINE=InnoDB; ALTER TABLE ps_endpoints CONVERT TO CHARACTER SET latin1").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert!(error.kind == Kind::Input && error.to_string().contains("latin1"), "{error}");
        ara.db.run("ALTER TABLE ps_endpoints CONVERT TO CHARACTER SET utf8mb4; INSERT INTO ps_endpoints (id) VALUES ('CF_1156_3cx_cloud_12611')").await;
        let error = apply::preview(&mut ara.connect().await, &ara.schema().await, &wanted).await.unwrap_err();
        assert!(error.to_string().contains("upper case"), "{error}");
    }
}
