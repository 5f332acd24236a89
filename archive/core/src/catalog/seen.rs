//! Backups and gaps as the writer of an archive sees them, which need not be able to read it.
//!
//! Where a record may be read, it tells. Where it is withheld, names and times have to do.

use jiff::Timestamp;
use walvault_layout::{BackupId, GAPS_PREFIX, ObjectKey};
use walvault_protocol::{Lsn, LsnRange, TimelineId};

use super::backups::name_backups;
use crate::archive::{Archive, Listed};
use crate::damage::left_out;
use crate::error::Error;
use crate::record::{BackupRecord, GapRecord};

/// What tells whether another backup is due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Complete backups, in no order.
    pub backups: Vec<BackupSeen>,
    /// Recorded gaps.
    pub gaps: Vec<GapSeen>,
    /// When the timeline in question was first archived, by the store's clock; `None` for one
    /// without a history.
    pub timeline_begun: Option<Timestamp>,
}

/// A complete backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupSeen {
    /// When it was begun.
    pub started_at: Timestamp,
    /// Its timeline and where its WAL begins; `None` where its record is withheld.
    pub place: Option<(TimelineId, Lsn)>,
}

/// A gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GapSeen {
    /// The timeline.
    pub timeline: TimelineId,
    /// What is missing.
    pub range: LsnRange,
    /// When it was recorded, by the store's clock.
    pub noticed_at: Timestamp,
}

impl Seen {
    /// Looks at an archive whose WAL of `timeline` is being written.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn look(archive: &Archive, timeline: TimelineId) -> Result<Seen, Error> {
        let history = archive.name(&ObjectKey::History(timeline));
        let (listed, history) =
            tokio::try_join!(archive.list(GAPS_PREFIX), archive.list(&history))?;
        let (mut gaps, mut backups) = (Vec::new(), Vec::new());
        let mut withheld = false;
        for object in listed {
            gaps.extend(see_gap(archive, &object, &mut withheld).await?);
        }
        let mut withheld = false;
        for named in name_backups(archive).await? {
            backups.extend(see(archive, named.id, &mut withheld).await?);
        }
        Ok(Seen {
            backups,
            gaps,
            timeline_begun: history.first().map(|object| object.modified),
        })
    }
}

/// One gap; `None` when nobody recorded it. No backup ever follows a gap that a made-up name puts
/// behind all WAL, so that one backup after another would be taken for it. After one that is `withheld`
/// none is asked for: a store may note each refusal.
async fn see_gap(
    archive: &Archive,
    object: &Listed,
    withheld: &mut bool,
) -> Result<Option<GapSeen>, Error> {
    let ObjectKey::Gap(timeline, range) = object.key else {
        return Ok(None);
    };
    if !*withheld {
        match archive.get_record::<GapRecord>(&object.key).await {
            Ok(_) => {}
            Err(error) if error.is_withheld() => *withheld = true,
            Err(error) if error.is_missing() => return Ok(None),
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                left_out(&archive.name(&object.key), &error);
                return Ok(None);
            }
        }
    }
    Ok(Some(GapSeen {
        timeline,
        range,
        noticed_at: object.modified,
    }))
}

/// One backup; `None` when it is not complete. After one that is `withheld` none is asked for.
async fn see(
    archive: &Archive,
    id: BackupId,
    withheld: &mut bool,
) -> Result<Option<BackupSeen>, Error> {
    let key = ObjectKey::BackupRecord(id.clone());
    let read = match *withheld {
        true => None,
        false => Some(archive.get_record::<BackupRecord>(&key).await),
    };
    match read {
        Some(Ok(record)) => Ok(Some(BackupSeen {
            started_at: record.started_at,
            place: Some((record.timeline, record.start_lsn)),
        })),
        Some(Err(error)) if error.is_missing() => Ok(None),
        Some(Err(error)) if error.is_transient() => Err(error),
        // Nothing can be restored from it: it puts no backup off.
        Some(Err(error)) if !error.is_withheld() => {
            left_out(&archive.name(&key), &error);
            Ok(None)
        }
        // It may have been withheld without being there.
        None | Some(Err(_)) => {
            *withheld = true;
            let there = backup_stored_at(archive, &id).await?.is_some();
            let begun = id.begun().filter(|_| there);
            Ok(begun.map(|started_at| BackupSeen {
                started_at,
                place: None,
            }))
        }
    }
}

/// The backups that an archive names, complete or not, for whoever may open none.
///
/// # Errors
/// When the store cannot be asked.
pub async fn backup_names(archive: &Archive) -> Result<Vec<BackupId>, Error> {
    let named = name_backups(archive).await?;
    Ok(named.into_iter().map(|named| named.id).collect())
}

/// When a backup was complete, by the store's clock: when its record was stored. `None` when it is not.
///
/// # Errors
/// When the store cannot be asked.
pub async fn backup_stored_at(
    archive: &Archive,
    id: &BackupId,
) -> Result<Option<Timestamp>, Error> {
    let key = ObjectKey::BackupRecord(id.clone());
    let listed = archive.list(&archive.name(&key)).await?;
    let record = listed.into_iter().find(|object| object.key == key);
    Ok(record.map(|object| object.modified))
}
