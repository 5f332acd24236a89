//! Pruning by schedule.

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::lock::Lock;
use walvault_archive::prune::{self, Asked, PruneError, PruneReport};
use walvault_archive::retention::RetentionPolicy;
use walvault_archive::{Archive, Error, layout};

use super::{Duty, Upkeep, UpkeepStatus, Work, holder};
use crate::metrics::Metrics;
use crate::schedule::Schedule;

/// How long to wait for somebody who changes what is kept.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a prune did.
#[derive(Debug, Clone, Serialize)]
pub struct Pruned {
    /// When it ended.
    pub at: Timestamp,
    /// What went.
    #[serde(flatten)]
    pub report: PruneReport,
}

struct Pruning {
    policy: RetentionPolicy,
    metrics: std::sync::Arc<Metrics>,
}

impl Upkeep {
    /// Prunes by `policy` whenever it is due. Never returns.
    pub async fn keep_pruning(self, schedule: Schedule, policy: RetentionPolicy) -> Infallible {
        let metrics = self.metrics.clone();
        self.keep(schedule, Pruning { policy, metrics }).await
    }
}

impl Work for Pruning {
    type Done = Pruned;
    type Failure = PruneError;

    fn duty(status: &mut UpkeepStatus) -> &mut Duty<Pruned> {
        &mut status.prune
    }

    async fn before(&self, archive: &Archive) -> Result<Option<Timestamp>, Error> {
        let records = archive.list(layout::PRUNED_PREFIX).await?;
        Ok(records.last().map(|newest| newest.modified))
    }

    async fn run(&self, archive: &Archive) -> Result<Pruned, PruneError> {
        let pruned = prune_once(archive, &self.policy).await;
        self.metrics.pruned(pruned.as_ref().ok());
        match &pruned {
            Ok(report) => tracing::info!(
                backups = report.backups,
                objects = report.objects,
                bytes = report.bytes,
                locked = report.locked,
                "pruned"
            ),
            Err(error) => tracing::error!(%error, "the archive was not pruned; it is tried again"),
        }
        pruned.map(|report| Pruned {
            at: Timestamp::now(),
            report,
        })
    }
}

async fn prune_once(
    archive: &Archive,
    policy: &RetentionPolicy,
) -> Result<PruneReport, PruneError> {
    let by = holder();
    let mut lock = Lock::take(archive, &by, PATIENCE).await?;
    let done = async {
        let asked = Asked {
            policy: policy.clone(),
            now: Timestamp::now(),
            store_now: lock.stored_at().await?,
            ignore_clock: false,
        };
        let plan = prune::plan(archive, &asked).await?;
        prune::apply(archive, &plan, &mut lock, &by).await
    };
    let done = done.await;
    let released = lock.release().await;
    let report = done?;
    released?;
    Ok(report)
}
