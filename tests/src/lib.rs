//! What walvault's end-to-end tests share: real PostgreSQL servers of every supported major
//! version, a real S3 server, a server of AWS's interfaces, and handles on walvault's two programs.
//!
//! `tests/tools/setup.sh` installs what this needs. A handle owns the process and the directory it
//! started: dropping it kills the one, by its id, and removes the other. Nothing is shared between
//! tests, so that they run in parallel. A failing test panics with the log of what failed.

pub mod archive;
pub mod archived;
pub mod browser;
pub mod cache;
pub mod chance;
pub mod clients;
pub mod clock;
pub mod commit_log;
pub mod config_file;
pub mod front;
pub mod garage;
pub mod garage_cluster;
pub mod http;
pub mod moto;
pub mod netns;
pub mod outcome;
pub mod patroni;
pub mod policies;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod scenario;
pub mod time;
pub mod trouble;
pub mod user;
pub mod wait;
pub mod walvaultd;

pub use archive::{ArchiveKind, ArchiveUnderTest};
pub use archived::Archived;
pub use chance::Chance;
pub use clients::Clients;
pub use clock::Clock;
pub use commit_log::CommitLog;
pub use front::{Front, Mood};
pub use garage::Garage;
pub use garage_cluster::GarageCluster;
pub use moto::Moto;
pub use netns::Namespace;
pub use outcome::Outcome;
pub use patroni::Patroni;
pub use postgres::{Postgres, Shutdown};
pub use proxy::Proxy;
pub use scenario::Scenario;
pub use trouble::{Fault, Trouble};
pub use wait::{free_port, wait_until};
pub use walvaultd::Walvaultd;
