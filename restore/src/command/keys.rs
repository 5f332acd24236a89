//! `walvault keys`: key files, and the data keys of an archive.

use std::path::Path;

use clap::Subcommand;
use walvault_archive::Archive;
use walvault_archive::config::Config;
use walvault_archive::keys::{KeyEpoch, epochs};
use walvault_archive::layout::KeyId;

use crate::access;
use crate::exit::Failure;

mod destroy;
mod generate;
mod list;
mod retire;
mod rewrap;
mod rotate;
mod usage_report;
mod verify;

/// Key files, and the data keys of an archive.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a new key file, or an age identity
    Generate(generate::Generate),
    /// Show the archive's data keys and who can open them
    List(list::List),
    /// Open every data key and check it
    Verify(verify::Verify),
    /// Have everything from now on sealed under a new data key
    Rotate(rotate::Rotate),
    /// Add or remove recipients of every data key
    Rewrap(rewrap::Rewrap),
    /// Show what still needs a recipient or a data key
    Retire(retire::Retire),
    /// Delete a data key, and so make unreadable what it sealed
    Destroy(destroy::Destroy),
}

impl Keys {
    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done, or what was asked about is not so.
    pub async fn run(&self, config: Option<&Path>) -> Result<(), Failure> {
        match self {
            Keys::Generate(command) => command.run(),
            Keys::List(command) => command.run(&open(config).await?).await,
            Keys::Verify(command) => command.run(&open(config).await?).await,
            Keys::Rotate(command) => command.run(&open(config).await?).await,
            Keys::Rewrap(command) => command.run(&open(config).await?).await,
            Keys::Retire(command) => command.run(&open(config).await?).await,
            Keys::Destroy(command) => command.run(&open(config).await?).await,
        }
    }
}

async fn open(config: Option<&Path>) -> Result<Archive, Failure> {
    let config = Config::load(config)?;
    access::log_to_stderr(tracing::Level::WARN);
    access::open(&config).await
}

/// Every data key of an archive, oldest first.
async fn load(archive: &Archive) -> Result<Vec<KeyEpoch>, Failure> {
    Ok(epochs::load(&**archive.store()).await?)
}

/// The data key whose name begins with `text`, if that is one.
fn find<'a>(epochs: &'a [KeyEpoch], text: &str) -> Option<&'a KeyEpoch> {
    let begins = |id: KeyId| text.len() >= 8 && id.to_string().starts_with(text);
    let mut found = epochs.iter().filter(|epoch| begins(epoch.id));
    match (found.next(), found.next()) {
        (Some(epoch), None) => Some(epoch),
        _ => None,
    }
}
