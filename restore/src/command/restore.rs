//! `walvault restore`: plans, and then rebuilds a data directory.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::{Archive, Catalog};
use walvault_config::{Config, needless_credentials};
use walvault_evidence::audit::{Action, Event};
use walvault_layout::BackupId;

use super::arguments::{PointArguments, one_line, parse_backup, parse_limit};
use crate::access;
use crate::estimate::{Amount, Estimate};
use crate::exit::Failure;
use crate::marks::ArchiveMarks;
use crate::materialise::{Job, Made, Owner, Prepared, TablespaceMapping, Work, wal_beyond};
use crate::noted::Said;
use crate::place::{Place, absolute};
use crate::plan::{PlanError, Request, RestorePlan, plan};
use crate::protect::{protect, release};
use crate::report;
use crate::settings::{RecoverySettings, StandbySettings, restore_command, timeline_setting};
use crate::target::{Point, Target, TargetAction, TargetError, TimelineChoice};
use crate::trial::{self, Programs, Reached, Trial, roles, told_to_end};

mod at_least;
mod describe;
mod left_out;
mod next;
mod precious;
mod started;

use at_least::AtLeast;
use next::Configuration;

/// How many times as long as `[restore] retry_for` an archive that cannot be reached is tried again
/// while files are fetched.
const FETCH_FACTOR: u32 = 10;
/// How long the lease on the backup lasts at least.
const LEAST_LEASE: Duration = Duration::from_secs(24 * 3600);
/// How many times as long as estimated a restore or its replay may take.
const MARGIN: f64 = 4.0;

/// Rebuilds a data directory.
#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The data directory to make; it must not exist, be empty, or hold an unfinished restore
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
    /// Refuse what does not recover at least up to this WAL position, or this time: what is known to have
    /// been archived, so that a store which shows less is noticed
    #[arg(long, value_name = "LSN|TIME")]
    at_least: Option<AtLeast>,
    /// The backup to use; otherwise the newest that leads to the target
    #[arg(long, value_name = "ID", value_parser = parse_backup)]
    backup: Option<BackupId>,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Restore into an existing data directory: keep files whose checksums are right, rewrite the
    /// others, and remove what is not in the backup
    #[arg(long)]
    delta: bool,
    /// Make a standby, which recovers what is archived and then follows its primary
    #[arg(long, conflicts_with_all = [
        "PointArguments", "target_exclusive", "target_action", "start",
    ])]
    standby: bool,
    /// The standby's primary_conninfo: how it reaches the primary
    #[arg(long, value_name = "CONNINFO", requires = "standby", value_parser = one_line)]
    primary_conninfo: Option<String>,
    /// The standby's primary_slot_name: the replication slot it uses
    #[arg(long, value_name = "SLOT", requires = "standby")]
    primary_slot_name: Option<String>,
    /// Start PostgreSQL on the result where nobody else can reach it, wait for the target, say what was
    /// reached, and stop it again
    #[arg(long, conflicts_with = "dry_run")]
    start: bool,
    /// The directory of PostgreSQL's programs, for --start
    #[arg(long, value_name = "DIR", requires = "start")]
    pg_bindir: Option<PathBuf>,
    /// End --start when the target is not reached within this time, such as 90m or 12h; otherwise
    /// [drill] time_limit, or four times the estimate if that is longer
    #[arg(long, value_name = "TIME", requires = "start", value_parser = parse_limit)]
    time_limit: Option<Duration>,
    /// Put the tablespace that was at OLD to NEW; may be given several times
    #[arg(long = "tablespace-map", value_name = "OLD=NEW")]
    tablespace_map: Vec<TablespaceMapping>,
    /// Put WAL there: pg_wal becomes a link to this directory, which must not exist, or be empty. Where
    /// that link is there already, WAL that lies in the directory is removed
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    waldir: Option<PathBuf>,
    /// Restore although a file system seems too small, such as one that compresses
    #[arg(long)]
    ignore_space: bool,
    /// The user that everything shall belong to, when root restores
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    said: Said,
}

/// What is printed at the end.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    #[serde(flatten)]
    plan: &'a RestorePlan,
    pgdata: &'a Path,
    dry_run: bool,
    standby: bool,
    work: &'a Work,
    estimate: Estimate,
    /// What keeps the backup from a prune meanwhile; `null` where there is none.
    lease: Option<Leased>,
    /// Files, bytes and seconds; `null` when nothing was done.
    restored: Option<Restored>,
    /// What the started server reached; `null` without --start.
    started: Option<Reached>,
}

/// A lease on the backup.
#[derive(Debug, Serialize)]
struct Leased {
    /// Its object's name.
    object: String,
    /// When it ends by itself.
    until: Timestamp,
}

/// What was done.
#[derive(Debug, Clone, Copy, Serialize)]
struct Restored {
    files: u64,
    bytes: u64,
    kept_files: u64,
    kept_bytes: u64,
    seconds: f64,
}

impl From<Made> for Restored {
    fn from(made: Made) -> Restored {
        Restored {
            files: made.files,
            bytes: made.bytes,
            kept_files: made.kept_files,
            kept_bytes: made.kept_bytes,
            seconds: made.took.as_secs_f64(),
        }
    }
}

impl Restore {
    /// Does it.
    ///
    /// # Errors
    /// When the target cannot be reached, or the data directory cannot be made.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let target = self.target()?;
        let owner = self.owner.as_deref().map(Owner::of).transpose()?;
        let config = Config::load(self.place.source(config))?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        if self.dry_run {
            return self
                .restore(&config, &archive, target, owner)
                .await
                .map(drop);
        }
        let tell = |event: Event| {
            event
                .with("target", target.to_string())
                .with("pgdata", &self.pgdata)
        };
        let noted = self
            .said
            .begin_anyway(&config, &archive, Action::Restore, tell)
            .await;
        let done = self.restore(&config, &archive, target, owner).await;
        noted.end(&done, Event::backup).await;
        done.map(drop)
    }

    /// Plans and carries out; returns the backup that was used.
    async fn restore(
        &self,
        config: &Config,
        archive: &Archive,
        target: Target,
        owner: Option<Owner>,
    ) -> Result<BackupId, Failure> {
        let standby = self.standby.then(|| StandbySettings {
            primary_conninfo: self.primary_conninfo.clone(),
            primary_slot_name: self.primary_slot_name.clone(),
        });
        let request = Request {
            target: target.clone(),
            timeline: self.target_timeline,
            backup: self.backup.clone(),
        };
        let lead = async |catalog: &Catalog| {
            plan(catalog, &ArchiveMarks::new(archive, catalog), &request).await
        };
        let (catalog, mut plan) = access::on_catalog(archive, PlanError::is_missing, lead).await?;
        if let Some(at_least) = self.at_least {
            at_least.check(&plan)?;
        }
        plan.warnings.extend(left_out::warnings(&catalog, &plan));
        let away = access::away(config).await.into_iter();
        plan.warnings.extend(away.map(|away| {
            format!(
                "the replica {} is not in this plan, and what it alone holds is missing from it, be it a newer backup or later WAL ({}); plan again once it answers, or take it out of [[archive.copy]] if it is lost for good",
                away.url, away.reason
            )
        }));
        let beyond = wal_beyond(&self.pgdata, &catalog).filter(|_| self.delta);
        if let Some((timeline, archived, page)) = beyond {
            plan.warnings.push(format!(
                "pg_wal holds WAL of timeline {} at LSN {page}, and the archive ends at {archived}: --delta removes it; copy pg_wal first if what is not archived may be wanted",
                timeline.get()
            ));
        }
        // Nobody waits for a single request, and what was fetched so far took hours.
        let retry_for = config.restore.retry_for.saturating_mul(FETCH_FACTOR);
        let patient = access::open_within(config, retry_for).await?;
        let program = crate::program::path().map_err(Failure::start)?;
        let config_path = access::config_path(config).map_err(Failure::start)?;
        let backup = catalog
            .backups()
            .iter()
            .find(|backup| backup.id == plan.backup.id)
            .ok_or(PlanError::NoBackup)?;
        let job = Job {
            archive: &patient,
            backup,
            pgdata: std::path::absolute(&self.pgdata).map_err(Failure::start)?,
            mappings: self.tablespace_map.clone(),
            created: plan.tablespaces.clone(),
            waldir: self.waldir.clone(),
            owner,
            settings: RecoverySettings {
                restore_command: restore_command(
                    &program,
                    config_path.as_deref(),
                    &[self.place.arguments(), plan.fetch_arguments()].concat(),
                )?,
                target: plan.recovery_target(&target),
                // A standby follows its primary onto whatever timeline that begins.
                timeline: match standby {
                    Some(_) if self.target_timeline == TimelineChoice::Latest => {
                        "latest".to_owned()
                    }
                    _ => timeline_setting(&catalog, plan.timeline),
                },
                action: self.target_action,
                standby,
                needed: plan.settings.clone(),
                major: backup.server_version.major(),
            },
            delta: self.delta,
        };
        let programs = self
            .start
            .then(|| trial::programs(self.pg_bindir.as_deref(), job.backup.server_version))
            .transpose()?;
        let progress = self.progress("reading what is there");
        let prepared = job.prepare(&progress).await;
        progress.finish_and_clear();
        let prepared = prepared?;
        // Whatever lies in a directory that is restored over goes, be it what it is restored from.
        prepared.check_apart(&precious::paths(config))?;
        let work = prepared.work();
        let configuration = Configuration::of(
            &job.pgdata,
            backup.server_version.major(),
            work.has_configuration,
        );
        let amount = Amount {
            fetch: work.fetch_bytes,
            write: work.write_bytes,
            replay: plan.replay.bytes,
            replay_stored: plan.replay.stored_bytes,
        };
        let parts = prepared.needed_parts();
        let estimate = Estimate::measure(archive, &plan.backup.id, parts, amount).await?;
        if !self.json {
            let text = describe::plan(&plan, &job, &work, &estimate, &configuration);
            report::print(format_args!("{text}"))?;
        }
        // Whoever plans may be another user than whoever restores.
        if !self.dry_run {
            prepared.check_writable()?;
        }
        if !self.ignore_space {
            prepared.check_space()?;
        }
        let lease = match self.dry_run || config.archive.read_only {
            true => None,
            false => {
                let lasts = times(estimate.restore_seconds + estimate.replay_seconds);
                protect(
                    archive,
                    &backup.id,
                    "walvault restore",
                    lasts.max(LEAST_LEASE),
                )
                .await?
            }
        };
        let leased = lease.as_ref().map(|lease| Leased {
            object: lease.object(),
            until: lease.until(),
        });
        if let (Some(leased), false) = (&leased, self.json) {
            report::print(format_args!(
                "{}",
                describe::leased(leased.until, &backup.id)
            ))?;
        }
        let restored = match self.dry_run {
            true => None,
            false => Some(self.carry_out(prepared).await?),
        };
        if !self.json {
            let text = match restored {
                Some(made) => describe::made(made, &job, self.start, &configuration),
                None => "Nothing was done: this was a dry run.\n".to_owned(),
            };
            report::print(format_args!("{text}"))?;
        }
        let started = match &programs {
            Some(programs) => {
                started::look_again(&job, &plan, &request).await?;
                let limit = self
                    .time_limit
                    .unwrap_or_else(|| config.drill.time_limit.max(times(estimate.replay_seconds)));
                let reached = self.try_out(&job, programs, config, &plan, limit).await?;
                // A server that was not promoted replays its last WAL again when it is started.
                if let Some(lease) = lease.filter(|_| reached.promoted) {
                    release(lease).await;
                }
                Some(reached)
            }
            None => None,
        };
        match (&started, self.json) {
            (_, true) => report::print_json(&Outcome {
                plan: &plan,
                pgdata: &job.pgdata,
                dry_run: self.dry_run,
                standby: self.standby,
                work: &work,
                estimate,
                lease: leased,
                restored: restored.map(Restored::from),
                started: started.clone(),
            })?,
            (Some(reached), false) => {
                report::print(format_args!(
                    "{}",
                    describe::reached(reached, &job, &configuration)
                ))?;
            }
            (None, false) => {}
        }
        if let Some(reached) = &started {
            started::compare(&job, &plan, reached).await?;
        }
        Ok(plan.backup.id.clone())
    }

    fn target(&self) -> Result<Target, TargetError> {
        let point = self.point.point()?.unwrap_or(Point::End);
        if self.target_action.is_some() && point == Point::End {
            return Err(TargetError::Action);
        }
        match self.target_exclusive {
            true => Target::exclusive(point),
            false => Ok(Target::inclusive(point)),
        }
    }

    async fn carry_out(&self, prepared: Prepared<'_>) -> Result<Made, Failure> {
        let progress = self.progress("");
        let interrupted = told_to_end().map_err(Failure::start)?;
        let made = prepared.run(&progress, interrupted).await;
        progress.finish_and_clear();
        Ok(made?)
    }

    async fn try_out(
        &self,
        job: &Job<'_>,
        programs: &Programs,
        config: &Config,
        plan: &RestorePlan,
        limit: Duration,
    ) -> Result<Reached, Failure> {
        let trial = Trial {
            pgdata: &job.pgdata,
            programs,
            owner: job.owner,
            roles: roles(config, self.owner.as_deref()),
            action: self.target_action,
            settings: Vec::new(),
            needed: &plan.settings,
            without: needless_credentials(&config.archive.places(), &config.encryption),
        };
        let interrupted = told_to_end().map_err(Failure::start)?;
        let mut reached = trial.run(limit, interrupted).await?;
        // A server that was not promoted is where the plan leads.
        let planned = plan.timelines.last().unwrap_or(&plan.timeline);
        reached.timeline = reached.timeline.or(Some(planned.get()));
        Ok(reached)
    }

    /// A bar on a terminal, nothing elsewhere.
    fn progress(&self, message: &'static str) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left {msg}";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style).with_message(message)
    }
}

/// Four times as long as estimated.
fn times(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds * MARGIN).unwrap_or(Duration::MAX)
}
