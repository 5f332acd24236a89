//! `walvaultd backup`: takes one base backup now.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::{Args, ValueEnum};
use indicatif::{BinaryBytes, HumanCount, HumanDuration};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use walvault_archive::record::BackupRecord;
use walvault_config::Config;
use walvault_evidence::audit::{Action, Outcome};
use walvault_layout::BackupId;
use walvault_protocol::{Lsn, TimelineId};

use crate::app::{App, SetupError};
use crate::backup::attempt::{AttemptError, attempt};
use crate::backup::{BackupError, BackupOptions, Bar, Label, Lines, Progress};

/// How often a line is logged where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How the backup is taken.
#[derive(Debug, Args)]
pub struct Arguments {
    /// What to call it
    #[arg(long, default_value = "walvault")]
    label: String,
    /// How the server makes the checkpoint it begins with [default: `[backup] checkpoint`]
    #[arg(long, value_enum)]
    checkpoint: Option<CheckpointArgument>,
    /// Give up when the checkpoint takes longer [default: `[backup] checkpoint_timeout`]
    #[arg(long, value_name = "SECONDS")]
    checkpoint_timeout: Option<u64>,
    /// The most that the server sends in a second, such as 64MiB [default: `[backup] max_rate`]
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    max_rate: Option<u32>,
    /// Let retention leave it alone
    #[arg(long)]
    keep: bool,
    /// Take it though the checksums of data pages are wrong
    #[arg(long)]
    no_verify_checksums: bool,
    /// Begin an archive where none is, though the replication slot tells that there was one
    #[arg(long)]
    new_archive: bool,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CheckpointArgument {
    /// At once
    Fast,
    /// Over minutes, which loads the disk less
    Spread,
}

/// Why `backup` took none.
#[derive(Debug, thiserror::Error)]
pub enum BackupCommandError {
    /// It never began.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It failed.
    #[error(transparent)]
    Attempt(#[from] AttemptError),
    /// The answer could not be printed.
    #[error("backup {id} is complete, but its record could not be printed: {source}")]
    Print {
        /// The backup.
        id: BackupId,
        /// What the operating system said.
        source: io::Error,
    },
    /// Told to stop.
    #[error("stopped before the backup was complete; nothing of it counts: take it again")]
    Stopped,
}

impl From<BackupError> for BackupCommandError {
    fn from(error: BackupError) -> BackupCommandError {
        BackupCommandError::Attempt(error.into())
    }
}

/// Takes a backup, unless `stop` comes first, and prints what it is.
///
/// # Errors
/// When there is no backup, or it cannot be printed.
pub async fn run(
    config: Config,
    arguments: Arguments,
    stop: CancellationToken,
) -> Result<(), BackupCommandError> {
    let begun = std::time::Instant::now();
    let label = Label::new(&arguments.label)?;
    let patience = config.backup.store_timeout;
    let mut app = App::new(config, Some(patience)).await?;
    app.new_archive = arguments.new_archive;
    let options = options(&app, &arguments, label);
    let progress = choose_progress(arguments.json);
    let source = app.backup_source();
    let record = tokio::select! {
        () = stop.cancelled() => Err(BackupCommandError::Stopped),
        record = attempt(&source, &options, &*progress) => record.map_err(BackupCommandError::from),
    };
    if let Err(BackupCommandError::Stopped) = &record {
        app.journal.note(Action::Backup, Outcome::Failed, |event| {
            event.with("error", BackupCommandError::Stopped.to_string())
        });
    }
    app.journal.close().await;
    let record = record?;
    drop(progress);
    print(&record, begun.elapsed(), arguments.json).map_err(|source| BackupCommandError::Print {
        id: record.id.clone(),
        source,
    })
}

fn options(app: &App, arguments: &Arguments, label: Label) -> BackupOptions {
    let configured = app.backup_options();
    BackupOptions {
        label,
        fast_checkpoint: match arguments.checkpoint {
            Some(argument) => argument == CheckpointArgument::Fast,
            None => configured.fast_checkpoint,
        },
        checkpoint_timeout: arguments
            .checkpoint_timeout
            .map_or(configured.checkpoint_timeout, Duration::from_secs),
        max_rate_kib: arguments.max_rate.or(configured.max_rate_kib),
        verify_page_checksums: configured.verify_page_checksums && !arguments.no_verify_checksums,
        keep: arguments.keep,
        ..configured
    }
}

/// A rate in KiB/s. Whether PostgreSQL knows it is seen later.
fn rate(text: &str) -> Result<u32, String> {
    let size: bytesize::ByteSize = text
        .parse()
        .map_err(|_| "write it as \"64MiB\", or in bytes".to_owned())?;
    Ok(u32::try_from(size.as_u64() / 1024).unwrap_or(u32::MAX))
}

/// A bar for whoever watches, the log for whoever reads later.
fn choose_progress(json: bool) -> Box<dyn Progress> {
    if io::stderr().is_terminal() && !json {
        Box::new(Bar::default())
    } else {
        Box::new(Lines::new(LINE_EVERY, |line: &str| {
            tracing::info!("{line}");
        }))
    }
}

/// What `--json` prints: the keys of `walvault list --json`, and how it went.
#[derive(Serialize)]
struct Report<'a> {
    id: &'a BackupId,
    kind: &'a str,
    label: &'a str,
    timeline: TimelineId,
    start_lsn: Lsn,
    stop_lsn: Lsn,
    start_time: jiff::Timestamp,
    stop_time: jiff::Timestamp,
    size: u64,
    stored_size: u64,
    file_count: u64,
    parts: u64,
    kept: bool,
    warnings: &'a [String],
    seconds: f64,
}

fn print(record: &BackupRecord, took: Duration, json: bool) -> io::Result<()> {
    write_report(&mut io::stdout().lock(), record, took, json)
}

fn write_report(
    out: &mut dyn io::Write,
    record: &BackupRecord,
    took: Duration,
    json: bool,
) -> io::Result<()> {
    let seconds = took.as_secs_f64();
    if json {
        let report = Report {
            id: &record.id,
            kind: &record.kind,
            label: &record.label,
            timeline: record.timeline,
            start_lsn: record.start_lsn,
            stop_lsn: record.stop_lsn,
            start_time: record.started_at,
            stop_time: record.stopped_at,
            size: record.size,
            stored_size: record.stored_size,
            file_count: record.file_count,
            parts: record.part_count,
            kept: record.kept,
            warnings: &record.warnings,
            seconds,
        };
        serde_json::to_writer(&mut *out, &report)?;
        return writeln!(out);
    }
    writeln!(
        out,
        "Backup {}: {} files, {} ({} stored), {} to {} on timeline {}, in {}.",
        record.id,
        HumanCount(record.file_count),
        BinaryBytes(record.size),
        BinaryBytes(record.stored_size),
        record.start_lsn,
        record.stop_lsn,
        record.timeline.get(),
        if seconds < 60.0 {
            format!("{seconds:.1} s")
        } else {
            HumanDuration(took).to_string()
        },
    )?;
    for warning in &record.warnings {
        writeln!(out, "The server warned: {warning}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use walvault_protocol::{ServerVersion, SystemId};

    use super::*;

    fn record() -> BackupRecord {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        BackupRecord {
            version: 1,
            id: BackupId::new(at(1_795_242_600), 0x9f3c),
            kind: "full".to_owned(),
            label: "nightly".to_owned(),
            system_id: SystemId(7),
            server_version: ServerVersion(150_018),
            timeline: TimelineId::FIRST,
            start_lsn: Lsn(0x200_0028),
            stop_lsn: Lsn(0x200_0138),
            started_at: at(1_795_242_600),
            stopped_at: at(1_795_242_605),
            size: 23 << 20,
            stored_size: 3 << 20,
            file_count: 1234,
            tablespaces: Vec::new(),
            part_count: 0,
            kept: false,
            warnings: vec!["WARNING: skipping special file \"./x\"".to_owned()],
        }
    }

    fn report(json: bool) -> String {
        let mut out = Vec::new();
        write_report(&mut out, &record(), Duration::from_millis(5250), json).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_read_a_line() {
        let line = report(false);
        assert!(
            line.contains("The server warned: WARNING: skipping"),
            "{line}"
        );
        assert!(
            line.contains(
                "-9f3c: 1,234 files, 23.00 MiB (3.00 MiB stored), 0/2000028 to 0/2000138"
            ),
            "{line}"
        );
    }

    #[test]
    fn programs_read_one_object() {
        let text = report(true);
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["kind"], "full");
        assert_eq!(value["stop_lsn"], "0/2000138");
        assert_eq!(value["start_time"], "2026-11-21T06:30:00Z");
        assert_eq!(value["size"], 23 << 20);
        assert_eq!(value["kept"], false);
        assert_eq!(
            value["warnings"][0],
            "WARNING: skipping special file \"./x\""
        );
    }
}
