//! Sealing and storing, several objects at once, in each archive.
//!
//! Owns every object from the cut until its receipts, and the account of the memory they take. An
//! object is sealed once, and the same bytes are stored everywhere. Objects complete in any order;
//! what that means for watermarks is not its concern.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walvault_archive::archive::wal_key;
use walvault_archive::record::commit_index;
use walvault_archive::seal::{SealedObject, Sealer};
use walvault_archive::{Archive, Error, StoredWal, WalCut, WalPut};
use walvault_config::Ack;
use walvault_protocol::{LsnRange, TimelineId};
use walvault_store::{chance, compute};

use super::Cut;

mod place;

use place::Place;

/// After this long a refusal (no such bucket, access denied) is tried again: somebody may have
/// mended it. Faults that pass by themselves are retried below, by the store.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// Chunks below this many bytes are sealed on the spot: a tenth of a millisecond's work, which a
/// change of threads would double.
const SMALL: u64 = 64 << 10;

/// What happened to an object.
#[derive(Debug)]
pub enum Uploaded {
    /// It is in an archive.
    Stored {
        /// In which.
        visit: Visit,
        /// The receipt.
        stored: StoredWal,
        /// What it is of its unit.
        kind: WalCut,
        /// Bytes stored.
        size: u64,
        /// From the cut to the receipt.
        took: Duration,
    },
    /// It cannot be stored, ever: other bytes are archived in its place, or it cannot be sealed.
    Fatal(Error),
    /// What is archived in its place in one archive is damaged, so that it cannot be compared.
    Damaged {
        /// In which.
        visit: Visit,
        /// What is wrong.
        error: Error,
    },
    /// An upload panicked: a fault of walvault. Some replicas may hold the object.
    Panicked {
        /// Its timeline.
        timeline: TimelineId,
        /// The WAL it was to hold.
        range: LsnRange,
        /// What the panic said.
        cause: String,
    },
    /// Memory was freed.
    Freed,
}

/// An archive between being joined and being left behind: receipts of an earlier visit settle nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// Which archive.
    pub place: usize,
    number: u32,
}

/// Seals and stores cuts in the background.
pub struct Uploader {
    places: Vec<Place>,
    ack: Ack,
    sealer: Sealer,
    tasks: JoinSet<()>,
    /// Chunks that are merged: nobody waits for them.
    merges: JoinSet<()>,
    sealing: Arc<Semaphore>,
    /// Merges are sealed one at a time, so that they leave cores to what is waited for.
    merging: Arc<Semaphore>,
    memory: Arc<AtomicU64>,
    events: mpsc::UnboundedSender<Uploaded>,
}

impl Uploader {
    /// Stores in `archives`, `uploads` objects at once in each; those that are not live are stored
    /// in only once they are joined. What happens arrives at the receiver.
    #[must_use]
    pub fn new(
        archives: impl IntoIterator<Item = (Archive, bool)>,
        ack: Ack,
        sealer: Sealer,
        uploads: usize,
    ) -> (Uploader, mpsc::UnboundedReceiver<Uploaded>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let archives = archives.into_iter().enumerate();
        let uploader = Uploader {
            places: archives
                .map(|(place, (archive, live))| Place::new(place, archive, live, uploads))
                .collect(),
            ack,
            sealer,
            tasks: JoinSet::new(),
            merges: JoinSet::new(),
            sealing: Arc::new(Semaphore::new(cores)),
            merging: Arc::new(Semaphore::new(1)),
            memory: Arc::default(),
            events,
        };
        (uploader, receiver)
    }

    /// Bytes held for objects under way.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.memory.load(Ordering::Relaxed)
    }

    /// Objects whose receipt is waited for: of the archive that has the fewest, or the most, as the
    /// acknowledgement goes.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.together(|place| place.under_way)
    }

    /// Those of them that are chunks.
    #[must_use]
    pub fn chunks_under_way(&self) -> usize {
        self.together(|place| place.chunks_under_way)
    }

    fn together(&self, count: impl Fn(&Place) -> usize) -> usize {
        let counts = self.places.iter().filter(|place| place.live).map(count);
        match self.ack {
            Ack::First => counts.min(),
            Ack::All => counts.max(),
        }
        .unwrap_or(0)
    }

    /// The archives that are stored in.
    pub fn live(&self) -> impl Iterator<Item = usize> {
        let live = self.places.iter().filter(|place| place.live);
        live.map(|place| place.visit.place)
    }

    /// Whether an archive is stored in.
    #[must_use]
    pub fn is_live(&self, place: usize) -> bool {
        self.places[place].live
    }

    /// Objects that an archive has not taken.
    #[must_use]
    pub fn under_way_to(&self, place: usize) -> usize {
        self.places[place].under_way
    }

    /// Whether an archive has taken everything.
    #[must_use]
    pub fn is_idle(&self, place: usize) -> bool {
        self.places[place].under_way == 0
    }

    /// Gives up what an archive has not taken, and stores nothing more in it.
    pub fn leave(&mut self, place: usize) {
        self.places[place].leave();
    }

    /// Stores in an archive again what is submitted from now on.
    pub fn join(&mut self, place: usize) {
        self.places[place].live = true;
    }

    /// Must be told of every [`Uploaded::Stored`] that was received.
    pub fn settled(&mut self, visit: Visit, kind: WalCut) {
        self.places[visit.place].settled(visit, kind);
    }

    /// Takes a cut on its way.
    pub fn submit(&mut self, cut: Cut) {
        while self.tasks.try_join_next().is_some() {}
        while self.merges.try_join_next().is_some() {}
        let live = self.places.iter_mut().filter(|place| place.live);
        let job = Job {
            ways: live.map(|place| place.way(cut.kind)).collect(),
            sealer: self.sealer.clone(),
            sealing: match cut.kind {
                WalCut::Merged => &self.merging,
                WalCut::Chunk | WalCut::Unit => &self.sealing,
            }
            .clone(),
            // Sealing holds the plain bytes and, at worst, as many sealed ones.
            held: Held::new(self.memory.clone(), cut.range.len() * 2),
            events: self.events.clone(),
        };
        let (timeline, range, events) = (cut.timeline, cut.range, self.events.clone());
        let tasks = match cut.kind {
            WalCut::Merged => &mut self.merges,
            WalCut::Chunk | WalCut::Unit => &mut self.tasks,
        };
        tasks.spawn(async move {
            // Without an event the object would count as in flight for ever, and the watermark
            // would stand before it.
            if let Err(panic) = AssertUnwindSafe(job.run(cut)).catch_unwind().await {
                let cause = message(&*panic);
                let _ = events.send(Uploaded::Panicked {
                    timeline,
                    range,
                    cause,
                });
            }
        });
    }

    /// Waits for every upload in flight. Merges are given up: the chunks stay, or the next stream finds
    /// them beside the object that they were merged into.
    pub async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

/// One object's way into one archive.
struct Way {
    visit: Visit,
    archive: Archive,
    uploading: Arc<Semaphore>,
    left: CancellationToken,
}

struct Job {
    ways: Vec<Way>,
    sealer: Sealer,
    sealing: Arc<Semaphore>,
    held: Held,
    events: mpsc::UnboundedSender<Uploaded>,
}

impl Job {
    async fn run(mut self, cut: Cut) {
        let begun = Instant::now();
        let (timeline, range, kind) = (cut.timeline, cut.range, cut.kind);
        let sealed = match self.seal(cut).await {
            Ok(sealed) => sealed,
            Err(error) => {
                let _ = self.events.send(Uploaded::Fatal(error));
                return;
            }
        };
        let size = sealed.body.bytes.len() as u64;
        self.held.resize(allocated(size));
        let _ = self.events.send(Uploaded::Freed);
        let put = WalPut {
            timeline,
            range,
            cut: kind,
            sealed,
        };
        let (put, events) = (&put, &self.events);
        let held = Arc::new(self.held);
        let ways: Vec<(Way, Arc<Held>)> = self
            .ways
            .into_iter()
            .map(|way| (way, held.clone()))
            .collect();
        drop(held);
        join_all(ways.into_iter().map(|(way, held)| async move {
            let stored = way.left.run_until_cancelled(way.store(put)).await;
            drop(held);
            let event = match stored {
                Some(Ok(stored)) => Uploaded::Stored {
                    visit: way.visit,
                    stored,
                    kind,
                    size,
                    took: begun.elapsed(),
                },
                Some(Err(error @ Error::Corrupt { .. })) => Uploaded::Damaged {
                    visit: way.visit,
                    error,
                },
                Some(Err(error)) => Uploaded::Fatal(error),
                None => return,
            };
            let _ = events.send(event);
        }))
        .await;
    }

    async fn seal(&self, cut: Cut) -> Result<SealedObject, Error> {
        let Some(way) = self.ways.first() else {
            unreachable!("one archive is always stored in");
        };
        let key = wal_key(cut.timeline, cut.range, cut.kind.is_unit());
        let kind = walvault_archive::archive::kind_of(&key);
        let name = way.archive.name(&key);
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
        let sealed = compute::elsewhere(work).await?;
        drop(permit);
        Ok(sealed)
    }
}

impl Way {
    /// Stores until it is stored. Only bytes that contradict the archive end the attempts.
    async fn store(&self, put: &WalPut) -> Result<StoredWal, Error> {
        loop {
            let permit = self.uploading.acquire().await.expect("never closed");
            let result = self.archive.put_wal(put).await;
            drop(permit);
            match result {
                Ok(stored) => return Ok(stored),
                Err(
                    error @ (Error::Diverged { .. }
                    | Error::Unconfirmed { .. }
                    | Error::Corrupt { .. }),
                ) => return Err(error),
                Err(error) => {
                    tracing::error!(range = %put.range, timeline = %put.timeline, %error,
                        "WAL is not archived; PostgreSQL keeps it, and the upload is tried again");
                    tokio::time::sleep(REFUSED_PAUSE.mul_f64(0.5 + chance::fraction())).await;
                }
            }
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

/// What the allocator takes for a large block of so many bytes: the next of its size classes, of which
/// there are four to each doubling (jemalloc(3), "Implementation notes").
fn allocated(bytes: u64) -> u64 {
    bytes.next_multiple_of((bytes.next_power_of_two() / 8).max(1))
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

#[cfg(test)]
mod tests;
