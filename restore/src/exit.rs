//! How a command ends when it does not succeed. `docs/restore.md` tables the codes.

use std::io::Write;

use walvault_archive::config::ConfigError;
use walvault_archive::keys::KeyError;
use walvault_archive::store::StoreError;

use crate::materialise::MaterialiseError;
use crate::plan::PlanError;
use crate::settings::SettingsError;
use crate::target::TargetError;

/// Refused: a target that cannot be reached, a directory that is not empty, a key that is wrong.
pub const REFUSED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The archive cannot be asked.
pub const UNAVAILABLE: u8 = 3;
/// Something in the archive is damaged or gone.
pub const DAMAGED: u8 = 4;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// The target does not say where to stop.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target cannot be reached.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The data directory could not be made.
    #[error(transparent)]
    Materialise(#[from] MaterialiseError),
    /// What recovery needs cannot be written down.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no such backup, or no such hold.
    #[error("{0}")]
    Unknown(String),
    /// The program could not be set up.
    #[error("cannot start: {0}; check the limits on threads and open files")]
    Runtime(std::io::Error),
    /// The result could not be printed.
    #[error("cannot write to standard output: {0}; send it somewhere that takes it")]
    Output(std::io::Error),
}

impl Failure {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Failure::Archive(error) | Failure::Plan(PlanError::Archive(error)) => of_archive(error),
            Failure::Materialise(MaterialiseError::Archive(error)) => of_archive(error),
            Failure::Materialise(
                MaterialiseError::Record { .. } | MaterialiseError::Checksum { .. },
            ) => DAMAGED,
            _ => REFUSED,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        Failure::Archive(error.into())
    }
}

/// The exit code of an error that an archive gave.
#[must_use]
pub fn of_archive(error: &walvault_archive::Error) -> u8 {
    use walvault_archive::Error;
    match error {
        Error::Store(StoreError::Missing { .. })
        | Error::Corrupt { .. }
        | Error::Record { .. }
        | Error::Key(KeyError::Missing(_)) => DAMAGED,
        Error::Store(_) | Error::Key(KeyError::Store(_)) => UNAVAILABLE,
        _ => REFUSED,
    }
}

/// Says on standard error what went wrong.
pub fn tell(failure: &dyn std::error::Error) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "walvault: error: {failure}");
}
