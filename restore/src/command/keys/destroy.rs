//! `walvault keys destroy`: what a data key sealed becomes unreadable for ever.

use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::keys::usage::{KeyUse, usage};

use super::usage_report::Use;
use crate::exit::Failure;
use crate::report;

/// Deletes every generation of a data key, with all their versions, after naming what becomes
/// unreadable. The data key that is sealed under at the moment is not destroyed: rotate first.
#[derive(Debug, clap::Args)]
pub struct Destroy {
    /// The data key, or at least the first 8 digits of it
    #[arg(value_name = "KEY")]
    key: String,
    /// Do it; without this it is only said what would become unreadable
    #[arg(long)]
    confirm: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    destroyed: bool,
    unreadable: Use,
}

impl Destroy {
    pub(super) async fn run(&self, archive: &Archive) -> Result<(), Failure> {
        let epochs = super::load(archive).await?;
        let epoch =
            super::find(&epochs, &self.key).ok_or_else(|| Failure::NoSuchKey(self.key.clone()))?;
        if epochs.last().is_some_and(|newest| newest.id == epoch.id) {
            return Err(Failure::KeyInUse(epoch.id));
        }
        let uses = usage(archive).await?;
        let nothing = KeyUse::default();
        let lost = Use::of(epoch.id, uses.get(&epoch.id).unwrap_or(&nothing));
        if !self.json {
            let verb = match self.confirm {
                true => "becomes unreadable",
                false => "would become unreadable",
            };
            report::print(format_args!("{verb}: {}", lost.describe()))?;
        }
        if self.confirm {
            archive.keyring().destroy(epoch).await?;
        }
        if self.json {
            report::print_json(&Report {
                destroyed: self.confirm,
                unreadable: lost,
            })?;
        }
        match self.confirm {
            true if self.json => Ok(()),
            true => report::print(format_args!("data key {} is destroyed\n", epoch.id)),
            false => Err(Failure::NotConfirmed(epoch.id)),
        }
    }
}
