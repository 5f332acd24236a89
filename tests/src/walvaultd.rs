//! The sidecar, running.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::process::Signal;

use crate::positions::Positions;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::wait;

/// A `walvaultd run`. Dropping it kills it.
#[derive(Debug)]
pub struct Walvaultd {
    process: Process,
}

impl Walvaultd {
    /// Starts it; what it says goes to the end of the file `log`.
    #[must_use]
    pub fn spawn(command: Command, log: &Path) -> Walvaultd {
        Walvaultd {
            process: Process::spawn("walvaultd", command, log),
        }
    }

    /// Waits until the server says that it streams to it.
    ///
    /// # Panics
    /// With its log, when it ends instead or does not get there.
    pub fn wait_until_streaming(&self, server: &Postgres) {
        self.wait_for("does not stream", || server.is_streaming_to_walvault());
    }

    /// Waits until everything that the server had flushed when this was called is in the archive,
    /// by what walvaultd reported to the server. Returns that position.
    ///
    /// # Panics
    /// With its log, when it does not get there.
    pub fn wait_until_archived(&self, server: &Postgres) -> walvault_protocol::Lsn {
        let flushed = server.flushed();
        let archived = || server.archived() >= Some(flushed);
        self.wait_for(&format!("does not archive {flushed}"), archived);
        flushed
    }

    /// Waits until it has said each of `texts`, whatever the case of their letters, and requires
    /// that it goes on running.
    ///
    /// # Panics
    /// With its log, when it ends instead or does not say them.
    pub fn wait_until_saying(&self, texts: &[&str]) {
        self.wait_for(&format!("does not say {texts:?}"), || {
            let said = self.log().to_lowercase();
            texts.iter().all(|text| said.contains(&text.to_lowercase()))
        });
    }

    /// Waits for a condition that it is to bring about.
    ///
    /// # Panics
    /// With its log, when it ends instead or does not get there.
    fn wait_for(&self, failure: &str, mut condition: impl FnMut() -> bool) {
        let met = wait::poll(|| match self.process.is_running() {
            true => condition().then_some(true),
            false => Some(false),
        });
        assert!(
            met == Some(true),
            "walvaultd {failure}. Its log:\n{}",
            self.log()
        );
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// With its log, when it does not end.
    pub fn stop(mut self) -> ExitStatus {
        self.terminate()
    }

    /// As [`Walvaultd::stop`]; its log can still be read.
    ///
    /// # Panics
    /// With its log, when it does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait_for_exit()
    }

    /// Waits for it to end of itself.
    ///
    /// # Panics
    /// With its log, when it does not end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        self.process.wait_for_exit()
    }

    /// Kills it (SIGKILL).
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Where its admin listener answers, as it said in its log.
    ///
    /// # Panics
    /// With its log, when it does not say.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        let mut found = None;
        self.wait_for("has no admin listener", || {
            let log = self.log();
            let said = |line: &&str| line.contains("the admin listener answers");
            let line = log.lines().rev().find(said);
            let value = line.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            found = value.and_then(|value| value["address"].as_str()?.parse().ok());
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Everything it and its predecessors in the scenario have said.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }
}
