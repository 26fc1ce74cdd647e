//! What is asked of Asterisk after a change, against a server that answers as Asterisk 22 was seen to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callferry::ami::{Client, Connect, Tls};
use callferry::finding::Level;
use callferry::provision::activate::{self, Work};
use callferry::provision::table::{Row, Table};
use callferry::provision::verify;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// One registration, and what Asterisk was told.
#[derive(Default)]
struct Pbx {
    /// Status by the password the far end knows: what a REGISTER would come to.
    comes_to: &'static str,
    status: String,
    retrieved: bool,
    told: Vec<String>,
    switch: bool,
}

async fn pbx(state: Pbx) -> (Client, Arc<Mutex<Pbx>>) {
    let state = Arc::new(Mutex::new(state));
    let shared = state.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let (read, mut write) = socket.into_split();
        write.write_all(b"Asterisk Call Manager/11.0.0\r\n").await.unwrap();
        let mut lines = BufReader::new(read).lines();
        let mut headers: Vec<(String, String)> = Vec::new();
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some((key, value)) = line.split_once(": ") {
                headers.push((key.to_owned(), value.to_owned()));
                continue;
            }
            let answer = answer(&mut shared.lock().unwrap(), &std::mem::take(&mut headers));
            if write.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    });
    let connect = Connect {
        host: "127.0.0.1".to_owned(),
        port,
        user: "cf".to_owned(),
        secret: "x".to_owned().into(),
        tls: Tls::Off,
        timeout: Duration::from_secs(2),
        events: "on".to_owned(),
    };
    (Client::connect(&connect).await.unwrap(), state)
}

fn answer(pbx: &mut Pbx, headers: &[(String, String)]) -> String {
    let get = |key: &str| headers.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).unwrap_or_default();
    let id = get("ActionID");
    let success = format!("Response: Success\r\nActionID: {id}\r\n\r\n");
    let refuse = |why: &str| format!("Response: Error\r\nActionID: {id}\r\nMessage: {why}\r\n\r\n");
    let registry = |status: &str| {
        format!(
            "Event: Registry\r\nPrivilege: system,all\r\nChannelType: PJSIP\r\nUsername: sip:1@far\r\nDomain: sip:far\r\nStatus: {status}\r\nCause: 401\r\n\r\n"
        )
    };
    let action = get("Action").to_owned();
    if !["Challenge", "Login", "PJSIPShowRegistrationsOutbound"].contains(&action.as_str()) {
        pbx.told.push(format!("{action} {}{}{}", get("Module"), get("Registration"), get("Command")).trim().to_owned());
    }
    match action.as_str() {
        "Challenge" => format!("Response: Success\r\nActionID: {id}\r\nChallenge: 1\r\n\r\n"),
        "ModuleLoad" => {
            if pbx.retrieved || !pbx.comes_to.is_empty() {
                pbx.retrieved = true;
                pbx.status = pbx.comes_to.to_owned();
            }
            format!("{success}{}", registry(&pbx.status))
        }
        "PJSIPRegister" if pbx.retrieved => {
            pbx.status = pbx.comes_to.to_owned();
            format!("{success}{}", registry(&pbx.status))
        }
        "PJSIPUnregister" if pbx.retrieved => {
            pbx.status = "Unregistered".to_owned();
            success
        }
        "PJSIPRegister" | "PJSIPUnregister" => refuse("Unable to retrieve registration entry"),
        "PJSIPShowRegistrationsOutbound" => {
            let one = format!(
                "Event: OutboundRegistrationDetail\r\nActionID: {id}\r\nObjectName: cf_far_1\r\nServerUri: sip:far\r\nClientUri: sip:1@far\r\nStatus: {}\r\n\r\n\
                 Event: AuthDetail\r\nActionID: {id}\r\nObjectName: cf_far_1\r\nPassword: cleartext\r\n\r\n",
                pbx.status
            );
            format!(
                "Response: Success\r\nActionID: {id}\r\nEventList: start\r\n\r\n{}Event: OutboundRegistrationDetailComplete\r\nActionID: {id}\r\nEventList: Complete\r\n\r\n",
                if pbx.retrieved { one } else { String::new() }
            )
        }
        "ShowDialPlan" if pbx.switch => format!(
            "Response: Success\r\nActionID: {id}\r\nEventList: start\r\n\r\nEvent: ListDialplan\r\nActionID: {id}\r\nSwitch: Realtime/@extensions\r\n\r\n\
             Event: ShowDialPlanComplete\r\nActionID: {id}\r\nEventList: Complete\r\n\r\n"
        ),
        "ShowDialPlan" => refuse("Did not find context x"),
        "PJSIPShowEndpoint" => refuse("Unable to retrieve endpoint x"),
        _ => success,
    }
}

fn ids(id: &str) -> BTreeSet<String> {
    BTreeSet::from([id.to_owned()])
}

#[tokio::test]
async fn a_new_registration_is_retrieved_and_awaited() {
    let (mut client, state) = pbx(Pbx { comes_to: "Registered", ..Pbx::default() }).await;
    let work = Work { registrations: ids("cf_far_1"), qualify: ids("cf_far_1"), ..Work::default() };
    let outcome = activate::activate(&mut client, &work, Duration::from_secs(3)).await;
    assert!(outcome.problems.is_empty(), "{outcome:?}");
    assert!(outcome.done.iter().any(|l| l.contains("registered with sip:far")), "{outcome:?}");
    assert!(!format!("{client:?}{outcome:?}").contains("cleartext"));
    let told = &state.lock().unwrap().told;
    assert_eq!(
        told[..],
        ["ModuleLoad res_pjsip_outbound_registration.so", "Command pjsip reload qualify aor cf_far_1"]
    );
}

#[tokio::test]
async fn reasons_are_told() {
    for (comes_to, words) in [
        ("Rejected", "check extension, authentication id and password"),
        ("Unregistered", "has not answered within 1 s"),
        ("", "Asterisk has no such registration"),
    ] {
        let (mut client, _) = pbx(Pbx { comes_to, ..Pbx::default() }).await;
        let work = Work { registrations: ids("cf_far_1"), ..Work::default() };
        let outcome = activate::activate(&mut client, &work, Duration::from_secs(1)).await;
        assert!(outcome.problems.len() == 1 && outcome.problems[0].contains(words), "{comes_to}: {outcome:?}");
    }
}

/// The state from before a new password says nothing about it.
#[tokio::test]
async fn a_new_password_counts_from_the_next_answer_on() {
    for (before, after, fine) in [("Registered", "Rejected", false), ("Rejected", "Registered", true)] {
        let (mut client, state) =
            pbx(Pbx { comes_to: after, status: before.to_owned(), retrieved: true, ..Pbx::default() }).await;
        let work = Work { register_again: ids("cf_far_1"), ..Work::default() };
        let outcome = activate::activate(&mut client, &work, Duration::from_secs(2)).await;
        assert_eq!(outcome.problems.is_empty(), fine, "{outcome:?}");
        assert_eq!(state.lock().unwrap().told, ["PJSIPRegister cf_far_1"]);
    }
}

#[tokio::test]
async fn what_goes_is_unregistered_first() {
    let (mut client, state) =
        pbx(Pbx { comes_to: "Unregistered", status: "Registered".to_owned(), retrieved: true, ..Pbx::default() }).await;
    let work = Work { unregister: ids("cf_far_1"), ..Work::default() };
    let outcome = activate::unregister(&mut client, &work).await;
    assert!(outcome.problems.is_empty() && outcome.done.len() == 1, "{outcome:?}");
    activate::activate(&mut client, &work, Duration::from_secs(1)).await;
    let told = state.lock().unwrap().told.clone();
    assert_eq!(told, ["PJSIPUnregister cf_far_1", "ModuleLoad res_pjsip_outbound_registration.so"]);
    // one Asterisk never saw has nothing to take back
    let (mut client, _) = pbx(Pbx::default()).await;
    assert!(activate::unregister(&mut client, &work).await.problems.is_empty());
}

#[tokio::test]
async fn differences_are_explained() {
    let rows = [
        Row::new(Table::Endpoints, ["cf_far_1"]).set("context", "cf_far_1-in"),
        Row::new(Table::Registrations, ["cf_far_1"]),
        Row::new(Table::Extensions, ["cf_far_1-in", "1", "1"]),
    ];
    for (switch, problems) in [(false, 3), (true, 2)] {
        let (mut client, _) = pbx(Pbx { switch, ..Pbx::default() }).await;
        let findings = verify::loaded(&mut client, &rows).await.unwrap();
        let bad: Vec<_> = findings.iter().filter(|f| f.level == Level::Problem).collect();
        assert_eq!(bad.len(), problems, "{findings:?}");
        assert!(bad.iter().all(|f| f.remedy.as_ref().is_some_and(|r| !r.is_empty())));
    }
}
