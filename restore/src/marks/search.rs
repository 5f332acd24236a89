//! Finding a place among the marks of a line.
//!
//! PostgreSQL looks at every record from the backup's start on and stops at the first that meets
//! the target. So does this, where a few hundred objects hold the line. On a longer one, the place
//! of a time is found by halving, since times nearly rise with the LSN. A transaction takes its
//! time a moment before its record is written, so that neighbours can be out of order; the objects
//! before the one found are read too, back to times [`CLOCK_TOLERANCE`] before the target. If any
//! two of the objects that were read, with [`SAMPLES`] from all over the line among them, are
//! further out of order than that, the clock was set back, and all are read.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::Error;
use walvault_protocol::wal::WalMark;
use walvault_protocol::{Lsn, PgTimestamp};

use super::{AT_ONCE, MarkSource, changes_of_piece, is_transaction_end, marks_of, marks_of_all};
use crate::line::Piece;
use crate::target::Target;

/// How far times may be out of the order of their records before the clock counts as set back.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);
/// The same in microseconds.
pub const TOLERANCE_MICROS: i64 = CLOCK_TOLERANCE.as_micros() as i64;

/// On lines of up to so many objects, all are read for a time.
const EXACT_UP_TO: usize = 512;

/// How many objects of a longer line are read to see whether its times rise.
pub const SAMPLES: usize = 64;

/// A search through the pieces of a line from where replay begins.
pub struct Search<'a, S> {
    source: &'a S,
    pieces: &'a [Piece],
    from: Lsn,
    exact_up_to: usize,
}

/// What the transaction ends of one object say about times.
#[derive(Debug, Clone, Copy)]
struct Times {
    earliest: i64,
    latest: i64,
    /// Whether recovery would stop before one of them.
    stops: bool,
    /// Whether they fall by more than the tolerance.
    set_back: bool,
}

impl<'a, S: MarkSource> Search<'a, S> {
    /// A search through `pieces` of records that begin at or after `from`.
    pub fn new(source: &'a S, pieces: &'a [Piece], from: Lsn) -> Search<'a, S> {
        Search {
            source,
            pieces,
            from,
            exact_up_to: EXACT_UP_TO,
        }
    }

    /// The first transaction end that is past `target`'s time: recovery stops before it.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn first_past(&self, target: &Target) -> Result<Option<WalMark>, Error> {
        let is_past = |mark: &WalMark| is_transaction_end(mark) && target.is_past(mark.time);
        if self.pieces.len() <= self.exact_up_to {
            return self.first(is_past).await;
        }
        let mut times = self.sample(target).await?;
        let found = self.halve(target, &mut times).await?;
        let found = self.walk_back(target, found, &mut times).await?;
        if is_out_of_order(&times) {
            tracing::info!(
                "commit times fall: the server's clock was set back; reading every commit index"
            );
            return self.first(is_past).await;
        }
        let Some(piece) = self.pieces.get(found) else {
            return Ok(None);
        };
        let marks = marks_of(self.source, piece, self.from).await?;
        Ok(marks.into_iter().find(is_past))
    }

    /// The first mark that `wanted` accepts.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn first(&self, wanted: impl Fn(&WalMark) -> bool) -> Result<Option<WalMark>, Error> {
        for pieces in self.pieces.chunks(AT_ONCE) {
            let marks = marks_of_all(self.source, pieces, self.from).await?;
            if let Some(mark) = marks.into_iter().flatten().find(&wanted) {
                return Ok(Some(mark));
            }
        }
        Ok(None)
    }

    /// The last mark that `wanted` accepts.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn last(&self, wanted: impl Fn(&WalMark) -> bool) -> Result<Option<WalMark>, Error> {
        // Most often the last object has it.
        let mut at_once = 1;
        let mut rest = self.pieces;
        while !rest.is_empty() {
            let (before, pieces) = rest.split_at(rest.len().saturating_sub(at_once));
            let marks = marks_of_all(self.source, pieces, self.from).await?;
            if let Some(mark) = marks.into_iter().flatten().rev().find(&wanted) {
                return Ok(Some(mark));
            }
            rest = before;
            at_once = AT_ONCE;
        }
        Ok(None)
    }

    /// All changes, in the order of the WAL. Reads the index of every object.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn changes(&self) -> Result<Vec<WalMark>, Error> {
        let reads = self
            .pieces
            .iter()
            .map(|piece| changes_of_piece(self.source, piece, self.from));
        stream::iter(reads)
            .buffered(AT_ONCE)
            .try_fold(Vec::new(), |mut all, changes| async move {
                all.extend(changes);
                Ok(all)
            })
            .await
    }

    /// Reads pieces from all over the line.
    async fn sample(&self, target: &Target) -> Result<BTreeMap<usize, Option<Times>>, Error> {
        let step = self.pieces.len().div_ceil(SAMPLES).max(1);
        let (indexes, pieces): (Vec<usize>, Vec<Piece>) = self
            .pieces
            .iter()
            .cloned()
            .enumerate()
            .step_by(step)
            .unzip();
        let marks = marks_of_all(self.source, &pieces, self.from).await?;
        Ok(indexes
            .into_iter()
            .zip(marks)
            .map(|(index, marks)| (index, Times::of(&marks, target)))
            .collect())
    }

    /// The index of the first piece with a time past the target, if times rise; the number of
    /// pieces if there is none.
    async fn halve(
        &self,
        target: &Target,
        times: &mut BTreeMap<usize, Option<Times>>,
    ) -> Result<usize, Error> {
        let (mut low, mut high) = (0, self.pieces.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.nearest_before(target, low, middle + 1, times).await? {
                Some((index, found)) if found.stops => high = index,
                _ => low = middle + 1,
            }
        }
        Ok(high)
    }

    /// Goes back from `found` over pieces whose times are so near that order does not tell.
    async fn walk_back(
        &self,
        target: &Target,
        found: usize,
        times: &mut BTreeMap<usize, Option<Times>>,
    ) -> Result<usize, Error> {
        let (mut first, mut at) = (found, found);
        while let Some((index, near)) = self.nearest_before(target, 0, at, times).await? {
            if near.stops {
                first = index;
            } else if !target.is_past(PgTimestamp(near.latest.saturating_add(TOLERANCE_MICROS))) {
                break;
            }
            at = index;
        }
        Ok(first)
    }

    /// The last piece in `[low, high)` that has a transaction end.
    async fn nearest_before(
        &self,
        target: &Target,
        low: usize,
        high: usize,
        times: &mut BTreeMap<usize, Option<Times>>,
    ) -> Result<Option<(usize, Times)>, Error> {
        let mut at_once = 1;
        let mut high = high;
        while low < high {
            let start = high.saturating_sub(at_once).max(low);
            if (start..high).any(|index| !times.contains_key(&index)) {
                let marks = marks_of_all(self.source, &self.pieces[start..high], self.from).await?;
                for (index, marks) in (start..high).zip(&marks) {
                    times.insert(index, Times::of(marks, target));
                }
            }
            let known = (start..high)
                .rev()
                .find_map(|index| Some((index, (*times.get(&index)?)?)));
            if known.is_some() {
                return Ok(known);
            }
            high = start;
            at_once = AT_ONCE;
        }
        Ok(None)
    }
}

impl Times {
    fn of(marks: &[WalMark], target: &Target) -> Option<Times> {
        let times = || {
            marks
                .iter()
                .filter(|mark| is_transaction_end(mark))
                .map(|mark| mark.time)
        };
        let mut latest = i64::MIN;
        let set_back = times().any(|time| {
            let back = is_set_back(latest, time.0);
            latest = latest.max(time.0);
            back
        });
        Some(Times {
            earliest: times().min()?.0,
            latest: times().max()?.0,
            stops: times().any(|time| target.is_past(time)),
            set_back,
        })
    }
}

/// Whether what was read shows that the clock was set back.
fn is_out_of_order(times: &BTreeMap<usize, Option<Times>>) -> bool {
    let mut latest = i64::MIN;
    times.values().flatten().any(|found| {
        let back = found.set_back || is_set_back(latest, found.earliest);
        latest = latest.max(found.latest);
        back
    })
}

fn is_set_back(latest: i64, time: i64) -> bool {
    time.saturating_add(TOLERANCE_MICROS) < latest
}

#[cfg(test)]
mod tests;
