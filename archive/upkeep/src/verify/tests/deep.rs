//! What only a look into objects finds.

use walvault_layout::backup_prefix;
use walvault_protocol::TimelineHistory;
use walvault_protocol::data_page;
use walvault_protocol::wal::synthetic::{MAGICS, RM_HEAP, Writer};

use super::sample::file;
use super::*;

const MIB: u64 = 1 << 20;

/// WAL from 5 MiB to somewhat beyond `end` MiB.
fn wal(end: u64, filler: u8) -> Writer {
    let mut writer = Writer::new(8192, MAGICS[2]);
    while writer.position() < Lsn(end * MIB + 1000) {
        writer.record(RM_HEAP, 0, 7, &vec![filler; 3000]);
    }
    writer
}

/// Stores whole segments, and as a chunk what is left.
async fn store(sample: &Sample, writer: &Writer, timeline: u32) -> Result<(), Error> {
    let end = writer.position();
    let mut at = writer.start;
    while at < end {
        let until = Lsn(at.0 + MIB).min(end);
        let span = LsnRange::new(at, until);
        let key = wal_key(tli(timeline), span, span.len() == MIB);
        let bytes = &writer.bytes[writer.offset(at)..writer.offset(until)];
        sample.put(&key, bytes).await?;
        at = until;
    }
    Ok(())
}

/// Puts other WAL in the place of a segment.
async fn exchange(sample: &Sample, segment: u64, bytes: &[u8]) -> Result<String, Error> {
    let key = wal_key(tli(1), range(segment, segment + 1), true);
    let name = sample.archive.name(&key);
    sample.replace(&name, None).await?;
    sample.put(&key, bytes).await?;
    Ok(name)
}

#[tokio::test]
async fn wal_is_followed_from_record_to_record() -> Result<(), Error> {
    let sample = Sample::empty().await?;
    let writer = wal(8, 1);
    store(&sample, &writer, 1).await?;
    let sound = sample.look(Depth::Deep).await?;
    assert_eq!(sound.findings, []);

    let segment = writer.offset(Lsn(6 * MIB))..writer.offset(Lsn(7 * MIB));
    let right = &writer.bytes[segment.clone()];
    let mut flipped = right.to_vec();
    flipped[100_000] ^= 1;
    // Every record of it is sound by itself, and it is WAL of this cluster; it does not follow.
    let other = wal(8, 2);
    let mut forked = Writer::new(8192, MAGICS[2]);
    forked.record(RM_HEAP, 0, 7, &[0; 500]);
    while forked.position() < other.position() {
        forked.record(RM_HEAP, 0, 7, &[2; 2900]);
    }
    let spliced = &forked.bytes[segment];
    for (what, bytes) in [
        ("a record's CRC", &flipped[..]),
        ("the link to the record before", spliced),
        ("its length", &right[..8192]),
    ] {
        let name = exchange(&sample, 6, bytes).await?;
        let scope = Scope {
            accept: true,
            ..Sample::scope(Depth::Deep)
        };
        let findings = verify(&sample.archive, &scope, "test").await?.findings;
        let wrong = |finding: &Finding| finding.kind == FindingKind::Content;
        assert!(findings.iter().any(wrong), "{what}: {findings:?}");
        let near = |finding: &Finding| {
            let next = sample.archive.name(&wal_key(tli(1), range(7, 8), true));
            finding.object == name || finding.object == next
        };
        assert!(findings.iter().all(near), "{what}: {findings:?}");
        // A look that opens nothing does not see it.
        let scope = Scope {
            depth: Depth::Stored,
            ..scope
        };
        let findings = verify(&sample.archive, &scope, "test").await?.findings;
        assert_eq!(findings, [], "{what}");
    }
    exchange(&sample, 6, right).await?;
    let scope = Scope {
        accept: true,
        ..Sample::scope(Depth::Deep)
    };
    assert_eq!(verify(&sample.archive, &scope, "test").await?.findings, []);
    Ok(())
}

#[tokio::test]
async fn wal_is_followed_across_a_switch_of_timelines() -> Result<(), Error> {
    let sample = Sample::empty().await?;
    let old = wal(7, 1);
    // The new timeline begins in the middle of a segment, behind a record.
    let (previous, _, switch) = *old
        .records
        .iter()
        .find(|(_, _, next)| *next > Lsn(6 * MIB + 400_000))
        .expect("a record");
    let mut new = old.fork(switch, previous, 2);
    while new.position() < Lsn(7 * MIB + 5000) {
        new.record(RM_HEAP, 0, 9, &[5; 2000]);
    }
    store(&sample, &old, 1).await?;
    let history = format!("1\t{switch}\tno recovery target specified\n");
    assert!(TimelineHistory::parse(tli(2), history.as_bytes()).is_ok());
    sample
        .put(&ObjectKey::History(tli(2)), history.as_bytes())
        .await?;
    // As PostgreSQL does, the segment of the switch is copied to the new timeline.
    let copied = new.offset(Lsn(6 * MIB))..new.offset(Lsn(7 * MIB));
    let key = wal_key(tli(2), range(6, 7), true);
    sample.put(&key, &new.bytes[copied.clone()]).await?;
    let rest = LsnRange::new(Lsn(7 * MIB), new.position());
    let tail = &new.bytes[new.offset(rest.start)..];
    sample.put(&wal_key(tli(2), rest, false), tail).await?;
    assert_eq!(sample.look(Depth::Deep).await?.findings, []);

    // The new timeline's own WAL is damaged behind the switch.
    let mut damaged = new.bytes[copied].to_vec();
    damaged[900_000] ^= 1;
    let name = sample.archive.name(&key);
    sample.replace(&name, None).await?;
    sample.put(&key, &damaged).await?;
    let findings = sample.look(Depth::Deep).await?.findings;
    found(&findings, &name, &[FindingKind::Content]);
    assert_eq!(
        sample.look(Depth::Deep).await?.findings,
        findings,
        "found again"
    );
    Ok(())
}

/// What `pg_control` of a cluster with checksums begins and ends with.
fn pg_control() -> Vec<u8> {
    let mut bytes = SYSTEM.0.to_le_bytes().to_vec();
    bytes.extend(1300u32.to_le_bytes());
    bytes.resize(216, 0);
    bytes.extend(1_234_567.0f64.to_le_bytes());
    bytes.extend(8192u32.to_le_bytes());
    bytes.extend(131_072u32.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([3; 32]);
    let crc = crc32c::crc32c(&bytes);
    bytes.extend(crc.to_le_bytes());
    bytes.resize(8192, 0);
    bytes
}

/// Three pages of a relation.
fn relation() -> Vec<u8> {
    let page = |number: u32| {
        let mut page = vec![number as u8 + 1; 8192];
        page[..8].fill(0);
        let checksum = data_page::checksum(&page, number);
        page[8..10].copy_from_slice(&checksum.to_le_bytes());
        page
    };
    (0..3).flat_map(page).collect()
}

/// Backs up `relation` with WAL around it.
async fn backed_up(relation: Vec<u8>) -> Result<Sample, Error> {
    let sample = Sample::empty().await?;
    store(&sample, &wal(8, 1), 1).await?;
    let files = [
        ("base/5/1259", relation),
        ("PG_VERSION", b"15\n".to_vec()),
        ("global/pg_control", pg_control()),
    ];
    let (start, stop) = (Lsn(6 * MIB + 40), Lsn(7 * MIB + 40));
    sample.back_up(&backup_id(), &files, start, stop).await?;
    Ok(sample)
}

/// Requires that files of the backup are wrong, in these words.
fn says(findings: &[Finding], words: &str) {
    let said = |finding: &Finding| {
        finding.kind == FindingKind::Content
            && finding.object == backup_prefix(&backup_id())
            && finding.detail.contains(words)
    };
    assert!(findings.iter().any(said), "{words}: {findings:?}");
}

#[tokio::test]
async fn data_pages_carry_their_checksums() -> Result<(), Error> {
    let sound = backed_up(relation()).await?.look(Depth::Deep).await?;
    assert_eq!((sound.pages, &sound.findings[..]), (3, &[][..]));

    let mut damaged = relation();
    damaged[8192 + 4000] ^= 1;
    let sample = backed_up(damaged).await?;
    let found = sample.look(Depth::Deep).await?;
    says(
        &found.findings,
        "base/5/1259: 1 of its pages, the first page 1,",
    );
    assert_eq!(found.findings.len(), 1);
    Ok(())
}

#[tokio::test]
async fn files_are_what_their_list_and_the_manifest_say() -> Result<(), Error> {
    let sample = backed_up(relation()).await?;
    let key = ObjectKey::BackupFiles(backup_id());
    let right: BackupFiles = sample.archive.get_record(&key).await?;
    let manifest = sample.archive.name(&ObjectKey::BackupManifest(backup_id()));
    type Change = fn(&mut BackupFiles);
    let changes: [(Change, &str); 4] = [
        (
            |files| files.files[0].crc32c = Some(1),
            "file base/5/1259 is not what was backed up",
        ),
        (
            |files| files.files[0].size += 1,
            "file base/5/1259 is not what was backed up",
        ),
        (
            |files| files.files[1].extents[0].offset = 9,
            "file PG_VERSION lies where no part is",
        ),
        (
            |files| {
                files.files.remove(1);
            },
            "file PG_VERSION of the manifest is missing",
        ),
    ];
    let as_it_was = sample.bytes(&manifest).await?;
    for (change, words) in changes {
        let mut files = right.clone();
        change(&mut files);
        sample.replace(&sample.archive.name(&key), None).await?;
        sample.replace(&manifest, None).await?;
        sample.list_files(&backup_id(), &files).await?;
        sample.replace(&manifest, Some(as_it_was.clone())).await?;
        let scope = Scope {
            accept: true,
            ..Sample::scope(Depth::Deep)
        };
        says(
            &verify(&sample.archive, &scope, "test").await?.findings,
            words,
        );
    }
    Ok(())
}

#[tokio::test]
async fn parts_in_an_earlier_backup_are_looked_at() -> Result<(), Error> {
    let sample = backed_up(relation()).await?;
    let first: BackupFiles = sample
        .archive
        .get_record(&ObjectKey::BackupFiles(backup_id()))
        .await?;
    let second = BackupId::new(Timestamp::UNIX_EPOCH, 8);
    let label = b"START WAL LOCATION".to_vec();
    let (start, stop) = (Lsn(7 * MIB + 40), Lsn(7 * MIB + 80));
    sample
        .back_up(&second, &[("backup_label", label.clone())], start, stop)
        .await?;
    let own: BackupFiles = sample
        .archive
        .get_record(&ObjectKey::BackupFiles(second.clone()))
        .await?;
    // All its files but the label lie where the first backup has them.
    let mut files = BackupFiles {
        version: 1,
        parts: own.parts,
        files: vec![file("backup_label", &label, 0)],
    };
    for (mut part, mut file) in first.parts.into_iter().zip(first.files) {
        part.backup = Some(backup_id());
        file.extents[0].part = files.parts.len() as u32;
        files.parts.push(part);
        files.files.push(file);
    }
    for key in [
        ObjectKey::BackupFiles(second.clone()),
        ObjectKey::BackupManifest(second.clone()),
    ] {
        sample.replace(&sample.archive.name(&key), None).await?;
    }
    sample.list_files(&second, &files).await?;
    assert_eq!(sample.look(Depth::Deep).await?.findings, []);

    let only = |depth| Scope {
        backup: Some(second.clone()),
        ..Sample::scope(depth)
    };
    let looked = verify(&sample.archive, &only(Depth::Deep), "test").await?;
    assert_eq!((looked.pages, &looked.findings[..]), (3, &[][..]));
    let borrowed = ObjectKey::BackupPart(backup_id(), 1);
    let name = sample.archive.name(&borrowed);
    let before = sample.bytes(&name).await?;
    let mut altered = before.clone();
    altered[100] ^= 1;
    for (bytes, kind) in [
        (Some(altered), FindingKind::Altered),
        (None, FindingKind::Missing),
    ] {
        sample.replace(&name, bytes).await?;
        for depth in [Depth::Stored, Depth::Deep] {
            let looked = verify(&sample.archive, &only(depth), "test").await?;
            found(&looked.findings, &name, &[kind]);
        }
    }
    Ok(())
}
