//! Beginning an archive, unless the server says that there was one.
//!
//! A sidecar makes its replication slot after it began its archive. Where the slot keeps WAL and the store is
//! empty, the archive therefore lies elsewhere: a disk is not mounted, or `[archive] url` is wrong. WAL
//! acknowledged into a new archive there would be gone from the server and from the archive that counts.

use walvault_archive::Archive;
use walvault_archive::keys::KeyAccess;
use walvault_store::SharedStore;

use super::connect::{Reserved, Server, reserved};
use super::error::StreamError;
use super::follow::Context;

/// Opens the archive of `server`, or begins one where there is none, and no sign of one before either.
///
/// # Errors
/// [`StreamError::ArchiveGone`] where the slot tells of an archive that is not there, and those of
/// [`Archive::open_or_begin`].
pub async fn open_or_begin(
    store: &SharedStore,
    keys: &KeyAccess,
    server: &mut Server,
    context: &Context,
) -> Result<Archive, StreamError> {
    let (system_id, segment_size) = (server.identity.system_id, server.segment_size);
    if !context.new_archive && Archive::is_absent(store, segment_size).await? {
        let kept = reserved(&mut server.session, &context.info, &context.slot).await?;
        match kept {
            // Whoever began it in this moment made the slot after the first look.
            Reserved::At(kept_from) if Archive::is_absent(store, segment_size).await? => {
                return Err(StreamError::ArchiveGone {
                    url: store.url().to_owned(),
                    slot: context.slot.clone(),
                    kept_from,
                });
            }
            Reserved::Unknown { passing: true } => return Err(StreamError::SlotUnknown),
            _ => {}
        }
    }
    let archive = Archive::open_or_begin(store.clone(), keys.clone(), system_id, segment_size);
    Ok(archive.await?)
}
