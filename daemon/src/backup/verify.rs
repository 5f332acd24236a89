//! Whether what was received is what PostgreSQL says it sent.

use std::collections::HashMap;

use walvault_archive::record::{FileKind, FilePath, FileRecord};
use walvault_protocol::manifest::{BackupManifest, FileChecksum, ManifestFile};
use walvault_protocol::{LsnRange, SystemId, TimelineId};

use super::BackupError;
use super::error::Difference;

/// The plain files of a list.
pub(super) fn plain_files(files: &[FileRecord]) -> impl Iterator<Item = &FileRecord> {
    files.iter().filter(|file| file.kind == FileKind::File)
}

/// Checks that a manifest is of this backup: of the same cluster, where it tells (since
/// PostgreSQL 17), and the same WAL.
///
/// # Errors
/// Naming both.
pub(super) fn belongs(
    manifest: &BackupManifest,
    system: SystemId,
    timeline: TimelineId,
    needed: LsnRange,
) -> Result<(), BackupError> {
    if let Some(found) = manifest.system_id.filter(|found| *found != system) {
        return Err(BackupError::other_system(found, system));
    }
    let same = |range: &walvault_protocol::manifest::ManifestWalRange| {
        range.timeline == timeline && range.start == needed.start && range.end == needed.end
    };
    if manifest.wal_ranges.len() == 1 && manifest.wal_ranges.iter().all(same) {
        return Ok(());
    }
    let found: Vec<String> = manifest
        .wal_ranges
        .iter()
        .map(|range| {
            format!(
                "{} of timeline {}",
                LsnRange::new(range.start, range.end),
                range.timeline
            )
        })
        .collect();
    Err(BackupError::ManifestOf {
        found: format!("the WAL {}", found.join(" and ")),
        expected: format!("the WAL {needed} of timeline {timeline}"),
    })
}

/// Compares every file's size and checksum with the manifest, which lists all files but itself and
/// WAL, and of WAL there is none in the backup.
///
/// # Errors
/// Naming the first file that differs.
pub(super) fn agrees(manifest: &BackupManifest, files: &[FileRecord]) -> Result<(), BackupError> {
    let mut received: HashMap<&FilePath, &FileRecord> = HashMap::with_capacity(files.len());
    for file in files {
        if received.insert(&file.path, file).is_some() {
            return Err(BackupError::file(&file.path, Difference::Twice));
        }
    }
    for listed in &manifest.files {
        let path = FilePath::from_bytes(listed.path.as_bytes());
        let difference = match received.remove(&path) {
            Some(file) if file.kind == FileKind::File => compare(listed, file),
            _ => Some(Difference::NotReceived),
        };
        if let Some(difference) = difference {
            return Err(BackupError::file(&path, difference));
        }
    }
    // In the order they came, so that the same backup fails with the same file.
    match plain_files(files).find(|file| received.contains_key(&file.path)) {
        Some(file) => Err(BackupError::file(&file.path, Difference::NotListed)),
        None => Ok(()),
    }
}

fn compare(listed: &ManifestFile, file: &FileRecord) -> Option<Difference> {
    if listed.size != file.size {
        return Some(Difference::Size {
            received: file.size,
            listed: listed.size,
        });
    }
    match (listed.checksum, file.crc32c) {
        (Some(FileChecksum::Crc32c(wanted)), Some(found)) if wanted == found => None,
        (Some(FileChecksum::Crc32c(wanted)), Some(found)) => Some(Difference::Checksum {
            received: FileChecksum::Crc32c(found).to_string(),
            listed: FileChecksum::Crc32c(wanted).to_string(),
        }),
        _ => Some(Difference::NoChecksum),
    }
}

#[cfg(test)]
mod tests;
