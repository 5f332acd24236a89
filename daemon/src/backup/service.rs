//! The sidecar's backups: those that are due, and those that are ordered, one at a time.
//!
//! Owns when a backup is taken. What is due is told by the archive alone; only whoever writes the
//! archive's WAL looks, so that the sidecars of standbys take no duplicates.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use walvault_archive::catalog::Seen;
use walvault_archive::keys::KeyAccess;
use walvault_archive::{Archive, Error as ArchiveError};
use walvault_protocol::TimelineId;
use walvault_store::Backoff;
use walvault_store::SharedStore;
use walvault_store::clock;

use super::attempt::{AttemptError, BackupSource, attempt};
use super::desk::{self, BackupStatus, Counter, Desk, Order, Published, RequestError};
use super::due::{Due, Reason, due};
use super::{BackupError, BackupOptions, Label, Lines};
use crate::metrics::Metrics;
use crate::schedule::{self, Schedule};

/// How long to wait before a backup that failed is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How many times longer than a failed backup took is waited until the next: reading the database again must
/// not become what the server does all day.
const COST: u32 = 8;
/// Whatever it took, it is tried again once a day.
const LONGEST_COST: Duration = Duration::from_secs(24 * 3600);
/// How often a line tells how far a backup is.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Takes backups for as long as it runs.
pub struct Backups {
    source: BackupSource,
    options: BackupOptions,
    /// When backups are taken; `None` when somebody else decides.
    schedule: Option<Schedule>,
    /// The store that is asked whether a backup is due.
    store: SharedStore,
    metrics: Arc<Metrics>,
    /// The timeline that this sidecar writes, if it does.
    writing: watch::Receiver<Option<TimelineId>>,
    counter: Counter,
    archive: Option<Archive>,
    retry: Retry,
}

/// When what failed is tried again.
struct Retry {
    backoff: Backoff,
    not_before: Instant,
}

impl Backups {
    /// Backups of the configured server, and a desk to order them at. `writing` says when this
    /// sidecar is the one that writes the archive's WAL.
    #[must_use]
    pub fn new(
        source: BackupSource,
        options: BackupOptions,
        schedule: Option<Schedule>,
        store: SharedStore,
        metrics: Arc<Metrics>,
        writing: watch::Receiver<Option<TimelineId>>,
    ) -> (Backups, Desk) {
        let (desk, counter) = desk::open();
        let backups = Backups {
            source,
            options,
            schedule,
            store,
            metrics,
            writing,
            counter,
            archive: None,
            retry: Retry {
                backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
                not_before: Instant::now(),
            },
        };
        (backups, desk)
    }

    /// Takes backups until dropped.
    pub async fn serve(mut self) -> Infallible {
        loop {
            let order = tokio::select! {
                Some(order) = self.counter.orders.recv() => Some(order),
                reason = wait_until_due(
                    (&self.store, &self.source.keys, self.schedule.as_ref()),
                    &mut self.archive,
                    &mut self.writing,
                    &self.counter.status,
                    self.retry.not_before,
                ) => match reason {
                    Ok(reason) => {
                        self.take_due(reason).await;
                        None
                    }
                    Err(error) => {
                        let pause = self.retry.back_off(Duration::ZERO);
                        tracing::warn!(%error, retry_in_s = pause.as_secs(), "cannot see in the archive whether a backup is due");
                        None
                    }
                },
            };
            if let Some(order) = order {
                self.take_ordered(order).await;
            }
        }
    }

    async fn take_due(&mut self, reason: Reason) {
        tracing::info!(%reason, "taking a base backup");
        let label = Label::new(&reason.to_string()).unwrap_or_default();
        let options = BackupOptions {
            label,
            ..self.options.clone()
        };
        let begun = Instant::now();
        match self.take(&options, None).await {
            Ok(()) => self.retry.succeeded(),
            Err(AttemptError::Backup(busy @ BackupError::Busy { .. })) => {
                let pause = self.retry.back_off(Duration::ZERO);
                tracing::info!(%busy, look_again_in_s = pause.as_secs(), "not now");
            }
            Err(error) => {
                let pause = self.retry.back_off(begun.elapsed());
                let next = clock::now().checked_add(pause).ok();
                self.counter.status.send_modify(|status| status.next = next);
                tracing::error!(%error, retry_in_s = pause.as_secs(), "the base backup failed");
            }
        }
    }

    async fn take_ordered(&mut self, order: Order) {
        tracing::info!(label = %order.request.label, "a base backup is ordered");
        let options = BackupOptions {
            label: order.request.label.clone(),
            keep: order.request.keep,
            ..self.options.clone()
        };
        if let Err(error) = self.take(&options, Some(order)).await {
            tracing::error!(%error, "the base backup failed");
        }
    }

    /// Takes one; whoever orders another meanwhile is turned away.
    async fn take(
        &mut self,
        options: &BackupOptions,
        order: Option<Order>,
    ) -> Result<(), AttemptError> {
        let lines = Lines::new(LINE_EVERY, |line: &str| tracing::info!("{line}"));
        let answer = order.map(|order| order.answer);
        let Counter { orders, status } = &mut self.counter;
        let published = Published::begin(status, options, answer, &lines);
        let taken = tokio::select! {
            taken = attempt(&self.source, options, &published) => taken,
            never = turn_away(orders, status) => match never {},
        };
        self.metrics.backup_ended(taken.is_ok());
        let warnings = taken.as_ref().map(|record| record.warnings.clone());
        published.end(
            taken.as_ref().err().map(refusal),
            warnings.unwrap_or_default(),
        );
        let record = taken?;
        tracing::info!(backup = %record.id, bytes = record.size, stop = %record.stop_lsn, "the base backup is complete");
        Ok(())
    }
}

impl Retry {
    /// How long to wait now that something failed which took so long: longer every time, and the longer
    /// the more it cost.
    fn back_off(&mut self, took: Duration) -> Duration {
        let pause = self.backoff.pause().max((took * COST).min(LONGEST_COST));
        self.not_before = Instant::now() + pause;
        pause
    }

    fn succeeded(&mut self) {
        self.backoff.succeeded();
    }
}

/// Returns when a backup is due, and why. May be dropped at any time.
async fn wait_until_due(
    (store, keys, schedule): (&SharedStore, &KeyAccess, Option<&Schedule>),
    archive: &mut Option<Archive>,
    writing: &mut watch::Receiver<Option<TimelineId>>,
    status: &watch::Sender<BackupStatus>,
    not_before: Instant,
) -> Result<Reason, ArchiveError> {
    sleep_until(not_before).await;
    loop {
        let Some(timeline) = *writing.borrow_and_update() else {
            status.send_modify(|status| status.next = None);
            changed(writing).await;
            continue;
        };
        let archive = match archive {
            Some(archive) => archive,
            None => archive.insert(Archive::open(store.clone(), keys.clone()).await?),
        };
        let seen = Seen::look(archive, timeline).await?;
        let now = clock::now();
        let next = match due(&seen, timeline, schedule, now) {
            Due::Now(reason) => return Ok(reason),
            Due::At(at) => Some(at),
            Due::No => None,
        };
        status.send_if_modified(|status| {
            let before = std::mem::replace(&mut status.next, next);
            before != next
        });
        let then = async {
            match next {
                Some(at) => schedule::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = then => {}
            () = changed(writing) => {}
        }
    }
}

/// Waits for another value. Once there can be none, waits for ever.
async fn changed(writing: &mut watch::Receiver<Option<TimelineId>>) {
    if writing.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Tells whoever orders that another backup is being taken.
async fn turn_away(
    orders: &mut mpsc::Receiver<Order>,
    status: &watch::Sender<BackupStatus>,
) -> Infallible {
    while let Some(order) = orders.recv().await {
        let running = status
            .borrow()
            .running
            .as_ref()
            .and_then(|running| running.id.clone());
        let which = running.map(|id| format!(" {id}")).unwrap_or_default();
        let busy = format!("backup{which} is being taken; wait for its end, and ask again");
        let _ = order.answer.send(Err(RequestError::Busy(busy)));
    }
    loop {
        sleep(LONGEST_PAUSE).await;
    }
}

fn refusal(error: &AttemptError) -> RequestError {
    match error {
        AttemptError::Backup(busy @ BackupError::Busy { .. }) => {
            RequestError::Busy(busy.to_string())
        }
        other => RequestError::Failed(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry() -> Retry {
        Retry {
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            not_before: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_cost_hours_is_not_tried_again_within_minutes() {
        let mut retry = retry();
        assert!(retry.back_off(Duration::ZERO) <= FIRST_PAUSE);
        let hours = Duration::from_secs(2 * 3600);
        assert_eq!(retry.back_off(hours), hours * COST);
        assert_eq!(retry.not_before, Instant::now() + hours * COST);
        assert_eq!(retry.back_off(hours * 5), LONGEST_COST);
        retry.succeeded();
        assert!(retry.back_off(Duration::ZERO) <= FIRST_PAUSE);
    }
}
