//! What the archive holds, looked at now and then, for whoever wants to see it at once.
//!
//! Owns the pace: at most one look a minute, and, however large the archive is, no more than a hundredth of the time is
//! spent looking.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use walvault_archive::catalog::seen::{backup_names, backup_stored_at};
use walvault_archive::catalog::{Hole, WindowStarts};
use walvault_archive::keys::KeyAccess;
use walvault_archive::record::BackupRecord;
use walvault_archive::{Archive, Catalog, Error};
use walvault_config::Config;
use walvault_layout::ObjectKey;
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::SharedStore;
use walvault_store::clock;

use crate::backup::desk::{BackupStatus, Ended};
use crate::drills::Drills;
use crate::metrics::Metrics;
use crate::metrics::live::Phase;
use crate::observed::{Backup, Gap, Survey, Timeline};

mod withheld;

use withheld::Names;

/// The least time between two looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// The same as long as nothing can be restored: then there is little to look at, and somebody waits.
const FIRST_INTERVAL: Duration = Duration::from_secs(3);
/// How often it is looked when something is removed meanwhile.
const ATTEMPTS: u32 = 5;
/// How many times as long as a look took is waited before the next.
const REST: u32 = 100;
/// The least time between two looks beside a standby, whose primary's sidecar looks as well.
const STANDBY_INTERVAL: Duration = Duration::from_secs(15 * 60);
/// Beside a standby, so long is waited for each request that a look took: 2,880 a day, however large the
/// archive is.
const STANDBY_REST: Duration = Duration::from_secs(30);

/// The last look, and how it went.
#[derive(Debug, Clone, Default)]
pub struct Surveyed {
    /// What was seen last; `None` before the first look that succeeded.
    pub last: Option<Arc<Survey>>,
    /// Why the last look failed, if it did.
    pub error: Option<String>,
}

/// Surveys an archive again and again.
pub struct Surveyor {
    /// The store that holds the archive.
    pub store: SharedStore,
    /// The keys that open it.
    pub keys: KeyAccess,
    /// The configuration, which says where drills are recorded.
    pub config: Arc<Config>,
    /// Where each survey is counted.
    pub metrics: Arc<Metrics>,
}

/// What stays from one look to the next.
#[derive(Default)]
struct Eye {
    archive: Option<Archive>,
    /// Whether this host was found to be one that may open a record.
    opens: bool,
    /// Set once it was found to be one that may not.
    withheld: Option<Names>,
    drills: Drills,
    starts: WindowStarts,
}

/// Looks at the archive for as long as it runs.
pub async fn keep_looking(
    surveyor: Surveyor,
    mut backups: watch::Receiver<BackupStatus>,
    found: watch::Sender<Surveyed>,
) -> Infallible {
    let mut eye = Eye::default();
    let mut last_backup = None;
    loop {
        let (begun, before) = (Instant::now(), surveyor.metrics.requests());
        let looked = look(&surveyor, &mut eye).await;
        let seen = looked
            .as_ref()
            .is_ok_and(|survey| !survey.windows.is_empty() || !survey.withheld_backups.is_empty());
        match looked {
            Ok(survey) => {
                surveyor.metrics.surveyed(&survey);
                found.send_replace(Surveyed {
                    last: Some(Arc::new(survey)),
                    error: None,
                });
            }
            Err(error) => {
                tracing::debug!(%error, "the archive could not be surveyed");
                found.send_modify(|found| found.error = Some(error.to_string()));
            }
        }
        let least = if seen { INTERVAL } else { FIRST_INTERVAL };
        let rest = Rest {
            from: Instant::now(),
            least: least.max(begun.elapsed() * REST),
            requests: surveyor.metrics.requests() - before,
            seen,
        };
        let known = last_backup.clone();
        let backup_ended = another_backup(&mut backups, known);
        tokio::select! {
            () = rest.over(&surveyor.metrics) => {}
            last = backup_ended => last_backup = last,
        }
    }
}

/// The time between two looks.
struct Rest {
    from: Instant,
    least: Duration,
    /// How many the last look took.
    requests: u64,
    /// Whether it saw anything that can be restored.
    seen: bool,
}

impl Rest {
    /// Returns when it is over: beside a standby later, and soon after its promotion.
    async fn over(&self, metrics: &Metrics) {
        loop {
            let standby = metrics.live.snapshot().phase == Phase::Standby;
            let rest = self.length(standby);
            let left = rest.saturating_sub(self.from.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(FIRST_INTERVAL)).await;
        }
    }

    fn length(&self, standby: bool) -> Duration {
        let requests = u32::try_from(self.requests).unwrap_or(u32::MAX);
        match (standby, self.seen) {
            (true, true) => STANDBY_REST
                .saturating_mul(requests)
                .max(STANDBY_INTERVAL)
                .max(self.least),
            // Its primary is only being set up.
            (true, false) => self.least.max(INTERVAL),
            (false, _) => self.least,
        }
    }
}

/// Returns when another backup than `known` was the last that ended.
async fn another_backup(
    backups: &mut watch::Receiver<BackupStatus>,
    known: Option<Ended>,
) -> Option<Ended> {
    loop {
        let last = backups.borrow_and_update().last.clone();
        if last != known {
            return last;
        }
        if backups.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn look(surveyor: &Surveyor, eye: &mut Eye) -> Result<Survey, Error> {
    let mut again = 1..ATTEMPTS;
    loop {
        match look_once(surveyor, eye).await {
            // A prune removed what was listed a moment ago.
            Err(error) if error.is_missing() && again.next().is_some() => {}
            looked => return looked,
        }
    }
}

async fn look_once(surveyor: &Surveyor, eye: &mut Eye) -> Result<Survey, Error> {
    let archive = match &mut eye.archive {
        Some(archive) => archive,
        empty => empty.insert(Archive::open(surveyor.store.clone(), surveyor.keys.clone()).await?),
    };
    let begun = Instant::now();
    if eye.withheld.is_none() && !eye.opens {
        match opens(archive).await {
            Ok(opened) => eye.opens = opened,
            Err(error) if error.is_withheld() => {
                tracing::info!(%error, "this host may not open the archive's records; it goes by their names");
                eye.withheld = Some(Names::default());
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(names) = &mut eye.withheld {
        return names
            .survey(archive, &mut eye.drills, &surveyor.config)
            .await;
    }
    let catalog = Catalog::load(archive).await?;
    let windows = catalog.windows_since(archive, &mut eye.starts).await?;
    Ok(Survey {
        at: clock::now(),
        seconds: begun.elapsed().as_secs_f64(),
        system_id: archive.record().system_id,
        windows,
        backups: catalog.backups().iter().map(backup).collect(),
        withheld_backups: Vec::new(),
        gaps: gaps(&catalog, &catalog.unrecorded_holes(archive).await?),
        timelines: timelines(&catalog),
        drills: eye.drills.look(archive, &surveyor.config).await?,
    })
}

/// Opens the newest backup's record, to see whether this host may; false where there is none to tell.
/// One denied request tells of all.
async fn opens(archive: &Archive) -> Result<bool, Error> {
    for id in backup_names(archive).await?.into_iter().rev() {
        let key = ObjectKey::BackupRecord(id.clone());
        if backup_stored_at(archive, &id).await?.is_some() {
            return match archive.get_record::<BackupRecord>(&key).await {
                Err(error) if error.is_withheld() || error.is_transient() => Err(error),
                // What is wrong with it, the catalog tells.
                _ => Ok(true),
            };
        }
    }
    Ok(false)
}

fn backup(record: &BackupRecord) -> Backup {
    Backup {
        id: record.id.clone(),
        kind: record.kind.clone(),
        label: record.label.clone(),
        start_time: record.started_at,
        stop_time: record.stopped_at,
        timeline: record.timeline,
        start_lsn: record.start_lsn,
        stop_lsn: record.stop_lsn,
        size: record.size,
        stored_size: record.stored_size,
    }
}

/// The gaps that were recorded, and the holes that nobody recorded or made on purpose.
fn gaps(catalog: &Catalog, holes: &[Hole]) -> Vec<Gap> {
    let unexplained = |timeline, range: LsnRange| Gap {
        timeline,
        start_lsn: range.start,
        end_lsn: range.end,
        cause: None,
        noticed_at: None,
    };
    let mut gaps: Vec<Gap> = catalog
        .gaps()
        .iter()
        .map(|record| Gap {
            cause: Some(record.cause.clone()),
            noticed_at: Some(record.noticed_at),
            ..unexplained(record.timeline, record.range)
        })
        .collect();
    let missing = holes.iter().filter(|hole| !hole.pruned);
    gaps.extend(missing.map(|hole| unexplained(hole.timeline, hole.range)));
    gaps.sort_by_key(|gap| (gap.timeline, gap.start_lsn));
    gaps
}

fn timelines(catalog: &Catalog) -> Vec<Timeline> {
    let describe = |timeline: TimelineId| {
        let history = catalog.history(timeline);
        let wal = catalog.wal(timeline);
        let switch = history.switches().last();
        let objects = || wal.iter().flat_map(|wal| &wal.objects);
        Timeline {
            timeline,
            parent: switch.map(|switch| switch.timeline),
            begins_at: switch.map(|switch| switch.at),
            first_stored: objects().map(|object| object.modified).min(),
            end_lsn: wal.and_then(|wal| wal.coverage.end()),
            stored_size: objects().map(|object| object.size).sum(),
        }
    };
    let held = catalog.timelines().map(|(timeline, _)| timeline);
    let mut known: Vec<TimelineId> = held.chain(catalog.histories().keys().copied()).collect();
    known.sort_unstable();
    known.dedup();
    known.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_standby_a_day_of_looks_is_a_few_thousand_requests() {
        let day = Duration::from_secs(24 * 3600);
        // A few objects; and a million, in pages of a thousand.
        for requests in [10, 1_100] {
            let rest = Rest {
                from: Instant::now(),
                least: INTERVAL,
                requests,
                seen: true,
            };
            let looks = day.as_secs_f64() / rest.length(true).as_secs_f64();
            assert!(looks * requests as f64 <= 3_000.0);
            assert_eq!(rest.length(false), INTERVAL);
        }
    }
}
