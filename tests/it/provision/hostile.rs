//! Hostile input through the program: refused with nothing written, or stored such that it does no harm.

use callferry::provision::value::Value;

use super::ara::KINDS;
use super::program::Bench;

/// What is tried in every field.
fn hostile() -> Vec<String> {
    [
        "'; DROP TABLE ps_auths; --",
        "\"quoted\"",
        "a;b",
        "a^3Bb",
        "1&Local/9@default",
        "1,60,g)",
        "${SHELL(id)}",
        "a\nContact: <sip:evil>",
        "a\r\n\r\nAction: Originate",
        "\u{1b}[2J",
        "Łódź ✓ 😀",
        "\u{202e}txt",
        " a ",
        "\\",
        "_X.",
        "",
        "-",
        "%n%s",
    ]
    .into_iter()
    .map(str::to_owned)
    .chain(["9".repeat(10_240), "é".repeat(5_120)])
    .collect()
}

async fn add(b: &Bench, more: &[&str], password: &str) -> (i32, String) {
    let mut command = b.command(&["trunk", "add"]);
    command.args(more).env("TRUNK_PASSWORD", password);
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    })
    .await
    .unwrap()
}

/// No row of the dialplan leads anywhere but to one channel of ours, and no value was taken apart.
async fn harmless(b: &Bench) {
    for row in b.ara.rows("SELECT exten, app, appdata FROM extensions").await {
        let [Some(exten), Some(app), Some(data)] = row.as_slice() else { panic!("{row:?}") };
        assert!(!data.contains('&') && !data.contains("Local/") && !data.contains("SHELL"), "{row:?}");
        assert!(exten.len() <= 40 && !exten.contains(';'), "{row:?}");
        if app == "Dial" && exten.starts_with('_') {
            assert!(data.contains("FILTER(0-9+*#,"), "{row:?}");
        }
    }
    let rows = b.ara.rows("SELECT contact FROM ps_aors").await;
    for contact in rows.into_iter().flatten().flatten() {
        assert_eq!(Value::decode(&contact).parts().len(), 1, "{contact}");
    }
}

#[tokio::test]
async fn flags_of_a_trunk() {
    // what the one engine's run refused did not come to a database
    let mut accepted: Option<Vec<String>> = None;
    for kind in KINDS {
        let Some(b) = Bench::new(kind, "22").await else { return };
        let mut taken = Vec::new();
        let names = [
            "--sip-domain",
            "--extension",
            "--auth-id",
            "--app",
            "--strip-prefix",
            "--add-prefix",
            "--from-number",
            "--outbound-proxy",
            "--codecs",
            "--transport",
            "--tenant",
            "--inbound",
            "--digest-realm",
            "--media-encryption",
            "--ip",
        ];
        for name in names {
            for text in hostile() {
                let flag = format!("{name}={text}");
                if accepted.as_ref().is_some_and(|a| !a.contains(&flag)) {
                    continue;
                }
                let mut args = vec![flag.as_str()];
                for (other, value) in [("--sip-domain", "a.example.com"), ("--extension", "1")] {
                    if other != name {
                        args.extend([other, value]);
                    }
                }
                let (code, said) = add(&b, &args, "pw").await;
                match code {
                    0 => {
                        taken.push(flag.clone());
                        harmless(&b).await;
                        let id = b.ara.rows("SELECT id FROM ps_endpoints").await[0][0].clone().unwrap();
                        let (code, _, err) = b.run(&["trunk", "remove", &id]).await;
                        assert_eq!(code, 0, "{name} {text:?}: {err}");
                    }
                    2 | 4 => {}
                    _ => panic!("{name} {text:?} ended with {code}: {said}"),
                }
                assert!(!said.contains('\u{1b}') && (code == 0 || said.len() < 2048), "{name}: {said:?}");
            }
            assert!(b.ara.counts().await.values().all(|n| n == "0"), "{name}");
        }
        assert!(accepted.is_none_or(|a| a == taken), "the engines differ: {taken:?}");
        accepted = Some(taken);
    }
}

#[tokio::test]
async fn passwords_and_names() {
    for kind in KINDS {
        let Some(b) = Bench::new(kind, "22").await else { return };
        for text in hostile() {
            let (code, said) = add(&b, &["--sip-domain", "a.example.com", "--extension", "1"], &text).await;
            let stored = b.ara.rows("SELECT password FROM ps_auths").await;
            match code {
                0 => {
                    assert_eq!(Value::decode(stored[0][0].as_deref().unwrap()), Value::one(text.as_str()), "{text:?}");
                    b.run(&["trunk", "remove", "cft_a_example_com_1"]).await;
                }
                4 => assert!(stored.is_empty(), "{text:?}"),
                _ => panic!("{text:?} ended with {code}: {said}"),
            }
            // text of the test's own could stand in a message for other reasons
            if text.len() > 4 {
                assert!(!said.contains(&text), "{said}");
            }
            // a phone with that name and password, a queue with it as music
            std::fs::write(b.dir.path().join("pw"), &text).unwrap();
            let name = toml::Value::String(text.clone());
            b.file(&format!(
                "[[extension]]\nnumber = '1'\nname = {name}\npassword_file = 'pw'\n\
                 [[queue]]\nname = 'q'\nmusic = {name}\nmembers = [{{ extension = '1', name = {name} }}]\n"
            ));
            let (code, _, err) = b.run(&["provision", "apply"]).await;
            if code == 0 {
                let callerid = b.ara.rows("SELECT callerid FROM ps_endpoints").await;
                let want = Value::one(format!("\"{text}\" <1>"));
                assert_eq!(Value::decode(callerid[0][0].as_deref().unwrap()), want, "{text:?}");
                harmless(&b).await;
                let (code, plan, _) = b.run(&["provision", "plan", "--detailed-exitcode"]).await;
                assert_eq!(code, 0, "{plan}");
            } else {
                assert_eq!(code, 4, "{text:?}: {err}");
                assert!(b.ara.counts().await.values().all(|n| n == "0"), "{text:?}");
            }
            let (code, _, err) = b.run(&["provision", "destroy", "--yes"]).await;
            assert!(code == 0 || code == 4, "{err}");
            assert!(b.ara.counts().await.values().all(|n| n == "0"), "{text:?}");
        }
        // the tables stand
        assert_eq!(b.ara.counts().await.len(), 8);
    }
}
