//! Base backups: from PostgreSQL's own `BASE_BACKUP` to a record in the archive.
//!
//! Owns the way of a backup through the process and what must hold before it counts. It does not
//! own WAL: [`WalSecured`] answers for that.
//!
//! ```text
//! socket → archives (tar) → cutter → sealing ×2 → uploads
//!                     └ checksums ─────────────────────────→ compared with PostgreSQL's manifest
//! ```
//!
//! Everything is bounded, so that a store that is slow makes the server wait: plaintext by one part,
//! sealed parts by three, whatever the size of the database. Only the list of files grows with it.

use jiff::Timestamp;
use walvault_archive::record::{BackupFiles, BackupRecord, TablespaceRecord};
use walvault_archive::{Archive, Error as ArchiveError};
use walvault_layout::{BackupId, ObjectKey};
use walvault_protocol::client::{BackupStream, Session, Tablespace};
use walvault_protocol::manifest::BackupManifest;
use walvault_protocol::{LsnRange, ServerVersion, SystemId};
use walvault_store::{chance, clock};

pub mod attempt;
pub mod bring_along;
mod complete;
mod copy;
mod cutter;
pub mod desk;
pub mod due;
mod error;
mod input;
mod leftovers;
mod lock;
mod options;
mod progress;
mod seal;
mod secure;
pub mod service;
pub mod tarball;
mod upload;
mod verify;
mod warnings;

pub use attempt::BackupSource;
pub use bring_along::BringAlong;
pub use complete::complete;
pub use error::{BackupError, Difference};
pub use lock::{lock, lock_name};
pub use options::{BackupOptions, Label};
pub use progress::{Bar, Lines, Progress, Silent, Stage};
pub use secure::{Patience, WalSecured, Watched, slot_is_active};

/// What a record says of a backup whose pages the server did not check.
const NOT_VERIFIED: &str = "the checksums of data pages were not verified; 'walvault verify --deep' \
                            checks those that are stored";

/// Takes a full base backup over `session`, which must be in replication mode, and returns its
/// record once that is stored. Until then there is no backup. What a failed one stored is removed
/// again, where this host may delete it; otherwise, and when the returned future is dropped, it is
/// garbage that nothing lists and that a prune removes.
///
/// `wal` must see to it that the server keeps, or the archive receives, the WAL written from now on.
///
/// # Errors
/// When anything of it cannot be read, does not agree with PostgreSQL's manifest, or cannot be
/// stored, and when its WAL does not reach the archive.
pub async fn take(
    archive: &Archive,
    mut session: Session,
    options: &BackupOptions,
    wal: &mut dyn WalSecured,
    progress: &dyn Progress,
) -> Result<BackupRecord, BackupError> {
    options.check()?;
    let system_id = session
        .identify_system()
        .await
        .map_err(|error| error::of_client(error, 0, Default::default()))?
        .system_id;
    if system_id != archive.record().system_id {
        return Err(BackupError::Archive(ArchiveError::OtherSystem {
            url: archive.url().to_owned(),
            archive: archive.record().system_id,
            server: system_id,
        }));
    }
    let started_at = clock::now();
    let begun = Begun {
        id: BackupId::new(started_at, chance::token() as u16),
        started_at,
        system_id,
        server_version: session.server_version(),
    };
    let stored = store(archive, session, options, &begun, wal, progress).await;
    let (files, record) = match stored {
        Ok(stored) => stored,
        Err(error) => {
            leftovers::remove(archive, &begun.id, &error).await;
            return Err(error);
        }
    };
    // A record whose PUT got no answer may be there: from here on nothing is removed.
    let record = complete::publish(archive, &files, record).await?;
    progress.stage(&Stage::Done);
    Ok(record)
}

/// A backup that is being taken.
struct Begun {
    id: BackupId,
    started_at: Timestamp,
    system_id: SystemId,
    server_version: ServerVersion,
}

/// Stores everything of a backup but its record, once its WAL is stored as well.
async fn store(
    archive: &Archive,
    session: Session,
    options: &BackupOptions,
    begun: &Begun,
    wal: &mut dyn WalSecured,
    progress: &dyn Progress,
) -> Result<(BackupFiles, BackupRecord), BackupError> {
    let Begun { id, .. } = begun;
    let sealer = archive.sealer(options.codec).await?;

    progress.stage(&Stage::Checkpoint { backup: id.clone() });
    let mut stream = begin(session, options).await?;
    let started = *stream.started();
    let tablespaces = stream.tablespaces().to_vec();
    progress.stage(&Stage::Copying {
        start: started.lsn,
        estimate: estimate(&tablespaces),
    });
    let mut copied = copy::copy(
        archive,
        id,
        sealer,
        &mut stream,
        begun.server_version,
        options.part_size,
        progress,
    )
    .await?;
    let stopped_at = clock::now();
    for notice in stream.take_notices() {
        // Of a symbolic link, for one, which PostgreSQL leaves out of every backup.
        if notice.severity == "WARNING" {
            tracing::warn!(backup = %id, "PostgreSQL says of the backup: {}", notice.message);
        }
    }
    drop(stream);
    if !options.verify_page_checksums {
        copied.warnings.push(NOT_VERIFIED.to_owned());
    }
    if copied.end.timeline != started.timeline {
        return Err(BackupError::TimelineChanged {
            start: started.timeline,
            end: copied.end.timeline,
        });
    }

    progress.stage(&Stage::Verifying);
    let needed = LsnRange::new(started.lsn, copied.end.lsn);
    let manifest = BackupManifest::parse(&copied.manifest)?;
    verify::belongs(&manifest, begun.system_id, started.timeline, needed)?;
    verify::agrees(&manifest, &copied.files)?;

    let stored_manifest = archive
        .put_payload(
            &ObjectKey::BackupManifest(id.clone()),
            copied.manifest.into(),
        )
        .await?;
    let files = BackupFiles {
        version: 1,
        parts: copied.parts,
        files: copied.files,
    };
    let parts_stored: u64 = files.parts.iter().map(|part| part.stored).sum();
    let record = BackupRecord {
        version: 1,
        id: id.clone(),
        kind: "full".to_owned(),
        label: options.label.as_str().to_owned(),
        system_id: begun.system_id,
        server_version: begun.server_version,
        timeline: started.timeline,
        start_lsn: needed.start,
        stop_lsn: needed.end,
        started_at: begun.started_at,
        stopped_at,
        size: files.files.iter().map(|file| file.size).sum(),
        stored_size: parts_stored + stored_manifest,
        file_count: verify::plain_files(&files.files).count() as u64,
        tablespaces: tablespaces.iter().filter_map(outside).collect(),
        part_count: files.parts.len() as u64,
        kept: options.keep,
        warnings: copied.warnings,
    };
    let range = record.wal_needed(archive.segment_size());
    progress.stage(&Stage::Wal { range });
    let record = complete::prepare(archive, &files, record, wal).await?;
    Ok((files, record))
}

/// Asks for the backup and waits for its checkpoint.
async fn begin(session: Session, options: &BackupOptions) -> Result<BackupStream, BackupError> {
    let asked = options.command();
    let begun = session.base_backup(&asked);
    let limit = options.checkpoint_timeout;
    tokio::time::timeout(limit, begun)
        .await
        .map_err(|_| BackupError::Checkpoint { waited: limit })?
        .map_err(|error| error::of_client(error, 0, Default::default()))
}

/// What the server thinks it will send, in bytes.
fn estimate(tablespaces: &[Tablespace]) -> Option<u64> {
    tablespaces
        .iter()
        .map(|tablespace| tablespace.size_kib)
        .sum::<Option<u64>>()
        .map(|kib| kib.saturating_mul(1024))
}

/// A tablespace that lies outside the data directory. One in place
/// (`allow_in_place_tablespaces`) has a relative location and is part of the directory.
fn outside(tablespace: &Tablespace) -> Option<TablespaceRecord> {
    let location = tablespace
        .location
        .as_ref()
        .filter(|location| location.starts_with('/'))?;
    Some(TablespaceRecord {
        oid: tablespace.oid?,
        location: location.clone(),
    })
}
