//! Sealing and storing, several objects at once.
//!
//! Owns every object from the cut until its receipt, and the account of the memory they take.
//! Objects complete in any order; what that means for the watermark is not its concern.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use walvault_archive::archive::wal_key;
use walvault_archive::record::commit_index;
use walvault_archive::seal::{SealedObject, Sealer};
use walvault_archive::{Archive, Error, StoredWal, WalPut, chance};
use walvault_protocol::LsnRange;

use super::Cut;

/// After this long a refusal (no such bucket, access denied) is tried again: somebody may have
/// mended it. Faults that pass by themselves are retried below, by the store.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Chunks below this many bytes are sealed on the spot: a tenth of a millisecond's work, which a
/// change of threads would double.
const SMALL: u64 = 64 << 10;

/// What happened to an object.
#[derive(Debug)]
pub enum Uploaded {
    /// It is in the archive.
    Stored {
        /// The receipt.
        stored: StoredWal,
        /// Whether it was a whole unit.
        whole: bool,
        /// Bytes stored.
        size: u64,
        /// From the cut to the receipt.
        took: Duration,
    },
    /// It cannot be stored, ever: other bytes are archived in its place.
    Fatal(Error),
    /// Memory was freed.
    Freed,
}

/// Seals and stores cuts in the background.
pub struct Uploader {
    archive: Archive,
    sealer: Sealer,
    tasks: JoinSet<()>,
    sealing: Arc<Semaphore>,
    /// Whole units and chunks have turns of their own, so that a chunk, for which a commit may be
    /// waiting, never stands behind 16 MiB.
    units: Arc<Semaphore>,
    chunks: Arc<Semaphore>,
    memory: Arc<AtomicU64>,
    events: mpsc::UnboundedSender<Uploaded>,
    under_way: usize,
}

impl Uploader {
    /// Stores through `archive`, `uploads` objects at once; what happens arrives at the receiver.
    #[must_use]
    pub fn new(
        archive: Archive,
        sealer: Sealer,
        uploads: usize,
    ) -> (Uploader, mpsc::UnboundedReceiver<Uploaded>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let uploader = Uploader {
            archive,
            sealer,
            tasks: JoinSet::new(),
            sealing: Arc::new(Semaphore::new(cores)),
            units: Arc::new(Semaphore::new(uploads.max(1))),
            chunks: Arc::new(Semaphore::new(uploads.max(1))),
            memory: Arc::default(),
            events,
            under_way: 0,
        };
        (uploader, receiver)
    }

    /// Bytes held for objects under way.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Objects whose receipt has not been taken in.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Must be told of every [`Uploaded::Stored`] that was received.
    pub fn settled(&mut self) {
        self.under_way -= 1;
    }

    /// Takes a cut on its way.
    pub fn submit(&mut self, cut: Cut) {
        self.under_way += 1;
        while self.tasks.try_join_next().is_some() {}
        let job = Job {
            archive: self.archive.clone(),
            sealer: self.sealer.clone(),
            sealing: self.sealing.clone(),
            uploading: if cut.whole { &self.units } else { &self.chunks }.clone(),
            // Sealing holds the plain bytes and, at worst, as many sealed ones.
            held: Held::new(self.memory.clone(), cut.range.len() * 2),
            events: self.events.clone(),
        };
        self.tasks.spawn(job.run(cut));
    }

    /// Removes chunks that a whole unit replaced. They are needed by nobody, so that a failure is
    /// only worth a warning: a later start finds them again.
    pub fn remove_chunks(&mut self, cuts: Vec<(walvault_protocol::TimelineId, LsnRange)>) {
        let archive = self.archive.clone();
        if cuts.is_empty() {
            return;
        }
        self.tasks.spawn(async move {
            for (timeline, range) in cuts {
                let key = wal_key(timeline, range, false);
                if let Err(error) = archive.delete(&key).await {
                    tracing::warn!(object = archive.name(&key), %error, "a superseded chunk stays for now");
                }
            }
        });
    }

    /// Waits for everything under way, removals included.
    pub async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Job {
    archive: Archive,
    sealer: Sealer,
    sealing: Arc<Semaphore>,
    uploading: Arc<Semaphore>,
    held: Held,
    events: mpsc::UnboundedSender<Uploaded>,
}

impl Job {
    async fn run(mut self, cut: Cut) {
        let begun = Instant::now();
        let (timeline, range, whole) = (cut.timeline, cut.range, cut.whole);
        let event = match self.seal(cut).await {
            Ok(sealed) => {
                let size = sealed.body.bytes.len() as u64;
                self.held.resize(size);
                let _ = self.events.send(Uploaded::Freed);
                let put = WalPut {
                    timeline,
                    range,
                    whole,
                    sealed,
                };
                match self.store(&put).await {
                    Ok(stored) => Uploaded::Stored {
                        stored,
                        whole,
                        size,
                        took: begun.elapsed(),
                    },
                    Err(error) => Uploaded::Fatal(error),
                }
            }
            Err(error) => Uploaded::Fatal(error),
        };
        drop(self.held);
        let _ = self.events.send(event);
    }

    async fn seal(&self, cut: Cut) -> Result<SealedObject, Error> {
        let key = wal_key(cut.timeline, cut.range, cut.whole);
        let kind = walvault_archive::archive::kind_of(&key);
        let name = self.archive.name(&key);
        let sealer = self.sealer.clone();
        let small = cut.range.len() < SMALL;
        let work = move || {
            let index = commit_index::encode(&cut.marks);
            sealer.seal(kind, &name, &cut.pieces, &index)
        };
        if small {
            return Ok(work()?);
        }
        let permit = self.sealing.acquire().await.expect("never closed");
        let sealed = chance::elsewhere(work).await?;
        drop(permit);
        Ok(sealed)
    }

    /// Stores until it is stored. Only bytes that contradict the archive end the attempts.
    async fn store(&self, put: &WalPut) -> Result<StoredWal, Error> {
        loop {
            let permit = self.uploading.acquire().await.expect("never closed");
            let result = self.archive.put_wal(put).await;
            drop(permit);
            match result {
                Ok(stored) => return Ok(stored),
                Err(error @ (Error::Diverged { .. } | Error::Corrupt { .. })) => return Err(error),
                Err(error) => {
                    tracing::error!(range = %put.range, timeline = %put.timeline, %error,
                        "WAL is not archived; PostgreSQL keeps it, and the upload is tried again");
                    tokio::time::sleep(REFUSED_PAUSE.mul_f64(0.5 + chance::fraction())).await;
                }
            }
        }
    }
}

/// Bytes on the account as long as it lives.
struct Held {
    account: Arc<AtomicU64>,
    bytes: u64,
}

impl Held {
    fn new(account: Arc<AtomicU64>, bytes: u64) -> Held {
        account.fetch_add(bytes, Ordering::Relaxed);
        Held { account, bytes }
    }

    fn resize(&mut self, bytes: u64) {
        self.account.fetch_add(bytes, Ordering::Relaxed);
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
