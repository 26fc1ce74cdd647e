//! What stands becomes a file, and an apply of that file changes nothing: for every file of the suite, for trunks of
//! `trunk add`, for rows of others; what no setting can say stands in comments.

use super::ara::KINDS;
use super::program::{Bench, FILE};

/// Every setting there is, and every strip rule of the conformance table.
fn everything() -> String {
    let mut file = String::from(
        r#"
[[tenant]]
name = "acme"
accountcode = "ACME-1"
[[tenant]]
name = "bolt"

[[trunk]]
name = "tls"
host = "edge.example.com"
port = 5071
extension = "200"
auth_id = "Au th"
password_env = "T1"
digest_realm = "3CXPhoneSystem"
protocol = "tls"
outbound_proxy = "proxy.example.com:5061"
codecs = ["opus", "g722"]
add_prefix = "+39"
unmatched = "reject"
strip_prefix = '^0'
from_number = "+3906"
inbound = "goto:menu,${EXTEN},1"
tenant = "bolt"
media_encryption = "sdes"
dial_timeout = 45
expiration = 600
qualify_frequency = 0

[[trunk]]
name = "address"
host = "203.0.113.9"
mode = "ip"
ips = ["203.0.113.9", "2001:db8::/64"]
nat = true
add_prefix = "9"
inbound = "voicemail:100@default"

[[extension]]
number = "100"
name = "Łucja O'Hara; ^41"
password_env = "P100"
voicemail = true
call_group = "1,2"
pickup_group = "1"
max_contacts = 3
ring_timeout = 25

[[extension]]
number = "100"
username = "acme100"
password_env = "P100"
tenant = "acme"
webrtc = true
dtls_cert_file = "/etc/asterisk/keys/a.pem"
transport = "transport-wss"

[[extension]]
number = "102"
password_env = "P100"
digest_realm = "asterisk"
context = "from-internal"
tenant = "bolt"
ring_timeout = 40

[[queue]]
name = "support"
number = "600"
strategy = "wrandom"
timeout = 15
ring_in_use = true
wrapup = 5
max_len = 10
join_empty = "yes"
leave_when_empty = "paused,unavailable"
music = "jazz"
announce = "hello"
members = [{ extension = "100" }, { interface = "Local/9@outside/n", name = "Nine", penalty = 3 }]

[[queue]]
name = "sales"
exact_name = "extgroup_5"
number = "601"
tenant = "acme"
members = [{ extension = "100", name = "Acme's 100" }]

[[did]]
number = "+39061"
trunk = "tls"
to = "queue:sales"
[[did]]
number = "062"
to = "extension:102"

[[route]]
trunk = "address"
prefix = '^0'
strip = true
[[route]]
trunk = "tls"
prefix = '^00'
dial_timeout = 30
[[route]]
trunk = "tls"
prefix = '^([+0]0|0[+0])'
strip = true
add_prefix = "+"
[[route]]
trunk = "address"
from_number = "77"
[[route]]
tenant = "acme"
trunk = "address"
prefix = '^(\+39|0039)'
strip = true
"#,
    );
    for (n, rule) in [
        "",
        r"^\+39",
        r"^\+",
        r"^(\+39|0039)",
        r"^(\+|00)39",
        r"^0[02-9]",
        r"^\+39(0|3)?",
        r"^(\+3|\+39)",
        r"^[+0]{1,2}39",
        r"^\+[1-9]\d?",
        r"^[^9]",
        r"^\*31#",
    ]
    .into_iter()
    .enumerate()
    {
        file.push_str(&format!(
            "[[trunk]]\nhost = \"r{n}.example.com\"\nextension = \"{n}\"\npassword_env = \"T1\"\napp = \"a\"\nstrip_prefix = '{rule}'\n"
        ));
    }
    file
}

/// Imports, and plans what was imported: nothing may be left to change. Returns the file's text.
async fn round_trip(b: &Bench) -> String {
    let path = b.dir.path().join("again.toml");
    let _ = std::fs::remove_file(&path);
    let (code, _, err) = b.run(&["provision", "import", "--file", "again.toml"]).await;
    assert_eq!(code, 0, "{err}");
    let text = std::fs::read_to_string(path).unwrap();
    let (code, plan, err) = b.run(&["provision", "plan", "-f", "again.toml", "--detailed-exitcode"]).await;
    assert!(code == 0 && plan.contains("No changes"), "{plan}{err}{text}");
    assert!(!text.contains("would change:\n# ~ ps_endpoints cf"), "{text}");
    text
}

#[tokio::test]
async fn every_file_comes_back() {
    for kind in KINDS {
        for version in ["16", "22"] {
            for file in [FILE.to_owned(), everything(), String::new()] {
                if version == "16" && file.is_empty() {
                    continue;
                }
                let Some(mut b) = Bench::new(kind, version).await else { return };
                b.file(&file);
                let (code, text, err) = b.run(&["provision", "apply"]).await;
                assert_eq!(code, 0, "{text}{err}");
                // trunks of the other command are adopted as they are
                for more in
                    [&["--extension", "7", "--strip-prefix", "^9", "--reject-unmatched"][..], &["--ip", "198.51.100.7"]]
                {
                    let mut add =
                        vec!["trunk", "add", "--sip-domain", "one.example.org", "--tenant", "Some.One", "--app", "x"];
                    add.extend(more);
                    let mut command = b.command(&add);
                    command.env("TRUNK_PASSWORD", "pw");
                    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
                    assert!(output.status.success(), "{output:?}");
                }
                let text = round_trip(&b).await;
                assert!(text.contains("id = \"cft_one_example_org_7\"") && text.contains("Some.One"), "{text}");
                for secret in ["tr;unk", "pw100", "pw101", "\"pw\""] {
                    assert!(!text.contains(secret), "{secret} is in the file");
                }
                // rows of others: exactly what a setting makes is written as one, the rest in comments
                let (uniqueid, flag) = ("uniqueid", if version == "16" { "" } else { ", reason_paused" });
                let reason = if version == "16" { "" } else { ", 'lunch'" };
                b.ara.db.run(&format!(
                    "INSERT INTO queues (name, strategy, timeout, ringinuse, wrapuptime, maxlen) VALUES ('old', 'linear', 20, 'no', 0, 0); \
                     INSERT INTO queue_members (queue_name, interface, membername, state_interface, penalty, paused, {uniqueid}{flag}) \
                       VALUES ('old', 'Local/5@x/n', 'Five', 'Local/5@x/n', 2, 1, 4711{reason}); \
                     INSERT INTO queues (name, timeout, announce_frequency) VALUES ('other', 5, 3); \
                     INSERT INTO ps_endpoints (id, auth, context, allow) VALUES ('900', '900', 'from-internal', 'ulaw'); \
                     INSERT INTO ps_endpoints (id, context) VALUES ('bare', 'x'); \
                     INSERT INTO ps_endpoints (id, context, from_domain) VALUES ('dograh_x', 'dograh_x-inbound', 'x.example.com'); \
                     INSERT INTO ps_registrations (id, server_uri, client_uri) VALUES ('dograh_x', 'sip:x.example.com', 'sip:1@x.example.com')"
                )).await;
                let text = round_trip(&b).await;
                assert!(
                    text.contains("\nexact_name = \"old\"") && text.contains("\ninterface = \"Local/5@x/n\""),
                    "{text}"
                );
                for commented in
                    ["# exact_name = \"other\"", "# number = \"900\"", "# id = \"dograh_x\"", "# endpoint \"bare\""]
                {
                    assert!(text.contains(commented), "{commented}: {text}");
                }
                assert!(text.contains("# + ps_auths 900") || text.contains("# cannot be"), "{text}");
                // and nothing of it is touched by an apply
                let before = b.ara.counts().await;
                let (code, ..) = b.run(&["provision", "apply", "-f", "again.toml"]).await;
                assert_eq!((code, b.ara.counts().await), (0, before));
            }
        }
    }
}

/// What stands of ours and no setting makes is told at the head of the file, with what an apply would do to it.
#[tokio::test]
async fn what_cannot_be_said_is_told() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        let (code, ..) = b.run(&["provision", "apply"]).await;
        assert_eq!(code, 0);
        b.ara
            .db
            .run(
                "UPDATE ps_endpoints SET direct_media = 'yes' WHERE id = 'cf_1156_3cx_cloud_12611'; \
                 INSERT INTO extensions (context, exten, priority, app, appdata) VALUES ('cf_internal', '_8XX', 1, 'NoOp', 'a\nb')",
            )
            .await;
        let (code, text, err) = b.run(&["provision", "import"]).await;
        assert_eq!(code, 0, "{err}");
        let head: Vec<&str> = text.lines().take_while(|l| l.starts_with('#')).collect();
        for told in ["# An apply of this file would change:", "direct_media", "# - extensions cf_internal _8XX 1"] {
            assert!(head.iter().any(|l| l.contains(told)), "{told}: {text}");
        }
        assert!(text.contains("# extensions cf_internal _8XX: no setting makes this row"), "{text}");
        // all the rest comes back
        std::fs::write(b.dir.path().join("again.toml"), &text).unwrap();
        let (_, plan, err) = b.run(&["provision", "plan", "-f", "again.toml", "--json"]).await;
        let plan: serde_json::Value = serde_json::from_str(&plan).unwrap_or_else(|_| panic!("{plan}{err}"));
        let totals = ["add", "change", "destroy"].map(|t| plan["totals"][t].as_u64().unwrap());
        assert!(totals[0] <= 1 && totals[1] == 1 && totals[2] >= 1, "{plan:#}");
    }
}

/// Tables of other names are read by the file that names them.
#[tokio::test]
async fn tables_of_other_names_come_back() {
    for kind in KINDS {
        let Some(mut b) = Bench::new(kind, "22").await else { return };
        b.ara
            .db
            .run("ALTER TABLE queues RENAME TO asterisk_queues; ALTER TABLE asterisk_queues RENAME COLUMN musiconhold TO musicclass")
            .await;
        b.file(&FILE.replace("name = \"support\"", "name = \"support\"\nmusic = \"jazz\"").replacen(
            "[[tenant]]",
            "[tables.queues]\nname = \"asterisk_queues\"\ncolumns = { musiconhold = \"musicclass\" }\n[[tenant]]",
            1,
        ));
        let (code, text, err) = b.run(&["provision", "apply"]).await;
        assert_eq!(code, 0, "{text}{err}");
        let (code, _, err) = b.run(&["provision", "import", "--tables", "pbx.toml", "--file", "again.toml"]).await;
        assert_eq!(code, 0, "{err}");
        let text = std::fs::read_to_string(b.dir.path().join("again.toml")).unwrap();
        assert!(text.contains("asterisk_queues") && text.contains("music = \"jazz\""), "{text}");
        let (code, plan, err) = b.run(&["provision", "plan", "-f", "again.toml", "--detailed-exitcode"]).await;
        assert_eq!(code, 0, "{plan}{err}{text}");
    }
}
