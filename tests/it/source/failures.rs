//! What goes wrong between an agent and a database: wrong settings end the start with one message that names them, passing
//! failures keep the place.

use std::time::Duration;

use callferry::config::{DatabaseKind, TlsMode};
use callferry::source::{self, SourceError, Table};
use secrecy::SecretString;

use crate::support::database::TestDatabase;
use crate::support::mariadb::MariaDb;
use crate::support::memory::Reading;
use crate::support::pbx::Pbx;
use crate::support::postgres::Postgres;
use crate::support::private::PrivateServer;

const SERVERS: [DatabaseKind; 2] = [DatabaseKind::MySql, DatabaseKind::PostgreSql];

/// The message of a failure that only an admin can mend.
async fn setup(config: &callferry::config::SourceConfig) -> String {
    match Reading::new(config).drain().await {
        Err(SourceError::Setup(text)) => text,
        other => panic!("a wrong setting, and: {other:?}"),
    }
}

#[tokio::test]
async fn a_user_who_may_only_select_is_enough() {
    for kind in SERVERS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let user = format!("reader_{}", pbx.database.place.name);
        let name = pbx.database.place.name.clone();
        pbx.database
            .run(&match kind {
                DatabaseKind::MySql => format!(
                    "CREATE USER '{user}'@'localhost' IDENTIFIED BY 'right'; GRANT SELECT ON `{name}`.cdr TO \
                     '{user}'@'localhost'; GRANT SELECT ON `{name}`.cel TO '{user}'@'localhost'"
                ),
                _ => format!("CREATE ROLE {user} LOGIN PASSWORD 'right'; GRANT SELECT ON cdr, cel TO {user}"),
            })
            .await;
        let a = pbx.uniqueid(10, 1);
        pbx.cel(None, "CHAN_START", 10, &a, &a).await;
        pbx.cdr(10, 5, &a, &a).await;
        let mut config = pbx.database.config();
        config.database.user = user;
        config.database.password = Some(SecretString::from("right".to_owned()));
        let mut reading = Reading::new(&config);
        assert_eq!(reading.drain().await.expect("SELECT is all it takes"), 2);
        let problems: Vec<_> = source::check(&config)
            .await
            .into_iter()
            .filter(|f| f.level == callferry::finding::Level::Problem)
            .collect();
        assert!(problems.is_empty(), "{problems:?}");
    }
}

#[tokio::test]
async fn wrong_settings_are_named_and_passwords_are_not() {
    let Some(mut pbx) = Pbx::new(DatabaseKind::MySql).await else { return };
    let name = pbx.database.place.name.clone();
    pbx.database
        .run(&format!(
            "CREATE USER 'half_{name}'@'localhost' IDENTIFIED BY 'right'; GRANT SELECT ON `{name}`.cel TO \
             'half_{name}'@'localhost'"
        ))
        .await;
    let good = pbx.database.config();

    let mut config = good.clone();
    config.database.user = format!("half_{name}");
    config.database.password = Some(SecretString::from("s3cret-wrong".to_owned()));
    let text = setup(&config).await;
    assert!(text.contains("DB_USER and DB_PASSWORD") && !text.contains("s3cret"), "{text}");

    config.database.password = Some(SecretString::from("right".to_owned()));
    let text = setup(&config).await;
    assert!(text.contains("GRANT SELECT ON") && text.contains("DB_TABLE_CDR"), "{text}");

    let mut config = good.clone();
    config.database.name = "no_such_database".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("no_such_database") && text.contains("DB_NAME"), "{text}");

    let mut config = good.clone();
    config.database.table_cel = "no_such_table".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("no_such_table") && text.contains("DB_TABLE_CEL"), "{text}");

    let mut config = good.clone();
    config.database.tls = TlsMode::Require;
    let text = setup(&config).await;
    assert!(text.contains("DB_TLS"), "{text}");
}

#[tokio::test]
async fn wrong_settings_of_postgresql() {
    let Some(mut pbx) = Pbx::new(DatabaseKind::PostgreSql).await else { return };
    pbx.database
        .run(
            "DO $$ BEGIN CREATE ROLE pw_user LOGIN PASSWORD 'right'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        )
        .await;
    let good = pbx.database.config();

    let mut config = good.clone();
    config.database.user = "pw_user".to_owned();
    config.database.password = Some(SecretString::from("s3cret-wrong".to_owned()));
    let text = setup(&config).await;
    assert!(text.contains("DB_USER and DB_PASSWORD") && !text.contains("s3cret"), "{text}");

    config.database.password = Some(SecretString::from("right".to_owned()));
    let text = setup(&config).await;
    assert!(text.contains("GRANT SELECT ON") && text.contains("DB_TABLE_CEL"), "{text}");

    let mut config = good.clone();
    config.database.name = "no_such_database".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("no_such_database") && text.contains("DB_NAME"), "{text}");

    let mut config = good.clone();
    config.database.table_cdr = "CDR".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("DB_TABLE_CDR") && text.contains("capital"), "{text}");
}

#[tokio::test]
async fn hosts_that_do_not_answer() {
    for (kind, host) in [(DatabaseKind::MySql, "127.0.0.1"), (DatabaseKind::PostgreSql, "127.0.0.1")] {
        let mut config = TestDatabase::sqlite().config();
        config.database.kind = kind;
        config.database.socket = None;
        config.database.host = host.to_owned();
        config.database.port = crate::support::server::free_port();
        config.database.name = "asterisk".to_owned();
        let Err(SourceError::Transient(text)) = Reading::new(&config).drain().await else { panic!("it may come up") };
        assert!(text.contains("DB_HOST and DB_PORT") && text.contains(&config.database.port.to_string()), "{text}");
        assert!(text.contains("this address is the container itself"), "{text}");
    }
    // a host that takes the connection and says nothing
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = TestDatabase::sqlite().config();
    config.database.kind = DatabaseKind::MySql;
    config.database.host = "127.0.0.1".to_owned();
    config.database.port = listener.local_addr().expect("an address").port();
    config.database.timeout = Duration::from_secs(1);
    let Err(SourceError::Transient(text)) = Reading::new(&config).drain().await else { panic!("it may come up") };
    assert!(text.contains("DB_TIMEOUT"), "{text}");
}

#[tokio::test]
async fn sqlite_files_that_are_none() {
    let mut config = TestDatabase::sqlite().config();
    config.database.name = "/nonexistent/master.db".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("DB_NAME") && text.contains("/nonexistent/master.db"), "{text}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "this is not a database, whatever its name says; it is long enough to look at")
        .expect("it");
    config.database.name = file.path().to_string_lossy().into_owned();
    let text = setup(&config).await;
    assert!(text.contains("not a SQLite database"), "{text}");
}

#[tokio::test]
async fn two_sqlite_files_and_one_put_in_anothers_place() {
    let mut cdr = TestDatabase::sqlite();
    let mut cel = TestDatabase::sqlite();
    cdr.ddl("sqlite3_custom.sql").await;
    cdr.run("DROP TABLE cel").await;
    cel.ddl("sqlite3_custom.sql").await;
    cel.run("DROP TABLE cdr").await;
    cel.run(
        "INSERT INTO cel (eventtype, eventtime, uniqueid, linkedid, channame) VALUES ('CHAN_START', \
             '1795214890.5', '1795214890.1', '1795214890.1', 'PJSIP/1-1')",
    )
    .await;
    let mut config = cdr.config();
    config.database.name_cel = Some(cel.place.name.clone());
    let mut reading = Reading::new(&config);
    assert_eq!(reading.drain().await.expect("both files are read"), 1);
    // rotated: another file under the same name
    let mut fresh = TestDatabase::sqlite();
    fresh.ddl("sqlite3_custom.sql").await;
    fresh
        .run(
            "INSERT INTO cel (eventtype, eventtime, uniqueid, linkedid, channame) VALUES ('CHAN_START', \
              '1795214990.5', '1795214990.1', '1795214990.1', 'PJSIP/1-1')",
        )
        .await;
    std::fs::rename(&fresh.place.name, &cel.place.name).expect("a rename");
    assert_eq!(reading.drain().await.expect("reads"), 1);
    assert_eq!(reading.generations(Table::Cel), [0, 1]);
}

async fn filled(pbx: &mut Pbx) -> Reading {
    for n in 0..10 {
        let a = pbx.uniqueid(20, n);
        pbx.cel(None, "CHAN_START", 20, &a, &a).await;
        pbx.cdr(20, 1, &a, &a).await;
    }
    let timing = callferry::source::sql::Timing { scan_share: 0, ..Default::default() };
    let mut reading = Reading::timed(&pbx.database.config(), timing);
    assert_eq!(reading.drain().await.expect("reads"), 20);
    reading
}

/// Rows written before a crash, during the outage and after: all arrive once, from where reading stood.
#[tokio::test]
async fn a_server_is_killed_and_comes_back() {
    for kind in SERVERS {
        let Some(server) = PrivateServer::start(kind).await else { continue };
        let mut pbx = Pbx::on(server.database().await).await;
        let mut reading = filled(&mut pbx).await;
        server.kill();
        let failure = reading.drain().await.expect_err("the server is gone");
        assert!(matches!(failure, SourceError::Transient(_)), "{failure}");
        reading.drain().await.expect_err("and stays so");
        let mut pbx = Pbx { database: server.restart(&pbx.database.place).await, now_s: pbx.now_s };
        for n in 100..110 {
            let a = pbx.uniqueid(5, n);
            pbx.cel(None, "CHAN_START", 5, &a, &a).await;
            pbx.cdr(5, 1, &a, &a).await;
        }
        reading.drain().await.expect("it reconnects by itself");
        assert_eq!(reading.rows(Table::Cel).len(), 20);
        let wishes: Vec<String> = (100..110).map(|n| pbx.uniqueid(5, n)).collect();
        let wishes = callferry::source::Wishes { cdr_of: wishes, ..Default::default() };
        reading.poll_for(&wishes).await.expect("reads");
        assert_eq!(reading.rows(Table::Cdr).len(), 20);
        assert_eq!((reading.repeated, reading.generations(Table::Cel)), (0, vec![0]));
    }
}

#[tokio::test]
async fn a_poll_that_is_dropped_half_way_costs_nothing() {
    use callferry::source::{Source, Wishes};
    for kind in SERVERS {
        let Some(mut pbx) = Pbx::new(kind).await else { continue };
        let mut reading = filled(&mut pbx).await;
        for n in 0..40 {
            let a = pbx.uniqueid(5, 200 + n);
            pbx.cel(None, "CHAN_START", 5, &a, &a).await;
            let limit = Duration::from_micros(100 * u64::try_from(n).unwrap_or(0));
            let wishes = Wishes::default();
            let _ = tokio::time::timeout(limit, reading.source.poll(&wishes)).await;
        }
        reading.drain().await.expect("reads");
        assert_eq!((reading.rows(Table::Cel).len(), reading.repeated), (50, 0), "{kind:?}");
    }
}

/// Encryption as the settings ask for it: a private authority is believed only where it is named.
async fn encrypted(mut config: callferry::config::SourceConfig, port: u16, ca: std::path::PathBuf) {
    config.database.socket = None;
    config.database.port = port;
    for tls in [TlsMode::Prefer, TlsMode::Require] {
        config.database.tls = tls;
        Reading::new(&config).drain().await.unwrap_or_else(|e| panic!("{tls:?}: {e}"));
    }
    config.database.tls = TlsMode::Verify;
    let text = setup(&config).await;
    assert!(text.contains("DB_TLS") && text.contains("DB_CA_FILE"), "{text}");
    let named = callferry::config::Certificates::authorities("DB_CA_FILE", &ca);
    config.database.certificates.ca = Some(named.expect("the authority's file"));
    Reading::new(&config).drain().await.expect("its authority is named");
    // the certificate is for localhost, not for every name of this machine
    config.database.host = "127.0.0.1".to_owned();
    let text = setup(&config).await;
    assert!(text.contains("DB_TLS"), "{text}");
}

#[tokio::test]
async fn mariadb_over_tls() {
    let Some((server, port, ca)) = MariaDb::with_tls().await else { return };
    let mut pbx = Pbx::on(server.database().await).await;
    pbx.database
        .run("CREATE USER tls_user@'%' IDENTIFIED BY 'right' REQUIRE SSL; GRANT SELECT ON *.* TO tls_user@'%'")
        .await;
    let mut config = pbx.database.config();
    config.database.user = "tls_user".to_owned();
    config.database.password = Some(SecretString::from("right".to_owned()));
    encrypted(config.clone(), port, ca).await;
    config.database.socket = None;
    config.database.port = port;
    config.database.tls = TlsMode::Off;
    let text = setup(&config).await;
    assert!(text.contains("DB_USER"), "{text}");
}

#[tokio::test]
async fn postgresql_over_tls() {
    let Some((server, port, ca)) = Postgres::with_tls().await else { return };
    let pbx = Pbx::on(server.database().await).await;
    encrypted(pbx.database.config(), port, ca).await;
    let mut config = pbx.database.config();
    config.database.socket = None;
    config.database.port = port;
    config.database.tls = TlsMode::Off;
    let text = setup(&config).await;
    assert!(text.contains("DB_TLS"), "{text}");
}
