//! `walvault restore`: plans, and then rebuilds a data directory.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use walvault_archive::Catalog;
use walvault_archive::config::Config;
use walvault_archive::layout::BackupId;

use crate::access;
use crate::exit::Failure;
use crate::marks::ArchiveMarks;
use crate::materialise::{Job, Made, Owner, TablespaceMapping};
use crate::plan::{PlanError, Request, RestorePlan, plan};
use crate::report;
use crate::settings::{RecoverySettings, restore_command, timeline_setting};
use crate::target::{
    Point, Target, TargetAction, TargetError, TimelineChoice, parse_instant, parse_name, parse_xid,
};

mod describe;

/// Rebuilds a data directory.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The data directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pgdata: PathBuf,
    #[command(flatten)]
    point: PointArguments,
    /// Stop just before the target, not just after it
    #[arg(long)]
    target_exclusive: bool,
    /// The timeline to follow: latest, current (the backup's own) or a number
    #[arg(long, value_name = "TIMELINE", default_value_t)]
    target_timeline: TimelineChoice,
    /// What PostgreSQL does at the target; its own default is to pause
    #[arg(long, value_name = "ACTION")]
    target_action: Option<TargetAction>,
    /// The backup to use; otherwise the newest that leads to the target
    #[arg(long, value_name = "ID", value_parser = parse_backup)]
    backup: Option<BackupId>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Put the tablespace that was at OLD to NEW; may be given several times
    #[arg(long = "tablespace-map", value_name = "OLD=NEW")]
    tablespace_map: Vec<TablespaceMapping>,
    /// The user that everything shall belong to, when root restores
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

/// The target; without one, everything that is archived is recovered.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct PointArguments {
    /// Up to this time, such as '2026-11-21 14:03:00+01'; a zone is required
    #[arg(long, value_name = "TIME")]
    target_time: Option<String>,
    /// Up to this WAL position
    #[arg(long, value_name = "LSN")]
    target_lsn: Option<String>,
    /// Up to the end of this transaction
    #[arg(long, value_name = "XID")]
    target_xid: Option<String>,
    /// Up to this restore point of pg_create_restore_point()
    #[arg(long, value_name = "NAME")]
    target_name: Option<String>,
    /// Up to the end of the backup, as little as possible
    #[arg(long)]
    target_immediate: bool,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    plan: &'a RestorePlan,
    pgdata: &'a Path,
    dry_run: bool,
    /// Files, bytes and seconds; `null` when nothing was done.
    restored: Option<Restored>,
}

/// What was done.
#[derive(Debug, Clone, Copy, Serialize)]
struct Restored {
    files: u64,
    bytes: u64,
    seconds: f64,
}

impl Restore {
    /// Does it.
    ///
    /// # Errors
    /// When the target cannot be reached, or the data directory cannot be made.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let target = self.target()?;
        let owner = self.owner.as_deref().map(Owner::of).transpose()?;
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        let catalog = Catalog::load(&archive).await?;
        let request = Request {
            target: target.clone(),
            timeline: self.target_timeline,
            backup: self.backup.clone(),
        };
        let plan = plan(&catalog, &ArchiveMarks::new(&archive, &catalog), &request).await?;
        let program = std::env::current_exe().map_err(Failure::Runtime)?;
        let config_path = access::config_path(&config).map_err(Failure::Runtime)?;
        let job = Job {
            archive: &archive,
            backup: catalog
                .backups()
                .iter()
                .find(|backup| backup.id == plan.backup.id)
                .ok_or(PlanError::NoBackup)?,
            pgdata: std::path::absolute(&self.pgdata).map_err(Failure::Runtime)?,
            mappings: self.tablespace_map.clone(),
            owner,
            settings: RecoverySettings {
                restore_command: restore_command(&program, &config_path)?,
                target,
                timeline: timeline_setting(&catalog, plan.timeline),
                action: self.target_action,
            },
        };
        job.check()?;
        if !self.json {
            report::print(format_args!("{}", describe::plan(&plan, &job.pgdata)))?;
        }
        let restored = match self.dry_run {
            true => None,
            false => Some(self.carry_out(&job, &plan).await?),
        };
        self.tell(&plan, &job, restored)
    }

    fn target(&self) -> Result<Target, TargetError> {
        let arguments = &self.point;
        let point = if let Some(time) = &arguments.target_time {
            Point::Time(parse_instant(time)?)
        } else if let Some(lsn) = &arguments.target_lsn {
            Point::Lsn(lsn.parse()?)
        } else if let Some(xid) = &arguments.target_xid {
            Point::Xid(parse_xid(xid)?)
        } else if let Some(name) = &arguments.target_name {
            Point::Name(parse_name(name)?)
        } else if arguments.target_immediate {
            Point::Immediate
        } else {
            Point::End
        };
        if self.target_action.is_some() && point == Point::End {
            return Err(TargetError::Action);
        }
        match self.target_exclusive {
            true => Target::exclusive(point),
            false => Ok(Target::inclusive(point)),
        }
    }

    async fn carry_out(&self, job: &Job<'_>, plan: &RestorePlan) -> Result<Made, Failure> {
        let progress = self.progress(plan);
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Runtime)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Runtime)?;
        let interrupted = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        let made = job.run(&progress, interrupted).await;
        progress.finish_and_clear();
        Ok(made?)
    }

    /// A bar on a terminal, nothing elsewhere.
    fn progress(&self, plan: &RestorePlan) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(plan.backup.size).with_style(style)
    }

    fn tell(&self, plan: &RestorePlan, job: &Job<'_>, made: Option<Made>) -> Result<(), Failure> {
        if self.json {
            let restored = made.map(|made| Restored {
                files: made.files,
                bytes: made.bytes,
                seconds: made.took.as_secs_f64(),
            });
            return report::print_json(&Outcome {
                plan,
                pgdata: &job.pgdata,
                dry_run: self.dry_run,
                restored,
            });
        }
        match made {
            Some(made) => report::print(format_args!("{}", describe::made(made, job))),
            None => report::print(format_args!("Nothing was done: this was a dry run.\n")),
        }
    }
}

/// Reads a backup's ID.
pub(super) fn parse_backup(text: &str) -> Result<BackupId, String> {
    BackupId::parse(text).ok_or_else(|| {
        "a backup's name looks like 20261121T063000Z-9f3c; 'walvault list' shows them".to_owned()
    })
}
