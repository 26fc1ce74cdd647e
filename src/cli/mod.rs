//! The command line: one file a subcommand. Exit codes: 0 ok, 1 runtime failure, 2 usage or configuration, 3 `check`
//! or `reconcile` found problems.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Faults, LogConfig, Settings};

mod ask;
mod backfill;
mod calls;
mod check;
mod correlate;
mod demo;
mod dialplan;
mod explain;
mod forget;
mod healthcheck;
mod past;
mod progress;
mod provision;
mod provisioning;
mod reconcile;
mod run;
mod schema;
mod span;
mod text;
mod trunk;

/// What a run of the program ends with.
pub const OK: u8 = 0;
pub const RUNTIME: u8 = 1;
pub const USAGE: u8 = 2;
pub const PROBLEMS: u8 = 3;
/// `provision` and `trunk`: what was asked for cannot be done.
pub const INPUT: u8 = 4;
pub const SCHEMA: u8 = 5;
pub const DATABASE: u8 = 6;
/// Written to the database, not taken up by Asterisk.
pub const ACTIVATION: u8 = 7;

/// Carries every call from a PBX to where it is needed: none lost, none counted twice.
#[derive(Parser, Debug)]
#[command(
    name = "callferry",
    version,
    max_term_width = 100,
    after_help = "\
Settings are environment variables, lines of a .env file, or flags; a flag wins over the environment, the environment \
over the file. Exit codes: 0 ok, 1 runtime failure, 2 usage or configuration, 3 check or reconcile found problems."
)]
struct Cli {
    /// File with settings [default: .env in the working directory, if there is one]
    #[arg(long, global = true, value_name = "FILE", env = "ENV_FILE")]
    env_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Read the PBX's database and ship every finished call, until stopped
    Run(Box<run::Args>),
    /// Try everything a run would need and say what to mend
    Check(Box<check::Args>),
    /// Show the main job on built-in data: real captured calls, from a SQLite PBX database to a receiver
    Demo(demo::Args),
    /// Make calls of CEL and CDR rows in CSV files and print one JSON document a line
    Correlate(Box<correlate::Args>),
    /// Tell the whole story of one call: its rows, what each led to, the journey
    Explain(Box<explain::Args>),
    /// List and show the calls and deliveries the agent knows of; send again, drop, export what was given up
    Calls(calls::Args),
    /// Read history again and ship what is missing, beside the running agent
    Backfill(Box<backfill::Args>),
    /// Compare the PBX's calls with what was shipped, acknowledged, waits or was given up
    Reconcile(Box<reconcile::Args>),
    /// Remove a caller from the local state: every call of a number, in whatever way it is written
    Forget(forget::Args),
    /// Print the JSON Schema of the call document
    Schema(schema::Args),
    /// Add, list, show, verify and remove trunks in Asterisk Realtime
    Trunk(Box<trunk::Args>),
    /// Trunks, extensions, queues and routes of a file: planned, written, made live, verified
    Provision(Box<provision::Args>),
    /// Try strip rules (regular expressions) as Asterisk dialplan patterns
    Dialplan(dialplan::Args),
    /// Ask a running agent whether it is healthy (for a container's health check)
    Healthcheck(healthcheck::Args),
}

/// Everything `main` does.
pub fn main() -> ExitCode {
    // rustls asks for its provider once a process
    let _ = rustls::crypto::ring::default_provider().install_default();
    let env_file = env_file_argument();
    match config::load_env(env_file.as_deref()) {
        Ok(warnings) => warnings.iter().for_each(|w| eprintln!("callferry: {w}")),
        Err(e) => {
            eprintln!("callferry: {e}");
            return ExitCode::from(USAGE);
        }
    }
    let (cli, faults) = match parsed() {
        Ok(parsed) => parsed,
        Err(e) => {
            match wrong_value(&e) {
                Some(fault) => eprintln!("callferry: {fault}"),
                None => e.print().unwrap_or_default(),
            }
            return ExitCode::from(if e.use_stderr() { USAGE } else { OK });
        }
    };
    let code = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Check(args) => check::run(*args, faults),
        Command::Demo(args) => demo::run(args),
        Command::Correlate(args) => correlate::run(*args),
        Command::Explain(args) => explain::run(*args),
        Command::Calls(args) => calls::run(args),
        Command::Backfill(args) => backfill::run(*args),
        Command::Reconcile(args) => reconcile::run(*args),
        Command::Forget(args) => forget::run(&args),
        Command::Schema(args) => schema::run(args),
        Command::Trunk(args) => trunk::run(*args),
        Command::Provision(args) => provision::run(*args),
        Command::Dialplan(args) => dialplan::run(args),
        Command::Healthcheck(args) => healthcheck::run(args),
    };
    ExitCode::from(code)
}

/// The command line with the environment. `check` is to tell of every value that cannot be read, so that there those of
/// the environment are set aside, one after the other.
fn parsed() -> Result<(Cli, Faults), clap::Error> {
    let mut faults = Faults::default();
    let mut first = None;
    loop {
        let parsed = command().try_get_matches().and_then(|m| Cli::from_arg_matches(&m));
        let error = match parsed {
            Ok(cli) if first.is_none() || matches!(cli.command, Command::Check(_)) => return Ok((cli, faults)),
            Ok(_) => {
                return Err(first.take().unwrap_or_else(|| clap::Error::new(clap::error::ErrorKind::InvalidValue)));
            }
            Err(error) => error,
        };
        let of_environment = wrong_value(&error).filter(|fault| std::env::var_os(&fault.variable).is_some());
        let Some(fault) = of_environment else { return Err(first.unwrap_or(error)) };
        config::set_aside(&fault.variable);
        faults.add(fault);
        first.get_or_insert(error);
    }
}

/// `backfill --tenant` chooses calls; there the setting of that name is the environment's.
fn command() -> clap::Command {
    Cli::command().mut_subcommand("backfill", |backfill| {
        backfill
            .mut_arg("tenant", |setting| setting.long("default-tenant"))
            .mut_arg("only_tenant", |only| only.long("tenant"))
    })
}

/// `--env-file` has to be known before the command line can be parsed: its lines are defaults of other flags.
fn env_file_argument() -> Option<PathBuf> {
    let mut args = std::env::args_os().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--env-file" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|a| a.strip_prefix("--env-file=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os("ENV_FILE").map(PathBuf::from)
}

/// A value that cannot be read, told like any other wrong setting: by the variable's name, in one line.
fn wrong_value(error: &clap::Error) -> Option<ConfigError> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    if !matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue) {
        return None;
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg)?;
    let value = text(ContextKind::InvalidValue)?;
    // "--db-port <DB_PORT>"
    let flag = argument.strip_prefix("--")?.split([' ', '=']).next()?;
    let command = command();
    let variable = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .find_map(|a| (a.get_long() == Some(flag)).then(|| a.get_env().map(|e| e.to_string_lossy().into_owned()))?);
    let problem = std::error::Error::source(error).map_or_else(|| "is not allowed".to_owned(), ToString::to_string);
    let problem = plainly(&problem);
    let problem =
        if problem.starts_with("is ") { format!("{value:?} {problem}") } else { format!("{value:?}: {problem}") };
    Some(ConfigError::new(variable.unwrap_or_else(|| format!("--{flag}")), problem))
}

/// What the standard library and clap say of numbers that are none, in words for an admin.
fn plainly(problem: &str) -> String {
    // "99999 is not in 0..=65535"
    let bounds = problem.split_once(" is not in ").and_then(|(_, range)| range.split_once("..="));
    match (problem, bounds) {
        (_, Some((least, most))) => format!("is not a number between {least} and {most}"),
        (
            "invalid digit found in string"
            | "invalid float literal"
            | "cannot parse integer from empty string"
            | "cannot parse float from empty string"
            | "number too large to fit in target type"
            | "number too small to fit in target type",
            None,
        ) => "is not a number, or larger or smaller than it may be".to_owned(),
        _ => problem.to_owned(),
    }
}

/// Prints a line. A reader that has gone away (`| head`) has seen enough: no reason to fail.
fn say(line: impl std::fmt::Display) {
    let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{line}\n"));
}

/// The runtime commands use: few threads, since the work is waiting.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// For commands that work as the agent does: logging, every setting resolved, a runtime. `Err`: the exit code, after the
/// reason was told.
fn prepare(settings: &Settings) -> Result<(Config, tokio::runtime::Runtime), u8> {
    prepare_with(settings, |log| log)
}

/// The same for commands that talk to whoever started them: what the agent would log as it goes is left out.
fn prepare_quiet(settings: &Settings) -> Result<(Config, tokio::runtime::Runtime), u8> {
    prepare_with(
        settings,
        |log| if log.filter == "info" { LogConfig { filter: "warn".to_owned(), ..log } } else { log },
    )
}

fn prepare_with(
    settings: &Settings,
    log_as: impl FnOnce(LogConfig) -> LogConfig,
) -> Result<(Config, tokio::runtime::Runtime), u8> {
    let config = Config::read(settings).map_err(|faults| {
        let faults = faults.into_vec();
        let more = faults.len().saturating_sub(1);
        if let Some(first) = faults.first() {
            let more =
                if more > 0 { format!(" ({more} more to mend: `callferry check` names them)") } else { String::new() };
            eprintln!("callferry: {first}{more}");
        }
        USAGE
    })?;
    crate::log::start(&log_as(config.log.clone()));
    let runtime = runtime().map_err(|e| {
        eprintln!("callferry: cannot start: {e}");
        RUNTIME
    })?;
    Ok((config, runtime))
}
