//! Tablespaces that replay creates: the backup does not have them, and PostgreSQL puts them where
//! they were.
//!
//! Replay of `CREATE TABLESPACE` takes whatever lies in the version directory at the location for
//! its own (`create_tablespace_directories` in `tablespace.c`, during recovery). Beside the server
//! that was backed up that is production's own; after an accident it is the future that the restore
//! was to undo.

use std::fs;
use std::path::{Path, PathBuf};

use super::MaterialiseError;
use super::root::{Holds, Root};
use crate::plan::NewTablespace;

/// A location that replay will use, and what of it has to go before.
#[derive(Debug)]
pub(super) struct LateTablespace {
    pub(super) root: Root,
    /// Whether the data directory's own link leads there, or an unfinished restore had found that.
    pub(super) is_own: bool,
    /// Version directories of a state that the restore undoes.
    pub(super) surplus: Vec<PathBuf>,
}

impl LateTablespace {
    /// Looks at the location of `made`. `major` is PostgreSQL's, and `is_own` says whether the
    /// cluster that is restored over uses it.
    pub(super) fn find(
        made: &NewTablespace,
        major: u32,
        is_own: bool,
    ) -> Result<LateTablespace, MaterialiseError> {
        // The commit index has this in the place of bytes that are not UTF-8.
        if made.location.contains(char::REPLACEMENT_CHARACTER) {
            return Err(MaterialiseError::TablespaceName {
                oid: made.oid,
                location: made.location.clone(),
                lsn: made.lsn,
            });
        }
        let path = PathBuf::from(&made.location);
        let (holds, surplus) = match version_directories(&path, major)? {
            None => (Holds::Absent, Vec::new()),
            Some(found) => (Holds::Something, found),
        };
        match surplus.first() {
            Some(found) if !is_own => Err(MaterialiseError::TablespaceInUse {
                oid: made.oid,
                lsn: made.lsn,
                found: found
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned(),
                dir: path,
            }),
            _ => Ok(LateTablespace {
                root: Root { path, holds },
                is_own,
                surplus,
            }),
        }
    }
}

/// Refuses locations that hold anything which replay would take for its own.
///
/// # Errors
/// With the first.
pub fn check_unused(made: &[NewTablespace], major: u32) -> Result<(), MaterialiseError> {
    made.iter()
        .try_for_each(|made| LateTablespace::find(made, major, false).map(drop))
}

/// The directories of a major version in a tablespace's location, `TABLESPACE_VERSION_DIRECTORY` of
/// PostgreSQL's `relpath.h`; `None` where there is no location. Another version's may lie beside
/// them.
fn version_directories(
    location: &Path,
    major: u32,
) -> Result<Option<Vec<PathBuf>>, MaterialiseError> {
    let refuse = || MaterialiseError::io("read the directory", location);
    let entries = match fs::read_dir(location) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse()(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(refuse())?;
        if is_version_directory(&entry.file_name().to_string_lossy(), major) {
            found.push(entry.path());
        }
    }
    Ok(Some(found))
}

/// Whether this names a tablespace directory of PostgreSQL `major`: `PG_15_202209061`.
pub(super) fn is_version_directory(name: &str, major: u32) -> bool {
    name.starts_with(&format!("PG_{major}_"))
}
