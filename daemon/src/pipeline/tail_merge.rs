//! Which chunks of a segment are stored once more as one.
//!
//! Owns the decision alone. A commit that waits for the archive makes a chunk of its own, thousands
//! in a segment. Each object costs a reader a request, so the chunks of a unit are merged whenever
//! there are [`MOST`] of them.
//!
//! Runs of about the same size are merged, as in a log-structured merge tree (O'Neil et al. 1996):
//! each merge begins with the smallest and takes in larger ones only when few small ones are left.
//! So a byte is stored once more when its unit has 40 chunks, a second time when it has 700, a
//! third time when it has 12,000.

use walvault_protocol::LsnRange;

/// So many chunks of one unit are merged.
pub const MOST: usize = 40;
/// A merge of fewer would be worth less than its PUT.
const FEWEST: usize = 6;

/// The chunks of the unit under way.
#[derive(Debug, Default)]
pub struct TailMerge {
    /// In order, side by side.
    chunks: Vec<Chunk>,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    range: LsnRange,
    /// How often its oldest bytes were merged.
    merges: u32,
}

impl TailMerge {
    /// Goes on in a unit of which the archive holds `chunks` already, side by side.
    #[must_use]
    pub fn resume(chunks: impl IntoIterator<Item = LsnRange>) -> TailMerge {
        TailMerge {
            chunks: chunks.into_iter().map(Chunk::new).collect(),
        }
    }

    /// Notes a chunk that was cut.
    pub fn cut(&mut self, range: LsnRange) {
        self.chunks.push(Chunk::new(range));
    }

    /// The WAL whose chunks are to be merged, if they are many.
    #[must_use]
    pub fn due(&self) -> Option<LsnRange> {
        let run = &self.chunks[self.run()?..];
        Some(LsnRange::new(
            run.first()?.range.start,
            run.last()?.range.end,
        ))
    }

    /// Notes that what was due is on its way as one chunk.
    pub fn merged(&mut self) {
        if let (Some(first), Some(range)) = (self.run(), self.due()) {
            let run = self.chunks.drain(first..);
            let merges = 1 + run.map(|chunk| chunk.merges).max().unwrap_or(0);
            self.chunks.push(Chunk { range, merges });
        }
    }

    /// Where the shortest run of the least merged chunks begins that is worth a merge.
    fn run(&self) -> Option<usize> {
        if self.chunks.len() < MOST {
            return None;
        }
        // The further back, the more often merged.
        let last = self.chunks.len() - FEWEST;
        let merges = self.chunks[last].merges;
        self.chunks.iter().position(|chunk| chunk.merges <= merges)
    }
}

impl Chunk {
    fn new(range: LsnRange) -> Chunk {
        Chunk { range, merges: 0 }
    }
}

#[cfg(test)]
mod tests {
    use walvault_protocol::Lsn;

    use super::*;

    /// After so many chunks of one byte each: the most there were at a time, and how many bytes
    /// were stored in merges for each byte of a chunk.
    fn after(chunks: u64) -> (usize, f64) {
        let mut tail = TailMerge::default();
        let (mut most, mut bytes) = (0, 0);
        for at in 0..chunks {
            tail.cut(LsnRange::new(Lsn(at), Lsn(at + 1)));
            if let Some(range) = tail.due() {
                assert_eq!(range.end, Lsn(at + 1), "the newest are merged too");
                bytes += range.len();
                tail.merged();
                assert!(tail.chunks.len() <= MOST - FEWEST + 1);
            }
            most = most.max(tail.chunks.len());
        }
        let side_by_side = |pair: &[Chunk]| pair[0].range.end == pair[1].range.start;
        assert!(tail.chunks.windows(2).all(side_by_side));
        (most, bytes as f64 / chunks as f64)
    }

    #[test]
    fn chunks_stay_few_and_bytes_are_stored_a_few_times() {
        for (chunks, bytes) in [(39, 0.0), (600, 1.0), (10_000, 2.0), (100_000, 3.0)] {
            let (most, stored) = after(chunks);
            assert!(most < MOST, "{most} chunks of {chunks}");
            assert!(stored <= bytes, "{stored} bytes for each of {chunks}");
        }
    }

    #[test]
    fn what_a_process_before_stored_counts() {
        let byte = |at: usize| LsnRange::new(Lsn(at as u64), Lsn(at as u64 + 1));
        let mut tail = TailMerge::resume((0..MOST - 1).map(byte));
        assert_eq!(tail.due(), None);
        tail.cut(byte(MOST - 1));
        assert_eq!(tail.due(), Some(LsnRange::new(Lsn(0), Lsn(MOST as u64))));
    }
}
