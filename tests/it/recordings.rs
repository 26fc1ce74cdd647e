//! Recording files in real folders, the recordings table in a real database, a real HTTP receiver.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use callferry::agent::recordings::{Finder, opener};
use callferry::call::Timestamp;
use callferry::config::FilesConfig;
use callferry::ship::Clock;
use serde_json::json;

use crate::program::Program;
use crate::settle::bench::{Bench, EPOCH, MUCH_LATER, call, ids, placed};

pub fn files(root: &Path) -> FilesConfig {
    FilesConfig {
        roots: vec![root.to_owned()],
        extensions: ["wav", "wav49", "mp3", "gsm"].map(str::to_owned).to_vec(),
        min_size: 100,
        max_age: Duration::from_secs(86_400),
        checks: 2,
        check_interval: Duration::from_millis(10),
    }
}

pub fn now() -> Timestamp {
    Clock::system().now()
}

pub fn write(path: &Path, size: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'a'; size]).unwrap();
}

/// Looks until nothing is watched any more: first sight and two checks.
pub fn look(finder: &mut Finder) -> usize {
    (0..3).map(|_| finder.round(now()).expect("a round")).sum()
}

/// Today's folder, as FreePBX makes it.
pub fn today(root: &Path) -> PathBuf {
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
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(20));
        kept += finder.round(now()).unwrap();
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
}

#[test]
fn the_next_days_folder_is_told_by_the_system() {
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    assert_eq!(look(&mut finder), 0);
    let begin = std::time::Instant::now();
    write(&dir.path().join(format!("next/{EPOCH}.88888.wav")), 4_000);
    let mut kept = 0;
    while kept == 0 {
        std::thread::sleep(Duration::from_millis(20));
        kept += finder.round(now()).unwrap();
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(kept, 1);
}

#[test]
fn whatever_lies_in_the_folder_only_complete_files_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let id = ids(1, 0).0;
    let at = |name: &str| dir.path().join(format!("{name}-{id}.wav"));
    fs::create_dir(at("folder")).unwrap();
    let pipe = at("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    symlink("/dev/zero", at("device")).unwrap();
    File::create(at("empty")).unwrap();
    write(&at("vanishes"), 4_000);
    let odd = [dir.path().as_os_str().as_encoded_bytes(), b"/odd-\xff\xfe-", id.as_bytes(), b".wav"].concat();
    let odd: PathBuf = <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(odd).into();
    write(&odd, 4_000);
    write(&dir.path().join(format!("line\nbreak-{id}.wav")), 4_000);
    write(&at("good"), 4_000);
    let mut config = files(dir.path());
    config.min_size = 0;
    let mut finder = Finder::new(bench.store.clone(), config);
    assert_eq!(finder.round(now()).unwrap(), 0);
    fs::remove_file(at("vanishes")).unwrap();
    assert_eq!(look(&mut finder), 1);
    bench.read(Vec::new(), MUCH_LATER);
    let recordings = bench.documents().pop().unwrap().2["recordings"].clone();
    assert_eq!(recordings.as_array().unwrap().len(), 1);
    assert_eq!(recordings[0]["file"], format!("good-{id}.wav"));
    let open = opener(vec![dir.path().to_owned()]);
    let root = fs::canonicalize(dir.path()).unwrap();
    for name in ["folder", "pipe", "socket", "device"] {
        let path = root.join(at(name).file_name().unwrap());
        assert!(open(path.to_str().unwrap()).unwrap().is_err(), "{name}");
    }
}

#[test]
fn what_a_record_names_is_told_and_never_opened() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret.wav");
    write(&secret, 4_000);
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut bench = Bench::new();
    let rows = call(1, 0, 30).into_iter().map(|row| match row {
        callferry::call::Row::Cdr(r) => callferry::call::Row::Cdr(
            callferry::call::CdrRow {
                recordingfile: root.join("../secret.wav").to_str().unwrap().into(),
                ..callferry::call::CdrRow::clone(&r)
            }
            .into(),
        ),
        other => other,
    });
    bench.read(placed(rows, 1), MUCH_LATER);
    let document = bench.documents().pop().unwrap().2;
    assert_eq!(document["recordings"][0]["matched_by"], "cdr");
    let mut finder = Finder::new(bench.store.clone(), files(&root));
    assert_eq!(look(&mut finder), 0);
    assert_eq!(bench.count("SELECT count(*) FROM recording"), 0, "nothing of it can be sent");
    let path = document["recordings"][0]["path"].as_str().unwrap().to_owned();
    assert!(path.contains(".."), "{path}");
    assert!(opener(vec![root])(&path).is_none());
}

#[test]
fn a_recording_of_a_call_kept_back_goes_to_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = crate::settle::bench::setup();
    setup.frame.rules.filters.min_duration_ms = Some(10_000);
    let mut bench = Bench::with(setup, 1_000);
    // at the same time, between the same: one is kept back
    let mut rows = call(1, 0, 5);
    rows.extend(call(2, 1, 30));
    bench.read(placed(rows, 1), MUCH_LATER);
    let began = chrono::DateTime::from_timestamp(EPOCH + 1, 0).unwrap().with_timezone(&chrono_tz::Europe::Prague);
    write(&dir.path().join(format!("{}-1001-1002.wav", began.format("%Y%m%d-%H%M%S"))), 4_000);
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    assert_eq!(look(&mut finder), 0);
}

#[test]
fn a_state_that_cannot_be_written_loses_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = Bench::new();
    let began = chrono::DateTime::from_timestamp(EPOCH + 3, 0).unwrap().with_timezone(&chrono_tz::Europe::Prague);
    let by_number = format!("{}-1001-1002.wav", began.format("%Y%m%d-%H%M%S"));
    write(&dir.path().join(&by_number), 4_000);
    let mut finder = Finder::new(bench.store.clone(), files(dir.path()));
    assert_eq!(look(&mut finder), 0, "its call is not known yet");
    write(&dir.path().join(format!("{}.wav", ids(1, 0).0)), 4_000);
    bench.read(placed(call(1, 0, 30), 1), MUCH_LATER);
    let limit = |pages: i64| {
        bench
            .store
            .write_blocking(move |c| {
                c.execute_batch(if pages > 0 {
                    "CREATE TRIGGER full BEFORE INSERT ON recording BEGIN SELECT raise(ABORT, 'disk full'); END"
                } else {
                    "DROP TRIGGER full"
                })?;
                Ok(())
            })
            .unwrap();
    };
    limit(1);
    let later = |s: i64| now().plus_micros(s * 1_000_000);
    let mut failed = 0;
    for n in 0..60 {
        std::thread::sleep(Duration::from_millis(20));
        failed += usize::from(finder.round(later(6 + n)).is_err());
    }
    assert!(failed > 0);
    limit(0);
    let mut kept = 0;
    for n in 0..700 {
        std::thread::sleep(Duration::from_millis(20));
        kept += finder.round(later(100 + n)).unwrap();
        if kept == 2 {
            break;
        }
    }
    assert_eq!(kept, 2);
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
