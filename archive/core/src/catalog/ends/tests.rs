use std::sync::Arc;

use bytes::Bytes;
use walvault_protocol::SegmentNumber;
use walvault_protocol::{LsnRange, SystemId};
use walvault_store::{Body, MemoryStore, SharedStore};

use super::super::tests::backup;
use super::*;
use crate::keys::{
    AgeIdentity, Identity, KeyAccess, Recipient, RotationPolicy, Secret, SigningKey, Trust,
};

const SIZE: SegmentSize = SegmentSize::DEFAULT;

/// The writer whom everybody here trusts.
fn writer() -> SigningKey {
    SigningKey::from_seed(&Secret::from_bytes(&zeroize::Zeroizing::new([0xED; 32])))
}

/// An archive that a host with a public key alone writes, and whoever reads it.
struct World {
    store: SharedStore,
    folder: tempfile::TempDir,
    public: String,
}

impl World {
    /// With a backup, and the segments 5 and 6.
    async fn begin() -> World {
        let folder = tempfile::tempdir().expect("a directory");
        let public = AgeIdentity::generate(&folder.path().join("identity")).expect("a pair");
        let world = World {
            store: Arc::new(MemoryStore::new()),
            folder,
            public,
        };
        let archive = world.sealed_by(writer()).await;
        let record = backup(1);
        let key = ObjectKey::BackupRecord(record.id.clone());
        archive.put_record(&key, &record).await.expect("stored");
        for number in [5, 6] {
            put(&archive, segment(number), true).await;
        }
        world
    }

    fn access(&self, identities: Vec<Identity>, trust: Trust) -> KeyAccess {
        let recipient = Recipient::parse(&self.public).expect("a recipient");
        let never = RotationPolicy {
            after: std::time::Duration::ZERO,
            after_bytes: 0,
        };
        KeyAccess::trusting(vec![recipient], identities, never, trust)
    }

    /// The archive as a host writes it that signs with `key`.
    async fn sealed_by(&self, key: SigningKey) -> Archive {
        let trust = Trust {
            signing_key: Some(key),
            writers: Vec::new(),
        };
        let access = self.access(Vec::new(), trust);
        Archive::open_or_begin(self.store.clone(), access, SystemId(1), SIZE)
            .await
            .expect("an archive")
    }

    /// What a host lists that has the identity and trusts the writer.
    async fn catalog(&self) -> Catalog {
        let identities = Identity::read(&self.folder.path().join("identity")).expect("one");
        let trust = Trust {
            signing_key: None,
            writers: vec![writer().public()],
        };
        let access = self.access(identities, trust);
        let archive = Archive::open(self.store.clone(), access)
            .await
            .expect("it opens");
        Catalog::load(&archive).await.expect("a catalog")
    }

    async fn plant(&self, range: LsnRange, whole: bool) -> String {
        let name = wal_key(TimelineId::FIRST, range, whole).spell(SIZE);
        let body = Body::new(Bytes::from_static(b"planted"));
        self.store.put(&name, body).await.expect("planted");
        name
    }
}

fn segment(number: u64) -> LsnRange {
    SegmentNumber(number).range(SIZE)
}

/// So many bytes of a segment.
fn part(number: u64, from: u64, to: u64) -> LsnRange {
    let start = segment(number).start;
    LsnRange::new(start + from, start + to)
}

async fn put(archive: &Archive, range: LsnRange, whole: bool) -> String {
    let key = wal_key(TimelineId::FIRST, range, whole);
    let payload = Bytes::from_static(b"wal");
    archive.put_payload(&key, payload).await.expect("stored");
    archive.name(&key)
}

fn end(catalog: &Catalog) -> Lsn {
    let wal = catalog.wal(TimelineId::FIRST).expect("WAL");
    wal.coverage.end().expect("an end")
}

fn unreadable(catalog: &Catalog) -> Vec<&str> {
    let unreadable = catalog.unreadable().iter();
    unreadable.map(|one| one.object.as_str()).collect()
}

#[tokio::test]
async fn wal_that_no_trusted_writer_sealed_is_no_end() {
    let world = World::begin().await;
    assert_eq!(end(&world.catalog().await), segment(6).end);
    let stranger = SigningKey::ephemeral().expect("random bits");
    let stranger = world.sealed_by(stranger).await;
    let foreign = [
        put(&stranger, segment(7), true).await,
        put(&stranger, part(8, 0, 0x1000), false).await,
        world.plant(segment(900), true).await,
    ];
    let catalog = world.catalog().await;
    assert_eq!(end(&catalog), segment(6).end);
    assert_eq!(unreadable(&catalog), foreign);
    let is_foreign: Vec<bool> = catalog.unreadable().iter().map(|one| one.foreign).collect();
    assert_eq!(is_foreign, [true, true, false]);
}

/// The name of a whole segment that is not there yet is free, and so are those of chunks.
#[tokio::test]
async fn names_over_the_chunks_of_the_last_segment_hide_none() {
    let world = World::begin().await;
    let archive = world.sealed_by(writer()).await;
    for (from, to) in [(0, 0x1000), (0x1000, 0x2000)] {
        put(&archive, part(7, from, to), false).await;
    }
    let planted = [
        world.plant(segment(7), true).await,
        world.plant(part(7, 0, 0x1800), false).await,
        world.plant(part(7, 0x1800, 0x2000), false).await,
    ];
    let catalog = world.catalog().await;
    assert_eq!(end(&catalog), segment(7).start + 0x2000);
    let path = catalog.path_objects(TimelineId::FIRST, segment(7).start, end(&catalog));
    let from: Vec<Lsn> = path.iter().map(|(_, held)| held.range.start).collect();
    assert_eq!(from, [segment(7).start, segment(7).start + 0x1000]);
    assert!(unreadable(&catalog).contains(&planted[0].as_str()));
}

#[tokio::test]
async fn any_number_of_names_is_passed_over() {
    let world = World::begin().await;
    for number in 7..400 {
        let _ = world.plant(segment(number), true).await;
    }
    let catalog = world.catalog().await;
    assert_eq!(end(&catalog), segment(6).end);
    assert_eq!(catalog.unreadable().len(), NAMED);
}

/// It is damage, and whoever needs it is told so.
#[tokio::test]
async fn what_does_not_open_before_the_end_stays() {
    let world = World::begin().await;
    let name = wal_key(TimelineId::FIRST, segment(5), true).spell(SIZE);
    world.store.delete(&name).await.expect("removed");
    let _ = world.plant(segment(5), true).await;
    let _ = world.plant(segment(7), true).await;
    let catalog = world.catalog().await;
    assert_eq!(end(&catalog), segment(6).end);
    assert_eq!(
        catalog.wal(TimelineId::FIRST).expect("WAL").objects.len(),
        2
    );
}

/// A data key that was lost, or is for others, is no proof that somebody planted what it sealed.
#[tokio::test]
async fn what_a_trusted_writer_sealed_for_others_counts() {
    let world = World::begin().await;
    let others = tempfile::tempdir().expect("a directory");
    let public = AgeIdentity::generate(&others.path().join("identity")).expect("a pair");
    let elsewhere = World {
        store: world.store.clone(),
        folder: others,
        public,
    };
    let archive = elsewhere.sealed_by(writer()).await;
    put(&archive, segment(7), true).await;
    assert_eq!(end(&world.catalog().await), segment(7).end);
}
