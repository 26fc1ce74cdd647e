//! `callferry trunk`: the everyday face of provisioning, one trunk at a time.

use std::io::IsTerminal;
use std::path::PathBuf;

use comfy_table::{Table as Listing, presets};
use serde_json::json;

use super::provisioning::{self, Settings, carry_out, finish, secret, verify_live};
use crate::finding::Finding;
use crate::provision::activate;
use crate::provision::apply::{Desired, Options};
use crate::provision::build;
use crate::provision::current::Owner;
use crate::provision::db::Db;
use crate::provision::define::{destination, password_file, secret_of, trunk_of};
use crate::provision::error::{Error, Kind, Result};
use crate::provision::ident;
use crate::provision::import::standing;
use crate::provision::manifest::{Defaults, TrunkDef};
use crate::provision::model::{Secret, host};
use crate::provision::schema::{Mapping, Schema};
use crate::provision::table::{Row, Table};

pub type Args = provisioning::Args<Command>;

/// Add, list, show, verify and remove trunks in Asterisk Realtime
#[derive(clap::Subcommand, Debug)]
#[command(after_help = "\
Exit codes: 0 ok, 3 verify found problems, 4 what was asked for cannot be written, 5 the database's tables are not what is \
needed, 6 the database refused or could not be reached, 7 written and not activated. After 4, 5 and 6 nothing is written.")]
pub enum Command {
    /// Write a trunk, in one transaction, and register it; the same again writes nothing
    Add(Box<Add>),
    /// List the trunks of our namespaces
    List(List),
    /// Show the rows of a trunk, secrets masked
    Show(One),
    /// Compare a trunk's rows with what Asterisk has loaded and with the far end
    Verify(One),
    /// Unregister a trunk and delete all its rows
    Remove(One),
}

#[derive(clap::Args, Debug)]
pub struct Add {
    /// Host of the other PBX: 1156.3cx.cloud
    #[arg(long, visible_alias = "host", value_name = "HOST")]
    sip_domain: String,
    /// Our extension number there
    #[arg(long)]
    extension: Option<String>,
    /// Authentication ID, where it is not the extension (3CX has one of its own)
    #[arg(long)]
    auth_id: Option<String>,
    /// File with the SIP password (or set TRUNK_PASSWORD; else it is asked for)
    #[arg(long, env = "TRUNK_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// Store md5(authentication id:realm:password) instead of the password; 3CX: 3CXPhoneSystem
    #[arg(long, value_name = "REALM")]
    digest_realm: Option<String>,
    /// Stasis application that takes incoming calls
    #[arg(long, visible_alias = "app-name")]
    app: Option<String>,
    /// Where incoming calls go instead: goto:context,exten,priority, voicemail:number, hangup
    #[arg(long, conflicts_with = "app")]
    inbound: Option<String>,
    /// What to take off the front of dialled numbers, as a regular expression: '^\+39'
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    strip_prefix: String,
    /// What to put in front of what is left
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    add_prefix: String,
    /// Refuse numbers that --strip-prefix does not match, instead of dialling them as they are
    #[arg(long)]
    reject_unmatched: bool,
    /// Caller number of outgoing calls: one for all of them
    #[arg(long, allow_hyphen_values = true)]
    from_number: Option<String>,
    /// Port of the other PBX [default: 5060, or what its DNS says]
    #[arg(long)]
    port: Option<u16>,
    /// udp, tcp or tls
    #[arg(long, default_value = "udp")]
    protocol: String,
    /// Transport of pjsip.conf [default: transport-udp, transport-tcp, transport-tls]
    #[arg(long)]
    transport: Option<String>,
    /// Proxy all requests go through: host:port
    #[arg(long)]
    outbound_proxy: Option<String>,
    /// Codecs in order
    #[arg(long, value_delimiter = ',', default_value = "alaw,ulaw")]
    codecs: Vec<String>,
    /// Addresses calls come from: no registration, the trunk is known by them
    #[arg(long = "ip", value_delimiter = ',')]
    ips: Vec<String>,
    /// Encryption of the media: no, sdes, dtls
    #[arg(long)]
    media_encryption: Option<String>,
    /// Goes to accountcode and tenantid
    #[arg(long)]
    tenant: Option<String>,
    /// Seconds to wait for an answer to outgoing calls
    #[arg(long, default_value = "60")]
    dial_timeout: u32,
    /// Seconds a registration holds
    #[arg(long)]
    expiration: Option<u32>,
    /// Asterisk stands behind NAT
    #[arg(long)]
    nat: bool,
    /// Show what would be written and write nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct List {
    /// One JSON document
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args, Debug)]
pub struct One {
    /// Id, as trunk list shows it; or use --sip-domain and --extension
    #[arg(required_unless_present = "sip_domain")]
    id: Option<String>,
    /// Host of the other PBX, as it was given to trunk add
    #[arg(long, visible_alias = "host", value_name = "HOST", conflicts_with = "id", requires = "extension")]
    sip_domain: Option<String>,
    /// Our extension number there; ip for a trunk that has only addresses
    #[arg(long, conflicts_with = "id")]
    extension: Option<String>,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Trunks of this command live beside those of the file, which `apply` may prune.
fn namespace(settings: &Settings) -> Result<String> {
    ident::check_namespace(&settings.provision_namespace)?;
    Ok(format!("{}t", settings.provision_namespace))
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    let Args { command, settings } = args;
    finish(async move {
        match command {
            Command::Add(args) => add(&settings, *args).await,
            Command::List(args) => list(&settings, args).await,
            Command::Show(args) => show(&settings, args).await,
            Command::Verify(args) => verify(&settings, args).await,
            Command::Remove(args) => remove(&settings, args).await,
        }
    })
}

async fn add(settings: &Settings, args: Add) -> Result<u8> {
    let ns = namespace(settings)?;
    let inbound = match (&args.app, &args.inbound) {
        (Some(app), _) => destination(&format!("stasis:{app}"))?,
        (None, Some(to)) => destination(to)?,
        (None, None) => destination("hangup")?,
    };
    let registers = args.ips.is_empty();
    let def = TrunkDef {
        host: args.sip_domain,
        port: args.port,
        extension: args.extension,
        auth_id: args.auth_id,
        mode: (!registers).then(|| "ip".to_owned()),
        ips: args.ips,
        protocol: Some(args.protocol),
        transport: args.transport,
        outbound_proxy: args.outbound_proxy,
        codecs: Some(args.codecs),
        strip_prefix: args.strip_prefix,
        add_prefix: args.add_prefix,
        unmatched: args.reject_unmatched.then(|| "reject".to_owned()),
        from_number: args.from_number,
        media_encryption: args.media_encryption,
        dial_timeout: Some(args.dial_timeout),
        expiration: args.expiration,
        nat: args.nat,
        ..TrunkDef::default()
    };
    let tenant = args.tenant.as_deref().map(|t| crate::provision::model::word("tenant", t)).transpose()?;
    let defaults = Defaults::default();
    let mut trunk = trunk_of(
        &ns,
        &def,
        Secret::Keep,
        inbound,
        tenant,
        &defaults.trunk_codecs,
        &defaults.transport,
        args.dial_timeout,
    )?;
    if registers {
        let password = password(args.password_file.as_deref())?;
        trunk.secret = secret_of(password, args.digest_realm.as_deref())?;
    }
    let rows = build::trunk_rows(&trunk)?;
    let desired = Desired { owner: Owner::Trunk(trunk.id.clone()), rows };
    let (mut db, schema) = settings.database(&Mapping::default()).await?;
    if args.dry_run {
        let plan = crate::provision::apply::preview(&mut db, &schema, &desired).await?;
        provisioning::show(&plan, args.json);
        return Ok(super::OK);
    }
    let code = carry_out(settings, db, &schema, &desired, &Options::default(), args.json).await?;
    if !args.json {
        let id = &trunk.id;
        println!("Trunk {id}: outgoing calls through context {id}-out, incoming through {id}-in.");
        if settings.provision_stubs.is_none() {
            println!("Both contexts need this in extensions.conf (or set PROVISION_STUBS), then `dialplan reload`:");
            for context in [format!("{id}-in"), format!("{id}-out")] {
                println!(
                    "  [{context}]
  switch => Realtime/@extensions"
                );
            }
        }
    }
    Ok(code)
}

/// Never an argument: a command line is visible to every user of a machine.
fn password(file: Option<&std::path::Path>) -> Result<secrecy::SecretString> {
    if let Some(path) = file {
        if std::env::var_os("TRUNK_PASSWORD").is_some() {
            return Err(Error::input("both TRUNK_PASSWORD and a password file are given; keep one"));
        }
        return password_file(path).map(Into::into);
    }
    if let Some(password) = secret("TRUNK_PASSWORD", None)? {
        return Ok(password);
    }
    if !std::io::stdin().is_terminal() {
        return Err(Error::input("no SIP password: set TRUNK_PASSWORD or --password-file"));
    }
    let typed = rpassword::prompt_password("SIP password: ")
        .map_err(|e| Error::input(format!("cannot read the SIP password: {e}")))?;
    if typed.is_empty() {
        return Err(Error::input("the SIP password is empty"));
    }
    Ok(typed.into())
}

/// Rows of all trunks of both our namespaces.
async fn ours(settings: &Settings, db: &mut Db, schema: &Schema) -> Result<Vec<Row>> {
    let mut rows = standing(db, schema, &Owner::namespace(namespace(settings)?)).await?;
    rows.extend(standing(db, schema, &Owner::namespace(settings.provision_namespace.clone())).await?);
    let is_trunk = |id: &str| {
        rows.iter().any(|r| {
            r.key[0] == id
                && (matches!(r.table, Table::Registrations | Table::Identifies)
                    || r.table == Table::Aors && r.cells.get("contact").is_some_and(|c| !c.value.is_null()))
        })
    };
    let trunks: Vec<String> =
        rows.iter().filter(|r| r.table == Table::Endpoints && is_trunk(&r.key[0])).map(|r| r.key[0].clone()).collect();
    let of_trunk = |r: &Row| match r.table {
        Table::Extensions => {
            let context = &r.key[0];
            trunks.iter().any(|id| context.strip_prefix(id.as_str()).is_some_and(|s| s == "-in" || s == "-out"))
        }
        Table::Queues | Table::QueueMembers => false,
        _ => trunks.contains(&r.key[0]),
    };
    let keep: Vec<bool> = rows.iter().map(of_trunk).collect();
    let mut keep = keep.into_iter();
    rows.retain(|_| keep.next() == Some(true));
    Ok(rows)
}

async fn list(settings: &Settings, args: List) -> Result<u8> {
    let (mut db, schema) = settings.database(&Mapping::default()).await?;
    let rows = ours(settings, &mut db, &schema).await?;
    db.close().await;
    let states = match settings.manager().await {
        Ok(Some(mut client)) => activate::registrations(&mut client)
            .await
            .map_err(|e| Error::new(Kind::Activation, e.to_string()))
            .map(Some),
        Ok(None) => Ok(None),
        Err(e) => Err(e),
    };
    let states = states.unwrap_or_else(|e| {
        eprintln!("callferry: states are not known: {e}");
        None
    });
    let cell = |table, id: &str, column| {
        rows.iter()
            .find(|r| r.table == table && r.key[0] == id)
            .and_then(|r| r.cells.get(column))
            .map(|c| c.value.display())
            .unwrap_or_default()
    };
    let mut listing = Listing::new();
    listing.load_preset(presets::NOTHING).set_header(["id", "host", "extension", "mode", "state"]);
    let mut documents = Vec::new();
    for id in rows.iter().filter(|r| r.table == Table::Endpoints).map(|r| r.key[0].as_str()) {
        let registers = rows.iter().any(|r| r.table == Table::Registrations && r.key[0] == id);
        let state = match (&states, registers) {
            (_, false) => "no registration".to_owned(),
            (None, true) => "not asked".to_owned(),
            (Some(states), true) => states.get(id).map_or("not loaded".to_owned(), |r| r.status.clone()),
        };
        let host = cell(Table::Endpoints, id, "from_domain");
        let extension = cell(Table::Endpoints, id, "from_user");
        let mode = if registers { "register" } else { "ip" };
        documents.push(json!({"id": id, "host": host, "extension": extension, "mode": mode, "state": state}));
        listing.add_row([id, &host, &extension, mode, &state]);
    }
    if args.json {
        println!("{:#}", json!(documents));
    } else if documents.is_empty() {
        println!("No trunks of ours.");
    } else {
        println!("{listing}");
    }
    Ok(super::OK)
}

/// The trunk's id, and its rows as they stand.
async fn one(settings: &Settings, args: &One) -> Result<(String, Db, Schema, Vec<Row>)> {
    let (mut db, schema) = settings.database(&Mapping::default()).await?;
    let id = match (&args.id, &args.sip_domain, &args.extension) {
        (Some(id), ..) => id.clone(),
        (None, Some(domain), Some(extension)) => {
            ident::trunk_id(&namespace(settings)?, &host("sip-domain", domain)?, extension)?
        }
        _ => return Err(Error::input("name the trunk by its id, or by --sip-domain and --extension")),
    };
    let rows = standing(&mut db, &schema, &Owner::Trunk(id.clone())).await?;
    Ok((id, db, schema, rows))
}

fn known(id: &str, rows: &[Row]) -> Result<()> {
    if rows.is_empty() {
        return Err(Error::input(format!("there is no trunk {id:?}; callferry trunk list shows those there are")));
    }
    Ok(())
}

async fn show(settings: &Settings, args: One) -> Result<u8> {
    let (id, db, _, rows) = one(settings, &args).await?;
    db.close().await;
    known(&id, &rows)?;
    let shown = |r: &Row, column: &str, value: String| {
        if r.table.secret(column) { "(sensitive)".to_owned() } else { value }
    };
    if args.json {
        let documents: Vec<_> = rows
            .iter()
            .map(|r| {
                let cells: serde_json::Map<_, _> = r
                    .cells
                    .iter()
                    .filter(|(_, c)| !c.value.is_null())
                    .map(|(c, cell)| ((*c).to_owned(), json!(shown(r, c, cell.value.display()))))
                    .collect();
                json!({"table": r.table.name(), "key": r.key, "columns": cells})
            })
            .collect();
        println!("{:#}", json!(documents));
        return Ok(super::OK);
    }
    for row in &rows {
        println!("{}", row.place());
        for (column, cell) in row.cells.iter().filter(|(_, c)| !c.value.is_null()) {
            println!("    {column:<26} {:?}", shown(row, column, cell.value.display()));
        }
    }
    Ok(super::OK)
}

async fn verify(settings: &Settings, args: One) -> Result<u8> {
    let (id, db, schema, rows) = one(settings, &args).await?;
    db.close().await;
    known(&id, &rows)?;
    let mut findings = vec![Finding::ok("database", format!("{} rows", rows.len()))];
    findings.extend(incomplete(&id, &rows));
    let desired = Desired { owner: Owner::Trunk(id), rows };
    verify_live(settings, &schema, &desired, findings, args.json).await
}

/// What a trunk written by hand most often lacks.
fn incomplete(id: &str, rows: &[Row]) -> Vec<Finding> {
    let has = |table, column: &str| {
        rows.iter().any(|r| r.table == table && r.cells.get(column).is_some_and(|c| !c.value.is_null()))
    };
    let registers = rows.iter().any(|r| r.table == Table::Registrations);
    let mut findings = Vec::new();
    let mut need = |fine: bool, topic: &str, text: &str| {
        if !fine {
            findings.push(Finding::problem(topic, text, format!("callferry trunk add writes it; id {id}")));
        }
    };
    need(has(Table::Endpoints, "context"), "ps_endpoints", "there is no endpoint with a context");
    need(has(Table::Aors, "contact"), "ps_aors", "has no contact: outgoing calls have nowhere to go");
    if registers {
        need(
            has(Table::Endpoints, "outbound_auth"),
            "ps_endpoints",
            "has no outbound_auth: outgoing calls are challenged and end",
        );
        need(
            has(Table::Registrations, "endpoint"),
            "ps_registrations",
            "has no line and endpoint: incoming calls match nothing",
        );
    } else {
        need(has(Table::Identifies, "match"), "ps_endpoint_id_ips", "has no address: incoming calls match nothing");
    }
    findings
}

async fn remove(settings: &Settings, args: One) -> Result<u8> {
    let (id, db, schema, rows) = one(settings, &args).await?;
    let prefixes = [format!("{}_", settings.provision_namespace), format!("{}_", namespace(settings)?)];
    if !prefixes.iter().any(|p| id.starts_with(p.as_str())) {
        return Err(Error::input(format!(
            "{id:?} is not in our namespaces ({}); it is left alone",
            prefixes.join(", ")
        )));
    }
    known(&id, &rows)?;
    let desired = Desired { owner: Owner::Trunk(id), rows: Vec::new() };
    carry_out(settings, db, &schema, &desired, &Options::default(), args.json).await
}
