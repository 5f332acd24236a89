//! PostgreSQL's `backup_manifest`: which files a base backup has, and the WAL it needs.
//!
//! The format is the manual's chapter "Backup Manifest Format"; what is refused follows
//! `src/common/parse_manifest.c`. Version 1 is written by 13 to 16, version 2 since 17.

mod checksum;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::identity::SystemId;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;

pub use checksum::{ChecksumAlgorithm, ChecksumState, FileChecksum};

/// A base backup's manifest whose own checksum was found right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// The format's version: 1 or 2.
    pub version: u32,
    /// The cluster that was backed up; version 1 does not tell.
    pub system_id: Option<SystemId>,
    /// Every file of the backup but the manifest and WAL, in the manifest's order.
    pub files: Vec<ManifestFile>,
    /// The WAL that must be replayed to make the backup consistent, the newest timeline first.
    pub wal_ranges: Vec<ManifestWalRange>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it is.
    pub path: ManifestPath,
    /// Its size in bytes.
    pub size: u64,
    /// Its checksum; `None` for a backup taken with `MANIFEST_CHECKSUMS NONE`.
    pub checksum: Option<FileChecksum>,
}

/// A path relative to the data directory, with `/` between its parts. It never leads out of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ManifestPath {
    /// `Path`.
    Text(String),
    /// `Encoded-Path`: a path that is not UTF-8, or any under `MANIFEST 'force-encode'`.
    Encoded(Vec<u8>),
}

/// WAL that a backup needs, `[start, end)` on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestWalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte needed.
    pub start: Lsn,
    /// The byte after the last one needed.
    pub end: Lsn,
}

/// A manifest that cannot be relied on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Cut short, or not a manifest.
    #[error(
        "the backup_manifest has no line for its own checksum; it was cut short: take the backup again"
    )]
    Truncated,
    /// It was altered since PostgreSQL wrote it.
    #[error(
        "the backup_manifest has the SHA-256 {computed}, but says {stored}; it was altered since PostgreSQL wrote it: take the backup again"
    )]
    Checksum {
        /// `Manifest-Checksum`.
        stored: String,
        /// Over the bytes that are there.
        computed: String,
    },
    /// Not JSON, or not the keys and types of a manifest.
    #[error(
        "the backup_manifest cannot be read ({0}); take the backup again, with a release of walvault that knows this PostgreSQL"
    )]
    Json(#[from] serde_json::Error),
    /// A version of the format that is not known.
    #[error(
        "the backup_manifest has format version {0}, walvault reads 1 and 2; use a release of walvault that knows this PostgreSQL"
    )]
    Version(u32),
    /// Version 2 without the key that version 2 added.
    #[error(
        "the backup_manifest has format version 2 but names no system identifier; take the backup again"
    )]
    SystemIdMissing,
    /// A file without a path, with two, or with one that leads out of the data directory.
    #[error(
        "the backup_manifest names the file '{0}', which is no path inside a data directory; take the backup again"
    )]
    Path(String),
    /// A file that is named twice.
    #[error("the backup_manifest names the file '{0}' twice; take the backup again")]
    Duplicate(ManifestPath),
    /// A checksum of an unknown kind or of the wrong length.
    #[error(
        "the backup_manifest has an unreadable checksum for the file '{0}'; take the backup again"
    )]
    FileChecksum(ManifestPath),
    /// WAL that ends before it starts.
    #[error(
        "the backup_manifest needs WAL from {start} to {end}, which is backwards; take the backup again"
    )]
    WalRange {
        /// `Start-LSN`.
        start: Lsn,
        /// `End-LSN`.
        end: Lsn,
    },
}

impl BackupManifest {
    /// Reads a whole `backup_manifest`, after checking its own checksum.
    ///
    /// # Errors
    /// When it was cut, altered, or does not say what a manifest has to say.
    pub fn parse(bytes: &[u8]) -> Result<BackupManifest, ManifestError> {
        verify_own_checksum(bytes)?;
        let raw: RawManifest = serde_json::from_slice(bytes)?;
        match raw.version {
            1 => {}
            2 if raw.system_identifier.is_none() => return Err(ManifestError::SystemIdMissing),
            2 => {}
            other => return Err(ManifestError::Version(other)),
        }
        let files = raw.files.into_iter().map(RawFile::check);
        let files: Vec<ManifestFile> = files.collect::<Result<_, _>>()?;
        let mut seen = HashSet::with_capacity(files.len());
        if let Some(twice) = files.iter().find(|file| !seen.insert(file.path.as_bytes())) {
            return Err(ManifestError::Duplicate(twice.path.clone()));
        }
        let wal_ranges = raw.wal_ranges.into_iter().map(RawWalRange::check);
        Ok(BackupManifest {
            version: raw.version,
            system_id: raw.system_identifier.map(SystemId),
            files,
            wal_ranges: wal_ranges.collect::<Result<_, _>>()?,
        })
    }
}

impl ManifestPath {
    /// The path as the server's file system has it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            ManifestPath::Text(path) => path.as_bytes(),
            ManifestPath::Encoded(path) => path,
        }
    }

    /// Whether it stays within the directory it is relative to, and names a file there.
    fn is_inside(&self) -> bool {
        let path = self.as_bytes();
        let plain = |part: &[u8]| !matches!(part, b"" | b"." | b"..") && !part.contains(&0);
        path.split(|byte| *byte == b'/').all(plain)
    }
}

impl fmt::Display for ManifestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

impl fmt::Debug for ManifestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(self.as_bytes()), f)
    }
}

/// The last line holds the SHA-256 of every line before it, `verify_manifest_checksum`.
fn verify_own_checksum(bytes: &[u8]) -> Result<(), ManifestError> {
    let text = bytes.strip_suffix(b"\n").ok_or(ManifestError::Truncated)?;
    let line = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .ok_or(ManifestError::Truncated)?
        + 1;
    let (covered, last) = text.split_at(line);
    let stored = last
        .strip_prefix(b"\"Manifest-Checksum\": \"")
        .and_then(|rest| rest.strip_suffix(b"\"}"))
        .ok_or(ManifestError::Truncated)?;
    let stored = String::from_utf8_lossy(stored).to_ascii_lowercase();
    let computed = hex::encode(Sha256::digest(covered));
    if stored == computed {
        Ok(())
    } else {
        Err(ManifestError::Checksum { stored, computed })
    }
}

/// The manifest as JSON spells it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<RawFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<RawWalRange>,
    #[serde(rename = "Manifest-Checksum")]
    _manifest_checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RawFile {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified")]
    _last_modified: Option<String>,
    #[serde(rename = "Checksum-Algorithm")]
    checksum_algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWalRange {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl RawFile {
    fn check(self) -> Result<ManifestFile, ManifestError> {
        let path = match (self.path, self.encoded_path) {
            (Some(text), None) => ManifestPath::Text(text),
            (None, Some(encoded)) => match hex::decode(&encoded) {
                Ok(bytes) => ManifestPath::Encoded(bytes),
                Err(_) => return Err(ManifestError::Path(encoded)),
            },
            (text, _) => return Err(ManifestError::Path(text.unwrap_or_default())),
        };
        if !path.is_inside() {
            return Err(ManifestError::Path(path.to_string()));
        }
        let checksum = match (self.checksum_algorithm, self.checksum) {
            (None, None) => None,
            (Some(algorithm), Some(digits)) => match FileChecksum::parse(&algorithm, &digits) {
                Some(checksum) => Some(checksum),
                None => return Err(ManifestError::FileChecksum(path)),
            },
            _ => return Err(ManifestError::FileChecksum(path)),
        };
        let size = self.size;
        Ok(ManifestFile {
            path,
            size,
            checksum,
        })
    }
}

impl RawWalRange {
    fn check(self) -> Result<ManifestWalRange, ManifestError> {
        let RawWalRange {
            timeline,
            start,
            end,
        } = self;
        if end < start {
            return Err(ManifestError::WalRange { start, end });
        }
        Ok(ManifestWalRange {
            timeline,
            start,
            end,
        })
    }
}
