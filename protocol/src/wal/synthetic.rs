//! Writes WAL the way `CopyXLogRecordToWAL` does, for tests and simulations.

use crate::identity::SystemId;
use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::timeline::TimelineId;
use crate::wal::{ScanStart, mark::*, page, record};

/// The cluster.
pub const SYSTEM: SystemId = SystemId(7_320_280_665_284_567_118);
/// `XLOG_PAGE_MAGIC` of PostgreSQL 13 to 18.
pub const MAGICS: [u16; 6] = [0xD106, 0xD10D, 0xD110, 0xD113, 0xD116, 0xD118];
/// `XLOG_XACT_HAS_INFO`.
pub const XACT_HAS_INFO: u8 = 0x80;
/// `RM_HEAP_ID`: any record whose contents are of no interest.
pub const RM_HEAP: u8 = 10;

/// WAL being written.
#[derive(Debug, Clone)]
pub struct Writer {
    /// The position of the first byte, where a segment begins.
    pub start: Lsn,
    /// `XLOG_BLCKSZ`.
    pub block: usize,
    /// The segment size.
    pub segment: SegmentSize,
    /// `XLOG_PAGE_MAGIC`.
    pub magic: u16,
    /// The timeline that pages which begin now are of.
    pub timeline: u32,
    /// What was written.
    pub bytes: Vec<u8>,
    /// Where the record before the next one begins.
    pub previous: Lsn,
    /// The complete records: first byte, the byte after the last, and the next record's place.
    pub records: Vec<(Lsn, Lsn, Lsn)>,
    overwrites: bool,
}

impl Writer {
    /// Begins with a segment of 1 MiB.
    #[must_use]
    pub fn new(block: usize, magic: u16) -> Writer {
        Writer {
            start: Lsn(5 << 20),
            block,
            segment: SegmentSize::new(1 << 20).expect("1 MiB"),
            magic,
            timeline: 1,
            bytes: Vec::new(),
            previous: Lsn(0x4F_FF00),
            records: Vec::new(),
            overwrites: false,
        }
    }

    /// Where a scanner begins to read it.
    #[must_use]
    pub fn scan_start(&self) -> ScanStart {
        ScanStart {
            system_id: SYSTEM,
            segment_size: self.segment,
            timeline: TimelineId::new(self.timeline).expect("not zero"),
            start: self.start,
        }
    }

    /// The end of what was written.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.start + self.bytes.len() as u64
    }

    /// The same up to `end`, going on as another timeline: `previous` is where the last record before
    /// `end` begins.
    #[must_use]
    pub fn fork(&self, end: Lsn, previous: Lsn, timeline: u32) -> Writer {
        let mut fork = self.clone();
        fork.bytes.truncate(self.offset(end));
        fork.records.retain(|record| record.2 <= end);
        fork.previous = previous;
        fork.timeline = timeline;
        fork.overwrites = false;
        fork
    }

    /// The offset in `bytes` of the byte at `lsn`.
    #[must_use]
    pub fn offset(&self, lsn: Lsn) -> usize {
        (lsn - self.start) as usize
    }

    /// Bytes up to the end of the page; a whole page at its start.
    #[must_use]
    pub fn page_left(&self) -> usize {
        self.block - self.position().0 as usize % self.block
    }

    /// Writes a page header where one is due; `record_left` bytes of a record go on behind it.
    pub fn begin_page(&mut self, record_left: usize) {
        if !self.position().0.is_multiple_of(self.block as u64) {
            return;
        }
        let page = self.position();
        let long = page.0.is_multiple_of(self.segment.bytes());
        let mut flags = u16::from(record_left > 0) | u16::from(long) << 1;
        flags |= u16::from(std::mem::take(&mut self.overwrites)) << 3;
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(page.0.to_le_bytes());
        self.bytes.extend((record_left as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.0.to_le_bytes());
            self.bytes
                .extend((self.segment.bytes() as u32).to_le_bytes());
            self.bytes.extend((self.block as u32).to_le_bytes());
        }
    }

    /// A record's bytes, its header included.
    #[must_use]
    pub fn encode(&self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((record::HEADER as u32 + body.len() as u32).to_le_bytes());
        bytes.extend(xid.to_le_bytes());
        bytes.extend(self.previous.0.to_le_bytes());
        bytes.extend([info, rmid, 0, 0]);
        let crc = crc32c::crc32c_append(crc32c::crc32c(body), &bytes);
        bytes.extend(crc.to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// Writes the first `limit` bytes of a record's `bytes`; gives its start.
    fn put(&mut self, bytes: &[u8], limit: usize) -> Lsn {
        self.begin_page(0);
        let start = self.position();
        let mut written = 0;
        while written < limit {
            self.begin_page(bytes.len() - written);
            let length = self.page_left().min(limit - written);
            self.bytes.extend(&bytes[written..written + length]);
            written += length;
        }
        start
    }

    /// Writes a record; gives its start and the next one's place.
    pub fn record(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> (Lsn, Lsn) {
        let bytes = self.encode(rmid, info, xid, body);
        let start = self.put(&bytes, bytes.len());
        let data_end = self.position();
        self.bytes.resize(
            self.bytes
                .len()
                .next_multiple_of(record::ALIGNMENT as usize),
            0,
        );
        self.previous = start;
        self.records.push((start, data_end, self.position()));
        (start, self.position())
    }

    /// A record with main data only.
    pub fn main_data(&mut self, rmid: u8, info: u8, xid: u32, data: &[u8]) -> (Lsn, Lsn) {
        let mut body = match u8::try_from(data.len()) {
            Ok(length) => vec![255, length],
            Err(_) => {
                let mut head = vec![254];
                head.extend((data.len() as u32).to_le_bytes());
                head
            }
        };
        body.extend(data);
        self.record(rmid, info, xid, &body)
    }

    /// A commit of `xid` at `time`, microseconds since 2000.
    pub fn commit(&mut self, xid: u32, time: i64) -> (Lsn, Lsn) {
        self.main_data(RM_XACT, XACT_COMMIT, xid, &time.to_le_bytes())
    }

    /// `CREATE TABLESPACE` at `location`.
    pub fn create_tablespace(&mut self, oid: u32, location: &str) -> (Lsn, Lsn) {
        let mut data = oid.to_le_bytes().to_vec();
        data.extend(location.as_bytes());
        data.push(0);
        self.main_data(RM_TABLESPACE, TABLESPACE_CREATE, 7, &data)
    }

    /// A start with other settings.
    pub fn change_parameters(&mut self, parameters: &Parameters) -> (Lsn, Lsn) {
        let mut data = Vec::new();
        for number in [
            parameters.max_connections,
            parameters.max_worker_processes,
            parameters.max_wal_senders,
            parameters.max_prepared_transactions,
            parameters.max_locks_per_transaction,
            parameters.wal_level,
        ] {
            data.extend(number.to_le_bytes());
        }
        // wal_log_hints and track_commit_timestamp, and the end of the struct.
        data.extend([0, 1, 0, 0]);
        self.main_data(RM_XLOG, XLOG_PARAMETER_CHANGE, 0, &data)
    }

    /// `CREATE DATABASE`: `template`'s directory is copied where it is given.
    pub fn create_database(
        &mut self,
        oid: u32,
        tablespace: u32,
        template: Option<u32>,
    ) -> (Lsn, Lsn) {
        let numbers = match template {
            Some(template) => vec![oid, tablespace, template, tablespace],
            None => vec![oid, tablespace],
        };
        let info = match template {
            Some(_) => DATABASE_COPY,
            None => DATABASE_WAL_LOG,
        };
        let data: Vec<u8> = numbers.into_iter().flat_map(u32::to_le_bytes).collect();
        // XLR_SPECIAL_REL_UPDATE.
        self.main_data(RM_DATABASE, info | 1, 7, &data)
    }

    /// A change of `full_page_writes`.
    pub fn change_full_page_writes(&mut self, on: bool) -> (Lsn, Lsn) {
        self.main_data(RM_XLOG, XLOG_FPW_CHANGE, 0, &[u8::from(on)])
    }

    /// `pg_switch_wal()`, the rest of the segment filled with `filler`.
    pub fn switch(&mut self, filler: u8) {
        self.record(RM_XLOG, XLOG_SWITCH, 0, &[]);
        let end = self.position().0.next_multiple_of(self.segment.bytes());
        self.bytes.resize(self.offset(Lsn(end)), filler);
    }

    /// A crash in the middle of a record, after `pages` page ends; recovery goes on behind it.
    pub fn crash_inside_record(&mut self, pages: usize) -> Lsn {
        self.begin_page(0);
        let bytes = self.encode(RM_HEAP, 0, 9, &vec![0xAA; self.block * (pages + 2)]);
        let limit = self.page_left() + (pages - 1) * (self.block - page::SHORT);
        let start = self.put(&bytes, limit);
        assert!(self.position().0.is_multiple_of(self.block as u64));
        self.overwrites = true;
        start
    }
}
