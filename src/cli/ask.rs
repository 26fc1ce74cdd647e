//! Commands that change the state: the agent that runs on it is asked to, by a row it looks for; where none runs, the
//! command takes the agent's role for the moment and does it itself.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde::de::DeserializeOwned;
use thiserror::Error;

use crate::agent::requests::{Wish, carry_out};
use crate::ship::Clock;
use crate::store::requests::{self, Request, State};
use crate::store::{self, STATE_FILE, Store, StoreError};

/// Between two looks for the answer.
const LOOK: Duration = Duration::from_millis(100);
/// An agent that has not taken a request up by then is asked no longer; nor is one waited for that is gone for so long.
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
    #[error(
        "the agent that works on {0} ended while it carried this out. It goes on with it when it is started again, or run \
         this again"
    )]
    Ended(PathBuf),
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
    let number = loop {
        match requests::put(&conn, wish.kind(), wish, Clock::system().now()) {
            // it writes its whole file anew, perhaps
            Err(e) if e.is_busy() && begun.elapsed() <= PATIENCE => sleep(LOOK),
            put => break put?,
        }
    };
    answered(&conn, dir, number, begun, PATIENCE)
}

/// Waits for the answer to a request.
fn answered(
    conn: &Connection,
    dir: &Path,
    number: i64,
    begun: Instant,
    patience: Duration,
) -> Result<Option<String>, AskError> {
    // busy: whoever holds the file is at work
    let withdrawn = || match requests::withdraw(conn, number) {
        Err(e) if e.is_busy() => Ok(false),
        done => done,
    };
    let mut seen = Instant::now();
    loop {
        let runs = store::agent_runs(dir);
        if runs {
            seen = Instant::now();
        }
        match requests::get(conn, number)? {
            Some(Request { state: State::Done, answer, .. }) => return Ok(Some(answer.unwrap_or_default())),
            Some(Request { state: State::Failed, answer, .. }) => {
                return Err(AskError::Refused(answer.unwrap_or_else(|| "refused without a reason".to_owned())));
            }
            Some(Request { state: State::New, .. }) => {
                if !runs {
                    if withdrawn()? {
                        return Ok(None);
                    }
                } else if begun.elapsed() > patience && withdrawn()? {
                    return Err(AskError::NoAnswer(dir.to_owned()));
                }
            }
            Some(Request { state: State::Running, .. }) if seen.elapsed() > patience => {
                return Err(AskError::Ended(dir.to_owned()));
            }
            Some(Request { state: State::Running, .. }) => {}
            None => return Err(AskError::Answer("the request is gone".to_owned())),
        }
        sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;
    use crate::agent::forget::Forgotten;
    use crate::agent::requests::attend;
    use crate::call::Timestamp;
    use crate::store::forgotten::Gate;

    const PATIENCE: Duration = Duration::from_millis(200);
    const LIMIT: Duration = Duration::from_secs(20);

    struct Site {
        dir: tempfile::TempDir,
        store: Store,
        number: i64,
        answer: mpsc::Receiver<Result<Option<String>, AskError>>,
    }

    /// A command that asks for `wish` and waits, beside the owner of the state, which this test is.
    fn asked(wish: &Wish) -> Site {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (tell, answer) = mpsc::channel();
        let conn = store::open_beside(dir.path()).unwrap();
        let number = requests::put(&conn, wish.kind(), wish, Timestamp::from_secs(1)).unwrap();
        let path = dir.path().to_owned();
        std::thread::spawn(move || tell.send(answered(&conn, &path, number, Instant::now(), PATIENCE)));
        Site { dir, store, number, answer }
    }

    impl Site {
        fn request(&self) -> Option<Request> {
            let number = self.number;
            self.store.read_blocking(move |conn| requests::get(conn, number)).unwrap()
        }
    }

    #[test]
    fn what_takes_long_is_waited_for_and_not_withdrawn() {
        let site = asked(&Wish::Forget("+420777123456".to_owned()));
        // the first moments are those of taking it up and of beginning; the next one comes when the test says so
        let (go, wait) = mpsc::channel::<()>();
        let (wait, calls) = (Mutex::new(wait), Arc::new(Mutex::new(0)));
        let clock = Clock::from_fn(move || {
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            if *calls == 2 {
                wait.lock().unwrap().recv_timeout(LIMIT).unwrap();
            }
            Timestamp::from_secs(2)
        });
        let (store, request) = (site.store.clone(), site.request().unwrap());
        let agent =
            std::thread::spawn(move || crate::cli::runtime().unwrap().block_on(attend(&store, &clock, &request)));
        let answer = site.answer.recv_timeout(5 * PATIENCE);
        assert!(matches!(answer, Err(mpsc::RecvTimeoutError::Timeout)), "{answer:?}");
        assert_eq!(site.request().expect("it is there").state, State::Running);
        go.send(()).unwrap();
        agent.join().unwrap().unwrap();
        let answer = site.answer.recv_timeout(LIMIT).unwrap().unwrap().expect("an answer");
        assert_eq!(serde_json::from_str::<Forgotten>(&answer).unwrap().not_rewritten, None);
        assert!(site.request().unwrap().is_blank());
    }

    #[test]
    fn what_nobody_takes_up_is_withdrawn_and_never_done() {
        let site = asked(&Wish::Forget("+420777123456".to_owned()));
        let request = site.request().unwrap();
        let answer = site.answer.recv_timeout(LIMIT).unwrap();
        assert!(matches!(answer, Err(AskError::NoAnswer(_))), "{answer:?}");
        // an agent that had looked before does not do it all the same
        let clock = Clock::system();
        crate::cli::runtime().unwrap().block_on(attend(&site.store, &clock, &request)).unwrap();
        assert!(site.request().is_none());
        assert!(site.store.read_blocking(Gate::load).unwrap().is_none());
    }

    #[test]
    fn an_agent_that_ended_at_it_is_told_and_the_next_one_goes_on() {
        let Site { dir, store, number, answer } = asked(&Wish::Forget("+420777123456".to_owned()));
        let at = Timestamp::from_secs(2);
        assert!(store.write_blocking(move |conn| requests::take_up(conn, number, at)).unwrap());
        store.close();
        let answer = answer.recv_timeout(LIMIT).unwrap();
        assert!(matches!(answer, Err(AskError::Ended(_))), "{answer:?}");
        let store = Store::open(dir.path()).unwrap();
        let open = store.read_blocking(requests::open).unwrap();
        assert_eq!(open.len(), 1);
        crate::cli::runtime().unwrap().block_on(attend(&store, &Clock::system(), &open[0])).unwrap();
        let done = store.read_blocking(move |conn| requests::get(conn, number)).unwrap().unwrap();
        assert_eq!(done.state, State::Done);
        assert!(store.read_blocking(Gate::load).unwrap().is_some());
    }

    #[test]
    fn one_that_ended_at_the_very_last_is_gone_on_with_without_the_number() {
        let site = asked(&Wish::Forget("+420777123456".to_owned()));
        let (number, at) = (site.number, Timestamp::from_secs(2));
        let removed = crate::store::forget::Removed { calls: 3, ..Default::default() };
        let text = serde_json::to_string(&removed).unwrap();
        site.store
            .write_blocking(move |conn| {
                requests::take_up(conn, number, at)?;
                requests::blank(conn, number)?;
                requests::note_blank(conn, &text, at)
            })
            .unwrap();
        let request = site.request().unwrap();
        crate::cli::runtime().unwrap().block_on(attend(&site.store, &Clock::system(), &request)).unwrap();
        let answer = site.answer.recv_timeout(LIMIT).unwrap().unwrap().expect("an answer");
        assert_eq!(serde_json::from_str::<Forgotten>(&answer).unwrap().removed, removed);
    }
}
