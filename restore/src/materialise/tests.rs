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

#[tokio::test]
async fn tablespaces_go_where_they_are_mapped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (old, moved) = (dir.path().join("old"), dir.path().join("moved"));
    let kept = dir.path().join("kept");
    let tablespace = |oid, location: &Path| TablespaceRecord {
        oid,
        location: location.to_str().expect("UTF-8").to_owned(),
    };
    let mut directories = usual_directories();
    let mut files = usual_files();
    for oid in [16384, 16385] {
        directories.push(directory(&format!("pg_tblspc/{oid}"), 0o700));
        directories.push(directory(&format!("pg_tblspc/{oid}/PG_15_1"), 0o700));
        files.insert(format!("pg_tblspc/{oid}/PG_15_1/{oid}"), vec![7; 3000]);
    }
    files.insert("tablespace_map".to_owned(), b"as it was".to_vec());
    let stored = store(
        directories,
        &files,
        vec![tablespace(16384, &old), tablespace(16385, &kept)],
    )
    .await;
    let mapping = format!("{}={}", old.display(), moved.display());
    let pgdata = dir.path().join("data");

    let error = stored
        .restore(&pgdata, &["/nowhere=/x"])
        .await
        .expect_err("no such tablespace");
    assert!(
        matches!(error, MaterialiseError::UnknownTablespace { .. }),
        "{error}"
    );
    let inside = format!("{}={}/inside", old.display(), pgdata.display());
    let error = stored
        .restore(&pgdata, &[&inside])
        .await
        .expect_err("inside the data directory");
    assert!(
        matches!(error, MaterialiseError::Overlapping { .. }),
        "{error}"
    );
    fs::create_dir(&kept).expect("made");
    fs::write(kept.join("somebody's"), "").expect("written");
    let error = stored
        .restore(&pgdata, &[&mapping])
        .await
        .expect_err("occupied");
    assert!(error.to_string().contains("--tablespace-map"), "{error}");
    fs::remove_file(kept.join("somebody's")).expect("removed");

    stored
        .restore(&pgdata, &[&mapping])
        .await
        .expect("restored");
    assert_eq!(
        fs::read_link(pgdata.join("pg_tblspc/16384")).expect("a link"),
        moved
    );
    assert_eq!(
        fs::read(moved.join("PG_15_1/16384")).expect("there"),
        vec![7; 3000]
    );
    assert_eq!(
        fs::read(kept.join("PG_15_1/16385")).expect("there"),
        vec![7; 3000]
    );
    let map = fs::read_to_string(pgdata.join("tablespace_map")).expect("there");
    assert_eq!(
        map,
        format!("16384 {}\n16385 {}\n", moved.display(), kept.display())
    );
    assert!(!old.exists());
}

#[tokio::test]
async fn what_is_in_the_way_stays_untouched() {
    let stored = store(usual_directories(), &usual_files(), Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path();
    for (found, expected) in [
        ("somebody's", "is not empty"),
        ("postmaster.pid", "a server may be running"),
        ("PG_VERSION", "holds a PostgreSQL data directory"),
    ] {
        fs::write(path.join(found), "x").expect("written");
        let error = stored
            .restore(path, &[])
            .await
            .expect_err("in the way")
            .to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_dir(path).expect("there").count(), 1);
        fs::remove_file(path.join(found)).expect("removed");
    }
    fs::create_dir(path.join("lost+found")).expect("made");
    stored
        .restore(path, &[])
        .await
        .expect("an empty file system");
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

#[tokio::test]
async fn a_backup_that_is_not_sound_makes_no_data_directory() {
    let usual = async || store(usual_directories(), &usual_files(), Vec::new()).await;
    let stored = usual().await;
    // The last part is found out after others were written.
    let part = ObjectKey::BackupPart(stored.record.id.clone(), 3);
    stored.archive.delete(&part).await.expect("deleted");
    assert!(
        matches!(refused(&stored).await, MaterialiseError::Archive(error) if error.is_missing())
    );

    let stored = usual().await;
    let alter = |files: &mut Vec<FileRecord>| {
        let file = files
            .iter_mut()
            .find(|file| file.path.to_string() == "base/1/1259")
            .expect("there");
        file.crc32c = file.crc32c.map(|crc| crc ^ 1);
    };
    stored.alter_files(alter).await;
    assert!(
        matches!(refused(&stored).await, MaterialiseError::Checksum { path, .. } if path == "base/1/1259")
    );

    for bad in [
        "../out",
        "/etc/passwd",
        "base/../../out",
        "base//1",
        "a\0b",
        "base/1/1259",
        "base/1",
    ] {
        let stored = usual().await;
        stored
            .alter_files(|files| {
                files.push(FileRecord {
                    kind: FileKind::File,
                    ..directory(bad, 0o600)
                });
            })
            .await;
        assert!(
            matches!(refused(&stored).await, MaterialiseError::Record { .. }),
            "{bad}"
        );
    }
    let stored = usual().await;
    let link = FileRecord {
        kind: FileKind::Symlink("/etc".to_owned()),
        ..directory("pg_tblspc/1", 0o777)
    };
    stored.alter_files(|files| files.push(link)).await;
    assert!(matches!(
        refused(&stored).await,
        MaterialiseError::Record { .. }
    ));
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

#[tokio::test]
async fn an_interrupted_restore_is_taken_up_and_finished() {
    let files = usual_files();
    let stored = store(usual_directories(), &files, Vec::new()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    let job = stored.job(&pgdata, &[], false);
    break_off(&job).await;
    // As if it had come further: one file is right, one is cut short, one belongs to nobody.
    fs::create_dir_all(pgdata.join("base/1")).expect("made");
    fs::write(pgdata.join("base/1/1259"), &files["base/1/1259"]).expect("written");
    fs::write(pgdata.join("backup_label"), "half").expect("written");
    fs::write(pgdata.join("base/1/stray"), "stray").expect("written");
    let made = stored.restore(&pgdata, &[]).await.expect("finished");
    assert!(
        made.kept_bytes >= 8192 && made.kept_bytes < made.bytes,
        "{made:?}"
    );
    expect_usual(&pgdata, &files);
    assert!(!pgdata.join("walvault-restore.unfinished").exists());

    // What a running restore does is not touched.
    let other = dir.path().join("other");
    let job = stored.job(&other, &[], false);
    let progress = ProgressBar::hidden();
    let one = job.prepare(&progress).await.expect("prepared");
    let _marker = one.site.begin().expect("begun");
    let error = stored.restore(&other, &[]).await.expect_err("it runs");
    assert!(matches!(error, MaterialiseError::Running { .. }), "{error}");
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However files lie in parts, they come back as they were.
    #[test]
    fn files_come_back(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..8)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut files = usual_files();
            files.extend(contents.into_iter().enumerate().map(|(index, content)| (format!("base/1/{index}"), content)));
            let stored = store(usual_directories(), &files, Vec::new()).await;
            let dir = tempfile::tempdir().expect("a directory");
            stored.restore(dir.path(), &[]).await.expect("restored");
            for (path, content) in files.iter().filter(|(path, _)| path.starts_with("base")) {
                prop_assert_eq!(&fs::read(dir.path().join(path)).expect("there"), content);
            }
            Ok(())
        })?;
    }

    #[test]
    fn safe_paths_stay_within(path in prop::collection::vec(prop::sample::select(b"ab./\0".to_vec()), 0..12)) {
        if let Ok(safe) = safe_path(&FilePath::from_bytes(&path)) {
            prop_assert_eq!(safe.as_os_str().as_encoded_bytes(), path.as_slice());
            prop_assert!(safe.is_relative() && !path.contains(&0));
            let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            prop_assert!(parts.iter().all(|part| !part.is_empty() && *part != b"." && *part != b".."));
        }
    }
}

/// A backup may point at parts of an earlier one, beside parts of its own that bear the same numbers.
#[tokio::test]
async fn parts_of_an_earlier_backup_are_read_where_they_are() {
    let Stored { archive, record } = store(usual_directories(), &usual_files(), Vec::new()).await;
    let earlier = record.id.clone();
    let later = backup(
        2,
        tli(1),
        LsnRange::new(Lsn(0x200_0028), Lsn(0x200_0100)),
        jiff::Timestamp::from_second(60).expect("a time"),
    );
    let files = ObjectKey::BackupFiles(earlier.clone());
    let BackupFiles {
        mut parts, files, ..
    } = archive.get_record(&files).await.expect("stored");
    assert!(parts.len() > 3);
    for (index, part) in parts.iter_mut().enumerate() {
        if index % 2 == 0 {
            part.backup = Some(earlier.clone());
            continue;
        }
        // Its own, under the number of a part that the earlier backup has too.
        let old = ObjectKey::BackupPart(earlier.clone(), part.number);
        let payload = archive.get(&old).await.expect("stored").payload;
        part.number = index.div_ceil(2) as u32;
        let new = ObjectKey::BackupPart(later.id.clone(), part.number);
        part.stored = archive
            .put_payload(&new, payload.into())
            .await
            .expect("stored");
        archive.delete(&old).await.expect("deleted");
    }
    let manifest = ObjectKey::BackupManifest(later.id.clone());
    archive
        .put_payload(&manifest, Bytes::from_static(b"the manifest"))
        .await
        .expect("stored");
    let needed = ObjectKey::BackupPart(earlier.clone(), parts[2].number);
    let stored = Stored {
        archive,
        record: later,
    };
    stored.put_files(parts, files).await;
    let dir = tempfile::tempdir().expect("a directory");
    let pgdata = dir.path().join("data");
    stored.restore(&pgdata, &[]).await.expect("restored");
    for path in ["base/1/1259", "global/pg_control", "backup_label"] {
        assert_eq!(
            fs::read(pgdata.join(path)).expect("there"),
            usual_files()[path],
            "{path}"
        );
    }

    stored.archive.delete(&needed).await.expect("deleted");
    let error = refused(&stored).await.to_string();
    assert!(error.contains(&stored.archive.name(&needed)), "{error}");
}
