//! WAL that is gone from the server before it was archived.
//!
//! A gap is recorded in the archive, never skipped in silence: the recovery window ends before it,
//! and only a new base backup begins another.

use walvault_archive::Archive;
use walvault_archive::record::GapRecord;
use walvault_protocol::{LsnRange, SegmentNumber};

use super::connect::{Reserved, Server, recreate_slot, reserved};
use super::error::StreamError;
use super::follow::Context;
use super::impassable::put;
use crate::pipeline::Resume;

/// Records what lies between what is archived and what the server still has, after the server
/// said that it does not have `place`. A slot that no longer keeps what it should is made anew.
/// `None` when the server has the WAL after all.
///
/// # Errors
/// When the server or the archive cannot be asked, or the slot cannot be made.
pub async fn record_gap(
    archive: &Archive,
    server: &mut Server,
    context: &Context,
    place: Resume,
    cause: &str,
) -> Result<Option<GapRecord>, StreamError> {
    let mut kept = reserved(&mut server.session, &context.info, &context.slot).await?;
    match kept {
        Reserved::At(lsn) if lsn > place.archived_to => {}
        // It may keep everything from some LSN on, which the next look tells.
        Reserved::Unknown { passing: true } => return Err(StreamError::SlotUnknown),
        _ => kept = recreate_slot(&mut server.session, &context.info, &context.slot).await?,
    }
    let from = match kept {
        Reserved::At(lsn) => lsn,
        Reserved::Nothing | Reserved::Absent | Reserved::Unknown { .. } => {
            server.identity.flushed_lsn
        }
    };
    let size = archive.segment_size();
    let range = LsnRange::new(
        place.archived_to,
        SegmentNumber::containing(from, size).start(size),
    );
    if range.is_empty() {
        return Ok(None);
    }
    let record = put(archive, place.timeline, range, cause).await?;
    tracing::error!(
        timeline = place.timeline.get(), %range, bytes = range.len(), cause,
        "WAL was lost before it was archived; no instant within the gap can be restored, and a base backup is taken at once"
    );
    Ok(Some(record))
}
