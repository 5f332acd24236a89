//! Positions in the WAL stream.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A log sequence number: a byte position in the WAL stream of one timeline.
///
/// Displays and parses as PostgreSQL's `pg_lsn` does, `16/B374D848`
/// (manual, section "pg_lsn Type").
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`, PostgreSQL's `InvalidXLogRecPtr`: no position.
    pub const INVALID: Lsn = Lsn(0);

    /// Whether this is a position at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 != 0
    }

    /// Sixteen upper-case hexadecimal digits, so that names sort as positions do.
    #[must_use]
    pub fn to_fixed_hex(self) -> String {
        format!("{:016X}", self.0)
    }

    /// The inverse of [`Lsn::to_fixed_hex`]; anything else is `None`.
    #[must_use]
    pub fn from_fixed_hex(text: &str) -> Option<Lsn> {
        let hex = text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        hex.then(|| u64::from_str_radix(text, 16).ok().map(Lsn))?
    }

    /// `self + bytes`, or `None` past the end of the 64-bit WAL address space.
    #[must_use]
    pub fn checked_add(self, bytes: u64) -> Option<Lsn> {
        self.0.checked_add(bytes).map(Lsn)
    }

    /// Bytes from `other` to `self`; 0 when `other` is ahead.
    #[must_use]
    pub const fn saturating_sub(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not an LSN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an LSN; write it as PostgreSQL does, for example 16/B374D848")]
pub struct ParseLsnError(pub String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Lsn, ParseLsnError> {
        let half = |part: &str| -> Option<u64> {
            let hex = (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u64::from_str_radix(part, 16).ok())?
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Lsn(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl Sub<Lsn> for Lsn {
    type Output = u64;

    /// Bytes between two positions. Panics when `other` is ahead: that is a bug, not a distance.
    fn sub(self, other: Lsn) -> u64 {
        self.0
            .checked_sub(other.0)
            .expect("the later LSN stands on the left of a subtraction")
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Lsn, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// WAL bytes `[start, end)` on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LsnRange {
    /// The first byte.
    pub start: Lsn,
    /// The byte after the last one.
    pub end: Lsn,
}

impl LsnRange {
    /// `[start, end)`. An `end` before `start` gives the empty range at `start`.
    #[must_use]
    pub fn new(start: Lsn, end: Lsn) -> LsnRange {
        LsnRange {
            start,
            end: end.max(start),
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether it holds no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.end.0 == self.start.0
    }

    /// Whether the byte at `lsn` is in it.
    #[must_use]
    pub fn contains(&self, lsn: Lsn) -> bool {
        self.start <= lsn && lsn < self.end
    }

    /// Whether every byte of `other` is in it.
    #[must_use]
    pub fn covers(&self, other: &LsnRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The bytes in both, if there are any.
    #[must_use]
    pub fn intersect(&self, other: &LsnRange) -> Option<LsnRange> {
        let range = LsnRange {
            start: self.start.max(other.start),
            end: self.end.min(other.end),
        };
        (range.start < range.end).then_some(range)
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_round_trips(value: u64) {
            let lsn = Lsn(value);
            prop_assert_eq!(lsn.to_string().parse::<Lsn>(), Ok(lsn));
            prop_assert_eq!(Lsn::from_fixed_hex(&lsn.to_fixed_hex()), Some(lsn));
        }
    }

    #[test]
    fn refuses_what_pg_lsn_refuses() {
        for text in [
            "",
            "/",
            "1",
            "1/",
            "/1",
            "G/0",
            "1/2/3",
            "0/123456789",
            "+1/0",
            " 0/0",
        ] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
