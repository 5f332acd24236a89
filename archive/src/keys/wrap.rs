//! Wrapping a data key for a recipient, and the inverse.
//!
//! Stored as JSON under `keys/<key-id>/<generation>`: a data key that was wrapped for other
//! recipients is a new generation, never an overwrite.

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{DataKey, KeyFile, Secret};
use crate::layout::KeyId;

/// The version of [`KeyRecord`] this build writes and reads.
const RECORD_VERSION: u32 = 1;
const SALT_LEN: usize = 32;
const WRAPPED_LEN: usize = 32 + 16;

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
}

/// A data key wrapped for one recipient.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum WrappedKey {
    /// For the holder of a key file.
    KeyFile {
        /// The key file's fingerprint.
        fingerprint: String,
        /// Base64 of salt and sealed key; see `docs/format.md`.
        wrapped: String,
    },
}

impl KeyRecord {
    /// Wraps `key` for each of `recipients`, bound to `archive`.
    ///
    /// # Errors
    /// When the operating system has no random bits to give.
    pub fn wrap(
        archive: &[u8; 16],
        key: &DataKey,
        recipients: &[KeyFile],
        now: jiff::Timestamp,
    ) -> Result<KeyRecord, getrandom::Error> {
        let salted = |recipient| {
            let mut salt = [0; SALT_LEN];
            getrandom::fill(&mut salt)?;
            Ok(wrap_for(archive, key, recipient, salt))
        };
        let recipients: Result<_, getrandom::Error> = recipients.iter().map(salted).collect();
        Ok(KeyRecord::new(key, recipients?, now))
    }

    pub(crate) fn new(
        key: &DataKey,
        recipients: Vec<WrappedKey>,
        now: jiff::Timestamp,
    ) -> KeyRecord {
        KeyRecord {
            version: RECORD_VERSION,
            key_id: key.id.to_string(),
            created_at: now,
            recipients,
        }
    }

    /// Unwraps the data key with the first of `identities` that can.
    ///
    /// # Errors
    /// What is wrong, in words that follow "data key … ".
    pub fn unwrap(
        &self,
        archive: &[u8; 16],
        id: KeyId,
        identities: &[KeyFile],
    ) -> Result<DataKey, String> {
        if self.version != RECORD_VERSION {
            return Err(format!(
                "has record version {}, this walvault reads version {RECORD_VERSION}; use a newer release",
                self.version
            ));
        }
        for WrappedKey::KeyFile {
            fingerprint,
            wrapped,
        } in &self.recipients
        {
            let Some(identity) = identities
                .iter()
                .find(|key| key.fingerprint() == fingerprint)
            else {
                continue;
            };
            return open(archive, id, wrapped, identity)
                .map(|secret| DataKey::new(id, secret))
                .ok_or_else(|| {
                    format!(
                        "is wrapped for key file {fingerprint}, but was altered or belongs to another archive"
                    )
                });
        }
        Err(format!(
            "is wrapped for {}, and none of these was given",
            self.recipient_names()
        ))
    }

    fn recipient_names(&self) -> String {
        let name = |WrappedKey::KeyFile { fingerprint, .. }: &WrappedKey| {
            format!("key file {fingerprint}")
        };
        let names: Vec<String> = self.recipients.iter().map(name).collect();
        names.join(", ")
    }
}

/// The key is used for one message only, so that a nonce of zeros never meets it twice.
fn wrapping_cipher(archive: &[u8; 16], id: KeyId, salt: &[u8], recipient: &KeyFile) -> Aes256Gcm {
    let info: [&[u8]; 3] = [b"walvault/v1/wrap", archive, &id.0];
    let key = recipient.secret().derive(salt, &info);
    Aes256Gcm::new(&Array(*key.expose()))
}

/// Wraps `key` for one recipient. A salt must never serve twice.
pub(crate) fn wrap_for(
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

fn open(archive: &[u8; 16], id: KeyId, wrapped: &str, identity: &KeyFile) -> Option<Secret> {
    let bytes = STANDARD.decode(wrapped).ok()?;
    let (salt, sealed) = bytes.split_at_checked(SALT_LEN)?;
    let sealed: &[u8; WRAPPED_LEN] = sealed.try_into().ok()?;
    let cipher = wrapping_cipher(archive, id, salt, identity);
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
    Some(Secret::from_bytes(&body))
}
