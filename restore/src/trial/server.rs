//! The server of a trial.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use walvault_config::env_lookup;
use walvault_protocol::Lsn;
use walvault_protocol::client::{ClientError, ConnInfo, Mode, Session};

use super::{Programs, Trial, TrialError, alone, session};
use crate::materialise::Owner;

/// The port, which is but a part of the socket's name.
pub const PORT: &str = "5432";
/// The database that every cluster has.
pub const MAINTENANCE: &str = "template1";
/// How long a look at the server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// `insufficient_privilege`
const DENIED: &str = "42501";
/// How long it may take to stop before it is stopped without a checkpoint.
const STOP: Duration = Duration::from_secs(120);

/// The longest path of a directory for temporary files.
const LONGEST_HOME: usize = 72;

/// A server that runs, or ran.
pub(super) struct Server {
    child: Child,
    home: Home,
    major: u32,
    /// The role that it is asked as, once one is known that it lets in.
    role: Option<String>,
}

/// Which settings a server is started with, besides those that every trial has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settings {
    /// The cluster's own.
    Own,
    /// None that this host may be unable to serve.
    Bare,
}

/// What a look at the server showed.
#[derive(Debug, Clone, Default)]
pub(super) struct Sight {
    /// Whether it is at the target.
    pub(super) is_there: bool,
    pub(super) promoted: bool,
    pub(super) lsn: Option<Lsn>,
    pub(super) time: Option<Timestamp>,
    pub(super) timeline: Option<u32>,
}

/// A directory for the socket and the log, removed when dropped.
struct Home {
    path: PathBuf,
}

impl Server {
    pub(super) fn start(trial: &Trial<'_>, settings: Settings) -> Result<Server, TrialError> {
        if trial.owner.is_none() && rustix::process::geteuid().is_root() {
            return Err(TrialError::Root);
        }
        let home = Home::make(trial.owner)?;
        let hba = home.path.join("pg_hba.conf");
        write(&hba, b"local all all trust\n", trial.owner)?;
        let mut own = Vec::new();
        // Packages of Debian keep it elsewhere, where no backup has it.
        if settings == Settings::Bare || !trial.has_configuration() {
            let conf = home.path.join("postgresql.conf");
            write(&conf, b"", trial.owner)?;
            own.push(format!("config_file={}", conf.display()));
            own.extend(minima(trial));
        }
        if settings == Settings::Bare {
            // It may be set in postgresql.auto.conf, which is read in any case.
            own.push("shared_preload_libraries=".to_owned());
        }
        let log = home.path.join("log");
        write(&log, b"", trial.owner)?;
        let log = File::options()
            .append(true)
            .open(&log)
            .map_err(TrialError::io("open the log"))?;
        let mut command = command(trial.programs.postgres(), trial.owner);
        command.arg("-D").arg(trial.pgdata);
        let path = home.path.display();
        for setting in [
            "listen_addresses=".to_owned(),
            format!("unix_socket_directories={path}"),
            format!("port={PORT}"),
            format!("data_directory={}", trial.pgdata.display()),
            format!("hba_file={path}/pg_hba.conf"),
            "hot_standby=on".to_owned(),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
            "log_min_messages=log".to_owned(),
            "lc_messages=C".to_owned(),
        ] {
            command.arg("-c").arg(setting);
        }
        for setting in alone::settings(trial.programs.major()) {
            command.arg("-c").arg(setting);
        }
        for setting in own.iter().chain(&trial.settings) {
            command.arg("-c").arg(setting);
        }
        for name in &trial.without {
            command.env_remove(name);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(TrialError::io("share the log"))?)
            .stderr(log)
            // What the operator sends to this process's group is for this process to act on.
            .process_group(0);
        let child = command.spawn().map_err(TrialError::io("start postgres"))?;
        Ok(Server {
            child,
            home,
            major: trial.programs.major(),
            role: None,
        })
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Result<Option<String>, TrialError> {
        let status = self.child.try_wait();
        let status = status.map_err(TrialError::io("wait for postgres"))?;
        Ok(status.map(|status| status.to_string()))
    }

    /// Everything it has logged.
    pub(super) fn log(&self) -> String {
        let mut content = Vec::new();
        let read = File::open(self.home.path.join("log")).and_then(|mut file| {
            // Recovery logs little, but a loop may log much.
            let length = file.metadata()?.len();
            file.seek(std::io::SeekFrom::Start(length.saturating_sub(1 << 20)))?;
            file.read_to_end(&mut content)
        });
        match read {
            Ok(_) => String::from_utf8_lossy(&content).into_owned(),
            Err(_) => String::new(),
        }
    }

    /// Asks how far it is, as one of `roles`, and then as a superuser; `None` while it lets nobody
    /// in.
    pub(super) async fn look(&mut self, roles: &[String]) -> Option<(Sight, String)> {
        let known = self.role.clone();
        for role in known.iter().chain(roles) {
            let looked = tokio::time::timeout(PATIENCE, self.look_as(role)).await;
            if let Ok(Some((sight, superuser))) = looked {
                let role = superuser.unwrap_or_else(|| role.clone());
                self.role = Some(role.clone());
                return Some((sight, role));
            }
        }
        None
    }

    /// The options of its sessions.
    pub(super) fn options(&self) -> String {
        session::of_superuser(self.major)
    }

    /// The directory of its socket.
    pub(super) fn socket(&self) -> &Path {
        &self.home.path
    }

    /// A session as `role`.
    pub(super) async fn session(&self, role: &str, database: &str) -> Result<Session, ClientError> {
        let options = session::of_superuser(self.major);
        match self.session_with(role, database, &options).await {
            // The role is no superuser.
            Err(error) if error.server().is_some_and(|error| error.sqlstate == DENIED) => {
                let options = session::of_anybody(self.major);
                self.session_with(role, database, &options).await
            }
            session => session,
        }
    }

    async fn session_with(
        &self,
        role: &str,
        database: &str,
        options: &str,
    ) -> Result<Session, ClientError> {
        let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
        let conninfo = format!(
            "host='{}' port={PORT} dbname='{}' user='{}' options='{}' application_name=walvault",
            quote(&self.home.path.to_string_lossy()),
            quote(database),
            quote(role),
            quote(options)
        );
        let info = ConnInfo::parse(&conninfo, &|_| None)
            .map_err(|error| ClientError::Request(error.to_string()))?;
        Session::connect(&info, Mode::Regular).await
    }

    /// How far it is, and the name of a superuser: `role` if it is one. The role that walvault has
    /// on the original may see little of a database.
    async fn look_as(&self, role: &str) -> Option<(Sight, Option<String>)> {
        let mut session = self.session(role, MAINTENANCE).await.ok()?;
        let answer = session
            .query(
                "SELECT pg_catalog.pg_is_in_recovery(), pg_catalog.pg_last_wal_replay_lsn(), \
                 (extract(epoch FROM pg_catalog.pg_last_xact_replay_timestamp()) \
                      * 1000000)::bigint, \
                 CASE WHEN pg_catalog.pg_is_in_recovery() \
                      THEN pg_catalog.pg_is_wal_replay_paused() END, \
                 CASE WHEN NOT pg_catalog.pg_is_in_recovery() \
                      THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END, \
                 (SELECT rolname FROM pg_catalog.pg_roles WHERE rolsuper AND rolcanlogin \
                      ORDER BY rolname <> current_user, oid LIMIT 1)",
            )
            .await
            .ok()?;
        session.close().await;
        let promoted = answer.text(0, 0)? == "f";
        let superuser = answer.text(0, 5).map(str::to_owned);
        let sight = Sight {
            is_there: promoted || answer.text(0, 3) == Some("t"),
            promoted,
            lsn: answer.text(0, 1).and_then(|lsn| lsn.parse().ok()),
            time: answer
                .text(0, 2)
                .and_then(|micros| micros.parse().ok())
                .and_then(|micros| Timestamp::from_microsecond(micros).ok()),
            timeline: answer
                .text(0, 4)
                .and_then(|segment| u32::from_str_radix(segment.get(..8)?, 16).ok()),
        };
        Some((sight, superuser))
    }

    /// Stops it, if it runs.
    pub(super) async fn stop(mut self) -> Result<(), TrialError> {
        for (signal, patience) in [(Signal::INT, STOP), (Signal::QUIT, PATIENCE)] {
            if self.ended()?.is_some() {
                return Ok(());
            }
            let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // It may have ended just now.
                let _ = kill_process(pid, signal);
            }
            if tokio::time::timeout(patience, self.child.wait())
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        let killed = self.child.kill().await;
        killed.map_err(TrialError::io("stop postgres"))
    }
}

/// What a standby must not have less of than its primary (manual, section "Administrator's Overview" of
/// "Hot Standby"), as far as `pg_controldata` and the plan tell.
fn minima(trial: &Trial<'_>) -> Vec<String> {
    let told = control_data(trial.programs, trial.pgdata, trial.owner);
    let settings = [
        ("max_connections setting", "max_connections"),
        ("max_worker_processes setting", "max_worker_processes"),
        ("max_wal_senders setting", "max_wal_senders"),
        ("max_prepared_xacts setting", "max_prepared_transactions"),
        ("max_locks_per_xact setting", "max_locks_per_transaction"),
    ];
    let set = settings.into_iter().filter_map(|(name, setting)| {
        let had: u32 = field(&told, name)?.parse().ok()?;
        let needed = trial.needed.iter().find(|needed| needed.name == setting);
        let value = needed.map_or(had, |needed| needed.value.max(had));
        Some(format!("{setting}={value}"))
    });
    set.collect()
}

fn control_data(programs: &Programs, pgdata: &Path, owner: Option<Owner>) -> String {
    let mut command = command(&programs.beside("pg_controldata"), owner).into_std();
    let output = command.env("LC_ALL", "C").arg("-D").arg(pgdata).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default()
}

fn field(told: &str, name: &str) -> Option<String> {
    let line = told.lines().find_map(|line| line.strip_prefix(name));
    line.map(|value| value.trim_start_matches(':').trim().to_owned())
}

impl Sight {
    /// What `pg_controldata` tells of a server that has stopped, or lets nobody in. It got at least
    /// as far as `minRecoveryPoint`, which follows the pages that were written, and is zero after a
    /// promotion.
    pub(super) fn from_control(programs: &Programs, pgdata: &Path, owner: Option<Owner>) -> Sight {
        let told = control_data(programs, pgdata, owner);
        let field = |name| field(&told, name);
        Sight {
            is_there: true,
            promoted: false,
            lsn: field("Minimum recovery ending location")
                .and_then(|lsn| lsn.parse().ok())
                .filter(|lsn| *lsn != Lsn::INVALID),
            time: None,
            timeline: field("Latest checkpoint's TimeLineID")
                .and_then(|timeline| timeline.parse().ok()),
        }
    }
}

/// A program as the owner of the data directory. PostgreSQL refuses to run as root.
pub(crate) fn command(program: &Path, owner: Option<Owner>) -> Command {
    let as_owner = owner.filter(|owner| !owner.is_this_process());
    let mut command = match as_owner {
        None => Command::new(program),
        Some(owner) => {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={}", owner.user()))
                .arg(format!("--regid={}", owner.group()))
                .args(["--init-groups", "--no-new-privs", "--"])
                .arg(program);
            command
        }
    };
    command.current_dir("/");
    command
}

fn write(path: &Path, content: &[u8], owner: Option<Owner>) -> Result<(), TrialError> {
    use std::io::Write;
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(content));
    written.map_err(TrialError::io("write into a temporary directory"))?;
    give(path, owner)
}

fn give(path: &Path, owner: Option<Owner>) -> Result<(), TrialError> {
    match owner.filter(|owner| !owner.is_this_process()) {
        None => Ok(()),
        Some(owner) => owner.take(path).map_err(|error| TrialError::Io {
            action: "give a temporary directory to the server's user",
            source: std::io::Error::other(error.to_string()),
        }),
    }
}

impl Home {
    /// Makes it in the first directory for temporary files that takes it.
    fn make(owner: Option<Owner>) -> Result<Home, TrialError> {
        let mut refused = Vec::new();
        for dir in temporary_directories() {
            match Home::make_in(&dir) {
                Ok(home) => {
                    give(&home.path, owner)?;
                    return Ok(home);
                }
                Err(error) => refused.push(format!("{}: {error}", dir.display())),
            }
        }
        Err(TrialError::NoHome(refused.join("; ")))
    }

    fn make_in(dir: &Path) -> std::io::Result<Home> {
        let mut number = std::process::id();
        loop {
            let path = dir.join(format!("walvault-{number:x}"));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Home { path }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    number = number.wrapping_add(0x10_0000);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether there is a directory for the socket and the log of a trial.
///
/// # Errors
/// When there is none.
pub(super) fn check_home() -> Result<(), TrialError> {
    Home::make(None).map(drop)
}

/// Where temporary files may go. Not those with a long path: a socket's has at most 107 bytes.
fn temporary_directories() -> Vec<PathBuf> {
    let named = env_lookup("TMPDIR").map(PathBuf::from);
    let named = named.filter(|dir| dir.is_absolute() && dir.as_os_str().len() <= LONGEST_HOME);
    let usual = ["/tmp", "/var/tmp", "/dev/shm"].map(PathBuf::from);
    named.into_iter().chain(usual).collect()
}

impl Drop for Home {
    fn drop(&mut self) {
        // A leftover is small and harmless.
        let _ = fs::remove_dir_all(&self.path);
    }
}
