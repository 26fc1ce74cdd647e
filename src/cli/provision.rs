//! `callferry provision`: a declarative file against Asterisk Realtime.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::provisioning::{self, Settings, carry_out, finish, secret, show, verify_live};
use crate::ami::Client;
use crate::finding::Finding;
use crate::provision::apply::{self, Desired, Options};
use crate::provision::db::Engine;
use crate::provision::error::{Error, Kind, Result};
use crate::provision::import;
use crate::provision::intent::{Intent, Secrets};
use crate::provision::manifest::{Manifest, Source};
use crate::provision::model::word;
use crate::provision::plan::{Action, Plan};
use crate::provision::render;
use crate::provision::schema::{Mapping, Schema};
use crate::provision::stubs;
use crate::provision::table::place;
use crate::provision::verify;
use crate::provision::version::Version;

pub type Args = provisioning::Args<Command>;

/// Trunks, extensions, queues and routes of a file: planned, written in one transaction, made live, verified
#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Exit codes: 0 ok, 2 changes are pending (plan --detailed-exitcode), 3 verify found problems, 4 what was asked for cannot \
be written, 5 the database's tables are not what is needed, 6 the database refused or could not be reached, 7 written and \
not activated. After 4, 5 and 6 nothing is written.")]
pub enum Command {
    /// Show what an apply would change
    Plan(PlanArgs),
    /// Write what the file asks for, in one transaction, and make it live
    Apply(ApplyArgs),
    /// Show how the database differs from the file (plan, without anything that could be saved)
    Diff(FileArgs),
    /// Compare file, database and what Asterisk has loaded, with the state of each registration
    Verify(FileArgs),
    /// Delete every row of our namespace, and the trunks outside of it that the file names by id
    Destroy(DestroyArgs),
    /// Write a file of what stands in the database
    Import(ImportArgs),
    /// Print the static files Asterisk needs, right for its version: contexts with their switch, extconfig, sorcery, driver
    Render(RenderArgs),
}

#[derive(clap::Args, Debug)]
pub struct FileArgs {
    /// The declarative file
    #[arg(short, long, default_value = "pbx.toml")]
    file: PathBuf,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    file: FileArgs,
    /// End with 2 when there is something to change
    #[arg(long)]
    detailed_exitcode: bool,
    /// Save the plan; apply --plan carries out that and nothing else
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    file: FileArgs,
    /// A saved plan; refused when rows or file have changed since
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
}

#[derive(clap::Args, Debug)]
pub struct DestroyArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Yes, delete them
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args, Debug)]
pub struct ImportArgs {
    /// File to write; - for standard output
    #[arg(short, long, default_value = "-")]
    file: PathBuf,
    /// A file whose [tables] name the tables and columns to read
    #[arg(long, value_name = "FILE")]
    tables: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
pub struct RenderArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Reach the database by ODBC, with this class of res_odbc.conf
    #[arg(long, value_name = "CLASS")]
    odbc: Option<String>,
    /// Database the files are for: postgresql or mysql [default: that of PROVISION_DSN, which is then asked for contexts]
    #[arg(long)]
    database: Option<String>,
    /// Version of Asterisk the files are for, 16 to 23 [default: that of AMI_HOST, or 22]
    #[arg(long, value_name = "VERSION")]
    asterisk_version: Option<String>,
}

#[derive(clap::Args, Debug)]
pub struct Limits {
    /// Trunks, extensions and queues that may be deleted at once
    #[arg(long, env = "PROVISION_MAX_DELETES", default_value = "5")]
    max_deletes: usize,
    /// Delete more than that
    #[arg(long)]
    force: bool,
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    let Args { command, settings } = args;
    finish(async move {
        match command {
            Command::Plan(args) => plan(&settings, args).await,
            Command::Apply(args) => apply_file(&settings, args).await,
            Command::Diff(file) => plan(&settings, PlanArgs { file, detailed_exitcode: false, out: None }).await,
            Command::Verify(file) => verify_file(&settings, &file).await,
            Command::Destroy(args) => destroy(&settings, args).await,
            Command::Import(args) => import_file(&settings, &args).await,
            Command::Render(args) => render_file(&settings, args).await,
        }
    })
}

fn intent(settings: &Settings, file: &Path, read_secrets: bool) -> Result<Intent> {
    let text = Manifest::read(file)?;
    let name = file.display().to_string();
    let source = Source { name: &name, text: &text };
    let manifest = Manifest::parse(&source)?;
    let base = file.parent().map(Path::to_owned).unwrap_or_default();
    Intent::of(&manifest, &source, &settings.provision_namespace, &Secrets { base, read: read_secrets })
}

async fn plan(settings: &Settings, args: PlanArgs) -> Result<u8> {
    let intent = intent(settings, &args.file.file, true)?;
    let desired = intent.desired(&settings.provision_namespace)?;
    let (mut db, schema) = settings.database(&intent.mapping).await?;
    let plan = apply::preview(&mut db, &schema, &desired).await?;
    db.close().await;
    if let Some(out) = &args.out {
        save(out, settings, &schema, &plan)?;
    }
    show(&plan, args.file.json);
    Ok(if args.detailed_exitcode && !plan.is_empty() { super::USAGE } else { super::OK })
}

/// A saved plan holds no secret; it is the owner's alone all the same.
fn save(out: &Path, settings: &Settings, schema: &Schema, plan: &Plan) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let text = json!({
        "callferry_plan": 1,
        "namespace": settings.provision_namespace,
        "database": schema.database,
        "plan": plan,
    });
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(out).and_then(|mut f| writeln!(f, "{text:#}"));
    written.map_err(|e| Error::input(format!("cannot write the plan to {}: {e}", out.display())))
}

fn saved(path: &Path, settings: &Settings, schema: &Schema) -> Result<Plan> {
    let problem = |what: String| Error::input(format!("plan {}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| problem(e.to_string()))?;
    let document: serde_json::Value = serde_json::from_str(&text).map_err(|e| problem(e.to_string()))?;
    if document["callferry_plan"] != 1 {
        return Err(problem("is not a plan that callferry has saved".to_owned()));
    }
    if document["namespace"] != settings.provision_namespace || document["database"] != schema.database {
        return Err(problem("was made for another namespace or database".to_owned()));
    }
    serde_json::from_value(document["plan"].clone()).map_err(|e| problem(e.to_string()))
}

async fn apply_file(settings: &Settings, args: ApplyArgs) -> Result<u8> {
    let intent = intent(settings, &args.file.file, true)?;
    let desired = intent.desired(&settings.provision_namespace)?;
    let (db, schema) = settings.database(&intent.mapping).await?;
    let expected = args.plan.as_deref().map(|p| saved(p, settings, &schema)).transpose()?;
    let options = Options { max_deletes: args.limits.max_deletes, force: args.limits.force, expected };
    carry_out(settings, db, &schema, &desired, &options, args.file.json).await
}

async fn destroy(settings: &Settings, args: DestroyArgs) -> Result<u8> {
    let intent = intent(settings, &args.file.file, false)?;
    // the owner has the trunks outside of the namespace that the file names
    let owner = intent.desired(&settings.provision_namespace)?.owner;
    let (mut db, schema) = settings.database(&intent.mapping).await?;
    let desired = Desired { owner, rows: Vec::new() };
    if !args.yes {
        let plan = apply::preview(&mut db, &schema, &desired).await?;
        show(&plan, args.file.json);
        eprintln!("callferry: nothing was deleted; destroy --yes deletes this");
        return Ok(if plan.is_empty() { super::OK } else { super::INPUT });
    }
    let options = Options { force: true, ..Options::default() };
    carry_out(settings, db, &schema, &desired, &options, args.file.json).await
}

async fn verify_file(settings: &Settings, file: &FileArgs) -> Result<u8> {
    let intent = intent(settings, &file.file, true)?;
    let desired = intent.desired(&settings.provision_namespace)?;
    let (mut db, schema) = settings.database(&intent.mapping).await?;
    let mut findings = verify::preflight_schema(&schema, &desired);
    let plan = apply::preview(&mut db, &schema, &desired).await?;
    for change in &plan.changes {
        let topic = place(change.table, &change.key);
        let columns: Vec<&str> = change.fields.iter().map(|f| f.column.as_str()).collect();
        let text = match change.action {
            Action::Create => "is in the file and not in the database".to_owned(),
            Action::Update => format!("differs from the file in {}", columns.join(", ")),
            Action::Delete => "is in the database and not in the file".to_owned(),
        };
        findings.push(Finding::problem(topic, text, "callferry provision plan, then apply"));
    }
    if plan.is_empty() {
        findings.push(Finding::ok("database", "has every row as the file says"));
    }
    verify_live(settings, &schema, &desired, findings, file.json).await
}

async fn import_file(settings: &Settings, args: &ImportArgs) -> Result<u8> {
    let mapping = match &args.tables {
        Some(file) => intent(settings, file, false)?.mapping,
        None => Mapping::default(),
    };
    let (mut db, schema) = settings.database(&mapping).await?;
    let text = import::import(&mut db, &schema, &settings.provision_namespace).await?;
    db.close().await;
    if args.file == Path::new("-") {
        print!("{text}");
        return Ok(super::OK);
    }
    let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&args.file);
    file.and_then(|mut f| f.write_all(text.as_bytes()))
        .map_err(|e| Error::input(format!("cannot write {}: {e}", args.file.display())))?;
    Ok(super::OK)
}

async fn render_file(settings: &Settings, args: RenderArgs) -> Result<u8> {
    let ns = &settings.provision_namespace;
    // without a file: for the trunks there are
    let default = Path::new("pbx.toml");
    let without = args.file.file == default && !default.exists();
    let intent = if without { Intent::default() } else { intent(settings, &args.file.file, false)? };
    let desired = intent.desired(ns)?;
    let dsn = secret("PROVISION_DSN", settings.provision_dsn_file.as_deref())?;
    let mut contexts: BTreeSet<String> = intent.contexts(ns)?.into_iter().collect();
    if dsn.is_some() && args.database.is_none() {
        let (mut db, schema) = settings.database(&intent.mapping).await?;
        contexts.extend(stubs::contexts(&mut db, &schema, ns).await?);
        db.close().await;
    }
    for context in &contexts {
        // a row of ours that somebody else wrote can hold anything, and this text goes into extensions.conf
        word("context", context)?;
    }
    let engine = match args.database.as_deref() {
        Some("postgresql") => Engine::PostgreSql,
        Some("mysql" | "mariadb") => Engine::MySql,
        Some(other) => return Err(Error::input(format!("--database {other} is not postgresql or mysql"))),
        None => match dsn {
            Some(dsn) if secrecy::ExposeSecret::expose_secret(&dsn).starts_with("postgres") => Engine::PostgreSql,
            Some(_) => Engine::MySql,
            None => return Err(Error::input("say --database postgresql or mysql, or set PROVISION_DSN")),
        },
    };
    let mut transports: BTreeSet<String> =
        desired.rows.iter().filter_map(|r| r.cells.get("transport")?.value.parts().first().cloned()).collect();
    if transports.is_empty() {
        transports.insert("transport-udp".to_owned());
    }
    let setting = render::Setting {
        contexts: &contexts.into_iter().collect::<Vec<_>>(),
        mapping: &intent.mapping,
        engine,
        odbc: args.odbc.as_deref(),
        transports: &transports.into_iter().collect::<Vec<_>>(),
        version: asterisk_version(settings, args.asterisk_version.as_deref()).await?,
    };
    print!("{}", render::render(&setting));
    Ok(super::OK)
}

/// As asked for, as Asterisk says, or the newest long-term release.
async fn asterisk_version(settings: &Settings, asked: Option<&str>) -> Result<Version> {
    let version = match asked {
        Some(text) => Version::parse(text)?,
        None => match settings.manager().await {
            Ok(Some(client)) => said_version(client).await?,
            Ok(None) => Version::LONG_TERM,
            Err(e) => {
                eprintln!("callferry: Asterisk's version is not known, {} is taken: {e}", Version::LONG_TERM);
                Version::LONG_TERM
            }
        },
    };
    if version.is_newer_than_known() {
        eprintln!("callferry: Asterisk {version} is newer than this knows: the files are those of {}", Version::NEWEST);
    }
    Ok(version)
}

async fn said_version(mut client: Client) -> Result<Version> {
    let said = client.action(crate::ami::Action::new("CoreSettings")).await;
    client.logoff().await;
    let said = said.map_err(|e| Error::new(Kind::Activation, e.to_string()))?;
    Version::parse(said.get("AsteriskVersion").unwrap_or_default())
}
