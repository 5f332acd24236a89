//! `walvault keys rewrap`: other recipients for every data key.

use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::recipient;
use walvault_archive::keys::rewrap::RewrapStep;
use walvault_archive::keys::{AccessError, Recipient};

use crate::exit::Failure;
use crate::report::{self, Table};

/// Adds and removes recipients of every data key: of WAL and of backups alike. No stored object is
/// touched. To add one, the identities of `[encryption]` must open every data key.
#[derive(Debug, clap::Args)]
pub struct Rewrap {
    /// A recipient to add, as in [encryption] recipients
    #[arg(long, value_name = "RECIPIENT", required_unless_present = "remove")]
    add: Vec<String>,
    /// A recipient to remove, as in [encryption] recipients or as 'keys list' shows it
    #[arg(long, value_name = "RECIPIENT")]
    remove: Vec<String>,
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    keys: Vec<Key>,
}

#[derive(Debug, Serialize)]
struct Key {
    key: String,
    /// The generation that is written; `null` where nothing changes.
    generation: Option<u32>,
    recipients: Vec<String>,
    /// Generations that are deleted.
    superseded: Vec<u32>,
}

impl Rewrap {
    /// What is added and removed, by name; `None` where nothing is done.
    pub(super) fn about(&self) -> Option<Vec<String>> {
        let name = |sign: &str, text: &String| {
            let name = recipient::name_of(text).ok()?;
            Some(format!("{sign}{name}"))
        };
        let added = self.add.iter().filter_map(|text| name("+", text));
        let removed = self.remove.iter().filter_map(|text| name("-", text));
        (!self.dry_run).then(|| added.chain(removed).collect())
    }

    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let usable = |error| walvault_archive::Error::from(AccessError::Recipient(error));
        let add: Vec<Recipient> = self
            .add
            .iter()
            .map(|text| Recipient::parse(text))
            .collect::<Result<_, _>>()
            .map_err(usable)?;
        let remove: Vec<String> = self
            .remove
            .iter()
            .map(|text| recipient::name_of(text))
            .collect::<Result<_, _>>()
            .map_err(usable)?;
        let plan = archive.keyring().plan_rewrap(&add, &remove).await?;
        if !self.dry_run {
            for step in &plan {
                archive.keyring().rewrap(step).await?;
            }
        }
        let report = Report {
            dry_run: self.dry_run,
            keys: plan.iter().map(Key::of).collect(),
        };
        if self.json {
            return report::print_json(&report);
        }
        report::print(format_args!("{}{}", table(&report.keys), self.advice()))
    }

    fn advice(&self) -> &'static str {
        match (self.dry_run, self.remove.is_empty()) {
            (true, _) => "nothing was changed: this is what would be done\n",
            (false, true) => {
                "next: list the recipient in [encryption] recipients where the archive is written\n"
            }
            (false, false) => {
                "next: take the recipient out of [encryption] recipients where the archive is written, else a data \
                 key is made for it again,\nand run 'walvault keys rotate': whoever could open a data \
                 key before may have kept it\n"
            }
        }
    }
}

fn table(keys: &[Key]) -> Table {
    let mut table = Table::new(&["KEY", "GENERATION", "RECIPIENTS", "DELETED"]);
    for key in keys {
        let deleted: Vec<String> = key.superseded.iter().map(u32::to_string).collect();
        table.row(vec![
            key.key.clone(),
            key.generation.map_or_else(
                || "as it is".to_owned(),
                |generation| generation.to_string(),
            ),
            key.recipients.join(", "),
            deleted.join(", "),
        ]);
    }
    table
}

impl Key {
    fn of(step: &RewrapStep) -> Key {
        Key {
            key: step.id.to_string(),
            generation: step.generation,
            recipients: step.recipients.clone(),
            superseded: step.superseded.clone(),
        }
    }
}
