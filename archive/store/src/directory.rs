//! Objects as files below a directory: local disk, or a share that is mounted.
//!
//! Owns durability. A file is written under a temporary name, flushed, and only then given its
//! key's name without replacing another; then the directory is flushed. A crash leaves at most a
//! file whose name begins with `.tmp-`, which no listing shows and which may be removed when it
//! is older than any write could take.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{Advice, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{
    Body, Capabilities, Leftover, Leftovers, ListPage, ObjectMeta, ObjectStore, StoreError,
    identity_key, key,
};

mod error;
mod owner;
mod walk;

/// How many objects a page of a listing holds. A page reads whole directories, so large pages
/// keep the listing of a large archive from reading them many times over.
const PAGE: usize = 10_000;

/// How often a write is begun anew because its directory was removed as empty meanwhile.
const DIRECTORY_RACES: u32 = 8;

/// An archive in a directory. Files are made with mode 0600, directories with 0700.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    url: String,
    root: PathBuf,
    /// The root's inode number when it was last seen: another one means that a volume was mounted
    /// or unmounted here, or that the kernel has forgotten a share's directory. Device numbers would not
    /// do, they change when a share is mounted again.
    inode: AtomicU64,
    /// `archive.json`, once it is there.
    identity: OnceLock<Vec<u8>>,
    page: usize,
    /// Held while directories are made or removed. A directory that is found present under it is
    /// durable, because its maker let go only after flushing its parent.
    directories: Mutex<()>,
    /// Set once everything that an earlier process left behind is known to be on disk.
    settled: OnceLock<()>,
}

impl DirectoryStore {
    /// Opens the archive in the directory `path`. The directory has to be there: walvault does
    /// not make it, so that a volume that is not mounted is not taken for an empty archive.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when it is not a directory or cannot be looked at.
    pub fn open(path: impl AsRef<Path>) -> Result<DirectoryStore, StoreError> {
        let root = path.as_ref().to_path_buf();
        let url = format!("file://{}", root.display());
        let refuse = |reason: String| {
            let remedy = format!(
                "create the directory, mount its volume, or correct archive.url: '{}' must be a \
                 directory that walvault may read and write",
                root.display()
            );
            StoreError::refused(&url, "open", "", reason, remedy)
        };
        let meta = fs::metadata(&root).map_err(|error| refuse(error.to_string()))?;
        if !meta.is_dir() {
            return Err(refuse("it is not a directory".to_owned()));
        }
        let inner = Inner {
            inode: AtomicU64::new(meta.ino()),
            identity: OnceLock::new(),
            page: PAGE,
            directories: Mutex::new(()),
            settled: OnceLock::new(),
            url,
            root,
        };
        Ok(DirectoryStore {
            inner: Arc::new(inner),
        })
    }

    /// Runs file operations where they may block.
    #[expect(
        clippy::disallowed_methods,
        reason = "an operation that was broken off is an answer here, in a simulation as well"
    )]
    async fn blocking<T: Send + 'static>(
        &self,
        action: &'static str,
        key: &str,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(stopped) => Err(StoreError::unavailable(
                &self.inner.url,
                action,
                key,
                stopped,
            )),
        }
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn url(&self) -> &str {
        &self.inner.url
    }

    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        key::check(self.url(), "put", key)?;
        let owned = key.to_owned();
        self.blocking("put", key, move |inner| inner.put(&owned, &body.bytes))
            .await
    }

    async fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        key::check(self.url(), "get", key)?;
        let owned = key.to_owned();
        self.blocking("get", key, move |inner| inner.get(&owned, range))
            .await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        key::check(self.url(), "head", key)?;
        let owned = key.to_owned();
        self.blocking("head", key, move |inner| inner.head("head", &owned))
            .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        key::check_prefix(self.url(), prefix)?;
        let (owned, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.blocking("list", prefix, move |inner| {
            inner.list(&owned, after.as_deref())
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        key::check(self.url(), "delete", key)?;
        let owned = key.to_owned();
        self.blocking("delete", key, move |inner| inner.delete(&owned))
            .await
    }

    fn capabilities(&self) -> Capabilities<'_> {
        let leftovers: Box<dyn Leftovers + '_> = Box::new(TemporaryFiles(self));
        Capabilities {
            leftovers: Some(leftovers),
            locks: None,
            versions: None,
            overwrites: None,
            batches: None,
            replicas: Vec::new(),
        }
    }
}

/// Files of writes that were cut off.
struct TemporaryFiles<'a>(&'a DirectoryStore);

#[async_trait]
impl Leftovers for TemporaryFiles<'_> {
    async fn find(&self, before: jiff::Timestamp) -> Result<Vec<Leftover>, StoreError> {
        self.0
            .blocking("list", "", move |inner| {
                inner.check_root("list", "")?;
                walk::temporary(&inner.root, before)
                    .map_err(|error| inner.failed("list", "", &error))
            })
            .await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let key = leftover.key.clone();
        self.0
            .blocking("delete", &leftover.key, move |inner| match fs::remove_file(
                inner.root.join(&key),
            ) {
                Err(error) if !error::is_absence(&error) => {
                    Err(inner.failed("delete", &key, &error))
                }
                _ => Ok(()),
            })
            .await
    }
}

impl Inner {
    fn put(&self, key: &str, bytes: &[u8]) -> Result<(), StoreError> {
        self.check_root("put", key)?;
        self.settle("put", key)?;
        if self.head("put", key)?.is_some() {
            return Err(StoreError::exists(&self.url, key));
        }
        let mut races = 0;
        loop {
            let written = self
                .make_directories(key)
                .and_then(|()| self.write(key, bytes));
            return match written {
                Ok(()) => Ok(()),
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && races < DIRECTORY_RACES =>
                {
                    races += 1;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Err(StoreError::exists(&self.url, key))
                }
                Err(error) => Err(self.failed("put", key, &error)),
            };
        }
    }

    fn get(&self, key: &str, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let read = || -> io::Result<Option<Result<Vec<u8>, StoreError>>> {
            let file = open_to_read(&self.root.join(key))?;
            let meta = file.metadata()?;
            // What begins other keys is no object.
            if meta.is_dir() {
                return Ok(None);
            }
            if !meta.is_file() {
                return Ok(Some(Err(self.no_file(key))));
            }
            if let Err(large) = StoreError::check_size(&self.url, key, meta.len()) {
                return Ok(Some(Err(large)));
            }
            let range = range.unwrap_or(0..u64::MAX);
            let start = range.start.min(meta.len());
            let end = range.end.clamp(start, meta.len());
            let length = usize::try_from(end - start).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, start)?;
            Ok(Some(Ok(bytes)))
        };
        match read() {
            Ok(Some(read)) => read.map(Bytes::from),
            Ok(None) => Err(StoreError::missing(&self.url, key)),
            Err(error) if error::is_absence(&error) => {
                self.check_root("get", key)?;
                Err(StoreError::missing(&self.url, key))
            }
            Err(error) => Err(self.failed("get", key, &error)),
        }
    }

    fn head(&self, action: &'static str, key: &str) -> Result<Option<ObjectMeta>, StoreError> {
        match fs::symlink_metadata(self.root.join(key)) {
            Ok(meta) => Ok(meta.is_file().then(|| object_meta(key.to_owned(), &meta))),
            Err(error) if error::is_absence(&error) => {
                self.check_root(action, key)?;
                Ok(None)
            }
            Err(error) => Err(self.failed(action, key, &error)),
        }
    }

    fn list(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StoreError> {
        self.check_root("list", prefix)?;
        walk::page(&self.root, prefix, after, self.page)
            .map_err(|error| self.failed("list", prefix, &error))
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        match fs::remove_file(self.root.join(key)) {
            Ok(()) => {}
            Err(error) if error::is_absence(&error) => return self.check_root("delete", key),
            Err(error) => return Err(self.failed("delete", key, &error)),
        }
        // Every segment has a directory of its own under tail/: remove those that fell empty, but
        // keep the top ones. Failing to is no failure, a directory holds no object.
        let _guard = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut parent = Path::new(key).parent();
        while let Some(folder) = parent.filter(|folder| folder.components().count() > 1) {
            if fs::remove_dir(self.root.join(folder)).is_err() {
                break;
            }
            parent = folder.parent();
        }
        Ok(())
    }

    /// Makes the directories above `key`, each flushed into its parent.
    fn make_directories(&self, key: &str) -> io::Result<()> {
        let _guard = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut missing = Vec::new();
        let mut folder = Path::new(key).parent();
        while let Some(path) = folder.filter(|path| !path.as_os_str().is_empty()) {
            if self.root.join(path).try_exists()? {
                break;
            }
            missing.push(path);
            folder = path.parent();
        }
        for folder in missing.into_iter().rev() {
            let path = self.root.join(folder);
            let made = match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => owner::open_directory(&path)
                    .and_then(|made| owner::hand_over(&self.root, &made)),
                // Another process, such as the operator's tool, may make it at the same time.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => return Err(error),
            };
            if let Err(error) = made.and_then(|()| sync_parent(&path)) {
                // Found present it would pass for durable: the next attempt has to make it again.
                let _ = fs::remove_dir(&path);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Writes a file that appears whole and durable under its key's name, or not at all.
    fn write(&self, key: &str, bytes: &[u8]) -> io::Result<()> {
        let target = self.root.join(key);
        let temporary = target.with_file_name(format!("{}{:016x}", key::TEMPORARY, random()?));
        let written = write_durably(&self.root, &temporary, bytes);
        let placed = written.and_then(|()| place(&temporary, &target));
        if let Err(error) = placed {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        if let Err(error) = sync_parent(&target) {
            // It shows under its name and might still be lost with the power. Withdraw it, or the
            // next attempt would find it and take it for stored.
            let _ = fs::remove_file(&target);
            return Err(error);
        }
        Ok(())
    }

    /// Flushes, once, what an earlier process may have renamed and not flushed when it was killed:
    /// a listing shows such files, and whoever acts on a listing takes them for stored.
    fn settle(&self, action: &'static str, key: &str) -> Result<(), StoreError> {
        if self.settled.get().is_none() {
            File::open(&self.root)
                .and_then(|root| Ok(rustix::fs::syncfs(&root)?))
                .map_err(|error| self.failed(action, key, &error))?;
            let _ = self.settled.set(());
        }
        Ok(())
    }

    /// Keeps an unmounted volume from looking like an archive without objects.
    fn check_root(&self, action: &'static str, key: &str) -> Result<(), StoreError> {
        let reason = match fs::metadata(&self.root) {
            Ok(meta) if meta.ino() == self.inode.load(Ordering::Relaxed) => {
                self.know_identity();
                return Ok(());
            }
            Ok(meta) if self.is_the_same() => {
                self.inode.store(meta.ino(), Ordering::Relaxed);
                return Ok(());
            }
            Ok(_) => "it is another directory than the one that was opened".to_owned(),
            Err(error) => error.to_string(),
        };
        let reason = format!(
            "the archive's directory '{}' is gone ({reason}); mount its volume again, or restart \
             walvault if it was moved on purpose",
            self.root.display()
        );
        Err(StoreError::unavailable(&self.url, action, key, reason))
    }

    /// Remembers which archive the directory holds, once it holds one.
    fn know_identity(&self) {
        if self.identity.get().is_none()
            && let Ok(identity) = read_small(&self.root.join(identity_key()))
        {
            let _ = self.identity.set(identity);
        }
    }

    /// Whether the directory holds the same archive as before. Over FUSE, CIFS and NFS a directory may have
    /// another inode whenever the kernel has forgotten it.
    fn is_the_same(&self) -> bool {
        let known = self.identity.get();
        known.is_some_and(|known| {
            matches!(read_small(&self.root.join(identity_key())), Ok(found) if found == *known)
        })
    }

    /// Refuses what stands under an object's name and is no regular file, such as a pipe.
    fn no_file(&self, key: &str) -> StoreError {
        let path = self.root.join(key);
        let remedy = format!(
            "move '{}' away, walvault did not make it; bring the object back from a copy",
            path.display()
        );
        StoreError::refused(&self.url, "get", key, "it is no regular file", remedy)
    }

    fn failed(&self, action: &'static str, key: &str, error: &io::Error) -> StoreError {
        error::classify(&self.url, &self.root, action, key, error)
    }
}

/// Opens what should be a regular file. A pipe under its name would otherwise be waited for until
/// somebody writes to it.
fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
}

/// Reads a file that is small.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_to_read(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a file's metadata tells of an object.
fn object_meta(key: String, meta: &fs::Metadata) -> ObjectMeta {
    let modified = meta.modified().ok();
    let modified = modified.and_then(|time| jiff::Timestamp::try_from(time).ok());
    ObjectMeta {
        key,
        size: meta.len(),
        modified: modified.unwrap_or(jiff::Timestamp::UNIX_EPOCH),
    }
}

/// Writes a new file below `root`.
fn write_durably(root: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    owner::hand_over(root, &file)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // The page cache counts as the pod's memory, and nobody reads this back soon.
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Gives a file its final name unless that name is taken.
fn place(temporary: &Path, target: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, temporary, cwd, target, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // NFS and some FUSE file systems do not know the flag. A hard link never replaces either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            link(temporary, target)
        }
        Err(error) => Err(error.into()),
    }
}

fn link(temporary: &Path, target: &Path) -> io::Result<()> {
    // A file system without links says that it may not be done (link(2), EPERM).
    fs::hard_link(temporary, target).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::PERM) => Errno::OPNOTSUPP.into(),
        _ => error,
    })?;
    // The object is stored under its name already; a temporary name left beside it is no harm.
    let _ = fs::remove_file(temporary);
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)?.sync_all()
}

fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
