//! The servers that the tests of every crate share: PostgreSQL of each supported major version, S3
//! servers, a server of AWS's interfaces, Patroni, a browser.
//!
//! This crate depends on none of walvault's own crates, so that each of them can use it in its
//! tests. `tests/tools/setup.sh` installs what it starts. A handle owns the process and the
//! directory it started: dropping it kills the one, by its id, and removes the other. A failing
//! test panics with the log of what failed; one that needs what is not installed is skipped: see
//! [`needs`].

pub mod browser;
pub mod cache;
pub mod clock;
pub mod front;
pub mod garage;
pub mod garage_cluster;
pub mod http;
pub mod moto;
pub mod needs;
pub mod netns;
pub mod outcome;
pub mod patroni;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod time;
pub mod user;
pub mod wait;

pub use browser::Browser;
pub use clock::Clock;
pub use front::{Front, Mood};
pub use garage::Garage;
pub use garage_cluster::GarageCluster;
pub use moto::Moto;
pub use netns::Namespace;
pub use outcome::Outcome;
pub use patroni::Patroni;
pub use postgres::{Postgres, Shutdown};
pub use process::Process;
pub use proxy::Proxy;
pub use rustix::process::Signal;
pub use wait::{free_port, wait_until};
pub use walvault_harness_attributes::{needs_servers, test};
