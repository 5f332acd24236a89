//! walvault against a simulated world, by the thousand.
//!
//! The real sidecar (supervisor, follower, client, pipeline, fence), catalog, prune, restore's plan and its way to WAL
//! run on one thread with a simulated clock. PostgreSQL, to the bytes of its protocol, and the object store are
//! simulated: they delay, fail, answer late, lose answers, break off; the sidecar is killed at any await. After every step a plain model of what
//! PostgreSQL was told is held against what the store has. A seed repeats its run exactly:
//! `WALVAULT_SEED=17 cargo test --release --test simulation`; `WALVAULT_SEEDS=100000` runs as many.

mod backups;
mod chaos;
mod server;
mod sidecar;
mod store;
mod upkeep;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use chaos::{Outcome, run};
use world::Planted;

/// How many worlds a test run sees.
const SEEDS: u64 = 3000;
/// How many of them are run twice.
const REPEATS: u64 = 300;
/// How many worlds a planted bug may survive.
const PATIENCE: u64 = 300;

#[test]
fn what_was_reported_as_flushed_is_never_lost() {
    if let Some(seed) = number("WALVAULT_SEED") {
        let outcome = run(seed, Planted::Nothing);
        println!("{}\n{:?}", outcome.trace.join("\n"), outcome.violation);
        assert_eq!(outcome.violation, None, "seed {seed}");
        return;
    }
    let seeds = number("WALVAULT_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = run(seed, Planted::Nothing);
                    let Outcome { violation, .. } = &outcome;
                    assert_eq!(*violation, None, "seed {seed}");
                }
            });
        }
    });
}

#[test]
fn a_seed_repeats_itself_exactly() {
    let seeds = number("WALVAULT_REPEATS").unwrap_or(REPEATS);
    for seed in 0..seeds {
        let (first, second) = (run(seed, Planted::Nothing), run(seed, Planted::Nothing));
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}

#[test]
fn finds_an_acknowledgement_of_what_was_merely_received() {
    assert_found(Planted::EarlyAcknowledgement);
}

#[test]
fn finds_a_watermark_that_jumps_over_a_hole() {
    assert_found(Planted::WatermarkOverHole);
}

#[test]
fn finds_chunks_that_go_before_their_segment_is_confirmed() {
    assert_found(Planted::EarlyRemoval);
}

#[test]
fn finds_a_stale_writer_that_is_not_refused() {
    assert_found(Planted::StaleWriter);
}

#[test]
fn finds_a_prune_that_goes_one_segment_too_far() {
    assert_found(Planted::PruneTooFar);
}

#[test]
fn finds_what_is_seen_and_taken_for_stored() {
    assert_found(Planted::SeenIsStored);
}

fn assert_found(planted: Planted) {
    let found = (0..PATIENCE).find_map(|seed| {
        let violation = run(seed, planted).violation?;
        Some((seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{planted:?} was not noticed"));
    println!("{planted:?}: seed {seed}: {violation}");
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().expect("a number"))
}
