use walvault_archive::layout::BackupId;

use super::*;
use crate::backup::desk::Ended;
use crate::metrics::Live;

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
        let events = watcher.look(&now, &idle, &nothing, begun + SECOND * second);
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
    let mut look =
        |now: &Snapshot, status: &BackupStatus| kinds(&watcher.look(now, status, &nothing, at));
    assert_eq!(look(&now, &status), []);
    let id = BackupId::new(Timestamp::from_second(1_795_242_600).unwrap(), 1);
    status.last = Some(Ended {
        id: Some(id),
        at: Timestamp::from_second(1).unwrap(),
        error: None,
    });
    assert_eq!(look(&now, &status), [EventKind::BackupSucceeded]);
    assert_eq!(look(&now, &status), []);
    status.last = Some(Ended {
        id: None,
        at: Timestamp::from_second(2).unwrap(),
        error: Some("no sender left".to_owned()),
    });
    now.key_trouble = Some("no key opens the archive".to_owned());
    let expected = [EventKind::BackupFailed, EventKind::KeyTrouble];
    assert_eq!(look(&now, &status), expected);
    assert_eq!(look(&now, &status), []);
}
