//! Reading the chains that an archive holds.

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use walvault_archive::archive::Archive;
use walvault_archive::error::Error;
use walvault_archive::keys::{KeyError, PublicKey};
use walvault_layout::{AUDIT_PREFIX, AuditWriter, ObjectKey};

use super::Event;
use super::batch::{Batch, BatchError};

/// How many batches are read at once: a sidecar leaves some dozens a day, for years.
pub(super) const READS_AT_ONCE: usize = 16;

/// Where in the trail an event is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// Whose chain, 32 hexadecimal digits.
    pub writer: String,
    /// The batch.
    pub number: u32,
}

/// An event, and where it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recorded {
    /// Where it is.
    #[serde(flatten)]
    pub position: Position,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// A batch that was read.
pub(super) struct Loaded {
    /// The SHA-256 that its object's footer has.
    pub(super) sha256: String,
    pub(super) batch: Batch,
    pub(super) key: PublicKey,
}

/// Why a batch is not to be believed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The object.
    #[error("{0}")]
    Object(Error),
    /// What it holds.
    #[error("{0}")]
    Batch(#[from] BatchError),
}

/// The numbers of the batches of each chain, in order.
pub(super) async fn chains(archive: &Archive) -> Result<BTreeMap<AuditWriter, Vec<u32>>, Error> {
    let mut chains: BTreeMap<AuditWriter, Vec<u32>> = BTreeMap::new();
    for listed in archive.list(AUDIT_PREFIX).await? {
        if let ObjectKey::Audit(writer, number) = listed.key {
            chains.entry(writer).or_default().push(number);
        }
    }
    Ok(chains)
}

/// Reads one batch. What is wrong with it is part of the answer.
///
/// # Errors
/// When it cannot be asked for, or is not for the identities given.
pub(super) async fn load(
    archive: &Archive,
    writer: AuditWriter,
    number: u32,
) -> Result<Result<Loaded, Fault>, Error> {
    let key = ObjectKey::Audit(writer, number);
    let read = async {
        let fetched = archive.fetch(&key).await?;
        let sha256 = fetched.footer_digest();
        let take = |payload: &mut Vec<u8>, bytes: &[u8]| {
            payload.extend_from_slice(bytes);
            Ok::<_, Error>(())
        };
        Ok::<_, Error>((sha256, fetched.open(Vec::new(), take).await?))
    };
    let (sha256, payload) = match read.await {
        Ok(read) => read,
        Err(
            error @ (Error::Corrupt { .. }
            | Error::Key(KeyError::Missing(_) | KeyError::Foreign { .. })
            | Error::Store(_)),
        ) if !error.is_transient() && !error.is_withheld() => return Ok(Err(Fault::Object(error))),
        Err(error) => return Err(error),
    };
    let opened = Batch::open(&payload, &archive.id(), writer, number);
    Ok(opened
        .map_err(Fault::from)
        .map(|(batch, key)| Loaded { sha256, batch, key }))
}

/// Every event that the archive holds, in order of time.
///
/// # Errors
/// When the store cannot be read, and when a batch is not to be believed.
pub async fn read_all(archive: &Archive) -> Result<Vec<Recorded>, Error> {
    let mut events = Vec::new();
    for (writer, numbers) in chains(archive).await? {
        // Collected, so that whoever waits for it may do so on any thread.
        let loading: Vec<_> = numbers
            .iter()
            .map(|number| load(archive, writer, *number))
            .collect();
        let mut loading = stream::iter(loading).buffered(READS_AT_ONCE);
        for number in numbers {
            let Some(loaded) = loading.try_next().await? else {
                break;
            };
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(Fault::Object(error)) => return Err(error),
                Err(Fault::Batch(error)) => {
                    return Err(Error::Record {
                        url: archive.url().to_owned(),
                        key: archive.name(&ObjectKey::Audit(writer, number)),
                        reason: error.to_string(),
                    });
                }
            };
            let position = Position {
                writer: writer.to_string(),
                number,
            };
            events.extend(loaded.batch.events.into_iter().map(|event| Recorded {
                position: position.clone(),
                event,
            }));
        }
    }
    // Stable: the order within a chain stays where clocks say nothing else.
    events.sort_by_key(|recorded| recorded.event.at);
    Ok(events)
}
