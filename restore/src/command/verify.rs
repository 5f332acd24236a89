//! `walvault verify`: whether the archive is sound. Exits 0 when it is, 1 with findings, 2 when it
//! could not be looked at.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use walvault_config::{Config, parse_share};
use walvault_evidence::audit::{Action, Event};
use walvault_layout::BackupId;
use walvault_store::clock;
use walvault_upkeep::retention::before;
use walvault_upkeep::verify::{Choice, Depth, Scope, Verification, verify};

use super::arguments::parse_backup;
use super::keep::unknown_backup;
use crate::access;
use crate::exit::{self, Failure};
use crate::noted::{Noted, Said};
use crate::place::Place;
use crate::report::{self, Table, bytes};
use crate::runtime::block_on;
use crate::target::parse_instant;

/// There are findings.
const FINDINGS: u8 = 1;
/// It could not be looked.
const COULD_NOT_LOOK: u8 = 2;

/// How many findings the audit trail tells; the record below `verified/` has all.
const SHOWN: usize = 20;

/// For how long what was found sound is not read again.
const TRUST: Duration = Duration::from_secs(30 * 86_400);

/// Checks that the archive is sound.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Look at names, sizes and records only
    #[arg(long, conflicts_with = "deep")]
    names: bool,
    /// Open everything: WAL record by record, backups file by file
    #[arg(long)]
    deep: bool,
    /// Only this backup and the WAL it needs
    #[arg(long, value_name = "ID", value_parser = parse_backup)]
    backup: Option<BackupId>,
    /// Only what was stored since, such as '2026-11-21 14:03:00+01'
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only this part of all objects, chosen by chance, such as 5%
    #[arg(long, value_name = "PERCENT", value_parser = parse_share)]
    sample: Option<f64>,
    /// Read again what was found sound within the last 30 days
    #[arg(long)]
    again: bool,
    /// Take what is there for what should be: forget what is gone, and what was replaced
    #[arg(long)]
    accept: bool,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    said: Said,
}

/// Runs it.
#[must_use]
pub fn main(command: &Verify, config: Option<&Path>) -> ExitCode {
    match block_on(command.run(config)) {
        Ok(done) if done.findings.is_empty() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(FINDINGS),
        Err(failure) => {
            exit::tell(&failure);
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

impl Verify {
    async fn run(&self, config: Option<&Path>) -> Result<Verification, Failure> {
        let since = self
            .since
            .as_deref()
            .map(parse_instant)
            .transpose()
            .map_err(|error| Failure::refused(error.to_string()))?;
        let config = Config::load(self.place.source(config))?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open(&config).await?;
        if let Some(id) = &self.backup {
            let prefix = walvault_layout::backup_prefix(id);
            if archive.list(&prefix).await?.is_empty() {
                return Err(unknown_backup(id));
            }
        }
        let scope = Scope {
            depth: match (self.names, self.deep) {
                (true, _) => Depth::Names,
                (_, true) => Depth::Deep,
                _ => Depth::Stored,
            },
            backup: self.backup.clone(),
            since,
            choice: self.sample.map_or(Choice::All, Choice::Sample),
            trust_since: (!self.again).then(|| before(clock::now(), TRUST)),
            accept: self.accept,
            ..Scope::default()
        };
        let tell = |event: Event| {
            event
                .with("depth", scope.depth)
                .with("backup", &self.backup)
        };
        let noted = self
            .said
            .begin_anyway(&config, &archive, Action::Verify, tell)
            .await;
        let done = verify(&archive, &scope, &access::holder("walvault verify")).await;
        let done = done.map_err(Failure::from);
        note(noted, &done).await;
        let done = done?;
        if self.json {
            report::print_json(&done)?;
        } else {
            report::print(format_args!("{}", describe(&done)))?;
        }
        Ok(done)
    }
}

/// Notes what was found: that something is damaged is a failure of what was verified.
async fn note(noted: Noted, done: &Result<Verification, Failure>) {
    let failure = match done {
        Ok(done) if done.findings.is_empty() => None,
        Ok(done) => Some(format!("{} findings", done.findings.len())),
        Err(failure) => Some(failure.to_string()),
    };
    let complete = |event: Event| match done {
        Ok(done) => {
            let shown = &done.findings[..done.findings.len().min(SHOWN)];
            let objects = shown.iter().map(|finding| finding.object.clone());
            let mut event = event
                .with("listed", done.listed)
                .with("read", done.read)
                .with("bytes", done.bytes)
                .with("finding_count", done.findings.len())
                .with("findings", shown);
            event.objects.extend(objects);
            event
        }
        Err(_) => event,
    };
    noted.end_as(failure, complete).await;
}

fn describe(done: &Verification) -> String {
    let mut text = String::new();
    if !done.findings.is_empty() {
        let mut table = Table::new(&["FINDING", "OBJECT", "DETAIL"]);
        for finding in &done.findings {
            let kind = finding.kind.as_str();
            table.row(vec![
                kind.to_owned(),
                finding.object.clone(),
                finding.detail.clone(),
            ]);
        }
        text = format!("{table}\n");
    }
    let verdict = match done.findings.len() {
        0 => "sound".to_owned(),
        1 => "1 finding".to_owned(),
        count => format!("{count} findings"),
    };
    let pages = match done.pages {
        0 => String::new(),
        pages => format!(", {pages} checksums of data pages"),
    };
    text + &format!(
        "{verdict}: {} objects listed, {} read ({}), {} found sound before{pages}\n",
        done.listed,
        done.read,
        bytes(done.bytes),
        done.remembered
    )
}
