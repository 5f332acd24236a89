//! `walvault`: lists, restores and fetches from an archive.

use std::process::ExitCode;

/// glibc's allocator keeps what was freed in an arena for each thread: a restore, whose threads hand large
/// buffers to each other, would grow to several times what it uses.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    walvault_restore::cli::main()
}
