//! The hot stages alone: sealing and opening a segment. `cargo bench -p walvault-benches`.

#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use walvault_archive::format::{Codec, Kind};
use walvault_archive::keys::{DataKey, Secret};
use walvault_archive::seal::{Sealed, Sealer};
use walvault_layout::KeyId;

const ARCHIVE: [u8; 16] = [1; 16];
const SEGMENT: usize = 16 << 20;

/// A segment that compresses about as WAL does: runs of repeated bytes between random ones.
fn segment() -> Bytes {
    let mut random = SmallRng::seed_from_u64(1);
    let mut bytes = Vec::with_capacity(SEGMENT);
    while bytes.len() < SEGMENT {
        let mut record = [0u8; 48];
        random.fill_bytes(&mut record);
        bytes.extend_from_slice(&record);
        bytes.resize((bytes.len() + 64).min(SEGMENT), record[0]);
    }
    bytes.truncate(SEGMENT);
    Bytes::from(bytes)
}

fn stages(criterion: &mut Criterion) {
    let secret = Secret::generate().expect("random bits");
    let key = Arc::new(DataKey::new(KeyId([2; 16]), secret));
    let segment = segment();
    let mut group = criterion.benchmark_group("segment");
    group
        .throughput(Throughput::Bytes(SEGMENT as u64))
        .sample_size(10);
    for (name, codec) in [
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
        ("raw", Codec::None),
    ] {
        let sealer = Sealer::new(ARCHIVE, key.clone(), codec);
        let pieces = [segment.clone()];
        let seal = || {
            sealer
                .seal(Kind::Wal, "wal/x", &pieces, b"")
                .expect("random bits")
        };
        group.bench_function(format!("seal {name}"), |bencher| {
            bencher.iter(|| black_box(seal()));
        });
        let sealed = seal().body.bytes;
        group.bench_function(format!("open {name}"), |bencher| {
            bencher.iter(|| {
                let sealed = Sealed::parse(sealed.clone()).expect("an object");
                black_box(
                    sealed
                        .open(&key, &ARCHIVE, Kind::Wal, "wal/x")
                        .expect("it opens"),
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
