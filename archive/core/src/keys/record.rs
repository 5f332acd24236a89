//! What is stored of a data key: whose it is, since when, for what, and wrapped for whom.
//!
//! JSON under `keys/<key-id>/<generation>`, signed by the writer whose data key it is: whoever may
//! write to the store can put a record there, and none that a writer signed. A data key that was
//! wrapped for other recipients is a new generation, never an overwrite.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use walvault_layout::KeyId;

use super::wrap::WrappedKey;
use super::{DataKey, PublicKey, SigningKey};
use crate::format::Kind;

/// The version of a record that this build writes and reads.
pub const RECORD_VERSION: u32 = 1;
/// What a signature begins with, so that it serves for nothing else.
const SIGNED: &[u8] = b"walvault/v1/data-key";

/// A data key as its record tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The data key's name.
    pub key_id: String,
    /// The generation that this is.
    pub generation: u32,
    /// When the data key was made.
    pub created_at: jiff::Timestamp,
    /// What is sealed under it.
    pub purpose: KeyPurpose,
    /// Whether somebody asked for it: whoever archives, and cannot use it, makes one of its own.
    pub rotation: bool,
    /// What the data key is known by, in hexadecimal: see [`DataKey::commitment`].
    pub commitment: String,
    /// It, wrapped for each recipient.
    pub recipients: Vec<WrappedKey>,
}

/// A record as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    /// A [`KeyRecord`], JSON as text: what is signed is these bytes.
    record: String,
    signatures: Vec<Signature>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signature {
    /// A writer's public key.
    writer: String,
    /// Base64 of its signature.
    signature: String,
}

/// A record that was read, and who signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedKey {
    /// What was signed.
    pub record: KeyRecord,
    /// Whose signatures hold; at least one.
    pub writers: Vec<PublicKey>,
}

/// What a data key seals. Whoever reads the audit trail need not be able to read anything else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPurpose {
    /// WAL, backups, and what is recorded of them.
    #[default]
    Data,
    /// The audit trail, and how drills went.
    Audit,
}

impl KeyPurpose {
    /// Of the data keys that objects of `kind` are sealed under.
    #[must_use]
    pub fn of(kind: Kind) -> KeyPurpose {
        match kind {
            Kind::Audit | Kind::Drill => KeyPurpose::Audit,
            _ => KeyPurpose::Data,
        }
    }
}

impl KeyRecord {
    /// The first generation of `key`, made at `created_at`.
    #[must_use]
    pub fn new(
        archive: &[u8; 16],
        key: &DataKey,
        recipients: Vec<WrappedKey>,
        created_at: jiff::Timestamp,
    ) -> KeyRecord {
        KeyRecord {
            key_id: key.id.to_string(),
            generation: 1,
            created_at,
            purpose: key.purpose(),
            rotation: false,
            commitment: key.commitment(archive),
            recipients,
        }
    }

    /// The bytes to store, signed by each of `signers`.
    #[must_use]
    pub fn sign<'a>(
        &self,
        archive: &[u8; 16],
        signers: impl IntoIterator<Item = &'a SigningKey>,
    ) -> Vec<u8> {
        let record = serde_json::to_string(self).expect("a key record is plain JSON");
        let message = message(archive, &record);
        let sign = |signer: &SigningKey| Signature {
            writer: signer.public().to_string(),
            signature: STANDARD.encode(signer.sign(&message)),
        };
        let stored = Stored {
            version: RECORD_VERSION,
            signatures: signers.into_iter().map(sign).collect(),
            record,
        };
        serde_json::to_vec_pretty(&stored).expect("a signed record is plain JSON")
    }

    /// Whom it is wrapped for.
    #[must_use]
    pub fn recipient_names(&self) -> Vec<String> {
        self.recipients.iter().map(WrappedKey::name).collect()
    }

    /// Whether `key` is the one that was signed.
    #[must_use]
    pub fn commits_to(&self, archive: &[u8; 16], key: &DataKey) -> bool {
        self.commitment == key.commitment(archive)
    }
}

impl SignedKey {
    /// Reads what is stored as `generation` of the data key `id`. The version is looked at first, so
    /// that a newer one is not taken for damage.
    ///
    /// # Errors
    /// What is wrong, in words that follow "data key … ".
    pub fn read(
        archive: &[u8; 16],
        id: KeyId,
        generation: u32,
        json: &[u8],
    ) -> Result<SignedKey, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |error: serde_json::Error| format!("is not readable: {error}");
        let Versioned { version } = serde_json::from_slice(json).map_err(unreadable)?;
        if version != RECORD_VERSION {
            return Err(format!(
                "has record version {version}, this walvault reads version {RECORD_VERSION}; use a newer release"
            ));
        }
        let stored: Stored = serde_json::from_slice(json).map_err(unreadable)?;
        let message = message(archive, &stored.record);
        let holds = |signature: &Signature| {
            let writer = PublicKey::parse(&signature.writer)?;
            let bytes = STANDARD.decode(&signature.signature).ok()?;
            writer.has_signed(&message, &bytes).then_some(writer)
        };
        let writers: Vec<PublicKey> = stored.signatures.iter().filter_map(holds).collect();
        if writers.is_empty() {
            return Err("is signed by nobody, or was altered since".to_owned());
        }
        let record: KeyRecord = serde_json::from_str(&stored.record).map_err(unreadable)?;
        if record.key_id != id.to_string() || record.generation != generation {
            return Err(format!(
                "is stored under another's name: it is generation {} of {}",
                record.generation, record.key_id
            ));
        }
        Ok(SignedKey { record, writers })
    }
}

fn message(archive: &[u8; 16], record: &str) -> Vec<u8> {
    [SIGNED, archive, record.as_bytes()].concat()
}
