//! Making the plan out of what the archive holds.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use walvault_archive::archive::{Archive, wal_key};
use walvault_archive::catalog::{Catalog, TimelineWal, WalHeld};
use walvault_archive::damage::left_out;
use walvault_archive::error::Error;
use walvault_archive::key_usage;
use walvault_archive::keys::KeyError;
use walvault_archive::record::BackupRecord;
use walvault_layout::{BackupId, ObjectKey, backup_prefix};
use walvault_protocol::{Lsn, LsnRange, SegmentNumber, TimelineId};
use walvault_store::StoreError;

use super::need::Needs;
use super::orphans::{self, is_borrowed};
use super::under_way::UnderWay;
use super::{BackupFate, PruneError, PrunePlan, Removal, Removals, WalFate, WalReason, fates};
use crate::lease::Leases;
use crate::retention::{RetentionPolicy, before};

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_secs(600);

/// What is asked of a prune.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What stays.
    pub policy: RetentionPolicy,
    /// The time.
    pub now: Timestamp,
    /// The time by the store's clock, where it is known: when the lock was stored.
    pub store_now: Option<Timestamp>,
    /// Go by `now` though the archive contradicts it.
    pub ignore_clock: bool,
    /// The part of all backups that may go, where nobody looks at the plan.
    pub share: Option<f64>,
}

/// Plans a prune; nothing is removed. The caller holds the upkeep lock if the plan is to be
/// applied.
///
/// # Errors
/// When the archive cannot be read, the policy keeps nothing, or the clock cannot be believed.
pub async fn plan(archive: &Archive, asked: &Asked) -> Result<PrunePlan, PruneError> {
    let (policy, now) = (&asked.policy, asked.now);
    if policy.keeps_nothing() {
        return Err(PruneError::RemovesEverything);
    }
    let catalog = load(archive).await?;
    if !asked.ignore_clock {
        check_clock(&catalog, asked)?;
    }
    let mut locked = BTreeMap::new();
    let leases = Leases::look(archive, now).await?;
    let mut judged = fates::judge(&catalog, policy, &locked, &leases, now);
    // A backup that the store does not let go keeps its WAL as well.
    for fate in judged.iter().filter(|fate| fate.goes) {
        let record = archive.name(&ObjectKey::BackupRecord(fate.id.clone()));
        let until = archive.store().locked_until(&record).await;
        if let Some(until) = until.map_err(Error::from)?.filter(|until| *until > now) {
            locked.insert(fate.id.clone(), until);
        }
    }
    if !locked.is_empty() {
        judged = fates::judge(&catalog, policy, &locked, &leases, now);
    }
    let going: BTreeSet<&BackupId> = ids(&judged, true).collect();
    check_share(asked, going.len(), judged.len())?;
    let mut removals = Removals::default();
    let grace = before(now, policy.grace);
    let under_way = UnderWay::look(archive, &catalog, grace).await?;
    let borrowed = match going.is_empty() && under_way.left.is_empty() {
        true => orphans::Parts::new(),
        false => orphans::borrowed(archive, ids(&judged, false)).await?,
    };
    for id in &going {
        for object in archive.list(&backup_prefix(id)).await? {
            let removal = Removal {
                size: object.size,
                key: object.key,
            };
            match removal.key {
                ObjectKey::BackupRecord(_) => removals.records.push(((*id).clone(), removal)),
                _ if is_borrowed(&removal.key, &borrowed) => {}
                _ => removals.data.push(((*id).clone(), removal)),
            }
        }
    }
    let staying: Vec<&BackupRecord> = catalog
        .backups()
        .iter()
        .filter(|backup| !going.contains(&backup.id))
        .collect();
    let judge = |spared: &BTreeSet<String>, removals: &mut Removals| {
        wal(
            &catalog, asked, &staying, &leases, &under_way, spared, removals,
        )
    };
    let mut wanted = Removals::default();
    let _ = judge(&BTreeSet::new(), &mut wanted);
    let wanted = wanted.wal.into_iter().map(|removal| removal.key);
    let wal = judge(&key_usage::foreign(archive, wanted).await?, &mut removals);
    let left = under_way.left;
    let mut orphans =
        orphans::collect(archive, &catalog, left, &borrowed, grace, &mut removals).await?;
    orphans.extend(orphans::expired(archive, leases.over, &mut removals));
    Ok(PrunePlan {
        made_at: now,
        policy: policy.clone(),
        backups: judged,
        wal,
        orphans,
        removals,
    })
}

/// The catalog, in which nothing may be lacking: what does not open may be all that keeps a backup, or
/// needs WAL. The name of a history alone, of a timeline of which no WAL opens, keeps nothing. Where a
/// timeline exists and a stranger sealed what lies in the place of its history, the timeline stays among
/// [`Catalog::unread_histories`]: whatever may lead to it stays, and one such object stops no prune.
async fn load(archive: &Archive) -> Result<Catalog, PruneError> {
    let (catalog, found) = Catalog::load_finding(archive).await?;
    let unread = catalog.unread_histories();
    let mut forged = BTreeSet::new();
    for (object, error) in found {
        let is_foreign = is_foreign(archive, &error).await?;
        match ObjectKey::parse(&object, archive.segment_size()) {
            Some(ObjectKey::History(timeline))
                if (is_foreign || !error.is_withheld()) && !unread.contains(&timeline) =>
            {
                left_out(&object, &error);
            }
            Some(ObjectKey::History(timeline)) if is_foreign => {
                left_out(&object, &error);
                forged.insert(timeline);
            }
            // It is nobody's that is known: it keeps nothing, and nothing of it goes.
            _ if is_foreign => left_out(&object, &error),
            _ if error.is_withheld() => return Err(error.into()),
            _ => return Err(unreadable(object, error)),
        }
    }
    // It is gone, and any backup may lead to its timeline.
    if let Some(timeline) = unread.difference(&forged).next() {
        let object = archive.name(&ObjectKey::History(*timeline));
        let gone = StoreError::missing(archive.url(), &object);
        return Err(unreadable(object, gone.into()));
    }
    Ok(catalog)
}

/// Whether a data key sealed it that no trusted writer signed, for whatever purpose and for whomever.
async fn is_foreign(archive: &Archive, error: &Error) -> Result<bool, Error> {
    match error {
        Error::Key(KeyError::CannotUnwrap { id, .. }) => {
            let epoch = archive.keyring().epoch(*id).await?;
            // A record that does not read may be a trusted writer's.
            Ok(epoch.is_some_and(|epoch| epoch.record.is_ok() && !epoch.trusted))
        }
        error => Ok(error.is_foreign()),
    }
}

fn unreadable(object: String, error: Error) -> PruneError {
    PruneError::Unreadable {
        object,
        reason: Box::new(error),
    }
}

fn ids(fates: &[BackupFate], goes: bool) -> impl Iterator<Item = &BackupId> {
    fates
        .iter()
        .filter(move |fate| fate.goes == goes)
        .map(|fate| &fate.id)
}

/// Refuses a clock that the archive or the store contradicts.
fn check_clock(catalog: &Catalog, asked: &Asked) -> Result<(), PruneError> {
    let now = asked.now;
    let stored = catalog
        .timelines()
        .flat_map(|(_, wal)| wal.objects.iter().map(|held| held.modified));
    let taken = catalog.backups().iter().map(|backup| backup.stopped_at);
    let latest = now.checked_add(SKEW).unwrap_or(Timestamp::MAX);
    if let Some(newest) = stored.chain(taken).max().filter(|newest| *newest > latest) {
        return Err(PruneError::ClockBehind { newest, now });
    }
    match asked.store_now {
        Some(store) if store < before(now, SKEW) => Err(PruneError::ClockAhead { store, now }),
        _ => Ok(()),
    }
}

/// Refuses to remove more at once than may go without being looked at. One may always.
fn check_share(asked: &Asked, going: usize, all: usize) -> Result<(), PruneError> {
    match asked.share {
        Some(share) if going > 1 && going as f64 > share * all as f64 => {
            Err(PruneError::TooMuch { going, all, share })
        }
        _ => Ok(()),
    }
}

/// Decides about every object of WAL and every gap.
fn wal(
    catalog: &Catalog,
    asked: &Asked,
    staying: &[&BackupRecord],
    leases: &Leases,
    under_way: &UnderWay,
    foreign: &BTreeSet<String>,
    removals: &mut Removals,
) -> Vec<WalFate> {
    let (policy, now) = (&asked.policy, asked.now);
    let untrimmed: Option<BTreeSet<&BackupId>> = policy.wal_window_start(now).map(|start| {
        let pivots = fates::begin_window(catalog, staying, start);
        let within = staying.iter().filter(|backup| backup.stopped_at > start);
        pivots
            .into_iter()
            .chain(within.copied())
            .map(|backup| &backup.id)
            .chain(leases.good.keys())
            .collect()
    });
    let trim = |backup: &BackupRecord| {
        untrimmed
            .as_ref()
            .is_some_and(|untrimmed| !untrimmed.contains(&backup.id))
    };
    let needs = Needs::of(catalog, staying.iter().copied(), trim);
    let judge = Judge {
        catalog,
        has_policy: policy.is_set(),
        has_backup: !staying.is_empty(),
        latest: catalog.latest_timeline(),
        grace: before(now, policy.grace),
        needs: &needs,
        under_way,
        margin: policy.grace + SKEW,
        untold: catalog.unread_histories().last().copied(),
    };
    let size = catalog.segment_size();
    let name = |timeline, held: &WalHeld| wal_key(timeline, held.range, held.whole).spell(size);
    let mut fates: Vec<WalFate> = Vec::new();
    for (timeline, wal) in catalog.timelines() {
        let awaited = judge.awaited(wal);
        for held in &wal.objects {
            let (goes, because) = match judge.of(timeline, held) {
                (true, _) if awaited.is_some_and(|from| held.range.end > from) => {
                    (false, WalReason::BackupUnderWay)
                }
                (true, _) if foreign.contains(&name(timeline, held)) => (false, WalReason::Foreign),
                judged => judged,
            };
            if goes {
                removals.wal.push(Removal {
                    key: wal_key(timeline, held.range, held.whole),
                    size: held.size,
                });
            }
            add(&mut fates, timeline, held, goes, because);
        }
    }
    for gap in catalog.gaps() {
        // Its cause explains where a window begins, as long as there is anything before it.
        let needed = needs.who(gap.timeline, gap.range).is_some() || judge.may_lead(gap.timeline);
        if policy.is_set() && !needed && needs.begins_after(gap.timeline, gap.range.end) {
            removals.gaps.push(Removal {
                key: ObjectKey::Gap(gap.timeline, gap.range),
                size: 0,
            });
        }
    }
    fates
}

struct Judge<'a> {
    catalog: &'a Catalog,
    has_policy: bool,
    has_backup: bool,
    latest: Option<TimelineId>,
    grace: Timestamp,
    needs: &'a Needs<'a>,
    under_way: &'a UnderWay,
    /// How long before a backup was begun the WAL that it starts from may have been stored.
    margin: Duration,
    /// The newest timeline of which nobody can say how it came to be.
    untold: Option<TimelineId>,
}

impl Judge<'_> {
    /// Whether `timeline` may lead to one that nobody can say how it came to be, or is it.
    fn may_lead(&self, timeline: TimelineId) -> bool {
        self.untold.is_some_and(|untold| timeline <= untold)
    }

    /// From where on a backup that is being taken may need `wal`.
    fn awaited(&self, wal: &TimelineWal) -> Option<Lsn> {
        self.under_way.needs_from(self.catalog, wal, self.margin)
    }

    /// Whether an object of WAL goes, and why.
    fn of(&self, timeline: TimelineId, held: &WalHeld) -> (bool, WalReason) {
        if !self.has_backup {
            return (false, WalReason::NoBackup);
        }
        if let Some(backup) = self.needs.who(timeline, held.range) {
            let backup = backup.clone();
            return (false, WalReason::Needed { backup });
        }
        if !self.has_policy {
            return (false, WalReason::NoPolicy);
        }
        if self.may_lead(timeline) || self.founds_latest(timeline, held.range) {
            return (false, WalReason::Unfounded);
        }
        // Without its history nobody can say which backups lead to it.
        let root = timeline == TimelineId::FIRST;
        let known = root || self.catalog.histories().contains_key(&timeline);
        if self.needs.leads_to(timeline) {
            let reason = match self.needs.begins_after(timeline, held.range.end) {
                true => WalReason::BeforeFirstBackup,
                false => WalReason::OutsideWalWindow,
            };
            return (true, reason);
        }
        if !known {
            return (false, WalReason::Unfounded);
        }
        if held.modified >= self.grace {
            return (false, WalReason::Recent);
        }
        (true, WalReason::NoBackupLeadsHere)
    }

    /// Whether the first backup of the newest timeline may need it, while none leads there. Such a backup
    /// needs whole segments, and the timeline's first segment begins with what its ancestors wrote.
    fn founds_latest(&self, timeline: TimelineId, range: LsnRange) -> bool {
        let unfounded = self.latest.filter(|latest| !self.needs.leads_to(*latest));
        let Some(latest) = unfounded else {
            return false;
        };
        if timeline == latest {
            return true;
        }
        let history = self.catalog.history(latest);
        let size = self.catalog.segment_size();
        let begin = SegmentNumber::containing(history.begins_at(), size)
            .range(size)
            .start;
        let left = history.left_at(timeline);
        left.is_some_and(|left| range.end > begin && range.start < left)
    }
}

/// Adds an object to the run it continues, or begins another.
fn add(
    fates: &mut Vec<WalFate>,
    timeline: TimelineId,
    held: &WalHeld,
    goes: bool,
    because: WalReason,
) {
    let LsnRange { start, end } = held.range;
    if let Some(last) = fates.last_mut() {
        let continues = last.timeline == timeline && start <= last.end_lsn;
        if continues && last.goes == goes && last.because == because {
            last.end_lsn = last.end_lsn.max(end);
            last.objects += 1;
            last.stored_size += held.size;
            return;
        }
    }
    fates.push(WalFate {
        timeline,
        start_lsn: start,
        end_lsn: end,
        objects: 1,
        stored_size: held.size,
        goes,
        because,
    });
}
