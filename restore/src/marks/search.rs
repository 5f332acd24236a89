//! Finding a place among the marks of a line.
//!
//! PostgreSQL looks at every record from the backup's start on and stops at the first that meets the target. So does
//! this: the commit indexes of the line are read in order, some at once, up to the one that has it. Nothing is
//! guessed from times that should rise, so that a clock that was set back changes no answer.

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::Error;
use walvault_archive::catalog::window_start::CLOCK_TOLERANCE;
use walvault_protocol::Lsn;
use walvault_protocol::wal::WalMark;

use super::{AT_ONCE, MarkSource, changes_of_piece, is_transaction_end, marks_of, marks_of_all};
use crate::line::Piece;
use crate::target::Target;

/// How far times may be out of the order of their records before the clock counts as set back, in
/// microseconds. Windows begin by the same rule.
pub const TOLERANCE_MICROS: i64 = CLOCK_TOLERANCE.as_micros() as i64;

/// A search through the pieces of a line from where replay begins.
pub struct Search<'a, S> {
    source: &'a S,
    pieces: &'a [Piece],
    from: Lsn,
}

impl<'a, S: MarkSource> Search<'a, S> {
    /// A search through `pieces` of records that begin at or after `from`.
    pub fn new(source: &'a S, pieces: &'a [Piece], from: Lsn) -> Search<'a, S> {
        Search {
            source,
            pieces,
            from,
        }
    }

    /// The first transaction end that is past `target`'s time: recovery stops before it.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn first_past(&self, target: &Target) -> Result<Option<WalMark>, Error> {
        let is_past = |mark: &WalMark| is_transaction_end(mark) && target.is_past(mark.time);
        self.first(is_past).await
    }

    /// The first mark that `wanted` accepts.
    ///
    /// # Errors
    /// When an index cannot be read.
    pub async fn first(&self, wanted: impl Fn(&WalMark) -> bool) -> Result<Option<WalMark>, Error> {
        let reads = self.pieces.iter();
        let reads = reads.map(|piece| marks_of(self.source, piece, self.from));
        let mut read = stream::iter(reads).buffered(AT_ONCE);
        while let Some(marks) = read.try_next().await? {
            if let Some(mark) = marks.into_iter().find(&wanted) {
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
}
