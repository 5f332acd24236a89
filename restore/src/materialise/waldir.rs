//! `pg_wal` outside of the data directory, over a link as `initdb --waldir` makes it.
//!
//! A restore removes all WAL that lies there. The link alone does not tell whose WAL that is: in a
//! copy of a data directory it leads to the original's, of the same system, and of what crashed it may be
//! all that is left. So WAL behind a link is removed only where the operator names the directory,
//! and where nothing but WAL lies in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walvault_protocol::SystemId;

use super::root::{Holds, Root};
use super::site::LOST_FOUND;
use super::{MaterialiseError, servers};
use crate::wal::is_leftover;

/// The directory of WAL within a data directory.
pub(super) const PG_WAL: &str = "pg_wal";
/// `XLOG_FNAME_LEN` of PostgreSQL.
const SEGMENT_NAME: usize = 24;
/// Directories of PostgreSQL's own within `pg_wal`.
const OWN_DIRECTORIES: [&str; 2] = ["archive_status", "summaries"];
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
        wanted => own(linked, wanted.is_some(), system).map(Some),
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

/// The one that the data directory has, which WAL is removed from if it `is_named`.
fn own(dir: PathBuf, is_named: bool, system: SystemId) -> Result<Root, MaterialiseError> {
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
    let (foreign, has_wal) = contents(&dir)?;
    if let Some(foreign) = foreign {
        return Err(refuse(
            &dir,
            &format!(
                "is where the link pg_wal leads, and '{}' there is not WAL's; move it away, or remove the link to have pg_wal in the data directory",
                foreign.display()
            ),
        ));
    }
    if has_wal && !is_named {
        return Err(refuse(
            &dir,
            &format!(
                "is where the link pg_wal leads, and it holds WAL, which may be another data directory's; give --waldir {} to have the WAL there removed, or remove the link to have pg_wal in the data directory",
                dir.display()
            ),
        ));
    }
    Root::of_tablespace(dir, true)
}

/// Something in `dir` that PostgreSQL does not keep with WAL, and whether there is anything that it does.
fn contents(dir: &Path) -> Result<(Option<PathBuf>, bool), MaterialiseError> {
    let mut has_wal = false;
    for (path, kind) in entries(dir)? {
        let name = name_of(&path);
        if name == LOST_FOUND {
            continue;
        }
        if kind.is_dir() && OWN_DIRECTORIES.contains(&name.as_str()) {
            for (path, kind) in entries(&path)? {
                if !kind.is_file() || !is_note(&name_of(&path)) {
                    return Ok((Some(path), has_wal));
                }
                has_wal = true;
            }
        } else if kind.is_file() && is_wal(&name) {
            has_wal = true;
        } else {
            return Ok((Some(path), has_wal));
        }
    }
    Ok((None, has_wal))
}

fn entries(dir: &Path) -> Result<Vec<(PathBuf, fs::FileType)>, MaterialiseError> {
    let refuse = || MaterialiseError::io("read the directory", dir);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(refuse())? {
        let entry = entry.map_err(refuse())?;
        // Of a link, what it is itself.
        found.push((entry.path(), entry.file_type().map_err(refuse())?));
    }
    Ok(found)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Whether PostgreSQL, or a `restore_command`, gives a file in `pg_wal` such a name
/// (`xlog_internal.h`, `timeline.c`).
fn is_wal(name: &str) -> bool {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    match extension {
        "" => is_hex(stem, SEGMENT_NAME) || matches!(stem, "RECOVERYXLOG" | "RECOVERYHISTORY"),
        "partial" => is_hex(stem, SEGMENT_NAME),
        "history" => is_hex(stem, 8),
        number if stem == "xlogtemp" => number.bytes().all(|byte| byte.is_ascii_digit()),
        // START.OFFSET.backup, and what wal-fetch left that was killed.
        _ => {
            let offset = extension.strip_suffix(".backup");
            let is_label = offset.is_some_and(|offset| is_hex(offset, 8));
            (is_label && is_hex(stem, SEGMENT_NAME)) || is_leftover(name)
        }
    }
}

/// Whether it is one of those that PostgreSQL keeps beside WAL: what is archived, and what
/// the WAL summarizer wrote.
fn is_note(name: &str) -> bool {
    let archived = [".ready", ".done"];
    let of = archived.iter().find_map(|end| name.strip_suffix(*end));
    let summary = name.strip_suffix(".summary");
    of.is_some_and(is_wal) || summary.is_some_and(|of| of == "temp" || is_hex(of, 40))
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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
    for (path, kind) in entries(dir)? {
        if !kind.is_file() || !is_hex(&name_of(&path), SEGMENT_NAME) {
            continue;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_is_told_from_other_files_by_its_name() {
        for name in [
            "0000000100000002000000A3",
            "0000000100000002000000A3.partial",
            "0000000100000002000000A3.00000028.backup",
            "00000002.history",
            "xlogtemp.4711",
            "RECOVERYXLOG",
            "RECOVERYHISTORY",
        ] {
            assert!(is_wal(name), "{name}");
        }
        for name in [
            "notes.txt",
            "base.tar",
            "0000000100000002000000A3.gz",
            "0000000100000002000000A",
            "walvault.toml",
            "xlogtemp.of-mine",
        ] {
            assert!(!is_wal(name), "{name}");
        }
        assert!(is_note("00000002.history.done") && is_note("0000000100000002000000A3.ready"));
        assert!(is_note("temp.summary") && !is_note("0000000100000002000000A3"));
    }
}
