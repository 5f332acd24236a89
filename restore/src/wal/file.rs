//! The file that PostgreSQL waits for: complete under its name, or not there.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::WalFetchError;

/// A file under way, beside its final name.
#[derive(Debug)]
pub struct WalFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl WalFile {
    /// Begins a file that will be called `path`.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn create(path: &Path) -> Result<WalFile, WalFetchError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".walvault-{}", std::process::id()));
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
            file,
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

    /// Cuts it, or fills it with zeros, to `length` bytes.
    ///
    /// # Errors
    /// When the disk does not take it.
    pub fn set_len(&mut self, length: u64) -> Result<(), WalFetchError> {
        self.file
            .set_len(length)
            .map_err(|source| failed(&self.temporary, source))
    }

    /// Begins anew.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&mut self) -> Result<(), WalFetchError> {
        self.set_len(0)
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
