//! The catalog: what an archive holds, read off its listing.
//!
//! There is no second index that could drift: names carry ranges, and the upload is the commit.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, stream};
use serde::Serialize;
use walvault_layout::{
    BackupId, GAPS_PREFIX, KeyId, ObjectKey, TAIL_PREFIX, WAL_PREFIX, WalObject,
};
use walvault_protocol::wal::WalMark;
use walvault_protocol::{Lsn, LsnRange, SegmentSize, TimelineHistory, TimelineId};

use crate::archive::{Archive, Listed};
use crate::coverage::Coverage;
use crate::damage::{Damage, left_out};
use crate::error::Error;
use crate::keep::Keeps;
use crate::record::{BackupRecord, GapRecord, commit_index};

mod backups;
mod ends;
pub mod holes;
mod newest;
mod proof;
mod recent;
pub mod seen;
mod successor;
mod union;
pub mod window;
pub mod window_start;

use backups::load_backups;
pub use proof::open_all;

pub use holes::Hole;
pub use seen::{BackupSeen, GapSeen, Seen};
pub use successor::successor;
pub use window::RecoveryWindow;
pub use window_start::WindowStarts;

/// How many histories are read at once: there is one for each promotion.
const HISTORIES_AT_ONCE: usize = 16;

/// What an archive holds.
#[derive(Debug, Clone)]
pub struct Catalog {
    segment_size: SegmentSize,
    timelines: BTreeMap<TimelineId, TimelineWal>,
    histories: BTreeMap<TimelineId, TimelineHistory>,
    /// Timelines that exist, as far as is known, and whose history was not read: it is withheld from this
    /// host, damaged or gone.
    unread_histories: BTreeSet<TimelineId>,
    backups: Vec<BackupRecord>,
    notes: BTreeMap<BackupId, BackupNotes>,
    unfinished: Vec<BackupId>,
    named_gaps: Vec<NamedGap>,
    gaps: Vec<GapRecord>,
    unreadable: Vec<Unreadable>,
}

/// A gap as its name tells.
#[derive(Debug, Clone, Copy)]
struct NamedGap {
    timeline: TimelineId,
    range: LsnRange,
    /// Whether its record was opened.
    opened: bool,
}

/// An object that does not open, so that the catalog lacks what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unreadable {
    /// Its name.
    pub object: String,
    /// Why it does not open.
    pub reason: String,
    /// Whether it is sealed for others than this host, as opposed to damaged.
    pub withheld: bool,
    /// Whether it is sealed under a data key that no trusted writer signed.
    pub foreign: bool,
}

/// What is known of a backup beside its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupNotes {
    /// What keeps it.
    pub keeps: Keeps,
    /// The data key that its record is sealed under.
    pub key_id: KeyId,
}

/// The WAL held of one timeline.
#[derive(Debug, Clone, Default)]
pub struct TimelineWal {
    /// Objects that hold it, in order of their start; chunks may overlap whole units.
    pub objects: Vec<WalHeld>,
    /// What they cover together.
    pub coverage: Coverage,
}

/// One object of WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalHeld {
    /// What it holds.
    pub range: LsnRange,
    /// Whether it is a whole unit.
    pub whole: bool,
    /// Bytes stored.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: jiff::Timestamp,
}

impl Catalog {
    /// Reads what `archive` holds: WAL, histories, backups and gaps. What does not open is left out,
    /// and a warning names it; of WAL, which is named by listings alone, what lies behind the last that opens.
    ///
    /// # Errors
    /// When the store cannot be read, or this host may open nothing of what it holds.
    pub async fn load(archive: &Archive) -> Result<Catalog, Error> {
        let (mut catalog, mut found) = Catalog::load_finding(archive).await?;
        let nothing =
            catalog.backups.is_empty() && catalog.gaps.is_empty() && catalog.histories.is_empty();
        let withheld = found.iter().position(|(_, error)| error.is_withheld());
        if let Some(at) = withheld.filter(|_| nothing) {
            return Err(found.swap_remove(at).1);
        }
        for (object, error) in found {
            left_out(&object, &error);
            catalog.unreadable.push(Unreadable {
                object,
                reason: error.to_string(),
                withheld: error.is_withheld(),
                foreign: error.is_foreign(),
            });
        }
        catalog.prove_ends(archive).await?;
        Ok(catalog)
    }

    /// The catalog, and the objects that do not open and are left out of it.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load_finding(archive: &Archive) -> Result<(Catalog, Vec<(String, Error)>), Error> {
        let damage = Damage::left_out();
        let catalog = Catalog::load_leaving_out(archive, &damage).await?;
        Ok((catalog, damage.into_found()))
    }

    /// As [`Catalog::load`], for who vouches for it: nothing may be left out.
    ///
    /// # Errors
    /// When the store cannot be read, or a record in it does not open.
    pub async fn load_whole(archive: &Archive) -> Result<Catalog, Error> {
        Catalog::load_leaving_out(archive, &Damage::refused()).await
    }

    /// As [`Catalog::load`], leaving out what does not open and `damage` is to collect.
    ///
    /// # Errors
    /// As [`Catalog::load`], but for what was collected.
    pub async fn load_leaving_out(archive: &Archive, damage: &Damage) -> Result<Catalog, Error> {
        // A backup's record is stored after the WAL it needs: listed in this order, none lacks it.
        let (backups, gaps) =
            tokio::try_join!(load_backups(archive, damage), load_gaps(archive, damage))?;
        let mut catalog = Catalog::load_listed(archive, false, damage).await?;
        for (record, notes) in backups.complete {
            catalog.notes.insert(record.id.clone(), notes);
            catalog.backups.push(record);
        }
        catalog.unfinished = backups.unfinished;
        catalog.gaps = gaps;
        Ok(catalog)
    }

    /// Reads complete backups, oldest first, and gaps, without listing WAL.
    ///
    /// # Errors
    /// When the store cannot be read, or a record in it does not open.
    pub async fn load_backups(
        archive: &Archive,
    ) -> Result<(Vec<BackupRecord>, Vec<GapRecord>), Error> {
        let damage = Damage::refused();
        let (backups, gaps) =
            tokio::try_join!(load_backups(archive, &damage), load_gaps(archive, &damage))?;
        let complete = backups.complete.into_iter().map(|(record, _)| record);
        Ok((complete.collect(), gaps))
    }

    /// Reads WAL, histories and where gaps are: all that a writer needs to know. Of a history that
    /// is not for this host to read, it needs to know that it is there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load_wal(archive: &Archive) -> Result<Catalog, Error> {
        let damage = Damage::left_out();
        let catalog = Catalog::load_listed(archive, true, &damage).await?;
        for (object, error) in damage.into_found() {
            left_out(&object, &error);
        }
        Ok(catalog)
    }

    async fn load_listed(
        archive: &Archive,
        may_be_withheld: bool,
        damage: &Damage,
    ) -> Result<Catalog, Error> {
        // Chunks go away once their unit is stored whole: listed in this order, none is missed.
        let tail = archive.list(TAIL_PREFIX).await?;
        let wal = archive.list(WAL_PREFIX).await?;
        let gaps = archive.list(GAPS_PREFIX).await?;
        let listing = wal.iter().chain(&tail).chain(&gaps);
        let mut catalog = Catalog::from_listing(archive.segment_size(), listing);
        let doubtful = catalog
            .read_histories(archive, &wal, may_be_withheld, damage)
            .await?;
        catalog.prove(archive, doubtful, may_be_withheld).await?;
        Ok(catalog)
    }

    /// Reads the histories that `listed` names; the timelines of those that are damaged.
    async fn read_histories(
        &mut self,
        archive: &Archive,
        listed: &[Listed],
        may_be_withheld: bool,
        damage: &Damage,
    ) -> Result<BTreeSet<TimelineId>, Error> {
        let timelines = listed.iter().filter_map(|object| match object.key {
            ObjectKey::History(timeline) => Some(timeline),
            _ => None,
        });
        let reads =
            timelines.map(|timeline| async move { (timeline, archive.history(timeline).await) });
        // Collected, so that whoever waits for it may do so on any thread.
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(HISTORIES_AT_ONCE);
        let mut doubtful = BTreeSet::new();
        while let Some((timeline, read)) = reads.next().await {
            if !(may_be_withheld && read.as_ref().is_err_and(Error::is_withheld)) {
                self.unread_histories.remove(&timeline);
            }
            match read {
                Ok(history) => {
                    self.histories.insert(timeline, history);
                }
                Err(error) if may_be_withheld && error.is_withheld() => {}
                Err(error) => {
                    damage.collect(archive.name(&ObjectKey::History(timeline)), error)?;
                    doubtful.insert(timeline);
                }
            }
        }
        Ok(doubtful)
    }

    /// Opens what gaps and timelines rest on, of which names alone tell so far.
    async fn prove(
        &mut self,
        archive: &Archive,
        mut doubtful: BTreeSet<TimelineId>,
        may_be_withheld: bool,
    ) -> Result<(), Error> {
        if may_be_withheld {
            self.open_gaps(archive).await?;
        } else {
            // A writer goes by its server's timeline, and opens no WAL of others.
            doubtful.extend(self.timelines_without_history());
        }
        for timeline in doubtful {
            if self.proves(archive, timeline).await? {
                self.unread_histories.insert(timeline);
            }
        }
        Ok(())
    }

    /// Opens the records of gaps. One that is damaged, or was never a record, tells of no gap.
    async fn open_gaps(&mut self, archive: &Archive) -> Result<(), Error> {
        let mut opened = Vec::new();
        for mut gap in std::mem::take(&mut self.named_gaps) {
            let key = ObjectKey::Gap(gap.timeline, gap.range);
            match archive.get_record::<GapRecord>(&key).await {
                Ok(_) => gap.opened = true,
                Err(error) if error.is_transient() => return Err(error),
                Err(error) if error.is_withheld() => {}
                Err(error) => {
                    left_out(&archive.name(&key), &error);
                    continue;
                }
            }
            opened.push(gap);
        }
        self.named_gaps = opened;
        Ok(())
    }

    /// The WAL, gaps and histories that a listing names, without what histories say, backups and causes.
    pub fn from_listing<'a>(
        size: SegmentSize,
        listing: impl IntoIterator<Item = &'a Listed>,
    ) -> Catalog {
        let mut timelines: BTreeMap<TimelineId, TimelineWal> = BTreeMap::new();
        let mut named_gaps = Vec::new();
        let mut unread_histories = BTreeSet::new();
        for object in listing {
            let (timeline, range, whole) = match object.key {
                ObjectKey::Wal(WalObject { timeline, range }) => (timeline, range, true),
                ObjectKey::Tail(timeline, range) => (timeline, range, false),
                ObjectKey::Gap(timeline, range) => {
                    named_gaps.push(NamedGap {
                        timeline,
                        range,
                        opened: false,
                    });
                    continue;
                }
                ObjectKey::History(timeline) => {
                    unread_histories.insert(timeline);
                    continue;
                }
                _ => continue,
            };
            let wal = timelines.entry(timeline).or_default();
            wal.coverage.insert(range);
            wal.objects.push(WalHeld {
                range,
                whole,
                size: object.size,
                modified: object.modified,
            });
        }
        for wal in timelines.values_mut() {
            wal.objects.sort_by_key(WalHeld::order);
        }
        Catalog {
            segment_size: size,
            timelines,
            histories: BTreeMap::new(),
            unread_histories,
            backups: Vec::new(),
            notes: BTreeMap::new(),
            unfinished: Vec::new(),
            named_gaps,
            gaps: Vec::new(),
            unreadable: Vec::new(),
        }
    }

    /// What it would be with these backups and this WAL alone; histories and gaps stay.
    #[must_use]
    pub fn restricted(
        &self,
        backups: &BTreeSet<BackupId>,
        wal: impl Fn(TimelineId, &WalHeld) -> bool,
    ) -> Catalog {
        let mut restricted = self.clone();
        restricted
            .backups
            .retain(|backup| backups.contains(&backup.id));
        restricted.notes.retain(|id, _| backups.contains(id));
        restricted.unfinished.clear();
        for (timeline, held) in &mut restricted.timelines {
            held.objects.retain(|object| wal(*timeline, object));
            held.coverage = held.objects.iter().map(|object| object.range).collect();
        }
        restricted
            .timelines
            .retain(|_, held| !held.objects.is_empty());
        restricted
    }

    /// The cluster's segment size.
    #[must_use]
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// What is known of a backup beside its record.
    #[must_use]
    pub fn notes(&self, id: &BackupId) -> Option<&BackupNotes> {
        self.notes.get(id)
    }

    /// Backups of which there are objects, but no record: not complete yet, or being removed.
    #[must_use]
    pub fn unfinished(&self) -> &[BackupId] {
        &self.unfinished
    }

    /// Complete backups, oldest first; `kept` is as it is now.
    #[must_use]
    pub fn backups(&self) -> &[BackupRecord] {
        &self.backups
    }

    /// Recorded gaps, in order of timeline and start.
    #[must_use]
    pub fn gaps(&self) -> &[GapRecord] {
        &self.gaps
    }

    /// The end of the recorded gap that the byte at `lsn` of `timeline` lies in. A gap whose record was not
    /// opened counts if it ends by `kept`, from where on the server keeps WAL: its name may be anybody's.
    #[must_use]
    pub fn gap_at(&self, timeline: TimelineId, lsn: Lsn, kept: Lsn) -> Option<Lsn> {
        let within = |gap: &&NamedGap| {
            let counts = gap.opened || gap.range.end <= kept;
            gap.timeline == timeline && gap.range.contains(lsn) && counts
        };
        let gap = self.named_gaps.iter().find(within);
        gap.map(|gap| gap.range.end)
    }

    /// The timelines that WAL is held of, oldest first.
    pub fn timelines(&self) -> impl DoubleEndedIterator<Item = (TimelineId, &TimelineWal)> {
        self.timelines
            .iter()
            .map(|(timeline, wal)| (*timeline, wal))
    }

    /// The WAL held of `timeline`.
    #[must_use]
    pub fn wal(&self, timeline: TimelineId) -> Option<&TimelineWal> {
        self.timelines.get(&timeline)
    }

    /// Every history file held.
    #[must_use]
    pub fn histories(&self) -> &BTreeMap<TimelineId, TimelineHistory> {
        &self.histories
    }

    /// Timelines that exist, and of which nobody can say here how they came to be: WAL of them opens, and
    /// no history does, or it is withheld from this host.
    #[must_use]
    pub fn unread_histories(&self) -> &BTreeSet<TimelineId> {
        &self.unread_histories
    }

    /// How `timeline` came to be. Without a history file it has no ancestors.
    #[must_use]
    pub fn history(&self, timeline: TimelineId) -> TimelineHistory {
        self.histories
            .get(&timeline)
            .cloned()
            .unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// The newest timeline that has a history or a backup, or the first, if WAL of it is held. WAL
    /// alone makes no other timeline: its history is stored before it, and a name proves nothing.
    #[must_use]
    pub fn latest_timeline(&self) -> Option<TimelineId> {
        let first = self.timelines.keys().next();
        let first = first.filter(|timeline| **timeline == TimelineId::FIRST);
        let histories = self.histories.keys().next_back();
        let unread = self.unread_histories.last();
        let backups = self.backups.iter().map(|backup| &backup.timeline).max();
        first.max(histories).max(unread).max(backups).copied()
    }

    /// Timelines after [`Catalog::latest_timeline`] that WAL is held of.
    pub fn timelines_without_history(&self) -> impl Iterator<Item = TimelineId> {
        let latest = self.latest_timeline();
        let held = self.timelines.keys().copied();
        held.filter(move |timeline| Some(*timeline) > latest)
    }

    /// What [`Catalog::load`] left out, since it does not open.
    #[must_use]
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The record of a backup that [`Catalog::load`] left out: of this backup, or of any.
    #[must_use]
    pub fn unreadable_record(&self, id: Option<&BackupId>) -> Option<&Unreadable> {
        self.unreadable.iter().find(|unreadable| {
            match ObjectKey::parse(&unreadable.object, self.segment_size) {
                Some(ObjectKey::BackupRecord(of)) => id.is_none_or(|id| *id == of),
                _ => false,
            }
        })
    }

    /// How far replay can go from `from` on the way to `history`'s timeline: over ancestors up to
    /// where each was left, then over the timeline itself, without a hole. PostgreSQL reads the
    /// segment of a switch point from the newest timeline that has it, so bytes below the switch
    /// count when either timeline holds them.
    #[must_use]
    pub fn reach(&self, history: &TimelineHistory, from: Lsn) -> Lsn {
        let mut at = from;
        loop {
            let timeline = history.timeline_at(at);
            let limit = history.left_at(timeline).unwrap_or(Lsn(u64::MAX));
            let held = |timeline: TimelineId| {
                self.wal(timeline)
                    .map_or(at, |wal| wal.coverage.unbroken_to(at))
                    .min(limit)
            };
            let descendants = history.switches().iter().map(|switch| switch.timeline);
            let reached = descendants
                .chain([history.timeline()])
                .filter(|candidate| *candidate >= timeline)
                .map(held)
                .max()
                .unwrap_or(at);
            if reached == at {
                return at;
            }
            at = reached;
        }
    }

    /// How far replay can go from `backup` on the way to `history`'s timeline, without a hole. Where
    /// the segment that replay begins in is not held from its own beginning, replay cannot begin,
    /// and the answer lies before the backup's start.
    #[must_use]
    pub fn reach_from(&self, history: &TimelineHistory, backup: &BackupRecord) -> Lsn {
        self.reach(history, backup.wal_needed(self.segment_size).start)
    }

    /// The commit index of one object of WAL.
    ///
    /// # Errors
    /// When the object cannot be read, or its index does not decode.
    pub async fn marks(
        &self,
        archive: &Archive,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> Result<Vec<WalMark>, Error> {
        let meta = held.meta(archive, timeline).await?;
        let mut marks = commit_index::decode(&meta.attachment).map_err(|error| Error::Record {
            url: archive.url().to_owned(),
            key: archive.name(&crate::archive::wal_key(timeline, held.range, held.whole)),
            reason: error.to_string(),
        })?;
        // What took its place has marks of its neighbours.
        marks.retain(|mark| held.range.start < mark.end && mark.end <= held.range.end);
        Ok(marks)
    }
}

async fn load_gaps(archive: &Archive, damage: &Damage) -> Result<Vec<GapRecord>, Error> {
    let mut gaps = Vec::new();
    for object in archive.list(GAPS_PREFIX).await? {
        match archive.get_record(&object.key).await {
            Ok(gap) => gaps.push(gap),
            Err(error) => damage.collect(archive.name(&object.key), error)?,
        }
    }
    Ok(gaps)
}

#[cfg(test)]
mod tests;
