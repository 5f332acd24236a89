//! Objects one by one: read whole, hashed, and held against their names.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use ring::digest::{SHA256, digest};
use tokio::sync::Semaphore;
use walvault_archive::archive::again::again;
use walvault_archive::archive::{Archive, Listed};
use walvault_archive::error::Error;
use walvault_archive::keys::SignedKey;
use walvault_archive::record::ArchiveRecord;
use walvault_layout::ObjectKey;

use super::{Depth, Digest, Finding, Run};

/// The most memory for objects under way, in KiB; within what a semaphore can count.
const MOST_KIB: u32 = 1 << 28;

/// The most objects under way, however small.
const AT_ONCE: usize = 16;

impl Run {
    /// Reads each object that is wanted and was not read yet.
    pub(super) async fn objects(&mut self, listing: &[Listed]) -> Result<(), Error> {
        let is_due = |object: &&Listed| {
            let name = self.archive.name(&object.key);
            self.wanted.contains(&name) && !self.covered.contains(&name)
        };
        let due: Vec<Listed> = listing.iter().filter(is_due).cloned().collect();
        let most = u32::try_from(self.scope.memory >> 10).unwrap_or(u32::MAX);
        let most = most.clamp(1, MOST_KIB);
        let memory = Arc::new(Semaphore::new(most as usize));
        let (archive, depth) = (self.archive.clone(), self.scope.depth);
        let look = |object: Listed| {
            let (archive, memory) = (archive.clone(), memory.clone());
            async move {
                // What is opened may be twice as large. One larger than all the memory has it for itself.
                let kib = (object.size >> 9).clamp(1, most.into());
                let held = memory.acquire_many_owned(kib as u32).await;
                let outcome = one(&archive, &object.key, depth).await;
                drop(held);
                (object, outcome)
            }
        };
        let mut looked = stream::iter(due).map(look).buffer_unordered(AT_ONCE);
        while let Some((object, outcome)) = looked.next().await {
            let name = self.archive.name(&object.key);
            if let Some(outcome) = self.settle(&name, outcome)? {
                self.note(name, object.size, outcome);
            }
        }
        Ok(())
    }

    /// Turns damage into a finding. `None` when the object went away by itself: a chunk whose
    /// segment was stored whole, or what a prune removed meanwhile.
    pub(super) fn settle(
        &self,
        name: &str,
        outcome: Result<[u8; 32], Error>,
    ) -> Result<Option<Result<Digest, Finding>>, Error> {
        match outcome {
            Ok(sha256) => Ok(Some(Ok(Digest(sha256)))),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Ok(Some(Err(self.finding_of(name, error)?))),
        }
    }
}

/// Looks at one object.
async fn one(archive: &Archive, key: &ObjectKey, depth: Depth) -> Result<[u8; 32], Error> {
    match (key, depth) {
        (ObjectKey::Archive | ObjectKey::Key(..), _) => plain(archive, key).await,
        // They are for auditors to open; 'walvault audit verify' and 'walvault drill --list' do.
        (ObjectKey::Audit(..) | ObjectKey::Drill(_), _) => archive.check_bytes(key).await,
        (_, Depth::Deep) => Ok(archive.get_with_digest(key).await?.1),
        _ => archive.check_stored(key).await,
    }
}

/// An object that is not sealed: it reads, and says what it must.
async fn plain(archive: &Archive, key: &ObjectKey) -> Result<[u8; 32], Error> {
    again(&archive.name(key), || plain_once(archive, key)).await
}

async fn plain_once(archive: &Archive, key: &ObjectKey) -> Result<[u8; 32], Error> {
    let name = archive.name(key);
    let bytes = archive.store().get(&name, None).await?;
    let reason = match key {
        ObjectKey::Key(id, generation) => {
            SignedKey::read(&archive.id(), *id, *generation, &bytes).err()
        }
        _ => match serde_json::from_slice::<ArchiveRecord>(&bytes) {
            Ok(record) if record == *archive.record() => None,
            Ok(_) => Some("it is not the archive's that was opened".to_owned()),
            Err(error) => Some(error.to_string()),
        },
    };
    if let Some(reason) = reason {
        let url = archive.url().to_owned();
        return Err(Error::Record {
            url,
            key: name,
            reason,
        });
    }
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest(&SHA256, &bytes).as_ref());
    Ok(sha256)
}
