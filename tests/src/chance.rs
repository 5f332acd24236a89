//! Chance that can be told again, and for how long tests leave things to it.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Random choices from a seed.
#[derive(Debug)]
pub struct Chance {
    random: Mutex<StdRng>,
}

impl Chance {
    /// From the seed in `WALVAULT_SEED`, else from a new one. It is printed, and shows when the test
    /// fails. The same seed makes the same choices, of which servers and schedulers may make
    /// something else.
    ///
    /// # Panics
    /// When the variable is no number.
    #[must_use]
    pub fn new() -> Chance {
        let seed = number("WALVAULT_SEED").unwrap_or_else(rand::random);
        println!("WALVAULT_SEED={seed}");
        Chance {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        }
    }

    /// One of a range.
    pub fn number(&self, range: Range<u64>) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.random_range(range)
    }

    /// Whether something happens that does so `percent` times of a hundred.
    pub fn happens(&self, percent: u64) -> bool {
        self.number(0..100) < percent
    }

    /// One of several.
    ///
    /// # Panics
    /// When there is none.
    pub fn one_of<'a, T>(&self, several: &'a [T]) -> &'a T {
        let index = self.number(0..several.len() as u64);
        &several[usize::try_from(index).expect("an index")]
    }

    /// Up to so many milliseconds.
    pub fn milliseconds(&self, most: u64) -> Duration {
        Duration::from_millis(self.number(0..most))
    }
}

impl Default for Chance {
    fn default() -> Chance {
        Chance::new()
    }
}

/// When a test that leaves things to chance has done so for long enough: after `WALVAULT_SOAK_SECONDS`,
/// else after `seconds`.
///
/// # Panics
/// When the variable is no number.
#[must_use]
pub fn soak_until(seconds: u64) -> Instant {
    let seconds = number("WALVAULT_SOAK_SECONDS").unwrap_or(seconds);
    Instant::now() + Duration::from_secs(seconds)
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable}: '{text}' is no number")))
}
