//! A PostgreSQL server of its own: a new cluster, a standby, or a data directory that was restored.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use crate::outcome::Outcome;
use crate::process::{Process, with_argument};
use crate::proxy::Proxy;
use crate::user::{server_command, server_command_with};
use crate::{cache, wait};

mod builder;

pub use builder::Builder;

/// How a server is asked to stop (manual, section "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Once every client has gone.
    Smart,
    /// Disconnecting clients; waits for walsenders to have sent everything.
    Fast,
    /// Without a checkpoint, as in a crash.
    Immediate,
}

/// A server that runs, or was stopped and can be started again. Dropping it kills the server, and
/// removes the data directory unless that is somebody else's.
#[derive(Debug)]
pub struct Postgres {
    major: u32,
    data: PathBuf,
    // Sockets and the log, and usually the data directory.
    home: TempDir,
    port: u16,
    tcp: bool,
    password: Option<String>,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Postgres {
    /// A new cluster of [`cache::DEBIAN_MAJOR`] with the builder's settings.
    #[must_use]
    pub fn start_new() -> Postgres {
        Builder::new().start()
    }

    /// What a new cluster is like.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts a server on a data directory that exists, such as a restored one. Commands that the
    /// server runs, such as `restore_command`, find `environment` in theirs.
    ///
    /// # Errors
    /// With the server's log, when it does not start.
    pub fn start_on(
        major: u32,
        data: &Path,
        environment: Vec<(String, String)>,
    ) -> Result<Postgres, String> {
        let mut server = Postgres {
            major,
            data: data.to_owned(),
            home: crate::user::server_dir(),
            port: SOCKET_PORT,
            tcp: false,
            password: None,
            environment,
            process: None,
        };
        server.try_start()?;
        Ok(server)
    }

    /// Its major version.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Its data directory.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// A path in the directory that holds its data directory `data`, its socket and its log.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Appends lines to `postgresql.conf`; a running server reads them on SIGHUP or at its next
    /// start.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn configure(&self, lines: &str) {
        let file = self.data.join("postgresql.conf");
        let file = fs::OpenOptions::new().append(true).open(file);
        let mut file = file.expect("postgresql.conf");
        writeln!(file, "{lines}").expect("postgresql.conf is written");
    }

    /// A URL of its Unix socket for the superuser, with the password if there is one.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_as("postgres", self.password.as_deref())
    }

    /// A URL of its Unix socket for a role.
    #[must_use]
    pub fn url_as(&self, role: &str, password: Option<&str>) -> String {
        let (user, home) = (user_info(role, password), self.home.path().display());
        format!(
            "postgresql://{user}@/postgres?host={home}&port={}",
            self.port
        )
    }

    /// The directory of its Unix socket, as libpq's `host`.
    #[must_use]
    pub fn host(&self) -> String {
        self.home.path().display().to_string()
    }

    /// As libpq's `port`.
    #[must_use]
    pub fn port(&self) -> String {
        self.port.to_string()
    }

    /// A URL of its TCP port, if it was built with one.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn tcp_url(&self) -> String {
        assert!(self.tcp, "built with tcp()");
        let user = user_info("postgres", self.password.as_deref());
        format!("postgresql://{user}@127.0.0.1:{}/postgres", self.port)
    }

    /// The same by way of a proxy. Whoever connects gives up after two seconds.
    #[must_use]
    pub fn url_through(&self, proxy: &Proxy) -> String {
        let user = user_info("postgres", self.password.as_deref());
        format!(
            "postgresql://{user}@127.0.0.1:{}/postgres?connect_timeout=2",
            proxy.port()
        )
    }

    /// A proxy before its TCP port, if it was built with one.
    ///
    /// # Panics
    /// If not.
    #[must_use]
    pub fn proxy(&self) -> Proxy {
        assert!(self.tcp, "built with tcp()");
        Proxy::before(self.port)
    }

    /// Everything the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Runs SQL as the superuser. Columns are separated by `|`, rows by line feeds.
    ///
    /// # Errors
    /// With what psql said.
    pub fn try_query(&self, sql: &str) -> Result<String, String> {
        let outcome = Outcome::of(self.psql(&["-c", sql]));
        match outcome.code {
            Some(0) => Ok(outcome.stdout.trim_end().to_owned()),
            _ => Err(outcome.stderr),
        }
    }

    /// As [`Postgres::try_query`].
    ///
    /// # Panics
    /// When it fails.
    pub fn query(&self, sql: &str) -> String {
        self.try_query(sql)
            .unwrap_or_else(|error| panic!("{sql}\n{error}\nThe server's log:\n{}", self.log()))
    }

    /// As [`Postgres::query`], for one value of some type.
    ///
    /// # Panics
    /// When it fails, or the answer is not of that type.
    pub fn value<T: std::str::FromStr>(&self, sql: &str) -> T {
        let text = self.query(sql);
        text.parse()
            .unwrap_or_else(|_| panic!("{sql} gave '{text}'"))
    }

    /// Runs commands one after the other in one session, each its own transaction unless they begin
    /// one. The last line of what the last of them answers.
    ///
    /// # Panics
    /// When one fails.
    pub fn session(&self, commands: &[&str]) -> String {
        let arguments: Vec<&str> = commands.iter().flat_map(|sql| ["-c", sql]).collect();
        let outcome = Outcome::of(self.psql(&arguments)).succeeded();
        outcome.stdout.lines().last().unwrap_or_default().to_owned()
    }

    /// A psql that runs as the superuser, stops at the first error and prints bare values.
    #[must_use]
    pub fn psql(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.client("psql");
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1"])
            .args(arguments);
        command
    }

    /// One of PostgreSQL's client programs, told by its environment where this server is.
    #[must_use]
    pub fn client(&self, program: &str) -> std::process::Command {
        let mut command = server_command(cache::client_program(program));
        command
            .env("PGHOST", self.home.path())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
        command
    }

    /// What time it is by the server's clock.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[must_use]
    pub fn clock(&self) -> jiff::Timestamp {
        crate::time::utc(&self.query("SELECT clock_timestamp() AT TIME ZONE 'UTC'"))
    }

    /// Fills the current segment up, so that the next record is in the next one.
    pub fn switch_wal(&self) {
        self.query("SELECT pg_switch_wal()");
    }

    /// Whether a walvaultd streams from it and has caught up.
    #[must_use]
    pub fn is_streaming_to_walvault(&self) -> bool {
        let streaming = format!("SELECT pid {FROM_WALVAULT} AND state = 'streaming'");
        !self.query(&streaming).is_empty()
    }

    /// The LSN that the walvaultd which streams from it reported as flushed, in PostgreSQL's
    /// notation; empty if none streams.
    #[must_use]
    pub fn reported_by_walvault(&self) -> String {
        self.query(&format!("SELECT flush_lsn {FROM_WALVAULT}"))
    }

    /// Waits until recovery has reached its target: the server is promoted, or paused there.
    pub fn wait_until_recovered(&self) {
        wait::wait_for("the end of recovery", || {
            // Between the two calls the server may be promoted, which makes the second an error.
            let sql = "SELECT NOT pg_is_in_recovery() OR pg_is_wal_replay_paused()";
            self.try_query(sql).is_ok_and(|answer| answer == "t")
        });
    }

    /// Makes a standby a primary.
    pub fn promote(&self) {
        assert_eq!(self.query("SELECT pg_promote()"), "t", "{}", self.log());
    }

    /// A standby that streams from it. Only for [`cache::DEBIAN_MAJOR`] and before: `pg_basebackup`
    /// refuses servers newer than itself.
    ///
    /// # Panics
    /// With what failed.
    #[must_use]
    pub fn standby(&self) -> Postgres {
        let home = crate::user::server_dir();
        let data = home.path().join("data");
        let mut command = self.client("pg_basebackup");
        command.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        let _ = Outcome::of({
            command.arg("--pgdata").arg(&data);
            command
        })
        .succeeded();
        let mut standby = Postgres {
            major: self.major,
            data,
            home,
            port: SOCKET_PORT,
            tcp: false,
            password: self.password.clone(),
            environment: Vec::new(),
            process: None,
        };
        standby.start();
        standby
    }

    /// Starts it again after it was stopped or killed.
    ///
    /// # Panics
    /// With its log, when it does not start.
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Sends a signal to its postmaster: `HUP` to have it read its configuration.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a running server");
        process.signal(signal);
    }

    /// Waits for the end that something else brings about.
    ///
    /// # Panics
    /// With its log, when it does not end.
    pub fn wait_for_exit(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.wait_for_exit();
        }
    }

    /// Stops it and waits for its end.
    ///
    /// # Panics
    /// With its log, when it does not stop.
    pub fn stop(&mut self, how: Shutdown) {
        let process = self.process.as_ref().expect("a running server");
        process.signal(match how {
            Shutdown::Smart => Signal::TERM,
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        });
        self.wait_for_exit();
    }

    /// Kills every one of its processes with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
            self.remove_shared_memory();
        }
        // What its restore_command started outlives it for a while.
        for helper in with_argument("wal-prefetch", &self.data) {
            let _ = kill_process(helper, Signal::KILL);
        }
    }

    /// Kills it and removes its data directory: the node is gone.
    ///
    /// # Panics
    /// When the directory cannot be removed.
    pub fn lose(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.data).expect("the data directory is removed");
    }

    fn try_start(&mut self) -> Result<(), String> {
        let postgres = cache::server_bin(self.major).join("postgres");
        let mut command = server_command_with(postgres, &self.environment);
        command.arg("-D").arg(&self.data);
        let home = self.home.path().display().to_string();
        let settings = [
            ("unix_socket_directories", home),
            ("port", self.port.to_string()),
            (
                "listen_addresses",
                if self.tcp { "127.0.0.1" } else { "" }.to_owned(),
            ),
            ("logging_collector", "off".to_owned()),
            // The page cache outlives every process that is killed here.
            ("fsync", "off".to_owned()),
        ];
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut process = Process::spawn("postgres", command, &self.log_file());
        let started = wait::poll(|| match process.exit_status() {
            Some(status) => Some(Err(format!("postgres ended with {status}"))),
            None => self.is_ready(process.pid()).then_some(Ok(())),
        });
        let started = started.unwrap_or_else(|| Err("postgres does not become ready".to_owned()));
        started.map_err(|problem| format!("{problem}. Its log:\n{}", process.log()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether the lock file is this server's and says that it takes connections: its eighth line,
    /// as `pg_ctl` reads it (`src/include/utils/pidfile.h`).
    fn is_ready(&self, pid: u32) -> bool {
        let lock = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = lock.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && matches!(lines.nth(6), Some("ready" | "standby"))
    }

    /// A killed server leaves a System V segment behind; a new server on the same directory would
    /// remove it, but there may never be one. The lock file's seventh line names it.
    fn remove_shared_memory(&self) {
        let lock = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let id = lock
            .lines()
            .nth(6)
            .and_then(|line| line.split_whitespace().nth(1));
        if let Some(id) = id {
            // It may be gone already.
            let _ = std::process::Command::new("ipcrm")
                .args(["-m", id])
                .output();
        }
    }

    fn log_file(&self) -> PathBuf {
        self.home.path().join("postgres.log")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The part of a URL before the `@`.
fn user_info(role: &str, password: Option<&str>) -> String {
    // Every byte may be written this way (RFC 3986, section 2.1).
    let encoded = |text: &str| {
        text.bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect::<String>()
    };
    match password {
        None => role.to_owned(),
        Some(password) => format!("{role}:{}", encoded(password)),
    }
}

/// What a server without a TCP port calls its Unix socket. Every server has a directory of its own
/// for it.
const SOCKET_PORT: u16 = 5432;

const FROM_WALVAULT: &str = "FROM pg_stat_replication WHERE application_name = 'walvault'";
