//! What a verification read, and what it found.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Digest;

/// `verified/<number>`: what one run found sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifiedRecord {
    /// The version of this structure, 1.
    pub version: u32,
    /// When it ended.
    pub at: Timestamp,
    /// Who looked.
    pub by: String,
    /// How closely.
    pub depth: Depth,
    /// Records up to this number say nothing that this one does not; 0 for none.
    #[serde(default)]
    pub replaces: u32,
    /// Names, with what was seen.
    pub objects: BTreeMap<String, Seen>,
    /// What was found.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
}

/// An object that was found sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its bytes.
    pub size: u64,
    /// Of its bytes.
    pub sha256: Digest,
    /// When.
    pub at: Timestamp,
    /// How closely it was looked at.
    pub depth: Depth,
}

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Depth {
    /// Names, sizes and coverage: what the listing tells, and the records.
    Names,
    /// Every object's bytes against its own SHA-256, and its end against its name.
    Stored,
    /// Every object opened; WAL record by record, backups file by file and page by page.
    Deep,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind of damage.
    pub kind: FindingKind,
    /// The object; for missing WAL, the place where it should be.
    pub object: String,
    /// What is wrong with it, in words.
    pub detail: String,
}

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// It is not there.
    Missing,
    /// It is shorter or longer than it was.
    Cut,
    /// Its bytes are not those that were stored.
    Altered,
    /// It is another object, or was sealed for another name or archive.
    Swapped,
    /// It opens, but is not the object that was stored under this name.
    Replayed,
    /// The data key that it is sealed under is gone or damaged.
    Closed,
    /// It is sealed under a data key that no trusted writer signed.
    Foreign,
    /// It opens, but cannot be read.
    Unreadable,
    /// It opens, but what is in it is not what PostgreSQL wrote.
    Content,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [FindingKind; 9] = [
        FindingKind::Missing,
        FindingKind::Cut,
        FindingKind::Altered,
        FindingKind::Swapped,
        FindingKind::Replayed,
        FindingKind::Closed,
        FindingKind::Foreign,
        FindingKind::Unreadable,
        FindingKind::Content,
    ];

    /// As JSON, metrics and tables spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FindingKind::Missing => "missing",
            FindingKind::Cut => "cut",
            FindingKind::Altered => "altered",
            FindingKind::Swapped => "swapped",
            FindingKind::Replayed => "replayed",
            FindingKind::Closed => "closed",
            FindingKind::Foreign => "foreign",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Content => "content",
        }
    }
}
