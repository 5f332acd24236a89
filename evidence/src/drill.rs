//! The records of drills: stored once, signed, and sealed for whoever reads the audit trail.
//!
//! Their names tell when a drill was begun, what was drilled and how it went, so that who may open
//! nothing knows that much. `docs/drill.md` says what a drill does.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use walvault_archive::archive::{Archive, kind_of};
use walvault_archive::error::Error;
use walvault_archive::format::{Codec, footer_digest};
use walvault_archive::keys::{PublicKey, SigningKey};
use walvault_archive::record::DrillRecord;
use walvault_layout::{DRILLS_PREFIX, DrillId, ObjectKey};

use crate::audit::AuditLog;

/// The version that is written, and the newest that is read.
const VERSION: u32 = 1;
/// What a signature is of, before the archive's id and the record.
const CONTEXT: &[u8] = b"walvault/v1/drill";

/// A record that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// The SHA-256 in the footer of its object, in hexadecimal.
    pub sha256: String,
}

/// A record that was read, and whose signature is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed {
    /// The record.
    pub record: DrillRecord,
    /// Who signed it.
    pub public_key: PublicKey,
    /// The SHA-256 in the footer of its object, in hexadecimal.
    pub sha256: String,
}

/// As stored: what is signed is text, so that it is checked byte by byte.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    version: u32,
    public_key: String,
    signature: String,
    drill: String,
}

/// The drills there are, by their names, those begun first in front.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(archive: &Archive) -> Result<Vec<DrillId>, Error> {
    let listed = archive.list(DRILLS_PREFIX).await?;
    let id = |object: walvault_archive::archive::Listed| match object.key {
        ObjectKey::Drill(id) => Some(id),
        _ => None,
    };
    Ok(listed.into_iter().filter_map(id).collect())
}

/// Stores a record, signed by the key of `log`, where that log is kept.
///
/// # Errors
/// When the archive cannot be written, or holds a drill of that name.
pub async fn store(log: &AuditLog, record: &DrillRecord) -> Result<Stored, Error> {
    let archive = log.archive();
    let object = ObjectKey::Drill(record.id.clone());
    let name = archive.name(&object);
    let payload = Bytes::from(sign(record, log.key(), &archive.id()));
    let sealer = archive.sealer(Codec::Lz4).await?;
    let sealed = sealer.seal(kind_of(&object), &name, &[payload], b"")?;
    let sha256 = footer_digest(&sealed.body.bytes);
    archive.put(&object, sealed).await?;
    Ok(Stored { name, sha256 })
}

/// Reads a record and checks its signature. `trail` is the archive with the keys of the audit trail.
///
/// # Errors
/// When it cannot be read, is not for the identities given, or is not what its signer signed.
pub async fn open(trail: &Archive, id: &DrillId) -> Result<Signed, Error> {
    let key = ObjectKey::Drill(id.clone());
    let fetched = trail.fetch(&key).await?;
    let sha256 = fetched.footer_digest();
    let take = |payload: &mut Vec<u8>, bytes: &[u8]| {
        payload.extend_from_slice(bytes);
        Ok::<_, Error>(())
    };
    let payload = fetched.open(Vec::new(), take).await?;
    let checked = check(&payload, &trail.id(), id);
    let (record, public_key) = checked.map_err(|reason| Error::Record {
        url: trail.url().to_owned(),
        key: trail.name(&key),
        reason,
    })?;
    Ok(Signed {
        record,
        public_key,
        sha256,
    })
}

/// What is stored of a record, signed for the archive.
pub(crate) fn sign(record: &DrillRecord, key: &SigningKey, archive: &[u8; 16]) -> Vec<u8> {
    let drill = serde_json::to_string(record).expect("a record is plain JSON");
    let envelope = Envelope {
        version: VERSION,
        public_key: key.public().to_string(),
        signature: STANDARD.encode(key.sign(&message(archive, &drill))),
        drill,
    };
    serde_json::to_vec(&envelope).expect("a record is plain JSON")
}

fn check(
    json: &[u8],
    archive: &[u8; 16],
    id: &DrillId,
) -> Result<(DrillRecord, PublicKey), String> {
    let envelope: Envelope = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    if envelope.version > VERSION {
        let version = envelope.version;
        return Err(format!(
            "it has version {version}, this walvault reads {VERSION}"
        ));
    }
    let key = PublicKey::parse(&envelope.public_key).ok_or("its public key is none")?;
    let signature = STANDARD.decode(&envelope.signature).unwrap_or_default();
    if !key.has_signed(&message(archive, &envelope.drill), &signature) {
        return Err("its signature is not right: it was altered".to_owned());
    }
    let record: DrillRecord =
        serde_json::from_str(&envelope.drill).map_err(|error| error.to_string())?;
    match record.id == *id {
        true => Ok((record, key)),
        false => Err(format!("it is the record of {}", record.id)),
    }
}

fn message(archive: &[u8; 16], drill: &str) -> Vec<u8> {
    [CONTEXT, archive, drill.as_bytes()].concat()
}

#[cfg(test)]
mod tests;
