//! The right to write, taken before the first byte and looked after while streaming.

use std::time::Duration;

use walvault_archive::fence::Epoch;
use walvault_archive::record::WriterRecord;
use walvault_archive::{Archive, Error};
use walvault_protocol::TimelineId;
use walvault_store::{chance, clock};

/// How often it is looked whether somebody took over.
const INTERVAL: Duration = Duration::from_secs(5);

/// Takes the next epoch for this process, which archives from `server`.
///
/// # Errors
/// When the archive cannot be read or written.
pub async fn take(archive: &Archive, server: &str, timeline: TimelineId) -> Result<Epoch, Error> {
    let mut token = [0; 8];
    getrandom::fill(&mut token)?;
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let writer = WriterRecord {
        version: 1,
        host,
        pid: std::process::id(),
        server: server.to_owned(),
        timeline,
        taken_at: clock::now(),
        token: u64::from_be_bytes(token).to_string(),
    };
    let epoch = Epoch::take(archive, &writer).await?;
    tracing::info!(
        epoch = epoch.number(),
        archive = archive.url(),
        "writing the archive"
    );
    Ok(epoch)
}

/// Returns when somebody took over.
pub async fn overtaken(epoch: &Epoch) -> Error {
    loop {
        tokio::time::sleep(INTERVAL.mul_f64(0.5 + chance::fraction())).await;
        match epoch.check().await {
            Ok(()) => {}
            Err(error @ Error::Fenced { .. }) => return error,
            Err(error) => tracing::warn!(%error, "cannot see whether another writer took over"),
        }
    }
}
