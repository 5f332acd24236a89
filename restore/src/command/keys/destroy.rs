//! `walvault keys destroy`: what a data key sealed becomes unreadable for ever.

use serde::Serialize;
use walvault_archive::Archive;
use walvault_archive::key_usage::{KeyUse, usage};
use walvault_layout::ObjectKey;

use super::error::KeysFailure;
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
struct Report<'a> {
    destroyed: bool,
    unreadable: &'a Use,
}

/// What can be proved of a data key that was destroyed.
#[derive(Debug, Serialize)]
pub(super) struct Destroyed {
    key: String,
    /// How many generations were removed.
    generations: usize,
    /// Those that are there still, in some version.
    held: Vec<String>,
    /// What it had sealed.
    unreadable: Use,
}

impl Destroy {
    /// The data key as it was given; `None` where nothing is done.
    pub(super) fn about(&self) -> Option<String> {
        self.confirm.then(|| self.key.clone())
    }

    pub(super) async fn run(&self, archive: &Archive) -> Result<Destroyed, Failure> {
        let epochs = super::load(archive).await?;
        let epoch = super::find(&epochs, &self.key)
            .ok_or_else(|| KeysFailure::Unknown(self.key.clone()))?;
        // What is not a trusted writer's is never sealed under, and comes first.
        let newest = epochs.last().filter(|newest| newest.trusted);
        if newest.is_some_and(|newest| newest.id == epoch.id) {
            return Err(KeysFailure::InUse(epoch.id).into());
        }
        let uses = usage(archive).await?;
        let nothing = KeyUse::default();
        if uses.get(&epoch.id).is_some_and(|found| found.audit > 0) {
            return Err(KeysFailure::SealsEvents(epoch.id).into());
        }
        let lost = Use::of(epoch.id, uses.get(&epoch.id).unwrap_or(&nothing));
        if !self.json {
            let verb = match self.confirm {
                true => "becomes unreadable",
                false => "would become unreadable",
            };
            report::print(format_args!("{verb}: {}", lost.describe()))?;
        }
        let mut held = Vec::new();
        if self.confirm {
            archive.keyring().destroy(epoch).await?;
            for generation in &epoch.generations {
                let name = archive.name(&ObjectKey::Key(epoch.id, *generation));
                if archive.store().remains(&name).await? {
                    held.push(name);
                }
            }
        }
        if self.json {
            report::print_json(&Report {
                destroyed: self.confirm,
                unreadable: &lost,
            })?;
        }
        match self.confirm {
            true if self.json => {}
            true => report::print(format_args!("data key {} is destroyed\n", epoch.id))?,
            false => return Err(KeysFailure::NotConfirmed(epoch.id).into()),
        }
        Ok(Destroyed {
            key: epoch.id.to_string(),
            generations: epoch.generations.len(),
            held,
            unreadable: lost,
        })
    }
}
