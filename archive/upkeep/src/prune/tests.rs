//! Random histories, pruned again and again, held against a plain model.

mod history;
mod leases;
mod model;
mod planted;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::lock::Lock;
use history::{Event, History};
use walvault_archive::keep;
use walvault_archive::record::{KeepChange, PruneRecord};
use walvault_layout::LOCKS_PREFIX;

const DAY: Duration = Duration::from_secs(86_400);

fn policies() -> impl Strategy<Value = RetentionPolicy> {
    let none = RetentionPolicy::default;
    prop_oneof![
        Just(none()),
        (1u32..4).prop_map(move |n| RetentionPolicy {
            keep_last: Some(n),
            ..none()
        }),
        (1u32..5).prop_map(move |n| RetentionPolicy {
            daily: Some(n),
            weekly: Some(2),
            ..none()
        }),
        (1u32..6).prop_map(move |n| RetentionPolicy {
            window: Some(n * DAY),
            ..none()
        }),
        (1u32..4, 1u32..6).prop_map(move |(n, days)| RetentionPolicy {
            keep_last: Some(n + 2),
            window: Some(n * DAY),
            wal_window: Some(days * DAY),
            ..none()
        }),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1u64..4).prop_map(Event::Wal),
        4 => any::<bool>().prop_map(Event::Backup),
        3 => (1u64..50).prop_map(Event::Hours),
        1 => (0u64..6).prop_map(Event::Fork),
        1 => (1u64..4).prop_map(Event::Gap),
        1 => any::<prop::sample::Index>().prop_map(Event::Keep),
        1 => Just(Event::Unfinished),
        1 => Just(Event::Chunk),
        3 => (policies(), prop::option::of(0i64..12))
            .prop_map(|(policy, crash_after)| Event::Prune(policy, crash_after)),
    ];
    prop::collection::vec(event, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// After every prune, cut off or not, each backup still listed has all it needs, and nothing
    /// that the policy or the operator promised is gone.
    #[test]
    fn what_is_listed_restores_and_what_was_promised_stays(events in events()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut history = History::begin().await;
            for event in events {
                history.happen(event).await?;
            }
            // Whatever was cut off, one prune that runs to its end leaves no garbage.
            history.happen(Event::Hours(49)).await?;
            let policy = RetentionPolicy { keep_last: Some(1), ..RetentionPolicy::default() };
            history.happen(Event::Prune(policy.clone(), None)).await?;
            let again = history.plan(&policy).await?;
            prop_assert!(again.removals.is_empty(), "left over: {:?}", again.removals);
            Ok(())
        })?;
    }
}

async fn history(events: impl IntoIterator<Item = Event>) -> History {
    let mut history = History::begin().await;
    for event in events {
        history.happen(event).await.expect("it holds");
    }
    history
}

fn last(count: u32) -> RetentionPolicy {
    RetentionPolicy {
        keep_last: Some(count),
        ..RetentionPolicy::default()
    }
}

/// As on a store that ignores `If-None-Match`: both have planned, and both remove.
#[tokio::test]
async fn two_that_prune_at_once_remove_no_more_than_one() {
    use Event::{Backup, Hours, Wal};
    let begin = || async {
        let day = [Backup(false), Wal(2), Hours(24)];
        let days = day.iter().cloned().cycle().take(12);
        history(days.chain([Backup(false)])).await
    };
    let names = |history: &History| {
        let archive = history.archive.clone();
        async move {
            let listed = archive.list("").await.expect("listed");
            let lasting = |key: &ObjectKey| {
                !matches!(
                    key,
                    ObjectKey::Pruned(_) | ObjectKey::Lock(_) | ObjectKey::Key(..)
                )
            };
            let keys = listed.into_iter().map(|object| object.key);
            // Names of backups are given by chance: they are told by their order.
            let keys = keys.filter(lasting).map(|key| archive.name(&key));
            keys.filter(|name| !name.starts_with("backups/"))
                .collect::<BTreeSet<String>>()
        }
    };
    let alone = begin().await;
    let plan = alone.plan(&last(2)).await.expect("a plan");
    let mut lock = Lock::take(&alone.archive, "one", Duration::ZERO)
        .await
        .expect("the lock");
    apply(&alone.archive, &plan, &mut lock, "one")
        .await
        .expect("pruned");

    let shared = begin().await;
    let lock = || Lock::take(&shared.archive, "both", Duration::ZERO);
    let mut first = lock().await.expect("the lock");
    // What the other does not see.
    for object in shared.archive.list(LOCKS_PREFIX).await.expect("listed") {
        shared.archive.delete(&object.key).await.expect("removed");
    }
    let mut second = lock().await.expect("the lock, again");
    let plans = [
        shared.plan(&last(2)).await.expect("a plan"),
        shared.plan(&last(2)).await.expect("a plan"),
    ];
    let (one, other) = tokio::join!(
        apply(&shared.archive, &plans[0], &mut first, "one"),
        apply(&shared.archive, &plans[1], &mut second, "other"),
    );
    one.expect("pruned");
    other.expect("pruned as well");
    assert_eq!(names(&shared).await, names(&alone).await);
    assert_eq!(
        shared
            .plan(&last(2))
            .await
            .expect("a plan")
            .removals
            .count(),
        0
    );
    let catalog = walvault_archive::Catalog::load(&shared.archive)
        .await
        .expect("read");
    assert_eq!(catalog.backups().len(), 2);
}

#[tokio::test]
async fn the_plan_says_which_rule_keeps_or_frees_each_thing() {
    use Event::{Backup, Hours, Wal};
    let history = history([
        Backup(false),
        Wal(2),
        Hours(24),
        Backup(false),
        Wal(1),
        Hours(24),
        Backup(false),
    ])
    .await;
    let [first, second, third] = &history.ids()[..] else {
        panic!("three backups")
    };
    keep::say(
        &history.archive,
        second,
        "somebody",
        KeepChange::Hold {
            reason: "case 7".to_owned(),
            until: None,
        },
    )
    .await
    .expect("said");
    let plan = history.plan(&last(1)).await.expect("a plan");
    let fates: Vec<_> = plan
        .backups
        .iter()
        .map(|fate| (&fate.id, fate.goes))
        .collect();
    assert_eq!(fates, [(first, true), (second, false), (third, false)]);
    assert_eq!(
        plan.backups[0].freed_by.as_deref(),
        Some("not among the last 1")
    );
    assert_eq!(plan.backups[1].kept_by[0].to_string(), "hold 1 (case 7)");
    assert_eq!(plan.backups[2].kept_by, [Rule::KeepLast, Rule::Newest]);
    assert_eq!(plan.wal[0].because, WalReason::BeforeFirstBackup);
    let needed = WalReason::Needed {
        backup: second.clone(),
    };
    assert_eq!(plan.wal[1].because, needed);
    // Planning touched nothing.
    assert_eq!(history.ids().len(), 3);
    let gone: BTreeSet<_> = plan.removals.records.iter().map(|(id, _)| id).collect();
    assert_eq!(gone, BTreeSet::from([first]));
}

#[tokio::test]
async fn what_a_backup_under_way_may_need_stays_until_nobody_goes_on_with_it() {
    use Event::{Backup, Fork, Hours, Unfinished, Wal};
    let mut history = history([
        Backup(false),
        Wal(4),
        // What timeline 1 wrote behind the fork leads nowhere, and the first backup goes.
        Fork(2),
        Wal(1),
        Backup(false),
        Hours(2),
        Unfinished,
        Hours(23),
    ])
    .await;
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert!(plan.removals.wal.is_empty(), "{:?}", plan.removals.wal);
    let stays = |fate: &&WalFate| fate.because == WalReason::BackupUnderWay;
    assert!(plan.wal.iter().any(|fate| stays(&fate)), "{:?}", plan.wal);
    assert!(plan.orphans.is_empty());
    history.happen(Hours(2)).await.expect("it holds");
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert!(!plan.wal.iter().any(|fate| stays(&fate)), "{:?}", plan.wal);
    assert!(!plan.removals.wal.is_empty());
    assert_eq!(plan.orphans.len(), 1);
}

/// Prunes, and says what that did.
async fn pruned(history: &History, policy: &RetentionPolicy) -> PruneReport {
    let plan = history.plan(policy).await.expect("a plan");
    let mut lock = Lock::take(&history.archive, "test", Duration::ZERO)
        .await
        .expect("nobody else has it");
    let report = apply(&history.archive, &plan, &mut lock, "test").await;
    lock.release().await.expect("released");
    report.expect("pruned")
}

#[tokio::test]
async fn what_stays_is_locked_for_longer_and_what_goes_is_not() {
    use Event::{Backup, Hours, Wal};
    let mut history = History::begin().await;
    history.lock_for(10 * DAY);
    for event in [Wal(2), Backup(false), Wal(1), Hours(6 * 24), Backup(false)] {
        history.happen(event).await.expect("it holds");
    }
    let report = pruned(&history, &last(2)).await;
    // What lies before the first backup goes, but not yet.
    assert_eq!((report.objects, report.locked), (0, 2), "{report:?}");
    assert!(report.extended > 5, "{report:?}");
    let archive = &history.archive;
    let enough = history.now().checked_add(5 * DAY).expect("a time");
    let plan = history.plan(&last(2)).await.expect("a plan");
    let going: std::collections::HashSet<_> =
        plan.removals.wal.iter().map(|gone| &gone.key).collect();
    for object in archive.list("").await.expect("a listing") {
        let name = archive.name(&object.key);
        let until = archive.store().locked_until(&name).await.expect("known");
        if matches!(object.key, ObjectKey::Lock(_)) {
            continue;
        }
        assert_eq!(
            until.is_some_and(|until| until > enough),
            !going.contains(&object.key),
            "{name}: {until:?}"
        );
    }
    // What was seen to is left alone until half of its lock is over.
    assert_eq!(pruned(&history, &last(2)).await.extended, 0);
    // What nothing depends on is let go when its lock ends, and not before.
    history.happen(Hours(5 * 24)).await.expect("it holds");
    let report = pruned(&history, &last(2)).await;
    assert_eq!((report.objects, report.locked), (2, 0), "{report:?}");
}

#[tokio::test]
async fn a_backup_that_is_locked_stays_with_its_wal_until_the_lock_ends() {
    use Event::{Backup, Hours, Wal};
    let mut history = History::begin().await;
    history.lock_for(10 * DAY);
    for event in [Backup(false), Wal(2), Hours(24), Backup(false)] {
        history.happen(event).await.expect("it holds");
    }
    let plan = history.plan(&last(1)).await.expect("a plan");
    assert!(
        matches!(plan.backups[0].kept_by[..], [Rule::Locked { .. }]),
        "{:?}",
        plan.backups[0]
    );
    let report = pruned(&history, &last(1)).await;
    assert_eq!((report.objects, report.locked), (0, 0), "{report:?}");
    history.happen(Hours(9 * 24 + 1)).await.expect("it holds");
    let report = pruned(&history, &last(1)).await;
    assert_eq!((report.backups, report.locked), (1, 0), "{report:?}");
    assert!(report.extended > 0, "{report:?}");
}

#[tokio::test]
async fn a_policy_that_would_remove_everything_is_refused() {
    let history = history([Event::Backup(false)]).await;
    let refused = history
        .try_plan(&last(0), false)
        .await
        .expect_err("refused");
    assert!(
        matches!(refused, PruneError::RemovesEverything),
        "{refused}"
    );
}

#[tokio::test]
async fn a_clock_that_went_back_is_refused_unless_it_is_ignored() {
    let mut history = history([Event::Backup(false), Event::Hours(48), Event::Wal(1)]).await;
    history.set_back(DAY);
    let refused = history
        .try_plan(&last(1), false)
        .await
        .expect_err("refused");
    assert!(
        matches!(refused, PruneError::ClockBehind { .. }),
        "{refused}"
    );
    history.try_plan(&last(1), true).await.expect("a plan");
}

#[tokio::test]
async fn a_prune_is_written_down_and_explains_what_is_gone() {
    let mut history = history([
        Event::Backup(false),
        Event::Wal(2),
        Event::Hours(24),
        Event::Backup(false),
    ])
    .await;
    let plan = history.plan(&last(1)).await.expect("a plan");
    let gone: Vec<ObjectKey> = plan
        .removals
        .wal
        .iter()
        .map(|gone| gone.key.clone())
        .collect();
    assert!(!gone.is_empty());
    history
        .happen(Event::Prune(last(1), None))
        .await
        .expect("pruned");
    let record: PruneRecord = history
        .archive
        .get_record(&ObjectKey::Pruned(1))
        .await
        .expect("a record");
    assert_eq!(record.backups.len(), 1);
    for key in gone {
        assert!(
            record.explains(&key, &history.archive.name(&key)),
            "{key:?}"
        );
    }
    assert!(!record.explains(&ObjectKey::BackupRecord(history.ids()[0].clone()), "x"));
}

/// On a store that removes nothing although it says so.
#[tokio::test]
async fn a_certificate_does_not_say_of_one_backup_that_it_is_gone_and_stays() {
    use Event::{Backup, Hours, Wal};
    let day = [Backup(false), Wal(2), Hours(24)];
    let days = day.iter().cloned().cycle().take(12);
    let history = history(days.chain([Backup(false)])).await;
    let plan = history.plan(&last(2)).await.expect("a plan");
    let removed = plan.backups.iter().filter(|fate| fate.goes);
    let removed: Vec<_> = removed.map(|fate| fate.id.clone()).collect();
    assert!(!removed.is_empty());
    let certificate = certify(&history.archive, &plan).await.expect("certified");
    assert_eq!(certificate.gone, 0);
    for id in &removed {
        let record = history.archive.name(&ObjectKey::BackupRecord(id.clone()));
        assert!(certificate.held.iter().any(|held| held.key == record));
        let named = certificate.restorable.iter().chain(&certificate.lacking);
        assert!(!named.into_iter().any(|named| named == id), "{id}");
    }
    assert_eq!(certificate.restorable.len(), 2);
}
