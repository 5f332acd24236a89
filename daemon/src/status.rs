//! `/status`: everything the sidecar knows, as one JSON object. `docs/status.md` documents its fields.

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;
use walvault_config::Config;
use walvault_protocol::{Lsn, TimelineId};
use walvault_store::clock;

use crate::backup::desk::BackupStatus;
use crate::health::{self, Condition};
use crate::metrics::Metrics;
use crate::metrics::live::{Phase, Snapshot};
use crate::observed::Survey;
use crate::survey::Surveyed;
use crate::upkeep::UpkeepStatus;

/// Where the parts of the status come from.
pub struct StatusSource {
    /// What cannot change while it runs.
    fixed: Fixed,
    known: Known,
}

/// What the tasks in the background tell.
pub struct Known {
    /// How backups stand.
    pub backups: watch::Receiver<BackupStatus>,
    /// What was last seen in the archive.
    pub surveyed: watch::Receiver<Surveyed>,
    /// How verifying and pruning stand.
    pub upkeep: watch::Receiver<UpkeepStatus>,
}

struct Fixed {
    server: String,
    slot: String,
    archive: String,
    config: Option<String>,
    rpo_objective: f64,
}

/// The whole of it.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    at: Timestamp,
    uptime_seconds: u64,
    state: &'static str,
    reason: Option<String>,
    ready: bool,
    conditions: Vec<Condition>,
    server: Server,
    rpo: Rpo,
    archive: Archive,
    backup: BackupStatus,
    #[serde(flatten)]
    upkeep: UpkeepStatus,
    config: Option<String>,
}

#[derive(Debug, Serialize)]
struct Server {
    endpoint: String,
    slot: String,
    timeline: Option<TimelineId>,
    server_lsn: Option<Lsn>,
    received_lsn: Option<Lsn>,
    archived_lsn: Option<Lsn>,
    unarchived_bytes: u64,
    last_commit_archived: Option<Timestamp>,
    commits_wait: bool,
    slot_status: Option<&'static str>,
    slot_retained_bytes: Option<u64>,
    slot_headroom_bytes: Option<u64>,
    wal_disk_free_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Rpo {
    seconds: f64,
    objective_seconds: f64,
    history: Vec<Sample>,
}

#[derive(Debug, Serialize)]
struct Sample {
    at: Timestamp,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Archive {
    url: String,
    error: Option<String>,
    #[serde(flatten)]
    survey: Option<Survey>,
}

impl StatusSource {
    /// For a sidecar of this configuration, between this server and this archive.
    #[must_use]
    pub fn new(config: &Config, server: String, archive: String, known: Known) -> StatusSource {
        let file = config.file.as_ref();
        StatusSource {
            fixed: Fixed {
                server,
                slot: config.postgres.slot.clone(),
                archive,
                config: file.map(|path| path.display().to_string()),
                rpo_objective: config.objectives.rpo.as_secs_f64(),
            },
            known,
        }
    }

    /// What was last seen in the archive.
    #[must_use]
    pub fn surveyed(&self) -> Surveyed {
        self.known.surveyed.borrow().clone()
    }

    /// How backups stand.
    #[must_use]
    pub fn backups(&self) -> BackupStatus {
        self.known.backups.borrow().clone()
    }

    /// Everything, as it is now.
    #[must_use]
    pub fn status(&self, metrics: &Metrics) -> Status {
        let now = metrics.live.snapshot();
        let conditions = health::ready(&now);
        let surveyed = self.surveyed();
        let (state, reason) = match &now.phase {
            Phase::Starting => ("starting", None),
            Phase::Standby => ("standby", None),
            Phase::Streaming => ("streaming", None),
            Phase::Interrupted(reason) => ("interrupted", Some(reason.clone())),
            Phase::Conflict(reason) => ("conflict", Some(reason.clone())),
        };
        Status {
            version: env!("CARGO_PKG_VERSION"),
            at: clock::now(),
            uptime_seconds: now.up.as_secs(),
            state,
            reason,
            ready: conditions.iter().all(|condition| condition.ok),
            conditions,
            server: self.server(&now),
            rpo: Rpo {
                seconds: now.rpo.as_secs_f64(),
                objective_seconds: self.fixed.rpo_objective,
                history: history(metrics),
            },
            archive: Archive {
                url: self.fixed.archive.clone(),
                error: surveyed.error,
                survey: surveyed.last.as_deref().cloned(),
            },
            backup: self.backups(),
            upkeep: self.known.upkeep.borrow().clone(),
            config: self.fixed.config.clone(),
        }
    }

    fn server(&self, now: &Snapshot) -> Server {
        let stream = now.stream;
        let known = |lsn: Lsn| (lsn != Lsn::INVALID).then_some(lsn);
        let end = stream.server_end.max(stream.received);
        Server {
            endpoint: self.fixed.server.clone(),
            slot: self.fixed.slot.clone(),
            timeline: stream.timeline,
            server_lsn: known(end),
            received_lsn: known(stream.received),
            archived_lsn: known(stream.durable),
            unarchived_bytes: end.saturating_sub(stream.durable),
            last_commit_archived: now.last_commit_archived,
            commits_wait: now.commits_wait,
            slot_status: now.slot.map(|slot| slot.state.status.name()),
            slot_retained_bytes: now.slot.map(|slot| slot.state.retained),
            slot_headroom_bytes: now.slot.and_then(|slot| slot.state.safe),
            wal_disk_free_bytes: now.wal_disk,
        }
    }
}

fn history(metrics: &Metrics) -> Vec<Sample> {
    let samples = metrics.live.history().into_iter();
    samples
        .map(|sample| Sample {
            at: sample.at,
            seconds: sample.rpo.as_secs_f64(),
        })
        .collect()
}
