use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use walvault_archive::record::{
    Extent, FileKind, FilePath, FileRecord, PartRecord, TablespaceRecord,
};
use walvault_protocol::{Lsn, LsnRange, SegmentSize};

use super::*;
use crate::target::Target;
use crate::testing::{SYSTEM, archive, backup, put_backup, tli};

mod delta;
mod late;
mod parts;
mod refused;
mod resumed;
mod tablespaces;
mod waldir;

/// A backup that was cut into parts of this many bytes.
const PART: usize = 1000;

struct Stored {
    archive: Archive,
    record: BackupRecord,
}

fn directory(path: &str, mode: u32) -> FileRecord {
    FileRecord {
        path: FilePath::from_bytes(path.as_bytes()),
        kind: FileKind::Directory,
        mode,
        size: 0,
        mtime: 0,
        crc32c: None,
        extents: Vec::new(),
    }
}

/// Cuts `files` into parts, one behind the other, and stores them as a backup.
async fn store(
    directories: Vec<FileRecord>,
    files: &BTreeMap<String, Vec<u8>>,
    tablespaces: Vec<TablespaceRecord>,
) -> Stored {
    store_cut(PART, directories, files, tablespaces).await
}

/// As [`store`] with parts of another size.
async fn store_cut(
    size: usize,
    directories: Vec<FileRecord>,
    files: &BTreeMap<String, Vec<u8>>,
    tablespaces: Vec<TablespaceRecord>,
) -> Stored {
    let archive = archive(SegmentSize::DEFAULT).await;
    let mut record = backup(
        1,
        tli(1),
        LsnRange::new(Lsn(0x100_0028), Lsn(0x100_0100)),
        jiff::Timestamp::UNIX_EPOCH,
    );
    record.tablespaces = tablespaces;
    let mut all = Vec::new();
    // As initdb and the server make them: with group access, the group may read files too.
    let group_access = directories.iter().any(|record| record.mode == 0o750);
    let usual_mode = if group_access { 0o640 } else { 0o600 };
    let mut records = directories;
    for (path, content) in files {
        let mut extents = Vec::new();
        let (mut at, end) = (all.len(), all.len() + content.len());
        while at < end {
            let length = (size - at % size).min(end - at);
            extents.push(Extent {
                part: (at / size) as u32,
                offset: (at % size) as u64,
                length: length as u64,
            });
            at += length;
        }
        all.extend_from_slice(content);
        records.push(FileRecord {
            path: FilePath::from_bytes(path.as_bytes()),
            kind: FileKind::File,
            mode: match path.as_str() {
                "server.key" => 0o600,
                "recover.sh" => 0o755,
                "loose.conf" => 0o644,
                _ => usual_mode,
            },
            size: content.len() as u64,
            mtime: 0,
            crc32c: Some(crc32c::crc32c(content)),
            extents,
        });
    }
    let mut parts = Vec::new();
    for (index, part) in all.chunks(size).enumerate() {
        let number = index as u32 + 1;
        let key = ObjectKey::BackupPart(record.id.clone(), number);
        let stored = archive
            .put_payload(&key, Bytes::copy_from_slice(part))
            .await
            .expect("stored");
        parts.push(PartRecord {
            backup: None,
            number,
            length: part.len() as u64,
            stored,
            sha256: String::new(),
        });
    }
    let manifest = ObjectKey::BackupManifest(record.id.clone());
    archive
        .put_payload(&manifest, Bytes::from_static(b"the manifest"))
        .await
        .expect("stored");
    let stored = Stored { archive, record };
    stored.put_files(parts, records).await;
    put_backup(&stored.archive, &stored.record).await;
    stored
}

impl Stored {
    fn files_key(&self) -> ObjectKey {
        ObjectKey::BackupFiles(self.record.id.clone())
    }

    async fn put_files(&self, parts: Vec<PartRecord>, files: Vec<FileRecord>) {
        let files = BackupFiles {
            version: 1,
            parts,
            files,
        };
        self.archive
            .put_record(&self.files_key(), &files)
            .await
            .expect("stored");
    }

    async fn alter_files(&self, alter: impl FnOnce(&mut Vec<FileRecord>)) {
        let mut files: BackupFiles = self
            .archive
            .get_record(&self.files_key())
            .await
            .expect("stored");
        self.archive
            .delete(&self.files_key())
            .await
            .expect("deleted");
        alter(&mut files.files);
        self.put_files(files.parts, files.files).await;
    }

    fn job(&self, pgdata: &Path, mappings: &[&str], delta: bool) -> Job<'_> {
        Job {
            archive: &self.archive,
            backup: &self.record,
            pgdata: pgdata.to_owned(),
            mappings: mappings
                .iter()
                .map(|mapping| mapping.parse().expect("a mapping"))
                .collect(),
            waldir: None,
            owner: None,
            created: Vec::new(),
            settings: RecoverySettings {
                restore_command: "fetch".to_owned(),
                target: Target::END,
                timeline: "1".to_owned(),
                action: None,
                standby: None,
                needed: Vec::new(),
                major: 15,
            },
            delta,
        }
    }

    /// Turns a bit of an object over; returns its size.
    async fn damage(&self, key: &ObjectKey, at: usize) -> usize {
        let (store, name) = (self.archive.store(), self.archive.name(key));
        let mut bytes = store.get(&name, None).await.expect("there").to_vec();
        bytes[at] ^= 1;
        store.delete(&name).await.expect("deleted");
        let size = bytes.len();
        let body = walvault_store::Body::new(Bytes::from(bytes));
        store.put(&name, body).await.expect("stored");
        size
    }

    async fn restore(&self, pgdata: &Path, mappings: &[&str]) -> Result<Made, MaterialiseError> {
        run(&self.job(pgdata, mappings, false)).await
    }

    async fn delta(&self, pgdata: &Path, mappings: &[&str]) -> Result<Made, MaterialiseError> {
        run(&self.job(pgdata, mappings, true)).await
    }
}

async fn run(job: &Job<'_>) -> Result<Made, MaterialiseError> {
    let progress = ProgressBar::hidden();
    let prepared = job.prepare(&progress).await?;
    prepared.run(&progress, std::future::pending()).await
}

fn usual_files() -> BTreeMap<String, Vec<u8>> {
    let content =
        |length: usize, seed: usize| (0..length).map(|index| (index * 31 + seed) as u8).collect();
    BTreeMap::from([
        ("PG_VERSION".to_owned(), b"15\n".to_vec()),
        ("backup_label".to_owned(), content(200, 1)),
        ("base/1/1259".to_owned(), content(8192, 2)),
        ("base/1/empty".to_owned(), Vec::new()),
        ("global/pg_control".to_owned(), control(SYSTEM.0)),
        (
            "postgresql.auto.conf".to_owned(),
            b"work_mem = '1MB'\n".to_vec(),
        ),
        ("standby.signal".to_owned(), Vec::new()),
    ])
}

/// A control file, which begins with the cluster's system identifier.
fn control(system: u64) -> Vec<u8> {
    [&system.to_ne_bytes()[..], &[3; 8184]].concat()
}

fn usual_directories() -> Vec<FileRecord> {
    ["base", "base/1", "global", "pg_wal", "pg_tblspc"]
        .map(|path| directory(path, 0o700))
        .into()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path)
        .expect("it is there")
        .permissions()
        .mode()
        & 0o7777
}

#[tokio::test]
async fn a_backup_becomes_a_data_directory() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("new/data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    for (path, content) in usual_files() {
        match path.as_str() {
            "standby.signal" => assert!(!pgdata.join(path).exists()),
            "postgresql.auto.conf" => {
                let text = fs::read_to_string(pgdata.join(path)).expect("there");
                assert!(text.starts_with(
                    "work_mem = '1MB'\nwalvault.restore = 'begin'\nrestore_command = 'fetch'\n"
                ));
            }
            _ => assert_eq!(
                fs::read(pgdata.join(&path)).expect("there"),
                content,
                "{path}"
            ),
        }
    }
    assert_eq!(
        fs::read(pgdata.join("backup_manifest")).expect("there"),
        b"the manifest"
    );
    assert_eq!(
        fs::read(pgdata.join("recovery.signal")).expect("there"),
        b""
    );
    assert_eq!(
        (mode(&pgdata), mode(&pgdata.join("base/1/1259"))),
        (0o700, 0o600)
    );
    let mut names: Vec<String> = fs::read_dir(&pgdata)
        .expect("there")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    let made = [
        "PG_VERSION",
        "backup_label",
        "backup_manifest",
        "base",
        "global",
        "pg_commit_ts",
        "pg_dynshmem",
        "pg_notify",
        "pg_stat",
        "pg_tblspc",
        "pg_twophase",
        "pg_wal",
        "postgresql.auto.conf",
        "recovery.signal",
    ];
    assert_eq!(names, made);
}

#[tokio::test]
async fn group_access_is_kept() {
    let directories = ["base", "global"].map(|path| directory(path, 0o750)).into();
    let stored = store(directories, &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    stored
        .restore(dir.path(), &[])
        .await
        .expect("an empty directory will do");
    let control = dir.path().join(PG_CONTROL);
    assert_eq!(
        (
            mode(dir.path()),
            mode(&dir.path().join("base/1")),
            mode(&control)
        ),
        (0o750, 0o750, 0o640)
    );
}

#[tokio::test]
async fn files_keep_the_modes_they_had_within_those_of_the_data_directory() {
    for (of_directories, expected) in [
        (0o700, [0o600, 0o700, 0o600, 0o600]),
        (0o750, [0o600, 0o750, 0o640, 0o640]),
    ] {
        let directories = ["base", "global"].map(|path| directory(path, of_directories));
        let mut files = usual_files();
        let names = ["server.key", "recover.sh", "loose.conf"];
        for name in names {
            files.insert(name.to_owned(), b"content".to_vec());
        }
        let stored = store(directories.into(), &files, Vec::new()).await;
        let dir = tempfile::tempdir().expect("a directory");
        stored.restore(dir.path(), &[]).await.expect("restored");
        let modes = [names[0], names[1], names[2], "PG_VERSION"];
        let modes = modes.map(|name| mode(&dir.path().join(name)));
        assert_eq!(modes, expected, "{of_directories:o}");
    }
}

fn expect_usual(pgdata: &Path, files: &BTreeMap<String, Vec<u8>>) {
    for (path, content) in files {
        let found = fs::read(pgdata.join(path));
        match path.as_str() {
            "standby.signal" => assert!(found.is_err()),
            "postgresql.auto.conf" => assert!(found.expect("there").starts_with(content)),
            _ => assert!(found.expect("there") == *content, "{path}"),
        }
    }
    assert!(pgdata.join("recovery.signal").exists());
    assert!(!pgdata.join("base/1/stray").exists());
}

/// Restores until the marker is there, and breaks off.
async fn break_off(job: &Job<'_>) {
    let marker = job.pgdata.join("walvault-restore.unfinished");
    let interrupted = async {
        while !marker.exists() {
            tokio::task::yield_now().await;
        }
    };
    let progress = ProgressBar::hidden();
    let prepared = job.prepare(&progress).await.expect("nothing in the way");
    match prepared.run(&progress, interrupted).await {
        Err(MaterialiseError::Unfinished { source, .. }) => {
            assert!(matches!(*source, MaterialiseError::Interrupted), "{source}");
        }
        outcome => panic!("{outcome:?}"),
    }
    assert!(!job.pgdata.join(PG_CONTROL).exists());
}

/// Restores and expects that it fails, with nothing left of what was refused beforehand and no
/// data directory of what broke off.
async fn refused(stored: &Stored) -> MaterialiseError {
    let dir = tempfile::tempdir().expect("a directory");
    let fresh = dir.path().join("fresh");
    match stored.restore(&fresh, &[]).await.expect_err("a bad backup") {
        MaterialiseError::Unfinished { source, .. } => {
            assert!(!fresh.join(PG_CONTROL).exists(), "{source}");
            assert!(
                fresh.join("walvault-restore.unfinished").exists(),
                "{source}"
            );
            *source
        }
        error => {
            assert!(!fresh.exists(), "{error}: something was left");
            error
        }
    }
}
