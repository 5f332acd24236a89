//! The file that PostgreSQL waits for: complete under its name, or not there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::WalFetchError;

/// What follows the final name in that of a file under way, before the process's ID.
const MARK: &str = ".walvault-";

/// Whether a file in `pg_wal` is one under way, or what a process left that was killed.
#[must_use]
pub fn is_leftover(name: &str) -> bool {
    name.starts_with("RECOVERY") && name.contains(MARK)
}

/// A file under way, beside its final name.
#[derive(Debug)]
pub struct WalFile {
    file: Arc<File>,
    temporary: PathBuf,
    path: PathBuf,
}

/// Writes a file under way from elsewhere, one run of bytes after the other.
#[derive(Debug)]
pub(super) struct WalWriter {
    file: Arc<File>,
    temporary: PathBuf,
    at: u64,
}

impl WalWriter {
    /// Writes what comes next.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), WalFetchError> {
        self.file
            .write_all_at(bytes, self.at)
            .map_err(|source| failed(&self.temporary, source))?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

impl WalFile {
    /// Begins a file that will be called `path`.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn create(path: &Path) -> Result<WalFile, WalFetchError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!("{MARK}{}", std::process::id()));
        let temporary = path.with_file_name(name);
        // One of the same process ID is a leftover.
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|source| failed(&temporary, source))?;
        Ok(WalFile {
            file: Arc::new(file),
            temporary,
            path: path.to_owned(),
        })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// When the disk does not take them.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WalFetchError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|source| failed(&self.temporary, source))
    }

    /// Writes from `offset` on.
    pub(super) fn writer(&self, offset: u64) -> WalWriter {
        WalWriter {
            file: self.file.clone(),
            temporary: self.temporary.clone(),
            at: offset,
        }
    }

    /// Copies all of `source` into it.
    ///
    /// # Errors
    /// When it cannot be read, or the disk does not take it.
    pub(crate) fn copy_from(&self, source: &mut File) -> Result<(), WalFetchError> {
        let copied = io::copy(source, &mut &*self.file);
        copied
            .map(drop)
            .map_err(|source| failed(&self.temporary, source))
    }

    /// Cuts it, or fills it with zeros, to `length` bytes.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn set_len(&mut self, length: u64) -> Result<(), WalFetchError> {
        self.file
            .set_len(length)
            .map_err(|source| failed(&self.temporary, source))
    }

    /// How long it is by now.
    pub(super) fn length(&self) -> Result<u64, WalFetchError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|source| failed(&self.temporary, source))
    }

    /// Gives it its name, and returns it. It is complete for every process, but what of it is on
    /// disk after the machine itself failed is open until it has been flushed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub(crate) fn publish(self) -> Result<Arc<File>, WalFetchError> {
        fs::rename(&self.temporary, &self.path).map_err(|source| failed(&self.path, source))?;
        Ok(self.file.clone())
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn finish(self) -> Result<(), WalFetchError> {
        let rename = || -> io::Result<()> {
            self.file.sync_all()?;
            fs::rename(&self.temporary, &self.path)?;
            let parent = self
                .path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
        };
        rename().map_err(|source| failed(&self.path, source))
    }
}

impl Drop for WalFile {
    fn drop(&mut self) {
        // Gone already where it has its name. A leftover is harmless, and written over.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn failed(path: &Path, source: io::Error) -> WalFetchError {
    WalFetchError::Write {
        path: path.display().to_string(),
        source,
    }
}
