//! The side of `wal-fetch`: takes a segment that waits, and starts a helper where there is none.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use walvault_config::Config;

use super::site::Site;
use crate::wal::{WalFetchError, WalFile};

/// How long to wait for a segment that the helper is fetching. One over a slow line takes as long;
/// one whose store stopped answering must not keep PostgreSQL for ever.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(2);

/// A prefetch that a segment may come from.
#[derive(Debug)]
pub struct Prefetch<'a> {
    site: Site,
    pg_wal: PathBuf,
    config: Option<&'a Path>,
    arguments: Vec<OsString>,
}

/// Why a segment does not come from the prefetch.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Write(#[from] WalFetchError),
}

impl<'a> Prefetch<'a> {
    /// The prefetch of the server that wants a segment at `path`; `None` where there is none.
    /// `config_path` is the configuration's file, absolute, for the helper.
    #[must_use]
    pub fn of(config: &Config, config_path: Option<&'a Path>, path: &Path) -> Option<Prefetch<'a>> {
        Some(Prefetch {
            site: Site::of(config, path)?,
            pg_wal: std::path::absolute(path).ok()?.parent()?.to_owned(),
            config: config_path,
            arguments: Vec::new(),
        })
    }

    /// It, with what else the helper is told on its command line.
    #[must_use]
    pub fn with_arguments(mut self, arguments: Vec<OsString>) -> Prefetch<'a> {
        self.arguments = arguments;
        self
    }

    /// Puts the segment `name` at `path` if it waits, and has those after it fetched; `false` if the
    /// archive has to be asked.
    #[must_use]
    pub fn take(&self, name: &str, path: &Path) -> bool {
        match self.try_take(name, path) {
            Ok(taken) => taken,
            Err(Trouble::Io(error)) if error.kind() == ErrorKind::PermissionDenied => {
                tracing::warn!("WAL is not fetched ahead: {error}");
                false
            }
            Err(trouble) => {
                tracing::info!("no help from the prefetch: {trouble}; fetching {name} directly");
                false
            }
        }
    }

    fn try_take(&self, name: &str, path: &Path) -> Result<bool, Trouble> {
        let (spool, lock) = self.site.enter()?;
        if let Some(lock) = lock {
            // No helper lives. What lies there may be half of a segment.
            spool.clear(&lock)?;
            spool.ask(name)?;
            drop(lock);
            self.spawn()?;
            return Ok(false);
        }
        spool.ask(name)?;
        let begun = Instant::now();
        loop {
            // Asked first: a segment that is published in between is found.
            let is_under_way = spool.is_under_way(name);
            if take(&spool.file(name), path)? {
                return Ok(true);
            }
            let helper_lives = || Ok::<_, io::Error>(spool.lock()?.is_none());
            if !is_under_way || begun.elapsed() >= PATIENCE || !helper_lives()? {
                return Ok(false);
            }
            // Its own process and thread: nothing else waits for it.
            #[expect(clippy::disallowed_methods, reason = "no task runs on this thread")]
            thread::sleep(POLL);
        }
    }

    /// Starts a helper that outlives this process. Its output goes nowhere: whoever holds the
    /// server's log open would keep the server's end waiting.
    fn spawn(&self) -> io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(config) = self.config {
            command.arg("--config").arg(config);
        }
        command
            .arg("wal-prefetch")
            .arg(self.site.dir())
            .arg(&self.pg_wal)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()
            .map(drop)
    }
}

/// Gives a segment its place; `false` if it is not there. PostgreSQL flushes it when it gives it its
/// own name (`durable_rename` in `KeepFileRestoredFromArchive`).
fn take(from: &Path, path: &Path) -> Result<bool, Trouble> {
    match fs::rename(from, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) if error.kind() == ErrorKind::CrossesDevices => {
            let mut source = File::open(from)?;
            let file = WalFile::create(path)?;
            file.copy_from(&mut source)?;
            file.publish()?;
            fs::remove_file(from)?;
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}
