//! The threads that a command's asynchronous work runs on.

use crate::exit::Failure;

/// Runs `work` to its end.
///
/// # Errors
/// When there are no threads to be had, or as `work` ends.
pub fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::start)?
        .block_on(work)
}
