//! `walvault keys`: key files.

use std::path::PathBuf;

use clap::Subcommand;
use walvault_archive::keys::KeyFile;

use crate::exit::Failure;
use crate::report;

/// Key files.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make a new key file
    Generate(Generate),
}

/// Makes a new key file.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// Where to write it; an existing file is never replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Keys {
    /// Does it.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn run(&self) -> Result<(), Failure> {
        let Keys::Generate(Generate { out }) = self;
        let key = KeyFile::generate(out).map_err(walvault_archive::Error::from)?;
        let path = std::path::absolute(out).unwrap_or_else(|_| out.clone());
        report::print(format_args!(
            "wrote key {} to {}\n\
             next: set key_file = \"{}\" in [encryption] of walvault.toml, and keep a copy of the \
             file away from this machine:\nwithout it, nothing in the archive can be read again\n",
            key.fingerprint(),
            out.display(),
            path.display(),
        ))
    }
}
