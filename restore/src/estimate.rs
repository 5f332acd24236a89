//! How long a restore is going to take, about.
//!
//! The way to the archive is measured: the beginnings of a few parts are read side by side. How fast
//! the disk writes and how fast PostgreSQL replays is assumed, on the slow side of what is usual.

use std::time::Instant;

use futures_util::future::try_join_all;
use serde::Serialize;
use walvault_archive::record::PartRecord;
use walvault_archive::{Archive, Error};
use walvault_layout::{BackupId, ObjectKey};

/// How many parts are probed, and how much of each is read.
const PROBES: usize = 4;
const PROBE_BYTES: u64 = 1 << 20;
/// Bytes a second that are written and flushed.
const WRITE_RATE: f64 = 200.0 * 1048576.0;
/// Bytes of WAL a second that are replayed.
const REPLAY_RATE: f64 = 40.0 * 1048576.0;

/// How long it takes, about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// Bytes a second that came from the archive just now; `null` when nothing is to be fetched.
    pub fetch_rate: Option<f64>,
    /// Seconds until the data directory is made.
    pub restore_seconds: f64,
    /// Seconds until PostgreSQL has replayed the WAL after that.
    pub replay_seconds: f64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Bytes of parts to be fetched.
    pub fetch: u64,
    /// Bytes of files to be written.
    pub write: u64,
    /// Bytes of WAL to be replayed.
    pub replay: u64,
    /// Bytes of the objects that hold it.
    pub replay_stored: u64,
}

impl Estimate {
    /// Measures how fast `parts` of `backup` come, and estimates.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn measure(
        archive: &Archive,
        backup: &BackupId,
        parts: impl Iterator<Item = &PartRecord>,
        amount: Amount,
    ) -> Result<Estimate, Error> {
        let begun = Instant::now();
        let probes = parts.take(PROBES).map(|part| {
            let owner = part.backup.as_ref().unwrap_or(backup);
            let name = archive.name(&ObjectKey::BackupPart(owner.clone(), part.number));
            async move { archive.store().get(&name, Some(0..PROBE_BYTES)).await }
        });
        let probed = try_join_all(probes).await?;
        let bytes = probed.iter().fold(0, |sum, probe| sum + probe.len());
        let rate = bytes as f64 / begun.elapsed().as_secs_f64().max(1e-6);
        Ok(Estimate::at((bytes > 0).then_some(rate), amount))
    }

    fn at(fetch_rate: Option<f64>, amount: Amount) -> Estimate {
        let fetching = |bytes: u64| fetch_rate.map_or(0.0, |rate| bytes as f64 / rate);
        Estimate {
            fetch_rate,
            // Both go on at once, and the slower one decides.
            restore_seconds: fetching(amount.fetch).max(amount.write as f64 / WRITE_RATE),
            replay_seconds: fetching(amount.replay_stored).max(amount.replay as f64 / REPLAY_RATE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_archive_and_machine_decides() {
        let gib = 1 << 30;
        let amount = Amount {
            fetch: gib,
            write: 2 * gib,
            replay: gib,
            replay_stored: gib / 4,
        };
        let slow = Estimate::at(Some(1048576.0), amount);
        assert_eq!((slow.restore_seconds, slow.replay_seconds), (1024.0, 256.0));
        let fast = Estimate::at(Some(1e12), amount);
        assert_eq!((fast.restore_seconds, fast.replay_seconds), (10.24, 25.6));
    }
}
