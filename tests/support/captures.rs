//! The captured rows of a real Asterisk, as its backends wrote them.

use std::path::PathBuf;

/// One run of one scenario.
pub struct Capture {
    pub name: String,
    pub directory: PathBuf,
}

/// All runs, in order.
pub fn all() -> Vec<Capture> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/captures");
    let folders = |path: &PathBuf| {
        let entries = std::fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut folders: Vec<PathBuf> =
            entries.filter_map(|e| e.ok().map(|e| e.path())).filter(|p| p.is_dir()).collect();
        folders.sort();
        folders
    };
    let mut captures = Vec::new();
    for scenario in folders(&root) {
        for directory in folders(&scenario) {
            let part = |p: &PathBuf| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            captures.push(Capture { name: format!("{}/{}", part(&scenario), part(&directory)), directory });
        }
    }
    assert!(captures.len() > 50, "the captures are there");
    captures
}

/// Rows of a CSV file: name of the column, and text.
pub struct Sheet {
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Capture {
    /// A file with a header line; `None`: the run has no such file.
    pub fn sheet(&self, file: &str) -> Option<Sheet> {
        let path = self.directory.join(file);
        if !path.exists() {
            return None;
        }
        let mut rows = records(&path);
        let header = if rows.is_empty() { Vec::new() } else { rows.remove(0) };
        Some(Sheet { header, rows })
    }

    /// A file without one.
    pub fn headerless(&self, file: &str, header: &[&str]) -> Option<Sheet> {
        let path = self.directory.join(file);
        let header = header.iter().map(|&name| name.to_owned()).collect();
        path.exists().then(|| Sheet { header, rows: records(&path) })
    }
}

fn records(path: &std::path::Path) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_path(path).expect("a CSV file");
    reader.records().map(|r| r.expect("a record").iter().map(str::to_owned).collect()).collect()
}
