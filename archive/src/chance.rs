//! What is left to chance, to the clock and to other threads, in one place, so that a simulation can
//! take all of it over and repeat itself exactly.

use std::cell::RefCell;

use jiff::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

thread_local! {
    static SIMULATED: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

/// What a simulation is asked instead of the machine.
struct Simulation {
    random: StdRng,
    /// When it began, by the clock of its runtime.
    begun: Instant,
    /// And by that of everybody in it.
    begin: Timestamp,
}

/// From here on, what this thread leaves to chance follows from `seed`, its time is `begin` and what
/// tokio's clock shows since, and what it would have other threads do it does itself. For
/// simulations, within a runtime of one thread.
pub fn simulate(seed: u64, begin: Timestamp) {
    let simulation = Simulation {
        random: StdRng::seed_from_u64(seed),
        begun: Instant::now(),
        begin,
    };
    SIMULATED.with_borrow_mut(|simulated| *simulated = Some(simulation));
}

/// The time.
#[must_use]
pub fn now() -> Timestamp {
    SIMULATED.with_borrow(|simulated| match simulated {
        Some(simulation) => simulation.begin + simulation.begun.elapsed(),
        None => Timestamp::now(),
    })
}

/// 64 random bits: for names, not for secrets.
#[must_use]
pub fn token() -> u64 {
    SIMULATED.with_borrow_mut(|simulated| match simulated {
        Some(simulation) => simulation.random.random(),
        None => rand::random(),
    })
}

/// A number from 0 up to but not including 1, each as likely. For waits, not for secrets.
#[must_use]
pub fn fraction() -> f64 {
    SIMULATED.with_borrow_mut(|simulated| match simulated {
        Some(simulation) => simulation.random.random(),
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
                simulate(seed, Timestamp::UNIX_EPOCH);
                [fraction(), fraction(), fraction()]
            };
            std::thread::spawn(draw).join().expect("a thread")
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
