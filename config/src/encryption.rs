//! `[encryption]`: who can open the archive.

use std::time::Duration;

use walvault_archive::keys::identity::KMS_IDENTITY;
use walvault_archive::keys::{EncryptionSettings, IdentitySource, KmsSettings};
use walvault_store::endpoint::is_encrypted_or_local;

use crate::reader::{Field, Section};
use crate::{ConfigError, values};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(mut section: Section) -> Result<EncryptionSettings, ConfigError> {
    let mut settings = EncryptionSettings {
        kms: read_kms(section.section("kms")?)?,
        key_file: section.take("key_file").map(values::path).transpose()?,
        ..EncryptionSettings::default()
    };
    if let Some(field) = section.take("recipients") {
        settings.recipients = field.texts()?;
    }
    if let Some(field) = section.take("identities") {
        settings.identities = identities(&field)?;
    }
    if let Some(field) = section.take("rotate_after") {
        settings.rotate_after = values::days(field, 36_500)?;
    }
    if let Some(field) = section.take("rotate_after_bytes") {
        settings.rotate_after_bytes = values::size(field, 0..=1 << 60)?;
    }
    if let Some(field) = section.take("rotation_check") {
        settings.rotation_check = values::duration(field, Duration::from_secs(1)..=DAY)?;
    }
    section.finish()?;
    Ok(settings)
}

/// What opens: paths, and KMS.
pub(super) fn identities(field: &Field) -> Result<Vec<IdentitySource>, ConfigError> {
    let identity = |text: &String| match text.as_str() {
        KMS_IDENTITY => Ok(IdentitySource::Kms),
        path if path.starts_with('/') => Ok(IdentitySource::File(path.into())),
        _ => {
            // It may be a secret that was meant to be in a file.
            let reason = format!(
                "an entry is neither an absolute path nor \"{KMS_IDENTITY}\"; put the identity \
                 into a file and name that"
            );
            Err(field.invalid(reason))
        }
    };
    field.texts()?.iter().map(identity).collect()
}

fn read_kms(mut section: Section) -> Result<KmsSettings, ConfigError> {
    let mut text = |name| section.take(name).map(|field| field.text()).transpose();
    let mut settings = KmsSettings {
        region: text("region")?,
        profile: text("profile")?,
        ..KmsSettings::default()
    };
    settings.ca_file = section.take("ca_file").map(values::path).transpose()?;
    if let Some(field) = section.take("endpoint") {
        let endpoint = field.is("URL").text()?;
        match is_encrypted_or_local(&endpoint) {
            Ok(true) => settings.endpoint = Some(endpoint),
            Ok(false) => {
                let reason = "it is without TLS, and data keys would pass it readable; use https";
                return Err(field.invalid(reason));
            }
            Err(reason) => return Err(field.invalid(reason)),
        }
    }
    section.finish()?;
    Ok(settings)
}
