use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, SystemId, TimelineId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::{
    Body, ObjectMeta, ObjectStore, RetryPolicy, Retrying, SharedStore, WriteOnce, list_all,
};

use super::*;
use crate::format::Codec;
use crate::keys::{KeyFile, Secret};

/// What a GET is answered with instead of what is stored.
#[derive(Debug, Clone)]
enum Lie {
    None,
    Altered,
    Anothers(String),
}

/// A store of several nodes. While it is short of nodes, one of them takes a PUT, and the PUT fails.
#[derive(Debug, Default)]
struct Nodes {
    /// What the names begin with that too few nodes are there for.
    short_for: Mutex<Option<&'static str>>,
    partial: Mutex<BTreeSet<String>>,
    /// How the next GETs are answered.
    lies: Mutex<VecDeque<Lie>>,
}

impl Nodes {
    fn is_short_for(&self, prefix: Option<&'static str>) {
        *self.short_for() = prefix;
    }

    fn short_for(&self) -> MutexGuard<'_, Option<&'static str>> {
        let short_for = self.short_for.lock();
        short_for.unwrap_or_else(PoisonError::into_inner)
    }

    fn lie(&self, lies: &[Lie]) {
        self.lies().extend(lies.iter().cloned());
    }

    fn lies(&self) -> MutexGuard<'_, VecDeque<Lie>> {
        self.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn partial(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.partial.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Hooks for Nodes {
    async fn put(&self, store: &dyn ObjectStore, key: &str, body: Body) -> Result<(), StoreError> {
        store.put(key, body).await?;
        if self
            .short_for()
            .is_some_and(|prefix| key.starts_with(prefix))
        {
            self.partial().insert(key.to_owned());
            return Err(StoreError::unavailable(store.url(), "put", key, "503"));
        }
        self.partial().remove(key);
        Ok(())
    }

    async fn get(
        &self,
        store: &dyn ObjectStore,
        key: &str,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, StoreError> {
        let lie = self.lies().pop_front();
        match lie {
            None | Some(Lie::None) => store.get(key, range).await,
            Some(Lie::Anothers(other)) => store.get(&other, range).await,
            Some(Lie::Altered) => {
                let mut bytes = store.get(key, range).await?.to_vec();
                // Within an id, where it is JSON.
                bytes[60] ^= 1;
                Ok(bytes.into())
            }
        }
    }
}

/// The store as a process sees it.
fn written_once(nodes: &Hooked<Nodes>) -> SharedStore {
    Arc::new(WriteOnce::new(nodes.clone()))
}

/// Everything it holds.
async fn contents(nodes: &Hooked<Nodes>) -> BTreeMap<String, Bytes> {
    let mut contents = BTreeMap::new();
    for object in list_all(&**nodes.unhooked(), "").await.expect("listed") {
        let bytes = nodes
            .unhooked()
            .get(&object.key, None)
            .await
            .expect("there");
        contents.insert(object.key, bytes);
    }
    contents
}

async fn lose_node(nodes: &Hooked<Nodes>) {
    let partial = std::mem::take(&mut *nodes.partial());
    for name in partial {
        nodes.unhooked().delete(&name).await.expect("deleted");
    }
}

fn key_file(secret: u8) -> KeyFile {
    KeyFile::from_secret(Secret::from_bytes(&zeroize::Zeroizing::new([secret; 32])))
}

/// A process that opens the archive, or begins it, and seals.
async fn process(nodes: &Hooked<Nodes>) -> Result<Archive, Error> {
    let key = key_file(7);
    let store = written_once(nodes);
    let archive =
        Archive::open_or_begin(store, vec![key], SystemId(1), SegmentSize::DEFAULT).await?;
    archive.sealer(Codec::None).await?;
    Ok(archive)
}

#[tokio::test(start_paused = true)]
async fn a_put_that_only_one_node_took_is_repeated_until_it_is_answered() {
    let nodes = Hooked::<Nodes>::default();
    nodes.is_short_for(Some("tail/"));
    let store = Retrying::new(written_once(&nodes), RetryPolicy::default());
    let put = tokio::spawn(async move {
        let body = Body::new(Bytes::from_static(b"one"));
        store.put("tail/one", body).await
    });
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    // Everybody sees it by now.
    assert!(nodes.head("tail/one").await.expect("asked").is_some());
    assert!(!put.is_finished());
    nodes.is_short_for(None);
    put.await.expect("no panic").expect("stored");
    lose_node(&nodes).await;
    assert!(nodes.head("tail/one").await.expect("asked").is_some());
}

/// Whatever the first process was killed over, the next one has the store answer for it.
#[tokio::test(start_paused = true)]
async fn what_a_killed_process_began_an_archive_with_outlives_a_node() {
    let nodes = Hooked::<Nodes>::default();
    for begun in ["archive.json", "keys/"] {
        nodes.is_short_for(Some(begun));
        assert!(process(&nodes).await.is_err());
        assert_eq!(nodes.partial().len(), 1);
        nodes.is_short_for(None);
    }
    let before = list_all(&nodes, "").await.expect("listed");
    process(&nodes).await.expect("an archive");
    lose_node(&nodes).await;
    let after = list_all(&nodes, "").await.expect("listed");
    let names = |objects: &[ObjectMeta]| -> Vec<String> {
        let keys = objects.iter().map(|object| object.key.clone());
        keys.collect()
    };
    assert_eq!(names(&after), names(&before));
}

fn gap(number: u64) -> ObjectKey {
    let range = LsnRange::new(Lsn(number), Lsn(number + 1));
    ObjectKey::Gap(TimelineId::FIRST, range)
}

/// Whatever a proxy alters or mixes up, for who may open and who may not.
#[tokio::test(start_paused = true)]
async fn nothing_takes_the_place_of_what_is_stored() {
    let nodes = Hooked::<Nodes>::default();
    let archive = process(&nodes).await.expect("an archive");
    for number in [1, 2] {
        let payload = Bytes::from_static(b"as long as the other");
        archive
            .put_payload(&gap(number), payload)
            .await
            .expect("stored");
    }
    let store = written_once(&nodes);
    let sealing_only = Archive::open(store, vec![key_file(8)])
        .await
        .expect("opened");
    let before = contents(&nodes).await;
    let anothers = Lie::Anothers(archive.name(&gap(2)));
    let lies = [
        vec![Lie::Altered],
        vec![anothers.clone()],
        vec![anothers.clone(), Lie::Altered, anothers],
    ];
    for lies in lies {
        for host in [&archive, &sealing_only] {
            nodes.partial().insert(archive.name(&gap(1)));
            nodes.lie(&lies);
            host.reaffirm(&gap(1)).await.expect("put again");
            assert!(nodes.lies().is_empty());
            assert_eq!(contents(&nodes).await, before);
        }
        // Its record and its data key: each of the GETs of a process that begins in turn.
        for truths in 0..20 {
            nodes.lie(&vec![Lie::None; truths]);
            nodes.lie(&lies);
            let begun = process(&nodes).await;
            nodes.lies().clear();
            if let Ok(begun) = begun {
                assert_eq!(begun.id(), archive.id());
            }
            let mut after = contents(&nodes).await;
            // A data key that does not read is let be, and another begun.
            after.retain(|name, _| before.contains_key(name));
            assert_eq!(after, before, "{truths} {lies:?}");
        }
    }
}

#[tokio::test]
async fn what_is_gone_is_to_be_looked_for_again() {
    let nodes = Hooked::<Nodes>::default();
    let archive = process(&nodes).await.expect("an archive");
    let id = BackupId::new(jiff::Timestamp::UNIX_EPOCH, 1);
    let gone = archive.reaffirm(&ObjectKey::BackupRecord(id)).await;
    assert!(gone.expect_err("gone").is_transient());
}

#[tokio::test]
async fn what_is_damaged_is_not_put_again() {
    let nodes = Hooked::<Nodes>::default();
    let archive = process(&nodes).await.expect("an archive");
    let key = gap(0);
    let name = archive.name(&key);
    nodes.is_short_for(Some(""));
    let damaged = Body::new(Bytes::from_static(b"no object"));
    assert!(nodes.put(&name, damaged).await.is_err());
    nodes.is_short_for(None);
    archive.reaffirm(&key).await.expect("left alone");
    assert!(nodes.partial().contains(&name));
}
