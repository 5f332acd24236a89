//! `walvault`: lists, restores and fetches from an archive.

use std::process::ExitCode;

fn main() -> ExitCode {
    walvault_restore::cli::main()
}
