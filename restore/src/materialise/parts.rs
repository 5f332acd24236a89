//! Fetching parts side by side, and writing what they hold to where it belongs.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use tokio::sync::{Mutex, Semaphore};
use walvault_archive::record::{BackupRecord, PartRecord};
use walvault_archive::{Archive, Error};
use walvault_layout::ObjectKey;
use walvault_store::compute;

use super::MaterialiseError;
use super::tree::{Place, Tree};

mod sink;

use sink::{PartSink, Written};

/// Memory for parts under way, as they are stored, in KiB.
const MEMORY_KIB: u32 = 64 << 10;
/// The most parts under way, however small.
const AT_ONCE: usize = 8;
/// Of parts that are stored in at least this many bytes no more is fetched than what is needed, if that
/// is less than half.
const SPARSE: u64 = 1 << 20;
/// How many parts are opened and written at once: this is work for processors, not for the network.
const WRITERS: usize = 4;
/// How many files are flushed at once while others are written.
const FLUSHES: usize = 2;

/// Writes parts into a data directory.
pub(super) struct Writer {
    target: Arc<Target>,
    memory: Arc<Semaphore>,
    writers: Semaphore,
    flushes: Arc<Semaphore>,
    flushing: Mutex<tokio::task::JoinSet<()>>,
}

/// What is written, and where.
pub(super) struct Target {
    pub(super) pgdata: std::path::PathBuf,
    pub(super) tree: Arc<Tree>,
    /// For each file, whether it is there already.
    pub(super) kept: Vec<bool>,
    pub(super) stopped: AtomicBool,
}

impl Target {
    /// Whether anything of a part is needed.
    fn needs(&self, part: usize) -> bool {
        let needed = |file: usize| !self.kept[file];
        self.tree.uses[part]
            .iter()
            .any(|part_use| needed(part_use.file))
    }

    /// What is needed of a part, as places in its payload.
    fn spans(&self, part: usize) -> Vec<Range<u64>> {
        let uses = self.tree.uses[part].iter();
        uses.filter(|part_use| !self.kept[part_use.file])
            .map(|part_use| {
                let extent = self.tree.files[part_use.file].extents[part_use.extent];
                extent.offset..extent.offset + extent.length
            })
            .collect()
    }
}

impl Writer {
    pub(super) fn new(pgdata: std::path::PathBuf, tree: Arc<Tree>, kept: Vec<bool>) -> Writer {
        Writer {
            target: Arc::new(Target {
                pgdata,
                tree,
                kept,
                stopped: AtomicBool::new(false),
            }),
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            writers: Semaphore::new(WRITERS),
            flushes: Arc::new(Semaphore::new(FLUSHES)),
            flushing: Mutex::default(),
        }
    }

    /// Waits until nothing is being written any more.
    pub(super) async fn stop(&self) {
        self.target.stopped.store(true, Ordering::Relaxed);
        // Whoever writes holds some of it. It is never closed.
        let _ = self.memory.acquire_many(MEMORY_KIB).await;
        self.flushing.lock().await.shutdown().await;
    }

    /// The parts that anything is needed of, with their number in the tree.
    fn needed(&self) -> impl Iterator<Item = (usize, &PartRecord)> {
        let parts = self.target.tree.parts.iter().enumerate();
        parts.filter(|(index, _)| self.target.needs(*index))
    }

    /// Fetches every part that anything is needed of, writes it, and checks each file's checksum.
    /// Returns the files that are held in memory, by name.
    pub(super) async fn fetch_all(
        &self,
        archive: &Archive,
        backup: &BackupRecord,
        progress: &ProgressBar,
    ) -> Result<HashMap<String, Vec<u8>>, MaterialiseError> {
        let written: Vec<Vec<Written>> = stream::iter(self.needed())
            .map(|(index, part)| async move {
                let written = self.fetch(archive, backup, index, part).await?;
                progress.inc(part.length);
                Ok::<_, MaterialiseError>(written)
            })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        let mut by_file: HashMap<usize, Vec<Written>> = HashMap::new();
        for written in written.into_iter().flatten() {
            by_file.entry(written.file).or_default().push(written);
        }
        let mut flushing = self.flushing.lock().await;
        while flushing.join_next().await.is_some() {}
        self.check(backup, by_file)
    }

    async fn fetch(
        &self,
        archive: &Archive,
        backup: &BackupRecord,
        index: usize,
        part: &PartRecord,
    ) -> Result<Vec<Written>, MaterialiseError> {
        // A part that is larger than all of the memory has it for itself.
        let kib = (part.stored >> 10).clamp(1, MEMORY_KIB.into());
        let memory = self
            .memory
            .clone()
            .acquire_many_owned(kib as u32)
            .await
            .expect("it is never closed");
        let owner = part.backup.as_ref().unwrap_or(&backup.id);
        let key = ObjectKey::BackupPart(owner.clone(), part.number);
        let spans = self.target.spans(index);
        let wanted: u64 = spans.iter().map(|span| span.end - span.start).sum();
        let sink = PartSink::new(self.target.clone(), index);
        if part.stored >= SPARSE && wanted < part.length / 2 {
            let _turn = self.writers.acquire().await;
            let take = move |sink: &mut PartSink, at: u64, bytes: &[u8]| {
                let _memory = &memory;
                sink.take_at(at, bytes)
            };
            let read = archive.read_spans(&key, part.stored, &spans, sink, take);
            let (written, large) = read.await?.finish();
            self.flush(large).await;
            return Ok(written);
        }
        let object = archive.fetch(&key).await?;
        let _turn = self.writers.acquire().await;
        let sink = object
            .open(sink, move |sink, bytes| {
                // Whoever writes holds it, whatever becomes of who waits.
                let _memory = &memory;
                sink.take(bytes)
            })
            .await?;
        if sink.length() != part.length {
            return Err(MaterialiseError::Archive(Error::Record {
                url: archive.url().to_owned(),
                key: archive.name(&key),
                reason: "it has another length than the backup's record says".to_owned(),
            }));
        }
        let (written, large) = sink.finish();
        self.flush(large).await;
        Ok(written)
    }

    /// Flushes files while others are fetched, so that little is left to flush in the end. What
    /// fails is found then.
    async fn flush(&self, files: Vec<File>) {
        let mut flushing = self.flushing.lock().await;
        for file in files {
            let flushes = self.flushes.clone();
            flushing.spawn(async move {
                let _turn = flushes.acquire().await;
                let _ = compute::elsewhere(move || file.sync_data()).await;
            });
        }
        while flushing.try_join_next().is_some() {}
    }

    /// Combines the checksums of each file's extents, and its bytes where they are held.
    fn check(
        &self,
        backup: &BackupRecord,
        mut by_file: HashMap<usize, Vec<Written>>,
    ) -> Result<HashMap<String, Vec<u8>>, MaterialiseError> {
        let mut held = HashMap::new();
        let target = &self.target;
        let files = target.tree.files.iter().enumerate();
        for (index, file) in files.filter(|(index, _)| !target.kept[*index]) {
            let mut written = by_file.remove(&index).unwrap_or_default();
            written.sort_by_key(|written| written.extent);
            let combined = written.iter().fold(0, |crc, written| {
                let length = file.extents[written.extent].length;
                crc32c::crc32c_combine(crc, written.crc32c, length as usize)
            });
            if file.crc32c.is_some_and(|expected| expected != combined) {
                return Err(file.mismatch(&backup.id));
            }
            if file.place == Place::Memory {
                let mut content = Vec::with_capacity(file.size as usize);
                for written in &written {
                    content.extend_from_slice(&written.held);
                }
                held.insert(file.path.display().to_string(), content);
            }
        }
        Ok(held)
    }
}
