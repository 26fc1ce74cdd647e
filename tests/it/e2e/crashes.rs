//! SIGKILL at random moments: every call arrives, none twice by its key.

use std::time::Duration;

use super::agent::Agent;
use super::calls::MadeCall;
use super::receiver::Receiver;
use crate::reliability::scene::{complete, put};
use crate::support::database::TestDatabase;
use callferry::config::DatabaseKind;

/// The tables as the SIPSTACK README has them: both with a serial id.
pub const README_TABLES: &str = "
CREATE TABLE cdr (id BIGINT AUTO_INCREMENT PRIMARY KEY, calldate DATETIME NOT NULL, clid VARCHAR(80), src VARCHAR(80),
 dst VARCHAR(80), dcontext VARCHAR(80), channel VARCHAR(80), dstchannel VARCHAR(80), lastapp VARCHAR(80),
 lastdata VARCHAR(80), duration INT, billsec INT, disposition VARCHAR(45), amaflags INT, accountcode VARCHAR(20),
 uniqueid VARCHAR(150), userfield VARCHAR(255), linkedid VARCHAR(150), sequence INT,
 KEY (calldate), KEY (linkedid));
CREATE TABLE cel (id BIGINT AUTO_INCREMENT PRIMARY KEY, eventtype VARCHAR(30), eventtime DATETIME(6), cid_name VARCHAR(80),
 cid_num VARCHAR(80), cid_ani VARCHAR(80), cid_rdnis VARCHAR(80), cid_dnid VARCHAR(80), exten VARCHAR(80),
 context VARCHAR(80), channame VARCHAR(80), appname VARCHAR(80), appdata VARCHAR(512), amaflags INT,
 accountcode VARCHAR(20), uniqueid VARCHAR(150), linkedid VARCHAR(150), peer VARCHAR(80), userdeftype VARCHAR(255),
 extra VARCHAR(512), KEY (linkedid), KEY (eventtime));";

/// A small generator of its own, so that a failing run can be repeated from the seed it prints.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_twenty_times_while_two_thousand_calls_come_in() {
    killed(2_000, 20).await;
}

/// The agent is killed after every portion of calls. Returns how many deliveries were repeated; `None`: there is no
/// database server here.
pub async fn killed(count: u32, times: u32) -> Option<usize> {
    let mut database = TestDatabase::new(DatabaseKind::MySql).await?;
    database.run(README_TABLES).await;
    let now = chrono::Utc::now().timestamp_micros();
    let seed = std::env::var("CRASH_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(now as u64 | 1);
    eprintln!("CRASH_SEED={seed}");
    let mut dice = Dice(seed);

    let receiver = Receiver::start().await;
    let mut agent = Agent::new(&super::settings(&database), &receiver.url());
    agent.set("DB_TIMEZONE", "UTC").set("WEBHOOK_BATCH_SIZE", "7").set("DB_PAGE_SIZE", "700");
    agent.start();

    // the calls overlap: rows of a hundred of them at a time go in shuffled portions
    let begin = now - 3_600_000_000;
    let calls: Vec<MadeCall> = (0..count)
        .map(|n| MadeCall {
            start: begin + i64::from(n) * 500_000,
            ring: 2_000_000,
            talk: 1_000_000 * (1 + dice.below(60) as i64),
            counter: 10_000 + 2 * n,
        })
        .collect();
    let mut kills = 0;
    for portion in calls.chunks((count / times) as usize) {
        put(&mut database, portion).await;
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        assert!(agent.is_running(), "the agent ended by itself\n{}", agent.log());
        agent.kill();
        kills += 1;
        agent.start();
    }
    assert_eq!(kills, times);

    receiver
        .received
        .wait(Duration::from_secs(60), "all calls after the last kill", |r| r.upserted().len() >= count as usize)
        .await;
    let status = agent.terminate(Duration::from_secs(15));
    assert!(status.success(), "the agent ends with {status}");

    Some(complete(&calls, &receiver.received.all()))
}
