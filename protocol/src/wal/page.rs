//! Page headers: `XLogPageHeaderData` and `XLogLongPageHeaderData` of
//! `src/include/access/xlog_internal.h`, checked as `XLogReaderValidatePageHeader` does.

use super::error::WalError;
use super::scanner::ScanStart;
use crate::identity::SystemId;
use crate::lsn::Lsn;

/// `XLP_FIRST_IS_CONTRECORD`: the page begins inside a record.
const CONTINUES: u16 = 0x0001;
/// `XLP_LONG_HEADER`.
const LONG_HEADER: u16 = 0x0002;
/// `XLP_FIRST_IS_OVERWRITE_CONTRECORD`: the record under way was abandoned (since 13.5 and 14.1).
const OVERWRITES: u16 = 0x0008;
/// `XLP_ALL_FLAGS`, with `XLP_BKP_REMOVABLE` among them.
const ALL_FLAGS: u16 = 0x000F;

/// The size of a short header, `SizeOfXLogShortPHD`, its padding included.
pub(super) const SHORT: usize = 24;
/// The size of a long header, `SizeOfXLogLongPHD`.
pub(super) const LONG: usize = 40;
/// `XLOG_BLCKSZ` unless PostgreSQL was built with another.
pub(super) const DEFAULT_BLOCK: u32 = 8192;

/// The PostgreSQL version that wrote a page, as far as the layout of WAL tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WalVersion {
    pub(super) magic: u16,
    pub(super) major: u32,
}

impl WalVersion {
    /// By `XLOG_PAGE_MAGIC`, which every major version raises.
    pub(super) const fn from_magic(magic: u16) -> Option<WalVersion> {
        let major = match magic {
            0xD106 => 13,
            0xD10D => 14,
            0xD110 => 15,
            0xD113 => 16,
            0xD116 => 17,
            0xD118 => 18,
            _ => return None,
        };
        Some(WalVersion { magic, major })
    }
}

/// A page's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageHeader {
    magic: u16,
    flags: u16,
    timeline: u32,
    address: Lsn,
    /// `xlp_rem_len`: bytes still to come of the record that the page begins inside.
    pub(super) record_left: u32,
    cluster: Option<ClusterInfo>,
}

/// What a long header adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClusterInfo {
    system_id: SystemId,
    segment_size: u32,
    block_size: u32,
}

impl PageHeader {
    /// The header's size, once its first [`SHORT`] bytes are here.
    pub(super) const fn size(bytes: &[u8; LONG]) -> usize {
        if u16::from_le_bytes([bytes[2], bytes[3]]) & LONG_HEADER == 0 {
            SHORT
        } else {
            LONG
        }
    }

    /// Reads it; past its [`PageHeader::size`] the bytes are not looked at.
    pub(super) fn read(bytes: &[u8; LONG]) -> PageHeader {
        let flags = u16::from_le_bytes([bytes[2], bytes[3]]);
        PageHeader {
            magic: u16::from_le_bytes([bytes[0], bytes[1]]),
            flags,
            timeline: u32_at(bytes, 4),
            address: Lsn(u64_at(bytes, 8)),
            record_left: u32_at(bytes, 16),
            cluster: (flags & LONG_HEADER != 0).then(|| ClusterInfo {
                system_id: SystemId(u64_at(bytes, 24)),
                segment_size: u32_at(bytes, 32),
                block_size: u32_at(bytes, 36),
            }),
        }
    }

    /// Whether the page begins inside a record.
    pub(super) const fn continues(&self) -> bool {
        self.flags & CONTINUES != 0
    }

    /// Whether the record under way is abandoned here.
    pub(super) const fn overwrites(&self) -> bool {
        self.flags & OVERWRITES != 0
    }
}

/// What every page of one scan has to agree with.
#[derive(Debug, Clone)]
pub(super) struct PageRules {
    start: ScanStart,
    /// Of the first page.
    first: Option<PageKind>,
    timeline: u32,
}

/// What all pages have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageKind {
    pub(super) version: WalVersion,
    pub(super) block_size: u32,
}

impl PageRules {
    pub(super) const fn new(start: ScanStart) -> PageRules {
        PageRules {
            start,
            first: None,
            timeline: 1,
        }
    }

    /// Whether no page has been seen.
    pub(super) const fn is_at_first_page(&self) -> bool {
        self.first.is_none()
    }

    /// Checks the header of the page at `page`.
    pub(super) fn check(&mut self, page: Lsn, header: &PageHeader) -> Result<PageKind, WalError> {
        let version = self.check_magic(page, header.magic)?;
        let flags = header.flags;
        let starts_segment = page.0.is_multiple_of(self.start.segment_size.bytes());
        if flags & !ALL_FLAGS != 0 || (starts_segment && header.cluster.is_none()) {
            return Err(WalError::PageFlags { page, found: flags });
        }
        if let Some(cluster) = &header.cluster {
            self.check_cluster(page, cluster)?;
        }
        if header.address != page {
            let found = header.address;
            return Err(WalError::PageAddress { page, found });
        }
        self.check_timeline(page, header.timeline)?;
        let block_size = match (&self.first, &header.cluster) {
            (Some(first), _) => first.block_size,
            (None, Some(cluster)) => cluster.block_size,
            (None, None) => DEFAULT_BLOCK,
        };
        let kind = PageKind {
            version,
            block_size,
        };
        self.first = Some(kind);
        Ok(kind)
    }

    fn check_magic(&self, page: Lsn, found: u16) -> Result<WalVersion, WalError> {
        match self.first.map(|first| first.version) {
            Some(version) if version.magic == found => Ok(version),
            Some(version) => {
                let expected = version.magic;
                Err(WalError::MagicChanged {
                    page,
                    found,
                    expected,
                })
            }
            None => WalVersion::from_magic(found).ok_or(WalError::Magic { page, found }),
        }
    }

    fn check_cluster(&self, page: Lsn, cluster: &ClusterInfo) -> Result<(), WalError> {
        let (found, expected) = (cluster.system_id, self.start.system_id);
        if found != expected {
            return Err(WalError::SystemId {
                page,
                found,
                expected,
            });
        }
        let (found, expected) = (cluster.segment_size, self.start.segment_size);
        if u64::from(found) != expected.bytes() {
            return Err(WalError::SegmentSize {
                page,
                found,
                expected,
            });
        }
        let found = cluster.block_size;
        let same = self.first.is_none_or(|first| first.block_size == found);
        // configure allows --with-wal-blocksize from 1 to 64 kB.
        if !same || !found.is_power_of_two() || !(1 << 10..=1 << 16).contains(&found) {
            return Err(WalError::BlockSize { page, found });
        }
        Ok(())
    }

    /// A segment that was copied over from an earlier timeline keeps that one's number in its
    /// pages up to the switch, so that lower numbers are good as long as they never come back.
    fn check_timeline(&mut self, page: Lsn, found: u32) -> Result<(), WalError> {
        let stream = self.start.timeline;
        if found > stream.get() {
            return Err(WalError::TimelineAhead {
                page,
                found,
                stream,
            });
        }
        let previous = self.timeline;
        if found < previous {
            return Err(WalError::TimelineBack {
                page,
                found,
                previous,
            });
        }
        self.timeline = found;
        Ok(())
    }
}

/// The little-endian integer at `at`, which is a constant within the array.
pub(super) fn u32_at<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// The little-endian integer at `at`, which is a constant within the array.
pub(super) fn u64_at<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
