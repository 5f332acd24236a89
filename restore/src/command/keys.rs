//! `walvault keys`: key files, and the data keys of an archive.

use std::path::Path;

use clap::Subcommand;
use walvault_archive::Archive;
use walvault_archive::keys::KeyEpoch;
use walvault_config::{AuditSettings, Config};
use walvault_evidence::audit::{self, Action, Event};
use walvault_layout::KeyId;

use self::destroy::Destroyed;
use crate::access;
use crate::exit::Failure;
use crate::noted::Said;

mod destroy;
mod error;
mod generate;
mod list;
mod retire;
mod rewrap;
mod rotate;
mod usage_report;
mod verify;

/// Key files, and the data keys of an archive.
#[derive(Debug, clap::Args)]
pub struct Keys {
    #[command(subcommand)]
    command: Command,
    /// The data keys of the audit trail, not those of WAL and backups
    #[arg(long, global = true)]
    audit: bool,
    #[command(flatten)]
    said: Said,
}

#[derive(Debug, Subcommand)]
enum Command {
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
        if let Command::Generate(command) = &self.command {
            return command.run();
        }
        let config = Config::load(config)?;
        access::log_to_stderr(tracing::Level::WARN);
        let archive = match self.command.act() {
            None | Some((Action::KeyVerified, _)) => access::open(&config).await?,
            Some(_) => access::open_to_change(&config).await?,
        };
        let keys = match self.audit {
            false => archive.clone(),
            // Where the archive keeps them, wherever this host writes its own events.
            true => {
                let settings = AuditSettings {
                    local_dir: None,
                    ..config.audit.clone()
                };
                audit::trail(&settings, &config.encryption, &archive)?
            }
        };
        let Some((action, about)) = self.command.act() else {
            return self.command.run(&keys).await.map(drop);
        };
        let tell = |event: Event| event.with("about", about).with("audit", self.audit);
        let noted = match action {
            // Nothing is changed.
            Action::KeyVerified => {
                self.said
                    .begin_anyway(&config, &archive, action, tell)
                    .await
            }
            action => self.said.begin(&config, &archive, action, tell).await?,
        };
        let done = self.command.run(&keys).await;
        let tell = |event: Event, certificate: &Option<Destroyed>| match certificate {
            None => event,
            Some(certificate) => event.with("certificate", certificate),
        };
        noted.end(&done, tell).await;
        done.map(drop)
    }
}

impl Command {
    /// What it does to the archive, if it does anything, and to what.
    fn act(&self) -> Option<(Action, Vec<String>)> {
        match self {
            Command::Generate(_) | Command::List(_) | Command::Retire(_) => None,
            Command::Verify(_) => Some((Action::KeyVerified, Vec::new())),
            Command::Rotate(_) => Some((Action::KeyRotated, Vec::new())),
            Command::Rewrap(command) => Some((Action::KeyRewrapped, command.about()?)),
            Command::Destroy(command) => Some((Action::KeyDestroyed, vec![command.about()?])),
        }
    }

    /// Does it; what was destroyed is certified.
    async fn run(&self, archive: &Archive) -> Result<Option<Destroyed>, Failure> {
        let done = match self {
            Command::Generate(command) => command.run(),
            Command::List(command) => command.run(archive).await,
            Command::Verify(command) => command.run(archive).await,
            Command::Rotate(command) => command.run(archive).await,
            Command::Rewrap(command) => command.run(archive).await,
            Command::Retire(command) => command.run(archive).await,
            Command::Destroy(command) => return command.run(archive).await.map(Some),
        };
        done.map(|()| None)
    }
}

/// Every data key of an archive, oldest first.
async fn load(archive: &Archive) -> Result<Vec<KeyEpoch>, Failure> {
    Ok(archive.keyring().epochs().await?)
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
