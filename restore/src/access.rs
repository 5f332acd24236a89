//! Opening the archive that a configuration names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use walvault_archive::Archive;
use walvault_archive::config::{Config, DEFAULT_PATH};
use walvault_archive::keys::KeyAccess;
use walvault_archive::store::{self, RetryPolicy, Retrying, StoreError};

use crate::exit::Failure;

/// The longest wait between two attempts to reach an archive.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Opens the archive of `config`, to be read. An archive that cannot be reached is tried again for
/// `[restore] retry_for`.
///
/// # Errors
/// When it cannot be reached, is none, or `[encryption]` names what cannot be used.
pub async fn open(config: &Config) -> Result<Archive, Failure> {
    open_within(config, config.restore.retry_for).await
}

/// As [`open`], trying again for as long as `retry_for`.
///
/// # Errors
/// As [`open`].
pub async fn open_within(config: &Config, retry_for: Duration) -> Result<Archive, Failure> {
    let keys =
        KeyAccess::from_settings(&config.encryption).map_err(walvault_archive::Error::from)?;
    let policy = RetryPolicy {
        max: LONGEST_WAIT,
        deadline: Some(retry_for),
        ..RetryPolicy::default()
    };
    let on_retry = |error: &StoreError, attempt: u32, wait: Duration| {
        tracing::warn!(attempt, wait_ms = wait.as_millis(), "{error}; trying again");
    };
    let store = store::open(&config.archive).await?;
    let store = Retrying::new(store, policy).with_on_retry(Arc::new(on_retry));
    Ok(Archive::open(Arc::new(store), keys).await?)
}

/// Where the configuration was read from, absolute, for a `restore_command` that runs elsewhere.
///
/// # Errors
/// When the current directory is gone.
pub fn config_path(config: &Config) -> std::io::Result<PathBuf> {
    let path = config.file.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    std::path::absolute(path)
}

/// Sends what is logged at `level` or above to standard error.
pub fn log_to_stderr(level: tracing::Level) {
    // A second call in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .try_init();
}

/// Who runs this process, such as `user 26 on db1`, for records that say who did something.
#[must_use]
pub fn whoami() -> String {
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let user = rustix::process::getuid().as_raw();
    format!("user {user} on {host}")
}

/// Who holds a lock: `command` of this process.
#[must_use]
pub fn holder(command: &str) -> String {
    format!("{command} (process {} of {})", std::process::id(), whoami())
}
