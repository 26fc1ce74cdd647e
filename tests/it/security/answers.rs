//! Receivers that mean harm: answers without end, bombs, redirects, headers without end, answers that repeat credentials.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use callferry::config::WebhookConfig;
use callferry::ship::policy::{self, Verdict};
use callferry::ship::sink::webhook::Webhook;
use callferry::ship::{Answer, Sink};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::tls::batch;
use crate::ship::support::webhook_config;

/// Reads a request and answers with `head`, then `first`, then `again` as long as the other side takes it. Returns the
/// address, what was asked last, and how much was sent.
async fn server(
    head: String,
    first: Vec<u8>,
    again: Vec<u8>,
) -> (String, Arc<std::sync::Mutex<String>>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, sent) = (Arc::new(std::sync::Mutex::new(String::new())), Arc::new(AtomicUsize::new(0)));
    let (keep, count) = (asked.clone(), sent.clone());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 65_536];
            let n = stream.read(&mut buffer).await.unwrap_or(0);
            *keep.lock().unwrap() = String::from_utf8_lossy(&buffer[..n]).into_owned();
            let (head, first, again, count) = (head.clone(), first.clone(), again.clone(), count.clone());
            tokio::spawn(async move {
                let mut next = [head.as_bytes(), &first].concat();
                while stream.write_all(&next).await.is_ok() {
                    count.fetch_add(next.len(), Ordering::Relaxed);
                    if again.is_empty() {
                        break;
                    }
                    next = again.clone();
                }
                let _ = stream.shutdown().await;
            });
        }
    });
    (address, asked, sent)
}

async fn send(address: &str) -> (Answer, Duration) {
    let config = WebhookConfig { timeout: Duration::from_secs(20), ..webhook_config(&format!("http://{address}/in")) };
    let sink = Webhook::new(&config).expect("a webhook");
    let began = Instant::now();
    let answer = sink.send(&batch()).await;
    (answer, began.elapsed())
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
}

/// A gzip stream of zeros: its beginning, and a piece (1 MiB unpacked, a kilobyte packed) that may follow for ever.
fn bomb() -> (Vec<u8>, Vec<u8>) {
    let zeros = vec![0; 1 << 20];
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&zeros).unwrap();
    encoder.flush().unwrap();
    let first = encoder.get_ref().clone();
    encoder.write_all(&zeros).unwrap();
    encoder.flush().unwrap();
    let again = encoder.get_ref()[first.len()..].to_vec();
    assert!(again.len() < 4_000);
    (first, again)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gzip_bomb_is_neither_unpacked_nor_waited_for() {
    let (first, again) = bomb();
    let again = again.repeat(64);
    for (status, accepted) in [("200 OK", true), ("500 Oops", false), ("400 No", false)] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n");
        let (address, _, sent) = server(head, first.clone(), again.clone()).await;
        let before = resident_bytes();
        let (answer, took) = send(&address).await;
        let grown = resident_bytes().saturating_sub(before);
        match answer {
            Answer::Accepted => assert!(accepted),
            Answer::Http { ref excerpt, .. } => assert!(!accepted && excerpt.len() <= 2_048, "{status}: {answer:?}"),
            other => panic!("{status}: {other:?}"),
        }
        assert!(took < Duration::from_secs(15), "{status}: {took:?}");
        // other tests share the process: far from what was packed into what came, and no more
        assert!(grown < 200 << 20, "{status}: {grown} bytes more after {} sent", sent.load(Ordering::Relaxed));
    }
}

#[tokio::test]
async fn packings_nobody_asked_for_are_not_unpacked() {
    for encoding in ["br", "deflate", "zstd", "gzip, gzip"] {
        let head = format!("HTTP/1.1 500 Oops\r\nContent-Encoding: {encoding}\r\nContent-Length: 4\r\n\r\nbomb");
        let (address, asked, _) = server(head, Vec::new(), Vec::new()).await;
        let (answer, _) = send(&address).await;
        assert!(matches!(answer, Answer::Http { status: 500, .. } | Answer::Unanswered(_)), "{encoding}: {answer:?}");
        let asked = asked.lock().unwrap().to_lowercase();
        let accepted = asked.lines().find(|l| l.starts_with("accept-encoding:")).unwrap_or_default();
        assert!(!["br", "deflate", "zstd"].iter().any(|e| accepted.contains(e)), "{accepted}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_and_headers_without_end_end() {
    let text = b"0123456789abcdef".repeat(4_096);
    for status in ["200 OK", "500 Oops"] {
        let (address, _, sent) = server(format!("HTTP/1.1 {status}\r\n\r\n"), Vec::new(), text.clone()).await;
        let (answer, took) = send(&address).await;
        assert!(matches!(answer, Answer::Accepted | Answer::Http { status: 500, .. }), "{answer:?}");
        assert!(took < Duration::from_secs(10), "{took:?} for {} bytes", sent.load(Ordering::Relaxed));
    }
    let header = format!("X-A: {}\r\n", "b".repeat(1_000)).repeat(50).into_bytes();
    let (address, _, sent) = server("HTTP/1.1 200 OK\r\n".to_owned(), Vec::new(), header).await;
    let (answer, _) = send(&address).await;
    assert!(matches!(answer, Answer::Unanswered(_) | Answer::Unreachable(_)), "{answer:?}");
    assert!(sent.load(Ordering::Relaxed) < 64 << 20);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_credentials_along() {
    let (elsewhere, asked, _) =
        server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), Vec::new(), Vec::new()).await;
    for status in [301, 302, 303, 307, 308] {
        for location in [format!("http://{elsewhere}/"), "file:///etc/passwd".to_owned(), "//evil.invalid/".to_owned()]
        {
            let head = format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
            let (address, _, _) = server(head, Vec::new(), Vec::new()).await;
            let (answer, _) = send(&address).await;
            assert!(matches!(answer, Answer::Http { status: s, .. } if s == status), "{answer:?}");
            assert_eq!(policy::sort(&answer), Verdict::Sink);
            let sink = Webhook::new(&webhook_config(&format!("http://{address}/in"))).expect("a webhook");
            let findings = format!("{:?}", sink.check().await);
            assert!(findings.contains("redirects") && !findings.contains("/etc/passwd"), "{findings}");
        }
    }
    assert_eq!(*asked.lock().unwrap(), "", "nobody came");
}

#[tokio::test]
async fn an_answer_that_repeats_our_credentials_is_kept_without_them() {
    let echo = "token t0p-secret, path /hooks/pathS3cret, query key=queryS3cret, password passS3cret";
    let head = format!("HTTP/1.1 400 No\r\nContent-Length: {}\r\n\r\n{echo}", echo.len());
    let (address, asked, _) = server(head, Vec::new(), Vec::new()).await;
    let url = format!("http://user:passS3cret@{address}/hooks/pathS3cret?key=queryS3cret");
    let sink = Webhook::new(&webhook_config(&url)).expect("a webhook");
    let answer = sink.send(&batch()).await;
    assert!(asked.lock().unwrap().contains("Bearer t0p-secret"), "sent it was");
    let Answer::Http { status: 400, excerpt, .. } = &answer else { panic!("{answer:?}") };
    assert!(!excerpt.contains("S3cret") && !excerpt.contains("t0p-secret") && excerpt.contains("token"), "{excerpt}");
}
