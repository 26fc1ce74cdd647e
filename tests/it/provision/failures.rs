//! Whichever statement of whichever command fails, nothing of it stays, and the message says which it was.

use callferry::provision::plan::{Action, Change};
use serde_json::Value;

use super::ara::KINDS;
use super::engine::boom;
use super::program::{ADD, Bench};

const REMOVE: &[&str] = &["trunk", "remove", "cft_1156_3cx_cloud_12611"];
const APPLY: &[&str] = &["provision", "apply"];
const DESTROY: &[&str] = &["provision", "destroy", "--yes"];

/// The first statement of every kind and table: what a file asks for in many rows fails in each alike.
fn of_each_kind(changes: &[Change]) -> Vec<Change> {
    let mut seen = std::collections::BTreeSet::new();
    changes.iter().filter(|c| seen.insert((c.table, format!("{:?}", c.action)))).cloned().collect()
}

/// Changes of a plan printed as JSON, in the order they are carried out.
async fn planned(b: &Bench, args: &[&str]) -> Vec<Change> {
    let (_, text, err) = b.run(args).await;
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{err}"));
    serde_json::from_value(document["changes"].clone()).unwrap()
}

/// Lets every statement of a command fail in turn, then none.
async fn fails_everywhere(b: &mut Bench, command: &[&str], changes: &[Change]) {
    let schema = b.ara.schema().await;
    let kind = b.ara.db.place.kind;
    let before = b.ara.everything(&schema).await;
    for change in changes {
        let (set, unset) = boom(kind, &schema, change);
        b.ara.db.run(&set).await;
        let (code, text, err) = b.run(command).await;
        b.ara.db.run(&unset).await;
        assert_eq!(code, 6, "{command:?} {change:?}: {text}{err}");
        assert!(err.contains("boom") && err.contains(change.table.name()) && err.contains(&change.key[0]), "{err}");
        assert!(!text.contains("Written"), "{text}");
        assert_eq!(b.ara.everything(&schema).await, before, "{command:?} left something when {change:?} failed");
    }
    let (code, text, err) = b.run(command).await;
    assert_eq!(code, 0, "{text}{err}");
    assert_ne!(b.ara.everything(&schema).await, before);
}

#[tokio::test]
async fn a_failed_statement_of_any_command_leaves_nothing() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        std::fs::write(b.dir.path().join("pw"), "s3cret").unwrap();
        let add: Vec<&str> = ADD.iter().copied().chain(["--password-file", "pw"]).collect();
        let dry: Vec<&str> = add.iter().copied().chain(["--dry-run", "--json"]).collect();
        let added = planned(&b, &dry).await;
        assert!(added.len() >= 12 && added.iter().all(|c| c.action == Action::Create));
        fails_everywhere(&mut b, &add, &added).await;
        // the same trunk with other settings
        let add: Vec<&str> =
            add.iter().copied().chain(["--protocol", "tcp", "--auth-id", "X", "--dial-timeout", "5"]).collect();
        let dry: Vec<&str> = add.iter().copied().chain(["--dry-run", "--json"]).collect();
        let changed = planned(&b, &dry).await;
        assert!(changed.len() >= 5 && changed.iter().all(|c| c.action == Action::Update), "{changed:?}");
        fails_everywhere(&mut b, &add, &changed).await;
        let applied = planned(&b, &["provision", "plan", "--json"]).await;
        assert!(applied.len() > 25);
        fails_everywhere(&mut b, APPLY, &of_each_kind(&applied)).await;
        let gone = planned(&b, &["provision", "destroy", "--json"]).await;
        assert_eq!(gone.len(), applied.len());
        assert!(gone.iter().all(|c| c.action == Action::Delete));
        fails_everywhere(&mut b, DESTROY, &of_each_kind(&gone)).await;
        let removed: Vec<Change> =
            added.into_iter().rev().map(|c| Change { action: Action::Delete, fields: Vec::new(), ..c }).collect();
        fails_everywhere(&mut b, REMOVE, &removed).await;
        assert!(b.ara.counts().await.values().all(|n| n == "0"));
    }
}

/// Two of the program at once: one after the other, and both find what they asked for.
#[tokio::test]
async fn two_programs_take_turns() {
    for kind in KINDS {
        let Some(b) = Bench::new(kind, "22").await else { return };
        std::fs::write(b.dir.path().join("pw"), "s3cret").unwrap();
        let add: Vec<&str> = ADD.iter().copied().chain(["--password-file", "pw"]).collect();
        let runs = (0..3).flat_map(|_| [b.run(APPLY), b.run(&add)]);
        for (code, text, err) in futures_util::future::join_all(runs).await {
            assert_eq!(code, 0, "{text}{err}");
        }
        let (code, text, _) = b.run(&["provision", "plan", "--detailed-exitcode"]).await;
        assert!(code == 0 && text.contains("No changes"), "{text}");
        assert_eq!(b.ara.counts().await["ps_registrations"], "2");
    }
}
