//! What only SQL tells: whether commits wait for us, and how the slot stands.
//!
//! PostgreSQL does not tell a standby that it is a synchronous one; `pg_stat_replication` tells
//! everybody who asks. While commits wait, WAL is not gathered for `wal.max_delay`.
//!
//! Every look has a connection of its own, which is closed again: PostgreSQL ends a smart shutdown only once
//! all sessions have left (manual, "Shutting Down the Server"), and DROP DATABASE likewise.

use std::mem::discriminant;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use walvault_protocol::client::{ClientError, ConnInfo, Mode, Session};
use walvault_protocol::replication::SlotName;
use walvault_store::Backoff;

use super::canary::Canary;
use super::slot_guard::{judge, rate};
use super::wal_disk::WalDisk;
use crate::metrics::Metrics;
use crate::metrics::live::Slot;
use crate::observed::{Outlook, SlotState, WalStatus};

/// How soon after the first look comes the second: a stream that has just begun counts as a
/// synchronous one once the server has heard a position from it.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How long the pauses become while nothing changes.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// However often a canary is due, this is how often a connection is made for one.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// How often the slot is looked at: how fast the server writes is judged between two looks.
const SLOT_INTERVAL: Duration = Duration::from_secs(5);
/// How long a look may take. A server that hangs must not end the looking for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the same complaint is repeated.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// Keeps asking as long as it lives.
pub struct Monitor {
    commits_wait: watch::Receiver<bool>,
    begun: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Streaming begins: whether commits wait is to be known at once.
    pub fn stream_begins(&self) {
        self.begun.notify_one();
    }

    /// Whether commits wait for us, as last heard.
    #[must_use]
    pub fn commits_wait(&self) -> watch::Receiver<bool> {
        self.commits_wait.clone()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Watches the WAL sender with process id `pid` and the slot it serves, over ordinary connections of its own; and,
/// where it can be seen, the disk in `wal_dir` that the slot's WAL fills. Writes a
/// canary into WAL after each `canary_every` that is not zero.
#[must_use]
pub fn watch_server(
    info: &ConnInfo,
    pid: i32,
    slot: &SlotName,
    wal_dir: Option<PathBuf>,
    canary_every: Duration,
    metrics: &Arc<Metrics>,
) -> Monitor {
    let (sender, commits_wait) = watch::channel(false);
    let begun = Arc::new(Notify::new());
    let looks = Looks {
        info: info.clone(),
        pid,
        slot: slot.clone(),
        disk: WalDisk::new(wal_dir),
        canary: Canary::new(canary_every),
        commits_wait: sender,
        begun: begun.clone(),
        metrics: metrics.clone(),
        looked: None,
        complained: None,
    };
    Monitor {
        commits_wait,
        begun,
        task: tokio::spawn(looks.go_on()),
    }
}

/// The looks at one server, and what the last one saw.
struct Looks {
    info: ConnInfo,
    pid: i32,
    slot: SlotName,
    disk: WalDisk,
    canary: Canary,
    commits_wait: watch::Sender<bool>,
    begun: Arc<Notify>,
    metrics: Arc<Metrics>,
    looked: Option<(Instant, Option<SlotState>)>,
    complained: Option<(Instant, Outlook)>,
}

impl Looks {
    async fn go_on(mut self) {
        let mut said = false;
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match tokio::time::timeout(PATIENCE, self.look()).await {
                Ok(Ok(true)) => backoff.succeeded(),
                Ok(Ok(false)) => {}
                Ok(Err(error)) if !said => {
                    tracing::warn!(%error,
                        "cannot ask in SQL whether commits wait for walvault and how the slot stands; should commits wait, they wait for wal.max_delay");
                    said = true;
                }
                Ok(Err(_)) => {}
                Err(_) => tracing::warn!(
                    server = self.info.endpoint(),
                    "the server did not answer in SQL for {} s; asking again",
                    PATIENCE.as_secs()
                ),
            }
            let mut pause = backoff.pause();
            if let Some(due) = self.canary.due_in() {
                pause = pause.min(due.max(SHORTEST_PAUSE));
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause) => {}
                () = self.begun.notified() => backoff.succeeded(),
            }
        }
    }

    /// Asks everything once; whether it was news that commits wait, or no longer do.
    async fn look(&mut self) -> Result<bool, ClientError> {
        // A slot that reserves nothing yet has no row to tell of, and the disk fills all the same.
        let free = self.disk.free().await;
        self.metrics.live.wal_disk(free);
        let mut sql = Session::connect(&self.info, Mode::Regular).await?;
        let query = format!(
            "select (select sync_state from pg_catalog.pg_stat_replication where pid = {}), \
             case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn() \
             else pg_catalog.pg_current_wal_flush_lsn() end, pg_catalog.pg_is_in_recovery()",
            self.pid
        );
        let result = sql.query(&query).await?;
        if result.text(0, 2) == Some("f") {
            self.canary.write_if_due(&mut sql, &self.metrics).await?;
        }
        let due = self
            .looked
            .is_none_or(|(at, _)| at.elapsed() >= SLOT_INTERVAL);
        if due {
            let slot = slot_state(&mut sql, &self.slot).await?;
            self.judge_slot(slot.map(|slot| SlotState { disk: free, ..slot }));
        }
        sql.close().await;
        if let Some(end) = result.text(0, 1).and_then(|text| text.parse().ok()) {
            self.metrics.live.heard(end);
        }
        let waits = matches!(result.text(0, 0), Some("sync" | "quorum"));
        self.metrics.live.commits_wait(waits);
        let changed = self.commits_wait.send_if_modified(|known| {
            let changed = *known != waits;
            *known = waits;
            changed
        });
        if changed {
            tracing::info!(waits, "whether commits wait for the archive");
        }
        Ok(changed)
    }

    fn judge_slot(&mut self, now: Option<SlotState>) {
        let (before, between) = self
            .looked
            .map_or((None, SLOT_INTERVAL), |(at, state)| (state, at.elapsed()));
        if let Some(now) = now {
            let outlook = judge(now, before, between);
            let due = self.complained.is_none_or(|(at, said)| {
                discriminant(&said) != discriminant(&outlook) || at.elapsed() >= COMPLAINT_INTERVAL
            });
            if due {
                report(&self.slot, now, outlook);
                self.complained = Some((Instant::now(), outlook));
            }
            self.metrics.live.slot(Some(Slot {
                state: now,
                outlook,
                rate: rate(now, before, between),
            }));
        }
        self.looked = Some((Instant::now(), now));
    }
}

/// Reads the slot's row; `None` when there is none, or it reserves nothing.
pub(super) async fn slot_state(
    sql: &mut Session,
    slot: &SlotName,
) -> Result<Option<SlotState>, ClientError> {
    let query = format!(
        "select wal_status, safe_wal_size, pg_catalog.pg_wal_lsn_diff(at, restart_lsn), pg_catalog.pg_wal_lsn_diff(at, '0/0') \
         from pg_catalog.pg_replication_slots, lateral (select case when pg_catalog.pg_is_in_recovery() \
         then pg_catalog.pg_last_wal_receive_lsn() else pg_catalog.pg_current_wal_lsn() end) as position(at) \
         where slot_name = '{}'",
        slot.as_str()
    );
    let result = sql.query(&query).await?;
    let text = |column| result.text(0, column);
    // safe_wal_size is negative once the limit is passed.
    let bytes = |column: usize| {
        text(column)
            .and_then(|value| value.parse::<i64>().ok())
            .map(|value| value.max(0) as u64)
    };
    Ok(text(0).and_then(WalStatus::parse).map(|status| SlotState {
        status,
        safe: bytes(1),
        disk: None,
        retained: bytes(2).unwrap_or(0),
        server_end: bytes(3).unwrap_or(0),
    }))
}

fn report(slot: &SlotName, state: SlotState, outlook: Outlook) {
    let (slot, retained) = (slot.as_str(), state.retained);
    match outlook {
        Outlook::Safe => tracing::debug!(slot, retained, safe = state.safe, "the slot is safe"),
        Outlook::Endangered { left } if state.disk_ends_it() => tracing::warn!(
            slot,
            retained,
            free = state.disk,
            seconds_left = left.map(|left| left.as_secs()),
            "the disk of pg_wal fills up with WAL that is not archived yet, and PostgreSQL stops when it is full; mend what holds the archive up, or set max_slot_wal_keep_size"
        ),
        Outlook::Endangered { left } => tracing::warn!(
            slot,
            retained,
            safe = state.safe,
            seconds_left = left.map(|left| left.as_secs()),
            "PostgreSQL will drop WAL that is not archived yet; raise max_slot_wal_keep_size, or mend what holds the archive up"
        ),
        Outlook::Lost => tracing::error!(
            slot,
            retained,
            status = ?state.status,
            "PostgreSQL no longer promises to keep the WAL that is not archived yet; raise max_slot_wal_keep_size at once"
        ),
    }
}
