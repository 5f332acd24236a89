//! What an error says about an object.

use std::collections::BTreeSet;

use walvault_archive::error::Error;
use walvault_archive::format::FormatError;
use walvault_archive::keys::KeyError;
use walvault_archive::record::{Finding, FindingKind};
use walvault_archive::seal::OpenError;
use walvault_layout::KeyId;
use walvault_store::StoreError;

/// What an error says about the object of this name; `None` for one that only says that nobody
/// could look. What is sealed under one of `damaged` data keys is as good as altered.
pub(super) fn finding(name: &str, error: &Error, damaged: &BTreeSet<KeyId>) -> Option<Finding> {
    let kind = match error {
        Error::Store(StoreError::Missing { .. }) => FindingKind::Missing,
        Error::Corrupt { source, .. } => damage(source)?,
        Error::Record { .. } => FindingKind::Unreadable,
        Error::Key(KeyError::Missing(_)) => FindingKind::Closed,
        Error::Key(KeyError::Foreign { .. }) => FindingKind::Foreign,
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

/// `None` for what a newer release wrote.
fn damage(error: &OpenError) -> Option<FindingKind> {
    Some(match error {
        OpenError::Format(FormatError::Version(_) | FormatError::Compression(_)) => return None,
        OpenError::Length { .. } | OpenError::Format(FormatError::Lengths(_)) => FindingKind::Cut,
        OpenError::Kind { .. } | OpenError::Purpose(_) | OpenError::Authentication { .. } => {
            FindingKind::Swapped
        }
        OpenError::Payload(_) => FindingKind::Content,
        OpenError::Format(_) | OpenError::Digest | OpenError::TooLarge { .. } => {
            FindingKind::Altered
        }
    })
}
