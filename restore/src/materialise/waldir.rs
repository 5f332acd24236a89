//! `pg_wal` outside of the data directory, over a link as `initdb --waldir` makes it.
//!
//! A restore removes all WAL that lies there. So the link of a directory that is restored over is
//! believed only where what lies behind it is this cluster's own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walvault_protocol::SystemId;

use super::root::{Holds, Root};
use super::{MaterialiseError, servers};

/// The directory of WAL within a data directory.
pub(super) const PG_WAL: &str = "pg_wal";
/// `XLOG_FNAME_LEN` of PostgreSQL.
const SEGMENT_NAME: usize = 24;
/// `XLP_LONG_HEADER` of `xlog_internal.h`: the first page of a segment has the system's identifier.
const LONG_HEADER: u16 = 0x0002;

/// The directory that `pg_wal` leads to, or is to lead to; `None` where it is a plain directory.
pub(super) fn find(
    pgdata: &Root,
    wanted: Option<&Path>,
    system: SystemId,
) -> Result<Option<Root>, MaterialiseError> {
    let link = pgdata.path.join(PG_WAL);
    let is_reused = matches!(pgdata.holds, Holds::Cluster | Holds::Unfinished);
    let linked = fs::read_link(&link).ok().filter(|_| is_reused);
    let Some(linked) = linked.map(|to| pgdata.path.join(to)) else {
        return wanted.map(new).transpose();
    };
    match wanted {
        Some(wanted) if !is_same(wanted, &linked) => new(wanted).map(Some),
        _ => own(linked, system).map(Some),
    }
}

/// One that nothing is in yet.
fn new(dir: &Path) -> Result<Root, MaterialiseError> {
    let root = Root::of_tablespace(dir.to_owned(), true)?;
    match root.holds {
        Holds::Something => Err(refuse(
            dir,
            "is not empty; give --waldir a new or empty directory",
        )),
        _ => Ok(root),
    }
}

/// The one that the data directory has, which WAL is removed from.
fn own(dir: PathBuf, system: SystemId) -> Result<Root, MaterialiseError> {
    if !dir.is_dir() {
        return Err(refuse(
            &dir,
            "is where the link pg_wal leads, and is no directory; mount it, or remove the link",
        ));
    }
    if servers::use_wal(&dir) {
        return Err(refuse(
            &dir,
            "is where the link pg_wal leads, and a running server has its WAL there; remove the link, or stop that server if it is this one",
        ));
    }
    if let Some(other) = other_system(&dir, system)? {
        return Err(refuse(
            &dir,
            &format!(
                "is where the link pg_wal leads, and it holds WAL of the PostgreSQL system {other}, not of {system}; remove the link"
            ),
        ));
    }
    Root::of_tablespace(dir, true)
}

/// Whether two paths lead to one directory, or will.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path| fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    real(one) == real(other)
}

fn refuse(dir: &Path, reason: &str) -> MaterialiseError {
    MaterialiseError::WalDirectory {
        dir: dir.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Another system that a segment in `dir` tells to be of.
fn other_system(dir: &Path, system: SystemId) -> Result<Option<SystemId>, MaterialiseError> {
    let entries = fs::read_dir(dir).map_err(MaterialiseError::io("read the directory", dir))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let segments = names.filter(|name| {
        let name = name.to_string_lossy();
        name.len() == SEGMENT_NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    for name in segments {
        let path = dir.join(name);
        match system_of(&path).map_err(MaterialiseError::io("read", &path))? {
            Some(found) if found != system => return Ok(Some(found)),
            _ => {}
        }
    }
    Ok(None)
}

/// The system that a segment is of, by `XLogLongPageHeaderData`; `None` of one that was made ahead.
fn system_of(segment: &Path) -> io::Result<Option<SystemId>> {
    let mut header = Vec::with_capacity(32);
    let _ = File::open(segment)?.take(32).read_to_end(&mut header)?;
    let info = header.get(2..4).and_then(|info| info.try_into().ok());
    let system = header.get(24..32).and_then(|system| system.try_into().ok());
    let is_long = info.is_some_and(|info| u16::from_ne_bytes(info) & LONG_HEADER != 0);
    Ok(system
        .filter(|_| is_long)
        .map(|system| SystemId(u64::from_ne_bytes(system))))
}
