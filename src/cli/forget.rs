//! `callferry forget`: removes a caller from the local state, and says what it cannot remove.

use super::ask::{AskError, ask};
use super::text::{count, listed, printable};
use super::{OK, RUNTIME, USAGE, say};
use crate::agent::forget::Forgotten;
use crate::agent::requests::Wish;
use crate::config::StateSettings;
use crate::correlate::spelling::Spellings;
use crate::store::{self, calls, forgotten};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// The number, in any spelling: +420 777 000 111, 00420777000111, 777000111
    number: String,
    /// Also where the number is as short as an extension: every call of it goes
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    state: StateSettings,
}

/// Returns the exit code.
pub fn run(args: &Args) -> u8 {
    match forget(args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("callferry: {e}");
            RUNTIME
        }
    }
}

fn forget(args: &Args) -> Result<u8, AskError> {
    let dir = &args.state.state_dir;
    let conn = store::open_read_only(dir)?;
    let spellings = match Spellings::of(&args.number, &forgotten::numbering(&conn)?) {
        Ok(spellings) => spellings,
        Err(e) => {
            eprintln!("callferry: {}", printable(&e));
            return Ok(USAGE);
        }
    };
    if spellings.is_short() && !args.yes {
        eprintln!(
            "callferry: {} is as short as an extension: every call of it would go. Add --yes if that is meant",
            printable(&args.number)
        );
        return Ok(USAGE);
    }
    let sinks: Vec<String> = calls::sinks(&conn)?.iter().map(|s| printable(s)).collect();
    // no snapshot may hold the old file while it is written anew
    drop(conn);
    let (done, _): (Forgotten, _) = ask(dir, &Wish::Forget(args.number.clone()))?;
    let r = &done.removed;
    let mut parts = Vec::new();
    for (n, what, rest) in [
        (r.calls, "call", ""),
        (r.pending, "delivery", " not sent yet"),
        (r.dead, "dead letter", ""),
        (r.rows, "row", " of calls not over"),
        (r.recordings, "recording", ""),
        (r.quarantined, "unreadable row", ""),
        (r.errors, "mention", " in error texts"),
    ] {
        if n > 0 {
            parts.push(format!("{}{rest}", count(n, what)));
        }
    }
    say(if parts.is_empty() {
        "nothing in the state names it".to_owned()
    } else {
        format!("removed: {}", listed(&parts))
    });
    if let Some(why) = &done.not_rewritten {
        eprintln!(
            "callferry: the state file could not be written anew ({why}). What was removed is overwritten with zeros, but \
             copies may be left between its pages: run this again when that is mended"
        );
    }
    let receivers = if sinks.is_empty() { String::new() } else { format!(" ({})", sinks.join(", ")) };
    say(format!(
        "what callferry cannot remove: calls that receivers have{receivers}, the PBX's own tables and recording files, logs, \
         files of the file sink, exports and backups made before\n\
         calls of this number up to now are not taken in again, whatever is read anew; calls from now on are"
    ));
    Ok(if done.not_rewritten.is_some() { RUNTIME } else { OK })
}
