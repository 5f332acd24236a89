//! `--archive` and `--identity`: another archive than the configured one, to be read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use walvault_archive::keys::PublicKey;
use walvault_config::{ArchiveUrl, Source};

/// Where to read from, besides the configuration.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Place {
    /// Read this archive instead of the configured ones, such as file:///mnt/cold; nothing is
    /// written to it, and no configuration file is needed
    #[arg(long, value_name = "URL", value_parser = ArchiveUrl::parse)]
    archive: Option<ArchiveUrl>,
    /// What opens it, besides what is configured: a key file, an age identity or an ssh private key;
    /// may be given several times
    #[arg(long, value_name = "FILE", value_parser = absolute)]
    identity: Vec<PathBuf>,
    /// Whose objects are believed, besides [trust] writers: a public key, ed25519:…; may be given several
    /// times
    #[arg(long, value_name = "PUBLIC KEY", value_parser = writer)]
    writer: Vec<PublicKey>,
}

impl Place {
    /// What to load the configuration from.
    #[must_use]
    pub fn source<'a>(&self, config: Option<&'a Path>) -> Source<'a> {
        Source {
            file: config,
            archive: self.archive.clone(),
            identities: self.identity.clone(),
            writers: self.writer.clone(),
        }
    }

    /// The arguments that say the same to another process.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        let archive = self
            .archive
            .iter()
            .map(|url| ("--archive", url.to_string().into()));
        let identities = self
            .identity
            .iter()
            .map(|path| ("--identity", path.clone().into()));
        let writers = self.writer.iter();
        let writers = writers.map(|writer| ("--writer", writer.to_string().into()));
        archive
            .chain(identities)
            .chain(writers)
            .flat_map(|(name, value): (&str, OsString)| [name.into(), value])
            .collect()
    }
}

fn writer(text: &str) -> Result<PublicKey, String> {
    let key = PublicKey::parse(text);
    key.ok_or_else(|| {
        "it is not a public key, ed25519:…; 'walvault keys list' shows them".to_owned()
    })
}

/// A path that means the same wherever it is used later.
pub(crate) fn absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}
