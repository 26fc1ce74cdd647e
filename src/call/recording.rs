//! A recording found beside the rows of its call.

use super::{RecordingMatch, Timestamp};

/// A recording that the PBX's recordings table or a folder holds. Data for building a call, like its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRecording {
    /// The linkedid or uniqueid it belongs to, or the file name that holds it.
    pub owner: String,
    /// File name without folders.
    pub file: String,
    /// Whole path, where it is known.
    pub path: Option<String>,
    /// Bytes.
    pub size: Option<u64>,
    pub started_at: Option<Timestamp>,
    /// `Db` (the recordings table) or `Name` (a file).
    pub by: RecordingMatch,
}
