//! Servers and the agent killed with SIGKILL while calls come in.

use std::time::Duration;

use callferry::config::DatabaseKind;

use super::scene::{Scene, put};
use crate::e2e::crashes;
use crate::support::private::PrivateServer;

/// The database server is killed and started again after every portion of calls, at a moment of chance.
async fn server_killed(kind: DatabaseKind, calls: u32, kills: u32) {
    let Some(server) = PrivateServer::start(kind).await else { return };
    let database = server.database().await;
    let user = database.place.user.clone();
    let mut scene = Scene::start(database, &user, &[("BUSY_POLL_INTERVAL", "0.05"), ("DB_PAGE_SIZE", "500")]).await;
    for _ in 0..kills {
        let made = scene.make(calls / kills);
        // half of them are read while the server is being killed, the others lie there when it comes back
        let (now, later) = made.split_at(made.len() / 2);
        put(&mut scene.database, now).await;
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..250))).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..1_000))).await;
        scene.database = server.restart(&scene.database.place).await;
        put(&mut scene.database, later).await;
        assert!(scene.agent.is_running(), "the agent ended by itself\n{}", scene.agent.log());
        scene.written.extend(made);
    }
    scene.arrived().await;
    scene.ready().await;
    let told = scene.complaints().iter().filter(|l| l.contains("the source cannot be read")).count();
    assert!(told <= kills as usize, "{told} lines for {kills} outages");
    assert!(scene.agent.terminate(Duration::from_secs(15)).success());
    scene.tell(&format!("{} killed and restarted", kind_name(kind)), &format!("{kills} × SIGKILL"));
}

pub fn kind_name(kind: DatabaseKind) -> &'static str {
    match kind {
        DatabaseKind::MySql => "MariaDB",
        DatabaseKind::PostgreSql => "PostgreSQL",
        DatabaseKind::Sqlite => "SQLite",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_killed_three_times_while_calls_come_in() {
    server_killed(DatabaseKind::MySql, 300, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_killed_three_times_while_calls_come_in() {
    server_killed(DatabaseKind::PostgreSql, 300, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make reliability"]
async fn long_mariadb_killed_during_5000_calls() {
    server_killed(DatabaseKind::MySql, 5_000, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make reliability"]
async fn long_postgresql_killed_during_5000_calls() {
    server_killed(DatabaseKind::PostgreSql, 5_000, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make reliability"]
async fn long_agent_killed_fifty_times_during_5000_calls() {
    let began = std::time::Instant::now();
    let Some(repeated) = crashes::killed(5_000, 50).await else { return };
    println!("| agent killed | 5000 | 50 × SIGKILL | 0 | 0 | {repeated} | {} s |", began.elapsed().as_secs());
}
