//! Parts are sealed while they fill, on two threads.
//!
//! Owns the bound on memory: each thread's queue holds half a part of plaintext, so that while one
//! thread works off its part the other is fed the next; and a part begins only when there is room
//! for it as if it did not compress, in a budget of three parts. What compression saved is given
//! back when the part is sealed, the rest when it is stored.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use walvault_archive::Archive;
use walvault_archive::format::{FRAME_SIZE, Kind};
use walvault_archive::seal::{SealWriter, SealedObject, Sealer};
use walvault_layout::{BackupId, ObjectKey};

use super::tarball::Contents;

/// Threads that seal.
const WORKERS: usize = 2;
/// Parts that may be in memory sealed, or being sealed.
const PARTS_IN_MEMORY: u64 = 3;
/// The budget is counted in units of this many bytes.
const UNIT: u64 = 1024;

/// A part on its way to the store.
pub(super) struct SealedPart {
    /// From 1.
    pub(super) number: u32,
    /// The object.
    pub(super) object: SealedObject,
    /// Its share of the budget, to be held until it is stored.
    pub(super) memory: OwnedSemaphorePermit,
}

/// What a thread is fed.
enum Step {
    Begin(Box<Open>),
    Bytes(Bytes),
    End,
}

/// A part that is being filled.
struct Open {
    number: u32,
    writer: SealWriter,
    memory: OwnedSemaphorePermit,
}

/// Takes contents in order and hands them to the threads. Used from a blocking thread.
pub(super) struct Feed {
    archive: Archive,
    id: BackupId,
    sealer: Sealer,
    runtime: Handle,
    budget: Arc<Semaphore>,
    part_units: u32,
    workers: Vec<mpsc::Sender<Step>>,
    current: Option<u32>,
    buffer: BytesMut,
    buffer_size: usize,
    /// The room a part is given at once; most compress to less.
    room: usize,
}

/// Starts the threads: what is written to the feed comes out of the receiver, sealed. They end when
/// the feed has, or nobody receives.
pub(super) fn start(
    archive: &Archive,
    id: &BackupId,
    sealer: Sealer,
    part_size: u64,
) -> (Feed, mpsc::UnboundedReceiver<SealedPart>, JoinSet<()>) {
    let (sealed, parts) = mpsc::unbounded_channel();
    let buffer_size = usize::try_from(part_size)
        .unwrap_or(usize::MAX)
        .min(FRAME_SIZE);
    let depth = usize::try_from(part_size / 2).unwrap_or(usize::MAX) / buffer_size;
    let mut threads = JoinSet::new();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (feed, steps) = mpsc::channel(depth.max(1));
        let sealed = sealed.clone();
        threads.spawn_blocking(move || work(steps, &sealed));
        workers.push(feed);
    }
    // Part sizes are at most 512 MiB, so the count fits.
    let part_units = u32::try_from(units(part_size)).unwrap_or(u32::MAX);
    let budget = usize::try_from(u64::from(part_units) * PARTS_IN_MEMORY).unwrap_or(usize::MAX);
    let feed = Feed {
        archive: archive.clone(),
        id: id.clone(),
        sealer,
        runtime: Handle::current(),
        budget: Arc::new(Semaphore::new(budget.min(Semaphore::MAX_PERMITS))),
        part_units,
        workers,
        current: None,
        buffer: BytesMut::new(),
        buffer_size,
        room: usize::try_from(part_size / 2).unwrap_or(0),
    };
    (feed, parts, threads)
}

impl Contents for Feed {
    fn write(&mut self, part: u32, mut bytes: &[u8]) -> io::Result<()> {
        if self.current != Some(part) {
            self.end_part()?;
            self.begin_part(part)?;
        }
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                self.buffer = BytesMut::with_capacity(self.buffer_size);
            }
            let room = self.buffer.capacity() - self.buffer.len();
            let (head, rest) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(head);
            bytes = rest;
            if self.buffer.len() == self.buffer.capacity() {
                self.pass_on(part)?;
            }
        }
        Ok(())
    }
}

impl Feed {
    /// Ends the last part.
    ///
    /// # Errors
    /// When nobody takes it any more.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_part()
    }

    fn begin_part(&mut self, part: u32) -> io::Result<()> {
        let number = part + 1;
        let room = self.budget.clone().acquire_many_owned(self.part_units);
        let memory = self.runtime.block_on(room).map_err(|_| stopped())?;
        let name = self
            .archive
            .name(&ObjectKey::BackupPart(self.id.clone(), number));
        let mut writer = self
            .sealer
            .begin(Kind::BackupPart, &name)
            .map_err(io::Error::other)?;
        writer.reserve(self.room);
        self.current = Some(part);
        self.send(
            part,
            Step::Begin(Box::new(Open {
                number,
                writer,
                memory,
            })),
        )
    }

    fn end_part(&mut self) -> io::Result<()> {
        let Some(part) = self.current.take() else {
            return Ok(());
        };
        self.pass_on(part)?;
        self.send(part, Step::End)
    }

    fn pass_on(&mut self, part: u32) -> io::Result<()> {
        let full = std::mem::take(&mut self.buffer).freeze();
        if full.is_empty() {
            Ok(())
        } else {
            self.send(part, Step::Bytes(full))
        }
    }

    fn send(&self, part: u32, step: Step) -> io::Result<()> {
        self.workers[part as usize % WORKERS]
            .blocking_send(step)
            .map_err(|_| stopped())
    }
}

/// One thread: seals part after part.
fn work(mut steps: mpsc::Receiver<Step>, sealed: &mpsc::UnboundedSender<SealedPart>) {
    let mut open: Option<Box<Open>> = None;
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Begin(part) => open = Some(part),
            Step::Bytes(bytes) => {
                if let Some(part) = &mut open {
                    part.writer.write(&bytes);
                }
            }
            Step::End => {
                if let Some(part) = open.take()
                    && sealed.send(part.close()).is_err()
                {
                    return;
                }
            }
        }
    }
}

impl Open {
    fn close(self) -> SealedPart {
        let object = self.writer.finish(b"");
        let mut memory = self.memory;
        let needed = usize::try_from(units(object.body.bytes.len() as u64)).unwrap_or(usize::MAX);
        drop(memory.split(memory.num_permits().saturating_sub(needed)));
        SealedPart {
            number: self.number,
            object,
            memory,
        }
    }
}

fn units(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT).max(1)
}

fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the backup was stopped")
}

#[cfg(test)]
mod tests;
