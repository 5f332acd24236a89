//! Damage of each kind in each class of object is found.

use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::archive::wal_key;
use walvault_archive::keep;
use walvault_archive::keys::{KeyFile, Secret};
use walvault_archive::record::{
    BackupFiles, BackupRecord, Extent, FileKind, FilePath, FileRecord, GapRecord, KeepChange,
    PartRecord,
};
use walvault_layout::VERIFIED_PREFIX;
use walvault_protocol::wal::synthetic::SYSTEM;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, ServerVersion, TimelineId};
use walvault_store::{Body, MemoryStore, ObjectStore};

use super::*;

mod deep;
mod sample;

use sample::{Sample, backup_id, range, tli};

/// Requires that `name` was found damaged in one of these ways.
fn found(findings: &[Finding], name: &str, kinds: &[FindingKind]) {
    let named = findings
        .iter()
        .any(|finding| finding.object == name && kinds.contains(&finding.kind));
    assert!(named, "{name}: {kinds:?} in {findings:?}");
}

/// A way to damage the object of a name.
struct Case {
    what: &'static str,
    bytes: Option<Vec<u8>>,
    kinds: &'static [FindingKind],
}

/// Everything that happens to the bytes of one object; `other` are those of another.
fn cases(before: &[u8], other: Vec<u8>, replayed: Vec<u8>, is_sealed: bool) -> Vec<Case> {
    use FindingKind::{Altered, Cut, Missing, Replayed, Swapped, Unreadable};
    // What is not sealed is read as what it is, or known by what it was.
    let plain: &[FindingKind] = &[Unreadable, Replayed, Altered];
    let kinds = |sealed| if is_sealed { sealed } else { plain };
    let case = |what, bytes, kinds| Case { what, bytes, kinds };
    let altered = |at: usize| {
        let mut bytes = before.to_vec();
        bytes[at] ^= 1;
        Some(bytes)
    };
    let last = before.len() - 1;
    vec![
        case("cut", Some(before[..last].to_vec()), kinds(&[Cut, Altered])),
        case("cut to nothing", Some(Vec::new()), kinds(&[Cut, Altered])),
        case(
            "cut after its header",
            Some(before[..64].to_vec()),
            kinds(&[Cut, Altered]),
        ),
        case(
            "grown",
            Some([before, b"0"].concat()),
            kinds(&[Cut, Altered]),
        ),
        case("altered in its first byte", altered(0), kinds(&[Altered])),
        case("altered in its version", altered(8), kinds(&[Altered])),
        case("altered in its key's name", altered(20), kinds(&[Altered])),
        case(
            "altered in the middle",
            altered(before.len() / 2),
            kinds(&[Altered]),
        ),
        case("altered in its last byte", altered(last), kinds(&[Altered])),
        case("swapped", Some(other), kinds(&[Swapped])),
        case("replayed", Some(replayed), &[Replayed, Unreadable, Altered]),
        case("missing", None, &[Missing]),
    ]
}

/// Does everything to one object, and requires that each is found.
async fn every_damage_is_found(
    sample: &Sample,
    key: &ObjectKey,
    other: &ObjectKey,
) -> Result<(), Error> {
    let name = sample.archive.name(key);
    let before = sample.bytes(&name).await?;
    let is_sealed = !matches!(key, ObjectKey::Archive | ObjectKey::Key(..));
    let other = sample.bytes(&sample.archive.name(other)).await?;
    let replayed = sample.replayed(key, &before).await?;
    for case in cases(&before, other, replayed, is_sealed) {
        // A chunk goes away by itself once its segment is stored.
        if case.bytes.is_none() && matches!(key, ObjectKey::Tail(..)) {
            continue;
        }
        sample.replace(&name, case.bytes).await?;
        let findings = sample.verify().await?;
        let named = findings
            .iter()
            .any(|finding| finding.object == name && case.kinds.contains(&finding.kind));
        assert!(named, "{name} is {}: {findings:?}", case.what);
        sample.replace(&name, Some(before.clone())).await?;
    }
    Ok(())
}

#[tokio::test]
async fn damage_of_each_kind_in_each_class_is_found() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let findings = sample.verify().await?;
    assert!(findings.is_empty(), "it is sound: {findings:?}");
    // The second run speaks of what the first left.
    let _ = sample.verify().await?;
    let history = ObjectKey::History(tli(2));
    every_damage_is_found(&sample, &ObjectKey::Verified(1), &history).await?;
    let classes = sample.classes().await?;
    assert!(classes.len() >= 15, "{classes:?}");
    for key in &classes {
        let other = match key {
            ObjectKey::History(_) => &ObjectKey::Pruned(1),
            _ => &history,
        };
        every_damage_is_found(&sample, key, other).await?;
    }
    let findings = sample.verify().await?;
    assert!(findings.is_empty(), "everything is back: {findings:?}");
    Ok(())
}

#[tokio::test]
async fn damaged_records_hide_nothing_else() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let name = |key: ObjectKey| sample.archive.name(&key);
    let record = name(ObjectKey::BackupRecord(backup_id()));
    let gap = name(ObjectKey::Gap(tli(1), range(5, 6)));
    for damaged in [&record, &gap] {
        let mut bytes = sample.bytes(damaged).await?;
        bytes[70] ^= 1;
        sample.replace(damaged, Some(bytes)).await?;
    }
    let segment = name(wal_key(tli(1), range(4, 5), true));
    sample.replace(&segment, None).await?;
    for depth in [Depth::Names, Depth::Stored] {
        let findings = sample.look(depth).await?.findings;
        found(&findings, &record, &[FindingKind::Altered]);
        found(&findings, &gap, &[FindingKind::Altered]);
        found(&findings, "wal/00000001/", &[FindingKind::Missing]);
    }
    Ok(())
}

#[tokio::test]
async fn a_hole_that_no_gap_explains_is_found_without_any_memory() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let name = sample.archive.name(&wal_key(tli(1), range(4, 5), true));
    sample.replace(&name, None).await?;
    let findings = sample.verify().await?;
    found(&findings, "wal/00000001/", &[FindingKind::Missing]);
    let said = |finding: &Finding| finding.detail.contains("needs WAL up to");
    assert!(findings.iter().any(said), "{findings:?}");
    Ok(())
}

#[tokio::test]
async fn a_part_of_another_state_is_found_without_any_memory() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let key = ObjectKey::BackupPart(backup_id(), 1);
    let name = sample.archive.name(&key);
    let before = sample.bytes(&name).await?;
    let replayed = sample.replayed(&key, &before).await?;
    assert_eq!(replayed.len(), before.len(), "its size does not tell");
    sample.replace(&name, Some(replayed)).await?;
    found(&sample.verify().await?, &name, &[FindingKind::Replayed]);
    Ok(())
}

#[tokio::test]
async fn what_was_found_sound_is_not_read_again() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let scope = Scope {
        trust_since: Some(Timestamp::UNIX_EPOCH),
        ..Sample::scope(Depth::Stored)
    };
    let first = verify(&sample.archive, &scope, "test").await?;
    let second = verify(&sample.archive, &scope, "test").await?;
    assert_eq!((first.remembered, second.remembered), (0, first.read));
    assert_eq!(second.read, 1, "what the first run left");
    let deep = Scope {
        depth: Depth::Deep,
        ..scope
    };
    let third = verify(&sample.archive, &deep, "test").await?;
    assert_eq!(third.remembered, 0, "it was not looked at so closely");
    Ok(())
}

#[tokio::test]
async fn a_share_a_day_gets_through_all() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let scope = Scope {
        choice: Choice::LongestUnread(0.3),
        ..Sample::scope(Depth::Stored)
    };
    let name = sample.archive.name(&ObjectKey::History(tli(2)));
    let mut bytes = sample.bytes(&name).await?;
    bytes[70] ^= 1;
    sample.replace(&name, Some(bytes)).await?;
    let mut findings = 0;
    for _ in 0..4 {
        let done = verify(&sample.archive, &scope, "test").await?;
        assert!(done.read < done.listed && done.read > 0, "{done:?}");
        findings += done.findings.len();
    }
    assert!(findings > 0, "it was read");
    // What is damaged is never found sound, and so is read each time.
    for _ in 0..3 {
        let done = verify(&sample.archive, &scope, "test").await?;
        found(&done.findings, &name, &[FindingKind::Altered]);
    }
    Ok(())
}

#[tokio::test]
async fn many_records_become_one_and_forget_nothing() -> Result<(), Error> {
    let sample = Sample::create().await?;
    for _ in 0..40 {
        let findings = sample.verify().await?;
        assert!(findings.is_empty(), "{findings:?}");
    }
    let left = sample.archive.list(VERIFIED_PREFIX).await?;
    assert!(left.len() < 20, "{left:?}");
    let name = sample.archive.name(&ObjectKey::History(tli(2)));
    sample.replace(&name, None).await?;
    // It goes on being found, however often it was looked since.
    for _ in 0..40 {
        found(&sample.verify().await?, &name, &[FindingKind::Missing]);
    }
    // The newest records say that there were others.
    let oldest = &sample.archive.list(VERIFIED_PREFIX).await?[0];
    let gone = sample.archive.name(&oldest.key);
    sample.replace(&gone, None).await?;
    found(&sample.verify().await?, &gone, &[FindingKind::Missing]);
    Ok(())
}

#[tokio::test]
async fn what_is_accepted_is_no_finding_any_more() -> Result<(), Error> {
    let sample = Sample::create().await?;
    let _ = sample.verify().await?;
    let name = |key: &ObjectKey| sample.archive.name(key);
    let history = name(&ObjectKey::History(tli(2)));
    sample.replace(&history, None).await?;
    let replaced = wal_key(tli(1), range(6, 7), true);
    let before = sample.bytes(&name(&replaced)).await?;
    let other = sample.replayed(&replaced, &before).await?;
    sample.replace(&name(&replaced), Some(other)).await?;
    let damaged = name(&ObjectKey::BackupManifest(backup_id()));
    let mut bytes = sample.bytes(&damaged).await?;
    bytes[80] ^= 1;
    sample.replace(&damaged, Some(bytes)).await?;

    assert_eq!(sample.verify().await?.len(), 3);
    let scope = Scope {
        accept: true,
        ..Sample::scope(Depth::Stored)
    };
    let accepted = verify(&sample.archive, &scope, "test").await?.findings;
    for findings in [accepted, sample.verify().await?, sample.verify().await?] {
        assert_eq!(findings.len(), 1, "damage is not accepted: {findings:?}");
        found(&findings, &damaged, &[FindingKind::Altered]);
    }
    Ok(())
}
