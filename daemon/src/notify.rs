//! Telling others: events to a webhook, and a heartbeat while all is well.
//!
//! Owns what is an event. That one is told at least once, in order, and signed, is [`webhook`]'s concern. `docs/notify.md`
//! documents both for who receives them.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior};
use walvault_archive::inventory::Gap;
use walvault_layout::DrillId;
use walvault_store::{chance, clock};
use walvault_upkeep::verify::{Finding, FindingKind};

use crate::backup::desk::BackupStatus;
use crate::metrics::Metrics;
use crate::metrics::live::{Phase, Snapshot};
use crate::status::Known;
use crate::survey::Surveyed;
use crate::upkeep::UpkeepStatus;

pub mod http;
pub mod webhook;

use webhook::Outbox;

/// How often it is looked whether something happened.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long an objective must be missed, or met again, before that is an event.
const SETTLED: Duration = Duration::from_secs(5);

/// What others are told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A base backup is complete.
    BackupSucceeded,
    /// A base backup failed; it is tried again if it was scheduled.
    BackupFailed,
    /// A commit is older than `[objectives] rpo` and may not be archived.
    RpoBreached,
    /// No commit is, any more.
    RpoRecovered,
    /// WAL was lost before it was archived.
    Gap,
    /// Server and archive contradict each other, and nothing is archived.
    Conflict,
    /// The archive's keys cannot be used.
    KeyTrouble,
    /// A verification found something in the archive that is not as it should be.
    VerifyFinding,
    /// The archive could not be verified.
    VerifyFailed,
    /// The archive could not be pruned.
    PruneFailed,
    /// A drill passed.
    DrillPassed,
    /// A drill failed, or could not be run.
    DrillFailed,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Which kind.
    pub event: EventKind,
    /// A name for it, the same however often it is told.
    pub id: String,
    /// When it was noticed.
    pub at: Timestamp,
    /// Which server.
    pub server: String,
    /// Which archive.
    pub archive: String,
    /// What happened, for people.
    pub message: String,
}

/// Finds events by comparing what is known with what was.
struct Watcher {
    server: String,
    archive: String,
    objective: Duration,
    breached: bool,
    /// Since when the objective is on the other side of what was told.
    differs_since: Option<Instant>,
    last_backup: Option<Timestamp>,
    gaps: Option<usize>,
    /// Gaps that were noticed before this were told by an earlier process.
    begun: Timestamp,
    conflict: bool,
    key_trouble: bool,
    /// The findings that were told, by kind and object.
    findings: Option<HashSet<(FindingKind, String)>>,
    verify_failed: bool,
    prune_failed: bool,
    drill_failed: bool,
    /// The drills that were told, or were there before.
    drills: HashSet<DrillId>,
}

/// What is compared with what was.
struct Looked<'a> {
    now: &'a Snapshot,
    backups: &'a BackupStatus,
    surveyed: &'a Surveyed,
    upkeep: &'a UpkeepStatus,
}

/// Watches for events for as long as it runs, and hands them to `outbox`.
pub async fn watch_for_events(
    metrics: Arc<Metrics>,
    objective: Duration,
    (server, archive): (String, String),
    known: Known,
    outbox: Outbox,
) -> Infallible {
    let mut watcher = Watcher::new(server, archive, objective);
    let mut every = tokio::time::interval(INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let (backups, surveyed) = (
            known.backups.borrow().clone(),
            known.surveyed.borrow().clone(),
        );
        let looked = Looked {
            now: &metrics.live.snapshot(),
            backups: &backups,
            surveyed: &surveyed,
            upkeep: &known.upkeep.borrow().clone(),
        };
        for event in watcher.look(&looked, Instant::now()) {
            tracing::info!(event = ?event.event, message = event.message, "telling the webhook");
            outbox.put(event);
        }
    }
}

impl Watcher {
    fn new(server: String, archive: String, objective: Duration) -> Watcher {
        Watcher {
            server,
            archive,
            objective,
            breached: false,
            differs_since: None,
            last_backup: None,
            gaps: None,
            begun: clock::now(),
            conflict: false,
            key_trouble: false,
            findings: None,
            verify_failed: false,
            prune_failed: false,
            drill_failed: false,
            drills: HashSet::new(),
        }
    }

    fn event(&self, event: EventKind, message: String) -> Event {
        Event {
            event,
            id: format!("{:016x}", chance::token()),
            at: clock::now(),
            server: self.server.clone(),
            archive: self.archive.clone(),
            message,
        }
    }

    fn look(&mut self, looked: &Looked<'_>, at: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        events.extend(self.look_at_rpo(looked.now, at));
        events.extend(self.look_at_backups(looked.backups));
        events.extend(self.look_at_gaps(looked.surveyed));
        events.extend(self.look_at_conflict(looked.now));
        events.extend(self.look_at_keys(looked.now));
        events.extend(self.look_at_findings(looked.upkeep));
        events.extend(self.look_at_failures(looked.upkeep));
        events.extend(self.look_at_drills(looked.surveyed));
        events
    }

    fn look_at_rpo(&mut self, now: &Snapshot, at: Instant) -> Option<Event> {
        let missed = now.rpo > self.objective;
        if missed == self.breached {
            self.differs_since = None;
            return None;
        }
        let since = *self.differs_since.get_or_insert(at);
        if at.duration_since(since) < SETTLED {
            return None;
        }
        self.differs_since = None;
        self.breached = missed;
        let objective = self.objective.as_secs();
        Some(match missed {
            true => {
                let reason = match &now.phase {
                    Phase::Interrupted(reason) | Phase::Conflict(reason) => reason.clone(),
                    _ => now.store_failing.as_ref().map_or_else(
                        || "the archive does not keep up".to_owned(),
                        |(_, error)| error.clone(),
                    ),
                };
                let age = now.rpo.as_secs();
                let message = format!(
                    "a commit {age} s old may not be in the archive; the objective is {objective} s: {reason}"
                );
                self.event(EventKind::RpoBreached, message)
            }
            false => self.event(
                EventKind::RpoRecovered,
                format!("every commit older than {objective} s is in the archive again"),
            ),
        })
    }

    fn look_at_backups(&mut self, backups: &BackupStatus) -> Option<Event> {
        let last = backups.last.as_ref()?;
        if self.last_backup.replace(last.at) == Some(last.at) {
            return None;
        }
        let id = last
            .id
            .as_ref()
            .map_or_else(String::new, |id| format!(" {id}"));
        Some(match &last.error {
            None => {
                let warned = match last.warnings.as_slice() {
                    [] => String::new(),
                    warnings => format!("; the server warned: {}", warnings.join("; ")),
                };
                self.event(
                    EventKind::BackupSucceeded,
                    format!("base backup{id} is complete{warned}"),
                )
            }
            Some(error) => self.event(
                EventKind::BackupFailed,
                format!("base backup{id} failed: {error}"),
            ),
        })
    }

    fn look_at_gaps(&mut self, surveyed: &Surveyed) -> Option<Event> {
        let gaps = &surveyed.last.as_ref()?.inventory.gaps;
        let earlier = |gap: &&Gap| gap.noticed_at.is_none_or(|at| at < self.begun);
        let before = self
            .gaps
            .unwrap_or_else(|| gaps.iter().filter(earlier).count());
        self.gaps = Some(gaps.len());
        let newest = gaps.last().filter(|_| gaps.len() > before)?;
        let cause = newest
            .cause
            .as_deref()
            .unwrap_or("objects are missing from the archive");
        Some(self.event(
            EventKind::Gap,
            format!(
                "WAL {} to {} of timeline {} is not in the archive: {cause}",
                newest.start_lsn,
                newest.end_lsn,
                newest.timeline.get()
            ),
        ))
    }

    fn look_at_conflict(&mut self, now: &Snapshot) -> Option<Event> {
        match &now.phase {
            Phase::Conflict(reason) if !self.conflict => {
                self.conflict = true;
                Some(self.event(EventKind::Conflict, reason.clone()))
            }
            // While the server does not answer, it is not settled.
            Phase::Conflict(_) | Phase::Interrupted(_) | Phase::Starting => None,
            Phase::Streaming | Phase::Standby => {
                self.conflict = false;
                None
            }
        }
    }

    fn look_at_keys(&mut self, now: &Snapshot) -> Option<Event> {
        let trouble = now.key_trouble.clone();
        let before = std::mem::replace(&mut self.key_trouble, trouble.is_some());
        let reason = trouble.filter(|_| !before)?;
        Some(self.event(EventKind::KeyTrouble, reason))
    }

    fn look_at_findings(&mut self, upkeep: &UpkeepStatus) -> Option<Event> {
        let verified = upkeep.verify.last.as_ref()?;
        let found: HashSet<(FindingKind, String)> = verified
            .findings
            .iter()
            .map(|finding| (finding.kind, finding.object.clone()))
            .collect();
        let before = self.findings.replace(found);
        // What a process before this one found was told by it.
        let before = match verified.seconds {
            None => before?,
            Some(_) => before.unwrap_or_default(),
        };
        let is_new = |finding: &&Finding| !before.contains(&(finding.kind, finding.object.clone()));
        let newest = verified.findings.iter().find(is_new)?;
        let count = verified.finding_count;
        Some(self.event(
            EventKind::VerifyFinding,
            format!(
                "the archive is not sound, {count} in all; {} {}: {}",
                newest.kind.as_str(),
                newest.object,
                newest.detail
            ),
        ))
    }

    /// Drills that ended since this process began, wherever they were run.
    fn look_at_drills(&mut self, surveyed: &Surveyed) -> Vec<Event> {
        let Some(survey) = &surveyed.last else {
            return Vec::new();
        };
        let mut events = Vec::new();
        for drill in &survey.drills {
            // Names tell whole seconds.
            let earlier = drill.begun.as_second() < self.begun.as_second();
            if !self.drills.insert(drill.id.clone()) || earlier {
                continue;
            }
            let (kind, how) = match drill.passed {
                true => (EventKind::DrillPassed, "passed".to_owned()),
                false => {
                    let error = drill.error.as_deref();
                    let why = error.unwrap_or("its record says why");
                    (EventKind::DrillFailed, format!("failed: {why}"))
                }
            };
            let message = format!("the drill '{}' of {} {how}", drill.scenario, drill.begun);
            events.push(self.event(kind, message));
        }
        events
    }

    fn look_at_failures(&mut self, upkeep: &UpkeepStatus) -> Vec<Event> {
        let mut events = Vec::new();
        let failures = [
            (
                EventKind::VerifyFailed,
                &upkeep.verify.error,
                &mut self.verify_failed,
            ),
            (
                EventKind::PruneFailed,
                &upkeep.prune.error,
                &mut self.prune_failed,
            ),
            (
                EventKind::DrillFailed,
                &upkeep.drill.error,
                &mut self.drill_failed,
            ),
        ];
        let begun = failures.map(|(kind, error, failed)| {
            let before = std::mem::replace(failed, error.is_some());
            error.clone().filter(|_| !before).map(|error| (kind, error))
        });
        for (kind, error) in begun.into_iter().flatten() {
            events.push(self.event(kind, error));
        }
        events
    }
}

#[cfg(test)]
mod tests;
