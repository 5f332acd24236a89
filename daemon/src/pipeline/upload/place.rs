//! One of the archives that are stored in.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use walvault_archive::{Archive, WalCut};

use super::{Visit, Way};

pub(super) struct Place {
    pub(super) archive: Archive,
    pub(super) visit: Visit,
    pub(super) live: bool,
    /// Cancelled when it is left behind.
    pub(super) left: CancellationToken,
    pub(super) under_way: usize,
    pub(super) chunks_under_way: usize,
    /// Chunks have turns of their own, so that one for which a commit may be waiting never stands
    /// behind 16 MiB.
    units: Arc<Semaphore>,
    chunks: Arc<Semaphore>,
    /// Nobody waits for a merge, so that it has a turn of its own: one at a time.
    merges: Arc<Semaphore>,
}

impl Place {
    pub(super) fn new(place: usize, archive: Archive, live: bool, uploads: usize) -> Place {
        Place {
            archive,
            visit: Visit { place, number: 0 },
            live,
            left: CancellationToken::new(),
            under_way: 0,
            chunks_under_way: 0,
            units: Arc::new(Semaphore::new(uploads.max(1))),
            chunks: Arc::new(Semaphore::new(uploads.max(1))),
            merges: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) fn way(&mut self, kind: WalCut) -> Way {
        self.count(kind, |count| *count += 1);
        let uploading = match kind {
            WalCut::Chunk => &self.chunks,
            WalCut::Merged => &self.merges,
            WalCut::Unit => &self.units,
        };
        Way {
            visit: self.visit,
            archive: self.archive.clone(),
            uploading: uploading.clone(),
            left: self.left.clone(),
        }
    }

    pub(super) fn settled(&mut self, visit: Visit, kind: WalCut) {
        if visit == self.visit {
            self.count(kind, |count| *count -= 1);
        }
    }

    /// Counts an object where it is waited for: a merge brings nothing new.
    fn count(&mut self, kind: WalCut, change: impl Fn(&mut usize)) {
        if kind != WalCut::Merged {
            change(&mut self.under_way);
        }
        if kind == WalCut::Chunk {
            change(&mut self.chunks_under_way);
        }
    }

    pub(super) fn leave(&mut self) {
        self.left.cancel();
        self.left = CancellationToken::new();
        self.visit.number += 1;
        self.live = false;
        self.under_way = 0;
        self.chunks_under_way = 0;
    }
}
