//! `walvault keys list`: the data keys of an archive.

use jiff::Timestamp;
use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::{KeyEpoch, KeyRecord};

use crate::exit::Failure;
use crate::report::{self, Table};

/// Shows data keys. Needs no identity.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A data key.
#[derive(Debug, Serialize)]
struct Key {
    key: String,
    created_at: Option<Timestamp>,
    generation: u32,
    recipients: Vec<String>,
    /// Who signed its record.
    writers: Vec<String>,
    /// Whether no writer that is trusted here did.
    foreign: bool,
    /// What is wrong with its record.
    problem: Option<String>,
}

impl List {
    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let epochs = super::load(archive).await?;
        let keys: Vec<Key> = epochs.iter().map(Key::of).collect();
        if self.json {
            return report::print_json(&keys);
        }
        let mut table = Table::new(&["KEY", "MADE", "GENERATION", "RECIPIENTS", "WRITER"]);
        for key in keys {
            table.row(vec![
                key.key,
                key.created_at
                    .map_or_else(|| "?".to_owned(), report::instant),
                key.generation.to_string(),
                key.problem.unwrap_or_else(|| key.recipients.join(", ")),
                match key.foreign {
                    true => format!("FOREIGN: {}", key.writers.join(", ")),
                    false => key.writers.join(", "),
                },
            ]);
        }
        report::print(format_args!("{table}"))
    }
}

impl Key {
    fn of(epoch: &KeyEpoch) -> Key {
        let record = epoch.record.as_ref();
        Key {
            key: epoch.id.to_string(),
            created_at: epoch.created_at(),
            generation: epoch.generation,
            recipients: record.map(KeyRecord::recipient_names).unwrap_or_default(),
            writers: epoch.writers.iter().map(ToString::to_string).collect(),
            foreign: epoch.is_foreign(),
            problem: record.err().cloned(),
        }
    }
}
