//! A wrapped data key, as it is stored.
//!
//! JSON under `keys/<key-id>/<generation>`: a data key that was wrapped for other recipients is a
//! new generation, never an overwrite.

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use walvault_layout::KeyId;
use zeroize::Zeroizing;

use super::recipient::key_file_name;
use super::{DataKey, KeyFile, Secret};

/// The newest version of [`KeyRecord`] that this build reads. Version 1 had no check and knew key files
/// only; version 2 had no purpose, and is still what is written for [`KeyPurpose::Data`].
pub const RECORD_VERSION: u32 = 3;
const SALT_LEN: usize = 32;
const WRAPPED_LEN: usize = 32 + 16;
/// What is sealed in a record under its data key.
const KNOWN_PLAINTEXT: &[u8; 32] = b"walvault: this data key is right";

/// What `keys/<key-id>/<generation>` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The version of this structure.
    pub version: u32,
    /// The data key's name.
    pub key_id: String,
    /// When the data key was made.
    pub created_at: jiff::Timestamp,
    /// It, wrapped for each recipient.
    pub recipients: Vec<WrappedKey>,
    /// Base64 of a known plaintext sealed under it; `None` in version 1. See `docs/format.md`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Whether somebody asked for it: whoever archives, and cannot use it, makes one of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rotation: bool,
    /// What is sealed under it.
    #[serde(default, skip_serializing_if = "KeyPurpose::is_data")]
    pub purpose: KeyPurpose,
}

/// What a data key seals. Whoever reads the audit trail need not be able to read anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPurpose {
    /// WAL, backups, and what is recorded of them.
    #[default]
    Data,
    /// The audit trail.
    Audit,
}

impl KeyPurpose {
    /// Whether it is [`KeyPurpose::Data`], which is not written down.
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_data(&self) -> bool {
        *self == KeyPurpose::Data
    }
}

/// A data key wrapped for one recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WrappedKey {
    /// For the holder of a key file.
    KeyFile {
        /// The key file's fingerprint.
        fingerprint: String,
        /// Base64 of salt and sealed key; see `docs/format.md`.
        wrapped: String,
    },
    /// For the holder of a private key that age knows: X25519, ssh or a plugin's.
    Age {
        /// The public key's kind and fingerprint, as [`super::AgeRecipient::name`].
        recipient: String,
        /// Base64 of an age file.
        wrapped: String,
    },
    /// For whoever AWS KMS lets decrypt.
    AwsKms {
        /// The ARN of the KMS key.
        key: String,
        /// Base64 of KMS's ciphertext.
        wrapped: String,
    },
}

impl WrappedKey {
    /// Whom it is for, as [`super::Recipient::name`].
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            WrappedKey::KeyFile { fingerprint, .. } => key_file_name(fingerprint),
            WrappedKey::Age { recipient, .. } => recipient.clone(),
            WrappedKey::AwsKms { key, .. } => format!("awskms:{key}"),
        }
    }
}

impl KeyRecord {
    /// A record of `key`, made at `created_at`.
    #[must_use]
    pub fn new(
        archive: &[u8; 16],
        key: &DataKey,
        recipients: Vec<WrappedKey>,
        created_at: jiff::Timestamp,
    ) -> KeyRecord {
        KeyRecord {
            version: 2,
            key_id: key.id.to_string(),
            created_at,
            recipients,
            check: Some(seal_check(archive, key)),
            rotation: false,
            purpose: KeyPurpose::Data,
        }
    }

    /// It, for this purpose.
    #[must_use]
    pub fn serving(self, purpose: KeyPurpose) -> KeyRecord {
        KeyRecord {
            version: match purpose {
                KeyPurpose::Data => self.version,
                // Who knows no purposes must not seal data under it.
                KeyPurpose::Audit => RECORD_VERSION,
            },
            purpose,
            ..self
        }
    }

    /// As version 1 was written.
    #[cfg(any(test, feature = "testing"))]
    pub fn version_1(
        key: &DataKey,
        recipients: Vec<WrappedKey>,
        created_at: jiff::Timestamp,
    ) -> KeyRecord {
        KeyRecord {
            version: 1,
            key_id: key.id.to_string(),
            created_at,
            recipients,
            check: None,
            rotation: false,
            purpose: KeyPurpose::Data,
        }
    }

    /// Reads one. The version is looked at first, so that a newer one is not taken for damage.
    ///
    /// # Errors
    /// What is wrong, in words that follow "data key … ".
    pub fn read(id: KeyId, json: &[u8]) -> Result<KeyRecord, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| format!("is not readable: {error}");
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version == 0 || version > RECORD_VERSION {
            return Err(format!(
                "has record version {version}, this walvault reads up to version {RECORD_VERSION}; use a newer release"
            ));
        }
        let record: KeyRecord = serde_json::from_slice(json).map_err(unreadable)?;
        if record.key_id != id.to_string() {
            return Err(format!(
                "is stored under another's name: it is {}",
                record.key_id
            ));
        }
        Ok(record)
    }

    /// Whom it is wrapped for.
    #[must_use]
    pub fn recipient_names(&self) -> Vec<String> {
        self.recipients.iter().map(WrappedKey::name).collect()
    }

    /// Whether `key` opens the known plaintext; `None` where there is none, as in version 1.
    #[must_use]
    pub fn check(&self, archive: &[u8; 16], key: &DataKey) -> Option<bool> {
        self.check
            .as_ref()
            .map(|check| open_check(archive, key, check).is_some())
    }
}

/// The key is used for one message only, so that a nonce of zeros never meets it twice.
fn wrapping_cipher(archive: &[u8; 16], id: KeyId, salt: &[u8], recipient: &KeyFile) -> Aes256Gcm {
    let info: [&[u8]; 3] = [b"walvault/v1/wrap", archive, &id.0];
    let key = recipient.secret().derive(salt, &info);
    Aes256Gcm::new(&Array(*key.expose()))
}

/// Wraps `key` for the holder of a key file. A salt must never serve twice.
pub fn wrap_for(
    archive: &[u8; 16],
    key: &DataKey,
    recipient: &KeyFile,
    salt: [u8; SALT_LEN],
) -> WrappedKey {
    let cipher = wrapping_cipher(archive, key.id, &salt, recipient);
    let mut body = Zeroizing::new(*key.secret().expose());
    let tag = cipher
        .encrypt_inout_detached(&Array([0; 12]), b"", body.as_mut_slice().into())
        .expect("32 bytes are within AES-GCM's limit");
    WrappedKey::KeyFile {
        fingerprint: recipient.fingerprint().to_owned(),
        wrapped: STANDARD.encode([salt.as_slice(), &*body, &tag].concat()),
    }
}

/// The inverse of [`wrap_for`].
pub(super) fn open_with(
    archive: &[u8; 16],
    id: KeyId,
    wrapped: &[u8],
    identity: &KeyFile,
) -> Option<Secret> {
    let (salt, sealed) = wrapped.split_at_checked(SALT_LEN)?;
    let sealed: &[u8; WRAPPED_LEN] = sealed.try_into().ok()?;
    let cipher = wrapping_cipher(archive, id, salt, identity);
    open_32(&cipher, sealed).map(|body| Secret::from_bytes(&body))
}

/// The known plaintext is the only message under its key.
fn check_cipher(archive: &[u8; 16], key: &DataKey) -> Aes256Gcm {
    let info: [&[u8]; 3] = [b"walvault/v1/check", archive, &key.id.0];
    let derived = key.secret().derive(b"", &info);
    Aes256Gcm::new(&Array(*derived.expose()))
}

fn seal_check(archive: &[u8; 16], key: &DataKey) -> String {
    let mut body = *KNOWN_PLAINTEXT;
    let tag = check_cipher(archive, key)
        .encrypt_inout_detached(&Array([0; 12]), b"", body.as_mut_slice().into())
        .expect("32 bytes are within AES-GCM's limit");
    STANDARD.encode([body.as_slice(), &tag].concat())
}

fn open_check(archive: &[u8; 16], key: &DataKey, check: &str) -> Option<()> {
    let sealed: [u8; WRAPPED_LEN] = STANDARD.decode(check).ok()?.try_into().ok()?;
    let body = open_32(&check_cipher(archive, key), &sealed)?;
    (*body == *KNOWN_PLAINTEXT).then_some(())
}

fn open_32(cipher: &Aes256Gcm, sealed: &[u8; WRAPPED_LEN]) -> Option<Zeroizing<[u8; 32]>> {
    let mut body = Zeroizing::new([0; 32]);
    body.copy_from_slice(&sealed[..32]);
    let tag: [u8; 16] = sealed[32..].try_into().ok()?;
    cipher
        .decrypt_inout_detached(
            &Array([0; 12]),
            b"",
            body.as_mut_slice().into(),
            &Array(tag),
        )
        .ok()?;
    Some(body)
}
