//! One writer at a time.
//!
//! Who begins to write WAL takes the next epoch, an object that is written once. Whoever finds a
//! higher epoch than its own stops. Where a store refuses a second object of one name, no two
//! writers ever have the same epoch. A store that ignores `If-None-Match` leaves a moment in which
//! two may take the same one; each reads its record back, so that all but the last notice, and
//! what both write is still never mixed: the same bytes are harmless, and others are refused.

use walvault_layout::{ObjectKey, WRITERS_PREFIX, numbers};
use walvault_store::{StoreError, next_page};

use crate::archive::Archive;
use crate::error::Error;
use crate::record::WriterRecord;

/// The right to write WAL, until somebody takes a higher one.
#[derive(Debug, Clone)]
pub struct Epoch {
    archive: Archive,
    number: u64,
}

impl Epoch {
    /// Takes the next epoch for `writer`.
    ///
    /// # Errors
    /// When the archive cannot be read or written.
    pub async fn take(archive: &Archive, writer: &WriterRecord) -> Result<Epoch, Error> {
        loop {
            let taken = epochs(archive).await?;
            let number = numbers::next_epoch(taken).ok_or_else(|| Error::NumbersUsedUp {
                url: archive.url().to_owned(),
                prefix: WRITERS_PREFIX.to_owned(),
            })?;
            let key = ObjectKey::Writer(number);
            match archive.put_record(&key, writer).await {
                Ok(_) => {
                    return Ok(Epoch {
                        archive: archive.clone(),
                        number,
                    });
                }
                Err(Error::Store(StoreError::Exists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Checks that nobody took a higher one.
    ///
    /// # Errors
    /// [`Error::Fenced`] when somebody did.
    pub async fn check(&self) -> Result<(), Error> {
        let since = epochs_after(&self.archive, self.number).await?;
        // Counted from this one: a number far above it is nobody's.
        let leads = since.into_iter().map(|epoch| epoch - self.number);
        let Some(lead) = numbers::highest(leads) else {
            return Ok(());
        };
        let highest = self.number + lead;
        let key = ObjectKey::Writer(highest);
        let writer = self.archive.get_record::<WriterRecord>(&key).await.ok();
        let by = writer.as_ref().map(|writer| {
            format!(
                "process {} on {} for the server at {} since {}",
                writer.pid, writer.host, writer.server, writer.taken_at
            )
        });
        Err(Error::Fenced {
            url: self.archive.url().to_owned(),
            by: by.unwrap_or_else(|| format!("of epoch {highest}")),
            timeline: writer.map(|writer| writer.timeline),
        })
    }
}

/// The first of the epochs after `epoch`, as many as a page holds: epochs are taken one by one, so that
/// whoever took over is among them. However many writers there were, this is one request.
async fn epochs_after(archive: &Archive, epoch: u64) -> Result<Vec<u64>, Error> {
    let store = archive.store();
    let mut after = Some(archive.name(&ObjectKey::Writer(epoch)));
    let mut found = Vec::new();
    while found.is_empty() && after.is_some() {
        let page = store.list(WRITERS_PREFIX, after.as_deref()).await?;
        let keys = page.objects.iter();
        let keys = keys.filter_map(|object| ObjectKey::parse(&object.key, archive.segment_size()));
        found.extend(keys.filter_map(|key| match key {
            ObjectKey::Writer(taken) if taken > epoch => Some(taken),
            _ => None,
        }));
        after = next_page(&**store, WRITERS_PREFIX, after.as_deref(), page.next)?;
    }
    Ok(found)
}

async fn epochs(archive: &Archive) -> Result<Vec<u64>, Error> {
    let writers = archive.list(WRITERS_PREFIX).await?;
    let epochs = writers.into_iter().filter_map(|listed| match listed.key {
        ObjectKey::Writer(epoch) => Some(epoch),
        _ => None,
    });
    Ok(epochs.collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use bytes::Bytes;
    use walvault_protocol::{SegmentSize, SystemId, TimelineId};

    use super::*;
    use crate::keys::{KeyFile, Secret};
    use walvault_store::hooked::{Hooked, Hooks};
    use walvault_store::memory::MemoryStore;
    use walvault_store::metered::Operation;
    use walvault_store::{Body, ObjectStore};

    fn writer(pid: u32) -> WriterRecord {
        WriterRecord {
            version: 1,
            host: "node".to_owned(),
            pid,
            server: "localhost:5432".to_owned(),
            timeline: TimelineId::FIRST,
            taken_at: jiff::Timestamp::UNIX_EPOCH,
            token: format!("{pid:016x}"),
        }
    }

    #[tokio::test]
    async fn the_newest_writer_wins_and_the_older_is_told_by_whom() -> Result<(), Error> {
        let key = KeyFile::from_secret(Secret::generate()?);
        let store = Arc::new(MemoryStore::new());
        let archive =
            Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await?;
        let first = Epoch::take(&archive, &writer(10)).await?;
        first.check().await?;
        let writers = (writer(20), writer(30));
        let (second, third) = tokio::join!(
            Epoch::take(&archive, &writers.0),
            Epoch::take(&archive, &writers.1)
        );
        let (second, third) = (second?, third?);
        assert_ne!(second.number(), third.number(), "an epoch is taken once");
        let fenced = first.check().await.expect_err("it was taken over");
        assert!(
            matches!(&fenced, Error::Fenced { by, .. } if by.contains("process")),
            "{fenced}"
        );
        let (newer, older) = if second.number() > third.number() {
            (second, third)
        } else {
            (third, second)
        };
        newer.check().await?;
        assert!(older.check().await.is_err());
        Ok(())
    }

    /// Thousands of starts, and names that nobody gave: the next writer is seen in one page.
    #[tokio::test]
    async fn a_check_does_not_list_the_writers_of_before() -> Result<(), Error> {
        #[derive(Debug, Default)]
        struct Pages(AtomicUsize);
        #[async_trait]
        impl Hooks for Pages {
            async fn asked(
                &self,
                _: &dyn ObjectStore,
                operation: Operation,
                _: &str,
            ) -> Result<(), StoreError> {
                let listed = usize::from(operation == Operation::List);
                self.0.fetch_add(listed, Ordering::Relaxed);
                Ok(())
            }
        }
        let key = KeyFile::from_secret(Secret::generate()?);
        let store = Hooked::new(Pages::default());
        let opened = Arc::new(store.clone());
        let archive =
            Archive::open_or_begin(opened, vec![key], SystemId(1), SegmentSize::DEFAULT).await?;
        let name = |name: String| {
            let junk = Body::new(Bytes::from_static(b"junk"));
            async { store.put(&{ name }, junk).await }
        };
        for epoch in 1..=3_000 {
            name(archive.name(&ObjectKey::Writer(epoch))).await?;
        }
        let first = Epoch::take(&archive, &writer(10)).await?;
        assert_eq!(first.number(), 3_001);
        store.0.swap(0, Ordering::Relaxed);
        first.check().await?;
        assert_eq!(store.0.swap(0, Ordering::Relaxed), 1);
        // They lie between its own name and the next one's.
        for number in 0..1_500 {
            let own = archive.name(&ObjectKey::Writer(first.number()));
            name(format!("{own}{number:04}")).await?;
        }
        first.check().await?;
        let second = Epoch::take(&archive, &writer(20)).await?;
        assert!(first.check().await.is_err(), "it was taken over");
        second.check().await
    }

    #[tokio::test]
    async fn an_epoch_that_nobody_took_stops_no_writer() -> Result<(), Error> {
        let key = KeyFile::from_secret(Secret::generate()?);
        let store = Arc::new(MemoryStore::new());
        let archive =
            Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await?;
        let first = Epoch::take(&archive, &writer(10)).await?;
        for planted in [
            "writers/9999999999999999",
            "writers/18446744073709551615",
            "writers/99999999999999999",
        ] {
            let junk = Body::new(Bytes::from_static(b"junk"));
            archive.store().put(planted, junk).await?;
        }
        first.check().await?;
        let second = Epoch::take(&archive, &writer(20)).await?;
        assert_eq!((first.number(), second.number()), (1, 2));
        second.check().await?;
        assert!(first.check().await.is_err(), "it was taken over");
        Ok(())
    }
}
