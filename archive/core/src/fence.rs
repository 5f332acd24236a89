//! One writer at a time.
//!
//! Who begins to write WAL takes the next epoch, an object that is written once. Whoever finds a
//! higher epoch than its own stops. Where a store refuses a second object of one name, no two
//! writers ever have the same epoch. A store that ignores `If-None-Match` leaves a moment in which
//! two may take the same one; each reads its record back, so that all but the last notice, and
//! what both write is still never mixed: the same bytes are harmless, and others are refused.

use walvault_layout::{ObjectKey, WRITERS_PREFIX, numbers};
use walvault_store::StoreError;

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
        let taken = epochs(&self.archive).await?;
        let highest = numbers::highest(taken).unwrap_or(self.number);
        if highest <= self.number {
            return Ok(());
        }
        let by = match self
            .archive
            .get_record::<WriterRecord>(&ObjectKey::Writer(highest))
            .await
        {
            Ok(writer) => format!(
                "process {} on {} for the server at {} since {}",
                writer.pid, writer.host, writer.server, writer.taken_at
            ),
            Err(_) => format!("of epoch {highest}"),
        };
        Err(Error::Fenced {
            url: self.archive.url().to_owned(),
            by,
        })
    }
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

    use bytes::Bytes;
    use walvault_protocol::{SegmentSize, SystemId, TimelineId};

    use super::*;
    use crate::keys::{KeyFile, Secret};
    use walvault_store::Body;
    use walvault_store::memory::MemoryStore;

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
