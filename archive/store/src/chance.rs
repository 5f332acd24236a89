//! What is left to chance: the machine's, or that of the simulation that this thread is in. For names
//! and waits; secrets come from elsewhere.

use rand::RngExt;

use crate::simulated;

/// 64 random bits.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub fn token() -> u64 {
    simulated::ask(|simulation| simulation.random.random()).unwrap_or_else(rand::random)
}

/// A number from 0 up to but not including 1, each as likely.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the seam")]
pub fn fraction() -> f64 {
    simulated::ask(|simulation| simulation.random.random()).unwrap_or_else(rand::random)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_simulation_repeats_itself() {
        let draw = |seed| {
            let draw = move || {
                simulated::simulate(seed, Timestamp::UNIX_EPOCH);
                [fraction(), fraction(), fraction()]
            };
            std::thread::spawn(draw).join().expect("a thread")
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
