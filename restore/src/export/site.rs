//! The directory that a copy is written to, and who writes there.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::error::ExportError;
use super::medium;
use super::record::Unfinished;

/// What an export that is not finished is noted in.
const UNFINISHED: &str = "export.unfinished.json";

/// The names that a volume's own files have: with a number where there are several, so that all of
/// them can be put into one directory.
pub(super) struct Names {
    suffix: String,
}

/// A directory, held until this is dropped.
pub(super) struct Site {
    dir: PathBuf,
    _held: File,
}

impl Names {
    /// Of a volume, from 0, of so many.
    pub(super) fn of(volume: usize, several: bool) -> Names {
        let suffix = match several {
            true => format!(".{:03}", volume + 1),
            false => String::new(),
        };
        Names { suffix }
    }

    /// The list of checksums.
    pub(super) fn sums(&self) -> String {
        format!("SHA256SUMS{}", self.suffix)
    }

    /// Its signature.
    pub(super) fn signature(&self) -> String {
        format!("SHA256SUMS{}.sig", self.suffix)
    }

    /// What the volume is.
    pub(super) fn record(&self) -> String {
        format!("EXPORT{}.json", self.suffix)
    }
}

impl Site {
    /// Takes the directory, which is made where there is none.
    ///
    /// # Errors
    /// When another export has it.
    pub(super) fn take(dir: &Path) -> Result<Site, ExportError> {
        let dir = std::path::absolute(dir).map_err(ExportError::io("find", dir))?;
        medium::make_directories(&dir)?;
        let held = File::open(&dir).map_err(ExportError::io("open", &dir))?;
        match flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Site { dir, _held: held }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(ExportError::InUse(dir)),
            Err(error) => Err(ExportError::io("lock", &dir)(error.into())),
        }
    }

    /// The directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a volume, from 0, of one or several goes.
    pub(super) fn volume(&self, volume: usize, several: bool) -> PathBuf {
        match several {
            true => self.dir.join(format!("volume-{:03}", volume + 1)),
            false => self.dir.clone(),
        }
    }

    /// The export that was begun here and not finished; `None` in an empty directory.
    ///
    /// # Errors
    /// When something else is in it, a finished export for example.
    pub(super) fn unfinished(&self) -> Result<Option<Unfinished>, ExportError> {
        let path = self.dir.join(UNFINISHED);
        match fs::read(&path) {
            Ok(json) => match serde_json::from_slice(&json) {
                Ok(unfinished) => Ok(Some(unfinished)),
                Err(error) => Err(ExportError::Unreadable {
                    path,
                    dir: self.dir.clone(),
                    reason: error.to_string(),
                }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.must_be_empty(&self.dir).map(|()| None)
            }
            Err(error) => Err(ExportError::io("read", &path)(error)),
        }
    }

    /// Notes how far it is.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn note(&self, unfinished: &Unfinished) -> Result<(), ExportError> {
        let json = serde_json::to_vec_pretty(unfinished).expect("a record is plain JSON");
        medium::write(&self.dir.join(UNFINISHED), &json)
    }

    /// Forgets that it was ever unfinished.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn finish(&self) -> Result<(), ExportError> {
        let path = self.dir.join(UNFINISHED);
        fs::remove_file(&path).map_err(ExportError::io("remove", &path))?;
        medium::sync(&self.dir)
    }

    /// Directories of volumes may be there: a medium is mounted at each.
    fn must_be_empty(&self, dir: &Path) -> Result<(), ExportError> {
        let entries = fs::read_dir(dir).map_err(ExportError::io("list", dir))?;
        for entry in entries {
            let entry = entry.map_err(ExportError::io("list", dir))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // One that was killed before it had noted anything.
            if name == "lost+found" || name.starts_with(".tmp-export") {
                continue;
            }
            if dir == self.dir && name.starts_with("volume-") && entry.path().is_dir() {
                self.must_be_empty(&entry.path())?;
                continue;
            }
            let found = entry.path();
            let found = found.strip_prefix(&self.dir).unwrap_or(&found);
            let (dir, found) = (self.dir.clone(), found.display().to_string());
            return Err(match name.starts_with("EXPORT") {
                true => ExportError::Finished { dir, found },
                false => self.finished_beside(dir, found),
            });
        }
        Ok(())
    }

    /// The record of a finished export need not be the first that a listing shows.
    fn finished_beside(&self, dir: PathBuf, found: String) -> ExportError {
        for several in [false, true] {
            let record = Names::of(0, several).record();
            if self.volume(0, several).join(&record).exists() {
                return ExportError::Finished { dir, found: record };
            }
        }
        ExportError::NotEmpty { dir, found }
    }
}
