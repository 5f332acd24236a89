//! The record of what an archive is: read, or written as the first object of all.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use walvault_layout::{BACKUPS_PREFIX, KEYS_PREFIX, ObjectKey, TAIL_PREFIX, WAL_PREFIX};
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::{
    ALIKE, Body, ObjectMeta, SharedStore, StoreError, clock, read_alike, reaffirm,
};

use super::again::again;
use crate::error::Error;
use crate::record::{ARCHIVE_FORMAT, ArchiveRecord};

/// How long a record that somebody else writes in the same moment is waited for, on a store that lets
/// it take the place of ours.
const SETTLE: Duration = Duration::from_secs(2);

/// How old a record is that nobody overwrites any more, whatever clocks say.
const SETTLED: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// The record that `store` holds, written if there was none, and nothing of an archive either.
///
/// Its id is in everything that is sealed, so it must neither be misread nor change any more. On a store
/// that overwrites, two that both found none both write one, and the later one stays: so a young record
/// is read again before it counts.
pub(super) async fn find_or_begin(
    store: &SharedStore,
    system_id: SystemId,
    segment_size: SegmentSize,
) -> Result<ArchiveRecord, Error> {
    let name = ObjectKey::Archive.spell(segment_size);
    match store.get(&name, None).await {
        Ok(_) => {}
        Err(StoreError::Missing { .. }) => begin_anew(store, system_id, segment_size).await?,
        Err(error) => return Err(error.into()),
    }
    let record = there(store).await?;
    if !store.ignores_conditions().await? {
        return Ok(record);
    }
    if clock::now().duration_since(record.created_at).abs() < SETTLED {
        sleep(SETTLE).await;
    }
    // Who wrote it may never have had an answer.
    reaffirm(store, &name, is_record).await?;
    there(store).await
}

/// The record that `store` holds, if any, by one read: objects that open prove that it is the right one.
pub(super) async fn read_record(store: &SharedStore) -> Result<Option<ArchiveRecord>, Error> {
    let name = ObjectKey::Archive.spell(SegmentSize::DEFAULT);
    let read = || async {
        match store.get(&name, None).await {
            Ok(bytes) => parse(&bytes)
                .map(Some)
                .map_err(|why| unreadable(store, why)),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    again(&name, read).await
}

/// The record that `store` holds, for whoever seals.
async fn there(store: &SharedStore) -> Result<ArchiveRecord, Error> {
    let name = ObjectKey::Archive.spell(SegmentSize::DEFAULT);
    let read = match read_alike(&**store, &name, ALIKE, is_record).await {
        Err(StoreError::Missing { .. }) => {
            return Err(Error::NotAnArchive {
                url: store.url().to_owned(),
            });
        }
        read => read?,
    };
    let record = read.and_then(|bytes| parse(&bytes));
    record.map_err(|reason| unreadable(store, reason))
}

fn parse(bytes: &[u8]) -> Result<ArchiveRecord, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn is_record(bytes: Bytes) -> Result<(), String> {
    parse(&bytes).map(drop)
}

fn unreadable(store: &SharedStore, reason: String) -> Error {
    Error::Record {
        url: store.url().to_owned(),
        key: ObjectKey::Archive.spell(SegmentSize::DEFAULT),
        reason,
    }
}

/// Whether `store` holds neither the record of an archive nor any other object of one.
pub(super) async fn is_absent(
    store: &SharedStore,
    segment_size: SegmentSize,
) -> Result<bool, Error> {
    let name = ObjectKey::Archive.spell(segment_size);
    match store.get(&name, None).await {
        Ok(_) => Ok(false),
        Err(StoreError::Missing { .. }) => {
            Ok(object_of_archive(store, segment_size).await?.is_none())
        }
        Err(error) => Err(error.into()),
    }
}

/// The error of an archive whose record was lost; `None` where `store` shows nothing of an archive.
pub(super) async fn lost(
    store: &SharedStore,
    segment_size: SegmentSize,
) -> Result<Option<Error>, Error> {
    let key = object_of_archive(store, segment_size).await?;
    Ok(key.map(|key| Error::RecordLost {
        url: store.url().to_owned(),
        key,
    }))
}

/// Begins an archive where nothing is left of another. Under a new id no object that was sealed before
/// would open, so a record that was lost is not replaced.
async fn begin_anew(
    store: &SharedStore,
    system_id: SystemId,
    segment_size: SegmentSize,
) -> Result<(), Error> {
    let Some(key) = object_of_archive(store, segment_size).await? else {
        return begin(store, system_id, segment_size).await;
    };
    // Whoever begins in the same moment writes the record before any of these, but after the look for it.
    sleep(SETTLE).await;
    let name = ObjectKey::Archive.spell(segment_size);
    match store.get(&name, None).await {
        Ok(_) => Ok(()),
        Err(StoreError::Missing { .. }) => Err(Error::RecordLost {
            url: store.url().to_owned(),
            key,
        }),
        Err(error) => Err(error.into()),
    }
}

/// The name of an object that only an archive has, if `store` shows one: the first page of each kind tells.
async fn object_of_archive(
    store: &SharedStore,
    segment_size: SegmentSize,
) -> Result<Option<String>, Error> {
    // Others' files and what 'walvaultd check' left are none of an archive's.
    let is_ours = |object: &ObjectMeta| ObjectKey::parse(&object.key, segment_size).is_some();
    for prefix in [KEYS_PREFIX, WAL_PREFIX, TAIL_PREFIX, BACKUPS_PREFIX] {
        let page = store.list(prefix, None).await?;
        if let Some(found) = page.objects.into_iter().find(is_ours) {
            return Ok(Some(found.key));
        }
    }
    Ok(None)
}

/// Writes a record, where somebody else has not.
async fn begin(
    store: &SharedStore,
    system_id: SystemId,
    segment_size: SegmentSize,
) -> Result<(), Error> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let record = ArchiveRecord {
        format: ARCHIVE_FORMAT,
        archive_id: hex::encode(id),
        system_id,
        segment_size,
        created_at: clock::now(),
        created_by: concat!("walvault ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let json = serde_json::to_vec_pretty(&record).expect("a record is plain JSON");
    let name = ObjectKey::Archive.spell(segment_size);
    match store.put(&name, Body::new(Bytes::from(json))).await {
        // Somebody else began it in the same moment; theirs counts.
        Ok(()) | Err(StoreError::Exists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use walvault_protocol::TimelineId;

    use super::*;
    use walvault_store::hooked::{Hooked, Hooks};
    use walvault_store::{MemoryStore, ObjectStore, WriteOnce};

    /// A store that takes its time, and in which the last of several PUTs stays.
    #[derive(Debug)]
    struct Overwriting {
        latency: Duration,
    }

    #[async_trait]
    impl Hooks for Overwriting {
        async fn put_over(
            &self,
            store: &dyn ObjectStore,
            key: &str,
            body: Body,
        ) -> Result<(), StoreError> {
            sleep(self.latency).await;
            store.delete(key).await?;
            store.put(key, body).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_begin_at_once_agree_though_the_store_overwrites() {
        let inner = Arc::new(MemoryStore::new());
        let store = |latency| -> SharedStore {
            let latency = Duration::from_millis(latency);
            let store = Hooked::over(inner.clone(), Overwriting { latency });
            Arc::new(WriteOnce::new(store))
        };
        let (fast, slow, late) = (store(10), store(900), store(10));
        for store in [&fast, &slow, &late] {
            // The probe takes its time too, and none of it may pass between the looks.
            assert!(store.ignores_conditions().await.expect("asked"));
        }
        let begin =
            |store| async move { find_or_begin(store, SystemId(1), SegmentSize::DEFAULT).await };
        let third = async {
            sleep(Duration::from_millis(500)).await;
            begin(&late).await
        };
        let (first, second, third) = tokio::join!(begin(&fast), begin(&slow), third);
        let stays = read_record(&late).await.expect("read").expect("one");
        for record in [first, second, third] {
            assert_eq!(record.expect("begun").archive_id, stays.archive_id);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_was_lost_is_not_replaced_beside_what_it_sealed() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let begin = || find_or_begin(&store, SystemId(1), SegmentSize::DEFAULT);
        let put = |key: String, bytes: Bytes| {
            let store = store.clone();
            async move { store.put(&key, Body::new(bytes)).await.expect("put") }
        };
        let empty = Bytes::new();
        for not_ours in [
            "tail/probe-0123456789abcdef",
            "wal/readme",
            "elsewhere/object",
        ] {
            put(not_ours.to_owned(), empty.clone()).await;
        }
        let absent = || is_absent(&store, SegmentSize::DEFAULT);
        assert!(absent().await.expect("asked"));
        let first = begin().await.expect("begun");
        assert!(!absent().await.expect("asked"));
        let name = ObjectKey::Archive.spell(SegmentSize::DEFAULT);
        let record = store.get(&name, None).await.expect("read");
        let history = ObjectKey::History(TimelineId::FIRST).spell(SegmentSize::DEFAULT);
        put(history.clone(), empty).await;
        store.delete(&name).await.expect("lost");
        assert!(!absent().await.expect("asked"), "it was one");
        let refused = begin().await.expect_err("refused");
        assert!(
            matches!(&refused, Error::RecordLost { key, .. } if *key == history),
            "{refused}"
        );
        let told = lost(&store, SegmentSize::DEFAULT).await.expect("asked");
        assert!(matches!(told, Some(Error::RecordLost { .. })), "{told:?}");
        assert!(store.head(&name).await.expect("asked").is_none());

        // It is another's that begins in the same moment, or it is brought back.
        let brought = async {
            sleep(SETTLE / 2).await;
            put(name.clone(), record).await;
        };
        let (again, ()) = tokio::join!(begin(), brought);
        assert_eq!(again.expect("found").archive_id, first.archive_id);
    }
}
