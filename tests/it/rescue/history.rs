//! Calls compared with what became of them, and history read again: each kind of difference is named with its remedy, told
//! by the exit code, and mended by what is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use callferry::call::Timestamp;
use callferry::store::{Store, retention};
use rusqlite::Connection;
use serde_json::Value;

use super::letters::Site;
use crate::program::Ended;
use crate::ship::support::reply;

const CALLS: usize = 21;
/// Besides the webhook of the site.
const TWO_SINKS: [&str; 4] = ["--sinks", "webhook,file", "--file-path", "calls.ndjson"];
const FROM: [&str; 2] = ["--from", "2026-01-01"];

async fn run(site: &Site, command: &str, args: &[&[&str]]) -> Ended {
    let mut line = vec![command];
    line.extend(args.iter().copied().flatten());
    site.run(&line).await
}

/// Exit code, totals, and the differences by kind.
async fn reconciled(site: &Site, args: &[&str]) -> (i32, Value, BTreeMap<String, Vec<Value>>) {
    let ended = run(site, "reconcile", &[&FROM, &["--json"], args]).await;
    let mut lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let totals = lines.pop().unwrap_or_else(|| panic!("{}", ended.err))["totals"].clone();
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in lines {
        kinds.entry(line["difference"].as_str().unwrap().to_owned()).or_default().push(line);
    }
    (ended.code, totals, kinds)
}

fn ids(differences: Option<&Vec<Value>>) -> BTreeSet<String> {
    differences.into_iter().flatten().map(|d| d["id"].as_str().unwrap().to_owned()).collect()
}

fn pbx(site: &Site) -> Connection {
    Connection::open(site.program.dir().join("pbx.db")).unwrap()
}

fn state(site: &Site) -> Connection {
    Connection::open(site.program.dir().join("data/callferry.db")).unwrap()
}

fn in_file(site: &Site) -> Vec<String> {
    let text = std::fs::read_to_string(site.program.dir().join("calls.ndjson")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// The keys the webhook was sent, once for each time.
fn keys(site: &Site) -> Vec<String> {
    site.receiver.seen().iter().flat_map(|request| request.calls()).collect()
}

/// What the maintenance does in time, or when the budget is used up. No agent may run.
fn let_go(site: &Site) {
    let store = Store::open(&site.program.dir().join("data")).unwrap();
    let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
    store
        .write_blocking(move |conn| {
            retention::drop_dead(conn, 1_000)?;
            retention::Sweep::default().step(conn, now, now, 1_000)
        })
        .unwrap();
    store.close();
    let left: String = state(site)
        .query_row(
            "SELECT coalesce(group_concat(sink || ' ' || call_id || ' in ' || state), '') FROM delivery",
            [],
            |r| r.get(0),
        )
        .unwrap();
    assert_eq!(left, "", "all deliveries were let go");
}

/// The page without what pads its columns.
fn plain(page: &str) -> Vec<String> {
    page.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|l| !l.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sink_was_given_up_on_is_sent_there_again_and_nowhere_else() {
    let site = Site::with(&[3, 9, 15], "").await;
    assert_eq!(run(&site, "run", &[&["--once"], &TWO_SINKS]).await.code, 1, "three were refused");
    assert_eq!(in_file(&site).len(), CALLS);

    // dead letters are there to be retried: a backfill leaves them alone
    let (code, totals, kinds) = reconciled(&site, &TWO_SINKS).await;
    assert_eq!((code, &totals["sinks"]["webhook"]["dead"], kinds.len()), (3, &3.into(), 1), "{totals}");
    let dead = ids(kinds.get("dead"));
    let reason = kinds["dead"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("`callferry calls retry` sends it again: ") && reason.contains("422"), "{reason}");
    let sent = keys(&site).len();
    let left = run(&site, "backfill", &[&FROM, &TWO_SINKS]).await;
    assert!(left.code == 0 && left.out.contains("21 calls compared: 21 as they were shipped"), "{}", left.out);
    assert_eq!(keys(&site).len(), sent);

    // one is dropped by hand, the others to make room
    let by_hand = dead.first().unwrap().clone();
    assert_eq!(run(&site, "calls", &[&["drop", &by_hand]]).await.code, 0);
    let (_, totals, _) = reconciled(&site, &TWO_SINKS).await;
    assert_eq!((&totals["sinks"]["webhook"]["dead"], &totals["sinks"]["webhook"]["dropped"]), (&2.into(), &1.into()));
    let_go(&site);
    let page = run(&site, "reconcile", &[&FROM, &TWO_SINKS]).await;
    assert_eq!(page.code, 3, "{}", page.err);
    for id in &dead {
        let line = page.out.lines().find(|l| l.contains(id.as_str())).unwrap_or_default();
        assert!(line.ends_with("given up at webhook, and dropped: `callferry backfill` sends it there"), "{line}");
    }
    let told = plain(&page.out);
    let at = told.iter().position(|l| l.starts_with("calls that began 2026-01-01")).expect("the heading");
    assert_eq!(
        told[at + 1..],
        [
            "at the PBX 21",
            "shipped 21",
            "of 21 shipped",
            "sink acknowledged pending dead dropped not queued not known",
            "file 21 0 0 0 0 0",
            "webhook 18 0 0 3 0 0",
            "3 deliveries given up",
        ],
        "{}",
        page.out
    );

    site.receiver.answer_with(|_, _| reply(200));
    let dry = run(&site, "backfill", &[&FROM, &TWO_SINKS, &["--dry-run"]]).await;
    assert!(dry.out.contains("dry run: 3 calls would be shipped again to sinks that do not have them"), "{}", dry.out);
    assert_eq!(dry.out.lines().filter(|l| l.ends_with("missing at webhook")).count(), 3, "{}", dry.out);
    assert_eq!(keys(&site).len(), sent, "a dry run sends nothing");
    let mended = run(&site, "backfill", &[&FROM, &TWO_SINKS]).await;
    let told = "3 shipped again to sinks that did not have them, 18 as they were shipped";
    assert!(mended.code == 0 && mended.out.contains(told), "{}{}", mended.out, mended.err);
    let all = keys(&site);
    let (before, again) = all.split_at(sent);
    assert!(again.iter().all(|key| before.contains(key)), "under the keys they had: {again:?}");
    let of: BTreeSet<String> = again.iter().filter_map(|key| Some(key.split_once('/')?.0.to_owned())).collect();
    assert_eq!((of, again.len()), (dead, 3));
    assert_eq!(in_file(&site).len(), CALLS, "who has them gets nothing");

    let page = run(&site, "reconcile", &[&FROM, &TWO_SINKS]).await;
    assert_eq!((page.code, page.out.lines().last()), (0, Some("every call is accounted for")), "{}", page.out);
    run(&site, "backfill", &[&FROM, &TWO_SINKS]).await;
    let_go(&site);
    assert_eq!(reconciled(&site, &TWO_SINKS).await.1["sinks"]["webhook"]["acknowledged"], CALLS);
    assert_eq!((keys(&site).len(), in_file(&site).len()), (sent + 3, CALLS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_came_later_has_nothing_until_a_backfill_sends_it() {
    let site = Site::with(&[], "").await;
    assert_eq!(run(&site, "run", &[&["--once"]]).await.code, 0);
    let sent = keys(&site).len();
    for gone in [false, true] {
        let (code, totals, kinds) = reconciled(&site, &TWO_SINKS).await;
        assert_eq!((code, &totals["sinks"]["file"]["not_queued"]), (3, &CALLS.into()), "{gone} {totals}");
        assert_eq!(totals["sinks"]["webhook"]["acknowledged"], CALLS, "{gone}");
        let reason = kinds["not_queued"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("not queued for file") && reason.contains("`callferry backfill`"), "{reason}");
        assert_eq!(reconciled(&site, &[]).await.0, 0, "{gone}: for the sink there was, all is well");
        let_go(&site);
    }
    let page = run(&site, "reconcile", &[&FROM, &TWO_SINKS]).await;
    assert_eq!(page.out.lines().last(), Some("21 deliveries never queued"));

    let done = run(&site, "backfill", &[&FROM, &TWO_SINKS]).await;
    assert!(done.out.contains("21 shipped again to sinks that did not have them"), "{}{}", done.out, done.err);
    assert_eq!((keys(&site).len(), in_file(&site).len()), (sent, CALLS));
    let_go(&site);
    assert_eq!(reconciled(&site, &TWO_SINKS).await.0, 0);

    // let go by a version that wrote nothing down: that is not to have arrived
    state(&site).execute("UPDATE ledger SET delivered = NULL", []).unwrap();
    let (code, totals, kinds) = reconciled(&site, &[]).await;
    assert_eq!((code, &totals["sinks"]["webhook"]["not_known"]), (3, &CALLS.into()), "{totals}");
    assert!(kinds["not_known"][0]["reason"].as_str().unwrap().contains("backfill --resend"), "{kinds:?}");
    assert!(run(&site, "reconcile", &[&FROM]).await.out.ends_with("21 deliveries not known of\n"));
    run(&site, "backfill", &[&FROM]).await;
    assert_eq!(keys(&site).len(), sent, "what may be there is not sent unasked");
    run(&site, "backfill", &[&FROM, &["--resend"]]).await;
    assert_eq!(keys(&site).len(), sent + CALLS);
    assert_eq!(reconciled(&site, &[]).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_difference_is_named() {
    let mut site = Site::with(&[], "").await;
    let pbx = pbx(&site);
    let linkedids: Vec<String> = {
        // calls of one linkedid
        let mut all = pbx.prepare("SELECT linkedid FROM cdr GROUP BY 1 HAVING count(*) = 1 ORDER BY 1").unwrap();
        all.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let [missing, purged, pending] = [0, 1, 2].map(|n| linkedids[n].clone());
    // one is not there when the agent reads
    pbx.execute_batch(&format!(
        "CREATE TABLE held_cel AS SELECT * FROM cel WHERE linkedid = '{missing}';
         CREATE TABLE held_cdr AS SELECT * FROM cdr WHERE linkedid = '{missing}';
         DELETE FROM cel WHERE linkedid = '{missing}'; DELETE FROM cdr WHERE linkedid = '{missing}'"
    ))
    .unwrap();
    assert_eq!(run(&site, "run", &[&["--once"]]).await.code, 0);
    pbx.execute_batch("INSERT INTO cel SELECT * FROM held_cel; INSERT INTO cdr SELECT * FROM held_cdr").unwrap();
    // one is gone at the PBX, and a row is there that tells nothing
    pbx.execute_batch(&format!(
        "DELETE FROM cel WHERE linkedid = '{purged}'; DELETE FROM cdr WHERE linkedid = '{purged}';
         UPDATE cel SET uniqueid = '', linkedid = '' WHERE AcctId =
            (SELECT min(AcctId) FROM cel WHERE linkedid = '{missing}' AND eventtype = 'APP_START')"
    ))
    .unwrap();
    let id = |linkedid: &str| BTreeSet::from([format!("pbx:{linkedid}")]);
    let waits = "UPDATE delivery SET state = 0, last_error = 'it is away' WHERE call_id = ?1";
    state(&site).execute(waits, [format!("pbx:{pending}")]).unwrap();

    let (code, totals, kinds) = reconciled(&site, &[]).await;
    assert_eq!(code, 3);
    assert_eq!(ids(kinds.get("missing")), id(&missing), "{kinds:?}");
    assert_eq!(ids(kinds.get("not_at_the_pbx")), id(&purged), "{kinds:?}");
    assert_eq!(ids(kinds.get("pending")), id(&pending), "{kinds:?}");
    assert!(kinds["pending"][0]["reason"].as_str().unwrap().ends_with("waits for webhook: it is away"), "{kinds:?}");
    let row = kinds["unusable_row"][0]["reason"].as_str().unwrap();
    assert!(row.contains("of cel: it has neither uniqueid nor linkedid"), "{row}");
    assert_eq!((kinds.len(), kinds["unusable_row"].len()), (4, 1), "{kinds:?}");
    let figures = ["calls", "shipped", "missing", "not_at_the_pbx", "unusable_rows"].map(|name| totals[name].as_u64());
    assert_eq!(figures, [20, 19, 1, 1, 1].map(Some), "{totals}");
    assert_eq!(totals["sinks"]["webhook"]["acknowledged"], 19, "the one that is gone at the PBX counts: {totals}");
    let page = run(&site, "reconcile", &[&FROM]).await;
    assert_eq!(page.out.lines().last(), Some("1 call missing"));
    assert!(page.out.contains("shipped, and no longer at the PBX"), "{}", page.out);

    // what is missing is shipped, what was forgotten is neither missing nor gone
    let mended = run(&site, "backfill", &[&FROM]).await;
    assert!(mended.out.contains("20 calls compared: 1 shipped for the first time"), "{}{}", mended.out, mended.err);
    let page = run(&site, "reconcile", &[&FROM]).await;
    let verdict = "every call that can be read is accounted for; 1 row cannot";
    assert_eq!((page.code, page.out.lines().last()), (0, Some(verdict)), "{}", page.out);
    assert_eq!(run(&site, "forget", &[&["1001", "--yes"]]).await.code, 0);
    let (code, totals, kinds) = reconciled(&site, &[]).await;
    let forgotten = totals["forgotten"].as_u64().unwrap();
    assert!(code == 0 && forgotten > 0 && kinds["forgotten"].len() as u64 == forgotten, "{totals}");
    assert_eq!(ids(kinds.get("not_at_the_pbx")).len() as u64, totals["not_at_the_pbx"].as_u64().unwrap());
    assert!(totals["not_at_the_pbx"].as_u64() <= Some(1), "{totals}");
    site.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_chosen_and_one_that_was_set_right_is_sent_again() {
    let site = Site::with(&[], "").await;
    let by = |rules| ["--tenant-by-context", rules];
    let first = by("from-internal=inside,did-route=outside");
    assert_eq!(run(&site, "run", &[&["--once", "--start-from", "now"], &first]).await.code, 0);
    assert!(keys(&site).is_empty());
    let tenants = |site: &Site| -> BTreeMap<String, (String, i64)> {
        let calls = site.receiver.seen().iter().map(|r| r.json()).collect::<Vec<_>>();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        calls.iter().map(|c| (text(&c["id"]), (text(&c["tenant"]), c["revision"].as_i64().unwrap()))).collect()
    };

    let done = run(&site, "backfill", &[&FROM, &first, &["--tenant", "inside"]]).await;
    let inside = tenants(&site);
    assert!(done.code == 0 && !inside.is_empty() && inside.len() < CALLS, "{}{}", done.out, done.err);
    assert!(inside.values().all(|(tenant, _)| tenant == "inside"), "{inside:?}");
    assert!(done.out.contains(&format!("{0} calls compared: {0} shipped", inside.len())) && done.err.is_empty());

    // a name that nobody has
    for dry in [&["--dry-run"][..], &[]] {
        let none = run(&site, "backfill", &[&FROM, &first, &["--tenant", "insied"], dry]).await;
        assert!(none.code == 0 && none.out.contains("0 calls compared"), "{}", none.out);
        let told = "no call of the span is of the tenant \"insied\"; its calls are of \"inside\" and \"outside\"";
        assert!(none.err.contains(told), "{}", none.err);
    }

    // set right: what was told as of the old tenant is sent again as of the new one, and only that
    let right = by("from-internal=acme,did-route=outside");
    let resend = [&FROM[..], &right, &["--resend", "--tenant", "acme"]];
    let dry = run(&site, "backfill", &[&resend[..], &[&["--dry-run"]]].concat()).await;
    let n = inside.len();
    assert!(dry.out.contains(&format!("dry run: {n} calls would be shipped again to webhook")), "{}", dry.out);
    assert!(dry.out.contains(&format!("{n} calls compared: {n} would be shipped again")), "{}", dry.out);
    let done = run(&site, "backfill", &resend).await;
    assert!(done.out.contains(&format!("{n} calls compared: {n} shipped again")), "{}{}", done.out, done.err);
    let acme = tenants(&site);
    assert_eq!(acme.keys().collect::<Vec<_>>(), inside.keys().collect::<Vec<_>>());
    for (id, (tenant, revision)) in &acme {
        assert_eq!((tenant.as_str(), *revision), ("acme", inside[id].1 + 1), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_is_stopped_says_so() {
    let site = Site::with(&[], "").await;
    assert_eq!(run(&site, "run", &[&["--once", "--start-from", "now"]]).await.code, 0);
    let mut command = site.program.command(&["backfill", "--from", "2026-01-01", "--rate", "1"]);
    let job = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    site.receiver.wait_for(CALLS).await;
    let stopped = run(&site, "backfill", &[&["--stop"]]).await;
    assert!(stopped.code == 0 && stopped.out.contains("1 backfill stopped"), "{}{}", stopped.out, stopped.err);
    let ended = tokio::task::spawn_blocking(move || job.wait_with_output().unwrap()).await.unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    assert!(err.contains("the backfill was stopped by `callferry backfill --stop` before its end"), "{err}");
    assert!(!err.contains("refused"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_fails_is_told_once_and_the_backfill_goes_on_by_itself() {
    let site = Site::with(&[], "").await;
    assert_eq!(run(&site, "run", &[&["--once", "--start-from", "now"]]).await.code, 0);
    // what is written of its way fails, as on a full disk
    let broken = "CREATE TRIGGER broken BEFORE UPDATE ON request WHEN old.state = 'running'
                  BEGIN SELECT RAISE(ABORT, 'no room today'); END";
    state(&site).execute_batch(broken).unwrap();
    let log = site.program.dir().join("agent.log");
    let err = File::create(&log).unwrap();
    let mut agent =
        site.program.command(&["run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(err).spawn().unwrap();
    let mut command = site.program.command(&["backfill", "--from", "2026-01-01"]);
    let job = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    site.receiver.wait_for(CALLS).await;
    let lines = || -> Vec<String> {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter(|l| l.contains("no room today")).map(str::to_owned).collect()
    };
    // it tries again after 1, 2 and 4 s
    tokio::time::sleep(Duration::from_secs(5)).await;
    let told = lines();
    state(&site).execute_batch("DROP TRIGGER broken").unwrap();
    let ended = tokio::task::spawn_blocking(move || job.wait_with_output().unwrap()).await.unwrap();
    let _ = agent.kill();
    let _ = agent.wait();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("the backfill waits, since the state cannot be used"), "{told:?}");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    let out = String::from_utf8_lossy(&ended.stdout);
    assert!(out.contains("21 calls compared: 21 as they were shipped"), "what was shipped is found so: {out}");
    assert_eq!(keys(&site).len(), CALLS, "nothing went twice");
}
