//! Records: `XLogRecord` of `src/include/access/xlogrecord.h`, checked as `ValidXLogRecordHeader`
//! and `ValidXLogRecord` of `src/backend/access/transam/xlogreader.c` do.
//!
//! Works on the bytes between page headers and keeps of a record no more than its header.

use super::error::WalError;
use super::mark::{Found, Notes, RM_XLOG, RMGR_INFO, WalMark, WalMessage, XLOG_SWITCH, split};
use super::page::{WalVersion, u32_at, u64_at};
use crate::lsn::Lsn;

/// `SizeOfXLogRecord`.
pub(super) const HEADER: usize = 24;
/// The part of the header that `xl_crc` covers, after the body.
pub(super) const HEADER_UNDER_CRC: usize = 20;
/// `MAXALIGN`: where records start.
pub(super) const ALIGNMENT: u64 = 8;
/// Since 16 a record is at most `XLogRecordMaxSize`, 1020 MiB; before that nothing but the 1 GiB
/// a reader can allocate bounded it.
const MAX_RECORD: u32 = 1 << 30;
/// `RM_MAX_BUILTIN_ID`, the same from 13 to 18.
const MAX_BUILTIN_RMGR: u8 = 21;
/// `RM_MIN_CUSTOM_ID`, since 15.
const MIN_CUSTOM_RMGR: u8 = 128;

/// Reads records one after the other from the bytes between page headers.
#[derive(Debug, Clone)]
pub(super) struct Records {
    stage: Stage,
    /// Where the record under way, or the one that was last, starts.
    start: Lsn,
    header: [u8; HEADER],
    filled: usize,
    /// Bytes of the record still to come. Before its length is known it stands at the bytes of
    /// the length.
    left: u32,
    crc: u32,
    notes: Option<Notes>,
    /// What the record marks, from its last byte until its padding has passed too.
    mark: Option<WalMark>,
    is_switch: bool,
    /// Whether the scan began in a record whose rest may be that of a switch.
    began_in_switch: bool,
    /// Where the record before starts; `None` when that was before the scan.
    previous: Option<Lsn>,
    /// A record that was abandoned and that the next one has to name.
    abandoned: Option<Lsn>,
    /// Whether no record was read yet.
    is_first: bool,
    /// The scan's first record, where it says that it follows none.
    new_beginning: Option<Lsn>,
    marks: Vec<WalMark>,
    /// Whether messages are noted.
    pub(super) listens: bool,
    /// The record's message, as its mark.
    message: Option<WalMessage>,
    messages: Vec<WalMessage>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The next byte starts a record.
    Between,
    /// In `xl_tot_len`, which is never split over pages.
    Length,
    Header,
    Body,
    /// In a record that began before the scan.
    Foreign,
    /// Behind a record that began before the scan and was a switch: nothing follows it.
    Switched,
    /// Behind a record, up to where the next may start.
    Padding {
        until: Lsn,
        of: Read,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Record,
    Foreign,
}

/// A record that is complete and intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Complete {
    /// The LSN after it.
    pub(super) end: Lsn,
    /// Whether the rest of the segment is unused.
    pub(super) is_switch: bool,
}

impl Records {
    pub(super) const fn new(start: Lsn) -> Records {
        Records {
            stage: Stage::Between,
            start,
            header: [0; HEADER],
            filled: 0,
            left: 0,
            crc: 0,
            notes: None,
            mark: None,
            is_switch: false,
            began_in_switch: false,
            previous: None,
            abandoned: None,
            is_first: true,
            new_beginning: None,
            marks: Vec::new(),
            listens: false,
            message: None,
            messages: Vec::new(),
        }
    }

    /// Where the last record begins that was read, or is under way; `None` before the first.
    pub(super) fn last_record(&self) -> Option<Lsn> {
        match self.stage {
            Stage::Length
            | Stage::Header
            | Stage::Body
            | Stage::Padding {
                of: Read::Record, ..
            } => Some(self.start),
            Stage::Between | Stage::Foreign | Stage::Switched | Stage::Padding { .. } => {
                self.previous
            }
        }
    }

    /// Where the last record begins that was read whole.
    pub(super) fn last_complete(&self) -> Option<Lsn> {
        self.previous
    }

    /// The first record has to name `record` as the one before it, where that is known.
    pub(super) fn follow(&mut self, record: Option<Lsn>) {
        self.previous = record;
    }

    /// The scan's first record, once it is complete and where it says that it follows none; told once.
    pub(super) fn take_new_beginning(&mut self) -> Option<Lsn> {
        let is_complete = self.new_beginning <= self.previous;
        self.new_beginning.take_if(|_| is_complete)
    }

    /// The record under way and how many of its bytes are to come.
    pub(super) fn under_way(&self) -> Option<(Lsn, u32)> {
        match self.stage {
            Stage::Between | Stage::Switched | Stage::Padding { .. } => None,
            Stage::Length | Stage::Header | Stage::Body | Stage::Foreign => {
                Some((self.start, self.left))
            }
        }
    }

    /// The scan starts inside a record of which `left` bytes are to come: they are passed over.
    pub(super) fn begin_inside(&mut self, page: Lsn, left: u32) -> Result<(), WalError> {
        if left == 0 || left > MAX_RECORD {
            return Err(WalError::ContinuationUnexpected { page, found: left });
        }
        self.start = page;
        self.left = left;
        self.is_first = false;
        self.stage = Stage::Foreign;
        // A switch is a header alone, whose length is on the page where it began.
        self.began_in_switch = left as usize <= HEADER - size_of::<u32>();
        Ok(())
    }

    /// The record under way will never be finished: PostgreSQL crashed while writing it.
    pub(super) fn abandon(&mut self) {
        if matches!(self.stage, Stage::Length | Stage::Header | Stage::Body) {
            self.abandoned = Some(self.start);
        }
        self.began_in_switch = false;
        self.stage = Stage::Between;
    }

    /// What was marked since the last call.
    pub(super) fn take_marks(&mut self) -> Vec<WalMark> {
        std::mem::take(&mut self.marks)
    }

    /// The messages noted since the last call.
    pub(super) fn take_messages(&mut self) -> Vec<WalMessage> {
        std::mem::take(&mut self.messages)
    }

    /// Takes one step through `bytes`, the first of which stands at `at`. Gives how many it used,
    /// at least one, and the record that became complete, if one did.
    pub(super) fn step(
        &mut self,
        at: Lsn,
        bytes: &[u8],
        version: WalVersion,
    ) -> Result<(usize, Option<Complete>), WalError> {
        if self.stage == Stage::Between {
            self.begin(at);
        }
        let used = match self.stage {
            Stage::Between | Stage::Switched | Stage::Length | Stage::Header => {
                self.read_header(at, bytes, version)?
            }
            Stage::Body | Stage::Foreign => self.read_body(at, bytes)?,
            Stage::Padding { until, .. } => split(bytes, (until - at) as usize).0.len(),
        };
        Ok((used, self.settle(at + used as u64)))
    }

    fn begin(&mut self, at: Lsn) {
        self.stage = Stage::Length;
        self.start = at;
        self.filled = 0;
        self.left = size_of::<u32>() as u32;
        self.crc = 0;
        self.notes = None;
        self.is_switch = false;
    }

    fn read_header(
        &mut self,
        at: Lsn,
        bytes: &[u8],
        version: WalVersion,
    ) -> Result<usize, WalError> {
        let needed = if self.stage == Stage::Header {
            HEADER
        } else {
            size_of::<u32>()
        };
        let (piece, _) = split(bytes, needed - self.filled);
        self.header[self.filled..self.filled + piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
        self.left -= piece.len() as u32;
        if self.filled == needed {
            match self.stage {
                Stage::Header => self.enter_body(at + piece.len() as u64, version)?,
                _ => self.enter_header()?,
            }
        }
        Ok(piece.len())
    }

    fn enter_header(&mut self) -> Result<(), WalError> {
        let length = u32_at(&self.header, 0);
        if std::mem::take(&mut self.began_in_switch) && length == 0 {
            self.stage = Stage::Switched;
            return Ok(());
        }
        if length < HEADER as u32 || length > MAX_RECORD {
            let (record, found) = (self.start, length);
            return Err(WalError::RecordLength { record, found });
        }
        self.left = length - size_of::<u32>() as u32;
        self.stage = Stage::Header;
        Ok(())
    }

    fn enter_body(&mut self, at: Lsn, version: WalVersion) -> Result<(), WalError> {
        let record = self.start;
        let xid = u32_at(&self.header, 4);
        let found = Lsn(u64_at(&self.header, 8));
        let (info, rmid) = (self.header[16], self.header[17]);
        let custom = rmid >= MIN_CUSTOM_RMGR && version.major >= 15;
        if rmid > MAX_BUILTIN_RMGR && !custom {
            return Err(WalError::ResourceManager {
                record,
                found: rmid,
            });
        }
        // initdb and pg_resetwal begin WAL with a checkpoint that follows no record (`WriteEmptyXLOG` of
        // src/bin/pg_resetwal/pg_resetwal.c).
        let begins_anew = std::mem::take(&mut self.is_first) && found == Lsn::INVALID;
        self.new_beginning = self.new_beginning.or(begins_anew.then_some(record));
        match self.previous {
            Some(expected) if found != expected && !begins_anew => {
                return Err(WalError::Previous {
                    record,
                    found,
                    expected,
                });
            }
            None if found >= record => return Err(WalError::PreviousAhead { record, found }),
            _ => {}
        }
        self.is_switch = rmid == RM_XLOG && info & RMGR_INFO == XLOG_SWITCH;
        self.notes = Notes::of((rmid, info), xid, version, self.listens);
        self.stage = Stage::Body;
        if self.left == 0 {
            self.end_record(at)
        } else {
            Ok(())
        }
    }

    fn read_body(&mut self, at: Lsn, bytes: &[u8]) -> Result<usize, WalError> {
        let (piece, _) = split(bytes, self.left as usize);
        let used = piece.len();
        self.left -= used as u32;
        let end = at + used as u64;
        if self.stage == Stage::Foreign {
            if self.left == 0 {
                self.pad(end, Read::Foreign);
            }
            return Ok(used);
        }
        self.crc = crc32c::crc32c_append(self.crc, piece);
        if let Some(notes) = &mut self.notes {
            notes.feed(piece);
        }
        if self.left == 0 {
            self.end_record(end)?;
        }
        Ok(used)
    }

    /// The record's last byte was read: is it what PostgreSQL wrote?
    fn end_record(&mut self, end: Lsn) -> Result<(), WalError> {
        let record = self.start;
        let computed = crc32c::crc32c_append(self.crc, &self.header[..HEADER_UNDER_CRC]);
        let stored = u32_at(&self.header, HEADER_UNDER_CRC);
        if computed != stored {
            return Err(WalError::Crc {
                record,
                stored,
                computed,
            });
        }
        let found = match &self.notes {
            Some(notes) => Some(notes.finish().ok_or(WalError::Contents { record })?),
            None => None,
        };
        // CreateOverwriteContrecordRecord: nothing is written between the crash and this record.
        if let Some(abandoned) = self.abandoned.take()
            && found != Some(Found::Overwritten(abandoned))
        {
            return Err(WalError::Overwrite { record, abandoned });
        }
        let end = self.pad(end, Read::Record);
        self.mark = match found {
            Some(Found::Mark(time, kind)) => Some(WalMark {
                start: record,
                end,
                time,
                kind,
            }),
            Some(Found::Message(found)) => {
                self.message = found.map(|(prefix, text)| WalMessage {
                    start: record,
                    prefix,
                    text,
                });
                None
            }
            Some(Found::Overwritten(_)) | None => None,
        };
        Ok(())
    }

    /// Padding never leaves a page: pages and their headers are aligned as records are.
    fn pad(&mut self, end: Lsn, of: Read) -> Lsn {
        let until = Lsn(end.0.next_multiple_of(ALIGNMENT));
        self.stage = Stage::Padding { until, of };
        until
    }

    /// Leaves the padding when all of it has passed.
    fn settle(&mut self, at: Lsn) -> Option<Complete> {
        if self.stage == Stage::Switched {
            self.stage = Stage::Between;
            return Some(Complete {
                end: self.start,
                is_switch: true,
            });
        }
        let Stage::Padding { until, of } = self.stage else {
            return None;
        };
        if at < until {
            return None;
        }
        self.stage = Stage::Between;
        (of == Read::Record).then(|| {
            self.previous = Some(self.start);
            self.marks.extend(self.mark.take());
            self.messages.extend(self.message.take());
            Complete {
                end: until,
                is_switch: self.is_switch,
            }
        })
    }
}
