//! Coverage: which ranges of WAL are held, and where the holes are.

use walvault_protocol::{Lsn, LsnRange};

/// A set of positions on one timeline, kept as disjoint ranges in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    ranges: Vec<LsnRange>,
}

impl Coverage {
    /// Adds a range; what it touches or overlaps becomes one with it.
    pub fn insert(&mut self, range: LsnRange) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|held| held.end < range.start);
        let last = self.ranges.partition_point(|held| held.start <= range.end);
        let merged = self.ranges[first..last]
            .iter()
            .fold(range, |merged, held| LsnRange {
                start: merged.start.min(held.start),
                end: merged.end.max(held.end),
            });
        self.ranges.splice(first..last, [merged]);
    }

    /// The ranges, disjoint and ascending.
    #[must_use]
    pub fn ranges(&self) -> &[LsnRange] {
        &self.ranges
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The end of the unbroken run that holds the byte at `lsn`, or begins there; `lsn` itself
    /// when that byte is not held.
    #[must_use]
    pub fn unbroken_to(&self, lsn: Lsn) -> Lsn {
        self.holding(lsn).map_or(lsn, |range| range.end)
    }

    /// The range that holds the byte at `lsn`.
    #[must_use]
    pub fn holding(&self, lsn: Lsn) -> Option<LsnRange> {
        let index = self.ranges.partition_point(|held| held.end <= lsn);
        self.ranges
            .get(index)
            .copied()
            .filter(|held| held.start <= lsn)
    }

    /// Whether every byte of `range` is held.
    #[must_use]
    pub fn covers(&self, range: &LsnRange) -> bool {
        range.is_empty() || self.unbroken_to(range.start) >= range.end
    }

    /// The holes between the first and the last byte held.
    #[must_use]
    pub fn holes(&self) -> Vec<LsnRange> {
        self.ranges
            .windows(2)
            .map(|pair| LsnRange::new(pair[0].end, pair[1].start))
            .collect()
    }

    /// The end of everything held.
    #[must_use]
    pub fn end(&self) -> Option<Lsn> {
        self.ranges.last().map(|range| range.end)
    }
}

impl FromIterator<LsnRange> for Coverage {
    fn from_iter<I: IntoIterator<Item = LsnRange>>(ranges: I) -> Coverage {
        let mut coverage = Coverage::default();
        for range in ranges {
            coverage.insert(range);
        }
        coverage
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: usize = 64;

    proptest! {
        /// The plain model is a bit for every position.
        #[test]
        fn agrees_with_a_plain_model(
            inserts in prop::collection::vec((0..SPACE, 0..SPACE), 0..20),
            asked in (0..SPACE, 0..SPACE),
        ) {
            let mut model = [false; SPACE];
            let mut coverage = Coverage::default();
            for (a, b) in inserts {
                let (start, end) = (a.min(b), a.max(b));
                model[start..end].fill(true);
                coverage.insert(LsnRange::new(Lsn(start as u64), Lsn(end as u64)));
            }
            let held = |lsn: usize| coverage.holding(Lsn(lsn as u64)).is_some();
            for (lsn, expected) in model.iter().enumerate() {
                prop_assert_eq!(held(lsn), *expected, "position {}", lsn);
                let run = model[lsn..].iter().take_while(|bit| **bit).count();
                prop_assert_eq!(coverage.unbroken_to(Lsn(lsn as u64)), Lsn((lsn + run) as u64));
            }
            let (start, end) = (asked.0.min(asked.1), asked.0.max(asked.1));
            let range = LsnRange::new(Lsn(start as u64), Lsn(end as u64));
            prop_assert_eq!(coverage.covers(&range), model[start..end].iter().all(|bit| *bit));
            for pair in coverage.ranges().windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for hole in coverage.holes() {
                prop_assert!(model[hole.start.0 as usize..hole.end.0 as usize].iter().all(|bit| !bit));
            }
        }
    }
}
