//! The receiver that docs/receivers.md shows, run as it stands: it checks signatures with code that is not ours, and ends
//! up with one row a call in its newest revision.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use callferry::config::WebhookConfig;
use callferry::ship::Sink;
use callferry::ship::sink::webhook::Webhook;
use secrecy::SecretString;

use super::support::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Example {
    child: Child,
    url: String,
    database: PathBuf,
}

impl Example {
    async fn start(dir: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("port").port();
        let database = dir.join("calls.db");
        let child = Command::new("python3")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/receiver.py"))
            .arg(port.to_string())
            .arg(&database)
            .env("WEBHOOK_SECRET", SECRET)
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs the example receiver");
        let example = Self { child, url: format!("http://127.0.0.1:{port}/"), database };
        for _ in 0..1_000 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return example;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the example receiver does not listen");
    }

    /// The status of the answer to a request with these headers.
    async fn asked(&self, method: reqwest::Method, headers: &[(&'static str, &str)]) -> u16 {
        let mut request = reqwest::Client::new().request(method, &self.url).body("{}");
        for (name, value) in headers {
            let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes()).expect("a header");
            request = request.header(*name, value);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    /// `(id, revision, merged_into)` of all rows.
    fn rows(&self) -> Vec<(String, i64, Option<String>)> {
        let conn = rusqlite::Connection::open(&self.database).expect("its database");
        let mut statement = conn.prepare("SELECT id, revision, merged_into FROM call ORDER BY id").expect("query");
        let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).expect("query");
        rows.map(|r| r.expect("row")).collect()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(url: &str) -> WebhookConfig {
    let signing_secret = Some(SecretString::from(SECRET.to_owned()));
    WebhookConfig { signing_secret, token: None, ..webhook_config(url) }
}

#[tokio::test]
async fn the_example_receiver_keeps_the_newest_revision_of_every_signed_call() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let example = Example::start(dir.path()).await;
    let variants = [
        config(&example.url),
        WebhookConfig { batch_size: 5, ..config(&example.url) },
        WebhookConfig { batch_size: 5, gzip: true, ..config(&example.url) },
    ];
    for (n, config) in variants.into_iter().enumerate() {
        let first = 100 * i64::try_from(n).expect("small");
        let state = State::new();
        let ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
        let calls: Vec<_> = (first..first + 20).map(|c| (c, 1, None)).collect();
        state.put_all(&["webhook"], &calls, 0).await;
        ship.wake().ring();
        state.settled("webhook").await;
        state.put_all(&["webhook"], &[(first, 3, None), (first + 1, 2, None)], 0).await;
        ship.wake().ring();
        state.settled("webhook").await;
        assert_eq!(state.count("webhook", 2).await, 0);
        ship.stop(Duration::from_secs(5)).await;
    }
    let rows = example.rows();
    assert_eq!(rows.len(), 60);
    let conn = rusqlite::Connection::open(&example.database).expect("its database");
    let completed = "SELECT count(*) FROM call WHERE state = 'completed'";
    assert_eq!(conn.query_row(completed, [], |r| r.get::<_, i64>(0)).expect("its states"), 60);
    assert!(
        rows.contains(&(id(0), 3, None)) && rows.contains(&(id(101), 2, None)) && rows.contains(&(id(219), 1, None))
    );
}

#[tokio::test]
async fn the_example_receiver_turns_a_wrong_signature_away() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let example = Example::start(dir.path()).await;
    let wrong = SecretString::from("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned());
    let config = WebhookConfig { signing_secret: Some(wrong), ..config(&example.url) };
    let state = State::new();
    state.put(&["webhook"], 1, 1).await;
    let _ship = state.ship(vec![Arc::new(Webhook::new(&config).expect("webhook"))]).await;
    for _ in 0..500 {
        if state.delivery("webhook", 1, 1).await.3.contains("401") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (waits, _, _, error) = state.delivery("webhook", 1, 1).await;
    assert!(waits == 0 && error.starts_with("HTTP 401"), "{error}");
    assert!(!example.database.exists());
}

#[tokio::test]
async fn the_example_receiver_tells_that_it_is_there_and_survives_what_is_no_time() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let example = Example::start(dir.path()).await;
    assert_eq!(example.asked(reqwest::Method::HEAD, &[]).await, 204);
    let found = Webhook::new(&config(&example.url)).expect("webhook").check().await;
    assert!(found.iter().all(|f| f.level == callferry::finding::Level::Ok), "{found:?}");
    for time in ["", "soon", "-1", "1e9", "²", "99999999999999999999999", "0"] {
        let headers = [("webhook-id", "a/1"), ("webhook-timestamp", time), ("webhook-signature", "v1,é v1,AAAA")];
        assert_eq!(example.asked(reqwest::Method::POST, &headers).await, 401, "{time:?}");
    }
    assert_eq!(example.asked(reqwest::Method::POST, &[]).await, 401);
    assert!(!example.database.exists());
}

#[test]
fn the_example_receiver_does_not_start_without_a_secret() {
    for secret in [None, Some(""), Some("whsec_")] {
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/receiver.py")).env_remove("WEBHOOK_SECRET");
        command.envs(secret.map(|secret| ("WEBHOOK_SECRET", secret)));
        let output = command.arg("0").output().expect("python3");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{secret:?}");
        assert!(told.contains("WEBHOOK_SECRET is not set") && told.lines().count() == 1, "{secret:?}: {told}");
    }
}
