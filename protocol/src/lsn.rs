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
#[serde(try_from = "AnyRange")]
pub struct LsnRange {
    /// The first byte.
    pub start: Lsn,
    /// The byte after the last one.
    pub end: Lsn,
}

/// What a record may say, before it is believed.
#[derive(Deserialize)]
struct AnyRange {
    start: Lsn,
    end: Lsn,
}

impl TryFrom<AnyRange> for LsnRange {
    type Error = String;

    fn try_from(AnyRange { start, end }: AnyRange) -> Result<LsnRange, String> {
        match start <= end {
            true => Ok(LsnRange { start, end }),
            false => Err(format!("the range from {start} to {end} is backwards")),
        }
    }
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

    /// The bytes of a range, one by one.
    fn bytes(range: LsnRange) -> std::collections::BTreeSet<u64> {
        (range.start.0..range.end.0).collect()
    }

    fn ranges() -> impl Strategy<Value = LsnRange> {
        (0u64..40, 0u64..40).prop_map(|(start, end)| LsnRange::new(Lsn(start), Lsn(end)))
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_wider_numbers(value: u64, bytes: u64, other: u64) {
            let (lsn, wide) = (Lsn(value), u128::from(value));
            let sum = wide + u128::from(bytes);
            prop_assert_eq!(lsn.checked_add(bytes).map(|end| u128::from(end.0)), u64::try_from(sum).ok().map(u128::from));
            if let Some(end) = lsn.checked_add(bytes) {
                prop_assert_eq!((lsn + bytes, end - lsn), (end, bytes));
            }
            let distance = i128::from(value) - i128::from(other);
            prop_assert_eq!(i128::from(lsn.saturating_sub(Lsn(other))), distance.max(0));
            prop_assert_eq!(lsn.cmp(&Lsn(other)), lsn.to_fixed_hex().cmp(&Lsn(other).to_fixed_hex()));
        }

        #[test]
        fn ranges_agree_with_sets_of_bytes(a in ranges(), b in ranges(), at in 0u64..45) {
            let (in_a, in_b) = (bytes(a), bytes(b));
            prop_assert_eq!(a.len(), in_a.len() as u64);
            prop_assert_eq!(a.is_empty(), in_a.is_empty());
            prop_assert_eq!(a.contains(Lsn(at)), in_a.contains(&at));
            let both = a.intersect(&b).map(bytes).unwrap_or_default();
            prop_assert_eq!(both, in_a.intersection(&in_b).copied().collect());
            if !b.is_empty() {
                prop_assert_eq!(a.covers(&b), in_b.is_subset(&in_a));
            }
            let text = serde_json::to_string(&a).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<LsnRange>(&text).expect("the same"), a);
        }
    }

    #[test]
    fn a_record_with_a_range_that_is_backwards_is_refused() {
        let text = r#"{"start":"0/20","end":"0/10"}"#;
        let error = serde_json::from_str::<LsnRange>(text).expect_err("backwards");
        assert!(error.to_string().contains("is backwards"), "{error}");
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
