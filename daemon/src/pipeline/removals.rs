//! Deleting chunks that a longer object replaced.
//!
//! Owns the deletions, which take minutes where chunks are many. They outlive the stream that
//! ordered them, so that no connection waits for them. A chunk that is not deleted before the
//! process ends is found by the next stream's [`TailLedger`](super::tail_ledger::TailLedger).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use walvault_archive::Archive;
use walvault_archive::archive::wal_key;
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::BATCH;

type Chunk = (TimelineId, LsnRange);

/// The deletions of every replica. Clones share them; the last one dropped ends them.
#[derive(Clone, Default)]
pub struct Removals(Arc<Mutex<BTreeMap<usize, Lane>>>);

/// The deletions of one replica. A replica that cannot be reached holds up no other.
struct Lane {
    orders: mpsc::UnboundedSender<(Archive, Vec<Chunk>)>,
    pending: Arc<watch::Sender<BTreeSet<Chunk>>>,
    worker: JoinSet<()>,
}

impl Removals {
    /// How long whoever ends waits for deletions. A chunk that stays hurts nobody.
    pub const GRACE: Duration = Duration::from_secs(2);

    /// Deletes `chunks` of a replica in the background. A chunk that is being deleted already is
    /// not deleted twice: a stream that reconnects finds it in the listing again.
    pub fn remove(
        &self,
        replica: usize,
        archive: &Archive,
        timeline: TimelineId,
        chunks: impl IntoIterator<Item = LsnRange>,
    ) {
        let chunks: Vec<Chunk> = chunks.into_iter().map(|range| (timeline, range)).collect();
        if chunks.is_empty() {
            return;
        }
        let mut lanes = self.lanes();
        let lane = lanes.entry(replica).or_insert_with(Lane::new);
        if lane.has_ended() {
            *lane = Lane::new();
        }
        lane.remove(archive, chunks);
    }

    /// Gives up the deletions of a replica that does not keep up.
    pub fn leave(&self, replica: usize) {
        self.lanes().remove(&replica);
    }

    /// Waits until everything ordered is deleted, at most for `timeout`.
    pub async fn settled(&self, timeout: Duration) {
        let pending: Vec<_> = self
            .lanes()
            .values()
            .map(|lane| lane.pending.clone())
            .collect();
        let all = async {
            for pending in pending {
                let _ = pending.subscribe().wait_for(BTreeSet::is_empty).await;
            }
        };
        if tokio::time::timeout(timeout, all).await.is_err() {
            tracing::info!("superseded chunks are left to the next start to delete");
        }
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<usize, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    fn new() -> Lane {
        let (orders, received) = mpsc::unbounded_channel();
        let pending = Arc::new(watch::Sender::new(BTreeSet::new()));
        let mut worker = JoinSet::new();
        worker.spawn(serve(received, pending.clone()));
        Lane {
            orders,
            pending,
            worker,
        }
    }

    /// Whether a deletion panicked, which ended the worker.
    fn has_ended(&mut self) -> bool {
        self.worker.try_join_next().is_some()
    }

    fn remove(&self, archive: &Archive, mut chunks: Vec<Chunk>) {
        self.pending.send_modify(|pending| {
            chunks.retain(|chunk| pending.insert(*chunk));
        });
        let _ = self.orders.send((archive.clone(), chunks));
    }
}

/// Deletes whatever was ordered meanwhile together.
async fn serve(
    mut orders: mpsc::UnboundedReceiver<(Archive, Vec<Chunk>)>,
    pending: Arc<watch::Sender<BTreeSet<Chunk>>>,
) {
    while let Some((mut archive, mut chunks)) = orders.recv().await {
        while chunks.len() < BATCH
            && let Ok((same, more)) = orders.try_recv()
        {
            archive = same;
            chunks.extend(more);
        }
        let keys = chunks
            .iter()
            .map(|(timeline, range)| wal_key(*timeline, *range, false));
        // A chunk that stays hurts nobody: a longer object holds the same WAL.
        if let Err(error) = archive.delete_many(&keys.collect::<Vec<_>>()).await {
            tracing::warn!(archive = archive.url(), %error, "superseded chunks stay for now");
        }
        pending.send_modify(|pending| {
            for chunk in &chunks {
                pending.remove(chunk);
            }
        });
    }
}
