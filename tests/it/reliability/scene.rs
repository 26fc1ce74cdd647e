//! The running binary between a real database and a real receiver, with everything an admin would look at: readiness,
//! metrics, log.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use callferry::config::DatabaseKind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::e2e::agent::Agent;
use crate::e2e::calls::{CDR_COLUMNS, CEL_COLUMNS, MadeCall, MadeRow, insert};
use crate::e2e::crashes::README_TABLES;
use crate::e2e::receiver::{Arrival, Receiver, own_key};
use crate::support::database::{Place, TestDatabase};
use crate::support::server::free_port;

pub const SECOND: i64 = 1_000_000;
pub const LIMIT: Duration = Duration::from_secs(60);

/// Both tables with a serial id, as the kind of database spells it.
pub fn tables(kind: DatabaseKind) -> String {
    let mysql = README_TABLES.to_owned();
    if kind == DatabaseKind::MySql {
        return mysql;
    }
    let serial = mysql.replace("BIGINT AUTO_INCREMENT", "BIGSERIAL");
    let times = serial.replace("DATETIME", "TIMESTAMP");
    let keys = times.replace(",\n KEY (calldate), KEY (linkedid)", "").replace(", KEY (linkedid), KEY (eventtime)", "");
    format!("{keys} CREATE INDEX ON cdr (linkedid); CREATE INDEX ON cel (linkedid);")
}

/// The settings that make the agent read a database as `user`.
pub fn settings(place: &Place, user: &str) -> Vec<(&'static str, String)> {
    let place = Place { user: user.to_owned(), ..place.clone() };
    crate::e2e::settings_of(&place)
}

/// Calls that are written into a database, and what arrived of them.
pub struct Scene {
    pub database: TestDatabase,
    pub agent: Agent,
    pub receiver: Receiver,
    pub written: Vec<MadeCall>,
    port: u16,
    counter: u32,
    began: Instant,
}

impl Scene {
    /// An agent that is ready, with a call behind it.
    pub async fn start(mut database: TestDatabase, user: &str, more: &[(&str, &str)]) -> Self {
        database.run(&tables(database.place.kind)).await;
        let receiver = Receiver::start().await;
        let port = free_port();
        let mut agent = Agent::new(&settings(&database.place, user), &receiver.url());
        agent.set("DB_TIMEZONE", "UTC").set("MONITORING_ENABLED", "true").set("MONITORING_PORT", &port.to_string());
        for (name, value) in more {
            agent.set(name, value);
        }
        let mut scene =
            Self { database, agent, receiver, written: Vec::new(), port, counter: 100, began: Instant::now() };
        if user != scene.database.place.user {
            scene.grant(user).await;
        }
        scene.agent.start();
        scene.write(1).await;
        scene.arrived().await;
        scene.ready().await;
        scene
    }

    /// Makes `user`, who may read the two tables and nothing else.
    pub async fn grant(&mut self, user: &str) {
        let name = self.database.place.name.clone();
        let sql = match self.database.place.kind {
            DatabaseKind::MySql => format!(
                "CREATE USER IF NOT EXISTS '{user}'@'localhost'; GRANT SELECT ON `{name}`.cdr TO '{user}'@'localhost'; \
                 GRANT SELECT ON `{name}`.cel TO '{user}'@'localhost'"
            ),
            _ => format!(
                "DO $$ BEGIN CREATE ROLE {user} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 GRANT SELECT ON cdr, cel TO {user}"
            ),
        };
        self.database.run(&sql).await;
    }

    /// Calls that have just ended.
    pub fn make(&mut self, calls: u32) -> Vec<MadeCall> {
        let now = chrono::Utc::now().timestamp_micros();
        let made: Vec<MadeCall> = (0..calls)
            .map(|n| {
                let talk = SECOND * i64::from(5 + n % 20);
                MadeCall { start: now - 4 * SECOND - talk, ring: 2 * SECOND, talk, counter: self.counter + 2 * n }
            })
            .collect();
        self.counter += 2 * calls;
        made
    }

    /// Writes calls that have just ended, all at once.
    pub async fn write(&mut self, calls: u32) {
        let made = self.make(calls);
        put(&mut self.database, &made).await;
        self.written.extend(made);
    }

    /// Waits until every call that was written has arrived.
    pub async fn arrived(&self) {
        let all = self.written.len();
        self.receiver.received.wait(LIMIT, "every call that was written", |r| r.upserted().len() >= all).await;
    }

    /// Nothing was lost, nothing came under two keys, each call is whole. Returns how many deliveries were repeated.
    pub fn verify(&self) -> usize {
        complete(&self.written, &self.receiver.received.all())
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let ask = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(text)
        };
        let text = ask.await.unwrap_or_default();
        let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    pub async fn metric(&self, name: &str) -> Option<f64> {
        let (_, text) = self.get("/metrics").await;
        text.lines().find_map(|l| l.strip_prefix(name)?.split(' ').nth(1)?.parse().ok())
    }

    pub async fn ready(&self) {
        self.until("readiness", async || self.get("/readyz").await.0 == 200).await;
    }

    /// Waits until `/readyz` answers 503 with this word. Returns what it says.
    pub async fn unready(&self, word: &str) -> String {
        self.until(word, async || {
            let (status, body) = self.get("/readyz").await;
            status == 503 && body.contains(word)
        })
        .await;
        self.get("/readyz").await.1
    }

    pub async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let began = Instant::now();
        while !is().await {
            let (_, body) = self.get("/readyz").await;
            assert!(began.elapsed() < LIMIT, "{what} did not come about: {body}\n{}", self.agent.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Warnings and errors in the log.
    pub fn complaints(&self) -> Vec<String> {
        let log = self.agent.log();
        log.lines().filter(|l| l.contains(" WARN ") || l.contains("ERROR ")).map(str::to_owned).collect()
    }

    /// A row of the table of `make reliability`.
    pub fn tell(&self, what: &str, faults: &str) {
        let (calls, repeated, seconds) = (self.written.len(), self.verify(), self.began.elapsed().as_secs());
        println!("| {what} | {calls} | {faults} | 0 | 0 | {repeated} | {seconds} s |");
    }
}

/// Writes whole calls in one transaction.
pub async fn put(database: &mut TestDatabase, calls: &[MadeCall]) {
    let mut cel: Vec<MadeRow> = calls.iter().flat_map(MadeCall::cel).collect();
    cel.sort_by_key(|row| row.at);
    let cdr: Vec<MadeRow> = calls.iter().map(MadeCall::cdr).collect();
    database.run("START TRANSACTION").await;
    for rows in cel.chunks(500) {
        database.run(&insert("cel", CEL_COLUMNS, rows).expect("rows")).await;
    }
    if let Some(sql) = insert("cdr", CDR_COLUMNS, &cdr) {
        database.run(&sql).await;
    }
    database.run("COMMIT").await;
}

/// Every call arrived whole, under one key, with one content a key, and nothing else did. How many came again.
pub fn complete(written: &[MadeCall], arrivals: &[Arrival]) -> usize {
    let mut by_key: BTreeMap<String, String> = BTreeMap::new();
    let mut by_id: BTreeMap<String, &Value> = BTreeMap::new();
    for arrival in arrivals {
        assert!(!arrival.key.is_empty(), "a request without Idempotency-Key");
        let text = arrival.call.to_string();
        let first = by_key.entry(own_key(&arrival.call)).or_insert_with(|| text.clone());
        assert_eq!(*first, text, "one key, two documents");
        by_id.insert(arrival.call["id"].as_str().unwrap_or_default().to_owned(), &arrival.call);
    }
    for call in written {
        let id = format!("pbx:{}", call.linkedid());
        let document = by_id.get(&id).unwrap_or_else(|| panic!("{id} is lost"));
        assert_eq!(document["rows"], serde_json::json!({"cel": 14, "cdr": 1}), "{id} was shipped whole");
        assert_eq!(document["outcome"], "answered", "{id}");
    }
    assert_eq!(by_id.len(), written.len(), "no call but those that were written");
    assert_eq!(by_key.len(), written.len(), "every call under one key only");
    arrivals.len() - by_key.len()
}
