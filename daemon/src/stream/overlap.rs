//! Whether this server's WAL is the archive's.
//!
//! A cluster that was cloned has the same system identifier and timeline and other bytes. Before
//! anything is written, the newest object archived is compared with what the server has in its
//! place. What the server was not told yet is opened: a name alone is no reason to acknowledge it.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::archive::wal_key;
use walvault_archive::layout::{ObjectKey, unit_containing};
use walvault_archive::{Archive, Catalog, Error};
use walvault_protocol::client::{Session, StartReplication, WalMessage};
use walvault_protocol::replication::SlotName;
use walvault_protocol::{Lsn, LsnRange, TimelineHistory};

use super::follow::StreamError;
use super::resume::Resume;

/// How many objects are opened at most, the newest: 1 GiB of whole units.
const OPENED: usize = 64;

/// How many bytes of what the slot was not told are put again at most, the newest.
const UNTOLD: u64 = 1 << 30;
/// The same where no slot tells: what a process has on its way with the usual `wal.memory`.
pub const IN_FLIGHT: u64 = 128 << 20;
/// How many objects are put again at once.
const AT_ONCE: usize = 4;

/// Opens what the archive holds of the WAL between `reserved`, up to where the slot was told that it
/// is archived, and `place`, and has the store answer for it, as well as for whole units whose chunks are
/// still to go. Nothing is opened on a host that may not read it.
///
/// # Errors
/// [`Error::Corrupt`] when one of them is not what walvault stored, and when the store cannot be read.
pub async fn vouch(
    archive: &Archive,
    catalog: &Catalog,
    history: &TimelineHistory,
    reserved: Option<Lsn>,
    place: Resume,
) -> Result<(), Error> {
    let unsure = unsure(catalog, history, reserved, place);
    let reaffirmed = unsure
        .into_iter()
        .map(|key| async move { archive.reaffirm(&key).await });
    // Collected, so that whoever waits for it may do so on any thread.
    let reaffirmed: Vec<_> = reaffirmed.collect();
    let _: Vec<()> = stream::iter(reaffirmed)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
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

/// The WAL of which it is not known that the store answered for it: what an earlier process stored last and did
/// not tell the slot, and whole units for whose sake chunks are removed.
fn unsure(
    catalog: &Catalog,
    history: &TimelineHistory,
    reserved: Option<Lsn>,
    place: Resume,
) -> Vec<ObjectKey> {
    let told = reserved.filter(|reserved| *reserved <= place.archived_to);
    let (from, most) = match told {
        Some(told) => (told, UNTOLD),
        // The slot is younger than what is archived.
        None => (Lsn::INVALID, IN_FLIGHT),
    };
    let mut unsure = catalog.newest(history, LsnRange::new(from, place.archived_to), most);
    let size = catalog.segment_size();
    let own = catalog.wal(place.timeline);
    let own = own.map(|wal| wal.objects.as_slice()).unwrap_or_default();
    let chunked: BTreeSet<Lsn> = own
        .iter()
        .filter(|held| !held.whole)
        .map(|held| unit_containing(held.range.start, size).start)
        .collect();
    let superseding = own
        .iter()
        .filter(|held| held.whole && chunked.contains(&held.range.start))
        .map(|held| wal_key(place.timeline, held.range, true));
    for key in superseding {
        if !unsure.contains(&key) {
            unsure.push(key);
        }
    }
    unsure
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
