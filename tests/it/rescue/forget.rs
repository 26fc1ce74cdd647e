//! A caller is forgotten: nothing of the number is left in the state's bytes, and nothing brings the calls back.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::letters::Site;
use crate::ship::support::reply;

/// The demo's callers from outside.
fn numbers(site: &Site) -> Vec<String> {
    let conn = Connection::open(site.program.dir().join("pbx.db")).unwrap();
    let mut statement =
        conn.prepare("SELECT cidnum, count(*) FROM cel WHERE cidnum LIKE '+420%' GROUP BY 1 ORDER BY 2 DESC").unwrap();
    statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

/// How often the bytes stand anywhere in the state directory.
fn found(dir: &Path, needle: &str) -> Vec<String> {
    let mut hits = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let n = bytes.windows(needle.len()).filter(|w| *w == needle.as_bytes()).count();
        if n > 0 {
            hits.push(format!("{} × in {}", n, path.display()));
        }
    }
    hits
}

fn count(site: &Site, sql: &str) -> i64 {
    let conn = Connection::open(site.program.dir().join("data/callferry.db")).unwrap();
    conn.query_row(sql, [], |r| r.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_forgotten_beside_the_agent_and_stays_so() {
    let mut site = Site::with(&[], "COUNTRY_CODE=420\nDB_PAGE_SIZE=500\n").await;
    let number = numbers(&site).first().expect("a caller from outside").clone();
    let bare = number.trim_start_matches("+420").to_owned();
    // the receiver echoes what it refuses, so that the number stands in errors too
    let refused = number.clone();
    site.receiver.answer_with(move |request, _| {
        let text = String::from_utf8_lossy(&request.body).into_owned();
        if text.contains(&refused) { reply(422).body(format!("from {refused} is wrong")) } else { reply(200) }
    });
    site.start();
    site.wait_for("all calls at the receiver", async |s| s.receiver.seen().len() >= 21).await;
    let dir = site.program.dir().join("data");
    assert!(!found(&dir, &bare).is_empty(), "the number is there before");
    let calls_before = count(&site, "SELECT count(*) FROM ledger");

    let spaced = format!("00 420 {} {}", &bare[..3], &bare[3..]);
    let forgotten = site.run(&["forget", &spaced]).await;
    assert_eq!((forgotten.code, forgotten.err.as_str()), (0, ""), "{}", forgotten.out);
    assert!(forgotten.out.starts_with("removed: ") && forgotten.out.contains("dead letter"), "{}", forgotten.out);
    assert!(forgotten.out.contains("receivers have (webhook)"), "{}", forgotten.out);
    assert!(!forgotten.out.contains(&bare), "{}", forgotten.out);
    assert_eq!(found(&dir, &bare), Vec::<String>::new());
    let calls_after = count(&site, "SELECT count(*) FROM ledger");
    assert!(calls_after < calls_before && calls_after > 0, "{calls_before} → {calls_after}");

    // late rows of a forgotten call, and history read again
    let pbx = Connection::open(site.program.dir().join("pbx.db")).unwrap();
    let late = format!(
        "INSERT INTO cdr SELECT NULL, {columns} FROM cdr WHERE src = '{number}' LIMIT 1",
        columns = columns(&pbx, "cdr")
    );
    pbx.execute(&late, []).unwrap();
    let seen = site.receiver.seen().len();
    tokio::time::sleep(Duration::from_secs(7)).await;
    let again = site.run(&["backfill", "--from", "2026-01-01"]).await;
    assert_eq!(again.code, 0, "{}{}", again.out, again.err);
    assert!(again.out.contains("forgotten on request"), "{}", again.out);
    assert_eq!(count(&site, "SELECT count(*) FROM ledger"), calls_after);
    assert_eq!(site.receiver.seen().len(), seen, "nothing was sent again");
    assert_eq!(found(&dir, &bare), Vec::<String>::new());

    // without the agent: another one, and one that nobody knows
    site.stop();
    let other = numbers(&site).get(1).expect("another caller").clone();
    let other_bare = other.trim_start_matches("+420").to_owned();
    assert!(!found(&dir, &other_bare).is_empty());
    assert_eq!(site.run(&["forget", other.trim_start_matches('+')]).await.code, 0);
    assert_eq!(found(&dir, &other_bare), Vec::<String>::new());
    let nobody = site.run(&["forget", "+420999888777"]).await;
    assert!(nobody.code == 0 && nobody.out.starts_with("nothing in the state names it"), "{}", nobody.out);
    assert_eq!(site.run(&["run", "--once"]).await.code, 0);
    assert_eq!(found(&dir, &bare), Vec::<String>::new());
    assert_eq!(found(&dir, &other_bare), Vec::<String>::new());
}

fn columns(conn: &Connection, table: &str) -> String {
    let mut statement =
        conn.prepare(&format!("SELECT name FROM pragma_table_info('{table}') WHERE name <> 'AcctId'")).unwrap();
    let names: Vec<String> = statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect();
    names.iter().map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(",")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_number_is_refused_and_an_extension_has_to_be_meant() {
    let site = Site::with(&[], "COUNTRY_CODE=420\n").await;
    site.run(&["forget", "+420777000111"]).await.refused(1, &["there is no state"]);
    assert_eq!(site.run(&["run", "--once"]).await.code, 0);
    for wrong in ["%", "", "12", "777%", "' OR 1=1 --", "777\n000\u{1b}"] {
        let ended = site.run(&["forget", wrong]).await;
        ended.refused(2, &["is no number"]);
        assert!(!ended.err.contains('\u{1b}'));
    }
    site.run(&["forget", "1001"]).await.refused(2, &["--yes"]);
    let before = count(&site, "SELECT count(*) FROM ledger");
    let began = Instant::now();
    assert_eq!(site.run(&["forget", "1001", "--yes"]).await.code, 0);
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(count(&site, "SELECT count(*) FROM ledger") < before);
    let output = site.program.command(&["calls", "list"]).stdin(Stdio::null()).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains(" 1001 "));
}
