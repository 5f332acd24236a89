//! Where tablespaces go.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use walvault_archive::record::BackupRecord;

use super::MaterialiseError;

/// `OLD=NEW`: the tablespace that was at OLD goes to NEW. `\=` stands for a `=` in a path, as in
/// `pg_basebackup --tablespace-mapping`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapping {
    /// Where it was on the server.
    pub old: PathBuf,
    /// Where it goes.
    pub new: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = String;

    fn from_str(text: &str) -> Result<TablespaceMapping, String> {
        let mut sides = vec![String::new()];
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '\\' if characters.peek() == Some(&'=') => sides
                    .last_mut()
                    .expect("never empty")
                    .extend(characters.next()),
                '=' => sides.push(String::new()),
                _ => sides.last_mut().expect("never empty").push(character),
            }
        }
        match sides.as_slice() {
            [old, new] if old.starts_with('/') && new.starts_with('/') => Ok(TablespaceMapping {
                old: PathBuf::from(old),
                new: PathBuf::from(new),
            }),
            _ => {
                Err("give OLD=NEW with two absolute paths, and \\= for a '=' within one".to_owned())
            }
        }
    }
}

/// A tablespace of a backup, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tablespace {
    pub(super) oid: u32,
    pub(super) location: PathBuf,
    pub(super) is_moved: bool,
}

impl Tablespace {
    /// Its link, relative to the data directory.
    pub(super) fn link(&self) -> PathBuf {
        link(self.oid)
    }
}

/// The link of the tablespace `oid`, relative to the data directory.
pub(super) fn link(oid: u32) -> PathBuf {
    Path::new("pg_tblspc").join(oid.to_string())
}

/// The tablespaces of `backup` that lie outside the data directory, each with its new place.
pub(super) fn placed(
    backup: &BackupRecord,
    mappings: &[TablespaceMapping],
    pgdata: &Path,
) -> Result<Vec<Tablespace>, MaterialiseError> {
    // One that was made "in place" is a plain directory of the data directory.
    let outside = backup
        .tablespaces
        .iter()
        .filter(|tablespace| tablespace.location.starts_with('/'));
    let tablespaces: Vec<Tablespace> = outside
        .map(|record| {
            let old = Path::new(&record.location);
            let mapping = mappings.iter().rev().find(|mapping| mapping.old == old);
            Tablespace {
                oid: record.oid,
                location: mapping.map_or(old, |mapping| &mapping.new).to_owned(),
                is_moved: mapping.is_some_and(|mapping| mapping.new != old),
            }
        })
        .collect();
    for mapping in mappings {
        if !backup
            .tablespaces
            .iter()
            .any(|record| Path::new(&record.location) == mapping.old)
        {
            let known: Vec<&str> = backup
                .tablespaces
                .iter()
                .map(|record| record.location.as_str())
                .collect();
            return Err(MaterialiseError::UnknownTablespace {
                old: mapping.old.clone(),
                known: if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                },
            });
        }
    }
    for (index, one) in tablespaces.iter().enumerate() {
        let others = tablespaces[..index]
            .iter()
            .map(|other| other.location.as_path())
            .chain([pgdata]);
        for other in others {
            if one.location.starts_with(other) || other.starts_with(&one.location) {
                return Err(MaterialiseError::Overlapping {
                    dir: one.location.clone(),
                });
            }
        }
    }
    Ok(tablespaces)
}

/// What `tablespace_map` holds: an OID, a blank and a path a line, with a backslash before what
/// would end the line (`do_pg_backup_start` in `xlog.c`).
pub(super) fn map_content<'a>(tablespaces: impl Iterator<Item = &'a Tablespace>) -> Vec<u8> {
    let mut content = Vec::new();
    for tablespace in tablespaces {
        content.extend_from_slice(format!("{} ", tablespace.oid).as_bytes());
        for byte in OsStr::as_bytes(tablespace.location.as_os_str()) {
            if matches!(byte, b'\n' | b'\r' | b'\\') {
                content.push(b'\\');
            }
            content.push(*byte);
        }
        content.push(b'\n');
    }
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_read_as_pg_basebackup_reads_them() {
        let read = |text: &str| {
            text.parse::<TablespaceMapping>()
                .ok()
                .map(|mapping| (mapping.old, mapping.new))
        };
        assert_eq!(read("/a=/b"), Some(("/a".into(), "/b".into())));
        assert_eq!(read(r"/a\=1=/b\=2"), Some(("/a=1".into(), "/b=2".into())));
        assert_eq!(read(r"/a\b=/c"), Some((r"/a\b".into(), "/c".into())));
        for text in ["", "/a", "/a=", "a=/b", "/a=b", "/a=/b=/c"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn the_map_escapes_what_would_end_a_line() {
        let tablespace = Tablespace {
            oid: 16385,
            location: PathBuf::from("/a\nb\\c d"),
            is_moved: true,
        };
        assert_eq!(
            map_content([&tablespace].into_iter()),
            b"16385 /a\\\nb\\\\c d\n"
        );
    }
}
