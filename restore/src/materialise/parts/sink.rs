//! One part's payload on its way into files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Target;
use crate::materialise::MaterialiseError;
use crate::materialise::tree::{Place, Use};

/// Runs of at least this many bytes are flushed as soon as they are written. Flushing each of many
/// small files by itself takes longer than flushing them together.
const LARGE: u64 = 1 << 20;

/// Takes a part's payload as it comes, and writes each run to its file.
pub(super) struct PartSink {
    target: Arc<Target>,
    runs: Vec<Run>,
    /// Runs before this one are done.
    first: usize,
    at: u64,
    large: Vec<File>,
}

/// What a part gave for one file.
pub(super) struct Written {
    pub(super) file: usize,
    pub(super) extent: usize,
    pub(super) crc32c: u32,
    /// The bytes, for a file that is held in memory.
    pub(super) held: Vec<u8>,
}

struct Run {
    part_use: Use,
    /// Where it lies in the part.
    start: u64,
    end: u64,
    open: Option<File>,
    written: Written,
}

impl PartSink {
    /// For part number `index` of the tree.
    pub(super) fn new(target: Arc<Target>, index: usize) -> PartSink {
        let needed = target.tree.uses[index]
            .iter()
            .filter(|part_use| !target.kept[part_use.file]);
        let mut runs: Vec<Run> = needed
            .map(|part_use| {
                let place = target.tree.files[part_use.file].extents[part_use.extent];
                Run {
                    part_use: *part_use,
                    start: place.offset,
                    end: place.offset + place.length,
                    open: None,
                    written: Written {
                        file: part_use.file,
                        extent: part_use.extent,
                        crc32c: 0,
                        held: Vec::new(),
                    },
                }
            })
            .collect();
        runs.sort_by_key(|run| (run.start, run.end));
        PartSink {
            target,
            runs,
            first: 0,
            at: 0,
            large: Vec::new(),
        }
    }

    /// Takes bytes of the payload from `at` on, which is not before where the last ended.
    pub(super) fn take_at(&mut self, at: u64, bytes: &[u8]) -> Result<(), MaterialiseError> {
        self.at = at;
        self.take(bytes)
    }

    /// Takes the next bytes of the payload.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), MaterialiseError> {
        if self.target.stopped.load(Ordering::Relaxed) {
            return Err(MaterialiseError::Interrupted);
        }
        let (start, end) = (self.at, self.at + bytes.len() as u64);
        self.at = end;
        while self
            .runs
            .get(self.first)
            .is_some_and(|run| run.end <= start)
        {
            self.first += 1;
        }
        for run in &mut self.runs[self.first..] {
            if run.start >= end {
                break;
            }
            let (from, to) = (run.start.max(start), run.end.min(end));
            if from < to {
                let within = &bytes[(from - start) as usize..(to - start) as usize];
                run.take(&self.target, from, within)?;
            }
            if run.end <= end && run.end - run.start >= LARGE {
                self.large.extend(run.open.take());
            } else if run.end <= end {
                run.open = None;
            }
        }
        Ok(())
    }

    /// How much was taken.
    pub(super) fn length(&self) -> u64 {
        self.at
    }

    /// What was written, and the large files among those.
    pub(super) fn finish(self) -> (Vec<Written>, Vec<File>) {
        let written = self.runs.into_iter().map(|run| run.written).collect();
        (written, self.large)
    }
}

impl Run {
    fn take(&mut self, target: &Target, from: u64, bytes: &[u8]) -> Result<(), MaterialiseError> {
        let planned = &target.tree.files[self.part_use.file];
        self.written.crc32c = crc32c::crc32c_append(self.written.crc32c, bytes);
        match planned.place {
            Place::Nowhere => {}
            Place::Memory => self.written.held.extend_from_slice(bytes),
            Place::Disk => {
                let path = target.pgdata.join(&planned.path);
                let file = match self.open.take() {
                    Some(file) => file,
                    None => OpenOptions::new()
                        .write(true)
                        .create(true)
                        .truncate(false)
                        .mode(0o600)
                        .open(&path)
                        .map_err(MaterialiseError::io("open", &path))?,
                };
                file.write_all_at(bytes, self.part_use.offset + (from - self.start))
                    .map_err(MaterialiseError::io("write", &path))?;
                self.open = Some(file);
            }
        }
        Ok(())
    }
}
