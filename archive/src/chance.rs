//! What is left to chance and to other threads, in one place, so that a simulation can take both
//! over and repeat itself exactly.

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

thread_local! {
    static SIMULATED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From here on, what this thread leaves to chance follows from `seed`, and what it would have
/// other threads do it does itself. For simulations on a runtime of one thread.
pub fn simulate(seed: u64) {
    SIMULATED.with_borrow_mut(|random| *random = Some(StdRng::seed_from_u64(seed)));
}

/// A number from 0 up to but not including 1, each as likely. For waits, not for secrets.
#[must_use]
pub fn fraction() -> f64 {
    SIMULATED.with_borrow_mut(|random| match random {
        Some(random) => random.random(),
        None => rand::random(),
    })
}

/// Does work that takes the processor for long on a thread where nobody waits for it.
///
/// # Panics
/// When the work does.
pub async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    if SIMULATED.with_borrow(Option::is_some) {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_repeats_itself() {
        let draw = |seed| {
            let draw = move || {
                simulate(seed);
                [fraction(), fraction(), fraction()]
            };
            std::thread::spawn(draw).join().expect("a thread")
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
