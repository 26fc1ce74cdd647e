//! Calls made to measure: rows as cel_odbc and cdr_adaptive_odbc would write them, at any time one likes.

use chrono::{DateTime, Utc};

pub const CEL_COLUMNS: &str = "eventtype, eventtime, cid_name, cid_num, cid_ani, cid_rdnis, cid_dnid, exten, context, \
    channame, appname, appdata, amaflags, accountcode, uniqueid, linkedid, peer, userdeftype, extra";
pub const CDR_COLUMNS: &str = "calldate, clid, src, dst, dcontext, channel, dstchannel, lastapp, lastdata, duration, \
    billsec, disposition, amaflags, accountcode, uniqueid, userfield, linkedid, sequence";

/// An answered inbound call: a trunk rings 1001, they talk.
#[derive(Clone, Copy, Debug)]
pub struct MadeCall {
    /// Microseconds since 1970 UTC.
    pub start: i64,
    /// Microseconds.
    pub ring: i64,
    /// Microseconds.
    pub talk: i64,
    pub counter: u32,
}

/// A row: the moment Asterisk would write it, and its values in the order of the columns above.
#[derive(Clone, Debug)]
pub struct MadeRow {
    pub at: i64,
    pub values: Vec<String>,
}

impl MadeCall {
    pub fn linkedid(&self) -> String {
        format!("{}.{}", self.start.div_euclid(1_000_000), self.counter)
    }

    fn callee_uniqueid(&self) -> String {
        format!("{}.{}", self.start.div_euclid(1_000_000), self.counter + 1)
    }

    fn channels(&self) -> (String, String) {
        (format!("PJSIP/trunk-acme-{:08x}", self.counter), format!("PJSIP/1001-{:08x}", self.counter + 1))
    }

    pub fn answer(&self) -> i64 {
        self.start + self.ring
    }

    pub fn end(&self) -> i64 {
        self.answer() + self.talk
    }

    /// The 14 CEL rows of the call.
    pub fn cel(&self) -> Vec<MadeRow> {
        let (a, b) = (self.linkedid(), self.callee_uniqueid());
        let (cha, chb) = self.channels();
        let (answer, end) = (self.answer(), self.end());
        let bridge = format!(r#"{{"bridge_id":"br-{}","bridge_technology":"simple_bridge"}}"#, self.counter);
        let hangup = |status: &str| format!(r#"{{"hangupcause":16,"hangupsource":"{cha}","dialstatus":"{status}"}}"#);
        let data = "PJSIP/1001,20";
        let mut rows = Vec::new();
        let mut row =
            |at: i64, event: &str, caller: bool, exten: &str, app: &str, appdata: &str, peer: &str, extra: &str| {
                let (uniqueid, channel, name, num) =
                    if caller { (&a, &cha, "Outside", "+420777000111") } else { (&b, &chb, "Alice", "1001") };
                let context = if caller { "from-trunk" } else { "from-internal" };
                rows.push(MadeRow {
                    at,
                    values: [
                        event,
                        &wall(at),
                        name,
                        num,
                        num,
                        "",
                        if caller { "420224000101" } else { "" },
                        exten,
                        context,
                        channel,
                        app,
                        appdata,
                        "3",
                        "",
                        uniqueid,
                        &a,
                        peer,
                        "",
                        extra,
                    ]
                    .map(str::to_owned)
                    .to_vec(),
                });
            };
        let did = "420224000101";
        row(self.start, "CHAN_START", true, did, "", "", "", "");
        row(self.start + 2_000, "APP_START", true, did, "Dial", data, "", "");
        row(self.start + 3_000, "CHAN_START", false, "s", "", "", "", "");
        row(answer, "ANSWER", false, did, "AppDial", "(Outgoing Line)", "", "");
        row(answer + 100, "ANSWER", true, did, "Dial", data, "", "");
        row(answer + 1_000, "BRIDGE_ENTER", false, "", "AppDial", "(Outgoing Line)", "", &bridge);
        row(answer + 1_100, "BRIDGE_ENTER", true, did, "Dial", data, &chb, &bridge);
        row(end - 3_000, "BRIDGE_EXIT", true, did, "Dial", data, &chb, &bridge);
        row(end - 2_500, "BRIDGE_EXIT", false, "", "AppDial", "(Outgoing Line)", "", &bridge);
        row(end - 1_000, "HANGUP", false, "", "AppDial", "(Outgoing Line)", "", &hangup(""));
        row(end - 1_000, "CHAN_END", false, "", "AppDial", "(Outgoing Line)", "", "");
        row(end, "HANGUP", true, did, "", "", "", &hangup("ANSWER"));
        row(end, "CHAN_END", true, did, "", "", "", "");
        row(end, "LINKEDID_END", true, did, "", "", "", "");
        rows
    }

    pub fn cdr(&self) -> MadeRow {
        let (cha, chb) = self.channels();
        let a = self.linkedid();
        MadeRow {
            at: self.end(),
            values: [
                &wall(self.start)[..19],
                "\"Outside\" <+420777000111>",
                "+420777000111",
                "420224000101",
                "from-trunk",
                &cha,
                &chb,
                "Dial",
                "PJSIP/1001,20",
                &((self.ring + self.talk) / 1_000_000).to_string(),
                &(self.talk / 1_000_000).to_string(),
                "ANSWERED",
                "3",
                "",
                &a,
                "",
                &a,
                &self.counter.to_string(),
            ]
            .map(str::to_owned)
            .to_vec(),
        }
    }
}

/// As a server in UTC writes it.
fn wall(micros: i64) -> String {
    DateTime::<Utc>::from_timestamp_micros(micros).expect("a time of this century").format("%F %T%.6f").to_string()
}

/// `INSERT` of many rows with literal values, in the order given. For MySQL/MariaDB, PostgreSQL and SQLite alike.
pub fn insert(table: &str, columns: &str, rows: &[MadeRow]) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    let literals: Vec<String> = rows
        .iter()
        .map(|r| {
            let cells: Vec<String> = r.values.iter().map(|v| format!("'{}'", v.replace('\'', "''"))).collect();
            format!("({})", cells.join(","))
        })
        .collect();
    Some(format!("INSERT INTO {table} ({columns}) VALUES {}", literals.join(",")))
}
