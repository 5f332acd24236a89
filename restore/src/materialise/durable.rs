//! Permissions, owners, and everything on disk.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walvault_store::compute;

use super::site::Site;
use super::tree::{Place, Tree};
use super::{AUTO_CONF, BACKUP_MANIFEST, MaterialiseError, Owner, TABLESPACE_MAP};

/// How many files are synced at once.
const AT_ONCE: usize = 8;

/// Settles every file, and then the directories that name them. `pg_control` is not there yet.
pub(super) async fn make_durable(
    site: &Site,
    tree: &Arc<Tree>,
    signal: &str,
    owner: Option<Owner>,
) -> Result<(), MaterialiseError> {
    let pgdata = site.pgdata();
    // One flush of each file system first, so that the many below find little to do.
    for root in site.roots() {
        let directory = File::open(&root).map_err(MaterialiseError::io("open", &root))?;
        let flushed = compute::elsewhere(move || rustix::fs::syncfs(&directory)).await;
        flushed.map_err(|error| {
            MaterialiseError::io("flush the file system of", &root)(error.into())
        })?;
    }
    let of_tree = tree
        .files
        .iter()
        .filter(|file| file.place == Place::Disk)
        .map(|file| (file.path.clone(), tree.mode_of(file)));
    let own = [BACKUP_MANIFEST, AUTO_CONF, signal].map(PathBuf::from);
    let map = site.is_remapped().then(|| PathBuf::from(TABLESPACE_MAP));
    let own = own.into_iter().chain(map);
    let files: Vec<(PathBuf, u32)> = of_tree
        .chain(own.map(|path| (path, tree.file_mode())))
        .map(|(path, mode)| (pgdata.join(path), mode))
        .collect();
    let mut settling = tokio::task::JoinSet::new();
    for files in files.chunks(files.len().div_ceil(AT_ONCE).max(1)) {
        let files = files.to_vec();
        settling.spawn_blocking(move || {
            files
                .iter()
                .try_for_each(|(file, mode)| settle_file(file, *mode, owner))
        });
    }
    while let Some(settled) = settling.join_next().await {
        settled.expect("settling does not panic")?;
    }
    settle_directories(site, tree, owner)
}

fn settle_directories(
    site: &Site,
    tree: &Tree,
    owner: Option<Owner>,
) -> Result<(), MaterialiseError> {
    if let Some(owner) = owner {
        site.links().iter().try_for_each(|link| owner.take(link))?;
    }
    let inner = tree
        .directories
        .iter()
        .rev()
        .filter(|directory| !site.is_link(&directory.path));
    let inner = inner.map(|directory| site.pgdata().join(&directory.path));
    for directory in inner.chain(site.roots()) {
        let permissions = Permissions::from_mode(tree.directory_mode());
        fs::set_permissions(&directory, permissions)
            .map_err(MaterialiseError::io("set the mode of", &directory))?;
        if let Some(owner) = owner {
            owner.take(&directory)?;
        }
        sync_directory(&directory)?;
    }
    for root in site.roots() {
        // The name of a directory is in its parent, which may be somebody else's.
        if let Some(parent) = root.parent() {
            let _ = sync_directory(parent);
        }
    }
    Ok(())
}

/// Sets mode and owner of a file and waits until it is on disk.
pub(super) fn settle_file(
    path: &Path,
    mode: u32,
    owner: Option<Owner>,
) -> Result<(), MaterialiseError> {
    let file = File::open(path).map_err(MaterialiseError::io("open", path))?;
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(MaterialiseError::io("set the mode of", path))?;
    if let Some(owner) = owner {
        owner.take(path)?;
    }
    file.sync_all().map_err(MaterialiseError::io("flush", path))
}

/// Waits until the names in a directory are on disk.
pub(super) fn sync_directory(path: &Path) -> Result<(), MaterialiseError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(MaterialiseError::io("flush", path))
}
