use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::format::{Codec, footer_digest};
use walvault_archive::keys::KmsSettings;
use walvault_archive::keys::{
    Identity, KeyAccess, KeyFile, KeyPurpose, Recipient, RotationPolicy, Secret, SigningKey,
};
use walvault_layout::{AuditWriter, ObjectKey};
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::memory::MemoryStore;
use walvault_store::{Body, SharedStore};

use super::*;

const NEVER: RotationPolicy = RotationPolicy {
    after: std::time::Duration::ZERO,
    after_bytes: 0,
};

fn key_file(byte: u8) -> Arc<KeyFile> {
    let secret = zeroize::Zeroizing::new([byte; 32]);
    Arc::new(KeyFile::from_secret(Secret::from_bytes(&secret)))
}

fn access(purpose: KeyPurpose, byte: u8) -> KeyAccess {
    let file = key_file(byte);
    KeyAccess::serving(
        purpose,
        vec![Recipient::KeyFile(file.clone())],
        vec![Identity::KeyFile(file)],
        KmsSettings::default(),
        NEVER,
    )
}

/// An archive whose data is for one key file and whose trail for another.
struct World {
    store: SharedStore,
    trail: Archive,
}

impl World {
    async fn new() -> World {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let keys = access(KeyPurpose::Data, 1);
        let archive =
            Archive::open_or_begin(store.clone(), keys, SystemId(7), SegmentSize::DEFAULT);
        let archive = archive.await.expect("an archive");
        let trail = archive.within(store.clone(), access(KeyPurpose::Audit, 2));
        World { store, trail }
    }

    fn writer(&self, ephemeral: bool) -> (AuditLog, Arc<Secret>) {
        let seed = Arc::new(Secret::generate().expect("a seed"));
        (self.log(&seed, ephemeral), seed)
    }

    fn log(&self, seed: &Secret, ephemeral: bool) -> AuditLog {
        AuditLog::new(self.trail.clone(), SigningKey::from_seed(seed), ephemeral)
    }

    fn name(&self, log: &AuditLog, number: u32) -> String {
        self.trail.name(&ObjectKey::Audit(log.writer(), number))
    }

    async fn bytes(&self, name: &str) -> Bytes {
        self.store.get(name, None).await.expect("an object")
    }

    async fn replace(&self, name: &str, bytes: Bytes) {
        self.store.delete(name).await.expect("deleted");
        self.store.put(name, Body::new(bytes)).await.expect("put");
    }

    /// What verifying finds: the kinds, with the number of the batch.
    async fn findings(&self, known: &[Head]) -> Vec<(FindingKind, Option<u32>)> {
        let report = verify(&self.trail, known, &[]).await.expect("verified");
        let found = report.findings.iter();
        found
            .map(|finding| (finding.kind, finding.number))
            .collect()
    }
}

fn event(reason: &str) -> Event {
    let actor = Actor::of_this_process(Some("Ann".to_owned()), "walvault 1");
    Event::new(&actor, Action::Restore, Outcome::Begun).because(Some(reason.to_owned()))
}

/// Three batches of one writer, and the first of another who saw the second of them.
async fn two_chains(world: &World) -> (AuditLog, AuditLog, Vec<Head>) {
    let (one, _) = world.writer(false);
    let (two, _) = world.writer(false);
    let mut heads = Vec::new();
    for number in 0..3 {
        heads.push(one.append(&[event("one")], false).await.expect("stored"));
        if number == 1 {
            let _ = two.append(&[event("two")], false).await.expect("stored");
        }
    }
    assert_eq!(world.findings(&[]).await, []);
    (one, two, heads)
}

#[tokio::test]
async fn a_chain_is_gone_on_with_by_who_has_its_key_and_read_by_its_recipients_alone() {
    let world = World::new().await;
    let (log, seed) = world.writer(false);
    for number in 1..=3 {
        // Another process each time.
        let log = if number == 1 {
            log.clone()
        } else {
            world.log(&seed, false)
        };
        let head = log.append(&[event("again")], false).await.expect("stored");
        assert_eq!(
            (head.number, head.writer),
            (number, log.writer().to_string())
        );
    }
    // Two at once, with the same key.
    let (left, right) = (world.log(&seed, false), world.log(&seed, false));
    for log in [&left, &right, &left, &right] {
        let _ = log
            .append(&[event("at once")], false)
            .await
            .expect("stored");
    }
    let report = verify(&world.trail, &[], &[]).await.expect("verified");
    assert!(report.findings.is_empty(), "{report:?}");
    assert_eq!(
        (report.chains[0].head.number, report.chains[0].events),
        (7, 7)
    );
    let events = read_all(&world.trail).await.expect("read");
    assert_eq!(events.len(), 7);
    assert_eq!(events[0].event.reason.as_deref(), Some("again"));
    assert_eq!(events[0].event.operator, "Ann");

    // Who reads data reads no events, and the other way round.
    let data = world
        .trail
        .within(world.store.clone(), access(KeyPurpose::Data, 1));
    let refused = read_all(&data).await.expect_err("refused");
    assert!(matches!(refused, Error::Key(_)), "{refused}");
    let sealer = data.sealer(Codec::None).await;
    assert!(
        sealer.is_ok(),
        "the trail's data key is not taken for one of data"
    );
    let epochs = data.keyring().epochs().await.expect("listed");
    assert_eq!(epochs.len(), 1);
    assert!(world.trail.keyring().get(epochs[0].id).await.is_err());
}

#[tokio::test]
async fn an_event_that_was_edited_is_found() {
    let world = World::new().await;
    let (one, _, _) = two_chains(&world).await;
    let name = world.name(&one, 2);
    let bytes = world.bytes(&name).await;
    for at in (64..bytes.len()).step_by(97) {
        let mut altered = bytes.to_vec();
        altered[at] ^= 1;
        world.replace(&name, altered.into()).await;
        assert_eq!(
            world.findings(&[]).await,
            [(FindingKind::Altered, Some(2))],
            "{at}"
        );
    }
    // By who has the trail's data key, and another key to sign with.
    let key = ObjectKey::Audit(one.writer(), 2);
    let forger = SigningKey::ephemeral().expect("a key");
    let previous = footer_digest(&world.bytes(&world.name(&one, 1)).await);
    let forged = Batch::new(
        one.writer(),
        (2, Some(previous)),
        Vec::new(),
        vec![event("never")],
    );
    let forged = forged.sign(&forger, &world.trail.id());
    let seal = async |payload: Vec<u8>| {
        let sealer = world.trail.sealer(Codec::None).await.expect("a sealer");
        let pieces = [Bytes::from(payload)];
        let sealed = sealer.seal(
            walvault_archive::archive::kind_of(&key),
            &name,
            &pieces,
            b"",
        );
        sealed.expect("sealed").body.bytes
    };
    world.replace(&name, seal(forged.clone()).await).await;
    let found = world.findings(&[]).await;
    assert_eq!(found[0], (FindingKind::Signature, Some(2)), "{found:?}");
    // And in the name of the key that is right.
    let text = String::from_utf8(forged).expect("JSON");
    let named = text.replace(&forger.public().to_string(), &public(&world, &one).await);
    world.replace(&name, seal(named.into_bytes()).await).await;
    let found = world.findings(&[]).await;
    assert_eq!(found[0], (FindingKind::Signature, Some(2)), "{found:?}");
}

async fn public(world: &World, log: &AuditLog) -> String {
    let report = verify(&world.trail, &[], &[]).await.expect("verified");
    let ours = |chain: &&ChainReport| chain.head.writer == log.writer().to_string();
    let chain = report.chains.iter().find(ours).expect("the chain");
    chain.public_key.clone().expect("a key")
}

#[tokio::test]
async fn a_batch_that_was_removed_reordered_or_replayed_is_found() {
    let world = World::new().await;
    let (one, two, heads) = two_chains(&world).await;
    let [first, second, third] = [1, 2, 3].map(|number| world.name(&one, number));
    let bytes = world.bytes(&second).await;
    world.store.delete(&second).await.expect("deleted");
    assert_eq!(world.findings(&[]).await, [(FindingKind::Removed, Some(2))]);
    // In its place the one before it, or another chain's.
    for other in [&first, &world.name(&two, 1)] {
        let other = world.bytes(other).await;
        world
            .store
            .put(&second, Body::new(other))
            .await
            .expect("put");
        assert_eq!(world.findings(&[]).await, [(FindingKind::Altered, Some(2))]);
        world.store.delete(&second).await.expect("deleted");
    }
    world
        .store
        .put(&second, Body::new(bytes))
        .await
        .expect("put");
    let last = world.bytes(&third).await;
    let middle = world.bytes(&second).await;
    world.replace(&second, last).await;
    world.replace(&third, middle).await;
    let found = world.findings(&[]).await;
    assert_eq!(
        found,
        [
            (FindingKind::Altered, Some(2)),
            (FindingKind::Altered, Some(3))
        ]
    );
    assert_eq!(heads[2].number, 3);
}

#[tokio::test]
async fn a_chain_that_was_cut_short_is_told_by_whoever_saw_it() {
    let world = World::new().await;
    let (one, two, heads) = two_chains(&world).await;
    // Nobody in the archive saw the third: a head that was noted elsewhere tells.
    world
        .store
        .delete(&world.name(&one, 3))
        .await
        .expect("deleted");
    assert_eq!(world.findings(&[]).await, []);
    assert_eq!(
        world.findings(&heads).await,
        [(FindingKind::CutShort, Some(3))]
    );
    // The other writer saw the second.
    world
        .store
        .delete(&world.name(&one, 2))
        .await
        .expect("deleted");
    assert_eq!(
        world.findings(&[]).await,
        [(FindingKind::CutShort, Some(2))]
    );
    world
        .store
        .delete(&world.name(&one, 1))
        .await
        .expect("deleted");
    assert_eq!(
        world.findings(&[]).await,
        [(FindingKind::CutShort, Some(2))]
    );
    drop(two);
}

/// By the holder of the key, who signs another history from the second batch on.
#[tokio::test]
async fn a_history_that_its_own_writer_rewrote_is_told_by_whoever_saw_it() {
    let world = World::new().await;
    let (one, seed) = world.writer(false);
    for _ in 0..2 {
        let _ = one.append(&[event("true")], false).await.expect("stored");
    }
    let (two, _) = world.writer(false);
    let _ = two
        .append(&[event("a witness")], false)
        .await
        .expect("stored");
    world
        .store
        .delete(&world.name(&one, 2))
        .await
        .expect("deleted");
    let again = world.log(&seed, false);
    let _ = again
        .append(&[event("untrue")], false)
        .await
        .expect("stored");
    assert_eq!(
        world.findings(&[]).await,
        [(FindingKind::Replaced, Some(2))]
    );
}

#[tokio::test]
async fn keys_that_nobody_vouched_for_and_chains_without_an_end_are_told() {
    let world = World::new().await;
    let (one, _) = world.writer(true);
    let _ = one.append(&[event("begun")], false).await.expect("stored");
    let report = verify(&world.trail, &[], &[]).await.expect("verified");
    assert!(report.chains[0].open && report.findings.is_empty());
    let _ = one.append(&[event("ended")], true).await.expect("stored");
    let known = [SigningKey::ephemeral().expect("a key").public()];
    let report = verify(&world.trail, &[], &known).await.expect("verified");
    assert!(!report.chains[0].open);
    assert_eq!(report.findings[0].kind, FindingKind::Unvouched);
    assert_eq!(
        AuditWriter::parse(&report.chains[0].head.writer),
        Some(one.writer())
    );
}

#[tokio::test]
async fn what_lies_there_untold_is_found() {
    let world = World::new().await;
    let (log, _) = world.writer(false);
    let actor = Actor::of_this_process(None, "walvaultd 1");
    let id = walvault_layout::BackupId::new(jiff::Timestamp::now(), 1);
    let later = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(5);
    let untold = walvault_layout::BackupId::new(later, 2);
    let begun = Event::new(&actor, Action::RunStarted, Outcome::Succeeded);
    let fence = Event::new(&actor, Action::FenceTaken, Outcome::Succeeded).with("epoch", 1);
    let told = Event::new(&actor, Action::Backup, Outcome::Succeeded).backup(&id);
    let _ = log
        .append(&[begun, fence, told], false)
        .await
        .expect("stored");
    for key in [
        ObjectKey::BackupRecord(id),
        ObjectKey::BackupRecord(untold),
        ObjectKey::Writer(1),
        ObjectKey::Writer(2),
    ] {
        let name = world.trail.name(&key);
        let put = world.store.put(&name, Body::new(Bytes::from_static(b"x")));
        put.await.expect("put");
    }
    let found = world.findings(&[]).await;
    assert_eq!(found, [(FindingKind::Unrecorded, None); 2]);
}

#[tokio::test]
async fn a_local_chain_is_brought_home_once() {
    let world = World::new().await;
    let elsewhere: SharedStore = Arc::new(MemoryStore::new());
    let local = world
        .trail
        .within(elsewhere.clone(), access(KeyPurpose::Audit, 2));
    let key = SigningKey::ephemeral().expect("a key");
    let log = AuditLog::new(local.clone(), key, false);
    for _ in 0..2 {
        let _ = log.append(&[event("away")], false).await.expect("stored");
    }
    let imported = import::import(&local, &world.trail)
        .await
        .expect("imported");
    assert_eq!((imported.batches, imported.known, imported.keys), (2, 0, 1));
    let _ = log.append(&[event("away")], false).await.expect("stored");
    let imported = import::import(&local, &world.trail)
        .await
        .expect("imported");
    assert_eq!((imported.batches, imported.known, imported.keys), (1, 2, 0));
    assert_eq!(world.findings(&[]).await, []);
    assert_eq!(read_all(&world.trail).await.expect("read").len(), 3);

    // A host whose word nobody takes brings no data key that data could be sealed under.
    let stranger = world.trail.within(elsewhere, access(KeyPurpose::Data, 2));
    let _ = stranger.keyring().rotate().await.expect("a data key");
    let imported = import::import(&local, &world.trail)
        .await
        .expect("imported");
    assert_eq!((imported.keys, imported.left_out), (0, 1));

    // Something else in a batch's place is not overwritten.
    let name = world.name(&log, 1);
    world.replace(&name, Bytes::from_static(b"other")).await;
    let refused = import::import(&local, &world.trail)
        .await
        .expect_err("refused");
    assert!(refused.to_string().contains(&name), "{refused}");
}
