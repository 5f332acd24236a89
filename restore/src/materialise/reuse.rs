//! What a directory holds already: what of it can stay, and what has to go.
//!
//! A file stays if it is a plain one, under no second name, and has the size and the CRC-32C that the
//! backup's record gives it; times are not believed. Everything else goes before anything is written,
//! so that nothing is ever written through a link.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::ProgressBar;

use super::late::is_version_directory;
use super::site::{LOST_FOUND, MARKER, Site};
use super::tree::{Place, Tree};
use super::waldir::{self, PG_WAL};
use super::{MaterialiseError, PG_CONTROL};

/// How many files are read at once.
const AT_ONCE: usize = 4;
const BUFFER: usize = 256 << 10;

/// What was found in the directories of a site.
#[derive(Debug)]
pub(super) struct Found {
    /// For each file of the tree, whether it is there as it should be.
    pub(super) kept: Vec<bool>,
    /// What has to go, a directory with all that is in it.
    pub(super) surplus: Vec<PathBuf>,
    /// Bytes that this frees, by device.
    pub(super) freed: HashMap<u64, u64>,
}

impl Found {
    /// Nothing is there.
    pub(super) fn nothing(tree: &Tree) -> Found {
        Found {
            kept: vec![false; tree.files.len()],
            surplus: Vec::new(),
            freed: HashMap::new(),
        }
    }

    /// Looks through the directories of `site`, and reads every file that may stay.
    pub(super) async fn survey(
        site: &Site,
        tree: &Arc<Tree>,
        progress: &ProgressBar,
    ) -> Result<Found, MaterialiseError> {
        let mut survey = Survey::new(site, tree);
        survey.walk(site.pgdata(), Path::new(""))?;
        for (root, link) in site.tablespace_roots() {
            survey.walk_tablespace(&root, &link)?;
        }
        let Survey {
            candidates,
            mut found,
            ..
        } = survey;
        progress.set_length(candidates.iter().map(|candidate| candidate.size).sum());
        let candidates = Arc::new(std::sync::Mutex::new(candidates));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (candidates, tree, progress) = (candidates.clone(), tree.clone(), progress.clone());
            readers.spawn_blocking(move || read_candidates(&candidates, &tree, &progress));
        }
        while let Some(read) = readers.join_next().await {
            for (candidate, same) in read.expect("reading does not panic")? {
                match same {
                    true => found.kept[candidate.file] = true,
                    false => found.discard(candidate.path, &candidate.metadata),
                }
            }
        }
        Ok(found)
    }

    fn discard(&mut self, path: PathBuf, metadata: &Metadata) {
        if metadata.is_file() && metadata.nlink() == 1 {
            *self.freed.entry(metadata.dev()).or_default() += metadata.len();
        }
        self.surplus.push(path);
    }

    /// Removes what has to go.
    pub(super) fn clear(&self) -> Result<(), MaterialiseError> {
        for path in &self.surplus {
            let removed = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
                Ok(_) => fs::remove_file(path),
                Err(error) => Err(error),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(MaterialiseError::io("remove", path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A file that may be what is wanted.
#[derive(Debug)]
struct Candidate {
    file: usize,
    path: PathBuf,
    size: u64,
    metadata: Metadata,
}

struct Survey<'a> {
    site: &'a Site,
    files: HashMap<&'a Path, usize>,
    tree: &'a Tree,
    directories: std::collections::HashSet<&'a Path>,
    candidates: Vec<Candidate>,
    found: Found,
}

impl<'a> Survey<'a> {
    fn new(site: &'a Site, tree: &'a Tree) -> Survey<'a> {
        let on_disk = |(_, file): &(usize, &super::tree::PlannedFile)| file.place == Place::Disk;
        let files = tree.files.iter().enumerate().filter(on_disk);
        Survey {
            site,
            files: files
                .map(|(index, file)| (file.path.as_path(), index))
                .collect(),
            directories: tree
                .directories
                .iter()
                .map(|directory| directory.path.as_path())
                .collect(),
            tree,
            candidates: Vec::new(),
            found: Found::nothing(tree),
        }
    }

    /// Looks at what is in `dir`, which is `relative` in the data directory.
    fn walk(&mut self, dir: &Path, relative: &Path) -> Result<(), MaterialiseError> {
        let at_top = relative.as_os_str().is_empty();
        for (name, path, metadata) in entries(dir)? {
            let relative = relative.join(&name);
            // A file system of its own may be mounted for WAL as well.
            let is_root = at_top || relative == Path::new(PG_WAL).join(LOST_FOUND);
            if (is_root && name == LOST_FOUND) || (at_top && name == MARKER) {
                continue;
            }
            let known = self.directories.contains(relative.as_path());
            if self.site.is_link(&relative) {
                let location = fs::read_link(&path).ok();
                if location.is_none() || location != self.site.location(&relative) {
                    self.found.discard(path, &metadata);
                }
            } else if relative == Path::new(PG_WAL)
                && let Some(wal) = self.site.wal()
            {
                match metadata.is_symlink() && waldir::is_same(&path, wal) {
                    true => self.walk(&path, &relative)?,
                    false => self.look(path, &relative, metadata)?,
                }
            } else if known && metadata.is_dir() {
                self.walk(&path, &relative)?;
            } else {
                self.look(path, &relative, metadata)?;
            }
        }
        Ok(())
    }

    /// In a tablespace's directory there may be other things than this cluster's.
    fn walk_tablespace(&mut self, root: &Path, link: &Path) -> Result<(), MaterialiseError> {
        for (name, path, metadata) in entries(root)? {
            // pg_upgrade leaves the old version's beside the new one's, to go back to.
            if !is_version_directory(&name.to_string_lossy(), self.site.major()) {
                continue;
            }
            let relative = link.join(&name);
            match metadata.is_dir() && self.directories.contains(relative.as_path()) {
                true => self.walk(&path, &relative)?,
                false => self.look(path, &relative, metadata)?,
            }
        }
        Ok(())
    }

    /// Looks at something that is no directory of the tree.
    fn look(
        &mut self,
        path: PathBuf,
        relative: &Path,
        metadata: Metadata,
    ) -> Result<(), MaterialiseError> {
        // It goes first, and by itself.
        if relative == Path::new(PG_CONTROL) && metadata.is_file() {
            return Ok(());
        }
        if metadata.is_dir() {
            self.count(&path)?;
        }
        let planned = self
            .files
            .get(relative)
            .map(|index| (*index, &self.tree.files[*index]));
        match planned {
            Some((file, planned))
                if metadata.is_file()
                    && metadata.nlink() == 1
                    && metadata.len() == planned.size
                    && (planned.crc32c.is_some() || planned.size == 0) =>
            {
                self.candidates.push(Candidate {
                    file,
                    path,
                    size: planned.size,
                    metadata,
                });
            }
            _ => self.found.discard(path, &metadata),
        }
        Ok(())
    }

    /// Counts what the removal of a directory frees.
    fn count(&mut self, dir: &Path) -> Result<(), MaterialiseError> {
        for (_, path, metadata) in entries(dir)? {
            if metadata.is_dir() {
                self.count(&path)?;
            } else if metadata.is_file() && metadata.nlink() == 1 {
                *self.found.freed.entry(metadata.dev()).or_default() += metadata.len();
            }
        }
        Ok(())
    }
}

fn entries(dir: &Path) -> Result<Vec<(std::ffi::OsString, PathBuf, Metadata)>, MaterialiseError> {
    let refuse = || MaterialiseError::io("read the directory", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(refuse())? {
        let entry = entry.map_err(refuse())?;
        let path = entry.path();
        // Of a link, what it is itself.
        let metadata =
            fs::symlink_metadata(&path).map_err(MaterialiseError::io("look at", &path))?;
        found.push((entry.file_name(), path, metadata));
    }
    Ok(found)
}

type Compared = Vec<(Candidate, bool)>;

fn read_candidates(
    candidates: &std::sync::Mutex<Vec<Candidate>>,
    tree: &Tree,
    progress: &ProgressBar,
) -> Result<Compared, MaterialiseError> {
    let mut compared = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let next = candidates
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop();
        let Some(candidate) = next else {
            return Ok(compared);
        };
        let crc = match candidate.size {
            0 => 0,
            _ => checksum(&candidate.path, &mut buffer)
                .map_err(MaterialiseError::io("read", &candidate.path))?,
        };
        progress.inc(candidate.size);
        let same = candidate.size == 0 || tree.files[candidate.file].crc32c == Some(crc);
        compared.push((candidate, same));
    }
}

fn checksum(path: &Path, buffer: &mut [u8]) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut crc = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(crc),
            read => crc = crc32c::crc32c_append(crc, &buffer[..read]),
        }
    }
}
