//! Commands that change the state: the agent that runs on it is asked to, by a row it looks for; where none runs, the
//! command takes the agent's role for the moment and does it itself.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::agent::requests::{Wish, carry_out};
use crate::ship::Clock;
use crate::store::requests::{self, Request, State};
use crate::store::{self, STATE_FILE, Store, StoreError};

/// Between two looks for the answer.
const LOOK: Duration = Duration::from_millis(100);
/// An agent that has not taken a request up by then is asked no longer.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Error)]
pub enum AskError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error(
        "the agent that works on {0} has not taken the request up within {wait} s; it was withdrawn. `callferry \
         healthcheck` tells how the agent is; one of an older version has to be restarted",
        wait = PATIENCE.as_secs()
    )]
    NoAnswer(PathBuf),
    #[error("the answer cannot be read: {0}")]
    Answer(String),
}

/// Whoever carried a wish out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The agent that runs on the state.
    Agent,
    /// This command.
    Us,
}

/// Has a wish carried out and waits for the answer.
pub fn ask<T: DeserializeOwned>(dir: &Path, wish: &Wish) -> Result<(T, By), AskError> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = alone(dir, wish)? {
            return Ok((read(&answer)?, By::Us));
        }
        if let Some(answer) = beside(dir, wish, begun)? {
            return Ok((read(&answer)?, By::Agent));
        }
    }
}

fn read<T: DeserializeOwned>(answer: &str) -> Result<T, AskError> {
    serde_json::from_str(answer).map_err(|e| AskError::Answer(format!("{e}: {answer}")))
}

/// Without an agent. `None`: there is one.
fn alone(dir: &Path, wish: &Wish) -> Result<Option<String>, AskError> {
    let path = dir.join(STATE_FILE);
    if !path.exists() {
        return Err(StoreError::Missing { path }.into());
    }
    let store = match Store::open(dir) {
        Ok(store) => store,
        Err(StoreError::Locked { .. }) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let answer = super::runtime()?.block_on(carry_out(&store, wish.clone(), &Clock::system()));
    store.close();
    Ok(Some(answer?))
}

/// Asks the agent. `None`: it ended before it took the request up.
fn beside(dir: &Path, wish: &Wish, begun: Instant) -> Result<Option<String>, AskError> {
    let conn = store::open_beside(dir)?;
    let number = requests::put(&conn, wish.kind(), wish, Clock::system().now())?;
    loop {
        match requests::get(&conn, number)? {
            Some(Request { state: State::Done, answer, .. }) => return Ok(Some(answer.unwrap_or_default())),
            Some(Request { state: State::Failed, answer, .. }) => {
                return Err(AskError::Refused(answer.unwrap_or_else(|| "refused without a reason".to_owned())));
            }
            Some(Request { state: State::New, .. }) => {
                if !store::agent_runs(dir) {
                    if requests::withdraw(&conn, number)? {
                        return Ok(None);
                    }
                } else if begun.elapsed() > PATIENCE && requests::withdraw(&conn, number)? {
                    return Err(AskError::NoAnswer(dir.to_owned()));
                }
            }
            Some(Request { state: State::Running, .. }) => {}
            None => return Err(AskError::Answer("the request is gone".to_owned())),
        }
        sleep(LOOK);
    }
}
