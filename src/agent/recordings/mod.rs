//! Finds recording files and keeps them for the calls they belong to. Settling builds them in; nothing here touches a call.
//!
//! A file with an id in its name is kept by that id at once, whether its call is known yet or not. One without is kept when
//! exactly one call fits it by the recordings table, by the name in its record, or by numbers and time; it is asked again
//! until it is too old, since its call may not be over.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::call::{Call, FoundRecording, RecordingMatch, RowTime, Timestamp};
use crate::config::FilesConfig;
use crate::correlate::{Zone, ids};
use crate::metrics;
use crate::ship::Clock;
use crate::ship::recordings::OpenFile;
use crate::source::recordings::{Began, Folder, Hints, Index, Limits, Place, Stat, Unreadable, Watch, hints};
use crate::store::{Result, Store, meta, recordings};

mod matching; // which call a file without id belongs to

use matching::{Candidate, pick};

/// Between scans at least, and how many times as long as the last scan took.
const SCAN_EVERY: Duration = Duration::from_secs(10);
const SCAN_SHARE: u32 = 20;
/// The same after hints were lost.
const MISSED_SHARE: u32 = 5;
/// Files kept in one transaction.
const KEPT_AT_ONCE: usize = 500;
/// When a file whose call was not found is matched again, seconds after the time before; the last step goes on until the
/// file is too old, since the PBX's database may be away for long.
const AGAIN_S: [i64; 4] = [5, 30, 300, 3_600];
/// Files to be matched again, at most.
const AGAIN_MAX: usize = 10_000;

/// A complete file whose call is not known.
#[derive(Clone)]
struct Waiting {
    place: Place,
    stat: Stat,
    due: Timestamp,
    tries: usize,
}

impl Waiting {
    fn new(place: Place, stat: Stat) -> Self {
        Self { place, stat, due: Timestamp::default(), tries: 0 }
    }
}

/// Looks for recording files.
pub struct Finder {
    store: Store,
    config: FilesConfig,
    index: Index,
    roots: Vec<Folder>,
    watch: Option<Watch>,
    /// When the last scan ended, and how long it took.
    scanned: Option<(Instant, Duration)>,
    waiting: VecDeque<Waiting>,
    /// Roots that could not be read, as told last.
    missing: Vec<String>,
    /// Folders below them that could not be, as told last.
    unreadable: Option<PathBuf>,
    /// That the system does not tell of every change was said.
    trouble_told: bool,
}

/// Runs until `stop`.
pub(super) async fn find(mut finder: Finder, clock: Clock, stop: CancellationToken) {
    let interval = finder.config.check_interval;
    let mut failed = false;
    loop {
        let now = clock.now();
        let ran = tokio::task::spawn_blocking(move || {
            let done = finder.round(now);
            (finder, done)
        });
        let Ok((back, done)) = ran.await else {
            tracing::error!("looking for recordings ended unexpectedly; it begins again at the next start");
            return;
        };
        finder = back;
        match done {
            Ok(_) => failed = false,
            // the state is closed at the end: what was not kept is found again after the next start
            Err(e) if !failed && !stop.is_cancelled() => {
                tracing::error!("recordings cannot be kept: {e}");
                failed = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
    }
}

impl Finder {
    pub fn new(store: Store, config: FilesConfig) -> Self {
        let index = Index::new(Limits {
            extensions: config.extensions.clone(),
            min_size: config.min_size,
            max_age: i128::try_from(config.max_age.as_nanos()).unwrap_or(i128::MAX),
            checks: config.checks,
        });
        let (roots, waiting, missing) = (Vec::new(), VecDeque::new(), Vec::new());
        Self {
            store,
            config,
            index,
            roots,
            watch: None,
            scanned: None,
            waiting,
            missing,
            unreadable: None,
            trouble_told: false,
        }
    }

    /// One look, to be taken once a check interval. How many files were kept.
    pub fn round(&mut self, now: Timestamp) -> Result<usize> {
        let nanos = i128::from(now.micros()) * 1_000;
        let hints = self.watch.as_ref().map(Watch::take);
        // what was in a new folder before it was watched is told by nobody
        let mut missed = matches!(hints, Some(None));
        for path in hints.flatten().unwrap_or_default() {
            let Some(place) = Place::of(&path, &self.roots) else { continue };
            match place.stat() {
                Some(stat) => self.index.saw(place, stat, nanos),
                None => missed |= path.symlink_metadata().is_ok_and(|m| m.is_dir()),
            }
        }
        if self.scan_is_due(missed) || self.index.wants_scan() {
            self.scan(nanos);
        }
        let mut kept = 0;
        for complete in self.index.check(Place::stat).chunks(KEPT_AT_ONCE) {
            let files = complete.iter().map(|(place, stat)| Waiting::new(place.clone(), *stat)).collect();
            // those that cannot be kept now are not noted: a later scan finds them again
            kept += self.keep(files, now)?;
            for (place, stat) in complete {
                self.index.noted(place, stat.size);
            }
        }
        let (due, later): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|one| one.due <= now);
        self.waiting = later;
        let mut due = due.into_iter();
        loop {
            let some: Vec<Waiting> = due.by_ref().take(KEPT_AT_ONCE).collect();
            if some.is_empty() {
                break;
            }
            // what changed or is gone is seen to by the index
            let same: Vec<Waiting> = some.into_iter().filter(|one| one.place.stat() == Some(one.stat)).collect();
            match self.keep(same.clone(), now) {
                Ok(n) => kept += n,
                Err(e) => {
                    // they are noted, so that nobody would find them again
                    let here = |w: &Waiting| same.iter().any(|one| one.place == w.place);
                    self.waiting.retain(|w| !here(w));
                    self.waiting.extend(same);
                    self.waiting.extend(due);
                    return Err(e);
                }
            }
        }
        Ok(kept)
    }

    fn scan_is_due(&self, missed: bool) -> bool {
        let Some((ended, took)) = self.scanned else { return true };
        let share = if missed { MISSED_SHARE } else { SCAN_SHARE };
        let least = if missed { Duration::ZERO } else { SCAN_EVERY };
        ended.elapsed() >= least.max(took.saturating_mul(share))
    }

    fn wait(&mut self, mut one: Waiting, now: Timestamp) {
        if one.tries == AGAIN_S.len() {
            metrics::RECORDINGS_UNMATCHED.inc();
        }
        let written = Timestamp::from_micros(i64::try_from(one.stat.modified / 1_000).unwrap_or_default());
        let age = now.micros().saturating_sub(written.micros());
        let too_old = u128::try_from(age).is_ok_and(|age| age > self.config.max_age.as_micros());
        if one.tries >= AGAIN_S.len() && too_old || self.waiting.len() >= AGAIN_MAX {
            if one.tries < AGAIN_S.len() {
                metrics::RECORDINGS_UNMATCHED.inc();
            }
            return;
        }
        let step = AGAIN_S.get(one.tries).or(AGAIN_S.last()).copied().unwrap_or_default();
        one.due = now.plus_micros(step * 1_000_000);
        one.tries += 1;
        self.waiting.push_back(one);
    }

    fn scan(&mut self, now: i128) {
        let began = Instant::now();
        let mut missing = Vec::new();
        let mut roots: Vec<Folder> = Vec::new();
        for path in &self.config.roots {
            match Folder::resolve(path) {
                // a root inside another is looked through once
                Ok(root) if roots.iter().any(|r| root.path.starts_with(&r.path)) => {}
                Ok(root) => {
                    roots.retain(|r| !r.path.starts_with(&root.path));
                    roots.push(root);
                }
                Err(e) => missing.push(format!("{}: {e}", path.display())),
            }
        }
        if missing != self.missing {
            if !missing.is_empty() {
                tracing::warn!(
                    "no recordings can be looked for in {}. Check RECORDING_PATHS and that this user may read it",
                    missing.join("; ")
                );
            }
            self.missing = missing;
        }
        if roots != self.roots || self.watch.is_none() {
            // before the scan, so that nothing falls between
            self.watch = Some(Watch::new(&roots));
            self.roots = roots;
        }
        let trouble = self.watch.as_ref().and_then(Watch::trouble).filter(|_| !self.trouble_told);
        if let Some(why) = trouble {
            self.trouble_told = true;
            tracing::warn!(
                "the system does not tell of every change below RECORDING_PATHS: {why}. New recordings are found all the \
                 same, by scans every ten seconds or more"
            );
        }
        let limits = self.index.limits().clone();
        let mut unreadable = None;
        for root in &self.roots {
            let index = &mut self.index;
            let walked = root.walk(&|below| limits.enters(below, now), &mut |place, stat| index.saw(place, stat, now));
            match walked {
                Ok(Unreadable { folders, first: Some(first) }) => {
                    unreadable.get_or_insert((folders, root.path.join(first)));
                }
                Ok(_) => {}
                Err(_) => {
                    unreadable.get_or_insert((1, root.path.clone()));
                }
            }
        }
        if let Some((folders, first)) = unreadable.as_ref().filter(|(_, first)| self.unreadable.as_ref() != Some(first))
        {
            tracing::warn!(
                "{folders} folders of recordings cannot be read, among them {}: let this user read them",
                first.display()
            );
        }
        self.unreadable = unreadable.map(|(_, first)| first);
        self.scanned = Some((Instant::now(), began.elapsed()));
        metrics::RECORDING_FILES_PENDING.set(i64::try_from(self.index.pending()).unwrap_or(i64::MAX));
    }

    /// Keeps complete files for their calls, in one transaction; those whose call is not known wait. How many were kept.
    fn keep(&mut self, files: Vec<Waiting>, now: Timestamp) -> Result<usize> {
        let mut found = Vec::new();
        for one in files {
            match self.found(&one)? {
                Some(known) => found.push(known),
                None => self.wait(one, now),
            }
        }
        if found.is_empty() {
            return Ok(0);
        }
        let (kept, new) = self.store.write_blocking(move |conn| {
            let mut new = Vec::new();
            for (recording, how) in &found {
                if recordings::put(conn, recording, now)? {
                    new.push(*how);
                }
            }
            Ok((found.len(), new))
        })?;
        for how in new {
            metrics::RECORDINGS_FOUND.with_label_values(&[how]).inc();
        }
        Ok(kept)
    }

    /// A file with its owner, and by what that is known.
    fn found(&self, one: &Waiting) -> Result<Option<(FoundRecording, &'static str)>> {
        let path = one.place.path();
        let (Some(file), Some(path)) = (one.place.file_name(), path.to_str()) else { return Ok(None) };
        let mut found = FoundRecording {
            owner: file.to_owned(),
            file: file.to_owned(),
            path: Some(path.to_owned()),
            size: Some(one.stat.size),
            started_at: None,
            by: RecordingMatch::Name,
        };
        if !ids::found_in(file).is_empty() {
            return Ok(Some((found, "id")));
        }
        let Some((owner, started_at, how)) = self.owner(&found, one.stat)? else { return Ok(None) };
        (found.owner, found.started_at) = (owner, started_at);
        Ok(Some((found, how)))
    }

    /// The linkedid of the one call a file without id fits, when the recording began, and by what it was found.
    fn owner(&self, found: &FoundRecording, stat: Stat) -> Result<Option<(String, Option<Timestamp>, &'static str)>> {
        let hints = hints(&found.file);
        let written = Timestamp::from_micros(i64::try_from(stat.modified / 1_000).unwrap_or_default());
        let (file, path) = (found.file.clone(), found.path.clone().unwrap_or_default());
        let of_name = hints.clone();
        let looked_up = self.store.read_blocking(move |conn| {
            if let Some(owner) = recordings::named(conn, &file, &path)? {
                return Ok(Err(owner));
            }
            let zones = meta::zones(conn)?;
            let began = began(&of_name, zones.last());
            Ok(Ok((began, recordings::around(conn, began.unwrap_or(written))?)))
        })?;
        let (began, documents) = match looked_up {
            Err(owner) => return Ok(Some((owner, None, "table"))),
            Ok((_, None)) => return Ok(None),
            Ok((began, Some(documents))) => (began, documents),
        };
        // the connection is not held while they are read
        let calls: Vec<Candidate> =
            documents.iter().filter_map(|d| serde_json::from_str::<Call>(d).ok()).map(Candidate::of).collect();
        let picked = pick(&found.file, &hints, began.is_some(), &calls);
        Ok(picked.map(|(call, how)| (call.linkedid.clone(), began, how)))
    }
}

/// Opens a path for sending if it lies below one of the roots as they are now.
pub fn opener(roots: Vec<PathBuf>) -> OpenFile {
    Arc::new(move |path| {
        let roots: Vec<Folder> = roots.iter().filter_map(|root| Folder::resolve(root).ok()).collect();
        Place::of(Path::new(path), &roots).map(|place| place.open())
    })
}

fn began(hints: &Hints, zone: Option<&Zone>) -> Option<Timestamp> {
    match hints.began? {
        Began::Moment(at) => Some(at),
        Began::Wall(reading) => zone.map(|z| z.row_moment(RowTime::Wall(reading), None)),
    }
}
