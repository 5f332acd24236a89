//! What can be wrong with a configuration.

use std::fmt;
use std::path::PathBuf;

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// By an environment variable.
    Variable(String),
    /// Nowhere.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "in {}", path.display()),
            Place::Variable(name) => write!(f, "by the environment variable {name}"),
            Place::Nowhere => write!(f, "anywhere"),
        }
    }
}

/// Why a configuration cannot be used. No error shows the value of a secret.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration {}: {source}; name the right file with --config or \
         WALVAULT_CONFIG, or write one there: it needs at least 'url' in [archive]",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is not TOML. The line is not shown, it may hold a password.
    #[error("{} is not valid TOML at line {line}: {message}; correct the line", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
    /// An environment variable is not UTF-8.
    #[error("the environment variable {variable} is not UTF-8; set it to text")]
    NotUtf8 {
        /// Its name.
        variable: String,
    },
    /// There is no such key or section.
    #[error("unknown {what} '{key}', set {place}; {advice}")]
    Unknown {
        /// `section`, `key` or the section it is in.
        what: String,
        /// The key with its section, such as `wal.max_dealy`.
        key: String,
        /// Where it was set.
        place: Place,
        /// The nearest right one, or all.
        advice: String,
    },
    /// A value is not what its key takes.
    #[error("{key}, set {place}: {reason}")]
    Invalid {
        /// The key with its section.
        key: String,
        /// Where it was set.
        place: Place,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A value without a default is not set.
    #[error("{key} is not set; {remedy}")]
    Required {
        /// The key with its section.
        key: &'static str,
        /// What to set it to.
        remedy: &'static str,
    },
}
