//! Leases: the backups that restores and drills read, so that no prune takes one away halfway.
//!
//! A lease is an object whose name says until when it is good. It is not sealed: a host that restores
//! needs no data key for it, and whoever may store objects can keep a backup anyway. Whoever took it
//! removes it when done, or leaves it to end by itself: PostgreSQL goes on with the WAL behind a backup
//! when the restore has ended. A prune keeps a leased backup and all WAL behind it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use walvault_archive::archive::{Archive, Listed};
use walvault_archive::error::Error;
use walvault_layout::{BackupId, LEASES_PREFIX, ObjectKey};
use walvault_store::{Body, StoreError, chance, clock};

/// How long a lease is good for at most after it was stored, whatever its name says.
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// A lease that was taken.
#[derive(Debug)]
pub struct Lease {
    archive: Archive,
    key: ObjectKey,
    until: Timestamp,
}

impl Lease {
    /// Takes a lease on `backup` for `lasts`, at most [`LONGEST`]. A prune that has planned already does
    /// not see it.
    ///
    /// # Errors
    /// When the archive cannot be written.
    pub async fn take(
        archive: &Archive,
        backup: &BackupId,
        holder: &str,
        lasts: Duration,
    ) -> Result<Lease, Error> {
        let second = after(clock::now(), lasts.min(LONGEST)).as_second();
        let until = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        loop {
            let number = u32::try_from(chance::token() % 100_000_000).unwrap_or_default();
            let key = ObjectKey::Lease(backup.clone(), second.unsigned_abs(), number);
            let body = Body::new(Bytes::from(format!("{holder}\n")));
            match archive.store().put(&archive.name(&key), body).await {
                Err(StoreError::Exists { .. }) => {}
                put => {
                    put?;
                    return Ok(Lease {
                        archive: archive.clone(),
                        key,
                        until,
                    });
                }
            }
        }
    }

    /// When it ends by itself.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.until
    }

    /// Its object's name.
    #[must_use]
    pub fn object(&self) -> String {
        self.archive.name(&self.key)
    }

    /// Gives it back. Not to is no harm: it ends by itself.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn release(self) -> Result<(), Error> {
        self.archive.delete(&self.key).await
    }
}

/// The leases of an archive.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    /// Until when each backup is leased.
    pub(crate) good: BTreeMap<BackupId, Timestamp>,
    /// Those that are over.
    pub(crate) over: Vec<Listed>,
}

impl Leases {
    pub(crate) async fn look(archive: &Archive, now: Timestamp) -> Result<Leases, Error> {
        let mut leases = Leases::default();
        for object in archive.list(LEASES_PREFIX).await? {
            let ObjectKey::Lease(backup, until, _) = &object.key else {
                continue;
            };
            let until = i64::try_from(*until).ok();
            let until = until.and_then(|second| Timestamp::from_second(second).ok());
            let until = until
                .unwrap_or(Timestamp::MAX)
                .min(after(object.modified, LONGEST));
            if until <= now {
                leases.over.push(object);
                continue;
            }
            let latest = leases.good.entry(backup.clone()).or_insert(until);
            *latest = until.max(*latest);
        }
        Ok(leases)
    }
}

fn after(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}
