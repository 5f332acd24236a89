//! `[encryption]`: who can open the archive.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::archive::is_encrypted_or_local;
use crate::config::reader::{Field, Section};
use crate::config::{ConfigError, values};
use crate::keys::identity::KMS_IDENTITY;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// `[encryption]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionSettings {
    /// `key_file`: the file with a key that is both a recipient and an identity.
    pub key_file: Option<PathBuf>,
    /// `recipients`: who data keys are wrapped for.
    pub recipients: Vec<String>,
    /// `identities`: what unwraps them.
    pub identities: Vec<IdentitySource>,
    /// `rotate_after`: how long a data key serves; zero for ever.
    pub rotate_after: Duration,
    /// `rotate_after_bytes`: how much is sealed under a data key; zero for any amount.
    pub rotate_after_bytes: u64,
    /// `rotation_check`: how often it is looked whether another data key is due or was asked for.
    pub rotation_check: Duration,
    /// `[encryption.kms]`
    pub kms: KmsSettings,
}

/// Where identities come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// A key file, a file of age's, or an ssh private key.
    File(PathBuf),
    /// AWS KMS.
    Kms,
}

/// `[encryption.kms]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KmsSettings {
    /// `endpoint`: the URL of KMS, if it is not AWS's own for the key's Region.
    pub endpoint: Option<String>,
    /// `region`: where to use a multi-Region key; else where its ARN says.
    pub region: Option<String>,
    /// `profile`: the profile in AWS's own configuration files to use.
    pub profile: Option<String>,
    /// `ca_file`: the certificates to trust instead of the system's, in PEM.
    pub ca_file: Option<PathBuf>,
}

impl Default for EncryptionSettings {
    fn default() -> EncryptionSettings {
        EncryptionSettings {
            key_file: None,
            recipients: Vec::new(),
            identities: Vec::new(),
            rotate_after: 90 * DAY,
            rotate_after_bytes: 1 << 40,
            rotation_check: Duration::from_secs(60),
            kms: KmsSettings::default(),
        }
    }
}

impl EncryptionSettings {
    pub(super) fn read(mut section: Section) -> Result<EncryptionSettings, ConfigError> {
        let mut settings = EncryptionSettings {
            kms: KmsSettings::read(section.section("kms")?)?,
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

impl KmsSettings {
    fn read(mut section: Section) -> Result<KmsSettings, ConfigError> {
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
                    let reason =
                        "it is without TLS, and data keys would pass it readable; use https";
                    return Err(field.invalid(reason));
                }
                Err(reason) => return Err(field.invalid(reason)),
            }
        }
        section.finish()?;
        Ok(settings)
    }
}
