//! How a command ends when it does not succeed. `docs/restore.md` tables the codes.

use std::io::Write;

use walvault_archive::audit::AuditError;
use walvault_archive::config::ConfigError;
use walvault_archive::copy::CopyError;
use walvault_archive::keys::KeyError;
use walvault_archive::keys::rewrap::RewrapError;
use walvault_archive::layout::KeyId;
use walvault_archive::prune::PruneError;
use walvault_archive::store::StoreError;

use crate::drill::DrillError;
use crate::export::ExportError;
use crate::materialise::MaterialiseError;
use crate::plan::PlanError;
use crate::reporting::ReportError;
use crate::settings::SettingsError;
use crate::target::TargetError;
use crate::trial::TrialError;

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
    /// The restored directory could not be tried out.
    #[error(transparent)]
    Trial(#[from] TrialError),
    /// A drill could not be begun.
    #[error(transparent)]
    Drill(Box<DrillError>),
    /// A drill did not go as it should.
    #[error("the drill failed: {0}; see docs/drill.md")]
    Drilled(String),
    /// The record of a drill could not be stored.
    #[error(
        "the drill's record could not be stored: {0}; keep what was printed, and set [audit] local_dir where the archive may not be written"
    )]
    NotKept(Box<Failure>),
    /// What recovery needs cannot be written down.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Nothing was pruned, or not all.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The audit trail cannot be written, or not be used.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The audit trail is not what it should be.
    #[error(
        "the audit trail is wrong in {0} places; find out who changed it, and keep what is there: see docs/audit.md"
    )]
    Trail(usize),
    /// There is no report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// An archive was not copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Not everything was copied.
    #[error(
        "{0} objects are damaged and were not copied; copy them from an archive that has them whole, or take a backup that does not need them"
    )]
    NotCopied(usize),
    /// No copy for offline media was written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// There is no such backup, or no such hold.
    #[error("{0}")]
    Unknown(String),
    /// The recipients of data keys could not be changed.
    #[error(transparent)]
    Rewrap(#[from] RewrapError),
    /// Some data keys do not open.
    #[error(
        "{0} of the data keys do not open here; give the identities they are wrapped for in [encryption] identities, or see to KMS"
    )]
    KeysClosed(usize),
    /// Some data keys are damaged.
    #[error("{0} of the data keys are damaged; restore keys/ from a copy of the archive")]
    KeysDamaged(usize),
    /// What was to be retired is still needed.
    #[error(
        "{0} is still needed for what is listed; add another recipient with 'walvault keys rewrap', or wait until retention has removed it"
    )]
    StillNeeded(String),
    /// There is no such data key.
    #[error(
        "'{0}' does not name one data key; give at least 8 digits of one that 'walvault keys list' shows"
    )]
    NoSuchKey(String),
    /// A data key that is sealed under must not be destroyed.
    #[error(
        "data key {0} is the newest, and new objects may be sealed under it; run 'walvault keys rotate', and wait until the sidecar has taken that up"
    )]
    KeyInUse(KeyId),
    /// Events cannot be destroyed.
    #[error(
        "events of the audit trail are sealed under data key {0}, and they are kept; nothing was destroyed"
    )]
    SealsEvents(KeyId),
    /// Nothing was destroyed.
    #[error(
        "nothing was destroyed; add --confirm to make unreadable for ever what data key {0} sealed"
    )]
    NotConfirmed(KeyId),
    /// The program could not be copied.
    #[error(
        "cannot install {path}: {source}; give a directory that is there and can be written to"
    )]
    Install {
        /// What was to be written.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
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
            Failure::NotKept(failure) => failure.code(),
            Failure::KeysDamaged(_)
            | Failure::Trail(_)
            | Failure::Report(ReportError::Changed(_))
            | Failure::NotCopied(_)
            | Failure::Export(ExportError::Damaged(_) | ExportError::ReadBack(_)) => DAMAGED,
            Failure::Rewrap(RewrapError::Key(KeyError::Store(_))) => UNAVAILABLE,
            Failure::Archive(error)
            | Failure::Audit(AuditError::Archive(error))
            | Failure::Copy(CopyError::Archive(error))
            | Failure::Export(ExportError::Archive(error))
            | Failure::Prune(PruneError::Archive(error))
            | Failure::Plan(PlanError::Archive(error)) => of_archive(error),
            Failure::Drill(error) => match &**error {
                DrillError::Archive(error) => of_archive(error),
                _ => REFUSED,
            },
            Failure::Materialise(error) => match error.cause() {
                MaterialiseError::Archive(error) => of_archive(error),
                MaterialiseError::Record { .. } | MaterialiseError::Checksum { .. } => DAMAGED,
                _ => REFUSED,
            },
            _ => REFUSED,
        }
    }
}

impl From<DrillError> for Failure {
    fn from(error: DrillError) -> Failure {
        Failure::Drill(Box::new(error))
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
