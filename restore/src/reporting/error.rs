//! Why there is no report.

use std::path::PathBuf;

use jiff::Timestamp;
use walvault_archive::keys::KeyFileError;
use walvault_store::StoreError;

use crate::exit::{CommandError, DAMAGED, REFUSED};
use crate::report::instant;
use crate::target::InstantError;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// An end of the span is no time.
    #[error("{0}; a date alone, such as 2026-11-21, is taken for its first instant")]
    Instant(#[from] InstantError),
    /// There is no such zone.
    #[error(
        "'{0}' is not a time zone that this host knows; use a name of the IANA database, such as Europe/Berlin, and install tzdata if it is one"
    )]
    Zone(String),
    /// The clock cannot show it.
    #[error("the span goes beyond what a calendar has: {0}; give --from and --to")]
    Calendar(#[from] jiff::Error),
    /// The ends are the wrong way round.
    #[error("the span from {} to {} holds no time; give --from an earlier time than --to", instant(*from), instant(*to))]
    Empty {
        /// The beginning.
        from: Timestamp,
        /// The end.
        to: Timestamp,
    },
    /// It has not begun.
    #[error("the span begins at {}, which is to come; give an earlier --from", instant(*.0))]
    Future(Timestamp),
    /// It ended before there was anything.
    #[error(
        "the span ends at {}, and the archive was begun at {}; give '--from {}' and a later --to",
        instant(*to), instant(*began), instant(*began)
    )]
    BeforeArchive {
        /// The end.
        to: Timestamp,
        /// When the archive was begun.
        began: Timestamp,
    },
    /// The trail is for others.
    #[error(
        "the audit trail is not for the identities given here ({0}); set [audit] identities to one of its recipients"
    )]
    Trail(walvault_archive::Error),
    /// Nowhere to write it.
    #[error("evidence is a directory; say with --out where to make it")]
    NoDirectory,
    /// A directory that holds something.
    #[error("{0} is there and not empty; name a directory that is not there yet")]
    NotEmpty(PathBuf),
    /// A file that is there.
    #[error("{0} is there already, and a report replaces none; give another name")]
    Exists(PathBuf),
    /// It cannot be written or read.
    #[error("{path}: {source}; give a place that is there and can be used")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Nothing to sign with.
    #[error(
        "evidence is signed, and there is no key; make one with 'walvault keys generate --signing' and set [audit] signing_key_file"
    )]
    NoSigningKey,
    /// The key to sign with.
    #[error("[audit] signing_key_file: {0}")]
    SigningKey(#[from] KeyFileError),
    /// It is no evidence.
    #[error(
        "{path} is not what 'walvault report evidence' makes: {reason}; name the directory with MANIFEST.json"
    )]
    NotEvidence {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was changed.
    #[error(
        "the evidence is wrong in {0} places; take it from where it was kept first, or make it anew"
    )]
    Changed(usize),
}

impl From<StoreError> for ReportError {
    fn from(error: StoreError) -> ReportError {
        ReportError::Archive(error.into())
    }
}

impl CommandError for ReportError {
    fn exit_code(&self) -> u8 {
        match self {
            ReportError::Archive(error) => error.exit_code(),
            ReportError::Changed(_) => DAMAGED,
            _ => REFUSED,
        }
    }
}

impl ReportError {
    /// An error of the file system.
    pub(super) fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ReportError {
        let path = path.to_owned();
        move |source| ReportError::File { path, source }
    }
}
