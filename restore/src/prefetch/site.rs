//! The directory in which segments wait: where it is, whose it is, and what is in it.
//!
//! It lies outside the data directory. `pg_rewind` lists the whole data directory of its target, and
//! fails when a file vanishes before it removes it (`remove_target_file` in `file_ops.c`); on a
//! source it copies what it finds in `pg_wal`. It lies on the file system of `pg_wal` where that is
//! possible, because a segment that has to be copied is flushed while PostgreSQL waits: a replay
//! through `cp` takes 1.9 times that from `pg_wal`, through `mv` 0.95 (`docs/performance.md`).

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use walvault_config::Config;

/// The directory of sites beside a data directory.
const BESIDE: &str = ".walvault";
const LOCK: &str = "lock";
const ASKED: &str = "asked";

/// The file that the server has a segment written to (`XLogFileRead` in `xlogrecovery.c`).
const SERVERS_NAME: &str = "RECOVERYXLOG";

/// How often a directory is made again that a helper removes meanwhile.
const ATTEMPTS: u32 = 10;

/// The directory of one server, one archive and one start of the machine.
#[derive(Debug, Clone)]
pub struct Site {
    dir: PathBuf,
}

/// A site's directory, opened: nobody but this user can change what is in it.
#[derive(Debug)]
pub struct Spool {
    dir: File,
    path: PathBuf,
}

/// The right to put segments into a spool, let go when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A request of `wal-fetch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The segment's name.
    pub name: String,
    /// Differs between two requests for the same segment: inode and time of the file.
    stamp: (u64, i64, i64),
}

impl Site {
    /// Where segments wait for a server that wants one at `path`; `None` where nothing is fetched
    /// ahead: `[restore] prefetch` is 0, or whoever asks is not a server. `pg_rewind` reads WAL
    /// backwards, and asks for `pg_wal/SEGMENT` (`RestoreArchivedFile` in `fe_utils/archive.c`).
    #[must_use]
    pub fn of(config: &Config, path: &Path) -> Option<Site> {
        let path = std::path::absolute(path).ok()?;
        let pg_wal = path.parent()?;
        let is_server = path.ends_with(SERVERS_NAME) && pg_wal.ends_with("pg_wal");
        if config.restore.prefetch == 0 || !is_server {
            return None;
        }
        let base = match &config.restore.prefetch_dir {
            Some(dir) => dir.clone(),
            None => default_base(pg_wal)?,
        };
        let mut hasher = DefaultHasher::new();
        let identity = format!("{:?} {:?}", config.archive, config.encryption);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        (identity, boot, pg_wal, env!("CARGO_PKG_VERSION")).hash(&mut hasher);
        Some(Site::at(base.join(format!("{:016x}", hasher.finish()))))
    }

    /// The site in the directory `dir`.
    #[must_use]
    pub fn at(dir: PathBuf) -> Site {
        Site { dir }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the directory, made where it is missing, with the lock unless a helper holds it.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else could change what is in it.
    pub fn enter(&self) -> io::Result<(Spool, Option<Lock>)> {
        let mut attempt = 1;
        loop {
            let spool = self.open()?;
            match spool.lock() {
                // A helper that ends removes the directory.
                Err(error) if error.kind() == ErrorKind::NotFound && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                lock => return Ok((spool, lock?)),
            }
        }
    }

    fn open(&self) -> io::Result<Spool> {
        let (Some(base), Some(name)) = (self.dir.parent(), self.dir.file_name()) else {
            return Err(ErrorKind::InvalidInput.into());
        };
        DirBuilder::new().recursive(true).mode(0o700).create(base)?;
        let user = rustix::process::geteuid().as_raw();
        let opened = File::open(base)?;
        let found = opened.metadata()?;
        // Whoever can rename entries of it could put another directory in the place of this one.
        let others_rename = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if others_rename || ![user, 0].contains(&found.uid()) {
            return Err(refused(base));
        }
        match mkdirat(&opened, name, Mode::RWXU) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
            _ => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = File::from(openat(&opened, name, flags, Mode::empty())?);
        let found = dir.metadata()?;
        if found.uid() != user || found.mode() & 0o077 != 0 {
            return Err(refused(&self.dir));
        }
        let path = self.dir.clone();
        Ok(Spool { dir, path })
    }

    /// Removes sites beside this one that no helper uses: of another configuration, of before the
    /// machine was started again, of a helper that was killed.
    pub fn clear_others(&self) {
        let Some(base) = self.dir.parent() else {
            return;
        };
        for entry in fs::read_dir(base).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_site = name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            let other = Site::at(entry.path());
            // What cannot be removed is tried again by the next helper.
            if is_site
                && other.dir != self.dir
                && let Ok((spool, Some(lock))) = other.enter()
            {
                spool.remove(lock);
            }
        }
    }
}

/// The directory of sites for a server whose `pg_wal` this is.
fn default_base(pg_wal: &Path) -> Option<PathBuf> {
    let wal = fs::canonicalize(pg_wal).ok()?;
    let around = wal.parent()?;
    // A pg_wal that is linked lies outside the data directory already.
    let is_data_directory = around.join("PG_VERSION").exists();
    let beside = if is_data_directory {
        around.parent()?
    } else {
        around
    };
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let may_write = rustix::fs::access(beside, Access::WRITE_OK | Access::EXEC_OK).is_ok();
    if may_write && device(beside) == device(&wal) {
        return Some(beside.join(BESIDE));
    }
    Some(std::env::temp_dir().join(temporary_name()))
}

/// The name of the directory of sites in the system's temporary directory.
fn temporary_name() -> String {
    format!("walvault-{}", rustix::process::geteuid().as_raw())
}

fn refused(dir: &Path) -> io::Error {
    let reason = format!(
        "{} belongs to another user, or others may write to it; \
         set [restore] prefetch_dir to a directory that only the server's user may write to",
        dir.display()
    );
    io::Error::new(ErrorKind::PermissionDenied, reason)
}

impl Spool {
    /// The path of an entry, by way of the opened directory: it leads to what was checked, whatever
    /// has become of the directory's own path.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// Whether the directory still has its path.
    #[must_use]
    pub fn has_its_path(&self) -> bool {
        let identity = |found: Metadata| (found.dev(), found.ino());
        let named = fs::symlink_metadata(&self.path).map(identity);
        let opened = self.dir.metadata().map(identity);
        matches!((named, opened), (Ok(named), Ok(opened)) if named == opened)
    }

    /// Takes the lock; `None` while another process has it.
    ///
    /// # Errors
    /// When the file system refuses, or the directory has been removed.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        loop {
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(self.file(LOCK))?;
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

    /// Says that PostgreSQL asks for the segment `name`.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn ask(&self, name: &str) -> io::Result<()> {
        let temporary = self.file(&format!("{ASKED}.{}", std::process::id()));
        fs::write(&temporary, name)?;
        fs::rename(&temporary, self.file(ASKED))
    }

    /// What PostgreSQL asked for last.
    #[must_use]
    pub fn asked(&self) -> Option<Asked> {
        let path = self.file(ASKED);
        let found = fs::metadata(&path).ok()?;
        Some(Asked {
            name: fs::read_to_string(path).ok()?,
            stamp: (found.ino(), found.mtime(), found.mtime_nsec()),
        })
    }

    /// Whether the helper is fetching the segment `name`.
    #[must_use]
    pub fn is_under_way(&self, name: &str) -> bool {
        let mut names = self.names().into_iter().flatten();
        names.any(|found| {
            found
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// Removes every segment, complete or not: what an earlier helper left.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&self, _lock: &Lock) -> io::Result<()> {
        for name in self.names()? {
            if name != LOCK && !name.starts_with(ASKED) {
                fs::remove_file(self.file(&name))?;
            }
        }
        Ok(())
    }

    /// Removes all of it, and the directory of sites where that is then empty.
    pub fn remove(&self, lock: Lock) {
        // Whatever is left is removed by the next helper.
        let _ = self.clear(&lock);
        let _ = fs::remove_file(self.file(ASKED));
        let _ = fs::remove_file(self.file(LOCK));
        let _ = fs::remove_dir(&self.path);
        if let Some(base) = self.path.parent()
            && (base.ends_with(BESIDE) || base.ends_with(temporary_name()))
        {
            let _ = fs::remove_dir(base);
        }
        drop(lock);
    }

    fn names(&self) -> io::Result<Vec<String>> {
        fs::read_dir(self.file("."))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests;
