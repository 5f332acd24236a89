//! WAL segments: their size, their numbers and the names of files in `pg_wal`.
//!
//! Naming follows `src/include/access/xlog_internal.h` (`XLogFileName`, `IsXLogFileName`,
//! `TLHistoryFileName`, `BackupHistoryFileName`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::lsn::{Lsn, LsnRange};
use crate::timeline::TimelineId;

/// The size of a WAL segment in bytes: a power of two from 1 MiB to 1 GiB, fixed by `initdb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct SegmentSize(u64);

/// A size that no PostgreSQL cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes is not a WAL segment size; PostgreSQL allows powers of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError(pub u64);

impl SegmentSize {
    /// PostgreSQL's default, 16 MiB.
    pub const DEFAULT: SegmentSize = SegmentSize(16 << 20);

    /// Checks `bytes` as `IsValidWalSegSize` does.
    ///
    /// # Errors
    /// When it is not a power of two from 1 MiB to 1 GiB.
    pub const fn new(bytes: u64) -> Result<SegmentSize, SegmentSizeError> {
        if bytes.is_power_of_two() && bytes >= 1 << 20 && bytes <= 1 << 30 {
            Ok(SegmentSize(bytes))
        } else {
            Err(SegmentSizeError(bytes))
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Segments in 4 GiB of WAL, `XLogSegmentsPerXLogId`.
    const fn per_log_id(self) -> u64 {
        (1 << 32) / self.0
    }
}

impl TryFrom<u64> for SegmentSize {
    type Error = SegmentSizeError;

    fn try_from(bytes: u64) -> Result<SegmentSize, SegmentSizeError> {
        SegmentSize::new(bytes)
    }
}

impl From<SegmentSize> for u64 {
    fn from(size: SegmentSize) -> u64 {
        size.0
    }
}

/// The ordinal of a segment: its first LSN divided by the segment size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

impl SegmentNumber {
    /// The segment that holds the byte at `lsn`.
    #[must_use]
    pub const fn containing(lsn: Lsn, size: SegmentSize) -> SegmentNumber {
        SegmentNumber(lsn.0 / size.0)
    }

    /// Its first byte. Positions that 64 bits do not hold become the last one.
    #[must_use]
    pub const fn start(self, size: SegmentSize) -> Lsn {
        Lsn(self.0.saturating_mul(size.0))
    }

    /// All of its bytes. The end of the WAL address space's last segment does not fit in 64 bits, so
    /// that segment lacks its last byte here; its name is none ([`parse_segment`]).
    #[must_use]
    pub const fn range(self, size: SegmentSize) -> LsnRange {
        LsnRange {
            start: self.start(size),
            end: self.next().start(size),
        }
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> SegmentNumber {
        SegmentNumber(self.0.saturating_add(1))
    }

    /// Whether 64 bits hold the end of its range.
    const fn fits(self, size: SegmentSize) -> bool {
        match self.0.checked_add(1) {
            Some(next) => next.checked_mul(size.0).is_some(),
            None => false,
        }
    }
}

/// The name of a file in `pg_wal`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WalFileName {
    /// `000000010000000000000003`: a segment.
    Segment(TimelineId, SegmentNumber),
    /// `000000010000000000000003.partial`: the last segment of a timeline that was left.
    Partial(TimelineId, SegmentNumber),
    /// `000000010000000000000003.00000028.backup`: written by `pg_backup_stop`.
    BackupHistory(TimelineId, SegmentNumber, u32),
    /// `00000002.history`: how a timeline came to be.
    History(TimelineId),
}

impl WalFileName {
    /// Reads a name as PostgreSQL writes it for segments of `size`; `None` when it is none of these.
    #[must_use]
    pub fn parse(name: &str, size: SegmentSize) -> Option<WalFileName> {
        if let Some(stem) = name.strip_suffix(".history") {
            return Some(WalFileName::History(TimelineId::new(hex8(stem)?)?));
        }
        let (timeline, number) = parse_segment(name.get(..24)?, size)?;
        match name.get(24..)? {
            "" => Some(WalFileName::Segment(timeline, number)),
            ".partial" => Some(WalFileName::Partial(timeline, number)),
            rest => {
                let offset = rest.strip_prefix('.')?.strip_suffix(".backup")?;
                Some(WalFileName::BackupHistory(timeline, number, hex8(offset)?))
            }
        }
    }

    /// The name PostgreSQL gives it.
    #[must_use]
    pub fn to_name(&self, size: SegmentSize) -> String {
        match self {
            WalFileName::Segment(timeline, number) => segment_name(*timeline, *number, size),
            WalFileName::Partial(timeline, number) => {
                format!("{}.partial", segment_name(*timeline, *number, size))
            }
            WalFileName::BackupHistory(timeline, number, offset) => {
                format!(
                    "{}.{offset:08X}.backup",
                    segment_name(*timeline, *number, size)
                )
            }
            WalFileName::History(timeline) => format!("{timeline}.history"),
        }
    }
}

/// The 24 hexadecimal digits that name a segment, `XLogFileName`.
#[must_use]
pub fn segment_name(timeline: TimelineId, number: SegmentNumber, size: SegmentSize) -> String {
    let per = size.per_log_id();
    format!("{timeline}{:08X}{:08X}", number.0 / per, number.0 % per)
}

/// The inverse of [`segment_name`]; `None` as well for the address space's last segment, whose end
/// does not fit in 64 bits.
#[must_use]
pub fn parse_segment(name: &str, size: SegmentSize) -> Option<(TimelineId, SegmentNumber)> {
    if name.len() != 24 || !name.is_ascii() {
        return None;
    }
    let timeline = TimelineId::new(hex8(&name[..8])?)?;
    let (high, low) = (
        u64::from(hex8(&name[8..16])?),
        u64::from(hex8(&name[16..])?),
    );
    let per = size.per_log_id();
    let number = SegmentNumber(high * per + low);
    (low < per && number.fits(size)).then_some((timeline, number))
}

fn hex8(text: &str) -> Option<u32> {
    let hex = text.len() == 8
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    hex.then(|| u32::from_str_radix(text, 16).ok())?
}

impl fmt::Display for SegmentSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 >> 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes() -> impl Strategy<Value = SegmentSize> {
        (20u32..=30).prop_map(|shift| SegmentSize::new(1 << shift).expect("a valid size"))
    }

    proptest! {
        #[test]
        fn names_round_trip(timeline in 1u32.., lsn: u64, offset: u32, size in sizes()) {
            let timeline = TimelineId::new(timeline).expect("not zero");
            let number = SegmentNumber::containing(Lsn(lsn), size);
            prop_assume!(number.fits(size));
            for name in [
                WalFileName::Segment(timeline, number),
                WalFileName::Partial(timeline, number),
                WalFileName::BackupHistory(timeline, number, offset),
                WalFileName::History(timeline),
            ] {
                prop_assert_eq!(WalFileName::parse(&name.to_name(size), size), Some(name));
            }
        }

        #[test]
        fn every_number_has_a_range(number: u64, size in sizes()) {
            let number = SegmentNumber(number);
            let range = number.range(size);
            prop_assert!(range.start <= range.end);
            prop_assert!(number.next() >= number);
        }

        #[test]
        fn parse_never_panics(text in ".{0,60}", size in sizes()) {
            let _ = WalFileName::parse(&text, size);
        }
    }

    #[test]
    fn names_are_postgresqls_own() {
        // select pg_walfile_name('16/B374D848') gives this on timeline 1 with 16 MiB segments.
        let lsn: Lsn = "16/B374D848".parse().expect("an LSN");
        let number = SegmentNumber::containing(lsn, SegmentSize::DEFAULT);
        assert_eq!(
            segment_name(TimelineId::FIRST, number, SegmentSize::DEFAULT),
            "0000000100000016000000B3"
        );
        assert_eq!(SegmentSize::new(3 << 20), Err(SegmentSizeError(3 << 20)));
    }

    #[test]
    fn a_segment_whose_end_does_not_fit_has_no_name() {
        for shift in 20..=30 {
            let size = SegmentSize::new(1 << shift).expect("a valid size");
            let last = SegmentNumber::containing(Lsn(u64::MAX), size);
            let name = segment_name(TimelineId::FIRST, last, size);
            assert_eq!(parse_segment(&name, size), None, "{name}");
            let before = SegmentNumber(last.0 - 1);
            let name = segment_name(TimelineId::FIRST, before, size);
            assert_eq!(
                parse_segment(&name, size),
                Some((TimelineId::FIRST, before))
            );
        }
    }
}
