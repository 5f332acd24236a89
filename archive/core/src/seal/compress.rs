//! Compression of single frames.
//!
//! Frames stand alone, so that any of them can be opened without those before it. A zstd context is
//! kept for each thread: making one costs more than compressing a frame with it.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};

use crate::format::Codec;

/// Within frames of 256 KiB level 3 saves three percent more and takes half as much CPU again or more
/// (`docs/performance.md`).
const ZSTD_LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Appends `plain` compressed to `out`; false, with `out` as it was, when that does not make it
/// smaller.
pub(super) fn compress(codec: Codec, plain: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let written = match codec {
        Codec::None => None,
        Codec::Lz4 => {
            out.resize(
                start + lz4_flex::block::get_maximum_output_size(plain.len()),
                0,
            );
            lz4_flex::block::compress_into(plain, &mut out[start..]).ok()
        }
        Codec::Zstd => {
            // What does not fit into less than the plain frame is stored plain.
            out.resize(start + plain.len(), 0);
            zstd(plain, &mut out[start..])
        }
    };
    let smaller = written.filter(|length| *length < plain.len());
    out.truncate(start + smaller.unwrap_or(0));
    smaller.is_some()
}

/// Decompresses `packed` into all of `plain`; false when that is not what was compressed.
pub(super) fn decompress(codec: Codec, packed: &[u8], plain: &mut [u8]) -> bool {
    let written = match codec {
        Codec::None => None,
        Codec::Lz4 => lz4_flex::block::decompress_into(packed, plain).ok(),
        Codec::Zstd => unzstd(packed, plain),
    };
    written == Some(plain.len())
}

fn zstd(plain: &[u8], out: &mut [u8]) -> Option<usize> {
    COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(ZSTD_LEVEL).ok()?),
        };
        compressor.compress_to_buffer(plain, out).ok()
    })
}

fn unzstd(packed: &[u8], out: &mut [u8]) -> Option<usize> {
    DECOMPRESSOR.with_borrow_mut(|kept| {
        let decompressor = match kept {
            Some(decompressor) => decompressor,
            None => kept.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress_to_buffer(packed, out).ok()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::FRAME_SIZE;

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(
            run in prop::collection::vec(any::<u8>(), 1..200),
            length in 1usize..FRAME_SIZE,
            codec in prop::sample::select(vec![Codec::Lz4, Codec::Zstd]),
        ) {
            let plain: Vec<u8> = run.into_iter().cycle().take(length).collect();
            let mut out = b"before".to_vec();
            if compress(codec, &plain, &mut out) {
                prop_assert!(out.len() < 6 + plain.len());
                let mut back = vec![0; length];
                prop_assert!(decompress(codec, &out[6..], &mut back));
                prop_assert_eq!(&back, &plain);
                // Neither more nor less than was compressed.
                prop_assert!(!decompress(codec, &out[6..], &mut vec![0; length + 1]));
                prop_assert!(!decompress(codec, &out[6..], &mut vec![0; length - 1]));
            }
            prop_assert!(out.starts_with(b"before"));
        }

        #[test]
        fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..2000), length in 1usize..5000) {
            for codec in [Codec::Lz4, Codec::Zstd] {
                let mut plain = vec![0; length];
                // Whatever comes of it, it does not panic; and zstd frames have a magic number.
                let done = decompress(codec, &noise, &mut plain);
                prop_assert!(codec == Codec::Lz4 || !done);
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let noise: Vec<u8> = (0..100_000).map(|_| rand::random()).collect();
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
            let mut out = Vec::new();
            assert!(
                !compress(codec, &noise, &mut out) && out.is_empty(),
                "{codec:?}"
            );
        }
    }
}
