//! Calls as rows: one answered call is eight channel events and one record, as Asterisk writes them where BRIDGE_EXIT and
//! CHAN_END are not logged. Deterministic: the same number gives the same call.

use chrono::DateTime;

/// One row with the moment it is written, microseconds.
pub struct Row {
    pub at: i64,
    pub call: usize,
    pub line: String,
    pub table: Table,
    /// The last of its call.
    pub last: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Cel,
    Cdr,
}

/// The tables as cel_odbc and cdr_adaptive_odbc are usually given them, without their indexes.
pub const TABLES: &str = "
CREATE TABLE cdr (id BIGINT AUTO_INCREMENT PRIMARY KEY, calldate DATETIME NOT NULL, clid VARCHAR(80) NOT NULL DEFAULT '',
 src VARCHAR(80) NOT NULL DEFAULT '', dst VARCHAR(80) NOT NULL DEFAULT '', dcontext VARCHAR(80) NOT NULL DEFAULT '',
 channel VARCHAR(80) NOT NULL DEFAULT '', dstchannel VARCHAR(80) NOT NULL DEFAULT '', lastapp VARCHAR(80) NOT NULL DEFAULT '',
 lastdata VARCHAR(200) NOT NULL DEFAULT '', duration INT NOT NULL DEFAULT 0, billsec INT NOT NULL DEFAULT 0,
 disposition VARCHAR(45) NOT NULL DEFAULT '', amaflags INT NOT NULL DEFAULT 0, accountcode VARCHAR(20) NOT NULL DEFAULT '',
 uniqueid VARCHAR(150) NOT NULL DEFAULT '', userfield VARCHAR(255) NOT NULL DEFAULT '', linkedid VARCHAR(150) NOT NULL DEFAULT '',
 sequence INT NOT NULL DEFAULT 0, peeraccount VARCHAR(20) NOT NULL DEFAULT '') ENGINE=InnoDB;
CREATE TABLE cel (id BIGINT AUTO_INCREMENT PRIMARY KEY, eventtype VARCHAR(30) NOT NULL, eventtime DATETIME(6) NOT NULL,
 cid_name VARCHAR(80) NOT NULL DEFAULT '', cid_num VARCHAR(80) NOT NULL DEFAULT '', cid_ani VARCHAR(80) NOT NULL DEFAULT '',
 cid_rdnis VARCHAR(80) NOT NULL DEFAULT '', cid_dnid VARCHAR(80) NOT NULL DEFAULT '', exten VARCHAR(80) NOT NULL DEFAULT '',
 context VARCHAR(80) NOT NULL DEFAULT '', channame VARCHAR(80) NOT NULL DEFAULT '', appname VARCHAR(80) NOT NULL DEFAULT '',
 appdata VARCHAR(512) NOT NULL DEFAULT '', amaflags INT NOT NULL DEFAULT 0, accountcode VARCHAR(20) NOT NULL DEFAULT '',
 uniqueid VARCHAR(150) NOT NULL DEFAULT '', linkedid VARCHAR(150) NOT NULL DEFAULT '', peer VARCHAR(80) NOT NULL DEFAULT '',
 userdeftype VARCHAR(255) NOT NULL DEFAULT '', extra VARCHAR(512) NOT NULL DEFAULT '') ENGINE=InnoDB;
";

pub const INDEXES: &str = "
ALTER TABLE cdr ADD INDEX idx_cdr_calldate (calldate), ADD INDEX idx_cdr_linkedid (linkedid);
ALTER TABLE cel ADD INDEX idx_cel_eventtime (eventtime), ADD INDEX idx_cel_linkedid (linkedid);
";

/// Columns in the order of a line's values.
pub const fn columns(table: Table) -> &'static str {
    match table {
        Table::Cdr => {
            "calldate, clid, src, dst, dcontext, channel, dstchannel, lastapp, lastdata, duration, billsec, disposition, amaflags, \
             accountcode, uniqueid, userfield, linkedid, sequence, peeraccount"
        }
        Table::Cel => {
            "eventtype, eventtime, cid_name, cid_num, cid_ani, cid_rdnis, cid_dnid, exten, context, channame, appname, appdata, \
             amaflags, accountcode, uniqueid, linkedid, peer, userdeftype, extra"
        }
    }
}

/// When a call begins and how it goes, microseconds.
#[derive(Clone, Copy)]
pub struct Course {
    pub start: i64,
    pub ring: i64,
    pub talk: i64,
    /// Whether its record is written.
    pub record: bool,
}

/// The linkedid of a call.
pub fn linkedid(call: usize, start: i64) -> String {
    format!("{}.{}", start / 1_000_000, 100_000 + 3 * call)
}

/// The rows of one call; values are separated by tabs.
pub fn rows(call: usize, course: Course) -> Vec<Row> {
    let mut random = fastrand::Rng::with_seed(call as u64);
    let Course { start, ring, talk, record } = course;
    let epoch = start / 1_000_000;
    let number = 100_000 + 3 * call;
    let (a, b) = (format!("{epoch}.{number}"), format!("{epoch}.{}", number + 1));
    let extension = 1_000 + random.u32(..200);
    let outside = format!("1416555{:04}", random.u32(..10_000));
    let did = format!("1647875{:04}", random.u32(..10_000));
    let (h, h2) = (format!("{number:08x}"), format!("{:08x}", number + 1));
    let (src, dst, context, from, to) = match random.u32(..4) {
        0 | 1 => (outside, did, "from-trunk", format!("PJSIP/trunk-{h}"), format!("PJSIP/{extension}-{h2}")),
        2 => (
            extension.to_string(),
            outside,
            "from-internal",
            format!("PJSIP/{extension}-{h}"),
            format!("PJSIP/trunk-{h2}"),
        ),
        _ => {
            let other = 1_200 + random.u32(..200);
            let (from, to) = (format!("PJSIP/{extension}-{h}"), format!("PJSIP/{other}-{h2}"));
            (extension.to_string(), other.to_string(), "from-internal", from, to)
        }
    };
    let name = format!("Caller {number}");
    let (answered, end) = (start + ring, start + ring + talk);
    let mut rows = Vec::with_capacity(9);
    let mut cel = |at: i64, event: &str, is_caller: bool, app: &str, appdata: &str, peer: &str, extra: &str| {
        let (id, channel, num, cid, dnid) =
            if is_caller { (&a, &from, &src, name.as_str(), dst.as_str()) } else { (&b, &to, &dst, "", "") };
        let time = time(at, true);
        let line = format!(
            "{event}\t{time}\t{cid}\t{num}\t{src}\t\t{dnid}\t{dst}\t{context}\t{channel}\t{app}\t{appdata}\t3\t\t{id}\t{a}\t{peer}\t\t{extra}"
        );
        rows.push(Row { at, call, line, table: Table::Cel, last: false });
    };
    let dial = format!("{to},30");
    let cause = |status: &str| format!(r#"{{"hangupcause":16,"hangupsource":"","dialstatus":"{status}"}}"#);
    cel(start, "CHAN_START", true, "", "", "", "");
    cel(start + 20_000, "CHAN_START", false, "", "", "", "");
    cel(answered, "ANSWER", false, "", "", "", "");
    cel(answered + 10_000, "ANSWER", true, "Dial", &dial, "", "");
    cel(answered + 20_000, "BRIDGE_ENTER", true, "Dial", &dial, &to, "");
    cel(end, "HANGUP", false, "", "", "", &cause(""));
    cel(end + 10_000, "HANGUP", true, "", "", "", &cause("ANSWER"));
    cel(end + 20_000, "LINKEDID_END", true, "", "", "", "");
    if record {
        let (duration, billsec) = (end / 1_000_000 - epoch, talk / 1_000_000);
        let line = format!(
            "{}\t\"{name}\" <{src}>\t{src}\t{dst}\t{context}\t{from}\t{to}\tDial\t{dial}\t{duration}\t{billsec}\tANSWERED\t3\t\t{a}\t\t{a}\t{number}\t",
            time(start, false)
        );
        rows.push(Row { at: end + 50_000, call, line, table: Table::Cdr, last: false });
    }
    if let Some(row) = rows.last_mut() {
        row.last = true;
    }
    rows
}

fn time(micros: i64, fraction: bool) -> String {
    let time = DateTime::from_timestamp_micros(micros).expect("a time of this century");
    time.format(if fraction { "%Y-%m-%d %H:%M:%S%.6f" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

/// The rows of calls that begin at even distances, in the order they are written.
pub struct History {
    next: usize,
    count: usize,
    begin: i64,
    step: i64,
    waiting: Vec<Row>,
}

impl History {
    /// `count` calls over `span` seconds from `begin` on.
    pub fn new(count: usize, begin: i64, span: i64) -> Self {
        Self { next: 0, count, begin, step: span * 1_000_000 / count.max(1) as i64, waiting: Vec::new() }
    }

    pub fn course(call: usize, start: i64) -> Course {
        let mut random = fastrand::Rng::with_seed(!(call as u64));
        Course { start, ring: 4_000_000, talk: random.i64(2_000_000..50_000_000), record: true }
    }

    pub fn start(&self, call: usize) -> i64 {
        self.begin * 1_000_000 + self.step * call as i64
    }

    /// The rows of about the next `calls` calls; empty at the end.
    pub fn portion(&mut self, calls: usize) -> Vec<Row> {
        let to = self.count.min(self.next + calls);
        for call in self.next..to {
            self.waiting.extend(rows(call, Self::course(call, self.start(call))));
        }
        self.next = to;
        self.waiting.sort_by_key(|r| r.at);
        let until = if to == self.count { i64::MAX } else { self.start(to) };
        let ready = self.waiting.partition_point(|r| r.at < until);
        self.waiting.drain(..ready).collect()
    }
}
