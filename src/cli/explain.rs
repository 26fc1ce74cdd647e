//! `callferry explain`: the whole story of one call, from CSV files or from the agent's state.

use std::io::Write;
use std::path::PathBuf;

use super::correlate::{FileArgs, report_unusable};
use crate::config::{self, ConfigError};
use crate::correlate::batch::calls_with_rows;
use crate::correlate::{CallRows, Marks, Rules, Zone, explain};
use crate::store;

#[derive(clap::Args, Debug)]
pub struct Args {
    /// A linkedid or uniqueid of the call, or its id (pbx:1795213604.12); with files it may be left out to tell all
    #[arg(value_name = "LINKEDID")]
    pub call: Option<String>,
    #[command(flatten)]
    pub files: FileArgs,
    /// Directory of the agent's state, read where no file is named
    #[arg(long, env = "STATE_DIR", default_value = "data")]
    pub state_dir: PathBuf,
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    match stories(&args) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => super::OK,
            // whoever reads has seen enough
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => super::OK,
            Err(e) => {
                eprintln!("callferry explain: cannot write: {e}");
                super::RUNTIME
            }
        },
        Err(e) => {
            eprintln!("callferry explain: {e:#}");
            if e.is::<ConfigError>() { super::USAGE } else { super::RUNTIME }
        }
    }
}

fn stories(args: &Args) -> anyhow::Result<String> {
    // an id is `<source>:<linkedid>`; no linkedid contains a colon
    let wanted = args.call.as_deref().map(|c| c.rsplit_once(':').map_or(c, |(_, linkedid)| linkedid));
    if args.files.cel.is_some() || args.files.cdr.is_some() {
        from_files(args, wanted)
    } else {
        from_state(args, wanted)
    }
}

fn from_files(args: &Args, wanted: Option<&str>) -> anyhow::Result<String> {
    let loaded = args.files.load()?;
    let (calls, unusable) = calls_with_rows(loaded.rows, &loaded.rules, &loaded.zone);
    report_unusable(&unusable);
    let stories: Vec<String> = calls
        .iter()
        .filter(|told| wanted.is_none_or(|id| holds(&told.rows, id)))
        .map(|told| explain::story(&told.rows, &loaded.rules, &loaded.zone, &told.marks))
        .collect();
    match wanted {
        Some(id) if stories.is_empty() => {
            anyhow::bail!(
                "no call in these files has the linkedid or uniqueid {id}; `callferry correlate` lists all of them"
            )
        }
        _ => Ok(stories.join("\n\n")),
    }
}

fn holds(rows: &CallRows, id: &str) -> bool {
    rows.cel.iter().any(|r| r.linkedid == id || r.uniqueid == id)
        || rows.cdr.iter().any(|r| r.linkedid == id || r.uniqueid == id)
}

fn from_state(args: &Args, wanted: Option<&str>) -> anyhow::Result<String> {
    let Some(id) = wanted else {
        return Err(ConfigError::new(
            "LINKEDID",
            "name a call (`callferry calls list` shows them), or files with --cel, --cdr",
        )
        .into());
    };
    let conn = store::open_read_only(&args.state_dir)?;
    let rows = store::journal::rows_of_call(&conn, id)?;
    anyhow::ensure!(
        !rows.is_empty(),
        "the state in {} holds no rows of {id}: the call is unknown, or its rows were dropped after delivery \
         (STATE_RETENTION). `callferry calls show {id}` shows what was shipped",
        args.state_dir.display()
    );
    let zone = match &args.files.timezone {
        Some(name) => config::zone(name)?,
        None => store::meta::zones(&conn)?.pop().unwrap_or(Zone::Fixed(0)),
    };
    let rows = CallRows::of(&rows);
    // whether CDRs are read is a setting of the agent's; without any of this call there is nothing to compare
    let rules = Rules {
        has_cel: true,
        has_cdr: !rows.cdr.is_empty(),
        zone_read_off: args.files.timezone.is_none(),
        ..config::rules(&args.files.rules)?
    };
    let mut marks = Marks::default();
    for (linkedid, kind, _) in store::ledger::marks(&conn)? {
        if holds(&rows, &linkedid) {
            marks.pbx_restart |= kind == store::ledger::MARK_RESTART;
            marks.timeout |= kind == store::ledger::MARK_TIMEOUT;
            marks.source_gap |= kind == store::ledger::MARK_GAP;
        }
    }
    Ok(explain::story(&rows, &rules, &zone, &marks))
}
