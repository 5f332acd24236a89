//! What a program is given to wrap and unwrap data keys with, and when it makes another.

use std::path::PathBuf;
use std::time::Duration;

use super::{KeyFileError, PublicKey, SigningKey};

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
    /// `[trust]`
    pub trust: TrustSettings,
}

/// `[trust]`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustSettings {
    /// `signing_key_file`: the key that data keys are signed with, besides those of key files.
    pub signing_key_file: Option<PathBuf>,
    /// `writers`: whose data keys are believed, besides one's own.
    pub writers: Vec<PublicKey>,
}

impl TrustSettings {
    /// The same writers, for who shall sign nothing: that of `signing_key_file` is named.
    ///
    /// # Errors
    /// When the key file cannot be used.
    pub fn public(&self) -> Result<TrustSettings, KeyFileError> {
        let own = self.signing_key_file.as_deref();
        let own = own.map(SigningKey::read).transpose()?;
        let mut writers = self.writers.clone();
        writers.extend(own.map(|own| own.public()));
        Ok(TrustSettings {
            signing_key_file: None,
            writers,
        })
    }
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
            trust: TrustSettings::default(),
        }
    }
}
