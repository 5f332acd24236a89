//! One backup, from connecting to the server to its record.

use walvault_archive::Archive;
use walvault_archive::keys::KeyAccess;
use walvault_archive::record::BackupRecord;
use walvault_evidence::audit::{Action, Outcome};
use walvault_protocol::ServerVersion;
use walvault_protocol::client::{ClientError, Mode, Session};
use walvault_store::SharedStore;

use super::{
    BackupError, BackupOptions, BringAlong, Patience, Progress, WalSecured, Watched, lock,
    lock_name, slot_is_active, take,
};
use crate::stream::begin::open_or_begin;
use crate::stream::follow::Context;
use crate::stream::{StreamError, connect};

/// `application_name` of the stream of a backup. The name that `synchronous_standby_names` waits for is the
/// sidecar's: this stream may begin behind a hole in the archive, and must not answer for a commit.
pub const APPLICATION_NAME: &str = "walvault-backup";

/// The version from which on the server sends each tablespace "in place" as an archive of its own.
const ALL_IN_PLACE_SINCE: u32 = 16;

/// Whether there is a tablespace "in place". The location of `pg_default` and `pg_global` is empty.
const IN_PLACE: &str = "SELECT count(*) > 0 FROM pg_catalog.pg_tablespace \
     WHERE pg_catalog.pg_tablespace_location(oid) LIKE 'pg\\_tblspc/%'";

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
    let mut server = connect(&source.stream.info).await?;
    let archive = open_or_begin(&source.store, &source.keys, &mut server, &source.stream).await?;
    let session = server.session;
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
    let options = BackupOptions {
        in_place_tablespaces: leaves_out(source, session.server_version()).await,
        ..options.clone()
    };
    Ok(take(archive, session, &options, &mut *wal, progress).await?)
}

/// Whether the server has tablespaces "in place" that `BASE_BACKUP` leaves out with `TABLESPACE_MAP`, as
/// versions before 16 do with all that lies in `pg_tblspc` (`sendDir` in `basebackup.c`).
async fn leaves_out(source: &BackupSource, version: ServerVersion) -> bool {
    if version.major() >= ALL_IN_PLACE_SINCE {
        return false;
    }
    let looked = async {
        let mut sql = Session::connect(&source.stream.info, Mode::Regular).await?;
        let found = sql.query(IN_PLACE).await?;
        sql.close().await;
        Ok::<_, ClientError>(found.text(0, 0) == Some("t"))
    };
    looked.await.unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot see whether there are tablespaces in place; if allow_in_place_tablespaces was used, the backup lacks them");
        false
    })
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
