//! Which objects a copy is made of.
//!
//! Of each backup all it consists of, parts that lie under earlier backups' names too, and the WAL
//! that leads from it to the end of what can be recovered, or to an instant. That the copy restores is
//! not hoped for: the plan of the restore is made on what is chosen alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use walvault_archive::archive::Listed;
use walvault_archive::keys::KeyRecord;
use walvault_archive::record::{BackupRecord, PartRecord};
use walvault_archive::{Archive, Catalog, Error};
use walvault_layout::{BackupId, ObjectKey, wal_unit};
use walvault_protocol::{Lsn, LsnRange, TimelineHistory, TimelineId};
use walvault_store::clock;

use super::error::ExportError;
use super::record::{ExportRecord, Exported};
use crate::marks::ArchiveMarks;
use crate::plan::{PlanError, Request, RestorePlan, plan};
use crate::target::{Point, Target, TimelineChoice};

/// Which backups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The newest that restores, to the instant if one is given.
    Latest,
    /// These.
    These(Vec<BackupId>),
    /// Each.
    All,
}

/// What is to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Which backups.
    pub which: Which,
    /// Up to which instant WAL is needed; else to the end of what can be recovered.
    pub until: Option<Point>,
    /// The timeline on which that instant is.
    pub timeline: TimelineChoice,
    /// All of it in the words of the command line.
    pub words: String,
}

/// What is copied.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// What it is.
    pub record: ExportRecord,
    /// The objects, in the order in which they are copied: what goes away first comes first.
    pub objects: Vec<Exported>,
}

/// As much of a backup's list of files as says which parts it is made of.
#[derive(Deserialize)]
struct PartsOnly {
    parts: Vec<PartRecord>,
}

/// Objects of WAL: their timelines, what they hold, and whether they are whole units.
type Wal = BTreeSet<(TimelineId, Lsn, Lsn, bool)>;

/// The backups that are copied, and the WAL.
#[derive(Default)]
struct Selection {
    backups: BTreeSet<BackupId>,
    wal: Wal,
    notes: Vec<String>,
}

/// Chooses from what `archive` holds now.
///
/// # Errors
/// When a backup or the instant cannot be restored: why, and what can.
pub async fn choose(archive: &Archive, choice: &Choice) -> Result<Chosen, ExportError> {
    // A backup's record is stored after the WAL it needs: listed in this order, none lacks it.
    let catalog = match Catalog::load(archive).await {
        Ok(catalog) => Some(catalog),
        Err(error) if error.is_withheld() => None,
        Err(error) => return Err(error.into()),
    };
    let listing = archive.list("").await?;
    let keys = recipients(archive).await?;
    let record = |notes| ExportRecord {
        version: 1,
        archive_id: archive.record().archive_id.clone(),
        system_id: archive.record().system_id.to_string(),
        begun_at: clock::now(),
        made_by: concat!("walvault ", env!("CARGO_PKG_VERSION")).to_owned(),
        choice: choice.words.clone(),
        backups: None,
        windows: None,
        keys,
        notes,
    };
    let Some(catalog) = catalog else {
        if choice.which != Which::All || choice.until.is_some() {
            return Err(ExportError::NeedsIdentity);
        }
        let note = "It was written without an identity: nobody looked whether a backup lacks WAL.";
        return Ok(Chosen {
            record: record(vec![note.to_owned()]),
            objects: by_names(archive, &listing),
        });
    };
    if catalog.backups().is_empty() {
        let url = archive.url().to_owned();
        return Err(ExportError::NoBackup { url });
    }
    let selection = select(archive, &catalog, choice).await?;
    let left = catalog.restricted(&selection.backups, |timeline, held| {
        selection.holds(timeline, held.range, held.whole)
    });
    let parts = parts(archive, &left).await?;
    let taken = |object: &&Listed| match &object.key {
        ObjectKey::BackupPart(id, number) => parts.contains(&(id.clone(), *number)),
        ObjectKey::BackupManifest(id)
        | ObjectKey::BackupFiles(id)
        | ObjectKey::BackupRecord(id)
        | ObjectKey::Keep(id, _) => selection.backups.contains(id),
        ObjectKey::Wal(object) => selection.holds(object.timeline, object.range, true),
        ObjectKey::Tail(timeline, range) => selection.holds(*timeline, *range, false),
        key => is_copied(key),
    };
    let windows = left.windows(archive).await?;
    let mut record = record(selection.notes.clone());
    record.backups = Some(left.backups().iter().map(Into::into).collect());
    record.windows = Some(windows.into_iter().map(Into::into).collect());
    Ok(Chosen {
        objects: ordered(archive, listing.iter().filter(taken)),
        record,
    })
}

/// Everything there is but for backups that are not complete, as far as names tell.
fn by_names(archive: &Archive, listing: &[Listed]) -> Vec<Exported> {
    let complete: BTreeSet<&BackupId> = listing
        .iter()
        .filter_map(|object| match &object.key {
            ObjectKey::BackupRecord(id) => Some(id),
            _ => None,
        })
        .collect();
    let newest = complete.last().copied();
    let taken = |object: &&Listed| match &object.key {
        // Parts without a record may be what a later backup is made of.
        ObjectKey::BackupPart(id, _) => complete.contains(id) || newest.is_some_and(|it| id < it),
        ObjectKey::BackupManifest(id) | ObjectKey::BackupFiles(id) | ObjectKey::Keep(id, _) => {
            complete.contains(id)
        }
        key => is_copied(key),
    };
    ordered(archive, listing.iter().filter(taken))
}

/// Whether an object means anything elsewhere: locks do not, and what was verified here was not there.
fn is_copied(key: &ObjectKey) -> bool {
    !matches!(
        key,
        ObjectKey::Lock(_)
            | ObjectKey::Lease(..)
            | ObjectKey::Verified(_)
            | ObjectKey::Archive
            | ObjectKey::Key(..)
    )
}

/// Chunks give way to their segments, so that they come first; a backup's record comes last of it.
fn ordered<'a>(archive: &Archive, objects: impl Iterator<Item = &'a Listed>) -> Vec<Exported> {
    let rank = |key: &ObjectKey| match key {
        ObjectKey::Tail(..) => 0,
        ObjectKey::History(_) | ObjectKey::Gap(..) => 1,
        ObjectKey::Wal(_) => 2,
        ObjectKey::BackupRecord(_) => 4,
        _ => 3,
    };
    let exported = |object: &Listed| Exported {
        name: archive.name(&object.key),
        size: object.size,
    };
    let mut ordered: Vec<_> = objects
        .map(|object| (rank(&object.key), exported(object)))
        .collect();
    ordered.sort_by(|(a, one), (b, other)| (a, &one.name).cmp(&(b, &other.name)));
    ordered.into_iter().map(|(_, object)| object).collect()
}

/// Who can open each data key; data keys whose record does not read are named so.
async fn recipients(archive: &Archive) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let epochs = archive.keyring().epochs().await?;
    let named = epochs.into_iter().map(|epoch| {
        let names = match &epoch.record {
            Ok(record) => KeyRecord::recipient_names(record),
            Err(problem) => vec![format!("unknown: {problem}")],
        };
        (epoch.id.to_string(), names)
    });
    Ok(named.collect())
}

/// The parts that the backups of `catalog` are made of, wherever they lie.
async fn parts(
    archive: &Archive,
    catalog: &Catalog,
) -> Result<BTreeSet<(BackupId, u32)>, ExportError> {
    let mut parts = BTreeSet::new();
    for backup in catalog.backups() {
        let key = ObjectKey::BackupFiles(backup.id.clone());
        let list: PartsOnly = archive.get_record(&key).await?;
        for part in list.parts {
            let of = part.backup.unwrap_or_else(|| backup.id.clone());
            parts.insert((of, part.number));
        }
    }
    Ok(parts)
}

async fn select(
    archive: &Archive,
    catalog: &Catalog,
    choice: &Choice,
) -> Result<Selection, ExportError> {
    let target = Target::inclusive(choice.until.clone().unwrap_or(Point::End));
    let mut selection = Selection::default();
    let chosen: Vec<Option<BackupId>> = match &choice.which {
        Which::Latest => vec![None],
        Which::These(ids) => ids.iter().cloned().map(Some).collect(),
        Which::All => {
            let all = catalog
                .backups()
                .iter()
                .map(|backup| Some(backup.id.clone()));
            all.collect()
        }
    };
    for backup in chosen {
        let request = Request {
            target: target.clone(),
            timeline: choice.timeline,
            backup,
        };
        match planned(archive, catalog, &request).await {
            Ok(plan) => {
                for warning in &plan.warnings {
                    selection.note(warning.clone());
                }
                selection.add(archive, catalog, &request, &plan).await?;
            }
            // What is not restorable, or comes later, does not keep the others from being copied.
            Err(PlanError::Archive(error)) => return Err(error.into()),
            Err(refused) if choice.which == Which::All => {
                let id = request.backup.map_or_else(String::new, |id| id.to_string());
                selection.note(format!("Backup {id} is not in this copy: {refused}"));
            }
            Err(refused) => return Err(refused.into()),
        }
    }
    if selection.backups.is_empty() {
        // All were refused: for the same reason as the newest.
        let request = Request {
            target,
            timeline: choice.timeline,
            backup: None,
        };
        let _ = planned(archive, catalog, &request).await?;
    }
    Ok(selection)
}

/// The plan of a restore; of a backup that is on no way to the newest timeline, on its own.
async fn planned(
    archive: &Archive,
    catalog: &Catalog,
    request: &Request,
) -> Result<RestorePlan, PlanError> {
    let marks = ArchiveMarks::new(archive, catalog);
    match plan(catalog, &marks, request).await {
        Err(PlanError::NotOnTimeline { .. } | PlanError::HistoryUnread { .. })
            if request.timeline == TimelineChoice::Latest && request.backup.is_some() =>
        {
            let own = Request {
                timeline: TimelineChoice::Current,
                ..request.clone()
            };
            plan(catalog, &marks, &own).await
        }
        planned => planned,
    }
}

impl Selection {
    fn holds(&self, timeline: TimelineId, range: LsnRange, whole: bool) -> bool {
        self.wal
            .contains(&(timeline, range.start, range.end, whole))
    }

    fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds the backup of `plan` and the WAL that leads from it to where it stops.
    async fn add(
        &mut self,
        archive: &Archive,
        catalog: &Catalog,
        request: &Request,
        plan: &RestorePlan,
    ) -> Result<(), ExportError> {
        let id = &plan.backup.id;
        let Some(backup) = catalog.backups().iter().find(|backup| backup.id == *id) else {
            return Ok(());
        };
        self.backups.insert(id.clone());
        if request.target.point == Point::End {
            // Whichever timeline is wanted some day.
            for tip in catalog.tips_from(backup.timeline, backup.stop_lsn) {
                let history = catalog.history(tip);
                let reach = catalog.reach_from(&history, backup);
                self.wal.extend(way(catalog, &history, backup, reach));
            }
            return Ok(());
        }
        // Recovery reads on to the record that tells it to stop, which may reach over several units.
        let history = catalog.history(plan.timeline);
        let reach = catalog.reach_from(&history, backup);
        let unit = wal_unit(catalog.segment_size());
        let mut to = plan.stop.lsn.max(backup.stop_lsn);
        loop {
            to = Lsn((to.0 / unit + 1).saturating_mul(unit)).min(reach);
            let wal = way(catalog, &history, backup, to);
            if to == reach || suffices(archive, catalog, request, plan, &wal).await? {
                self.wal.extend(wal);
                return Ok(());
            }
        }
    }
}

/// Whether the target is reached, at the same place, from the backup and `wal` alone.
async fn suffices(
    archive: &Archive,
    catalog: &Catalog,
    request: &Request,
    plan: &RestorePlan,
    wal: &Wal,
) -> Result<bool, ExportError> {
    let left = catalog.restricted(
        &BTreeSet::from([plan.backup.id.clone()]),
        |timeline, held| wal.contains(&(timeline, held.range.start, held.range.end, held.whole)),
    );
    let again = Request {
        timeline: TimelineChoice::Id(plan.timeline),
        backup: Some(plan.backup.id.clone()),
        target: request.target.clone(),
    };
    match self::plan(&left, &ArchiveMarks::new(archive, &left), &again).await {
        Ok(found) => Ok(found.stop.lsn == plan.stop.lsn),
        Err(PlanError::Archive(error)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// The WAL on the way from a backup to `to`, whole segments from the one that replay begins in:
/// PostgreSQL asks for those.
fn way(catalog: &Catalog, history: &TimelineHistory, backup: &BackupRecord, to: Lsn) -> Wal {
    let begin = backup.wal_needed(catalog.segment_size()).start;
    let ancestors = history.switches().iter().map(|switch| switch.timeline);
    let mut wal = Wal::new();
    for timeline in ancestors.chain([history.timeline()]) {
        let limit = history.left_at(timeline).unwrap_or(to).min(to);
        let held = catalog.wal(timeline).map(|wal| wal.objects.as_slice());
        let held = held.unwrap_or_default();
        let wanted = |range: &LsnRange| range.end > begin && range.start < limit;
        for object in held.iter().filter(|object| wanted(&object.range)) {
            let whole_too = !object.whole
                && held
                    .iter()
                    .any(|other| other.whole && other.range.covers(&object.range));
            if !whole_too {
                let LsnRange { start, end } = object.range;
                wal.insert((timeline, start, end, object.whole));
            }
        }
    }
    wal
}
