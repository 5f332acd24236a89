//! A plan and its outcome in words.

use std::fmt::Write;

use jiff::Timestamp;
use walvault_layout::BackupId;

use super::next::Configuration;
use crate::estimate::Estimate;
use crate::materialise::{Job, LOST_FOUND, Made, Work};
use crate::plan::{ChangedSetting, NewDatabase, NewTablespace, RestorePlan, Stop, StopReason};
use crate::report::{bytes, exact_instant, instant, span};
use crate::shell::word;
use crate::target::{Point, TargetAction};
use crate::trial::Reached;

/// What is going to be done.
pub(super) fn plan(
    plan: &RestorePlan,
    job: &Job<'_>,
    work: &Work,
    estimate: &Estimate,
    configuration: &Configuration,
) -> String {
    let backup = &plan.backup;
    let timelines: Vec<String> = plan
        .timelines
        .iter()
        .map(|timeline| timeline.get().to_string())
        .collect();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("Restore", format!("into {}", job.pgdata.display()));
    line("Target", plan.target.clone());
    line(
        "Backup",
        format!(
            "{} of {}, {} in {} files",
            backup.id,
            instant(backup.stopped_at),
            bytes(backup.size),
            backup.file_count
        ),
    );
    line(
        "Replay",
        format!(
            "{} of WAL, LSN {} to {}, timeline {}",
            bytes(plan.replay.bytes),
            plan.replay.from,
            plan.replay.to,
            timelines.join(" then ")
        ),
    );
    line("Stops", stop(&plan.stop));
    if let Some(commit) = &plan.stop.last_commit {
        let time = commit
            .time
            .map_or_else(|| "an unknown time".to_owned(), exact_instant);
        let xid = commit
            .xid
            .map_or_else(String::new, |xid| format!(", transaction {xid}"));
        line(
            "Recovers",
            format!("everything up to the commit of {time}{xid}"),
        );
    }
    if let Some(commit) = &plan.stop.next_commit
        && let Some(time) = commit.time
    {
        let time = exact_instant(time);
        line("Not", format!("the commit of {time}, the first one after"));
    }
    line(
        "Fetches",
        format!(
            "{} of the backup, {} of WAL",
            bytes(work.fetch_bytes),
            bytes(plan.replay.stored_bytes)
        ),
    );
    if work.kept_files > 0 {
        let what = if work.resumed {
            "a restore that was broken off"
        } else {
            "what is there"
        };
        line(
            "Keeps",
            format!(
                "{} in {} files of {what}",
                bytes(work.kept_bytes),
                work.kept_files
            ),
        );
    }
    for disk in &work.disk {
        let (needed, free) = (bytes(disk.needed), bytes(disk.free));
        line(
            "Disk",
            format!("{needed} needed, {free} free in {}", disk.dir.display()),
        );
    }
    line(
        "Takes",
        format!(
            "about {} to restore and {} to replay",
            span(estimate.restore_seconds.ceil() as i64),
            span(estimate.replay_seconds.ceil() as i64)
        ),
    );
    for made in &plan.tablespaces {
        let NewTablespace { oid, location, lsn } = made;
        line(
            "Creates",
            format!("tablespace {oid} in {location}, when it replays LSN {lsn}"),
        );
    }
    for made in &plan.databases {
        let NewDatabase { oid, lsn, .. } = made;
        let template = made
            .template
            .map_or_else(String::new, |template| format!(" as a copy of {template}"));
        line(
            "Creates",
            format!("database {oid}{template}, when it replays LSN {lsn}"),
        );
    }
    for changed in &plan.changed {
        let ChangedSetting { name, value, lsn } = changed;
        line(
            "Changes",
            format!("{name} is {value} in what was written from LSN {lsn} on"),
        );
    }
    if !plan.settings.is_empty() {
        let needed = plan.settings.iter();
        let needed = needed.map(|setting| format!("{} {}", setting.name, setting.value));
        line("Needs", needed.collect::<Vec<_>>().join(", "));
    }
    for warning in &plan.warnings {
        line("Warning", warning.clone());
    }
    if job.pgdata.join(LOST_FOUND).exists() {
        line(
            "Warning",
            format!(
                "{LOST_FOUND} lies in the data directory: PostgreSQL cannot read it, so that base backups of the restored cluster fail; restore into a directory below the mount point"
            ),
        );
    }
    match configuration {
        Configuration::Within => {}
        Configuration::OfDebian(name) => line(
            "Uses",
            format!("the configuration of cluster {name}, which is not in the backup"),
        ),
        Configuration::Missing => line(
            "Warning",
            "the backup has no postgresql.conf: it lay outside of the data directory, or was a symbolic link, and so may pg_hba.conf have been; have both at hand".to_owned(),
        ),
    }
    text
}

/// What keeps the backup.
pub(super) fn leased(until: Timestamp, backup: &BackupId) -> String {
    format!(
        "Leases    backup {backup} until {}: no prune removes it before\n",
        instant(until)
    )
}

fn stop(stop: &Stop) -> String {
    let at = stop.at.as_ref().map(|mark| {
        let what = match (&mark.xid, &mark.name) {
            (Some(xid), _) => format!("the end of transaction {xid}"),
            (None, Some(name)) => format!("restore point '{name}'"),
            (None, None) => "the record".to_owned(),
        };
        match mark.time {
            Some(time) => format!("{what}, {}, at LSN {}", exact_instant(time), mark.lsn),
            None => format!("{what} at LSN {}", mark.lsn),
        }
    });
    match (stop.reason, at) {
        (StopReason::BeforeRecord, Some(at)) => format!("before {at}"),
        (StopReason::AfterRecord, Some(at)) => format!("after {at}"),
        (StopReason::BeforeRecord, None) => {
            format!("before the first record at LSN {} or later", stop.lsn)
        }
        (StopReason::AfterRecord, None) => {
            format!("after the first record at LSN {} or later", stop.lsn)
        }
        (StopReason::Consistent, _) => format!("as soon as it is consistent, at LSN {}", stop.lsn),
        (StopReason::EndOfWal, _) => format!("at the end of the WAL, LSN {}", stop.lsn),
    }
}

/// What was done, and what is to be done now.
pub(super) fn made(
    made: Made,
    job: &Job<'_>,
    started: bool,
    configuration: &Configuration,
) -> String {
    let seconds = made.took.as_secs_f64();
    let written = made.bytes - made.kept_bytes;
    let rate = bytes((written as f64 / seconds.max(0.001)) as u64);
    let mut text = format!(
        "Restored  {} in {} files, in {seconds:.1} s ({rate}/s)\n",
        bytes(written),
        made.files - made.kept_files
    );
    if started {
        return text;
    }
    let next = start_command(job, configuration);
    text.push_str(&format!("\nNext: {next}\n"));
    if *configuration == Configuration::Missing {
        text.push_str(
            "Name the cluster's postgresql.conf in the place of FILE; it names pg_hba.conf.\n",
        );
    }
    text.push_str(&other_directory(job, configuration));
    let target = &job.settings.target.point;
    match (&job.settings.standby, job.settings.action) {
        (Some(standby), _) => {
            text.push_str("The server recovers what is archived and then follows its primary.\n");
            if standby.primary_conninfo.is_none() {
                text.push_str("No --primary-conninfo was given: unless the backup has one, it follows the archive alone.\n");
            }
        }
        (None, None | Some(TargetAction::Pause)) if *target != Point::End => text.push_str(
            "At the target the server pauses and can be read; SELECT pg_wal_replay_resume() makes it a primary.\n",
        ),
        (None, Some(TargetAction::Shutdown)) => {
            text.push_str("At the target the server stops.\n");
        }
        (None, _) => text.push_str("The server replays WAL and then becomes a primary, on a new timeline.\n"),
    }
    text.push_str(match job.settings.standby {
        Some(_) => {
            "archive_mode is off, and external_pid_file empty where it was set, in postgresql.auto.conf"
        }
        None => {
            "archive_mode is off, synchronous_standby_names is empty, and so is external_pid_file where it was set, in postgresql.auto.conf"
        }
    });
    text.push_str(&format!(
        ": once it is the primary, this takes out what was set for recovery: walvault settle --pgdata {}\n",
        word(&job.pgdata.display().to_string())
    ));
    if rustix::process::geteuid().is_root() && job.owner.is_none() {
        text.push_str("All of it belongs to root, and PostgreSQL does not run as root: chown it to the user that runs PostgreSQL (--owner does that).\n");
    }
    text
}

/// A warning where a server that is started in another way than is said would be another.
fn other_directory(job: &Job<'_>, configuration: &Configuration) -> String {
    let other = configuration.other_directory(&job.pgdata);
    other.map_or_else(String::new, |other| {
        format!(
            "Warning: postgresql.conf sets data_directory to {other}, which a server that is started without that -o uses, whatever -D says; take the line out of the restored postgresql.conf before anything else starts the server.\n"
        )
    })
}

/// What a started server reached.
pub(super) fn reached(reached: &Reached, job: &Job<'_>, configuration: &Configuration) -> String {
    let lsn = reached
        .lsn
        .map_or_else(|| "an unknown LSN".to_owned(), |lsn| format!("LSN {lsn}"));
    let time = reached.time.map_or_else(String::new, |time| {
        format!(", last transaction of {}", exact_instant(time))
    });
    let timeline = reached
        .timeline
        .map_or_else(String::new, |timeline| format!(", timeline {timeline}"));
    let consistent = reached
        .seconds_to_consistent
        .map_or_else(String::new, |seconds| {
            format!("consistent after {seconds:.1} s, ")
        });
    let without = reached.without_own_settings.as_ref().map_or_else(String::new, |said| {
        format!("Without   postgresql.conf and shared_preload_libraries, which this host cannot serve: {said}\n")
    });
    let state = if reached.promoted {
        "It was promoted"
    } else {
        "It was at its target"
    };
    format!(
        "Reached   {lsn}{time}{timeline}\nStarted   {consistent}at the target after {:.1} s\n{without}\n{state}, and was stopped. Next: {}\n{}",
        reached.seconds_to_target,
        start_command(job, configuration),
        other_directory(job, configuration)
    )
}

fn start_command(job: &Job<'_>, configuration: &Configuration) -> String {
    configuration.start_command(&job.pgdata, job.backup.server_version.major())
}
