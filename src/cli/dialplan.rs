//! `callferry dialplan`: what a strip rule becomes, and what it does to numbers.

use comfy_table::{Table, presets};
use serde_json::json;

use crate::provision::dialplan::{self, ALPHABET, Unmatched};

/// Try strip rules before they are written
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Translate a regular expression to dialplan patterns and show what happens to numbers
    Test(Test),
}

#[derive(clap::Args, Debug)]
struct Test {
    /// What to take off the front of a number: '^\+39', '^(\+39|0039)'; empty for nothing
    #[arg(value_name = "REGEX", allow_hyphen_values = true)]
    regex: String,
    /// Numbers to try
    #[arg(value_name = "NUMBER", allow_hyphen_values = true)]
    numbers: Vec<String>,
    /// Put in front of what is left
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    add_prefix: String,
    /// Refuse numbers the expression does not match, instead of dialling them as they are
    #[arg(long)]
    reject_unmatched: bool,
    /// One JSON document
    #[arg(long)]
    json: bool,
}

/// Returns the exit code: input problems are 4, as with `provision`.
pub fn run(args: Args) -> u8 {
    let Command::Test(args) = args.command;
    let unmatched = if args.reject_unmatched { Unmatched::Reject } else { Unmatched::Pass };
    let rows = match dialplan::translate(&args.regex, unmatched) {
        Ok(rows) => rows,
        Err(e) => {
            eprintln!("callferry: {e}");
            return super::INPUT;
        }
    };
    let mut results = Vec::new();
    for number in &args.numbers {
        // an exten is matched as it was dialled; what cannot be dialled never leaves the PBX
        let row = dialplan::lookup(&rows, number);
        let front = |r: &dialplan::Row| if r.rule.is_some() { args.add_prefix.as_str() } else { "" };
        let dialled = row.map(|r| format!("{}{}", front(r), dialplan::strip(number, r.strip)));
        let odd = number.chars().any(|c| !ALPHABET.contains(c));
        results.push((number, row, dialled, odd));
    }
    if args.json {
        let rows: Vec<_> = rows.iter().map(|r| json!({"pattern": r.exten, "strip": r.strip})).collect();
        let numbers: Vec<_> = results
            .iter()
            .map(|(n, row, dialled, _)| json!({"number": n, "pattern": row.map(|r| &r.exten), "dialled": dialled}))
            .collect();
        println!("{}", json!({"rows": rows, "numbers": numbers}));
        return super::OK;
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["pattern", "strip"]);
    for row in &rows {
        table.add_row([row.exten.clone(), row.strip.to_string()]);
    }
    println!("{}", table.to_string().trim_end());
    if !results.is_empty() {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(["number", "matches", "dials"]);
        for (number, row, dialled, odd) in results {
            let note = if odd { "  (characters other than 0-9 + * # are dropped)" } else { "" };
            table.add_row([
                number.escape_debug().to_string(),
                row.map_or("no row", |r| r.exten.as_str()).to_owned(),
                dialled.map_or("nothing: the call is refused".to_owned(), |d| d + note),
            ]);
        }
        println!("\n{}", table.to_string().trim_end());
    }
    super::OK
}
