//! `walvault keep`, `unkeep`, `hold` and `release`: what retention must leave alone.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use walvault_archive::keep::{self, Keeps};
use walvault_archive::record::{BackupRecord, KeepChange};
use walvault_archive::{Archive, Error};
use walvault_config::Config;
use walvault_evidence::audit::{Action, Event};
use walvault_layout::{BackupId, ObjectKey};
use walvault_store::clock;
use walvault_upkeep::lock::Lock;

use super::arguments::parse_backup;
use crate::access;
use crate::exit::Failure;
use crate::noted::Said;
use crate::report::{self, instant};
use crate::target::parse_instant;

/// How long to wait for a prune that is under way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A backup.
#[derive(Debug, clap::Args)]
struct Which {
    /// The backup's ID, as `walvault list` shows it
    #[arg(value_name = "ID", value_parser = parse_backup)]
    id: BackupId,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Who does this, for the audit trail; else the user that runs it
    #[arg(long, value_name = "NAME")]
    operator: Option<String>,
}

/// Keeps a backup whatever retention says.
#[derive(Debug, clap::Args)]
pub struct Keep {
    #[command(flatten)]
    which: Which,
}

/// Lets retention free a backup that was kept.
#[derive(Debug, clap::Args)]
pub struct Unkeep {
    #[command(flatten)]
    which: Which,
}

/// Places a legal hold: neither retention nor `unkeep` frees the backup before the hold ends.
#[derive(Debug, clap::Args)]
pub struct PlaceHold {
    #[command(flatten)]
    which: Which,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// When it ends by itself, such as '2033-12-31 00:00:00+00'; without it, when it is released
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
}

/// Releases a legal hold.
#[derive(Debug, clap::Args)]
pub struct Release {
    #[command(flatten)]
    which: Which,
    /// The hold's number, as `walvault show` tells it; needed where there are several
    #[arg(long, value_name = "NUMBER")]
    hold: Option<u32>,
}

impl Keep {
    /// Does it.
    ///
    /// # Errors
    /// When there is no such backup, or the archive cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        self.which.change(config, |_| Ok(KeepChange::Keep)).await
    }
}

impl Unkeep {
    /// Does it.
    ///
    /// # Errors
    /// When there is no such backup, or the archive cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        self.which.change(config, |_| Ok(KeepChange::Unkeep)).await
    }
}

impl PlaceHold {
    /// Does it.
    ///
    /// # Errors
    /// When there is no such backup, the reason is none, the end is past, or the archive cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        check_reason(&self.reason).map_err(Failure::refused)?;
        let until = self
            .until
            .as_deref()
            .map(parse_instant)
            .transpose()
            .map_err(|error| Failure::refused(error.to_string()))?;
        let now = clock::now();
        if let Some(past) = until.filter(|until| *until <= now) {
            return Err(Failure::refused(format!(
                "a hold cannot end at {}, which is past; give an end to come, or none",
                instant(past)
            )));
        }
        let hold = KeepChange::Hold {
            reason: self.reason.clone(),
            until,
        };
        self.which.change(config, |_| Ok(hold)).await
    }
}

impl Release {
    /// Does it.
    ///
    /// # Errors
    /// When there is no such backup or hold, or the archive cannot be written.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        let choose = |keeps: &Keeps| {
            let numbers: Vec<u32> = keeps.holds.iter().map(|hold| hold.number).collect();
            match (self.hold, &numbers[..]) {
                (Some(wanted), numbers) if numbers.contains(&wanted) => Ok(wanted),
                (None, [only]) => Ok(*only),
                (_, []) => Err("there is no hold on this backup".to_owned()),
                (_, numbers) => Err(format!(
                    "the holds on this backup are {numbers:?}; name one of them with --hold"
                )),
            }
        };
        let release = |keeps: &Keeps| {
            Ok(KeepChange::Release {
                hold: choose(keeps)?,
            })
        };
        self.which.change(config, release).await
    }
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Changed<'a> {
    id: &'a BackupId,
    /// The number under which it was said; a hold is released by it.
    number: u32,
    #[serde(flatten)]
    change: &'a KeepChange,
    kept: bool,
}

impl Which {
    /// Says what `decide` makes of what was said before.
    async fn change(
        &self,
        config: Option<&Path>,
        decide: impl FnOnce(&Keeps) -> Result<KeepChange, String>,
    ) -> Result<(), Failure> {
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = access::open_to_change(&config).await?;
        let lock = Lock::take(&archive, &access::holder("walvault keep"), PATIENCE).await?;
        let said = self.say(&config, &archive, decide).await;
        lock.release().await?;
        let (number, change, kept) = said?;
        if self.json {
            return report::print_json(&Changed {
                id: &self.id,
                number,
                change: &change,
                kept,
            });
        }
        let what = match &change {
            KeepChange::Keep => "is kept".to_owned(),
            KeepChange::Unkeep => "is no longer kept".to_owned(),
            KeepChange::Hold { until: None, .. } => format!("is held, by hold {number}"),
            KeepChange::Hold {
                until: Some(until), ..
            } => format!("is held until {}, by hold {number}", instant(*until)),
            KeepChange::Release { hold } => format!("is released from hold {hold}"),
        };
        let still = match (&change, kept) {
            (KeepChange::Unkeep | KeepChange::Release { .. }, true) => {
                "; something else still keeps it"
            }
            _ => "",
        };
        report::print(format_args!("backup {} {what}{still}\n", self.id))
    }

    async fn say(
        &self,
        config: &Config,
        archive: &Archive,
        decide: impl FnOnce(&Keeps) -> Result<KeepChange, String>,
    ) -> Result<(u32, KeepChange, bool), Failure> {
        let key = ObjectKey::BackupRecord(self.id.clone());
        let record: BackupRecord = match archive.get_record(&key).await {
            Ok(record) => record,
            Err(error) if error.is_missing() => return Err(unknown_backup(&self.id)),
            Err(error) => return Err(error.into()),
        };
        let keeps = Keeps::load(archive, &self.id, record.kept).await?;
        let change = decide(&keeps)
            .map_err(|reason| Failure::refused(format!("backup {}: {reason}", self.id)))?;
        let by = access::whoami();
        let (action, reason) = match &change {
            KeepChange::Keep => (Action::Keep, None),
            KeepChange::Unkeep => (Action::Unkeep, None),
            KeepChange::Hold { reason, .. } => (Action::Hold, Some(reason.clone())),
            KeepChange::Release { .. } => (Action::Release, None),
        };
        let operator = self.operator.clone();
        let tell = |event: Event| event.backup(&self.id).with("change", &change);
        let noted = Said { operator, reason }
            .begin(config, archive, action, tell)
            .await?;
        let number = keep::say(archive, &self.id, &by, change.clone()).await;
        let number = number.map_err(Failure::from);
        noted
            .end(&number, |event, number| event.with("number", number))
            .await;
        let number = number?;
        let keeps = Keeps::load(archive, &self.id, record.kept).await?;
        Ok::<_, Error>((number, change, keeps.keeps(clock::now()))).map_err(Failure::from)
    }
}

/// Whether `text` tells whoever asks later why, and nothing to their terminal.
fn check_reason(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(
            "a hold without a reason could not be judged later; give one with --reason".to_owned(),
        );
    }
    if text.chars().any(char::is_control) {
        return Err(format!(
            "the reason {text:?} has a line break, a tab or another control character; write it as one line of plain text"
        ));
    }
    Ok(())
}

/// There is no such backup.
pub(super) fn unknown_backup(id: &BackupId) -> Failure {
    Failure::refused(format!(
        "the archive holds no complete backup {id}; 'walvault list' shows those it holds"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_a_line_of_plain_text() {
        assert_eq!(check_reason("Az. 4 O 12/26, König ./. Bank"), Ok(()));
        for empty in ["", "  ", "\n"] {
            let refused = check_reason(empty).expect_err("refused");
            assert!(refused.contains("give one with --reason"), "{refused}");
        }
        for unfit in ["a\nb", "a\tb", "\u{1b}[31m"] {
            let refused = check_reason(unfit).expect_err("refused");
            assert!(refused.contains("one line of plain text"), "{refused}");
        }
    }
}
