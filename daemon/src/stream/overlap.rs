//! Whether this server's WAL is the archive's.
//!
//! A cluster that was cloned has the same system identifier and timeline and other bytes. Before
//! anything is written, the newest object archived is compared with what the server has in its
//! place. What the server was not told yet is opened: a name alone is no reason to acknowledge it.

use walvault_archive::archive::wal_key;
use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::Lsn;
use walvault_protocol::client::{Session, StartReplication, WalMessage};
use walvault_protocol::replication::SlotName;

use super::follow::StreamError;
use super::resume::Resume;

/// How many objects are opened at most, the newest: 1 GiB of whole units.
const OPENED: usize = 64;

/// Opens what the archive holds of the WAL between `reserved`, up to where the slot was told that it
/// is archived, and `place`. Nothing is opened on a host that may not read it.
///
/// # Errors
/// [`Error::Corrupt`] when one of them is not what walvault stored, and when the store cannot be read.
pub async fn vouch(
    archive: &Archive,
    catalog: &Catalog,
    reserved: Option<Lsn>,
    place: Resume,
) -> Result<(), Error> {
    let (Some(reserved), Some(wal)) = (reserved, catalog.wal(place.timeline)) else {
        return Ok(());
    };
    let untold = wal
        .objects
        .iter()
        .filter(|held| held.range.end > reserved && held.range.start < place.archived_to);
    let mut untold: Vec<_> = untold.collect();
    untold.sort_by_key(|held| held.range.start);
    for held in untold.iter().rev().take(OPENED) {
        let key = wal_key(place.timeline, held.range, held.whole);
        match archive.get(&key).await {
            Ok(_) => {}
            // Its unit was stored whole meanwhile.
            Err(error) if error.is_missing() && !held.whole => {}
            Err(error) if error.is_withheld() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Compares the archived object that ends where streaming is to go on with the server's WAL.
/// Nothing is compared when the archive holds nothing before `place`, or this host may not read it.
///
/// # Errors
/// [`Error::Diverged`] when the server has other WAL, and when it cannot be asked.
pub async fn confirm(
    archive: &Archive,
    catalog: &Catalog,
    session: Session,
    slot: &SlotName,
    place: Resume,
) -> Result<Session, StreamError> {
    let objects = catalog
        .wal(place.timeline)
        .map(|wal| wal.objects.as_slice())
        .unwrap_or_default();
    let newest = objects
        .iter()
        .filter(|held| held.range.end == place.archived_to && held.range.start >= place.start)
        .min_by_key(|held| held.range.len());
    let Some(held) = newest else {
        return Ok(session);
    };
    let key = wal_key(place.timeline, held.range, held.whole);
    let archived = match archive.get(&key).await {
        Ok(opened) => opened.payload,
        Err(error @ Error::Corrupt { .. }) => return Err(error.into()),
        // A host that only seals; docs/security.md says what it cannot notice.
        Err(error) if error.is_withheld() => {
            tracing::debug!(%error, "the archive's newest WAL is not for this host to read");
            return Ok(session);
        }
        Err(error) => {
            tracing::warn!(%error, "the archive's newest WAL cannot be compared with the server's");
            return Ok(session);
        }
    };
    let mut stream = match session
        .start_replication(Some(slot), held.range.start, place.timeline)
        .await?
    {
        StartReplication::Streaming(stream) => stream,
        StartReplication::TimelineEnded(session, _) => return Ok(session),
    };
    let mut rest = archived.as_slice();
    while !rest.is_empty() {
        let WalMessage::Data(data) = stream.next().await? else {
            continue;
        };
        let (expected, after) = rest.split_at(rest.len().min(data.bytes.len()));
        if !data.bytes.starts_with(expected) {
            return Err(StreamError::Archive(Error::Diverged {
                url: archive.url().to_owned(),
                key: archive.name(&key),
                timeline: place.timeline,
                range: held.range,
            }));
        }
        rest = after;
    }
    let (session, _) = stream.finish().await?;
    Ok(session)
}
