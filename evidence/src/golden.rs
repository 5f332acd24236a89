//! The golden archive in `testdata/v1`: what version 1 wrote stays readable for ever.
//!
//! Its objects are sealed with fixed keys and salts. Those that are not compressed are pinned to
//! the byte; a compressor's output may differ from release to release, so that compressed ones need only
//! open. `WALVAULT_BLESS=1` writes what is missing, and never replaces a file.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use walvault_archive::archive::{kind_of, wal_key};
use walvault_archive::catalog::Catalog;
use walvault_archive::format::Codec;
use walvault_archive::keys::wrap::wrap_for;
use walvault_archive::keys::{DataKey, KeyFile, KeyPurpose, KeyRecord, Secret, SigningKey};
use walvault_archive::record::{
    ArchiveRecord, BackupFiles, BackupRecord, Canary, Depth, Digest, DrillCheck, DrillMeasures,
    DrillObjectives, DrillOutcome, DrillReached, DrillRecord, DrillStep, DrillTarget, Extent,
    FileKind, FilePath, FileRecord, PartRecord, Seen, VerifiedRecord, commit_index,
};
use walvault_archive::seal::Sealer;
use walvault_archive::{Archive, Error};
use walvault_layout::{BackupId, DrillId, KeyId, ObjectKey, unit_containing};
use walvault_protocol::wal::{MarkKind, Parameters, WalMark};
use walvault_protocol::{
    Lsn, LsnRange, PgTimestamp, SegmentSize, ServerVersion, SystemId, TimelineId,
};
use walvault_store::SharedStore;
use walvault_store::directory::DirectoryStore;
use zeroize::Zeroizing;

use crate::audit::{self, Action, Actor, Batch, Event, Head, Outcome};
use crate::drill;

const ARCHIVE_ID: [u8; 16] = *b"golden archive 1";
const SIZE: fn() -> SegmentSize = || SegmentSize::new(1 << 20).expect("a size");
const BEGUN: fn() -> jiff::Timestamp = || "2026-11-21T06:30:00Z".parse().expect("a time");

struct Golden {
    key: ObjectKey,
    codec: Codec,
    payload: Vec<u8>,
    attachment: Vec<u8>,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../archive/testdata/v1")
}

fn secret(byte: u8) -> Secret {
    Secret::from_bytes(&Zeroizing::new([byte; 32]))
}

fn data_key() -> Arc<DataKey> {
    Arc::new(DataKey::new(KeyId(*b"golden data key!"), secret(0xD0)))
}

fn audit_key() -> Arc<DataKey> {
    let key = DataKey::new(KeyId(*b"golden audit key"), secret(0xA0));
    Arc::new(key.serving(KeyPurpose::Audit))
}

fn signing_key() -> SigningKey {
    SigningKey::from_seed(&secret(0xED))
}

fn batch() -> Batch {
    let actor = Actor {
        operator: "Ann".to_owned(),
        host: "db1".to_owned(),
        program: "walvault 0.1.0".to_owned(),
    };
    let event = Event::new(&actor, Action::Hold, Outcome::Succeeded);
    let event = event.because(Some("case 7".to_owned()));
    let event = event.keys([data_key().id]).with("number", 1);
    Batch {
        version: 1,
        writer: signing_key().public().writer().to_string(),
        number: 1,
        previous: None,
        at: BEGUN(),
        heads: vec![Head {
            writer: "00".repeat(16),
            number: 3,
            sha256: "11".repeat(32),
        }],
        ephemeral: true,
        last: true,
        events: vec![Event {
            at: BEGUN(),
            duration_ms: Some(12),
            ..event.backup(&backup())
        }],
    }
}

fn key_file() -> KeyFile {
    KeyFile::from_secret(secret(0xF1))
}

fn text(length: usize) -> Vec<u8> {
    b"WAL of a golden age. "
        .iter()
        .copied()
        .cycle()
        .take(length)
        .collect()
}

fn marks() -> Vec<WalMark> {
    let mark = |start: u64, kind| WalMark {
        start: Lsn(0x30_0000 + start),
        end: Lsn(0x30_0000 + start + 40),
        time: PgTimestamp(848_500_000_000_000 + start as i64),
        kind,
    };
    let untimed = |start: u64, kind| WalMark {
        time: PgTimestamp(0),
        ..mark(start, kind)
    };
    vec![
        mark(0x100, MarkKind::Commit { xid: 731 }),
        mark(0x200, MarkKind::Abort { xid: 730 }),
        mark(
            0x300,
            MarkKind::RestorePoint {
                name: "before".to_owned(),
            },
        ),
        untimed(
            0x400,
            MarkKind::Tablespace {
                oid: 16_385,
                location: "/data/ts".to_owned(),
            },
        ),
        untimed(
            0x500,
            MarkKind::Parameters(Parameters {
                max_connections: 150,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
                wal_level: 1,
            }),
        ),
        mark(0x600, MarkKind::Commit { xid: 732 }),
    ]
}

fn backup() -> BackupId {
    BackupId::new(BEGUN(), 0x9f3c)
}

fn drilled() -> DrillRecord {
    let lsn = Lsn(0x30_0400);
    DrillRecord {
        version: 1,
        id: DrillId::new(BEGUN(), "system-failure", true, 0x9f3c).expect("a name"),
        scenario: "system-failure".to_owned(),
        outcome: DrillOutcome::Passed,
        error: None,
        started: BEGUN(),
        ended: BEGUN(),
        seconds: 12.5,
        host: "db1".to_owned(),
        operator: "Ann".to_owned(),
        reason: Some("the monthly drill".to_owned()),
        program: "walvault 0.1.0".to_owned(),
        postgres: Some("15.18".to_owned()),
        archive: "s3://bucket/prefix".to_owned(),
        identities: vec!["key-file:f22f99d942f45d9c".to_owned()],
        backup: Some(backup()),
        target: DrillTarget {
            asked: "the end of the archive".to_owned(),
            chosen: Some("the end of the archive".to_owned()),
            time: None,
            lsn: Some(lsn),
        },
        reached: Some(DrillReached {
            lsn: Some(lsn),
            time: Some(BEGUN()),
            timeline: Some(1),
        }),
        steps: vec![DrillStep {
            name: "plan".to_owned(),
            seconds: 0.5,
            outcome: DrillOutcome::Passed,
            detail: String::new(),
        }],
        checks: vec![DrillCheck {
            name: "target".to_owned(),
            outcome: DrillOutcome::Passed,
            expected: lsn.to_string(),
            found: lsn.to_string(),
        }],
        canary: Some(Canary { lsn, time: BEGUN() }),
        measured: DrillMeasures {
            backup_bytes: 3,
            wal_bytes: 1000,
            wal_objects: 1,
            rto_consistent_seconds: Some(10.0),
            rto_seconds: Some(11.0),
            rpo_seconds: Some(1.5),
        },
        objectives: DrillObjectives {
            rto_seconds: Some(3600.0),
            rpo_seconds: 60.0,
            rto_kept: Some(true),
            rpo_kept: Some(true),
        },
    }
}

fn objects() -> Vec<Golden> {
    let tli = TimelineId::FIRST;
    let unit = unit_containing(Lsn(0x30_0000), SIZE());
    let chunk = LsnRange::new(unit.end, unit.end + 1000);
    let plain = |key, payload: Vec<u8>| Golden {
        key,
        codec: Codec::None,
        payload,
        attachment: Vec::new(),
    };
    let files = BackupFiles {
        version: 1,
        parts: vec![PartRecord {
            backup: None,
            number: 1,
            length: 3,
            stored: 171,
            sha256: "00".repeat(32),
        }],
        files: vec![FileRecord {
            path: FilePath::Text("PG_VERSION".to_owned()),
            kind: FileKind::File,
            mode: 0o600,
            size: 3,
            mtime: 1_795_242_600,
            crc32c: Some(crc32c::crc32c(b"15\n")),
            extents: vec![Extent {
                part: 0,
                offset: 0,
                length: 3,
            }],
        }],
    };
    let record = BackupRecord {
        version: 1,
        id: backup(),
        kind: "full".to_owned(),
        label: "golden".to_owned(),
        system_id: SystemId(7_391_000_000_000_000_001),
        server_version: ServerVersion(150_018),
        timeline: tli,
        start_lsn: Lsn(0x30_0028),
        stop_lsn: Lsn(0x30_0400),
        started_at: BEGUN(),
        stopped_at: BEGUN(),
        size: 3,
        stored_size: 200,
        file_count: 1,
        tablespaces: Vec::new(),
        part_count: 1,
        kept: false,
        warnings: Vec::new(),
    };
    let seen = Seen {
        size: 171,
        sha256: Digest([0x5A; 32]),
        at: BEGUN(),
        depth: Depth::Deep,
    };
    let verified = VerifiedRecord {
        version: 1,
        at: BEGUN(),
        by: "golden".to_owned(),
        depth: Depth::Stored,
        replaces: 0,
        objects: [(ObjectKey::BackupPart(backup(), 1).spell(SIZE()), seen)].into(),
        findings: Vec::new(),
    };
    vec![
        Golden {
            key: wal_key(tli, unit, true),
            codec: Codec::Lz4,
            payload: text(1 << 20),
            attachment: commit_index::encode(&marks()),
        },
        Golden {
            key: wal_key(tli, chunk, false),
            codec: Codec::None,
            payload: text(1000),
            attachment: commit_index::encode(&[]),
        },
        plain(
            ObjectKey::History(TimelineId::new(2).expect("not zero")),
            b"1\t0/400000\tno recovery target specified\n".to_vec(),
        ),
        plain(ObjectKey::BackupPart(backup(), 1), b"15\n".to_vec()),
        plain(
            ObjectKey::BackupManifest(backup()),
            b"{ \"PostgreSQL-Backup-Manifest-Version\": 1 }\n".to_vec(),
        ),
        plain(
            ObjectKey::BackupFiles(backup()),
            serde_json::to_vec(&files).expect("JSON"),
        ),
        plain(
            ObjectKey::BackupRecord(backup()),
            serde_json::to_vec(&record).expect("JSON"),
        ),
        // Its place in this list is its salt: what comes later comes after it.
        Golden {
            key: ObjectKey::BackupPart(backup(), 2),
            codec: Codec::Zstd,
            payload: text(600_000),
            attachment: Vec::new(),
        },
        plain(
            ObjectKey::Audit(signing_key().public().writer(), 1),
            batch().sign(&signing_key(), &ARCHIVE_ID),
        ),
        plain(
            ObjectKey::Verified(1),
            serde_json::to_vec(&verified).expect("JSON"),
        ),
        plain(
            ObjectKey::Drill(drilled().id),
            drill::sign(&drilled(), &signing_key(), &ARCHIVE_ID),
        ),
    ]
}

fn sealed(golden: &Golden, number: u8) -> Bytes {
    let key = match golden.key {
        ObjectKey::Audit(..) | ObjectKey::Drill(_) => audit_key(),
        _ => data_key(),
    };
    let sealer = Sealer::new(ARCHIVE_ID, key, golden.codec);
    let mut writer = sealer.begin_salted(
        kind_of(&golden.key),
        &golden.key.spell(SIZE()),
        [number; 32],
    );
    writer.write(&golden.payload);
    writer.finish(&golden.attachment).body.bytes
}

/// The objects that are not sealed.
fn plain_files() -> Vec<(String, Vec<u8>)> {
    let record = ArchiveRecord {
        format: 1,
        archive_id: hex::encode(ARCHIVE_ID),
        system_id: SystemId(7_391_000_000_000_000_001),
        segment_size: SIZE(),
        created_at: BEGUN(),
        created_by: "walvault 0.1.0".to_owned(),
    };
    let record_of = |key: &DataKey, salt: u8| {
        let wrapped = wrap_for(&ARCHIVE_ID, key, &key_file(), [salt; 32]);
        let record = KeyRecord::new(&ARCHIVE_ID, key, vec![wrapped], BEGUN());
        record.sign(&ARCHIVE_ID, [&key_file().writer()])
    };
    vec![
        (
            ObjectKey::Archive.spell(SIZE()),
            serde_json::to_vec_pretty(&record).expect("JSON"),
        ),
        (
            ObjectKey::Key(data_key().id, 1).spell(SIZE()),
            record_of(&data_key(), 0x5A),
        ),
        (
            ObjectKey::Key(audit_key().id, 1).spell(SIZE()),
            record_of(&audit_key(), 0xA5),
        ),
    ]
}

fn written() -> Vec<(String, Vec<u8>, Codec)> {
    let plain = plain_files()
        .into_iter()
        .map(|(name, bytes)| (name, bytes, Codec::None));
    let sealed = objects().into_iter().zip(1..).map(|(golden, number)| {
        let bytes = sealed(&golden, number).to_vec();
        (golden.key.spell(SIZE()), bytes, golden.codec)
    });
    plain.chain(sealed).collect()
}

fn bless() {
    if std::env::var_os("WALVAULT_BLESS").is_none() {
        return;
    }
    for (name, bytes, _) in written() {
        let path = directory().join(name);
        if !path.exists() {
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("mkdir");
            std::fs::write(path, bytes).expect("write");
        }
    }
}

#[test]
fn version_1_is_pinned_to_the_byte() {
    bless();
    for (name, bytes, codec) in written() {
        let golden = std::fs::read(directory().join(&name)).expect(&name);
        if codec == Codec::None {
            assert!(
                golden == bytes,
                "{name} is written differently than version 1 was"
            );
        }
    }
}

#[tokio::test]
async fn version_1_opens() -> Result<(), Error> {
    bless();
    let store: SharedStore = Arc::new(DirectoryStore::open(directory())?);
    let archive = Archive::open(store, vec![key_file()]).await?;
    for golden in objects() {
        let opened = archive.get(&golden.key).await?;
        assert!(opened.payload == golden.payload, "{:?}", golden.key);
        assert_eq!(opened.attachment, golden.attachment);
    }
    let catalog = Catalog::load(&archive).await?;
    assert_eq!(catalog.backups().len(), 1);
    let windows = catalog.windows(&archive).await?;
    assert_eq!(
        windows.len(),
        2,
        "the two branches of the fork: {windows:?}"
    );
    assert_eq!(windows[0].end_lsn, Lsn(0x40_0000 + 1000));
    Ok(())
}

/// Its batch reads as it was signed, and names a chain that is gone.
#[tokio::test]
async fn the_audit_trail_of_version_1_reads() -> Result<(), Error> {
    bless();
    let store: SharedStore = Arc::new(DirectoryStore::open(directory())?);
    let archive = Archive::open(store, vec![key_file()]).await?;
    let report = audit::verify(&archive, &[], &[signing_key().public()]).await?;
    let found: Vec<_> = report.findings.iter().map(|found| found.kind).collect();
    assert_eq!(found, [audit::FindingKind::CutShort], "{report:?}");
    let events = audit::read_all(&archive).await?;
    assert_eq!(events[0].event, batch().events[0]);
    assert_eq!(archive.keyring().epochs().await?.len(), 1, "one for data");
    Ok(())
}

#[tokio::test]
async fn a_drill_of_version_1_reads() -> Result<(), Error> {
    bless();
    let store: SharedStore = Arc::new(DirectoryStore::open(directory())?);
    let archive = Archive::open(store, vec![key_file()]).await?;
    let signed = drill::open(&archive, &drilled().id).await?;
    assert_eq!(signed.record, drilled());
    assert_eq!(signed.public_key, signing_key().public());
    Ok(())
}
