//! Reading chunks that went since they were listed.
//!
//! Where commits wait for the archive, the sidecar merges and removes chunks every second. A reader
//! of the newest segment would list it again and again. It reads what took a chunk's place instead.

use walvault_layout::{ObjectKey, WalObject, tail_prefix};
use walvault_protocol::{LsnRange, TimelineId};

use super::WalHeld;
use crate::archive::{Archive, Listed, wal_key};
use crate::error::Error;
use crate::format::Meta;

/// How often what took an object's place may go as well.
const LOOKS: usize = 20;

impl WalHeld {
    /// The meta frame of this object as it was listed, or of what took its place.
    ///
    /// # Errors
    /// When nothing is there that holds its WAL, or it cannot be read.
    pub async fn meta(&self, archive: &Archive, timeline: TimelineId) -> Result<Meta, Error> {
        let (mut key, mut size) = (wal_key(timeline, self.range, self.whole), self.size);
        for _ in 0..LOOKS {
            match archive.get_meta(&key, size).await {
                Err(error) if is_gone(&error, &key) => {
                    let next = successor(archive, timeline, self.range)
                        .await?
                        .ok_or(error)?;
                    (key, size) = (next.key, next.size);
                }
                read => return read,
            }
        }
        archive.get_meta(&key, size).await
    }

    /// The WAL `span` of this object as it was listed, or of what took its place; `None` where that
    /// holds fewer bytes than its name says.
    ///
    /// # Errors
    /// As [`WalHeld::meta`].
    pub async fn wal(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        span: LsnRange,
    ) -> Result<Option<Vec<u8>>, Error> {
        let (mut key, mut range) = (wal_key(timeline, self.range, self.whole), self.range);
        for looks in (0..=LOOKS).rev() {
            match archive.get(&key).await {
                Ok(mut opened) => {
                    let from = (span.start - range.start) as usize;
                    let to = (span.end - range.start) as usize;
                    let holds = to <= opened.payload.len();
                    opened.payload.truncate(to);
                    return Ok(holds.then(|| opened.payload.split_off(from)));
                }
                Err(error) if looks > 0 && is_gone(&error, &key) => {
                    let next = successor(archive, timeline, span).await?.ok_or(error)?;
                    range = wal_range(&next.key).unwrap_or(range);
                    key = next.key;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The whole unit that holds all of `range`, or else the longest chunk.
///
/// # Errors
/// When the store cannot be asked.
pub async fn successor(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
) -> Result<Option<Listed>, Error> {
    let prefix = tail_prefix(timeline, range.start, archive.segment_size());
    // Chunks first: one goes only when a longer object is there.
    let mut held = archive.list(&prefix).await?;
    held.extend(archive.list_units(timeline, range).await?);
    let length = |object: &Listed| {
        let held = wal_range(&object.key).filter(|held| held.covers(&range));
        held.map(|held| held.len())
    };
    Ok(held
        .into_iter()
        .filter(|object| length(object).is_some())
        .max_by_key(length))
}

/// Whether a chunk is not there any more.
fn is_gone(error: &Error, key: &ObjectKey) -> bool {
    error.is_missing() && matches!(key, ObjectKey::Tail(..))
}

fn wal_range(key: &ObjectKey) -> Option<LsnRange> {
    match key {
        ObjectKey::Wal(WalObject { range, .. }) | ObjectKey::Tail(_, range) => Some(*range),
        _ => None,
    }
}
