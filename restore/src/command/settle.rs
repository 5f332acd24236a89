//! `walvault settle`: a restored cluster that has recovered becomes an ordinary one.
//!
//! What a restore writes for one recovery is in the way for life: a standby that is cloned from the
//! new primary would take its `recovery_target_timeline` over, and wait for what can never come.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, lchown};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::exit::{CommandError, Failure, REFUSED};
use crate::materialise::{AUTO_CONF, BACKUP_MANIFEST, MARKER, RECOVERY_SIGNAL, STANDBY_SIGNAL};
use crate::report;
use crate::settings::{Cleared, Kind, clear};
use crate::wal::is_leftover;

/// Takes out what a restore wrote for recovery, so that what was set before is in force again.
#[derive(Debug, clap::Args)]
pub struct Settle {
    /// The data directory; its server may run, or be stopped
    #[arg(long, value_name = "DIR")]
    pgdata: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Why a data directory was left as it is.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error("{0} is no data directory: it has no PG_VERSION; name the one that was restored into")]
    NoCluster(PathBuf),
    #[error("{0} holds a restore that was broken off; finish it with the same 'walvault restore'")]
    Unfinished(PathBuf),
    #[error(
        "{dir} has not recovered: it holds {signal}; start it, end recovery with 'pg_ctl promote -D {dir}', and settle then",
        dir = dir.display()
    )]
    Recovering { dir: PathBuf, signal: &'static str },
    #[error("{0} changed meanwhile; repeat the command when no ALTER SYSTEM is under way")]
    Changed(PathBuf),
    #[error("cannot {action} {path}: {source}; run this as the user that runs PostgreSQL")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
}

impl CommandError for SettleError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

impl SettleError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SettleError {
        let path = path.to_owned();
        move |source| SettleError::Io {
            action,
            path,
            source,
        }
    }
}

/// What was done.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Settled {
    pgdata: PathBuf,
    /// Settings that were taken out.
    removed: Vec<Setting>,
    /// Files that were removed.
    files: Vec<&'static str>,
    /// Whether a server may run on the directory; it goes by the old settings until it reads them.
    running: bool,
}

/// A setting, and what `postgresql.auto.conf` says of it now.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Setting {
    name: String,
    value: Option<String>,
}

impl Settle {
    /// Does it.
    ///
    /// # Errors
    /// When the directory is no cluster that has recovered, or cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let pgdata = std::path::absolute(&self.pgdata).map_err(Failure::start)?;
        let settled = settle(&pgdata)?;
        match self.json {
            true => report::print_json(&settled),
            false => report::print(format_args!("{}", settled.describe())),
        }
    }
}

fn settle(pgdata: &Path) -> Result<Settled, SettleError> {
    let there = |name: &str| pgdata.join(name).exists();
    if there(MARKER) {
        return Err(SettleError::Unfinished(pgdata.to_owned()));
    }
    if !there("PG_VERSION") {
        return Err(SettleError::NoCluster(pgdata.to_owned()));
    }
    let recovering = |signal| SettleError::Recovering {
        dir: pgdata.to_owned(),
        signal,
    };
    // PostgreSQL removes the file when recovery ends.
    if there(RECOVERY_SIGNAL) {
        return Err(recovering(RECOVERY_SIGNAL));
    }
    let path = pgdata.join(AUTO_CONF);
    let content = match fs::read(&path) {
        // Nothing was ever set.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        read => read.map_err(SettleError::io("read", &path))?,
    };
    let Cleared {
        content: cleared,
        kind,
        removed,
    } = clear(&content);
    // A standby needs its restore_command. One that was cloned from an unsettled primary does not.
    if kind == Some(Kind::Standby) && there(STANDBY_SIGNAL) {
        return Err(recovering(STANDBY_SIGNAL));
    }
    let mut files = Vec::new();
    if kind.is_some() {
        replace(&path, &content, &cleared)?;
        // It lists the files of the backup, which the server has written to since.
        let manifest = pgdata.join(BACKUP_MANIFEST);
        match fs::remove_file(&manifest) {
            Ok(()) => files.push(BACKUP_MANIFEST),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(SettleError::io("remove", &manifest)(error)),
        }
    }
    remove_leftovers(&pgdata.join("pg_wal"))?;
    let setting = |(name, value)| Setting { name, value };
    Ok(Settled {
        pgdata: pgdata.to_owned(),
        removed: removed.into_iter().map(setting).collect(),
        files,
        running: there("postmaster.pid"),
    })
}

/// Removes what a `wal-fetch` left that was killed; PostgreSQL does not know of it.
fn remove_leftovers(pg_wal: &Path) -> Result<(), SettleError> {
    let Ok(entries) = fs::read_dir(pg_wal) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if is_leftover(&entry.file_name().to_string_lossy()) {
            let path = entry.path();
            fs::remove_file(&path).map_err(SettleError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Puts `new` in the place of `path`, which has `old`, as PostgreSQL itself does: whoever reads it has
/// the one or the other.
fn replace(path: &Path, old: &[u8], new: &[u8]) -> Result<(), SettleError> {
    let temporary = path.with_extension("conf.walvault");
    let before = fs::metadata(path).map_err(SettleError::io("look at", path))?;
    let _ = fs::remove_file(&temporary);
    let write = || {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(before.mode() & 0o777)
            .open(&temporary)?;
        file.write_all(new)?;
        // root settles a directory of the server's user.
        lchown(&temporary, Some(before.uid()), Some(before.gid()))?;
        file.sync_all()
    };
    write().map_err(SettleError::io("write", &temporary))?;
    if fs::read(path).map_err(SettleError::io("read", path))? != old {
        let _ = fs::remove_file(&temporary);
        return Err(SettleError::Changed(path.to_owned()));
    }
    fs::rename(&temporary, path).map_err(SettleError::io("replace", path))?;
    let dir = path.parent().unwrap_or(path);
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(SettleError::io("flush", dir))
}

impl Settled {
    fn describe(&self) -> String {
        let pgdata = self.pgdata.display();
        if self.removed.is_empty() && self.files.is_empty() {
            return format!("Settled   {pgdata} holds nothing of a restore\n");
        }
        let mut text = format!("Settled   {pgdata}\n");
        let mut line = |name: &str, values: Vec<String>| {
            if !values.is_empty() {
                text.push_str(&format!("{name:<9} {}\n", values.join(", ")));
            }
        };
        let names = self.removed.iter().map(|setting| setting.name.clone());
        line(
            "Removed",
            names
                .chain(self.files.iter().map(|file| (*file).to_owned()))
                .collect(),
        );
        let again = self.removed.iter().filter_map(|setting| {
            let value = setting.value.as_ref()?;
            Some(format!("{} = '{value}'", setting.name))
        });
        line("Again", again.collect());
        let next = match self.running {
            true => format!("pg_ctl restart -D {pgdata}; a reload does not change archive_mode"),
            false => "nothing: it holds from the next start on".to_owned(),
        };
        text + &format!(
            "\nNext: {next}\nWhere synchronous_standby_names is set, commits wait for what it names.\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESTORED: &str = "synchronous_standby_names = 'walvault'\nwalvault.restore = 'begin'\n\
        restore_command = 'fetch'\nsynchronous_standby_names = ''\nwalvault.restore = 'recovery'\n";

    fn cluster(auto_conf: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in [("PG_VERSION", "15\n"), (AUTO_CONF, auto_conf)] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        dir
    }

    #[test]
    fn it_settles_once_and_then_finds_nothing() {
        let dir = cluster(RESTORED);
        fs::write(dir.path().join(BACKUP_MANIFEST), "{}").expect("written");
        let pg_wal = dir.path().join("pg_wal");
        fs::create_dir(&pg_wal).expect("made");
        for name in ["RECOVERYXLOG.walvault-123", "000000020000000000000003"] {
            fs::write(pg_wal.join(name), "").expect("written");
        }
        let settled = settle(dir.path()).expect("settled");
        let left: Vec<_> = fs::read_dir(&pg_wal).expect("there").flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(settled.files, [BACKUP_MANIFEST]);
        let text = settled.describe();
        assert!(
            text.contains("Again     synchronous_standby_names = 'walvault'"),
            "{text}"
        );
        let left = fs::read_to_string(dir.path().join(AUTO_CONF)).expect("read");
        assert_eq!(left, "synchronous_standby_names = 'walvault'\n");
        assert!(!dir.path().join(BACKUP_MANIFEST).exists());
        // Whatever is there now is no restore's.
        fs::write(dir.path().join(BACKUP_MANIFEST), "{}").expect("written");
        let again = settle(dir.path()).expect("settled");
        assert!(again.removed.is_empty() && again.files.is_empty());
        assert!(dir.path().join(BACKUP_MANIFEST).exists());
    }

    #[test]
    fn what_has_not_recovered_keeps_what_recovery_needs() {
        let dir = cluster(RESTORED);
        let refused = |saying: &str| {
            let error = settle(dir.path()).expect_err("refused").to_string();
            assert!(error.contains(saying), "{error}");
            let left = fs::read_to_string(dir.path().join(AUTO_CONF)).expect("read");
            assert!(left.contains("restore_command"));
        };
        fs::write(dir.path().join(RECOVERY_SIGNAL), "").expect("written");
        refused("pg_ctl promote");
        fs::remove_file(dir.path().join(RECOVERY_SIGNAL)).expect("removed");
        fs::write(dir.path().join(MARKER), "").expect("written");
        refused("broken off");
        fs::remove_file(dir.path().join(MARKER)).expect("removed");
        let standby = RESTORED.replace("'recovery'", "'standby'");
        fs::write(dir.path().join(AUTO_CONF), standby).expect("written");
        fs::write(dir.path().join(STANDBY_SIGNAL), "").expect("written");
        refused(STANDBY_SIGNAL);
        // A clone of an unsettled primary.
        fs::write(dir.path().join(AUTO_CONF), RESTORED).expect("written");
        let _ = settle(dir.path()).expect("settled");
        let elsewhere = tempfile::tempdir().expect("a directory");
        assert!(matches!(
            settle(elsewhere.path()),
            Err(SettleError::NoCluster(_))
        ));
    }
}
