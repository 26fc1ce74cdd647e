//! `callferry demo` does the main job by itself, whatever the environment says, and leaves nothing behind.

use crate::program::Program;

#[test]
fn every_call_arrives_in_one_line_and_the_totals_agree() {
    let temporary = tempfile::tempdir().unwrap();
    let program = Program::new()
        .env("TMPDIR", temporary.path().to_str().unwrap())
        // settings of a real installation do not reach the demo
        .env_file("DB_TYPE=mysql\nDB_NAME=asterisk\nSINKS=sipstack\nAPI_KEY=secret\nSTATE_DIR=elsewhere\n");
    let ended = program.run(&["demo"]);
    assert_eq!(ended.code, 0, "{}{}", ended.out, ended.err);
    let summary = ended.out.lines().last().unwrap();
    assert!(summary.starts_with("462 rows read, 21 calls correlated, 21 calls delivered, 0 waiting"), "{summary}");
    // a head line, a blank, the calls, a blank, the summary
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 21 + 4, "{}", ended.out);
    for words in [["1001", "1002"], ["support", "1002"], ["420224000101", "1001"]] {
        assert!(lines.iter().any(|l| words.iter().all(|w| l.contains(w))), "{words:?} is in no line of {}", ended.out);
    }
    assert!(!ended.out.contains('\u{1b}'), "no colours and no bar where nobody looks");
    assert_eq!(ended.err, "", "nothing to warn about");
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0, "the demo's directory is left behind");
    assert!(!program.dir().join("elsewhere").exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let ended = Program::new().env("TMPDIR", "/nonexistent/place").run(&["demo"]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.starts_with("callferry demo: cannot create a directory"), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}
