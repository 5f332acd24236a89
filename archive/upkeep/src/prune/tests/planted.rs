//! Names that somebody planted decide about nothing; what opens does.

use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::archive::{Archive, wal_key};
use walvault_archive::keep;
use walvault_archive::keys::{
    AgeIdentity, Identity, KeyAccess, KeyFile, Recipient, RotationPolicy, Secret, SigningKey, Trust,
};
use walvault_archive::record::KeepChange;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, SystemId, TimelineId};
use walvault_store::{Body, MemoryStore, ObjectStore, Quorum, Replicas};

use super::history::SEGMENT;
use super::*;
use crate::prune::{Asked, PruneError};

fn tli(id: u32) -> TimelineId {
    TimelineId::new(id).expect("not zero")
}

fn segment(number: u64) -> LsnRange {
    LsnRange::new(Lsn(number * SEGMENT), Lsn((number + 1) * SEGMENT))
}

/// Puts what does not open under the name of `key`, in place of what is there.
async fn plant(store: &dyn ObjectStore, archive: &Archive, key: &ObjectKey) {
    let name = archive.name(key);
    store.delete(&name).await.expect("removed");
    let body = Body::new(Bytes::from_static(b"planted"));
    store.put(&name, body).await.expect("planted");
}

async fn seal(archive: &Archive, key: &ObjectKey) {
    let payload = Bytes::from_static(b"x");
    archive.put_payload(key, payload).await.expect("stored");
}

fn superseded(plan: &PrunePlan) -> usize {
    let chunks = plan.orphans.iter();
    chunks
        .filter(|orphan| orphan.kind == OrphanKind::SupersededChunk)
        .count()
}

#[tokio::test]
async fn no_chunk_goes_for_the_sake_of_a_name() {
    let mut history = history([Event::Backup(false), Event::Wal(1)]).await;
    // Of the segment that was begun last.
    let (chunk, unit) = (900 * SEGMENT, wal_key(tli(1), segment(900), true));
    let chunk = LsnRange::new(Lsn(chunk), Lsn(chunk + 0x1000));
    seal(&history.archive, &wal_key(tli(1), chunk, false)).await;
    plant(&**history.archive.store(), &history.archive, &unit).await;
    history.happen(Event::Hours(49)).await.expect("it holds");
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(superseded(&plan), 0, "{:?}", plan.orphans);

    let name = history.archive.name(&unit);
    history.archive.store().delete(&name).await.expect("gone");
    seal(&history.archive, &unit).await;
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(superseded(&plan), 1, "what opens supersedes it");
}

#[tokio::test]
async fn a_chunk_stays_until_its_segment_opens_in_every_replica() {
    let stores = [(); 2].map(|()| Arc::new(MemoryStore::new()));
    let long_ago: jiff::Timestamp = "2026-01-01T12:00:00Z".parse().expect("a time");
    for store in &stores {
        store.set_time(long_ago);
    }
    let replicas = stores.iter().map(|store| store.clone() as _).collect();
    let replicas = Replicas::new(replicas, Quorum::All, walvault_archive::seal::reads_whole);
    let key = KeyFile::from_secret(Secret::generate().expect("random bits"));
    let size = SegmentSize::new(SEGMENT).expect("a size");
    let archive = Archive::open_or_begin(Arc::new(replicas), vec![key], SystemId(1), size)
        .await
        .expect("an archive");
    let unit = wal_key(tli(1), segment(3), true);
    let chunk = LsnRange::new(Lsn(3 * SEGMENT), Lsn(3 * SEGMENT + 0x1000));
    seal(&archive, &unit).await;
    seal(&archive, &wal_key(tli(1), chunk, false)).await;
    let asked = Asked {
        policy: RetentionPolicy::default(),
        now: long_ago + 49 * jiff::SignedDuration::from_hours(1),
        store_now: None,
        ignore_clock: false,
        share: None,
    };
    assert_eq!(
        superseded(&plan(&archive, &asked).await.expect("a plan")),
        1
    );
    // Here it is only a name, and there it is not at all.
    let [one, two] = &stores;
    plant(&**one, &archive, &unit).await;
    assert_eq!(
        superseded(&plan(&archive, &asked).await.expect("a plan")),
        0
    );
    for store in [one, two] {
        store.delete(&archive.name(&unit)).await.expect("removed");
    }
    seal(&archive.each()[0], &unit).await;
    assert_eq!(
        superseded(&plan(&archive, &asked).await.expect("a plan")),
        0
    );
}

/// A backup, one that the promotion left behind, and the timeline that began between them.
async fn promoted() -> History {
    use Event::{Backup, Fork, Hours, Wal};
    history([
        Backup(false),
        Wal(3),
        Hours(1),
        Backup(false),
        Fork(3),
        Wal(1),
        Hours(49),
    ])
    .await
}

#[tokio::test]
async fn names_of_a_timeline_that_never_was_free_no_backup() {
    let history = promoted().await;
    let goes = |plan: &PrunePlan| {
        plan.backups
            .iter()
            .map(|fate| fate.goes)
            .collect::<Vec<_>>()
    };
    let before = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(
        goes(&before),
        [false, false],
        "one leads to the newest timeline"
    );
    let store = &**history.archive.store();
    for number in 0..3 {
        let key = wal_key(tli(999), segment(number), true);
        plant(store, &history.archive, &key).await;
    }
    plant(store, &history.archive, &ObjectKey::History(tli(999))).await;
    let after = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(goes(&after), goes(&before));
    assert_eq!(after.removals.count(), before.removals.count());
}

#[tokio::test]
async fn a_timeline_that_exists_and_has_no_history_that_opens_stops_a_prune() {
    let history = promoted().await;
    let key = ObjectKey::History(tli(2));
    let store = &**history.archive.store();
    plant(store, &history.archive, &key).await;
    for _ in 0..2 {
        let refused = history.try_plan(&last(1), false).await.expect_err("stops");
        let PruneError::Unreadable { object, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(object, "wal/00000002.history");
        store.delete(&object).await.expect("removed");
    }
}

/// Hosts that have one public key and its identity, each with a writer's key of its own.
struct Hosts {
    folder: tempfile::TempDir,
    public: String,
}

impl Hosts {
    fn new() -> Hosts {
        let folder = tempfile::tempdir().expect("a directory");
        let public = AgeIdentity::generate(&folder.path().join("identity")).expect("a pair");
        Hosts { folder, public }
    }

    /// Another writer each time.
    fn another(&self) -> KeyAccess {
        let recipient = Recipient::parse(&self.public).expect("a recipient");
        let identities = Identity::read(&self.folder.path().join("identity"));
        let rotation = RotationPolicy {
            after: std::time::Duration::ZERO,
            after_bytes: 0,
        };
        let trust = Trust {
            signing_key: Some(SigningKey::ephemeral().expect("random bits")),
            writers: Vec::new(),
        };
        let identities = identities.expect("an identity");
        KeyAccess::trusting(vec![recipient], identities, rotation, trust)
    }
}

/// Whoever has the public key and may put can seal what opens. Nobody signed it whom this host knows.
#[tokio::test]
async fn forged_backups_count_for_nothing_and_release_no_hold() {
    use Event::{Backup, Hours, Wal};
    let hosts = Hosts::new();
    let mut history = History::begin_with(hosts.another()).await;
    for event in [
        Backup(false),
        Wal(2),
        Hours(24),
        Backup(false),
        Wal(1),
        Hours(24),
    ] {
        history.happen(event).await.expect("it holds");
    }
    let genuine = history.ids();
    let hold = KeepChange::Hold {
        reason: "case 7".to_owned(),
        until: None,
    };
    let number = keep::say(&history.archive, &genuine[0], "somebody", hold).await;
    let number = number.expect("said");

    let honest = history.seal_with(hosts.another());
    // It does not begin beside what it does not know: so does who forges with a sealer alone.
    let release = KeepChange::Release { hold: number };
    assert!(
        keep::say(&history.archive, &genuine[0], "forger", release.clone())
            .await
            .is_err()
    );
    let forger = hosts.another();
    let forger = KeyAccess::trusting(
        forger.recipients().to_vec(),
        Vec::new(),
        forger.rotation(),
        Trust {
            signing_key: Some(SigningKey::ephemeral().expect("random bits")),
            writers: Vec::new(),
        },
    );
    let _ = history.seal_with(forger);
    keep::say(&history.archive, &genuine[0], "forger", release)
        .await
        .expect("said");
    for _ in 0..3 {
        for event in [Backup(false), Hours(1)] {
            history.happen(event).await.expect("it holds");
        }
    }
    let _ = history.seal_with(honest);
    let plan = history.plan(&last(1)).await.expect("a plan");
    let fates: Vec<_> = plan
        .backups
        .iter()
        .map(|fate| (fate.id.clone(), fate.goes))
        .collect();
    assert_eq!(
        fates,
        [(genuine[0].clone(), false), (genuine[1].clone(), false)]
    );
}

/// Whoever seals what a host puts in the place of a history stops no prune, and frees nothing either.
#[tokio::test]
async fn a_forged_history_of_a_timeline_that_exists_keeps_what_may_lead_there() {
    use Event::{Backup, Fork, Hours, Wal};
    let hosts = Hosts::new();
    let mut history = History::begin_with(hosts.another()).await;
    let day = [Backup(false), Wal(3), Hours(24)];
    let fork = [Backup(false), Fork(3), Wal(1), Hours(49)];
    for event in day.iter().chain(&day).chain(&fork).cloned() {
        history.happen(event).await.expect("it holds");
    }
    let goes = |plan: &PrunePlan| {
        plan.backups
            .iter()
            .map(|fate| fate.goes)
            .collect::<Vec<_>>()
    };
    let before = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(goes(&before), [true, false, false]);

    let key = ObjectKey::History(tli(2));
    let name = history.archive.name(&key);
    let genuine = history.archive.get(&key).await.expect("a history").payload;
    history.archive.store().delete(&name).await.expect("gone");
    let forger = KeyAccess::trusting(
        hosts.another().recipients().to_vec(),
        Vec::new(),
        hosts.another().rotation(),
        Trust {
            signing_key: Some(SigningKey::ephemeral().expect("random bits")),
            writers: Vec::new(),
        },
    );
    let honest = history.seal_with(forger);
    let forged = history.archive.put_payload(&key, genuine.into()).await;
    forged.expect("stored");
    let _ = history.seal_with(honest);
    let after = history.try_plan(&last(1), false).await.expect("a plan");
    assert_eq!(goes(&after), [false, false, false]);
    let rule = Rule::HistoryUnread { timeline: tli(2) };
    assert!(after.backups[0].kept_by.contains(&rule), "{after:?}");
    assert!(after.removals.wal.is_empty(), "{after:?}");
}

/// Where a writer is forgotten, what it sealed is foreign: then it is not shown, and not removed either.
#[tokio::test]
async fn what_is_foreign_is_not_removed() {
    use Event::{Backup, Hours, Wal};
    let hosts = Hosts::new();
    let mut history = History::begin_with(hosts.another()).await;
    for event in [Backup(false), Wal(2), Hours(24)] {
        history.happen(event).await.expect("it holds");
    }
    let sealer = hosts.another();
    let key = SigningKey::ephemeral().expect("random bits");
    let next = Trust {
        writers: vec![key.public()],
        ..Trust::default()
    };
    let signing = Trust {
        signing_key: Some(key),
        writers: Vec::new(),
    };
    let recipients = sealer.recipients().to_vec();
    let rotation = sealer.rotation();
    let sealer = KeyAccess::trusting(recipients.clone(), Vec::new(), rotation, signing);
    let _ = history.seal_with(sealer);
    for event in [Wal(1), Backup(false), Wal(1), Hours(49)] {
        history.happen(event).await.expect("it holds");
    }
    let identities = Identity::read(&hosts.folder.path().join("identity")).expect("one");
    let reader = KeyAccess::trusting(recipients, identities, rotation, next);
    let _ = history.seal_with(reader);
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert_eq!(plan.backups.len(), 1, "{:?}", plan.backups);
    let foreign = plan
        .wal
        .iter()
        .filter(|fate| fate.because == WalReason::Foreign);
    assert!(
        foreign.map(|fate| fate.objects).sum::<u64>() >= 3,
        "{:?}",
        plan.wal
    );
    let of_the_next = plan.removals.wal.len();
    assert_eq!(of_the_next, 1, "{:?}", plan.removals.wal);
}

#[tokio::test]
async fn a_schedule_removes_no_more_at_once_than_it_may() {
    use Event::{Backup, Hours};
    let day = [Backup(false), Hours(24)];
    let history = history([day.clone(), day.clone(), day.clone(), day].concat()).await;
    let asked = |share| Asked {
        policy: last(1),
        now: history.now(),
        store_now: None,
        ignore_clock: false,
        share,
    };
    let refused = plan(&history.archive, &asked(Some(0.5))).await;
    assert!(matches!(
        refused,
        Err(PruneError::TooMuch {
            going: 3,
            all: 4,
            ..
        })
    ));
    for share in [Some(0.75), None] {
        let plan = plan(&history.archive, &asked(share)).await.expect("a plan");
        assert_eq!(plan.backups.iter().filter(|fate| fate.goes).count(), 3);
    }
}
