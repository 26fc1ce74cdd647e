//! A database that fails, one way after another, under one running agent: it says what is wrong in `/readyz`, by a metric
//! and in one line, keeps its place, and goes on by itself.

use std::time::Duration;

use callferry::config::DatabaseKind;

use super::scene::{Scene, put};
use super::servers::kind_name;
use crate::support::private::PrivateServer;

const READER: &str = "reader";
/// The agent's connection is the only one of its user.
const CUT: &str = "SET @kill = (SELECT CONCAT('KILL ', MAX(ID)) FROM information_schema.PROCESSLIST WHERE USER = 'reader'); \
                   EXECUTE IMMEDIATE @kill";

struct Failing {
    scene: Scene,
    server: PrivateServer,
    kind: DatabaseKind,
    /// Warnings and errors told so far.
    told: usize,
}

impl Failing {
    async fn start(kind: DatabaseKind) -> Option<Self> {
        let server = PrivateServer::start(kind).await?;
        let database = server.database().await;
        let scene = Scene::start(database, READER, &[("DB_TIMEOUT", "1")]).await;
        Some(Self { scene, server, kind, told: 0 })
    }

    fn mysql(&self) -> bool {
        self.kind == DatabaseKind::MySql
    }

    async fn run(&mut self, mysql: &str, postgres: &str) {
        let sql = if self.mysql() { mysql } else { postgres };
        self.scene.database.run(sql).await;
    }

    fn source_up(&self) -> String {
        let kind = if self.mysql() { "mysql" } else { "postgresql" };
        format!("callferry_source_up{{kind=\"{kind}\"}}")
    }

    /// The agent has noticed, says why, and does not say it again and again.
    async fn is_told(&mut self, word: &str) {
        let body = self.scene.unready(word).await;
        assert!(!body.contains("password"), "{body}");
        assert_eq!(self.scene.metric(&self.source_up()).await, Some(0.0), "{word}");
        // several attempts later
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(self.new_complaints(), 1, "{word}: {:?}", self.scene.complaints());
        assert!(self.scene.agent.is_running(), "{word}");
    }

    fn new_complaints(&mut self) -> usize {
        let now = self.scene.complaints().len();
        now - std::mem::replace(&mut self.told, now)
    }

    /// Everything that was written has arrived, and new calls do.
    async fn goes_on(&mut self) {
        self.scene.write(3).await;
        self.scene.arrived().await;
        self.scene.ready().await;
        assert_eq!(self.scene.metric(&self.source_up()).await, Some(1.0));
    }
}

async fn every_failure(kind: DatabaseKind) {
    let Some(mut failing) = Failing::start(kind).await else { return };
    let name = failing.scene.database.place.name.clone();

    // the connection is cut, with calls written at that moment: "server has gone away"
    for _ in 0..3 {
        failing.scene.write(2).await;
        failing
            .run(CUT, &format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{READER}'"))
            .await;
        failing.goes_on().await;
    }
    assert!(failing.new_complaints() <= 3, "{:?}", failing.scene.complaints());

    // the server is gone, and comes back
    failing.server.kill();
    failing.is_told("cannot reach the database").await;
    failing.scene.database = failing.server.restart(&failing.scene.database.place).await;
    failing.goes_on().await;

    // a table is locked for longer than DB_TIMEOUT
    failing.run("LOCK TABLES cel WRITE", "BEGIN; LOCK TABLE cel IN ACCESS EXCLUSIVE MODE").await;
    failing.is_told("DB_TIMEOUT").await;
    failing.run("UNLOCK TABLES", "COMMIT").await;
    failing.goes_on().await;

    // a right is taken away; what is written meanwhile is read when it is back
    for table in ["cel", "cdr"] {
        failing
            .run(
                &format!("REVOKE SELECT ON `{name}`.{table} FROM '{READER}'@'localhost'"),
                &format!("REVOKE SELECT ON {table} FROM {READER}"),
            )
            .await;
        // records are asked for when a call has ended
        failing.scene.write(2).await;
        failing.is_told("GRANT SELECT").await;
        failing.scene.grant(READER).await;
        failing.goes_on().await;
    }

    // columns and an index are added
    failing
        .run(
            "ALTER TABLE cel ADD COLUMN peeraccount VARCHAR(80) DEFAULT '' AFTER peer; ALTER TABLE cdr ADD COLUMN did \
             VARCHAR(50) FIRST; CREATE INDEX u ON cel (uniqueid)",
            "ALTER TABLE cel ADD COLUMN peeraccount VARCHAR(80) DEFAULT ''; ALTER TABLE cdr ADD COLUMN did VARCHAR(50); \
             CREATE INDEX ON cel (uniqueid)",
        )
        .await;
    failing.goes_on().await;
    assert_eq!(failing.new_complaints(), 0, "{:?}", failing.scene.complaints());

    // emptied, so that ids begin anew; what is written then is newer than what was read
    tokio::time::sleep(Duration::from_secs(3)).await;
    failing.run("TRUNCATE TABLE cel; TRUNCATE TABLE cdr", "TRUNCATE cel, cdr RESTART IDENTITY").await;
    failing.goes_on().await;
    failing.goes_on().await;
    failing.new_complaints();

    // the newest rows are gone for a while: another server that lags behind
    failing.scene.write(1).await;
    failing.scene.arrived().await;
    failing
        .run(
            "CREATE TABLE ahead AS SELECT * FROM cel ORDER BY id DESC LIMIT 14; DELETE FROM cel WHERE id IN (SELECT id FROM \
             ahead)",
            "CREATE TABLE ahead AS SELECT * FROM cel ORDER BY id DESC LIMIT 14; DELETE FROM cel WHERE id IN (SELECT id FROM \
             ahead)",
        )
        .await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(failing.new_complaints(), 1, "{:?}", failing.scene.complaints());
    failing.run("INSERT INTO cel SELECT * FROM ahead", "INSERT INTO cel SELECT * FROM ahead").await;
    failing.goes_on().await;

    // dropped, and created anew a while later
    failing.run("DROP TABLE cel", "DROP TABLE cel").await;
    failing.is_told("there is no table cel").await;
    failing.run("CREATE TABLE cel LIKE ahead", "CREATE TABLE cel (LIKE ahead)").await;
    failing
        .run(
            "ALTER TABLE cel MODIFY id BIGINT AUTO_INCREMENT PRIMARY KEY, ADD KEY (linkedid)",
            "ALTER TABLE cel ALTER id SET NOT NULL, ALTER id ADD GENERATED BY DEFAULT AS IDENTITY, ADD PRIMARY KEY (id)",
        )
        .await;
    failing.scene.grant(READER).await;
    failing.goes_on().await;
    failing.new_complaints();

    if failing.mysql() {
        clock_of_the_database(&mut failing).await;
    }
    assert!(failing.scene.agent.terminate(Duration::from_secs(15)).success());
    let faults = "connection cut, killed, locked, rights revoked, altered, emptied, lagging, dropped";
    failing.scene.tell(&format!("{} failing in every way", kind_name(kind)), faults);
}

/// The server's clock is an hour back and stands still, is an hour ahead, and is right again.
async fn clock_of_the_database(failing: &mut Failing) {
    for seconds in [-3_600, 3_600, 0] {
        // takes effect for new connections of users without special rights
        let set = match seconds {
            0 => String::new(),
            _ => format!("SET timestamp = UNIX_TIMESTAMP() + {seconds}"),
        };
        failing.scene.database.run(&format!("SET GLOBAL init_connect = '{set}'; {CUT}")).await;
        for _ in 0..3 {
            failing.goes_on().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_fails_in_every_way() {
    every_failure(DatabaseKind::MySql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_fails_in_every_way() {
    every_failure(DatabaseKind::PostgreSql).await;
}

/// Two writers whose transactions wait for each other while the agent reads: it takes no locks, and is nobody's victim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_in_a_deadlock_do_not_disturb_reading() {
    for kind in [DatabaseKind::MySql, DatabaseKind::PostgreSql] {
        let Some(server) = PrivateServer::start(kind).await else { continue };
        let database = server.database().await;
        let mut scene = Scene::start(database, READER, &[]).await;
        let place = scene.database.place.clone();
        let mut other = server.connect(&place).await;
        // each holds a row and wants that of the other: the server ends one of them
        scene.database.run("CREATE TABLE counter (n INT PRIMARY KEY, v INT)").await;
        scene.database.run("INSERT INTO counter VALUES (1, 0), (2, 0)").await;
        let made = scene.make(4);
        scene.database.run("START TRANSACTION").await;
        other.run("START TRANSACTION").await;
        scene.database.run("UPDATE counter SET v = 1 WHERE n = 1").await;
        other.run("UPDATE counter SET v = 1 WHERE n = 2").await;
        let (one, two) = tokio::join!(
            scene.database.try_run("UPDATE counter SET v = 2 WHERE n = 2"),
            other.try_run("UPDATE counter SET v = 2 WHERE n = 1")
        );
        assert!(one.is_err() != two.is_err(), "one of them is the victim: {one:?} {two:?}");
        let _ = scene.database.try_run("ROLLBACK").await;
        let _ = other.try_run("ROLLBACK").await;
        put(&mut scene.database, &made).await;
        scene.written.extend(made);
        scene.arrived().await;
        assert_eq!(scene.complaints(), Vec::<String>::new());
        scene.agent.terminate(Duration::from_secs(15));
        scene.verify();
    }
}
