use walvault_protocol::Lsn;
use walvault_protocol::manifest::{ManifestPath, ManifestWalRange};

use super::*;

const RANGE: LsnRange = LsnRange {
    start: Lsn(0x200_0028),
    end: Lsn(0x200_0138),
};

fn file(path: &str, size: u64, crc32c: u32) -> FileRecord {
    FileRecord {
        path: FilePath::Text(path.to_owned()),
        kind: FileKind::File,
        mode: 0o600,
        size,
        mtime: 0,
        crc32c: Some(crc32c),
        extents: Vec::new(),
    }
}

fn directory(path: &str) -> FileRecord {
    FileRecord {
        kind: FileKind::Directory,
        crc32c: None,
        ..file(path, 0, 0)
    }
}

fn listed(path: &str, size: u64, crc32c: u32) -> ManifestFile {
    ManifestFile {
        path: ManifestPath::Text(path.to_owned()),
        size,
        checksum: Some(FileChecksum::Crc32c(crc32c)),
    }
}

fn manifest(files: Vec<ManifestFile>) -> BackupManifest {
    BackupManifest {
        version: 1,
        system_id: None,
        files,
        wal_ranges: vec![ManifestWalRange {
            timeline: TimelineId::FIRST,
            start: RANGE.start,
            end: RANGE.end,
        }],
    }
}

/// How a backup of three files and a directory differs from a manifest.
fn difference(files: Vec<ManifestFile>) -> (String, Difference) {
    let received = [
        directory("base"),
        file("PG_VERSION", 3, 1),
        file("base/1", 8192, 2),
        file("base/2", 0, 0),
    ];
    match agrees(&manifest(files), &received) {
        Err(BackupError::File { path, difference }) => (path.to_string(), difference),
        other => panic!("{other:?}"),
    }
}

#[test]
fn agreement_is_of_every_file_in_any_order() {
    let received = [
        directory("base"),
        file("PG_VERSION", 3, 1),
        file("base/1", 8192, 2),
    ];
    let files = vec![listed("base/1", 8192, 2), listed("PG_VERSION", 3, 1)];
    agrees(&manifest(files), &received).unwrap();
}

#[test]
fn the_file_that_differs_is_named() {
    let all = || {
        vec![
            listed("PG_VERSION", 3, 1),
            listed("base/1", 8192, 2),
            listed("base/2", 0, 0),
        ]
    };

    let mut missing = all();
    missing.push(listed("base/3", 1, 1));
    assert_eq!(
        difference(missing),
        ("base/3".to_owned(), Difference::NotReceived)
    );

    let mut unlisted = all();
    unlisted.remove(1);
    assert_eq!(
        difference(unlisted),
        ("base/1".to_owned(), Difference::NotListed)
    );

    let mut size = all();
    size[1].size = 16384;
    let differs = Difference::Size {
        received: 8192,
        listed: 16384,
    };
    assert_eq!(difference(size), ("base/1".to_owned(), differs));

    let mut checksum = all();
    checksum[0].checksum = Some(FileChecksum::Crc32c(0x0100_0000));
    let differs = Difference::Checksum {
        received: "01000000".to_owned(),
        listed: "00000001".to_owned(),
    };
    assert_eq!(difference(checksum), ("PG_VERSION".to_owned(), differs));

    let mut none = all();
    none[2].checksum = None;
    assert_eq!(
        difference(none),
        ("base/2".to_owned(), Difference::NoChecksum)
    );

    let mut a_directory = all();
    a_directory.push(listed("base", 0, 0));
    assert_eq!(
        difference(a_directory),
        ("base".to_owned(), Difference::NotReceived)
    );
}

#[test]
fn a_file_comes_once() {
    let received = [file("PG_VERSION", 3, 1), file("PG_VERSION", 3, 1)];
    let error = agrees(&manifest(vec![listed("PG_VERSION", 3, 1)]), &received).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("file 'PG_VERSION' was received twice"),
        "{error}"
    );
}

#[test]
fn a_manifest_is_of_one_system_and_one_run_of_wal() {
    let system = SystemId(7);
    let check =
        |manifest: &BackupManifest, range| belongs(manifest, system, TimelineId::FIRST, range);
    let mut manifest = manifest(Vec::new());
    check(&manifest, RANGE).unwrap();
    let other = LsnRange::new(RANGE.start, Lsn(RANGE.end.0 + 8));
    let error = check(&manifest, other).unwrap_err().to_string();
    assert!(
        error.contains("[0/2000028, 0/2000138)") && error.contains("[0/2000028, 0/2000140)"),
        "{error}"
    );

    manifest.system_id = Some(system);
    check(&manifest, RANGE).unwrap();
    manifest.system_id = Some(SystemId(8));
    assert!(check(&manifest, RANGE).is_err());
}
