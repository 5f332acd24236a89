//! The watermarks of one stream in several archives, and what follows from them together.
//!
//! Each archive has a watermark of its own. `ack = "first"` reports that of the archive which is
//! furthest, so that what is reported as flushed is whole in one archive, not scattered over
//! several; `ack = "all"` reports the least.

use walvault_archive::{Catalog, StoredWal};
use walvault_config::Ack;
use walvault_protocol::Lsn;

use super::watermark::{Durable, Watermark};

/// The frontier of what is stored, by archive.
#[derive(Debug)]
pub struct Watermarks {
    ack: Ack,
    each: Vec<Standing>,
    durable: Durable,
}

#[derive(Debug)]
struct Standing {
    watermark: Watermark,
    /// Whether the archive holds what came before this stream as well.
    counts: bool,
}

impl Watermarks {
    /// Of archives in their order, each with whether it counts.
    #[must_use]
    pub fn new(ack: Ack, each: impl IntoIterator<Item = (Watermark, bool)>) -> Watermarks {
        let each = each.into_iter();
        let mut watermarks = Watermarks {
            ack,
            each: each
                .map(|(watermark, counts)| Standing { watermark, counts })
                .collect(),
            durable: Durable::NOTHING,
        };
        watermarks.settle();
        watermarks
    }

    /// What may be reported as flushed. It never goes back.
    #[must_use]
    pub fn durable(&self) -> Durable {
        self.durable
    }

    /// How far one archive holds the stream without a hole.
    #[must_use]
    pub fn of(&self, place: usize) -> Lsn {
        self.each[place].watermark.durable().lsn()
    }

    /// Takes in a receipt of one archive; whether what may be reported moved.
    pub fn advance(&mut self, place: usize, stored: &StoredWal) -> bool {
        self.each[place].watermark.advance(stored);
        self.settle()
    }

    /// Takes in what one archive holds besides what it gave receipts for.
    pub fn learn(&mut self, place: usize, catalog: &Catalog) -> bool {
        self.each[place].watermark.learn(catalog);
        self.settle()
    }

    /// Whether one archive counts.
    #[must_use]
    pub fn counts(&self, place: usize) -> bool {
        self.each[place].counts
    }

    /// One archive counts from now on, or no longer; whether what may be reported moved.
    pub fn set_counts(&mut self, place: usize, counts: bool) -> bool {
        self.each[place].counts = counts;
        self.settle()
    }

    fn settle(&mut self) -> bool {
        let counted = self.each.iter().filter(|standing| standing.counts);
        let counted = counted.map(|standing| standing.watermark.durable());
        let together = match self.ack {
            Ack::First => counted.max_by_key(|durable| durable.lsn()),
            Ack::All if self.each.iter().all(|standing| standing.counts) => {
                counted.min_by_key(|durable| durable.lsn())
            }
            Ack::All => None,
        };
        match together {
            Some(durable) if durable.lsn() > self.durable.lsn() => {
                self.durable = durable;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use walvault_archive::archive::{Listed, wal_key};
    use walvault_protocol::{LsnRange, SegmentSize, TimelineId};

    use super::*;

    const START: Lsn = Lsn(3 << 24);

    fn catalog(length: u64) -> Catalog {
        let range = LsnRange::new(START, START + length);
        let chunk = Listed {
            key: wal_key(TimelineId::FIRST, range, false),
            size: 1,
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        Catalog::from_listing(SegmentSize::DEFAULT, [&chunk])
    }

    fn watermarks(ack: Ack, each: [(u64, bool); 2]) -> Watermarks {
        let resume = |length| Watermark::resume(&catalog(length), TimelineId::FIRST, START);
        Watermarks::new(ack, each.map(|(length, counts)| (resume(length), counts)))
    }

    #[test]
    fn the_first_reports_the_furthest_and_all_report_the_least() {
        for (ack, expected) in [(Ack::First, 200), (Ack::All, 100)] {
            let mut watermarks = watermarks(ack, [(100, true), (200, true)]);
            assert_eq!(watermarks.durable().lsn(), START + expected);
            watermarks.learn(0, &catalog(300));
            let expected = if ack == Ack::First { 300 } else { 200 };
            assert_eq!(watermarks.durable().lsn(), START + expected);
        }
    }

    #[test]
    fn what_does_not_count_is_not_reported_and_holds_up_all() {
        let first = watermarks(Ack::First, [(100, true), (200, false)]);
        assert_eq!(first.durable().lsn(), START + 100);
        let mut all = watermarks(Ack::All, [(100, true), (200, false)]);
        assert_eq!(all.durable().lsn(), Lsn::INVALID);
        assert!(all.set_counts(1, true));
        assert_eq!(all.durable().lsn(), START + 100);
        // An archive that is left behind takes nothing back that was reported.
        all.set_counts(0, false);
        all.learn(0, &catalog(500));
        assert_eq!(all.durable().lsn(), START + 100);
    }
}
