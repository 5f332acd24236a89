//! From tar archives to a list of files, while their contents go on to the parts.
//!
//! How tar spells sizes beyond 8 GiB and long names is the `tar` crate's concern. What may be in a
//! data directory, and what may not, is decided here.

use std::io::{self, Read};

use bytes::Bytes;
use tar::{Entry, EntryType};
use walvault_archive::format::FRAME_SIZE;
use walvault_archive::record::{FileKind, FilePath, FileRecord};

use super::BackupError;
use super::cutter::{self, Cutter};
use super::input::{Input, Piece, Root, pipe};

/// Where contents go.
pub(super) trait Contents {
    /// Appends to a part. Parts begin in ascending order; none is gone back to.
    ///
    /// # Errors
    /// When nobody takes it any more.
    fn write(&mut self, part: u32, bytes: &[u8]) -> io::Result<()>;
}

/// Whether archives end as tar says, with two blocks of zeros. The server leaves them out before
/// version 15 (manual of 14, section "Streaming Replication Protocol", `BASE_BACKUP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndMark {
    Required,
    LeftOut,
}

/// Reads every archive to its end: the files, directories and links in the order they came.
/// Blocks.
///
/// # Errors
/// When an archive is broken or cut short, or has what no data directory has.
pub(super) fn read(
    input: &mut Input,
    end_mark: EndMark,
    part_size: u64,
    contents: &mut dyn Contents,
) -> Result<Vec<FileRecord>, BackupError> {
    let mut reader = Reader {
        cutter: Cutter::new(part_size),
        contents,
        buffer: vec![0; FRAME_SIZE],
        files: Vec::new(),
    };
    let mut last = Root::DataDirectory;
    loop {
        let broken = |source| BackupError::Tar {
            archive: last.to_string(),
            source,
        };
        let Some(root) = input.next_archive().map_err(broken)? else {
            return Ok(reader.files);
        };
        reader.archive(input, root, end_mark)?;
        last = root;
    }
}

/// The files of one archive that is in memory whole, such as the data directory's, as a backup reads them; their contents are
/// passed over.
///
/// # Errors
/// When it is broken or cut short, or has what no data directory has.
pub fn list(archive: &[u8]) -> Result<Vec<FileRecord>, BackupError> {
    struct Nowhere;
    impl Contents for Nowhere {
        fn write(&mut self, _part: u32, _bytes: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }
    let (sender, mut input) = pipe();
    let whole = Piece::Data(Bytes::copy_from_slice(archive).into());
    for piece in [Piece::Archive(Root::DataDirectory), whole, Piece::End] {
        // They are fewer than the pipe holds.
        let _ = sender.try_send(piece);
    }
    read(&mut input, EndMark::LeftOut, 1 << 20, &mut Nowhere)
}

struct Reader<'a> {
    cutter: Cutter,
    contents: &'a mut dyn Contents,
    buffer: Vec<u8>,
    files: Vec<FileRecord>,
}

impl Reader<'_> {
    fn archive(
        &mut self,
        input: &mut Input,
        root: Root,
        end_mark: EndMark,
    ) -> Result<(), BackupError> {
        let broken = |source| BackupError::Tar {
            archive: root.to_string(),
            source,
        };
        let mut archive = tar::Archive::new(&mut *input);
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            if let Some(mut file) = describe(&entry, root)? {
                if file.kind == FileKind::File {
                    self.content(&mut entry, &mut file).map_err(broken)?;
                }
                self.files.push(file);
            }
        }
        if input.at_end() && end_mark == EndMark::Required {
            return Err(broken(cut_short("its end mark is missing")));
        }
        only_zeros(input).map_err(broken)
    }

    /// Passes a file's bytes on, and notes where they went and their checksum.
    fn content(&mut self, entry: &mut impl Read, file: &mut FileRecord) -> io::Result<()> {
        let (mut left, mut crc) = (file.size, 0);
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(self.buffer.len());
            let length = entry.read(&mut self.buffer[..wanted])?;
            if length == 0 {
                return Err(cut_short(&format!(
                    "'{}' lacks its last {left} bytes",
                    file.path
                )));
            }
            let mut bytes = &self.buffer[..length];
            crc = crc32c::crc32c_append(crc, bytes);
            left -= length as u64;
            while !bytes.is_empty() {
                let extent = self.cutter.place(bytes.len() as u64);
                let (head, rest) = bytes.split_at(extent.length as usize);
                self.contents.write(extent.part, head)?;
                cutter::append(&mut file.extents, extent);
                bytes = rest;
            }
        }
        file.crc32c = Some(crc);
        Ok(())
    }
}

/// What a header says of an entry; `None` for the archive's own top directory.
fn describe<R: Read>(entry: &Entry<'_, R>, root: Root) -> Result<Option<FileRecord>, BackupError> {
    let raw = entry.path_bytes();
    let refuse = |reason| BackupError::Entry {
        path: FilePath::from_bytes(&raw),
        reason,
    };
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Regular | EntryType::Continuous => FileKind::File,
        EntryType::Directory => FileKind::Directory,
        EntryType::Symlink => FileKind::Symlink(
            link_target(entry).ok_or_else(|| refuse("is a link without a readable target"))?,
        ),
        _ => {
            return Err(refuse(
                "is neither a file nor a directory nor a symbolic link",
            ));
        }
    };
    let Some(path) = path_in_data_directory(&raw, root).map_err(refuse)? else {
        return match kind {
            FileKind::Directory => Ok(None),
            _ => Err(refuse("has no name")),
        };
    };
    let number =
        |field: io::Result<u64>| field.map_err(|_| refuse("has a header that cannot be read"));
    let mode = header
        .mode()
        .map_err(|_| refuse("has a header that cannot be read"))?;
    Ok(Some(FileRecord {
        path: FilePath::from_bytes(&path),
        mode: mode & 0o7777,
        size: if kind == FileKind::File {
            entry.size()
        } else {
            0
        },
        mtime: number(header.mtime())?.try_into().unwrap_or(i64::MAX),
        crc32c: None,
        extents: Vec::new(),
        kind,
    }))
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> Option<String> {
    let target = entry.link_name_bytes()?.into_owned();
    String::from_utf8(target)
        .ok()
        .filter(|target| !target.is_empty())
}

/// The path below the data directory, without what tar adds to it; `None` for the top itself.
/// Nothing may lead out of the directory.
fn path_in_data_directory(raw: &[u8], root: Root) -> Result<Option<Vec<u8>>, &'static str> {
    if raw.starts_with(b"/") {
        return Err("is an absolute path");
    }
    let mut path = match root {
        Root::DataDirectory => Vec::new(),
        Root::Tablespace(oid) => format!("pg_tblspc/{oid}").into_bytes(),
    };
    let top = path.len();
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("leads out of the data directory"),
            _ if part.contains(&0) => return Err("has a zero byte in its name"),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(part);
            }
        }
    }
    Ok((path.len() > top).then_some(path))
}

/// Goes through what follows an archive's last entry: padding.
fn only_zeros(input: &mut Input) -> io::Result<()> {
    let mut rest = [0; 8192];
    loop {
        match input.read(&mut rest)? {
            0 => return Ok(()),
            length if rest[..length].iter().all(|byte| *byte == 0) => {}
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes follow its end mark",
                ));
            }
        }
    }
}

fn cut_short(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}

#[cfg(test)]
mod tests;
