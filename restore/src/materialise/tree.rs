//! What a backup's record says is to be made, checked before anything is.
//!
//! Nothing in it leads out of the data directory, every extent lies within its part, and every
//! file is whole.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use walvault_archive::record::{
    BackupFiles, BackupRecord, Extent, FileKind, FilePath, FileRecord, PartRecord,
};
use walvault_layout::BackupId;

use super::{
    AUTO_CONF, BACKUP_MANIFEST, MaterialiseError, PG_CONTROL, RECOVERY_SIGNAL, STANDBY_SIGNAL,
    TABLESPACE_MAP,
};

/// Directories without which no server starts; a backup has them all, a copy of one may not.
const REQUIRED: [&str; 8] = [
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_notify",
    "pg_stat",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
];

/// The largest file that is held in memory.
const LARGEST_HELD: u64 = 16 << 20;

/// Everything to be made.
#[derive(Debug)]
pub struct Tree {
    /// Directories, relative to the data directory, parents before what is in them.
    pub(super) directories: Vec<Directory>,
    /// Files.
    pub(super) files: Vec<PlannedFile>,
    /// The objects that hold the files' contents.
    pub(super) parts: Vec<PartRecord>,
    /// For each part, what is taken from it.
    pub(super) uses: Vec<Vec<Use>>,
    /// Whether the group may read.
    pub(super) group_access: bool,
}

/// A directory to be made.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
}

/// A file to be made.
#[derive(Debug)]
pub(super) struct PlannedFile {
    pub(super) path: PathBuf,
    pub(super) size: u64,
    /// The permissions it had.
    pub(super) mode: u32,
    pub(super) crc32c: Option<u32>,
    pub(super) extents: Vec<Extent>,
    pub(super) place: Place,
}

/// Where a file's content goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To its path.
    Disk,
    /// Into memory, to be written by itself later.
    Memory,
    /// Nowhere: it was the old server's own.
    Nowhere,
}

/// A run of a file's bytes within a part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    pub(super) file: usize,
    pub(super) extent: usize,
    pub(super) offset: u64,
}

impl Tree {
    /// Checks what the record of `backup` says. `remapped`: its `tablespace_map` does not hold.
    ///
    /// # Errors
    /// With the first file that cannot be made as the record says.
    pub fn new(
        backup: &BackupRecord,
        files: BackupFiles,
        remapped: bool,
    ) -> Result<Tree, MaterialiseError> {
        let mut tree = Tree {
            directories: Vec::new(),
            files: Vec::with_capacity(files.files.len()),
            uses: vec![Vec::new(); files.parts.len()],
            parts: files.parts,
            group_access: false,
        };
        let refuse = |path: &FilePath, reason| MaterialiseError::Record {
            backup: backup.id.clone(),
            path: path.to_string(),
            reason,
        };
        if files.version != 1 {
            return Err(refuse(
                &FilePath::from_bytes(b"files"),
                "is of a version this walvault does not read",
            ));
        }
        let mut seen = HashSet::new();
        let mut directories = HashSet::new();
        for record in files.files {
            if is_root(&record) {
                continue;
            }
            let path = safe_path(&record.path).map_err(|reason| refuse(&record.path, reason))?;
            if !seen.insert(path.clone()) {
                return Err(refuse(&record.path, "is listed twice"));
            }
            match &record.kind {
                FileKind::Directory => {
                    // "base" has the permissions that the data directory has.
                    tree.group_access |= path == Path::new("base") && record.mode & 0o050 == 0o050;
                    tree.add_directory(&path, &mut directories);
                }
                FileKind::Symlink(_) => {
                    let link = tablespace_link(&path);
                    if !backup
                        .tablespaces
                        .iter()
                        .any(|tablespace| Some(tablespace.oid) == link)
                    {
                        return Err(refuse(
                            &record.path,
                            "is a symbolic link that is no tablespace's",
                        ));
                    }
                }
                FileKind::File => {
                    if let Some(parent) = path.parent() {
                        tree.add_directory(parent, &mut directories);
                    }
                    tree.add_file(backup, record, path, remapped)?;
                }
            }
        }
        for required in REQUIRED {
            tree.add_directory(Path::new(required), &mut directories);
        }
        if let Some(both) = tree
            .files
            .iter()
            .find(|file| directories.contains(&file.path))
        {
            return Err(refuse(
                &FilePath::from_bytes(both.path.as_os_str().as_encoded_bytes()),
                "is a file and a directory",
            ));
        }
        Ok(tree)
    }

    /// How many files are made.
    #[must_use]
    pub fn file_count(&self) -> u64 {
        self.made().count() as u64
    }

    /// Whether there is a file at this path.
    pub(super) fn has_file(&self, path: &str) -> bool {
        self.made().any(|file| file.path == Path::new(path))
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.made().map(|file| file.size).sum()
    }

    /// The parts that anything is taken from, when the files that are `kept` are there already.
    pub(super) fn needed_parts(&self, kept: &[bool]) -> impl Iterator<Item = &PartRecord> {
        let needed = |uses: &[Use]| uses.iter().any(|part_use| !kept[part_use.file]);
        let parts = self.parts.iter().zip(&self.uses);
        parts
            .filter(move |(_, uses)| needed(uses))
            .map(|(part, _)| part)
    }

    fn made(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files
            .iter()
            .filter(|file| file.place != Place::Nowhere)
    }

    /// The permissions of directories.
    pub(super) fn directory_mode(&self) -> u32 {
        if self.group_access { 0o750 } else { 0o700 }
    }

    /// The permissions of a file: its own, as far as the data directory's allow. PostgreSQL refuses a
    /// `server.key` that the group may read, in a cluster with group access as well.
    pub(super) fn mode_of(&self, file: &PlannedFile) -> u32 {
        file.mode & self.directory_mode() | 0o600
    }

    /// The permissions of files that PostgreSQL or this restore makes.
    pub(super) fn file_mode(&self) -> u32 {
        if self.group_access { 0o640 } else { 0o600 }
    }

    fn add_directory(&mut self, path: &Path, known: &mut HashSet<PathBuf>) {
        let mut ancestors: Vec<&Path> = path
            .ancestors()
            .filter(|path| !path.as_os_str().is_empty())
            .collect();
        while let Some(ancestor) = ancestors.pop() {
            if known.insert(ancestor.to_owned()) {
                self.directories.push(Directory {
                    path: ancestor.to_owned(),
                });
            }
        }
    }

    fn add_file(
        &mut self,
        backup: &BackupRecord,
        record: FileRecord,
        path: PathBuf,
        remapped: bool,
    ) -> Result<(), MaterialiseError> {
        let refuse = |reason| MaterialiseError::Record {
            backup: backup.id.clone(),
            path: record.path.to_string(),
            reason,
        };
        let place = place(&path, remapped);
        if place == Place::Memory && record.size > LARGEST_HELD {
            return Err(refuse("is far too large for what it is"));
        }
        let file = self.files.len();
        let mut offset: u64 = 0;
        for (index, extent) in record.extents.iter().enumerate() {
            let part = usize::try_from(extent.part)
                .ok()
                .and_then(|part| Some((part, self.parts.get(part)?)));
            let (part, length) = match part {
                Some((part, record)) => (part, record.length),
                None => return Err(refuse("lies in a part that the backup does not have")),
            };
            if extent
                .offset
                .checked_add(extent.length)
                .is_none_or(|end| end > length)
            {
                return Err(refuse("lies beyond the end of its part"));
            }
            self.uses[part].push(Use {
                file,
                extent: index,
                offset,
            });
            offset = offset
                .checked_add(extent.length)
                .ok_or_else(|| refuse("is too large"))?;
        }
        if offset != record.size {
            return Err(refuse("has content of another length than its size"));
        }
        self.files.push(PlannedFile {
            path,
            size: record.size,
            mode: record.mode,
            crc32c: record.crc32c,
            extents: record.extents,
            place,
        });
        Ok(())
    }
}

impl PlannedFile {
    /// Its error when its content is wrong.
    pub(super) fn mismatch(&self, backup: &BackupId) -> MaterialiseError {
        MaterialiseError::Checksum {
            backup: backup.clone(),
            path: self.path.display().to_string(),
        }
    }
}

/// A path relative to the data directory that stays within it.
///
/// # Errors
/// What is wrong with it.
pub fn safe_path(path: &FilePath) -> Result<PathBuf, &'static str> {
    let bytes = path.to_bytes().ok_or("has a name that cannot be decoded")?;
    if bytes.contains(&0) {
        return Err("has a zero byte in its name");
    }
    let path = PathBuf::from(OsString::from_vec(bytes.clone()));
    let plain = !bytes.is_empty()
        && path
            .components()
            .all(|component| matches!(component, Component::Normal(_)));
    // Components are normalised: "a//b" and "a/." have plain ones too.
    let rejoined: PathBuf = path.components().collect();
    if plain && rejoined.as_os_str().as_encoded_bytes() == bytes {
        Ok(path)
    } else {
        Err("leads out of the data directory, or is not a plain path")
    }
}

/// The OID, if this is the path of a tablespace's link.
pub(super) fn tablespace_link(path: &Path) -> Option<u32> {
    path.strip_prefix("pg_tblspc").ok()?.to_str()?.parse().ok()
}

fn is_root(record: &FileRecord) -> bool {
    record.kind == FileKind::Directory
        && record
            .path
            .to_bytes()
            .is_some_and(|path| path.is_empty() || path == b".")
}

fn place(path: &Path, remapped: bool) -> Place {
    match path.to_str() {
        Some(PG_CONTROL | AUTO_CONF) => Place::Memory,
        Some(TABLESPACE_MAP) if remapped => Place::Nowhere,
        // PostgreSQL's own manifest is stored apart; the signals were for the old server.
        Some(STANDBY_SIGNAL | RECOVERY_SIGNAL | BACKUP_MANIFEST) => Place::Nowhere,
        _ => Place::Disk,
    }
}
