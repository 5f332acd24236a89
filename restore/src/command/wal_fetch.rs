//! `walvault wal-fetch`: PostgreSQL's `restore_command`.
//!
//! Its exit code is all that PostgreSQL learns (`RestoreArchivedFile` in `xlogarchive.c`): 0 means
//! that the file is there, 1 to 125 that the archive does not have it, and anything above stops
//! the server. So 1 is returned only when the archive was asked and said so; damage, a wrong key and
//! even a defect of this program end above 125. So does an outage, unless the server goes on right
//! without the archive (`Without`).

use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use walvault_archive::keys::KeyError;
use walvault_config::Config;
use walvault_protocol::Lsn;

use crate::access::{self, AccessError as Failure};
use crate::exit::{self, CommandError};
use crate::place::Place;
use crate::prefetch::Prefetch;
use crate::wal::local::goes_further;
use crate::wal::{Fetched, Holes, WalFetchError, WalFile, fetch};

/// The archive was asked and does not hold the file, or less of it than the server itself.
pub const ABSENT: u8 = 1;
/// The archive could not be asked, for as long as `[restore] retry_for` says.
pub const UNREACHABLE: u8 = 200;
/// What the archive holds is damaged, or WAL is gone from between other WAL.
pub const CORRUPT: u8 = 201;
/// The key file does not open it.
pub const WRONG_KEY: u8 = 202;
/// The command line or the configuration is wrong, or the archive is another's.
pub const MISCONFIGURED: u8 = 203;
/// The file could not be written.
pub const NOT_WRITTEN: u8 = 204;
/// A defect of this program.
pub const DEFECT: u8 = 205;

/// How long an archive that cannot be reached is tried at most, where the server goes on without it. A
/// standby blocks on that: it neither streams nor lets itself be promoted meanwhile.
const SHORT_RETRY_FOR: Duration = Duration::from_secs(3);

/// The history of timeline 1, which came from no other: `writeTimeLineHistory` writes none.
const FIRST_HISTORY: &str = "00000001.history";

/// How long the name of a segment is, `XLOG_FNAME_LEN` of PostgreSQL.
const SEGMENT_NAME: usize = 24;

/// Fetches one file of WAL.
#[derive(Debug, clap::Args)]
pub struct WalFetch {
    /// The file's name, PostgreSQL's %f
    #[arg(value_name = "NAME")]
    name: String,
    /// Where to write it, PostgreSQL's %p
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Where the plan of this recovery ends: what is missing from there on is no error, though more
    /// lies behind it. 'walvault restore' writes this
    #[arg(long, value_name = "LSN")]
    ends_at: Option<Lsn>,
    #[command(flatten)]
    place: Place,
}

/// Fetches it, and says how that went by the exit code.
#[must_use]
pub fn main(command: &WalFetch, config: Option<&Path>) -> ExitCode {
    // A panic would end the process with 101, which PostgreSQL takes for "no such file".
    let code = catch_unwind(AssertUnwindSafe(|| match run(command, config) {
        Ok(Fetched::Found) => 0,
        Ok(Fetched::Absent) => ABSENT,
        Err(failure) => {
            exit::tell(&failure);
            code(&failure)
        }
    }));
    ExitCode::from(code.unwrap_or(DEFECT))
}

/// Why a file was not fetched.
#[derive(Debug, thiserror::Error)]
enum WalFetchFailure {
    #[error(transparent)]
    Access(Box<Failure>),
    #[error(transparent)]
    Fetch(#[from] WalFetchError),
}

impl From<Failure> for WalFetchFailure {
    fn from(failure: Failure) -> WalFetchFailure {
        WalFetchFailure::Access(Box::new(failure))
    }
}

impl WalFetchFailure {
    /// Whether the archive, or what opens its keys, may answer later without anybody changing anything.
    fn is_outage(&self) -> bool {
        let key = match self {
            WalFetchFailure::Access(failure) => match &**failure {
                Failure::Archive(walvault_archive::Error::Key(error)) => Some(error),
                _ => None,
            },
            WalFetchFailure::Fetch(WalFetchError::Archive(walvault_archive::Error::Key(error))) => {
                Some(error)
            }
            WalFetchFailure::Fetch(_) => None,
        };
        code(self) == UNREACHABLE || key.is_some_and(KeyError::is_transient)
    }

    /// Whether WAL is gone from between other WAL. A standby does not end recovery there, but streams; on
    /// its way to the archive a segment may come after those that follow it.
    fn is_hole(&self) -> bool {
        matches!(self, WalFetchFailure::Fetch(WalFetchError::Hole { .. }))
    }
}

fn run(command: &WalFetch, config: Option<&Path>) -> Result<Fetched, WalFetchFailure> {
    // No server has one, and no archive. A standby asks while it is promoted.
    if command.name == FIRST_HISTORY {
        return Ok(Fetched::Absent);
    }
    let without = Without::of(&command.name, &command.path);
    let fetched = match (from_archive(command, config, without.is_some()), without) {
        (Err(failure), Some(without)) if failure.is_outage() || failure.is_hole() => {
            tracing::warn!(file = command.name, "{failure}; {without}");
            return Ok(Fetched::Absent);
        }
        (fetched, _) => fetched?,
    };
    let own = command.path.with_file_name(&command.name);
    // Where that cannot be told, what was fetched is as good as before.
    if fetched == Fetched::Found && goes_further(&own, &command.path).unwrap_or(false) {
        tracing::warn!(
            file = command.name,
            "the server has more of this segment than the archive: it keeps its own"
        );
        // PostgreSQL removes what is in the way of the next one.
        let _ = fs::remove_file(&command.path);
        return Ok(Fetched::Absent);
    }
    Ok(fetched)
}

/// Why a server goes on right when the archive cannot be reached and the answer is that a file is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Without {
    /// A standby does not end recovery then, but streams, and asks again.
    Streaming,
    /// It has the history in its `pg_wal`, and takes that one (`RestoreArchivedFile`). It asks for the
    /// history of its own timeline while it is promoted, when `standby.signal` is gone already
    /// (`StartupXLOG` in `xlog.c` removes it before it calls `writeTimeLineHistory`).
    OwnHistory,
}

impl Without {
    /// `None` where the server needs the archive's answer.
    fn of(name: &str, path: &Path) -> Option<Without> {
        if asks_for_standby(path) {
            return Some(Without::Streaming);
        }
        let has_history = name.ends_with(".history")
            && path.ends_with("RECOVERYHISTORY")
            && path.with_file_name(name).is_file();
        has_history.then_some(Without::OwnHistory)
    }
}

impl fmt::Display for Without {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Without::Streaming => {
                "this server is a standby: it goes on with what it has and streams"
            }
            Without::OwnHistory => "the server has this history, and takes its own",
        })
    }
}

/// Whether a standby asks, and not a server in another recovery, or `pg_rewind`, which asks for
/// `pg_wal/SEGMENT`. With both signal files a server is a standby (`readRecoverySignalFile` in
/// `xlogrecovery.c`).
fn asks_for_standby(path: &Path) -> bool {
    let Ok(path) = std::path::absolute(path) else {
        return false;
    };
    let is_server = ["RECOVERYXLOG", "RECOVERYHISTORY"]
        .iter()
        .any(|name| path.ends_with(name));
    let data_directory = path
        .parent()
        .filter(|pg_wal| pg_wal.ends_with("pg_wal"))
        .and_then(Path::parent);
    is_server && data_directory.is_some_and(|data| data.join("standby.signal").exists())
}

fn from_archive(
    command: &WalFetch,
    config: Option<&Path>,
    goes_on: bool,
) -> Result<Fetched, WalFetchFailure> {
    let config = Config::load(command.place.source(config)).map_err(Failure::from)?;
    access::log_to_stderr(tracing::Level::WARN);
    if takes_prefetched(command, &config) {
        return Ok(Fetched::Found);
    }
    let retry_for = match config.restore.retry_for {
        retry_for if goes_on => retry_for.min(SHORT_RETRY_FOR),
        retry_for => retry_for,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?;
    runtime.block_on(async {
        let archive = access::open_within(&config, retry_for).await?;
        let mut file = WalFile::create(&command.path)?;
        let holes = match command.ends_at {
            Some(end) => Holes::EndAt(end),
            None if goes_on => Holes::Streamed,
            None => Holes::Refused,
        };
        let fetched = fetch(&archive, &command.name, holes, &mut file).await?;
        if fetched == Fetched::Found {
            file.finish()?;
        }
        Ok(fetched)
    })
}

/// Takes a segment that was fetched ahead, if it is one.
fn takes_prefetched(command: &WalFetch, config: &Config) -> bool {
    // A name that is that long is a segment's; after others nothing follows.
    let is_segment = command.name.len() == SEGMENT_NAME
        && command.name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let config_path = config.file.as_deref().map(std::path::absolute).transpose();
    let Ok(config_path) = config_path else {
        return false;
    };
    is_segment
        && Prefetch::of(config, config_path.as_deref(), &command.path).is_some_and(|prefetch| {
            prefetch
                .with_arguments(command.place.arguments())
                .take(&command.name, &command.path)
        })
}

fn code(failure: &WalFetchFailure) -> u8 {
    match failure {
        WalFetchFailure::Access(failure) => match &**failure {
            Failure::Archive(error) => of_archive(error),
            _ => MISCONFIGURED,
        },
        WalFetchFailure::Fetch(WalFetchError::Archive(error)) => of_archive(error),
        WalFetchFailure::Fetch(WalFetchError::Name(_)) => MISCONFIGURED,
        WalFetchFailure::Fetch(WalFetchError::Write { .. }) => NOT_WRITTEN,
        WalFetchFailure::Fetch(WalFetchError::Unstable(_)) => UNREACHABLE,
        WalFetchFailure::Fetch(WalFetchError::Hole { .. }) => CORRUPT,
    }
}

fn of_archive(error: &walvault_archive::Error) -> u8 {
    if let walvault_archive::Error::Key(KeyError::CannotUnwrap { .. } | KeyError::Foreign { .. }) =
        error
    {
        return WRONG_KEY;
    }
    match error.exit_code() {
        exit::UNAVAILABLE => UNREACHABLE,
        exit::DAMAGED => CORRUPT,
        _ => MISCONFIGURED,
    }
}

#[cfg(test)]
mod tests {
    use walvault_store::StoreError;

    use super::*;

    #[test]
    fn only_proven_absence_ends_at_125_or_below() {
        let store =
            |error: StoreError| WalFetchFailure::Fetch(WalFetchError::Archive(error.into()));
        for failure in [
            store(StoreError::unavailable("s3://b", "get", "wal/1", "timeout")),
            store(StoreError::refused(
                "s3://b", "get", "wal/1", "denied", "grant it",
            )),
            store(StoreError::missing("s3://b", "archive.json")),
            WalFetchFailure::Fetch(WalFetchError::Name("x".to_owned())),
            WalFetchFailure::Fetch(WalFetchError::Unstable("x".to_owned())),
            WalFetchFailure::Fetch(WalFetchError::Hole {
                segment: "x".to_owned(),
                missing: Lsn(1),
                behind: Lsn(2),
            }),
            Failure::Archive(walvault_archive::Error::NotAnArchive {
                url: "s3://b".to_owned(),
            })
            .into(),
        ] {
            assert!(code(&failure) > 125, "{failure}");
        }
    }

    #[test]
    fn only_an_outage_lets_a_standby_go_on() {
        use walvault_archive::Error;
        use walvault_archive::keys::kms::KmsError;
        let failure = |error: Error| WalFetchFailure::Fetch(WalFetchError::Archive(error));
        let kms = |transient| {
            failure(Error::Key(KeyError::Kms(KmsError {
                key: "arn".to_owned(),
                action: "Decrypt",
                reason: "timeout".to_owned(),
                remedy: "look at it",
                transient,
            })))
        };
        assert!(kms(true).is_outage());
        assert!(!kms(false).is_outage());
        let away = StoreError::unavailable("s3://b", "get", "wal/1", "timeout");
        assert!(failure(away.into()).is_outage());
        let missing = StoreError::missing("s3://b", "archive.json");
        assert!(!failure(missing.into()).is_outage());
        assert!(!WalFetchFailure::Fetch(WalFetchError::Name("x".to_owned())).is_outage());
    }

    #[test]
    fn a_server_with_its_own_history_needs_no_archive() {
        let dir = tempfile::tempdir().expect("a directory");
        let pg_wal = dir.path().join("pg_wal");
        fs::create_dir(&pg_wal).expect("made");
        let asked = pg_wal.join("RECOVERYHISTORY");
        let (name, segment) = ("00000002.history", "000000010000000000000003");
        assert_eq!(Without::of(name, &asked), None);
        for own in [name, segment] {
            fs::write(pg_wal.join(own), "").expect("written");
        }
        assert_eq!(Without::of(name, &asked), Some(Without::OwnHistory));
        assert_eq!(Without::of(name, &pg_wal.join(name)), None);
        assert_eq!(Without::of(segment, &pg_wal.join("RECOVERYXLOG")), None);
    }

    #[test]
    fn a_standby_is_told_by_its_signal_file_and_the_names_it_asks_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let pg_wal = dir.path().join("pg_wal");
        fs::create_dir(&pg_wal).expect("made");
        fs::write(dir.path().join("recovery.signal"), "").expect("written");
        assert!(!asks_for_standby(&pg_wal.join("RECOVERYXLOG")));
        fs::write(dir.path().join("standby.signal"), "").expect("written");
        assert!(asks_for_standby(&pg_wal.join("RECOVERYXLOG")));
        assert!(asks_for_standby(&pg_wal.join("RECOVERYHISTORY")));
        // As pg_rewind and a person ask.
        assert!(!asks_for_standby(&pg_wal.join("000000010000000000000003")));
        assert!(!asks_for_standby(&dir.path().join("RECOVERYXLOG")));
    }
}
