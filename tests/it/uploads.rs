//! Recordings on their way to the API: a real HTTP receiver, real files, the real program killed in the middle.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use callferry::agent::recordings::{Finder, opener};
use callferry::config::{NumberPrivacy, TlsConfig, UploadConfig};
use callferry::ship::Clock;
use callferry::ship::recordings::{OpenFile, Uploader};
use callferry::store::Store;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::program::Program;
use crate::recordings::{files, look, write};
use crate::settle::bench::{Bench, MUCH_LATER, call, ids, placed};
use crate::ship::support::{Receiver, options, reply};

fn upload_config(receiver: &Receiver) -> UploadConfig {
    UploadConfig {
        url: format!("http://{}/v1/mqs/recording", receiver.address).into(),
        api_key: SecretString::from("sk_test".to_owned()),
        concurrency: 2,
        timeout: Duration::from_secs(20),
        allow_http: false,
        tls: TlsConfig::default(),
        privacy: NumberPrivacy::default(),
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
    let stop = start(bench.store.clone(), receiver, opener(vec![dir.to_owned()]));
    (bench, stop)
}

fn start(store: Store, receiver: &Receiver, open: OpenFile) -> CancellationToken {
    let stop = CancellationToken::new();
    let max_age = Duration::from_secs(u32::MAX.into());
    let (config, delivery) = (upload_config(receiver), options().delivery);
    let uploader = Uploader::new(store, &config, &delivery, "pbx", max_age, open, Clock::system()).unwrap();
    tokio::spawn(uploader.run(stop.clone()));
    stop
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

/// Shipped calls 1 to `n`, each with a recording of `size` bytes.
async fn many(dir: &Path, n: i64, size: usize) -> Bench {
    for n in 1..=n {
        write(&dir.join(format!("{}.wav", ids(n, 100 * n).0)), size);
    }
    let root = dir.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut bench = Bench::new();
        let mut finder = Finder::new(bench.store.clone(), files(&root));
        look(&mut finder);
        bench.read(placed((1..=n).flat_map(|n| call(n, 100 * n, 30)), 1), MUCH_LATER);
        bench
    })
    .await
    .unwrap()
}

async fn states(bench: &Bench) -> (i64, i64, i64) {
    let count = |c: &rusqlite::Connection, state: i64| {
        c.query_row("SELECT count(*) FROM upload WHERE state = ?1", [state], |r| r.get::<_, i64>(0))
    };
    bench.store.read(move |c| Ok((count(c, 0)?, count(c, 1)?, count(c, 2)?))).await.unwrap()
}

async fn become_states(bench: &Bench, wanted: (i64, i64, i64)) {
    for _ in 0..1_500 {
        if states(bench).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}, not {wanted:?} (pending, delivered, dead)", states(bench).await);
}

fn sent_file(request: &crate::ship::support::Request) -> String {
    let body = String::from_utf8_lossy(&request.body);
    let at = body.find("filename=\"").expect("a file") + 10;
    body[at..].split('"').next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn one_recording_that_is_forbidden_holds_no_other_up() {
    let dir = tempfile::tempdir().unwrap();
    let bench = many(dir.path(), 8, 1_000).await;
    let bad = format!("{}.wav", ids(3, 300).0);
    let name = bad.clone();
    let receiver = Receiver::start(move |r, _| reply(if sent_file(r) == name { 403 } else { 202 })).await;
    let stop = start(bench.store.clone(), &receiver, opener(vec![dir.path().to_owned()]));
    become_states(&bench, (0, 7, 1)).await;
    stop.cancel();
    assert_eq!(receiver.seen().iter().filter(|r| sent_file(r) == bad).count(), 1);
}

#[tokio::test]
async fn an_api_that_refuses_all_is_at_fault_and_no_recording_is_lost_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let bench = many(dir.path(), 12, 1_000).await;
    let receiver = Receiver::start(|_, _| reply(400).body("no such field")).await;
    let open = opener(vec![dir.path().to_owned()]);
    let stop = start(bench.store.clone(), &receiver, Arc::clone(&open));
    receiver.wait_for(5).await;
    become_states(&bench, (12, 0, 0)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(states(&bench).await, (12, 0, 0), "it pauses");
    assert!(receiver.seen().len() <= 7, "{}", receiver.seen().len());
    stop.cancel();
    tokio::time::sleep(Duration::from_millis(200)).await;
    // after the next start it is tried at once, and works
    receiver.answer_with(|_, _| reply(202));
    let stop = start(bench.store.clone(), &receiver, open);
    become_states(&bench, (0, 12, 0)).await;
    stop.cancel();
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_tried_again_and_is_not_the_apis_fault() {
    let dir = tempfile::tempdir().unwrap();
    let bench = many(dir.path(), 3, 1_000).await;
    let bad = ids(2, 200).0;
    let readable = Arc::new(AtomicUsize::new(0));
    let (inner, switch) = (opener(vec![dir.path().to_owned()]), Arc::clone(&readable));
    let open: OpenFile = Arc::new(move |path| {
        if path.contains(&bad) && switch.load(Ordering::SeqCst) == 0 {
            return Some(Err(std::io::ErrorKind::PermissionDenied.into()));
        }
        inner(path)
    });
    let receiver = Receiver::start(|_, _| reply(202)).await;
    let stop = start(bench.store.clone(), &receiver, open);
    become_states(&bench, (1, 2, 0)).await;
    let error = bench
        .store
        .read(|c| {
            Ok(c.query_row("SELECT last_error FROM upload WHERE state = 0", [], |r| r.get::<_, Option<String>>(0))?)
        })
        .await
        .unwrap()
        .unwrap_or_default();
    assert!(error.contains("cannot be read"), "{error}");
    readable.store(1, Ordering::SeqCst);
    become_states(&bench, (0, 3, 0)).await;
    stop.cancel();
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test]
async fn a_file_written_while_it_is_sent_is_sent_again_under_another_key() {
    let dir = tempfile::tempdir().unwrap();
    let bench = many(dir.path(), 1, 4_000).await;
    let path = dir.path().join(format!("{}.wav", ids(1, 100).0));
    let over = path.clone();
    // as long as before
    let receiver = Receiver::start(move |_, n| {
        if n == 0 {
            fs::write(&over, vec![b'z'; 4_000]).unwrap();
        }
        reply(202)
    })
    .await;
    let stop = start(bench.store.clone(), &receiver, opener(vec![dir.path().to_owned()]));
    become_states(&bench, (0, 1, 0)).await;
    stop.cancel();
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2);
    assert_ne!(seen[0].key(), seen[1].key());
    assert_eq!(seen[1].body.iter().filter(|b| **b == b'z').count() / 1_000, 4);
}

#[tokio::test]
async fn a_file_cut_short_is_no_delivery() {
    let dir = tempfile::tempdir().unwrap();
    let bench = many(dir.path(), 1, 4_000).await;
    let path = dir.path().join(format!("{}.wav", ids(1, 100).0));
    let inner = opener(vec![dir.path().to_owned()]);
    let cut = path.clone();
    let open: OpenFile = Arc::new(move |p| {
        let opened = inner(p);
        // opened, looked at, and cut before it is read
        let cut = cut.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1));
            fs::write(&cut, vec![b'a'; 1_000]).unwrap();
        });
        opened
    });
    let receiver = Receiver::start(|_, _| reply(202)).await;
    let stop = start(bench.store.clone(), &receiver, open);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let (pending, delivered, dead) = states(&bench).await;
    stop.cancel();
    // sent whole before it was cut, or not at all
    assert_eq!((pending + delivered, dead), (1, 0));
    for request in receiver.seen() {
        assert_eq!(request.header("content-length"), request.body.len().to_string());
    }
    if delivered == 1 {
        assert_eq!(receiver.seen().last().unwrap().body.iter().filter(|b| **b == b'a').count() / 1_000, 4);
    }
}

/// Takes one request after the other, of any size, and keeps nothing but their heads.
struct Gate {
    address: String,
    /// Heads of the requests, and how many bytes of the body came.
    seen: Arc<Mutex<Vec<(String, usize)>>>,
    /// Of a request's body so much is read, and then nothing, until this is raised.
    reads: Arc<AtomicUsize>,
}

impl Gate {
    fn open(reads: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let gate = Self { address, seen: Arc::default(), reads: Arc::new(AtomicUsize::new(reads)) };
        let (seen, reads) = (Arc::clone(&gate.seen), Arc::clone(&gate.reads));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, reads) = (Arc::clone(&seen), Arc::clone(&reads));
                std::thread::spawn(move || serve(stream, &seen, &reads));
            }
        });
        gate
    }

    fn seen(&self) -> Vec<(String, usize)> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<(String, usize)>>, reads: &AtomicUsize) {
    let mut stream = BufReader::with_capacity(1 << 16, stream);
    loop {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line.to_lowercase());
        }
        let length: usize =
            head.lines().find_map(|l| l.strip_prefix("content-length: ")).and_then(|n| n.parse().ok()).unwrap_or(0);
        let at = {
            let mut seen = seen.lock().unwrap();
            seen.push((head, 0));
            seen.len() - 1
        };
        let mut piece = vec![0; 1 << 16];
        let mut read = 0;
        while read < length {
            if read >= reads.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            let most = piece.len().min(length - read);
            match stream.read(&mut piece[..most]) {
                Ok(n) if n > 0 => read += n,
                _ => return,
            }
            seen.lock().unwrap()[at].1 = read;
        }
        if stream.get_mut().write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn until<T>(what: &str, mut there: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = there() {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(40), "{what} did not come about");
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn upload_states(program: &Program) -> Vec<i64> {
    let Ok(conn) = callferry::store::open_read_only(&program.dir().join("data")) else { return Vec::new() };
    let Ok(mut statement) = conn.prepare("SELECT state FROM upload") else { return Vec::new() };
    statement.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn killed_while_it_sends_a_large_recording_it_sends_it_again_and_never_holds_it_whole() {
    const SIZE: u64 = 300 << 20;
    let gate = Gate::open(1 << 20);
    let program = Program::new().env_file(&format!(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nSTART_FROM=all\nSINKS=file\nFILE_PATH=calls.ndjson\n\
         MONITORING_ENABLED=false\nRECORDING_UPLOAD_ENABLED=true\nRECORDING_UPLOAD_URL=http://{}/v1/mqs/recording\n\
         API_KEY=sk_test\nRECORDING_STABILITY_CHECK_INTERVAL=0.05\nBUSY_POLL_INTERVAL=0.1\nCDR_POLL_INTERVAL=0.2\n",
        gate.address
    ));
    let folder = program.dir().join("spool");
    let program = program.env("RECORDING_PATHS", folder.to_str().unwrap());
    crate::running::database(&program.dir().join("pbx.db"));
    let conn = rusqlite::Connection::open(program.dir().join("pbx.db")).unwrap();
    let linkedid: String = conn.query_row("SELECT linkedid FROM cdr LIMIT 1", [], |r| r.get(0)).unwrap();
    fs::create_dir(&folder).unwrap();
    let path = folder.join(format!("out-{linkedid}.wav"));
    // holes take no room on the disk, and are read like anything else
    fs::File::create(&path).unwrap().set_len(SIZE).unwrap();

    let start = || {
        let log = fs::File::options().create(true).append(true).open(program.dir().join("log")).unwrap();
        Running(program.command(&["run"]).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    };
    let log = || fs::read_to_string(program.dir().join("log")).unwrap_or_default();
    let mut agent = start();
    until("the first part", || gate.seen().first().filter(|s| s.1 >= 1 << 20).map(|_| ()));
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    assert_eq!(upload_states(&program), [0], "not done: {}", log());

    gate.reads.store(usize::MAX, Ordering::SeqCst);
    let agent = start();
    until("the delivery", || (upload_states(&program) == [1]).then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let most: u64 = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap();
    eprintln!("{most} kB of memory at most, with a recording of {} kB", SIZE >> 10);
    assert!(most < 100_000, "{most} kB");
    drop(agent);
    let seen = gate.seen();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[0].1 < usize::try_from(SIZE).unwrap() && seen[1].1 > usize::try_from(SIZE).unwrap());
    let key = |head: &str| head.lines().find_map(|l| l.strip_prefix("idempotency-key: ").map(str::to_owned));
    assert!(key(&seen[0].0).is_some() && key(&seen[0].0) == key(&seen[1].0));
    // and never again
    let again = start();
    std::thread::sleep(Duration::from_millis(2_500));
    drop(again);
    assert_eq!(gate.seen().len(), 2);
    assert_eq!(fs::metadata(&path).unwrap().len(), SIZE, "nothing is deleted");
}

/// The system's limit of watched folders, reached: in a user namespace it can be set for one process.
#[test]
fn without_watches_recordings_are_found_by_scans_and_that_is_said_once() {
    let allowed = std::process::Command::new("unshare")
        .args(["-U", "-r", "sh", "-c", "echo 2 > /proc/sys/user/max_inotify_watches"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !allowed {
        eprintln!("SKIPPED: no user namespaces here, the limit of watches cannot be set");
        return;
    }
    let program = Program::new().env_file(
        "DB_TYPE=sqlite\nDB_NAME=pbx.db\nDB_TIMEZONE=UTC\nSTART_FROM=all\nSINKS=file\nFILE_PATH=calls.ndjson\n\
         MONITORING_ENABLED=false\nRECORDING_STABILITY_CHECK_INTERVAL=0.05\nRECORDING_MIN_FILE_SIZE=10\n",
    );
    let folder = program.dir().join("spool");
    let program = program.env("RECORDING_PATHS", folder.to_str().unwrap());
    crate::running::database(&program.dir().join("pbx.db"));
    for n in 0..20 {
        fs::create_dir_all(folder.join(n.to_string())).unwrap();
    }
    let check = program.run(&["check"]);
    assert!(check.out.contains("can be read; there is no file in it"), "{}", check.out);
    let plain = program.command(&["run"]);
    let mut command = std::process::Command::new("unshare");
    let limited = "echo 2 > /proc/sys/user/max_inotify_watches; exec \"$0\" \"$@\"";
    command.args(["-U", "-r", "sh", "-c", limited]).arg(plain.get_program()).args(plain.get_args());
    command.env_clear().current_dir(program.dir());
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let log = program.dir().join("log");
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let _agent = Running(command.spawn().unwrap());
    let log = || fs::read_to_string(&log).unwrap_or_default();
    until("the warning", || log().contains("max_user_watches").then_some(()));
    let conn = rusqlite::Connection::open(program.dir().join("pbx.db")).unwrap();
    let linkedid: String = conn.query_row("SELECT linkedid FROM cdr LIMIT 1", [], |r| r.get(0)).unwrap();
    for n in 20..23 {
        fs::create_dir_all(folder.join(n.to_string())).unwrap();
    }
    write(&folder.join(format!("17/{linkedid}.wav")), 4_000);
    until("the recording", || {
        let calls = fs::read_to_string(program.dir().join("calls.ndjson")).unwrap_or_default();
        calls.contains("\"matched_by\":\"name\"").then_some(())
    });
    assert_eq!(log().matches("max_user_watches").count(), 1, "{}", log());
}
