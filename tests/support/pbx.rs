//! A PBX that writes rows into a test's database: whole calls, single rows, at any time and under any id.

use std::time::{SystemTime, UNIX_EPOCH};

use callferry::config::DatabaseKind;

use super::database::{TestDatabase, Values};

/// Rows are written in UTC, so that the zone is +00:00.
pub struct Pbx {
    pub database: TestDatabase,
    pub now_s: i64,
}

impl Pbx {
    /// A database with a CEL table that has an id and a CDR table that has none, as most systems have them.
    /// `None`: there is no such server here.
    pub async fn new(kind: DatabaseKind) -> Option<Self> {
        Some(Self::on(TestDatabase::new(kind).await?).await)
    }

    /// The same in a database that is there already.
    pub async fn on(mut database: TestDatabase) -> Self {
        match database.place.kind {
            DatabaseKind::MySql => {
                database.ddl("mariadb_cdr_canonical.sql").await;
                database.ddl("mariadb_extra.sql").await;
            }
            DatabaseKind::PostgreSql => {
                database.ddl("postgresql_cdr_canonical.sql").await;
                database.ddl("postgresql_extra.sql").await;
            }
            DatabaseKind::Sqlite => {
                // a view hides the row's number: a CDR without id
                database.ddl("sqlite3_custom.sql").await;
                database.run("ALTER TABLE cdr RENAME TO cdr_rows").await;
                database
                    .run("CREATE VIEW cdr AS SELECT calldate AS start, clid, src, dst, dcontext, channel, dstchannel, lastapp, \
                          lastdata, duration, billsec, disposition, uniqueid, linkedid, sequence FROM cdr_rows")
                    .await;
            }
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Self { database, now_s: now.as_secs() as i64 }
    }

    /// A reading of the server's clock, `ago_s` seconds before the test began.
    pub fn reading(&self, ago_s: i64) -> String {
        let time = chrono::DateTime::from_timestamp(self.now_s - ago_s, 0).expect("a time");
        time.format("%Y-%m-%d %H:%M:%S").to_string()
    }

    /// `<epoch>.<n>` of a channel that began `ago_s` seconds before the test.
    pub fn uniqueid(&self, ago_s: i64, n: i64) -> String {
        format!("{}.{n}", self.now_s - ago_s)
    }

    /// One event; `id`: as the database would have given it, or another.
    pub async fn cel(&mut self, id: Option<i64>, event: &str, ago_s: i64, uniqueid: &str, linkedid: &str) {
        let row = self.cel_row(id, event, ago_s, uniqueid, linkedid);
        self.database.insert("cel", &[row]).await;
    }

    pub fn cel_row(&self, id: Option<i64>, event: &str, ago_s: i64, uniqueid: &str, linkedid: &str) -> Values<'static> {
        let text = |s: &str| Some(s.to_owned());
        let sqlite = self.database.place.kind == DatabaseKind::Sqlite;
        let time = if sqlite { format!("{}.000000", self.now_s - ago_s) } else { self.reading(ago_s) };
        let mut row = vec![
            ("eventtype", text(event)),
            ("eventtime", Some(time)),
            ("uniqueid", text(uniqueid)),
            ("linkedid", text(linkedid)),
            ("channame", text("PJSIP/1001-00000001")),
        ];
        if self.database.place.kind == DatabaseKind::PostgreSql {
            for column in [
                "userdeftype",
                "cid_name",
                "cid_num",
                "cid_ani",
                "cid_rdnis",
                "cid_dnid",
                "exten",
                "context",
                "appname",
                "appdata",
                "accountcode",
                "peeraccount",
                "userfield",
                "peer",
            ] {
                row.push((column, text("")));
            }
            row.push(("amaflags", text("3")));
        }
        if let Some(id) = id {
            row.push((if sqlite { "AcctId" } else { "id" }, Some(id.to_string())));
        }
        row
    }

    /// One record of a channel that began `ago_s` before the test.
    pub async fn cdr(&mut self, ago_s: i64, duration_s: i64, uniqueid: &str, linkedid: &str) {
        let text = |s: &str| Some(s.to_owned());
        let sqlite = self.database.place.kind == DatabaseKind::Sqlite;
        let (table, start) = if sqlite { ("cdr_rows", "calldate") } else { ("cdr", "start") };
        let row = vec![
            (start, Some(self.reading(ago_s))),
            ("duration", Some(duration_s.to_string())),
            ("billsec", text("1")),
            ("src", text("1001")),
            ("dst", text("1002")),
            ("channel", text("PJSIP/1001-00000001")),
            ("disposition", text("ANSWERED")),
            ("uniqueid", text(uniqueid)),
            ("linkedid", text(linkedid)),
        ];
        self.database.insert(table, &[row]).await;
    }

    /// Empties the CEL table, so that its ids begin anew.
    pub async fn truncate_cel(&mut self) {
        let sql = match self.database.place.kind {
            DatabaseKind::MySql => "TRUNCATE TABLE cel",
            DatabaseKind::PostgreSql => "TRUNCATE TABLE cel RESTART IDENTITY",
            DatabaseKind::Sqlite => "DELETE FROM cel",
        };
        self.database.run(sql).await;
    }
}
