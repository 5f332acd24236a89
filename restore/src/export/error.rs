//! Why a copy was not written.

use std::io;
use std::path::{Path, PathBuf};

use walvault_archive::Error;
use walvault_archive::keys::KeyFileError;
use walvault_store::StoreError;

use crate::exit::{CommandError, DAMAGED, REFUSED};
use crate::plan::PlanError;
use crate::report::bytes;

/// Why there is no complete copy.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] Error),
    /// A backup, or an instant, that cannot be restored from it.
    #[error("{0}")]
    Plan(Box<PlanError>),
    /// Choosing needs to read records.
    #[error(
        "which backups there are is not for this host to read; give --identity, or --all, which needs none"
    )]
    NeedsIdentity,
    /// Nothing to copy.
    #[error("{url} holds no finished base backup; take one with 'walvaultd backup'")]
    NoBackup {
        /// Which archive.
        url: String,
    },
    /// The directory is somebody else's.
    #[error(
        "{dir} holds something else ({found}); choose an empty directory, or the one of an export that was broken off"
    )]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// What is in it, for example.
        found: String,
    },
    /// There is a copy in it.
    #[error(
        "{dir} holds a finished export ({found}); check it with 'sha256sum -c', and choose an empty directory for another"
    )]
    Finished {
        /// The directory.
        dir: PathBuf,
        /// Its record.
        found: String,
    },
    /// An export of another archive was begun in it.
    #[error(
        "{dir} holds an unfinished export of archive {theirs}, and this is {ours}; choose another directory"
    )]
    OtherArchive {
        /// The directory.
        dir: PathBuf,
        /// The archive that is exported there.
        theirs: String,
        /// The one that was to be.
        ours: String,
    },
    /// Another export was begun in it.
    #[error(
        "{dir} holds an unfinished export that was begun as '{was}', not as '{is}'; give the same options to go on, or another directory"
    )]
    OtherChoice {
        /// The directory.
        dir: PathBuf,
        /// How it was begun.
        was: String,
        /// How it was to go on.
        is: String,
    },
    /// Another process works there.
    #[error("another export is writing to {0}; wait for its end")]
    InUse(PathBuf),
    /// What was noted of an export does not read.
    #[error("{path} does not read: {reason}; remove {dir} and begin anew")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where it is.
        dir: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An object does not fit.
    #[error(
        "'{object}' has {} and is never split: a volume of {} is too small for it and what every volume carries; give --volume-size {smallest} or more. Nothing was written",
        bytes(*size), bytes(*volume)
    )]
    VolumeTooSmall {
        /// The largest object.
        object: String,
        /// Its bytes.
        size: u64,
        /// What was asked for.
        volume: u64,
        /// The least that would do, in bytes.
        smallest: u64,
    },
    /// Looked at before it is written.
    #[error(
        "{} needs {} more, and {} are free there; {}",
        dir.display(), bytes(*needed), bytes(*free), remedy(*of_many)
    )]
    Space {
        /// Where.
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
        /// Whether it is one volume of several.
        of_many: bool,
    },
    /// It ran full all the same.
    #[error(
        "the medium is full: {} could not be written; {}", path.display(), remedy(*of_many)
    )]
    Full {
        /// What was to be written.
        path: PathBuf,
        /// Whether it is one volume of several.
        of_many: bool,
    },
    /// The file system.
    #[error(
        "cannot {action} {}: {source}; see to the medium, and run the same command again to go on", path.display()
    )]
    Io {
        /// As a verb.
        action: &'static str,
        /// What of.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Objects of the archive.
    #[error(
        "{} objects of the archive are damaged ({}); this is no complete copy and says so. Mend them from another copy of the archive ('walvault copy'), and run the same command again",
        .0.len(), .0.join("; ")
    )]
    Damaged(Vec<String>),
    /// A prune, or somebody else.
    #[error(
        "'{0}' went from the archive since this export was begun; remove what was written and begin anew"
    )]
    Gone(String),
    /// The medium does not keep what is written.
    #[error(
        "{} reads back otherwise than it was written; do not trust this medium. Another attempt writes the file again", .0.display()
    )]
    ReadBack(PathBuf),
    /// Signing was asked for.
    #[error("[audit] signing_key_file: {0}")]
    SigningKey(#[from] KeyFileError),
}

impl CommandError for ExportError {
    fn exit_code(&self) -> u8 {
        match self {
            ExportError::Archive(error) => error.exit_code(),
            ExportError::Plan(error) => error.exit_code(),
            ExportError::Damaged(_) | ExportError::ReadBack(_) => DAMAGED,
            _ => REFUSED,
        }
    }
}

impl ExportError {
    /// The file system's, of this file.
    pub(super) fn io<'a>(
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> ExportError + 'a {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ExportError::Full {
                path: path.to_owned(),
                of_many: false,
            },
            _ => ExportError::Io {
                action,
                path: path.to_owned(),
                source,
            },
        }
    }

    /// It, where there are several volumes.
    pub(super) fn of_several(mut self) -> ExportError {
        if let ExportError::Full { of_many, .. } | ExportError::Space { of_many, .. } = &mut self {
            *of_many = true;
        }
        self
    }
}

impl From<PlanError> for ExportError {
    fn from(error: PlanError) -> ExportError {
        match error {
            PlanError::Archive(error) => ExportError::Archive(error),
            error => ExportError::Plan(Box::new(error)),
        }
    }
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> ExportError {
        ExportError::Archive(error.into())
    }
}

fn remedy(of_many: bool) -> &'static str {
    match of_many {
        true => {
            "take finished volumes away or mount another medium at this one's directory, and run the same command again"
        }
        false => {
            "make room and run the same command again, or choose --volume-size and several media in another directory"
        }
    }
}
