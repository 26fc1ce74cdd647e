//! A receiver that misbehaves below HTTP, and every status above it. After each fault the same call goes out again with the
//! same key and the same bytes, and arrives.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use callferry::config::WebhookConfig;
use callferry::finding::Level;
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Answer, Batch, Item, Sink, policy};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::support::*;
use crate::support::faults::{ACCEPTING, Fault, FaultReceiver, REFUSING, TIMEOUT, read_request};

#[tokio::test]
async fn after_every_fault_the_same_bytes_arrive_under_the_same_key() {
    let refusing = REFUSING.iter().map(|fault| (*fault, 2));
    let tests = refusing.chain(ACCEPTING.iter().map(|fault| (*fault, 1))).map(|(fault, expected)| async move {
        let server = FaultReceiver::first(fault).await;
        let state = State::new();
        let config = WebhookConfig { timeout: TIMEOUT, ..webhook_config(&server.url) };
        let ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
        state.put_all(&["webhook"], &[(1, 1, None)], 20_000).await;
        let started = Instant::now();
        ship.wake().ring();
        state.settled("webhook").await;
        assert!(started.elapsed() < TIMEOUT * 12, "{fault:?} took {:?}", started.elapsed());
        let (delivered, attempts, _, _) = state.delivery("webhook", 1, 1).await;
        assert_eq!((delivered, attempts), (1, expected), "{fault:?}");
        for request in server.requests() {
            assert_eq!(request.key(), key(1, 1), "{fault:?}");
            assert_eq!(request.body, document(1, 1, 20_000).as_bytes(), "{fault:?}");
        }
        // what is left on the connection is nobody's answer
        state.put(&["webhook"], 2, 1).await;
        ship.wake().ring();
        state.settled("webhook").await;
        assert_eq!(state.delivery("webhook", 2, 1).await.0, 1, "{fault:?}");
        ship.stop(Duration::from_secs(5)).await;
    });
    futures_util::future::join_all(tests).await;
}

async fn send_once(url: &str) -> Answer {
    let sink = Webhook::new(&WebhookConfig { timeout: TIMEOUT, ..webhook_config(url) }).expect("webhook");
    let item = Item { key: key(1, 1), body: document(1, 1, 1_000).into_bytes() };
    sink.send(&Batch { key: key(1, 1), items: vec![item] }).await
}

#[tokio::test]
async fn what_is_kept_of_an_answer_is_bounded_and_harmless() {
    for fault in [Fault::EndlessBody, Fault::GzipBomb] {
        let server = FaultReceiver::first(fault).await;
        let answer = send_once(&server.url).await;
        let Answer::Http { status: 500, excerpt, .. } = &answer else { panic!("{answer:?}") };
        assert_eq!(excerpt.len(), 2_048, "{fault:?}");
        assert!(excerpt.chars().all(|c| c == 'A'), "{fault:?}: unpacked");
    }
    let server = FaultReceiver::first(Fault::HtmlPage).await;
    let text = policy::describe(&send_once(&server.url).await);
    assert_eq!(text, "HTTP 502: <html> [31m bad gateway </html>");
    let server = FaultReceiver::first(Fault::TruncatedError).await;
    assert_eq!(policy::describe(&send_once(&server.url).await), "HTTP 503: wait");
}

#[tokio::test]
async fn a_2xx_is_an_acceptance_whatever_follows_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://{}/", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_request(&mut stream).await.expect("request");
        stream.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 100\r\n\r\nhalf").await.expect("write");
    });
    assert_eq!(send_once(&url).await, Answer::Accepted);
}

#[tokio::test]
async fn nobody_listening_is_told_apart_from_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let url = format!("http://user:pa55@{}/calls?key=pa55", listener.local_addr().expect("address"));
    drop(listener);
    let config = WebhookConfig { token: None, ..webhook_config(&url) };
    let sink = Webhook::new(&config).expect("webhook");
    let item = Item { key: key(1, 1), body: b"{}".to_vec() };
    let answer = sink.send(&Batch { key: key(1, 1), items: vec![item] }).await;
    let Answer::Unreachable(text) = &answer else { panic!("{answer:?}") };
    assert!(text.contains("refused") && !text.contains("pa55"), "{text}");
    let finding = &sink.check().await[0];
    assert!(finding.level == Level::Problem && !finding.text.contains("pa55"), "{finding:?}");
    let server = FaultReceiver::first(Fault::Stall).await;
    assert!(matches!(send_once(&server.url).await, Answer::Unanswered(text) if text.contains("within 1 s")));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let other = Receiver::accepting().await;
    for status in [301, 302, 303, 307, 308] {
        let to = other.url();
        let receiver = Receiver::start(move |_, _| reply(status).header("location", to.clone())).await;
        let answer = send_once(&receiver.url()).await;
        assert!(matches!(answer, Answer::Http { status: s, .. } if s == status), "{answer:?}");
        let sink = Webhook::new(&webhook_config(&receiver.url())).expect("webhook");
        let finding = &sink.check().await[0];
        let host = format!("redirects to http://{}/", other.address);
        assert!(finding.level == Level::Problem && finding.text.contains(&host), "{finding:?}");
    }
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn every_status_does_to_a_call_what_the_table_says() {
    // (status, state of the delivery afterwards: 0 waits, 1 delivered, 2 dead, and its attempts)
    let table = [
        (200, 1, 1),
        (201, 1, 1),
        (202, 1, 1),
        (204, 1, 1),
        (400, 2, 1),
        (402, 2, 1),
        (403, 2, 1),
        (410, 2, 1),
        (413, 2, 1),
        (415, 2, 1),
        (422, 2, 1),
        (301, 0, 0),
        (307, 0, 0),
        (401, 0, 0),
        (404, 0, 0),
        (405, 0, 0),
        (407, 0, 0),
        (421, 0, 0),
        (408, 1, 2),
        (409, 1, 2),
        (425, 1, 2),
        (429, 1, 2),
        (500, 1, 2),
        (501, 1, 2),
        (503, 1, 2),
        (504, 1, 2),
    ];
    let tests = table.map(|(status, expected, attempts)| async move {
        let receiver =
            Receiver::start(move |_, n| reply(if n == 0 { status } else { 200 }).body("the receiver's words")).await;
        let state = State::new();
        state.put(&["webhook"], 1, 1).await;
        let _ship = state.ship(vec![webhook(&receiver.url())]).await;
        receiver.wait_for(1).await;
        for _ in 0..500 {
            let (found, tried, _, error) = state.delivery("webhook", 1, 1).await;
            if (found, tried) == (expected, attempts) && (expected == 1 || error.contains("the receiver's words")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{status}: {:?}", state.delivery("webhook", 1, 1).await);
    });
    futures_util::future::join_all(tests).await;
}

#[tokio::test]
async fn retry_after_is_kept_to() {
    let receiver =
        Receiver::start(|_, n| if n == 0 { reply(429).header("retry-after", "1") } else { reply(200) }).await;
    let state = State::new();
    state.put_all(&["webhook"], &[(1, 1, None)], 0).await;
    let ship = state.ship(vec![webhook(&receiver.url())]).await;
    receiver.wait_for(1).await;
    let asked = Instant::now();
    // others do not slip through either
    state.put(&["webhook"], 2, 1).await;
    ship.wake().ring();
    state.settled("webhook").await;
    assert!(asked.elapsed() > Duration::from_millis(900), "{:?}", asked.elapsed());
    assert_eq!(receiver.seen().len(), 3);
}

#[tokio::test]
async fn a_check_says_what_it_could_not_know() {
    for (status, level, word) in [
        (200, Level::Ok, "none was sent"),
        (405, Level::Ok, "none was sent"),
        (401, Level::Warning, "WEBHOOK_TOKEN"),
        (403, Level::Warning, "WEBHOOK_TOKEN"),
        (404, Level::Warning, "WEBHOOK_URL"),
        (500, Level::Warning, "log"),
    ] {
        let receiver = Receiver::start(move |_, _| reply(status)).await;
        let sink = Webhook::new(&webhook_config(&receiver.url())).expect("webhook");
        let findings = sink.check().await;
        let text = format!("{} {}", findings[0].text, findings[0].remedy.clone().unwrap_or_default());
        assert!(findings[0].level == level && text.contains(word), "{status}: {findings:?}");
        let seen = receiver.seen();
        assert!(seen.iter().all(|r| r.method == "HEAD" && r.body.is_empty()));
        assert_eq!(seen[0].header("authorization"), "Bearer t0p-secret");
    }
}

/// A server with a certificate nobody vouches for, made and served by tools of the system.
#[tokio::test]
async fn an_untrusted_certificate_is_refused_in_clear_words() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(dir.path())
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|s| s.success()) {
        eprintln!("skipped: openssl is not installed");
        return;
    }
    let server = "import ssl, http.server as h
c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('cert.pem', 'key.pem')
class R(h.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['content-length'])); self.send_response(200); self.end_headers()
s = h.HTTPServer(('127.0.0.1', 0), R); s.socket = c.wrap_socket(s.socket, server_side=True)
print(s.server_address[1], flush=True); s.serve_forever()";
    let mut child = Command::new("python3")
        .args(["-c", server])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3");
    let mut port = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut port).expect("port");
    let url = format!("https://localhost:{}/", port.trim());
    let sink =
        Webhook::new(&WebhookConfig { timeout: Duration::from_secs(5), ..webhook_config(&url) }).expect("webhook");
    let item = Item { key: key(1, 1), body: b"{}".to_vec() };
    let answer = sink.send(&Batch { key: key(1, 1), items: vec![item] }).await;
    let finding = sink.check().await.remove(0);
    let _ = child.kill();
    let _ = child.wait();
    assert!(matches!(&answer, Answer::Unreachable(text) if text.contains("certificate")), "{answer:?}");
    assert!(finding.level == Level::Problem && finding.text.contains("certificate"), "{finding:?}");
}
