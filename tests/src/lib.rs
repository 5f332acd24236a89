//! What walvault's end-to-end tests share: handles on walvault's two programs, their archives and
//! the commits that must survive. The servers are `walvault-harness`'s, re-exported here.
//!
//! `tests/tools/setup.sh` installs what this needs. Nothing that changes is shared between tests,
//! so that they run in parallel. A failing test panics with the log of what failed.

pub mod archive;
pub mod archived;
pub mod chance;
pub mod clients;
pub mod commit_log;
pub mod config_file;
pub mod policies;
pub mod positions;
pub mod scenario;
pub mod trouble;
pub mod walvaultd;
pub mod watched;

pub use archive::{ArchiveKind, ArchiveUnderTest};
pub use archived::Archived;
pub use chance::Chance;
pub use clients::Clients;
pub use commit_log::CommitLog;
pub use positions::Positions;
pub use scenario::Scenario;
pub use trouble::{Fault, Trouble};
pub use walvault_harness::{
    Clock, Front, Garage, GarageCluster, Mood, Moto, Namespace, Outcome, Patroni, Postgres, Proxy,
    Shutdown, browser, cache, clock, free_port, garage, http, moto, needs, netns, outcome, patroni,
    postgres, process, proxy, test, time, user, wait, wait_until,
};
pub use walvaultd::Walvaultd;
pub use watched::Watched;
