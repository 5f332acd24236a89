//! Drills by schedule.
//!
//! A drill is a process of its own, `walvault drill`: it needs PostgreSQL's programs, much disk and a long time, and
//! must take nothing from the stream. Owns starting and ending it; what it did is told by its record.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::{Child, Command};
use walvault_archive::record::{DrillOutcome, DrillRecord};
use walvault_archive::{Archive, Error};
use walvault_config::Config;
use walvault_evidence::drill;
use walvault_layout::DrillId;

use super::{Duty, Upkeep, UpkeepStatus, Work};
use crate::schedule::Schedule;

/// How much longer than its time limit a drill may take to stop and to remove what it made.
const GRACE: Duration = Duration::from_secs(600);

/// What a drill found.
#[derive(Debug, Clone, Serialize)]
pub struct Drilled {
    /// When it ended.
    pub at: Timestamp,
    /// What was drilled.
    pub scenario: String,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// Why not.
    pub error: Option<String>,
}

struct Drilling {
    config: Arc<Config>,
}

/// Why there was no drill.
#[derive(Debug, thiserror::Error)]
pub enum DrillFailure {
    /// The program could not be run.
    #[error(
        "cannot run {program}: {source}; set [drill] program to where walvault is, or run drills on another node: see docs/drill.md"
    )]
    Program {
        /// The program.
        program: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// It ended without a drill.
    #[error("the drill could not be run: {0}")]
    Refused(String),
    /// It did not end.
    #[error(
        "the drill did not end within its time limit, and was killed; the next one removes what it left"
    )]
    Stuck,
}

impl Upkeep {
    /// Runs a drill whenever it is due. Never returns.
    pub async fn keep_drilling(self, schedule: Schedule, config: Arc<Config>) -> Infallible {
        self.keep(schedule, Drilling { config }).await
    }
}

impl Work for Drilling {
    type Done = Drilled;
    type Failure = DrillFailure;

    fn duty(status: &mut UpkeepStatus) -> &mut Duty<Drilled> {
        &mut status.drill
    }

    async fn before(&self, archive: &Archive) -> Result<Option<Timestamp>, Error> {
        let drills = drill::list(archive).await?;
        Ok(drills.last().and_then(DrillId::begun))
    }

    async fn run(&self, _archive: &Archive) -> Result<Drilled, DrillFailure> {
        let done = self.once().await;
        match &done {
            Ok(Drilled {
                passed: true,
                scenario,
                ..
            }) => tracing::info!(scenario, "the drill passed"),
            Ok(Drilled {
                scenario, error, ..
            }) => {
                let error = error.as_deref().unwrap_or_default();
                tracing::error!(scenario, error, "the drill failed");
            }
            Err(error) => tracing::error!(%error, "there was no drill; it is tried again"),
        }
        done
    }
}

impl Drilling {
    async fn once(&self) -> Result<Drilled, DrillFailure> {
        let settings = &self.config.drill;
        let program = match &settings.program {
            Some(program) => program.clone(),
            None => std::env::current_exe()
                .map(|own| own.with_file_name("walvault"))
                .unwrap_or_else(|_| PathBuf::from("walvault")),
        };
        let mut command = Command::new(&program);
        if let Some(file) = &self.config.file {
            command.arg("--config").arg(file);
        }
        let spawned = command
            .args(["drill", "--json", "--reason", "scheduled"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let failed = |source| DrillFailure::Program {
            program: program.clone(),
            source,
        };
        let child = spawned.map_err(failed)?;
        let running = Running::of(&child);
        let limit = settings.time_limit + GRACE;
        let output = tokio::time::timeout(limit, child.wait_with_output()).await;
        let Ok(output) = output else {
            running.send(Signal::KILL);
            return Err(DrillFailure::Stuck);
        };
        running.ended();
        let output = output.map_err(failed)?;
        let records: Vec<DrillRecord> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let Some(newest) = records.last() else {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DrillFailure::Refused(said));
        };
        let bad = records
            .iter()
            .find(|record| record.outcome == DrillOutcome::Failed);
        Ok(Drilled {
            at: newest.ended,
            scenario: newest.scenario.clone(),
            passed: bad.is_none(),
            error: bad.and_then(|record| record.error.clone()),
        })
    }
}

/// A drill's process: when nobody waits for it any more it is told to end, and does so in good order.
struct Running {
    pid: Option<Pid>,
}

impl Running {
    fn of(child: &Child) -> Running {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Running {
            pid: pid.and_then(Pid::from_raw),
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(pid) = self.pid {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    }

    fn ended(mut self) {
        self.pid = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.send(Signal::TERM);
    }
}
