//! `walvault export`: a sealed copy for offline media.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::SigningKey;
use walvault_config::{Config, parse_size};
use walvault_evidence::audit::{Action, Event};
use walvault_layout::BackupId;

use super::arguments::parse_backup;
use crate::access;
use crate::exit::Failure;
use crate::export::run::Report;
use crate::export::{self, Choice, ExportError, Progress, Which};
use crate::noted::Said;
use crate::place::Place;
use crate::report::{self, bytes, exact_instant, instant};
use crate::target::{Point, TimelineChoice, parse_instant};

/// Writes a copy of chosen backups and their WAL, sealed as they are, for media that are put away: an
/// archive by itself, which 'walvault restore --archive file://DIR' restores from. What was broken off
/// goes on where it stopped when the same command runs again.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// The directory to write to; it must not exist, be empty, or hold an unfinished export
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Copy this backup; may be given several times
    #[arg(long, value_name = "ID", value_parser = parse_backup, conflicts_with_all = ["latest", "all"])]
    backup: Vec<BackupId>,
    /// Copy the newest backup that restores; this is the default
    #[arg(long, conflicts_with = "all")]
    latest: bool,
    /// Copy every backup
    #[arg(long)]
    all: bool,
    /// Copy WAL up to this time or LSN, not to the end of what can be recovered
    #[arg(long, value_name = "TIME|LSN", value_parser = instant_or_lsn)]
    until: Option<Point>,
    /// The timeline that --until is on: latest, current (the backup's own) or a number
    #[arg(long, value_name = "TIMELINE", default_value_t)]
    target_timeline: TimelineChoice,
    /// Write volumes of at most this size, DIR/volume-001 and so on, such as 4.3GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    volume_size: Option<u64>,
    /// Open every object that was written, too, as far as the identities given here open it
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    said: Said,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Outcome<'a> {
    dir: &'a Path,
    seconds: f64,
    #[serde(flatten)]
    report: &'a Report,
}

impl Export {
    /// Does it.
    ///
    /// # Errors
    /// When what is asked for cannot be restored, is damaged, or the directory cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let config = Config::load(self.place.source(config))?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        let choice = self.choice();
        let tell = |event: Event| {
            let event = event.with("to", &self.to).with("choice", &choice.words);
            self.backup.iter().fold(event, Event::backup)
        };
        let noted = self
            .said
            .begin(&config, &archive, Action::Export, tell)
            .await?;
        let begun = Instant::now();
        let done = self.export(&config, &archive, &choice).await;
        noted.end(&done, about).await;
        let report = done?;
        if self.json {
            return report::print_json(&Outcome {
                dir: &self.to,
                seconds: begun.elapsed().as_secs_f64(),
                report: &report,
            });
        }
        report::print(format_args!("{}", describe(&report)))
    }

    fn choice(&self) -> Choice {
        let which = match (self.all, self.backup.is_empty()) {
            (true, _) => Which::All,
            (false, false) => Which::These(self.backup.clone()),
            (false, true) => Which::Latest,
        };
        let mut words = match &which {
            Which::All => "--all".to_owned(),
            Which::Latest => "--latest".to_owned(),
            Which::These(ids) => {
                let ids: Vec<String> = ids.iter().map(|id| format!("--backup {id}")).collect();
                ids.join(" ")
            }
        };
        match &self.until {
            Some(Point::Time(time)) => words += &format!(" --until {}", exact_instant(*time)),
            Some(Point::Lsn(lsn)) => words += &format!(" --until {lsn}"),
            _ => {}
        }
        if self.target_timeline != TimelineChoice::Latest {
            words += &format!(" --target-timeline {}", self.target_timeline);
        }
        Choice {
            which,
            until: self.until.clone(),
            timeline: self.target_timeline,
            words,
        }
    }

    async fn export(
        &self,
        config: &Config,
        archive: &Archive,
        choice: &Choice,
    ) -> Result<Report, Failure> {
        let signer = config.audit.signing_key_file.as_deref();
        let signer = signer.map(SigningKey::read).transpose();
        let signer = signer.map_err(ExportError::from)?;
        let bar = self.bar();
        let progress = |progress: Progress| {
            bar.set_length(progress.of);
            bar.set_position(progress.done);
        };
        let export = export::Export {
            archive,
            dir: &self.to,
            choice,
            volume_size: self.volume_size,
            signer: signer.as_ref(),
            open: self.open,
        };
        let done = export.run(&progress).await;
        bar.finish_and_clear();
        Ok(done?)
    }

    /// A bar on a terminal, nothing elsewhere.
    fn bar(&self) -> ProgressBar {
        if self.json || !std::io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let template = "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    }
}

/// What the audit trail says of a copy.
fn about(event: Event, report: &Report) -> Event {
    let known = report.export.backups.iter().flatten();
    let mut event = event;
    event.backups = known.map(|backup| backup.id.clone()).collect();
    event
        .with("objects", report.objects + report.present)
        .with("volumes", &report.volumes)
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    for backup in report.export.backups.iter().flatten() {
        let ended = instant(backup.stopped_at);
        text += &format!("Backup    {}, ended {ended}\n", backup.id);
    }
    for window in report.export.windows.iter().flatten() {
        let end = window
            .end_time
            .map_or_else(|| window.end_lsn.to_string(), exact_instant);
        text += &format!("Restores  every instant from {} to {end}\n", window.backup);
    }
    for note in &report.export.notes {
        text += &format!("Note      {note}\n");
    }
    for volume in &report.volumes {
        text += &format!(
            "Volume    {}: {} objects of {}, SHA256SUMS {}\n",
            volume.dir.display(),
            volume.objects,
            bytes(volume.bytes),
            volume.sha256sums
        );
    }
    text += &format!(
        "Written   {} objects of {}, read back; {} were there and were read\n",
        report.objects,
        bytes(report.bytes),
        report.present
    );
    if report.opened + report.withheld > 0 {
        text += &format!(
            "Opened    {} objects; {} are for others to open\n",
            report.opened, report.withheld
        );
    }
    text
}

/// Reads what `--until` takes.
fn instant_or_lsn(text: &str) -> Result<Point, String> {
    match text.contains('/') {
        true => text
            .parse()
            .map(Point::Lsn)
            .map_err(|error| format!("{error}")),
        false => parse_instant(text)
            .map(Point::Time)
            .map_err(|error| error.to_string()),
    }
}
