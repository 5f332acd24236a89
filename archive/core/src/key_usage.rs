//! Which objects need which data key.
//!
//! An object's header names its data key, so that one small ranged GET tells, without any key. All
//! headers are read, many at once: names do not tell, since a rotation may fall anywhere and clocks
//! differ. docs/security.md says what that costs.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_layout::{BackupId, KeyId, ObjectKey, WalObject};
use walvault_protocol::TimelineId;
use walvault_store::StoreError;

use crate::archive::{Archive, Listed};
use crate::coverage::Coverage;
use crate::error::Error;
use crate::format::{HEADER_LEN, Header};

/// How many headers are read at once.
const READS: usize = 64;

/// What is sealed under one data key.
#[derive(Debug, Clone, Default)]
pub struct KeyUse {
    /// Objects.
    pub objects: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
    /// WAL of each timeline, of whole units and chunks.
    pub wal: BTreeMap<TimelineId, Coverage>,
    /// Backups of which an object is, complete or not.
    pub backups: BTreeSet<BackupId>,
    /// Timeline histories.
    pub histories: BTreeSet<TimelineId>,
    /// Batches of the audit trail, and records of drills.
    pub audit: u64,
}

impl KeyUse {
    fn count(&mut self, object: &Listed) {
        self.objects += 1;
        self.bytes += object.size;
        match &object.key {
            ObjectKey::Wal(WalObject { timeline, range }) | ObjectKey::Tail(timeline, range) => {
                self.wal.entry(*timeline).or_default().insert(*range);
            }
            ObjectKey::History(timeline) => {
                self.histories.insert(*timeline);
            }
            ObjectKey::BackupPart(id, _)
            | ObjectKey::BackupManifest(id)
            | ObjectKey::BackupFiles(id)
            | ObjectKey::BackupRecord(id) => {
                self.backups.insert(id.clone());
            }
            ObjectKey::Audit(..) | ObjectKey::Drill(_) => self.audit += 1,
            _ => {}
        }
    }
}

/// What is sealed under each data key. Objects that go while they are looked at need none.
///
/// # Errors
/// When the store cannot be read.
pub async fn usage(archive: &Archive) -> Result<BTreeMap<KeyId, KeyUse>, Error> {
    let objects = archive.list("").await?;
    let sealed = objects
        .iter()
        .filter(|object| !matches!(object.key, ObjectKey::Archive | ObjectKey::Key(..)));
    let sealed = sealed.map(|object| async move {
        let key = key_of(archive, &object.key).await?;
        Ok::<_, Error>((object, key))
    });
    let mut found = stream::iter(sealed).buffer_unordered(READS);
    let mut uses: BTreeMap<KeyId, KeyUse> = BTreeMap::new();
    while let Some((object, key)) = found.try_next().await? {
        if let Some(key) = key {
            uses.entry(key).or_default().count(object);
        }
    }
    Ok(uses)
}

/// Those of `keys` whose objects name a data key that is foreign. None is read where none is.
///
/// # Errors
/// When the store cannot be read.
pub async fn foreign(
    archive: &Archive,
    keys: impl IntoIterator<Item = ObjectKey>,
) -> Result<BTreeSet<String>, Error> {
    let foreign = archive.keyring().foreign().await?;
    if foreign.is_empty() {
        return Ok(BTreeSet::new());
    }
    let read = |key: ObjectKey| async move {
        let sealed_under = key_of(archive, &key).await?;
        Ok::<_, Error>((archive.name(&key), sealed_under))
    };
    let mut found = stream::iter(keys.into_iter().map(read)).buffer_unordered(READS);
    let mut names = BTreeSet::new();
    while let Some((name, key)) = found.try_next().await? {
        if key.is_some_and(|key| foreign.contains(&key)) {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The data key that an object's header names; `None` when it has gone, or is not sealed.
async fn key_of(archive: &Archive, key: &ObjectKey) -> Result<Option<KeyId>, Error> {
    let name = archive.name(key);
    let range = Some(0..HEADER_LEN as u64);
    match archive.store().get(&name, range).await {
        Ok(bytes) => Ok(Header::decode(&bytes).ok().map(|header| header.key_id)),
        Err(StoreError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
