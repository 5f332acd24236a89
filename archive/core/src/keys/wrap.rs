//! A data key wrapped for one recipient, as its record holds it.

use aes_gcm::aead::array::Array;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use walvault_layout::KeyId;
use zeroize::Zeroizing;

use super::recipient::key_file_name;
use super::{DataKey, KeyFile, Secret};

const SALT_LEN: usize = 32;
const WRAPPED_LEN: usize = 32 + 16;

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
