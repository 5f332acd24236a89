//! Why a data directory was not made.

use std::io;
use std::path::{Path, PathBuf};

use walvault_layout::BackupId;
use walvault_protocol::{Lsn, SystemId};

use crate::exit::{CommandError, DAMAGED, REFUSED};
use crate::shell::word;

/// Why a data directory was not made. What was refused before anything was written left everything as it
/// was; what broke off later left a directory on which no server can start, and which the next
/// restore takes up.
#[derive(Debug, thiserror::Error)]
pub enum MaterialiseError {
    /// The archive did not give what was needed.
    #[error(transparent)]
    Archive(#[from] walvault_archive::Error),
    /// Somebody's data may be in it.
    #[error("{} is not empty: it holds '{found}'; restore into a new or empty directory", dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
        /// Something in it.
        found: String,
    },
    /// A server's data is in it.
    #[error(
        "{} holds a PostgreSQL data directory{}",
        dir.display(), if *runs {
            ", and a server may be running on it (postmaster.pid); stop the server, and remove that file only if there is none"
        } else {
            "; restore into a new or empty directory, move this one away first, or rewrite what differs in it with --delta"
        }
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// Whether there is a `postmaster.pid`.
        runs: bool,
    },
    /// It broke off after something had been written.
    #[error("{source}. No server can start on what is in {}; run the same command again to finish the rest, or remove the directory", dir.display())]
    Unfinished {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: Box<MaterialiseError>,
    },
    /// Two restores into one directory.
    #[error("another restore into {} is going on; wait for its end, or choose another directory", dir.display())]
    Running {
        /// The directory.
        dir: PathBuf,
    },
    /// Somebody else's cluster.
    #[error(
        "{} holds the PostgreSQL system {found}, and the backup is of system {system}; nothing of the one helps to restore the other: choose another directory, or move this one away first", dir.display()
    )]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// The system in it.
        found: SystemId,
        /// The system that was backed up.
        system: SystemId,
    },
    /// Somebody's tablespace may be in it.
    #[error("the tablespace directory {dir} is not empty; give the tablespace another place, NEW, with --tablespace-map {old}", dir = dir.display(), old = mapping(dir))]
    TablespaceNotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// What is made there would be made elsewhere, or not at all.
    #[error(
        "{} is a symbolic link to {}, which is not there; make that directory, or remove the link, and restore again", link.display(), target.display()
    )]
    DanglingLink {
        /// The link.
        link: PathBuf,
        /// What it names.
        target: PathBuf,
    },
    /// Replay would write into what may be a running server's files.
    #[error(
        "replay creates tablespace {oid} at LSN {lsn} in {}, and '{found}' there is not this restore's: the restored server would write into it, as PostgreSQL has no way to put the tablespace elsewhere; give --target-lsn {lsn} --target-exclusive or an earlier target, use a base backup taken after it, restore on another host, or move the directory away if no server uses it",
        dir.display()
    )]
    TablespaceInUse {
        /// The tablespace.
        oid: u32,
        /// Its location.
        dir: PathBuf,
        /// The record that creates it.
        lsn: Lsn,
        /// The directory in it that replay would use.
        found: String,
    },
    /// The location cannot be looked at before replay uses it.
    #[error(
        "replay creates tablespace {oid} at LSN {lsn} in a location whose name is not UTF-8 ({location}), so that walvault cannot see whether it is used; give --target-lsn {lsn} --target-exclusive or an earlier target, or use a base backup taken after it"
    )]
    TablespaceName {
        /// The tablespace.
        oid: u32,
        /// Its location, as far as it can be read.
        location: String,
        /// The record that creates it.
        lsn: Lsn,
    },
    /// WAL lies, or should lie, where it cannot.
    #[error("{} {reason}", dir.display())]
    WalDirectory {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// What this very command needs, or what must not be lost, would be removed.
    #[error(
        "{} lies within {}, where the restore removes everything that is not in the backup; move it out of there, and name its new place in the configuration or on the command line",
        path.display(), dir.display()
    )]
    Precious {
        /// The archive, or the file.
        path: PathBuf,
        /// The directory that is emptied.
        dir: PathBuf,
    },
    /// A mapping names no tablespace of the backup.
    #[error(
        "--tablespace-map: the backup has no tablespace at {}; it has {known}; one that replay creates cannot be put elsewhere", old.display()
    )]
    UnknownTablespace {
        /// As given.
        old: PathBuf,
        /// Where its tablespaces were.
        known: String,
    },
    /// Two directories of the restored cluster would be one.
    #[error("--tablespace-map: {} would be used twice, or lies within another directory of the cluster; give each tablespace a directory of its own, outside --pgdata", dir.display())]
    Overlapping {
        /// The directory.
        dir: PathBuf,
    },
    /// The backup's record cannot be followed.
    #[error("backup {backup}: '{path}' {reason}; restore another backup, and report this")]
    Record {
        /// The backup.
        backup: BackupId,
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file is not what was backed up.
    #[error(
        "backup {backup}: the content of '{path}' does not have the checksum that PostgreSQL gave it; restore another backup"
    )]
    Checksum {
        /// The backup.
        backup: BackupId,
        /// The file.
        path: String,
    },
    /// The file system is too small.
    #[error("{} has {free} bytes free, the backup needs {needed}; make room, or restore elsewhere; where the file system compresses, give --ignore-space", dir.display())]
    Space {
        /// A directory in it.
        dir: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}; check the permissions and the disk", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is no such user.
    #[error("--owner: there is no user '{0}'; give the name of the user that runs PostgreSQL")]
    Owner(String),
    /// The operator, or the machine going down.
    #[error("interrupted")]
    Interrupted,
}

/// A `--tablespace-map` of what was at `old`, as a word for the shell.
fn mapping(old: &Path) -> String {
    let old = old.display().to_string().replace('=', "\\=");
    word(&format!("{old}=NEW"))
}

impl CommandError for MaterialiseError {
    fn exit_code(&self) -> u8 {
        match self.cause() {
            MaterialiseError::Archive(error) => error.exit_code(),
            MaterialiseError::Record { .. } | MaterialiseError::Checksum { .. } => DAMAGED,
            _ => REFUSED,
        }
    }
}

impl MaterialiseError {
    /// What it comes down to, below [`MaterialiseError::Unfinished`].
    #[must_use]
    pub fn cause(&self) -> &MaterialiseError {
        match self {
            MaterialiseError::Unfinished { source, .. } => source.cause(),
            error => error,
        }
    }

    pub(super) fn io(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(io::Error) -> MaterialiseError {
        let path = path.to_owned();
        move |source| MaterialiseError::Io {
            action,
            path,
            source,
        }
    }
}
