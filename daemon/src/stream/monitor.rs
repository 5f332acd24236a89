//! What only SQL tells: whether commits wait for us, and how the slot stands.
//!
//! PostgreSQL does not tell a standby that it is a synchronous one; `pg_stat_replication` tells
//! everybody who asks. While commits wait, WAL is not gathered for `wal.max_delay`.

use std::mem::discriminant;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use walvault_protocol::client::{ClientError, ConnInfo, Mode, Session};
use walvault_protocol::replication::SlotName;

use crate::metrics::Metrics;
use crate::metrics::live::Slot;
use crate::observed::{Outlook, SlotState, WalStatus};

use super::canary::Canary;
use super::slot_guard::{judge, rate};
use super::wal_disk::WalDisk;

/// How often it is asked whether commits wait. `synchronous_standby_names` takes effect on a
/// reload, which is no more prompt.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often the slot is looked at.
const SLOT_INTERVAL: Duration = Duration::from_secs(10);
/// How often the same complaint of it is repeated.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);
/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// Keeps asking as long as it lives.
pub struct Monitor {
    commits_wait: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Monitor {
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

/// Watches the WAL sender with process id `pid` and the slot it serves, over an ordinary
/// connection of its own; and, where it can be seen, the disk in `wal_dir` that the slot's WAL fills. Writes a
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
    let (info, slot, metrics) = (info.clone(), slot.clone(), metrics.clone());
    let task = tokio::spawn(async move {
        let mut said = false;
        let mut disk = WalDisk::new(wal_dir);
        let mut canary = Canary::new(canary_every);
        loop {
            if let Err(error) = ask(
                &info,
                (pid, &slot),
                &mut disk,
                &mut canary,
                &sender,
                &metrics,
            )
            .await
            {
                if !said {
                    tracing::warn!(%error,
                        "cannot ask in SQL whether commits wait for walvault and how the slot stands; should commits wait, they wait for wal.max_delay");
                    said = true;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    });
    Monitor { commits_wait, task }
}

async fn ask(
    info: &ConnInfo,
    (pid, slot): (i32, &SlotName),
    disk: &mut WalDisk,
    canary: &mut Canary,
    sender: &watch::Sender<bool>,
    metrics: &Metrics,
) -> Result<(), ClientError> {
    let mut sql = Session::connect(info, Mode::Regular).await?;
    let query = format!(
        "select (select sync_state from pg_catalog.pg_stat_replication where pid = {pid}), \
         case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_receive_lsn() \
         else pg_catalog.pg_current_wal_flush_lsn() end, pg_catalog.pg_is_in_recovery()"
    );
    let mut looked: Option<(Instant, Option<SlotState>)> = None;
    let mut complained: Option<(Instant, Outlook)> = None;
    loop {
        let result = sql.query(&query).await?;
        if result.text(0, 2) == Some("f") {
            canary.write_if_due(&mut sql, metrics).await?;
        }
        let waits = matches!(result.text(0, 0), Some("sync" | "quorum"));
        metrics.live.commits_wait(waits);
        if let Some(end) = result.text(0, 1).and_then(|text| text.parse().ok()) {
            metrics.live.heard(end);
        }
        sender.send_if_modified(|known| {
            let changed = *known != waits;
            if changed {
                tracing::info!(waits, "whether commits wait for the archive");
            }
            *known = waits;
            changed
        });
        if looked.is_none_or(|(at, _)| at.elapsed() >= SLOT_INTERVAL) {
            let free = disk.free().await;
            let now = slot_state(&mut sql, slot).await?;
            let now = now.map(|now| SlotState { disk: free, ..now });
            let (before, between) =
                looked.map_or((None, SLOT_INTERVAL), |(at, state)| (state, at.elapsed()));
            if let Some(now) = now {
                let outlook = judge(now, before, between);
                let due = complained.is_none_or(|(at, said)| {
                    discriminant(&said) != discriminant(&outlook)
                        || at.elapsed() >= COMPLAINT_INTERVAL
                });
                if due {
                    report(slot, now, outlook);
                    complained = Some((Instant::now(), outlook));
                }
                metrics.live.slot(Some(Slot {
                    state: now,
                    outlook,
                    rate: rate(now, before, between),
                }));
            }
            looked = Some((Instant::now(), now));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Reads the slot's row; `None` when there is none, or it reserves nothing.
async fn slot_state(sql: &mut Session, slot: &SlotName) -> Result<Option<SlotState>, ClientError> {
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
