//! Opening the archive that a configuration names.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use walvault_archive::keys::KeyAccess;
use walvault_archive::seal::reads_whole;
use walvault_archive::{Archive, Catalog};
use walvault_config::{Config, ConfigError, CopySettings};
use walvault_layout::ObjectKey;
use walvault_protocol::SegmentSize;
use walvault_store as store;
use walvault_store::{Quorum, ReadOnly, RetryPolicy, Retrying, SharedStore, StoreError, Unopened};

use crate::exit::{CommandError, REFUSED};

/// The longest wait between two attempts to reach an archive.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How long a replica is asked whether it answers.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// How many catalogs [`on_catalog`] loads at most.
const CATALOGS: u32 = 6;

/// Why an archive could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// The operating system does not let this process ask.
    #[error("cannot start: {0}; check the limits on threads and open files")]
    Runtime(std::io::Error),
}

impl From<StoreError> for AccessError {
    fn from(error: StoreError) -> AccessError {
        AccessError::Archive(error.into())
    }
}

impl CommandError for AccessError {
    fn exit_code(&self) -> u8 {
        match self {
            AccessError::Archive(error) => error.exit_code(),
            AccessError::Config(_) | AccessError::Runtime(_) => REFUSED,
        }
    }
}

/// Opens the archive of `config`, to be read. An archive that cannot be reached is tried again for
/// `[restore] retry_for`.
///
/// # Errors
/// When it cannot be reached, is none, or `[encryption]` names what cannot be used.
pub async fn open(config: &Config) -> Result<Archive, AccessError> {
    open_within(config, config.restore.retry_for).await
}

/// As [`open`], trying again for as long as `retry_for`.
///
/// # Errors
/// As [`open`].
pub async fn open_within(config: &Config, retry_for: Duration) -> Result<Archive, AccessError> {
    open_joined(config, Quorum::Any, retry_for).await
}

/// As [`open`], to change what the archive holds: each of its copies must be there.
///
/// # Errors
/// As [`open`].
pub async fn open_to_change(config: &Config) -> Result<Archive, AccessError> {
    open_joined(config, Quorum::All, config.restore.retry_for).await
}

/// As [`open`], of one of its places alone.
///
/// # Errors
/// As [`open`].
pub async fn open_place(config: &Config, place: &CopySettings) -> Result<Archive, AccessError> {
    let store = store_at(place, config.restore.retry_for).await?;
    Ok(Archive::open(store, keys(config)?).await?)
}

/// The store at a place.
///
/// # Errors
/// When its settings cannot be used.
pub async fn store_at(
    place: &CopySettings,
    retry_for: Duration,
) -> Result<SharedStore, AccessError> {
    let store = store::open_at(&place.url, &place.options).await?;
    Ok(retrying(store, retry_for))
}

async fn open_joined(
    config: &Config,
    quorum: Quorum,
    retry_for: Duration,
) -> Result<Archive, AccessError> {
    let stores = open_each(&config.archive.places(), quorum).await?;
    let mut store = retrying(store::joined(stores, quorum, reads_whole), retry_for);
    if config.archive.read_only {
        store = Arc::new(ReadOnly::new(store));
    }
    Ok(Archive::open(store, keys(config)?).await?)
}

/// The stores of all places. One that does not open is away, so that nothing that it may hold is absent.
///
/// # Errors
/// When none opens, or one does not and each must be there.
async fn open_each(
    places: &[CopySettings],
    quorum: Quorum,
) -> Result<Vec<SharedStore>, AccessError> {
    let mut stores: Vec<SharedStore> = Vec::new();
    let (mut opened, mut failed) = (0, None);
    for place in places {
        match store::open_at(&place.url, &place.options).await {
            Ok(store) => {
                stores.push(store);
                opened += 1;
            }
            // A disk that is not mounted: the others hold the archive as well, but perhaps not all of it.
            Err(error) if quorum == Quorum::Any => {
                tracing::warn!("{error}");
                stores.push(Arc::new(Unopened::new(&place.url, &error)));
                failed = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    match failed {
        Some(error) if opened == 0 => Err(error.into()),
        _ => Ok(stores),
    }
}

/// A replica that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// Its URL.
    pub url: String,
    /// Why it does not.
    pub reason: String,
}

/// The replicas of the archive that cannot be asked now. What they alone hold is in no catalog. None where
/// the archive has no other: it answered, or nothing was opened.
pub async fn away(config: &Config) -> Vec<Away> {
    let places = config.archive.places();
    if places.len() < 2 {
        return Vec::new();
    }
    let asked = places.iter().map(|place| async move {
        let url = place.url.to_string();
        // Any segment size spells it alike.
        let key = ObjectKey::Archive.spell(SegmentSize::DEFAULT);
        let ask = async {
            let store = store::open_at(&place.url, &place.options).await?;
            store.head(&key).await
        };
        let reason = match tokio::time::timeout(LONGEST_LOOK, ask).await {
            Ok(Ok(Some(_))) => return None,
            Ok(Ok(None)) => format!("it has no {key}"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not answer within {} s", LONGEST_LOOK.as_secs()),
        };
        Some(Away { url, reason })
    });
    join_all(asked).await.into_iter().flatten().collect()
}

fn keys(config: &Config) -> Result<KeyAccess, AccessError> {
    let keys = KeyAccess::from_settings(&config.encryption);
    Ok(keys.map_err(walvault_archive::Error::from)?)
}

fn retrying(store: SharedStore, retry_for: Duration) -> SharedStore {
    let policy = RetryPolicy {
        max: LONGEST_WAIT,
        deadline: Some(retry_for),
        ..RetryPolicy::default()
    };
    let on_retry = |error: &StoreError, attempt: u32, wait: Duration| {
        tracing::warn!(attempt, wait_ms = wait.as_millis(), "{error}; trying again");
    };
    Arc::new(Retrying::new(store, policy).with_on_retry(Arc::new(on_retry)))
}

/// The path of the configuration's file, absolute, for a `restore_command` that runs elsewhere; `None`
/// where the command line or the environment configured everything.
///
/// # Errors
/// When the current directory is gone.
pub fn config_path(config: &Config) -> std::io::Result<Option<PathBuf>> {
    config.file.as_ref().map(std::path::absolute).transpose()
}

/// Sends what is logged at `level` or above to standard error.
pub fn log_to_stderr(level: tracing::Level) {
    // A second call in one process, as in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
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

/// Gives the catalog of `archive`, and what `act` made of it. While the sidecar writes, chunks give
/// way to the segment that holds the same WAL. When `act` misses an object, it gets a new catalog.
///
/// # Errors
/// Those of `act`, and when the archive cannot be listed.
pub async fn on_catalog<T, E: From<walvault_archive::Error>>(
    archive: &Archive,
    is_missing: impl Fn(&E) -> bool,
    act: impl AsyncFn(&Catalog) -> Result<T, E>,
) -> Result<(Catalog, T), E> {
    let mut again = 1..CATALOGS;
    loop {
        let catalog = Catalog::load(archive).await?;
        match act(&catalog).await {
            Err(error) if is_missing(&error) && again.next().is_some() => {}
            done => return Ok((catalog, done?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_without_a_file_has_no_path() {
        let mut config = Config::from_toml("[archive]\nurl = \"file:///a\"\n").expect("valid");
        // As where the environment says everything.
        config.file = None;
        assert_eq!(config_path(&config).expect("no path"), None);
        config.file = Some("/etc/w.toml".into());
        let path = config_path(&config).expect("a path");
        assert_eq!(path, Some(PathBuf::from("/etc/w.toml")));
    }

    /// The places of directories.
    fn places(directories: &[&std::path::Path]) -> Vec<CopySettings> {
        let place = |directory: &&std::path::Path| {
            let text = format!("[archive]\nurl = \"file://{}\"\n", directory.display());
            let config = Config::from_toml(&text).expect("valid");
            config.archive.places().remove(0)
        };
        directories.iter().map(place).collect()
    }

    #[tokio::test]
    async fn a_place_that_does_not_open_is_away_and_not_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let gone = dir.path().join("gone");
        let both = places(&[dir.path(), gone.as_path()]);
        let stores = open_each(&both, Quorum::Any).await.expect("one opens");
        let asked = stores[1].head("wal/1").await.expect_err("it is away");
        assert!(asked.is_transient(), "{asked}");
        assert!(open_each(&both, Quorum::All).await.is_err());
        assert!(
            open_each(&places(&[gone.as_path()]), Quorum::Any)
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn replicas_that_do_not_answer_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let [there, empty, gone] = ["there", "empty", "gone"].map(|name| dir.path().join(name));
        for made in [&there, &empty] {
            std::fs::create_dir(made).expect("made");
        }
        std::fs::write(there.join("archive.json"), "{}").expect("written");
        let config = |copies: &[&PathBuf]| {
            let copy =
                |dir: &&PathBuf| format!("[[archive.copy]]\nurl = \"file://{}\"\n", dir.display());
            let copies: String = copies.iter().map(copy).collect();
            let text = format!("[archive]\nurl = \"file://{}\"\n{copies}", there.display());
            Config::from_toml(&text).expect("valid")
        };
        assert!(away(&config(&[])).await.is_empty());
        let away = away(&config(&[&empty, &gone])).await;
        let urls: Vec<&str> = away.iter().map(|away| away.url.as_str()).collect();
        let url = |dir: &PathBuf| format!("file://{}", dir.display());
        assert_eq!(urls, [url(&empty), url(&gone)]);
        assert!(away[0].reason.contains("archive.json"), "{away:?}");
    }
}
