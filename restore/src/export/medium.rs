//! Files on the medium: written durably, and read back from it and not from memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Advice;

use super::error::ExportError;

/// What a file is called until it is whole.
const TEMPORARY: &str = ".tmp-export";

/// Writes `bytes` to `path`, making directories above it: there is a whole file on disk when this
/// returns, or none. What lies there is replaced.
///
/// # Errors
/// [`ExportError::Full`] and [`ExportError::Io`]; then nothing is left under a temporary name.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), ExportError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    make_directories(parent)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!("{TEMPORARY}-{name}"));
    let written = write_durably(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // It takes room on a medium that may be full.
        let _ = fs::remove_file(&temporary);
        return Err(ExportError::io("write", path)(error));
    }
    sync(parent)
}

/// Removes what an export that was killed left under temporary names, below `root`.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn remove_temporary(root: &Path) -> Result<(), ExportError> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(ExportError::io("list", &folder)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(ExportError::io("list", &folder))?;
            let path = entry.path();
            let kind = entry.file_type();
            if kind.map_err(ExportError::io("look at", &path))?.is_dir() {
                if entry.file_name() != "lost+found" {
                    folders.push(path);
                }
            } else if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                fs::remove_file(&path).map_err(ExportError::io("remove", &path))?;
            }
        }
    }
    Ok(())
}

/// Reads a whole file as the medium has it: what the page cache holds of it is dropped before.
///
/// # Errors
/// [`ExportError::Io`]
pub(super) fn read_back(path: &Path) -> Result<Vec<u8>, ExportError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        // Pages that are not written yet cannot be dropped.
        file.sync_data()?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        Ok(bytes)
    };
    read().map_err(ExportError::io("read back", path))
}

/// The size of a file; `None` when there is none.
///
/// # Errors
/// [`ExportError::Io`]
pub(super) fn size(path: &Path) -> Result<Option<u64>, ExportError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ExportError::io("look at", path)(error)),
    }
}

/// The bytes that are free where `dir` is, or will be.
///
/// # Errors
/// [`ExportError::Io`]
pub(super) fn free(dir: &Path) -> Result<u64, ExportError> {
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    let stat = rustix::fs::statvfs(there)
        .map_err(|error| ExportError::io("look at the file system of", there)(error.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes a directory and those above it, each on disk when this returns.
///
/// # Errors
/// [`ExportError::Io`]
pub(super) fn make_directories(dir: &Path) -> Result<(), ExportError> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent() {
        make_directories(parent)?;
    }
    match fs::create_dir(dir) {
        // Made by another write in the same moment.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(ExportError::io("make", dir)(error));
        }
        _ => {}
    }
    dir.parent().map_or(Ok(()), sync)
}

/// Waits until the names in a directory are on disk.
///
/// # Errors
/// [`ExportError::Io`]
pub(super) fn sync(dir: &Path) -> Result<(), ExportError> {
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(ExportError::io("flush", dir))
}

/// Everything is sealed, so that whoever mounts the medium may read it.
fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
    Ok(())
}
