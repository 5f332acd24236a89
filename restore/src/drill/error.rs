//! Why a drill was not carried out, or not to its end.

use std::path::PathBuf;

use walvault_config::ConfigError;

use crate::exit::{CommandError, REFUSED};
use crate::materialise::MaterialiseError;
use crate::plan::{NewTablespace, PlanError};
use crate::protect::Pruned;
use crate::settings::SettingsError;
use crate::trial::TrialError;

/// Why a drill was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// Nothing would be left to open the archive.
    #[error(
        "key-loss needs identities that are kept for the day on which all others are lost; set [drill] escrow_identities"
    )]
    NoEscrow,
    /// Nothing would be left to restore from.
    #[error("site-loss needs a copy of the archive; add an [[archive.copy]]: see docs/copies.md")]
    NoCopy,
    /// There is no such copy.
    #[error("no [[archive.copy]] has the URL {0}; name one that is configured")]
    UnknownCopy(String),
    /// A copy without the scenario that it is for.
    #[error("--copy is for the scenario site-loss alone; leave it out")]
    CopyElsewhere,
    /// No instant can be chosen.
    #[error(
        "the archive holds no recovery window with a commit in it, so that no instant can be chosen; see 'walvault list'"
    )]
    NoWindow,
    /// Replay would write outside of the scratch directory.
    #[error(
        "replay creates tablespace {} at LSN {} in {}, outside of the scratch directory, where it may be the live server's; drill an instant before it, or take a base backup and drill an instant after that",
        made.oid, made.lsn, made.location
    )]
    Tablespace {
        /// The first that it would create.
        made: NewTablespace,
    },
    /// Another drill has the directory.
    #[error(
        "another drill, process {by}, uses {dir}; wait for its end, or give another directory with --scratch"
    )]
    Busy {
        /// The directory.
        dir: PathBuf,
        /// The process.
        by: String,
    },
    /// The directory cannot be used.
    #[error(
        "cannot {action} {path}: {source}; give a directory with --scratch in which this user may write"
    )]
    Scratch {
        /// What was tried.
        action: &'static str,
        /// What with.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Others could change what is in the directory.
    #[error(
        "{dir} is not used for a drill: {reason}; give another directory with --scratch, which may not be there yet, or let this one belong to the user that the drill runs as, or to --owner's, with mode 0700"
    )]
    Untrusted {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Too little room.
    #[error(
        "{dir} has {free} free and the drill needs {needed}; nothing was fetched: free some, or give another directory with --scratch"
    )]
    Space {
        /// The directory.
        dir: PathBuf,
        /// What is needed.
        needed: String,
        /// What there is.
        free: String,
    },
    /// It was ended.
    #[error("the drill was ended: {0}")]
    Ended(String),
    /// The archive.
    #[error(transparent)]
    Archive(Box<walvault_archive::Error>),
    /// The target cannot be reached.
    #[error(transparent)]
    Plan(Box<PlanError>),
    /// The backup is gone.
    #[error(transparent)]
    Pruned(#[from] Pruned),
    /// The cluster could not be restored.
    #[error(transparent)]
    Materialise(Box<MaterialiseError>),
    /// It could not be started, or did not reach the target.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// What recovery needs cannot be written down.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What was left of the configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive could not be opened.
    #[error("{0}")]
    Open(String),
    /// Something else of the operating system.
    #[error("cannot start: {0}; check permissions and limits")]
    Io(#[from] std::io::Error),
}

impl DrillError {
    /// Whether an object that was listed is gone.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            DrillError::Archive(error) => error.is_missing(),
            DrillError::Plan(error) => error.is_missing(),
            _ => false,
        }
    }
}

impl CommandError for DrillError {
    fn exit_code(&self) -> u8 {
        match self {
            DrillError::Archive(error) => error.exit_code(),
            DrillError::Plan(error) => error.exit_code(),
            DrillError::Materialise(error) => error.exit_code(),
            _ => REFUSED,
        }
    }
}

impl From<walvault_archive::Error> for DrillError {
    fn from(error: walvault_archive::Error) -> DrillError {
        DrillError::Archive(Box::new(error))
    }
}

impl From<PlanError> for DrillError {
    fn from(error: PlanError) -> DrillError {
        DrillError::Plan(Box::new(error))
    }
}

impl From<MaterialiseError> for DrillError {
    fn from(error: MaterialiseError) -> DrillError {
        DrillError::Materialise(Box::new(error))
    }
}
