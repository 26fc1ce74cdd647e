//! Recording files in real folders, the recordings table in a real database, a real HTTP receiver.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callferry::agent::recordings::{Finder, opener};
use callferry::call::Timestamp;
use callferry::config::{FilesConfig, UploadConfig};
use callferry::ship::Clock;
use callferry::ship::recordings::Uploader;
use secrecy::SecretString;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::program::Program;
use crate::settle::bench::{Bench, EPOCH, MUCH_LATER, call, ids, placed};
use crate::ship::support::{Receiver, options, reply};

fn files(root: &Path) -> FilesConfig {
    FilesConfig {
        roots: vec![root.to_owned()],
        extensions: ["wav", "wav49", "mp3", "gsm"].map(str::to_owned).to_vec(),
        min_size: 100,
        max_age: Duration::from_secs(86_400),
        checks: 2,
        check_interval: Duration::from_millis(10),
    }
}

fn now() -> Timestamp {
    Clock::system().now()
}

fn write(path: &Path, size: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'a'; size]).unwrap();
}

/// Looks until nothing is watched any more: first sight and two checks.
fn look(finder: &mut Finder) -> usize {
    (0..3).map(|_| finder.round(now()).expect("a round")).sum()
}

/// Today's folder, as FreePBX makes it.
fn today(root: &Path) -> PathBuf {
    root.join(chrono::Utc::now().format("%Y/%m/%d").to_string())
}

#[test]
fn a_file_in_todays_folder_makes_a_revision_of_its_call_when_it_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    let path = today(dir.path()).join(format!("internal-1002-1001-20261122-101010-{}.WAV", ids(1, 0).0));
    write(&path, 50);
    assert_eq!(look(&mut finder), 0, "too small");
    // half written: it grows between the checks
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    for _ in 0..4 {
        file.write_all(&[b'b'; 400]).unwrap();
        file.sync_all().unwrap();
        assert_eq!(finder.round(now()).unwrap(), 0);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 0);
    let kept: usize = (0..20)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(10));
            finder.round(now()).unwrap()
        })
        .sum();
    assert_eq!(kept, 1);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    let document = bench.documents().pop().unwrap().2;
    let recording = &document["recordings"][0];
    assert_eq!(
        (&recording["size"], &recording["format"], &recording["matched_by"]),
        (&json!(1_650), &json!("wav"), &json!("name"))
    );
    assert_eq!(recording["path"], fs::canonicalize(&path).unwrap().to_str().unwrap());
    // it is written on after all: told by the system, another revision
    file.write_all(&[b'c'; 1_000]).unwrap();
    drop(file);
    let mut kept = 0;
    for _ in 0..3_000 {
        std::thread::sleep(Duration::from_millis(20));
        kept += finder.round(now()).unwrap();
        if kept > 0 {
            break;
        }
    }
    assert_eq!(kept, 1);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    // a restart finds the file again and makes nothing of it
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    look(&mut finder);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 0);
    bench.assert_settled();
    assert_eq!(fs::read(&path).unwrap().len(), 2_650, "nothing is deleted");
}

#[test]
fn a_file_without_id_is_matched_by_numbers_and_time_to_the_only_call_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    // the bench's PBX shows Prague's time
    let began = chrono::DateTime::from_timestamp(EPOCH + 3, 0).unwrap().with_timezone(&chrono_tz::Europe::Prague);
    let fits = format!("{}-1001-1002.wav", began.format("%Y%m%d-%H%M%S"));
    let other_number = format!("{}-1001-1003.wav", began.format("%Y%m%d-%H%M%S"));
    let other_time = format!("{}-1001-1002.wav", (began + chrono::TimeDelta::hours(1)).format("%Y%m%d-%H%M%S"));
    for name in [&fits, &other_number, &other_time] {
        write(&dir.path().join(name), 4_000);
    }
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    assert_eq!(look(&mut finder), 1);
    assert_eq!(bench.read(Vec::new(), MUCH_LATER).revised, 1);
    let recordings = bench.documents().pop().unwrap().2["recordings"].clone();
    assert_eq!(recordings.as_array().unwrap().len(), 1);
    assert_eq!(recordings[0]["file"], fits);
    assert_eq!(recordings[0]["started_at"], Timestamp::from_secs(EPOCH + 3).to_string());
}

#[test]
fn links_that_lead_outside_are_not_followed() {
    let outside = tempfile::tempdir().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let name = format!("{}.wav", ids(1, 0).0);
    write(&outside.path().join(&name), 4_000);
    symlink(outside.path().join(&name), dir.path().join(&name)).unwrap();
    symlink(outside.path(), dir.path().join("day")).unwrap();
    fs::create_dir(dir.path().join("sub")).unwrap();
    symlink("../..", dir.path().join("sub/up")).unwrap();
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    assert_eq!(look(&mut finder), 0);
    assert_eq!(bench.count("SELECT count(*) FROM recording"), 0);
    let open = opener(vec![dir.path().to_owned()]);
    let root = fs::canonicalize(dir.path()).unwrap();
    for path in [root.join(&name), root.join("day").join(&name)] {
        assert!(open(path.to_str().unwrap()).unwrap().is_err(), "{}", path.display());
    }
    for path in [outside.path().join(&name), root.join("..").join(&name), "/etc/passwd".into()] {
        assert!(open(path.to_str().unwrap()).is_none(), "{}", path.display());
    }
}

#[test]
fn ten_thousand_files_are_found_once_and_old_folders_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let day = today(dir.path());
    fs::create_dir_all(&day).unwrap();
    for n in 0..10_000 {
        File::create(day.join(format!("out-1-2-{EPOCH}.{n}.wav"))).unwrap().write_all(&[0; 128]).unwrap();
    }
    write(&dir.path().join(format!("2020/01/01/{EPOCH}.77777.wav")), 4_000);
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    let begin = std::time::Instant::now();
    assert_eq!(look(&mut finder), 10_000);
    eprintln!("10,000 files found, checked twice and kept in {:?}", begin.elapsed());
    assert_eq!(look(&mut finder), 0);
    assert_eq!(bench.count("SELECT count(*) FROM recording"), 10_000);
    // the next day's folder
    write(&dir.path().join(format!("next/{EPOCH}.88888.wav")), 4_000);
    let mut kept = 0;
    for _ in 0..3_000 {
        std::thread::sleep(Duration::from_millis(20));
        kept += finder.round(now()).unwrap();
        if kept > 0 {
            break;
        }
    }
    // told by the system: long before the next scan
    assert_eq!(kept, 1);
}

fn upload_config(receiver: &Receiver) -> UploadConfig {
    UploadConfig {
        url: format!("http://{}/v1/mqs/recording", receiver.address),
        api_key: SecretString::from("sk_test".to_owned()),
        concurrency: 2,
        timeout: Duration::from_secs(20),
        allow_http: false,
    }
}

/// A shipped call with its recording of `size` bytes, and an uploader at work.
async fn uploading(dir: &Path, size: usize, receiver: &Receiver) -> (Bench, CancellationToken) {
    let path = dir.join(format!("{}.wav", ids(1, 0).0));
    write(&path, size);
    let root = dir.to_owned();
    let bench = tokio::task::spawn_blocking(move || {
        let mut bench = Bench::new();
        let mut finder = Finder::new(bench.store.clone(), files(&root));
        assert_eq!(look(&mut finder), 1);
        bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
        bench
    })
    .await
    .unwrap();
    let stop = CancellationToken::new();
    let uploader = Uploader::new(
        bench.store.clone(),
        &upload_config(receiver),
        &options().delivery,
        "pbx",
        Duration::from_secs(u32::MAX.into()),
        opener(vec![dir.to_owned()]),
        Clock::system(),
    )
    .unwrap();
    tokio::spawn(uploader.run(stop.clone()));
    (bench, stop)
}

async fn state_of_upload(bench: &Bench, wanted: i64) -> String {
    for _ in 0..1_500 {
        let found = bench
            .store
            .read(|c| {
                Ok(c.query_row("SELECT state, coalesce(last_error, '') FROM upload", [], |r| {
                    Ok((r.get::<_, i64>(0)?, r.get::<_, String>(1)?))
                })
                .ok())
            })
            .await
            .unwrap();
        match found {
            Some((state, error)) if state == wanted => return error,
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    panic!("the upload does not become {wanted}");
}

#[tokio::test]
async fn a_recording_is_sent_whole_until_202_and_then_never_again() {
    let dir = tempfile::tempdir().unwrap();
    // 200 does not count, nor does an error
    let receiver = Receiver::start(|_, n| reply([500, 200, 202][n.min(2)])).await;
    let (bench, stop) = uploading(dir.path(), 1_000_000, &receiver).await;
    state_of_upload(&bench, 1).await;
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    stop.cancel();
    let seen = receiver.seen();
    assert_eq!(seen.len(), 3);
    let key = seen[0].key();
    assert!(!key.is_empty() && seen.iter().all(|r| r.key() == key));
    for request in &seen {
        assert_eq!(request.header("authorization"), "Bearer sk_test");
        assert!(request.header("content-type").starts_with("multipart/form-data; boundary="));
        // its length is known beforehand: nothing was gathered, nothing is chunked
        assert_eq!(request.header("content-length"), request.body.len().to_string());
        let body = String::from_utf8_lossy(&request.body);
        let id = ids(1, 0).0;
        for (name, value) in [
            ("recording_id", key.as_str()),
            ("src_number", "1001"),
            ("dst_number", "1002"),
            ("call_id", &format!("pbx:{id}")),
            ("linkedid", &id),
        ] {
            let part = format!("name=\"{name}\"\r\n\r\n{value}\r\n");
            assert!(body.contains(&part), "{name}: {}", &body[..900]);
        }
        assert!(body.contains(&format!("name=\"audio\"; filename=\"{id}.wav\"")), "{}", &body[..900]);
        assert_eq!(request.body.iter().filter(|b| **b == b'a').count() / 1_000, 1_000);
        assert!(body.find("name=\"linkedid\"") < body.find("name=\"audio\""), "the file comes last");
    }
    assert_eq!(fs::metadata(dir.path().join(format!("{}.wav", ids(1, 0).0))).unwrap().len(), 1_000_000);
}

#[tokio::test]
async fn what_is_refused_is_given_up_and_what_is_the_apis_fault_waits() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_, _| reply(422).body("no such tenant")).await;
    let (bench, stop) = uploading(dir.path(), 4_000, &receiver).await;
    assert!(state_of_upload(&bench, 2).await.contains("no such tenant"));
    stop.cancel();
    assert_eq!(receiver.seen().len(), 1);

    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_, _| reply(401)).await;
    let (bench, stop) = uploading(dir.path(), 4_000, &receiver).await;
    receiver.wait_for(1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.cancel();
    assert_eq!(receiver.seen().len(), 1, "one try a minute");
    assert_eq!(bench.count("SELECT attempts FROM upload WHERE state = 0"), 0);
}

#[tokio::test]
async fn a_file_that_is_gone_or_led_elsewhere_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(|_, _| reply(503)).await;
    let (bench, stop) = uploading(dir.path(), 4_000, &receiver).await;
    receiver.wait_for(1).await;
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), vec![b's'; 4_000]).unwrap();
    let path = dir.path().join(format!("{}.wav", ids(1, 0).0));
    fs::rename(&path, dir.path().join("away")).unwrap();
    symlink(outside.path(), &path).unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(state_of_upload(&bench, 2).await, "the file is gone");
    stop.cancel();
    let secret = "s".repeat(100);
    assert!(!receiver.seen().iter().any(|r| String::from_utf8_lossy(&r.body).contains(&secret)));
}

/// The demo's calls in SQLite, with a recordings table when `table` says what it looks like.
fn program(table: Option<&str>, linkedid: &str) -> Program {
    let program = Program::new().env_file(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nSTART_FROM=all\nSINKS=file\nFILE_PATH=calls.ndjson\n\
         MONITORING_ENABLED=false\nDB_TABLE_RECORDINGS=call_recordings\n",
    );
    crate::running::database(&program.dir().join("pbx.db"));
    if let Some(columns) = table {
        let conn = rusqlite::Connection::open(program.dir().join("pbx.db")).unwrap();
        conn.execute_batch(&format!("CREATE TABLE call_recordings ({columns})")).unwrap();
        if columns.contains("linkedid") {
            let sql = "INSERT INTO call_recordings VALUES (?1, 'talk.wav', '/spool/2026', 4711, '2026-11-20 10:00:00')";
            conn.execute(sql, [linkedid]).unwrap();
        }
    }
    program
}

#[test]
fn the_recordings_table_is_read_when_a_call_is_composed() {
    let csv = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/demo/cdr.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let at = reader.headers().unwrap().iter().position(|h| h == "linkedid").unwrap();
    let linkedid = reader.records().next().unwrap().unwrap()[at].to_owned();

    let columns = "linkedid TEXT, filename TEXT, file_path TEXT, file_size INTEGER, created_at TEXT";
    let program_ = program(Some(columns), &linkedid);
    let ended = program_.run(&["run", "--once"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("CREATE INDEX"), "{}", ended.err);
    let calls = fs::read_to_string(program_.dir().join("calls.ndjson")).unwrap();
    let with: Vec<serde_json::Value> = calls
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap())
        .filter(|c| c["recordings"].as_array().unwrap().iter().any(|r| r["matched_by"] == "db"))
        .collect();
    assert_eq!(with.len(), 1);
    assert!(with[0]["linkedids"].as_array().unwrap().contains(&json!(linkedid)));
    assert_eq!(calls.lines().count(), 21, "no call was sent twice");
    assert_eq!(with[0]["recordings"][0]["path"], "/spool/2026/talk.wav");

    // absent, or something else: the start ends, and says why
    for (table, words) in [(None, "call_recordings"), (Some("id INTEGER, filename TEXT"), "no column linkedid")] {
        let ended = program(table, &linkedid).run(&["run", "--once"]);
        assert_eq!(ended.code, 1, "{}", ended.err);
        assert!(ended.err.contains(words) && ended.err.contains("DB_TABLE_RECORDINGS"), "{}", ended.err);
    }
    let ended = program(None, &linkedid).env("DB_TABLE_RECORDINGS", "x; DROP TABLE cdr").run(&["run", "--once"]);
    ended.refused(2, &["DB_TABLE_RECORDINGS", "not a table name"]);
}
