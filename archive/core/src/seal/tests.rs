use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use walvault_layout::KeyId;
use zeroize::Zeroizing;

use super::*;
use crate::format::{Codec, FRAME_SIZE};
use crate::keys::{KeyPurpose, Secret};

const ARCHIVE: [u8; 16] = [7; 16];

fn key(byte: u8) -> Arc<DataKey> {
    let secret = Secret::from_bytes(&Zeroizing::new([byte; 32]));
    Arc::new(DataKey::new(KeyId([byte; 16]), secret))
}

fn seal(payload: &[u8], codec: Codec) -> SealedObject {
    let pieces: Vec<Bytes> = payload
        .chunks(100_000)
        .map(Bytes::copy_from_slice)
        .collect();
    let sealer = Sealer::new(ARCHIVE, key(1), codec);
    sealer
        .seal(Kind::Wal, "wal/a", &pieces, b"index")
        .expect("random bits")
}

fn open(bytes: Bytes) -> Result<Opened, OpenError> {
    Sealed::parse(bytes)?.open(&key(1), &ARCHIVE, Kind::Wal, "wal/a")
}

/// Text that compresses, noise that does not, and zeros.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        0..2_000usize,
        Just(FRAME_SIZE),
        FRAME_SIZE - 1..FRAME_SIZE * 3
    ];
    (length, 0..3u8, any::<u64>()).prop_map(|(length, kind, mut state)| {
        let mut noise = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..length)
            .map(|_| match kind {
                0 => 0,
                1 => b'a' + noise() % 4,
                _ => noise(),
            })
            .collect()
    })
}

fn codecs() -> impl Strategy<Value = Codec> {
    prop::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_sealed_opens(payload in payloads(), codec in codecs()) {
        let sealed = seal(&payload, codec);
        prop_assert_eq!(sealed.payload_len, payload.len() as u64);
        prop_assert_eq!(Body::new(sealed.body.bytes.clone()).sha256, sealed.body.sha256);
        let opened = open(sealed.body.bytes).expect("it opens");
        prop_assert_eq!(opened.payload, payload);
        prop_assert_eq!(opened.attachment, b"index");
    }

    #[test]
    fn no_altered_bit_opens(
        payload in payloads(), codec in codecs(), place: prop::sample::Index, bit in 0..8u8, mend: bool,
    ) {
        let mut bytes = seal(&payload, codec).body.bytes.to_vec();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if mend {
            // An attacker who can write the bucket can also mend the digest that needs no key.
            mend_digest(&mut bytes);
        }
        if !(mend && at >= bytes.len() - 32) {
            prop_assert!(open(Bytes::from(bytes)).is_err(), "bit {} of byte {}", bit, at);
        }
    }

    #[test]
    fn no_cut_object_opens(payload in payloads(), place: prop::sample::Index) {
        let bytes = seal(&payload, Codec::Lz4).body.bytes;
        let cut = bytes.slice(..place.index(bytes.len()));
        prop_assert!(open(cut.clone()).is_err());
        if cut.len() > 40 {
            let mut mended = cut.to_vec();
            mend_digest(&mut mended);
            prop_assert!(open(Bytes::from(mended)).is_err());
        }
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        prop_assert!(open(Bytes::from(bytes)).is_err());
    }
}

fn mend_digest(bytes: &mut [u8]) {
    let split = bytes.len() - 32;
    let (covered, digest) = bytes.split_at_mut(split);
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, covered).as_ref());
}

use walvault_store::Body;

#[test]
fn another_name_archive_key_or_kind_does_not_open() {
    let sealed = Sealed::parse(seal(b"some WAL", Codec::Lz4).body.bytes).expect("an object");
    let authentication =
        |result: Result<Opened, OpenError>| matches!(result, Err(OpenError::Authentication { .. }));
    assert!(sealed.open(&key(1), &ARCHIVE, Kind::Wal, "wal/a").is_ok());
    assert!(authentication(sealed.open(
        &key(1),
        &ARCHIVE,
        Kind::Wal,
        "wal/b"
    )));
    assert!(authentication(sealed.open(
        &key(1),
        &[8; 16],
        Kind::Wal,
        "wal/a"
    )));
    assert!(authentication(sealed.open(
        &key(2),
        &ARCHIVE,
        Kind::Wal,
        "wal/a"
    )));
    let kind = sealed.open(&key(1), &ARCHIVE, Kind::Tail, "wal/a");
    assert_eq!(
        kind,
        Err(OpenError::Kind {
            expected: Kind::Tail,
            found: Kind::Wal
        })
    );
}

#[test]
fn the_same_payload_is_sealed_differently_each_time() {
    let (one, two) = (
        seal(b"the same", Codec::None),
        seal(b"the same", Codec::None),
    );
    assert_ne!(one.body.bytes[64..72], two.body.bytes[64..72]);
}

#[test]
fn meta_opens_from_the_ends_alone() {
    let bytes = seal(&[5; 600_000], Codec::Lz4).body.bytes;
    let needed = SealedMeta::tail_needed(&bytes[bytes.len() - 40..]).expect("a footer") as usize;
    let meta = SealedMeta::new(&bytes[..64], &bytes[bytes.len() - needed..]).expect("the ends");
    let meta = meta
        .open(&key(1), &ARCHIVE, Kind::Wal, "wal/a")
        .expect("it opens");
    assert_eq!((meta.length, meta.frames.len()), (600_000, 3));
    assert_eq!(meta.attachment, b"index");
    assert!(SealedMeta::new(&bytes[..64], &bytes[bytes.len() - needed + 1..]).is_err());
}

/// A codec of a newer release is refused by its number, before anything is decrypted.
#[test]
fn an_unknown_codec_is_refused_by_its_number() {
    let mut bytes = seal(b"compressed in a way to come", Codec::Zstd)
        .body
        .bytes
        .to_vec();
    bytes[11] = 77;
    mend_digest(&mut bytes);
    let error = open(Bytes::from(bytes)).unwrap_err().to_string();
    assert!(error.contains("codec 77"), "{error}");
}

/// Whoever opens the audit trail's data keys need not be who may seal WAL and backups.
#[test]
fn a_data_key_opens_what_it_is_for_and_nothing_else() {
    let secret = Secret::from_bytes(&Zeroizing::new([1; 32]));
    let audit = DataKey::new(KeyId([1; 16]), secret).serving(KeyPurpose::Audit);
    let keys = [key(1), Arc::new(audit)];
    for (kind, fits) in [
        (Kind::Wal, 0),
        (Kind::BackupRecord, 0),
        (Kind::Audit, 1),
        (Kind::Drill, 1),
    ] {
        for sealed_under in &keys {
            let sealer = Sealer::new(ARCHIVE, sealed_under.clone(), Codec::None);
            let object = sealer.seal(kind, "a", &[Bytes::from_static(b"x")], b"");
            let bytes = object.expect("random bits").body.bytes;
            for (number, opener) in keys.iter().enumerate() {
                let sealed = Sealed::parse(bytes.clone()).expect("it parses");
                let opened = sealed.open(opener, &ARCHIVE, kind, "a");
                assert_eq!(opened.is_ok(), number == fits, "{kind:?} by {number}");
            }
        }
    }
}
