//! `walvault keys generate`: a new key file, or an age identity.

use std::path::{Path, PathBuf};

use walvault_archive::keys::{AgeIdentity, KeyFile, SigningKey};

use crate::exit::Failure;
use crate::report;

/// Makes a new key file.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// Where to write it; an existing file is never replaced
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Make an age identity instead: whoever has only its public key seals, and cannot open
    #[arg(long)]
    age: bool,
    /// Do nothing when the file is there already
    #[arg(long)]
    if_missing: bool,
    /// Make a key that signs instead: data keys, or the audit trail
    #[arg(long, conflicts_with = "age")]
    signing: bool,
}

impl Generate {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let Generate {
            out,
            age,
            signing,
            if_missing,
        } = self;
        if *if_missing && out.exists() {
            return report::print(format_args!(
                "{} is there already
",
                out.display()
            ));
        }
        if *signing {
            return generate_signing(out);
        }
        if *age {
            return generate_age(out);
        }
        let key = KeyFile::generate(out).map_err(walvault_archive::Error::from)?;
        let path = std::path::absolute(out).unwrap_or_else(|_| out.clone());
        report::print(format_args!(
            "wrote key {} to {}\n\
             writer: {}\n\
             next: set key_file = \"{}\" in [encryption] of walvault.toml, and keep a copy of the \
             file away from this machine:\nwithout it, nothing in the archive can be read again\n",
            key.fingerprint(),
            out.display(),
            key.writer().public(),
            path.display(),
        ))
    }
}

fn generate_signing(out: &Path) -> Result<(), Failure> {
    let key = SigningKey::create(out).map_err(walvault_archive::Error::from)?;
    let path = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    report::print(format_args!(
        "wrote a signing key to {}\n\
         public key: {}\n\
         next: set signing_key_file = \"{}\" in [trust] on the host that seals, and list the public key in \
         [trust] writers\nwhere the archive is read; or in [audit] on the host that signs the trail, and in \
         [audit] signers where that is\nverified\n",
        out.display(),
        key.public(),
        path.display(),
    ))
}

fn generate_age(out: &Path) -> Result<(), Failure> {
    let public = AgeIdentity::generate(out).map_err(walvault_archive::Error::from)?;
    let path = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    report::print(format_args!(
        "wrote an age identity to {}\n\
         public key: {public}\n\
         next: list the public key in [encryption] recipients where the archive is written, and set \
         identities = [\"{}\"]\nwhere it is restored; keep a copy of the file elsewhere: without it, \
         nothing in the archive can be read again\n",
        out.display(),
        path.display(),
    ))
}
