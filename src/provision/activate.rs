//! Asterisk takes most rows up by itself; registrations it does not. What is done here, over AMI, makes a change live:
//! retrieve new registrations, register again after a new password, purge deleted ones, qualify static contacts, and wait
//! until the far end has said yes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::cache::{self, Touched};
use super::plan::{Action as Change, Plan};
use super::table::Table;
use crate::ami::{Action, AmiError, Client};

const REGISTRATION_MODULE: &str = "res_pjsip_outbound_registration.so";
const POLL: Duration = Duration::from_millis(400);

/// What a plan asks of Asterisk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Registrations to be retrieved.
    pub registrations: BTreeSet<String>,
    /// Registrations whose secret is another one: they register again only when told to.
    pub register_again: BTreeSet<String>,
    pub unregister: BTreeSet<String>,
    /// AORs with a contact of their own.
    pub qualify: BTreeSet<String>,
    /// Rows that a memory cache may hold back.
    pub touched: Touched,
}

impl Work {
    /// `registering`: ids that have a registration once the plan is carried out.
    pub fn of(plan: &Plan, registering: &BTreeSet<String>) -> Self {
        let mut work = Self { touched: cache::touched(plan), ..Self::default() };
        for change in &plan.changes {
            let id = change.key[0].clone();
            match (change.table, change.action) {
                (Table::Registrations, Change::Delete) => {
                    work.unregister.insert(id);
                }
                (Table::Registrations, _) => {
                    work.registrations.insert(id);
                }
                (Table::Auths, Change::Update) if registering.contains(&id) => {
                    work.register_again.insert(id);
                }
                (Table::Aors, Change::Create | Change::Update)
                    if change.touches("contact")
                        || change.touches("qualify_frequency") && registering.contains(&id) =>
                {
                    work.qualify.insert(id);
                }
                _ => {}
            }
        }
        // a new registration registers with what stands now
        work.register_again = work.register_again.difference(&work.registrations).cloned().collect();
        work
    }

    /// Asterisk takes all of it up without being asked, unless a cache is in the way.
    pub fn is_empty(&self) -> bool {
        *self == Self { touched: self.touched.clone(), ..Self::default() }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub done: Vec<String>,
    pub problems: Vec<String>,
}

/// Before rows go: while the row stands, the far end can still be told.
pub async fn unregister(client: &mut Client, work: &Work) -> Outcome {
    let mut outcome = Outcome::default();
    for id in &work.unregister {
        match client.action(Action::new("PJSIPUnregister").with("Registration", id)).await {
            Ok(_) => outcome.done.push(format!("{id}: unregistered")),
            // never retrieved: nothing to take back
            Err(AmiError::Refused { message, .. }) if message.contains("Unable to retrieve") => {}
            Err(e) => outcome.problems.push(format!("{id}: cannot unregister: {e}")),
        }
    }
    if !outcome.done.is_empty() {
        // the REGISTER that takes the binding back needs the credentials, which are about to go
        let _ = settled(client, &work.unregister, Duration::from_secs(3)).await;
    }
    outcome
}

/// Waits until none of `ids` says it is registered.
async fn settled(client: &mut Client, ids: &BTreeSet<String>, wait: Duration) -> Result<(), AmiError> {
    let deadline = Instant::now() + wait;
    while Instant::now() < deadline {
        let states = registrations(client).await?;
        if !ids.iter().any(|id| states.get(id).is_some_and(|r| r.status == "Registered")) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// After the rows stand.
pub async fn activate(client: &mut Client, work: &Work, wait: Duration) -> Outcome {
    let mut outcome = Outcome::default();
    let waiting: BTreeSet<String> = work.registrations.union(&work.register_again).cloned().collect();
    // events from before are not about this change
    while timeout(Duration::ZERO, client.event()).await.is_ok_and(|e| e.is_ok()) {}
    if !work.touched.is_empty() {
        let (done, problems) = cache::expire(client, &work.touched).await;
        outcome.done.extend(done);
        outcome.problems.extend(problems);
    }
    if !work.registrations.is_empty() || !work.unregister.is_empty() {
        // a reload retrieves new rows, takes changed ones up, unregisters deleted ones and leaves the others alone
        let reload = Action::new("ModuleLoad").with("Module", REGISTRATION_MODULE).with("LoadType", "reload");
        match client.action(reload).await {
            Ok(_) => outcome.done.push(format!("{REGISTRATION_MODULE} reloaded")),
            Err(e) => outcome.problems.push(format!("cannot reload {REGISTRATION_MODULE}: {e}")),
        }
    }
    for id in &work.register_again {
        match client.action(Action::new("PJSIPRegister").with("Registration", id)).await {
            Ok(_) => outcome.done.push(format!("{id}: told to register again")),
            Err(e) => outcome.problems.push(format!("{id}: cannot register again: {e}")),
        }
    }
    for id in &work.qualify {
        // without it a static contact stays unknown until the module is reloaded; calls work meanwhile
        match client.command(&format!("pjsip reload qualify aor {id}")).await {
            Ok(_) => outcome.done.push(format!("{id}: contact qualified")),
            Err(e) => outcome.problems.push(format!("{id}: cannot qualify (does the AMI user have command?): {e}")),
        }
    }
    if !waiting.is_empty() {
        match registered(client, &waiting, &work.register_again, wait).await {
            Ok(states) => report(&states, &waiting, wait, &mut outcome),
            Err(e) => outcome.problems.push(e.to_string()),
        }
    }
    outcome
}

/// A registration as Asterisk has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub status: String,
    pub server_uri: String,
    pub client_uri: String,
    /// What the far end answered, where an event told.
    pub cause: Option<String>,
}

/// All registrations Asterisk holds, by id. Asking retrieves those it has not seen yet.
pub async fn registrations(client: &mut Client) -> Result<BTreeMap<String, Registration>, AmiError> {
    let frames = match client.list(Action::new("PJSIPShowRegistrationsOutbound")).await {
        Ok(frames) => frames,
        // old versions refuse where there is none
        Err(AmiError::Refused { message, .. }) if message.contains("No ") => Vec::new(),
        Err(e) => return Err(e),
    };
    // the AuthDetail frames between hold passwords in clear text: not looked at
    let details = frames.iter().filter(|f| f.event() == Some("OutboundRegistrationDetail"));
    Ok(details
        .filter_map(|f| {
            let text = |key| f.get(key).unwrap_or_default().to_owned();
            let registration = Registration {
                status: text("Status"),
                server_uri: text("ServerUri"),
                client_uri: text("ClientUri"),
                cause: None,
            };
            Some((f.get("ObjectName")?.to_owned(), registration))
        })
        .collect())
}

/// Follows registrations until each is settled or time is up. `again` count only from an event on.
async fn registered(
    client: &mut Client,
    ids: &BTreeSet<String>,
    again: &BTreeSet<String>,
    wait: Duration,
) -> Result<BTreeMap<String, Registration>, AmiError> {
    let deadline = Instant::now() + wait;
    let mut told: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    loop {
        let mut states = registrations(client).await?;
        while let Ok(event) = timeout(POLL, client.event()).await {
            let event = event?;
            if event.event() == Some("Registry") {
                let status = event.get("Status").unwrap_or_default().to_owned();
                let cause = event.get("Cause").filter(|c| !c.is_empty()).map(str::to_owned);
                told.insert(event.get("Username").unwrap_or_default().to_owned(), (status, cause));
            }
        }
        let mut open = false;
        for id in ids {
            let Some(state) = states.get_mut(id) else {
                open = true;
                continue;
            };
            let event = told.get(&state.client_uri);
            if let Some((status, cause)) = event {
                state.status.clone_from(status);
                state.cause.clone_from(cause);
            }
            let settled = matches!(state.status.as_str(), "Registered" | "Rejected" | "Stopped");
            open |= !settled || again.contains(id) && event.is_none();
        }
        if !open || Instant::now() >= deadline {
            return Ok(states);
        }
    }
}

fn report(states: &BTreeMap<String, Registration>, ids: &BTreeSet<String>, wait: Duration, outcome: &mut Outcome) {
    for id in ids {
        match states.get(id) {
            Some(r) if r.status == "Registered" => outcome.done.push(format!("{id}: registered with {}", r.server_uri)),
            Some(r) => outcome.problems.push(format!("{id}: {}", explain(r, wait))),
            None => outcome.problems.push(format!("{id}: {NOT_LOADED}")),
        }
    }
}

pub(super) const NOT_LOADED: &str = "Asterisk has no such registration: it does not read ps_registrations (sorcery.conf, \
extconfig.conf: see callferry provision render), or the row names a transport, auth or address it cannot use; its log \
tells which";

pub(super) fn explain(r: &Registration, wait: Duration) -> String {
    let cause = r.cause.as_ref().map_or(String::new(), |c| format!(" ({c})"));
    match r.status.as_str() {
        "Rejected" => {
            format!("{} refused the registration{cause}: check extension, authentication id and password", r.server_uri)
        }
        "Unregistered" | "" => {
            format!(
                "{} has not answered within {} s{cause}: check host, port and firewall",
                r.server_uri,
                wait.as_secs()
            )
        }
        other => format!("is {other} at {}{cause}", r.server_uri),
    }
}
