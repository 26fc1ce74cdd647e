//! What only CDRs know, and where they disagree with CEL.

use super::dialling::AppRun;
use super::media::Media;
use super::parties::known;
use super::scene::{Record, Scene};
use super::shape;
use crate::call::{
    CdrRow, CelRow, Content, Discrepancy, Disposition, FoundRecording, Recording, RecordingMatch, Timestamp,
};

/// The name that was looked up for the caller: `cnam` of its own records.
pub(super) fn caller_name(scene: &Scene<'_>, caller: usize) -> Option<String> {
    let own = scene.records.iter().map(|r| r.row).filter(|r| r.uniqueid == scene.chans[caller].id);
    // some dialplans write the number where no name was found
    own.filter(|r| r.cnam != r.cnum && r.cnam != r.src).map(|r| r.cnam.as_str()).find_map(known)
}

/// Account code, user field and AMA flags: of the caller's records first, then of any, then of CEL.
pub(super) struct Labels {
    pub accountcode: Option<String>,
    pub userfield: Option<String>,
    pub amaflags: Option<String>,
}

pub(super) fn labels(scene: &Scene<'_>, caller: Option<usize>) -> Labels {
    let id = caller.map_or("", |c| scene.chans[c].id);
    let first = |of: fn(&CdrRow) -> &str, cel: fn(&CelRow) -> &str| {
        let own = scene.records.iter().filter(|r| r.row.uniqueid == id);
        let found = own.chain(&scene.records).find_map(|r| known(of(r.row)));
        let rows = || scene.events.iter().filter(|e| caller.is_none_or(|c| e.ch == c)).map(|e| cel(e.row));
        found.or_else(|| rows().filter(|text| !text.is_empty()).find_map(known))
    };
    Labels {
        accountcode: first(|r| &r.accountcode, |r| &r.accountcode),
        userfield: first(|r| &r.userfield, |r| &r.userfield),
        amaflags: first(|r| &r.amaflags, |r| &r.amaflags).map(|f| ama_name(&f)),
    }
}

/// Integer columns hold the number of the flag (Asterisk, include/asterisk/channel.h).
fn ama_name(flag: &str) -> String {
    match flag {
        "1" => "OMIT".to_owned(),
        "2" => "BILLING".to_owned(),
        "3" => "DOCUMENTATION".to_owned(),
        other => other.to_owned(),
    }
}

/// Recordings from `recordingfile` and from MixMonitor, then those found beside the rows; one of each file. A narrow
/// column may have cut a name short.
pub(super) fn recordings(scene: &Scene<'_>, runs: &[AppRun<'_>]) -> Vec<Recording> {
    let mut found: Vec<Recording> = Vec::new();
    for run in runs.iter().filter(|r| r.is(&["MixMonitor", "Monitor"])) {
        // Monitor's first argument is the format
        let path = if run.is(&["MixMonitor"]) { run.first_arg() } else { run.arg(1) };
        add(&mut found, path, RecordingMatch::MixMonitor, Some(run.start));
    }
    for record in &scene.records {
        add(&mut found, &record.row.recordingfile, RecordingMatch::Cdr, None);
    }
    // what is told by the table first, then what lies on the disk, which knows the size
    let mut beside: Vec<&FoundRecording> = scene.found.iter().map(|f| &**f).collect();
    beside.sort_by(|a, b| (a.by.as_str(), &a.file, &a.path).cmp(&(b.by.as_str(), &b.file, &b.path)));
    for recording in beside {
        add_found(&mut found, recording);
    }
    found
}

/// A name cut short by a narrow column is long nevertheless: shorter ones prove nothing.
const CUT_NAME_MIN: usize = 16;

fn add_found(found: &mut Vec<Recording>, beside: &FoundRecording) {
    let Some(file) = known(&beside.file) else { return };
    let cut = |r: &Recording| r.file.len() >= CUT_NAME_MIN && file.starts_with(&r.file);
    let at = found.iter().position(|r| r.file == file).or_else(|| found.iter().position(cut));
    let Some(same) = at.and_then(|at| found.get_mut(at)) else {
        found.push(Recording {
            format: format_of(&file),
            path: beside.path.clone(),
            file,
            started_at: beside.started_at,
            size: beside.size,
            matched_by: beside.by,
        });
        return;
    };
    if same.path.as_ref().is_none_or(|p| !p.starts_with('/') || !p.ends_with(&file)) {
        same.path = beside.path.clone().or_else(|| same.path.take());
    }
    if same.file != file {
        same.file = file;
        same.format = format_of(&same.file);
    }
    same.size = beside.size.or(same.size);
    same.started_at = same.started_at.or(beside.started_at);
}

fn add(found: &mut Vec<Recording>, path: &str, by: RecordingMatch, at: Option<Timestamp>) {
    let Some(path) = known(path) else { return };
    let file = path.rsplit('/').next().unwrap_or(&path).to_owned();
    if file.is_empty() {
        return;
    }
    let same = found.iter_mut().find(|r| r.file == file || r.file.starts_with(&file) || file.starts_with(&r.file));
    match same {
        Some(known) => {
            if file.len() > known.file.len() {
                known.file = file;
                known.format = format_of(&known.file);
                known.path = None;
            }
            known.matched_by = if by == RecordingMatch::Cdr { by } else { known.matched_by };
            known.started_at = known.started_at.or(at);
            if known.path.is_none() && path.contains('/') {
                known.path = Some(path);
            }
        }
        None => found.push(Recording {
            format: format_of(&file),
            path: path.contains('/').then_some(path),
            file,
            started_at: at,
            size: None,
            matched_by: by,
        }),
    }
}

fn format_of(file: &str) -> Option<String> {
    let (_, ext) = file.rsplit_once('.')?;
    (!ext.is_empty() && ext.len() <= 5 && ext.bytes().all(|b| b.is_ascii_alphanumeric())).then(|| ext.to_lowercase())
}

/// Where the records tell another story than the events.
pub(super) fn discrepancies(
    scene: &Scene<'_>,
    media: &Media<'_>,
    caller: usize,
    content: &Content,
) -> Vec<Discrepancy> {
    let mut found = Vec::new();
    let mut say = |code: &str, text: String| found.push(Discrepancy { code: code.to_owned(), text });
    if scene.records.is_empty() {
        return found;
    }
    let with_party = |r: &&Record<'_>| r.row.disposition == Disposition::Answered && !r.row.dstchannel.is_empty();
    let answered_record = scene.records.iter().find(with_party);
    if let Some(record) = answered_record
        && content.answered_at.is_none()
        && scene.has_bridges
    {
        say(
            "answered_in_cdr_only",
            format!("CDR says ANSWERED on {}, CEL shows no conversation of the caller", record.row.dstchannel),
        );
    }
    if let Some(at) = content.answered_at
        && answered_record.is_none()
        && media.contacts.iter().any(|c| !c.open)
    {
        say("answered_in_cel_only", format!("CEL shows a conversation from {at}, no CDR with a callee says ANSWERED"));
    }
    let own = || scene.records.iter().filter(|r| r.row.uniqueid == scene.chans[caller].id);
    if let (Some(first), Some(to)) = (own().next(), &content.to.number)
        && shape::is_dialled_number(&first.row.dst)
        && first.row.dst != to.as_str()
    {
        say("dst_differs", format!("CDR dst is {}, dialled was {to}", first.row.dst));
    }
    let whole: i64 = own().filter_map(|r| r.row.billsec_ms).max().unwrap_or(0);
    if let Some(talk) = content.talk_s
        && content.pbx_answered_at.is_none()
        && whole > talk.millis().saturating_add(2_000)
    {
        say(
            "billsec_exceeds_talk",
            format!("CDR billsec is {} s, conversation lasted {:.3} s", whole / 1000, talk.as_f64()),
        );
    }
    if let (Some(start), Some(first)) = (content.started_at, own().filter_map(|r| r.start).min())
        && first.micros().saturating_sub(start.micros()) > 2_000_000
    {
        say("cdr_starts_late", format!("the first CDR of the caller starts at {first}, the call at {start}"));
    }
    found
}
