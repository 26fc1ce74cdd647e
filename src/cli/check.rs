//! `callferry check`: tries everything a run would need and says what to mend.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::config::{Config, Faults, LogConfig, Settings, StateConfig, unknown_names};
use crate::finding::{Finding, Level};
use crate::observe;
use crate::printable::clean_lines;
use crate::ship;
use crate::source;
use crate::source::recordings::{Folder, Place};
use crate::store::{self, StoreError};

const SETTINGS: &str = "settings";

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Returns the exit code: 0 nothing to mend, 2 a setting cannot be used, 3 problems were found.
pub fn run(args: Args, mut faults: Faults) -> u8 {
    if let Ok(log) = LogConfig::resolve(&args.settings.log) {
        crate::log::start(&log);
    }
    let config = match Config::read(&args.settings) {
        Ok(config) if faults.is_empty() => config,
        read => {
            read.err().map(Faults::into_vec).into_iter().flatten().for_each(|fault| faults.add(fault));
            report(&settings_findings(faults, unknown_names()), args.json);
            if !args.json {
                super::say("what the settings lead to (database, sinks, state) is tried once they can be used");
            }
            return super::USAGE;
        }
    };
    let runtime = match super::runtime() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("callferry: cannot start: {e}");
            return super::RUNTIME;
        }
    };
    let findings = runtime.block_on(find(&config));
    report(&findings, args.json);
    let problems = || findings.iter().filter(|f| f.level == Level::Problem);
    if problems().any(|f| f.topic == SETTINGS) {
        super::USAGE
    } else if problems().next().is_some() {
        super::PROBLEMS
    } else {
        super::OK
    }
}

fn report(findings: &[Finding], as_json: bool) {
    if as_json {
        let (problems, warnings) = (count(findings, Level::Problem), count(findings, Level::Warning));
        super::say(format!("{:#}", json!({ "problems": problems, "warnings": warnings, "findings": findings })));
    } else {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        super::say(page(findings, colour));
    }
}

async fn find(config: &Config) -> Vec<Finding> {
    // what a sink makes of its settings is known when it is made
    let mut faults = Faults::default();
    let made = config.sinks.iter().filter_map(|sink| faults.take(ship::sinks(std::slice::from_ref(sink))));
    let sinks: Vec<_> = made.flatten().collect();
    let mut findings = settings_findings(faults, unknown_names());
    findings.extend(source::check(&config.source).await);
    findings.extend(config.certificate_findings());
    findings.extend(config.recordings.files.iter().flat_map(|files| files.roots.iter().map(|root| recordings(root))));
    let tried = futures_util::future::join_all(sinks.iter().map(|s| s.check())).await;
    findings.extend(tried.into_iter().flatten());
    if let Some(upload) = &config.recordings.upload {
        findings.extend(ship::recordings::check(upload).await);
    }
    findings.extend(state(&config.state, &config.source.id));
    let running = store::agent_runs(&config.state.dir);
    findings.extend(monitoring(config, running).await);
    findings
}

/// What cannot be used, and names that are read by nobody.
fn settings_findings(faults: Faults, unknown: Vec<String>) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        faults.into_vec().into_iter().map(|fault| Finding::told(SETTINGS, fault.to_string())).collect();
    findings.extend(unknown.into_iter().map(|text| {
        let warning = Finding::warning(SETTINGS, text, "the names are in .env.example and `callferry run --help`");
        // what names the way out itself needs no other
        let remedy = warning.remedy.filter(|_| warning.text.ends_with("check its spelling"));
        Finding { remedy, ..warning }
    }));
    if findings.is_empty() {
        findings.push(Finding::ok(SETTINGS, "every setting can be used"));
    }
    findings
}

/// A folder of recordings can be read, with what is below it and its newest file.
fn recordings(root: &Path) -> Finding {
    const REMEDY: &str =
        "check RECORDING_PATHS, and that this user may read it (in a container: mount it under the same path)";
    let shown = root.display();
    let mut newest: Option<(Place, i128)> = None;
    let walked = Folder::resolve(root).and_then(|folder| {
        folder.walk(&|_| true, &mut |place, stat| {
            if newest.as_ref().is_none_or(|(_, modified)| stat.modified > *modified) {
                newest = Some((place, stat.modified));
            }
        })
    });
    let unreadable = match walked {
        Ok(unreadable) => unreadable,
        Err(e) => return Finding::warning("recordings", format!("{shown} cannot be read: {e}"), REMEDY),
    };
    if let Some(first) = unreadable.first {
        let (n, first) = (unreadable.folders, first.display());
        return Finding::warning("recordings", format!("{n} folders below {shown} cannot be read: {first}"), REMEDY);
    }
    match newest.map(|(place, _)| (place.path(), place.open())) {
        None => Finding::ok("recordings", format!("{shown} can be read; there is no file in it")),
        Some((_, Ok(_))) => Finding::ok("recordings", format!("{shown} can be read, and so can its newest file")),
        Some((path, Err(e))) => {
            Finding::warning("recordings", format!("{} cannot be read: {e}", path.display()), REMEDY)
        }
    }
}

/// The state directory can be written and has room; what is in it can be read.
fn state(config: &StateConfig, source_id: &str) -> Vec<Finding> {
    let dir = &config.dir;
    let shown = dir.display();
    let mut findings = Vec::new();
    let mut writable = true;
    match try_directory(dir) {
        Ok(existing) => {
            findings.push(Finding::ok("state", format!("{shown} can be written")));
            match free_bytes(&existing) {
                Ok(free) if free < config.min_free => findings.push(Finding::problem(
                    "state",
                    format!("{} MB are free at {shown}", free / 1_000_000),
                    format!(
                        "reading stops below STATE_MIN_FREE ({} MB): make room, or set STATE_DIR to another disk",
                        config.min_free / 1_000_000
                    ),
                )),
                Ok(free) if free < config.min_free + config.max_size => findings.push(Finding::warning(
                    "state",
                    format!(
                        "{} MB are free at {shown}, the state may take {} MB",
                        free / 1_000_000,
                        config.max_size / 1_000_000
                    ),
                    "fine while receivers take the calls; make room for a long outage, or lower STATE_MAX_SIZE",
                )),
                Ok(_) => {}
                Err(e) => findings.push(Finding::warning(
                    "state",
                    format!("the free space at {shown} cannot be told: {e}"),
                    "watch the disk by other means",
                )),
            }
        }
        Err(e) => {
            writable = false;
            findings.push(Finding::problem(
                "state",
                format!("{shown} cannot be written: {e}"),
                "set STATE_DIR to a directory this user can write (in a container: a volume that belongs to user 1000)",
            ));
        }
    }
    match store::open_read_only(dir) {
        Ok(conn) => match store::meta::source_id(&conn) {
            Ok(Some(id)) if id != source_id => findings.push(Finding::problem(
                "state",
                format!("{shown} is the state of {id}, and SOURCE_ID is {source_id}"),
                format!("set SOURCE_ID={id}, or give {source_id} a STATE_DIR of its own"),
            )),
            Ok(_) => findings.push(Finding::ok("state", "the state file can be read")),
            Err(e) => findings.push(Finding::told("state", e.to_string())),
        },
        Err(StoreError::Missing { .. }) if writable => {
            findings.push(Finding::ok("state", "there is no state yet: the first run creates it"));
        }
        // none can be made either, which was told above
        Err(StoreError::Missing { .. }) => {}
        Err(e) => findings.push(Finding::told("state", e.to_string())),
    }
    if store::agent_runs(dir) {
        findings.push(Finding::ok("state", "an agent is running on it"));
    }
    findings
}

/// Creates and removes a directory where the state is or would be created. Returns the nearest directory that exists.
fn try_directory(dir: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(dir)?;
    let mut existing = Path::new("/");
    for ancestor in absolute.ancestors() {
        match ancestor.try_exists() {
            Ok(false) => continue,
            // below a file: told of the file itself
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => continue,
            Err(e) => return Err(e),
            Ok(true) => existing = ancestor,
        }
        break;
    }
    let existing = existing.to_owned();
    if !existing.is_dir() {
        return Err(io::Error::other(format!("{} is not a directory", existing.display())));
    }
    let probe = existing.join(format!(".callferry-check-{}", std::process::id()));
    fs::create_dir(&probe)?;
    let written = fs::write(probe.join("probe"), b"probe");
    fs::remove_dir_all(&probe)?;
    written.map(|()| existing)
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

async fn monitoring(config: &Config, agent_runs: bool) -> Vec<Finding> {
    let Some(monitoring) = &config.monitoring else {
        return vec![Finding::warning(
            "monitoring",
            "metrics and health are not served",
            "set MONITORING_ENABLED=true, so that somebody is told when calls stop coming",
        )];
    };
    let address = monitoring.address;
    vec![match observe::try_port(monitoring).await {
        Ok(()) => Finding::ok("monitoring", format!("metrics and health can be served on {address}")),
        Err(observe::ObserveError::PortInUse { .. }) if agent_runs => {
            Finding::ok("monitoring", format!("{address} is in use, as it should be while the agent runs"))
        }
        Err(e) => Finding::told("monitoring", e.to_string()),
    }]
}

fn count(findings: &[Finding], level: Level) -> usize {
    findings.iter().filter(|f| f.level == level).count()
}

/// What a person reads: findings by topic, a mark each, the remedy under what needs one.
fn page(findings: &[Finding], colour: bool) -> String {
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut topics: Vec<&str> = Vec::new();
    for finding in findings {
        if !topics.contains(&finding.topic.as_str()) {
            topics.push(&finding.topic);
        }
    }
    let mut page = String::new();
    for topic in topics {
        let _ = writeln!(page, "{}", paint("1", topic));
        for finding in findings.iter().filter(|f| f.topic == topic) {
            let mark = match finding.level {
                Level::Ok => paint("32", "✓"),
                Level::Warning => paint("33", "!"),
                Level::Problem => paint("31", "✗"),
            };
            let _ = writeln!(page, "  {mark} {}", plain(&finding.text));
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(page, "    → {}", plain(remedy));
            }
        }
    }
    let (problems, warnings) = (count(findings, Level::Problem), count(findings, Level::Warning));
    let end = match (problems, warnings) {
        (0, 0) => paint("32", "everything is in order"),
        (0, n) => paint("33", &format!("ready to run; {n} to look at (!)")),
        (n, _) => paint("31", &format!("{n} to mend before a run (✗)")),
    };
    let _ = write!(page, "\n{end}");
    page
}

/// Names of tables, columns and errors come from outside.
fn plain(text: &str) -> String {
    clean_lines(text).replace('\n', "\n      ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_groups_topics_and_shows_remedies() {
        let findings = [
            Finding::ok("state", "can be written"),
            Finding::problem("database", "access denied\x1b[2J", "set DB_PASSWORD"),
            Finding::warning("state", "little room", "make room"),
        ];
        assert_eq!(
            page(&findings, false),
            "state\n  ✓ can be written\n  ! little room\n    → make room\ndatabase\n  ✗ access denied\\u{1b}[2J\n    → set \
             DB_PASSWORD\n\n1 to mend before a run (✗)"
        );
        assert!(page(&findings, true).contains("\x1b[31m✗\x1b[0m"));
    }

    fn config(dir: PathBuf, min_free: u64) -> StateConfig {
        StateConfig { dir, retention: std::time::Duration::from_secs(1), max_size: 1, min_free }
    }

    #[test]
    fn a_state_that_can_be_written_is_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let findings = state(&config(dir.path().join("a/b"), 0), "pbx");
        assert_eq!(count(&findings, Level::Problem), 0, "{findings:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let findings = state(&config(dir.path().join("a/b"), u64::MAX / 2), "pbx");
        assert!(findings.iter().any(|f| f.text.contains("are free") && f.level == Level::Problem), "{findings:?}");

        fs::write(dir.path().join("file"), "").unwrap();
        let findings = state(&config(dir.path().join("file"), 0), "pbx");
        assert_eq!(findings[0].level, Level::Problem, "{findings:?}");
        assert!(findings[0].remedy.as_deref().unwrap().contains("STATE_DIR"));
    }

    #[test]
    fn a_state_that_cannot_be_looked_at_is_not_told_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let looped = dir.path().join("loop");
        std::os::unix::fs::symlink(&looped, &looped).unwrap();
        let findings = state(&config(looped, 0), "pbx");
        assert!(findings.iter().all(|f| f.level == Level::Problem), "{findings:?}");
        assert!(findings.iter().any(|f| f.text.contains("cannot read the state file")), "{findings:?}");
        // where nothing can be written, no first run creates one
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let findings = state(&config(file, 0), "pbx");
        assert!(findings.iter().all(|f| f.level == Level::Problem), "{findings:?}");
    }

    #[test]
    fn a_remedy_never_says_again_what_the_text_says() {
        let mut faults = Faults::default();
        faults.add(crate::config::ConfigError::new("DB_NAME", "not set. It names the database"));
        let unknown = vec!["STAE_DIR is not a setting of callferry: did you mean STATE_DIR?".to_owned()];
        let findings = settings_findings(faults, unknown);
        assert!(findings.iter().all(|f| f.remedy.is_none()), "{findings:?}");
        assert_eq!(findings.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Problem, Level::Warning]);
        let findings = settings_findings(Faults::default(), vec!["X is not a setting; check its spelling".to_owned()]);
        assert!(findings[0].remedy.as_deref().is_some_and(|r| r.contains(".env.example")), "{findings:?}");
    }

    #[test]
    fn a_running_agent_is_seen_by_its_lock() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!store::agent_runs(dir.path()));
        let agent = store::Store::open(dir.path()).unwrap();
        assert!(store::agent_runs(dir.path()));
        drop(agent);
    }
}
