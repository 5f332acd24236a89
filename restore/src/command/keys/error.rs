//! Why a command about keys is no success.

use walvault_layout::KeyId;

use crate::exit::{CommandError, DAMAGED, REFUSED};

/// Why a command about keys is no success.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysFailure {
    #[error(
        "{0} of the data keys do not open here; give the identities they are wrapped for in [encryption] identities, or see to KMS"
    )]
    Closed(usize),
    #[error("{0} of the data keys are damaged; restore keys/ from a copy of the archive")]
    Damaged(usize),
    #[error(
        "{0} is still needed for what is listed; add another recipient with 'walvault keys rewrap', or wait until retention has removed it"
    )]
    StillNeeded(String),
    #[error(
        "'{0}' does not name one data key; give at least 8 digits of one that 'walvault keys list' shows"
    )]
    Unknown(String),
    #[error(
        "data key {0} is the newest, and new objects may be sealed under it; run 'walvault keys rotate', and wait until the sidecar has taken that up"
    )]
    InUse(KeyId),
    #[error(
        "events of the audit trail are sealed under data key {0}, and they are kept; nothing was destroyed"
    )]
    SealsEvents(KeyId),
    #[error(
        "nothing was destroyed; add --confirm to make unreadable for ever what data key {0} sealed"
    )]
    NotConfirmed(KeyId),
}

impl CommandError for KeysFailure {
    fn exit_code(&self) -> u8 {
        match self {
            KeysFailure::Damaged(_) => DAMAGED,
            KeysFailure::Closed(_)
            | KeysFailure::StillNeeded(_)
            | KeysFailure::Unknown(_)
            | KeysFailure::InUse(_)
            | KeysFailure::SealsEvents(_)
            | KeysFailure::NotConfirmed(_) => REFUSED,
        }
    }
}
