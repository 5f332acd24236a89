//! The simulation that a thread may be in: what it would ask the machine for, [`clock`](crate::clock),
//! [`chance`](crate::chance) and [`compute`](crate::compute) ask this, so that it repeats itself exactly.

use std::cell::RefCell;

use jiff::Timestamp;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

thread_local! {
    static SIMULATED: RefCell<Option<Simulation>> = const { RefCell::new(None) };
}

/// What is asked instead of the machine.
pub(crate) struct Simulation {
    pub(crate) random: StdRng,
    /// When it began, by the clock of its runtime.
    pub(crate) begun: Instant,
    /// And by that of everybody in it.
    pub(crate) begin: Timestamp,
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

/// Asks the simulation that this thread is in, if it is in one.
pub(crate) fn ask<T>(question: impl FnOnce(&mut Simulation) -> T) -> Option<T> {
    SIMULATED.with_borrow_mut(|simulated| simulated.as_mut().map(question))
}
