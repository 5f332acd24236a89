//! Marks: the places in WAL that a restore has to know of before it replays them.
//!
//! Recovery targets name transaction ends and restore points, the records that
//! `recoveryStopsBefore` and `recoveryStopsAfter` in `src/backend/access/transam/xlogrecovery.c`
//! look at. Replay of a new tablespace writes outside the data directory, and replay of raised
//! parameters pauses or ends a server that has less of them.

pub(super) use super::change::{DatabaseDirectory, Parameters};
use super::page::{WalVersion, u32_at, u64_at};
use crate::lsn::Lsn;
use crate::timestamp::PgTimestamp;

/// A place in WAL that a restore has to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalMark {
    /// The record's first byte, the LSN that `pg_waldump` prints.
    pub start: Lsn,
    /// The LSN after the record, as `recovery_target_lsn` and `pg_last_wal_replay_lsn()` count.
    pub end: Lsn,
    /// When, by the server's clock; not necessarily later than the mark before it. Zero where the
    /// record has no time: see [`MarkKind::has_time`].
    pub time: PgTimestamp,
    /// What happened.
    pub kind: MarkKind,
}

/// What a [`WalMark`] marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MarkKind {
    /// A transaction committed, by `COMMIT` or by `COMMIT PREPARED`.
    Commit {
        /// The transaction; for `COMMIT PREPARED` the one that was prepared.
        xid: u32,
    },
    /// A transaction or a savepoint was rolled back, by `ROLLBACK` or by `ROLLBACK PREPARED`.
    Abort {
        /// The transaction; for `ROLLBACK PREPARED` the one that was prepared.
        xid: u32,
    },
    /// `pg_create_restore_point()` was called.
    RestorePoint {
        /// Its name; bytes that are not UTF-8 became U+FFFD.
        name: String,
    },
    /// `CREATE TABLESPACE`: replay makes a directory at its location, whatever is there.
    Tablespace {
        /// The tablespace, the name of its link in `pg_tblspc`.
        oid: u32,
        /// Its location; empty for one within the data directory. Bytes that are not UTF-8 became
        /// U+FFFD.
        location: String,
    },
    /// The server was started with other values of settings that replay depends on.
    Parameters(Parameters),
    /// A database was created, or moved to another tablespace.
    Database(DatabaseDirectory),
    /// `full_page_writes` was changed while the server ran, or at its start.
    FullPageWrites {
        /// Its new value.
        on: bool,
    },
}

impl MarkKind {
    /// Whether records of this kind have a time.
    #[must_use]
    pub const fn has_time(&self) -> bool {
        match self {
            MarkKind::Commit { .. } | MarkKind::Abort { .. } | MarkKind::RestorePoint { .. } => {
                true
            }
            MarkKind::Tablespace { .. }
            | MarkKind::Parameters(_)
            | MarkKind::Database(_)
            | MarkKind::FullPageWrites { .. } => false,
        }
    }
}

/// A message that `pg_logical_emit_message` wrote into WAL, as far as it is short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalMessage {
    /// The record's first byte.
    pub start: Lsn,
    /// What it is for, as whoever wrote it says.
    pub prefix: String,
    /// What it says; bytes that are not UTF-8 became U+FFFD.
    pub text: String,
}

/// The most bytes of a [`WalMessage`]: its prefix, a zero byte and its text.
pub const LONGEST_MESSAGE: usize = NAME_SIZE;

/// `RM_XLOG_ID` of `src/include/access/rmgrlist.h`.
pub(super) const RM_XLOG: u8 = 0;
/// `RM_XACT_ID`.
pub(super) const RM_XACT: u8 = 1;
/// `RM_DBASE_ID`.
pub(super) const RM_DATABASE: u8 = 4;
/// `RM_TBLSPC_ID`.
pub(super) const RM_TABLESPACE: u8 = 5;
/// `RM_LOGICALMSG_ID`.
const RM_LOGICALMSG: u8 = 21;
/// `~XLR_INFO_MASK`: the bits of `xl_info` that are the resource manager's own.
pub(super) const RMGR_INFO: u8 = 0xF0;
/// `XLOG_SWITCH`: the rest of the segment is unused.
pub(super) const XLOG_SWITCH: u8 = 0x40;
/// `XLOG_DBASE_CREATE_FILE_COPY` of `src/include/commands/dbcommands_xlog.h`, `XLOG_DBASE_CREATE`
/// before PostgreSQL 15.
pub(super) const DATABASE_COPY: u8 = 0x00;
/// `XLOG_DBASE_CREATE_WAL_LOG`; before PostgreSQL 15 the number of `XLOG_DBASE_DROP`.
pub(super) const DATABASE_WAL_LOG: u8 = 0x10;
/// `XLOG_TBLSPC_CREATE` of `src/include/commands/tablespace.h`.
pub(super) const TABLESPACE_CREATE: u8 = 0x00;
/// `XLOG_PARAMETER_CHANGE` of `src/include/catalog/pg_control.h`.
pub(super) const XLOG_PARAMETER_CHANGE: u8 = 0x60;
/// `XLOG_RESTORE_POINT` of `src/include/catalog/pg_control.h`.
pub(super) const XLOG_RESTORE_POINT: u8 = 0x70;
/// `XLOG_FPW_CHANGE`.
pub(super) const XLOG_FPW_CHANGE: u8 = 0x80;
/// `XLOG_OVERWRITE_CONTRECORD`.
pub(super) const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
/// `XLOG_XACT_OPMASK` of `src/include/access/xact.h`.
const XACT_OPERATION: u8 = 0x70;
pub(super) const XACT_COMMIT: u8 = 0x00;
pub(super) const XACT_ABORT: u8 = 0x20;
pub(super) const XACT_COMMIT_PREPARED: u8 = 0x30;
pub(super) const XACT_ABORT_PREPARED: u8 = 0x40;

/// `XACT_XINFO_*`: which sections follow `xinfo`, here in the order in which they follow.
pub(super) const HAS_DATABASE: u32 = 1 << 0;
pub(super) const HAS_SUBXACTS: u32 = 1 << 1;
pub(super) const HAS_RELATIONS: u32 = 1 << 2;
pub(super) const HAS_DROPPED_STATS: u32 = 1 << 8;
pub(super) const HAS_INVALIDATIONS: u32 = 1 << 3;
pub(super) const HAS_TWOPHASE: u32 = 1 << 4;

/// `MAXPGPATH`: a path with its zero byte.
const LONGEST_PATH: usize = 1024;

/// `sizeof(rp_name)`, `MAXFNAMELEN`.
pub(super) const NAME_SIZE: usize = 64;

/// Picks from a record's body, in whatever pieces it passes, the few fields that are of interest.
///
/// The body is a chain of headers (`src/include/access/xlogrecord.h`) and then the main data.
/// Nothing is kept but the field under way, so that a commit with a million subtransactions costs
/// no memory.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    subject: Subject,
    version: WalVersion,
    field: Field,
    /// Bytes to pass over before the field.
    skip: u64,
    buffer: [u8; NAME_SIZE],
    filled: usize,
    /// A location, which is longer than the buffer.
    path: Vec<u8>,
    /// Sections of a transaction's end that are still to come, as `XACT_XINFO_*`.
    sections: u32,
    time: PgTimestamp,
}

/// What was found in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Mark(PgTimestamp, MarkKind),
    /// `XLOG_OVERWRITE_CONTRECORD`: the record at this LSN was abandoned.
    Overwritten(Lsn),
    /// A message's prefix and text; `None` when it is too long.
    Message(Option<(String, String)>),
}

#[derive(Debug, Clone, Copy)]
enum Subject {
    Commit { xid: u32, prepared: bool },
    Abort { xid: u32, prepared: bool },
    RestorePoint,
    Tablespace { oid: u32 },
    Parameters,
    Database { copied: bool },
    FullPageWrites,
    Overwrite,
    Message,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    FragmentId,
    ShortLength,
    LongLength,
    Origin,
    TopLevelXid,
    Time,
    Sections,
    /// How many items of so many bytes follow.
    Count {
        item: u64,
    },
    PreparedXid,
    Name,
    /// `xl_tblspc_create_rec`: the OID, and a path that fills the rest of the main data.
    TablespaceOid {
        path: usize,
    },
    Location {
        length: usize,
    },
    /// The six numbers at the beginning of `xl_parameter_change`.
    Parameters,
    /// `xl_dbase_create_file_copy_rec` or `xl_dbase_create_wal_log_rec`, as far as it is read.
    Database {
        copied: bool,
    },
    /// A `bool`.
    FullPageWrites,
    OverwrittenLsn,
    /// `xl_logical_message` of `src/include/replication/message.h`, up to the prefix.
    MessageHead,
    /// The prefix with its zero byte, and the text.
    Message {
        length: usize,
    },
    Done,
    Unreadable,
}

impl Field {
    const fn size(self) -> usize {
        match self {
            Field::FragmentId | Field::ShortLength | Field::FullPageWrites => 1,
            Field::Origin => 2,
            Field::LongLength
            | Field::TopLevelXid
            | Field::Sections
            | Field::Count { .. }
            | Field::TablespaceOid { .. }
            | Field::PreparedXid => 4,
            Field::Time | Field::OverwrittenLsn => 8,
            Field::MessageHead => 24,
            Field::Parameters => Parameters::SIZE,
            Field::Database { copied: true } => DatabaseDirectory::COPIED,
            Field::Database { copied: false } => DatabaseDirectory::LOGGED,
            Field::Message { length } | Field::Location { length } => length,
            Field::Name => NAME_SIZE,
            Field::Done | Field::Unreadable => 0,
        }
    }
}

impl Notes {
    /// For a record of this kind; `None` when nothing in it is of interest. `messages` says whether
    /// they are.
    pub(super) fn of(
        (rmid, info): (u8, u8),
        xid: u32,
        version: WalVersion,
        messages: bool,
    ) -> Option<Notes> {
        let subject = match (rmid, info & RMGR_INFO, info & XACT_OPERATION) {
            (RM_XACT, _, XACT_COMMIT) => Subject::Commit {
                xid,
                prepared: false,
            },
            (RM_XACT, _, XACT_COMMIT_PREPARED) => Subject::Commit {
                xid,
                prepared: true,
            },
            (RM_XACT, _, XACT_ABORT) => Subject::Abort {
                xid,
                prepared: false,
            },
            (RM_XACT, _, XACT_ABORT_PREPARED) => Subject::Abort {
                xid,
                prepared: true,
            },
            (RM_XLOG, XLOG_RESTORE_POINT, _) => Subject::RestorePoint,
            (RM_XLOG, XLOG_PARAMETER_CHANGE, _) => Subject::Parameters,
            (RM_XLOG, XLOG_FPW_CHANGE, _) => Subject::FullPageWrites,
            (RM_DATABASE, DATABASE_COPY, _) => Subject::Database { copied: true },
            (RM_DATABASE, DATABASE_WAL_LOG, _) if version.major >= 15 => {
                Subject::Database { copied: false }
            }
            (RM_TABLESPACE, TABLESPACE_CREATE, _) => Subject::Tablespace { oid: 0 },
            (RM_XLOG, XLOG_OVERWRITE_CONTRECORD, _) => Subject::Overwrite,
            (RM_LOGICALMSG, ..) if messages => Subject::Message,
            _ => return None,
        };
        Some(Notes {
            subject,
            version,
            field: Field::FragmentId,
            skip: 0,
            buffer: [0; NAME_SIZE],
            filled: 0,
            path: Vec::new(),
            sections: 0,
            time: PgTimestamp(0),
        })
    }

    /// The next bytes of the body.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.field.size() > 0 {
            if self.skip > 0 {
                let (passed, rest) = split(bytes, usize::try_from(self.skip).unwrap_or(usize::MAX));
                self.skip -= passed.len() as u64;
                bytes = rest;
                continue;
            }
            let (piece, rest) = split(bytes, self.field.size() - self.filled);
            match self.field {
                Field::Location { .. } => self.path.extend_from_slice(piece),
                _ => self.buffer[self.filled..self.filled + piece.len()].copy_from_slice(piece),
            }
            self.filled += piece.len();
            bytes = rest;
            if self.filled == self.field.size() {
                self.filled = 0;
                self.field = self.next();
            }
        }
    }

    /// What was found; `None` when the body ended too early or was laid out in no known way.
    pub(super) fn finish(&self) -> Option<Found> {
        if self.field != Field::Done {
            return None;
        }
        let kind = match self.subject {
            Subject::Commit { xid, .. } => MarkKind::Commit { xid },
            Subject::Abort { xid, .. } => MarkKind::Abort { xid },
            Subject::RestorePoint => {
                let end = self.buffer.iter().position(|byte| *byte == 0);
                let name = &self.buffer[..end.unwrap_or(NAME_SIZE)];
                let name = String::from_utf8_lossy(name).into_owned();
                MarkKind::RestorePoint { name }
            }
            Subject::Tablespace { oid } => {
                let end = self.path.iter().position(|byte| *byte == 0);
                let location = &self.path[..end.unwrap_or(self.path.len())];
                let location = String::from_utf8_lossy(location).into_owned();
                MarkKind::Tablespace { oid, location }
            }
            Subject::Parameters => MarkKind::Parameters(Parameters::read(&self.buffer)),
            Subject::Database { copied } => {
                MarkKind::Database(DatabaseDirectory::read(&self.buffer, copied))
            }
            Subject::FullPageWrites => MarkKind::FullPageWrites {
                on: self.buffer[0] != 0,
            },
            Subject::Overwrite => return Some(Found::Overwritten(Lsn(u64_at(&self.buffer, 0)))),
            Subject::Message => return Some(Found::Message(self.message())),
        };
        Some(Found::Mark(self.time, kind))
    }

    /// The message in the buffer, whose length stands in `sections`.
    fn message(&self) -> Option<(String, String)> {
        let content = self.buffer.get(..self.sections as usize)?;
        let end = content.iter().position(|byte| *byte == 0)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Some((text(&content[..end]), text(&content[end + 1..])))
    }

    /// The field after the one that was just read into the buffer.
    fn next(&mut self) -> Field {
        match self.field {
            Field::FragmentId => match self.buffer[0] {
                // XLR_BLOCK_ID_DATA_SHORT, _DATA_LONG, _ORIGIN and _TOPLEVEL_XID. None of these
                // records refers to a block, whose id would be below.
                255 => Field::ShortLength,
                254 => Field::LongLength,
                253 => Field::Origin,
                252 => Field::TopLevelXid,
                _ => Field::Unreadable,
            },
            Field::Origin | Field::TopLevelXid => Field::FragmentId,
            Field::ShortLength | Field::LongLength => match self.subject {
                Subject::Tablespace { .. } => self.tablespace(),
                Subject::Parameters => Field::Parameters,
                Subject::Database { copied } => Field::Database { copied },
                Subject::FullPageWrites => Field::FullPageWrites,
                Subject::Overwrite => Field::OverwrittenLsn,
                Subject::Message => Field::MessageHead,
                _ => Field::Time,
            },
            Field::Time => {
                self.time = PgTimestamp(u64_at(&self.buffer, 0).cast_signed());
                match self.subject {
                    Subject::RestorePoint => Field::Name,
                    // The prepared transaction's xid stands behind every other section.
                    Subject::Commit { prepared: true, .. }
                    | Subject::Abort { prepared: true, .. } => Field::Sections,
                    _ => Field::Done,
                }
            }
            Field::Sections => {
                self.sections = u32_at(&self.buffer, 0);
                self.next_section()
            }
            Field::Count { item } => {
                self.skip = u64::from(u32_at(&self.buffer, 0)) * item;
                self.next_section()
            }
            Field::PreparedXid => {
                let prepared_xid = u32_at(&self.buffer, 0);
                if let Subject::Commit { xid, .. } | Subject::Abort { xid, .. } = &mut self.subject
                {
                    *xid = prepared_xid;
                }
                Field::Done
            }
            Field::MessageHead => {
                let (prefix, text) = (u64_at(&self.buffer, 8), u64_at(&self.buffer, 16));
                match prefix.checked_add(text).map(usize::try_from) {
                    Some(Ok(length @ 1..=NAME_SIZE)) => {
                        self.sections = length as u32;
                        Field::Message { length }
                    }
                    _ => Field::Done,
                }
            }
            Field::TablespaceOid { path } => {
                self.subject = Subject::Tablespace {
                    oid: u32_at(&self.buffer, 0),
                };
                Field::Location { length: path }
            }
            Field::Message { .. }
            | Field::Name
            | Field::Location { .. }
            | Field::Parameters
            | Field::Database { .. }
            | Field::FullPageWrites
            | Field::OverwrittenLsn
            | Field::Done => Field::Done,
            Field::Unreadable => Field::Unreadable,
        }
    }

    /// A tablespace's OID comes, and then a path, as the length in the buffer says.
    fn tablespace(&self) -> Field {
        let length = match self.field {
            Field::ShortLength => u32::from(self.buffer[0]),
            _ => u32_at(&self.buffer, 0),
        };
        match (length as usize).checked_sub(size_of::<u32>()) {
            Some(path @ 1..=LONGEST_PATH) => Field::TablespaceOid { path },
            _ => Field::Unreadable,
        }
    }

    /// `ParseCommitRecord` and `ParseAbortRecord` of `src/backend/access/rmgrdesc/xactdesc.c`.
    fn next_section(&mut self) -> Field {
        if self.passes(HAS_DATABASE) {
            self.skip += 8;
        }
        // PostgreSQL 18 widened the object id in xl_xact_stats_item.
        let stats_item = if self.version.major >= 18 { 16 } else { 12 };
        for (section, item) in [
            (HAS_SUBXACTS, 4),
            (HAS_RELATIONS, 12),
            (HAS_DROPPED_STATS, stats_item),
            (HAS_INVALIDATIONS, 16),
        ] {
            if self.passes(section) {
                return Field::Count { item };
            }
        }
        if self.passes(HAS_TWOPHASE) {
            Field::PreparedXid
        } else {
            Field::Unreadable
        }
    }

    /// Whether `section` is still to come; it no longer is afterwards.
    fn passes(&mut self, section: u32) -> bool {
        let comes = self.sections & section != 0;
        self.sections &= !section;
        comes
    }
}

/// At most `length` bytes, and the rest.
pub(super) fn split(bytes: &[u8], length: usize) -> (&[u8], &[u8]) {
    bytes.split_at(length.min(bytes.len()))
}
