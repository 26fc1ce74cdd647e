//! What `backfill` and `reconcile` share: settings, the PBX's database, the state, and a walk that compares them without
//! changing anything.

use std::collections::BTreeMap;

use rusqlite::Connection;
use thiserror::Error;

use super::span;
use crate::agent::history::Span;
use crate::agent::history::compare::{Page, compare};
use crate::agent::history::walk::{Chunk, Walk};
use crate::agent::settle::Setup;
use crate::agent::{self};
use crate::config::{Config, ConfigError};
use crate::correlate::Zone;
use crate::ship;
use crate::source::SourceError;
use crate::source::sql::history::{History, Place, Unread};
use crate::store::{self, StoreError, meta};

#[derive(Debug, Error)]
pub enum PastError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Agent(#[from] agent::AgentError),
    #[error("the state in {dir} belongs to SOURCE_ID={kept}, not {given}")]
    OtherSource { dir: String, kept: String, given: String },
    #[error("{0}")]
    Told(String),
}

impl PastError {
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::OtherSource { .. } => super::USAGE,
            Self::Agent(e) if e.is_config() => super::USAGE,
            _ => super::RUNTIME,
        }
    }
}

/// Both sides of a comparison.
pub struct Past {
    pub config: Config,
    pub conn: Connection,
    pub setup: Setup,
    pub span: Span,
    pub zone: Zone,
    positions: BTreeMap<String, String>,
}

impl Past {
    /// Connects to the PBX's database, since the span is told in its zone and by its clock.
    pub async fn open(config: Config, args: &span::Args) -> Result<Self, PastError> {
        let conn = store::open_read_only(&config.state.dir)?;
        if let Some(kept) = meta::source_id(&conn)?.filter(|kept| *kept != config.source.id) {
            let dir = config.state.dir.display().to_string();
            return Err(PastError::OtherSource { dir, kept, given: config.source.id });
        }
        let positions: BTreeMap<String, String> = meta::positions(&conn)?.into_iter().collect();
        let mut history = History::new(&config.source, positions.clone());
        let now = history.connect().await?;
        // what live calls are read in, where that is known
        let zone = match (&config.source.zone, meta::zones(&conn)?.pop(), history.zone()) {
            (Some(zone), _, _) => zone.clone(),
            (None, Some(zone), _) => zone,
            (None, None, Some(zone)) => zone.clone(),
            (None, None, None) => {
                return Err(ConfigError::new(
                    "DB_TIMEZONE",
                    "the zone of the PBX's times is not known: its uniqueids do not tell it. Set DB_TIMEZONE",
                )
                .into());
            }
        };
        let span = args.span(&zone, now)?;
        let setup = agent::setup(&config, &ship::sinks(&config.sinks)?);
        Ok(Self { config, conn, setup, span, zone, positions })
    }

    /// Every call of the span, a few at a time. `each` gets them with how far the walk is, 0 to 1,000. `resend`: compared as
    /// they would be told now.
    pub async fn walk(
        &self,
        resend: bool,
        mut each: impl FnMut(&Connection, Page, u32) -> Result<(), PastError>,
    ) -> Result<(), PastError> {
        let history = History::new(&self.config.source, self.positions.clone());
        let tables = crate::source::sql::tables(&self.config.source).len().max(1) as u64;
        let mut walk = Walk::new(history, self.span, Place::default());
        let mut permille = 0;
        while let Some(chunk) = walk.next().await? {
            let Chunk { rows, db_now, zone, place } = chunk;
            let mut page = compare(&self.conn, &self.setup, &zone, db_now, rows, self.span, resend)?;
            let unread = walk.unreadable();
            page.unusable.extend(unread.named);
            page.unnamed = unread.more;
            if let Some(place) = &place {
                let done = place.table as u64 * 1_000 + u64::from(place.permille);
                permille = u32::try_from(done / tables).unwrap_or(1_000);
            }
            each(&self.conn, page, permille)?;
        }
        // pages without a call have some too
        let Unread { named, more } = walk.unreadable();
        each(&self.conn, Page { unusable: named, unnamed: more, ..Page::default() }, 1_000)
    }
}
