//! `callferry correlate`: rows in CSV files to calls, one JSON document a line. The same steps a running agent takes,
//! without a database.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::call::{Call, Content, Row, RowTime, SCHEMA, SourceInfo, SourceKind, WallTime};
use crate::config::{self, ConfigError, RuleSettings};
use crate::correlate::batch::{Correlated, correlate_all};
use crate::correlate::zone::vote_offset;
use crate::correlate::{Rules, Zone, ids};
use crate::source::csv::{self, CsvRows};

#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    pub files: FileArgs,
    /// First part of every call id
    #[arg(long, default_value = "pbx")]
    pub source_id: String,
}

/// Rows in files, and how to read them.
#[derive(clap::Args, Debug)]
pub struct FileArgs {
    /// CSV file of channel events with a header line, - for standard input
    #[arg(long, value_name = "FILE")]
    pub cel: Option<PathBuf>,
    /// CSV file of call detail records with a header line, - for standard input
    #[arg(long, value_name = "FILE")]
    pub cdr: Option<PathBuf>,
    /// Zone of times without one (Europe/Prague, UTC, +02:00) [default: read off the uniqueids]
    #[arg(long, visible_alias = "db-timezone", value_name = "ZONE", env = "DB_TIMEZONE")]
    pub timezone: Option<String>,
    #[command(flatten)]
    pub rules: RuleSettings,
}

/// What the files hold.
pub struct Loaded {
    pub rows: Vec<Row>,
    pub rules: Rules,
    pub zone: Zone,
}

/// Returns the exit code.
pub fn run(args: Args) -> u8 {
    let loaded = match args.files.load() {
        Ok(loaded) => loaded,
        Err(e) => {
            eprintln!("callferry correlate: {e:#}");
            return if e.is::<ConfigError>() { super::USAGE } else { super::RUNTIME };
        }
    };
    let Correlated { calls, unusable, suppressed } = correlate_all(loaded.rows, &loaded.rules, &loaded.zone);
    report_unusable(&unusable);
    if suppressed > 0 {
        eprintln!("callferry: {suppressed} call(s) kept back by filters (FILTER_…); `callferry explain` tells which");
    }
    match print(&calls, &args.source_id) {
        Ok(()) => super::OK,
        // whoever reads has seen enough
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => super::OK,
        Err(e) => {
            eprintln!("callferry correlate: cannot write the calls: {e}");
            super::RUNTIME
        }
    }
}

fn print(calls: &[Content], source_id: &str) -> std::io::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for content in calls {
        serde_json::to_writer(&mut out, &document(content.clone(), source_id))?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A call as it would be shipped first.
fn document(content: Content, source_id: &str) -> Call {
    Call {
        schema: SCHEMA.to_owned(),
        id: format!("{source_id}:{}", content.linkedid),
        revision: 1,
        supersedes: Vec::new(),
        source: SourceInfo { id: source_id.to_owned(), kind: SourceKind::Asterisk, host: None },
        content,
    }
}

/// Tells of each reason once, with the number of rows it kept out.
pub fn report_unusable(unusable: &[(Row, String)]) {
    let mut reasons: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for (_, reason) in unusable {
        *reasons.entry(reason).or_default() += 1;
    }
    for (reason, count) in reasons {
        eprintln!("callferry: {count} row(s) left out: {}", reason.escape_debug());
    }
}

impl FileArgs {
    pub fn load(&self) -> anyhow::Result<Loaded> {
        anyhow::ensure!(
            self.cel.is_some() || self.cdr.is_some(),
            ConfigError::new("--cel, --cdr", "name at least one file of rows")
        );
        anyhow::ensure!(
            [&self.cel, &self.cdr].iter().filter(|f| f.as_deref() == Some(Path::new("-"))).count() < 2,
            ConfigError::new("--cel, --cdr", "only one of the two can be standard input")
        );
        let mut rules = config::rules(&self.rules)?;
        rules.has_cel = self.cel.is_some();
        rules.has_cdr = self.cdr.is_some();
        let mut rows = Vec::new();
        if let Some(path) = &self.cel {
            rows.append(&mut take(path, csv::read_cel)?);
        }
        if let Some(path) = &self.cdr {
            rows.append(&mut take(path, csv::read_cdr)?);
        }
        let zone = match &self.timezone {
            Some(name) => config::zone(name)?,
            None => voted(&rows)?,
        };
        Ok(Loaded { rows, rules, zone })
    }
}

fn take(path: &Path, read: impl Fn(Box<dyn Read>, &str) -> Result<CsvRows, csv::CsvError>) -> anyhow::Result<Vec<Row>> {
    let (input, name): (Box<dyn Read>, String) = if path == Path::new("-") {
        (Box::new(std::io::stdin()), "standard input".to_owned())
    } else {
        let file = File::open(path).map_err(|e| anyhow::anyhow!("cannot open {}: {e}", path.display()))?;
        (Box::new(file), path.display().to_string())
    };
    let CsvRows { rows, bad } = read(input, &name)?;
    for record in &bad {
        eprintln!("callferry: {name}, line {}: left out, {}", record.line, record.reason.escape_debug());
    }
    Ok(rows)
}

/// The zone the rows themselves show: the epoch in the uniqueid of each first channel event (or record) against its time.
fn voted(rows: &[Row]) -> anyhow::Result<Zone> {
    let samples: Vec<(WallTime, i64)> = rows
        .iter()
        .filter_map(|row| {
            let Some(RowTime::Wall(wall)) = row.time() else { return None };
            let first = match row {
                Row::Cel(r) => r.event == crate::call::CelEvent::ChanStart,
                Row::Cdr(_) => true,
            };
            let epoch = ids::Id::parse(row.uniqueid())?.epoch;
            first.then_some((wall, epoch))
        })
        .collect();
    if samples.is_empty() {
        // every time says its own zone
        return Ok(Zone::Fixed(0));
    }
    vote_offset(&samples).map(Zone::Fixed).ok_or_else(|| {
        ConfigError::new("--timezone", "not given, and too few rows to read it off; name the zone of the PBX's clock")
            .into()
    })
}
