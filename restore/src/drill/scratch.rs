//! Where drills restore to: a directory that one drill has at a time, and in which nothing stays.

use std::fs::{self, DirBuilder, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::DrillError;
use crate::materialise::Owner;

/// What the names of the directories begin with that drills make.
const PREFIX: &str = "drill-";
/// In a directory that was to be kept.
const KEPT: &str = "kept";
/// How often a directory is tried to be removed while what ran in it comes to its end.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);

/// The directory, as long as this drill has it.
pub struct Scratch {
    dir: PathBuf,
    owner: Option<Owner>,
    _lock: File,
}

/// A directory of one drill.
pub struct Room {
    path: PathBuf,
    owner: Option<Owner>,
}

impl Scratch {
    /// Takes `dir`, and removes what drills left there that were killed.
    ///
    /// # Errors
    /// When another drill has it, or it cannot be used.
    pub async fn take(dir: &Path, owner: Option<Owner>) -> Result<Scratch, DrillError> {
        let dir = std::path::absolute(dir).map_err(failed("find", dir))?;
        match DirBuilder::new().recursive(true).mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) => return Err(failed("make", &dir)(error)),
        }
        let path = dir.join("lock");
        let mut lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut by = String::new();
            let _ = lock.read_to_string(&mut by);
            let by = by.trim().to_owned();
            return Err(DrillError::Busy { dir, by });
        }
        let written = lock
            .set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| write!(lock, "{}", std::process::id()));
        written.map_err(failed("write", &path))?;
        let scratch = Scratch {
            dir,
            owner,
            _lock: lock,
        };
        scratch.give(&scratch.dir)?;
        scratch.clear().await?;
        Ok(scratch)
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn room(&self, name: &str) -> Result<Room, DrillError> {
        let path = self.dir.join(format!("{PREFIX}{name}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(failed("make", &path))?;
        self.give(&path)?;
        Ok(Room {
            path,
            owner: self.owner,
        })
    }

    fn give(&self, path: &Path) -> Result<(), DrillError> {
        give(path, self.owner)
    }

    async fn clear(&self) -> Result<(), DrillError> {
        let entries = fs::read_dir(&self.dir).map_err(failed("read", &self.dir))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            if ours && path.is_dir() && !path.join(KEPT).exists() {
                tracing::warn!(path = %path.display(), "removing what a drill left that was killed");
                let room = Room { path, owner: None };
                room.remove().await?;
            }
        }
        Ok(())
    }
}

impl Room {
    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Where a tablespace goes.
    #[must_use]
    pub fn tablespace(&self, oid: u32) -> PathBuf {
        self.path.join(format!("tablespace-{oid}"))
    }

    /// Writes the configuration that the archive is opened with.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn configure(&self, text: &str) -> Result<PathBuf, DrillError> {
        let path = self.path.join("walvault.toml");
        let written = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(failed("write", &path))?;
        give(&path, self.owner)?;
        Ok(path)
    }

    /// Lets it stay.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn keep(&self) -> Result<&Path, DrillError> {
        let path = self.path.join(KEPT);
        fs::write(&path, b"").map_err(failed("write", &path))?;
        Ok(&self.path)
    }

    /// Removes it, and what runs in it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self) -> Result<(), DrillError> {
        self.end_server().await;
        for attempt in 1.. {
            match fs::remove_dir_all(&self.path) {
                Ok(()) => break,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                // A process that fetched WAL ahead may still write.
                Err(_) if attempt < ATTEMPTS => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(failed("remove", &self.path)(error)),
            }
        }
        Ok(())
    }

    /// Ends a server whose drill was killed: the process that `postmaster.pid` names, if it works in
    /// this very directory.
    async fn end_server(&self) {
        let data = self.data();
        let Some(pid) = server_of(&data) else {
            return;
        };
        for signal in [Signal::QUIT, Signal::KILL] {
            let _ = kill_process(pid, signal);
            for _ in 0..ATTEMPTS {
                if test_kill_process(pid).is_err() || !works_in(pid, &data) {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn server_of(data: &Path) -> Option<Pid> {
    let lock = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(lock.lines().next()?.trim().parse().ok()?)?;
    works_in(pid, data).then_some(pid)
}

/// PostgreSQL's processes work in the data directory (`ChangeToDataDir`).
fn works_in(pid: Pid, data: &Path) -> bool {
    let cwd = fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()));
    cwd.is_ok_and(|cwd| cwd == data)
}

fn give(path: &Path, owner: Option<Owner>) -> Result<(), DrillError> {
    match owner.filter(|owner| !owner.is_this_process()) {
        None => Ok(()),
        Some(owner) => Ok(owner.take(path)?),
    }
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl Fn(std::io::Error) -> DrillError + use<'a> {
    move |source| DrillError::Scratch {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_drill_has_the_directory_and_what_a_killed_one_left_goes() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("scratch");
        let first = Scratch::take(&dir, None).await.expect("taken");
        let room = first.room("one").expect("a room");
        fs::create_dir_all(room.data()).expect("made");
        let kept = first.room("two").expect("a room");
        let _ = kept.keep().expect("kept");
        let busy = Scratch::take(&dir, None).await.err().expect("busy");
        let pid = std::process::id().to_string();
        assert!(
            busy.to_string().contains(&format!("process {pid}")),
            "{busy}"
        );
        fs::write(dir.join("of-others"), b"").expect("written");
        drop(first);

        let _second = Scratch::take(&dir, None).await.expect("taken");
        assert!(!room.path.exists(), "a killed drill's");
        assert!(kept.path.exists() && dir.join("of-others").exists());
    }
}
