//! How a command ends when it does not succeed. `docs/restore.md` tables the codes.
//!
//! Knows no feature: each error says its own code, in the module that it belongs to.

use std::error::Error;
use std::fmt;
use std::io::{self, Write};

mod archive;

/// Refused: a target that cannot be reached, a directory that is not empty, a key that is wrong.
pub const REFUSED: u8 = 1;
/// The command line is wrong.
pub const USAGE: u8 = 2;
/// The archive cannot be asked.
pub const UNAVAILABLE: u8 = 3;
/// Something in the archive is damaged or gone.
pub const DAMAGED: u8 = 4;

/// An error that a command may end with.
pub trait CommandError: Error + Send + Sync + 'static {
    /// The process's exit code.
    fn exit_code(&self) -> u8;
}

/// Why a command did not do what it was asked: any [`CommandError`].
#[derive(Debug)]
pub struct Failure(Box<dyn CommandError>);

impl Failure {
    /// The process's exit code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.0.exit_code()
    }

    /// What was asked for cannot be done; `reason` says why, and what to do instead.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Failure {
        Refused(reason.into()).into()
    }

    /// The operating system does not let the program run as it has to.
    #[must_use]
    pub fn start(error: io::Error) -> Failure {
        CannotStart(error).into()
    }
}

impl<E: CommandError> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(Box::new(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

impl CommandError for Refused {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot start: {0}; check the limits on threads and open files")]
struct CannotStart(io::Error);

impl CommandError for CannotStart {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

/// Says on standard error what went wrong.
pub fn tell(failure: &dyn Error) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "walvault: error: {failure}");
}
