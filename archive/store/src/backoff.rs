//! Back-off: pauses between attempts that double, with jitter.
//!
//! Owns how long to pause. Whether to try again, and for how long, is decided by the code that
//! fails.

use std::time::Duration;

use crate::chance;

/// Pauses that double from a first to a longest one.
///
/// Jitter draws each pause evenly from a fraction of its ceiling up to the ceiling, so that many
/// processes do not come back in the same moment.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    /// The least share of a ceiling that is paused, from 0 to 1.
    least: f64,
    failed: u32,
}

impl Backoff {
    /// Pauses of half the ceiling or more: for one loop whose attempts cost something.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            first,
            longest,
            least: 0.5,
            failed: 0,
        }
    }

    /// Pauses from nothing up to the ceiling ("full jitter"): for many clients of one server.
    #[must_use]
    pub fn with_full_jitter(first: Duration, longest: Duration) -> Backoff {
        Backoff {
            least: 0.0,
            ..Backoff::new(first, longest)
        }
    }

    /// The pause after another failed attempt.
    pub fn pause(&mut self) -> Duration {
        self.failed = self.failed.saturating_add(1);
        let share = self.least + (1.0 - self.least) * chance::fraction();
        self.ceiling().mul_f64(share)
    }

    /// Failed attempts since the last success.
    #[must_use]
    pub fn failed(&self) -> u32 {
        self.failed
    }

    /// An attempt succeeded: the next pause is short again.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    fn ceiling(&self) -> Duration {
        ceiling(self.first, self.longest, self.failed)
    }
}

/// The longest pause after `failed` failures, which are counted from 1.
pub(crate) fn ceiling(first: Duration, longest: Duration, failed: u32) -> Duration {
    let doublings = failed.saturating_sub(1).min(31);
    first.saturating_mul(1 << doublings).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(3);

    fn ceilings() -> impl Iterator<Item = Duration> {
        [100, 200, 400, 800, 1600, 3000, 3000]
            .into_iter()
            .map(Duration::from_millis)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for ceiling in ceilings() {
            let pause = backoff.pause();
            assert!(pause >= ceiling / 2 && pause < ceiling, "{pause:?}");
        }
        assert_eq!(backoff.failed(), 7);
    }

    #[test]
    fn full_jitter_draws_from_nothing_up_to_the_ceiling() {
        let mut shortest = LONGEST;
        for _ in 0..200 {
            let mut backoff = Backoff::with_full_jitter(FIRST, LONGEST);
            for ceiling in ceilings() {
                let pause = backoff.pause();
                assert!(pause < ceiling, "{pause:?}");
                shortest = shortest.min(pause);
            }
        }
        assert!(shortest < FIRST / 4, "{shortest:?}");
    }

    #[test]
    fn a_success_makes_the_next_pause_short() {
        let mut backoff = Backoff::new(FIRST, LONGEST);
        for _ in 0..5 {
            backoff.pause();
        }
        backoff.succeeded();
        assert!(backoff.pause() < FIRST);
    }

    #[test]
    fn no_number_of_failures_overflows() {
        let mut backoff = Backoff::new(FIRST, Duration::MAX);
        for _ in 0..100 {
            backoff.pause();
        }
        assert!(backoff.ceiling() >= FIRST * (1 << 31));
        let mut backoff = Backoff::new(FIRST, LONGEST);
        backoff.failed = u32::MAX;
        assert!(backoff.pause() < LONGEST);
        assert_eq!(backoff.failed(), u32::MAX);
    }

    #[test]
    fn a_simulation_draws_the_same_pauses_again() {
        let draw = |seed| {
            let draw = move || {
                crate::simulated::simulate(seed, jiff::Timestamp::UNIX_EPOCH);
                let mut backoff = Backoff::new(FIRST, LONGEST);
                [backoff.pause(), backoff.pause(), backoff.pause()]
            };
            std::thread::spawn(draw).join().expect("a thread")
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
