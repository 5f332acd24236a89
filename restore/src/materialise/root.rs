//! A directory that a cluster or a tablespace goes into: what it holds beforehand.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use walvault_protocol::SystemId;

use super::site::{LOST_FOUND, MARKER};
use super::{MaterialiseError, PG_CONTROL};

/// A directory.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) holds: Holds,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// It is not there.
    Absent,
    /// Nothing.
    Nothing,
    /// A restore that was broken off, or still runs.
    Unfinished,
    /// A data directory on which no server runs.
    Cluster,
    /// Something.
    Something,
}

impl Root {
    /// The data directory. With `delta` it may hold the cluster `system`, if no server runs on it.
    pub(super) fn of_cluster(
        path: PathBuf,
        delta: bool,
        system: SystemId,
    ) -> Result<Root, MaterialiseError> {
        let Some(names) = names(&path)? else {
            let holds = Holds::Absent;
            return Ok(Root { path, holds });
        };
        let there = |wanted: &str| names.iter().any(|name| name == wanted);
        let runs = there("postmaster.pid");
        let holds = match names.first() {
            None => Holds::Nothing,
            Some(_) if runs => {
                return Err(MaterialiseError::InUse { dir: path, runs });
            }
            Some(_) if there(MARKER) => Holds::Unfinished,
            Some(_) if there("PG_VERSION") && delta => Holds::Cluster,
            Some(_) if there("PG_VERSION") => {
                return Err(MaterialiseError::InUse { dir: path, runs });
            }
            Some(found) => {
                let found = found.clone();
                return Err(MaterialiseError::NotEmpty { dir: path, found });
            }
        };
        if holds == Holds::Cluster
            && let Some(found) = system_of(&path)
            && found != system
        {
            return Err(MaterialiseError::OtherCluster {
                dir: path,
                found,
                system,
            });
        }
        Ok(Root { path, holds })
    }

    /// A tablespace's directory. If `ours`, it may hold what it will.
    pub(super) fn of_tablespace(path: PathBuf, ours: bool) -> Result<Root, MaterialiseError> {
        let holds = match names(&path)? {
            None => Holds::Absent,
            Some(names) if names.is_empty() => Holds::Nothing,
            Some(_) if ours => Holds::Something,
            Some(_) => return Err(MaterialiseError::TablespaceNotEmpty { dir: path }),
        };
        Ok(Root { path, holds })
    }

    /// Makes it where it is not there.
    pub(super) fn make(&self) -> Result<(), MaterialiseError> {
        if self.holds != Holds::Absent {
            return Ok(());
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(MaterialiseError::io("create", parent))?;
        }
        make_directory(&self.path)
    }

    /// The device it is or will be on, and the nearest directory above it that exists.
    pub(super) fn file_system(&self) -> Result<(u64, PathBuf), MaterialiseError> {
        for ancestor in self.path.ancestors() {
            match fs::metadata(ancestor) {
                Ok(metadata) => return Ok((metadata.dev(), ancestor.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(MaterialiseError::io("look at", ancestor)(error)),
            }
        }
        Ok((0, PathBuf::from("/")))
    }
}

/// What a directory holds but `lost+found`; `None` where there is none.
fn names(path: &Path) -> Result<Option<Vec<String>>, MaterialiseError> {
    let refuse = || MaterialiseError::io("read the directory", path);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Nothing can be made under the name of a link that leads nowhere.
            return match fs::read_link(path) {
                Ok(target) => Err(MaterialiseError::DanglingLink {
                    link: path.to_owned(),
                    target,
                }),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(refuse()(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.map_err(refuse())?.file_name();
        names.push(name.to_string_lossy().into_owned());
    }
    names.retain(|name| name != LOST_FOUND);
    Ok(Some(names))
}

/// The system identifier of the cluster in `dir`: the first field of `ControlFileData`
/// (`catalog/pg_control.h`), in the machine's own byte order.
fn system_of(dir: &Path) -> Option<SystemId> {
    let control = fs::read(dir.join(PG_CONTROL)).ok()?;
    let bytes = control.get(..8)?.try_into().ok()?;
    Some(SystemId(u64::from_ne_bytes(bytes)))
}

/// Makes a directory that only its owner may use.
pub(super) fn make_directory(path: &Path) -> Result<(), MaterialiseError> {
    match DirBuilder::new().mode(0o700).create(path) {
        // It was there before, and stays.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.map_err(MaterialiseError::io("create", path)),
    }
}
