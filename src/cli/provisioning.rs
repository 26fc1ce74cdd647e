//! What `callferry provision` and `callferry trunk` share: settings, exit codes, writing and making live, reports.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;

use crate::ami::{Client, Connect, Tls};
use crate::config;
pub use crate::config::ProvisionSettings as Settings;
use crate::finding::{Finding, Level};
use crate::provision::activate::{self, Outcome, Work};
use crate::provision::apply::{self, Desired, Options};
use crate::provision::db::Db;
use crate::provision::error::{Error, Kind, Result};
use crate::provision::plan::Plan;
use crate::provision::schema::{Mapping, Schema};
use crate::provision::stubs;
use crate::provision::table::{Row, Table};
use crate::provision::verify;

/// A command beside the settings of provisioning.
#[derive(clap::Args, Debug)]
pub struct Args<C: clap::Subcommand> {
    #[command(subcommand)]
    pub command: C,
    #[command(flatten)]
    pub settings: Settings,
}

impl Settings {
    pub async fn database(&self, mapping: &Mapping) -> Result<(Db, Schema)> {
        let dsn = secret("PROVISION_DSN", self.provision_dsn_file.as_deref())?.ok_or_else(|| {
            Error::input(
                "PROVISION_DSN is not set: the address of Asterisk's realtime database, with a user of its own",
            )
        })?;
        let mut db = Db::connect(&dsn).await?;
        let schema = Schema::read(&mut db, mapping).await?;
        Ok((db, schema))
    }

    /// `None`: not configured, or not wanted.
    pub async fn manager(&self) -> Result<Option<Client>> {
        let Some(host) = self.ami_host.clone().filter(|_| !self.no_activate) else { return Ok(None) };
        let secret = secret("AMI_PASSWORD", self.ami_password_file.as_deref())?
            .ok_or_else(|| Error::input("AMI_PASSWORD is not set: the secret of the manager user AMI_USERNAME"))?;
        let connect = Connect {
            host,
            port: self.ami_port,
            user: self.ami_username.clone(),
            secret,
            tls: if self.ami_tls { Tls::On { ca_file: self.ami_ca_file.clone() } } else { Tls::Off },
            timeout: Duration::from_secs(10),
            // Registry is of this class; calls would come by the thousand and fill the queue
            events: "system".to_owned(),
        };
        Client::connect(&connect).await.map(Some).map_err(|e| Error::new(Kind::Activation, e.to_string()))
    }

    fn wait(&self) -> Duration {
        Duration::from_secs(self.provision_wait.clamp(1, 600))
    }
}

/// From `<NAME>` or the file of `<NAME>_FILE`.
pub fn secret(name: &str, file: Option<&Path>) -> Result<Option<SecretString>> {
    config::secret(name, file).map_err(|e| Error::input(e.to_string()))
}

pub const fn exit_code(kind: Kind) -> u8 {
    match kind {
        Kind::Input => super::INPUT,
        Kind::Schema => super::SCHEMA,
        Kind::Database => super::DATABASE,
        Kind::Activation => super::ACTIVATION,
    }
}

/// Runs a command to its exit code; an error is told once, here.
pub fn finish(run: impl Future<Output = Result<u8>>) -> u8 {
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("callferry: cannot start: {e}");
            return super::RUNTIME;
        }
    };
    match runtime.block_on(run) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("callferry: {e}");
            exit_code(e.kind)
        }
    }
}

/// Writes, then makes live. The write stands without Asterisk; what is missing then is told.
pub async fn carry_out(
    settings: &Settings,
    mut db: Db,
    schema: &Schema,
    desired: &Desired,
    options: &Options,
    as_json: bool,
) -> Result<u8> {
    let preview = apply::preview(&mut db, schema, desired).await?;
    // what will be refused unregisters nothing
    apply::allowed(&preview, options)?;
    let manager = if preview.is_empty() { Ok(None) } else { settings.manager().await };
    let (mut client, mut problems) = match manager {
        Ok(client) => (client, Vec::new()),
        Err(e) if e.kind == Kind::Activation => (None, vec![e.to_string()]),
        Err(e) => return Err(e),
    };
    let unreachable = !problems.is_empty();
    let registering = registering(&desired.rows);
    let mut leaving = Outcome::default();
    let before = Work::of(&preview, &registering);
    if let Some(client) = &mut client {
        match verify::preflight_asterisk(client, schema, desired).await {
            Ok(findings) => {
                // the stubs are about to be written
                let coming = |f: &&Finding| settings.provision_stubs.is_some() && f.topic.starts_with("context ");
                tell(findings.iter().filter(|f| f.level != Level::Ok && !coming(f)), &mut std::io::stderr());
            }
            Err(e) => eprintln!("callferry: cannot look at Asterisk beforehand: {e}"),
        }
        leaving = activate::unregister(client, &before).await;
    }
    let plan = match apply::apply(&mut db, schema, desired, options).await {
        Ok(plan) => Plan { warnings: preview.warnings, ..plan },
        Err(e) => {
            // the rows stand as before, so the registrations should
            if let Some(client) = &mut client {
                let back = Work { register_again: before.unregister, ..Work::default() };
                activate::activate(client, &back, Duration::from_secs(1)).await;
            }
            return Err(e);
        }
    };
    let mut outcome = leaving;
    // even when nothing was written: the file may be new
    if let Some(path) = &settings.provision_stubs {
        match keep_stubs(settings, path, &mut db, schema, desired, &mut client).await {
            Ok(done) => outcome.done.extend(done),
            // the rows stand: whatever goes wrong now is about Asterisk
            Err(e) => problems.push(e.to_string()),
        }
    }
    db.close().await;
    let work = Work::of(&plan, &registering);
    if let Some(client) = &mut client {
        let live = activate::activate(client, &work, settings.wait()).await;
        outcome.done.extend(live.done);
        problems.extend(live.problems);
    }
    problems.append(&mut outcome.problems);
    if as_json {
        let document = json!({
            "plan": plan, "totals": plan.totals(), "activated": outcome.done, "not_activated": problems,
        });
        println!("{document:#}");
    } else {
        print!("{}", plan.render());
        if !plan.is_empty() {
            println!("Written.");
        }
        for line in &outcome.done {
            println!("  {line}");
        }
    }
    for problem in &problems {
        eprintln!("callferry: written, not activated: {problem}");
    }
    if client.is_none() && !unreachable && !work.is_empty() {
        eprintln!(
            "callferry: written; registrations begin when Asterisk retrieves them: set AMI_HOST, or run `asterisk -rx \
'module reload res_pjsip_outbound_registration.so'`"
        );
    }
    if let Some(client) = client {
        client.logoff().await;
    }
    Ok(if problems.is_empty() { super::OK } else { super::ACTIVATION })
}

/// Brings the file of stubs up to date, and the dialplan with it.
async fn keep_stubs(
    settings: &Settings,
    path: &Path,
    db: &mut Db,
    schema: &Schema,
    desired: &Desired,
    client: &mut Option<Client>,
) -> Result<Vec<String>> {
    let mut contexts = stubs::contexts(db, schema, &settings.provision_namespace).await?;
    contexts.extend(desired.rows.iter().filter(|r| r.table == Table::Extensions).map(|r| r.key[0].clone()));
    if !stubs::write(path, &contexts)? {
        return Ok(Vec::new());
    }
    let mut done = vec![format!("{}: {} contexts", path.display(), contexts.len())];
    if client.is_none() {
        *client = settings.manager().await?;
    }
    match client {
        Some(client) => {
            let reload = client.command("dialplan reload").await;
            reload.map_err(|e| Error::new(Kind::Activation, format!("cannot reload the dialplan: {e}")))?;
            done.push("dialplan reloaded".to_owned());
        }
        None => eprintln!("callferry: stubs written; run `asterisk -rx 'dialplan reload'`"),
    }
    Ok(done)
}

fn registering(rows: &[Row]) -> BTreeSet<String> {
    rows.iter().filter(|r| r.table == Table::Registrations).map(|r| r.key[0].clone()).collect()
}

/// Adds what Asterisk says and reports.
pub async fn verify_live(
    settings: &Settings,
    schema: &Schema,
    desired: &Desired,
    mut findings: Vec<Finding>,
    as_json: bool,
) -> Result<u8> {
    match settings.manager().await? {
        None => findings.push(Finding::warning(
            "asterisk",
            "was not asked: AMI_HOST is not set",
            "set AMI_HOST, AMI_USERNAME and AMI_PASSWORD to compare with what is loaded",
        )),
        Some(mut client) => {
            let failed = |e: crate::ami::AmiError| Error::new(Kind::Activation, e.to_string());
            findings.extend(verify::preflight_asterisk(&mut client, schema, desired).await.map_err(failed)?);
            let seen: BTreeSet<String> = findings.iter().map(|f| f.topic.clone()).collect();
            let loaded = verify::loaded(&mut client, &desired.rows).await.map_err(failed)?;
            findings.extend(loaded.into_iter().filter(|f| !seen.contains(&f.topic)));
            client.logoff().await;
        }
    }
    if as_json {
        println!("{:#}", json!(findings));
    } else {
        tell(findings.iter(), &mut std::io::stdout());
    }
    let problems = findings.iter().any(|f| f.level == Level::Problem);
    Ok(if problems { super::PROBLEMS } else { super::OK })
}

fn tell<'a>(findings: impl Iterator<Item = &'a Finding>, out: &mut dyn std::io::Write) {
    for f in findings {
        let level = match f.level {
            Level::Ok => "ok      ",
            Level::Warning => "warning ",
            Level::Problem => "PROBLEM ",
        };
        let _ = writeln!(out, "{level} {}: {}", f.topic, f.text);
        if let Some(remedy) = f.remedy.as_ref().filter(|_| f.level != Level::Ok) {
            let _ = writeln!(out, "         → {remedy}");
        }
    }
}

pub fn show(plan: &Plan, as_json: bool) {
    if as_json {
        println!(
            "{:#}",
            json!({"changes": plan.changes, "warnings": plan.warnings, "totals": plan.totals(), "state": plan.state})
        );
    } else {
        print!("{}", plan.render());
    }
}
