//! Bringing one archive what another has: object by object, checked on the way.
//!
//! Objects are bound to the archive's id and their own name, so that a copy is the same bytes and
//! needs no key. Each is read whole, its header and its SHA-256 are checked, and only then is it put.
//! Nothing is overwritten and nothing is removed. What opens others comes first, and a backup's
//! record last: whenever it is cut off, what was copied is a sound archive, and the next run goes
//! on with what is missing.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use walvault_archive::archive::{Archive, Listed, wal_key};
use walvault_archive::error::Error;
use walvault_archive::record::{ArchiveRecord, PruneRecord};
use walvault_archive::seal::check_whole;
use walvault_layout::{
    AUDIT_PREFIX, BACKUPS_PREFIX, BackupId, DRILLS_PREFIX, GAPS_PREFIX, KEYS_PREFIX, ObjectKey,
    PRUNED_PREFIX, TAIL_PREFIX, WAL_PREFIX, WRITERS_PREFIX, unit_containing,
};
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::{ALIKE, Body, SharedStore, StoreError, clock, compute, read_alike};

use crate::retention::before;

/// How many objects are on their way at once: of the largest, 128 MiB.
const AT_ONCE: usize = 4;

/// How often WAL is listed anew of which chunks went, into others or into their unit, before they were
/// read.
const LOOKS: usize = 20;

/// How old a part without a record must be to count as one that a later backup refers to, and not
/// as one of a backup that is being taken.
const SETTLED: std::time::Duration = std::time::Duration::from_secs(86_400);

/// What a copy did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CopyReport {
    /// Objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that were there already.
    pub present: u64,
    /// Objects that were left out because a prune removed them.
    pub pruned: u64,
    /// Objects that are damaged where they were to be copied from, and were not.
    pub damaged: Vec<Damaged>,
}

/// An object that was not copied because it is not whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a copy stopped.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// One of the archives.
    #[error(transparent)]
    Archive(#[from] Error),
    /// Chunks went each time they were listed.
    #[error(
        "chunks of {url} were merged before they could be copied, {LOOKS} times: what they hold may be lacking in the copy; copy again, over a faster way to it"
    )]
    Unstable {
        /// Where from.
        url: String,
    },
    /// They are not copies of each other.
    #[error(
        "{to} holds another archive ({theirs}) than {from} ({ours}); choose an empty place, or correct the URLs"
    )]
    OtherArchive {
        /// Where from.
        from: String,
        /// Its id.
        ours: String,
        /// Where to.
        to: String,
        /// Its id.
        theirs: String,
    },
}

impl From<StoreError> for CopyError {
    fn from(error: StoreError) -> CopyError {
        CopyError::Archive(error.into())
    }
}

/// Copies to `to` what `from` has and it lacks, telling `progress` of each object.
///
/// # Errors
/// When either cannot be asked, or `to` holds another archive. What was copied until then stays.
pub async fn copy(
    from: &Archive,
    to: &SharedStore,
    progress: &(dyn Fn(&CopyReport) + Sync),
) -> Result<CopyReport, CopyError> {
    identify(from, to).await?;
    let to = from.at(to.clone());
    let mut copying = Copying {
        pruned: [pruned(from).await?, pruned(&to).await?].concat(),
        from,
        to: &to,
        report: CopyReport::default(),
        gone: 0,
        progress,
    };
    // One that completes meanwhile needs WAL that was not listed: the next run copies it.
    let backups = from.list(BACKUPS_PREFIX).await?;
    copying.all_below(KEYS_PREFIX, |_| true).await?;
    copying.wal().await?;
    copying.all_below(GAPS_PREFIX, |_| true).await?;
    copying.backups(backups).await?;
    copying.all_below(DRILLS_PREFIX, |_| true).await?;
    copying.all_below(AUDIT_PREFIX, |_| true).await?;
    copying.all_below(WRITERS_PREFIX, |_| true).await?;
    copying.all_below(PRUNED_PREFIX, |_| true).await?;
    Ok(copying.report)
}

/// Sees to it that `to` is a copy of the same archive, or becomes one.
async fn identify(from: &Archive, to: &SharedStore) -> Result<(), CopyError> {
    let name = from.name(&ObjectKey::Archive);
    let ours = read_alike(&**from.store(), &name, ALIKE, |bytes| {
        check_whole(&ObjectKey::Archive, bytes).map(drop)
    });
    let ours = ours.await?.map_err(|reason| Error::Record {
        url: from.url().to_owned(),
        key: name.clone(),
        reason,
    })?;
    match to.put(&name, Body::new(ours)).await {
        Ok(()) => return Ok(()),
        Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let theirs = to.get(&name, None).await?;
    let theirs: ArchiveRecord = serde_json::from_slice(&theirs).map_err(|error| Error::Record {
        url: to.url().to_owned(),
        key: name,
        reason: error.to_string(),
    })?;
    if theirs.archive_id == from.record().archive_id {
        return Ok(());
    }
    Err(CopyError::OtherArchive {
        from: from.url().to_owned(),
        ours: from.record().archive_id.clone(),
        to: to.url().to_owned(),
        theirs: theirs.archive_id,
    })
}

/// What was pruned, as far as this host may know.
async fn pruned(archive: &Archive) -> Result<Vec<PruneRecord>, Error> {
    let mut records = Vec::new();
    for object in archive.list(PRUNED_PREFIX).await? {
        match archive.get_record(&object.key).await {
            Ok(record) => records.push(record),
            Err(error)
                if error.is_withheld()
                    || error.is_foreign()
                    || matches!(error, Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(records)
}

struct Copying<'a> {
    from: &'a Archive,
    to: &'a Archive,
    pruned: Vec<PruneRecord>,
    report: CopyReport,
    /// Objects that went since they were listed.
    gone: u64,
    progress: &'a (dyn Fn(&CopyReport) + Sync),
}

/// What became of an object.
enum Outcome {
    Copied(u64),
    Present,
    Gone,
    Damaged(Damaged),
}

impl Copying<'_> {
    /// Copies what is below `prefix`, in order, as far as it is `wanted`.
    async fn all_below(
        &mut self,
        prefix: &str,
        wanted: impl Fn(&Listed) -> bool,
    ) -> Result<(), Error> {
        let objects = self.from.list(prefix).await?;
        let objects = objects.into_iter().filter(wanted);
        let objects = objects.map(|object| object.key).collect();
        let held = self.held(prefix).await?;
        self.missing(objects, &held).await
    }

    /// Copies WAL. Chunks that go meanwhile went into a longer object, which is copied next.
    async fn wal(&mut self) -> Result<(), CopyError> {
        let mut first: Option<CopyReport> = None;
        for _ in 0..LOOKS {
            self.gone = 0;
            // Chunks give way to their unit: listed in this order, none is missed.
            let chunks = self.from.list(TAIL_PREFIX).await?;
            self.all_below(WAL_PREFIX, |_| true).await?;
            self.chunks(chunks).await?;
            // What a later look finds was there before, or was copied by this one.
            let first = first.get_or_insert_with(|| self.report.clone());
            (self.report.present, self.report.pruned) = (first.present, first.pruned);
            if self.gone == 0 {
                return Ok(());
            }
        }
        Err(CopyError::Unstable {
            url: self.from.url().to_owned(),
        })
    }

    /// Copies chunks whose unit the other archive does not hold whole.
    async fn chunks(&mut self, chunks: Vec<Listed>) -> Result<(), Error> {
        let held = self.to.list(TAIL_PREFIX).await?;
        let held: BTreeSet<String> = held
            .into_iter()
            .map(|object| self.to.name(&object.key))
            .collect();
        let units = self.to.list(WAL_PREFIX).await?;
        let units: BTreeSet<(TimelineId, Lsn)> = units
            .into_iter()
            .filter_map(|object| match object.key {
                ObjectKey::Wal(unit) => Some((unit.timeline, unit.range.start)),
                _ => None,
            })
            .collect();
        let size = self.from.segment_size();
        let mut sound: BTreeMap<(TimelineId, Lsn), bool> = BTreeMap::new();
        let mut open = Vec::new();
        for object in chunks {
            let ObjectKey::Tail(timeline, range) = object.key else {
                continue;
            };
            let unit = unit_containing(range.start, size);
            let at = (timeline, unit.start);
            let whole = match sound.get(&at) {
                Some(whole) => *whole,
                None if !units.contains(&at) => false,
                None => {
                    let key = wal_key(timeline, unit, true);
                    let whole = self.is_sound(&key).await?;
                    sound.insert(at, whole);
                    whole
                }
            };
            if !whole {
                open.push(object.key);
            }
        }
        self.missing(open, &held).await
    }

    /// Whether an object of the other archive is what was stored, as far as this host can tell: a name
    /// takes the place of no chunk.
    async fn is_sound(&self, key: &ObjectKey) -> Result<bool, Error> {
        match self.to.read::<Error>(key, |_| Ok(())).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => Err(error),
            Err(error) if error.is_withheld() => Ok(self.to.check_bytes(key).await.is_ok()),
            Err(_) => Ok(false),
        }
    }

    /// Copies backups that are complete, each with its record last, and parts that may be
    /// another's.
    async fn backups(&mut self, listed: Vec<Listed>) -> Result<(), Error> {
        let mut backups: BTreeMap<BackupId, Vec<Listed>> = BTreeMap::new();
        for object in listed {
            if let Some(id) = backup_of(&object.key) {
                backups.entry(id.clone()).or_default().push(object);
            }
        }
        let held = self.held(BACKUPS_PREFIX).await?;
        let settled = before(clock::now(), SETTLED);
        for objects in backups.into_values() {
            let is_record = |object: &Listed| matches!(object.key, ObjectKey::BackupRecord(_));
            let complete = objects.iter().any(is_record);
            let (records, others): (Vec<_>, Vec<_>) = objects
                .into_iter()
                .filter(|object| complete || object.modified < settled)
                .partition(is_record);
            for stage in [others, records] {
                let keys = stage.into_iter().map(|object| object.key).collect();
                let damaged = self.report.damaged.len();
                self.missing(keys, &held).await?;
                if self.report.damaged.len() > damaged {
                    // Without its parts there is no backup: its record would lie.
                    break;
                }
            }
        }
        Ok(())
    }

    /// The names that the other archive holds.
    async fn held(&self, prefix: &str) -> Result<BTreeSet<String>, Error> {
        let held = self.to.list(prefix).await?;
        Ok(held
            .into_iter()
            .map(|object| self.to.name(&object.key))
            .collect())
    }

    /// Copies those of `objects` that are not held.
    async fn missing(
        &mut self,
        objects: Vec<ObjectKey>,
        held: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let (from, to) = (self.from, self.to);
        let mut missing = Vec::new();
        for key in objects {
            let name = from.name(&key);
            if held.contains(&name) {
                self.report.present += 1;
            } else if self
                .pruned
                .iter()
                .any(|record| record.explains(&key, &name))
            {
                self.report.pruned += 1;
            } else {
                missing.push((key, name));
            }
        }
        let mut copied = stream::iter(missing)
            .map(|(key, name)| copy_one(from, to, key, name))
            .buffered(AT_ONCE);
        while let Some(outcome) = copied.next().await {
            match outcome? {
                Outcome::Copied(bytes) => {
                    self.report.objects += 1;
                    self.report.bytes += bytes;
                }
                Outcome::Present => self.report.present += 1,
                Outcome::Gone => self.gone += 1,
                Outcome::Damaged(damaged) => {
                    tracing::error!(
                        archive = from.url(),
                        key = damaged.key,
                        reason = damaged.reason,
                        "an object is damaged and is not copied"
                    );
                    if !self.report.damaged.contains(&damaged) {
                        self.report.damaged.push(damaged);
                    }
                }
            }
            (self.progress)(&self.report);
        }
        Ok(())
    }
}

async fn copy_one(
    from: &Archive,
    to: &Archive,
    key: ObjectKey,
    name: String,
) -> Result<Outcome, Error> {
    let read = match key {
        // Nothing in it would tell that it was altered on the way.
        ObjectKey::Key(..) => {
            let check = move |bytes| check_whole(&key, bytes).map(drop);
            let read = read_alike(&**from.store(), &name, ALIKE, check).await;
            read.map(|read| read.map(Body::new))
        }
        _ => match from.store().get(&name, None).await {
            Ok(bytes) => Ok(compute::elsewhere(move || check_whole(&key, bytes)).await),
            Err(error) => Err(error),
        },
    };
    let body = match read {
        Ok(Ok(body)) => body,
        Ok(Err(reason)) => return Ok(Outcome::Damaged(Damaged { key: name, reason })),
        // A chunk whose unit is whole by now, or what a prune removes.
        Err(StoreError::Missing { .. }) => return Ok(Outcome::Gone),
        Err(error @ StoreError::TooLarge { .. }) => {
            let reason = error.to_string();
            return Ok(Outcome::Damaged(Damaged { key: name, reason }));
        }
        Err(error) => return Err(error.into()),
    };
    let size = body.bytes.len() as u64;
    match to.store().put(&name, body).await {
        Ok(()) => Ok(Outcome::Copied(size)),
        Err(StoreError::Exists { .. }) => Ok(Outcome::Present),
        Err(error) => Err(error.into()),
    }
}

fn backup_of(key: &ObjectKey) -> Option<&BackupId> {
    match key {
        ObjectKey::BackupPart(id, _)
        | ObjectKey::BackupManifest(id)
        | ObjectKey::BackupFiles(id)
        | ObjectKey::BackupRecord(id)
        | ObjectKey::Keep(id, _) => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
