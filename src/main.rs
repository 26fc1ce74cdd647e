//! Parse the command line, hand over, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    callferry::cli::main()
}
