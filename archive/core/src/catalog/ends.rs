//! Where the WAL of each timeline ends, as far as it is proved.
//!
//! Whoever may write to the store can put a name behind the last WAL of an archive, or over the chunks of
//! its last segment. Owns which objects at the end count. What lies before is proved when it is read.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use futures_util::{StreamExt, stream};
use walvault_layout::{ObjectKey, unit_containing};
use walvault_protocol::{Lsn, SegmentSize, TimelineId};

use super::window::furthest;
use super::{Catalog, TimelineWal, Unreadable, WalHeld};
use crate::archive::{Archive, wal_key};
use crate::damage::{left_out, opens_nowhere};
use crate::error::Error;

/// How many objects are opened at once.
const AT_ONCE: usize = 16;

/// The most units of one timeline that are looked at in one round. The first round looks at the last one.
const MOST_UNITS: usize = 64;

/// The most objects of one timeline that are named one by one.
const NAMED: usize = 16;

/// An object and why it does not open; `None` where it counts.
type Proof = (TimelineId, WalHeld, Option<Error>);

impl Catalog {
    /// Opens the objects that the last unit of each timeline is read from, and leaves out those that do not
    /// open, until what is last does. Timelines that nobody followed here are passed over, and so is an
    /// archive that holds no backup: there is nothing to restore.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub(super) async fn prove_ends(&mut self, archive: &Archive) -> Result<(), Error> {
        if self.backups.is_empty() {
            return Ok(());
        }
        let latest = self.latest_timeline();
        let held = self.timelines.keys().copied();
        let mut open: Vec<TimelineId> = held.filter(|id| Some(*id) <= latest).collect();
        let mut proved: HashSet<ObjectKey> = HashSet::new();
        // The last unit of which an object counts: what fails before it is no end.
        let mut sound: BTreeMap<TimelineId, Lsn> = BTreeMap::new();
        let mut failed: BTreeMap<TimelineId, Vec<(WalHeld, Error)>> = BTreeMap::new();
        let mut units = 1;
        while !open.is_empty() {
            let mut asked: Vec<(TimelineId, WalHeld)> = Vec::new();
            for (timeline, wal) in self.timelines.iter().filter(|(id, _)| open.contains(id)) {
                let last = last_units(wal, units, self.segment_size);
                asked.extend(last.into_iter().map(|held| (*timeline, held)));
            }
            asked.retain(|(timeline, held)| !proved.contains(&key(*timeline, held)));
            let (counts, fails): (Vec<Proof>, Vec<Proof>) = prove_all(archive, asked)
                .await?
                .into_iter()
                .partition(|(_, _, error)| error.is_none());
            for (timeline, held, _) in counts {
                proved.insert(key(timeline, &held));
                let newest = sound.entry(timeline).or_default();
                *newest = self.unit_of(&held).max(*newest);
            }
            let mut left_out: BTreeMap<TimelineId, Vec<WalHeld>> = BTreeMap::new();
            for (timeline, held, error) in fails {
                let is_end = sound.get(&timeline) <= Some(&self.unit_of(&held));
                if let Some(error) = error.filter(|_| is_end) {
                    left_out.entry(timeline).or_default().push(held.clone());
                    failed.entry(timeline).or_default().push((held, error));
                }
            }
            open.retain(|timeline| left_out.contains_key(timeline));
            for (timeline, objects) in left_out {
                self.leave_out(timeline, &objects);
            }
            units = (units * 2).min(MOST_UNITS);
        }
        for (timeline, objects) in failed {
            self.name_all(archive, timeline, objects);
        }
        Ok(())
    }

    fn unit_of(&self, held: &WalHeld) -> Lsn {
        unit_containing(held.range.start, self.segment_size).start
    }

    /// Takes objects out of what is held.
    fn leave_out(&mut self, timeline: TimelineId, objects: &[WalHeld]) {
        if let Some(wal) = self.timelines.get_mut(&timeline) {
            wal.objects.retain(|held| !objects.contains(held));
            wal.coverage = wal.objects.iter().map(|held| held.range).collect();
            if wal.objects.is_empty() {
                self.timelines.remove(&timeline);
            }
        }
    }

    /// Says which objects were left out. There may be any number of them.
    fn name_all(
        &mut self,
        archive: &Archive,
        timeline: TimelineId,
        mut objects: Vec<(WalHeld, Error)>,
    ) {
        objects.sort_by_key(|(held, _)| held.order());
        let more = objects.len().saturating_sub(NAMED);
        for (held, error) in objects.into_iter().take(NAMED) {
            let object = archive.name(&key(timeline, &held));
            left_out(&object, &error);
            self.unreadable.push(Unreadable {
                object,
                reason: error.to_string(),
                withheld: error.is_withheld(),
                foreign: error.is_foreign(),
            });
        }
        if more > 0 {
            tracing::warn!(
                timeline = timeline.get(),
                more,
                "objects behind those do not open either and are left out"
            );
        }
    }
}

fn key(timeline: TimelineId, held: &WalHeld) -> ObjectKey {
    wal_key(timeline, held.range, held.whole)
}

/// The objects that the last `count` units are read from: the fewest that hold what is held of them.
fn last_units(wal: &TimelineWal, count: usize, size: SegmentSize) -> Vec<WalHeld> {
    let mut units = BTreeSet::new();
    let before = wal.objects.iter().rposition(|held| {
        units.insert(unit_containing(held.range.start, size).start);
        units.len() > count
    });
    let last = &wal.objects[before.map_or(0, |before| before + 1)..];
    let (mut at, mut read) = (Lsn::INVALID, Vec::new());
    loop {
        let next = last.partition_point(|held| held.range.start < at);
        match (furthest(last, at), last.get(next)) {
            (Some(held), _) => {
                at = held.range.end;
                read.push(held.clone());
            }
            (None, Some(behind_a_hole)) => at = behind_a_hole.range.start,
            (None, None) => return read,
        }
    }
}

async fn prove_all(
    archive: &Archive,
    asked: Vec<(TimelineId, WalHeld)>,
) -> Result<Vec<Proof>, Error> {
    // Collected, so that whoever waits for it may do so on any thread.
    let proving: Vec<_> = asked
        .into_iter()
        .map(|(timeline, held)| prove(archive, timeline, held))
        .collect();
    let mut proving = stream::iter(proving).buffered(AT_ONCE);
    let mut proofs = Vec::new();
    while let Some(proof) = proving.next().await {
        proofs.push(proof?);
    }
    Ok(proofs)
}

/// Opens the end of an object, which says what it is. What this host merely may not open counts: whoever
/// reads it is told so.
async fn prove(archive: &Archive, timeline: TimelineId, held: WalHeld) -> Result<Proof, Error> {
    let error = match held.meta(archive, timeline).await {
        Ok(_) => None,
        // It gave way to another, which whoever reads it finds.
        Err(error) if error.is_missing() => None,
        Err(error) if error.is_transient() => return Err(error),
        Err(error) => opens_nowhere(archive, &error).await?.then_some(error),
    };
    Ok((timeline, held, error))
}

#[cfg(test)]
mod tests;
