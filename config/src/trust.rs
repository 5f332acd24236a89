//! `[trust]`: whose data keys are believed.

use walvault_archive::keys::{PublicKey, TrustSettings};

use crate::reader::{Field, Section};
use crate::{ConfigError, values};

pub(super) fn read(mut section: Section) -> Result<TrustSettings, ConfigError> {
    let path = section.take("signing_key_file");
    let settings = TrustSettings {
        signing_key_file: path.map(values::path).transpose()?,
        writers: section
            .take("writers")
            .map(|field| public_keys(&field))
            .transpose()?
            .unwrap_or_default(),
    };
    section.finish()?;
    Ok(settings)
}

/// Public keys that sign.
pub(super) fn public_keys(field: &Field) -> Result<Vec<PublicKey>, ConfigError> {
    let read = |text: &String| {
        PublicKey::parse(text).ok_or_else(|| {
            field.invalid(
                "an entry is not a public key; 'walvault keys generate' and 'walvault keys list' print them, ed25519:…",
            )
        })
    };
    field.texts()?.iter().map(read).collect()
}
