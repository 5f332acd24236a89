//! Pruning by schedule.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::{Archive, Error};
use walvault_config::Config;
use walvault_evidence::audit::{Act, Action, Actor, AuditError, Event, Outcome, Recorder};
use walvault_layout as layout;
use walvault_store::clock;
use walvault_upkeep::lock::Lock;
use walvault_upkeep::prune::{self, Asked, PruneError, PrunePlan, PruneReport};

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
    config: Arc<Config>,
    metrics: Arc<Metrics>,
}

impl Upkeep {
    /// Prunes by `[retention]` whenever it is due. Never returns.
    pub async fn keep_pruning(self, schedule: Schedule, config: Arc<Config>) -> Infallible {
        let metrics = self.metrics.clone();
        self.keep(schedule, Pruning { config, metrics }).await
    }
}

impl Work for Pruning {
    type Done = Pruned;
    type Failure = PruneFailure;

    fn duty(status: &mut UpkeepStatus) -> &mut Duty<Pruned> {
        &mut status.prune
    }

    async fn before(&self, archive: &Archive) -> Result<Option<Timestamp>, Error> {
        let records = archive.list(layout::PRUNED_PREFIX).await?;
        Ok(records.last().map(|newest| newest.modified))
    }

    async fn run(&self, archive: &Archive) -> Result<Pruned, PruneFailure> {
        let pruned = self.once(archive).await;
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
            at: clock::now(),
            report,
        })
    }
}

/// Why nothing was pruned, or not all.
#[derive(Debug, thiserror::Error)]
pub enum PruneFailure {
    /// The archive, or the policy.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// It cannot be noted, and `[audit] required` is set.
    #[error(transparent)]
    Audit(#[from] AuditError),
}

impl From<Error> for PruneFailure {
    fn from(error: Error) -> PruneFailure {
        PruneFailure::Prune(error.into())
    }
}

impl Pruning {
    async fn once(&self, archive: &Archive) -> Result<PruneReport, PruneFailure> {
        let by = holder();
        let mut lock = Lock::take(archive, &by, PATIENCE).await?;
        let done = async {
            let asked = Asked {
                policy: self.config.retention.policy.clone(),
                now: clock::now(),
                store_now: lock.stored_at().await?,
                ignore_clock: false,
                share: Some(self.config.retention.share),
            };
            let plan = prune::plan(archive, &asked).await?;
            let noted = self.note(archive, &plan).await?;
            let report = prune::apply(archive, &plan, &mut lock, &by).await;
            if let Some((recorder, act)) = noted {
                end(archive, &plan, &report, (recorder, act)).await;
            }
            Ok::<_, PruneFailure>(report?)
        };
        let done = done.await;
        let released = lock.release().await;
        let report = done?;
        released?;
        Ok(report)
    }

    /// Notes the plan in the audit trail, if anything goes.
    async fn note(
        &self,
        archive: &Archive,
        plan: &PrunePlan,
    ) -> Result<Option<(Recorder, Act)>, AuditError> {
        if plan.removals.is_empty() {
            return Ok(None);
        }
        let begun = async {
            let program = concat!("walvaultd ", env!("CARGO_PKG_VERSION"));
            let actor = Actor::of_this_process(None, program);
            let Config {
                audit, encryption, ..
            } = &*self.config;
            let Some(recorder) = Recorder::open(audit, encryption, archive, actor)? else {
                return Ok(None);
            };
            let event = recorder.event(Action::Prune, Outcome::Begun);
            let event = event.because(Some("scheduled".to_owned()));
            let act = recorder.begin(event.with_prune(plan)).await?;
            Ok(Some((recorder, act)))
        };
        match begun.await {
            Err(error) if !self.config.audit.required => {
                tracing::warn!(%error, "this prune is not in the audit trail");
                Ok(None)
            }
            begun => begun,
        }
    }
}

/// Notes how a prune ended, with a certificate of what went.
async fn end(
    archive: &Archive,
    plan: &PrunePlan,
    report: &Result<PruneReport, PruneError>,
    (recorder, act): (Recorder, Act),
) {
    let failure = report.as_ref().err().map(ToString::to_string);
    let certificate = match report {
        Ok(_) => prune::certify(archive, plan).await,
        Err(_) => Ok(prune::Certificate::default()),
    };
    let opened = recorder.open_keys();
    let complete = |event: Event| {
        let event = event.keys(opened);
        match (report, &certificate) {
            (Ok(report), Ok(certificate)) => event
                .with("removed", report)
                .with("certificate", Some(certificate)),
            (Ok(report), Err(_)) => event.with("removed", report),
            _ => event,
        }
    };
    if let Err(error) = recorder.end(act, failure, complete).await {
        tracing::warn!(%error, "how this prune ended is not in the audit trail");
    }
    if let Err(error) = certificate {
        tracing::warn!(%error, "what was pruned could not be certified");
    }
}
