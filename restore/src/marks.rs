//! The commit indexes of the objects on a line, and how to find a place in them with few requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use walvault_archive::catalog::{Catalog, WalHeld};
use walvault_archive::{Archive, Error};
use walvault_protocol::wal::{MarkKind, WalMark};
use walvault_protocol::{Lsn, TimelineId};

use crate::line::{Line, Piece};

mod records;
mod search;

pub use search::{CLOCK_TOLERANCE, Search, TOLERANCE_MICROS};

/// How many objects are looked into at once.
const AT_ONCE: usize = 32;

/// Where commit indexes come from.
pub trait MarkSource {
    /// The marks of one object, in the order of the WAL.
    ///
    /// # Errors
    /// When the object cannot be read.
    fn marks(
        &self,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> impl Future<Output = Result<Arc<[WalMark]>, Error>>;

    /// Of the marks of one object, those of changes: see [`is_change`]. There are few of them, and
    /// a line is looked through for them from its beginning to its end.
    ///
    /// # Errors
    /// When the object cannot be read.
    fn changes(
        &self,
        timeline: TimelineId,
        held: &WalHeld,
    ) -> impl Future<Output = Result<Vec<WalMark>, Error>> {
        async move { Ok(changes_of(&self.marks(timeline, held).await?)) }
    }

    /// Whether a whole record begins at or after `lsn` and ends by `end`; marks do not tell of
    /// every record.
    ///
    /// # Errors
    /// When the WAL cannot be read.
    fn holds_record(
        &self,
        line: &Line<'_>,
        lsn: Lsn,
        end: Lsn,
    ) -> impl Future<Output = Result<bool, Error>>;
}

/// An object: its timeline, start and end, and whether it is a whole unit.
type Name = (TimelineId, Lsn, Lsn, bool);

/// Marks out of an archive; each object is read at most once.
pub struct ArchiveMarks<'a> {
    archive: &'a Archive,
    catalog: &'a Catalog,
    known: Mutex<HashMap<Name, Arc<[WalMark]>>>,
}

impl<'a> ArchiveMarks<'a> {
    /// The marks of what `catalog` lists.
    #[must_use]
    pub fn new(archive: &'a Archive, catalog: &'a Catalog) -> ArchiveMarks<'a> {
        ArchiveMarks {
            archive,
            catalog,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Name, Arc<[WalMark]>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MarkSource for ArchiveMarks<'_> {
    async fn marks(&self, timeline: TimelineId, held: &WalHeld) -> Result<Arc<[WalMark]>, Error> {
        let name = (timeline, held.range.start, held.range.end, held.whole);
        if let Some(marks) = self.known().get(&name) {
            return Ok(marks.clone());
        }
        let marks: Arc<[WalMark]> = self
            .catalog
            .marks(self.archive, timeline, held)
            .await?
            .into();
        self.known().insert(name, marks.clone());
        Ok(marks)
    }

    /// Keeps nothing of what it reads, so that a line of any length takes little memory.
    async fn changes(&self, timeline: TimelineId, held: &WalHeld) -> Result<Vec<WalMark>, Error> {
        let name = (timeline, held.range.start, held.range.end, held.whole);
        let known = self.known().get(&name).cloned();
        match known {
            Some(marks) => Ok(changes_of(&marks)),
            None => {
                let marks = self.catalog.marks(self.archive, timeline, held).await?;
                Ok(changes_of(&marks))
            }
        }
    }

    async fn holds_record(&self, line: &Line<'_>, lsn: Lsn, end: Lsn) -> Result<bool, Error> {
        records::holds_record(self.archive, line, lsn, end).await
    }
}

/// Whether recovery by time or transaction ID looks at this mark.
#[must_use]
pub fn is_transaction_end(mark: &WalMark) -> bool {
    matches!(mark.kind, MarkKind::Commit { .. } | MarkKind::Abort { .. })
}

/// Whether replay of this mark's record changes what the restored server needs around it.
#[must_use]
pub fn is_change(mark: &WalMark) -> bool {
    matches!(
        mark.kind,
        MarkKind::Tablespace { .. } | MarkKind::Parameters(_)
    )
}

fn changes_of(marks: &[WalMark]) -> Vec<WalMark> {
    marks
        .iter()
        .filter(|mark| is_change(mark))
        .cloned()
        .collect()
}

/// The marks of records that end within `piece` and begin at or after `from`, where replay begins.
async fn marks_of(
    source: &impl MarkSource,
    piece: &Piece,
    from: Lsn,
) -> Result<Vec<WalMark>, Error> {
    let marks = source.marks(piece.timeline, &piece.held).await?;
    let within = |mark: &&WalMark| is_within(mark, piece, from);
    Ok(marks.iter().filter(within).cloned().collect())
}

/// As [`marks_of`], those of changes alone.
async fn changes_of_piece(
    source: &impl MarkSource,
    piece: &Piece,
    from: Lsn,
) -> Result<Vec<WalMark>, Error> {
    let mut changes = source.changes(piece.timeline, &piece.held).await?;
    changes.retain(|mark| is_within(mark, piece, from));
    Ok(changes)
}

fn is_within(mark: &WalMark, piece: &Piece, from: Lsn) -> bool {
    from <= mark.start && piece.span.start < mark.end && mark.end <= piece.span.end
}

/// The marks of several pieces, read side by side.
async fn marks_of_all(
    source: &impl MarkSource,
    pieces: &[Piece],
    from: Lsn,
) -> Result<Vec<Vec<WalMark>>, Error> {
    stream::iter(pieces.iter().map(|piece| marks_of(source, piece, from)))
        .buffered(AT_ONCE)
        .try_collect()
        .await
}
