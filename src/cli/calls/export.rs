//! `callferry calls export`: the dead letters as JSON lines. A file appears whole or not at all.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use rusqlite::Connection;
use thiserror::Error;

use super::super::text::count;
use super::super::{OK, RUNTIME, say};
use super::dead::unknown_sink;
use crate::config::StateSettings;
use crate::store::dead::{self, Cursor, Which};
use crate::store::{self, StoreError};

/// Letters in memory at once.
const PAGE: usize = 100;

#[derive(Debug, Error)]
enum ExportError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Sink(String),
    #[error("{file} exists: name another file, or add --force to replace it")]
    Exists { file: String },
    #[error("{file} is not a file, and is not replaced: name another, or - for standard output")]
    NoFile { file: String },
    #[error("cannot write {file}: {source}. Nothing was left there")]
    Write { file: String, source: io::Error },
}

/// Returns the exit code.
pub fn run(state: &StateSettings, file: &Path, sink: Option<&str>, force: bool) -> u8 {
    match export(state, file, sink, force) {
        Ok(()) => OK,
        Err(e) => {
            eprintln!("callferry: {e}");
            RUNTIME
        }
    }
}

fn export(state: &StateSettings, file: &Path, sink: Option<&str>, force: bool) -> Result<(), ExportError> {
    let conn = store::open_read_only(&state.state_dir)?;
    if let Some(unknown) = sink.map(|sink| unknown_sink(&conn, sink)).transpose()?.flatten() {
        return Err(ExportError::Sink(unknown));
    }
    let which = Which { ids: Vec::new(), sink: sink.map(str::to_owned) };
    let shown = file.display().to_string();
    let failed = |source| ExportError::Write { file: shown.clone(), source };
    if file == Path::new("-") {
        return match lines(&conn, &which, io::stdout().lock()) {
            // a reader that has seen enough is no failure
            Err(Failed::Output(e)) if e.kind() != io::ErrorKind::BrokenPipe => Err(failed(e)),
            Err(Failed::Store(e)) => Err(e.into()),
            _ => Ok(()),
        };
    }
    match file.symlink_metadata() {
        Ok(_) if !force => return Err(ExportError::Exists { file: shown }),
        Ok(there) if !there.is_file() => return Err(ExportError::NoFile { file: shown }),
        _ => {}
    }
    // beside the file, so that it can take its place; for its user only, as the state
    let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut part = tempfile::Builder::new().prefix(".callferry-").tempfile_in(directory).map_err(failed)?;
    let written = match lines(&conn, &which, BufWriter::new(part.as_file_mut())) {
        Ok(written) => written,
        Err(Failed::Store(e)) => return Err(e.into()),
        Err(Failed::Output(e)) => return Err(failed(e)),
    };
    part.as_file().sync_all().map_err(failed)?;
    let kept = if force { part.persist(file) } else { part.persist_noclobber(file) };
    match kept {
        Ok(_) => {}
        Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => return Err(ExportError::Exists { file: shown }),
        Err(e) => return Err(failed(e.error)),
    }
    say(format!("{} written to {shown}", count(written, "dead letter")));
    Ok(())
}

enum Failed {
    Store(StoreError),
    Output(io::Error),
}

fn lines(conn: &Connection, which: &Which, mut out: impl Write) -> Result<u64, Failed> {
    let mut cursor = Cursor::default();
    let mut written = 0;
    loop {
        let page = dead::copies(conn, which, cursor, PAGE).map_err(Failed::Store)?;
        let Some(last) = page.last() else { break };
        cursor = last.cursor();
        for copy in &page {
            serde_json::to_writer(&mut out, copy).map_err(|e| Failed::Output(e.into()))?;
            out.write_all(b"\n").map_err(Failed::Output)?;
            written += 1;
        }
    }
    out.flush().map_err(Failed::Output)?;
    Ok(written)
}
