//! Where drills restore to: a directory that one drill has at a time, and in which nothing stays.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use walvault_layout::BackupId;

use super::DrillError;
use crate::materialise::Owner;

/// What the names of the directories begin with that drills make.
const PREFIX: &str = "drill-";
/// In each of them: a directory without it is another's, whatever its name.
const MARKER: &str = ".walvault-drill";
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
    /// When another drill has it, others could change what is in it, or it cannot be used.
    pub async fn take(dir: &Path, owner: Option<Owner>) -> Result<Scratch, DrillError> {
        let dir = std::path::absolute(dir).map_err(failed("find", dir))?;
        make(&dir, owner)?;
        check(&dir, owner)?;
        let path = dir.join("lock");
        let mut lock = open_lock(&path).map_err(failed("open", &path))?;
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
        note(&path.join(MARKER))?;
        give(&path, self.owner)?;
        Ok(Room {
            path,
            owner: self.owner,
        })
    }

    async fn clear(&self) -> Result<(), DrillError> {
        let entries = fs::read_dir(&self.dir).map_err(failed("read", &self.dir))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let ours = is_dir && is_room(&entry.file_name().to_string_lossy());
            if ours && path.join(MARKER).exists() && !path.join(KEPT).exists() {
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
        note(&self.path.join(KEPT))?;
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

/// Makes the directory, if it is not there. One that was there before keeps its owner.
fn make(dir: &Path, owner: Option<Owner>) -> Result<(), DrillError> {
    if let Some(parent) = dir.parent() {
        // The owner has to come through these.
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(failed("make", parent))?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => give(dir, owner),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed("make", dir)(error)),
    }
}

/// Refuses a directory in which others could plant links, or put what is removed in another's place.
fn check(dir: &Path, owner: Option<Owner>) -> Result<(), DrillError> {
    let untrusted = |reason: String| DrillError::Untrusted {
        dir: dir.to_owned(),
        reason,
    };
    let is_trusted = |user: u32| {
        // Root may change everything anyway.
        user == 0 || user == geteuid().as_raw() || owner.is_some_and(|owner| owner.user() == user)
    };
    let itself = fs::symlink_metadata(dir).map_err(failed("look at", dir))?;
    let meta = fs::metadata(dir).map_err(failed("look at", dir))?;
    if !meta.is_dir() {
        return Err(untrusted("it is no directory".to_owned()));
    }
    // Whoever made a link may lead it elsewhere.
    for user in [itself.uid(), meta.uid()] {
        if !is_trusted(user) {
            return Err(untrusted(format!("it belongs to user {user}")));
        }
    }
    if meta.mode() & 0o022 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(untrusted(format!(
            "others than its owner may write in it, its mode is {mode:04o}"
        )));
    }
    match owner {
        Some(owner) if !lets_pass(&meta, owner) => Err(untrusted(format!(
            "user {}, whom the restored cluster belongs to, may not enter it",
            owner.user()
        ))),
        _ => Ok(()),
    }
}

/// Whether `owner` reaches what is in the directory.
fn lets_pass(meta: &fs::Metadata, owner: Owner) -> bool {
    let mode = meta.mode();
    owner.user() == 0
        || mode & 0o001 != 0
        || (meta.uid() == owner.user() && mode & 0o100 != 0)
        || (meta.gid() == owner.group() && mode & 0o010 != 0)
}

/// Opens the lock, and nothing that a link with its name leads to. Only who holds it writes.
fn open_lock(path: &Path) -> std::io::Result<File> {
    let lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let meta = lock.metadata()?;
    if !meta.is_file() || meta.nlink() != 1 {
        return Err(std::io::Error::other(
            "it is not a file of its own, and no drill made it",
        ));
    }
    Ok(lock)
}

/// Writes an empty file, in the place of nothing that is there.
fn note(path: &Path) -> Result<(), DrillError> {
    let made = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    made.map(drop).map_err(failed("write", path))
}

/// Whether a drill names its directory so: `drill-20261121T063000Z-9f3c`. Time and digits are those of a
/// backup's name.
fn is_room(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX);
    rest.is_some_and(|rest| BackupId::parse(rest).is_some())
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const ONE: &str = "20261121T063000Z-9f3c";
    const TWO: &str = "20261121T063001Z-0001";

    #[tokio::test]
    async fn what_others_could_change_is_no_scratch_directory() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("scratch");
        fs::create_dir(&dir).expect("made");
        let mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode));
        for open in [0o777, 0o1777, 0o770] {
            mode(open).expect("changed");
            let refused = Scratch::take(&dir, None).await.err().expect("refused");
            let expected = format!("its mode is {open:04o}");
            assert!(refused.to_string().contains(&expected), "{refused}");
        }
        mode(0o750).expect("changed");

        let victim = home.path().join("victim");
        fs::write(&victim, "precious").expect("written");
        let lock = dir.join("lock");
        symlink(&victim, &lock).expect("planted");
        assert!(Scratch::take(&dir, None).await.is_err());
        fs::remove_file(&lock).expect("removed");
        fs::hard_link(&victim, &lock).expect("planted");
        assert!(Scratch::take(&dir, None).await.is_err());
        assert_eq!(fs::read(&victim).expect("read"), b"precious");
        fs::remove_file(&lock).expect("removed");

        let scratch = Scratch::take(&dir, None).await.expect("taken");
        let meta = fs::metadata(&scratch.dir).expect("looked at");
        assert_eq!(meta.mode() & 0o777, 0o750, "it stays as it was");
    }

    #[tokio::test]
    async fn only_what_a_drill_made_is_removed() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("scratch");
        let reports = dir.join("drill-reports");
        let unmarked = dir.join(format!("{PREFIX}{ONE}"));
        drop(Scratch::take(&dir, None).await.expect("taken"));
        for path in [&reports, &unmarked] {
            fs::create_dir(path).expect("made");
        }
        note(&reports.join(MARKER)).expect("written");
        let _again = Scratch::take(&dir, None).await.expect("taken");
        assert!(reports.exists() && unmarked.exists());
    }

    #[tokio::test]
    async fn one_drill_has_the_directory_and_what_a_killed_one_left_goes() {
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("scratch");
        let first = Scratch::take(&dir, None).await.expect("taken");
        let room = first.room(ONE).expect("a room");
        fs::create_dir_all(room.data()).expect("made");
        let kept = first.room(TWO).expect("a room");
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
