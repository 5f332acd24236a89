//! An archive with something of everything in it, to be asked for what it cannot give.

use std::fs;

use jiff::Timestamp;

use crate::archive::ArchiveKind;
use crate::commit_log::CommitLog;
use crate::outcome::Outcome;
use crate::postgres::Postgres;
use crate::scenario::Scenario;

/// A server whose archive holds a base backup of several parts and two whole segments.
#[derive(Debug)]
pub struct Archived {
    server: Postgres,
    scenario: Scenario,
    begun: Timestamp,
}

impl Archived {
    /// Makes one, with a directory as the archive.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn create() -> Archived {
        let server = Postgres::builder().segment_size(1).start();
        let scenario = Scenario::new(ArchiveKind::Directory);
        let mut config = scenario.config(&server.url());
        config.set("backup", "part_size", "1MiB");
        scenario.configure(&config);
        let log = CommitLog::create(&server);
        let begun = log.commit(&server).time;
        // The backup holds this one, and so leads to no instant before it.
        let _ = log.commit(&server);
        let daemon = scenario.run_and_back_up(&server);
        for _ in 0..3 {
            let _ = log.commit(&server);
            server.switch_wal();
        }
        let _ = log.commit(&server);
        daemon.wait_until_archived(&server);
        assert!(daemon.stop().success());
        Archived {
            server,
            scenario,
            begun,
        }
    }

    /// The server, which runs, without a walvaultd.
    #[must_use]
    pub fn server(&self) -> &Postgres {
        &self.server
    }

    /// Its archive and configuration.
    #[must_use]
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// An instant before the last commit that the first backup holds.
    #[must_use]
    pub fn before_backup(&self) -> Timestamp {
        self.begun
    }

    /// Requires that a restore fails, saying each of these texts, and leaves no cluster behind.
    ///
    /// # Panics
    /// If not.
    pub fn restore_fails(&self, saying: &[&str]) {
        self.scenario
            .try_restore("restored", &[])
            .failed_saying(saying);
        // Without this file no server starts, so nobody takes the rest for a cluster.
        let control = self.scenario.path("restored/global/pg_control");
        assert!(!control.exists(), "{} is there", control.display());
        let _ = fs::remove_dir_all(self.scenario.path("restored"));
    }

    /// Runs `walvault wal-fetch` for one file. It is there afterwards if that succeeded, and only
    /// then.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn fetch(&self, name: &str) -> Outcome {
        let into = self.scenario.path("fetched");
        let _ = fs::remove_file(&into);
        let outcome = self
            .scenario
            .walvault(&["wal-fetch", name, into.to_str().expect("UTF-8")]);
        assert_eq!(into.exists(), outcome.code == Some(0), "{outcome}");
        outcome
    }
}
