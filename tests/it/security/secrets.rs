//! Recognisable secrets in every setting, everything logged, every kind of error provoked: none of them shows anywhere.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::program::Program;

/// Part of each secret, and of nothing else.
const MARK: &str = "zq7S3cr3t";
const SIGNING: &str = "whsec_enE3UzNjcjN0enE3UzNjcjN0enE3UzNjcjN0"; // base64 of the mark, thrice

/// How the mark may come out: plain, in base64 (as in a basic credential), and as the signing secret is written.
fn shown(bytes: &[u8]) -> Option<usize> {
    let holds = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle);
    holds(MARK.as_bytes()).or_else(|| holds(&SIGNING.as_bytes()[6..]))
}

#[track_caller]
fn clean(what: &str, bytes: &[u8]) {
    if let Some(at) = shown(bytes) {
        let from = at.saturating_sub(120);
        let around = String::from_utf8_lossy(&bytes[from..(at + 60).min(bytes.len())]).into_owned();
        panic!("{what} shows a secret: …{around}…");
    }
}

fn secrets() -> Vec<(&'static str, String)> {
    let secret = |name: &str| format!("{MARK}-{name}-long-enough");
    vec![
        ("DB_PASSWORD", secret("db")),
        ("WEBHOOK_TOKEN", secret("token")),
        ("WEBHOOK_SECRET", SIGNING.to_owned()),
        ("API_KEY", secret("api")),
        ("NUMBER_PRIVACY_KEY", secret("privacy")),
        ("PROVISION_DSN", format!("postgresql://u:{}@127.0.0.1:1/asterisk", secret("dsn"))),
        ("AMI_PASSWORD", secret("ami")),
        ("TRUNK_PASSWORD", secret("trunk")),
    ]
}

/// Answers each request on its own connection with a status of its own, repeating all of it.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let mut buffer = vec![0; 65_536];
            let read = stream.read(&mut buffer).unwrap_or(0);
            let asked = &buffer[..read];
            let status = ["400 No", "500 Oops", "403 No", "401 No", "422 No", "302 Moved"][n % 6];
            let head = format!(
                "HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/{MARK}\r\nContent-Length: {read}\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(asked));
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn with_secrets(mut program: Program, from_files: bool) -> Program {
    std::fs::create_dir(program.dir().join("secrets")).unwrap();
    for (name, value) in secrets() {
        program = if from_files {
            let path = program.dir().join("secrets").join(name);
            std::fs::write(&path, format!("{value}\n")).unwrap();
            program.env(&format!("{name}_FILE"), &path.display().to_string())
        } else {
            program.env(name, &value)
        };
    }
    program
}

/// Runs the agent for a while and looks at everything it shows and keeps.
fn look(what: &str, program: &Program, port: u16) -> String {
    let mut child = program.command(&["run"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (out, err) = (read(child.stdout.take().unwrap()), read(child.stderr.take().unwrap()));
    let proc = Path::new("/proc").join(child.id().to_string());
    let began = Instant::now();
    let mut served = Vec::new();
    let is_served = |served: &[u8]| String::from_utf8_lossy(served).contains("callferry_build_info");
    let mut ended = false;
    while !ended && began.elapsed() < Duration::from_secs(if is_served(&served) { 4 } else { 30 }) {
        ended = child.try_wait().unwrap().is_some();
        for path in ["/metrics", "/readyz", "/healthz", "/"] {
            served.extend(get(port, path));
        }
        clean(&format!("{what}: ps"), &std::fs::read(proc.join("cmdline")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(200));
    }
    let _ = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
    let _ = child.wait();
    let (out, err) = (out.join().unwrap(), err.join().unwrap());
    clean(&format!("{what}: standard output"), &out);
    clean(&format!("{what}: the log"), &err);
    clean(&format!("{what}: metrics and health"), &served);
    // a database that refuses at the start ends it
    assert!(is_served(&served) || ended, "{what}: metrics were served");
    let log = String::from_utf8_lossy(&err).into_owned();
    assert!(log.contains("callferry") && log.lines().count() > 2, "{what}: {log}");
    for file in files(&program.dir().join("data")) {
        clean(&format!("{what}: {}", file.display()), &std::fs::read(&file).unwrap_or_default());
    }
    for command in [&["check"][..], &["check", "--json"], &["calls", "list", "--failed"], &["calls", "list", "--json"]]
    {
        let ended = program.run(command);
        clean(&format!("{what}: {command:?}"), ended.out.as_bytes());
        clean(&format!("{what}: {command:?}, errors"), ended.err.as_bytes());
    }
    log
}

fn read(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        bytes
    })
}

fn get(port: u16, path: &str) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) {
        let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
        let _ = write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let _ = stream.read_to_end(&mut answer);
    }
    answer
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().flat_map(|e| if e.path().is_dir() { files(&e.path()) } else { vec![e.path()] }).collect()
}

const COMMON: &str = "DB_TIMEZONE=UTC\nKNOWN_TRUNKS=PJSIP/trunk-*\nSTART_FROM=all\nLOG_LEVEL=trace\nLOG_NUMBERS=plain\n\
     NUMBER_PRIVACY=hashed\nFILE_PATH=calls.ndjson\nRETRY_BASE=0.05\nRETRY_CAP=0.2\n";

#[test]
fn receivers_that_refuse_and_repeat() {
    let (port, receiver) = (free_port(), echo());
    for from_files in [false, true] {
        let program = with_secrets(
            Program::new().env_file(&format!(
                "{COMMON}DB_TYPE=sqlite\nDB_NAME=pbx.db\nSINKS=webhook,sipstack,file\nMONITORING_PORT={port}\n\
                 WEBHOOK_URL=http://user:{MARK}pw@127.0.0.1:{receiver}/hooks/{MARK}path?key={MARK}query\n\
                 API_ENDPOINT=http://127.0.0.1:{receiver}/{MARK}api\n"
            )),
            from_files,
        );
        crate::running::database(&program.dir().join("pbx.db"));
        let log = look("receivers that refuse", &program, port);
        // and answers there were, so that something could have shown
        assert!(log.contains("HTTP 40") && log.contains("webhook"), "{log}");
    }
}

#[test]
fn receivers_without_tls_or_none_at_all() {
    let (port, plain) = (free_port(), echo());
    for (webhook, api) in [(plain, plain), (1, 1)] {
        let program = with_secrets(
            Program::new().env_file(&format!(
                "{COMMON}DB_TYPE=sqlite\nDB_NAME=pbx.db\nSINKS=webhook,sipstack\nMONITORING_PORT={port}\n\
                 WEBHOOK_URL=https://user:{MARK}pw@127.0.0.1:{webhook}/hooks/{MARK}path?key={MARK}query\n\
                 API_ENDPOINT=https://127.0.0.1:{api}/{MARK}api\n"
            )),
            false,
        );
        crate::running::database(&program.dir().join("pbx.db"));
        look("receivers without TLS", &program, port);
    }
}

/// A server that refuses the password, and one that is not there.
async fn databases() -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("no PostgreSQL", "DB_TYPE=postgresql\nDB_HOST=127.0.0.1\nDB_PORT=1\n".to_owned()),
        ("no MariaDB", "DB_TYPE=mysql\nDB_HOST=127.0.0.1\nDB_PORT=1\n".to_owned()),
    ];
    if let Some(server) = crate::support::mariadb::shared().await {
        let place = server.database().await;
        if let Some(socket) = &place.place.socket {
            all.push(("MariaDB", format!("DB_TYPE=mysql\nDB_SOCKET={}\n", socket.display())));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_that_refuse() {
    let port = free_port();
    for (what, settings) in databases().await {
        let program = with_secrets(
            Program::new().env_file(&format!(
                "{COMMON}{settings}DB_NAME=asterisk\nDB_USER=stranger\nSINKS=file\nMONITORING_PORT={port}\n"
            )),
            false,
        );
        tokio::task::spawn_blocking(move || look(what, &program, port)).await.unwrap();
    }
}

#[test]
fn provisioning_that_fails() {
    let program =
        with_secrets(Program::new().env("LOG_LEVEL", "trace").env("AMI_HOST", "127.0.0.1").env("AMI_PORT", "1"), false);
    for command in [
        &["trunk", "list"][..],
        &["trunk", "add", "t1", "--host", "sip.example", "--username", "u"],
        &["provision", "--help"],
        &["run", "--help"],
    ] {
        let ended = program.run(command);
        clean(&format!("{command:?}"), ended.out.as_bytes());
        clean(&format!("{command:?}, errors"), ended.err.as_bytes());
    }
}

#[test]
fn nothing_secret_in_debug() {
    use callferry::config::HiddenUrl;
    let config = callferry::config::WebhookConfig {
        token: Some(format!("{MARK}token").into()),
        signing_secret: Some(SIGNING.to_owned().into()),
        privacy: callferry::config::NumberPrivacy {
            way: callferry::config::PrivacyWay::Hashed(format!("{MARK}key").into()),
            ..Default::default()
        },
        ..crate::ship::support::webhook_config(&format!("https://u:{MARK}@h/{MARK}?k={MARK}"))
    };
    clean("Debug of a sink's settings", format!("{config:?} {config:#?}").as_bytes());
    let secrets = callferry::config::Secrets {
        db_password: Some(MARK.to_owned().into()),
        number_privacy_key: Some(MARK.to_owned().into()),
        ..Default::default()
    };
    clean("Debug of the secrets", format!("{secrets:?}").as_bytes());
    clean("Debug of a URL", format!("{:?}", HiddenUrl::from(format!("https://u:{MARK}@h/"))).as_bytes());
}
