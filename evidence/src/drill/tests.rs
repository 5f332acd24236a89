use std::sync::Arc;

use walvault_archive::keys::KmsSettings;
use walvault_archive::keys::{
    Identity, KeyAccess, KeyFile, KeyPurpose, Recipient, RotationPolicy, Secret, SigningKey,
};
use walvault_archive::record::{DrillObjectives, DrillOutcome, DrillTarget};
use walvault_protocol::{SegmentSize, SystemId};
use walvault_store::memory::MemoryStore;
use walvault_store::{Body, SharedStore, StoreError};

use super::*;
use crate::audit::import::import;

fn access(purpose: KeyPurpose, byte: u8) -> KeyAccess {
    let secret = zeroize::Zeroizing::new([byte; 32]);
    let file = Arc::new(KeyFile::from_secret(Secret::from_bytes(&secret)));
    KeyAccess::serving(
        purpose,
        vec![Recipient::KeyFile(file.clone())],
        vec![Identity::KeyFile(file)],
        KmsSettings::default(),
        RotationPolicy {
            after: std::time::Duration::ZERO,
            after_bytes: 0,
        },
    )
}

/// An archive for one key file, and the trail in it for another.
async fn world(store: &SharedStore) -> (Archive, Archive) {
    let keys = access(KeyPurpose::Data, 1);
    let archive = Archive::open_or_begin(store.clone(), keys, SystemId(7), SegmentSize::DEFAULT);
    let archive = archive.await.expect("an archive");
    let trail = archive.within(store.clone(), access(KeyPurpose::Audit, 2));
    (archive, trail)
}

fn record(second: &str, scenario: &str, passed: bool) -> DrillRecord {
    let started: jiff::Timestamp = second.parse().expect("a time");
    DrillRecord {
        version: 1,
        id: DrillId::new(started, scenario, passed, 0x9f3c).expect("a name"),
        scenario: scenario.to_owned(),
        outcome: DrillOutcome::of(passed),
        error: None,
        started,
        ended: started,
        seconds: 1.5,
        host: "db1".to_owned(),
        operator: "Ann".to_owned(),
        reason: None,
        program: "walvault 1".to_owned(),
        postgres: None,
        archive: "memory:".to_owned(),
        identities: Vec::new(),
        backup: None,
        target: DrillTarget::default(),
        reached: None,
        steps: Vec::new(),
        checks: Vec::new(),
        canary: None,
        measured: walvault_archive::record::DrillMeasures::default(),
        objectives: DrillObjectives::default(),
    }
}

fn log(trail: &Archive) -> AuditLog {
    AuditLog::new(trail.clone(), SigningKey::ephemeral().expect("a key"), true)
}

#[tokio::test]
async fn a_record_is_read_by_auditors_alone_and_its_name_tells_the_rest() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (archive, trail) = world(&store).await;
    let log = log(&trail);
    let late = record("2026-11-21T06:30:00Z", "key-loss", false);
    let early = record("2026-10-21T06:30:00Z", "site-loss", true);
    for record in [&late, &early] {
        super::store(&log, record).await.expect("stored");
    }
    let again = super::store(&log, &late).await;
    assert!(matches!(
        again,
        Err(Error::Store(StoreError::Exists { .. }))
    ));

    let ids = list(&archive).await.expect("listed");
    assert_eq!(ids, [early.id.clone(), late.id.clone()]);
    assert_eq!((ids[0].passed(), ids[1].scenario()), (true, "key-loss"));
    let signed = open(&trail, &late.id).await.expect("opened");
    assert_eq!(signed.record, late);
    assert_eq!(signed.public_key.writer(), log.writer());
    let refused = open(&archive, &late.id)
        .await
        .expect_err("not for data keys");
    assert!(refused.is_withheld(), "{refused}");
}

#[tokio::test]
async fn a_record_that_was_altered_or_renamed_is_refused() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (_, trail) = world(&store).await;
    let failed = record("2026-11-21T06:30:00Z", "key-loss", false);
    let stored = super::store(&log(&trail), &failed).await.expect("stored");
    let passed = DrillId::new(failed.started, "key-loss", true, 0x9f3c).expect("a name");
    let bytes = store.get(&stored.name, None).await.expect("there");
    let name = trail.name(&ObjectKey::Drill(passed.clone()));
    store.put(&name, Body::new(bytes)).await.expect("put");
    let refused = open(&trail, &passed).await.expect_err("renamed");
    assert!(matches!(refused, Error::Corrupt { .. }), "{refused}");

    // Whoever can seal, but does not sign.
    let text = String::from_utf8(sign(
        &failed,
        &SigningKey::ephemeral().expect("a key"),
        &trail.id(),
    ));
    let text = text.expect("text").replace("Ann", "Bob");
    let refused = check(text.as_bytes(), &trail.id(), &failed.id).expect_err("altered");
    assert!(refused.contains("signature"), "{refused}");
    let other = sign(&failed, &SigningKey::ephemeral().expect("a key"), &[0; 16]);
    assert!(
        check(&other, &trail.id(), &failed.id).is_err(),
        "another archive's"
    );
}

#[tokio::test]
async fn what_was_kept_elsewhere_is_brought_home() {
    let store: SharedStore = Arc::new(MemoryStore::new());
    let (archive, trail) = world(&store).await;
    let local: SharedStore = Arc::new(MemoryStore::new());
    let there = archive.within(local, access(KeyPurpose::Audit, 2));
    let kept = record("2026-11-21T06:30:00Z", "system-failure", true);
    super::store(&log(&there), &kept).await.expect("stored");
    assert_eq!(list(&archive).await.expect("listed"), []);
    for drills in [1, 0] {
        let imported = import(&there, &archive).await.expect("imported");
        assert_eq!(imported.drills, drills);
    }
    assert_eq!(open(&trail, &kept.id).await.expect("opened").record, kept);
}
