use super::*;
use crate::call::{Content, SCHEMA, SourceInfo, SourceKind};
use crate::correlate::numbering::Plan;

const KEY: &str = "a key of some length, kept";

fn config(way: PrivacyWay) -> NumberPrivacy {
    config_of(way, Plan::built_in("420").map(|p| p.0))
}

fn config_of(way: PrivacyWay, country: Option<Plan>) -> NumberPrivacy {
    let numbering = Numbering { country, international: vec!["00".to_owned()], ..Numbering::default() };
    NumberPrivacy { way, numbering, extension_max: 7 }
}

fn hashed() -> Privacy {
    Privacy::new(&config(PrivacyWay::Hashed(KEY.to_owned().into()))).expect("hashed")
}

fn masked() -> Privacy {
    Privacy::new(&config(PrivacyWay::Masked)).expect("masked")
}

/// An inbound call from a mobile number to the company's 224 000 101.
fn document(change: impl FnOnce(&mut Content)) -> String {
    let party = |number: &str, e164: Option<&str>, kind| Party {
        number: Some(number.to_owned()),
        e164: e164.map(str::to_owned),
        kind: Some(kind),
        ..Party::default()
    };
    let mut fields: serde_json::Value = serde_json::from_str(
        r#"{"tenant":null,"linkedid":"pbx-12345678-1795213604.12","linkedids":["pbx-12345678-1795213604.12"],
        "state":"completed","incomplete":[],"direction":"inbound","forwarded_external":false,"outcome":"answered",
        "did":"224000101","finally_with":null,"started_at":"2026-11-20T22:26:44.553666Z","pbx_answered_at":null,
        "answered_at":null,"ended_at":null,"duration_s":1.5,"ring_s":null,"wait_s":null,"talk_s":null,"hold_s":null,
        "ivr_s":null,"voicemail_s":null,"hung_up_by":null,"hangup_cause":null,"trunk_in":"PJSIP/trunk-a",
        "trunk_out":null,"queue":null,"conference":null,"transfers":[],"attempts":[],"journey":[],"legs":[],
        "recordings":[],"accountcode":"87654321","userfield":null,"amaflags":null,"discrepancies":[],
        "rows":{"cel":9,"cdr":1}}"#,
    )
    .expect("JSON");
    for (name, party) in [
        ("from", party("777123456", Some("+420777123456"), PartyKind::External)),
        ("to", party("224000101", Some("+420224000101"), PartyKind::External)),
        ("answered_by", party("1001", None, PartyKind::Extension)),
    ] {
        fields[name] = serde_json::to_value(party).expect("a party");
    }
    let mut content: Content = serde_json::from_value(fields).expect("content");
    change(&mut content);
    let call = Call {
        schema: SCHEMA.to_owned(),
        id: format!("pbx:{}", content.linkedid),
        revision: 1,
        supersedes: Vec::new(),
        source: SourceInfo { id: "pbx".to_owned(), kind: SourceKind::Asterisk, host: None },
        content,
    };
    serde_json::to_string(&call).expect("JSON")
}

#[test]
fn a_hashed_number_is_one_word_in_every_spelling() {
    let token = token(hashed().key.as_ref().expect("key"), "+420777123456");
    // as docs/sinks.md says how to compute it
    assert_eq!(token, "num_lphbgamghdbiplochoclmgfk");
    let text = document(|c| {
        c.from.name = Some("Jan 777 123 456".to_owned());
        c.from.channel = Some("PJSIP/777123456-00000012".to_owned());
        c.userfield = Some("from=00420777123456;to=1001".to_owned());
    });
    let hidden = hashed().document(&text).expect("hidden");
    for expected in [
        format!(r#""number":"{token}""#),
        format!(r#""e164":"{token}""#),
        format!(r#""name":"Jan {token}""#),
        format!(r#""channel":"PJSIP/{token}-00000012""#),
        format!(r#""userfield":"from={token};to=1001""#),
        // the company's own, the extension, the account, the times and the figures stay
        r#""did":"224000101""#.to_owned(),
        r#""number":"1001""#.to_owned(),
        r#""accountcode":"87654321""#.to_owned(),
        "2026-11-20T22:26:44.553666Z".to_owned(),
        r#""duration_s":1.5"#.to_owned(),
    ] {
        assert!(hidden.contains(&expected), "{expected} is not in {hidden}");
    }
    assert!(!hidden.contains("777"), "{hidden}");
    // still a document of the same form, fields in their order
    serde_json::from_str::<Call>(&hidden).expect("a call");
    let fields = |t: &str| t.match_indices("\":").count();
    assert_eq!(fields(&hidden), fields(&text));
}

#[test]
fn the_same_key_makes_the_same_words_and_another_key_others() {
    let text = document(|_| ());
    assert_eq!(hashed().document(&text).unwrap(), hashed().document(&text).unwrap());
    let other = Privacy::new(&config(PrivacyWay::Hashed("another key of some length".to_owned().into()))).unwrap();
    assert_ne!(hashed().document(&text).unwrap(), other.document(&text).unwrap());
    assert!(!format!("{:?}", hashed()).contains(KEY));
    assert!(!format!("{:?}", config(PrivacyWay::Hashed(KEY.to_owned().into()))).contains(KEY));
}

#[test]
fn an_outbound_call_hides_whom_it_was_for() {
    let text = document(|c| {
        c.direction = Direction::Outbound;
        c.did = None;
        c.to.number = Some("900420602111222".to_owned());
        c.to.e164 = Some("+420602111222".to_owned());
        c.from.number = Some("1001".to_owned());
        c.from.kind = Some(PartyKind::Extension);
        c.from.e164 = None;
        c.from.presented = Some("224000101".to_owned());
    });
    let hidden = hashed().document(&text).unwrap();
    assert!(!hidden.contains("602111222"), "{hidden}");
    assert!(hidden.contains(r#""presented":"224000101""#), "{hidden}");
    let expected = token(hashed().key.as_ref().unwrap(), "+420602111222");
    assert!(hidden.matches(&expected).count() == 2, "{hidden}");
}

#[test]
fn a_masked_number_keeps_three_digits() {
    let text = document(|c| c.from.name = Some("Jan +420 777 123 456".to_owned()));
    let hidden = masked().document(&text).unwrap();
    for expected in [
        r#""number":"xxxxxx456""#,
        r#""e164":"+xxxxxxxxx456""#,
        r#""name":"Jan +xxx xxx xxx 456""#,
        r#""did":"224000101""#,
    ] {
        assert!(hidden.contains(expected), "{expected} is not in {hidden}");
    }
}

#[test]
fn what_was_typed_and_numbers_nobody_knows_are_hidden_too() {
    let text = document(|c| {
        c.discrepancies
            .push(crate::call::Discrepancy { code: "x".to_owned(), text: "dst 0608999888 unlike".to_owned() });
        c.journey.push(
            serde_json::from_value(serde_json::json!({
                "at": "2026-11-20T22:26:44.553666Z", "step": "ivr", "context": "ivr-1", "digits": "4111111111111111",
                "duration_s": 1.0
            }))
            .expect("a step"),
        );
    });
    for privacy in [hashed(), masked()] {
        let hidden = privacy.document(&text).unwrap();
        assert!(!hidden.contains("608999888") && !hidden.contains("411111"), "{hidden}");
    }
}

#[test]
fn ids_keep_their_moment_and_lose_numbers_in_their_name() {
    let privacy = hashed();
    assert_eq!(privacy.id("pbx:1795213604.12/3"), "pbx:1795213604.12/3");
    assert_eq!(privacy.id("pbx:asterisk01-1795213604.12"), "pbx:asterisk01-1795213604.12");
    assert_eq!(privacy.id("batch-0123456789abcdef"), "batch-0123456789abcdef");
    let id = privacy.id("pbx:to-420777123456-1795213604.12").into_owned();
    assert!(id.starts_with("pbx:to-num_") && id.ends_with("-1795213604.12"), "{id}");
    // the same wherever it stands: in the key, the document, a tombstone
    let tombstone = r#"{"schema":"callferry.call/1","id":"pbx:to-420777123456-1795213604.12","revision":2,"state":"merged","merged_into":"pbx:1795213604.10"}"#;
    assert!(privacy.document(tombstone).unwrap().contains(&format!(r#""id":"{id}""#)));
    assert!(privacy.document(&document(|_| ())).unwrap().contains("-1795213604.12\""));
}

#[test]
fn hostile_documents_are_refused_and_never_passed_on() {
    for text in ["", "{", "{\"a\":\"777123456\"", "\u{0}", "{\"a\":\"\\ud800\"}"] {
        match hashed().document(text) {
            Err(e) => assert!(!e.to_string().contains("777"), "{e}"),
            Ok(out) => assert!(!out.contains("777"), "{out}"),
        }
    }
}

#[test]
fn dtmf_events_lose_their_digit() {
    let privacy = masked();
    let search = privacy.search("");
    let extra = privacy.string(&search, "ex", r#"{"digit":"5","duration_ms":"100"}"#).unwrap();
    assert!(!extra.contains('5') && extra.contains("100"), "{extra}");
    assert_eq!(privacy.string(&search, "ex", r#"{"digit":"5","dur"#).unwrap(), "");
}

#[test]
fn file_names_lose_the_number_and_keep_the_id() {
    let text = document(|c| {
        c.linkedids = vec!["1795213604.12".to_owned()];
    });
    let path = "/var/spool/asterisk/monitor/2026/11/20/in-224000101-777123456-20261120-222644-1795213604.12.wav";
    let hidden = masked().path(Some(&text), path);
    assert_eq!(
        hidden,
        "/var/spool/asterisk/monitor/2026/11/20/in-224000101-xxxxxx456-20261120-222644-1795213604.12.wav"
    );
}

/// Every way to hide, with a country code and without.
fn all_ways() -> Vec<Privacy> {
    let country = || Plan::built_in("420").map(|p| p.0);
    let ways = || [PrivacyWay::Masked, PrivacyWay::Hashed(KEY.to_owned().into())];
    let configs = ways().map(|way| config_of(way, country())).into_iter().chain(ways().map(|way| config_of(way, None)));
    configs.map(|config| Privacy::new(&config).expect("hidden")).collect()
}

#[test]
fn an_outside_party_is_hidden_on_whatever_side_it_stands() {
    for number in ["777270001", "270001", "2700012"] {
        // a dialler calls the customer first, and the extension then
        let text = document(|c| {
            c.direction = Direction::Outbound;
            c.did = None;
            c.from.number = Some(number.to_owned());
            c.from.e164 = None;
            c.from.presented = Some(number.to_owned());
            c.from.channel = Some(format!("Local/9{number}@out-0000001;1"));
            c.to = Party { number: Some("1001".to_owned()), kind: Some(PartyKind::Extension), ..Party::default() };
        });
        for privacy in all_ways() {
            let hidden = privacy.document(&text).unwrap();
            assert!(!hidden.contains(number), "{number} {privacy:?}: {hidden}");
            assert!(hidden.contains(r#""number":"1001""#), "{hidden}");
            let path = format!("/monitor/out-{number}-1001-20261120-222644-1795213604.12.wav");
            let name = privacy.path(Some(&text), &path);
            assert!(!name.contains(number) && name.ends_with("-1001-20261120-222644-1795213604.12.wav"), "{name}");
        }
    }
}

#[test]
fn an_outside_number_that_an_extension_shows_as_its_own_is_hidden() {
    for (number, dialled) in [("777270001", "777270001"), ("777270001", "9777270001"), ("270001", "9270001")] {
        let text = document(|c| {
            c.direction = Direction::Outbound;
            c.did = None;
            c.from.number = Some("1001".to_owned());
            c.from.e164 = None;
            c.from.kind = Some(PartyKind::Extension);
            c.from.presented = Some(number.to_owned());
            c.to.number = Some(dialled.to_owned());
            c.to.e164 = None;
            c.userfield = Some(format!("called {number} for 224000101"));
        });
        for privacy in all_ways() {
            let hidden = privacy.document(&text).unwrap();
            assert!(!hidden.contains(number), "{number} {privacy:?}: {hidden}");
            assert!(hidden.contains(r#""number":"1001""#), "{hidden}");
            if privacy.key.is_some() {
                let from: Call = serde_json::from_str(&hidden).unwrap();
                assert_eq!(from.content.from.presented, from.content.to.number, "one word for one number");
            }
        }
    }
}
