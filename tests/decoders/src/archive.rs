//! What an object store gives back, or whoever wrote into the bucket; and what an operator writes.

use std::fmt::Debug;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use walvault_archive::Catalog;
use walvault_archive::archive::Listed;
use walvault_archive::format::{FOOTER_LEN, Footer, HEADER_LEN, Header, Kind, Meta};
use walvault_archive::keys::SignedKey;
use walvault_archive::keys::{DataKey, Recipient, Secret};
use walvault_archive::record::{
    ArchiveRecord, BackupFiles, BackupRecord, GapRecord, KeepRecord, commit_index,
};
use walvault_archive::seal::{Sealed, SealedMeta};
use walvault_config::Config;
use walvault_daemon::backup::tarball;
use walvault_layout::{BackupId, DrillId, KeyId, ObjectKey, numbers, unit_containing};
use walvault_protocol::{SegmentNumber, SegmentSize, TimelineHistory};
use zeroize::Zeroizing;

/// A tar archive as `BASE_BACKUP` sends it.
pub(crate) fn tar(input: &[u8]) -> bool {
    let Ok(files) = tarball::list(input) else {
        return false;
    };
    let accepted = !files.is_empty();
    for file in files {
        let path = file.path.to_bytes().expect("a path that was read");
        let parts = path.split(|byte| *byte == b'/');
        // Nothing that is restored lands outside of the data directory.
        assert!(!path.starts_with(b"/") && parts.clone().all(|part| part != b".."));
        assert_eq!(
            file.extents.iter().map(|extent| extent.length).sum::<u64>(),
            file.size
        );
    }
    accepted
}

fn data_key(id: [u8; 16], secret: u8) -> DataKey {
    let secret = Secret::from_bytes(&Zeroizing::new([secret; 32]));
    DataKey::new(KeyId(id), secret)
}

/// The archive in `archive/testdata/v1`, and objects in it.
const GOLDEN: [u8; 16] = *b"golden archive 1";
const GOLDEN_WAL: &str = "wal/00000001/000000010000000000000003";
const GOLDEN_TAIL: &str = "tail/00000001/000000010000000000000004/00000000004003E8-000003E8";

/// A sealed object, and each part of one. The digest that needs no key is mended, to get behind it.
pub(crate) fn sealed(input: &[u8]) -> bool {
    if let Ok(header) = Header::decode(input) {
        assert_eq!(header.encode()[..], input[..HEADER_LEN]);
    }
    let _ = Footer::decode(input);
    if let Ok(meta) = Meta::decode(input) {
        assert_eq!(meta.encode(), input);
    }
    let mut mended = input.to_vec();
    if let Some(covered) = mended.len().checked_sub(FOOTER_LEN - 8) {
        let sum = digest(&SHA256, &mended[..covered]);
        mended[covered..].copy_from_slice(sum.as_ref());
    }
    let stranger = data_key([1; 16], 1);
    let owner = data_key(*b"golden data key!", 0xD0);
    let mut accepted = false;
    for bytes in [input.to_vec(), mended] {
        if bytes.len() >= HEADER_LEN {
            let _ = SealedMeta::tail_needed(&bytes);
            if let Ok(meta) = SealedMeta::new(&bytes[..HEADER_LEN], &bytes) {
                let opened = meta.open(&stranger, &GOLDEN, Kind::Wal, GOLDEN_WAL);
                assert!(opened.is_err());
            }
        }
        if let Ok(object) = Sealed::parse(Bytes::from(bytes)) {
            for (kind, name) in [(Kind::Wal, GOLDEN_WAL), (Kind::Tail, GOLDEN_TAIL)] {
                assert!(object.open(&stranger, &GOLDEN, kind, name).is_err());
                accepted |= object.open(&owner, &GOLDEN, kind, name).is_ok();
            }
        }
    }
    accepted
}

/// A record of a data key, and a recipient.
pub(crate) fn keys(input: &[u8]) -> bool {
    let id = KeyId(*b"golden data key!");
    if let Ok(SignedKey { record, .. }) = SignedKey::read(&GOLDEN, id, 1, input) {
        let _ = record.recipient_names();
        assert!(record.commits_to(&GOLDEN, &data_key(id.0, 0xD0)));
        return true;
    }
    // What names a file is not the text's concern.
    let text = std::str::from_utf8(input).unwrap_or_default();
    let recipient = (!text.contains("key-file:")).then(|| Recipient::parse(text));
    if let Some(Err(error)) = &recipient {
        let _ = error.to_string();
    }
    matches!(recipient, Some(Ok(_)))
}

/// What is read is written so that it reads the same.
fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(input: &[u8]) -> bool {
    let read = serde_json::from_slice::<T>(input);
    if let Ok(value) = &read {
        let text = serde_json::to_vec(value).expect("it was read from JSON");
        assert_eq!(serde_json::from_slice::<T>(&text).expect("JSON"), *value);
    }
    read.is_ok()
}

/// What is in records, and the names of objects.
pub(crate) fn records(input: &[u8]) -> bool {
    let mut accepted = [
        again::<ArchiveRecord>(input),
        again::<BackupRecord>(input),
        again::<BackupFiles>(input),
        again::<GapRecord>(input),
        again::<KeepRecord>(input),
    ]
    .contains(&true);
    if let Ok(marks) = commit_index::decode(input) {
        assert_eq!(
            commit_index::decode(&commit_index::encode(&marks)),
            Ok(marks)
        );
        accepted = true;
    }
    accepted | names(input)
}

/// The names of objects, one a line, as a listing gives them.
pub(crate) fn names(input: &[u8]) -> bool {
    let text = std::str::from_utf8(input).unwrap_or_default();
    let mut accepted = false;
    for size in [1 << 20, 16 << 20, 1 << 30] {
        let size = SegmentSize::new(size).expect("a size");
        let mut listed = Vec::new();
        for name in text.lines() {
            let _ = BackupId::parse(name).map(|id| id.begun());
            let _ = DrillId::parse(name).map(|id| id.begun());
            let Some(key) = ObjectKey::parse(name, size) else {
                continue;
            };
            assert_eq!(key.spell(size), name);
            accepted = true;
            listed.push(Listed {
                key,
                size: 1,
                modified: jiff::Timestamp::UNIX_EPOCH,
            });
        }
        held(&listed, size);
    }
    accepted
}

/// What is reckoned from names alone.
fn held(listed: &[Listed], size: SegmentSize) {
    let catalog = Catalog::from_listing(size, listed);
    for (timeline, wal) in catalog.timelines() {
        for held in &wal.objects {
            let unit = unit_containing(held.range.start, size);
            assert!(unit.contains(held.range.start));
            let segment = SegmentNumber::containing(held.range.start, size);
            assert!(segment.next().start(size) > held.range.start);
            let reached = catalog.reach(&TimelineHistory::root(timeline), held.range.start);
            assert!(reached >= held.range.end);
        }
    }
    let epochs = listed.iter().filter_map(|object| match object.key {
        ObjectKey::Writer(epoch) => Some(epoch),
        _ => None,
    });
    if let Some(next) = numbers::next_epoch(epochs) {
        let name = ObjectKey::Writer(next).spell(size);
        assert!(ObjectKey::parse(&name, size).is_some());
    }
}

/// The configuration file.
pub(crate) fn config(input: &[u8]) -> bool {
    let read = std::str::from_utf8(input).map(Config::from_toml);
    if let Ok(Err(error)) = &read {
        let _ = error.to_string();
    }
    matches!(read, Ok(Ok(_)))
}
