//! WAL that is held and leads nowhere: what `wal_level = minimal` left out, and what `pg_resetwal` began anew.
//!
//! Owns the records of gaps, which only a new base backup leads over.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use walvault_archive::Archive;
use walvault_archive::record::GapRecord;
use walvault_layout::ObjectKey;
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::{StoreError, clock};

use crate::pipeline::Impassable;

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Records what ends every replay that reaches it, as a gap: only a base backup that is taken after it
/// leads over it. Each one `recorded` is told.
pub async fn record_impassable(
    archive: &Archive,
    timeline: TimelineId,
    mut found: mpsc::UnboundedReceiver<Impassable>,
    recorded: impl Fn(),
) -> Infallible {
    while let Some(Impassable { range, cause }) = found.recv().await {
        while let Err(error) = put(archive, timeline, range, cause).await {
            tracing::error!(%error, %range, "a gap could not be recorded; trying again");
            sleep(PAUSE).await;
        }
        tracing::error!(
            timeline = timeline.get(), at = %range.start, cause,
            "no instant after this can be restored from a backup that was taken before it; a base backup is taken at once"
        );
        recorded();
    }
    std::future::pending().await
}

/// Puts the record of a gap; the same one may be there already.
///
/// # Errors
/// When the archive cannot be written, or something else has its name.
pub(super) async fn put(
    archive: &Archive,
    timeline: TimelineId,
    range: LsnRange,
    cause: &str,
) -> Result<GapRecord, walvault_archive::Error> {
    let record = GapRecord {
        version: 1,
        timeline,
        range,
        cause: cause.to_owned(),
        noticed_at: clock::now(),
    };
    let key = ObjectKey::Gap(timeline, range);
    match archive.put_record(&key, &record).await {
        Ok(_) => {}
        // Another look recorded it, or somebody else took its name: then it tells of no gap.
        Err(walvault_archive::Error::Store(StoreError::Exists { .. })) => {
            match archive.get_record::<GapRecord>(&key).await {
                Err(error) if !error.is_withheld() => return Err(error),
                _ => {}
            }
        }
        Err(error) => return Err(error),
    }
    Ok(record)
}
