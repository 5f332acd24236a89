//! The file that says that a restore is going on in a data directory, or was broken off there.
//!
//! It is locked while the restore runs, so that no second one joins in, and tells which tablespace
//! directories are this restore's, so that the next may go on in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::MaterialiseError;
use super::site::MARKER;

const TEXT: &[u8] = b"A restore by walvault is going on here, or was broken off.\n\
    No server can start on this directory: global/pg_control is written last.\n\
    Run the same 'walvault restore' again to finish it, or remove the directory.\n";
const TABLESPACE: &[u8] = b"tablespace: ";

/// The marker, locked.
#[derive(Debug)]
pub(super) struct Marker {
    _file: File,
}

impl Marker {
    /// Puts it into `pgdata`, or takes over the one that is there.
    pub(super) fn put(pgdata: &Path, tablespaces: &[PathBuf]) -> Result<Marker, MaterialiseError> {
        let path = pgdata.join(MARKER);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path);
        let mut file = open.map_err(MaterialiseError::io("create", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(MaterialiseError::Running {
                    dir: pgdata.to_owned(),
                });
            }
            Err(error) => return Err(MaterialiseError::io("lock", &path)(error.into())),
        }
        let mut content = TEXT.to_vec();
        let mut known = listed(&file).map_err(MaterialiseError::io("read", &path))?;
        known.extend(tablespaces.iter().cloned());
        known.sort();
        known.dedup();
        for tablespace in known {
            content.extend_from_slice(TABLESPACE);
            content.extend_from_slice(tablespace.as_os_str().as_bytes());
            content.push(b'\n');
        }
        let mut write = || {
            file.rewind()?;
            file.write_all(&content)?;
            file.set_len(content.len() as u64)?;
            file.sync_all()
        };
        write().map_err(MaterialiseError::io("write", &path))?;
        Ok(Marker { _file: file })
    }

    /// The tablespace directories that the restore which left it in `pgdata` had begun to fill.
    pub(super) fn tablespaces(pgdata: &Path) -> Vec<PathBuf> {
        let file = File::open(pgdata.join(MARKER));
        file.and_then(|file| listed(&file)).unwrap_or_default()
    }
}

fn listed(mut file: &File) -> io::Result<Vec<PathBuf>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.take(1 << 20).read_to_end(&mut content)?;
    let lines = content.split(|byte| *byte == b'\n');
    let paths = lines.filter_map(|line| line.strip_prefix(TABLESPACE));
    Ok(paths
        .map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec())))
        .collect())
}
