//! `callferry calls retry` and `drop`: what is to become of deliveries that were given up.

use std::collections::BTreeMap;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use rusqlite::Connection;

use super::super::ask::{AskError, By, ask};
use super::super::text::{count, listed, printable};
use super::super::{OK, RUNTIME, USAGE, say};
use crate::agent::requests::Wish;
use crate::config::StateSettings;
use crate::store::dead::{self, Done, Which};
use crate::store::{self, calls};

#[derive(clap::Args, Debug)]
pub struct Chosen {
    /// Calls, by id, linkedid or uniqueid
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// Every delivery that was given up
    #[arg(long)]
    all: bool,
    /// Only at this sink
    #[arg(long, value_name = "NAME")]
    sink: Option<String>,
}

impl Chosen {
    fn which(&self) -> Which {
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        Which { ids, sink: self.sink.clone() }
    }
}

pub fn retry(state: &StateSettings, chosen: &Chosen) -> u8 {
    told(try_retry(state, chosen))
}

pub fn drop(state: &StateSettings, chosen: &Chosen, yes: bool) -> u8 {
    told(try_drop(state, chosen, yes))
}

fn told(done: Result<u8, AskError>) -> u8 {
    done.unwrap_or_else(|e| {
        eprintln!("callferry: {e}");
        RUNTIME
    })
}

fn try_retry(state: &StateSettings, chosen: &Chosen) -> Result<u8, AskError> {
    if let Err(code) = found(state, chosen)? {
        return Ok(code);
    }
    let (done, by): (Done, By) = ask(&state.state_dir, &Wish::Retry(chosen.which()))?;
    if done.deliveries() > 0 {
        let when = match by {
            By::Agent => "the running agent sends them now",
            By::Us => "no agent runs here: they are sent when it starts",
        };
        say(format!("{} pending again; {when}", sum(&done)));
    }
    if done.superseded > 0 {
        say(format!(
            "{} replaced: a newer revision of the call was queued since, and stands for the older one",
            count(done.superseded, "delivery")
        ));
    }
    for line in left(&done) {
        eprintln!("callferry: {line}");
    }
    Ok(if done.left() > 0 { RUNTIME } else { OK })
}

/// What to tell of those that were left as they are.
fn left(done: &Done) -> Vec<String> {
    let mut lines = Vec::new();
    if done.blocked > 0 {
        lines.push(format!(
            "{} left as it is: a merged call is told only after the one that took it in, which is dead itself. \
             `callferry calls retry --all` sends both",
            count(done.blocked, "delivery")
        ));
    }
    if done.abandoned > 0 {
        lines.push(format!(
            "{} left as it is: a merged call is told only after the one that took it in, which was dropped. \
             `callferry backfill --resend` over its time ships that one again, and `callferry calls retry` the merged one \
             then; `callferry calls drop` gives it up",
            count(done.abandoned, "delivery")
        ));
    }
    lines
}

fn try_drop(state: &StateSettings, chosen: &Chosen, yes: bool) -> Result<u8, AskError> {
    let there = match found(state, chosen)? {
        Ok(there) => there,
        Err(code) => return Ok(code),
    };
    if chosen.all && !yes {
        let n = there.values().sum();
        if !io::stdin().is_terminal() {
            eprintln!("callferry: this gives up {} for good: add --yes", count(n, "delivery"));
            return Ok(USAGE);
        }
        print!("give up {} for good ({})? [y/N] ", count(n, "delivery"), by_sink(&there));
        let mut answer = String::new();
        let read = io::stdout().flush().and_then(|()| io::stdin().lock().read_line(&mut answer));
        if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            say("nothing was dropped");
            return Ok(RUNTIME);
        }
    }
    let (done, _): (Done, By) = ask(&state.state_dir, &Wish::Drop(chosen.which()))?;
    say(format!("{} dropped", sum(&done)));
    Ok(OK)
}

/// `3 deliveries of 2 calls (sipstack 1, webhook 2)`.
fn sum(done: &Done) -> String {
    let deliveries = done.deliveries();
    format!("{} of {} ({})", count(deliveries, "delivery"), count(done.calls, "call"), by_sink(&done.by_sink))
}

fn by_sink(counts: &BTreeMap<String, u64>) -> String {
    let counts: Vec<String> = counts.iter().map(|(sink, n)| format!("{} {n}", printable(sink))).collect();
    counts.join(", ")
}

/// How many there are to do something with. `Err`: none, or an id is wrong; told already.
fn found(state: &StateSettings, chosen: &Chosen) -> Result<Result<BTreeMap<String, u64>, u8>, AskError> {
    let conn = store::open_read_only(&state.state_dir)?;
    let mut wrong = Vec::new();
    if let Some(sink) = &chosen.sink {
        wrong.extend(unknown_sink(&conn, sink)?);
    }
    for id in &chosen.which().ids {
        let one = Which { ids: vec![id.clone()], sink: chosen.sink.clone() };
        if calls::number_of(&conn, id)?.is_none() {
            wrong.push(unknown_call(&conn, &state.state_dir, id)?);
        } else if dead::count(&conn, &one)?.is_empty() {
            wrong.push(format!(
                "no delivery of {}{} was given up: there is nothing to do. `callferry calls show` tells how they stand",
                printable(id),
                chosen.sink.as_deref().map(|s| format!(" at {}", printable(s))).unwrap_or_default()
            ));
        }
    }
    if !wrong.is_empty() {
        wrong.iter().for_each(|line| eprintln!("callferry: {line}"));
        return Ok(Err(RUNTIME));
    }
    let there = dead::count(&conn, &chosen.which())?;
    if there.is_empty() {
        say("there are no dead letters");
        return Ok(Err(OK));
    }
    Ok(Ok(there))
}

/// The state knows no call of this id: what to tell.
pub fn unknown_call(conn: &Connection, dir: &Path, id: &str) -> store::Result<String> {
    let near: Vec<String> = calls::like(conn, id, 3)?.iter().map(|id| printable(id)).collect();
    let hint = if near.is_empty() {
        "`callferry calls list` shows those it knows; one that has not ended yet is not among them".to_owned()
    } else {
        format!("near it: {}", listed(&near))
    };
    Ok(format!("the state in {} knows no call {}. {hint}", dir.display(), printable(id)))
}

/// Nothing was ever queued for a sink of this name: what to tell.
pub fn unknown_sink(conn: &Connection, sink: &str) -> store::Result<Option<String>> {
    let known = calls::sinks(conn)?;
    if known.iter().any(|name| name == sink) {
        return Ok(None);
    }
    let known: Vec<String> = known.iter().map(|name| printable(name)).collect();
    let there = if known.is_empty() { "none yet".to_owned() } else { listed(&known) };
    Ok(Some(format!("--sink {}: nothing was ever queued for it; this state knows {there}", printable(sink))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_with_what_helps() {
        assert!(left(&Done::default()).is_empty());
        let lines = left(&Done { blocked: 2, abandoned: 1, ..Done::default() });
        assert!(lines[0].starts_with("2 deliveries left") && lines[0].contains("retry --all"), "{lines:?}");
        // what was dropped is sent by no retry
        assert!(lines[1].starts_with("1 delivery left") && lines[1].contains("backfill --resend"), "{lines:?}");
        assert!(!lines[1].contains("--all"), "{lines:?}");
    }
}
