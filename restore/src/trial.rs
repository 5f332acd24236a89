//! Trying a restored directory out: a server is started on it where nobody else can reach it, brought to
//! the target, asked what it reached, and stopped.
//!
//! The server listens on a Unix socket alone, in a directory that only its user may enter, and lets
//! whoever gets there in without a password, so that no role of the cluster has to be known. What it
//! logs goes to a file there, in English, whatever the cluster's own settings are. Of these, `alone` switches
//! off what acts on others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use walvault_protocol::client::{ClientError, Session};
use walvault_protocol::{Lsn, ServerVersion};

use crate::exit::{CommandError, REFUSED};
use crate::materialise::Owner;
use crate::plan::NeededSetting;
use crate::target::TargetAction;

mod alone;
mod programs;
mod roles;
mod server;
mod session;
mod told;

pub use programs::Programs;
pub use roles::roles;
pub(crate) use server::command;
pub use server::{MAINTENANCE, PORT};
pub use told::told_to_end;

use server::{Server, Settings, Sight};

/// How often the server is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How many looks at a server that is at its target may fail.
const UNSEEN: u32 = 50;
/// How many lines tell why a server does not start.
const COMPLAINT: usize = 3;
/// The role that initdb makes most often.
const DEFAULT_ROLE: &str = "postgres";
/// How many of the last lines of its log an error shows.
const LOG_LINES: usize = 20;

/// What to start.
#[derive(Debug)]
pub struct Trial<'a> {
    /// The data directory.
    pub pgdata: &'a Path,
    /// PostgreSQL's programs, of the backup's major version.
    pub programs: &'a Programs,
    /// Whom the directory belongs to, when not this process's user.
    pub owner: Option<Owner>,
    /// Roles to ask as, the likeliest to exist first.
    pub roles: Vec<String>,
    /// What the server does at the target.
    pub action: Option<TargetAction>,
    /// What else it is started with, each `name=value`; these win over everything.
    pub settings: Vec<String>,
    /// What replay needs on its way, where the cluster's own settings are not there.
    pub needed: &'a [NeededSetting],
    /// The names of variables that neither it nor its restore_command is given.
    pub without: Vec<String>,
}

/// A server that is at its target and can be asked. It is to be stopped.
pub struct Standing {
    server: Server,
    /// What it reached.
    pub reached: Reached,
    /// The role that it lets in, if any of those known.
    pub role: Option<String>,
}

/// What was reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reached {
    /// The end of the last record that was replayed; where the server was not asked, a position
    /// before.
    pub lsn: Option<Lsn>,
    /// The time of the last transaction that was replayed, by the server's clock.
    pub time: Option<Timestamp>,
    /// The timeline the server is on; a new one if it was promoted.
    pub timeline: Option<u32>,
    /// Whether it was promoted.
    pub promoted: bool,
    /// Seconds from the server's start until it was consistent and could be read.
    pub seconds_to_consistent: Option<f64>,
    /// Seconds from the server's start until it was at the target.
    pub seconds_to_target: f64,
    /// Whether the server itself was asked. Else its log and its control file tell the rest.
    #[serde(skip)]
    pub asked: bool,
    /// What its log says of where recovery stopped, where there was a target.
    #[serde(skip)]
    pub stopping: Option<String>,
    /// Where the last record begins that was replayed, as its log says once replay has ended.
    #[serde(skip)]
    pub last_record: Option<Lsn>,
    /// What it said when it was started with the cluster's own settings, where this host cannot serve
    /// them. It was started without `postgresql.conf` and `shared_preload_libraries` then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub without_own_settings: Option<String>,
}

/// Why a directory could not be tried out.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    /// There is no PostgreSQL to run.
    #[error(
        "no PostgreSQL {major} was found ({looked}); install it, or name the directory of its programs with --pg-bindir"
    )]
    NoPrograms {
        /// The major version that is needed.
        major: u32,
        /// What was looked at.
        looked: String,
    },
    /// PostgreSQL does not run as root.
    #[error("PostgreSQL does not run as root; give --owner with the user that shall run it")]
    Root,
    /// Something of the operating system failed.
    #[error("cannot {action}: {source}; check permissions and limits")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// There is no directory for its socket.
    #[error(
        "no directory takes the socket and the log of a server ({0}); set TMPDIR to one with a short path in which this user may write"
    )]
    NoHome(String),
    /// It ended by itself.
    #[error(
        "the server ended with {status} before it reached the target; what it logged last:\n{log}"
    )]
    Ended {
        /// How.
        status: String,
        /// The end of its log.
        log: String,
        /// Whether it came so far as to look at its control file.
        began: bool,
    },
    /// It waits, and is not where it should be.
    #[error(
        "recovery paused{}, before it reached the target: this server's settings are too low for the WAL; raise those that the log names, and start it again. What it logged last:\n{log}",
        lsn.map_or_else(String::new, |lsn| format!(" at LSN {lsn}"))
    )]
    Paused {
        /// The end of the last record that was replayed.
        lsn: Option<Lsn>,
        /// The end of its log.
        log: String,
    },
    /// It took too long.
    #[error(
        "the server was not at its target within {} s, and was stopped; give more with --time-limit, or start the directory again: recovery goes on. What it logged last:\n{log}",
        limit.as_secs()
    )]
    TooLong {
        /// How long it was given.
        limit: Duration,
        /// The end of its log.
        log: String,
    },
    /// The operator, or the machine going down.
    #[error("interrupted; the server was stopped, and the directory can be started again")]
    Interrupted,
}

impl CommandError for TrialError {
    fn exit_code(&self) -> u8 {
        REFUSED
    }
}

impl TrialError {
    fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> TrialError {
        move |source| TrialError::Io { action, source }
    }
}

impl Trial<'_> {
    /// Starts the server, waits until it is at the target, and stops it.
    ///
    /// # Errors
    /// When it does not get there within `limit`, with what it logged.
    pub async fn run(
        &self,
        limit: Duration,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Reached, TrialError> {
        let standing = self.bring_within(Some(limit), interrupted).await?;
        let reached = standing.reached.clone();
        // A server that stops at its target has stopped already.
        standing.stop().await?;
        Ok(reached)
    }

    /// Starts the server and waits until it is at the target, where it stays.
    ///
    /// # Errors
    /// When it does not get there, with what it logged. It is stopped then.
    pub async fn bring(
        &self,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Standing, TrialError> {
        self.bring_within(None, interrupted).await
    }

    async fn bring_within(
        &self,
        limit: Option<Duration>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Standing, TrialError> {
        let mut interrupted = std::pin::pin!(interrupted);
        let begun = Instant::now();
        let refused = match self
            .attempt(Settings::Own, begun, limit, interrupted.as_mut())
            .await
        {
            // A library, a group or memory that only the original's host has says nothing of what was
            // restored.
            Err(TrialError::Ended {
                log, began: false, ..
            }) if self.has_configuration() => log,
            outcome => return outcome,
        };
        let mut standing = self
            .attempt(Settings::Bare, begun, limit, interrupted)
            .await?;
        standing.reached.without_own_settings = Some(complaint(&refused));
        Ok(standing)
    }

    async fn attempt(
        &self,
        settings: Settings,
        begun: Instant,
        limit: Option<Duration>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<Standing, TrialError> {
        let mut server = Server::start(self, settings)?;
        let outcome = tokio::select! {
            outcome = self.watch(&mut server, begun, limit) => outcome,
            () = interrupted => Err(TrialError::Interrupted),
        };
        match outcome {
            Ok((reached, role)) => Ok(Standing {
                server,
                reached,
                role,
            }),
            Err(error) => {
                server.stop().await?;
                Err(error)
            }
        }
    }

    /// Whether the data directory has the cluster's `postgresql.conf`.
    fn has_configuration(&self) -> bool {
        self.pgdata.join("postgresql.conf").exists()
    }

    async fn watch(
        &self,
        server: &mut Server,
        begun: Instant,
        limit: Option<Duration>,
    ) -> Result<(Reached, Option<String>), TrialError> {
        let mut consistent = None;
        let mut unseen = 0;
        loop {
            let ended = server.ended()?;
            let sight = match ended {
                None => server.look(&self.roles).await,
                Some(_) => None,
            };
            let log = server.log();
            if consistent.is_none()
                && (sight.is_some() || log.contains("consistent recovery state reached"))
            {
                consistent = Some(begun.elapsed().as_secs_f64());
            }
            if let Some((sight, role)) = sight.filter(|(sight, _)| sight.is_there) {
                // Recovery says that it stops before it pauses. It also pauses where the server has
                // less of a setting than the WAL needs (RecoveryRequiresIntParameter in
                // xlogrecovery.c).
                if !sight.promoted && stopping(&log).is_none() {
                    return Err(TrialError::Paused {
                        lsn: sight.lsn,
                        log: last_lines(&log),
                    });
                }
                let mut reached = reached(&sight, &log, consistent, begun);
                reached.asked = true;
                return Ok((reached, Some(role)));
            }
            // No role lets us in, but what it logs tells enough.
            let told = log.contains("pausing at the end of recovery")
                || log.contains("archive recovery complete");
            unseen += u32::from(told);
            if unseen > UNSEEN {
                let mut sight = Sight::from_control(self.programs, self.pgdata, self.owner);
                sight.promoted = log.contains("archive recovery complete");
                return Ok((reached(&sight, &log, consistent, begun), None));
            }
            if let Some(status) = ended {
                if self.action == Some(TargetAction::Shutdown)
                    && log.contains("shutting down")
                    && log.contains("recovery stopping")
                {
                    let sight = Sight::from_control(self.programs, self.pgdata, self.owner);
                    return Ok((reached(&sight, &log, consistent, begun), None));
                }
                return Err(TrialError::Ended {
                    status,
                    began: began(&log),
                    log: last_lines(&log),
                });
            }
            if let Some(limit) = limit.filter(|limit| begun.elapsed() > *limit) {
                return Err(TrialError::TooLong {
                    limit,
                    log: last_lines(&log),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Standing {
    /// A session in `database`.
    ///
    /// # Errors
    /// When the server does not let the role in, or there is no such database.
    pub async fn session(&self, database: &str) -> Result<Session, ClientError> {
        let role = self.role.as_deref().unwrap_or(DEFAULT_ROLE);
        self.server.session(role, database).await
    }

    /// Makes it a primary, where it is none yet: it writes to its own directory alone.
    ///
    /// # Errors
    /// When it does not become one.
    pub async fn promote(&mut self) -> Result<(), ClientError> {
        if !self.reached.promoted {
            let mut session = self.session(MAINTENANCE).await?;
            let _ = session
                .query("SELECT pg_catalog.pg_promote(true, 3600)")
                .await?;
            session.close().await;
            self.reached.promoted = true;
        }
        self.roll_back_prepared().await
    }

    /// Rolls prepared transactions back where it is a primary: nobody is left to end them, and they
    /// hold their locks.
    ///
    /// # Errors
    /// When one cannot be rolled back.
    pub async fn roll_back_prepared(&self) -> Result<(), ClientError> {
        if !self.reached.promoted {
            return Ok(());
        }
        let mut session = self.session(MAINTENANCE).await?;
        let prepared = session
            .query(
                "SELECT pg_catalog.quote_literal(gid), database FROM pg_catalog.pg_prepared_xacts",
            )
            .await?;
        session.close().await;
        for row in 0..prepared.rows.len() {
            let (Some(gid), Some(database)) = (prepared.text(row, 0), prepared.text(row, 1)) else {
                continue;
            };
            let mut session = self.session(database).await?;
            let _ = session.query(&format!("ROLLBACK PREPARED {gid}")).await?;
            session.close().await;
        }
        Ok(())
    }

    /// What a program that connects to it has to be given as `PGOPTIONS`.
    #[must_use]
    pub fn options(&self) -> String {
        self.server.options()
    }

    /// The directory of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        self.server.socket()
    }

    /// Stops it.
    ///
    /// # Errors
    /// When that fails.
    pub async fn stop(self) -> Result<(), TrialError> {
        self.server.stop().await
    }
}

/// The end of a log, without what it says to this process, which asks until it is let in.
fn last_lines(log: &str) -> String {
    let asked_too_early = |line: &&str| {
        [
            "FATAL:  the database system is ",
            "DETAIL:  Consistent recovery state has not been yet reached",
            "DETAIL:  Hot standby mode is disabled",
        ]
        .iter()
        .any(|said| line.contains(said))
    };
    let lines: Vec<&str> = log.lines().filter(|line| !asked_too_early(line)).collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// Whether the server came so far as to look at its control file (`StartupXLOG` in `xlog.c`).
fn began(log: &str) -> bool {
    // Of a long log only the end is read.
    log.contains("database system was ") || log.contains("restored log file")
}

/// Why a server that never began has ended, on one line.
fn complaint(log: &str) -> String {
    let said = |line: &str| {
        let levels = ["FATAL:  ", "PANIC:  ", "LOG:  ", "HINT:  ", "DETAIL:  "];
        let found = levels.iter().find_map(|level| line.split_once(level));
        found.map_or(line, |(_, message)| message).trim().to_owned()
    };
    let lines: Vec<String> = log.lines().map(said).collect();
    lines[lines.len().saturating_sub(COMPLAINT)..].join("; ")
}

/// The message of `recoveryStopsBefore` or `recoveryStopsAfter`, without what is before it on its
/// line.
fn stopping(log: &str) -> Option<String> {
    let lines = log.lines().rev();
    let mut found = lines.filter_map(|line| line.find("recovery stopping ").map(|at| &line[at..]));
    found.next().map(str::to_owned)
}

/// `redo done at`: where the last record begins that was replayed.
fn redo_done(log: &str) -> Option<Lsn> {
    let told = log
        .lines()
        .rev()
        .find_map(|line| line.split_once("redo done at "));
    told?.1.split_whitespace().next()?.parse().ok()
}

fn reached(sight: &Sight, log: &str, consistent: Option<f64>, begun: Instant) -> Reached {
    let seconds = begun.elapsed().as_secs_f64();
    Reached {
        lsn: sight.lsn,
        time: sight.time,
        timeline: sight.timeline,
        promoted: sight.promoted,
        seconds_to_consistent: consistent,
        seconds_to_target: seconds,
        asked: false,
        stopping: stopping(log),
        last_record: redo_done(log),
        without_own_settings: None,
    }
}

/// The programs for a backup of a server of `version`; `named` is where they were said to be.
///
/// # Errors
/// When there are none of that major version.
pub fn programs(named: Option<&Path>, version: ServerVersion) -> Result<Programs, TrialError> {
    server::check_home()?;
    Programs::find(named.map(PathBuf::from), version.major())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_not_full_of_what_was_asked_too_early() {
        let early = "2026 FATAL:  the database system is not yet accepting connections\n\
            2026 DETAIL:  Consistent recovery state has not been yet reached.\n";
        let log = format!("2026 LOG:  the cause\n{}", early.repeat(30));
        assert_eq!(last_lines(&log), "2026 LOG:  the cause");
    }

    #[test]
    fn the_log_tells_where_recovery_stopped() {
        let log = "2026 LOG:  redo starts at 0/2000028\n\
            2026 LOG:  recovery stopping before commit of transaction 726, time 2026-11-28\n\
            2026 LOG:  redo done at 0/20001A0 system usage: CPU: user: 0.00 s\n";
        let said = stopping(log).expect("told");
        assert!(said.starts_with("recovery stopping before commit of transaction 726,"));
        assert_eq!(redo_done(log), Some(Lsn(0x200_01A0)));
        // PostgreSQL 13 says no more on the line.
        assert_eq!(
            redo_done("LOG:  redo done at 0/20001A0"),
            Some(Lsn(0x200_01A0))
        );
        let paused = "WARNING:  hot standby is not possible because of insufficient parameter settings\n\
            LOG:  recovery has paused\n";
        assert_eq!((stopping(paused), redo_done(paused)), (None, None));
    }
}
