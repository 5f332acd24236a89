//! A plan and its outcome in words.

use std::fmt::Write;
use std::path::Path;

use crate::materialise::{Job, Made};
use crate::plan::{RestorePlan, Stop, StopReason};
use crate::report::{bytes, exact_instant, instant};
use crate::target::{Point, TargetAction};

/// What is going to be done.
pub(super) fn plan(plan: &RestorePlan, pgdata: &Path) -> String {
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
    line("Restore", format!("into {}", pgdata.display()));
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
    for warning in &plan.warnings {
        line("Warning", warning.clone());
    }
    text
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
pub(super) fn made(made: Made, job: &Job<'_>) -> String {
    let seconds = made.took.as_secs_f64();
    let rate = bytes((made.bytes as f64 / seconds.max(0.001)) as u64);
    let pgdata = job.pgdata.display();
    let mut text = format!(
        "Restored  {} in {} files, in {seconds:.1} s ({rate}/s)\n\nNext: pg_ctl start -D {pgdata}\n",
        bytes(made.bytes),
        made.files
    );
    let target = &job.settings.target.point;
    match job.settings.action {
        None | Some(TargetAction::Pause) if *target != Point::End => text.push_str(
            "At the target the server pauses and can be read; SELECT pg_wal_replay_resume() makes it a primary.\n",
        ),
        Some(TargetAction::Shutdown) => text.push_str("At the target the server stops.\n"),
        _ => text.push_str("The server replays WAL and then becomes a primary, on a new timeline.\n"),
    }
    text.push_str("archive_mode is off and synchronous_standby_names is empty in postgresql.auto.conf: see docs/restore.md before it serves as the primary again.\n");
    if rustix::process::geteuid().is_root() && job.owner.is_none() {
        text.push_str("All of it belongs to root, and PostgreSQL does not run as root: chown it to the user that runs PostgreSQL (--owner does that).\n");
    }
    text
}
