//! What the archive holds, looked at now and then, for whoever wants to see it at once.
//!
//! Owns the pace: at most one look a minute, and, however large the archive is, no more than a hundredth of the time is
//! spent looking.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use walvault_archive::catalog::WindowStarts;
use walvault_archive::catalog::seen::{backup_names, backup_stored_at};
use walvault_archive::inventory::Inventory;
use walvault_archive::keys::KeyAccess;
use walvault_archive::record::BackupRecord;
use walvault_archive::{Archive, Error};
use walvault_config::Config;
use walvault_layout::{BackupId, ObjectKey};
use walvault_store::SharedStore;
use walvault_store::clock;

use crate::backup::desk::{BackupStatus, Ended};
use crate::drills::Drills;
use crate::metrics::Metrics;
use crate::metrics::live::Phase;
use crate::observed::Survey;

/// The least time between two looks.
const INTERVAL: Duration = Duration::from_secs(60);
/// The same as long as nothing can be restored: then there is little to look at, and somebody waits.
const FIRST_INTERVAL: Duration = Duration::from_secs(3);
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
    /// Why it was found to be one that may not.
    withheld: Option<String>,
    /// Where it may not: the backups that were found complete.
    complete: BTreeMap<BackupId, Timestamp>,
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
        let seen = looked.as_ref().is_ok_and(|Survey { inventory, .. }| {
            !inventory.windows.is_empty() || !inventory.withheld_backups.is_empty()
        });
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
                eye.withheld = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let mut inventory = match &eye.withheld {
        Some(why) => Inventory::of_names(archive, &mut eye.complete, why).await?,
        None => Inventory::load_since(archive, &eye.starts).await?,
    };
    // What a prune left on purpose is nobody's gap.
    inventory.gaps.retain(|gap| !gap.pruned);
    Ok(Survey {
        at: clock::now(),
        seconds: begun.elapsed().as_secs_f64(),
        system_id: archive.record().system_id,
        inventory,
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
