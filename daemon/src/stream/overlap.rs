//! Whether this server's WAL is the archive's.
//!
//! A cluster that was cloned has the same system identifier and timeline and other bytes. Before
//! anything is written, the newest object archived is compared with what the server has in its
//! place. What the server was not told yet is opened: a name alone is no reason to acknowledge it.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::archive::wal_key;
use walvault_archive::{Archive, Catalog, Error};
use walvault_layout::{ObjectKey, WalObject, unit_containing};
use walvault_protocol::client::{Session, StartReplication, WalMessage};
use walvault_protocol::replication::SlotName;
use walvault_protocol::wal::{ScanStart, WalScanner};
use walvault_protocol::{Lsn, LsnRange, TimelineHistory, TimelineId};

use super::connect::connect;
use super::error::StreamError;
use super::follow::Context;
use crate::pipeline::Resume;
use crate::pipeline::proven::Proven;

/// How many objects are opened at most, the newest: 1 GiB of whole units.
const OPENED: usize = 64;

/// How many bytes of what the slot was not told are put again at most, the newest.
const UNTOLD: u64 = 1 << 30;
/// The same where no slot tells: what a process has on its way with the usual `wal.memory`.
pub const IN_FLIGHT: u64 = 128 << 20;
/// `application_name` of the connection that compares: never that of a synchronous standby.
const COMPARING: &str = "walvault-compare";
/// How many objects are read or put again at once: as many as take up this memory, within limits.
const IN_MEMORY: u64 = 64 << 20;
const AT_ONCE: (u64, u64) = (4, 32);

/// Opens what the archive holds of the WAL between `reserved`, up to where the slot was told that it
/// is archived, and `place`, and has the store answer for it, as well as for whole units whose chunks are
/// still to go. What lies before `known` this process stored itself. Nothing is opened on a host that may
/// not read it.
///
/// # Errors
/// [`Error::Corrupt`] when one of them is not what walvault stored, and when the store cannot be read.
pub async fn vouch(
    archive: &Archive,
    catalog: &Catalog,
    history: &TimelineHistory,
    reserved: Option<Lsn>,
    known: Lsn,
    place: Resume,
) -> Result<(), Error> {
    let told = reserved.max((known > Lsn::INVALID).then_some(known));
    let unsure = unsure(catalog, history, told, known, place);
    let at_once = at_once(&unsure);
    let reaffirmed = unsure
        .into_iter()
        .map(|key| async move { archive.reaffirm(&key).await });
    // Collected, so that whoever waits for it may do so on any thread.
    let reaffirmed: Vec<_> = reaffirmed.collect();
    let _: Vec<()> = stream::iter(reaffirmed)
        .buffer_unordered(at_once)
        .try_collect()
        .await?;
    let (Some(told), Some(wal)) = (told, catalog.wal(place.timeline)) else {
        return Ok(());
    };
    let untold = wal
        .objects
        .iter()
        .filter(|held| held.range.end > told && held.range.start < place.archived_to);
    let mut untold: Vec<_> = untold.collect();
    untold.sort_by_key(|held| Reverse(held.range.start));
    let keys = untold.into_iter().take(OPENED);
    let keys = keys.map(|held| wal_key(place.timeline, held.range, held.whole));
    open_all(archive, keys.collect()).await
}

/// Opens objects. Those after one that this host may not read are passed over.
async fn open_all(archive: &Archive, keys: Vec<ObjectKey>) -> Result<(), Error> {
    let at_once = at_once(&keys);
    let opened = keys
        .into_iter()
        .map(|key| async move { (archive.get(&key).await, key) });
    let opened: Vec<_> = opened.collect();
    let mut opened = stream::iter(opened).buffer_unordered(at_once);
    while let Some((read, key)) = opened.next().await {
        match read {
            Ok(_) => {}
            // Its unit was stored whole meanwhile.
            Err(error) if error.is_missing() && matches!(key, ObjectKey::Tail(..)) => {}
            Err(error) if error.is_withheld() => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How many of these objects are held in memory at once.
fn at_once(keys: &[ObjectKey]) -> usize {
    let length = |key: &ObjectKey| match key {
        ObjectKey::Wal(WalObject { range, .. }) | ObjectKey::Tail(_, range) => range.len(),
        _ => 0,
    };
    let largest = keys.iter().map(length).max().unwrap_or_default().max(1);
    (IN_MEMORY / largest).clamp(AT_ONCE.0, AT_ONCE.1) as usize
}

/// The WAL of which it is not known that the store answered for it: what an earlier process stored last and did
/// not tell the slot, and whole units for whose sake chunks are removed.
fn unsure(
    catalog: &Catalog,
    history: &TimelineHistory,
    told: Option<Lsn>,
    known: Lsn,
    place: Resume,
) -> Vec<ObjectKey> {
    let told = told.filter(|told| *told <= place.archived_to);
    let (from, most) = match told {
        Some(told) => (told, UNTOLD),
        // The slot is younger than what is archived.
        None => (Lsn::INVALID, IN_FLIGHT),
    };
    let mut unsure = catalog.newest(history, LsnRange::new(from, place.archived_to), most);
    for (unit, key) in catalog.superseding(place.timeline) {
        let is_known = unit_containing(unit, catalog.segment_size()).end <= known;
        if !is_known && !unsure.contains(&key) {
            unsure.push(key);
        }
    }
    unsure
}

/// Compares the archived object that ends where streaming is to go on with the server's WAL.
///
/// Where the archive ends in the middle of a unit, that is the newest chunk, which the slot keeps on
/// the server. Where it ends with a whole unit, the server may have removed that segment: then
/// the first record that the server sends has to name the archive's last record. Across a gap
/// nothing is compared once the server has removed its side. `known` is up to where this process
/// stored the WAL itself.
///
/// # Errors
/// [`Error::Diverged`] when the server has other WAL, and when it cannot be asked.
pub async fn confirm(
    archive: &Archive,
    catalog: &Catalog,
    session: Session,
    context: &Context,
    place: Resume,
    known: Lsn,
) -> Result<(Session, Proven), StreamError> {
    let joins = joins(catalog, place);
    let Some(newest) = newest(archive, catalog, place).await? else {
        let unread = Proven {
            joins,
            ..Proven::default()
        };
        return Ok((session, unread));
    };
    // Of what opens in one replica, another's chunks tell nothing.
    let units = match context.copies.replicas() {
        Some(_) => BTreeSet::new(),
        None => catalog.proven_units(archive, place.timeline, known).await?,
    };
    let mut proven = Proven {
        newest: true,
        last_record: None,
        joins,
        units,
    };
    if newest.range.start >= place.start {
        let slot = Some(&context.slot);
        let session = compare(archive, session, slot, &newest, place).await?;
        return Ok((session, proven));
    }
    if newest.range.end == place.archived_to {
        proven.last_record = newest.last_record(archive, place.timeline);
    }
    // The stream's own session keeps its slot, which an error could cost it where it is temporary.
    let info = context.info.clone().with_application_name(COMPARING);
    let compared = async {
        let other = connect(&info).await?;
        compare(archive, other.session, None, &newest, place).await
    };
    match compared.await {
        Ok(other) => other.close().await,
        Err(StreamError::Client(error)) if error.is_wal_removed() => {
            tracing::debug!(%error, "the server removed the archive's newest segment; its next record has to follow");
        }
        Err(error) => return Err(error),
    }
    Ok((session, proven))
}

/// Where the stream begins, if an archived object ends there.
fn joins(catalog: &Catalog, place: Resume) -> Option<Lsn> {
    let mut objects = catalog.wal(place.timeline)?.objects.iter();
    objects
        .any(|held| held.range.end == place.start)
        .then_some(place.start)
}

/// An archived object and its WAL.
struct Newest {
    key: ObjectKey,
    range: LsnRange,
    wal: Vec<u8>,
}

impl Newest {
    /// Where its last record begins.
    fn last_record(&self, archive: &Archive, timeline: TimelineId) -> Option<Lsn> {
        let mut scanner = WalScanner::new(ScanStart {
            system_id: archive.record().system_id,
            segment_size: archive.segment_size(),
            timeline,
            start: self.range.start,
        });
        scanner.push(&self.wal).ok()?;
        scanner.last_record()
    }
}

/// The newest archived object before `place`, or, where that is only the unused rest of its segment,
/// the one before it. It ends at `place` unless a gap, or a backup's own WAL, lies between. None
/// where this host may not read it.
async fn newest(
    archive: &Archive,
    catalog: &Catalog,
    place: Resume,
) -> Result<Option<Newest>, StreamError> {
    let objects = catalog
        .wal(place.timeline)
        .map(|wal| wal.objects.as_slice())
        .unwrap_or_default();
    let mut end = place.archived_to;
    let mut newest_first: Vec<_> = objects.iter().collect();
    // Of a chunk and a longer object that holds it the shorter one.
    newest_first.sort_by_key(|held| Reverse((held.range.end, held.range.start)));
    for held in newest_first {
        if held.range.end > end {
            continue;
        }
        let key = wal_key(place.timeline, held.range, held.whole);
        let wal = match archive.get(&key).await {
            Ok(opened) => opened.payload,
            Err(error @ Error::Corrupt { .. }) => return Err(error.into()),
            // A host that only seals; docs/security.md says what it cannot notice.
            Err(error) if error.is_withheld() => {
                tracing::debug!(%error, "the archive's newest WAL is not for this host to read");
                return Ok(None);
            }
            Err(error) if error.is_transient() => return Err(error.into()),
            // A longer object took its place meanwhile.
            Err(error) if error.is_missing() && !held.whole => continue,
            // Its data key is gone.
            Err(error) => {
                tracing::warn!(%error, "the archive's newest WAL cannot be compared with the server's");
                return Ok(None);
            }
        };
        if wal.iter().any(|byte| *byte != 0) {
            return Ok(Some(Newest {
                key,
                range: held.range,
                wal,
            }));
        }
        end = held.range.start;
    }
    Ok(None)
}

/// Compares `newest` with what the server sends in its place.
async fn compare(
    archive: &Archive,
    session: Session,
    slot: Option<&SlotName>,
    newest: &Newest,
    place: Resume,
) -> Result<Session, StreamError> {
    let started = session
        .start_replication(slot, newest.range.start, place.timeline)
        .await?;
    let mut stream = match started {
        StartReplication::Streaming(stream) => stream,
        StartReplication::TimelineEnded(session, _) => return Ok(session),
    };
    let mut rest = newest.wal.as_slice();
    while !rest.is_empty() {
        let WalMessage::Data(data) = stream.next().await? else {
            continue;
        };
        let (expected, after) = rest.split_at(rest.len().min(data.bytes.len()));
        if !data.bytes.starts_with(expected) {
            return Err(StreamError::Archive(Error::Diverged {
                url: archive.url().to_owned(),
                key: archive.name(&newest.key),
                timeline: place.timeline,
                range: newest.range,
            }));
        }
        rest = after;
    }
    let (session, _) = stream.finish().await?;
    Ok(session)
}
