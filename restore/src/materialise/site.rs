//! The directories that a cluster is restored into, from what they were to a data directory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::Access;
use serde::Serialize;

use super::durable::{self, sync_directory};
use super::late::{LateTablespace, is_version_directory};
use super::marker::Marker;
use super::reuse::Found;
use super::root::{Holds, Root, make_directory};
use super::tablespaces::{self, Tablespace};
use super::tree::{Place, Tree, tablespace_link};
use super::waldir::{self, PG_WAL};
use super::{Job, MaterialiseError, Owner, PG_CONTROL, servers};

/// In a data directory while it is being made.
pub(crate) const MARKER: &str = "walvault-restore.unfinished";

/// Made by mkfs in the root of a file system; such a directory counts as empty.
pub(crate) const LOST_FOUND: &str = "lost+found";

/// Where a cluster goes.
#[derive(Debug)]
pub(super) struct Site {
    pgdata: Root,
    tablespaces: Vec<(Tablespace, Root)>,
    /// Those that replay will create.
    late: Vec<LateTablespace>,
    /// Where `pg_wal` leads, if it is a link.
    wal: Option<Root>,
    /// PostgreSQL's major version.
    major: u32,
}

/// What a file system has to hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskSpace {
    /// A directory in it.
    pub dir: PathBuf,
    /// Bytes to be written, less those of files that are removed before.
    pub needed: u64,
    /// Bytes free for this user.
    pub free: u64,
}

impl Site {
    /// Finds the directories and checks that they are free, or may be used. With `delta` the data
    /// directory may hold a cluster; one with an unfinished restore is taken up in any case.
    pub(super) fn plan(job: &Job<'_>) -> Result<Site, MaterialiseError> {
        let (pgdata, backup) = (&job.pgdata, job.backup);
        let pgdata =
            std::path::absolute(pgdata).map_err(MaterialiseError::io("resolve", pgdata))?;
        let pgdata = Root::of_cluster(pgdata, job.delta, backup.system_id)?;
        let begun = match pgdata.holds {
            Holds::Unfinished => Marker::tablespaces(&pgdata.path),
            _ => Vec::new(),
        };
        let mut tablespaces = Vec::new();
        let is_own = |oid: u32, location: &Path| {
            let link = fs::read_link(pgdata.path.join(tablespaces::link(oid)));
            let linked = link.is_ok_and(|link| link == location);
            let is_own = begun.iter().any(|begun| begun == location)
                || (linked && pgdata.holds == Holds::Cluster);
            is_own && !servers::use_tablespace(location)
        };
        for tablespace in tablespaces::placed(backup, &job.mappings, &pgdata.path)? {
            let location = tablespace.location.clone();
            let ours = is_own(tablespace.oid, &location);
            tablespaces.push((tablespace, Root::of_tablespace(location, ours)?));
        }
        let major = backup.server_version.major();
        let mut late: Vec<LateTablespace> = Vec::new();
        for made in &job.created {
            let location = Path::new(&made.location);
            // What the restore puts there itself is what replay expects.
            let restored = tablespaces.iter().any(|(_, root)| root.path == location);
            if !restored && !late.iter().any(|late| late.root.path == location) {
                let ours = is_own(made.oid, location);
                late.push(LateTablespace::find(made, major, ours)?);
            }
        }
        let wal = waldir::find(&pgdata, job.waldir.as_deref(), backup.system_id)?;
        let site = Site {
            pgdata,
            tablespaces,
            late,
            wal,
            major,
        };
        site.check_places()?;
        Ok(site)
    }

    /// Refuses a directory for WAL within another one, or around it.
    fn check_places(&self) -> Result<(), MaterialiseError> {
        let tablespaces = self.tablespaces.iter().map(|(_, root)| root);
        let others: Vec<&Root> = tablespaces.chain([&self.pgdata]).collect();
        if let Some(wal) = &self.wal
            && let Some(other) = others.iter().find(|other| {
                wal.path.starts_with(&other.path) || other.path.starts_with(&wal.path)
            })
        {
            let other = other.path.display();
            return Err(MaterialiseError::WalDirectory {
                dir: wal.path.clone(),
                reason: format!(
                    "cannot hold WAL, as it lies within {other}, or around it; give --waldir another directory"
                ),
            });
        }
        Ok(())
    }

    /// Refuses to go on when one of `precious` lies where the restore removes what it does not know.
    pub(super) fn check_apart(&self, precious: &[PathBuf]) -> Result<(), MaterialiseError> {
        for path in precious {
            // By its name, which may be a link that is removed, and by what that leads to.
            let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let emptied = [path, &real]
                .into_iter()
                .find_map(|path| self.emptied(path));
            if let Some(dir) = emptied {
                return Err(MaterialiseError::Precious {
                    path: path.clone(),
                    dir: dir.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The directory that holds `path`, if what lies there goes.
    fn emptied(&self, path: &Path) -> Option<&Path> {
        let within = |root: &Root| {
            let real = fs::canonicalize(&root.path).unwrap_or_else(|_| root.path.clone());
            let inner = path.strip_prefix(&root.path);
            let inner = inner.or_else(|_| path.strip_prefix(&real)).ok()?;
            Some(inner.to_owned())
        };
        let whole = [&self.pgdata].into_iter().chain(&self.wal);
        let mut whole = whole.filter(|root| within(root).is_some());
        let restored = self.tablespaces.iter().map(|(_, root)| root);
        let late = self.late.iter().map(|late| &late.root);
        // Beside a tablespace's own directories there may lie other things, which stay.
        let mut spaces = restored.chain(late).filter(|root| {
            let first = within(root).and_then(|inner| inner.iter().next().map(OsStr::to_owned));
            first.is_some_and(|name| is_version_directory(&name.to_string_lossy(), self.major))
        });
        let found = whole.next().or_else(|| spaces.next())?;
        Some(&found.path)
    }

    /// Refuses directories that this user may not write, before anything is fetched.
    pub(super) fn check_writable(&self) -> Result<(), MaterialiseError> {
        let tablespaces = self.tablespaces.iter().map(|(_, root)| root);
        for root in tablespaces.chain([&self.pgdata]).chain(&self.wal) {
            let (_, existing) = root.file_system()?;
            rustix::fs::access(&existing, Access::WRITE_OK | Access::EXEC_OK)
                .map_err(|error| MaterialiseError::io("write into", &existing)(error.into()))?;
        }
        Ok(())
    }

    /// Where `pg_wal` leads, if it is a link, or is to be one.
    pub(super) fn wal(&self) -> Option<&Path> {
        self.wal.as_ref().map(|root| root.path.as_path())
    }

    /// PostgreSQL's major version.
    pub(super) fn major(&self) -> u32 {
        self.major
    }

    /// What lies where replay will create tablespaces, of a state that the restore undoes.
    pub(super) fn late_surplus(&self) -> impl Iterator<Item = PathBuf> {
        self.late.iter().flat_map(|late| late.surplus.clone())
    }

    /// Whether there may be something in it that can stay.
    pub(super) fn is_reused(&self) -> bool {
        matches!(self.pgdata.holds, Holds::Unfinished | Holds::Cluster)
    }

    /// Whether an unfinished restore is taken up.
    pub(super) fn is_resumed(&self) -> bool {
        self.pgdata.holds == Holds::Unfinished
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

    /// Whether there are tablespaces outside the data directory.
    pub(super) fn has_tablespaces(&self) -> bool {
        !self.tablespaces.is_empty()
    }

    /// The `tablespace_map` that a server reads when it starts on the backup.
    pub(super) fn tablespace_map(&self) -> Vec<u8> {
        tablespaces::map_content(self.tablespaces.iter().map(|(tablespace, _)| tablespace))
    }

    /// The links in `pg_tblspc`, and `pg_wal` if it is one.
    pub(super) fn links(&self) -> Vec<PathBuf> {
        let links = self
            .tablespaces
            .iter()
            .map(|(tablespace, _)| tablespace.link())
            .chain(self.wal.iter().map(|_| PathBuf::from(PG_WAL)));
        links.map(|link| self.pgdata.path.join(link)).collect()
    }

    /// The data directory and those of tablespaces and of WAL.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let tablespaces = self.tablespaces.iter().map(|(_, root)| root);
        // A location that was there before keeps its mode and its owner.
        let late = self.late.iter().map(|late| &late.root);
        let late = late.filter(|root| root.holds == Holds::Absent);
        let roots = tablespaces.chain(late).chain(&self.wal);
        let roots = roots.chain([&self.pgdata]);
        roots.map(|root| root.path.clone()).collect()
    }

    /// Whether the directory at `path` is a tablespace's, reached over a link.
    pub(super) fn is_link(&self, path: &Path) -> bool {
        tablespace_link(path).is_some_and(|oid| {
            self.tablespaces
                .iter()
                .any(|(tablespace, _)| tablespace.oid == oid)
        })
    }

    /// Where the link at `path` leads.
    pub(super) fn location(&self, path: &Path) -> Option<PathBuf> {
        let oid = tablespace_link(path)?;
        let is_it = |(tablespace, _): &&(Tablespace, Root)| tablespace.oid == oid;
        let (tablespace, _) = self.tablespaces.iter().find(is_it)?;
        Some(tablespace.location.clone())
    }

    /// The directories of tablespaces that are there, each with its link's path.
    pub(super) fn tablespace_roots(&self) -> Vec<(PathBuf, PathBuf)> {
        let there = |(_, root): &&(Tablespace, Root)| root.holds != Holds::Absent;
        let roots = self.tablespaces.iter().filter(there);
        roots
            .map(|(tablespace, root)| (root.path.clone(), tablespace.link()))
            .collect()
    }

    /// What each file system has to hold, given what is there.
    pub(super) fn space(
        &self,
        tree: &Tree,
        found: &Found,
    ) -> Result<Vec<DiskSpace>, MaterialiseError> {
        let mut needed: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
        let files = tree.files.iter().zip(&found.kept);
        for (file, _) in files.filter(|(file, kept)| file.place != Place::Nowhere && !**kept) {
            let root = self
                .tablespaces
                .iter()
                .find(|(tablespace, _)| file.path.starts_with(tablespace.link()));
            let root = root.map_or(&self.pgdata, |(_, root)| root);
            let (device, existing) = root.file_system()?;
            needed.entry(device).or_insert((existing, 0)).1 += file.size;
        }
        let mut space = Vec::new();
        for (device, (dir, needed)) in needed {
            let stat = rustix::fs::statvfs(&dir).map_err(|error| {
                MaterialiseError::io("ask for free space in", &dir)(error.into())
            })?;
            let freed = found.freed.get(&device).copied().unwrap_or(0);
            space.push(DiskSpace {
                dir,
                needed: needed.saturating_sub(freed),
                free: stat.f_bavail.saturating_mul(stat.f_frsize),
            });
        }
        Ok(space)
    }

    /// Takes the directory: from now on until it is finished, no server can start on it.
    pub(super) fn begin(&self) -> Result<Marker, MaterialiseError> {
        self.pgdata.make()?;
        let locations: Vec<PathBuf> = self
            .tablespaces
            .iter()
            .map(|(_, root)| root)
            // Of the locations that replay will use, an unfinished restore clears its own alone.
            .chain(
                self.late
                    .iter()
                    .filter(|late| late.is_own)
                    .map(|late| &late.root),
            )
            .map(|root| root.path.clone())
            .collect();
        let marker = Marker::put(&self.pgdata.path, &locations)?;
        sync_directory(&self.pgdata.path)?;
        let control = self.pgdata.path.join(PG_CONTROL);
        match fs::remove_file(&control) {
            Ok(()) => sync_directory(control.parent().unwrap_or(&self.pgdata.path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(MaterialiseError::io("remove", &control)(error)),
        }
        Ok(marker)
    }

    /// Makes every directory, link and empty file.
    pub(super) fn make_directories(
        &self,
        tree: &Tree,
        kept: &[bool],
    ) -> Result<(), MaterialiseError> {
        for (_, root) in &self.tablespaces {
            root.make()?;
        }
        // PostgreSQL makes no location, and ends recovery where there is none.
        for late in &self.late {
            late.root.make()?;
        }
        if let Some(wal) = &self.wal {
            wal.make()?;
            let link = self.pgdata.path.join(PG_WAL);
            match symlink(&wal.path, &link) {
                // It was there before, and leads there: others have been removed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(MaterialiseError::io("link", &link))?,
            }
        }
        for directory in &tree.directories {
            if !self.is_link(&directory.path) {
                make_directory(&self.pgdata.path.join(&directory.path))?;
            }
            if directory.path == Path::new("pg_tblspc") {
                self.make_links()?;
            }
        }
        let empty = |file: &super::tree::PlannedFile| file.place == Place::Disk && file.size == 0;
        let missing = tree.files.iter().zip(kept).filter(|(_, kept)| !**kept);
        for (file, _) in missing.filter(|(file, _)| empty(file)) {
            let path = self.pgdata.path.join(&file.path);
            create_new(&path).map_err(MaterialiseError::io("create", &path))?;
        }
        Ok(())
    }

    fn make_links(&self) -> Result<(), MaterialiseError> {
        for (tablespace, root) in &self.tablespaces {
            let link = self.pgdata.path.join(tablespace.link());
            match symlink(&root.path, &link) {
                // It was there before, and leads where it should: others have been removed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made.map_err(MaterialiseError::io("link", &link))?,
            }
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
}

fn create_new(path: &Path) -> io::Result<fs::File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}
