//! The upkeep lock: one at a time changes what is kept.
//!
//! A prune decides by what is kept and then deletes; a `keep` in between would be too late without
//! a sign. So both take this lock. It is an object with the next number, and the highest number
//! has it until it expires or is released (removed). Holding it is renewed by taking the next.
//!
//! The lock keeps people from surprises and is not what keeps an archive whole: deleting is
//! idempotent and plans depend on nothing but the archive, so two prunes that both believe to hold
//! it, as on a store that ignores `If-None-Match`, still remove nothing that either would keep.

use std::time::Duration;

use walvault_archive::archive::{Archive, Listed};
use walvault_archive::error::Error;
use walvault_archive::record::LockRecord;
use walvault_layout::{LOCKS_PREFIX, ObjectKey, numbers};
use walvault_store::StoreError;
use walvault_store::{chance, clock};

/// How long a lock is good for when it is neither renewed nor released: its holder was killed.
const LIFETIME: Duration = Duration::from_secs(600);

/// After what part of its life a lock is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(200);

/// How often a lock that is taken is looked at again.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The upkeep lock, taken.
#[derive(Debug)]
pub struct Lock {
    archive: Archive,
    number: u32,
    record: LockRecord,
}

impl Lock {
    /// Takes the lock, waiting for up to `patience` while somebody else has it.
    ///
    /// # Errors
    /// [`Error::Locked`] when somebody else still has it.
    pub async fn take(archive: &Archive, holder: &str, patience: Duration) -> Result<Lock, Error> {
        let begun = tokio::time::Instant::now();
        loop {
            let busy = match attempt(archive, holder).await? {
                Ok(lock) => return Ok(lock),
                Err(busy) => busy,
            };
            if begun.elapsed() >= patience {
                return Err(Error::Locked {
                    url: archive.url().to_owned(),
                    by: busy.holder,
                    until: busy.expires_at,
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether somebody has the lock. A record that is not for this host to read, or that does not
    /// read, is taken to have been made when it was stored.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn is_held(archive: &Archive) -> Result<bool, Error> {
        for object in archive.list(LOCKS_PREFIX).await? {
            if !matches!(object.key, ObjectKey::Lock(_)) {
                continue;
            }
            let lifetime = match archive.get_record::<LockRecord>(&object.key).await {
                Ok(held) => Some(held.expires_at),
                Err(error) if error.is_missing() => continue,
                Err(_) => expires_at(&object),
            };
            if lifetime.is_none_or(|end| clock::now() < end) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes it good for its whole life again, where that is due.
    ///
    /// # Errors
    /// [`Error::Locked`] when it expired and somebody else took it.
    pub async fn renew(&mut self) -> Result<(), Error> {
        let age = clock::now().duration_since(self.record.taken_at);
        if age < jiff::SignedDuration::try_from(RENEW_AFTER).unwrap_or_default() {
            return Ok(());
        }
        let next = numbers::after(self.number).ok_or_else(|| used_up(&self.archive))?;
        let record = new_record(&self.record.holder);
        match self
            .archive
            .put_record(&ObjectKey::Lock(next), &record)
            .await
        {
            Ok(_) => {}
            Err(Error::Store(StoreError::Exists { .. })) => {
                return Err(Error::Locked {
                    url: self.archive.url().to_owned(),
                    by: "somebody else, after it had expired".to_owned(),
                    until: record.expires_at,
                });
            }
            Err(error) => return Err(error),
        }
        let before = std::mem::replace(&mut self.number, next);
        self.record = record;
        self.archive.delete(&ObjectKey::Lock(before)).await
    }

    /// The time by the store's clock when the lock was stored; `None` when the store cannot say.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn stored_at(&self) -> Result<Option<jiff::Timestamp>, Error> {
        let name = self.archive.name(&ObjectKey::Lock(self.number));
        let stored = self.archive.store().head(&name).await?;
        Ok(stored.map(|object| object.modified))
    }

    /// Gives it back. Not to is no harm: it expires.
    ///
    /// # Errors
    /// When the store refuses.
    pub async fn release(self) -> Result<(), Error> {
        self.archive.delete(&ObjectKey::Lock(self.number)).await
    }
}

/// The lock, or who has it.
async fn attempt(archive: &Archive, holder: &str) -> Result<Result<Lock, LockRecord>, Error> {
    let mut numbers = Vec::new();
    let now = clock::now();
    for object in archive.list(LOCKS_PREFIX).await? {
        let ObjectKey::Lock(number) = object.key else {
            continue;
        };
        numbers.push(number);
        match archive.get_record::<LockRecord>(&object.key).await {
            Ok(held) if now < held.expires_at => return Ok(Err(held)),
            Ok(_) => discard(archive, &object.key).await?,
            // Released meanwhile.
            Err(error) if error.is_missing() => {}
            Err(error) if error.is_transient() => return Err(error),
            // A record that does not open tells no time: it is good for as long as one that was
            // taken when it was stored.
            Err(error) => match expires_at(&object) {
                Some(expires_at) if expires_at <= now => discard(archive, &object.key).await?,
                expires_at => {
                    tracing::warn!(object = archive.name(&object.key), %error, "the upkeep lock does not open");
                    let mut held = new_record("a holder whose lock does not open");
                    held.expires_at = expires_at.unwrap_or(jiff::Timestamp::MAX);
                    return Ok(Err(held));
                }
            },
        }
    }
    let number = numbers::next(numbers).ok_or_else(|| used_up(archive))?;
    let record = new_record(holder);
    match archive.put_record(&ObjectKey::Lock(number), &record).await {
        Ok(_) => {}
        Err(Error::Store(StoreError::Exists { .. })) => {
            return Ok(Err(record));
        }
        Err(error) => return Err(error),
    }
    // A store that overwrites has let one of two win: the one that is read back.
    match archive
        .get_record::<LockRecord>(&ObjectKey::Lock(number))
        .await
    {
        Ok(held) if held == record => Ok(Ok(Lock {
            archive: archive.clone(),
            number,
            record,
        })),
        Ok(held) => Ok(Err(held)),
        Err(error) if error.is_missing() => Ok(Err(record)),
        Err(error) => Err(error),
    }
}

/// When a lock whose record does not open is no longer good, by when it was stored.
fn expires_at(object: &Listed) -> Option<jiff::Timestamp> {
    object.modified.checked_add(LIFETIME).ok()
}

/// Removes a lock that is no longer good, unless the store keeps it: it says nothing any more.
async fn discard(archive: &Archive, key: &ObjectKey) -> Result<(), Error> {
    match archive.delete(key).await {
        Err(Error::Store(StoreError::Locked { .. } | StoreError::Refused { .. })) => Ok(()),
        deleted => deleted,
    }
}

fn used_up(archive: &Archive) -> Error {
    Error::NumbersUsedUp {
        url: archive.url().to_owned(),
        prefix: LOCKS_PREFIX.to_owned(),
    }
}

fn new_record(holder: &str) -> LockRecord {
    let taken_at = clock::now();
    LockRecord {
        version: 1,
        holder: holder.to_owned(),
        taken_at,
        expires_at: taken_at
            .checked_add(LIFETIME)
            .unwrap_or(jiff::Timestamp::MAX),
        token: format!("{:016x}", chance::token()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use walvault_protocol::{SegmentSize, SystemId};

    use super::*;
    use walvault_archive::keys::{KeyFile, Secret};
    use walvault_store::memory::MemoryStore;

    async fn archive() -> Result<Archive, Error> {
        let key = KeyFile::from_secret(Secret::generate()?);
        let store = Arc::new(MemoryStore::new());
        Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await
    }

    #[tokio::test]
    async fn one_at_a_time_has_it() -> Result<(), Error> {
        let archive = archive().await?;
        let first = Lock::take(&archive, "first", Duration::ZERO).await?;
        let refused = Lock::take(&archive, "second", Duration::ZERO)
            .await
            .expect_err("it is taken");
        assert!(
            matches!(&refused, Error::Locked { by, .. } if by == "first"),
            "{refused}"
        );
        let (second, released) = tokio::join!(
            Lock::take(&archive, "second", Duration::from_secs(10)),
            first.release()
        );
        released?;
        second?.release().await?;
        assert!(archive.list(LOCKS_PREFIX).await?.is_empty());
        Ok(())
    }

    /// As if it had been taken long ago.
    fn age(lock: &mut Lock, by: Duration) {
        let taken = lock.record.taken_at.checked_sub(by);
        lock.record.taken_at = taken.expect("a time");
    }

    #[tokio::test]
    async fn a_lock_is_renewed_without_a_moment_in_which_nobody_has_it() -> Result<(), Error> {
        let archive = archive().await?;
        let mut lock = Lock::take(&archive, "first", Duration::ZERO).await?;
        lock.renew().await?;
        assert_eq!(lock.number, 1, "it is not due yet");
        age(&mut lock, RENEW_AFTER);
        lock.renew().await?;
        assert_eq!(lock.number, 2);
        let held = archive.list(LOCKS_PREFIX).await?;
        assert_eq!(held.len(), 1, "what it replaces is gone");
        let refused = Lock::take(&archive, "second", Duration::ZERO).await;
        assert!(matches!(refused, Err(Error::Locked { .. })), "{refused:?}");
        lock.release().await?;
        assert!(archive.list(LOCKS_PREFIX).await?.is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn whoever_lost_the_lock_is_told_when_renewing() -> Result<(), Error> {
        let archive = archive().await?;
        let mut slow = Lock::take(&archive, "slow", Duration::ZERO).await?;
        // It expires, and somebody else takes it.
        let name = archive.name(&ObjectKey::Lock(1));
        archive.store().delete(&name).await?;
        let mut expired = slow.record.clone();
        expired.expires_at = jiff::Timestamp::now();
        archive.put_record(&ObjectKey::Lock(1), &expired).await?;
        let next = Lock::take(&archive, "next", Duration::ZERO).await?;
        age(&mut slow, LIFETIME);
        let lost = slow.renew().await;
        assert!(matches!(lost, Err(Error::Locked { .. })), "{lost:?}");
        next.release().await
    }

    #[tokio::test]
    async fn whether_it_is_held_is_seen_without_taking_it() -> Result<(), Error> {
        let archive = archive().await?;
        assert!(!Lock::is_held(&archive).await?);
        let lock = Lock::take(&archive, "somebody", Duration::ZERO).await?;
        assert!(Lock::is_held(&archive).await?);
        lock.release().await?;
        assert!(!Lock::is_held(&archive).await?);
        let mut killed = new_record("killed");
        killed.expires_at = jiff::Timestamp::now();
        archive.put_record(&ObjectKey::Lock(3), &killed).await?;
        assert!(!Lock::is_held(&archive).await?);
        Ok(())
    }

    #[tokio::test]
    async fn a_lock_whose_holder_was_killed_expires() -> Result<(), Error> {
        let archive = archive().await?;
        let mut stale = new_record("killed");
        stale.expires_at = jiff::Timestamp::now();
        archive.put_record(&ObjectKey::Lock(4), &stale).await?;
        let lock = Lock::take(&archive, "next", Duration::ZERO).await?;
        assert_eq!(lock.number, 5);
        Ok(())
    }
}
