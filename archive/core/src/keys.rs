//! Data keys, and what wraps them.
//!
//! Objects are sealed under keys derived from a data key: 256 random bits that are stored only
//! wrapped, once for each recipient. A recipient is named by what is public of it, or by a file that
//! wraps as well as it unwraps; an identity is what unwraps. A host with recipients alone seals what
//! it cannot open.

use hkdf::Hkdf;
use sha2::Sha256;
use walvault_layout::KeyId;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::format::SALT_LEN;

pub mod access;
pub mod age;
pub mod epochs;
pub mod health;
pub mod identity;
pub mod key_file;
pub mod keyring;
pub mod kms;
mod private_file;
pub mod recipient;
pub mod record;
pub mod rewrap;
pub mod sealing_key;
mod settings;
pub mod signing;
pub mod wrap;

pub use access::{AccessError, KeyAccess, RotationPolicy, Trust};
pub use age::{AgeIdentity, AgeRecipient};
pub use epochs::KeyEpoch;
pub use identity::Identity;
pub use key_file::{KeyFile, KeyFileError};
pub use keyring::{KeyError, Keyring};
pub use recipient::{Recipient, RecipientError};
pub use record::{KeyPurpose, KeyRecord, SignedKey};
pub use sealing_key::SealingKey;
pub use settings::{EncryptionSettings, IdentitySource, KmsSettings, TrustSettings};
pub use signing::{PublicKey, SigningKey};

/// 256 secret bits. They neither print nor copy, and are wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Fresh random bits from the operating system.
    ///
    /// # Errors
    /// When the operating system has none to give.
    pub fn generate() -> Result<Secret, getrandom::Error> {
        let mut secret = Secret([0; 32]);
        getrandom::fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Takes over bytes that are secret already.
    #[must_use]
    pub fn from_bytes(bytes: &Zeroizing<[u8; 32]>) -> Secret {
        Secret(**bytes)
    }

    /// Derives another secret: HKDF-SHA-256 (RFC 5869) of this one, `salt` and the parts of `info`.
    #[must_use]
    pub fn derive(&self, salt: &[u8], info: &[&[u8]]) -> Secret {
        let mut out = Secret([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), &self.0)
            .expand_multi_info(info, &mut out.0)
            .expect("32 bytes are within HKDF's limit of 8160");
        out
    }

    /// The bytes, for the cipher alone.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A data key and its name.
pub struct DataKey {
    /// Its name, stored in the header of every object sealed under it.
    pub id: KeyId,
    purpose: KeyPurpose,
    secret: Secret,
}

impl DataKey {
    /// A new random key with a new random name.
    ///
    /// # Errors
    /// When the operating system has no random bits to give.
    pub fn generate() -> Result<DataKey, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(DataKey::new(KeyId(id), Secret::generate()?))
    }

    /// A key that was unwrapped, for data.
    #[must_use]
    pub fn new(id: KeyId, secret: Secret) -> DataKey {
        DataKey {
            id,
            purpose: KeyPurpose::Data,
            secret,
        }
    }

    /// It, for this purpose.
    #[must_use]
    pub fn serving(self, purpose: KeyPurpose) -> DataKey {
        DataKey { purpose, ..self }
    }

    /// What may be sealed under it, and opened.
    #[must_use]
    pub fn purpose(&self) -> KeyPurpose {
        self.purpose
    }

    /// What its record knows it by, in hexadecimal. Nobody finds another key that has the same.
    #[must_use]
    pub fn commitment(&self, archive: &[u8; 16]) -> String {
        let info: [&[u8]; 3] = [b"walvault/v1/commitment", archive, &self.id.0];
        hex::encode(self.secret.derive(b"", &info).expose())
    }

    /// The key of the one object that has `salt`.
    #[must_use]
    pub fn object_key(&self, archive: &[u8; 16], salt: &[u8; SALT_LEN]) -> Secret {
        self.secret.derive(salt, &[b"walvault/v1/object", archive])
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }
}
