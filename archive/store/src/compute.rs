//! Work that takes the processor for long.

use crate::simulated;

/// Does it on a thread where nobody waits for it; within a simulation, on this one.
///
/// # Panics
/// When the work does.
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if simulated::ask(|_| ()).is_some() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
