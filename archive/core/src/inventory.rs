//! What an archive holds, as everything that tells of it tells: `list` and `show`, reports, the sidecar's surveys,
//! `/status` and its page.
//!
//! Read once from the catalog, so that no two of them differ. Where records are sealed for others than this host, names,
//! sizes and times have to do: see [`Inventory::of_names`].

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use walvault_layout::{BackupId, GAPS_PREFIX, ObjectKey, TAIL_PREFIX, WAL_PREFIX};
use walvault_protocol::{Lsn, LsnRange, TimelineId};
use walvault_store::clock;

use crate::archive::{Archive, Listed};
use crate::catalog::seen::{backup_names, backup_stored_at};
use crate::catalog::{Catalog, Hole, RecoveryWindow, Unreadable, WindowStarts};
use crate::error::Error;
use crate::keep::Hold;
use crate::record::{BackupRecord, GapRecord};

/// How often an archive is read anew when something of it is removed meanwhile.
const ATTEMPTS: u32 = 5;

/// What an archive holds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Inventory {
    /// Complete base backups, oldest first.
    pub backups: Vec<Backup>,
    /// Complete base backups whose records this host may not open, oldest first. Then no window is known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withheld_backups: Vec<WithheldBackup>,
    /// Spans in which every instant can be restored, oldest first.
    pub windows: Vec<RecoveryWindow>,
    /// WAL that is missing, by timeline and position.
    pub gaps: Vec<Gap>,
    /// Timelines, oldest first.
    pub timelines: Vec<Timeline>,
    /// The newest WAL.
    pub tail: Option<Tail>,
    /// Objects that do not open: what they say is left out.
    pub unreadable: Vec<Unreadable>,
    /// Why no more than names are known, where that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

/// A base backup.
#[derive(Debug, Clone, Serialize)]
pub struct Backup {
    /// Its name.
    pub id: BackupId,
    /// `full`, or how else it was taken.
    pub kind: String,
    /// What the operator called it.
    pub label: String,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// When it was begun.
    pub start_time: Timestamp,
    /// When its data had been read.
    pub stop_time: Timestamp,
    /// The timeline it was taken on.
    pub timeline: TimelineId,
    /// Bytes of its files.
    pub size: u64,
    /// Bytes of its objects.
    pub stored_size: u64,
    /// Whether something keeps it from retention: `keep`, or a hold.
    pub kept: bool,
    /// `server_version_num` of the server it was taken from.
    pub server_version: u32,
    /// The data keys it is sealed under.
    pub keys: Vec<String>,
    /// Legal holds on it.
    pub holds: Vec<Hold>,
}

/// A base backup of which names and listings alone tell.
#[derive(Debug, Clone, Serialize)]
pub struct WithheldBackup {
    /// Its name.
    pub id: BackupId,
    /// When its record was stored, by the store's clock.
    pub stored_at: Timestamp,
}

/// WAL that is missing between what is held.
#[derive(Debug, Clone, Serialize)]
pub struct Gap {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first byte that is missing.
    pub start_lsn: Lsn,
    /// The first byte that is not.
    pub end_lsn: Lsn,
    /// Its length.
    pub bytes: u64,
    /// Why, where that is known.
    pub cause: Option<String>,
    /// When it was noticed, where that was when it came about.
    pub noticed_at: Option<Timestamp>,
    /// Whether retention removed it, as it was told to.
    pub pruned: bool,
}

/// The WAL held of a timeline.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// Its number.
    pub timeline: TimelineId,
    /// The timeline it came from.
    pub parent: Option<TimelineId>,
    /// Where it left that one.
    pub begins_at: Option<Lsn>,
    /// When its first WAL was stored, by the store's clock.
    pub first_stored: Option<Timestamp>,
    /// The first byte that is held.
    pub start_lsn: Option<Lsn>,
    /// The byte after the last that is held.
    pub end_lsn: Option<Lsn>,
    /// What is held without a hole.
    pub runs: Vec<Run>,
    /// Objects that hold it.
    pub objects: usize,
    /// Their bytes.
    pub stored_size: u64,
}

/// A run of WAL without a hole.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    /// Its first byte.
    pub start_lsn: Lsn,
    /// The byte after its last.
    pub end_lsn: Lsn,
}

/// The newest WAL held.
#[derive(Debug, Clone, Serialize)]
pub struct Tail {
    /// The newest timeline that holds WAL.
    pub timeline: TimelineId,
    /// Where its WAL ends.
    pub end_lsn: Lsn,
    /// When its newest object was stored, by the store's clock.
    pub stored_at: Timestamp,
    /// How long ago, in seconds.
    pub age_seconds: i64,
}

impl Inventory {
    /// Reads what an archive holds.
    ///
    /// # Errors
    /// As [`Catalog::load`].
    pub async fn load(archive: &Archive) -> Result<Inventory, Error> {
        Inventory::load_since(archive, &WindowStarts::default()).await
    }

    /// As [`Inventory::load`], for who looks again and again: what was read before is in `starts`.
    ///
    /// # Errors
    /// As [`Inventory::load`].
    pub async fn load_since(archive: &Archive, starts: &WindowStarts) -> Result<Inventory, Error> {
        unpruned(|| Inventory::read(archive, starts)).await
    }

    async fn read(archive: &Archive, starts: &WindowStarts) -> Result<Inventory, Error> {
        let catalog = &Catalog::load(archive).await?;
        let now = clock::now();
        let backups = catalog.backups().iter();
        let backups = backups.map(|record| Backup::of(catalog, record, now));
        let holes = catalog.unrecorded_holes(archive).await?;
        let recorded = catalog.gaps().iter().map(Gap::recorded);
        let mut gaps: Vec<Gap> = recorded.chain(holes.iter().map(Gap::hole)).collect();
        gaps.sort_by_key(|gap| (gap.timeline, gap.start_lsn));
        Ok(Inventory {
            backups: backups.collect(),
            windows: catalog.windows_since(archive, starts).await?,
            gaps,
            timelines: timelines(catalog),
            tail: tail(catalog, now),
            unreadable: catalog.unreadable().to_vec(),
            ..Inventory::default()
        })
    }

    /// What names, sizes and times tell to a host that may open no record; `why` says so. It is asked for no object,
    /// since a store may note each refusal. `complete` keeps the backups that were found complete from one call to
    /// the next.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn of_names(
        archive: &Archive,
        complete: &mut BTreeMap<BackupId, Timestamp>,
        why: &str,
    ) -> Result<Inventory, Error> {
        let mut listed = archive.list(TAIL_PREFIX).await?;
        listed.extend(archive.list(WAL_PREFIX).await?);
        let gaps = archive.list(GAPS_PREFIX).await?;
        let catalog = Catalog::from_listing(archive.segment_size(), &listed);
        let names = backup_names(archive).await?;
        complete.retain(|id, _| names.contains(id));
        for id in names {
            if !complete.contains_key(&id)
                && let Some(at) = backup_stored_at(archive, &id).await?
            {
                complete.insert(id, at);
            }
        }
        let backups = complete.iter().map(|(id, stored_at)| WithheldBackup {
            id: id.clone(),
            stored_at: *stored_at,
        });
        Ok(Inventory {
            withheld_backups: backups.collect(),
            // Which holes a prune left on purpose, its record tells.
            gaps: gaps.iter().filter_map(Gap::named).collect(),
            timelines: timelines(&catalog),
            tail: tail(&catalog, clock::now()),
            withheld: Some(why.to_owned()),
            ..Inventory::default()
        })
    }
}

/// Reads anew for as long as a prune removes what was listed a moment ago, and not for ever.
///
/// # Errors
/// Those of `read`.
pub async fn unpruned<T, F>(mut read: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut again = 1..ATTEMPTS;
    loop {
        match read().await {
            Err(error) if error.is_missing() && again.next().is_some() => {}
            read => return read,
        }
    }
}

impl Backup {
    /// What `catalog` knows of a backup.
    #[must_use]
    pub fn of(catalog: &Catalog, record: &BackupRecord, now: Timestamp) -> Backup {
        let notes = catalog.notes(&record.id);
        Backup {
            id: record.id.clone(),
            kind: record.kind.clone(),
            label: record.label.clone(),
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            start_time: record.started_at,
            stop_time: record.stopped_at,
            timeline: record.timeline,
            size: record.size,
            stored_size: record.stored_size,
            kept: record.kept || notes.is_some_and(|notes| notes.keeps.keeps(now)),
            server_version: record.server_version.0,
            keys: notes
                .map(|notes| notes.key_id.to_string())
                .into_iter()
                .collect(),
            holds: notes.map_or_else(Vec::new, |notes| notes.keeps.holds.clone()),
        }
    }
}

impl Gap {
    fn recorded(record: &GapRecord) -> Gap {
        Gap {
            cause: Some(record.cause.clone()),
            noticed_at: Some(record.noticed_at),
            ..Gap::unexplained(record.timeline, record.range)
        }
    }

    fn hole(hole: &Hole) -> Gap {
        Gap {
            cause: hole.pruned.then(|| "removed by a prune".to_owned()),
            pruned: hole.pruned,
            ..Gap::unexplained(hole.timeline, hole.range)
        }
    }

    fn named(listed: &Listed) -> Option<Gap> {
        let ObjectKey::Gap(timeline, range) = listed.key else {
            return None;
        };
        Some(Gap {
            cause: Some("its record, which this host may not open, has the cause".to_owned()),
            noticed_at: Some(listed.modified),
            ..Gap::unexplained(timeline, range)
        })
    }

    fn unexplained(timeline: TimelineId, range: LsnRange) -> Gap {
        Gap {
            timeline,
            start_lsn: range.start,
            end_lsn: range.end,
            bytes: range.len(),
            cause: None,
            noticed_at: None,
            pruned: false,
        }
    }

    /// Why it is there, as far as is known.
    #[must_use]
    pub fn reason(&self) -> &str {
        let cause = self.cause.as_deref();
        cause.unwrap_or("objects are missing from the archive")
    }
}

impl From<&LsnRange> for Run {
    fn from(range: &LsnRange) -> Run {
        Run {
            start_lsn: range.start,
            end_lsn: range.end,
        }
    }
}

fn timelines(catalog: &Catalog) -> Vec<Timeline> {
    let held = catalog.timelines().map(|(timeline, _)| timeline);
    let mut known: Vec<TimelineId> = held.chain(catalog.histories().keys().copied()).collect();
    known.sort_unstable();
    known.dedup();
    let describe = |timeline: TimelineId| {
        let history = catalog.history(timeline);
        let wal = catalog.wal(timeline);
        let switch = history.switches().last();
        let objects = || wal.iter().flat_map(|wal| &wal.objects);
        let runs = wal.map_or(&[][..], |wal| wal.coverage.ranges());
        Timeline {
            timeline,
            parent: switch.map(|switch| switch.timeline),
            begins_at: switch.map(|switch| switch.at),
            first_stored: objects().map(|object| object.modified).min(),
            start_lsn: runs.first().map(|run| run.start),
            end_lsn: wal.and_then(|wal| wal.coverage.end()),
            runs: runs.iter().map(Run::from).collect(),
            objects: objects().count(),
            stored_size: objects().map(|object| object.size).sum(),
        }
    };
    known.into_iter().map(describe).collect()
}

fn tail(catalog: &Catalog, now: Timestamp) -> Option<Tail> {
    let latest = catalog.latest_timeline()?;
    let real = |(timeline, _): &(TimelineId, _)| *timeline <= latest;
    let (timeline, wal) = catalog.timelines().rfind(real)?;
    let stored_at = wal.objects.iter().map(|object| object.modified).max()?;
    Some(Tail {
        timeline,
        end_lsn: wal.coverage.end()?,
        stored_at,
        age_seconds: now.duration_since(stored_at).as_secs().max(0),
    })
}
