//! `walvault keys retire --check`: what still needs a recipient or a data key.

use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::key_usage::usage;
use walvault_archive::keys::recipient;
use walvault_archive::keys::{AccessError, KeyEpoch};

use super::error::KeysFailure;
use super::usage_report::Use;
use crate::exit::Failure;
use crate::report;

/// Proves that nothing stored needs a recipient or a data key any more, or lists what does. Reads
/// the header of every object, and needs no identity.
#[derive(Debug, clap::Args)]
pub struct Retire {
    /// A recipient, as in [encryption] recipients or as 'keys list' shows it; or a data key
    #[arg(long, value_name = "RECIPIENT|KEY", required = true)]
    check: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    checked: String,
    /// Whether nothing needs it.
    may_be_retired: bool,
    needed_by: Vec<Use>,
}

impl Retire {
    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let epochs = super::load(archive).await?;
        let uses = usage(archive).await?;
        let (checked, epochs) = self.concerned(&epochs)?;
        let needed_by: Vec<Use> = epochs
            .iter()
            .filter_map(|epoch| Some(Use::of(epoch.id, uses.get(&epoch.id)?)))
            .collect();
        let report = Report {
            checked,
            may_be_retired: needed_by.is_empty(),
            needed_by,
        };
        if self.json {
            report::print_json(&report)?;
        } else {
            let lines: Vec<String> = report.needed_by.iter().map(Use::describe).collect();
            report::print(format_args!("{}", lines.concat()))?;
        }
        if !report.may_be_retired {
            return Err(KeysFailure::StillNeeded(report.checked).into());
        }
        match self.json {
            true => Ok(()),
            false => report::print(format_args!("nothing needs {}\n", report.checked)),
        }
    }

    /// The data keys that nobody could open without what is checked.
    fn concerned<'a>(
        &self,
        epochs: &'a [KeyEpoch],
    ) -> Result<(String, Vec<&'a KeyEpoch>), Failure> {
        if let Some(epoch) = super::find(epochs, &self.check) {
            return Ok((format!("data key {}", epoch.id), vec![epoch]));
        }
        let name = recipient::name_of(&self.check)
            .map_err(|error| walvault_archive::Error::from(AccessError::Recipient(error)))?;
        // A record that does not read, or that nobody known signed, may be for anybody.
        let alone = |epoch: &&KeyEpoch| match &epoch.record {
            Ok(_) if epoch.is_foreign() => true,
            Ok(record) => record.recipient_names() == [name.as_str()],
            Err(_) => true,
        };
        Ok((name.clone(), epochs.iter().filter(alone).collect()))
    }
}
