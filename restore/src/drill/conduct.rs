//! One drill from its beginning to its end, step by step.

use std::path::Path;

use indicatif::ProgressBar;
use walvault_archive::record::{BackupRecord, DrillOutcome, DrillReached};
use walvault_archive::{Archive, Catalog};
use walvault_config::{Config, needless_credentials, overriding_variables};

use super::choose::Chosen;
use super::rpo::{Newest, judge_canary, judge_rpo, judge_rto};
use super::scratch::Room;
use super::{
    Account, Choice, DrillError, Ending, Options, Scratch, Source, amcheck, asserts, pages,
};
use crate::access;
use crate::line::Line;
use crate::materialise::{DiskSpace, Job, Owner, TablespaceMapping};
use crate::plan::{PlanError, RestorePlan};
use crate::prediction::{self, Verdict, scan};
use crate::protect::{protect, release};
use crate::report::{bytes, exact_instant};
use crate::settings::{RecoverySettings, restore_command, timeline_setting};
use crate::target::{Point, Target, TargetAction};
use crate::trial::{self, Programs, Standing, Trial, roles};

/// The most WAL for which room is wanted: PostgreSQL recycles what it has replayed.
const MOST_WAL: u64 = 4 << 30;

/// What is drilled, and how.
pub struct Drill<'a> {
    /// The whole configuration.
    pub config: &'a Config,
    /// The archive as it is configured, in which the backup gets a lease.
    pub archive: &'a Archive,
    /// What is left to restore from.
    pub source: &'a Source,
    /// Where to stop.
    pub choice: &'a Choice,
    /// How.
    pub options: &'a Options,
    /// When to end.
    pub ending: &'a Ending,
}

/// What was found out before anything is written.
struct Planned {
    archive: Archive,
    catalog: Catalog,
    chosen: Chosen,
    backup: BackupRecord,
    programs: Programs,
}

impl Drill<'_> {
    /// Carries it out in `scratch`, and removes what it made there. What is found goes into `account`.
    ///
    /// # Errors
    /// With what kept it from being carried out. A check that failed is no error.
    pub async fn run(&self, scratch: &Scratch, account: &mut Account) -> Result<(), DrillError> {
        let owner = self.options.owner.as_deref().map(Owner::of).transpose()?;
        let id = account.record.id.as_str();
        let (time, random) = (id.split('-').next(), id.rsplit('-').next());
        let name = format!(
            "{}-{}",
            time.unwrap_or_default(),
            random.unwrap_or_default()
        );
        let room = scratch.room(&name)?;
        let done = self.inside(&room, owner, account).await;
        let done = self.ending.explain(done);
        let step = account.step("remove");
        if self.options.keep {
            let kept = room.keep().map(Path::to_owned);
            account.ended(&step, &kept, |path| format!("kept in {}", path.display()));
            return done.and(kept.map(drop));
        }
        let removed = room.remove().await;
        account.ended(&step, &removed, |()| String::new());
        done.and(removed)
    }

    async fn inside(
        &self,
        room: &Room,
        owner: Option<Owner>,
        account: &mut Account,
    ) -> Result<(), DrillError> {
        let urls = self.source.places.iter().map(|place| place.url.to_string());
        account.record.archive = urls.collect::<Vec<_>>().join(", ");
        let text = self
            .config
            .excerpt(&self.source.places, &self.source.encryption);
        let config_path = room.configure(&text)?;

        let step = account.step("plan");
        let planned = self.ending.unless(self.plan(&text, account)).await;
        account.ended(&step, &planned, |planned| {
            let RestorePlan { backup, replay, .. } = &planned.chosen.plan;
            let wal = bytes(replay.bytes);
            format!(
                "backup {} and {wal} of WAL, to {}",
                backup.id, planned.chosen.target
            )
        });
        let planned = planned?;
        self.note_plan(&planned, account);
        let lease = match self.config.archive.read_only {
            true => None,
            false => {
                let (id, lasts) = (&planned.backup.id, self.options.time_limit);
                protect(self.archive, id, "walvault drill", lasts).await?
            }
        };
        let done = self
            .restored(&planned, room, &config_path, owner, account)
            .await;
        if let Some(lease) = lease {
            release(lease).await;
        }
        done
    }

    /// Restores what was planned, starts it and looks at it.
    async fn restored(
        &self,
        planned: &Planned,
        room: &Room,
        config_path: &Path,
        owner: Option<Owner>,
        account: &mut Account,
    ) -> Result<(), DrillError> {
        let job = self.job(planned, room, config_path, owner)?;
        let step = account.step("space");
        let hidden = ProgressBar::hidden();
        let prepared = self
            .ending
            .unless(async { Ok(job.prepare(&hidden).await?) })
            .await;
        let prepared = prepared.and_then(|prepared| {
            room_for(&prepared.work().disk, self.wal_room(&planned.chosen.plan))?;
            Ok(prepared)
        });
        account.ended(&step, &prepared, |prepared| describe(&prepared.work().disk));
        let prepared = prepared?;
        account.record.measured.backup_bytes = prepared.work().fetch_bytes;

        let step = account.step("restore");
        let made = prepared.run(&hidden, self.ending.wait()).await;
        let made = self.ending.explain(made.map_err(DrillError::from));
        account.ended(&step, &made, |made| {
            format!("{} in {} files", bytes(made.bytes), made.files)
        });
        let _ = made?;

        let mut standing = self.start(planned, room, owner, account).await?;
        let step = account.step("checks");
        let looked = self
            .ending
            .unless(self.look(&mut standing, planned, owner, account))
            .await
            .map_err(|error| account.during(error));
        account.ended(&step, &looked, |()| String::new());
        let step = account.step("stop");
        let stopped = standing.stop().await.map_err(DrillError::from);
        account.ended(&step, &stopped, |()| String::new());
        looked?;
        stopped?;
        if self.config.drill.page_checksums {
            let step = account.step("page-checksums");
            let data = room.data();
            let checking = pages::check(&data, &planned.programs, owner, account);
            let checked = self.ending.unless(checking).await;
            account.ended(&step, &checked, |()| String::new());
            checked?;
        }
        judge_rto(account);
        Ok(())
    }

    /// Opens the archive with what is left, chooses the target, and plans.
    async fn plan(&self, text: &str, account: &mut Account) -> Result<Planned, DrillError> {
        let reading = Config::from_toml(text)?;
        let archive = access::open(&reading).await;
        let archive = archive.map_err(|error| DrillError::Open(error.to_string()))?;
        account.record.target.asked = match self.choice {
            Choice::At(target) => target.to_string(),
            Choice::Random => "a random instant".to_owned(),
        };
        let choose = async |catalog: &Catalog| self.choice.choose(&archive, catalog).await;
        let (catalog, chosen) =
            access::on_catalog(&archive, DrillError::is_missing, choose).await?;
        let backup = catalog.backups().iter();
        let backup = backup
            .clone()
            .find(|backup| backup.id == chosen.plan.backup.id)
            .ok_or(PlanError::NoBackup)?
            .clone();
        let bin_dir = self.options.bin_dir.as_deref();
        let programs = trial::programs(bin_dir, backup.server_version)?;
        account.record.postgres = programs.release();
        account.record.identities = opened_by(&archive, &catalog, &backup).await?;
        Ok(Planned {
            archive,
            catalog,
            chosen,
            backup,
            programs,
        })
    }

    fn note_plan(&self, planned: &Planned, account: &mut Account) {
        let record = &mut account.record;
        record.backup = Some(planned.backup.id.clone());
        record.target.chosen = Some(planned.chosen.target.to_string());
        record.target.time = match planned.chosen.target.point {
            Point::Time(time) => Some(time),
            _ => None,
        };
        record.target.lsn = Some(planned.chosen.plan.stop.lsn);
        record.measured.wal_bytes = planned.chosen.plan.replay.stored_bytes;
        record.measured.wal_objects = planned.chosen.plan.replay.objects;
    }

    fn job<'j>(
        &self,
        planned: &'j Planned,
        room: &Room,
        config_path: &Path,
        owner: Option<Owner>,
    ) -> Result<Job<'j>, DrillError> {
        let program = crate::program::path()?;
        let tablespaces = planned.backup.tablespaces.iter();
        let mappings = tablespaces.map(|tablespace| TablespaceMapping {
            old: tablespace.location.clone().into(),
            new: room.tablespace(tablespace.oid),
        });
        Ok(Job {
            archive: &planned.archive,
            backup: &planned.backup,
            pgdata: room.data(),
            mappings: mappings.collect(),
            // A plan that creates one is not drilled.
            created: Vec::new(),
            waldir: None,
            owner,
            settings: RecoverySettings {
                restore_command: restore_command(
                    &program,
                    Some(config_path),
                    &planned.chosen.plan.fetch_arguments(),
                )?,
                target: planned.chosen.recovery_target(),
                timeline: timeline_setting(&planned.catalog, planned.chosen.plan.timeline),
                action: self.action(planned),
                standby: None,
                needed: planned.chosen.plan.settings.clone(),
                major: planned.backup.server_version.major(),
            },
            delta: false,
        })
    }

    /// At a target the server waits, so that what is there is looked at before anything is written.
    /// At the end of the archive it becomes a primary, as it does without a target.
    fn action(&self, planned: &Planned) -> Option<TargetAction> {
        Some(match planned.chosen.target.point {
            Point::End => TargetAction::Promote,
            _ => TargetAction::Pause,
        })
    }

    fn wal_room(&self, plan: &RestorePlan) -> u64 {
        plan.replay.bytes.min(MOST_WAL) + self.config.restore.prefetch.min(plan.replay.bytes)
    }

    async fn start(
        &self,
        planned: &Planned,
        room: &Room,
        owner: Option<Owner>,
        account: &mut Account,
    ) -> Result<Standing, DrillError> {
        let data = room.data();
        let Source { places, encryption } = self.source;
        let mut without = overriding_variables();
        without.extend(needless_credentials(places, encryption));
        let trial = Trial {
            pgdata: &data,
            programs: &planned.programs,
            owner,
            roles: roles(self.config, self.options.owner.as_deref()),
            action: self.action(planned),
            settings: self.config.drill.settings.clone(),
            needed: &planned.chosen.plan.settings,
            without,
        };
        let before = account.seconds();
        let step = account.step("target");
        let standing = trial.bring(self.ending.wait()).await;
        let standing = self.ending.explain(standing.map_err(DrillError::from));
        if standing.is_err() {
            account.ended(&step, &standing, |_| String::new());
        }
        let standing = standing?;
        let reached = &standing.reached;
        if let Some(seconds) = reached.seconds_to_consistent {
            account.took("consistent", seconds, true, String::new());
            account.record.measured.rto_consistent_seconds = Some(before + seconds);
        }
        let after = reached.seconds_to_consistent.unwrap_or_default();
        let seconds = (reached.seconds_to_target - after).max(0.0);
        let promoted = if reached.promoted { "promoted" } else { "" };
        account.took("target", seconds, true, promoted.to_owned());
        account.record.measured.rto_seconds = Some(before + reached.seconds_to_target);
        // A server that was not promoted is where the plan leads.
        let followed = planned
            .chosen
            .plan
            .timelines
            .last()
            .unwrap_or(&planned.chosen.plan.timeline);
        account.record.reached = Some(DrillReached {
            lsn: reached.lsn,
            time: reached.time,
            timeline: Some(followed.get()),
        });
        Ok(standing)
    }

    /// Everything that is looked at while the server runs.
    async fn look(
        &self,
        standing: &mut Standing,
        planned: &Planned,
        owner: Option<Owner>,
        account: &mut Account,
    ) -> Result<(), DrillError> {
        let settings = &self.config.drill;
        let everything = planned.chosen.target.point == Point::End;
        let every = match everything {
            true => settings.canary_every,
            false => std::time::Duration::ZERO,
        };
        let plan = &planned.chosen.plan;
        let span = (plan.replay.from, plan.replay.to.max(plan.stop.lsn));
        let scan = async |catalog: &Catalog| {
            let line = Line::new(catalog, plan.timeline);
            scan::backwards(&planned.archive, &line, span, !every.is_zero()).await
        };
        // The sidecar may have stored segments in the place of chunks since the drill was planned.
        let (_, seen) =
            access::on_catalog(&planned.archive, walvault_archive::Error::is_missing, scan).await?;
        let (verdict, expected) = prediction::compare(plan, &standing.reached, planned.chosen.last);
        let mut exact = verdict == Verdict::There;
        if !exact && planned.chosen.last.is_none() {
            let backup = &planned.backup;
            let reached = &standing.reached;
            exact = prediction::was_archived_since(&planned.archive, plan, backup, reached).await?;
        }
        let found = match (standing.reached.lsn, standing.reached.time) {
            (Some(lsn), Some(time)) => {
                format!("{lsn}, last transaction of {}", exact_instant(time))
            }
            (Some(lsn), None) => lsn.to_string(),
            (None, _) => "it could not be asked".to_owned(),
        };
        account.check("target", DrillOutcome::of(exact), expected, found);
        if let Some(made) = &planned.chosen.shortened {
            let found = format!(
                "stopped before LSN {}, where replay creates tablespace {} in {}, outside of the scratch directory; take a base backup, and the next drill leads to the end",
                made.lsn, made.oid, made.location
            );
            account.check("end", DrillOutcome::Skipped, Target::END.to_string(), found);
        }

        let until = account.record.target.time.unwrap_or(account.record.started);
        let newest = Newest {
            commit: plan
                .stop
                .last_commit
                .as_ref()
                .and_then(|commit| commit.time),
            canary: seen.canary.as_ref().map(|canary| canary.time),
            backup: Some(planned.backup.stopped_at),
        };
        account.record.canary = seen.canary;
        judge_canary(account, newest, until, every);
        // What was left out on purpose is no loss, and is not in the measure.
        if planned.chosen.shortened.is_none() {
            judge_rpo(account, newest, until, everything, every);
        }

        if let Some(said) = &standing.reached.without_own_settings {
            account.check(
                "settings",
                DrillOutcome::Skipped,
                "the cluster's own settings",
                format!("this host cannot serve them: {said}; it was started without its postgresql.conf and shared_preload_libraries"),
            );
        }
        if let Err(error) = standing.roll_back_prepared().await {
            tracing::warn!("prepared transactions keep their locks: {error}");
        }
        asserts::ask_all(
            standing,
            &settings.asserts,
            settings.assert_timeout,
            account,
        )
        .await;
        if settings.amcheck {
            amcheck::check(standing, &planned.programs, owner, account).await?;
        }
        Ok(())
    }
}

/// The name of the recipient whose identity opens what the backup's record is sealed under.
async fn opened_by(
    archive: &Archive,
    catalog: &Catalog,
    backup: &BackupRecord,
) -> Result<Vec<String>, DrillError> {
    let keyring = archive.keyring();
    let epochs = keyring
        .epochs()
        .await
        .map_err(walvault_archive::Error::from)?;
    let key = catalog.notes(&backup.id).map(|notes| notes.key_id);
    let Some(epoch) = epochs.iter().find(|epoch| Some(epoch.id) == key) else {
        return Ok(Vec::new());
    };
    let opened = keyring.open_anew(epoch).await;
    let (_, by) = opened.map_err(walvault_archive::Error::from)?;
    Ok(vec![by])
}

/// Whether there is room for the cluster and `wal` besides.
fn room_for(disks: &[DiskSpace], wal: u64) -> Result<(), DrillError> {
    for disk in disks {
        let needed = disk.needed.saturating_add(wal);
        if disk.free < needed {
            return Err(DrillError::Space {
                dir: disk.dir.clone(),
                needed: bytes(needed),
                free: bytes(disk.free),
            });
        }
    }
    Ok(())
}

fn describe(disks: &[DiskSpace]) -> String {
    let one = |disk: &DiskSpace| {
        format!(
            "{} needed, {} free in {}",
            bytes(disk.needed),
            bytes(disk.free),
            disk.dir.display()
        )
    };
    disks.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_room_is_told_with_what_is_needed() {
        let disk = |needed, free| {
            vec![DiskSpace {
                dir: "/scratch".into(),
                needed,
                free,
            }]
        };
        assert!(room_for(&disk(3 << 20, 5 << 20), 2 << 20).is_ok());
        let error = room_for(&disk(3 << 20, (5 << 20) - 1), 2 << 20).expect_err("too little");
        let text = error.to_string();
        assert!(
            text.contains("/scratch") && text.contains("5.0 MiB"),
            "{text}"
        );
        assert!(text.contains("nothing was fetched"), "{text}");
    }
}
