//! What the archive holds of the WAL that a stream goes on from.

use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::{Lsn, TimelineHistory};

use super::resume::archived_end;

/// The catalog of the WAL from `reserved` on, what the slot keeps for us, on the way to the server's
/// timeline. All of the archive is listed where it ends before that, or no slot tells.
///
/// # Errors
/// When the store cannot be read.
pub async fn held(
    archive: &Archive,
    history: &TimelineHistory,
    reserved: Option<Lsn>,
    server_end: Lsn,
) -> Result<Catalog, Error> {
    if let Some(reserved) = reserved {
        let recent = Catalog::load_recent(archive, history, reserved).await?;
        if archived_end(&recent, history, server_end) >= Some(reserved) {
            return Ok(recent);
        }
    }
    Catalog::load_wal(archive).await
}
