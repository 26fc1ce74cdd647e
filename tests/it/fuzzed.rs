//! What fuzzing found stays mended: each kept input goes through its target again, and so does what the targets start
//! from.

use std::path::{Path, PathBuf};

use callferry::call::Row;
use callferry::source::csv;

use crate::support::expected::{captures, driven};
use crate::support::fuzzed;

type Target = fn(&[u8]);
const TARGETS: [(&str, Target); 5] = [
    ("cel_csv", fuzzed::cel_csv),
    ("cdr_csv", fuzzed::cdr_csv),
    ("captured", fuzzed::captured),
    ("calls", fuzzed::calls),
    ("salvage", fuzzed::salvage),
];

fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(target);
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|e| e.expect("an entry").path()).collect()
}

#[test]
fn findings_stay_mended() {
    for (name, target) in TARGETS {
        for path in kept(name) {
            eprintln!("{}", path.display());
            target(&std::fs::read(path).expect("a kept input"));
        }
    }
}

/// The rows that captured calls are turned into still make calls of many kinds.
#[test]
fn captured_calls_as_bytes_keep_the_promises() {
    let mut rows = 0;
    for capture in captures().iter().chain(&driven()) {
        let file = |name: &str| std::fs::read(capture.dir.join(name)).unwrap_or_default();
        let cel = csv::read_cel(&file("cel.csv")[..], "cel.csv").map(|r| r.rows).unwrap_or_default();
        let bytes = fuzzed::rows::encode(&cel);
        let decoded = fuzzed::rows::decode(&bytes).rows.len();
        assert!(decoded == cel.len() || decoded >= 100, "{}: {decoded} of {}", capture.name, cel.len());
        rows += decoded;
        fuzzed::calls(&bytes);
    }
    assert!(rows > 2_000, "{rows} rows");
}

/// What fuzzing starts from, into the folder `FUZZ_SEEDS`: captured calls, whole and as the bytes that stand for their
/// rows.
#[test]
#[ignore = "scripts/fuzz.sh runs it"]
fn seeds() {
    let corpus = PathBuf::from(std::env::var_os("FUZZ_SEEDS").expect("FUZZ_SEEDS names a folder"));
    let keep = |target: &str, name: &str, bytes: &[u8]| {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).expect("a folder for seeds");
        std::fs::write(folder.join(name.replace('/', "-")), bytes).expect("a seed");
    };
    for capture in captures().iter().chain(&driven()) {
        let file = |name: &str| std::fs::read(capture.dir.join(name)).unwrap_or_default();
        let (cel, cdr) = (file("cel.csv"), file("cdr.csv"));
        keep("cel_csv", &capture.name, &cel);
        keep("cdr_csv", &capture.name, &cdr);
        keep("cdr_csv", &format!("{}-freepbx", capture.name), &file("cdr_freepbx.csv"));
        keep("captured", &capture.name, &[&cel[..], fuzzed::RECORDS.as_bytes(), &cdr].concat());
        let mut rows = csv::read_cel(&cel[..], "cel.csv").map(|r| r.rows).unwrap_or_default();
        for (i, row) in rows.iter().enumerate() {
            if let Row::Cel(row) = row
                && !row.extra.is_empty()
            {
                keep("salvage", &format!("{}-{i}", capture.name), row.extra.as_bytes());
            }
        }
        rows.append(&mut csv::read_cdr(&cdr[..], "cdr.csv").map(|r| r.rows).unwrap_or_default());
        keep("calls", &capture.name, &fuzzed::rows::encode(&rows));
    }
}

/// Every capture, every driven scenario: in any order, with repetitions, in pieces, its files make the same calls, and
/// every call is sound.
#[test]
fn every_capture_keeps_the_promises() {
    for capture in captures().iter().chain(&driven()) {
        let file = |name: &str| std::fs::read(capture.dir.join(name)).unwrap_or_default();
        eprintln!("{}", capture.name);
        let (cel, cdr) = (file("cel.csv"), file("cdr.csv"));
        fuzzed::captured(&[&cel[..], fuzzed::RECORDS.as_bytes(), &cdr].concat());
        fuzzed::captured(&cel);
        fuzzed::cdr_csv(&cdr);
        fuzzed::cdr_csv(&file("cdr_freepbx.csv"));
    }
}
