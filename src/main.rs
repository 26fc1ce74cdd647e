//! Parse the command line, hand over, exit code.

use std::process::ExitCode;

/// Rows and calls are made and dropped by the million: see Cargo.toml.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    callferry::cli::main()
}
