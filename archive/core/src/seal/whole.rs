//! Whether bytes are all of an object, as far as that shows without its data key.

use bytes::Bytes;
use walvault_layout::{KEYS_PREFIX, ObjectKey, Purpose, purpose};
use walvault_protocol::SegmentSize;
use walvault_store::Body;

use super::Sealed;
use crate::format::Kind;

/// Checks, as far as that needs no key, that `bytes` are a whole object of the kind that `key` names.
///
/// # Errors
/// What is wrong with it.
pub fn check_whole(key: &ObjectKey, bytes: Bytes) -> Result<Body, String> {
    if let ObjectKey::Key(..) | ObjectKey::Archive = key {
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|e| e.to_string())?;
    } else {
        let sealed = Sealed::parse(bytes.clone()).map_err(|error| error.to_string())?;
        if sealed.kind() != kind_of(key) {
            return Err("it says that it is an object of another kind".to_owned());
        }
    }
    Ok(Body::new(bytes))
}

/// Whether `bytes` can be all of the object under `name`, for stores that hold several copies. Only
/// sealed objects carry a checksum; others are taken as they are.
#[must_use]
pub fn reads_whole(name: &str, bytes: &Bytes) -> bool {
    let is_sealed = purpose(name) != Purpose::Passing
        && name != ObjectKey::Archive.spell(SegmentSize::DEFAULT)
        && !name.starts_with(KEYS_PREFIX);
    !is_sealed || Sealed::parse(bytes.clone()).is_ok()
}

/// The kind of object that is stored under `key`. Unsealed objects have none; they are never opened.
#[must_use]
pub fn kind_of(key: &ObjectKey) -> Kind {
    match key {
        ObjectKey::Wal(_) => Kind::Wal,
        ObjectKey::Tail(..) => Kind::Tail,
        ObjectKey::History(_) => Kind::History,
        ObjectKey::BackupPart(..) => Kind::BackupPart,
        ObjectKey::BackupManifest(_) => Kind::BackupManifest,
        ObjectKey::BackupFiles(_) => Kind::BackupFiles,
        ObjectKey::Gap(..) => Kind::Gap,
        ObjectKey::Writer(_) => Kind::Writer,
        ObjectKey::Keep(..) => Kind::Keep,
        ObjectKey::Lock(_) | ObjectKey::Lease(..) => Kind::Lock,
        ObjectKey::Pruned(_) => Kind::Pruned,
        ObjectKey::Verified(_) => Kind::Verified,
        ObjectKey::Audit(..) => Kind::Audit,
        ObjectKey::Drill(_) => Kind::Drill,
        ObjectKey::BackupRecord(_) | ObjectKey::Archive | ObjectKey::Key(..) => Kind::BackupRecord,
    }
}
