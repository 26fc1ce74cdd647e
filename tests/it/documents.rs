//! README and docs: links lead somewhere, commands and settings they name exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::program::Program;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].iter().map(|p| root().join(p)).collect();
    pages.extend(fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    pages
}

/// A heading's anchor as GitHub and GitLab make it.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

/// Text without code blocks: what is shown there is no link.
fn prose(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// What is marked as code: indented or fenced lines, and what stands between backquotes.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let blocks = text.split("\n```").skip(1).step_by(2).flat_map(str::lines);
    let indented = text.lines().filter(|l| l.starts_with("    "));
    let quoted = text.lines().filter(|l| !l.starts_with("    ")).flat_map(|l| l.split('`').skip(1).step_by(2));
    blocks.chain(indented).chain(quoted).map(str::trim)
}

#[test]
fn links_lead_to_files_and_headings_that_exist() {
    for page in pages() {
        let text = prose(&fs::read_to_string(&page).unwrap());
        for target in text.split("](").skip(1).filter_map(|t| t.split(')').next()) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(path.exists(), "{}: {target} leads nowhere", page.display());
            if !heading.is_empty() {
                let text = prose(&fs::read_to_string(&path).unwrap());
                let found = text.lines().filter(|l| l.starts_with('#')).any(|l| anchor(l) == heading);
                assert!(found, "{}: {target}: no such heading", page.display());
            }
        }
    }
}

/// Every `callferry …` a page shows is a command with flags that exist.
#[test]
fn commands_shown_exist() {
    let commands = [
        "run",
        "check",
        "demo",
        "correlate",
        "explain",
        "calls",
        "backfill",
        "reconcile",
        "forget",
        "schema",
        "healthcheck",
    ];
    let nested = [
        ("trunk", ["add", "list", "show", "verify", "remove"].as_slice()),
        ("provision", &["plan", "apply", "diff", "verify", "destroy", "import", "render"]),
        ("dialplan", &["test"]),
    ];
    let mut help: Vec<(String, String)> =
        commands.iter().map(|&c| (c.to_owned(), Program::new().run(&[c, "--help"]).out)).collect();
    for (command, subcommands) in nested {
        help.push((command.to_owned(), Program::new().run(&[command, "--help"]).out));
        for sub in subcommands {
            let ended = Program::new().run(&[command, sub, "--help"]);
            assert_eq!(ended.code, 0, "{command} {sub}");
            help.push((format!("{command} {sub}"), ended.out));
        }
    }
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for line in code(&text).filter_map(|l| l.trim_start_matches("target/release/").strip_prefix("callferry ")) {
            let mut words = line.split_whitespace();
            let Some(first) = words.next() else { continue };
            let command = match nested.iter().find(|(name, _)| *name == first) {
                Some(_) => format!("{first} {}", words.next().unwrap_or_default()).trim().to_owned(),
                None => first.to_owned(),
            };
            let Some((_, help)) = help.iter().find(|(name, _)| *name == command) else {
                panic!("{}: callferry {line}: no such command", page.display());
            };
            for flag in words.filter_map(|w| w.trim_start_matches('[').strip_prefix("--")) {
                let flag = flag.trim_matches(|c: char| !c.is_ascii_alphanumeric()).split(['=', ']']).next().unwrap();
                let nested = command == "calls";
                assert!(
                    nested || help.contains(&format!("--{flag}")),
                    "{}: callferry {line}: no --{flag}",
                    page.display()
                );
            }
        }
    }
}

/// Every `NAME_LIKE_THIS` in backquotes is a setting, a secret, one of compose.yml's own, or a name the migration guide
/// tells about.
#[test]
fn settings_named_exist() {
    let example = callferry::config::env_example();
    let mut known: BTreeSet<&str> =
        example.lines().filter_map(|l| l.strip_prefix('#')?.split_once('=').map(|(name, _)| name)).collect();
    let compose = fs::read_to_string(root().join("docker/compose.yml")).unwrap();
    known.extend(crate::deployment::variables(&compose));
    for page in pages() {
        if page.ends_with("migrating-from-sipstack.md") || page.ends_with("CHANGELOG.md") {
            continue;
        }
        for quoted in prose(&fs::read_to_string(&page).unwrap()).split('`').skip(1).step_by(2) {
            let name = quoted.split('=').next().unwrap();
            let ours = ["DB_", "WEBHOOK_", "STATE_", "RETRY_", "MONITORING_", "LOG_", "API_", "FILE_"];
            let looks =
                name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && ours.iter().any(|p| name.starts_with(p));
            assert!(!looks || name.ends_with('_') || known.contains(name), "{}: {name} is no setting", page.display());
        }
    }
}

/// The example in docs/payload.md is what the command above it prints.
#[test]
fn the_example_document_is_real() {
    let page = fs::read_to_string(root().join("docs/payload.md")).unwrap();
    let example = page.split("```json\n").nth(1).unwrap().split("\n```").next().unwrap();
    let example: serde_json::Value = serde_json::from_str(example).unwrap();
    let command = page.lines().find_map(|l| l.strip_prefix("    callferry correlate ")).unwrap();
    let arguments = command.replace("data/demo", root().join("data/demo").to_str().unwrap()).replace('\'', "");
    let arguments: Vec<&str> = std::iter::once("correlate").chain(arguments.split_whitespace()).collect();
    let ended = Program::new().run(&arguments);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let calls: Vec<serde_json::Value> = ended.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(calls.len(), 21);
    let printed = calls.iter().find(|c| c["id"] == example["id"]).expect("the example's call");
    assert_eq!(printed, &example);
}
