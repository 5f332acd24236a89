//! Work that takes the processor for long.

use tokio::task::JoinError;

use crate::simulated;

/// Does it on a thread where nobody waits for it; within a simulation, on this one.
///
/// # Panics
/// When the work does.
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if simulated::ask(|_| ()).is_some() {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => unfinished(error).await,
    }
}

/// What becomes of whoever waits for a task that gives no result: it panics as the task did. A task
/// that was cancelled was so by the end of the runtime, which waits for nobody.
///
/// # Panics
/// When the task did.
pub async fn unfinished<T>(error: JoinError) -> T {
    match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    /// Counts itself if it is dropped by a panic.
    struct Unwound(Arc<AtomicU32>);

    impl Drop for Unwound {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn nothing_panics_when_the_runtime_ends_meanwhile() {
        let unwound = Arc::new(AtomicU32::new(0));
        for _ in 0..200 {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .build()
                .unwrap();
            for _ in 0..8 {
                let guard = Unwound(unwound.clone());
                runtime.spawn(async move {
                    let _guard = guard;
                    loop {
                        elsewhere(|| ()).await;
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(1));
            drop(runtime);
        }
        assert_eq!(unwound.load(Ordering::Relaxed), 0);
    }
}
