//! The directory in which prefetched WAL waits, and who may work in it.

use std::fs::{self, DirBuilder, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use walvault_archive::config::Config;

/// Below `pg_wal`. PostgreSQL looks there at names of segments and histories alone (`IsXLogFileName`
/// in `xlog_internal.h`), and base backups leave out all that is in it.
const DEFAULT_NAME: &str = ".walvault";
const LOCK: &str = "lock";
const SOCKET: &str = "socket";

/// The directory of one server, one archive and one start of the machine.
#[derive(Debug, Clone)]
pub struct Site {
    dir: PathBuf,
}

/// The right to serve from a site, let go when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Site {
    /// Where WAL waits for a server that wants it at `path`; `None` where nothing is to be
    /// prefetched: it is turned off, or `path` is not in a `pg_wal`, so that nobody will ask for more.
    #[must_use]
    pub fn of(config: &Config, path: &Path) -> Option<Site> {
        if config.restore.prefetch == 0 {
            return None;
        }
        let path = std::path::absolute(path).ok()?;
        let beside = path.parent()?;
        let base = match &config.restore.prefetch_dir {
            Some(dir) => dir.clone(),
            None if beside.ends_with("pg_wal") => beside.join(DEFAULT_NAME),
            None => return None,
        };
        let mut hasher = DefaultHasher::new();
        let identity = format!("{:?} {:?}", config.archive, config.encryption);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        (identity, boot, beside, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        let dir = base.join(format!("{:016x}", hasher.finish()));
        Some(Site { dir })
    }

    /// The site that a helper was told to serve from.
    #[must_use]
    pub fn at(dir: PathBuf) -> Site {
        Site { dir }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a file of this name waits.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Reaches the helper.
    ///
    /// # Errors
    /// When none serves here.
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (_dir, address) = self.address()?;
        UnixStream::connect(address)
    }

    /// Takes requests from now on. Whoever listens holds the lock.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn listen(&self, _lock: &Lock) -> io::Result<UnixListener> {
        // One that is there belonged to a helper that was killed.
        match fs::remove_file(self.file(SOCKET)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let (_dir, address) = self.address()?;
        UnixListener::bind(address)
    }

    /// Makes the directory and takes the right to serve from it; `None` while another has it.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else could change what is in it.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        loop {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&self.dir)?;
            let metadata = fs::symlink_metadata(&self.dir)?;
            let ours = metadata.uid() == rustix::process::geteuid().as_raw();
            if !metadata.is_dir() || !ours || metadata.mode() & 0o077 != 0 {
                let reason = format!(
                    "{} belongs to another user, or others may use it",
                    self.dir.display()
                );
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
            }
            let opened = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.file(LOCK));
            let file = match opened {
                Ok(file) => file,
                // A helper that ends removes the directory.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // It may have been removed between opening and locking; then it keeps nobody out.
            let locked = file.metadata()?;
            match fs::metadata(self.file(LOCK)) {
                Ok(named) if named.ino() == locked.ino() => return Ok(Some(Lock { _file: file })),
                _ => {}
            }
        }
    }

    /// Removes every file but the lock: what an earlier helper left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&self, _lock: &Lock) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name() != LOCK {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes sites beside this one that nobody serves: of another archive or before the machine
    /// was started again.
    pub fn clear_others(&self) {
        let Some(base) = self.dir.parent() else {
            return;
        };
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_site = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let other = Site::at(entry.path());
            if is_site && other.dir != self.dir {
                // What cannot be removed is tried again by the next helper.
                if let Ok(Some(lock)) = other.lock() {
                    other.remove(lock);
                }
            }
        }
    }

    /// Removes all of it, and the directory above where that is then empty.
    pub fn remove(&self, lock: Lock) {
        // Whatever is left is removed by the next helper.
        let _ = self.clear(&lock);
        let _ = fs::remove_file(self.file(LOCK));
        let _ = fs::remove_dir(&self.dir);
        if let Some(base) = self
            .dir
            .parent()
            .filter(|base| base.ends_with(DEFAULT_NAME))
        {
            let _ = fs::remove_dir(base);
        }
        drop(lock);
    }

    /// The socket's address by way of an open directory, since an address holds at most 107 bytes
    /// (unix(7)) and a data directory's path may be longer. It is good while the file is open.
    fn address(&self) -> io::Result<(File, PathBuf)> {
        let dir = File::open(&self.dir)?;
        let address = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
        Ok((dir, address))
    }
}
