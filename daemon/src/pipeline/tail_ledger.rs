//! Which chunks a longer object has made superfluous.
//!
//! `tail/` is the only place where the sidecar deletes, and it deletes a chunk only after an object
//! that holds all of its WAL is confirmed: the whole unit, or a chunk that several were merged into.

use std::collections::{BTreeMap, BTreeSet};

use walvault_archive::Catalog;
use walvault_layout::unit_containing;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineId};

use super::proven::Proven;

/// Units remembered as whole, so that a chunk whose receipt comes late is noticed.
const REMEMBERED: usize = 256;

/// The chunks stored on one timeline.
#[derive(Debug)]
pub struct TailLedger {
    segment_size: SegmentSize,
    /// Those with a receipt: others may give way to them.
    chunks: BTreeMap<Lsn, Vec<LsnRange>>,
    /// Those of before. A name proves nothing, so that none gives way to them.
    named: BTreeMap<Lsn, Vec<LsnRange>>,
    whole: BTreeSet<Lsn>,
}

impl TailLedger {
    /// The ledger of `timeline` as the archive stands, and the chunks in it that are superfluous
    /// already: a process ended between storing the unit and removing them.
    ///
    /// A name proves nothing: chunks of before stay for a prune to remove unless the `proven` unit in
    /// their place was opened, or the server has the same WAL.
    #[must_use]
    pub fn open(
        catalog: &Catalog,
        timeline: TimelineId,
        proven: &Proven,
    ) -> (TailLedger, Vec<LsnRange>) {
        let mut ledger = TailLedger {
            segment_size: catalog.segment_size(),
            chunks: BTreeMap::new(),
            named: BTreeMap::new(),
            whole: BTreeSet::new(),
        };
        let objects = catalog
            .wal(timeline)
            .map(|wal| wal.objects.as_slice())
            .unwrap_or_default();
        let units: BTreeSet<Lsn> = objects
            .iter()
            .filter(|held| held.whole)
            .map(|held| held.range.start)
            .collect();
        let mut superfluous = Vec::new();
        for held in objects.iter().filter(|held| !held.whole) {
            let unit = ledger.unit(held.range);
            if units.contains(&unit) {
                if proven.units.contains(&unit) {
                    superfluous.push(held.range);
                }
            } else if proven.newest {
                ledger.named.entry(unit).or_default().push(held.range);
            }
        }
        (ledger, superfluous)
    }

    /// Notes an object that was stored, `whole` or a chunk; returns the chunks that may go now.
    pub fn stored(&mut self, range: LsnRange, whole: bool) -> Vec<LsnRange> {
        let unit = self.unit(range);
        if whole {
            self.whole.insert(unit);
            while self.whole.len() > REMEMBERED {
                self.whole.pop_first();
            }
            let named = self.named.remove(&unit).unwrap_or_default();
            let mut chunks = self.chunks.remove(&unit).unwrap_or_default();
            chunks.extend(named);
            chunks
        } else if self.whole.contains(&unit) {
            vec![range]
        } else {
            let chunks = self.chunks.entry(unit).or_default();
            if chunks.iter().any(|held| is_within(range, *held)) {
                // It was on its way while those around it were merged with it.
                return vec![range];
            }
            let named = self.named.entry(unit).or_default();
            // It is stored by this process now.
            named.retain(|held| *held != range);
            let within = |held: &mut LsnRange| is_within(*held, range);
            let mut superseded: Vec<_> = chunks.extract_if(.., within).collect();
            superseded.extend(named.extract_if(.., within));
            if !chunks.contains(&range) {
                chunks.push(range);
            }
            superseded
        }
    }

    fn unit(&self, range: LsnRange) -> Lsn {
        unit_containing(range.start, self.segment_size).start
    }
}

/// Whether `longer` holds all of `range`, and more.
fn is_within(range: LsnRange, longer: LsnRange) -> bool {
    longer.covers(&range) && longer != range
}

#[cfg(test)]
mod tests {
    use walvault_archive::archive::{Listed, wal_key};

    use super::*;

    #[test]
    fn chunks_go_only_after_their_unit_is_whole() {
        let size = SegmentSize::DEFAULT;
        let catalog = Catalog::from_listing(size, []);
        let (mut ledger, superfluous) =
            TailLedger::open(&catalog, TimelineId::FIRST, &Proven::default());
        assert!(superfluous.is_empty());
        let unit = unit_containing(Lsn(0x300_0000), size);
        let (one, two) = (
            LsnRange::new(unit.start, unit.start + 100),
            LsnRange::new(unit.start + 100, unit.start + 200),
        );
        assert!(ledger.stored(one, false).is_empty());
        assert_eq!(ledger.stored(unit, true), [one]);
        // The receipt of a chunk that was on its way meanwhile.
        assert_eq!(ledger.stored(two, false), [two]);
        let next = LsnRange::new(unit.end, unit.end + 5);
        assert!(ledger.stored(next, false).is_empty());
    }

    /// A process ended with a hole before its newest chunk, which may be damaged or planted.
    #[test]
    fn no_chunk_goes_for_the_sake_of_a_name() {
        let size = SegmentSize::DEFAULT;
        let chunk = |from: u64, to: u64| LsnRange::new(Lsn(from), Lsn(to));
        let listed = [chunk(0, 10), chunk(20, 90)].map(|range| Listed {
            key: wal_key(TimelineId::FIRST, range, false),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        });
        let catalog = Catalog::from_listing(size, &listed);
        let proven = Proven {
            newest: true,
            ..Proven::default()
        };
        let (mut ledger, _) = TailLedger::open(&catalog, TimelineId::FIRST, &proven);
        for stored in [chunk(10, 30), chunk(30, 40), chunk(40, 50)] {
            assert!(ledger.stored(stored, false).is_empty());
        }
        let mut gone = ledger.stored(chunk(0, 90), false);
        gone.sort_by_key(|range| (range.start, range.end));
        let all = [(0, 10), (10, 30), (20, 90), (30, 40), (40, 50)];
        assert_eq!(gone, all.map(|(from, to)| chunk(from, to)));
    }

    #[test]
    fn chunks_go_after_the_chunk_they_were_merged_into() {
        let size = SegmentSize::DEFAULT;
        let catalog = Catalog::from_listing(size, []);
        let (mut ledger, _) = TailLedger::open(&catalog, TimelineId::FIRST, &Proven::default());
        let chunk = |from: u64, to: u64| LsnRange::new(Lsn(from), Lsn(to));
        for stored in [chunk(0, 10), chunk(20, 30), chunk(30, 40)] {
            assert!(ledger.stored(stored, false).is_empty());
        }
        let gone = ledger.stored(chunk(0, 30), false);
        assert_eq!(gone, [chunk(0, 10), chunk(20, 30)]);
        // Its receipt comes late; and once more, as after an answer that was lost.
        assert_eq!(ledger.stored(chunk(10, 20), false), [chunk(10, 20)]);
        assert!(ledger.stored(chunk(0, 30), false).is_empty());
        let whole = unit_containing(Lsn(0), size);
        let mut gone = ledger.stored(whole, true);
        gone.sort_by_key(|range| range.start);
        assert_eq!(gone, [chunk(0, 30), chunk(30, 40)]);
    }
}
