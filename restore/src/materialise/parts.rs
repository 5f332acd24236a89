//! Fetching parts side by side, and writing what they hold to where it belongs.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use tokio::sync::Semaphore;
use walvault_archive::layout::ObjectKey;
use walvault_archive::record::{BackupRecord, PartRecord};
use walvault_archive::{Archive, Error};

use super::MaterialiseError;
use super::tree::{Place, Tree, Use};

/// Memory for parts under way, sealed and opened, in KiB.
const MEMORY_KIB: u32 = 160 << 10;
/// The most parts under way, however small.
const AT_ONCE: usize = 8;

/// Writes parts into a data directory.
pub(super) struct Writer {
    pgdata: PathBuf,
    tree: Arc<Tree>,
    memory: Arc<Semaphore>,
    stopped: AtomicBool,
}

/// What one part gave for one file.
struct Written {
    file: usize,
    extent: usize,
    offset: u64,
    crc32c: u32,
    /// The bytes, for a file that is held in memory.
    held: Option<Vec<u8>>,
}

impl Writer {
    pub(super) fn new(pgdata: PathBuf, tree: Arc<Tree>) -> Writer {
        Writer {
            pgdata,
            tree,
            memory: Arc::new(Semaphore::new(MEMORY_KIB as usize)),
            stopped: AtomicBool::new(false),
        }
    }

    /// Waits until nothing is being written any more.
    pub(super) async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Whoever writes holds some of it. It is never closed.
        let _ = self.memory.acquire_many(MEMORY_KIB).await;
    }

    /// Fetches every part that anything is taken from, writes it, and checks each file's
    /// checksum. Returns the files that are held in memory, by name.
    pub(super) async fn fetch_all(
        self: &Arc<Writer>,
        archive: &Archive,
        backup: &BackupRecord,
        progress: &ProgressBar,
    ) -> Result<HashMap<String, Vec<u8>>, MaterialiseError> {
        let parts = self
            .tree
            .parts
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.tree.uses[*index].is_empty());
        let written: Vec<Vec<Written>> = stream::iter(parts)
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
        self.check(backup, by_file)
    }

    async fn fetch(
        self: &Arc<Writer>,
        archive: &Archive,
        backup: &BackupRecord,
        index: usize,
        part: &PartRecord,
    ) -> Result<Vec<Written>, MaterialiseError> {
        // A part that is larger than all of the memory has it for itself.
        let kib = (part.length.saturating_add(part.stored) >> 10).clamp(1, MEMORY_KIB.into());
        let memory = self
            .memory
            .clone()
            .acquire_many_owned(kib as u32)
            .await
            .expect("it is never closed");
        let owner = part.backup.as_ref().unwrap_or(&backup.id);
        let key = ObjectKey::BackupPart(owner.clone(), part.number);
        let payload = archive.get(&key).await?.payload;
        if payload.len() as u64 != part.length {
            return Err(MaterialiseError::Archive(Error::Record {
                url: archive.url().to_owned(),
                key: archive.name(&key),
                reason: "it has another length than the backup's record says".to_owned(),
            }));
        }
        let writer = self.clone();
        let write = move || {
            let uses = &writer.tree.uses[index];
            let written = uses
                .iter()
                .map(|part_use| writer.write(&payload, part_use))
                .collect();
            drop((payload, memory));
            written
        };
        tokio::task::spawn_blocking(write)
            .await
            .expect("writing does not panic")
    }

    fn write(
        &self,
        payload: &[u8],
        Use {
            file,
            extent,
            offset,
        }: &Use,
    ) -> Result<Written, MaterialiseError> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err(MaterialiseError::Interrupted);
        }
        let planned = &self.tree.files[*file];
        let place = planned.extents[*extent];
        // The record was checked against the length of the part, and so was the payload.
        let bytes = &payload[place.offset as usize..(place.offset + place.length) as usize];
        if planned.place == Place::Disk {
            let path = self.pgdata.join(&planned.path);
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .and_then(|target| target.write_all_at(bytes, *offset))
                .map_err(MaterialiseError::io("write", &path))?;
        }
        Ok(Written {
            file: *file,
            extent: *extent,
            offset: *offset,
            crc32c: crc32c::crc32c(bytes),
            held: (planned.place == Place::Memory).then(|| bytes.to_vec()),
        })
    }

    /// Combines the checksums of each file's extents, and its bytes where they are held.
    fn check(
        &self,
        backup: &BackupRecord,
        mut by_file: HashMap<usize, Vec<Written>>,
    ) -> Result<HashMap<String, Vec<u8>>, MaterialiseError> {
        let mut held = HashMap::new();
        for (index, file) in self.tree.files.iter().enumerate() {
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
                let mut content = vec![0; file.size as usize];
                for Written { offset, held, .. } in &written {
                    let bytes = held.as_deref().unwrap_or_default();
                    content[*offset as usize..*offset as usize + bytes.len()]
                        .copy_from_slice(bytes);
                }
                held.insert(file.path.display().to_string(), content);
            }
        }
        Ok(held)
    }
}
