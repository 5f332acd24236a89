//! Where the stream is cut.
//!
//! Owns the WAL of the unit under way (a segment, or 16 MiB of a larger one), from its first byte,
//! so that the whole unit can be stored when it ends whatever chunks were stored of it before.
//! When to cut is the pump's decision; how to seal and where to store are not its concern.

use bytes::{Bytes, BytesMut};
use walvault_archive::WalCut;
use walvault_layout::unit_containing;
use walvault_protocol::wal::WalMark;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineId};

/// WAL is gathered in blocks of a frame's size, so that sealing finds whole frames.
const BLOCK: usize = walvault_archive::format::FRAME_SIZE;

/// A run of WAL to be stored as one object.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The timeline.
    pub timeline: TimelineId,
    /// What it holds.
    pub range: LsnRange,
    /// What it is of its unit.
    pub kind: WalCut,
    /// The bytes, in order.
    pub pieces: Vec<Bytes>,
    /// Where transactions ended in it: every mark whose record ends in `(start, end]`.
    pub marks: Vec<WalMark>,
}

/// A compressed block.
#[derive(Debug)]
struct Packed {
    lz4: Box<[u8]>,
    length: usize,
}

impl Packed {
    fn unpack(&self) -> Bytes {
        let block = lz4_flex::block::decompress(&self.lz4, self.length);
        Bytes::from(block.expect("it was compressed here"))
    }
}

/// A unit that came to its end.
#[derive(Debug, Clone)]
pub struct EndedUnit {
    /// All of it.
    pub whole: Cut,
    /// What no chunk holds of it, as a chunk: for whoever cannot wait until all of it is stored.
    pub rest: Option<Cut>,
}

/// Gathers WAL and cuts it.
#[derive(Debug)]
pub struct Chunker {
    timeline: TimelineId,
    segment_size: SegmentSize,
    unit: LsnRange,
    position: Lsn,
    /// Everything before it is in a chunk already, stored or on its way.
    cut_to: Lsn,
    /// The unit's first blocks, compressed while nothing happens.
    packed: Vec<Packed>,
    /// What follows them.
    pieces: Vec<Bytes>,
    block: BytesMut,
    marks: Vec<WalMark>,
}

impl Chunker {
    /// Begins with the unit that starts at `start`; what lies before `durable` needs no chunk.
    #[must_use]
    pub fn new(
        timeline: TimelineId,
        segment_size: SegmentSize,
        start: Lsn,
        durable: Lsn,
    ) -> Chunker {
        let unit = unit_containing(start, segment_size);
        assert_eq!(unit.start, start, "streaming begins where a unit begins");
        Chunker {
            timeline,
            segment_size,
            unit,
            position: start,
            cut_to: durable.max(start),
            packed: Vec::new(),
            pieces: Vec::new(),
            block: BytesMut::new(),
            marks: Vec::new(),
        }
    }

    /// The end of what was gathered.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// The end of what is in an object already, stored or on its way.
    #[must_use]
    pub fn cut_to(&self) -> Lsn {
        self.cut_to
    }

    /// Bytes that no chunk holds yet.
    #[must_use]
    pub fn uncut(&self) -> u64 {
        self.position.saturating_sub(self.cut_to)
    }

    /// Bytes held in memory.
    #[must_use]
    pub fn held(&self) -> u64 {
        let packed: usize = self.packed.iter().map(|block| block.lz4.len()).sum();
        packed as u64 + (self.position - self.raw_start())
    }

    /// Where what is held as it came begins.
    fn raw_start(&self) -> Lsn {
        let packed: u64 = self.packed.iter().map(|block| block.length as u64).sum();
        self.unit.start + packed
    }

    /// Compresses what is held only for the sake of the whole unit, so that an idle sidecar takes
    /// little memory. Whole blocks alone, and only once a chunk holds everything.
    pub fn pack(&mut self) {
        if self.uncut() > 0 || self.position - self.raw_start() < BLOCK as u64 {
            return;
        }
        self.seal_block();
        self.block = BytesMut::new();
        let raw: Vec<u8> = std::mem::take(&mut self.pieces).concat();
        let mut blocks = raw.chunks_exact(BLOCK);
        for block in &mut blocks {
            self.packed.push(Packed {
                lz4: lz4_flex::block::compress(block).into_boxed_slice(),
                length: block.len(),
            });
        }
        let rest = blocks.remainder();
        if !rest.is_empty() {
            self.pieces.push(Bytes::copy_from_slice(rest));
        }
    }

    /// How many bytes the unit under way still takes.
    #[must_use]
    pub fn room(&self) -> usize {
        (self.unit.end - self.position) as usize
    }

    /// Appends WAL of at most [`Chunker::room`] bytes with the marks found in it. When that ends
    /// the unit, the whole unit is returned, and what is asked next is of the next unit.
    pub fn push(&mut self, mut bytes: &[u8], marks: Vec<WalMark>) -> Option<EndedUnit> {
        assert!(bytes.len() <= self.room(), "a push stays within its unit");
        self.marks.extend(marks);
        self.position = self.position + bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block.capacity() == self.block.len() {
                self.seal_block();
                self.block = BytesMut::with_capacity(BLOCK.min(self.unit.len() as usize));
            }
            let room = self.block.capacity() - self.block.len();
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(head);
            bytes = rest;
        }
        (self.position == self.unit.end).then(|| self.finish_unit())
    }

    /// Cuts a chunk of everything that no chunk holds yet.
    pub fn cut(&mut self) -> Option<Cut> {
        if self.uncut() == 0 {
            return None;
        }
        self.seal_block();
        let range = LsnRange::new(self.cut_to, self.position);
        self.cut_to = self.position;
        Some(Cut {
            timeline: self.timeline,
            range,
            kind: WalCut::Chunk,
            pieces: self.pieces_of(range),
            marks: self.marks_of(range),
        })
    }

    /// Once more what chunks hold of the unit under way, as one.
    pub fn merge(&mut self, range: LsnRange) -> Cut {
        assert!(
            self.unit.start <= range.start && range.end <= self.cut_to.min(self.position),
            "chunks of the unit under way are merged"
        );
        self.seal_block();
        Cut {
            timeline: self.timeline,
            range,
            kind: WalCut::Merged,
            pieces: self.pieces_of(range),
            marks: self.marks_of(range),
        }
    }

    fn finish_unit(&mut self) -> EndedUnit {
        let rest = self.cut();
        self.seal_block();
        self.block = BytesMut::new();
        let whole = Cut {
            timeline: self.timeline,
            range: self.unit,
            kind: WalCut::Unit,
            marks: self.marks_of(self.unit),
            pieces: {
                let packed = std::mem::take(&mut self.packed);
                let raw = std::mem::take(&mut self.pieces);
                packed.iter().map(Packed::unpack).chain(raw).collect()
            },
        };
        self.marks.clear();
        self.cut_to = self.cut_to.max(self.unit.end);
        self.unit = unit_containing(self.unit.end, self.segment_size);
        EndedUnit { whole, rest }
    }

    /// Makes what the block holds a piece; its free room stays in use.
    fn seal_block(&mut self) {
        if !self.block.is_empty() {
            self.pieces.push(self.block.split().freeze());
        }
    }

    fn pieces_of(&self, range: LsnRange) -> Vec<Bytes> {
        let mut at = self.unit.start;
        let mut part_of = |length: usize| {
            let held = LsnRange::new(at, at + length as u64);
            at = held.end;
            let part = held.intersect(&range)?;
            let start = (part.start - held.start) as usize;
            Some(start..start + part.len() as usize)
        };
        let mut pieces = Vec::new();
        for block in &self.packed {
            if let Some(part) = part_of(block.length) {
                pieces.push(block.unpack().slice(part));
            }
        }
        for piece in &self.pieces {
            if let Some(part) = part_of(piece.len()) {
                pieces.push(piece.slice(part));
            }
        }
        pieces
    }

    fn marks_of(&self, range: LsnRange) -> Vec<WalMark> {
        let first = self.marks.partition_point(|mark| mark.end <= range.start);
        let last = self.marks.partition_point(|mark| mark.end <= range.end);
        self.marks[first..last].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use walvault_protocol::PgTimestamp;
    use walvault_protocol::wal::MarkKind;

    use super::*;

    fn mark(end: u64) -> WalMark {
        WalMark {
            start: Lsn(end - 8),
            end: Lsn(end),
            time: PgTimestamp(0),
            kind: MarkKind::Commit { xid: 1 },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However the stream is cut, units are whole, chunks join without hole or overlap, and
        /// every mark is in the object in which its record ends.
        #[test]
        fn cuts_are_exact(
            steps in prop::collection::vec((1usize..400_000, any::<[bool; 3]>()), 1..40),
            durable in 0u64..2 << 20,
        ) {
            let size = SegmentSize::new(1 << 20).expect("a size");
            let start = Lsn(3 << 20);
            let durable = start + durable;
            let byte = |lsn: Lsn| (lsn.0 % 251) as u8;
            let mut chunker = Chunker::new(TimelineId::FIRST, size, start, durable);
            let (mut cuts, mut expected_marks) = (Vec::new(), 0);
            for (mut length, [cut, pack, merge]) in steps {
                while length > 0 {
                    let take = length.min(chunker.room());
                    let from = chunker.position();
                    let bytes: Vec<u8> = (0..take as u64).map(|i| byte(from + i)).collect();
                    expected_marks += 1;
                    let ended = chunker.push(&bytes, vec![mark((from + take as u64).0)]);
                    cuts.extend(ended.into_iter().flat_map(|unit| unit.rest.into_iter().chain([unit.whole])));
                    length -= take;
                }
                if cut {
                    cuts.extend(chunker.cut());
                }
                if pack {
                    chunker.pack();
                }
                let unit = unit_containing(chunker.position(), size);
                let end = chunker.cut_to().min(chunker.position());
                if merge && unit.start < end {
                    let middle = unit.start + (end - unit.start) / 2;
                    cuts.push(chunker.merge(LsnRange::new(middle, end)));
                }
            }
            let mut chunked_to = durable;
            let mut unit_start = start;
            let mut whole_marks = 0;
            for cut in &cuts {
                let bytes: Vec<u8> = cut.pieces.iter().flatten().copied().collect();
                prop_assert_eq!(bytes.len() as u64, cut.range.len());
                let right = bytes.iter().enumerate().all(|(i, b)| *b == byte(cut.range.start + i as u64));
                prop_assert!(right, "bytes of {}", cut.range);
                for mark in &cut.marks {
                    prop_assert!(cut.range.start < mark.end && mark.end <= cut.range.end);
                }
                if cut.kind == WalCut::Merged {
                    continue;
                }
                if cut.kind.is_unit() {
                    prop_assert_eq!(cut.range, unit_containing(unit_start, size));
                    unit_start = cut.range.end;
                    chunked_to = chunked_to.max(unit_start);
                    whole_marks += cut.marks.len();
                } else {
                    prop_assert_eq!(cut.range.start, chunked_to.max(unit_start));
                    prop_assert!(cut.range.end <= unit_containing(unit_start, size).end);
                    chunked_to = cut.range.end;
                }
            }
            prop_assert!(whole_marks <= expected_marks);
            prop_assert_eq!(unit_start, Lsn(chunker.position().0 & !((1 << 20) - 1)));
        }
    }
}
