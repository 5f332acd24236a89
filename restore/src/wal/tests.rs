use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use walvault_archive::seal::reads_whole;
use walvault_protocol::SegmentSize;
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{
    ArchiveUrl, Body, MemoryStore, ObjectStore, Quorum, SharedStore, StoreError, Unopened, joined,
};

use super::*;
use crate::testing::{archive, archive_in, put_history, put_wal, range, tli};

mod holes;
mod planted;

const MIB: u64 = 1 << 20;
/// Segment 3 of segments of 1 MiB.
const SEGMENT: u64 = 3 * MIB;
const NAME: &str = "000000010000000000000003";

fn size() -> SegmentSize {
    SegmentSize::new(MIB).expect("a size")
}

/// Bytes that tell where they belong.
fn wal(start: u64, end: u64) -> Vec<u8> {
    (start..end)
        .map(|lsn| (lsn ^ lsn >> 8 ^ lsn >> 16) as u8 | 1)
        .collect()
}

async fn put(archive: &Archive, timeline: u32, start: u64, end: u64, whole: bool) {
    put_wal(
        archive,
        tli(timeline),
        range(start, end),
        whole,
        &wal(start, end),
        &[],
    )
    .await;
}

/// The file that is fetched, and nothing else in its directory; `None` if it is absent.
async fn fetched(archive: &Archive, name: &str) -> Result<Option<Vec<u8>>, WalFetchError> {
    fetched_over(archive, name, Holes::Refused).await
}

async fn fetched_over(
    archive: &Archive,
    name: &str,
    holes: Holes,
) -> Result<Option<Vec<u8>>, WalFetchError> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("RECOVERYXLOG");
    let entries = || -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir.path()).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").path())
            .collect()
    };
    let mut file = WalFile::create(&path)?;
    let outcome = fetch(archive, name, holes, &mut file).await;
    if matches!(outcome, Ok(Fetched::Found)) {
        file.finish()?;
        assert_eq!(entries(), std::slice::from_ref(&path));
    } else {
        drop(file);
        assert!(entries().is_empty(), "a leftover");
    }
    match outcome? {
        Fetched::Found => Ok(Some(std::fs::read(&path).expect("the file"))),
        Fetched::Absent => Ok(None),
    }
}

async fn found(archive: &Archive, name: &str) -> Vec<u8> {
    fetched(archive, name)
        .await
        .expect("fetched")
        .expect("there")
}

/// What is held, and zeros up to the segment's end.
fn padded(held: u64) -> Vec<u8> {
    let mut segment = wal(SEGMENT, SEGMENT + held);
    segment.resize(MIB as usize, 0);
    segment
}

#[tokio::test]
async fn a_whole_segment_comes_as_it_is() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT, SEGMENT + 1000, false).await;
    put(&archive, 1, SEGMENT, SEGMENT + MIB, true).await;
    assert_eq!(found(&archive, NAME).await, padded(MIB));
}

#[tokio::test]
async fn chunks_are_put_together_up_to_the_first_hole() {
    let archive = archive(size()).await;
    // Two runs of the sidecar cut the same WAL at different places.
    for (start, end) in [
        (0, 5000),
        (5000, 9000),
        (0, 7000),
        (7000, 12_345),
        (20_000, 30_000),
    ] {
        put(&archive, 1, SEGMENT + start, SEGMENT + end, false).await;
    }
    let hole = SEGMENT + 12_345;
    for holes in [Holes::EndAt(Lsn(hole)), Holes::Streamed] {
        let fetched = fetched_over(&archive, NAME, holes).await.expect("fetched");
        assert!(fetched == Some(padded(12_345)), "{holes:?}");
    }
    // PostgreSQL would take the zeros for the end of the WAL.
    for holes in [Holes::EndAt(Lsn(hole + 1)), Holes::Refused] {
        let error = fetched_over(&archive, NAME, holes)
            .await
            .expect_err("a hole");
        assert!(
            matches!(&error, WalFetchError::Hole { segment, missing, behind }
                if segment == NAME && missing.0 == hole && behind.0 == SEGMENT + 20_000),
            "{error}"
        );
    }
}

#[tokio::test]
async fn what_is_not_held_is_absent() {
    let archive = archive(size()).await;
    put(&archive, 1, SEGMENT + 8192, SEGMENT + 9000, false).await;
    for name in [
        NAME,
        "000000010000000000000004",
        "000000020000000000000003",
        "00000002.history",
        "000000010000000000000003.partial",
        "000000010000000000000003.00000028.backup",
    ] {
        assert_eq!(
            fetched(&archive, name).await.expect("asked"),
            None,
            "{name}"
        );
    }
    assert!(matches!(
        fetched(&archive, "postgresql.conf").await,
        Err(WalFetchError::Name(_))
    ));
}

#[tokio::test]
async fn histories_come_as_postgresql_wrote_them() {
    let archive = archive(size()).await;
    let text = "1\t0/340000\tno recovery target specified\n";
    put_history(&archive, tli(2), text).await;
    assert_eq!(found(&archive, "00000002.history").await, text.as_bytes());
}

#[tokio::test]
async fn below_its_switch_point_a_timeline_has_its_ancestors_wal() {
    let archive = archive(size()).await;
    put_history(&archive, tli(2), "1\t0/304000\tforked\n").await;
    let fork = SEGMENT + 0x4000;
    // The ancestor went on after the fork, with other WAL than this.
    put_wal(
        &archive,
        tli(1),
        range(SEGMENT, fork + 500),
        false,
        &[wal(SEGMENT, fork), vec![0; 500]].concat(),
        &[],
    )
    .await;
    put(&archive, 2, fork, fork + 1000, false).await;
    assert_eq!(
        found(&archive, "000000020000000000000003").await,
        padded(0x4000 + 1000)
    );
}

#[tokio::test]
async fn a_large_segment_is_put_together_from_pieces_and_chunks() {
    let size = SegmentSize::new(32 * MIB).expect("a size");
    let archive = archive(size).await;
    let (start, middle) = (32 * MIB, 48 * MIB);
    put_wal(
        &archive,
        tli(1),
        range(start, middle),
        true,
        &[5; 16 << 20],
        &[],
    )
    .await;
    put(&archive, 1, middle, middle + 1000, false).await;
    let mut expected = vec![5; 16 << 20];
    expected.extend(wal(middle, middle + 1000));
    expected.resize(32 << 20, 0);
    // Not assert_eq: nobody reads 32 MiB.
    assert!(found(&archive, "000000010000000000000001").await == expected);
}

#[tokio::test]
async fn what_was_altered_is_not_taken_for_absent() {
    let store = Arc::new(MemoryStore::new());
    let archive = archive_in(store.clone(), size()).await;
    put(&archive, 1, SEGMENT, SEGMENT + MIB, true).await;
    let key = format!("wal/00000001/{NAME}");
    let mut bytes = store.get(&key, None).await.expect("stored").to_vec();
    bytes[200] ^= 1;
    store.delete(&key).await.expect("deleted");
    store
        .put(&key, Body::new(Bytes::from(bytes)))
        .await
        .expect("stored");
    let error = fetched(&archive, NAME).await.expect_err("altered");
    assert!(
        matches!(error, WalFetchError::Archive(Error::Corrupt { .. })),
        "{error}"
    );
}

/// Once armed, between two requests the segment is stored whole and its first chunk removed, as
/// the sidecar does it; the removal of the second is still to come.
#[derive(Debug, Default)]
struct Overtaken {
    armed: Mutex<Option<Armed>>,
}

#[derive(Debug)]
struct Armed {
    /// The segment, sealed, and its key.
    whole: Bytes,
    key: String,
    /// The request of a chunk, or of the chunks' listing, before which it happens.
    when: Operation,
}

#[async_trait]
impl Hooks for Overtaken {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        let is_due = |armed: &mut Armed| key.starts_with("tail/") && armed.when == operation;
        let armed = self.armed.lock().expect("no panic").take_if(is_due);
        if let Some(Armed { whole, key, .. }) = armed {
            store.put(&key, Body::new(whole)).await?;
            let tail = store.list("tail/", None).await?.objects;
            store.delete(&tail[0].key).await?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_segment_that_is_stored_whole_meanwhile_is_found() {
    for when in [Operation::List, Operation::Get] {
        let store = Arc::new(Hooked::<Overtaken>::default());
        let archive = archive_in(store.clone(), size()).await;
        put(&archive, 1, SEGMENT, SEGMENT + MIB, true).await;
        put(&archive, 1, SEGMENT, SEGMENT + 5000, false).await;
        put(&archive, 1, SEGMENT + 5000, SEGMENT + 9000, false).await;
        let key = format!("wal/00000001/{NAME}");
        let whole = store.get(&key, None).await.expect("stored");
        store.delete(&key).await.expect("deleted");
        assert_eq!(found(&archive, NAME).await, padded(9000), "{when:?}");
        *store.armed.lock().expect("no panic") = Some(Armed { whole, key, when });
        assert_eq!(found(&archive, NAME).await, padded(MIB), "{when:?}");
    }
}

/// Merges the newest two chunks each time a chunk is about to be read, as the sidecar does while
/// commits wait.
#[derive(Debug, Default)]
struct Merging {
    /// The next chunks, each with those it holds: sealed beforehand.
    merges: Mutex<Vec<(String, Bytes, Vec<String>)>>,
}

#[async_trait]
impl Hooks for Merging {
    async fn asked(
        &self,
        store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        if !key.starts_with("tail/") || operation != Operation::Get {
            return Ok(());
        }
        let merge = self.merges.lock().expect("no panic").pop();
        if let Some((merged, bytes, chunks)) = merge {
            store.put(&merged, Body::new(bytes)).await?;
            for chunk in chunks {
                store.delete(&chunk).await?;
            }
        }
        Ok(())
    }
}

/// More often than a segment is looked at without reading any more of it.
const MERGES: u64 = 2 * LOOKS as u64;

/// A segment in many chunks, whose next to the last two become one again and again, from its end on.
async fn merging() -> (Arc<Hooked<Merging>>, Archive) {
    let store = Arc::new(Hooked::<Merging>::default());
    let archive = archive_in(store.clone(), size()).await;
    let end = SEGMENT + 100 * (MERGES + 1);
    let name = |start, end| archive.name(&wal_key(tli(1), range(start, end), false));
    let mut merges = Vec::new();
    for number in 0..MERGES {
        let start = SEGMENT + 100 * number;
        let chunks = [(start, start + 100), (start + 100, end)];
        put(&archive, 1, start, end, false).await;
        let merged = name(start, end);
        let bytes = store.get(&merged, None).await.expect("stored");
        store.delete(&merged).await.expect("deleted");
        let chunks = chunks.map(|(start, end)| name(start, end)).to_vec();
        merges.push((merged, bytes, chunks));
    }
    for number in 0..=MERGES {
        let start = SEGMENT + 100 * number;
        put(&archive, 1, start, start + 100, false).await;
    }
    *store.merges.lock().expect("no panic") = merges;
    (store, archive)
}

#[tokio::test]
async fn a_segment_whose_chunks_are_merged_meanwhile_is_found() {
    let (store, archive) = merging().await;
    let length = 100 * (MERGES + 1);
    assert_eq!(found(&archive, NAME).await, padded(length));
    assert!(store.merges.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn what_took_the_place_of_a_listed_chunk_is_read() {
    let (store, archive) = merging().await;
    let catalog = Catalog::load_wal(&archive).await.expect("a catalog");
    let held = catalog.wal(tli(1)).expect("WAL").objects.clone();
    for held in held.iter().rev() {
        let read = held.wal(&archive, tli(1), held.range).await.expect("read");
        assert_eq!(read, Some(wal(held.range.start.0, held.range.end.0)));
        let marks = catalog.marks(&archive, tli(1), held).await;
        assert!(marks.expect("read").is_empty());
    }
    assert!(store.merges.lock().expect("no panic").is_empty());
}

/// PostgreSQL asks for the history of each timeline there may be. A name that anybody can put must
/// neither be handed to it nor stop it; a history that is damaged must not pass for absent.
#[tokio::test]
async fn a_history_is_handed_out_only_if_it_opens() {
    let archive = archive(size()).await;
    put_history(&archive, tli(2), "1\t0/3080000\tfork\n").await;
    let fork = found(&archive, "00000002.history").await;
    assert_eq!(fork, b"1\t0/3080000\tfork\n");
    put(&archive, 3, SEGMENT, SEGMENT + MIB, true).await;
    for planted in ["wal/00000003.history", "wal/00000004.history"] {
        let body = Body::new(Bytes::from_static(b"1\t0/3000000\tplanted\n"));
        archive.store().put(planted, body).await.expect("put");
    }
    put_history(&archive, tli(5), "no history at all").await;
    for none in ["00000004.history", "00000005.history", "00000006.history"] {
        assert_eq!(fetched(&archive, none).await.expect("told"), None, "{none}");
    }
    let damaged = fetched(&archive, "00000003.history").await;
    assert!(
        matches!(damaged, Err(WalFetchError::Archive(Error::Corrupt { .. }))),
        "{damaged:?}"
    );
}

async fn assert_absent(archive: &Archive, name: &str) {
    let asked = fetched(archive, name).await.expect("told");
    assert_eq!(asked, None, "{name}");
}

#[tokio::test]
async fn nothing_is_absent_while_a_place_is_not_mounted() {
    // Segments that are one object, and larger ones, of which listings alone tell.
    for size in [size(), SegmentSize::new(32 * MIB).expect("a size")] {
        let there: SharedStore = Arc::new(MemoryStore::new());
        let archive = archive_in(there.clone(), size).await;
        assert_absent(&archive, NAME).await;
        let url = ArchiveUrl::parse("file:///not/mounted").expect("a URL");
        let error = StoreError::unavailable("file:///not/mounted", "open", "", "gone");
        let away: SharedStore = Arc::new(Unopened::new(&url, &error));
        let joined = joined(vec![there, away], Quorum::Any, reads_whole);
        let asked = fetched(&archive.at(joined), NAME).await;
        assert!(
            matches!(
                asked,
                Err(WalFetchError::Archive(Error::Store(
                    StoreError::Unavailable { .. }
                )))
            ),
            "{asked:?}"
        );
    }
}
