//! Drills: a restore that is started, checked and thrown away, to prove the archive.
//!
//! Owns what a drill does and in which order, and what is noted of it. What is restored is opened with a
//! configuration of its own, in which there is nothing but what the scenario leaves: whoever drills the loss of
//! all keys but one does not have the others by accident.

use std::path::PathBuf;
use std::time::Duration;

use walvault_config::{ArchiveUrl, Config, CopySettings, EncryptionSettings};

use crate::target::Target;

mod account;
mod amcheck;
mod asserts;
mod choose;
mod conduct;
mod ending;
mod error;
mod pages;
mod priority;
mod rpo;
mod scratch;

pub use account::Account;
pub use conduct::Drill;
pub use ending::Ending;
pub use error::DrillError;
pub use priority::yield_to_others;
pub use scratch::Scratch;

/// What is drilled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Scenario {
    /// The node is lost: everything that is archived, from wherever it is
    SystemFailure,
    /// Data was damaged by somebody: an instant before
    DataCorruption,
    /// All identities are lost but those in escrow
    KeyLoss,
    /// The site is lost with the archive in it: a copy alone
    SiteLoss,
}

impl Scenario {
    /// As records and names of objects have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Scenario::SystemFailure => "system-failure",
            Scenario::DataCorruption => "data-corruption",
            Scenario::KeyLoss => "key-loss",
            Scenario::SiteLoss => "site-loss",
        }
    }

    /// The scenario of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Scenario> {
        <Scenario as clap::ValueEnum>::from_str(name, false).ok()
    }

    /// What it leaves to restore from: one or more sources, each of which is drilled by itself.
    ///
    /// # Errors
    /// When nothing is configured that would be left.
    pub fn sources(
        self,
        config: &Config,
        copy: Option<&ArchiveUrl>,
    ) -> Result<Vec<Source>, DrillError> {
        let mut places = config.archive.places();
        let mut encryption = config.encryption.clone();
        // A drill signs nothing.
        encryption.trust = encryption
            .trust
            .public()
            .map_err(walvault_archive::Error::from)?;
        if self == Scenario::KeyLoss {
            let escrow = &config.drill.escrow_identities;
            if escrow.is_empty() {
                return Err(DrillError::NoEscrow);
            }
            encryption.key_file = None;
            encryption.identities.clone_from(escrow);
        }
        if self != Scenario::SiteLoss {
            return match copy {
                None => Ok(vec![Source { places, encryption }]),
                Some(_) => Err(DrillError::CopyElsewhere),
            };
        }
        let _ = places.remove(0);
        if places.is_empty() {
            return Err(DrillError::NoCopy);
        }
        if let Some(url) = copy {
            places.retain(|place| place.url == *url);
            if places.is_empty() {
                return Err(DrillError::UnknownCopy(url.to_string()));
            }
        }
        let alone = places.into_iter().map(|place| Source {
            places: vec![place],
            encryption: encryption.clone(),
        });
        Ok(alone.collect())
    }
}

/// What is restored from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Where the archive is.
    pub places: Vec<CopySettings>,
    /// What opens it.
    pub encryption: EncryptionSettings,
}

/// Where a drill is to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// There.
    At(Target),
    /// At an instant that is chosen by chance.
    Random,
}

/// How it is done.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of PostgreSQL's programs.
    pub bin_dir: Option<PathBuf>,
    /// The user that PostgreSQL runs as, when root runs the drill.
    pub owner: Option<String>,
    /// Leave the restored cluster where it is.
    pub keep: bool,
    /// How long it may take.
    pub time_limit: Duration,
}
