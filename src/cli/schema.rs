//! `callferry schema`: the JSON Schema of the call document, made from the types.

use crate::call::Call;

#[derive(clap::Args, Debug)]
pub struct Args {}

/// The schema, as `docs/call.schema.json` holds it.
pub fn document() -> String {
    let schema = schemars::schema_for!(Call);
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// Returns the exit code.
pub fn run(_args: Args) -> u8 {
    use std::io::Write;
    // whoever reads may have seen enough
    let _ = std::io::stdout().write_all(document().as_bytes());
    super::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_the_repository_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/call.schema.json");
        let kept = std::fs::read_to_string(path).expect("docs/call.schema.json");
        assert!(kept == document(), "docs/call.schema.json drifted: write it anew with `callferry schema`");
    }
}
