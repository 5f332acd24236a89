//! Whatever happens: no position that was reported as flushed is lost, and no restore succeeds with
//! wrong bytes.
//!
//! Each story runs real servers under load in synchronous mode and lets something happen to them. Then the
//! world is stopped, the data directory is deleted, and what comes back from the archive alone is
//! held against every commit that was acknowledged. What is left to chance comes from a seed that
//! is printed; `make soak` leaves more to it, and for longer.

mod clock;
mod cluster;
mod disk;
mod failovers;
mod kills;
mod network;
mod patroni;
mod store;
