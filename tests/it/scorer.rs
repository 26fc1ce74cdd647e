//! The captures' own scorer over the program, in every variant of what a PBX may log. It lies beside the repository where
//! captures are made (`../shared/captures/score.py`, or where `CAPTURES_SCORER` says); without it this test says so, and
//! `captures` alone vouches for the correlator.

use std::path::{Path, PathBuf};
use std::process::Command;

const VARIANTS: &[&str] = &[
    "cel+cdr",
    "cdr_freepbx",
    "cel-only",
    "cdr-only",
    "pg",
    "csv-custom",
    "whole-second",
    "rounded-second",
    "freepbx",
    "narrow",
    "sample-events",
    "shuffled",
    "all",
];

fn scorer() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/captures/score.py");
    std::env::var_os("CAPTURES_SCORER").map_or_else(beside, PathBuf::from)
}

#[test]
fn every_variant_scores_full_marks() {
    let scorer = scorer();
    if !scorer.is_file() {
        eprintln!("SKIPPED: {} is not here; set CAPTURES_SCORER to score every variant", scorer.display());
        return;
    }
    let mut short = Vec::new();
    for variant in VARIANTS {
        let run = Command::new("python3")
            .arg(&scorer)
            .args(["--bin", env!("CARGO_BIN_EXE_callferry"), "--variant", variant])
            .output()
            .expect("python3 runs the scorer");
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        let score = text.lines().last().unwrap_or_default().to_owned();
        let numbers = score.strip_prefix("score: ").and_then(|s| s.split_once(" fields"));
        let full = numbers.and_then(|(n, _)| n.split_once('/')).is_some_and(|(got, of)| got == of && got != "0");
        if !run.status.success() || !full {
            let misses: Vec<&str> = text.lines().skip_while(|l| *l != "misses:").take(40).collect();
            short.push(format!("{variant}: {score}\n{}", misses.join("\n")));
        }
    }
    assert!(short.is_empty(), "{}", short.join("\n\n"));
}
