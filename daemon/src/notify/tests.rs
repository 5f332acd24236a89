use walvault_layout::BackupId;

use super::*;
use crate::backup::desk::Ended;
use crate::metrics::Live;
use crate::upkeep::Verified;

const SECOND: Duration = Duration::from_secs(1);

fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(|event| event.event).collect()
}

#[test]
fn an_objective_that_is_missed_is_told_once_and_so_is_its_recovery() {
    let mut watcher = Watcher::new("db".to_owned(), "s3://x".to_owned(), 60 * SECOND);
    let mut now = Live::default().snapshot();
    let (idle, nothing) = (BackupStatus::default(), Surveyed::default());
    let begun = Instant::now();
    let mut told = Vec::new();
    for second in 0..120_u32 {
        // A peak of two seconds, and a breach of forty.
        let breach = (10..12).contains(&second) || (40..80).contains(&second);
        now.rpo = if breach { 61 * SECOND } else { SECOND };
        let looked = Looked {
            now: &now,
            backups: &idle,
            surveyed: &nothing,
            upkeep: &UpkeepStatus::default(),
        };
        let events = watcher.look(&looked, begun + SECOND * second);
        told.extend(kinds(&events).into_iter().map(|kind| (second, kind)));
    }
    let expected = [(45, EventKind::RpoBreached), (85, EventKind::RpoRecovered)];
    assert_eq!(told, expected);
}

#[test]
fn each_backup_and_key_trouble_is_told_once() {
    let mut watcher = Watcher::new("db".to_owned(), "s3://x".to_owned(), 60 * SECOND);
    let mut now = Live::default().snapshot();
    let nothing = Surveyed::default();
    let mut status = BackupStatus::default();
    let at = Instant::now();
    let mut look = |now: &Snapshot, backups: &BackupStatus| {
        let looked = Looked {
            now,
            backups,
            surveyed: &nothing,
            upkeep: &UpkeepStatus::default(),
        };
        kinds(&watcher.look(&looked, at))
    };
    assert_eq!(look(&now, &status), []);
    let id = BackupId::new(Timestamp::from_second(1_795_242_600).unwrap(), 1);
    status.last = Some(Ended {
        id: Some(id),
        at: Timestamp::from_second(1).unwrap(),
        error: None,
        warnings: Vec::new(),
    });
    assert_eq!(look(&now, &status), [EventKind::BackupSucceeded]);
    assert_eq!(look(&now, &status), []);
    status.last = Some(Ended {
        id: None,
        at: Timestamp::from_second(2).unwrap(),
        error: Some("no sender left".to_owned()),
        warnings: Vec::new(),
    });
    now.key_trouble = Some("no key opens the archive".to_owned());
    let expected = [EventKind::BackupFailed, EventKind::KeyTrouble];
    assert_eq!(look(&now, &status), expected);
    assert_eq!(look(&now, &status), []);
}

#[test]
fn a_conflict_is_told_once_and_again_when_it_comes_back() {
    let mut watcher = Watcher::new("db".to_owned(), "s3://x".to_owned(), 60 * SECOND);
    let (idle, nothing) = (BackupStatus::default(), Surveyed::default());
    let at = Instant::now();
    let mut look = |phase: Phase| {
        let mut now = Live::default().snapshot();
        now.phase = phase;
        let looked = Looked {
            now: &now,
            backups: &idle,
            surveyed: &nothing,
            upkeep: &UpkeepStatus::default(),
        };
        kinds(&watcher.look(&looked, at))
    };
    let clone = || Phase::Conflict("it is a clone".to_owned());
    assert_eq!(look(Phase::Interrupted("no answer".to_owned())), []);
    assert_eq!(look(clone()), [EventKind::Conflict]);
    assert_eq!(look(clone()), []);
    assert_eq!(look(Phase::Interrupted("no answer".to_owned())), []);
    assert_eq!(look(clone()), []);
    assert_eq!(look(Phase::Streaming), []);
    assert_eq!(look(clone()), [EventKind::Conflict]);
}

#[test]
fn findings_and_failures_of_upkeep_are_told_once_each() {
    let mut watcher = Watcher::new("db".to_owned(), "s3://x".to_owned(), 60 * SECOND);
    let now = Live::default().snapshot();
    let (idle, nothing) = (BackupStatus::default(), Surveyed::default());
    let at = Instant::now();
    let mut look = |upkeep: &UpkeepStatus| {
        let looked = Looked {
            now: &now,
            backups: &idle,
            surveyed: &nothing,
            upkeep,
        };
        kinds(&watcher.look(&looked, at))
    };
    let finding = |object: &str| Finding {
        kind: FindingKind::Altered,
        object: object.to_owned(),
        detail: "its SHA-256 does not match".to_owned(),
    };
    let verified = |seconds, objects: &[&str]| {
        let findings: Vec<Finding> = objects.iter().copied().map(finding).collect();
        let mut upkeep = UpkeepStatus::default();
        upkeep.verify.last = Some(Verified {
            at: Timestamp::UNIX_EPOCH,
            seconds,
            read: None,
            finding_count: findings.len(),
            findings,
        });
        upkeep
    };
    // Of what an earlier process found, nothing is told again.
    assert_eq!(look(&UpkeepStatus::default()), []);
    assert_eq!(look(&verified(None, &["a"])), []);
    assert_eq!(look(&verified(Some(1.0), &["a"])), []);
    assert_eq!(
        look(&verified(Some(1.0), &["a", "b"])),
        [EventKind::VerifyFinding]
    );
    assert_eq!(look(&verified(Some(1.0), &["a", "b"])), []);
    assert_eq!(look(&verified(Some(1.0), &[])), []);
    let mut failing = verified(Some(1.0), &["b"]);
    failing.verify.error = Some("no answer".to_owned());
    failing.prune.error = Some("the clock went back".to_owned());
    let expected = [
        EventKind::VerifyFinding,
        EventKind::VerifyFailed,
        EventKind::PruneFailed,
    ];
    assert_eq!(look(&failing), expected);
    assert_eq!(look(&failing), []);
}
