//! The exit codes of errors that an archive gives.

use walvault_archive::Error;
use walvault_archive::keys::KeyError;
use walvault_archive::keys::rewrap::RewrapError;
use walvault_config::ConfigError;
use walvault_evidence::audit::AuditError;
use walvault_store::StoreError;
use walvault_upkeep::copy::CopyError;
use walvault_upkeep::prune::PruneError;

use super::{CommandError, DAMAGED, REFUSED, UNAVAILABLE};

impl CommandError for Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Store(error) => error.exit_code(),
            Error::Key(error) => error.exit_code(),
            Error::Corrupt { .. } | Error::Record { .. } | Error::RecordLost { .. } => DAMAGED,
            Error::KeyFile(_)
            | Error::Access(_)
            | Error::NotAnArchive { .. }
            | Error::NewerFormat { .. }
            | Error::OtherSystem { .. }
            | Error::OtherSegmentSize { .. }
            | Error::Diverged { .. }
            | Error::Unconfirmed { .. }
            | Error::Fenced { .. }
            | Error::Locked { .. }
            | Error::NumbersUsedUp { .. }
            | Error::Random(_) => REFUSED,
        }
    }
}

impl CommandError for StoreError {
    fn exit_code(&self) -> u8 {
        match self {
            StoreError::Missing { .. } | StoreError::TooLarge { .. } => DAMAGED,
            StoreError::Unavailable { .. }
            | StoreError::Exists { .. }
            | StoreError::Locked { .. }
            | StoreError::Refused { .. } => UNAVAILABLE,
        }
    }
}

impl CommandError for KeyError {
    fn exit_code(&self) -> u8 {
        match self {
            KeyError::Missing(_) => DAMAGED,
            KeyError::Store(_) => UNAVAILABLE,
            KeyError::CannotUnwrap { .. }
            | KeyError::CannotWrap { .. }
            | KeyError::Kms(_)
            | KeyError::NoRecipient
            | KeyError::NoWriter
            | KeyError::Foreign { .. }
            | KeyError::Random(_) => REFUSED,
        }
    }
}

impl CommandError for ConfigError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

impl CommandError for AuditError {
    fn exit_code(&self) -> u8 {
        match self {
            AuditError::Archive(error) => error.exit_code(),
            AuditError::SigningKey(_) | AuditError::Local(_) | AuditError::Directory { .. } => {
                REFUSED
            }
        }
    }
}

impl CommandError for CopyError {
    fn exit_code(&self) -> u8 {
        match self {
            CopyError::Archive(error) => error.exit_code(),
            CopyError::OtherArchive { .. } => REFUSED,
            CopyError::Unstable { .. } => UNAVAILABLE,
        }
    }
}

impl CommandError for PruneError {
    fn exit_code(&self) -> u8 {
        match self {
            PruneError::Archive(error) => error.exit_code(),
            PruneError::Unreadable { reason, .. } => reason.exit_code(),
            PruneError::RemovesEverything
            | PruneError::TooMuch { .. }
            | PruneError::ClockBehind { .. }
            | PruneError::ClockAhead { .. } => REFUSED,
        }
    }
}

impl CommandError for RewrapError {
    fn exit_code(&self) -> u8 {
        match self {
            RewrapError::Key(error) => error.exit_code(),
            RewrapError::Record { .. }
            | RewrapError::NothingLeft { .. }
            | RewrapError::NotProven { .. }
            | RewrapError::NotARecipient { .. }
            | RewrapError::Raced { .. }
            | RewrapError::Superseded { .. } => REFUSED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Failure;

    #[test]
    fn what_is_away_what_is_gone_and_what_is_wrong_end_differently() {
        let away = StoreError::unavailable("s3://b", "get", "wal/1", "timeout");
        assert_eq!(Failure::from(Error::from(away)).code(), UNAVAILABLE);
        let gone = StoreError::missing("s3://b", "wal/1");
        assert_eq!(
            Failure::from(PruneError::from(Error::from(gone))).code(),
            DAMAGED
        );
        let none = Error::NotAnArchive {
            url: "s3://b".to_owned(),
        };
        let failure = Failure::from(AuditError::from(none));
        assert_eq!(failure.code(), REFUSED);
        assert!(
            failure.to_string().contains("holds no archive"),
            "{failure}"
        );
    }
}
