//! What commands ask of a state, carried out by whoever owns it: the running agent, which looks for requests all the time,
//! or the command itself where no agent runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::ship::{Clock, Wake};
use crate::store::dead::{self, Action, Cursor, Which};
use crate::store::requests::{self, Request, State};
use crate::store::{Result, Store, StoreError};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Deliveries in one transaction.
const STEP: usize = 500;
/// Looks between letting go what was answered long ago.
const CLEAN: u32 = 7_200;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Sends dead deliveries again. Answer: [`dead::Done`].
    Retry(Which),
    /// Gives dead deliveries up for good. Answer: [`dead::Done`].
    Drop(Which),
}

impl Wish {
    /// The `kind` of its row in the state.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Retry(_) => "retry",
            Self::Drop(_) => "drop",
        }
    }
}

/// Carries out one wish. Returns its answer, as JSON.
pub async fn carry_out(store: &Store, wish: Wish, clock: &Clock) -> Result<String> {
    let done = match wish {
        Wish::Retry(which) => letters(store, Action::Retry, which, clock).await?,
        Wish::Drop(which) => letters(store, Action::Drop, which, clock).await?,
    };
    serde_json::to_string(&done).map_err(|e| StoreError::Content(e.to_string()))
}

async fn letters(store: &Store, action: Action, which: Which, clock: &Clock) -> Result<dead::Done> {
    let mut done = dead::Done::default();
    let mut cursor = Cursor::default();
    loop {
        let (which, before, now) = (which.clone(), done.clone(), clock.now());
        let step = store.write(move |conn| {
            let mut done = before;
            let next = dead::step(conn, action, &which, cursor, STEP, now, &mut done)?;
            Ok((done, next))
        });
        let (so_far, next) = step.await?;
        done = so_far;
        match next {
            Some(next) => cursor = next,
            None => return Ok(done),
        }
    }
}

/// The agent's side.
pub(super) struct Desk {
    pub store: Store,
    pub wake: Wake,
    pub clock: Clock,
    pub stop: CancellationToken,
}

impl Desk {
    /// Looks for requests and carries them out, one after another, until told to stop.
    pub(super) async fn serve(self) {
        let mut looks = 0_u32;
        let mut failing = false;
        loop {
            match self.look(looks.is_multiple_of(CLEAN)).await {
                Ok(()) => failing = false,
                Err(e) if !std::mem::replace(&mut failing, true) => tracing::warn!("requests of commands: {e}"),
                Err(_) => {}
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn look(&self, clean: bool) -> Result<()> {
        if clean {
            let now = self.clock.now();
            self.store.write(move |conn| requests::clean(conn, now)).await?;
        }
        for request in self.store.read(requests::open).await? {
            self.answer(request).await?;
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Result<()> {
        let number = request.request;
        let (state, answer) = match request.argument::<Wish>() {
            Ok(wish) => match carry_out(&self.store, wish, &self.clock).await {
                Ok(answer) => {
                    self.wake.ring();
                    tracing::info!(
                        request = number,
                        kind = request.kind,
                        answer,
                        "carried out what a command asked for"
                    );
                    (State::Done, answer)
                }
                // the state cannot be written: it is tried again
                Err(e) if e.is_full() || e.is_fatal() => return Err(e),
                Err(e) => (State::Failed, e.to_string()),
            },
            Err(_) => {
                let version = env!("CARGO_PKG_VERSION");
                (
                    State::Failed,
                    format!("the running agent ({version}) does not know this command: update and restart it"),
                )
            }
        };
        let now = self.clock.now();
        self.store.write(move |conn| requests::answer(conn, number, state, &answer, now)).await
    }
}
