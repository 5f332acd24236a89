//! The directories that a cluster is restored into: free before, whole or gone after.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use walvault_archive::record::BackupRecord;

use super::durable::{self, sync_directory};
use super::tablespaces::{self, Tablespace, TablespaceMapping};
use super::tree::{Place, Tree, tablespace_link};
use super::{MaterialiseError, Owner, PG_CONTROL};

/// In a data directory while it is being made.
const MARKER: &str = "walvault-restore.unfinished";
const MARKER_TEXT: &[u8] =
    b"A restore by walvault was going on here and did not finish, unless it still runs.\n\
    No server can start on this directory: global/pg_control is written last.\n\
    Remove the directory and restore again.\n";

/// Made by mkfs in the root of a file system; such a directory counts as empty.
const LOST_FOUND: &str = "lost+found";

/// Where a cluster goes.
#[derive(Debug)]
pub(super) struct Site {
    pgdata: Root,
    tablespaces: Vec<(Tablespace, Root)>,
    /// Whether anything was made.
    begun: AtomicBool,
}

#[derive(Debug)]
struct Root {
    path: PathBuf,
    /// Whether it was there before.
    existed: bool,
}

impl Site {
    /// Finds the directories and checks that they are free.
    pub(super) fn plan(
        pgdata: &Path,
        backup: &BackupRecord,
        mappings: &[TablespaceMapping],
    ) -> Result<Site, MaterialiseError> {
        let pgdata =
            std::path::absolute(pgdata).map_err(MaterialiseError::io("resolve", pgdata))?;
        let pgdata = Root::free(pgdata)?;
        let mut tablespaces = Vec::new();
        for tablespace in tablespaces::placed(backup, mappings, &pgdata.path)? {
            let root = Root::free(tablespace.location.clone()).map_err(|error| match error {
                MaterialiseError::NotEmpty { dir, .. } => {
                    MaterialiseError::TablespaceNotEmpty { dir }
                }
                error => error,
            })?;
            tablespaces.push((tablespace, root));
        }
        Ok(Site {
            pgdata,
            tablespaces,
            begun: AtomicBool::new(false),
        })
    }

    pub(super) fn pgdata(&self) -> &Path {
        &self.pgdata.path
    }

    /// Whether a tablespace goes elsewhere than it was.
    pub(super) fn is_remapped(&self) -> bool {
        self.tablespaces
            .iter()
            .any(|(tablespace, _)| tablespace.is_moved)
    }

    /// The `tablespace_map` that a server reads when it starts on the backup.
    pub(super) fn tablespace_map(&self) -> Vec<u8> {
        tablespaces::map_content(self.tablespaces.iter().map(|(tablespace, _)| tablespace))
    }

    /// The links in `pg_tblspc`.
    pub(super) fn links(&self) -> Vec<PathBuf> {
        let links = self
            .tablespaces
            .iter()
            .map(|(tablespace, _)| tablespace.link());
        links.map(|link| self.pgdata.path.join(link)).collect()
    }

    /// The data directory and those of tablespaces.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let tablespaces = self.tablespaces.iter().map(|(_, root)| root.path.clone());
        tablespaces.chain([self.pgdata.path.clone()]).collect()
    }

    /// Whether the directory at `path` is a tablespace's, reached over a link.
    pub(super) fn is_link(&self, path: &Path) -> bool {
        tablespace_link(path).is_some_and(|oid| {
            self.tablespaces
                .iter()
                .any(|(tablespace, _)| tablespace.oid == oid)
        })
    }

    /// Whether every file system has room for what goes there.
    pub(super) fn check_space(&self, tree: &Tree) -> Result<(), MaterialiseError> {
        let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
        for file in tree
            .files
            .iter()
            .filter(|file| file.place != Place::Nowhere)
        {
            let root = self
                .tablespaces
                .iter()
                .find(|(tablespace, _)| file.path.starts_with(tablespace.link()));
            let root = root.map_or(&self.pgdata, |(_, root)| root);
            let (device, existing) = root.file_system()?;
            needed.entry(device).or_insert((existing, 0)).1 += file.size;
        }
        for (dir, needed) in needed.into_values() {
            let stat = rustix::fs::statvfs(&dir).map_err(|error| {
                MaterialiseError::io("ask for free space in", &dir)(error.into())
            })?;
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            if free < needed {
                return Err(MaterialiseError::Space { dir, needed, free });
            }
        }
        Ok(())
    }

    /// Makes every directory, link and empty file.
    pub(super) fn make_directories(&self, tree: &Tree) -> Result<(), MaterialiseError> {
        self.pgdata.make()?;
        let marker = self.pgdata.path.join(MARKER);
        create_new(&marker)
            .and_then(|mut file| file.write_all(MARKER_TEXT))
            .map_err(MaterialiseError::io("create", &marker))?;
        self.begun.store(true, Ordering::Relaxed);
        for (_, root) in &self.tablespaces {
            root.make()?;
        }
        for directory in &tree.directories {
            if !self.is_link(&directory.path) {
                make_directory(&self.pgdata.path.join(&directory.path))?;
            }
            if directory.path == Path::new("pg_tblspc") {
                self.make_links()?;
            }
        }
        for file in tree
            .files
            .iter()
            .filter(|file| file.place == Place::Disk && file.size == 0)
        {
            let path = self.pgdata.path.join(&file.path);
            create_new(&path).map_err(MaterialiseError::io("create", &path))?;
        }
        Ok(())
    }

    fn make_links(&self) -> Result<(), MaterialiseError> {
        for (tablespace, root) in &self.tablespaces {
            let link = self.pgdata.path.join(tablespace.link());
            symlink(&root.path, &link).map_err(MaterialiseError::io("link", &link))?;
        }
        Ok(())
    }

    /// Writes a file of the data directory's own.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<(), MaterialiseError> {
        let path = self.pgdata.path.join(name);
        create_new(&path)
            .and_then(|mut file| file.write_all(content))
            .map_err(MaterialiseError::io("write", &path))
    }

    /// Makes it a data directory: everything else is on disk.
    pub(super) fn finish(
        &self,
        tree: &Tree,
        control: &[u8],
        owner: Option<Owner>,
    ) -> Result<(), MaterialiseError> {
        let path = self.pgdata.path.join(PG_CONTROL);
        let temporary = path.with_extension("walvault");
        create_new(&temporary)
            .and_then(|mut file| file.write_all(control))
            .map_err(MaterialiseError::io("write", &temporary))?;
        durable::settle_file(&temporary, tree.file_mode(), owner)?;
        fs::rename(&temporary, &path).map_err(MaterialiseError::io("rename", &temporary))?;
        sync_directory(path.parent().unwrap_or(&self.pgdata.path))?;
        let marker = self.pgdata.path.join(MARKER);
        fs::remove_file(&marker).map_err(MaterialiseError::io("remove", &marker))?;
        sync_directory(&self.pgdata.path)
    }

    /// Removes what was made, as far as the file system lets us.
    pub(super) fn remove(&self) {
        if !self.begun.load(Ordering::Relaxed) {
            return;
        }
        // pg_control goes first, and the marker with the rest.
        let _ = fs::remove_file(self.pgdata.path.join(PG_CONTROL));
        let roots = self
            .tablespaces
            .iter()
            .map(|(_, root)| root)
            .chain([&self.pgdata]);
        for root in roots {
            if let Err(error) = root.remove() {
                tracing::warn!(
                    "cannot remove all of {}: {error}; remove it by hand",
                    root.path.display()
                );
            }
        }
    }
}

impl Root {
    fn free(path: PathBuf) -> Result<Root, MaterialiseError> {
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Root {
                    path,
                    existed: false,
                });
            }
            Err(error) => return Err(MaterialiseError::io("read the directory", &path)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(MaterialiseError::io("read the directory", &path))?;
            names.push(entry.file_name());
        }
        names.retain(|name| name != LOST_FOUND);
        let Some(found) = names.first() else {
            return Ok(Root {
                path,
                existed: true,
            });
        };
        let holds = |wanted: &str| names.iter().any(|name| name == wanted);
        Err(if holds(MARKER) {
            MaterialiseError::Unfinished { dir: path }
        } else if holds("PG_VERSION") || holds("postmaster.pid") {
            let runs = holds("postmaster.pid");
            MaterialiseError::InUse { dir: path, runs }
        } else {
            let found = found.to_string_lossy().into_owned();
            MaterialiseError::NotEmpty { dir: path, found }
        })
    }

    fn make(&self) -> Result<(), MaterialiseError> {
        if self.existed {
            return Ok(());
        }
        if let Some(parent) = self.path.parent() {
            fs::create_dir_all(parent).map_err(MaterialiseError::io("create", parent))?;
        }
        make_directory(&self.path)
    }

    fn remove(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() == LOST_FOUND && self.existed {
                continue;
            }
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false => fs::remove_file(entry.path())?,
            }
        }
        if self.existed {
            Ok(())
        } else {
            fs::remove_dir(&self.path)
        }
    }

    /// The device it is or will be on, and the nearest directory above it that exists.
    fn file_system(&self) -> Result<(u64, PathBuf), MaterialiseError> {
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

fn make_directory(path: &Path) -> Result<(), MaterialiseError> {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .map_err(MaterialiseError::io("create", path))
}

fn create_new(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
