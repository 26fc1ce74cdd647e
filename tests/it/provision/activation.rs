//! What is asked of Asterisk after a change, against a server that answers as Asterisk 22 was seen to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callferry::ami::Client;
use callferry::finding::Level;
use callferry::provision::activate::{self, Work};
use callferry::provision::table::{Row, Table};
use callferry::provision::verify;

use crate::support::ami::{Asked, manager};

/// One registration, and what Asterisk was told.
#[derive(Default)]
struct Pbx {
    /// Status by the password the far end knows: what a REGISTER would come to.
    comes_to: &'static str,
    status: String,
    retrieved: bool,
    told: Vec<String>,
    switch: bool,
    /// A line of res_pjsip in sorcery.conf; without it that file is not to be read.
    sorcery: Option<&'static str>,
    /// The cache holds whole tables.
    whole: bool,
}

async fn pbx(state: Pbx) -> (Client, Arc<Mutex<Pbx>>) {
    let state = Arc::new(Mutex::new(state));
    let shared = state.clone();
    let connect = manager(move |asked| answer(&mut shared.lock().unwrap(), asked)).await;
    (Client::connect(&connect).await.unwrap(), state)
}

fn answer(pbx: &mut Pbx, asked: &Asked) -> String {
    let success = asked.success("");
    let registry = |status: &str| {
        format!(
            "Event: Registry\r\nPrivilege: system,all\r\nChannelType: PJSIP\r\nUsername: sip:1@far\r\nDomain: sip:far\r\nStatus: {status}\r\nCause: 401\r\n\r\n"
        )
    };
    let action = asked.get("Action").to_owned();
    if !["PJSIPShowRegistrationsOutbound", "GetConfig"].contains(&action.as_str()) {
        let about = ["Module", "Registration", "Command", "Cache", "Object"].map(|key| asked.get(key));
        pbx.told.push(format!("{action} {}", about.concat()).trim().to_owned());
    }
    match action.as_str() {
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
        "PJSIPRegister" | "PJSIPUnregister" => asked.refuse("Unable to retrieve registration entry"),
        "PJSIPShowRegistrationsOutbound" => {
            let one = format!(
                "Event: OutboundRegistrationDetail\r\nObjectName: cf_far_1\r\nServerUri: sip:far\r\nClientUri: sip:1@far\r\nStatus: {}\r\n",
                pbx.status
            );
            let auth = "Event: AuthDetail\r\nObjectName: cf_far_1\r\nPassword: cleartext\r\n".to_owned();
            let all = [one, auth];
            asked.list(if pbx.retrieved { &all } else { &[] })
        }
        "GetConfig" => match pbx.sorcery {
            Some(line) => asked.success(&format!("Category-000000: res_pjsip\r\nLine-000000-000000: {line}\r\n")),
            None => asked.refuse("Permission denied"),
        },
        "SorceryMemoryCacheExpireObject" if pbx.whole => asked.refuse("Due to full backend caching per-object …"),
        "SorceryMemoryCacheExpireObject" => asked.refuse("The provided object could not be expired from the cache"),
        "Command" if asked.get("Command").starts_with("sorcery memory cache show res_pjsip/aor") => asked
            .success("Output: Sorcery memory cache: res_pjsip/aor\r\nOutput: Number of objects within cache: 1\r\n"),
        "ShowDialPlan" if pbx.switch => {
            asked.list(&["Event: ListDialplan\r\nSwitch: Realtime/@extensions\r\n".to_owned()])
        }
        "ShowDialPlan" => asked.refuse("Did not find context x"),
        "PJSIPShowEndpoint" => asked.refuse("Unable to retrieve endpoint x"),
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

/// What a memory cache holds of changed rows is taken out of it, whatever the cache is called.
#[tokio::test]
async fn memory_caches_let_go_of_what_changed() {
    let touched = || [(Table::Endpoints, ids("100")), (Table::Aors, ids("100"))].into();
    for (sorcery, whole, told) in [
        (Some("endpoint/cache=memory_cache,name=mine"), false, &["SorceryMemoryCacheExpireObject mine100"][..]),
        (
            Some("endpoint/cache=memory_cache,full_backend_cache=yes"),
            true,
            &["SorceryMemoryCacheExpireObject res_pjsip/endpoint100", "SorceryMemoryCachePopulate res_pjsip/endpoint"],
        ),
        (Some("endpoint=realtime,ps_endpoints"), false, &[]),
        (
            None,
            false,
            &[
                "Command sorcery memory cache show res_pjsip/aor",
                "Command sorcery memory cache show res_pjsip/endpoint",
                "SorceryMemoryCacheExpireObject res_pjsip/aor100",
            ],
        ),
    ] {
        let (mut client, state) = pbx(Pbx { sorcery, whole, ..Pbx::default() }).await;
        let work = Work { touched: touched(), ..Work::default() };
        assert!(work.is_empty());
        let outcome = activate::activate(&mut client, &work, Duration::from_secs(1)).await;
        assert!(outcome.problems.is_empty(), "{outcome:?}");
        assert_eq!(state.lock().unwrap().told, told);
    }
}
