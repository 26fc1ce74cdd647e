//! Appends calls to an NDJSON file, or writes them to standard output: one document a line.
//!
//! At least once: a call counts as delivered only after fsync, so a crash between writing and recording writes its line
//! again. A line torn by a crash is closed by a newline before the next one, and its call is written anew. A file that was
//! rotated away is left and the path opened again. Writing happens on a thread of its own, which a stalled reader of
//! standard output may block without blocking the agent.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::config::FileSinkConfig;
use crate::finding::Finding;
use crate::ship::{Answer, Batch, Frozen, Limits, RenderError, Sink};

const BATCH_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;

type Job = (Vec<u8>, oneshot::Sender<Answer>);

pub struct File {
    path: Option<PathBuf>,
    jobs: mpsc::SyncSender<Job>,
}

impl File {
    pub fn new(config: &FileSinkConfig) -> Self {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let path = config.path.clone();
        let mut target = Target { path: path.clone(), open: None };
        let spawned = std::thread::Builder::new().name("sink-file".to_owned()).spawn(move || {
            while let Ok((lines, answer)) = todo.recv() {
                let _ = answer.send(target.write(&lines));
            }
        });
        if let Err(e) = spawned {
            tracing::error!(sink = "file", error = %e, "no thread to write with");
        }
        Self { path, jobs }
    }
}

impl Sink for File {
    fn name(&self) -> &'static str {
        "file"
    }

    fn limits(&self) -> Limits {
        Limits { batch: BATCH_MAX, batch_bytes: BATCH_BYTES_MAX, keyed_batches: false, concurrency: 1, rows: false }
    }

    fn render(&self, _document: &Frozen<'_>) -> Result<Option<Vec<u8>>, RenderError> {
        Ok(None)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Answer> {
        Box::pin(async move {
            let mut lines = Vec::with_capacity(batch.items.iter().map(|i| i.body.len() + 1).sum());
            for item in &batch.items {
                lines.extend_from_slice(&item.body);
                lines.push(b'\n');
            }
            let (answer, answered) = oneshot::channel();
            if self.jobs.try_send((lines, answer)).is_err() {
                return Answer::Broken("the last lines are still being written".to_owned());
            }
            answered.await.unwrap_or_else(|_| Answer::Broken("the writing thread is gone".to_owned()))
        })
    }

    fn check(&self) -> BoxFuture<'_, Vec<Finding>> {
        Box::pin(async move {
            let Some(path) = self.path.clone() else {
                return vec![Finding::ok("sink file", "calls go to standard output")];
            };
            let tried = tokio::task::spawn_blocking(move || (try_open(&path), path)).await;
            vec![match tried {
                Ok((Ok(()), path)) => Finding::ok("sink file", format!("{} can be appended to", path.display())),
                Ok((Err(e), path)) => Finding::problem(
                    "sink file",
                    format!("{} cannot be appended to: {e}", path.display()),
                    "set FILE_PATH to a file this user can write, or - for standard output",
                ),
                Err(e) => Finding::problem("sink file", e.to_string(), "try again"),
            }]
        })
    }
}

/// Looks without leaving a new file behind.
fn try_open(path: &Path) -> std::io::Result<()> {
    let existed = path.exists();
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    if !existed {
        fs::remove_file(path)?;
    }
    Ok(())
}

struct Target {
    path: Option<PathBuf>,
    open: Option<Open>,
}

struct Open {
    file: fs::File,
    /// Device and inode, for regular files only: others are neither rotated nor synced.
    regular: Option<(u64, u64)>,
    /// The last write may have ended inside a line.
    torn: bool,
}

impl Target {
    fn write(&mut self, lines: &[u8]) -> Answer {
        let Some(path) = self.path.clone() else { return write_stdout(lines) };
        match self.append(&path, lines) {
            Ok(()) => Answer::Accepted,
            Err(e) => {
                if let Some(open) = &mut self.open {
                    open.torn = true;
                }
                Answer::Broken(format!("cannot write to {}: {e}", path.display()))
            }
        }
    }

    fn append(&mut self, path: &Path, lines: &[u8]) -> std::io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.was_rotated(path)) {
            self.open = None;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(Open::new(path)?),
        };
        if open.torn {
            if open.ends_inside_a_line(path)? {
                open.file.write_all(b"\n")?;
            }
            open.torn = false;
        }
        open.file.write_all(lines)?;
        if open.regular.is_some() {
            open.file.sync_data()?;
        }
        Ok(())
    }
}

impl Open {
    fn new(path: &Path) -> std::io::Result<Self> {
        let existed = path.exists();
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
        let meta = file.metadata()?;
        if !existed && let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            // the name has to survive as well as the content
            fs::File::open(dir)?.sync_all()?;
        }
        let regular = meta.is_file().then(|| (meta.dev(), meta.ino()));
        Ok(Self { file, regular, torn: regular.is_some() })
    }

    fn was_rotated(&self, path: &Path) -> bool {
        self.regular.is_some() && fs::metadata(path).map(|m| (m.dev(), m.ino())).ok() != self.regular
    }

    fn ends_inside_a_line(&self, path: &Path) -> std::io::Result<bool> {
        if self.regular.is_none() || self.file.metadata()?.len() == 0 {
            return Ok(false);
        }
        let mut reader = match fs::File::open(path) {
            Ok(reader) => reader,
            // not readable for us: an empty line does less harm than a broken one
            Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(true),
            Err(e) => return Err(e),
        };
        reader.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        reader.read_exact(&mut last)?;
        Ok(last[0] != b'\n')
    }
}

fn write_stdout(lines: &[u8]) -> Answer {
    let mut out = std::io::stdout().lock();
    match out.write_all(lines).and_then(|()| out.flush()) {
        Ok(()) => Answer::Accepted,
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            Answer::Gone("standard output was closed by whoever read it".to_owned())
        }
        Err(e) => Answer::Broken(format!("cannot write to standard output: {e}")),
    }
}
