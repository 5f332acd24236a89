//! A base backup's records.

use std::fmt;

use serde::{Deserialize, Serialize};
use walvault_layout::BackupId;
use walvault_protocol::{
    Lsn, LsnRange, SegmentNumber, SegmentSize, ServerVersion, SystemId, TimelineId,
};

/// `backups/<id>/record`: written last, after everything it speaks of and the WAL up to its end
/// are stored. Without it there is no backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// The backup's name.
    pub id: BackupId,
    /// `full`.
    pub kind: String,
    /// What the operator called it.
    pub label: String,
    /// The cluster.
    pub system_id: SystemId,
    /// `server_version_num` of the server it was taken from.
    pub server_version: ServerVersion,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Where replay begins: the redo point of the backup's checkpoint.
    pub start_lsn: Lsn,
    /// Where the restored cluster is consistent, and not before.
    pub stop_lsn: Lsn,
    /// When it was begun, by the clock of the machine that took it.
    pub started_at: jiff::Timestamp,
    /// When its data had been read.
    pub stopped_at: jiff::Timestamp,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its objects.
    pub stored_size: u64,
    /// How many files it has.
    pub file_count: u64,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<TablespaceRecord>,
    /// How many parts it refers to.
    pub part_count: u64,
    /// Whether retention must leave it alone.
    pub kept: bool,
    /// What the server warned of while it sent the backup, such as pages whose checksum is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl BackupRecord {
    /// The WAL without which it cannot be restored at all: from the beginning of the segment, of
    /// `size`, that replay begins in, since PostgreSQL asks for whole segments and reads the header
    /// that each begins with.
    #[must_use]
    pub fn wal_needed(&self, size: SegmentSize) -> LsnRange {
        let begin = SegmentNumber::containing(self.start_lsn, size).start(size);
        LsnRange::new(begin, self.stop_lsn)
    }
}

/// A tablespace outside the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceRecord {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was on the server.
    pub location: String,
}

/// An object that holds contents of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    /// The backup under whose name it is stored, when not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupId>,
    /// Its number there.
    pub number: u32,
    /// Bytes of its payload.
    pub length: u64,
    /// Bytes of the object.
    pub stored: u64,
    /// SHA-256 of the object, hexadecimal.
    pub sha256: String,
}

/// `backups/<id>/files`: where each file lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupFiles {
    /// The version of this structure, 1.
    pub version: u32,
    /// The objects that hold the files' contents, in order.
    pub parts: Vec<PartRecord>,
    /// Every file and directory, in the order PostgreSQL sent them.
    pub files: Vec<FileRecord>,
}

/// A file, directory or symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Relative to the data directory, as in PostgreSQL's manifest: what is in a tablespace begins
    /// with `pg_tblspc/<oid>/`.
    pub path: FilePath,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds since 1970.
    pub mtime: i64,
    /// CRC-32C of its content; PostgreSQL's manifest agrees with it where it lists the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<u32>,
    /// Where its content is, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extents: Vec<Extent>,
}

/// What a [`FileRecord`] is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A plain file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(String),
}

/// A run of a file's bytes within a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Index into [`BackupFiles::parts`].
    pub part: u32,
    /// The first byte within the part's payload.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// A path that need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilePath {
    /// One that is.
    Text(String),
    /// One that is not, in hexadecimal.
    Encoded {
        /// The bytes.
        hex: String,
    },
}

impl FilePath {
    /// From the bytes of a path.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> FilePath {
        match std::str::from_utf8(bytes) {
            Ok(text) => FilePath::Text(text.to_owned()),
            Err(_) => FilePath::Encoded {
                hex: hex::encode(bytes),
            },
        }
    }

    /// The bytes; `None` when the hexadecimal form is broken.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            FilePath::Text(text) => Some(text.clone().into_bytes()),
            FilePath::Encoded { hex } => hex::decode(hex).ok(),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilePath::Text(text) => f.write_str(text),
            FilePath::Encoded { hex } => write!(f, "hex:{hex}"),
        }
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
