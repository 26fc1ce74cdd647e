//! The commands from outside: files and flags in, exit codes and messages out, on both engines.

use std::sync::{Arc, Mutex};

use assert_cmd::Command;
use callferry::config::DatabaseKind;
use secrecy::ExposeSecret;

use super::ara::{Ara, KINDS};
use crate::support::ami::manager;

pub const FILE: &str = r#"
[[tenant]]
name = "acme"

[[trunk]]
host = "1156.3cx.cloud"
extension = "12611"
auth_id = "Xy12"
password_env = "T1"
strip_prefix = '^(\+39|0039)'
from_number = "+393331112222"
app = "dograh"

[[trunk]]
name = "carrier"
host = "sip.carrier.example"
mode = "ip"
ips = ["203.0.113.4", "203.0.113.5"]
protocol = "tcp"
tenant = "acme"
inbound = "queue:support"

[[extension]]
number = "100"
name = "Alice"
password_env = "P100"
voicemail = true

[[extension]]
number = "101"
name = "Bob"
password_file = "p101"
webrtc = true
tenant = "acme"

[[queue]]
name = "support"
number = "600"
strategy = "memoryhunt"
timeout = 20
members = [{ extension = "100" }, { extension = "101", penalty = 2, name = "Bob (acme)" }]

[[did]]
number = "+39061234"
trunk = "1156.3cx.cloud/12611"
to = "extension:100"

[[route]]
trunk = "carrier"
prefix = '^0'
strip = true
add_prefix = "+39"

[[route]]
trunk = "1156.3cx.cloud/12611"
from_number = "+3906"
"#;

/// A trunk, but for its password.
pub const ADD: &[&str] = &[
    "trunk",
    "add",
    "--sip-domain",
    "1156.3cx.cloud",
    "--extension",
    "12611",
    "--app",
    "dograh",
    "--strip-prefix",
    r"^\+39",
    "--from-number",
    "+393331112222",
];

pub struct Bench {
    pub ara: Ara,
    pub dir: tempfile::TempDir,
}

impl Bench {
    pub async fn new(kind: DatabaseKind, version: &str) -> Option<Self> {
        let ara = Ara::new(kind, version).await?;
        let bench = Self { ara, dir: tempfile::tempdir().unwrap() };
        bench.file(FILE);
        std::fs::write(bench.dir.path().join("p101"), "pw101\n").unwrap();
        Some(bench)
    }

    pub fn file(&self, text: &str) {
        std::fs::write(self.dir.path().join("pbx.toml"), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::cargo_bin("callferry").unwrap();
        command.args(args).current_dir(self.dir.path()).env_clear();
        command.env("PROVISION_DSN", self.ara.dsn.expose_secret()).env("T1", "tr;unk").env("P100", "pw100");
        command
    }

    /// Exit code, standard output, standard error.
    pub async fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = self.command(args);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }
}

#[tokio::test]
async fn a_file_from_plan_to_destroy() {
    for kind in KINDS {
        for version in ["16", "22"] {
            let Some(b) = Bench::new(kind, version).await else { return };
            let (code, text, err) = b.run(&["provision", "plan", "--detailed-exitcode", "--out", "saved.json"]).await;
            assert_eq!(code, 2, "{text}{err}");
            assert!(text.contains("to add, 0 to change, 0 to destroy"), "{text}");
            let saved = std::fs::read_to_string(b.dir.path().join("saved.json")).unwrap();
            for secret in ["tr;unk", "tr^3Bunk", "pw100", "pw101"] {
                assert!(!text.contains(secret) && !saved.contains(secret), "{secret} is shown");
            }
            let (code, text, err) = b.run(&["provision", "apply", "--plan", "saved.json"]).await;
            assert_eq!(code, 0, "{text}{err}");
            assert!(err.contains("AMI_HOST"), "{err}");
            // the same plan again is stale, the same file has nothing to do
            let (code, _, err) = b.run(&["provision", "apply", "--plan", "saved.json"]).await;
            assert!(code == 4 && err.contains("stale"), "{err}");
            let (code, text, _) = b.run(&["provision", "plan", "--detailed-exitcode"]).await;
            assert!(code == 0 && text.contains("No changes"), "{text}");
            let dial =
                "SELECT appdata FROM extensions WHERE context = 'cf_internal' AND exten = '_0X.' AND priority = 1";
            let rows = b.ara.rows(dial).await;
            assert_eq!(
                rows[0][0].as_deref(),
                Some("PJSIP/+39${FILTER(0-9+*#,${EXTEN}):1}@cf_sip_carrier_example_ip,60")
            );
            // every exten of a context has the priorities of the longest
            let count = if kind == DatabaseKind::MySql { "char" } else { "text" };
            let rows = b
                .ara
                .rows(&format!(
                    "SELECT CAST(count(*) AS {count}) FROM extensions WHERE context = 'cf_internal' GROUP BY exten"
                ))
                .await;
            assert!(rows.len() == 5 && rows.iter().all(|r| r[0].as_deref() == Some("2")), "{rows:?}");
            let rows = b.ara.rows("SELECT app, appdata FROM extensions WHERE exten = '+39061234'").await;
            assert_eq!(rows, [[Some("Dial".to_owned()), Some("PJSIP/100,30".to_owned())]]);
            // a phone goes, another number comes, the password of a trunk changes
            b.file(
                &FILE
                    .replace("number = \"100\"", "number = \"110\"")
                    .replace("\"100\"", "\"110\"")
                    .replace(":100", ":110"),
            );
            let (code, text, err) = b.run(&["provision", "diff", "--json"]).await;
            assert_eq!(code, 0, "{err}");
            let diff: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(diff["totals"]["destroy"].as_u64().unwrap() >= 3, "{text}");
            let (code, _, err) = b.run(&["provision", "apply", "--max-deletes", "0"]).await;
            assert!(code == 4 && err.contains("--force"), "{err}");
            let (code, ..) = b.run(&["provision", "apply"]).await;
            assert_eq!(code, 0);
            let ids = b.ara.rows("SELECT id FROM ps_auths ORDER BY id").await;
            assert_eq!(
                ids.into_iter().flatten().flatten().collect::<Vec<_>>(),
                ["101", "110", "cf_1156_3cx_cloud_12611"]
            );
            let (code, text, _) = b.run(&["provision", "verify"]).await;
            assert!(code == 0 && text.contains("AMI_HOST"), "{text}");
            // what stands becomes a file; with it there is nothing to do
            let (code, text, err) = b.run(&["provision", "import", "--file", "again.toml"]).await;
            assert_eq!(code, 0, "{text}{err}");
            let (code, text, err) = b.run(&["provision", "destroy"]).await;
            assert!(code == 4 && err.contains("--yes") && text.contains("to destroy"), "{err}");
            let (code, text, err) = b.run(&["provision", "destroy", "--yes"]).await;
            assert_eq!(code, 0, "{text}{err}");
            assert!(b.ara.counts().await.values().all(|n| n == "0"), "{:?}", b.ara.counts().await);
        }
    }
}

#[tokio::test]
async fn trunks_one_at_a_time() {
    for kind in KINDS {
        let Some(b) = Bench::new(kind, "20").await else { return };
        let add: Vec<&str> = ADD.iter().copied().chain(["--json"]).collect();
        let with = |password: &str| {
            let mut command = b.command(&add);
            command.env("TRUNK_PASSWORD", password);
            async move { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() }
        };
        let totals = |output: &std::process::Output| {
            let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            [&document["totals"]["add"], &document["totals"]["change"], &document["totals"]["destroy"]]
                .map(|n| n.as_u64().unwrap())
        };
        let (code, _, err) = b.run(&add).await;
        assert!(code == 4 && err.contains("TRUNK_PASSWORD"), "{err}");
        let output = with("s3cret").await;
        assert!(output.status.success() && totals(&output)[0] == 13, "{output:?}");
        assert_eq!(totals(&with("s3cret").await), [0, 0, 0]);
        assert_eq!(totals(&with("other").await), [0, 1, 0]);
        // the file's apply does not prune it
        let (code, ..) = b.run(&["provision", "apply"]).await;
        assert_eq!(code, 0);
        b.file("");
        let (code, ..) = b.run(&["provision", "apply", "--force"]).await;
        assert_eq!(code, 0);
        let (_, text, _) = b.run(&["trunk", "list", "--json"]).await;
        assert!(text.contains("cft_1156_3cx_cloud_12611") && !text.contains("\"cf_"), "{text}");
        let (_, text, _) = b.run(&["trunk", "show", "cft_1156_3cx_cloud_12611"]).await;
        assert!(text.contains("(sensitive)") && !text.contains("other"), "{text}");
        let (code, text, _) = b.run(&["trunk", "verify", "cft_1156_3cx_cloud_12611"]).await;
        assert_eq!(code, 0, "{text}");
        // taken into the file as it stands, with nothing to change
        let (code, ..) = b.run(&["provision", "import", "--file", "again.toml"]).await;
        assert_eq!(code, 0);
        let (code, text, err) = b.run(&["provision", "plan", "-f", "again.toml", "--detailed-exitcode"]).await;
        assert_eq!(code, 0, "{text}{err}{}", std::fs::read_to_string(b.dir.path().join("again.toml")).unwrap());
        let (code, _, err) = b.run(&["trunk", "remove", "other"]).await;
        assert!(code == 4 && err.contains("namespaces"), "{err}");
        let (code, ..) = b.run(&["trunk", "remove", "--sip-domain", "1156.3cx.cloud", "--extension", "12611"]).await;
        assert_eq!(code, 0);
        assert!(b.ara.counts().await.values().all(|n| n == "0"));
    }
}

#[tokio::test]
async fn exit_codes_tell_what_failed() {
    let Some(b) = Bench::new(DatabaseKind::PostgreSql, "22").await else { return };
    let add = |more: &[&'static str]| {
        let mut args = vec!["trunk", "add", "--extension", "1", "--sip-domain"];
        args.extend(more);
        let mut command = b.command(&args);
        command.env("TRUNK_PASSWORD", "pw&Local/9@x;'\"");
        command
    };
    let run = |mut command: Command| async move {
        tokio::task::spawn_blocking(move || {
            let output = command.output().unwrap();
            (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
        })
        .await
        .unwrap()
    };
    for hostile in [
        &["a;b"][..],
        &["a.b", "--strip-prefix", "^.+"],
        &["a.b", "--from-number", "+1&Local/1"],
        &["a.b", "--app", "x,y"],
        &["a.b", "--codecs", "alaw;x"],
        &["a.b", "--auth-id", "a\nb"],
        &["a.b", "--outbound-proxy", "x\"y"],
        &["a.b", "--ip", "pbx.example.com"],
        &["a.b", "--add-prefix", "1@x"],
        &["a.b", "--inbound", "goto:a)b,1,1"],
        &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.b"],
    ] {
        let (code, err) = run(add(hostile)).await;
        assert_eq!(code, 4, "{hostile:?} {err}");
    }
    assert!(b.ara.counts().await.values().all(|n| n == "0"));
    let mut gone = add(&["a.b"]);
    gone.env("PROVISION_DSN", "postgresql://u:sEcReT%40x@127.0.0.1:1/d");
    let (code, err) = run(gone).await;
    assert!(code == 6 && err.contains(" at 127.0.0.1:1: ") && !err.contains("sEcReT"), "{err}");
    let mut wrong = add(&["a.b"]);
    wrong.env("PROVISION_DSN", "oracle://u:sEcReT@h/d");
    let (code, err) = run(wrong).await;
    assert!(code == 4 && !err.contains("sEcReT"), "{err}");
    let mut asterisk = add(&["a.b"]);
    asterisk.env("AMI_HOST", "127.0.0.1").env("AMI_PORT", "1").env("AMI_PASSWORD", "x");
    let (code, err) = run(asterisk).await;
    assert!(code == 7 && err.contains("written, not activated"), "{err}");
    assert_eq!(b.ara.counts().await["ps_registrations"], "1");
    for (text, problem) in [
        ("[[trunk]]\nhost = 'a'\nextensio = '1'", "line 3"),
        ("x = ", "line 1"),
        ("[[trunk]]\nhost='a'\nextension='1'\n\n[[trunk]]\nhost='a;'\nextension='1'", "line 5"),
        ("[[trunk]]\nhost='a'\nextension='1'\n[[trunk]]\nhost='A'\nextension='1'", "both get the id"),
        ("[[queue]]\nname='q'\nmembers=[{extension='9'}]", "there is no extension"),
        ("[[extension]]\nnumber='1'", "password_env"),
        ("[[extension]]\nnumber='1'\nmax_contacts=101", "max_contacts 101"),
        (
            "[[trunk]]\nhost='a'\nmode='ip'\nips=['10.0.0.1']\n[[trunk]]\nhost='b'\nmode='ip'\nips=['10.0.0.0/24']",
            "both known by",
        ),
    ] {
        b.file(text);
        let (code, _, err) = b.run(&["provision", "plan"]).await;
        assert!(code == 4 && err.contains(problem), "{text}: {err}");
    }
    b.ara.connect().await.raw("DROP TABLE ps_aors").await.unwrap();
    let (code, err) = run(add(&["a.c"])).await;
    assert!(code == 5 && err.contains("ps_aors"), "{err}");
}

/// What a file takes over from elsewhere by its id goes with the file's own.
#[tokio::test]
async fn a_destroyed_file_takes_its_adopted_trunks_along() {
    for kind in KINDS {
        let Some(b) = Bench::new(kind, "22").await else { return };
        std::fs::write(b.dir.path().join("pw"), "s3cret").unwrap();
        let add: Vec<&str> = ADD.iter().copied().chain(["--password-file", "pw"]).collect();
        for args in [&add[..], &["provision", "import", "--file", "again.toml"]] {
            let (code, text, err) = b.run(args).await;
            assert_eq!(code, 0, "{text}{err}");
        }
        // not by a file that does not name it
        let (code, ..) = b.run(&["provision", "destroy", "--yes"]).await;
        assert_eq!((code, b.ara.counts().await["ps_registrations"].as_str()), (0, "1"));
        let (code, text, err) = b.run(&["provision", "destroy", "--yes", "-f", "again.toml"]).await;
        assert_eq!(code, 0, "{text}{err}");
        assert!(b.ara.counts().await.values().all(|n| n == "0"), "{text}");
    }
}

/// A command that is refused has told Asterisk nothing: no trunk goes down for it, however shortly.
#[tokio::test]
async fn what_is_refused_unregisters_nothing() {
    let Some(b) = Bench::new(DatabaseKind::PostgreSql, "22").await else { return };
    for args in [&["provision", "apply"][..], &["provision", "plan", "--out", "saved.json"]] {
        assert_eq!(b.run(args).await.0, 0);
    }
    b.file("");
    for (args, why) in [
        (&["provision", "apply", "--max-deletes", "0"][..], "--force"),
        (&["provision", "apply", "--force", "--plan", "saved.json"], "stale"),
    ] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let shared = told.clone();
        let ami = manager(move |asked| {
            shared.lock().unwrap().push(asked.get("Action").to_owned());
            let lists = ["ShowDialPlan", "PJSIPShowRegistrationsOutbound"].contains(&asked.get("Action"));
            if lists { asked.list(&[]) } else { asked.success("") }
        })
        .await;
        let mut command = b.command(args);
        command.env("AMI_HOST", &ami.host).env("AMI_PORT", ami.port.to_string()).env("AMI_USERNAME", &ami.user);
        command.env("AMI_PASSWORD", ami.secret.expose_secret()).env("PROVISION_WAIT", "1");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(4) && err.contains(why), "{err}");
        assert!(!told.lock().unwrap().iter().any(|a| a.contains("egister")), "{told:?}");
    }
    assert_eq!(b.ara.counts().await["ps_registrations"], "1");
}

/// A context in the tables that is none does not get into the text that goes into extensions.conf.
#[tokio::test]
async fn only_contexts_are_rendered() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        b.ara
            .db
            .run("INSERT INTO extensions (context, exten, priority, app, appdata) VALUES ('cf_a]\n[x', '1', 1, 'NoOp', '')")
            .await;
        let (code, text, err) = b.run(&["provision", "render"]).await;
        assert!(code == 4 && text.is_empty() && err.contains(r"cf_a]\n[x"), "{text}{err}");
    }
}

/// The stubs are read by Asterisk, which is not the user of a careful umask.
#[tokio::test]
async fn stubs_can_be_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(b) = Bench::new(DatabaseKind::PostgreSql, "22").await else { return };
    let mut command = Command::new("sh");
    command.args(["-c", "umask 077; exec \"$0\" provision apply", env!("CARGO_BIN_EXE_callferry")]);
    command.current_dir(b.dir.path()).env_clear().env("PROVISION_DSN", b.ara.dsn.expose_secret());
    command.env("T1", "x").env("P100", "x").env("PROVISION_STUBS", "stubs.conf").env("PATH", "/usr/bin:/bin");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let stubs = b.dir.path().join("stubs.conf");
    assert!(std::fs::read_to_string(&stubs).unwrap().contains("\n[cf_internal]\n"));
    assert_eq!(std::fs::metadata(&stubs).unwrap().permissions().mode() & 0o777, 0o644);
}

/// Two trunks known by one address, whoever wrote the other.
#[tokio::test]
async fn an_address_has_one_trunk() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        let quote = if kind == DatabaseKind::MySql { "`match`" } else { "\"match\"" };
        b.ara
            .db
            .run(&format!("INSERT INTO ps_endpoint_id_ips (id, endpoint, {quote}) VALUES ('x', 'x', '203.0.113.0/24')"))
            .await;
        let (code, _, err) = b.run(&["provision", "apply"]).await;
        assert!(code == 4 && err.contains("203.0.113"), "{err}");
        assert_eq!(b.ara.counts().await["ps_endpoints"], "0");
    }
}

/// Tables under other names, with other columns and checks instead of enums.
#[tokio::test]
async fn tables_of_other_names() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        let counted =
            if kind == DatabaseKind::MySql { "bigint auto_increment primary key" } else { "bigserial primary key" };
        b.ara.db.run(&format!(
            "DROP TABLE queues; DROP TABLE queue_members; \
             CREATE TABLE asterisk_queues (id {counted}, name varchar(128) NOT NULL UNIQUE, \
               strategy varchar(20) CHECK (strategy IN ('ringall', 'linear', 'rrmemory')), timeout int, \
               ringinuse varchar(3) CHECK (ringinuse IN ('yes', 'no')), wrapuptime int, maxlen int, musicclass varchar(80)); \
             CREATE TABLE asterisk_queue_members (uniqueid {counted}, queue_name varchar(128) NOT NULL, \
               interface varchar(128) NOT NULL, membername varchar(80), penalty int, paused int)"
        )).await;
        b.file(
            &FILE
                .replace("name = \"support\"", "name = \"support\"\nmusic = \"jazz\"\nexact_name = \"extgroup_5\"")
                .replacen(
                    "[[tenant]]",
                    "[tables.queues]\nname = \"asterisk_queues\"\ncolumns = { musiconhold = \"musicclass\" }\n\
             [tables.queue_members]\nname = \"asterisk_queue_members\"\n[[tenant]]",
                    1,
                ),
        );
        let (code, text, err) = b.run(&["provision", "apply"]).await;
        assert_eq!(code, 0, "{text}{err}");
        assert!(text.contains("asterisk_queue_members has no column state_interface"), "{text}");
        let rows = b.ara.rows("SELECT name, strategy, ringinuse, musicclass FROM asterisk_queues").await;
        assert_eq!(rows[0].iter().flatten().collect::<Vec<_>>(), ["extgroup_5", "rrmemory", "no", "jazz"]);
        let (code, text, _) = b.run(&["provision", "plan", "--detailed-exitcode"]).await;
        assert_eq!(code, 0, "{text}");
        let (code, text, _) = b.run(&["provision", "render"]).await;
        assert!(
            code == 0 && text.contains(",asterisk_queues") && text.contains("[cf_1156_3cx_cloud_12611-in]"),
            "{text}"
        );
        let driver = if kind == DatabaseKind::MySql { "odbc,asterisk" } else { "pgsql,asterisk" };
        assert!(text.contains(&format!("ps_endpoints => {driver},ps_endpoints")), "{text}");
    }
}

/// The documentation's files are taken and its commands run, word by word, in its order.
#[tokio::test]
async fn the_documented_commands_run() {
    const DOCS: &str = include_str!("../../../docs/provisioning.md");
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        let block = |begin: &str, blank: bool| -> String {
            let lines = DOCS[DOCS.find(begin).unwrap()..].lines();
            let lines = lines.take_while(|l| (blank && l.is_empty()) || l.starts_with("    "));
            lines.map(|l| format!("{}\n", l.strip_prefix("    ").unwrap_or(l))).collect()
        };
        b.file(&block("    # pbx.toml", true));
        std::fs::write(b.dir.path().join("mini.toml"), block("    # mini.toml", false)).unwrap();
        std::fs::create_dir(b.dir.path().join("secrets")).unwrap();
        std::fs::write(b.dir.path().join("secrets/100"), "x").unwrap();
        let copies =
            ["queues", "queue_members"].map(|t| format!("CREATE TABLE asterisk_{t} AS SELECT * FROM {t} WHERE 1 = 0"));
        b.ara.db.run(&copies.join("; ")).await;
        b.ara.db.run("ALTER TABLE asterisk_queues RENAME COLUMN musiconhold TO musicclass").await;
        let commands = DOCS.replace("\\\n        ", "");
        let commands = commands.lines().filter_map(|l| {
            let line = l.strip_prefix("    ")?;
            line.strip_prefix("$ ").or(Some(line)).filter(|l| l.starts_with("callferry "))
        });
        let mut ran = 0;
        for line in commands {
            let dsn = b.ara.dsn.expose_secret().replacen("postgresql://", "postgresql+asyncpg://", 1);
            let bin = std::path::Path::new(env!("CARGO_BIN_EXE_callferry")).parent().unwrap().display().to_string();
            let mut command = Command::new("sh");
            command.args(["-c", line]).current_dir(b.dir.path()).env_clear();
            command.env("PATH", format!("{bin}:/usr/bin:/bin")).env("PROVISION_DSN", dsn);
            command.env("TRUNK_PASSWORD", "x").env("TRUNK_3CX", "x").env("PHONE_101", "y");
            let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            ran += 1;
        }
        assert!(ran >= 18, "{ran}");
        // the last trunk stands, made as the page for Dograh's users says
        assert_eq!(b.ara.counts().await["ps_registrations"], "1");
    }
}
