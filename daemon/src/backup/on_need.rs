//! Backups that nobody ordered and everybody needs: after a gap, the recovery window begins anew
//! only with a base backup.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::watch;
use walvault_archive::Archive;

use super::{BackupOptions, Label, Lines, Patience, Watched, take};
use crate::app::App;
use crate::stream::connect;

/// How long to wait before a backup that failed is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How often a line tells how far a backup is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Takes a backup whenever `wanted` says why one is needed, until it succeeds. Never returns.
pub async fn back_up_on_need(
    app: &App,
    options: &BackupOptions,
    mut wanted: watch::Receiver<Option<String>>,
) -> Infallible {
    while wanted.changed().await.is_ok() {
        let Some(reason) = wanted.borrow_and_update().clone() else {
            continue;
        };
        let mut pause = FIRST_PAUSE;
        tracing::info!(reason, "taking a base backup");
        while let Err(error) = attempt(app, options, &reason).await {
            tracing::error!(%error, retry_in_s = pause.as_secs(), "the base backup failed");
            tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
    std::future::pending().await
}

async fn attempt(
    app: &App,
    options: &BackupOptions,
    reason: &str,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let server = connect(&app.info).await?;
    let identities = app.identities()?;
    let archive = Archive::open_or_begin(
        app.store.clone(),
        identities,
        server.identity.system_id,
        server.segment_size,
    )
    .await?;
    let options = BackupOptions {
        label: Label::new(reason)?,
        ..options.clone()
    };
    let mut wal = Watched::new(archive.clone(), Patience::default());
    let lines = Lines::new(LINE_EVERY, |line: &str| tracing::info!("{line}"));
    let record = take(&archive, server.session, &options, &mut wal, &lines).await?;
    tracing::info!(backup = %record.id, bytes = record.size, stop = %record.stop_lsn, "the base backup is complete");
    Ok(())
}
