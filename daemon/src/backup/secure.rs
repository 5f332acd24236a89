//! That a backup's WAL is in the archive before the backup counts.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};
use walvault_archive::{Archive, Catalog, Error as ArchiveError};
use walvault_layout::{TAIL_PREFIX, tail_timeline_prefix, wal_prefix};
use walvault_protocol::client::{ClientError, Session};
use walvault_protocol::replication::SlotName;
use walvault_protocol::{Lsn, LsnRange, TimelineHistory, TimelineId};
use walvault_store::chance;

use super::BackupError;
use crate::stream::overlap::IN_FLIGHT;

/// Answers for a backup's WAL. It is made before the backup begins, and from then on the server
/// must not remove what it has not secured.
#[async_trait]
pub trait WalSecured: Send {
    /// Returns when every byte of `range`, on the way to `timeline`, is in the archive.
    ///
    /// # Errors
    /// When that is not going to happen.
    async fn secure(&mut self, timeline: TimelineId, range: LsnRange) -> Result<(), BackupError>;
}

/// Whether somebody streams from a slot: then a backup only waits for its WAL.
///
/// # Errors
/// When the server cannot be asked. `session` must take SQL.
pub async fn slot_is_active(session: &mut Session, slot: &SlotName) -> Result<bool, ClientError> {
    // A slot's name has no character that would end the literal.
    let sql =
        format!("SELECT active FROM pg_catalog.pg_replication_slots WHERE slot_name = '{slot}'");
    let answer = session.query(&sql).await?;
    let active = answer
        .rows
        .first()
        .and_then(|row| row.first())
        .and_then(Option::as_ref);
    Ok(active.is_some_and(|value| value.as_ref() == b"t"))
}

/// How long [`Watched`] waits.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two looks, at least.
    pub poll_min: Duration,
    /// Between two looks, at most. Where in between is random, so that several watchers spread.
    pub poll_max: Duration,
    /// How long the archive may stand still. The slot keeps the WAL meanwhile.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            poll_min: Duration::from_millis(300),
            poll_max: Duration::from_secs(1),
            stall: Duration::from_secs(60),
        }
    }
}

/// Watches the archive while somebody else brings the WAL: for when `walvaultd run` streams.
#[derive(Debug)]
pub struct Watched {
    archive: Archive,
    patience: Patience,
}

impl Watched {
    /// Watches `archive`.
    #[must_use]
    pub fn new(archive: Archive, patience: Patience) -> Watched {
        Watched { archive, patience }
    }

    fn pause(&self) -> Duration {
        let spread = self
            .patience
            .poll_max
            .saturating_sub(self.patience.poll_min);
        self.patience.poll_min + spread.mul_f64(chance::fraction())
    }
}

#[async_trait]
impl WalSecured for Watched {
    async fn secure(&mut self, timeline: TimelineId, range: LsnRange) -> Result<(), BackupError> {
        let mut reached = range.start;
        let mut end = None;
        let mut since = Instant::now();
        loop {
            let now = Held::load(&self.archive, timeline, range).await?.reach();
            if now >= range.end {
                return Ok(());
            }
            if now > reached {
                reached = now;
                since = Instant::now();
            }
            if since.elapsed() >= self.patience.stall {
                // After an outage all WAL before the backup comes first.
                let newest = newest(&self.archive, timeline).await?;
                if newest > end {
                    end = newest;
                    since = Instant::now();
                    continue;
                }
                return Err(BackupError::WalStalled {
                    timeline,
                    range,
                    reached,
                    waited: self.patience.stall,
                });
            }
            sleep(self.pause()).await;
        }
    }
}

/// The end of what the archive holds of a timeline, holes or not.
async fn newest(archive: &Archive, timeline: TimelineId) -> Result<Option<Lsn>, ArchiveError> {
    let mut listing = archive.list(&tail_timeline_prefix(timeline)).await?;
    listing.extend(archive.list(&wal_prefix(timeline)).await?);
    let catalog = Catalog::from_listing(archive.segment_size(), &listing);
    Ok(catalog.wal(timeline).and_then(|wal| wal.coverage.end()))
}

/// What the archive holds of a backup's WAL.
pub(super) struct Held {
    catalog: Catalog,
    history: TimelineHistory,
    range: LsnRange,
}

impl Held {
    pub(super) async fn load(
        archive: &Archive,
        timeline: TimelineId,
        range: LsnRange,
    ) -> Result<Held, ArchiveError> {
        // Chunks go away when their unit is stored: look for them first, and none is missed.
        let mut listing = archive.list(TAIL_PREFIX).await?;
        listing.extend(archive.list_units(timeline, range).await?);
        let size = archive.segment_size();
        let alone = Held {
            catalog: Catalog::from_listing(size, &listing),
            history: TimelineHistory::root(timeline),
            range,
        };
        if alone.reach() > range.start || timeline == TimelineId::FIRST {
            return Ok(alone);
        }
        // The timeline may have begun in this very segment, and an ancestor hold what is before that.
        let history = match archive.history(timeline).await {
            Ok(history) => history,
            // Not there yet, or not for this host to read: the timeline's own unit will hold it all.
            Err(error) if error.is_missing() || error.is_withheld() => return Ok(alone),
            Err(error) => return Err(error),
        };
        for switch in history.switches().iter().filter(|it| it.at > range.start) {
            let before = LsnRange::new(range.start, switch.at);
            listing.extend(archive.list_units(switch.timeline, before).await?);
        }
        Ok(Held {
            catalog: Catalog::from_listing(size, &listing),
            history,
            range,
        })
    }

    /// How far it is held without a hole, from no later than its start on.
    pub(super) fn reach(&self) -> Lsn {
        self.catalog.reach(&self.history, self.range.start)
    }

    /// Has the store answer for what is merely seen in it: whoever streams may have been killed before
    /// it had an answer, and nobody have taken over.
    ///
    /// # Errors
    /// As [`Archive::reaffirm`].
    pub(super) async fn reaffirm(&self, archive: &Archive) -> Result<(), ArchiveError> {
        for key in self.catalog.newest(&self.history, self.range, IN_FLIGHT) {
            archive.reaffirm(&key).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
