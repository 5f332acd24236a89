//! A store of several replicas, and an archive in it, while one of them is away.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use walvault_archive::archive::Archive;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_layout::ObjectKey;
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::hooked::{Hooked, Hooks};
use walvault_store::metered::Operation;
use walvault_store::{Body, ObjectStore, Quorum, Replicas, StoreError};

/// A store that can be switched off.
#[derive(Debug, Default)]
struct Switched {
    off: AtomicBool,
}

impl Switched {
    fn set_off(&self, off: bool) {
        self.off.store(off, Ordering::SeqCst);
    }
}

#[async_trait]
impl Hooks for Switched {
    async fn asked(
        &self,
        _store: &dyn ObjectStore,
        operation: Operation,
        key: &str,
    ) -> Result<(), StoreError> {
        match self.off.load(Ordering::SeqCst) {
            true => Err(StoreError::unavailable(
                "memory:",
                operation.name(),
                key,
                "off",
            )),
            false => Ok(()),
        }
    }
}

fn body(text: &'static str) -> Body {
    Body::new(Bytes::from_static(text.as_bytes()))
}

fn pair(quorum: Quorum) -> (Replicas, Arc<Hooked<Switched>>, Arc<Hooked<Switched>>) {
    let (one, two) = (
        Arc::<Hooked<Switched>>::default(),
        Arc::<Hooked<Switched>>::default(),
    );
    let replicas = Replicas::new(
        vec![one.clone(), two.clone()],
        quorum,
        walvault_archive::seal::reads_whole,
    );
    (replicas, one, two)
}

/// A pair that holds an archive.
async fn begun(quorum: Quorum) -> (Replicas, Arc<Hooked<Switched>>, Arc<Hooked<Switched>>) {
    let pair = pair(quorum);
    let identity = body("{\"ours\": 1}");
    pair.0.put("archive.json", identity).await.expect("put");
    pair
}

/// Something under a name whose objects carry no checksum.
const KEY: &str = "keys/a/1";

#[tokio::test]
async fn one_that_is_away_owes_what_the_other_took() {
    let (replicas, one, two) = begun(Quorum::Any).await;
    replicas.put(KEY, body("1")).await.expect("put");
    assert!(one.get(KEY, None).await.is_ok() && two.get(KEY, None).await.is_ok());
    assert!(!replicas.owes(0) && !replicas.owes(1));
    one.set_off(true);
    replicas
        .put("keys/a/2", body("2"))
        .await
        .expect("the other took it");
    assert!(replicas.owes(0) && !replicas.owes(1));
    assert_eq!(replicas.get("keys/a/2", None).await.expect("read"), "2");
    let listed = replicas.list("keys/", None).await.expect("listed");
    assert_eq!(listed.objects.len(), 2);
    two.set_off(true);
    let refused = replicas
        .put("keys/a/3", body("3"))
        .await
        .expect_err("both are away");
    assert!(refused.is_transient(), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_all_must_take_waits_for_all() {
    let (replicas, one, _) = begun(Quorum::All).await;
    one.set_off(true);
    let refused = replicas.put(KEY, body("1")).await.expect_err("one is away");
    assert!(refused.is_transient(), "{refused}");
    // The other has it, which is not all.
    let refused = replicas.put(KEY, body("1")).await.expect_err("one is away");
    assert!(refused.is_transient(), "{refused}");
    one.set_off(false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    // The other has it already, and it is ours.
    replicas.put(KEY, body("1")).await.expect("put");
    one.set_off(true);
    assert!(replicas.list("", None).await.is_err());
}

#[tokio::test]
async fn what_is_absent_is_known_only_when_all_say_so() {
    let (replicas, one, _) = begun(Quorum::Any).await;
    let missing = replicas.get(KEY, None).await.expect_err("nothing is there");
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
    one.set_off(true);
    for _ in 0..2 {
        let unknown = replicas.get(KEY, None).await.expect_err("one is away");
        assert!(unknown.is_transient(), "{unknown}");
        assert!(
            replicas
                .head(KEY)
                .await
                .expect_err("one is away")
                .is_transient()
        );
    }
}

#[tokio::test]
async fn listings_are_joined_page_by_page() {
    let (replicas, one, two) = pair(Quorum::Any);
    let mut expected = Vec::new();
    for number in 0..2500 {
        let key = format!("keys/{number:05}");
        if number % 3 != 0 {
            one.put(&key, body("x")).await.expect("put");
        }
        if number % 3 != 1 {
            two.put(&key, body("x")).await.expect("put");
        }
        expected.push(key);
    }
    let all = walvault_store::list_all(&replicas, "keys/")
        .await
        .expect("listed");
    let all: Vec<String> = all.into_iter().map(|object| object.key).collect();
    assert_eq!(all, expected);
}

#[tokio::test]
async fn an_object_that_is_damaged_in_one_is_read_from_the_other() {
    let (replicas, one, _) = pair(Quorum::Any);
    let replicas = Arc::new(replicas);
    let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
    let archive = Archive::open_or_begin(
        replicas.clone(),
        vec![key],
        SystemId(1),
        SegmentSize::DEFAULT,
    )
    .await
    .expect("an archive");
    let history = ObjectKey::History(walvault_protocol::TimelineId::FIRST);
    let payload = Bytes::from_static(b"whole");
    archive
        .put_payload(&history, payload.clone())
        .await
        .expect("stored");
    let name = archive.name(&history);
    let mut bytes = one.get(&name, None).await.expect("read").to_vec();
    bytes[70] ^= 1;
    one.delete(&name).await.expect("removed");
    one.put(&name, Body::new(bytes.into())).await.expect("put");
    let opened = archive.get(&history).await.expect("the other has it");
    assert_eq!(opened.payload, payload);
    one.delete(&name).await.expect("removed");
    assert_eq!(archive.get(&history).await.expect("read").payload, payload);
}

#[tokio::test]
async fn another_archive_is_neither_read_nor_written() {
    let (replicas, one, two) = pair(Quorum::Any);
    one.put("archive.json", body("{\"ours\": 1}"))
        .await
        .expect("put");
    two.put("archive.json", body("{\"theirs\": 1}"))
        .await
        .expect("put");
    two.put("keys/theirs", body("x")).await.expect("put");
    let listed = replicas.list("keys/", None).await.expect("listed");
    assert!(listed.objects.is_empty());
    assert!(replicas.get("keys/theirs", None).await.is_err());
    replicas.put(KEY, body("1")).await.expect("ours took it");
    assert!(two.get(KEY, None).await.is_err() && replicas.owes(1));
    // One that holds none yet is brought its identity first.
    let (replicas, one, two) = pair(Quorum::Any);
    one.put("archive.json", body("{\"ours\": 1}"))
        .await
        .expect("put");
    replicas.put(KEY, body("1")).await.expect("put");
    assert!(two.get(KEY, None).await.is_err() && replicas.owes(1));
}
