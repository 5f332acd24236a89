//! What restores and drills read.

use bytes::Bytes;
use walvault_store::Body;

use super::*;

/// Leases `backup` until so many hours from now.
async fn lease(history: &History, backup: &BackupId, hours: u64) -> ObjectKey {
    let until = history.now().as_second().unsigned_abs() + hours * 3600;
    let key = ObjectKey::Lease(backup.clone(), until, 1);
    let body = Body::new(Bytes::from_static(b"a restore\n"));
    let name = history.archive.name(&key);
    history.archive.store().put(&name, body).await.expect("put");
    key
}

#[tokio::test]
async fn a_leased_backup_stays_with_all_wal_behind_it_until_the_lease_ends() {
    use Event::{Backup, Hours, Wal};
    let days = [Backup(false), Wal(3), Hours(48)];
    let days = days.iter().cloned().cycle().take(9);
    let mut history = history(days.chain([Backup(false), Wal(2)])).await;
    // Without a lease the first two go, and WAL between those that stay.
    let policy = RetentionPolicy {
        wal_window: Some(DAY),
        ..last(2)
    };
    let [first, second, ..] = &history.ids()[..] else {
        panic!("four backups");
    };
    let (first, second) = (first.clone(), second.clone());
    let unleased = history.plan(&policy).await.expect("a plan");
    let gone = |plan: &PrunePlan| -> Vec<BackupId> {
        plan.removals
            .records
            .iter()
            .map(|(id, _)| id.clone())
            .collect()
    };
    assert_eq!(gone(&unleased), [first.clone(), second.clone()]);

    let key = lease(&history, &second, 24).await;
    let leased = history.plan(&policy).await.expect("a plan");
    assert_eq!(gone(&leased), std::slice::from_ref(&first));
    assert!(
        leased.backups[1].kept_by[0].to_string().contains("leased"),
        "{:?}",
        leased.backups[1].kept_by
    );
    // Its target may be anywhere behind it.
    let needed = |fate: &&WalFate| {
        fate.because
            == WalReason::Needed {
                backup: second.clone(),
            }
    };
    let behind = leased.wal.iter().find(needed).expect("its own").start_lsn;
    let later = |fate: &&WalFate| fate.start_lsn >= behind;
    assert!(leased.wal.iter().filter(later).all(|fate| !fate.goes));
    assert!(leased.orphans.is_empty());

    history.happen(Hours(25)).await.expect("it holds");
    let over = history.plan(&policy).await.expect("a plan");
    assert_eq!(gone(&over), [first, second]);
    let collected: Vec<_> = over.orphans.iter().map(|orphan| orphan.kind).collect();
    assert_eq!(collected, [OrphanKind::ExpiredLease]);
    let _ = pruned(&history, &policy).await;
    let left = history.archive.list(LOCKS_PREFIX).await.expect("listed");
    assert!(left.iter().all(|object| object.key != key), "{left:?}");
}

/// Whoever may store objects cannot stop retention for ever.
#[tokio::test]
async fn a_lease_is_good_for_a_month_at_most() {
    use Event::{Backup, Hours, Wal};
    let mut history = history([Backup(false), Wal(1), Hours(1), Backup(false), Wal(1)]).await;
    let first = history.ids()[0].clone();
    let _ = lease(&history, &first, 24 * 365 * 1000).await;
    let goes = async |history: &History| {
        let plan = history.plan(&last(1)).await.expect("a plan");
        plan.backups[0].goes
    };
    assert!(!goes(&history).await);
    history.happen(Hours(24 * 31)).await.expect("it holds");
    assert!(goes(&history).await);
}
