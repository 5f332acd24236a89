//! One backup, from connecting to the server to its record.

use walvault_archive::Archive;
use walvault_archive::keys::KeyAccess;
use walvault_archive::record::BackupRecord;
use walvault_evidence::audit::{Action, Outcome};
use walvault_protocol::client::{ClientError, Mode, Session};
use walvault_store::SharedStore;

use super::{
    BackupError, BackupOptions, BringAlong, Patience, Progress, WalSecured, Watched, lock,
    lock_name, slot_is_active, take,
};
use crate::stream::follow::Context;
use crate::stream::{Server, StreamError, connect};

/// `application_name` of the stream of a backup. The name that `synchronous_standby_names` waits for is the
/// sidecar's: this stream may begin behind a hole in the archive, and must not answer for a commit.
pub const APPLICATION_NAME: &str = "walvault-backup";

/// The server that backups are taken of, and the archive that they are stored in.
pub struct BackupSource {
    /// The store, which gives up after `[backup] store_timeout`.
    pub store: SharedStore,
    /// The archive's keys.
    pub keys: KeyAccess,
    /// How the server's WAL is streamed, if nobody does so already.
    pub stream: Context,
    /// How long a backup whose files are stored waits for WAL that somebody else streams.
    pub patience: Patience,
}

/// Why an attempt gave no backup.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// The server could not be reached, or its WAL not streamed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It failed.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

impl From<walvault_archive::Error> for AttemptError {
    fn from(error: walvault_archive::Error) -> AttemptError {
        AttemptError::Backup(error.into())
    }
}

/// Takes a backup of the configured server, unless another one is being taken of it.
///
/// # Errors
/// When there is no backup.
pub async fn attempt(
    source: &BackupSource,
    options: &BackupOptions,
    progress: &dyn Progress,
) -> Result<BackupRecord, AttemptError> {
    options.check()?;
    let label = options.label.as_str();
    let begun = std::time::Instant::now();
    let taken = begin(source, options, progress).await;
    let outcome = match &taken {
        Ok(_) => Outcome::Succeeded,
        Err(_) => Outcome::Failed,
    };
    // One that failed before it reached the archive is told of as well, once the archive is there.
    source
        .stream
        .journal
        .note(Action::Backup, outcome, |mut event| {
            event.duration_ms = u64::try_from(begun.elapsed().as_millis()).ok();
            let event = event.with("label", label);
            match &taken {
                Ok(record) => event
                    .backup(&record.id)
                    .with("timeline", record.timeline)
                    .with("start_lsn", record.start_lsn)
                    .with("stop_lsn", record.stop_lsn)
                    .with("size", record.size)
                    .with("stored_size", record.stored_size),
                Err(error) => event.with("error", error.to_string()),
            }
        });
    taken
}

async fn begin(
    source: &BackupSource,
    options: &BackupOptions,
    progress: &dyn Progress,
) -> Result<BackupRecord, AttemptError> {
    let Server {
        session,
        identity,
        segment_size,
    } = connect(&source.stream.info).await?;
    let store = source.store.clone();
    let archive =
        Archive::open_or_begin(store, source.keys.clone(), identity.system_id, segment_size)
            .await?;
    source.stream.journal.keep_in(&archive);
    let label = options.label.as_str();
    source
        .stream
        .journal
        .note(Action::Backup, Outcome::Begun, |event| {
            event.with("label", label)
        });
    take_from(source, &archive, session, options, progress).await
}

async fn take_from(
    source: &BackupSource,
    archive: &Archive,
    mut session: Session,
    options: &BackupOptions,
    progress: &dyn Progress,
) -> Result<BackupRecord, AttemptError> {
    let name = lock_name(&source.stream.slot);
    let mut wal: Box<dyn WalSecured> = if is_streamed(source).await {
        // The slot that is streamed from keeps the WAL.
        lock(&mut session, &name, false).await?;
        Box::new(Watched::new(archive.clone(), source.patience))
    } else {
        let info = source.stream.info.clone();
        let mut server = connect(&info.with_application_name(APPLICATION_NAME)).await?;
        lock(&mut server.session, &name, true).await?;
        Box::new(BringAlong::start(archive, &source.stream, server, name).await?)
    };
    Ok(take(archive, session, options, &mut *wal, progress).await?)
}

/// Whether somebody brings the backup's WAL already; if not, we do.
async fn is_streamed(source: &BackupSource) -> bool {
    let looked = async {
        let mut sql = Session::connect(&source.stream.info, Mode::Regular).await?;
        let active = slot_is_active(&mut sql, &source.stream.slot).await?;
        sql.close().await;
        Ok::<_, ClientError>(active)
    };
    match looked.await {
        Ok(true) => return true,
        Ok(false) => tracing::info!(
            slot = source.stream.slot.as_str(),
            "nobody streams from the slot; the backup brings its own WAL"
        ),
        Err(error) => {
            tracing::warn!(%error, "cannot see in pg_replication_slots whether somebody streams; the backup brings its own WAL");
        }
    }
    false
}
