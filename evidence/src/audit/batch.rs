//! Events that were stored together, signed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use walvault_archive::keys::{PublicKey, SigningKey};
use walvault_layout::AuditWriter;
use walvault_store::clock;

use super::Event;

/// The version that is written, and the newest that is read.
const VERSION: u32 = 1;
/// What a signature is of, before the archive's id and the batch.
const CONTEXT: &[u8] = b"walvault/v1/audit";

/// Where a chain stood.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Head {
    /// Whose chain, 32 hexadecimal digits.
    pub writer: String,
    /// The number of its newest batch.
    pub number: u32,
    /// That object's SHA-256, as its footer has it, in hexadecimal.
    pub sha256: String,
}

/// Events of one writer that were stored together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The version of this structure.
    pub version: u32,
    /// Whose chain it is in, 32 hexadecimal digits.
    pub writer: String,
    /// Its place there, from 1.
    pub number: u32,
    /// The SHA-256 of the batch before it, as that object's footer has it; `None` in the first.
    pub previous: Option<String>,
    /// When it was signed, by the clock of the host.
    pub at: Timestamp,
    /// Where other writers' chains stood, as far as it was looked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<Head>,
    /// Whether the writer's key ends with its process.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ephemeral: bool,
    /// Whether such a writer said that it is the last one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// The events, in order.
    pub events: Vec<Event>,
}

/// Why something is not a batch of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It does not read.
    #[error("it is not readable: {0}")]
    Unreadable(String),
    /// A newer release wrote it.
    #[error("it has version {0}, this walvault reads up to version {VERSION}; use a newer release")]
    Newer(u32),
    /// The key is not the writer's.
    #[error("it is signed by {0}, whose chain this is not")]
    OtherKey(PublicKey),
    /// The signature is not right.
    #[error(
        "its signature is not right: it was altered, or made by somebody without the writer's key"
    )]
    Signature,
    /// It says of itself that it is another one.
    #[error("it is batch {number} of {writer}, stored under another name")]
    Elsewhere {
        /// Whose chain it says.
        writer: String,
        /// Its number there.
        number: u32,
    },
}

/// As stored: what is signed is text, so that it is checked byte by byte.
#[derive(Debug, Serialize, Deserialize)]
struct Signed {
    version: u32,
    public_key: String,
    signature: String,
    batch: String,
}

impl Batch {
    /// What is stored of it, signed for the archive.
    pub(crate) fn sign(&self, key: &SigningKey, archive: &[u8; 16]) -> Vec<u8> {
        let batch = serde_json::to_string(self).expect("a batch is plain JSON");
        let signature = key.sign(&message(archive, &batch));
        let signed = Signed {
            version: VERSION,
            public_key: key.public().to_string(),
            signature: STANDARD.encode(signature),
            batch,
        };
        serde_json::to_vec(&signed).expect("a batch is plain JSON")
    }

    /// Reads and checks what is stored as batch `number` of `writer`.
    ///
    /// # Errors
    /// [`BatchError`]
    pub(super) fn open(
        json: &[u8],
        archive: &[u8; 16],
        writer: AuditWriter,
        number: u32,
    ) -> Result<(Batch, PublicKey), BatchError> {
        let unreadable = |error: serde_json::Error| BatchError::Unreadable(error.to_string());
        let signed: Signed = serde_json::from_slice(json).map_err(unreadable)?;
        if signed.version > VERSION {
            return Err(BatchError::Newer(signed.version));
        }
        let key = PublicKey::parse(&signed.public_key);
        let key = key.ok_or_else(|| BatchError::Unreadable("its public key is none".to_owned()))?;
        if key.writer() != writer {
            return Err(BatchError::OtherKey(key));
        }
        let signature = STANDARD.decode(&signed.signature).unwrap_or_default();
        if !key.has_signed(&message(archive, &signed.batch), &signature) {
            return Err(BatchError::Signature);
        }
        let batch: Batch = serde_json::from_str(&signed.batch).map_err(unreadable)?;
        if batch.writer != writer.to_string() || batch.number != number {
            return Err(BatchError::Elsewhere {
                writer: batch.writer,
                number: batch.number,
            });
        }
        Ok((batch, key))
    }

    /// A batch of this version.
    pub(super) fn new(
        writer: AuditWriter,
        (number, previous): (u32, Option<String>),
        heads: Vec<Head>,
        events: Vec<Event>,
    ) -> Batch {
        Batch {
            version: VERSION,
            writer: writer.to_string(),
            number,
            previous,
            at: clock::now(),
            heads,
            ephemeral: false,
            last: false,
            events,
        }
    }
}

fn message(archive: &[u8; 16], batch: &str) -> Vec<u8> {
    [CONTEXT, archive, batch.as_bytes()].concat()
}
