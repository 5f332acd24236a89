//! Where each byte of a backup's files goes.
//!
//! Parts have one size but for the last. A file that does not fit into what is left of a part goes
//! on in the next, so a large file has several extents and small ones share a part. Nothing but
//! contents is in a part: names and modes are in the list of files.

use walvault_archive::record::Extent;

/// Hands out places in parts, in order and without a hole.
#[derive(Debug)]
pub(super) struct Cutter {
    part_size: u64,
    part: u32,
    filled: u64,
}

impl Cutter {
    /// Cuts parts of `part_size` bytes.
    pub(super) fn new(part_size: u64) -> Cutter {
        assert!(part_size > 0, "a part holds something");
        Cutter {
            part_size,
            part: 0,
            filled: 0,
        }
    }

    /// The place of the next bytes: of all `wanted` (at least one), or of as many as the part takes.
    pub(super) fn place(&mut self, wanted: u64) -> Extent {
        if self.filled == self.part_size {
            self.part += 1;
            self.filled = 0;
        }
        let extent = Extent {
            part: self.part,
            offset: self.filled,
            length: wanted.min(self.part_size - self.filled),
        };
        self.filled += extent.length;
        extent
    }
}

/// Appends a place to a file's extents, making it one with the last where it goes on.
pub(super) fn append(extents: &mut Vec<Extent>, next: Extent) {
    match extents.last_mut() {
        Some(last) if last.part == next.part && last.offset + last.length == next.offset => {
            last.length += next.length;
        }
        _ => extents.push(next),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the sizes and the reads they come in: full parts but the last, and every file
        /// in as few extents as parts it touches.
        #[test]
        fn places_are_dense(
            part_size in 1u64..50,
            files in prop::collection::vec(0u64..200, 0..40),
            read in 1u64..70,
        ) {
            let mut cutter = Cutter::new(part_size);
            let mut at = 0;
            for size in files {
                let mut extents = Vec::new();
                let mut left = size;
                while left > 0 {
                    let extent = cutter.place(left.min(read));
                    left -= extent.length;
                    append(&mut extents, extent);
                }
                let touched = if size == 0 { 0 } else { (at + size - 1) / part_size - at / part_size + 1 };
                prop_assert_eq!(extents.len() as u64, touched);
                for extent in extents {
                    prop_assert_eq!(u64::from(extent.part) * part_size + extent.offset, at);
                    prop_assert!(extent.length > 0 && extent.offset + extent.length <= part_size);
                    at += extent.length;
                }
            }
        }
    }
}
