//! What can be wrong with an archive.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::format::FormatError;
use crate::keys::KeyError;
use crate::layout::KeyId;
use crate::seal::OpenError;
use crate::store::StoreError;

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
    /// It opens, but cannot be read.
    Unreadable,
    /// It opens, but what is in it is not what PostgreSQL wrote.
    Content,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [FindingKind; 8] = [
        FindingKind::Missing,
        FindingKind::Cut,
        FindingKind::Altered,
        FindingKind::Swapped,
        FindingKind::Replayed,
        FindingKind::Closed,
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
            FindingKind::Unreadable => "unreadable",
            FindingKind::Content => "content",
        }
    }
}

impl Finding {
    /// What an error says about the object of this name; `None` for one that only says that nobody
    /// could look. What is sealed under one of `damaged` data keys is as good as altered.
    pub(super) fn of(name: &str, error: &Error, damaged: &BTreeSet<KeyId>) -> Option<Finding> {
        let kind = match error {
            Error::Store(StoreError::Missing { .. }) => FindingKind::Missing,
            Error::Corrupt { source, .. } => damage(source)?,
            Error::Record { .. } => FindingKind::Unreadable,
            Error::Key(KeyError::Missing(_)) => FindingKind::Closed,
            Error::Key(KeyError::CannotUnwrap { id, .. }) if damaged.contains(id) => {
                FindingKind::Closed
            }
            _ => return None,
        };
        Some(Finding {
            kind,
            object: name.to_owned(),
            detail: error.to_string(),
        })
    }
}

/// `None` for what a newer release wrote.
fn damage(error: &OpenError) -> Option<FindingKind> {
    Some(match error {
        OpenError::Format(FormatError::Version(_) | FormatError::Compression(_)) => return None,
        OpenError::Length { .. } | OpenError::Format(FormatError::Lengths(_)) => FindingKind::Cut,
        OpenError::Kind { .. } | OpenError::Authentication { .. } => FindingKind::Swapped,
        OpenError::Payload(_) => FindingKind::Content,
        OpenError::Format(_) | OpenError::Digest => FindingKind::Altered,
    })
}
