//! The room left on the disk of the server's `pg_wal`, where that can be seen from here.

use std::io;
use std::path::{Path, PathBuf};

use walvault_store::compute;

/// Bytes that the server may still write to the disk of this directory: not those kept for root (statvfs(3), `f_bavail`).
///
/// # Errors
/// What the operating system says.
pub fn free(directory: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// As [`free`], for a directory that is looked at again and again; a failure is said once.
#[derive(Debug)]
pub struct WalDisk {
    directory: Option<PathBuf>,
    complained: bool,
}

impl WalDisk {
    /// That of `[postgres] wal_dir`.
    #[must_use]
    pub fn new(directory: Option<PathBuf>) -> WalDisk {
        WalDisk {
            directory,
            complained: false,
        }
    }

    /// The bytes that are free; `None` when nobody knows.
    pub async fn free(&mut self) -> Option<u64> {
        let directory = self.directory.clone()?;
        // A disk that hangs must not hold up the threads that serve sockets; who asks here waits for it.
        let looked = compute::elsewhere(move || (free(&directory), directory));
        match looked.await {
            (Ok(bytes), _) => {
                self.complained = false;
                Some(bytes)
            }
            (Err(error), directory) => {
                if !self.complained {
                    tracing::warn!(%error, directory = %directory.display(),
                        "cannot see how much room the disk of pg_wal has; correct [postgres] wal_dir");
                    self.complained = true;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_the_room_where_there_is_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let mut there = WalDisk::new(Some(folder.path().to_owned()));
        assert!(there.free().await > Some(0));
        assert_eq!(WalDisk::new(None).free().await, None);
        let mut gone = WalDisk::new(Some(folder.path().join("gone")));
        assert_eq!(gone.free().await, None);
        std::fs::create_dir(folder.path().join("gone")).unwrap();
        assert!(gone.free().await > Some(0));
    }
}
